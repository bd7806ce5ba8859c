//! The pin service against a host that fails when told to.

mod beside;

use proptest::prelude::{any, prop, proptest};
use wirevm_abi::{RamRange, Status};

use super::scripted::{Asked, ScriptedPin};
use super::{LedgerError, MAX_WIRE_COUNT, PinConfig, PinError, PinService};
use crate::page_run::PageRun;

const PAGES: u64 = 64;

fn service(quota_pages: u64, map_entry_budget: u64) -> (ScriptedPin, PinService) {
    let host = ScriptedPin::default();
    let config = PinConfig { ram_pages: PAGES, quota_pages, map_entry_budget };
    (host.clone(), PinService::new(Box::new(host), config))
}

fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, PAGES).expect("inside RAM")
}

fn run(first: u64, end: u64) -> PageRun {
    PageRun::new(first, end).expect("not empty")
}

fn locked(host: &ScriptedPin) -> Vec<u64> {
    host.with(|script| script.locked.iter().copied().collect())
}

#[test]
fn wire_nested_asks_the_host_on_the_first_and_last_only() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(4, 4)]).expect("wired");
    pins.wire_all(&[range(4, 4)]).expect("wired again");
    pins.unwire_all(&[range(4, 4)]).expect("once less");
    assert_eq!(host.take_asked(), [Asked::Lock(run(4, 8))]);
    assert_eq!(pins.count(4), 1);
    pins.unwire_all(&[range(4, 4)]).expect("no more");
    assert_eq!(host.take_asked(), [Asked::Unlock(run(4, 8))]);
    assert_eq!(pins.stats().wired_pages, 0);
}

#[test]
fn wire_list_of_ranges_is_joined_to_the_fewest_calls() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(8, 4), range(0, 4), range(4, 4), range(2, 4), range(20, 1)]).expect("wired");
    assert_eq!(host.take_asked(), [Asked::Lock(run(0, 12)), Asked::Lock(run(20, 21))]);
    assert_eq!((pins.count(2), pins.count(0), pins.count(8)), (2, 1, 1));
    pins.unwire_all(&[range(0, 12), range(20, 1)]).expect("unwired");
    assert_eq!(locked(&host), [2, 3, 4, 5]);
}

#[test]
fn list_of_ranges_asks_the_host_once() {
    let (host, pins) = service(PAGES, 100);
    let list: Vec<_> = (0..20).map(|run| range(3 * run, 2)).collect();
    pins.wire_all(&list).expect("wired");
    assert_eq!(host.with(|script| std::mem::take(&mut script.calls)), 1);
    pins.unwire_all(&list).expect("unwired");
    assert_eq!(host.with(|script| std::mem::take(&mut script.calls)), 1);
    assert!(pins.wire_each(&list).iter().all(Result::is_ok));
    assert!(pins.unwire_each(&list).iter().all(Result::is_ok));
    assert_eq!((host.with(|script| script.calls), locked(&host)), (2, vec![]));
    // What is deferred is tried again together as well.
    pins.wire_all(&list).expect("wired");
    host.with(|script| script.fail_unlock = Some(0));
    pins.unwire_all(&list).expect("deferred");
    host.with(|script| (script.fail_unlock, script.calls) = (None, 0));
    pins.wire(range(2, 1)).expect("wired");
    assert_eq!((host.with(|script| script.calls), locked(&host)), (2, vec![2]));
}

#[test]
fn each_of_several_ranges_has_the_answer_that_it_has_alone() {
    let (host, pins) = service(10, 100);
    let statuses = |results: Vec<Result<(), PinError>>| {
        results.into_iter().map(|result| result.map_err(|error| error.status())).collect::<Vec<_>>()
    };
    let (quota, invalid, shortage) =
        (Err(Status::QUOTA), Err(Status::INVALID_ARGUMENT), Err(Status::RESOURCE_SHORTAGE));
    let wired = pins.wire_each(&[range(0, 4), range(4, 8), range(2, 4), range(20, 5), range(30, 1)]);
    assert_eq!(statuses(wired), [Ok(()), quota, Ok(()), quota, Ok(())]);
    let unwired = pins.unwire_each(&[range(0, 4), range(0, 1), range(30, 1), range(2, 4)]);
    assert_eq!(statuses(unwired), [Ok(()), invalid, Ok(()), Ok(())]);
    assert_eq!((locked(&host), pins.stats().wired_pages), (vec![], 0));
    host.with(|script| script.fail_lock = Some((1, libc::ENOMEM)));
    assert_eq!(statuses(pins.wire_each(&[range(0, 1), range(4, 1), range(8, 1)])), [Ok(()), shortage, Ok(())]);
    assert_eq!(locked(&host), [0, 8]);
}

#[test]
fn wire_over_quota_touches_nothing_and_quota_is_exact() {
    let (host, pins) = service(10, 100);
    let error = pins.wire_all(&[range(0, 11)]).expect_err("one page too many");
    assert_eq!(error.status(), Status::QUOTA);
    assert_eq!(host.take_asked(), []);
    pins.wire_all(&[range(0, 10)]).expect("all of the quota");
    pins.wire_all(&[range(0, 10)]).expect("no page more");
    let error = pins.wire_all(&[range(9, 2)]).expect_err("one page too many");
    assert!(matches!(error, PinError::Quota { asked_pages: 1, locked_pages: 10, quota_pages: 10 }), "{error:?}");
    pins.set_quota_pages(11);
    pins.wire_all(&[range(9, 2)]).expect("the quota grew");
    assert_eq!((pins.stats().wired_pages, pins.stats().peak_pages), (11, 11));
}

#[test]
fn wire_nth_lock_failing_leaves_everything_as_before() {
    let list = [range(0, 3), range(10, 2), range(20, 6), range(30, 1)];
    for (errno, status) in [
        (libc::ENOMEM, Status::RESOURCE_SHORTAGE),
        (libc::EAGAIN, Status::RESOURCE_SHORTAGE),
        (libc::EPERM, Status::RESOURCE_SHORTAGE),
        (libc::EFAULT, Status::IO_ERROR),
        (libc::EHWPOISON, Status::IO_ERROR),
    ] {
        for failing in 0..5 {
            let (host, pins) = service(PAGES, 100);
            pins.wire_all(&[range(11, 1), range(22, 2), range(62, 1)]).expect("wired");
            let before = locked(&host);
            host.with(|script| script.fail_lock = Some((failing, errno)));
            // Five runs: page 11 and pages 22 and 23 are wired already.
            let result = pins.wire_all(&list);
            let error = result.expect_err("the host fails");
            assert_eq!(error.status(), status);
            assert_eq!(locked(&host), before, "lock {failing} failed");
            assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (4, 0));
            pins.wire_all(&list).expect("nothing fails now");
            assert_eq!(pins.stats().wired_pages, 13);
        }
    }
}

#[test]
fn wire_saturated_count_changes_nothing_in_a_list() {
    let (host, pins) = service(PAGES, 100);
    for _ in 0..MAX_WIRE_COUNT {
        pins.wire_all(&[range(5, 1)]).expect("below the limit");
    }
    let error = pins.wire_all(&[range(0, 2), range(4, 3)]).expect_err("page 5 is full");
    assert!(matches!(error, PinError::Count(LedgerError::Saturated { page: 5 })), "{error:?}");
    assert_eq!(error.status(), Status::RESOURCE_SHORTAGE);
    assert_eq!((locked(&host), pins.stats().wired_pages), (vec![5], 1));
}

#[test]
fn unwire_of_a_page_not_wired_changes_nothing_in_a_list() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(0, 4)]).expect("wired");
    let error = pins.unwire_all(&[range(0, 2), range(3, 2)]).expect_err("page 4 is not wired");
    assert!(matches!(error, PinError::Count(LedgerError::NotWired { page: 4 })), "{error:?}");
    assert_eq!(error.status(), Status::INVALID_ARGUMENT);
    assert_eq!((locked(&host), pins.count(0)), (vec![0, 1, 2, 3], 1));
}

#[test]
fn calls_with_a_range_of_another_ram_are_refused() {
    let (host, pins) = service(PAGES, 100);
    let beyond = RamRange::new(PAGES - 1, 2, PAGES + 1).expect("inside a larger RAM");
    for error in [pins.wire_all(&[beyond]).expect_err("outside"), pins.unwire_all(&[beyond]).expect_err("outside")] {
        assert_eq!(error.status(), Status::INVALID_ADDRESS);
    }
    assert_eq!(host.take_asked(), []);
}

#[test]
fn unwire_the_host_refuses_is_deferred_counted_and_retried() {
    let (host, pins) = service(8, 100);
    pins.wire_all(&[range(0, 8)]).expect("wired");
    host.with(|script| script.fail_unlock = Some(0));
    pins.unwire_all(&[range(2, 2)]).expect("the host can't make it fail");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (6, 2));
    let error = pins.wire_all(&[range(20, 1)]).expect_err("deferred pages count");
    assert!(matches!(error, PinError::Quota { locked_pages: 8, .. }), "{error:?}");
    pins.wire_all(&[range(3, 1)]).expect("a deferred page costs nothing more");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (7, 1));
    host.with(|script| script.fail_unlock = None);
    pins.wire_all(&[range(20, 1)]).expect("page 2 was unlocked first");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (8, 0));
    assert_eq!(locked(&host), [0, 1, 3, 4, 5, 6, 7, 20]);
}

#[test]
fn wire_failing_twice_over_defers_what_it_locked() {
    let (host, pins) = service(PAGES, 100);
    host.with(|script| (script.fail_lock, script.fail_unlock) = (Some((1, libc::ENOMEM)), Some(0)));
    pins.wire_all(&[range(0, 4), range(8, 4)]).expect_err("the second lock fails");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (0, 8));
    host.with(|script| script.fail_unlock = None);
    pins.wire_all(&[range(30, 1)]).expect("wired");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages, locked(&host)), (1, 0, vec![30]));
}

#[test]
fn wire_alternate_pages_stops_at_the_map_budget() {
    let (host, pins) = service(PAGES, 8);
    for page in [0, 2, 4, 6] {
        pins.wire_all(&[range(page, 1)]).expect("four runs of two entries fit");
    }
    let error = pins.wire_all(&[range(8, 1)]).expect_err("a fifth does not");
    let told = error.to_string();
    assert!(told.starts_with("host map fragmentation") && !told.contains("quota"), "{told}");
    assert_eq!(error.status(), Status::RESOURCE_SHORTAGE);
    pins.wire_all(&[range(0, 8)]).expect("joining runs needs fewer entries");
    assert_eq!((pins.stats().locked_runs, locked(&host).len()), (1, 8));
}

#[test]
fn unwire_that_would_split_past_the_budget_is_deferred_until_it_does_not() {
    let (host, pins) = service(PAGES, 4);
    pins.wire_all(&[range(0, 16)]).expect("one run");
    pins.unwire_all(&[range(2, 1)]).expect("two runs");
    pins.unwire_all(&[range(4, 1)]).expect("deferred");
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages, pins.stats().locked_runs), (14, 1, 2));
    assert!(locked(&host).contains(&4));
    pins.unwire_all(&[range(3, 1)]).expect("page 4 goes with it");
    assert_eq!((pins.stats().deferred_pages, pins.stats().locked_runs), (0, 2));
    assert_eq!(locked(&host), [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn release_all_is_one_call_and_drop_does_it_too() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(0, 3), range(9, 3)]).expect("wired");
    pins.wire_all(&[range(9, 3)]).expect("wired twice");
    host.take_asked();
    pins.release_all();
    assert_eq!(host.take_asked(), [Asked::Unlock(run(0, PAGES))]);
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (0, 0));
    pins.release_all();
    assert_eq!(host.take_asked(), [], "nothing is locked");
    pins.wire_all(&[range(1, 1)]).expect("wired");
    drop(pins);
    assert_eq!(locked(&host), [0; 0]);
}

#[test]
fn release_all_refused_at_once_goes_run_by_run() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(0, 3), range(9, 3)]).expect("wired");
    host.with(|script| script.fail_unlock = Some(0));
    host.take_asked();
    pins.release_all();
    let asked = [Asked::Unlock(run(0, PAGES)), Asked::Unlock(run(0, 3)), Asked::Unlock(run(9, 12))];
    assert_eq!((host.take_asked().as_slice(), pins.stats().deferred_pages), (asked.as_slice(), 6));
    host.with(|script| script.fail_unlock = None);
    pins.release_all();
    assert_eq!((locked(&host), pins.stats().deferred_pages), (vec![], 0));
}

proptest! {
    #[test]
    fn service_under_random_failures_keeps_wired_pages_and_frees_the_others(
        operations in prop::collection::vec(
            (any::<bool>(), 0..PAGES, 1_u64..12, prop::option::of(0_usize..3), prop::option::of(0_usize..3)), 1..60,
        ),
        budget in prop::sample::select(vec![4_u64, 8, 200]),
    ) {
        let (host, pins) = service(48, budget);
        let mut model = vec![0_u32; usize::try_from(PAGES).expect("small")];
        for (up, first, pages, fail_lock, fail_unlock) in operations {
            let range = range(first, pages.min(PAGES - first));
            host.with(|script| {
                script.fail_lock = fail_lock.map(|granted| (granted, libc::ENOMEM));
                script.fail_unlock = fail_unlock;
            });
            let result = if up { pins.wire(range) } else { pins.unwire(range) };
            let bounds = usize::try_from(range.first()).expect("small")..usize::try_from(range.end()).expect("small");
            match &result {
                Ok(()) => model[bounds].iter_mut().for_each(|count| *count = if up { *count + 1 } else { *count - 1 }),
                Err(PinError::Count(LedgerError::NotWired { .. })) => assert!(!up && model[bounds].contains(&0)),
                Err(error) => assert!(up, "unwire failed: {error}"),
            }
            let stats = pins.stats();
            let held = host.with(|script| script.locked.clone());
            let wired: Vec<u64> = (0..).zip(&model).filter(|(_, count)| **count > 0).map(|(page, _)| page).collect();
            assert_eq!(stats.wired_pages, u64::try_from(wired.len()).expect("small"));
            assert!(wired.iter().all(|page| held.contains(page)), "a wired page is not locked");
            assert!(u64::try_from(held.len()).expect("small") <= stats.wired_pages + stats.deferred_pages);
            assert!(stats.wired_pages + stats.deferred_pages <= 48, "over quota: {stats:?}");
        }
        host.with(|script| (script.fail_lock, script.fail_unlock) = (None, None));
        pins.release_all();
        assert_eq!(locked(&host), [0; 0]);
    }
}

#[test]
fn is_held_wants_every_page_wired_since_storage_was_good() {
    let (host, pins) = service(PAGES, 100);
    let (fail, failure) = std::sync::mpsc::channel();
    pins.watch(move || failure.try_recv().map_or(Ok(()), |errno| Err(std::io::Error::from_raw_os_error(errno))));
    pins.wire_all(&[range(0, 8), range(20, 4)]).expect("wired");
    assert!(pins.is_held(run(0, 8)) && pins.is_held(run(20, 24)) && pins.is_held(run(3, 4)));
    assert!(!pins.is_held(run(0, 9)) && !pins.is_held(run(19, 21)) && !pins.is_held(run(8, 20)));
    host.with(|script| script.fail_unlock = Some(0));
    pins.unwire(range(2, 1)).expect("unwired");
    assert!(!pins.is_held(run(0, 4)), "a page that could not be unlocked yet may go at any time");
    host.with(|script| script.fail_unlock = None);
    fail.send(libc::EIO).expect("the look listens");
    for _ in 0..2 {
        pins.wire_all(&[range(2, 1), range(8, 2)]).expect("wired");
        assert!(!pins.is_held(run(2, 3)) && !pins.is_held(run(8, 10)), "what is wired after a failure may be old");
        assert!(pins.is_held(run(0, 2)) && pins.is_held(run(3, 8)), "what was wired before is not");
        pins.unwire_all(&[range(2, 1), range(8, 2)]).expect("unwired");
    }
    pins.wire(range(0, 8)).expect("once more");
    assert!(pins.is_held(run(0, 2)), "wiring again does not let go");
    pins.release_all();
    assert!(!pins.is_held(run(0, 1)));
}
