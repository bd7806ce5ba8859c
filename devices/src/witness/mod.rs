//! The host's own truth about guest RAM, for scripts, tests and measurements.
//!
//! Nothing else in the crate reads `/proc` to learn what became of guest RAM, and nothing here asks the services:
//! what it says can be held against what they say. It reads the file through a description of its own and never
//! with `O_DIRECT`, which would write dirty pages back by itself.

mod device;
mod folios;
mod footprint;
mod given_back;
mod maps;
mod smaps;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use procfs::ProcError;
use wirevm_abi::{PAGE_SIZE, RamRange};

pub use self::device::{BlockDevice, DeviceCounts};
pub use self::folios::FolioPages;
pub use self::footprint::{Footprint, FootprintWatch, Peak, SAMPLE_INTERVAL};
pub(crate) use self::given_back::UntouchedFile;
pub use self::given_back::give_program_back;
pub(crate) use self::maps::are_shared;
use crate::ramfile::{RamFile, RamFileError};
use crate::sys;
use crate::view::{AddressRange, View, ViewError};

/// Bytes in a page, as a length.
pub const PAGE_BYTES: usize = 4096;

const _: () = assert!(PAGE_BYTES.to_le_bytes()[1] == PAGE_SIZE.to_le_bytes()[1]);

/// Error of asking the host.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// `/proc` could not be read.
    #[error("cannot read {what} of this process")]
    Proc {
        /// What was to be read.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: ProcError,
    },
    /// The kernel would not tell.
    #[error("the kernel does not tell {what}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The range is not in the view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The RAM file could not be opened again.
    #[error("cannot open the RAM file again to look at it")]
    Reopen(#[source] RamFileError),
    /// A page does not exist.
    #[error("there is no page {page} in guest RAM, which has {ram_pages} pages")]
    NoPage {
        /// The page asked for.
        page: u64,
        /// Pages in guest RAM.
        ram_pages: u64,
    },
}

/// Looks at guest RAM through the view that pages are locked in and a description of its own.
#[derive(Debug)]
pub struct Witness {
    view: Arc<View>,
    file: File,
    data_offset: u64,
    /// Whether dirty pages mean anything to the file system.
    counts_dirty: bool,
}

/// Returns how many pages of a file's `bytes` bytes from byte `offset` on differ from storage: dirty ones and ones being
/// written. The file is only looked at: opening it as a RAM file would have what is dirty written.
///
/// None where the kernel can't tell: before Linux 6.5. On a tmpfs the number means nothing.
///
/// # Errors
/// [`WitnessError::Kernel`].
pub fn dirty_pages(file: &File, offset: u64, bytes: u64) -> Result<Option<u64>, WitnessError> {
    match sys::cachestat(file, offset, bytes) {
        Ok(stat) => Ok(Some(stat.dirty + stat.writeback)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) => Ok(None),
        Err(source) => Err(WitnessError::Kernel { what: "how many pages are dirty", source }),
    }
}

/// Counts the pages that a range of this process's addresses maps by the bytes of the folio that each is in; see
/// [`Witness::folios`].
///
/// # Errors
/// [`WitnessError::Proc`].
pub fn mapped_folios(range: AddressRange) -> Result<Option<FolioPages>, WitnessError> {
    folios::folio_pages(range)
}

impl Witness {
    /// Makes a witness of the view that pages are locked in.
    ///
    /// # Errors
    /// [`WitnessError`] when the file can't be opened again or looked at.
    pub fn new(view: Arc<View>, ram: &RamFile) -> Result<Self, WitnessError> {
        let file = ram.reopen().map_err(WitnessError::Reopen)?;
        let stat = sys::file_system_stat(&file)
            .map_err(|source| WitnessError::Kernel { what: "the RAM file's file system", source })?;
        let counts_dirty = stat.magic.cast_signed() != libc::TMPFS_MAGIC;
        Ok(Self { view, file, data_offset: ram.data_offset(), counts_dirty })
    }

    /// Returns how many pages of RAM are present in the view and locked in it.
    ///
    /// # Errors
    /// [`WitnessError::Proc`].
    pub fn locked_pages(&self) -> Result<u64, WitnessError> {
        maps::locked_pages(self.view.addresses())
    }

    /// Returns how many pages of a range are present in the view and locked in it.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn locked_in(&self, range: RamRange) -> Result<u64, WitnessError> {
        maps::locked_pages(self.view.addresses_of(range.into())?)
    }

    /// Returns the bytes that this process keeps resident besides guest RAM: what the machine costs on top of itself.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn overhead_bytes(&self) -> Result<u64, WitnessError> {
        self.footprint()?.bytes()
    }

    /// Returns what looks again and again at the bytes that this process keeps resident besides guest RAM.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn footprint(&self) -> Result<Footprint, WitnessError> {
        Footprint::of_this_process(&self.file)
    }

    /// Returns how many map entries the view lies in.
    ///
    /// # Errors
    /// [`WitnessError::Proc`].
    pub fn map_entries(&self) -> Result<u64, WitnessError> {
        maps::entries(self.view.addresses())
    }

    /// Returns how many pages of a range are in memory, mapped or not.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn resident(&self, range: RamRange) -> Result<u64, WitnessError> {
        let addresses = self.view.addresses_of(range.into())?;
        let pages = sys::mincore(addresses)
            .map_err(|source| WitnessError::Kernel { what: "which pages are in memory", source })?;
        Ok(pages.iter().map(|page| u64::from(page & 1)).sum())
    }

    /// Returns how many pages of a range differ from storage: dirty ones and ones being written.
    ///
    /// None where that means nothing or the kernel can't tell: a memfd, tmpfs, Linux before 6.5.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn dirty(&self, range: RamRange) -> Result<Option<u64>, WitnessError> {
        if !self.counts_dirty {
            return Ok(None);
        }
        let (offset, bytes) = self.view.file_range(range.into())?;
        dirty_pages(&self.file, offset, bytes)
    }

    /// Counts the pages of a range that the view maps, wired ones among them, by the bytes of the folio that each is in: what a sync of
    /// the page writes at least. Touches nothing.
    ///
    /// None without the right to know: it takes root.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn folios(&self, range: RamRange) -> Result<Option<FolioPages>, WitnessError> {
        mapped_folios(self.view.addresses_of(range.into())?)
    }

    /// Reads a page from the file. It holds what the guest last stored, stable or not.
    ///
    /// # Errors
    /// [`WitnessError`] when there is no such page or it can't be read.
    pub fn bytes(&self, page: u64) -> Result<[u8; PAGE_BYTES], WitnessError> {
        let ram_pages = self.view.pages();
        if page >= ram_pages {
            return Err(WitnessError::NoPage { page, ram_pages });
        }
        let mut bytes = [0; PAGE_BYTES];
        self.file
            .read_exact_at(&mut bytes, self.data_offset + page * PAGE_SIZE)
            .map_err(|source| WitnessError::Kernel { what: "the bytes of a page", source })?;
        Ok(bytes)
    }

    /// Returns the bytes that this process has locked in all, as the kernel accounts them (`VmLck`).
    ///
    /// # Errors
    /// [`WitnessError::Proc`].
    pub fn vm_lck_bytes(&self) -> Result<u64, WitnessError> {
        maps::vm_lck_bytes()
    }
}
