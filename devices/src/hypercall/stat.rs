//! `STAT` and `DISCARD`.

use std::sync::atomic::Ordering;

use wirevm_abi::{RamRange, Status, feature, stat};

use super::Hypercall;

impl Hypercall {
    /// Returns the feature bits of what is not about syncing.
    pub(super) fn more_features(&self) -> u64 {
        let stores = if self.has_stores() { feature::STORES } else { 0 };
        let discard = if self.config.discard.is_some() { feature::DISCARD } else { 0 };
        stores | discard
    }

    /// Returns the number that a selector stands for.
    pub(super) fn stat(&self, selector: u64) -> Result<u64, Status> {
        let (pins, syncs, stores) = (self.config.pins.stats(), self.config.syncs.stats(), self.config.stores.stats());
        let storage_error = || self.config.syncs.latched().map(|error| error.errno).or(stores.storage_error);
        Ok(match selector {
            stat::WIRED_PAGES => pins.wired_pages,
            stat::WIRE_QUOTA_PAGES => pins.quota_pages,
            stat::LOCKED_PAGES => pins.wired_pages + pins.deferred_pages,
            stat::SYNC_REQUESTS => syncs.requests,
            stat::SYNC_FLUSHES => syncs.flushes,
            stat::SYNC_PAGES => syncs.pages,
            stat::BUSY_ANSWERS => self.busy.load(Ordering::Relaxed),
            stat::COMPLETIONS => self.config.completions.as_ref().map_or(0, |ring| ring.stats().posted),
            stat::STORAGE_ERROR => u64::from(storage_error().unwrap_or(0).unsigned_abs()),
            stat::OPEN_STORES => stores.open_stores,
            stat::STORE_PAGES_IN => stores.pages_in,
            stat::STORE_PAGES_OUT => stores.pages_out,
            stat::DISCARDED_PAGES => self.discarded.load(Ordering::Relaxed),
            _ => return Err(Status::INVALID_ARGUMENT),
        })
    }

    /// Gives pages' content back to the host, unless one of them is wired.
    ///
    /// No page gets wired between the look and the hole: the pin service keeps its counts locked for both.
    pub(super) fn discard(&self, range: RamRange) -> Status {
        let Some(ram) = &self.config.discard else { return Status::UNSUPPORTED };
        match self.config.pins.while_unwired(range, || ram.discard(range)) {
            None => Status::BUSY,
            Some(Ok(())) => {
                self.discarded.fetch_add(range.pages(), Ordering::Relaxed);
                Status::OK
            }
            Some(Err(error)) => {
                if let Some(number) = self.undiscarded.count() {
                    log::warn!("pages {range} cannot be given back ({number} times so far): {error}");
                }
                Status::RESOURCE_SHORTAGE
            }
        }
    }
}
