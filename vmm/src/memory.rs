//! Guest RAM as KVM sees it: one writable shared mapping, view A, that is never split.
#![expect(unsafe_code, reason = "copies that must not fault, and advice on the mapping")]
// UNSAFETY: two system calls on a mapping that this module owns for as long as it lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, RamRange};
use wirevm_devices::guest_memory::{BackingLostError, GuestMemory};
use wirevm_devices::last_words::{self, Watched};
use wirevm_devices::ramfile::{RamFile, RamFileError};
use wirevm_devices::view::AddressRange;
use wirevm_devices::witness::{self, FolioPages, WitnessError};

/// Setting up guest RAM failed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The RAM file could not be opened for the mapping.
    #[error("the RAM file cannot be opened again for the guest's mapping")]
    Reopen(#[source] RamFileError),
    /// The mapping failed.
    #[error("{bytes} bytes of guest RAM cannot be mapped")]
    Map {
        /// Size of RAM.
        bytes: u64,
        /// Why.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// RAM does not fit into the guest's address space.
    #[error("{bytes} bytes of guest RAM do not fit above the guest's device space")]
    TooLarge {
        /// Size of RAM.
        bytes: u64,
    },
    /// The kernel refused advice on the mapping.
    #[error("the kernel refuses advice on the mapping of guest RAM")]
    Advice(#[source] io::Error),
}

/// View A.
#[derive(Debug)]
pub struct GuestRam {
    mmap: GuestMemoryMmap<()>,
    file: Arc<File>,
    data_offset: u64,
    pages: u64,
    /// Names the page where the memory behind one is gone.
    _watched: Watched,
}

impl GuestRam {
    /// Maps the RAM file's image for the guest.
    ///
    /// # Errors
    /// [`MemoryError`] when the file cannot be opened or mapped.
    pub fn map(ram: &RamFile) -> Result<Self, MemoryError> {
        let bytes = ram.size_bytes();
        let too_large = || MemoryError::TooLarge { bytes };
        let size = usize::try_from(bytes).map_err(|_| too_large())?;
        let file = Arc::new(ram.reopen().map_err(MemoryError::Reopen)?);
        let offset = FileOffset::from_arc(Arc::clone(&file), ram.data_offset());
        let region = MmapRegion::from_file(offset, size).map_err(|source| MemoryError::Map { bytes, source })?;
        if ram.is_read_by_pages() {
            // Given before the first touch (rule D7): faults then bring in single pages, so a small sync stays small.
            advise(&region, libc::MADV_RANDOM)?;
        }
        advise(&region, libc::MADV_DONTDUMP)?;
        let watched = last_words::watch(region.as_ptr().expose_provenance(), region.size());
        let region = GuestRegionMmap::new(region, GuestAddress(RAM_BASE)).ok_or_else(too_large)?;
        let mmap = GuestMemoryMmap::from_regions(vec![region]).map_err(|_| too_large())?;
        Ok(Self { mmap, file, data_offset: ram.data_offset(), pages: ram.pages(), _watched: watched })
    }

    /// Returns the number of RAM pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns RAM for loaders that write through `vm-memory`, before the guest runs.
    #[must_use]
    pub const fn loader(&self) -> &GuestMemoryMmap<()> {
        &self.mmap
    }

    /// Counts the first `pages` pages of RAM, those that are mapped, by the bytes of the page cache's piece that each is in: what a
    /// sync of one of them writes at least. None without the right to know, which takes root. Touches nothing.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn folios(&self, pages: usize) -> Result<Option<FolioPages>, WitnessError> {
        let Some(region) = self.mmap.iter().next() else { return Ok(None) };
        witness::mapped_folios(AddressRange::of(region).up_to_pages(pages))
    }

    /// Returns the address of page 0 in this process and the size in bytes.
    #[must_use]
    pub fn host_range(&self) -> (u64, u64) {
        self.mmap.iter().next().map_or((0, 0), |region| (region.as_ptr().expose_provenance() as u64, region.len()))
    }

    /// Loads the aligned word at a guest-physical address; `None` outside RAM. Where the file was cut short this is
    /// SIGBUS, which [`crate::signal`] turns into its exit code.
    #[must_use]
    pub fn load(&self, address: u64) -> Option<u64> {
        self.mmap.load(GuestAddress(address), Ordering::Acquire).ok()
    }

    /// Stores the aligned word at a guest-physical address; `None` outside RAM.
    #[must_use]
    pub fn store(&self, address: u64, value: u64) -> Option<()> {
        self.mmap.store(value, GuestAddress(address), Ordering::Release).ok()
    }

    /// Returns the guest-physical address of a word of a range; `None` outside of it or not aligned.
    fn word_at(&self, range: RamRange, offset: u64) -> Option<u64> {
        let bytes = range.pages().checked_mul(PAGE_SIZE)?;
        let inside = range.end() <= self.pages && offset.is_multiple_of(8) && offset < bytes;
        inside.then(|| RAM_BASE + range.first() * PAGE_SIZE + offset)
    }
}

fn advise(region: &MmapRegion<()>, advice: libc::c_int) -> Result<(), MemoryError> {
    // SAFETY: the range is exactly one live mapping; neither advice used here changes what it holds.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
    if result == 0 { Ok(()) } else { Err(MemoryError::Advice(io::Error::last_os_error())) }
}

impl GuestMemory for GuestRam {
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        let lost = BackingLostError { page: range.first() };
        if bytes.len() as u64 > range.pages().saturating_mul(PAGE_SIZE) || range.end() > self.pages {
            return Err(lost);
        }
        self.file.read_exact_at(bytes, self.data_offset + range.first() * PAGE_SIZE).map_err(|_| lost)
    }

    fn write(&self, range: RamRange, bytes: &[u8]) -> Result<(), BackingLostError> {
        let lost = BackingLostError { page: range.first() };
        if bytes.len() as u64 > range.pages().saturating_mul(PAGE_SIZE) || range.end() > self.pages {
            return Err(lost);
        }
        // A write to the file could make a cut file longer again; a copy by the kernel into the mapping cannot.
        let (start, _) = self.host_range();
        let to = usize::try_from(start + range.first() * PAGE_SIZE).map_err(|_| lost)?;
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(to), iov_len: bytes.len() };
        // SAFETY: both vectors live through the call; `local` is only read, `bytes.len()` bytes of it; `remote` lies
        // inside the mapping of guest RAM (checked above), which no Rust reference covers; a page without memory
        // behind it is EFAULT, not a signal.
        let copied = unsafe { libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        if usize::try_from(copied) == Ok(bytes.len()) {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if copied < 0 && error.raw_os_error() != Some(libc::EFAULT) {
            log::error!("this host does not let process_vm_writev write guest RAM: {error}");
        }
        Err(lost)
    }

    fn load_word(&self, range: RamRange, offset: u64) -> Result<u64, BackingLostError> {
        self.word_at(range, offset)
            .and_then(|address| self.load(address))
            .ok_or(BackingLostError { page: range.first() })
    }

    fn store_word(&self, range: RamRange, offset: u64, word: u64) -> Result<(), BackingLostError> {
        let stored = self.word_at(range, offset).and_then(|address| self.store(address, word));
        stored.ok_or(BackingLostError { page: range.first() })
    }
}

/// Makes the first `pages` pages of RAM zero before the guest runs, through the file: a page that is stored to, and not written whole, would
/// be read from storage first. They are written one at a time, so that the cache holds them as single pages (rule D7).
///
/// # Errors
/// What the kernel said. Any of the pages may be zero then.
pub fn clear_before_boot(ram: &GuestRam, pages: u64) -> io::Result<()> {
    let zero = [0; 4096];
    (0..pages.min(ram.pages)).try_for_each(|page| ram.file.write_all_at(&zero, ram.data_offset + page * PAGE_SIZE))
}

/// Writes bytes to RAM before the guest runs.
///
/// # Errors
/// [`vm_memory::GuestMemoryError`] when the address is not RAM.
pub fn write_before_boot(ram: &GuestRam, address: u64, bytes: &[u8]) -> Result<(), vm_memory::GuestMemoryError> {
    ram.mmap.write_slice(bytes, GuestAddress(address))
}

#[cfg(test)]
mod test {
    use wirevm_abi::RamRange;
    use wirevm_devices::guest_memory::GuestMemory;
    use wirevm_devices::ramfile::RamFile;

    use super::GuestRam;

    #[test]
    fn words_are_reached_inside_their_range_only() {
        let ram = GuestRam::map(&RamFile::memfd(2 << 20).expect("a memfd")).expect("a mapping");
        let range = RamRange::new(510, 2, 512).expect("inside RAM");
        for offset in [0, 8, 4096, 8184] {
            ram.store_word(range, offset, offset + 1).expect("inside");
            assert_eq!(ram.load_word(range, offset), Ok(offset + 1));
        }
        let mut bytes = [0; 8];
        ram.read(RamRange::new(511, 1, 512).expect("inside RAM"), &mut bytes).expect("there");
        assert_eq!(u64::from_le_bytes(bytes), 4097);
        let beyond = RamRange::new(511, 2, 513).expect("inside a larger RAM");
        for (range, offset) in [(range, 8192), (range, 4), (range, u64::MAX - 7), (beyond, 0)] {
            ram.load_word(range, offset).expect_err("outside");
            ram.store_word(range, offset, 1).expect_err("outside");
        }
    }
}
