//! The fake's page tables.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::ports::{OutOfFrames, Pmap};
use crate::units::{FrameRun, PageRange, Prot};

const BLOCK_PAGES: u64 = 512;

/// Why an access faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing is mapped there.
    NotPresent,
    /// The mapping does not permit the access.
    Protection,
}

/// How a page is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The frame.
    pub frame: u64,
    /// What the mapping permits.
    pub prot: Prot,
    /// Whether it carries a dirty mark.
    pub dirty: bool,
    /// Whether it is part of a 2 MiB mapping.
    pub large: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    frame: u64,
    prot: Prot,
    dirty: bool,
}

/// A model of page tables with 4 KiB and 2 MiB mappings, where a 2 MiB mapping has one dirty mark.
#[derive(Debug, Default)]
pub struct FakePmap {
    /// 4 KiB mappings by page.
    small: BTreeMap<u64, Mapping>,
    /// 2 MiB mappings by their first page.
    large: BTreeMap<u64, Mapping>,
    /// The first pages of the blocks that have a table for 4 KiB mappings.
    tables: BTreeSet<u64>,
    /// How many more tables there is memory for, if that is limited.
    tables_left: Option<u64>,
}

impl FakePmap {
    /// Returns page tables that map nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets table allocations fail after `tables` more have succeeded; `None` lets all succeed again.
    pub fn limit_tables(&mut self, tables: Option<u64>) {
        self.tables_left = tables;
    }

    /// Accesses `page` as a processor would: returns its frame, and marks it dirty if `access` has
    /// [`Prot::WRITE`].
    ///
    /// # Errors
    /// The [`FaultKind`] that the kernel would resolve with [`VmMap::fault`](crate::VmMap::fault).
    pub fn access(&mut self, page: u64, access: Prot) -> Result<u64, FaultKind> {
        let block = block_of(page);
        let (mapping, first) = match self.large.get_mut(&block) {
            Some(mapping) => (mapping, block),
            None => (self.small.get_mut(&page).ok_or(FaultKind::NotPresent)?, page),
        };
        if !mapping.prot.contains(access) {
            return Err(FaultKind::Protection);
        }
        mapping.dirty |= access.contains(Prot::WRITE);
        Ok(mapping.frame + (page - first))
    }

    /// Returns how `page` is mapped.
    #[must_use]
    pub fn translation(&self, page: u64) -> Option<Translation> {
        let block = block_of(page);
        let (mapping, first, large) = match self.large.get(&block) {
            Some(mapping) => (mapping, block, true),
            None => (self.small.get(&page)?, page, false),
        };
        let Mapping { frame, prot, dirty } = *mapping;
        Some(Translation { frame: frame + (page - first), prot, dirty, large })
    }

    /// Returns the pages that are mapped, 2 MiB mappings page by page.
    #[must_use]
    pub fn mapped_pages(&self) -> Vec<u64> {
        let large = self.large.keys().flat_map(|&block| block..block + BLOCK_PAGES);
        let mut pages: Vec<u64> = large.chain(self.small.keys().copied()).collect();
        pages.sort_unstable();
        pages
    }

    /// Gives the block of `page` a table, unless it has one.
    fn ensure_table(&mut self, page: u64) -> Result<(), OutOfFrames> {
        let block = block_of(page);
        if !self.tables.contains(&block) {
            if let Some(left) = &mut self.tables_left {
                *left = left.checked_sub(1).ok_or(OutOfFrames)?;
            }
            self.tables.insert(block);
        }
        Ok(())
    }

    /// Turns the 2 MiB mapping of `page`, if there is one, into 4 KiB mappings with the same mark.
    fn split(&mut self, page: u64) -> Result<(), OutOfFrames> {
        let block = block_of(page);
        if let Some(&mapping) = self.large.get(&block) {
            self.ensure_table(page)?;
            self.large.remove(&block);
            for at in 0..BLOCK_PAGES {
                self.small.insert(block + at, Mapping { frame: mapping.frame + at, ..mapping });
            }
        }
        Ok(())
    }

    /// Splits the 2 MiB mappings that reach over an end of `pages`; if one of two can't be split, the other may
    /// be.
    fn split_ends(&mut self, pages: PageRange) -> Result<(), OutOfFrames> {
        for end in [pages.start, pages.end] {
            if !end.is_multiple_of(BLOCK_PAGES) && !pages.is_empty() {
                self.split(end)?;
            }
        }
        Ok(())
    }

    fn enter_small(&mut self, page: u64, frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let block = block_of(page);
        let same = self
            .large
            .get(&block)
            .is_some_and(|mapping| mapping.prot == prot && mapping.frame + (page - block) == frame);
        if !same {
            self.split(page)?;
            self.ensure_table(page)?;
            self.small.insert(page, Mapping { frame, prot, dirty: false });
        }
        Ok(())
    }
}

impl Pmap for FakePmap {
    fn translate(&self, page: u64) -> Option<(u64, Prot)> {
        self.translation(page).map(|mapped| (mapped.frame, mapped.prot))
    }

    fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        let mut at = 0;
        while at < run.pages {
            let (page, frame) = (page + at, run.first + at);
            let fits = page.is_multiple_of(BLOCK_PAGES) && frame.is_multiple_of(BLOCK_PAGES);
            if fits && run.pages - at >= BLOCK_PAGES {
                self.small.retain(|small, _| block_of(*small) != page);
                self.tables.remove(&page);
                self.large.insert(page, Mapping { frame, prot, dirty: false });
                at += BLOCK_PAGES;
                continue;
            }
            if let Err(error) = self.enter_small(page, frame, prot) {
                let first = page - at;
                self.small.retain(|small, _| !(first..first + run.pages).contains(small));
                self.large.retain(|block, _| !(first..first + run.pages).contains(block));
                return Err(error);
            }
            at += 1;
        }
        Ok(())
    }

    fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        self.split_ends(pages)?;
        self.clean(pages, dirty);
        self.small.retain(|page, _| !pages.contains(*page));
        self.large.retain(|block, _| !pages.contains(*block));
        Ok(())
    }

    fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        assert!(!prot.is_none(), "pages without rights are unmapped");
        self.split_ends(pages)?;
        let small = self.small.range_mut(pages.start..pages.end);
        for (_, mapping) in small.chain(self.large.range_mut(pages.start..pages.end)) {
            mapping.prot = prot;
        }
        Ok(())
    }

    fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        for (&block, mapping) in self.large.range_mut(block_of(pages.start)..pages.end).filter(|(_, m)| m.dirty) {
            let whole = PageRange::new(block, block + BLOCK_PAGES);
            let met = whole.intersection(pages);
            mapping.dirty = met != whole;
            dirty(met);
        }
        let mut run: Option<PageRange> = None;
        for (&page, mapping) in self.small.range_mut(pages.start..pages.end).filter(|(_, m)| m.dirty) {
            mapping.dirty = false;
            match &mut run {
                Some(run) if run.end == page => run.end += 1,
                _ => {
                    if let Some(ended) = run.replace(PageRange::new(page, page + 1)) {
                        dirty(ended);
                    }
                }
            }
        }
        if let Some(ended) = run {
            dirty(ended);
        }
    }
}

fn block_of(page: u64) -> u64 {
    page - page % BLOCK_PAGES
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::{FakePmap, FaultKind};
    use crate::ports::{OutOfFrames, Pmap};
    use crate::units::{FrameRun, PageRange, Prot};

    fn cleaned(pmap: &mut FakePmap, start: u64, end: u64) -> Vec<PageRange> {
        let mut dirty = Vec::new();
        pmap.clean(PageRange::new(start, end), &mut |pages| dirty.push(pages));
        dirty
    }

    #[test]
    fn access_faults_marks_and_translates() {
        let mut pmap = FakePmap::new();
        assert_eq!(pmap.access(512, Prot::READ), Err(FaultKind::NotPresent));
        assert_eq!(pmap.enter(511, FrameRun::new(1023, 514), Prot::READ), Ok(()));
        assert_eq!(pmap.access(511, Prot::READ), Ok(1023));
        assert_eq!(pmap.access(700, Prot::READ), Ok(1212));
        assert_eq!(pmap.access(700, Prot::WRITE), Err(FaultKind::Protection));
        assert_eq!(pmap.protect(PageRange::new(512, 1024), Prot::DEFAULT), Ok(()));
        assert_eq!(pmap.access(700, Prot::WRITE), Ok(1212));
        assert_eq!(pmap.mapped_pages().len(), 514);
        assert!(pmap.translation(700).is_some_and(|t| t.large && t.dirty));
        assert!(pmap.translation(1024).is_some_and(|t| !t.large && !t.dirty));
    }

    #[test]
    fn clean_part_of_a_large_mapping_keeps_its_mark() {
        let mut pmap = FakePmap::new();
        assert_eq!(pmap.enter(0, FrameRun::new(512, 513), Prot::DEFAULT), Ok(()));
        assert_eq!(pmap.access(3, Prot::WRITE), Ok(515));
        assert_eq!(pmap.access(512, Prot::WRITE), Ok(1024));
        assert_eq!(cleaned(&mut pmap, 10, 20), [PageRange::new(10, 20)]);
        assert_eq!(cleaned(&mut pmap, 0, 600), [PageRange::new(0, 512), PageRange::new(512, 513)]);
        assert_eq!(cleaned(&mut pmap, 0, 600), []);
    }

    #[test]
    fn remove_part_of_a_large_mapping_needs_a_table_and_whole_blocks_do_not() {
        let mut pmap = FakePmap::new();
        assert_eq!(pmap.enter(0, FrameRun::new(0, 512), Prot::DEFAULT), Ok(()));
        assert_eq!(pmap.access(1, Prot::WRITE), Ok(1));
        pmap.limit_tables(Some(0));
        assert_eq!(pmap.remove(PageRange::new(0, 2), &mut |_| ()), Err(OutOfFrames));
        assert_eq!(pmap.mapped_pages().len(), 512);
        pmap.limit_tables(None);
        assert_eq!(pmap.remove(PageRange::new(0, 2), &mut |_| ()), Ok(()));
        assert_eq!(pmap.mapped_pages().len(), 510);
        assert_eq!(cleaned(&mut pmap, 0, 512), [PageRange::new(2, 512)], "the halves inherit the mark");
    }
}
