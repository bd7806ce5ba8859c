//! Making a RAM file: nothing is ready before everything is stable, and a failure leaves nothing (rule D6).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extents;
use super::file_system::{self, FileSystemKind};
use super::superblock::{HEADER_BYTES, RamState, Superblock};
use super::{Header, PreviousEnd, RamFile, RamFileError, check_request, copy_offset, file_bytes};
use crate::durability::Durability;
use crate::folio::FolioPolicy;
use crate::sys;

/// Bytes of zeros that one write brings. The allocator keeps a larger buffer once it has seen one: memory for nothing.
const ZEROS: usize = 64 << 10;
/// Bytes of the largest folio.
const LARGE_PAGE: usize = 2 << 20;
/// Mode of the file: its owner's alone.
const MODE: u32 = 0o600;

/// A file that is not ready: its name is removed when this is dropped.
#[derive(Debug)]
struct Partial {
    name: Option<PathBuf>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = fs::remove_file(name)
        {
            log::warn!("cannot remove the unfinished RAM file '{}': {error}", name.display());
        }
    }
}

/// Everything that is known before anything is made.
struct Plan<'a> {
    path: &'a Path,
    directory: PathBuf,
    open_directory: File,
    size_bytes: u64,
    durability: Durability,
    folio: FolioPolicy,
    kind: Option<FileSystemKind>,
}

/// See [`RamFile::create`].
pub(super) fn create(
    path: &Path,
    size_bytes: u64,
    durability: Durability,
    folio: FolioPolicy,
) -> Result<RamFile, RamFileError> {
    // A slash at the end asks for a folder.
    if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(RamFileError::NoName { path: path.to_owned() });
    }
    let plan = Plan::new(path, parent(path), size_bytes, (durability, folio))?;
    match path.symlink_metadata() {
        Ok(_) => return Err(RamFileError::Exists { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // No name that a file can have here, so don't fill one only to find out.
        Err(source) => return Err(io_error("make", path)(source)),
    }
    let (file, mut partial) = plan.open_new()?;
    let superblock = plan.fill(&file)?;
    let temporary = partial.name.clone().unwrap_or_default();
    sys::rename_no_replace(&temporary, path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => RamFileError::Exists { path: path.to_owned() },
        _ => io_error("rename into place", path)(source),
    })?;
    // It has its name, but the name is not stable yet: until it is, this one is removed on failure.
    partial.name = Some(path.to_owned());
    plan.open_directory.sync_all().map_err(io_error("sync the folder of", path))?;
    partial.name = None;
    Ok(plan.ready(file, superblock))
}

/// See [`RamFile::temporary`].
pub(super) fn temporary(directory: &Path, size_bytes: u64, folio: FolioPolicy) -> Result<RamFile, RamFileError> {
    let plan = Plan::new(directory, directory, size_bytes, (Durability::Shared, folio))?;
    let (file, mut partial) = plan.open_new()?;
    let name = partial.name.take().unwrap_or_default();
    fs::remove_file(&name).map_err(io_error("remove the name of", &name))?;
    let superblock = plan.fill(&file)?;
    Ok(plan.ready(file, superblock))
}

impl<'a> Plan<'a> {
    /// Checks all that can be checked before a file is made.
    fn new(
        path: &'a Path,
        directory: &Path,
        size_bytes: u64,
        (durability, folio): (Durability, FolioPolicy),
    ) -> Result<Self, RamFileError> {
        check_request(size_bytes, durability)?;
        let open_directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(directory)
            .map_err(io_error("open the folder", directory))?;
        let kind = match durability {
            Durability::Shared => Some(file_system::durable_kind(&open_directory, directory)?),
            Durability::None | Durability::Atomic => None,
        };
        file_system::require_space(&open_directory, path, file_bytes(size_bytes))?;
        Ok(Self { path, directory: directory.to_owned(), open_directory, size_bytes, durability, folio, kind })
    }

    /// Makes and locks an empty file under a temporary name that nothing has.
    fn open_new(&self) -> Result<(File, Partial), RamFileError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = self.directory.join(format!(".wirevm-{}-{serial}.part", std::process::id()));
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(MODE)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&temporary);
            match opened {
                // Left by a killed process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io_error("make", &temporary)(source)),
                Ok(file) => {
                    let partial = Partial { name: Some(temporary) };
                    if !sys::try_lock_whole(&file).map_err(io_error("lock", self.path))? {
                        return Err(RamFileError::InUse { path: self.path.to_owned() });
                    }
                    return Ok((file, partial));
                }
            }
        }
    }

    /// Allocates and writes every block, the header last, and makes the file stable.
    fn fill(&self, file: &File) -> Result<Superblock, RamFileError> {
        if let Some(kind) = self.kind {
            file_system::prepare(kind, file, self.path)?;
        }
        let bytes = file_bytes(self.size_bytes);
        match sys::fallocate(file, bytes) {
            // Without durability the zeros below are enough; `require_allocated` has the last word.
            Err(error) if self.kind.is_none() && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => result.map_err(io_error("allocate blocks for", self.path))?,
        }
        write_zeros(file, bytes, self.folio).map_err(io_error("write zeros to", self.path))?;
        let superblock = Superblock {
            generation: 1,
            ram_bytes: self.size_bytes,
            data_offset: HEADER_BYTES,
            durability: self.durability,
            state: RamState::Fresh,
        };
        file.write_all_at(&superblock.encode(), copy_offset(0)).map_err(io_error("write the header of", self.path))?;
        file.sync_all().map_err(io_error("sync", self.path))?;
        let path = self.path;
        extents::require_allocated(file, bytes)
            .map_err(|source| RamFileError::Extents { path: path.to_owned(), source })?;
        if !self.folio.keeps_what_was_written() {
            // What the writes left in the cache is in large pieces, and a small sync would write a whole one (D7).
            sys::drop_clean_cache(file).map_err(io_error("drop the cache of", self.path))?;
        }
        Ok(superblock)
    }

    fn ready(&self, file: File, superblock: Superblock) -> RamFile {
        RamFile {
            file,
            path: self.path.to_owned(),
            size_bytes: self.size_bytes,
            data_offset: HEADER_BYTES,
            durability: self.durability,
            folio: self.folio,
            previous_end: PreviousEnd::Fresh,
            header: Some(Mutex::new(Header { copy: 0, superblock })),
        }
    }
}

/// Writes zeros from the start of a file, in pieces that are as large as its folios should be: a write makes no larger ones.
fn write_zeros(mut file: &File, bytes: u64, folio: FolioPolicy) -> io::Result<()> {
    let zeros = vec![0_u8; ZEROS];
    let pieces = match folio {
        FolioPolicy::SmallSync | FolioPolicy::Balanced => 1,
        FolioPolicy::Bulk => LARGE_PAGE / ZEROS,
    };
    file.rewind()?;
    let mut left = bytes;
    while left > 0 {
        // Each slice is the same zeros. All but the last write are whole, for a file is a multiple of the largest.
        let slices = vec![IoSlice::new(&zeros); pieces];
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let written = match most < ZEROS * pieces {
            true => file.write(zeros.get(..most).unwrap_or(&zeros)),
            false => file.write_vectored(&slices),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left -= u64::try_from(written).unwrap_or(left).min(left),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the folder that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RamFileError {
    move |source| RamFileError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::parent;

    #[test]
    fn parent_of_a_bare_name_is_the_current_folder() {
        assert_eq!(parent(Path::new("guest.ram")), Path::new("."));
        assert_eq!(parent(Path::new("a/guest.ram")), Path::new("a"));
        assert_eq!(parent(Path::new("/guest.ram")), Path::new("/"));
    }
}
