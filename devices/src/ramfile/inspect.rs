//! Looking at a RAM file that no machine uses.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wirevm_abi::PAGE_SIZE;

use super::open::{check_length, io_error, open_regular, read_header};
use super::superblock::{RamState, Superblock};
use super::{PreviousEnd, RamFileError};
use crate::durability::Durability;
use crate::sys;
use crate::witness::PAGE_BYTES;

/// A RAM file, open for reading only. No machine can use the file meanwhile, and any number of others can look at it.
///
/// A file whose blocks could not serve a machine, such as a sparse copy, can be looked at all the same.
#[derive(Debug)]
pub struct RamFileView {
    file: File,
    path: PathBuf,
    superblock: Superblock,
}

impl RamFileView {
    /// Opens the RAM file at `path`. Nothing of it is changed.
    ///
    /// # Errors
    /// [`RamFileError`]: not a regular file, in use, no or bad or another version's header, another length than its header
    /// says.
    pub fn open(path: &Path) -> Result<Self, RamFileError> {
        let file = open_regular(path, false)?;
        if !sys::try_share_whole(&file).map_err(|source| io_error("lock", path, source))? {
            return Err(RamFileError::InUse { path: path.to_owned() });
        }
        let (_, superblock) = read_header(&file, path)?;
        check_length(&file, path, &superblock)?;
        Ok(Self { file, path: path.to_owned(), superblock })
    }

    /// Returns what the header says about the machine that used the file last.
    #[must_use]
    pub const fn state(&self) -> RamState {
        self.superblock.state
    }

    /// Tells how the last machine that used the file ended.
    #[must_use]
    pub fn previous_end(&self) -> PreviousEnd {
        self.superblock.state.into()
    }

    /// Returns how often the header was written.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.superblock.generation
    }

    /// Returns the size of RAM in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.superblock.ram_bytes
    }

    /// Returns the size of RAM in pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.superblock.ram_bytes / PAGE_SIZE
    }

    /// Returns the byte offset of the RAM image in the file.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.superblock.data_offset
    }

    /// Returns the durability mode that the file was made for.
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.superblock.durability
    }

    /// Reads a page of RAM. Past the last one there is none.
    ///
    /// # Errors
    /// [`RamFileError::Io`] when the file can't be read.
    pub fn page(&self, page: u64) -> Result<Option<[u8; PAGE_BYTES]>, RamFileError> {
        if page >= self.pages() {
            return Ok(None);
        }
        let mut bytes = [0; PAGE_BYTES];
        self.file
            .read_exact_at(&mut bytes, self.superblock.data_offset + page * PAGE_SIZE)
            .map_err(|source| io_error("read", &self.path, source))?;
        Ok(Some(bytes))
    }
}
