//! Locking run by run.

use std::io;
use std::sync::Arc;

use super::{LockFailure, PinMethod, PinMethodError};
use crate::page_run::PageRun;
use crate::pin::populate::Populate;
use crate::sys;
use crate::view::View;

/// Locks run by run with `mlock` on a view of its own. Each run that is locked alone costs two map entries.
///
/// The view has no 2 MiB mappings: where a locked one is split, since a part of it is to be unlocked, the kernel (6.18 too) drops all of
/// it from the page tables, and nothing holds the rest any more. Before Linux 6.12 the kernel may make some in spite of being told not
/// to, for files in folios of 2 MiB.
#[derive(Debug)]
pub struct RunsMethod {
    view: Arc<View>,
    populate: Populate,
}

impl RunsMethod {
    /// Makes the method over a view that nothing else locks or syncs through.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        if let Err(error) = sys::advise_no_huge_pages(view.addresses()) {
            log::warn!("pages that are unwired alone may let others go that lie within 2 MiB: {error}");
        }
        Self { populate: Populate::new(Arc::clone(&view)), view }
    }

    /// Sets how many threads read a large run in, the caller's included; as many as there are processors otherwise.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.populate = Populate::with_threads(Arc::clone(&self.view), threads);
        self
    }

    /// Reads the run in first, so that a page that can't be had is an error of its own kind (rule D9).
    fn lock_one(&self, run: PageRun) -> Result<(), PinMethodError> {
        let failed = |source| PinMethodError::Populate { run, source };
        let range = self.view.addresses_of(run).map_err(|error| failed(io::Error::other(error)))?;
        self.populate.run(run).map_err(failed)?;
        sys::mlock(range).map_err(|source| PinMethodError::Lock { run, source })
    }

    fn unlock_one(&self, run: PageRun) -> io::Result<()> {
        sys::munlock(self.view.addresses_of(run).map_err(io::Error::other)?)
    }
}

impl PinMethod for RunsMethod {
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        for (index, run) in runs.iter().enumerate() {
            self.lock_one(*run).map_err(|source| LockFailure { index, source })?;
        }
        Ok(())
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        runs.iter().filter_map(|run| self.unlock_one(*run).err().map(|error| (*run, error))).collect()
    }
}
