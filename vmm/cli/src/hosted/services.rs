//! The host's services as a guest meets them behind the doorbell.

use std::sync::Arc;

use wirevm_abi::{RamRange, Status};
use wirevm_devices::pin::PinService;
use wirevm_devices::sync::{SyncService, Wait};
use wirevm_map::FrameRun;

use crate::in_process::HostServices;

/// Pins and syncs of one RAM.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) pins: Arc<PinService>,
    pub(super) syncs: Arc<SyncService>,
    pub(super) ram_pages: u64,
}

impl Services {
    fn range(&self, run: FrameRun) -> Result<RamRange, Status> {
        RamRange::new(run.first, run.pages, self.ram_pages)
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

    fn sync(&self, runs: &[FrameRun], wait: Wait) -> Vec<Status> {
        let ranges: Result<Vec<RamRange>, Status> = runs.iter().map(|run| self.range(*run)).collect();
        match ranges {
            Ok(ranges) => self.syncs.submit(&ranges, wait),
            Err(status) => vec![status; runs.len()],
        }
    }

    fn offers_sync(&self) -> bool {
        self.syncs.is_supported()
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
