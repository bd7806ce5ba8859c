//! The folder whose files are stores: making, opening and lengthening them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::{PAGE_SIZE, StoreName};

use super::error::{OpenStoreError, StoreStartError};
use super::file::{HostFile, OpenedStore, StoreFolder};
use crate::ramfile;
use crate::ramfile::file_system::{self, FileSystemError, FileSystemKind};
use crate::sys;

/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 1 << 20;
/// Mode of a store's file: its owner's alone.
const MODE: u32 = 0o600;

/// A folder of the host's. It stays the same folder whatever becomes of its name.
#[derive(Debug)]
pub struct HostFolder {
    folder: File,
    /// For messages only.
    path: PathBuf,
}

/// A file that is not ready: its name is removed when this is dropped.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(name) = &self.0
            && let Err(error) = fs::remove_file(name)
        {
            log::warn!("cannot remove the unfinished store '{}': {error}", name.display());
        }
    }
}

/// A store's file as it is reached and as people know it.
struct Place {
    name: StoreName,
    /// Through the open folder, so that no link on the way can lead elsewhere.
    reached: PathBuf,
    /// For messages.
    path: PathBuf,
}

impl Place {
    fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> OpenStoreError {
        let path = self.path.clone();
        move |source| OpenStoreError::Io { operation, path, source }
    }
}

impl HostFolder {
    /// Opens a folder that is there.
    ///
    /// # Errors
    /// [`StoreStartError::Folder`].
    pub fn open(path: &Path) -> Result<Self, StoreStartError> {
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)
            .map_err(|source| StoreStartError::Folder { path: path.to_owned(), source })?;
        Ok(Self { folder, path: path.to_owned() })
    }

    fn reached(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }

    /// Makes a store's file of zeros: nothing has its name before it is stable (rule D6). `None` when another machine was
    /// faster.
    fn create(&self, place: &Place, pages: u64) -> Result<Option<OpenedStore>, OpenStoreError> {
        let kind = durable_kind(&self.folder, &place.path)?;
        let (file, mut partial) = self.open_new(place)?;
        if !sys::try_lock_whole(&file).map_err(place.io("lock"))? {
            return Err(OpenStoreError::InUse { path: place.path.clone() });
        }
        if let Some(kind) = kind {
            file_system::prepare(kind, &file, &place.path)?;
        }
        lengthen(&file, 0, pages * PAGE_SIZE).map_err(place.io("allocate and write blocks for"))?;
        file.sync_all().map_err(place.io("sync"))?;
        let temporary = partial.0.clone().unwrap_or_default();
        match sys::rename_no_replace(&temporary, &place.reached) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            result => result.map_err(place.io("rename into place"))?,
        }
        // It has its name, but the name is not stable yet: until it is, this one is removed on failure.
        partial.0 = Some(place.reached.clone());
        self.folder.sync_all().map_err(place.io("sync the folder of"))?;
        partial.0 = None;
        Ok(Some(OpenedStore { file: Box::new(HostFile(file)), pages, is_durable: kind.is_some() }))
    }

    /// Makes an empty file under a temporary name that nothing has; no store's name begins with a dot.
    fn open_new(&self, place: &Place) -> Result<(File, Partial), OpenStoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = self.reached(&format!(".wirevm-store-{}-{serial}.part", std::process::id()));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
            match options.open(&temporary) {
                // Left by a killed process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    let file = result.map_err(place.io("make"))?;
                    return Ok((file, Partial(Some(temporary))));
                }
            }
        }
    }

    /// Opens a file that is there; `None` when none is.
    fn adopt(place: &Place, pages: u64, allowed_pages: u64) -> Result<Option<OpenedStore>, OpenStoreError> {
        let Some(file) = open_regular(place)? else { return Ok(None) };
        if !sys::try_lock_whole(&file).map_err(place.io("lock"))? {
            return Err(OpenStoreError::InUse { path: place.path.clone() });
        }
        if ramfile::begins_as_ram_file(&file).map_err(place.io("read"))? {
            return Err(OpenStoreError::RamFile { path: place.path.clone() });
        }
        let length = file.metadata().map_err(place.io("look at"))?.len();
        let pages = pages.max(length.div_ceil(PAGE_SIZE));
        check_quota(place.name, pages, allowed_pages)?;
        let kind = durable_kind(&file, &place.path)?;
        let bytes = pages * PAGE_SIZE;
        if length < bytes
            && let Err(error) = lengthen(&file, length, bytes)
        {
            if let Err(error) = file.set_len(length) {
                log::warn!("cannot cut '{}' to its length again: {error}", place.path.display());
            }
            return Err(place.io("allocate and write blocks for")(error));
        }
        // What an earlier machine wrote and nobody synced becomes stable here, or the store does not open. Pages that storage
        // has lost by then are clean in the cache and old on the disk: what is read from now on is what the disk has.
        file.sync_all().map_err(place.io("sync"))?;
        sys::drop_clean_cache(&file).map_err(place.io("drop the cache of"))?;
        Ok(Some(OpenedStore { file: Box::new(HostFile(file)), pages, is_durable: kind.is_some() }))
    }
}

impl StoreFolder for HostFolder {
    fn open(&self, name: StoreName, pages: u64, allowed_pages: u64) -> Result<OpenedStore, OpenStoreError> {
        check_quota(name, pages, allowed_pages)?;
        let place = Place { name, reached: self.reached(name.as_str()), path: self.path.join(name.as_str()) };
        if let Some(opened) = Self::adopt(&place, pages, allowed_pages)? {
            return Ok(opened);
        }
        if let Some(opened) = self.create(&place, pages)? {
            return Ok(opened);
        }
        // Another machine has made it meanwhile, and holds it most likely.
        match Self::adopt(&place, pages, allowed_pages)? {
            Some(opened) => Ok(opened),
            None => Err(place.io("open")(io::Error::from_raw_os_error(libc::ENOENT))),
        }
    }
}

fn check_quota(name: StoreName, pages: u64, allowed_pages: u64) -> Result<(), OpenStoreError> {
    // The largest file's pages, so that no offset below overflows.
    let fits = i64::MAX.cast_unsigned() / PAGE_SIZE;
    if pages > allowed_pages.min(fits) {
        return Err(OpenStoreError::Quota { name, pages, allowed_pages });
    }
    Ok(())
}

/// Opens a regular file for reading and writing; `None` when there is nothing of that name.
fn open_regular(place: &Place) -> Result<Option<File>, OpenStoreError> {
    let not_regular = || OpenStoreError::NotRegular { path: place.path.clone() };
    // O_NONBLOCK: a pipe or device must not hold us up before we see that it is one.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&place.reached) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => Err(not_regular()),
                _ => Err(place.io("open")(error)),
            };
        }
    };
    let metadata = file.metadata().map_err(place.io("look at"))?;
    if metadata.is_file() { Ok(Some(file)) } else { Err(not_regular()) }
}

/// Tells on which durable file system a file or folder is; `None` for one that keeps nothing, or promises nothing.
fn durable_kind(file: &File, path: &Path) -> Result<Option<FileSystemKind>, FileSystemError> {
    let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    let kind = file_system::durable_kind(file, path).and_then(|kind| {
        // A folder's mark says nothing: a new file gets its own.
        if !is_folder {
            file_system::require_prepared(kind, file, path)?;
        }
        Ok(kind)
    });
    match kind {
        Ok(kind) => Ok(Some(kind)),
        Err(FileSystemError::NotDurable { .. } | FileSystemError::CopiedOnWrite { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Allocates and writes zeros from byte `from` to byte `to`, so that a later write there needs no new block.
fn lengthen(file: &File, from: u64, to: u64) -> io::Result<()> {
    match sys::allocate_range(file, from, to - from) {
        // The zeros below are enough.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        result => result?,
    }
    let zeros = vec![0_u8; ZEROS];
    let mut offset = from;
    while offset < to {
        let piece = usize::try_from(to - offset).map_or(ZEROS, |left| left.min(ZEROS));
        file.write_all_at(zeros.get(..piece).unwrap_or(&zeros), offset)?;
        offset += piece as u64;
    }
    Ok(())
}
