//! How a run of pages is held in memory: the seam between the pin service and the host.

use std::fmt;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use crate::page_run::PageRun;
use crate::pin::populate;
use crate::sys;
use crate::view::View;

/// Error of locking a run.
#[derive(Debug, thiserror::Error)]
pub enum PinMethodError {
    /// A page could not be read in. Nothing was locked.
    #[error("cannot read pages {run} into memory")]
    Populate {
        /// The run.
        run: PageRun,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The lock failed. Which pages it left locked is not known.
    #[error("cannot lock pages {run} in memory")]
    Lock {
        /// The run.
        run: PageRun,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A way to hold runs of guest RAM in memory.
pub trait PinMethod: fmt::Debug + Send + Sync {
    /// Reads a run in and locks it.
    ///
    /// # Errors
    /// [`PinMethodError`].
    ///
    /// # Partial effects
    /// On error any of the run's pages may be locked.
    fn lock(&self, run: PageRun) -> Result<(), PinMethodError>;

    /// Unlocks a run.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Partial effects
    /// On error any of the run's pages may still be locked.
    fn unlock(&self, run: PageRun) -> io::Result<()>;
}

/// Locks run by run with `mlock` on a view of its own.
#[derive(Debug)]
pub struct RunsMethod {
    view: Arc<View>,
    /// Threads that may help to read a large run in. Asking for it takes longer than locking a page.
    helpers: usize,
}

impl RunsMethod {
    /// Makes the method over a view that nothing else locks or syncs through.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        Self { view, helpers: thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1) }
    }
}

impl PinMethod for RunsMethod {
    /// Reads the run in first, so that a page that can't be had is an error of its own kind (rule D9).
    fn lock(&self, run: PageRun) -> Result<(), PinMethodError> {
        let failed = |source| PinMethodError::Populate { run, source };
        let range = self.view.addresses_of(run).map_err(|error| failed(io::Error::other(error)))?;
        populate::populate(&self.view, run, self.helpers).map_err(failed)?;
        sys::mlock(range).map_err(|source| PinMethodError::Lock { run, source })
    }

    fn unlock(&self, run: PageRun) -> io::Result<()> {
        sys::munlock(self.view.addresses_of(run).map_err(io::Error::other)?)
    }
}
