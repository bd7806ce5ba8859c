//! Calls of several vCPUs beside one another, against a host that takes its time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use wirevm_abi::Status;

use super::{PAGES, locked, range, run, service};
use crate::pin::scripted::{Asked, ScriptedPin};
use crate::pin::{PinService, PinStats};

/// Long enough for a thread that is not held up to come to its end.
const A_WHILE: Duration = Duration::from_millis(50);

/// Pages that count as wired or deferred must be those that the service believes locked; nothing else is at work.
fn check_quiet(host: &ScriptedPin, pins: &PinService) {
    let state = pins.state();
    assert!(state.claims.is_empty(), "{state:?}");
    assert_eq!(state.locked.pages(), state.ledger.wired_pages() + state.deferred.pages(), "{state:?}");
    for page in locked(host) {
        assert!(state.locked.contains(page), "page {page} is locked and nobody knows: {state:?}");
    }
    for page in 0..PAGES {
        let is_wired = state.ledger.count(page) > 0;
        assert!(!is_wired || host.with(|script| script.locked.contains(&page)), "page {page} is wired and not locked");
        assert!(!is_wired || state.deferred.holding(page).is_none(), "page {page} is wired and deferred");
    }
    assert_eq!(*pins.published.lock().expect("lock"), state.stats());
}

/// Does `during` while a call of another thread waits for the host at a slow page, and lets the host go on then.
fn while_slow<T: Send>(
    host: &ScriptedPin,
    page: u64,
    call: impl FnOnce() -> T + Send,
    during: impl FnOnce(&AtomicBool),
) -> T {
    host.take_asked();
    host.with(|script| script.slow.insert(page));
    let is_over = AtomicBool::new(false);
    let has_asked = |asked: &Asked| {
        let (Asked::Lock(run) | Asked::Unlock(run)) = asked;
        (run.first()..run.end()).contains(&page)
    };
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let result = call();
            is_over.store(true, Ordering::Release);
            result
        });
        host.wait_until(|script| script.asked.iter().any(has_asked));
        // The host goes on even if this panics, or the scope would wait for a call that does not end.
        struct GoOn<'a>(&'a ScriptedPin, u64);
        impl Drop for GoOn<'_> {
            fn drop(&mut self) {
                self.0.with(|script| script.slow.remove(&self.1));
            }
        }
        let go_on = GoOn(host, page);
        during(&is_over);
        assert!(!is_over.load(Ordering::Acquire), "it was to take longer");
        drop(go_on);
        slow.join().expect("the call")
    })
}

#[test]
fn calls_about_other_pages_go_on_while_a_lock_is_slow() {
    let (host, pins) = service(PAGES, 100);
    pins.wire(range(40, 2)).expect("wired");
    let result = while_slow(
        &host,
        5,
        || pins.wire(range(4, 4)),
        |_| {
            pins.wire_all(&[range(8, 4), range(0, 4)]).expect("beside it on both sides");
            pins.unwire(range(40, 2)).expect("unwired");
            pins.unwire(range(8, 4)).expect("unwired");
            assert_eq!(pins.while_unwired(range(20, 4), || 7), Some(7));
            assert_eq!((pins.count(0), pins.count(8), pins.stats().deferred_pages), (1, 0, 0));
            assert!(pins.is_held(run(0, 4)) && !pins.is_held(run(0, 5)) && !pins.is_held(run(4, 8)));
        },
    );
    result.expect("wired");
    assert_eq!(locked(&host), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(pins.is_held(run(0, 8)));
    check_quiet(&host, &pins);
}

#[test]
fn calls_about_other_pages_go_on_while_an_unlock_or_a_hole_is_slow() {
    let (host, pins) = service(12, 100);
    pins.wire(range(4, 8)).expect("wired");
    let result = while_slow(
        &host,
        5,
        || pins.unwire(range(4, 4)),
        |_| {
            assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (4, 4));
            pins.wire(range(0, 4)).expect("wired");
            // What is being unlocked is locked until the host says otherwise.
            let refused = pins.wire(range(20, 1)).expect_err("the quota is used up");
            assert_eq!(refused.status(), Status::QUOTA);
            assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (8, 4));
            assert!(!pins.is_held(run(4, 8)) && pins.is_held(run(8, 12)));
        },
    );
    result.expect("unwired");
    pins.wire(range(20, 1)).expect("there is room");
    check_quiet(&host, &pins);
    let inside = pins.while_unwired(range(30, 4), || {
        pins.wire(range(34, 2)).expect("beside it");
        pins.count(30)
    });
    assert_eq!(inside, Some(0));
    check_quiet(&host, &pins);
}

#[test]
fn calls_about_the_same_pages_wait_for_a_slow_lock() {
    let (host, pins) = service(PAGES, 100);
    pins.wire(range(0, 4)).expect("wired");
    let done = AtomicU64::new(0);
    let done = &done;
    thread::scope(|scope| {
        let result = while_slow(
            &host,
            5,
            || pins.wire(range(0, 8)),
            |_| {
                // Nested in it, in what it does not lock, across its edge, and a look at whether it is wired.
                for (first, pages) in [(4, 2), (0, 1), (6, 4)] {
                    let pins = &pins;
                    scope.spawn(move || {
                        pins.wire(range(first, pages)).expect("wired");
                        done.fetch_add(1, Ordering::AcqRel);
                    });
                }
                scope.spawn(|| {
                    assert_eq!(pins.while_unwired(range(7, 1), || ()), None);
                    done.fetch_add(1, Ordering::AcqRel);
                });
                thread::sleep(A_WHILE);
                assert_eq!(done.load(Ordering::Acquire), 0, "they are answered before the pages are locked");
                // What was wired before does not get any less held by that.
                assert!(pins.is_held(run(0, 4)) && !pins.is_held(run(0, 8)));
            },
        );
        result.expect("wired");
    });
    assert_eq!(done.load(Ordering::Acquire), 4);
    let counts: Vec<u32> = (0..10).map(|page| pins.count(page)).collect();
    assert_eq!(counts, [3, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
    check_quiet(&host, &pins);
}

#[test]
fn unwire_of_a_lock_that_fails_in_the_end_finds_nothing_wired() {
    let (host, pins) = service(PAGES, 100);
    let is_answered = AtomicBool::new(false);
    let (pins, is_answered) = (&pins, &is_answered);
    let unwired = thread::scope(|scope| {
        let mut unwire = None;
        let result = while_slow(
            &host,
            5,
            || {
                host.with(|script| script.fail_lock = Some((1, libc::ENOMEM)));
                pins.wire_all(&[range(0, 2), range(4, 4), range(10, 2)])
            },
            |_| {
                // What it is about is locked already; whether it is wired is not known before all of it is.
                unwire = Some(scope.spawn(|| {
                    let result = pins.unwire(range(0, 1));
                    is_answered.store(true, Ordering::Release);
                    result
                }));
                thread::sleep(A_WHILE);
                assert!(!is_answered.load(Ordering::Acquire), "it is answered while the lock is in flight");
            },
        );
        assert_eq!(result.expect_err("it fails").status(), Status::RESOURCE_SHORTAGE);
        unwire.expect("it was begun").join().expect("a thread")
    });
    assert_eq!(unwired.expect_err("nothing is wired").status(), Status::INVALID_ARGUMENT);
    assert_eq!((locked(&host), pins.stats().wired_pages), (vec![], 0));
    check_quiet(&host, pins);
}

#[test]
fn unwire_of_several_runs_unlocks_what_another_call_has_left_of_a_later_one() {
    // Two runs are locked, and no third one may be.
    let (host, pins) = service(PAGES, 4);
    let both = [range(0, 8), range(20, 2)];
    pins.wire_all(&both).expect("wired");
    let result = while_slow(
        &host,
        20,
        || pins.unwire_all(&[range(3, 3), range(20, 2)]),
        |_| {
            // The hole in the first run is deferred meanwhile, and this call takes its first page.
            pins.wire(range(3, 1)).expect("wired");
            assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (6, 4));
        },
    );
    result.expect("unwired");
    assert_eq!((locked(&host), pins.stats().deferred_pages), (vec![0, 1, 2, 3, 6, 7], 0));
    check_quiet(&host, &pins);
}

#[test]
fn lock_that_fails_beside_another_leaves_the_other_alone() {
    let (host, pins) = service(PAGES, 100);
    // Deferred pages within what fails: one in a run that the host is asked about, one in a run that it is not.
    pins.wire_all(&[range(6, 1), range(31, 1)]).expect("wired");
    host.with(|script| script.fail_unlock = Some(0));
    pins.unwire_all(&[range(6, 1), range(31, 1)]).expect("deferred");
    let result = while_slow(
        &host,
        12,
        || pins.wire(range(12, 4)),
        |_| {
            // The two deferred runs are tried again first, and stay.
            host.with(|script| (script.fail_lock, script.fail_unlock) = (Some((0, libc::ENOMEM)), Some(0)));
            let error = pins.wire_all(&[range(4, 8), range(30, 4)]).expect_err("the host fails");
            assert_eq!(error.status(), Status::RESOURCE_SHORTAGE);
            assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (4, 9));
            host.with(|script| (script.fail_lock, script.fail_unlock) = (None, None));
        },
    );
    result.expect("wired");
    pins.wire(range(50, 1)).expect("wired");
    assert_eq!((locked(&host), pins.stats().deferred_pages), (vec![12, 13, 14, 15, 50], 0));
    check_quiet(&host, &pins);
}

#[test]
fn release_of_everything_waits_for_who_is_at_work() {
    let (host, pins) = service(PAGES, 100);
    thread::scope(|scope| {
        let result = while_slow(
            &host,
            5,
            || pins.wire(range(4, 4)),
            |_| {
                scope.spawn(|| pins.release_all());
                thread::sleep(A_WHILE);
                assert!(!host.with(|script| script.asked.contains(&Asked::Unlock(run(0, PAGES)))));
            },
        );
        result.expect("wired");
    });
    assert_eq!((locked(&host), pins.stats().wired_pages, pins.count(4)), (vec![], 0, 0));
    check_quiet(&host, &pins);
}

#[test]
fn nobody_waits_for_a_slow_release_of_everything_who_asks_what_is_held() {
    let (host, pins) = service(PAGES, 100);
    pins.wire_all(&[range(4, 4), range(20, 2)]).expect("wired");
    let done = AtomicBool::new(false);
    let (pins, done) = (&pins, &done);
    thread::scope(|scope| {
        while_slow(
            &host,
            5,
            || pins.release_all(),
            |_| {
                assert!(!pins.is_held(run(20, 22)) && pins.count(4) == 0);
                // They are locked until the host says otherwise.
                assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (0, 6));
                scope.spawn(|| {
                    pins.wire(range(30, 1)).expect("wired");
                    done.store(true, Ordering::Release);
                });
                thread::sleep(A_WHILE);
                assert!(!done.load(Ordering::Acquire), "it would be unlocked together with the rest");
            },
        );
    });
    assert_eq!((locked(&host), pins.stats().wired_pages), (vec![30], 1));
    check_quiet(&host, pins);
}

#[test]
fn call_that_panics_lets_go_of_its_pages() {
    let (host, pins) = service(PAGES, 100);
    host.with(|script| script.panic_at = Some(5));
    let panicked = thread::scope(|scope| scope.spawn(|| pins.wire(range(4, 4))).join().is_err());
    assert!(panicked);
    host.with(|script| script.panic_at = None);
    assert!(!pins.is_held(run(4, 8)), "nobody knows whether they are locked");
    pins.wire(range(0, 8)).expect("nobody is at work on them");
    pins.release_all();
    check_quiet(&host, &pins);
    assert_eq!(pins.stats(), PinStats { deferred_pages: 0, wired_pages: 0, locked_runs: 0, ..pins.stats() });
}

#[test]
fn unlock_that_panics_is_tried_again() {
    // With a budget of map entries, so that the splits are counted.
    let (host, pins) = service(PAGES, 100);
    pins.wire(range(0, 12)).expect("wired");
    host.with(|script| script.panic_at = Some(5));
    assert!(thread::scope(|scope| scope.spawn(|| pins.unwire(range(4, 4))).join().is_err()));
    host.with(|script| script.panic_at = None);
    let held = PinStats { wired_pages: 8, deferred_pages: 4, locked_runs: 1, ..pins.stats() };
    assert_eq!(pins.stats(), PinStats { unlock_calls: 1, ..held });
    assert_eq!(pins.state().splits_under_way, 0);
    check_quiet(&host, &pins);
    pins.wire(range(4, 2)).expect("wired again");
    assert!(pins.is_held(run(0, 6)) && !pins.is_held(run(6, 8)));
    check_quiet(&host, &pins);
    assert_eq!(pins.stats().deferred_pages, 0, "the rest has been let go by the next call");
    pins.unwire(range(0, 6)).expect("wired once");
    assert_eq!(pins.stats().locked_runs, 1);
}

#[test]
fn any_calls_of_several_threads_leave_counts_locks_and_quota_in_order() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 400;
    let (host, pins) = service(40, 24);
    let refused = AtomicU64::new(0);
    let wired: Vec<Vec<(u64, u64)>> = thread::scope(|scope| {
        let worker = |seed: u64| {
            let (pins, host, refused) = (&pins, &host, &refused);
            move || {
                let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut next = |below: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % below
                };
                let mut mine: Vec<(u64, u64)> = Vec::new();
                for _ in 0..ROUNDS {
                    match next(8) {
                        0 => host.with(|script| script.fail_lock = Some((1, libc::ENOMEM))),
                        1 => host.with(|script| script.fail_unlock = Some(1)),
                        2 => host.with(|script| script.fail_unlock = None),
                        3 | 4 if !mine.is_empty() => {
                            let at = usize::try_from(next(mine.len() as u64)).expect("small");
                            let (first, pages) = mine.swap_remove(at);
                            pins.unwire(range(first, pages)).expect("it was wired here");
                        }
                        5 => {
                            let first = next(PAGES - 4);
                            let _was_free = pins.while_unwired(range(first, 4), thread::yield_now);
                        }
                        _ => {
                            let first = next(PAGES);
                            let pages = (1 + next(8)).min(PAGES - first);
                            match pins.wire(range(first, pages)) {
                                Ok(()) => mine.push((first, pages)),
                                Err(_) => {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                    let stats = pins.stats();
                    assert!(stats.wired_pages + stats.deferred_pages <= 40, "over quota: {stats:?}");
                    assert!(stats.locked_runs * 2 <= 24 + 2 * THREADS, "too many runs: {stats:?}");
                }
                mine
            }
        };
        let threads: Vec<_> = (1..=THREADS).map(|seed| scope.spawn(worker(seed))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "nothing was refused, so nothing was undone");
    check_quiet(&host, &pins);
    let mut model = vec![0_u32; usize::try_from(PAGES).expect("small")];
    for (first, pages) in wired.iter().flatten() {
        for page in *first..first + pages {
            model[usize::try_from(page).expect("small")] += 1;
        }
    }
    for (page, count) in (0..).zip(model) {
        assert_eq!(pins.count(page), count, "page {page}");
    }
    host.with(|script| (script.fail_lock, script.fail_unlock) = (None, None));
    for (first, pages) in wired.into_iter().flatten() {
        pins.unwire(range(first, pages)).expect("it was wired");
    }
    for _ in 0..4 {
        // What is deferred is tried again at each call.
        pins.wire(range(0, 1)).expect("wired");
        pins.unwire(range(0, 1)).expect("unwired");
    }
    check_quiet(&host, &pins);
    assert_eq!((locked(&host), pins.stats().wired_pages, pins.stats().deferred_pages), (vec![], 0, 0));
}
