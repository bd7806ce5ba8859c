//! The latch: the first storage error, for the whole machine, for good.

use std::fmt;
use std::io;
use std::sync::OnceLock;

/// What was under way when storage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum During {
    /// A sync that a caller waits for.
    Sync,
    /// The start of a write that nobody waits for.
    Start,
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
}

struct Place(Option<u64>);

/// Called once, with the first error, by the thread that met it, before anybody is answered.
pub(super) type OnLatch = Box<dyn Fn(LatchedError) + Send + Sync>;

/// Holds the first error. Setting it and looking at it need no lock.
pub(super) struct Latch {
    error: OnceLock<LatchedError>,
    on_latch: OnLatch,
}

impl Latch {
    pub(super) const fn new(on_latch: OnLatch) -> Self {
        Self { error: OnceLock::new(), on_latch }
    }

    /// Sets the latch, unless an earlier error has.
    pub(super) fn trip(&self, error: &io::Error, first_page: Option<u64>, during: During) {
        let latched = LatchedError { errno: error.raw_os_error().unwrap_or(libc::EIO), first_page, during };
        if self.error.set(latched).is_ok() {
            log::error!("{latched}; no sync will be answered with success from now on");
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
            Self::Start => "the start of a write",
            Self::HealthPoll => "a look at the file's health",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |page| write!(f, " of the pages from {page} on"))
    }
}
