//! This process's memory map, as `/proc` tells it.

use procfs::process::{MemoryMap, MemoryPageFlags, PageInfo, Process, VmFlags};

use super::{PAGE_BYTES, WitnessError};
use crate::view::AddressRange;

/// Pages whose entries are read at a time.
const PAGES_AT_ONCE: usize = 1 << 14;

/// The part of a mapping that lies in a range.
struct Part {
    start: usize,
    end: usize,
    flags: VmFlags,
}

/// Tells whether a mapping is one that the kernel takes for shared and writable through its file.
///
/// It does not for a shared mapping of a description that is open for reading only: `msync` of such a one
/// writes nothing and reports success (rule D2).
///
/// # Errors
/// [`WitnessError::Proc`].
pub(crate) fn is_shared(range: AddressRange) -> Result<bool, WitnessError> {
    let parts = overlapping(range)?;
    let covered: usize = parts.iter().map(|part| part.end - part.start).sum();
    Ok(covered == range.bytes() && parts.iter().all(|part| part.flags.contains(VmFlags::SH)))
}

/// Counts the pages of a range that are present and in a locked mapping.
pub(super) fn locked_pages(range: AddressRange) -> Result<u64, WitnessError> {
    let failed = |source| WitnessError::Proc { what: "the page map", source };
    let process = myself()?;
    let mut pagemap = process.pagemap().map_err(failed)?;
    let mut locked = 0;
    for part in overlapping(range)?.iter().filter(|part| part.flags.contains(VmFlags::LO)) {
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

/// Returns the resident bytes of all mappings but those of the file with that inode number.
pub(super) fn resident_besides(inode: u64) -> Result<u64, WitnessError> {
    let maps = myself()?.smaps().map_err(|source| WitnessError::Proc { what: "the memory map", source })?;
    let others = maps.into_iter().filter(|map| map.inode != inode);
    Ok(others.filter_map(|map| map.extension.map.get("Rss").copied()).sum())
}

fn myself() -> Result<Process, WitnessError> {
    Process::myself().map_err(|source| WitnessError::Proc { what: "the folder in /proc", source })
}

fn is_present(info: &PageInfo) -> bool {
    matches!(info, PageInfo::MemoryPage(flags) if flags.contains(MemoryPageFlags::PRESENT))
}

/// Returns the parts of mappings that lie in a range.
fn overlapping(range: AddressRange) -> Result<Vec<Part>, WitnessError> {
    let maps = myself()?.smaps().map_err(|source| WitnessError::Proc { what: "the memory map", source })?;
    let part = |map: MemoryMap| {
        let start = usize::try_from(map.address.0).ok()?.max(range.address());
        let end = usize::try_from(map.address.1).ok()?.min(range.end());
        (start < end).then_some(Part { start, end, flags: map.extension.vm_flags })
    };
    Ok(maps.into_iter().filter_map(part).collect())
}

#[cfg(test)]
mod test {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use vm_memory::FileOffset;
    use vm_memory::mmap::MmapRegionBuilder;

    use super::{entries, is_shared};
    use crate::sys;
    use crate::view::AddressRange;

    /// Maps a new file of four pages for reading, shared, through a description with or without the right to write.
    fn is_shared_through(writable: bool) -> bool {
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
        is_shared(range).expect("/proc")
    }

    #[test]
    fn is_shared_only_through_a_description_that_can_write() {
        assert!(is_shared_through(true));
        assert!(!is_shared_through(false), "msync through such a view writes nothing (D2)");
    }
}
