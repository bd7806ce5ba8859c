//! The latch: the first storage error, for the whole machine, for good.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use crate::page_run::PageRun;

/// What was under way when storage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum During {
    /// A sync that was asked for.
    Sync,
    /// A look at the file's health: pages that nobody synced were written out and lost.
    HealthPoll,
}

/// The first storage error (rule D3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage failed with errno {errno} during {during}{}", Place(*.first_page))]
pub struct LatchedError {
    /// The error's number; EIO when the kernel gave none.
    pub errno: i32,
    /// First RAM page of the run whose write failed; none when the error was not about a run.
    pub first_page: Option<u64>,
    /// What was under way.
    pub during: During,
    /// Whether no page of RAM can have lost what the guest stored: all of it was [held](WiredOracle). Where this is false,
    /// the guest's memory may have reverted, or do so later, without its knowing.
    pub nothing_reverted: bool,
}

struct Place(Option<u64>);

/// Tells of a run whether none of its pages can have lost what the guest stored to them, whatever storage did: each has
/// stayed in memory since before the last time that storage was known to be good. [`crate::pin::PinService::is_held`].
///
/// It is asked by sync workers, while they hold no lock.
#[derive(Clone)]
pub struct WiredOracle(Arc<dyn Fn(PageRun) -> bool + Send + Sync>);

impl WiredOracle {
    /// Takes a function for the oracle. It must not wait for the sync service.
    pub fn new(is_held: impl Fn(PageRun) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_held))
    }

    /// Asks.
    #[must_use]
    pub fn is_held(&self, run: PageRun) -> bool {
        (self.0)(run)
    }
}

impl Default for WiredOracle {
    /// Knows of no page: nothing is repaired.
    fn default() -> Self {
        Self::new(|_| false)
    }
}

impl fmt::Debug for WiredOracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WiredOracle").finish_non_exhaustive()
    }
}

/// Called once, with the first error, by the thread that met it, before anybody is answered.
pub(super) type OnLatch = Box<dyn Fn(LatchedError) + Send + Sync>;

/// Holds the first error. Setting it and looking at it need no lock.
pub(super) struct Latch {
    error: OnceLock<LatchedError>,
    on_latch: OnLatch,
    oracle: WiredOracle,
    ram_pages: u64,
}

impl Latch {
    pub(super) const fn new(ram_pages: u64, oracle: WiredOracle, on_latch: OnLatch) -> Self {
        Self { error: OnceLock::new(), on_latch, oracle, ram_pages }
    }

    /// Tells whether a run can be repaired.
    pub(super) fn is_held(&self, run: PageRun) -> bool {
        self.oracle.is_held(run)
    }

    /// Sets the latch, unless an earlier error has.
    pub(super) fn trip(&self, error: &io::Error, first_page: Option<u64>, during: During) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let nothing_reverted = PageRun::new(0, self.ram_pages).is_some_and(|all| self.is_held(all));
        let latched = LatchedError { errno, first_page, during, nothing_reverted };
        if self.error.set(latched).is_ok() {
            log::error!("{latched}; from now on only pages that are wired can be synced");
            (self.on_latch)(latched);
        }
    }

    /// Returns the first error.
    pub(super) fn get(&self) -> Option<LatchedError> {
        self.error.get().copied()
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch").field("error", &self.error).finish_non_exhaustive()
    }
}

impl fmt::Display for During {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "a sync",
            Self::HealthPoll => "a look at the file's health",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |page| write!(f, " of the pages from {page} on"))
    }
}
