//! Opening a RAM file: everything that would make its promises false is refused.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use super::extents::{self, ExtentsError};
use super::file_system;
use super::superblock::{COPIES, COPY_BYTES, HEADER_BYTES, Superblock, SuperblockError};
use super::{Header, RamFile, RamFileError, check_size, copy_offset, file_bytes};
use crate::durability::Durability;
use crate::folio::FolioPolicy;
use crate::sys;

/// See [`RamFile::open`].
pub(super) fn open(path: &Path, expected_bytes: Option<u64>, folio: FolioPolicy) -> Result<RamFile, RamFileError> {
    let file = open_regular(path, true)?;
    if !sys::try_lock_whole(&file).map_err(|source| io_error("lock", path, source))? {
        return Err(RamFileError::InUse { path: path.to_owned() });
    }
    let (copy, superblock) = read_header(&file, path)?;
    check_length(&file, path, &superblock)?;
    if let Some(asked_bytes) = expected_bytes.filter(|asked| *asked != superblock.ram_bytes) {
        let found_bytes = superblock.ram_bytes;
        return Err(RamFileError::OtherSize { path: path.to_owned(), found_bytes, asked_bytes });
    }
    check_blocks(&file, path, &superblock)?;
    if superblock.durability == Durability::Shared && folio.is_read_by_pages() {
        // Readers of the file may have left large pieces in the cache (D7).
        sys::drop_clean_cache(&file).map_err(|source| io_error("drop the cache of", path, source))?;
    }
    Ok(RamFile {
        file,
        path: path.to_owned(),
        size_bytes: superblock.ram_bytes,
        data_offset: superblock.data_offset,
        durability: superblock.durability,
        folio,
        previous_end: superblock.state.into(),
        header: Some(Mutex::new(Header { copy, superblock })),
    })
}

pub(super) fn open_regular(path: &Path, write: bool) -> Result<File, RamFileError> {
    let not_regular = || RamFileError::NotRegular { path: path.to_owned() };
    // O_NONBLOCK: a pipe or device must not hold us up before we see that it is one.
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => not_regular(),
            _ => io_error("open", path, source),
        })?;
    let metadata = file.metadata().map_err(|source| io_error("look at", path, source))?;
    if metadata.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Reads the superblock that holds and checks what every image must have.
pub(super) fn read_header(file: &File, path: &Path) -> Result<(usize, Superblock), RamFileError> {
    let wrong = |source| RamFileError::Superblock { path: path.to_owned(), source };
    let mut copies = [const { Vec::new() }; COPIES];
    for (copy, block) in copies.iter_mut().enumerate() {
        *block = read_copy(file, copy_offset(copy)).map_err(|source| io_error("read", path, source))?;
    }
    let (copy, superblock) = Superblock::newest(copies.each_ref().map(Vec::as_slice)).map_err(wrong)?;
    if superblock.data_offset != HEADER_BYTES {
        return Err(wrong(SuperblockError::Word { name: "data offset", value: superblock.data_offset }));
    }
    if superblock.durability == Durability::Atomic {
        return Err(RamFileError::AtomicUnavailable);
    }
    check_size(superblock.ram_bytes)?;
    Ok((copy, superblock))
}

/// Checks that the file is as long as its header says.
pub(super) fn check_length(file: &File, path: &Path, superblock: &Superblock) -> Result<(), RamFileError> {
    let need_bytes = file_bytes(superblock.ram_bytes);
    let have_bytes = file.metadata().map_err(|source| io_error("look at", path, source))?.len();
    if have_bytes == need_bytes {
        return Ok(());
    }
    Err(RamFileError::Length { path: path.to_owned(), have_bytes, need_bytes })
}

/// Reads one copy; a file that ends before it gives fewer bytes.
fn read_copy(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; usize::try_from(COPY_BYTES).unwrap_or(0)];
    match file.read_exact_at(&mut block, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        result => result.map(|()| block),
    }
}

/// Checks that a store to RAM can't find the disk full and that a sync needs no metadata.
fn check_blocks(file: &File, path: &Path, superblock: &Superblock) -> Result<(), RamFileError> {
    let bytes = file_bytes(superblock.ram_bytes);
    let unfit = |source| RamFileError::Extents { path: path.to_owned(), source };
    extents::require_allocated(file, bytes).map_err(unfit)?;
    if superblock.durability == Durability::Shared {
        let kind = file_system::durable_kind(file, path)?;
        file_system::require_prepared(kind, file, path)?;
        return extents::require_own_and_written(file, bytes).map_err(unfit);
    }
    match extents::require_own_and_written(file, bytes) {
        // A file system that can't list them has no durable promise to keep here.
        Err(ExtentsError::List(_)) => Ok(()),
        result => result.map_err(unfit),
    }
}

pub(super) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> RamFileError {
    RamFileError::Io { operation, path: path.to_owned(), source }
}
