//! What the pin service knows: counts, what the host holds locked, and what a call is at work on. Pure: it asks nobody.

use wirevm_abi::RamRange;

use super::error::PinError;
use super::ledger::{Ledger, LedgerError};
use super::service::{PinConfig, PinStats};
use crate::page_run::PageRun;
use crate::run_set::RunSet;

/// Map entries that a locked run can cost: itself and the rest that it splits off.
const ENTRIES_PER_RUN: u64 = 2;

/// The state behind the service's lock.
///
/// Between any two changes made under that lock, the locked pages are those that are wired, those that are deferred, and those
/// that are being unlocked; no page is two of these.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    /// Pages that the host may hold locked.
    pub(super) locked: RunSet,
    /// Pages that must be unlocked and are not, or not surely. No call is at work on them.
    pub(super) deferred: RunSet,
    /// Wired pages that were locked when storage had failed already: they may hold an old version of what was stored.
    pub(super) doubtful: RunSet,
    /// Locked pages that the host is being asked about right now: whether it holds them is not known.
    unsure: RunSet,
    /// Of them, those that are being unlocked.
    unlocking_pages: u64,
    /// Locked runs that there will be more when they are.
    pub(super) splits_under_way: u64,
    /// Pages that a call is at work on while the state is not locked: every other call about them waits.
    pub(super) busy: RunSet,
    /// Page from which the next deferred runs are tried.
    pub(super) retry_from: u64,
    pub(super) quota_pages: u64,
    map_entry_budget: u64,
    peak_pages: u64,
    pub(super) lock_calls: u64,
    pub(super) unlock_calls: u64,
}

/// Runs that the host is to be asked to lock.
#[derive(Debug)]
pub(super) struct Locking {
    /// The runs, in order.
    pub(super) runs: Vec<PageRun>,
    /// Pages that were locked before them.
    pub(super) locked_pages: u64,
    /// What of them was deferred, and so is locked already, though not surely.
    were_deferred: Vec<PageRun>,
}

impl State {
    pub(super) fn new(config: PinConfig) -> Self {
        Self {
            ledger: Ledger::new(),
            locked: RunSet::default(),
            deferred: RunSet::default(),
            doubtful: RunSet::default(),
            unsure: RunSet::default(),
            unlocking_pages: 0,
            splits_under_way: 0,
            busy: RunSet::default(),
            retry_from: 0,
            quota_pages: config.quota_pages,
            map_entry_budget: config.map_entry_budget,
            peak_pages: 0,
            lock_calls: 0,
            unlock_calls: 0,
        }
    }

    /// Counts all ranges up or none, and returns the runs that were not wired before.
    pub(super) fn count_up(&mut self, ranges: &[RamRange]) -> Result<Vec<PageRun>, LedgerError> {
        count_all(&mut self.ledger, ranges, Ledger::wire, Ledger::unwire)
    }

    /// Counts all ranges down or none, and returns the runs that are not wired any more.
    pub(super) fn count_down(&mut self, ranges: &[RamRange]) -> Result<Vec<PageRun>, LedgerError> {
        count_all(&mut self.ledger, ranges, Ledger::unwire, Ledger::wire)
    }

    /// Tells whether a call is at work on one of the run's pages.
    pub(super) fn is_busy(&self, run: PageRun) -> bool {
        self.busy.overlap_pages(run) > 0
    }

    /// Tells whether the host surely holds every page of a run, and has since storage was good.
    pub(super) fn is_held(&self, run: PageRun) -> bool {
        let locked = self.locked.holding(run.first()).is_some_and(|held| held.end() >= run.end());
        locked && [&self.deferred, &self.unsure, &self.doubtful].into_iter().all(|set| set.overlap_pages(run) == 0)
    }

    /// Checks quota and map entries for runs that are to be locked.
    pub(super) fn admit(&self, edges: &[PageRun]) -> Result<(), PinError> {
        // Each edge adds itself and joins its neighbours; edges do not touch one another.
        let (mut asked_pages, mut joined) = (0, 0);
        for edge in edges {
            let (locked, neighbours) = self.locked.overlap_and_neighbours(*edge);
            asked_pages += edge.pages() - locked;
            joined += neighbours;
        }
        let (locked_pages, quota_pages) = (self.locked.pages(), self.quota_pages);
        if asked_pages > quota_pages.saturating_sub(locked_pages) {
            return Err(PinError::Quota { asked_pages, locked_pages, quota_pages });
        }
        let added = u64::try_from(edges.len()).unwrap_or(u64::MAX);
        let runs = (self.locked.runs() + self.splits_under_way + added).saturating_sub(joined);
        let entries = runs.saturating_mul(ENTRIES_PER_RUN);
        if entries > self.map_entry_budget && runs > self.locked.runs() {
            return Err(PinError::HostMapFragmentation { runs, entries, budget: self.map_entry_budget });
        }
        Ok(())
    }

    /// Takes note that runs, just counted up and admitted, are being locked: they count as locked from now on.
    pub(super) fn begin_locking(&mut self, runs: Vec<PageRun>) -> Locking {
        let were_deferred: Vec<_> = runs.iter().flat_map(|run| self.deferred.parts_in(*run)).collect();
        let locked_pages = self.locked.pages();
        for part in &were_deferred {
            self.deferred.remove(*part);
        }
        for run in &runs {
            self.locked.insert(*run);
            self.unsure.insert(*run);
        }
        Locking { runs, locked_pages, were_deferred }
    }

    /// Takes note that all of them are locked; `doubtful` when storage had failed before.
    pub(super) fn end_locking(&mut self, locking: &Locking, doubtful: bool) {
        for run in &locking.runs {
            self.unsure.remove(*run);
            if doubtful {
                self.doubtful.insert(*run);
            }
        }
        self.peak_pages = self.peak_pages.max(self.locked.pages());
    }

    /// Takes note that they are not locked after all: the host was asked to lock the first `touched` ones and to unlock them
    /// again, and has not unlocked those that are `stuck`. What the others had of deferred pages is deferred again. Counting
    /// down is the caller's.
    pub(super) fn undo_locking(&mut self, locking: &Locking, touched: usize, stuck: &[PageRun]) {
        for run in &locking.runs {
            self.unsure.remove(*run);
            self.locked.remove(*run);
        }
        let untouched = locking.runs.iter().skip(touched);
        let left = untouched.flat_map(|run| locking.were_deferred.iter().filter(|part| part.overlaps(*run)));
        for run in stuck.iter().chain(left) {
            self.locked.insert(*run);
            self.deferred.insert(*run);
        }
        self.peak_pages = self.peak_pages.max(self.locked.pages());
    }

    /// Tells whether unlocking a run would split a locked one past the budget, on top of what is being unlocked.
    pub(super) fn splits_too_much(&self, run: PageRun) -> bool {
        let runs = self.locked.runs() + self.splits_under_way + 1;
        runs.saturating_mul(ENTRIES_PER_RUN) > self.map_entry_budget && self.splits(run)
    }

    /// Tells whether unlocking a run makes two locked runs of one, where that matters.
    fn splits(&self, run: PageRun) -> bool {
        self.map_entry_budget < u64::MAX
            && self.locked.holding(run.first()).is_some_and(|held| held.first() < run.first() && run.end() < held.end())
    }

    /// Takes note that a deferred run is being unlocked.
    pub(super) fn begin_unlocking(&mut self, run: PageRun) {
        self.splits_under_way += u64::from(self.splits(run));
        self.unlock_calls += 1;
        self.deferred.remove(run);
        self.unsure.insert(run);
        self.unlocking_pages += run.pages();
    }

    /// Takes note of what came of runs, of which some were to split others: those that are `stuck`, in the same order, are
    /// not unlocked.
    pub(super) fn end_unlocking(&mut self, runs: &[PageRun], stuck: &[PageRun], splits: u64) {
        let mut stuck = stuck.iter().peekable();
        for run in runs {
            self.unsure.remove(*run);
            self.unlocking_pages -= run.pages();
            if stuck.next_if_eq(&run).is_some() {
                self.deferred.insert(*run);
            } else {
                self.locked.remove(*run);
            }
        }
        self.splits_under_way -= splits;
    }

    /// Forgets all counts; everything that is locked is deferred then. No call may be at work.
    pub(super) fn forget(&mut self) {
        self.ledger = Ledger::new();
        self.doubtful = RunSet::default();
        // What a call that did not come to its end has left.
        self.unsure = RunSet::default();
        self.unlocking_pages = 0;
        self.splits_under_way = 0;
        self.deferred = self.locked.clone();
    }

    /// Takes note that everything, all of it deferred, is being unlocked.
    pub(super) fn begin_unlocking_all(&mut self) {
        self.unlock_calls += 1;
        self.unlocking_pages = self.deferred.pages();
        self.unsure = std::mem::take(&mut self.deferred);
    }

    /// Takes note of what came of it.
    pub(super) fn end_unlocking_all(&mut self, is_unlocked: bool) {
        self.unlocking_pages = 0;
        self.unsure = RunSet::default();
        if is_unlocked {
            self.locked = RunSet::default();
        } else {
            self.deferred = self.locked.clone();
        }
    }

    pub(super) fn stats(&self) -> PinStats {
        PinStats {
            wired_pages: self.ledger.wired_pages(),
            deferred_pages: self.deferred.pages() + self.unlocking_pages,
            peak_pages: self.peak_pages,
            quota_pages: self.quota_pages,
            locked_runs: self.locked.runs(),
            lock_calls: self.lock_calls,
            unlock_calls: self.unlock_calls,
        }
    }
}

type Change = fn(&mut Ledger, RamRange) -> Result<Vec<PageRun>, LedgerError>;

fn count_all(
    ledger: &mut Ledger,
    ranges: &[RamRange],
    change: Change,
    inverse: Change,
) -> Result<Vec<PageRun>, LedgerError> {
    let mut edges = Vec::new();
    for (done, range) in ranges.iter().enumerate() {
        match change(ledger, *range) {
            Ok(new) => edges.extend(new),
            Err(error) => {
                for range in ranges.iter().take(done) {
                    inverse(ledger, *range)?;
                }
                return Err(error);
            }
        }
    }
    Ok(PageRun::join(edges))
}
