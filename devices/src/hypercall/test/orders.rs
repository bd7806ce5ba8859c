//! Every order in which up to five requests can end, with every one of them failing once.

use std::time::{Duration, Instant};

use wirevm_abi::Status;
use wirevm_abi::completion::{Completion, NO_PAGE, QUIET_OFFSET, TAIL_OFFSET};

use super::rig::{Rig, start_with};

/// Most requests under way at once.
const MOST: usize = 5;

/// Returns all orders of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let with_last = |order: Vec<usize>| {
        (0..count).map(move |place| {
            let mut order = order.clone();
            order.insert(place, last);
            order
        })
    };
    orders(last).into_iter().flat_map(with_last).collect()
}

const fn page_of(request: usize) -> u64 {
    10 + 3 * request as u64
}

const fn token_of(request: usize) -> u64 {
    u64::MAX - 1000 * request as u64
}

/// Lets requests that are all under way end in an order, of which that place may fail.
fn check(rig: &Rig, order: &[usize], failing: Option<usize>, is_quiet: bool) {
    rig.storage.with(|script| script.held = (0..order.len()).map(page_of).collect());
    rig.guest.memory.set(QUIET_OFFSET, u64::from(is_quiet));
    for request in 0..order.len() {
        let first = page_of(request);
        assert_eq!(rig.call(&[start_with(first, 1, token_of(request))]).1, [Status::PENDING]);
        rig.storage.wait_until(|script| script.asked.len() == request + 1);
    }
    assert_eq!(rig.guest.ring.stats().outstanding, order.len() as u64);
    let mut expected = Vec::new();
    for (place, request) in order.iter().enumerate() {
        rig.storage.with(|script| {
            script.bad = (failing == Some(place)).then(|| (page_of(*request), libc::EIO));
            script.held.retain(|page| *page != page_of(*request));
        });
        let began = Instant::now();
        while rig.guest.memory.get(TAIL_OFFSET) < place as u64 + 1 {
            assert!(began.elapsed() < Duration::from_secs(20), "{order:?}: the completion of {request} is missing");
            std::thread::sleep(Duration::from_micros(5));
        }
        assert_eq!(rig.guest.ring.stats().outstanding, (order.len() - place - 1) as u64);
        let status = match failing {
            Some(failed) if failed == place => Status::IO_ERROR,
            Some(failed) if failed < place => Status::POISONED,
            _ => Status::OK,
        };
        expected.push(Completion { token: token_of(*request), status, first_failed_page: NO_PAGE });
    }
    assert_eq!(rig.guest.take(), expected, "{order:?}, failing {failing:?}");
    assert_eq!(rig.guest.take(), []);
    // The last interrupt may be raised just after its completion is seen.
    let raised = if is_quiet { 0 } else { order.len() as u64 };
    let began = Instant::now();
    while rig.guest.ring.stats().interrupts < raised {
        assert!(began.elapsed() < Duration::from_secs(20), "{order:?}: an interrupt is missing");
        std::thread::yield_now();
    }
    assert_eq!(rig.guest.ring.stats().interrupts, raised, "{order:?}");
    // An interrupt is counted before it is raised.
    let mut taken = rig.guest.interrupts();
    while taken < raised {
        assert!(began.elapsed() < Duration::from_secs(20), "{order:?}: an interrupt is not raised");
        std::thread::yield_now();
        taken += rig.guest.interrupts();
    }
    assert_eq!((rig.guest.ring.stats().posted, taken), (order.len() as u64, raised));
}

#[test]
fn every_order_of_completions_tells_each_token_what_became_of_it() {
    let mut seen = 0;
    for count in 1..=MOST {
        for (number, order) in orders(count).into_iter().enumerate() {
            for failing in std::iter::once(None).chain((0..count).map(Some)) {
                check(&Rig::durable(count, count, true), &order, failing, number % 3 == 0);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2 + 2 * 3 + 6 * 4 + 24 * 5 + 120 * 6);
}
