//! This process's memory map, as `/proc` tells it.

use std::ops::ControlFlow;

use procfs::process::{MemoryPageFlags, PageInfo, Process};

use super::smaps::{Mapping, Smaps};
use super::{PAGE_BYTES, WitnessError};
use crate::view::AddressRange;

/// Pages whose entries are read at a time.
const PAGES_AT_ONCE: usize = 1 << 14;

/// Tells whether all these are in mappings that the kernel takes for shared and writable through their files.
///
/// It does not for a shared mapping of a description that is open for reading only: `msync` of such a one
/// writes nothing and reports success (rule D2).
///
/// # Errors
/// [`WitnessError::Proc`].
pub(crate) fn are_shared(ranges: &[AddressRange]) -> Result<bool, WitnessError> {
    let last = ranges.iter().map(|range| range.end()).max().unwrap_or(0);
    // The list is read once for all, and no further than to the last.
    let mut missing: usize = ranges.iter().map(|range| range.bytes()).sum();
    Smaps::of_this_process()?.each(|mapping| {
        for part in ranges
            .iter()
            .filter_map(|range| part(mapping, range.address(), range.end()))
            .filter(|part| part.writes_back)
        {
            missing = missing.saturating_sub(part.end - part.start);
        }
        if mapping.end < last { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(missing == 0)
}

/// Counts the pages of a range that are present and in a locked mapping.
pub(super) fn locked_pages(range: AddressRange) -> Result<u64, WitnessError> {
    let failed = |source| WitnessError::Proc { what: "the page map", source };
    let process = myself()?;
    let mut pagemap = process.pagemap().map_err(failed)?;
    let mut locked = 0;
    for part in overlapping(range)?.iter().filter(|part| part.is_locked) {
        let (mut page, last) = (part.start / PAGE_BYTES, part.end / PAGE_BYTES);
        while page < last {
            let next = last.min(page + PAGES_AT_ONCE);
            let infos = pagemap.get_range_info(page..next).map_err(failed)?;
            locked += u64::try_from(infos.iter().filter(|info| is_present(info)).count()).unwrap_or(u64::MAX);
            page = next;
        }
    }
    Ok(locked)
}

/// Counts the map entries that a range lies in.
pub(super) fn entries(range: AddressRange) -> Result<u64, WitnessError> {
    Ok(u64::try_from(overlapping(range)?.len()).unwrap_or(u64::MAX))
}

/// Returns the bytes that this process has locked.
pub(super) fn vm_lck_bytes() -> Result<u64, WitnessError> {
    let status = myself()?.status().map_err(|source| WitnessError::Proc { what: "the status", source })?;
    Ok(status.vmlck.unwrap_or(0) * 1024)
}

fn myself() -> Result<Process, WitnessError> {
    Process::myself().map_err(|source| WitnessError::Proc { what: "the folder in /proc", source })
}

fn is_present(info: &PageInfo) -> bool {
    matches!(info, PageInfo::MemoryPage(flags) if flags.contains(MemoryPageFlags::PRESENT))
}

/// Returns the parts of mappings that lie in a range, by address.
fn overlapping(range: AddressRange) -> Result<Vec<Mapping>, WitnessError> {
    let mut parts = Vec::new();
    let mut told = range.address();
    Smaps::of_this_process()?.each(|mapping| {
        // A mapping that is joined with the one before while the kernel tells of them is told as a whole, though a part has been told.
        parts.extend(part(mapping, told, range.end()));
        told = told.max(mapping.end);
        if mapping.end < range.end() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(parts)
}

/// Returns the part of a mapping that lies between two addresses; none where there is none.
fn part(mapping: Mapping, first: usize, end: usize) -> Option<Mapping> {
    let (start, end) = (mapping.start.max(first), mapping.end.min(end));
    (start < end).then_some(Mapping { start, end, ..mapping })
}

#[cfg(test)]
mod test {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use vm_memory::FileOffset;
    use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

    use super::{are_shared, entries};
    use crate::sys;
    use crate::view::AddressRange;

    /// Maps a new file of four pages for reading, shared, through a description with or without the right to write.
    fn mapped_through(writable: bool) -> MmapRegion<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        File::create(&path).and_then(|file| file.write_all_at(&[1; 4 * 4096], 0)).expect("a file");
        let file = File::options().read(true).write(writable).open(&path).expect("the file");
        let region = MmapRegionBuilder::new(4 * 4096)
            .with_mmap_prot(libc::PROT_READ)
            .with_mmap_flags(libc::MAP_SHARED)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .expect("a mapping");
        let range = AddressRange::of(&region);
        sys::msync(range).expect("msync reports success either way");
        assert_eq!(entries(range).expect("/proc"), 1);
        region
    }

    #[test]
    fn mapping_is_shared_only_through_a_description_that_can_write() {
        let [good, also, bad] = [true, true, false].map(mapped_through);
        let [good, also, bad] = [&good, &also, &bad].map(AddressRange::of);
        let are_shared = |ranges: &[AddressRange]| are_shared(ranges).expect("/proc");
        assert!(are_shared(&[good]) && are_shared(&[also, good]));
        for ranges in [&[bad][..], &[good, bad], &[bad, also, good]] {
            assert!(!are_shared(ranges), "msync through such a view writes nothing (D2)");
        }
    }
}
