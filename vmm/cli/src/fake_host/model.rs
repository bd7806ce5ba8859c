//! The model's end of the contract.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirevm_abi::{Status, StoreName, stat};
use wirevm_devices::faults::HostFaults;
use wirevm_devices::pin::lock_error_status;
use wirevm_devices::sync::{During, LatchedError};
use wirevm_map::fake::{FakeHost, block_on};
use wirevm_map::{FrameRun, Host, HostError, StoreId, StoreKind, StoreRun, SyncRun};

use super::ram::ModelRam;
use crate::in_process::{Answer, HostServices, StoreRequest};

/// Stores that may be open at once; as many as on a real host.
const MAX_STORES: u64 = 16;

/// What a model is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelConfig {
    /// Pages that may be kept wired.
    pub(super) wire_quota_pages: u64,
    /// Whether there is storage to sync to.
    pub(super) durable: bool,
    /// Pages that all open stores may have together; no stores if `None`.
    pub(super) store_quota_pages: Option<u64>,
}

/// A ledger of wired frames with a quota, orders for failures, and storage that is a list.
///
/// Storage is carried out at once, or when it is let go. A sync that fails writes nothing and leaves its frames as dirty as they
/// were, and nothing that was stored is lost: so it shows what a guest may rely on. A real kernel takes such pages for clean.
#[derive(Debug)]
pub(super) struct Model {
    ledger: Arc<FakeHost>,
    ram: Arc<ModelRam>,
    lock_faults: HostFaults,
    storage: Arc<Storage>,
    config: ModelConfig,
}

/// What storage was told, has done, and keeps back.
#[derive(Debug)]
pub(super) struct Storage {
    ledger: Arc<FakeHost>,
    ram: Arc<ModelRam>,
    faults: HostFaults,
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    /// What was accepted while storage was held, in order.
    held: Vec<(Job, Answer)>,
    latched: Option<LatchedError>,
    /// Open stores, and how many pages each has.
    open: Vec<(StoreId, u64)>,
}

#[derive(Debug, Default)]
struct Counts {
    sync_requests: AtomicU64,
    sync_flushes: AtomicU64,
    sync_pages: AtomicU64,
    pages_in: AtomicU64,
    pages_out: AtomicU64,
    discarded: AtomicU64,
}

/// A request that was accepted.
#[derive(Clone, Debug)]
enum Job {
    Sync(Vec<FrameRun>),
    Store(StoreId, StoreRequest),
}

impl Storage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one flush of storage fail.
    pub(super) fn fail_nth(&self, nth: NonZero<u64>, errno: i32) {
        self.faults.fail_nth(nth, errno);
    }

    /// Keeps back what storage is asked for from now on, or carries it out.
    pub(super) fn hold(&self, hold: bool) {
        let held = {
            let mut state = self.state();
            state.is_held = hold;
            if hold { Vec::new() } else { std::mem::take(&mut state.held) }
        };
        for (job, answer) in held {
            answer.give(self.carry_out(&job));
        }
    }

    /// Returns the first failure.
    pub(super) fn latched(&self) -> Option<LatchedError> {
        self.state().latched
    }

    fn accept(&self, job: Job, answer: Answer) {
        {
            let mut state = self.state();
            if state.is_held {
                return state.held.push((job, answer));
            }
        }
        answer.give(self.carry_out(&job));
    }

    fn carry_out(&self, job: &Job) -> Vec<Status> {
        match job {
            Job::Sync(runs) => self.sync(runs),
            Job::Store(store, request) => vec![self.about_store(*store, *request)],
        }
    }

    /// Makes all runs stable, by one flush; or, once storage has failed, those of which every frame is wired.
    fn sync(&self, runs: &[FrameRun]) -> Vec<Status> {
        let mut failed = Status::POISONED;
        if self.latched().is_none() {
            self.counts.sync_flushes.fetch_add(1, Ordering::Relaxed);
            match self.faults.strike() {
                Ok(()) => return runs.iter().map(|run| self.persist(*run)).collect(),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    let first_page = if let [run] = runs { Some(run.first) } else { None };
                    let error = LatchedError { errno, first_page, during: During::Sync, nothing_reverted: false };
                    self.state().latched = Some(error);
                    failed = Status::IO_ERROR;
                }
            }
        }
        let wired = self.ledger.wired();
        let is_wired = |run: &FrameRun| wired.iter().any(|wired| wired.first <= run.first && run.end() <= wired.end());
        let repair = |run: &FrameRun| is_wired(run) && self.faults.strike().is_ok();
        runs.iter().map(|run| if repair(run) { self.persist(*run) } else { failed }).collect()
    }

    fn persist(&self, run: FrameRun) -> Status {
        let mut items = [SyncRun { run, result: Err(HostError::Rejected) }];
        block_on(self.ledger.sync(&mut items));
        let [SyncRun { result, .. }] = items;
        if result.is_ok() {
            self.ram.unmark(run);
        }
        status_of(result)
    }

    fn about_store(&self, store: StoreId, request: StoreRequest) -> Status {
        match request {
            StoreRequest::Request { first, frames } => {
                let result = block_on(self.ledger.data_request(store, first, frames));
                if result.is_ok() {
                    self.ram.mark(frames);
                    self.counts.pages_in.fetch_add(frames.pages, Ordering::Relaxed);
                }
                status_of(result)
            }
            StoreRequest::Return { first, frames } => {
                let mut runs = [StoreRun { first, frames, result: Err(HostError::Rejected) }];
                block_on(self.ledger.data_return(store, &mut runs));
                let [StoreRun { result, .. }] = runs;
                if result.is_ok() {
                    self.counts.pages_out.fetch_add(frames.pages, Ordering::Relaxed);
                }
                status_of(result)
            }
            StoreRequest::Synchronize(pages) => {
                if self.faults.strike().is_err() {
                    self.ledger.fail_store(0, HostError::Io);
                }
                status_of(block_on(self.ledger.synchronize(store, pages)))
            }
        }
    }
}

impl Model {
    /// Makes a host over a RAM.
    pub(super) fn new(ram: Arc<ModelRam>, lock_faults: HostFaults, config: ModelConfig) -> Self {
        let ledger = Arc::new(FakeHost::new(Arc::clone(ram.bytes())));
        ledger.set_quota(config.wire_quota_pages);
        let storage = Storage {
            ledger: Arc::clone(&ledger),
            ram: Arc::clone(&ram),
            faults: HostFaults::default(),
            state: Mutex::default(),
            counts: Counts::default(),
        };
        Self { ledger, ram, lock_faults, storage: Arc::new(storage), config }
    }

    /// Returns the ledger, for questions.
    pub(super) fn ledger(&self) -> Arc<FakeHost> {
        Arc::clone(&self.ledger)
    }

    /// Returns the storage, for orders.
    pub(super) fn storage(&self) -> Arc<Storage> {
        Arc::clone(&self.storage)
    }
}

/// Returns how many frames a ledger has wired.
pub(super) fn wired_pages(ledger: &FakeHost) -> u64 {
    ledger.wired().iter().map(|run| run.pages).sum()
}

const fn status_of(result: Result<(), HostError>) -> Status {
    match result {
        Ok(()) => Status::OK,
        Err(HostError::Rejected) => Status::INVALID_ARGUMENT,
        Err(HostError::Shortage) => Status::RESOURCE_SHORTAGE,
        Err(HostError::Quota) => Status::QUOTA,
        Err(HostError::Io) => Status::IO_ERROR,
        Err(HostError::Poisoned) => Status::POISONED,
        Err(HostError::Unsupported) => Status::UNSUPPORTED,
        Err(HostError::Busy) => Status::BUSY,
    }
}

impl HostServices for Model {
    fn wire(&self, run: FrameRun) -> Status {
        // As with a real host, what the quota refuses never comes to a lock.
        if wired_pages(&self.ledger) + run.pages > self.config.wire_quota_pages {
            return Status::QUOTA;
        }
        if let Err(error) = self.lock_faults.strike() {
            return lock_error_status(&error);
        }
        status_of(block_on(self.ledger.wire(&[run])))
    }

    fn unwire(&self, run: FrameRun) -> Status {
        block_on(self.ledger.unwire(&[run]));
        Status::OK
    }

    fn sync(&self, runs: &[FrameRun], answer: Answer) -> Result<(), Status> {
        if !self.config.durable {
            return Err(Status::UNSUPPORTED);
        }
        let pages = runs.iter().map(|run| run.pages).sum();
        self.storage.counts.sync_requests.fetch_add(1, Ordering::Relaxed);
        self.storage.counts.sync_pages.fetch_add(pages, Ordering::Relaxed);
        self.storage.accept(Job::Sync(runs.to_vec()), answer);
        Ok(())
    }

    fn offers_sync(&self) -> bool {
        self.config.durable
    }

    /// A store is there for as long as the host is, whatever becomes of the objects in front of it.
    fn open_store(&self, name: StoreName, pages: u64, kind: StoreKind) -> Result<u16, Status> {
        let quota = self.config.store_quota_pages.ok_or(Status::UNSUPPORTED)?;
        let mut state = self.storage.state();
        let size = pages.max(self.ledger.store_pages(name.as_str()));
        let taken: u64 = state.open.iter().map(|(_, pages)| pages).sum();
        if self.ledger.is_store_open(name.as_str()) {
            return Err(Status::BUSY);
        }
        if state.open.len() as u64 >= MAX_STORES || taken.saturating_add(size) > quota {
            return Err(Status::QUOTA);
        }
        let store = self.ledger.open_store(name.as_str(), pages, kind).map_err(|error| status_of(Err(error)))?;
        state.open.push((store, size));
        Ok(store.0)
    }

    fn close_store(&self, store: u16) -> Status {
        let mut state = self.storage.state();
        let is_about = |job: &Job| matches!(job, Job::Store(of, _) if of.0 == store);
        if state.held.iter().any(|(job, _)| is_about(job)) {
            return Status::BUSY;
        }
        let before = state.open.len();
        state.open.retain(|(open, _)| open.0 != store);
        if state.open.len() == before {
            return Status::INVALID_ARGUMENT;
        }
        self.ledger.close_store(StoreId(store));
        Status::OK
    }

    fn about_store(&self, store: u16, request: StoreRequest, answer: Answer) -> Result<(), Status> {
        if !self.storage.state().open.iter().any(|(open, _)| open.0 == store) {
            return Err(Status::INVALID_ARGUMENT);
        }
        self.storage.accept(Job::Store(StoreId(store), request), answer);
        Ok(())
    }

    fn stat(&self, selector: u64) -> Result<u64, Status> {
        let counts = &self.storage.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(match selector {
            stat::WIRED_PAGES | stat::LOCKED_PAGES => wired_pages(&self.ledger),
            stat::WIRE_QUOTA_PAGES => self.config.wire_quota_pages,
            stat::SYNC_REQUESTS => count(&counts.sync_requests),
            stat::SYNC_FLUSHES => count(&counts.sync_flushes),
            stat::SYNC_PAGES => count(&counts.sync_pages),
            stat::STORAGE_ERROR => self.storage.latched().map_or(0, |error| u64::from(error.errno.unsigned_abs())),
            stat::OPEN_STORES => self.storage.state().open.len() as u64,
            stat::STORE_PAGES_IN => count(&counts.pages_in),
            stat::STORE_PAGES_OUT => count(&counts.pages_out),
            stat::DISCARDED_PAGES => count(&counts.discarded),
            _ => return Err(Status::INVALID_ARGUMENT),
        })
    }

    /// As on a real host, RAM that is a file keeps its pages.
    fn discard(&self, run: FrameRun) -> Status {
        if self.config.durable {
            return Status::UNSUPPORTED;
        }
        let result = self.ledger.discard(run);
        if result.is_ok() {
            self.ram.unmark(run);
            self.storage.counts.discarded.fetch_add(run.pages, Ordering::Relaxed);
        }
        status_of(result)
    }

    fn check(&self, wired: Option<&[FrameRun]>) -> Result<(), String> {
        // Nobody reads the log; it must not grow for ever.
        drop(self.ledger.take_log());
        if let Some(violation) = self.ledger.violations().first() {
            return Err(format!("the host's contract was broken: {violation}"));
        }
        let (Some(wired), ledger) = (wired, self.ledger.wired()) else { return Ok(()) };
        let frames = |runs: &[FrameRun]| runs.iter().flat_map(|run| run.first..run.end()).collect::<Vec<_>>();
        if frames(wired) == frames(&ledger) {
            Ok(())
        } else {
            Err(format!("the host has wired {ledger:?}, the guest {wired:?}"))
        }
    }
}

#[cfg(test)]
mod test;
