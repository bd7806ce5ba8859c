//! Memory with a record of what it must hold.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::Trouble;
use crate::random::Random;
use crate::{KernReturn, PAGE_BYTES, Prot, Region, posix};

/// What one page must hold and permits.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// What its first and last word are; 0 where nothing was written.
    value: u64,
    prot: Prot,
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
        Ok(Self { region, pages: vec![Page { value: 0, prot: Prot::READ_WRITE }; pages] })
    }

    pub(super) const fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn is_written(&self, page: usize) -> bool {
        self.pages.get(page).is_some_and(|page| page.value != 0)
    }

    /// Returns the addresses of pages.
    pub(super) fn bytes(&self, first: usize, pages: usize) -> Range<u64> {
        let start = self.region.address() + (first * PAGE_BYTES) as u64;
        start..start + (pages * PAGE_BYTES) as u64
    }

    /// Stores new values to those of the pages that permit it, after a look at the old ones.
    pub(super) fn store(&mut self, random: &mut Random, first: usize, pages: usize) -> Result<(), Trouble> {
        for index in first..first + pages {
            let Some(page) = self.pages.get(index).copied().filter(|page| page.prot == Prot::READ_WRITE) else {
                continue;
            };
            self.check_page(index, page)?;
            let value = random.next_word();
            for offset in words(index) {
                self.region.word(offset).store(value, Ordering::Relaxed);
            }
            self.pages[index].value = value;
        }
        Ok(())
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

    /// Sets what pages permit.
    pub(super) fn protect(&mut self, prot: Prot, first: usize, pages: usize) -> Result<(), Trouble> {
        match self.region.protect(first * PAGE_BYTES, pages * PAGE_BYTES, prot) {
            Ok(()) => {
                for page in self.pages.iter_mut().skip(first).take(pages) {
                    page.prot = prot;
                }
                Ok(())
            }
            // Locked pages that children share would have to be copied.
            Err(KernReturn::RESOURCE_SHORTAGE) => Ok(()),
            Err(code) => Err(Trouble::Mach("vm_protect", code)),
        }
    }

    /// Checks that pages which have just been wired are resident.
    pub(super) fn check_resident(&self, first: usize, pages: usize) -> Result<(), Trouble> {
        let range = self.bytes(first, pages);
        let mut bytes = vec![0; pages];
        posix::mincore(range.start, range.end - range.start, &mut bytes)
            .map_err(|code| Trouble::Posix("mincore", code))?;
        match bytes.iter().position(|byte| byte & 1 == 0) {
            Some(index) => Err(Trouble::NotResident { address: range.start + (index * PAGE_BYTES) as u64 }),
            None => Ok(()),
        }
    }
}

/// Returns where in a plot the words of a page are that hold its value.
const fn words(page: usize) -> [usize; 2] {
    [page * PAGE_BYTES, (page + 1) * PAGE_BYTES - 8]
}
