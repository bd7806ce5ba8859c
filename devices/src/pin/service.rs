//! The pin service: admission, locking, undoing, and what can't be unlocked yet.

use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wirevm_abi::RamRange;

use super::error::PinError;
use super::ledger::{Ledger, LedgerError};
use super::limit::{self, Refusal};
use super::method::{PinMethod, PinMethodError};
use super::watch::StorageWatch;
use crate::log_limit::LogLimit;
use crate::page_run::PageRun;
use crate::run_set::RunSet;

/// Deferred runs that one call tries to release, so that a call's cost stays bounded.
const RETRIES: usize = 64;
/// Map entries that a locked run can cost: itself and the rest that it splits off.
const ENTRIES_PER_RUN: u64 = 2;

/// What a [`PinService`] may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinConfig {
    /// Pages in guest RAM.
    pub ram_pages: u64,
    /// Pages that may be locked at once.
    pub quota_pages: u64,
    /// Map entries that locked runs may cost; see [`super::map_entry_budget`].
    pub map_entry_budget: u64,
}

/// What a [`PinService`] has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinStats {
    /// Pages whose wire count is not 0.
    pub wired_pages: u64,
    /// Pages that nobody wires and that the host has not unlocked yet; they count against the quota.
    pub deferred_pages: u64,
    /// Most pages that were locked at once, wired or deferred.
    pub peak_pages: u64,
    /// Pages that may be locked at once.
    pub quota_pages: u64,
    /// Runs that the locked pages lie in.
    pub locked_runs: u64,
    /// Runs that the host was asked to lock.
    pub lock_calls: u64,
    /// Runs that the host was asked to unlock.
    pub unlock_calls: u64,
}

/// Holds pages of one machine's RAM in memory, as often as they are wired.
///
/// A call takes a list of ranges and does all of it or nothing. Calls wait for one another, since counts, locks
/// and quota must change together (rule S5); [`PinService::stats`] does not wait.
#[derive(Debug)]
pub struct PinService {
    method: Box<dyn PinMethod>,
    ram_pages: u64,
    map_entry_budget: u64,
    /// Taken before `published`; held while the host locks.
    state: Mutex<State>,
    /// Asked while `state` is held.
    watch: StorageWatch,
    published: Mutex<PinStats>,
    refusals: LogLimit,
    deferrals: LogLimit,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// Pages that the host may hold locked: those wired and those deferred.
    locked: RunSet,
    /// Pages that must be unlocked and are not, or not surely.
    deferred: RunSet,
    /// Wired pages that were locked when storage had failed already: they may hold an old version of what was stored.
    doubtful: RunSet,
    /// Page from which the next deferred runs are tried.
    retry_from: u64,
    quota_pages: u64,
    peak_pages: u64,
    lock_calls: u64,
    unlock_calls: u64,
}

impl PinService {
    /// Makes a service that has wired nothing.
    #[must_use]
    pub fn new(method: Box<dyn PinMethod>, config: PinConfig) -> Self {
        let service = Self {
            method,
            ram_pages: config.ram_pages,
            map_entry_budget: config.map_entry_budget,
            state: Mutex::new(State {
                ledger: Ledger::new(),
                locked: RunSet::default(),
                deferred: RunSet::default(),
                doubtful: RunSet::default(),
                retry_from: 0,
                quota_pages: config.quota_pages,
                peak_pages: 0,
                lock_calls: 0,
                unlock_calls: 0,
            }),
            watch: StorageWatch::default(),
            published: Mutex::default(),
            refusals: LogLimit::default(),
            deferrals: LogLimit::default(),
        };
        service.publish(&service.state());
        service
    }

    /// Watches storage from now on: pages that are locked after it has failed are not [held](Self::is_held), since they may
    /// have left memory in between. `look` tells of an error once, without waiting for anything but storage, as
    /// [`crate::sync::RamProbe`] does through a description that nobody else uses.
    pub fn watch(&self, look: impl FnMut() -> io::Result<()> + Send + 'static) {
        self.watch.begin(Box::new(look));
    }

    /// Tells whether every page of a run is wired and has been since storage was good: whatever became of its write to the
    /// file, memory still holds what the guest stored. For [`crate::sync::WiredOracle`].
    #[must_use]
    pub fn is_held(&self, run: PageRun) -> bool {
        let state = self.state();
        let deferred = state.deferred.overlap_pages(run);
        let locked = state.locked.holding(run.first()).is_some_and(|held| held.end() >= run.end());
        locked && deferred == 0 && state.doubtful.overlap_pages(run) == 0
    }

    /// Wires every page of a range once more. See [`PinService::wire_all`].
    ///
    /// # Errors
    /// [`PinError`].
    ///
    /// # Partial effects
    /// None on error.
    pub fn wire(&self, range: RamRange) -> Result<(), PinError> {
        self.wire_all(&[range])
    }

    /// Unwires every page of a range once. See [`PinService::unwire_all`].
    ///
    /// # Errors
    /// [`PinError`], by the caller's mistakes only.
    ///
    /// # Partial effects
    /// None on error.
    pub fn unwire(&self, range: RamRange) -> Result<(), PinError> {
        self.unwire_all(&[range])
    }

    /// Wires every page of every range once more; a range that stands twice counts twice.
    ///
    /// When it returns well, each page is in memory and stays until it was unwired as often. No page is dirtied.
    ///
    /// # Errors
    /// [`PinError`]. Quota, counts and map entries are looked at before any page is touched.
    ///
    /// # Partial effects
    /// None on error: what was locked is unlocked, or, where the host refuses that, deferred (H2).
    pub fn wire_all(&self, ranges: &[RamRange]) -> Result<(), PinError> {
        self.check_inside(ranges)?;
        let mut state = self.state();
        self.retry_deferred(&mut state);
        let edges = state.count_up(ranges)?;
        let result = self.admit(&state, &edges).and_then(|()| self.lock_all(&mut state, &edges));
        if result.is_err() {
            state.count_down(ranges)?;
        }
        state.peak_pages = state.peak_pages.max(state.locked.pages());
        self.publish(&state);
        drop(state);
        if let Err(error) = &result
            && error.status() != wirevm_abi::Status::QUOTA
            && let Some(number) = self.refusals.count()
        {
            log::warn!("wire refused ({number} times so far): {}", with_sources(error));
        }
        result
    }

    /// Unwires every page of every range once.
    ///
    /// A page that comes to 0 is unlocked now, or, where the host can't or the memory map would grow past its
    /// budget, deferred: it stays locked, counts against the quota, and is tried again at each later call.
    ///
    /// # Errors
    /// [`PinError::Outside`] and [`PinError::Count`], for a page that is not wired: the caller's mistakes.
    /// The host can't make it fail (rule S4).
    ///
    /// # Partial effects
    /// None on error.
    pub fn unwire_all(&self, ranges: &[RamRange]) -> Result<(), PinError> {
        self.check_inside(ranges)?;
        let mut state = self.state();
        self.retry_deferred(&mut state);
        let edges = state.count_down(ranges)?;
        for edge in &edges {
            state.deferred.insert(*edge);
            state.doubtful.remove(*edge);
        }
        for edge in edges {
            // Older deferred pages beside it go in the same call.
            if let Some(run) = state.deferred.holding(edge.first()) {
                self.release(&mut state, run, false);
            }
        }
        self.publish(&state);
        Ok(())
    }

    /// Forgets all wire counts and unlocks everything, as when the machine resets or ends.
    ///
    /// What the host does not unlock is deferred.
    pub fn release_all(&self) {
        let mut state = self.state();
        state.ledger = Ledger::new();
        state.doubtful = RunSet::default();
        state.deferred = state.locked.clone();
        if let Some(all) = PageRun::new(0, self.ram_pages)
            && !state.locked.is_empty()
        {
            // One call for everything removes map entries and never needs more.
            state.unlock_calls += 1;
            if self.method.unlock(all).is_ok() {
                state.locked = RunSet::default();
                state.deferred = RunSet::default();
            }
        }
        for run in state.deferred.to_runs() {
            self.release(&mut state, run, true);
        }
        self.publish(&state);
    }

    /// Changes the quota. Pages that are locked stay so, even above it.
    pub fn set_quota_pages(&self, quota_pages: u64) {
        let mut state = self.state();
        state.quota_pages = quota_pages;
        self.publish(&state);
    }

    /// Returns the number of pages that may be locked at once.
    #[must_use]
    pub fn quota_pages(&self) -> u64 {
        self.stats().quota_pages
    }

    /// Does something to pages while none of them is wired and none can become so; `None`, and nothing is done, when one is.
    ///
    /// Calls that wire or unwire wait meanwhile. Pages that nobody wires but the host still holds locked don't count.
    pub fn while_unwired<T>(&self, range: RamRange, act: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        // Locked pages are those that are wired and those that are deferred, and none is both.
        let is_wired = state.locked.overlap_pages(range.into()) > state.deferred.overlap_pages(range.into());
        // The lock is held until the act is done.
        (!is_wired).then(act)
    }

    /// Returns how often a page is wired.
    #[must_use]
    pub fn count(&self, page: u64) -> u32 {
        self.state().ledger.count(page)
    }

    /// Returns what the service held and had done after the last call that ended.
    #[must_use]
    pub fn stats(&self) -> PinStats {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = PinStats {
            wired_pages: state.ledger.wired_pages(),
            deferred_pages: state.deferred.pages(),
            peak_pages: state.peak_pages,
            quota_pages: state.quota_pages,
            locked_runs: state.locked.runs(),
            lock_calls: state.lock_calls,
            unlock_calls: state.unlock_calls,
        };
    }

    fn check_inside(&self, ranges: &[RamRange]) -> Result<(), PinError> {
        match ranges.iter().find(|range| range.end() > self.ram_pages) {
            Some(range) => Err(PinError::Outside { range: *range, ram_pages: self.ram_pages }),
            None => Ok(()),
        }
    }

    /// Checks quota and map entries for runs that are to be locked.
    fn admit(&self, state: &State, edges: &[PageRun]) -> Result<(), PinError> {
        let asked_pages: u64 = edges.iter().map(|edge| edge.pages() - state.locked.overlap_pages(*edge)).sum();
        let (locked_pages, quota_pages) = (state.locked.pages(), state.quota_pages);
        if asked_pages > quota_pages.saturating_sub(locked_pages) {
            return Err(PinError::Quota { asked_pages, locked_pages, quota_pages });
        }
        // Each edge adds itself and joins its neighbours; edges do not touch one another.
        let joined: u64 = edges.iter().map(|edge| state.locked.neighbours(*edge)).sum();
        let added = u64::try_from(edges.len()).unwrap_or(u64::MAX);
        let runs = (state.locked.runs() + added).saturating_sub(joined);
        let entries = runs.saturating_mul(ENTRIES_PER_RUN);
        if entries > self.map_entry_budget && runs > state.locked.runs() {
            return Err(PinError::HostMapFragmentation { runs, entries, budget: self.map_entry_budget });
        }
        Ok(())
    }

    /// Locks runs in order. On error, unlocks every run that it touched: exactly the pages that were not wired
    /// before, the one that failed included, since nobody knows what a failed lock has left (H2).
    fn lock_all(&self, state: &mut State, edges: &[PageRun]) -> Result<(), PinError> {
        for (index, edge) in edges.iter().enumerate() {
            let locked_pages = state.locked.pages();
            state.lock_calls += 1;
            let result = self.method.lock(*edge);
            state.locked.insert(*edge);
            let Err(source) = result else { continue };
            for touched in edges.iter().take(index + 1) {
                state.deferred.insert(*touched);
                self.release(state, *touched, true);
            }
            return Err(sort_error(*edge, locked_pages, source));
        }
        edges.iter().for_each(|run| state.deferred.remove(*run));
        // Locked first and looked at then: a failure that comes later finds the pages in memory.
        if !edges.is_empty() && self.watch.has_failed() {
            edges.iter().for_each(|run| state.doubtful.insert(*run));
        }
        Ok(())
    }

    /// Tries some deferred runs, going round.
    fn retry_deferred(&self, state: &mut State) {
        let tries = usize::try_from(state.deferred.runs()).unwrap_or(RETRIES).min(RETRIES);
        for _ in 0..tries {
            let next = state.deferred.next_from(state.retry_from).or_else(|| state.deferred.next_from(0));
            let Some(run) = next else { return };
            state.retry_from = run.end();
            self.release(state, run, false);
        }
    }

    /// Unlocks a deferred run, unless that would split a locked one past the budget; `forced` ignores that.
    fn release(&self, state: &mut State, run: PageRun, forced: bool) {
        let splits =
            state.locked.holding(run.first()).is_some_and(|held| held.first() < run.first() && run.end() < held.end());
        let entries = (state.locked.runs() + 1).saturating_mul(ENTRIES_PER_RUN);
        if splits && entries > self.map_entry_budget && !forced {
            if let Some(number) = self.deferrals.count() {
                log::warn!("host map fragmentation: pages {run} stay locked for now ({number} times so far)");
            }
            return;
        }
        state.unlock_calls += 1;
        match self.method.unlock(run) {
            Ok(()) => {
                state.locked.remove(run);
                state.deferred.remove(run);
            }
            Err(error) => {
                if let Some(number) = self.deferrals.count() {
                    log::warn!("pages {run} stay locked for now ({number} times so far): {error}");
                }
            }
        }
    }
}

impl Drop for PinService {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl State {
    /// Counts all ranges up or none, and returns the runs that were not wired before.
    fn count_up(&mut self, ranges: &[RamRange]) -> Result<Vec<PageRun>, LedgerError> {
        count_all(&mut self.ledger, ranges, Ledger::wire, Ledger::unwire)
    }

    /// Counts all ranges down or none, and returns the runs that are not wired any more.
    fn count_down(&mut self, ranges: &[RamRange]) -> Result<Vec<PageRun>, LedgerError> {
        count_all(&mut self.ledger, ranges, Ledger::unwire, Ledger::wire)
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

/// Joins an error and what is behind it: what was tried, and why it failed.
fn with_sources(error: &PinError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

fn sort_error(run: PageRun, locked_pages: u64, source: PinMethodError) -> PinError {
    let (PinMethodError::Populate { source: cause, .. } | PinMethodError::Lock { source: cause, .. }) = &source;
    match limit::refusal(cause) {
        Refusal::Shortage => PinError::Shortage { limits: limit::describe(run, locked_pages), source },
        Refusal::Fault => PinError::Fault { source },
    }
}
