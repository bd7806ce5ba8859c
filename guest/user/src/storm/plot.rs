//! Memory with a record of what it must hold.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::Trouble;
use crate::random::Random;
use crate::{KernReturn, Mode, Object, PAGE_BYTES, Prot, Region, posix};

/// What one page must hold and permits.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// What its first and last word are; 0 where nothing was written.
    value: u64,
    prot: Prot,
    /// It was stored to and not synchronized since.
    is_stored: bool,
}

impl Page {
    const FRESH: Self = Self { value: 0, prot: Prot::READ_WRITE, is_stored: false };
}

/// Some pages.
#[derive(Debug)]
pub(super) struct Plot {
    region: Region,
    pages: Vec<Page>,
}

impl Plot {
    pub(super) fn new(pages: usize) -> Result<Self, KernReturn> {
        let region = Region::allocate(pages * PAGE_BYTES)?;
        Ok(Self { region, pages: vec![Page::FRESH; pages] })
    }

    /// Maps pages of an object, whatever they hold: nothing is known of them until each was [overwritten](Self::overwrite).
    pub(super) fn of_object(object: &Object, pages: usize) -> Result<Self, KernReturn> {
        let region = Region::map(object, 0, pages as u64, Prot::READ_WRITE, Mode::Shared)?;
        Ok(Self { region, pages: vec![Page::FRESH; pages] })
    }

    /// Gives the mapping back and maps the object again, which must hold what it held.
    pub(super) fn map_again(self, object: &Object) -> Result<Self, KernReturn> {
        let Self { region, pages } = self;
        drop(region);
        let fresh = Self::of_object(object, pages.len())?;
        Ok(Self { pages: pages.iter().map(|page| Page { prot: Prot::READ_WRITE, ..*page }).collect(), ..fresh })
    }

    /// Stores new values to all pages, without a look at the old ones.
    pub(super) fn overwrite(&mut self, random: &mut Random) {
        for index in 0..self.pages() {
            self.put(index, random.next_word());
        }
    }

    fn put(&mut self, index: usize, value: u64) {
        for offset in words(index) {
            self.region.word(offset).store(value, Ordering::Relaxed);
        }
        let page = &mut self.pages[index];
        (page.value, page.is_stored) = (value, true);
    }

    pub(super) const fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Returns the addresses of pages.
    pub(super) fn bytes(&self, first: usize, pages: usize) -> Range<u64> {
        let start = self.region.address() + (first * PAGE_BYTES) as u64;
        start..start + (pages * PAGE_BYTES) as u64
    }

    /// Stores new values to those of the pages that permit it, after a look at the old ones; returns how many were not resident.
    pub(super) fn store(&mut self, random: &mut Random, first: usize, pages: usize) -> Result<u64, Trouble> {
        let residents = self.residents(first, pages)?;
        let mut faults = 0;
        for index in first..first + pages {
            let Some(page) = self.pages.get(index).copied().filter(|page| page.prot == Prot::READ_WRITE) else {
                continue;
            };
            self.check_page(index, page)?;
            self.put(index, random.next_word());
            faults += u64::from(residents.get(index - first).is_some_and(|byte| byte & 1 == 0));
        }
        Ok(faults)
    }

    /// Takes note that pages were synchronized; tells whether any had been stored to.
    pub(super) fn take_stored(&mut self, first: usize, pages: usize) -> bool {
        let pages = self.pages.iter_mut().skip(first).take(pages);
        pages.filter_map(|page| core::mem::take(&mut page.is_stored).then_some(())).count() > 0
    }

    /// Checks all pages that may be read.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        self.pages.iter().enumerate().try_for_each(|(index, page)| self.check_page(index, *page))
    }

    fn check_page(&self, index: usize, page: Page) -> Result<(), Trouble> {
        if page.prot == Prot::NONE {
            return Ok(());
        }
        for offset in words(index) {
            let found = self.region.word(offset).load(Ordering::Relaxed);
            if found != page.value {
                let address = self.region.address() + offset as u64;
                return Err(Trouble::Memory { address, found, expected: page.value });
            }
        }
        Ok(())
    }

    /// Sets what pages permit; tells whether there was memory for that.
    pub(super) fn protect(&mut self, prot: Prot, first: usize, pages: usize) -> Result<bool, Trouble> {
        match self.region.protect(first * PAGE_BYTES, pages * PAGE_BYTES, prot) {
            Ok(()) => {
                for page in self.pages.iter_mut().skip(first).take(pages) {
                    page.prot = prot;
                }
                Ok(true)
            }
            // Locked pages that children share would have to be copied.
            Err(KernReturn::RESOURCE_SHORTAGE) => Ok(false),
            Err(code) => Err(Trouble::Mach("vm_protect", code)),
        }
    }

    /// Checks that pages which have just been wired are resident.
    pub(super) fn check_resident(&self, first: usize, pages: usize) -> Result<(), Trouble> {
        match self.residents(first, pages)?.iter().position(|byte| byte & 1 == 0) {
            Some(index) => Err(Trouble::NotResident { address: self.bytes(first + index, 1).start }),
            None => Ok(()),
        }
    }

    /// Checks that all pages which were written are resident, for nothing takes pages away.
    pub(super) fn check_written_are_resident(&self) -> Result<(), Trouble> {
        let residents = self.residents(0, self.pages())?;
        let is_lost = |(page, byte): (&Page, &u8)| page.value != 0 && byte & 1 == 0;
        match self.pages.iter().zip(&residents).position(is_lost) {
            Some(index) => Err(Trouble::NotResident { address: self.bytes(index, 1).start }),
            None => Ok(()),
        }
    }

    /// Returns what `mincore` says of pages.
    fn residents(&self, first: usize, pages: usize) -> Result<Vec<u8>, Trouble> {
        let range = self.bytes(first, pages);
        let mut bytes = vec![0; pages];
        posix::mincore(range.start, range.end - range.start, &mut bytes)
            .map_err(|code| Trouble::Posix("mincore", code))?;
        Ok(bytes)
    }
}

/// Returns where in a plot the words of a page are that hold its value.
const fn words(page: usize) -> [usize; 2] {
    [page * PAGE_BYTES, (page + 1) * PAGE_BYTES - 8]
}
