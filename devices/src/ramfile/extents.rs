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
