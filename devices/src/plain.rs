//! The plain system calls on a mapping of one's own: what the services are held against where they are measured.
//!
//! A [`PlainMapping`] is what a program without wirevm would use: one shared mapping, one call for each range, and no advice unless it is
//! asked for.

use std::fs::File;
use std::io;

use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};
use wirevm_abi::PAGE_SIZE;

use crate::page_run::PageRun;
use crate::ramfile::RamFile;
use crate::sys;
use crate::view::AddressRange;

/// Whether the kernel is told how a mapping will be used, before anything touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainAdvice {
    /// It is told nothing: faults read around themselves as the kernel sees fit.
    None,
    /// Access is random: faults bring in single pages.
    Random,
}

/// One shared, writable mapping of part of a file, through a description of its own.
#[derive(Debug)]
pub struct PlainMapping {
    region: MmapRegion<()>,
    file: File,
    offset: u64,
}

impl PlainMapping {
    /// Maps `bytes` bytes (whole pages) of a file from byte `offset` on.
    ///
    /// # Errors
    /// When the file can't be opened again or mapped, or the advice is refused.
    pub fn new(file: &File, offset: u64, bytes: u64, advice: PlainAdvice) -> io::Result<Self> {
        let [mapped, file] = [sys::reopen(file)?, sys::reopen(file)?];
        let size = usize::try_from(bytes).map_err(io::Error::other)?;
        let region = MmapRegion::from_file(FileOffset::new(mapped, offset), size).map_err(io::Error::other)?;
        if advice == PlainAdvice::Random {
            sys::advise_random(AddressRange::of(&region))?;
        }
        Ok(Self { region, file, offset })
    }

    /// Maps the image of a RAM file.
    ///
    /// # Errors
    /// As [`PlainMapping::new`].
    pub fn of_ram(ram: &RamFile, advice: PlainAdvice) -> io::Result<Self> {
        Self::new(ram.file(), ram.data_offset(), ram.size_bytes(), advice)
    }

    /// Returns the number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.region.size() as u64 / PAGE_SIZE
    }

    /// Locks a run, reading it in.
    ///
    /// # Errors
    /// What `mlock` says; an error of its own for a run outside the mapping.
    ///
    /// # Partial effects
    /// On error any of the run's pages may be locked.
    pub fn mlock(&self, run: PageRun) -> io::Result<()> {
        sys::mlock(self.addresses_of(run)?)
    }

    /// Reads a run in and locks it then.
    ///
    /// # Errors
    /// What `madvise(MADV_POPULATE_READ)` or `mlock` says; an error of its own for a run outside the mapping.
    ///
    /// # Partial effects
    /// On error any of the run's pages may be locked.
    pub fn populate_and_mlock(&self, run: PageRun) -> io::Result<()> {
        let range = self.addresses_of(run)?;
        sys::populate_read(range)?;
        sys::mlock(range)
    }

    /// Unlocks a run.
    ///
    /// # Errors
    /// What `munlock` says; an error of its own for a run outside the mapping.
    ///
    /// # Partial effects
    /// On error any of the run's pages may still be locked.
    pub fn munlock(&self, run: PageRun) -> io::Result<()> {
        sys::munlock(self.addresses_of(run)?)
    }

    /// Reads a run in.
    ///
    /// # Errors
    /// What `madvise(MADV_POPULATE_READ)` says; an error of its own for a run outside the mapping.
    pub fn populate(&self, run: PageRun) -> io::Result<()> {
        sys::populate_read(self.addresses_of(run)?)
    }

    /// Makes a run's pages stable.
    ///
    /// # Errors
    /// What `msync(MS_SYNC)` says; an error of its own for a run outside the mapping.
    pub fn msync(&self, run: PageRun) -> io::Result<()> {
        sys::msync(self.addresses_of(run)?)
    }

    /// Makes all of the file's data stable, as a host does that can't tell ranges apart.
    ///
    /// # Errors
    /// What `fdatasync` says.
    pub fn flush_file(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Stores a word to the start of each page of a run through the mapping, as a guest does.
    ///
    /// # Errors
    /// An error of its own for a run outside the mapping.
    pub fn store(&self, run: PageRun, word: u64) -> io::Result<()> {
        for page in run.first()..run.end() {
            let offset = usize::try_from(page * PAGE_SIZE).map_err(io::Error::other)?;
            self.region.as_volatile_slice().write_obj(word, offset).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Loads the word at the start of a page.
    ///
    /// # Errors
    /// An error of its own for a page outside the mapping.
    pub fn load(&self, page: u64) -> io::Result<u64> {
        let offset = usize::try_from(page * PAGE_SIZE).map_err(io::Error::other)?;
        self.region.as_volatile_slice().read_obj(offset).map_err(io::Error::other)
    }

    /// Reads the word at the start of a page from the file, past the mapping.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn load_from_file(&self, page: u64) -> io::Result<u64> {
        use std::os::unix::fs::FileExt;
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, self.offset + page * PAGE_SIZE)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Tells how many of a run's pages are in memory.
    ///
    /// # Errors
    /// What `mincore` says; an error of its own for a run outside the mapping.
    pub fn resident(&self, run: PageRun) -> io::Result<u64> {
        let pages = sys::mincore(self.addresses_of(run)?)?;
        Ok(pages.iter().map(|page| u64::from(page & 1)).sum())
    }

    fn addresses_of(&self, run: PageRun) -> io::Result<AddressRange> {
        AddressRange::of(&self.region).part(run).ok_or_else(|| {
            let reason = format!("pages {run} lie outside a mapping of {} pages", self.pages());
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })
    }
}

/// Writes out what is dirty of a file, and has the kernel drop from its cache all pages that nobody has mapped.
///
/// # Errors
/// What the kernel said.
pub fn drop_cache(file: &File) -> io::Result<()> {
    file.sync_data()?;
    sys::drop_clean_cache(file)
}

/// Gives the memory of a file without a disk back to the host: it reads as zeros then.
///
/// # Errors
/// What the kernel said.
pub fn drop_memory(file: &File, bytes: u64) -> io::Result<()> {
    sys::punch_hole(file, 0, bytes)
}

#[cfg(test)]
mod test {
    use super::{PlainAdvice, PlainMapping, drop_memory};
    use crate::page_run::PageRun;
    use crate::ramfile::RamFile;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn stores_reach_the_file_and_runs_outside_are_refused() {
        let ram = RamFile::memfd(2 << 20).expect("a memfd");
        for advice in [PlainAdvice::None, PlainAdvice::Random] {
            let plain = PlainMapping::of_ram(&ram, advice).expect("a mapping");
            assert_eq!(plain.pages(), 512);
            plain.store(run(3, 5), 0x5a).expect("inside");
            assert_eq!([2, 3, 4, 5].map(|page| plain.load(page).expect("inside")), [0, 0x5a, 0x5a, 0]);
            assert_eq!(plain.load_from_file(4).expect("inside"), 0x5a);
            plain.mlock(run(500, 513)).expect_err("outside");
            plain.store(run(511, 513), 1).expect_err("outside");
        }
    }

    #[test]
    fn memory_that_is_dropped_reads_as_zeros() {
        let ram = RamFile::memfd(2 << 20).expect("a memfd");
        let plain = PlainMapping::of_ram(&ram, PlainAdvice::None).expect("a mapping");
        plain.store(run(0, 4), 7).expect("inside");
        assert_eq!(plain.resident(run(0, 8)).expect("inside"), 4);
        drop_memory(ram.file(), ram.size_bytes()).expect("memory given back");
        assert_eq!(plain.resident(run(0, 8)).expect("inside"), 0);
        assert_eq!(plain.load(1).expect("inside"), 0);
    }
}
