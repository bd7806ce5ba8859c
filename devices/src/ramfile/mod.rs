//! The file that guest RAM lives in.
//!
//! A RAM file is a header of [`HEADER_BYTES`] with two alternating superblocks, then the RAM image, so every
//! page of RAM has one home in the file. [`RamFile::memfd`] has no header: its image starts at byte 0.
//!
//! A [`RamFile`] holds the file's lock. The lock belongs to its one open file description, so keep the
//! `RamFile` for as long as anything uses the file, and take every other description from
//! [`RamFile::reopen`], never from `dup` or `try_clone`: those would share its error cursor (rule D2). A process
//! that this one forks holds the lock too, until it executes another program.

mod create;
mod discard;
mod extents;
pub(crate) mod file_system;
mod inspect;
mod open;
mod superblock;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE};

pub use self::discard::RamDiscard;
pub use self::extents::ExtentsError;
pub use self::file_system::{FileSystemError, FileSystemKind, durable_file_system};
pub use self::inspect::RamFileView;
pub(crate) use self::superblock::begins_as_ram_file;
use self::superblock::{COPIES, COPY_BYTES, Superblock};
pub use self::superblock::{HEADER_BYTES, LAYOUT_VERSION, RamState, SuperblockError};
use crate::durability::Durability;
use crate::folio::FolioPolicy;
use crate::sys;

/// How the last machine that used a RAM file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreviousEnd {
    /// None used it: the image is zeros.
    Fresh,
    /// In order, without a storage error.
    Clean,
    /// Without a word: killed, or the host stopped. Pages that nobody synced may be old or new.
    NotClean,
    /// With a storage error: pages may hold older bytes than the guest saw.
    Failed {
        /// The first error's errno.
        errno: i32,
        /// First RAM page of the range whose sync failed; none when the error had no range.
        first_page: Option<u64>,
    },
}

/// Error of making, opening or marking a RAM file.
#[derive(Debug, thiserror::Error)]
pub enum RamFileError {
    /// The size is not one that guest RAM can have.
    #[error("RAM size must be a multiple of 2 MiB and not 0; it is {bytes} bytes")]
    Size {
        /// The size asked for.
        bytes: u64,
    },
    /// The durability mode is reserved.
    #[error("durability=atomic is not available in this version; choose shared or none")]
    AtomicUnavailable,
    /// The path does not name a file in a folder.
    #[error("'{path}' does not name a file")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// The file system can't serve.
    #[error(transparent)]
    FileSystem(#[from] FileSystemError),
    /// The name is taken.
    #[error("'{path}' exists already")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The path names something else than a regular file.
    #[error("'{path}' is not a regular file (a symbolic link does not count as one)")]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// Another machine uses the file.
    #[error("'{path}' is in use by another machine")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The header can't be used.
    #[error("'{path}' cannot serve as guest RAM")]
    Superblock {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SuperblockError,
    },
    /// The file is not as long as its header says.
    #[error("'{path}' has {have_bytes} bytes, and its header says {need_bytes}")]
    Length {
        /// The path.
        path: PathBuf,
        /// The file's length.
        have_bytes: u64,
        /// The length that the header tells.
        need_bytes: u64,
    },
    /// The file's blocks can't serve.
    #[error("'{path}' cannot serve as guest RAM")]
    Extents {
        /// The path.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: ExtentsError,
    },
    /// The file holds RAM of another size than asked for.
    #[error("'{path}' holds {found_bytes} bytes of RAM, and {asked_bytes} were asked for")]
    OtherSize {
        /// The path.
        path: PathBuf,
        /// The size in the header.
        found_bytes: u64,
        /// The size asked for.
        asked_bytes: u64,
    },
    /// The file was made for another mode than asked for.
    #[error("'{path}' was made for durability={found}, and {asked} was asked for")]
    OtherDurability {
        /// The path.
        path: PathBuf,
        /// The mode in the header.
        found: Durability,
        /// The mode asked for.
        asked: Durability,
    },
    /// A new description of the file is not open for reading and writing.
    #[error("a second description of '{path}' is not open for reading and writing")]
    NotReadWrite {
        /// The path.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} '{path}'")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Guest RAM's file, open and held against other machines.
#[derive(Debug)]
pub struct RamFile {
    file: File,
    /// For messages only: the file may have been renamed or may have no name.
    path: PathBuf,
    size_bytes: u64,
    data_offset: u64,
    durability: Durability,
    folio: FolioPolicy,
    previous_end: PreviousEnd,
    /// None for a memfd, which has no header.
    header: Option<Mutex<Header>>,
}

/// The superblock that holds and the copy that it is in.
#[derive(Debug)]
struct Header {
    copy: usize,
    superblock: Superblock,
}

impl From<RamState> for PreviousEnd {
    fn from(state: RamState) -> Self {
        match state {
            RamState::Fresh => Self::Fresh,
            RamState::Clean => Self::Clean,
            RamState::Open => Self::NotClean,
            RamState::Failed { errno, first_page } => Self::Failed { errno, first_page },
        }
    }
}

impl RamFile {
    /// Makes a RAM file of `size_bytes` bytes of zeros at `path`, which must not exist.
    ///
    /// The file is built under a temporary name in the same folder, its blocks are allocated and written, it
    /// is made stable, then renamed, then the folder is made stable (rule D6). It has mode 0600.
    ///
    /// # Errors
    /// [`RamFileError`]: a bad size, mode or path, a file system that is not durable (mode `shared`), too
    /// little space (looked at before anything is made), a taken name, or a failed operation.
    ///
    /// # Partial effects
    /// None on error: what was made is removed. A kill in between leaves a file named
    /// `.wirevm-PID-N.part` beside `path`.
    pub fn create(path: &Path, size_bytes: u64, durability: Durability) -> Result<Self, RamFileError> {
        Self::create_for(path, size_bytes, durability, FolioPolicy::default())
    }

    /// As [`RamFile::create`], with another policy for folios than the default. The file does not keep it.
    ///
    /// Where the policy is for more than single pages, what was written stays in the cache.
    ///
    /// # Errors
    /// As [`RamFile::create`].
    ///
    /// # Partial effects
    /// As [`RamFile::create`].
    pub fn create_for(
        path: &Path,
        size_bytes: u64,
        durability: Durability,
        folio: FolioPolicy,
    ) -> Result<Self, RamFileError> {
        create::create(path, size_bytes, durability, folio)
    }

    /// Opens the RAM file at `path`; `expected_bytes`, when given, is the RAM size it must have.
    ///
    /// How the last machine ended is no error but data: see [`RamFile::previous_end`].
    ///
    /// # Errors
    /// [`RamFileError`]: not a regular file, in use, no or bad or another version's header, another length
    /// than its header says, sparse, shared or unwritten blocks, another RAM size, or, for mode `shared`, a
    /// file system that is not durable. The file is never changed.
    pub fn open(path: &Path, expected_bytes: Option<u64>) -> Result<Self, RamFileError> {
        Self::open_for(path, expected_bytes, FolioPolicy::default())
    }

    /// As [`RamFile::open`], with another policy for folios than the default.
    ///
    /// Where single pages or 64 KiB are wanted, what is in the cache is dropped from it: nobody knows its sizes.
    ///
    /// # Errors
    /// As [`RamFile::open`].
    pub fn open_for(path: &Path, expected_bytes: Option<u64>, folio: FolioPolicy) -> Result<Self, RamFileError> {
        open::open(path, expected_bytes, folio)
    }

    /// Opens the RAM file at `path`, or makes it when there is none.
    ///
    /// # Errors
    /// As [`RamFile::open`] and [`RamFile::create`]; and when an existing file has another RAM size or mode.
    pub fn create_or_open(path: &Path, size_bytes: u64, durability: Durability) -> Result<Self, RamFileError> {
        check_request(size_bytes, durability)?;
        if path.symlink_metadata().is_err() {
            match Self::create(path, size_bytes, durability) {
                // Another process was faster: its file must do, or tell why not.
                Err(RamFileError::Exists { .. }) => {}
                result => return result,
            }
        }
        let ram = Self::open(path, Some(size_bytes))?;
        if ram.durability != durability {
            return Err(RamFileError::OtherDurability { path: ram.path, found: ram.durability, asked: durability });
        }
        Ok(ram)
    }

    /// Makes a RAM file of mode `shared` in folder `directory` that has no name.
    ///
    /// The name is removed as soon as the file is made, before it is filled, so that even a kill leaves
    /// nothing. The file goes when its last description and mapping do.
    ///
    /// # Errors
    /// As [`RamFile::create`], except for a taken name.
    pub fn temporary(directory: &Path, size_bytes: u64) -> Result<Self, RamFileError> {
        Self::temporary_for(directory, size_bytes, FolioPolicy::default())
    }

    /// As [`RamFile::temporary`], with another policy for folios than the default.
    ///
    /// # Errors
    /// As [`RamFile::temporary`].
    pub fn temporary_for(directory: &Path, size_bytes: u64, folio: FolioPolicy) -> Result<Self, RamFileError> {
        create::temporary(directory, size_bytes, folio)
    }

    /// Makes guest RAM of mode `none` in an anonymous memory file whose size is sealed.
    ///
    /// # Errors
    /// [`RamFileError`] for a bad size or when the kernel refuses.
    pub fn memfd(size_bytes: u64) -> Result<Self, RamFileError> {
        check_request(size_bytes, Durability::None)?;
        let path = PathBuf::from("memfd:wirevm-ram");
        let file = sys::sealed_memfd(c"wirevm-ram", size_bytes).map_err(|source| RamFileError::Io {
            operation: "make",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            file,
            path,
            size_bytes,
            data_offset: 0,
            durability: Durability::None,
            folio: FolioPolicy::default(),
            previous_end: PreviousEnd::Fresh,
            header: None,
        })
    }

    /// Returns the description that holds the lock. Never sync through it.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path that the file was made or opened under, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the byte offset of the RAM image in the file.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Returns the size of RAM in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the size of RAM in pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.size_bytes / PAGE_SIZE
    }

    /// Returns the durability mode.
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// Returns the policy for folios. It says nothing about a memfd.
    #[must_use]
    pub const fn folio(&self) -> FolioPolicy {
        self.folio
    }

    /// Tells whether a mapping of RAM must be told, before its first touch, that access is random (`MADV_RANDOM`).
    #[must_use]
    pub const fn is_read_by_pages(&self) -> bool {
        self.is_file() && self.folio.is_read_by_pages()
    }

    /// Tells whether RAM is in a file of a file system, not in a memfd.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.header.is_some()
    }

    /// Tells how the last machine that used the file ended.
    #[must_use]
    pub const fn previous_end(&self) -> PreviousEnd {
        self.previous_end
    }

    /// Tells whether all of RAM was known to be zero when the file was made or opened.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        matches!(self.previous_end, PreviousEnd::Fresh)
    }

    /// Opens a new description of the same file for reading and writing, with an error cursor of its own.
    ///
    /// It goes through `/proc/self/fd`, so it is the same file whatever became of its name.
    ///
    /// # Errors
    /// [`RamFileError::Io`] when it can't be opened, [`RamFileError::NotReadWrite`] when it is not open for both.
    pub fn reopen(&self) -> Result<File, RamFileError> {
        let file = sys::reopen(&self.file).map_err(|source| self.io("open again", source))?;
        if !sys::is_read_write(&file).map_err(|source| self.io("look at", source))? {
            return Err(RamFileError::NotReadWrite { path: self.path.clone() });
        }
        if self.is_read_by_pages() {
            // Reads through a description bring in pieces of their own choice as well (D7).
            sys::advise_file_random(&file).map_err(|source| self.io("advise", source))?;
        }
        Ok(file)
    }

    /// Tells whether the file is still long enough to hold all of RAM.
    ///
    /// False also when the file can't be looked at: either way RAM is not safe to touch.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let need_bytes = self.data_offset + self.size_bytes;
        self.file.metadata().is_ok_and(|metadata| metadata.len() >= need_bytes)
    }

    /// Records a state in the header and makes it stable (rule D13); does nothing for a memfd.
    ///
    /// [`RamState::Clean`] is written only after the whole image was made stable, and not behind [`RamState::Failed`]. Blocks
    /// until storage answers.
    ///
    /// # Errors
    /// [`RamFileError::Io`] when storage fails.
    ///
    /// # Partial effects
    /// On error the old state or the new one holds; never a torn one, because the copies are written in turn.
    pub fn set_state(&self, state: RamState) -> Result<(), RamFileError> {
        let Some(header) = &self.header else {
            return Ok(());
        };
        let mut header = header.lock().unwrap_or_else(PoisonError::into_inner);
        if state == RamState::Clean {
            if matches!(header.superblock.state, RamState::Failed { .. }) {
                // Whoever closes the file may not have heard of it yet: a failure stays until the file is opened again.
                return Ok(());
            }
            self.file.sync_data().map_err(|source| self.io("sync", source))?;
        }
        let copy = (header.copy + 1) % COPIES;
        let superblock = Superblock { generation: header.superblock.generation + 1, state, ..header.superblock };
        // Even a write that fails may have reached the file: never write that copy's generation again.
        header.superblock.generation = superblock.generation;
        self.file
            .write_all_at(&superblock.encode(), copy_offset(copy))
            .and_then(|()| self.file.sync_data())
            .map_err(|source| self.io("record the state of", source))?;
        *header = Header { copy, superblock };
        Ok(())
    }

    fn io(&self, operation: &'static str, source: io::Error) -> RamFileError {
        RamFileError::Io { operation, path: self.path.clone(), source }
    }
}

/// Returns the byte offset of a copy of the superblock.
fn copy_offset(copy: usize) -> u64 {
    COPY_BYTES * u64::from(copy != 0)
}

/// Returns the length of a file with a header and `size_bytes` bytes of RAM.
fn file_bytes(size_bytes: u64) -> u64 {
    size_bytes.saturating_add(HEADER_BYTES)
}

/// Fails for a size or mode that no RAM file can have.
fn check_request(size_bytes: u64, durability: Durability) -> Result<(), RamFileError> {
    if durability == Durability::Atomic {
        return Err(RamFileError::AtomicUnavailable);
    }
    check_size(size_bytes)
}

fn check_size(size_bytes: u64) -> Result<(), RamFileError> {
    let fits = i64::try_from(file_bytes(size_bytes)).is_ok();
    if size_bytes == 0 || !size_bytes.is_multiple_of(LARGE_PAGE_SIZE) || !fits {
        return Err(RamFileError::Size { bytes: size_bytes });
    }
    Ok(())
}
