//! The seam between stores and the host's files, and the real thing behind it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use wirevm_abi::{PAGE_SIZE, StoreName};

use super::error::OpenStoreError;
use crate::sys;

/// One open file description of a store's file, with an error cursor of its own (rule D2). Offsets and lengths are bytes.
pub trait StoreFile: fmt::Debug + Send + Sync {
    /// Reads bytes; fewer than asked for at the end of the file.
    ///
    /// # Errors
    /// What the host said.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes bytes; fewer than given where storage has no room for more.
    ///
    /// # Errors
    /// What the host said; nothing was written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Returns the file's length.
    ///
    /// # Errors
    /// What the host said.
    fn length(&self) -> io::Result<u64>;

    /// Gives the space of a range back; it reads as zeros from then on.
    ///
    /// # Errors
    /// What the host said; any of the range may read as zeros then.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Starts writing a range's dirty pages to storage.
    ///
    /// # Errors
    /// What storage said.
    fn start(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Waits for writes under way in a range. Makes nothing stable.
    ///
    /// # Errors
    /// A write error anywhere in the file that this description has not told of yet.
    fn wait(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Makes all of the file's bytes stable, and what it takes to find them.
    ///
    /// # Errors
    /// What storage said, once a description: a second call may report success for the same loss.
    fn sync(&self) -> io::Result<()>;

    /// Opens another description of the same file. Its error cursor stands behind every error that somebody was told of
    /// and before every one that nobody was.
    ///
    /// # Errors
    /// What the host said.
    fn reopen(&self) -> io::Result<Box<dyn StoreFile>>;
}

/// Where stores come from.
pub trait StoreFolder: fmt::Debug + Send + Sync {
    /// Opens or makes the store of that name with at least `pages` pages, at most `allowed_pages`.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    ///
    /// # Partial effects
    /// On error, none, except that a store that was shorter may be longer, by zeros.
    fn open(&self, name: StoreName, pages: u64, allowed_pages: u64) -> Result<OpenedStore, OpenStoreError>;
}

/// A store's file, held against other machines.
#[derive(Debug)]
pub struct OpenedStore {
    /// The description that holds the lock. Nothing is written or synced through it.
    pub file: Box<dyn StoreFile>,
    /// How many pages the file has.
    pub pages: u64,
    /// Whether its file system keeps what a sync promised.
    pub is_durable: bool,
}

/// A file of the host's.
#[derive(Debug)]
pub(super) struct HostFile(pub(super) File);

impl StoreFile for HostFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        sys::punch_hole(&self.0, offset, bytes)
    }

    fn start(&self, offset: u64, bytes: u64) -> io::Result<()> {
        sys::start_writeback(&self.0, offset, bytes)
    }

    fn wait(&self, offset: u64, bytes: u64) -> io::Result<()> {
        sys::poll_writeback_error(&self.0, offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn reopen(&self) -> io::Result<Box<dyn StoreFile>> {
        let file = sys::reopen(&self.0)?;
        // A sync through a read-only description is not one to build on.
        if !sys::is_read_write(&file)? {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(Box::new(Self(file)))
    }
}

/// Looks at a file's health through a description: an error anywhere in the file that it has not told of yet. Writes nothing
/// (rule D5).
pub(super) fn look(file: &dyn StoreFile) -> io::Result<()> {
    file.wait(0, PAGE_SIZE)
}
