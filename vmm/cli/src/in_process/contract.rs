//! The guest's end of the contract without a call page: what the guest kernel's hypercall client does, by function call.

#[cfg(test)]
mod test;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use wirevm_abi::call::MAX_ENTRIES;
use wirevm_abi::op::MAX_DATA_PAGES;
use wirevm_abi::{Status, StoreName, stat};
use wirevm_agent::host_error_of;
use wirevm_map::{FrameRun, Host, HostError, PageRange, StoreId, StoreKind, StoreRun, SyncRun};

use super::requests::{Answer, Requests};

/// The host's end of the contract. What takes a while is accepted and answered later, by whatever thread.
pub trait HostServices: fmt::Debug + Send + Sync + 'static {
    /// Carries a `WIRE` entry out.
    fn wire(&self, run: FrameRun) -> Status;

    /// Carries an `UNWIRE` entry out.
    fn unwire(&self, run: FrameRun) -> Status;

    /// Accepts `SYNC` entries as one request, which is answered with as many statuses as runs.
    ///
    /// # Errors
    /// The status of all of them when they are not accepted: nothing is begun then.
    fn sync(&self, runs: &[FrameRun], answer: Answer) -> Result<(), Status>;

    /// Tells whether there is stable storage behind RAM.
    fn offers_sync(&self) -> bool;

    /// Carries an `OPEN_STORE` entry out; returns the store's number.
    ///
    /// # Errors
    /// The entry's status.
    fn open_store(&self, name: StoreName, pages: u64, kind: StoreKind) -> Result<u16, Status>;

    /// Carries a `CLOSE_STORE` entry out.
    fn close_store(&self, store: u16) -> Status;

    /// Accepts an entry about a store, which is answered with one status.
    ///
    /// # Errors
    /// Its status when it is not accepted: nothing is begun then.
    fn about_store(&self, store: u16, request: StoreRequest, answer: Answer) -> Result<(), Status>;

    /// Carries a `STAT` entry out, but for those about calls and completions, which nobody counts here.
    ///
    /// # Errors
    /// The entry's status.
    fn stat(&self, selector: u64) -> Result<u64, Status>;

    /// Carries a `DISCARD` entry out.
    fn discard(&self, run: FrameRun) -> Status;

    /// Checks the host's own books. `wired` are the frames that the memory system keeps wired, ascending; it is missing
    /// while an operation is under way, which may have asked for more or for less already.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    fn check(&self, wired: Option<&[FrameRun]>) -> Result<(), String>;
}

/// What can be asked about an open store. Pages are the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// `DATA_REQUEST`.
    Request {
        /// The first page.
        first: u64,
        /// What to fill.
        frames: FrameRun,
    },
    /// `DATA_RETURN`.
    Return {
        /// The first page.
        first: u64,
        /// What to take.
        frames: FrameRun,
    },
    /// `SYNCHRONIZE`.
    Synchronize(PageRange),
}

/// A host as the map sees it.
#[derive(Debug)]
pub struct ServiceHost<S> {
    services: S,
    requests: Requests,
    /// Whether storage has failed: from then on no sync is promised.
    poisoned: AtomicBool,
}

impl<S: HostServices> ServiceHost<S> {
    /// Puts the map's view on services.
    pub fn new(services: S) -> Self {
        Self { services, requests: Requests::default(), poisoned: AtomicBool::new(false) }
    }

    /// Returns the services.
    pub const fn services(&self) -> &S {
        &self.services
    }

    /// Makes requests about a store, and returns their statuses.
    async fn about_store(&self, store: StoreId, requests: &[StoreRequest]) -> Vec<Status> {
        let entries = vec![1; requests.len()];
        let begin = |index: usize, answer| match requests.get(index) {
            Some(request) => self.services.about_store(store.0, *request, answer),
            None => Err(Status::NOT_DONE),
        };
        self.requests.carry_out(&entries, begin).await
    }

    /// Wires one call's worth of runs, or none of them. As in a call, an entry that is refused keeps no other from being
    /// carried out; those that were are undone, and the first refusal is told.
    fn wire_call(&self, call: &[FrameRun]) -> Result<(), HostError> {
        let mut wired = Vec::with_capacity(call.len());
        let mut refused = None;
        for run in call {
            match self.services.wire(*run) {
                Status::OK => wired.push(*run),
                status => refused = refused.or(Some(status)),
            }
        }
        let Some(status) = refused else { return Ok(()) };
        self.unwire_all(&wired);
        Err(host_error_of(status))
    }

    fn unwire_all(&self, runs: &[FrameRun]) {
        for run in runs {
            let status = self.services.unwire(*run);
            assert!(status == Status::OK, "the host refused to unwire {run:?}: {status}");
        }
    }
}

/// Returns the result that a status is to the map.
const fn result_of(status: Status) -> Result<(), HostError> {
    match status {
        Status::OK => Ok(()),
        status => Err(host_error_of(status)),
    }
}

/// Cuts a run of frames, and the store's pages that it is for, into pieces of an entry's size.
fn pieces(first: u64, frames: FrameRun) -> impl Iterator<Item = (u64, FrameRun)> {
    let starts = (0..frames.pages).step_by(usize::try_from(MAX_DATA_PAGES).unwrap_or(usize::MAX));
    starts.map(move |skipped| {
        let pages = MAX_DATA_PAGES.min(frames.pages - skipped);
        (first.saturating_add(skipped), FrameRun::new(frames.first + skipped, pages))
    })
}

impl<S: HostServices> Host for ServiceHost<S> {
    async fn wire(&self, runs: &[FrameRun]) -> Result<(), HostError> {
        for (index, call) in runs.chunks(MAX_ENTRIES).enumerate() {
            if let Err(error) = self.wire_call(call) {
                self.unwire_all(runs.get(..index * MAX_ENTRIES).unwrap_or(&[]));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn unwire(&self, runs: &[FrameRun]) {
        self.unwire_all(runs);
    }

    fn refuses_sync(&self) -> Option<HostError> {
        if !self.services.offers_sync() {
            return Some(HostError::Unsupported);
        }
        self.poisoned.load(Ordering::Acquire).then_some(HostError::Poisoned)
    }

    async fn sync(&self, runs: &mut [SyncRun]) {
        let calls: Vec<Vec<FrameRun>> =
            runs.chunks(MAX_ENTRIES).map(|call| call.iter().map(|item| item.run).collect()).collect();
        let entries: Vec<usize> = calls.iter().map(Vec::len).collect();
        let begin = |index: usize, answer| match calls.get(index) {
            Some(call) => self.services.sync(call, answer),
            None => Err(Status::NOT_DONE),
        };
        let statuses = self.requests.carry_out(&entries, begin).await;
        for (item, status) in runs.iter_mut().zip(statuses) {
            if matches!(status, Status::IO_ERROR | Status::POISONED) {
                self.poisoned.store(true, Ordering::Release);
            }
            item.result = result_of(status);
        }
    }

    fn outstanding(&self) -> u64 {
        self.requests.outstanding()
    }

    fn answered(&self) -> u64 {
        self.requests.answered()
    }

    fn open_store(&self, name: &str, pages: u64, kind: StoreKind) -> Result<StoreId, HostError> {
        let name = StoreName::new(name).map_err(|_| HostError::Rejected)?;
        self.services.open_store(name, pages, kind).map(StoreId).map_err(host_error_of)
    }

    fn close_store(&self, store: StoreId) {
        let status = self.services.close_store(store.0);
        assert!(status == Status::OK, "the host refused to close {store:?}: {status}");
    }

    async fn data_request(&self, store: StoreId, first: u64, frames: FrameRun) -> Result<(), HostError> {
        let requests: Vec<StoreRequest> =
            pieces(first, frames).map(|(first, frames)| StoreRequest::Request { first, frames }).collect();
        self.about_store(store, &requests).await.into_iter().try_for_each(result_of)
    }

    async fn data_return(&self, store: StoreId, runs: &mut [StoreRun]) {
        let mut requests = Vec::new();
        let mut counts = Vec::new();
        for run in runs.iter() {
            let before = requests.len();
            requests
                .extend(pieces(run.first, run.frames).map(|(first, frames)| StoreRequest::Return { first, frames }));
            counts.push(requests.len() - before);
        }
        let mut statuses = self.about_store(store, &requests).await.into_iter();
        for (run, count) in runs.iter_mut().zip(counts) {
            let pieces: Vec<Status> = statuses.by_ref().take(count).collect();
            run.result = pieces.into_iter().try_for_each(result_of);
        }
    }

    async fn synchronize(&self, store: StoreId, pages: PageRange) -> Result<(), HostError> {
        self.about_store(store, &[StoreRequest::Synchronize(pages)]).await.into_iter().try_for_each(result_of)
    }

    fn stat(&self, selector: u64) -> Result<u64, HostError> {
        match selector {
            stat::BUSY_ANSWERS => Ok(self.requests.busy()),
            stat::COMPLETIONS => Ok(self.requests.completions()),
            selector => self.services.stat(selector).map_err(host_error_of),
        }
    }

    fn discard(&self, run: FrameRun) -> Result<(), HostError> {
        result_of(self.services.discard(run))
    }
}
