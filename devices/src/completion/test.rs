//! The ring against a guest that takes, is quiet, or lies.

pub(crate) mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::Status;
use wirevm_abi::completion::{CAPACITY, Completion, HEAD_OFFSET, NO_PAGE, QUIET_OFFSET, TAIL_OFFSET};

use self::rig::Guest;

fn completion(token: u64) -> Completion {
    Completion { token, status: Status::OK, first_failed_page: NO_PAGE }
}

#[test]
fn completions_are_published_together_and_told_by_one_interrupt() {
    let guest = Guest::new();
    let places = guest.ring.reserve(3).expect("an empty ring");
    assert_eq!((places.places(), guest.ring.stats().outstanding), (3, 3));
    let failed = Completion { token: u64::MAX, status: Status::IO_ERROR, first_failed_page: 7 };
    places.complete(&[completion(1), completion(2), failed]);
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.take(), [completion(1), completion(2), failed]);
    assert_eq!(guest.take(), []);
    let stats = guest.ring.stats();
    assert_eq!((stats.posted, stats.interrupts, stats.outstanding), (3, 1, 0));
    // The tail is the last word that was stored, so nothing is visible before it is whole.
    let stores = guest.memory.stores();
    assert_eq!((stores.len(), stores.last().map(|(offset, _)| *offset)), (13, Some(TAIL_OFFSET)));
    assert!(stores.iter().rev().skip(1).all(|(offset, _)| *offset >= 4096));
}

#[test]
fn quiet_guest_is_not_interrupted() {
    let guest = Guest::new();
    guest.memory.set(QUIET_OFFSET, 1);
    guest.ring.reserve(1).expect("a place").complete(&[completion(1)]);
    assert_eq!((guest.interrupts(), guest.take()), (0, vec![completion(1)]));
    guest.memory.set(QUIET_OFFSET, 0);
    guest.ring.reserve(1).expect("a place").complete(&[completion(2)]);
    assert_eq!((guest.interrupts(), guest.ring.stats().interrupts), (1, 1));
}

#[test]
fn quiet_is_looked_at_after_the_tail_is_published() {
    let guest = Guest::new();
    // The guest stops being quiet at the very moment that the tail is stored.
    guest.memory.set(QUIET_OFFSET, 1);
    guest.memory.on_store(|memory, offset| {
        if offset == TAIL_OFFSET {
            memory.set(QUIET_OFFSET, 0);
        }
    });
    guest.ring.reserve(1).expect("a place").complete(&[completion(1)]);
    assert_eq!(guest.interrupts(), 1, "a guest that has looked at the tail too early would sleep for ever");
}

#[test]
fn ring_never_holds_more_than_its_places() {
    let guest = Guest::new();
    let most = guest.ring.reserve(CAPACITY).expect("all places");
    assert!(guest.ring.reserve(1).is_none(), "promised to others");
    let all: Vec<_> = (0..CAPACITY).map(completion).collect();
    most.complete(&all);
    assert!(guest.ring.reserve(1).is_none(), "not taken yet");
    assert_eq!(guest.take_some(5), all[..5]);
    assert!(guest.ring.reserve(6).is_none());
    let five = guest.ring.reserve(5).expect("what was taken");
    drop(five);
    let five = guest.ring.reserve(5).expect("given back");
    five.complete(&[completion(7), completion(8)]);
    assert_eq!(guest.ring.stats().outstanding, 0, "places without a completion are free again");
    let left = guest.take();
    assert_eq!((left.len() as u64, &left[left.len() - 2..]), (CAPACITY - 3, &[completion(7), completion(8)][..]));
}

#[test]
fn more_completions_than_places_are_cut_off() {
    let guest = Guest::new();
    let one = guest.ring.reserve(1).expect("a place");
    one.complete(&[completion(1), completion(2)]);
    assert_eq!(guest.take(), [completion(1)]);
}

#[test]
fn counter_that_lies_refuses_and_harms_nobody_else() {
    let guest = Guest::new();
    let kept = guest.ring.reserve(1).expect("a place");
    for lie in [1, CAPACITY + 1, u64::MAX] {
        guest.memory.set(HEAD_OFFSET, lie);
        assert!(guest.ring.reserve(1).is_none(), "a head of {lie} beyond the tail");
    }
    kept.complete(&[completion(1)]);
    assert_eq!(guest.memory.get(TAIL_OFFSET), 1, "what was accepted is completed all the same");
    guest.memory.set(HEAD_OFFSET, 1);
    assert!(guest.ring.reserve(CAPACITY).is_some(), "an honest counter is believed again");
}

#[test]
fn memory_that_is_gone_is_told_once_and_refuses_from_then_on() {
    for at_reserve in [true, false] {
        let told = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&told);
        let guest = Guest::with(move |ring| ring.on_lost(move |_| assert_eq!(seen.fetch_add(1, Ordering::Relaxed), 0)));
        let (first, second) = (guest.ring.reserve(1).expect("a place"), guest.ring.reserve(1).expect("a place"));
        guest.memory.lose();
        if at_reserve {
            assert!(guest.ring.reserve(1).is_none());
        }
        first.complete(&[completion(1)]);
        second.complete(&[completion(2)]);
        assert!(guest.ring.reserve(1).is_none() && guest.ring.lost().is_some());
        assert_eq!((told.load(Ordering::Relaxed), guest.ring.stats().posted, guest.interrupts()), (1, 0, 0));
    }
}

#[test]
fn many_threads_post_and_a_guest_that_sleeps_misses_nothing() {
    const THREADS: usize = 4;
    const EACH: usize = 2_000;
    let guest = Guest::new();
    let mut got = vec![0_u32; THREADS * EACH];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let ring = &guest.ring;
            scope.spawn(move || {
                for number in 0..EACH {
                    let place = loop {
                        match ring.reserve(1) {
                            Some(place) => break place,
                            None => std::thread::yield_now(),
                        }
                    };
                    place.complete(&[completion((thread * EACH + number) as u64)]);
                }
            });
        }
        let mut taken = 0;
        while taken < THREADS * EACH {
            // As the contract tells a guest to drain: quiet, take, not quiet, look again, and only then sleep.
            guest.memory.set(QUIET_OFFSET, 1);
            let mut new = guest.take();
            guest.memory.set(QUIET_OFFSET, 0);
            std::sync::atomic::fence(Ordering::SeqCst);
            new.extend(guest.take());
            if new.is_empty() {
                guest.sleep();
            }
            taken += new.len();
            new.iter().for_each(|completion| got[usize::try_from(completion.token).expect("small")] += 1);
        }
    });
    assert!(got.iter().all(|times| *times == 1), "each exactly once");
    assert_eq!(guest.ring.stats().posted, got.len() as u64);
}
