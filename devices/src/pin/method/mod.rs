//! How runs of pages are held in memory: the seam between the pin service and the host.

mod runs;
mod view;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use self::runs::RunsMethod;
pub use self::view::{ViewMethod, ViewMethodError};
use super::limit::{LimitError, LockBudget, map_entry_budget};
use crate::page_run::PageRun;
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

/// A list of runs was not locked to its end.
#[derive(Debug)]
pub struct LockFailure {
    /// Place of the run that failed.
    pub index: usize,
    /// Why.
    pub source: PinMethodError,
}

/// A way to hold runs of guest RAM in memory.
///
/// Runs of one call don't overlap, and no two calls at a time are about the same page.
pub trait PinMethod: fmt::Debug + Send + Sync {
    /// Reads runs in and locks them, in order.
    ///
    /// # Errors
    /// [`LockFailure`] of the first run that fails.
    ///
    /// # Partial effects
    /// On error the runs before the failed one are locked, any of its own pages may be, and the runs behind it are as they were.
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure>;

    /// Unlocks runs, each whether or not another can be. Returns those that were not unlocked, with what the kernel said: any of
    /// their pages may still be locked.
    #[must_use = "what is still locked has to be kept in mind"]
    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)>;

    /// Tells whether to ask for several wires' runs at once: not where somebody counts the locks.
    fn is_batched(&self) -> bool {
        true
    }
}

impl PinMethod for Box<dyn PinMethod> {
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        (**self).lock(runs)
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        (**self).unlock(runs)
    }

    fn is_batched(&self) -> bool {
        (**self).is_batched()
    }
}

/// The ways there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PinKind {
    /// [`RunsMethod`]: works everywhere, costs map entries.
    #[default]
    Runs,
    /// [`ViewMethod`]: one map entry for good, several runs with one system call.
    View,
}

impl PinKind {
    /// Returns the best way that this kernel has, and that the host's limit on locked memory leaves for so many bytes of RAM.
    ///
    /// # Errors
    /// [`LimitError`] when `/proc` can't be read.
    pub fn best(ram_bytes: u64) -> Result<Self, LimitError> {
        let is_allowed = LockBudget::of_this_process()?.allows(ram_bytes);
        Ok(if is_allowed && ViewMethod::check_kernel().is_ok() { Self::View } else { Self::Runs })
    }

    /// Makes the method over a view that nothing else locks or syncs through.
    ///
    /// # Errors
    /// [`ViewMethodError`]; never for [`PinKind::Runs`].
    pub fn method(self, view: Arc<View>) -> Result<Box<dyn PinMethod>, ViewMethodError> {
        Ok(match self {
            Self::Runs => Box::new(RunsMethod::new(view)),
            Self::View => Box::new(ViewMethod::new(view)?),
        })
    }

    /// Returns how many map entries locked runs may cost; `u64::MAX` where they cost none.
    ///
    /// # Errors
    /// [`LimitError`] when `/proc` can't be read.
    pub fn map_entry_budget(self) -> Result<u64, LimitError> {
        match self {
            Self::Runs => map_entry_budget(),
            Self::View => Ok(u64::MAX),
        }
    }
}

impl fmt::Display for PinKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runs => "runs",
            Self::View => "view",
        })
    }
}
