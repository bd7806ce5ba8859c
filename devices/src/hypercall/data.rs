//! The operations on stores: between the guest's entries and the store service.

use wirevm_abi::completion::Completion;
use wirevm_abi::request::DataRun;
use wirevm_abi::{Status, StoreName};

use super::Hypercall;
use crate::completion::Reservation;
use crate::store::Done;

impl Hypercall {
    /// Tells whether stores are offered: there is a folder for them, and a ring for their completions.
    pub(super) fn has_stores(&self) -> bool {
        self.config.stores.is_supported() && self.config.completions.is_some()
    }

    /// Carries `DATA_REQUEST` out: *pending* once accepted.
    pub(super) fn data_request(&self, run: DataRun, place: Reservation) -> Status {
        self.config.stores.data_request(run, completion(run.token, place))
    }

    /// Carries `DATA_RETURN` out: *pending* once accepted.
    pub(super) fn data_return(&self, run: DataRun, place: Reservation) -> Status {
        self.config.stores.data_return(run, completion(run.token, place))
    }

    /// Carries `SYNCHRONIZE` out: *pending* once accepted.
    pub(super) fn synchronize(&self, store: u16, first: u64, pages: u64, token: u64, place: Reservation) -> Status {
        self.config.stores.synchronize(store, first, pages, completion(token, place))
    }

    /// Carries `OPEN_STORE` out; returns the store's number.
    pub(super) fn open_store(&self, name: StoreName, pages: u64, exclusive: bool) -> Result<u64, Status> {
        if !self.has_stores() {
            return Err(Status::UNSUPPORTED);
        }
        self.config.stores.open(name, pages, exclusive).map(u64::from).map_err(|error| error.status())
    }

    /// Carries `CLOSE_STORE` out.
    pub(super) fn close_store(&self, store: u16) -> Status {
        self.config.stores.close(store)
    }
}

/// Returns what posts a request's completion. A request that is not accepted drops it, and with it the place.
fn completion(token: u64, place: Reservation) -> Done {
    Box::new(move |status, first_failed_page| place.complete(&[Completion { token, status, first_failed_page }]))
}
