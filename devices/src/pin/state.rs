//! What the pin service knows: counts, what the host holds locked, and what a call is at work on. Pure: it asks nobody.

use std::sync::Arc;

use wirevm_abi::RamRange;

use super::claims::{ClaimId, Claims};
use super::error::PinError;
use super::ledger::{Ledger, LedgerError};
use super::service::{PinConfig, PinStats};
use crate::page_map::PageMap;
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
    pub(super) locked: PageMap,
    /// Pages that must be unlocked and are not, or not surely. No call is at work on them.
    pub(super) deferred: RunSet,
    /// Wired pages that were locked when storage had failed already, so that they may hold an old version of what was stored; and
    /// what a call has left that did not come to its end.
    pub(super) doubtful: RunSet,
    /// Locked pages that the host is being asked to unlock right now.
    unlocking_pages: u64,
    /// Locked runs that there will be more when they are.
    pub(super) splits_under_way: u64,
    /// Pages that a call is at work on while the state is not locked.
    pub(super) claims: Claims,
    /// Page from which the next deferred runs are tried.
    pub(super) retry_from: u64,
    ram_pages: u64,
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
    pub(super) runs: Arc<[PageRun]>,
    /// Pages that were locked before them.
    pub(super) locked_pages: u64,
    /// What of them was deferred, and so is locked already, though not surely.
    were_deferred: Vec<PageRun>,
}

impl State {
    pub(super) fn new(config: PinConfig) -> Self {
        Self {
            ledger: Ledger::new(config.ram_pages),
            locked: PageMap::new(config.ram_pages),
            deferred: RunSet::default(),
            doubtful: RunSet::default(),
            unlocking_pages: 0,
            splits_under_way: 0,
            claims: Claims::default(),
            retry_from: 0,
            ram_pages: config.ram_pages,
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

    /// Tells whether the host surely holds every page of a run, and has since storage was good.
    pub(super) fn is_held(&self, run: PageRun) -> bool {
        let is_locked = self.locked.overlap_pages(run) == run.pages() && !self.claims.is_unsure(run);
        is_locked && [&self.deferred, &self.doubtful].into_iter().all(|set| set.overlap_pages(run) == 0)
    }

    /// Takes note that runs, just counted up, are being locked: they count as locked from now on.
    ///
    /// # Errors
    /// [`PinError::Quota`] and [`PinError::HostMapFragmentation`]; then nothing has changed. Counting down is the caller's.
    pub(super) fn begin_locking(&mut self, edges: Vec<PageRun>) -> Result<Locking, PinError> {
        let were_deferred: Vec<_> = match self.deferred.is_empty() {
            true => Vec::new(),
            false => edges.iter().flat_map(|edge| self.deferred.parts_in(*edge)).collect(),
        };
        let asked_pages = pages_of(&edges) - pages_of(&were_deferred);
        let (locked_pages, quota_pages) = (self.locked.pages(), self.quota_pages);
        if asked_pages > quota_pages.saturating_sub(locked_pages) {
            return Err(PinError::Quota { asked_pages, locked_pages, quota_pages });
        }
        let runs_before = self.locked.runs();
        edges.iter().for_each(|edge| self.locked.insert(*edge));
        let runs = self.locked.runs() + self.splits_under_way;
        let entries = runs.saturating_mul(ENTRIES_PER_RUN);
        if entries > self.map_entry_budget && runs > runs_before {
            // Of what is to be locked nothing was locked already, but for what was deferred.
            edges.iter().for_each(|edge| self.locked.remove(*edge));
            were_deferred.iter().for_each(|part| self.locked.insert(*part));
            return Err(PinError::HostMapFragmentation { runs, entries, budget: self.map_entry_budget });
        }
        were_deferred.iter().for_each(|part| self.deferred.remove(*part));
        Ok(Locking { runs: edges.into(), locked_pages, were_deferred })
    }

    /// Takes note that all of them are locked; `doubtful` when storage had failed before.
    pub(super) fn end_locking(&mut self, locking: &Locking, doubtful: bool) {
        for run in &*locking.runs {
            if doubtful {
                self.doubtful.insert(*run);
            } else if !self.doubtful.is_empty() {
                self.doubtful.remove(*run);
            }
        }
        self.peak_pages = self.peak_pages.max(self.locked.pages());
    }

    /// Takes note that they are not locked after all: the host was asked to lock the first `touched` ones and to unlock them
    /// again, and has not unlocked those that are `stuck`. What the others had of deferred pages is deferred again. Counting
    /// down is the caller's.
    pub(super) fn undo_locking(&mut self, locking: &Locking, touched: usize, stuck: &[PageRun]) {
        locking.runs.iter().for_each(|run| self.locked.remove(*run));
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

    /// Tells whether unlocking a locked run makes two locked runs of one, where that matters.
    fn splits(&self, run: PageRun) -> bool {
        self.map_entry_budget < u64::MAX
            && run.first().checked_sub(1).is_some_and(|before| self.locked.contains(before))
            && self.locked.contains(run.end())
    }

    /// Takes note that a run that nobody wires is being unlocked.
    pub(super) fn begin_unlocking(&mut self, run: PageRun) {
        self.splits_under_way += u64::from(self.splits(run));
        self.unlock_calls += 1;
        if !self.deferred.is_empty() {
            self.deferred.remove(run);
        }
        self.unlocking_pages += run.pages();
    }

    /// Takes note of what came of runs, of which some were to split others: those that are `stuck`, in the same order, are
    /// not unlocked.
    pub(super) fn end_unlocking(&mut self, runs: &[PageRun], stuck: &[PageRun], splits: u64) {
        let mut stuck = stuck.iter().peekable();
        for run in runs {
            self.unlocking_pages -= run.pages();
            if stuck.next_if_eq(&run).is_some() {
                self.deferred.insert(*run);
            } else {
                self.locked.remove(*run);
            }
        }
        self.splits_under_way -= splits;
    }

    /// Takes note of what a call leaves that did not come to its end: the host may hold what it was asked about, or not.
    pub(super) fn abandon(&mut self, id: ClaimId) {
        let Some(claim) = self.claims.end(id) else { return };
        self.splits_under_way -= claim.splits;
        let held: Vec<_> = claim.unsure.iter().flat_map(|run| self.locked.parts_in(*run)).collect();
        for run in held {
            self.doubtful.insert(run);
            for unwired in self.ledger.unwired_in(run) {
                self.doubtful.remove(unwired);
                self.deferred.insert(unwired);
                self.unlocking_pages = self.unlocking_pages.saturating_sub(unwired.pages());
            }
        }
    }

    /// Forgets all counts; everything that is locked is deferred then. No call may be at work.
    pub(super) fn forget(&mut self) {
        self.ledger = Ledger::new(self.ram_pages);
        self.doubtful = RunSet::default();
        // What a call that did not come to its end has left.
        self.unlocking_pages = 0;
        self.splits_under_way = 0;
        self.defer_all();
    }

    /// Takes note that everything, all of it deferred, is being unlocked.
    pub(super) fn begin_unlocking_all(&mut self) {
        self.unlock_calls += 1;
        self.unlocking_pages = std::mem::take(&mut self.deferred).pages();
    }

    /// Takes note of what came of it.
    pub(super) fn end_unlocking_all(&mut self, is_unlocked: bool) {
        self.unlocking_pages = 0;
        if is_unlocked {
            self.locked = PageMap::new(self.ram_pages);
        } else {
            self.defer_all();
        }
    }

    fn defer_all(&mut self) {
        self.deferred = RunSet::default();
        for run in PageRun::new(0, self.ram_pages).into_iter().flat_map(|all| self.locked.parts_in(all)) {
            self.deferred.insert(run);
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

fn pages_of(runs: &[PageRun]) -> u64 {
    runs.iter().map(|run| run.pages()).sum()
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
