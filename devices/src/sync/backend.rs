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
    /// The file system could not be looked at.
    #[error("cannot tell which file system the RAM file is on")]
    FileSystem(#[source] io::Error),
    /// The kernel does not take a worker's view for shared: its syncs would do nothing and report success.
    #[error("the kernel does not take a sync worker's view for a shared mapping")]
    NotShared,
    /// A thread could not be made.
    #[error("cannot start a sync thread")]
    Thread(#[source] io::Error),
}

/// Makes runs of RAM pages stable. Each worker has one of its own.
///
/// An error is told once, by whichever call looks next, and may be about any page that this worker or the kernel wrote: a
/// second call may report success for the same loss.
pub trait FlushBackend: fmt::Debug + Send {
    /// Writes the dirty pages of all runs, all started before any is awaited. They are not stable yet.
    ///
    /// # Errors
    /// What storage said, of any of them.
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()>;

    /// Writes a run's dirty pages and returns when they are stable, or are known not to be. Where
    /// [`FlushBackend::flushes_what_is_written`], the same holds of everything that [`FlushBackend::write`] wrote before.
    ///
    /// # Errors
    /// What storage said.
    fn flush(&mut self, run: PageRun) -> io::Result<()>;

    /// Makes a run of pages stable whose earlier write may have failed and been forgotten: all of its pages are dirty
    /// again first, and errors from before are not taken for errors of this write. The run's pages must not have been
    /// able to leave memory since before the failure, or what is written is not what the guest stored.
    ///
    /// # Errors
    /// What storage said; then nothing is known of the run.
    fn repair(&mut self, run: PageRun) -> io::Result<()>;

    /// Tells whether one flush makes all that was written stable, whatever its run.
    fn flushes_what_is_written(&self) -> bool;
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
    flushes_what_is_written: bool,
}

/// Looks at the file's health through a description that nothing else uses (rule D5).
#[derive(Debug)]
pub struct RamProbe {
    file: File,
}

impl RamFlush {
    /// Makes one; see [`RamFlush::several`].
    ///
    /// # Errors
    /// [`SyncStartError`].
    pub fn new(ram: &RamFile) -> Result<Self, SyncStartError> {
        Self::several(ram, 1)?.pop().ok_or(SyncStartError::NotShared)
    }

    /// Makes `count` of them, each with a view of the RAM file, and checks that syncing through it works (rule D2): its description
    /// is open for reading and writing, and the kernel takes the mapping for shared.
    ///
    /// # Errors
    /// [`SyncStartError`].
    pub fn several(ram: &RamFile, count: usize) -> Result<Vec<Self>, SyncStartError> {
        let views = (0..count).map(|_| View::new(ram)).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<_> = views.iter().map(View::addresses).collect();
        if !witness::are_shared(&addresses)? {
            return Err(SyncStartError::NotShared);
        }
        let flush = |view: View| {
            let magic = sys::file_system_stat(view.file()).map_err(SyncStartError::FileSystem)?.magic.cast_signed();
            // Why these and no others: see the module's documentation.
            let flushes_what_is_written = matches!(magic, libc::EXT4_SUPER_MAGIC | libc::XFS_SUPER_MAGIC);
            Ok(Self { view, flushes_what_is_written })
        };
        views.into_iter().map(flush).collect()
    }
}

impl FlushBackend for RamFlush {
    /// `msync(MS_ASYNC)` starts nothing on Linux (H10), so this asks for the file's ranges.
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        for begin in [true, false] {
            for run in runs {
                let (offset, bytes) = self.view.file_range(*run).map_err(io::Error::other)?;
                if begin {
                    sys::start_writeback(self.view.file(), offset, bytes)?;
                } else {
                    sys::finish_writeback(self.view.file(), offset, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        sys::msync(self.view.addresses_of(run).map_err(io::Error::other)?)
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        let fresh = self.view.fresh_writable().map_err(io::Error::other)?;
        let (offset, bytes) = fresh.file_range(run).map_err(io::Error::other)?;
        let addresses = fresh.addresses_of(run).map_err(io::Error::other)?;
        // Errors that nobody has been told of yet show on a new description too. They go before the pages are dirty
        // again: any error behind this is one of the write that counts.
        if let Err(error) = sys::poll_writeback_error(fresh.file(), offset, bytes) {
            log::debug!("an earlier storage error, before pages {run} are written again: {error}");
        }
        sys::populate_write(addresses)?;
        sys::msync(addresses)
    }

    fn flushes_what_is_written(&self) -> bool {
        self.flushes_what_is_written
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
