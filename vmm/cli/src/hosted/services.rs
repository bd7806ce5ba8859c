//! The host's services as a guest meets them behind the doorbell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::request::DataRun;
use wirevm_abi::{RamRange, Status, StoreName, stat};
use wirevm_devices::pin::PinService;
use wirevm_devices::ramfile::RamDiscard;
use wirevm_devices::store::{Done, StoreService};
use wirevm_devices::sync::{RangeResult, SyncService};
use wirevm_map::{FrameRun, StoreKind};

use crate::in_process::{Answer, HostServices, StoreRequest};

/// Pins, syncs and stores of one RAM.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) pins: Arc<PinService>,
    pub(super) syncs: Arc<SyncService>,
    pub(super) stores: Arc<StoreService>,
    /// None where RAM is a file.
    pub(super) discard: Option<RamDiscard>,
    pub(super) discarded_pages: AtomicU64,
    pub(super) ram_pages: u64,
}

impl Services {
    fn range(&self, run: FrameRun) -> Result<RamRange, Status> {
        RamRange::new(run.first, run.pages, self.ram_pages)
    }

    fn data(&self, store: u16, first: u64, frames: FrameRun) -> Result<DataRun, Status> {
        Ok(DataRun { store, ram: self.range(frames)?, first, token: 0 })
    }
}

impl HostServices for Services {
    fn wire(&self, run: FrameRun) -> Status {
        match self.range(run) {
            Ok(range) => self.pins.wire(range).map_or_else(|error| error.status(), |()| Status::OK),
            Err(status) => status,
        }
    }

    fn unwire(&self, run: FrameRun) -> Status {
        match self.range(run) {
            Ok(range) => self.pins.unwire(range).map_or_else(|error| error.status(), |()| Status::OK),
            Err(status) => status,
        }
    }

    fn sync(&self, runs: &[FrameRun], answer: Answer) -> Result<(), Status> {
        let ranges: Vec<RamRange> = runs.iter().map(|run| self.range(*run)).collect::<Result<_, _>>()?;
        let give = move |results: Vec<RangeResult>| answer.give(results.iter().map(|result| result.status).collect());
        self.syncs.submit(&ranges, Box::new(give))
    }

    fn offers_sync(&self) -> bool {
        self.syncs.is_supported()
    }

    fn open_store(&self, name: StoreName, pages: u64, kind: StoreKind) -> Result<u16, Status> {
        self.stores.open(name, pages, kind == StoreKind::Exclusive).map_err(|error| error.status())
    }

    fn close_store(&self, store: u16) -> Status {
        self.stores.close(store)
    }

    fn about_store(&self, store: u16, request: StoreRequest, answer: Answer) -> Result<(), Status> {
        let done: Done = Box::new(move |status, _| answer.give(vec![status]));
        let status = match request {
            StoreRequest::Request { first, frames } => self.stores.data_request(self.data(store, first, frames)?, done),
            StoreRequest::Return { first, frames } => self.stores.data_return(self.data(store, first, frames)?, done),
            StoreRequest::Synchronize(pages) => self.stores.synchronize(store, pages.start, pages.len(), done),
        };
        if status == Status::PENDING { Ok(()) } else { Err(status) }
    }

    fn stat(&self, selector: u64) -> Result<u64, Status> {
        let (pins, syncs, stores) = (self.pins.stats(), self.syncs.stats(), self.stores.stats());
        let storage_error = || self.syncs.latched().map(|error| error.errno).or(stores.storage_error);
        Ok(match selector {
            stat::WIRED_PAGES => pins.wired_pages,
            stat::WIRE_QUOTA_PAGES => pins.quota_pages,
            stat::LOCKED_PAGES => pins.wired_pages + pins.deferred_pages,
            stat::SYNC_REQUESTS => syncs.requests,
            stat::SYNC_FLUSHES => syncs.flushes,
            stat::SYNC_PAGES => syncs.pages,
            stat::STORAGE_ERROR => u64::from(storage_error().unwrap_or(0).unsigned_abs()),
            stat::OPEN_STORES => stores.open_stores,
            stat::STORE_PAGES_IN => stores.pages_in,
            stat::STORE_PAGES_OUT => stores.pages_out,
            stat::DISCARDED_PAGES => self.discarded_pages.load(Ordering::Relaxed),
            _ => return Err(Status::INVALID_ARGUMENT),
        })
    }

    fn discard(&self, run: FrameRun) -> Status {
        let (Some(discard), Ok(range)) = (&self.discard, self.range(run)) else { return Status::UNSUPPORTED };
        match self.pins.while_unwired(range, || discard.discard(range)) {
            None => Status::BUSY,
            Some(Ok(())) => {
                self.discarded_pages.fetch_add(run.pages, Ordering::Relaxed);
                Status::OK
            }
            Some(Err(error)) => {
                log::warn!("pages {range} cannot be given back: {error}");
                Status::RESOURCE_SHORTAGE
            }
        }
    }

    fn check(&self, wired: Option<&[FrameRun]>) -> Result<(), String> {
        let Some(wired) = wired else { return Ok(()) };
        let (asked, pinned): (u64, u64) = (wired.iter().map(|run| run.pages).sum(), self.pins.stats().wired_pages);
        let mut frames = wired.iter().flat_map(|run| run.first..run.end());
        if let Some(frame) = frames.find(|frame| self.pins.count(*frame) != 1) {
            let count = self.pins.count(frame);
            return Err(format!("the host counts {count} wirings of frame {frame}, which the guest has wired once"));
        }
        if asked == pinned { Ok(()) } else { Err(format!("the host has wired {pinned} pages, the guest {asked}")) }
    }
}
