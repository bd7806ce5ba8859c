//! The sizes of the page cache's pieces, as `/proc/kpageflags` tells them to whoever may read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use procfs::process::{MemoryPageFlags, PageInfo, Process};
use procfs::{PhysicalPageFlags, ProcError, ProcResult};
use wirevm_abi::LARGE_PAGE_SIZE;

use super::{PAGE_BYTES, WitnessError};
use crate::view::AddressRange;

/// Frames that flags are read of at a time where they are folios: as many as the largest folio has, whose first frame is a multiple of it.
const BLOCK: u64 = LARGE_PAGE_SIZE / 4096;
/// Bytes of a frame's flags.
const FLAG_BYTES: usize = size_of::<u64>();

/// Pages by the bytes of the folio that each is in.
pub type FolioPages = BTreeMap<u64, u64>;

/// The flags of one block of frames.
#[derive(Default)]
struct Block {
    first: u64,
    flags: Vec<PhysicalPageFlags>,
}

/// Reads the flags of frames. (The kernel takes a tenth of a microsecond for each, so no more are read than asked for.)
fn flags_of(file: &File, first: u64, frames: usize) -> io::Result<Vec<PhysicalPageFlags>> {
    let mut bytes = vec![0; frames * FLAG_BYTES];
    file.read_exact_at(&mut bytes, first * FLAG_BYTES as u64)?;
    let words = bytes.as_chunks::<FLAG_BYTES>().0;
    Ok(words.iter().map(|word| PhysicalPageFlags::from_bits_retain(u64::from_ne_bytes(*word))).collect())
}

/// Counts the pages of a range by the size of the folio that each is in; pages that the range does not map are left out. None
/// without the right to know.
///
/// # Errors
/// [`WitnessError::Proc`].
pub(super) fn folio_pages(range: AddressRange) -> Result<Option<FolioPages>, WitnessError> {
    let failed = |source| WitnessError::Proc { what: "the page frames", source };
    match read(range) {
        Ok(pages) => Ok(pages),
        Err(ProcError::PermissionDenied(_) | ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn read(range: AddressRange) -> ProcResult<Option<FolioPages>> {
    let file = File::open("/proc/kpageflags")?;
    let mut pagemap = Process::myself()?.pagemap()?;
    let mut block = Block::default();
    let mut pages = FolioPages::new();
    for info in pagemap.get_range_info(range.address() / PAGE_BYTES..range.end() / PAGE_BYTES)? {
        let PageInfo::MemoryPage(info) = info else { continue };
        if !info.contains(MemoryPageFlags::PRESENT) {
            continue;
        }
        let frame = info.get_page_frame_number().0;
        if frame == 0 {
            // What the kernel shows to whoever may not know.
            return Ok(None);
        }
        let first = frame / BLOCK * BLOCK;
        let is_known = block.first == first && !block.flags.is_empty();
        if !is_known && !flags_of(&file, frame, 1)?.iter().copied().any(is_of_folio) {
            *pages.entry(PAGE_BYTES as u64).or_default() += 1;
            continue;
        }
        if !is_known {
            block = Block { first, flags: flags_of(&file, first, usize::try_from(BLOCK).unwrap_or(usize::MAX))? };
        }
        *pages.entry(folio_bytes(&block.flags, frame - first)).or_default() += 1;
    }
    Ok(Some(pages))
}

/// Tells whether a frame is one of several of a folio.
const fn is_of_folio(flags: PhysicalPageFlags) -> bool {
    flags.intersects(PhysicalPageFlags::COMPOUND_HEAD.union(PhysicalPageFlags::COMPOUND_TAIL))
}

/// Returns the bytes of the folio that a frame of a block is in.
fn folio_bytes(flags: &[PhysicalPageFlags], frame: u64) -> u64 {
    let frame = usize::try_from(frame).unwrap_or(usize::MAX);
    let is_tail = |flags: &PhysicalPageFlags| flags.contains(PhysicalPageFlags::COMPOUND_TAIL);
    let up_to = flags.get(..=frame).unwrap_or(&[]).iter().rev().take_while(|flags| is_tail(flags)).count();
    let behind = flags.get(frame.saturating_add(1)..).unwrap_or(&[]).iter().take_while(|flags| is_tail(flags)).count();
    u64::try_from((up_to + 1 + behind) * PAGE_BYTES).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use procfs::PhysicalPageFlags;

    use super::folio_bytes;

    #[test]
    fn folio_bytes_are_those_of_the_head_and_its_tails() {
        let (single, head, tail) =
            (PhysicalPageFlags::empty(), PhysicalPageFlags::COMPOUND_HEAD, PhysicalPageFlags::COMPOUND_TAIL);
        let flags = [head, tail, head, tail, tail, tail, single, head, tail];
        let found: Vec<_> = (0..9).map(|frame| folio_bytes(&flags, frame) / 4096).collect();
        assert_eq!(found, [2, 2, 4, 4, 4, 4, 1, 2, 2]);
    }
}
