//! The seam between the sync service and storage, and the real thing behind it.

use std::fmt;
use std::fs::File;
use std::io;

use crate::page_run::PageRun;
use crate::ramfile::{RamFile, RamFileError};
use crate::sys;
use crate::view::{View, ViewError};
use crate::witness::{self, WitnessError};

/// Bytes at the start of the file that the health poll asks about; the answer is for the whole file.
const POLLED_BYTES: u64 = 4096;

/// Error of starting a sync service.
#[derive(Debug, thiserror::Error)]
pub enum SyncStartError {
    /// A worker's view could not be made.
    #[error("cannot make a sync worker's view")]
    View(#[from] ViewError),
    /// A description could not be made.
    #[error("cannot open the RAM file again for the health poll")]
    Reopen(#[source] RamFileError),
    /// A worker's view could not be checked.
    #[error("cannot check that a sync worker's view is shared")]
    Check(#[from] WitnessError),
    /// The kernel does not take a worker's view for shared: its syncs would do nothing and report success.
    #[error("the kernel does not take a sync worker's view for a shared mapping")]
    NotShared,
    /// A thread could not be made.
    #[error("cannot start a sync thread")]
    Thread(#[source] io::Error),
}

/// Makes runs of RAM pages stable. Each worker has one of its own.
pub trait FlushBackend: fmt::Debug + Send {
    /// Writes a run's dirty pages and returns when they are stable, or are known not to be.
    ///
    /// # Errors
    /// What storage said. The error is reported once: a second call may report success for the same loss.
    fn flush(&mut self, run: PageRun) -> io::Result<()>;

    /// Starts writing a run's dirty pages.
    ///
    /// # Errors
    /// What storage said.
    fn start(&mut self, run: PageRun) -> io::Result<()>;
}

/// Tells of write errors anywhere in the RAM file, without writing anything.
pub trait HealthProbe: fmt::Debug + Send {
    /// Looks.
    ///
    /// # Errors
    /// An error that this probe has not told of yet.
    fn check(&mut self) -> io::Result<()>;
}

/// Syncs through a view and a description that nothing else uses.
#[derive(Debug)]
pub struct RamFlush {
    view: View,
}

/// Looks at the file's health through a description that nothing else uses (rule D5).
#[derive(Debug)]
pub struct RamProbe {
    file: File,
}

impl RamFlush {
    /// Makes a view of the RAM file and checks that syncing through it works (rule D2): its description is open
    /// for reading and writing, and the kernel takes the mapping for shared.
    ///
    /// # Errors
    /// [`SyncStartError`].
    pub fn new(ram: &RamFile) -> Result<Self, SyncStartError> {
        let view = View::new(ram)?;
        if !witness::is_shared(view.addresses())? {
            return Err(SyncStartError::NotShared);
        }
        Ok(Self { view })
    }
}

impl FlushBackend for RamFlush {
    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        sys::msync(self.view.addresses_of(run).map_err(io::Error::other)?)
    }

    /// `msync(MS_ASYNC)` starts nothing on Linux (H10), so this asks for the file's range.
    fn start(&mut self, run: PageRun) -> io::Result<()> {
        let (offset, bytes) = self.view.file_range(run).map_err(io::Error::other)?;
        sys::start_writeback(self.view.file(), offset, bytes)
    }
}

impl RamProbe {
    /// Opens a description of the RAM file to look through.
    ///
    /// # Errors
    /// [`SyncStartError::Reopen`].
    pub fn new(ram: &RamFile) -> Result<Self, SyncStartError> {
        Ok(Self { file: ram.reopen().map_err(SyncStartError::Reopen)? })
    }
}

impl HealthProbe for RamProbe {
    fn check(&mut self) -> io::Result<()> {
        sys::poll_writeback_error(&self.file, 0, POLLED_BYTES)
    }
}
