//! The pin service: what is asked of the host, undoing, and what can't be unlocked yet.

use std::error::Error;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use wirevm_abi::RamRange;

use super::claims::ClaimId;
use super::error::PinError;
use super::limit::{self, Refusal};
use super::method::{LockFailure, PinMethod, PinMethodError};
use super::state::{Locking, State};
use super::watch::StorageWatch;
use crate::log_limit::LogLimit;
use crate::page_run::PageRun;

/// Deferred runs that one call tries to release, so that a call's cost stays bounded.
const RETRIES: usize = 64;

/// What a [`PinService`] may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinConfig {
    /// Pages in guest RAM.
    pub ram_pages: u64,
    /// Pages that may be locked at once.
    pub quota_pages: u64,
    /// Map entries that locked runs may cost; see [`super::PinKind::map_entry_budget`].
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
/// A call takes a list of ranges and does all of it or nothing. Counts and quota change together, before the host is asked
/// (rule S5), and nothing is locked here while the host works: calls about other pages go on, calls about the same ones
/// wait, and [`PinService::stats`] never does. What a call is locking counts against the quota, whether or not the host will
/// refuse it.
#[derive(Debug)]
pub struct PinService {
    method: Box<dyn PinMethod>,
    ram_pages: u64,
    /// Taken before `published`; never held while the host works.
    state: Mutex<State>,
    /// Told when a call has let go of its pages.
    changed: Condvar,
    watch: StorageWatch,
    pub(super) published: Mutex<PinStats>,
    refusals: LogLimit,
    deferrals: LogLimit,
}

/// Pages that a call is at work on. It lets go of them at the end of the call, be it a panic.
#[derive(Debug)]
struct Claim<'a> {
    service: &'a PinService,
    /// None when it has ended.
    id: Option<ClaimId>,
}

impl Claim<'_> {
    /// Lets go of the pages, with the state that the call leaves.
    fn end(mut self, state: &mut State) {
        if let Some(id) = self.id.take() {
            state.claims.end(id);
        }
        self.service.changed.notify_all();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let mut state = self.service.state();
        state.abandon(id);
        drop(state);
        self.service.changed.notify_all();
    }
}

impl PinService {
    /// Makes a service that has wired nothing.
    #[must_use]
    pub fn new(method: Box<dyn PinMethod>, config: PinConfig) -> Self {
        let service = Self {
            method,
            ram_pages: config.ram_pages,
            state: Mutex::new(State::new(config)),
            changed: Condvar::new(),
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
        self.state().is_held(run)
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
        self.try_wire_all(ranges).map_err(|error| self.refused(error))
    }

    /// Wires each range as a call of its own would, in order, and returns what came of each. The host is asked for all of them
    /// together if it can be.
    pub fn wire_each(&self, ranges: &[RamRange]) -> Vec<Result<(), PinError>> {
        if ranges.len() > 1 && self.method.is_batched() && self.try_wire_all(ranges).is_ok() {
            return ranges.iter().map(|_| Ok(())).collect();
        }
        ranges.iter().map(|range| self.wire(*range)).collect()
    }

    /// Unwires each range as a call of its own would, in order, and returns what came of each. The host is asked for all of them
    /// together if it can be.
    pub fn unwire_each(&self, ranges: &[RamRange]) -> Vec<Result<(), PinError>> {
        if ranges.len() > 1 && self.unwire_all(ranges).is_ok() {
            return ranges.iter().map(|_| Ok(())).collect();
        }
        ranges.iter().map(|range| self.unwire(*range)).collect()
    }

    fn try_wire_all(&self, ranges: &[RamRange]) -> Result<(), PinError> {
        let runs = self.check_inside(ranges)?;
        let mut state = self.wait_for(self.retry_deferred(self.state()), &runs);
        let edges = state.count_up(ranges)?;
        if edges.is_empty() {
            self.publish(&state);
            return Ok(());
        }
        let locking = match state.begin_locking(edges) {
            Ok(locking) => locking,
            Err(error) => {
                state.count_down(ranges)?;
                self.publish(&state);
                return Err(error);
            }
        };
        let claim = self.claim(&mut state, runs.into(), Arc::clone(&locking.runs), 0);
        self.publish(&state);
        drop(state);
        let result = self.lock_all(&locking);
        // Locked first and looked at then: a failure that comes later finds the pages in memory.
        let doubtful = result.is_ok() && self.watch.has_failed();
        let mut state = self.state();
        let result = match result {
            Ok(()) => {
                state.lock_calls += locking.runs.len() as u64;
                state.end_locking(&locking, doubtful);
                Ok(())
            }
            Err(Undone { error, touched, stuck }) => {
                state.lock_calls += touched as u64;
                state.unlock_calls += touched as u64;
                state.undo_locking(&locking, touched, &stuck);
                state.count_down(ranges)?;
                Err(error)
            }
        };
        claim.end(&mut state);
        self.publish(&state);
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
        let runs = self.check_inside(ranges)?;
        let mut state = self.wait_for(self.retry_deferred(self.state()), &runs);
        let mut runs = state.count_down(ranges)?;
        if !state.doubtful.is_empty() {
            runs.iter().for_each(|run| state.doubtful.remove(*run));
        }
        if !state.deferred.is_empty() {
            // Older deferred pages beside them go in the same call.
            runs.iter().for_each(|run| state.deferred.insert(*run));
            runs = runs.iter().filter_map(|run| state.deferred.holding(run.first())).collect();
            runs.dedup();
        }
        state = self.release(state, runs, false);
        self.publish(&state);
        Ok(())
    }

    /// Forgets all wire counts and unlocks everything, as when the machine resets or ends. Waits for calls that are at work.
    ///
    /// What the host does not unlock is deferred.
    pub fn release_all(&self) {
        let all = PageRun::new(0, self.ram_pages);
        let mut state = self.wait_for(self.state(), all.as_slice());
        state.forget();
        if let Some(all) = all
            && !state.locked.is_empty()
        {
            // One call for everything removes map entries and never needs more.
            state.begin_unlocking_all();
            let claim = self.claim(&mut state, [all].into(), [all].into(), 0);
            self.publish(&state);
            drop(state);
            let is_unlocked = self.unlock(&[all]).is_empty();
            state = self.state();
            state.end_unlocking_all(is_unlocked);
            claim.end(&mut state);
        }
        let runs = state.deferred.to_runs();
        state = self.release(state, runs, true);
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
    /// Calls about these pages wait meanwhile. Pages that nobody wires but the host still holds locked don't count.
    pub fn while_unwired<T>(&self, range: RamRange, act: impl FnOnce() -> T) -> Option<T> {
        let run = range.into();
        let mut state = self.wait_for(self.state(), &[run]);
        // Locked pages that no call is at work on are those that are wired and those that are deferred, and none is both.
        if state.locked.overlap_pages(run) > state.deferred.overlap_pages(run) {
            return None;
        }
        let claim = self.claim(&mut state, [run].into(), [].into(), 0);
        drop(state);
        let result = act();
        claim.end(&mut self.state());
        Some(result)
    }

    /// Returns how often a page is wired.
    #[must_use]
    pub fn count(&self, page: u64) -> u32 {
        self.state().ledger.count(page)
    }

    /// Returns what the service holds and has done, including what calls have taken that are at work. Doesn't wait.
    #[must_use]
    pub fn stats(&self) -> PinStats {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = state.stats();
    }

    /// Returns the ranges, joined.
    fn check_inside(&self, ranges: &[RamRange]) -> Result<Vec<PageRun>, PinError> {
        match ranges.iter().find(|range| range.end() > self.ram_pages) {
            Some(range) => Err(PinError::Outside { range: *range, ram_pages: self.ram_pages }),
            None => Ok(PageRun::join(ranges.iter().map(|range| PageRun::from(*range)).collect())),
        }
    }

    /// Waits until no call is at work on any of the runs.
    fn wait_for<'a>(&'a self, state: MutexGuard<'a, State>, runs: &[PageRun]) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_while(state, |state| runs.iter().any(|run| state.claims.is_busy(*run)));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes pages that no call is at work on, until the claim ends; of them, the host is asked about those that are `unsure`, whose
    /// unlocking adds so many locked runs.
    fn claim(&self, state: &mut State, runs: Arc<[PageRun]>, unsure: Arc<[PageRun]>, splits: u64) -> Claim<'_> {
        Claim { service: self, id: Some(state.claims.begin(runs, unsure, splits)) }
    }

    /// Tells of a refusal that is not the guest's own doing.
    fn refused(&self, error: PinError) -> PinError {
        if error.status() != wirevm_abi::Status::QUOTA
            && let Some(number) = self.refusals.count()
        {
            log::warn!("wire refused ({number} times so far): {}", with_sources(&error));
        }
        error
    }

    /// Locks runs in order. On error, unlocks every run that was touched: exactly the pages that were not wired
    /// before, the one that failed included, since nobody knows what a failed lock has left (H2).
    fn lock_all(&self, locking: &Locking) -> Result<(), Undone> {
        let Err(LockFailure { index, source }) = self.method.lock(&locking.runs) else { return Ok(()) };
        let touched = locking.runs.get(..=index).unwrap_or(&locking.runs);
        let (before, failed) = touched.split_at(touched.len().saturating_sub(1));
        let locked_pages = locking.locked_pages + before.iter().map(|run| run.pages()).sum::<u64>();
        let asked_pages = failed.iter().map(|run| run.pages()).sum();
        let error = sort_error(asked_pages, locked_pages, source);
        Err(Undone { error, touched: touched.len(), stuck: self.unlock(touched) })
    }

    /// Tries some deferred runs, going round.
    fn retry_deferred<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.deferred.is_empty() {
            return state;
        }
        let tries = usize::try_from(state.deferred.runs()).unwrap_or(RETRIES).min(RETRIES);
        let mut runs = Vec::with_capacity(tries);
        for _ in 0..tries {
            let next = state.deferred.next_from(state.retry_from).or_else(|| state.deferred.next_from(0));
            let Some(run) = next else { break };
            state.retry_from = run.end();
            runs.push(run);
        }
        self.release(state, runs, false)
    }

    /// Unlocks runs that nobody wires together, but for those that would split a locked one past the budget; `forced` ignores that.
    /// Those stay for later, as does one that a call is at work on. The state is not locked meanwhile.
    fn release<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut runs: Vec<PageRun>,
        forced: bool,
    ) -> MutexGuard<'a, State> {
        while !runs.is_empty() {
            let (mut now, mut later) = (Vec::with_capacity(runs.len()), Vec::new());
            let splits_before = state.splits_under_way;
            for run in runs {
                if state.claims.is_busy(run) {
                    state.deferred.insert(run);
                } else if !forced && state.splits_too_much(run) {
                    state.deferred.insert(run);
                    later.push(run);
                } else {
                    state.begin_unlocking(run);
                    now.push(run);
                }
            }
            if now.is_empty() {
                self.tell_of_splits(&later);
                break;
            }
            let splits = state.splits_under_way - splits_before;
            now.sort_unstable();
            let now: Arc<[PageRun]> = now.into();
            let claim = self.claim(&mut state, Arc::clone(&now), Arc::clone(&now), splits);
            self.publish(&state);
            drop(state);
            let stuck = self.unlock(&now);
            state = self.state();
            state.end_unlocking(&now, &stuck, splits);
            claim.end(&mut state);
            self.publish(&state);
            // There may be room for them now. Another call may have come first, for a part of them as well.
            runs = later.into_iter().flat_map(|run| state.deferred.parts_in(run).collect::<Vec<_>>()).collect();
        }
        state
    }

    fn tell_of_splits(&self, runs: &[PageRun]) {
        if let Some(run) = runs.first()
            && let Some(number) = self.deferrals.count()
        {
            log::warn!("host map fragmentation: pages {run} stay locked for now ({number} times so far)");
        }
    }

    /// Asks the host to unlock runs; returns those that it has not.
    fn unlock(&self, runs: &[PageRun]) -> Vec<PageRun> {
        let failed = self.method.unlock(runs);
        if let Some((run, error)) = failed.first()
            && let Some(number) = self.deferrals.count()
        {
            log::warn!("pages {run} stay locked for now ({number} times so far): {error}");
        }
        failed.into_iter().map(|(run, _)| run).collect()
    }
}

/// Locks that failed and were undone.
struct Undone {
    error: PinError,
    /// How many runs the host was asked to lock, and to unlock again.
    touched: usize,
    /// Those of them that it has not unlocked.
    stuck: Vec<PageRun>,
}

impl Drop for PinService {
    fn drop(&mut self) {
        self.release_all();
    }
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

fn sort_error(asked_pages: u64, locked_pages: u64, source: PinMethodError) -> PinError {
    let (PinMethodError::Populate { source: cause, .. } | PinMethodError::Lock { source: cause, .. }) = &source;
    match limit::refusal(cause) {
        Refusal::Shortage => PinError::Shortage { limits: limit::describe(asked_pages, locked_pages), source },
        Refusal::Fault => PinError::Fault { source },
    }
}
