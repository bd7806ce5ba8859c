//! Why a store does not open.

use std::io;
use std::path::PathBuf;

use wirevm_abi::{Status, StoreName};

use crate::ramfile::FileSystemError;

/// Error of starting a [`StoreService`](super::StoreService).
#[derive(Debug, thiserror::Error)]
pub enum StoreStartError {
    /// The folder can't be opened.
    #[error("cannot open the folder for stores '{path}'")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be made.
    #[error("cannot start a thread for stores")]
    Thread(#[source] io::Error),
}

/// Error of opening a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// This machine has no folder for stores.
    #[error("this machine has no folder for stores")]
    NoFolder,
    /// It is open already.
    #[error("store '{name}' is open already")]
    Open {
        /// The store.
        name: StoreName,
    },
    /// Another machine uses the file.
    #[error("'{path}' is in use by another machine")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// As many stores are open as may be.
    #[error("{stores} stores are open, and no more may be")]
    Stores {
        /// How many are open.
        stores: usize,
    },
    /// The machine may not have that many pages in stores.
    #[error("store '{name}' has {pages} pages, and {allowed_pages} more may be open")]
    Quota {
        /// The store.
        name: StoreName,
        /// Pages that it has or would have.
        pages: u64,
        /// Pages that it may have.
        allowed_pages: u64,
    },
    /// The name leads to something else than a regular file.
    #[error("'{path}' is not a regular file (a symbolic link does not count as one)")]
    NotRegular {
        /// The name.
        path: PathBuf,
    },
    /// The file is some machine's RAM.
    #[error("'{path}' is a RAM file, and no store")]
    RamFile {
        /// The file.
        path: PathBuf,
    },
    /// The file system could not be asked.
    #[error(transparent)]
    FileSystem(#[from] FileSystemError),
    /// A file operation failed.
    #[error("cannot {operation} '{path}'")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl OpenStoreError {
    /// Returns what the guest is told.
    pub const fn status(&self) -> Status {
        match self {
            Self::NoFolder => Status::UNSUPPORTED,
            Self::Open { .. } | Self::InUse { .. } => Status::BUSY,
            Self::Stores { .. } | Self::Quota { .. } => Status::QUOTA,
            Self::NotRegular { .. } | Self::RamFile { .. } | Self::FileSystem(_) | Self::Io { .. } => Status::IO_ERROR,
        }
    }
}
