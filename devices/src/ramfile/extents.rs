//! Whether a file's blocks are all there and all its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::sys::{self, EXTENT_LAST, EXTENT_SHARED, EXTENT_UNWRITTEN};

/// Bytes in a unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// Error of a file whose blocks can't serve as guest RAM.
#[derive(Debug, thiserror::Error)]
pub enum ExtentsError {
    /// Fewer blocks than bytes: a store to a hole can find the disk full.
    #[error(
        "it is sparse: {allocated_bytes} of {need_bytes} bytes have blocks, and a store to a hole can find the disk full"
    )]
    Sparse {
        /// Bytes with blocks.
        allocated_bytes: u64,
        /// Bytes that need them.
        need_bytes: u64,
    },
    /// A block that another file shares: a store to it needs a new block.
    #[error(
        "its blocks at byte {offset} are shared with another file (a reflink or snapshot); copy it with `cp --reflink=never`"
    )]
    Shared {
        /// First byte of the extent.
        offset: u64,
    },
    /// Blocks that were allocated but never written: a sync there must change metadata.
    #[error("its blocks at byte {offset} are allocated but were never written")]
    Unwritten {
        /// First byte of the extent.
        offset: u64,
    },
    /// The file could not be asked.
    #[error("its blocks cannot be listed")]
    List(#[source] io::Error),
}

/// Fails when the file has fewer blocks than `need_bytes` bytes take.
pub(super) fn require_allocated(file: &File, need_bytes: u64) -> Result<(), ExtentsError> {
    let blocks = file.metadata().map_err(ExtentsError::List)?.blocks();
    let allocated_bytes = blocks.saturating_mul(STAT_BLOCK_BYTES);
    if allocated_bytes < need_bytes {
        return Err(ExtentsError::Sparse { allocated_bytes, need_bytes });
    }
    Ok(())
}

/// Fails unless the first `need_bytes` bytes are in blocks that were written and belong to this file alone.
pub(super) fn require_own_and_written(file: &File, need_bytes: u64) -> Result<(), ExtentsError> {
    let mut offset = 0;
    while offset < need_bytes {
        let extents = sys::extents(file, offset).map_err(ExtentsError::List)?;
        let start = offset;
        for extent in &extents {
            if extent.logical > offset {
                return Err(ExtentsError::Sparse { allocated_bytes: offset, need_bytes });
            }
            if extent.flags & EXTENT_SHARED != 0 {
                return Err(ExtentsError::Shared { offset: extent.logical });
            }
            if extent.flags & EXTENT_UNWRITTEN != 0 && extent.logical < need_bytes {
                return Err(ExtentsError::Unwritten { offset: extent.logical });
            }
            offset = offset.max(extent.logical.saturating_add(extent.length));
            if extent.flags & EXTENT_LAST != 0 {
                break;
            }
        }
        if offset == start {
            return Err(ExtentsError::Sparse { allocated_bytes: offset, need_bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use tempfile::TempDir;

    use super::{ExtentsError, require_allocated, require_own_and_written};
    use crate::sys;

    const BYTES: u64 = 1 << 20;

    /// Makes a folder and a file of written blocks in it, or says why the test can't run.
    fn written() -> Option<(TempDir, File)> {
        let folder = match std::env::var_os("WIREVM_TEST_FOLDER") {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        };
        let folder = folder.expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, vec![1; usize::try_from(BYTES).expect("small")]).expect("a file");
        let file = File::options().read(true).write(true).open(&path).expect("the file");
        file.sync_all().expect("synced");
        match require_own_and_written(&file, BYTES) {
            Ok(()) => Some((folder, file)),
            Err(error) => {
                eprintln!("SKIPPED: the temporary folder's file system does not list extents: {error}");
                None
            }
        }
    }

    #[test]
    fn extents_hole_is_sparse() {
        let Some((_folder, file)) = written() else { return };
        require_allocated(&file, BYTES).expect("all blocks are there");
        file.set_len(2 * BYTES).expect("longer");
        file.write_all_at(&[1], 2 * BYTES - 1).expect("a block at the end");
        let holed = require_own_and_written(&file, 2 * BYTES).expect_err("a hole");
        assert!(matches!(holed, ExtentsError::Sparse { allocated_bytes: BYTES, .. }), "{holed:?}");
        let short = require_allocated(&file, 2 * BYTES).expect_err("too few blocks");
        assert!(matches!(short, ExtentsError::Sparse { .. }), "{short:?}");
    }

    #[test]
    fn extents_allocated_and_never_written_are_told() {
        let Some((_folder, file)) = written() else { return };
        sys::fallocate(&file, 2 * BYTES).expect("allocated");
        require_allocated(&file, 2 * BYTES).expect("all blocks are there");
        require_own_and_written(&file, BYTES).expect("the first half was written");
        let error = require_own_and_written(&file, 2 * BYTES).expect_err("the second half was not");
        assert!(matches!(error, ExtentsError::Unwritten { offset: BYTES }), "{error:?}");
    }

    #[test]
    fn extents_many_pieces_are_all_looked_at() {
        let Some((folder, _)) = written() else { return };
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("pieces"));
        let file = file.expect("a file");
        sys::fallocate(&file, BYTES).expect("allocated");
        for block in 0..BYTES / 8192 {
            file.write_all_at(&[1; 4096], block * 8192).expect("every second block");
        }
        file.sync_all().expect("synced");
        let unwritten = require_own_and_written(&file, BYTES).expect_err("every second block");
        assert!(matches!(unwritten, ExtentsError::Unwritten { offset: 4096 }), "{unwritten:?}");
        for block in 0..BYTES / 8192 {
            file.write_all_at(&[1; 4096], block * 8192 + 4096).expect("the others");
        }
        require_own_and_written(&file, BYTES).expect("all written, in however many pieces");
    }

    #[test]
    fn extents_shared_by_a_reflink_are_told() {
        let Some((folder, file)) = written() else { return };
        let (path, copy) = (folder.path().join("file"), folder.path().join("copy"));
        let output = Command::new("cp").arg("--reflink=always").args([&path, &copy]).output().expect("cp runs");
        if !output.status.success() {
            eprintln!("SKIPPED: no reflinks here: {}", String::from_utf8_lossy(&output.stderr).trim());
            return;
        }
        let error = require_own_and_written(&file, BYTES).expect_err("shared with the copy");
        assert!(matches!(error, ExtentsError::Shared { .. }), "{error:?}");
    }
}
