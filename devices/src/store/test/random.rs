//! Any operations on one store, any failures, two workers: nothing is said that storage does not keep.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::{Strategy, prop, prop_oneof};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

use super::rig::{Bench, OK};
use crate::store::scripted::Mistake;

/// Pages that take part.
const PART: u64 = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Return {
        first: u64,
        pages: u64,
    },
    Request {
        first: u64,
        pages: u64,
    },
    Sync {
        first: u64,
        pages: u64,
    },
    /// The same while another worker's sync is between its writing and its look.
    ReturnDuringSync {
        page: u64,
        other: u64,
    },
    SyncDuringSync {
        page: u64,
        other: u64,
    },
    /// The next writing of the page fails.
    Spoil {
        page: u64,
    },
    WriteOut {
        page: u64,
    },
    Evict {
        page: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let run = || (0..PART).prop_flat_map(|first| (proptest::prelude::Just(first), 1..=PART - first));
    let page = || 0..PART;
    let step = prop_oneof![
        4 => run().prop_map(|(first, pages)| Step::Return { first, pages }),
        3 => run().prop_map(|(first, pages)| Step::Request { first, pages }),
        4 => run().prop_map(|(first, pages)| Step::Sync { first, pages }),
        1 => (page(), page()).prop_map(|(page, other)| Step::ReturnDuringSync { page, other }),
        2 => (page(), page()).prop_map(|(page, other)| Step::SyncDuringSync { page, other }),
        2 => page().prop_map(|page| Step::Spoil { page }),
        2 => page().prop_map(|page| Step::WriteOut { page }),
        2 => page().prop_map(|page| Step::Evict { page }),
    ];
    prop::collection::vec((0_usize..2, step), 1..40)
}

/// What the guest may believe: the byte of each page's last return that was answered well.
#[derive(Default)]
struct Guest {
    returned: BTreeMap<u64, u8>,
    next: u8,
}

impl Guest {
    /// Returns pages; one that fails may have left anything, which only another return makes known again.
    fn give(&mut self, bench: &Bench, worker: usize, first: u64, pages: u64) {
        self.next = self.next % 200 + 1;
        let outcome = bench.give(worker, first, pages, self.next);
        for page in first..first + pages {
            self.returned.remove(&page);
            if outcome == OK {
                self.returned.insert(page, self.next);
            }
        }
    }

    fn check_stable(&self, bench: &Bench, first: u64, pages: u64) -> Result<(), String> {
        for page in first..first + pages {
            if let Some(byte) = self.returned.get(&page)
                && bench.disk.stable(page) != *byte
            {
                return Err(format!("page {page} is called stable, and the disk has another byte than {byte}"));
            }
        }
        Ok(())
    }
}

fn play(mistake: Mistake, steps: &[(usize, Step)]) -> Result<(), String> {
    let bench = Bench::new(mistake, false);
    let mut guest = Guest::default();
    for (worker, step) in steps {
        let worker = *worker;
        // What an earlier sync has not come to is not left to a later one.
        bench.disk.with(|disk| (disk.before_sync_looks, disk.before_error_returns) = (None, None));
        match *step {
            Step::Return { first, pages } => guest.give(&bench, worker, first, pages),
            Step::Request { first, pages } => {
                if bench.get(worker, first, pages).is_ok() {
                    for page in first..first + pages {
                        if let Some(byte) = guest.returned.get(&page)
                            && bench.ram.page(page) != *byte
                        {
                            return Err(format!("page {page} was read without its byte {byte}"));
                        }
                    }
                }
            }
            Step::Sync { first, pages } => {
                if bench.sync(worker, first, pages) == OK {
                    guest.check_stable(&bench, first, pages)?;
                }
            }
            Step::ReturnDuringSync { page, other } => {
                let inner = Arc::clone(&bench);
                let byte = guest.next % 200 + 1;
                guest.next = byte;
                let told = Arc::new(std::sync::Mutex::new(None));
                let tell = Arc::clone(&told);
                bench.disk.with(|disk| {
                    disk.before_sync_looks = Some(Box::new(move || {
                        *tell.lock().expect("lock") = Some(inner.give(1 - worker, other, 1, byte));
                    }));
                });
                // Requests about overlapping pages are never carried out at the same time.
                let page = if page == other { PART + 1 } else { page };
                if bench.sync(worker, page, 1) == OK {
                    guest.check_stable(&bench, page, 1)?;
                }
                guest.returned.remove(&other);
                if *told.lock().expect("lock") == Some(OK) {
                    guest.returned.insert(other, byte);
                }
            }
            Step::SyncDuringSync { page, other } => {
                let inner = Arc::clone(&bench);
                let told = Arc::new(std::sync::Mutex::new(None));
                let tell = Arc::clone(&told);
                bench.disk.with(|disk| {
                    disk.before_error_returns = Some(Box::new(move || {
                        *tell.lock().expect("lock") = Some(inner.sync(1 - worker, other, 1));
                    }));
                });
                if bench.sync(worker, page, 1) == OK {
                    guest.check_stable(&bench, page, 1)?;
                }
                if *told.lock().expect("lock") == Some(OK) {
                    guest.check_stable(&bench, other, 1)?;
                }
            }
            Step::Spoil { page } => bench.disk.with(|disk| {
                disk.bad.insert(page);
            }),
            Step::WriteOut { page } => bench.disk.write_out(page),
            Step::Evict { page } => bench.disk.evict(page),
        }
    }
    // However it went: without further failures two rounds make everything stable. The first may still meet an old error.
    bench.disk.with(|disk| {
        disk.bad.clear();
        (disk.before_sync_looks, disk.before_error_returns) = (None, None);
    });
    for _ in 0..2 {
        guest.give(&bench, 0, 0, PART);
    }
    if (bench.sync(1, 0, PART), bench.get(1, 0, PART).is_ok()) != (OK, true) {
        return Err("a healthy store stays broken".to_owned());
    }
    guest.check_stable(&bench, 0, PART)
}

/// Plays many games and tells whether one was lost.
fn verdict(mistake: Mistake, cases: u32) -> Result<(), String> {
    let seed = RngSeed::Fixed(3);
    let mut runner = TestRunner::new(Config { cases, rng_seed: seed, failure_persistence: None, ..Config::default() });
    let result =
        runner.run(&steps(), |steps| play(mistake, &steps).map_err(proptest::test_runner::TestCaseError::fail));
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, steps)) => Err(format!("{reason}: {steps:?}")),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn nothing_is_said_that_storage_does_not_keep() {
    assert_eq!(verdict(Mistake::None, 3000), Ok(()));
}

#[test]
fn every_mistake_is_found_out() {
    for mistake in [Mistake::BelievesTheSecondSync, Mistake::SharesTheDescription, Mistake::IsBlind] {
        let found = verdict(mistake, 3000).expect_err("a game is lost");
        println!("{mistake:?}: {found}");
    }
}
