//! Requests about stores, and how each is answered once.

use std::fmt;
use std::sync::Arc;

use wirevm_abi::completion::NO_PAGE;
use wirevm_abi::{RamRange, Status};

use super::held::Store;
use crate::page_run::PageRun;

/// Called with what became of a request: its status, never *pending*, and the first page of the store that is known to
/// have failed, or [`NO_PAGE`].
pub type Done = Box<dyn FnOnce(Status, u64) + Send>;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// To fill these RAM pages.
    Request(RamRange),
    /// To write these RAM pages to the store.
    Return(RamRange),
    /// To make the store's pages stable.
    Synchronize,
}

/// A request that was accepted.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) store: Arc<Store>,
    /// The store's pages.
    pub(super) run: PageRun,
    pub(super) work: Work,
}

/// Whom to answer. One that is dropped without an answer gives *io error*: nothing is known then.
pub(super) struct Answer(Option<Done>);

impl Answer {
    pub(super) const fn new(done: Done) -> Self {
        Self(Some(done))
    }

    pub(super) fn give(mut self, status: Status, first_failed_page: u64) {
        if let Some(done) = self.0.take() {
            done(status, first_failed_page);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Status::IO_ERROR, NO_PAGE);
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("is_given", &self.0.is_none()).finish()
    }
}
