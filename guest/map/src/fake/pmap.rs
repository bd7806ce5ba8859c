//! The fake's page tables.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use super::processor::{Core, invalidate};
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
pub(super) struct Mapping {
    pub(super) frame: u64,
    pub(super) prot: Prot,
    pub(super) dirty: bool,
}

#[derive(Debug, Default)]
struct Tables {
    /// 4 KiB mappings by page.
    small: BTreeMap<u64, Mapping>,
    /// 2 MiB mappings by their first page.
    large: BTreeMap<u64, Mapping>,
    /// The first pages of the blocks that have a table for 4 KiB mappings.
    tables: BTreeSet<u64>,
    /// How many more tables there is memory for, if that is limited.
    tables_left: Option<u64>,
}

/// Tables as processors see them: they look things up and set marks whenever they want.
#[derive(Default)]
pub(super) struct SharedTables {
    tables: Mutex<Tables>,
    /// The processors that have them loaded.
    users: Mutex<Vec<Arc<Core>>>,
}

/// A model of page tables with 4 KiB and 2 MiB mappings, where a 2 MiB mapping has one dirty mark.
///
/// A method changes the tables first, entry by entry, then has every [processor](super::FakeProcessor) that has them loaded forget what it
/// knew of the pages, and returns when all have.
#[derive(Default)]
pub struct FakePmap {
    shared: Arc<SharedTables>,
}

impl SharedTables {
    pub(super) const fn users(&self) -> &Mutex<Vec<Arc<Core>>> {
        &self.users
    }

    /// Looks `page` up as a processor does, and marks it dirty if `access` has [`Prot::WRITE`].
    pub(super) fn walk(&self, page: u64, access: Prot) -> Result<Mapping, FaultKind> {
        let mut tables = self.tables.lock();
        let block = block_of(page);
        let (mapping, first) = match tables.large.get_mut(&block) {
            Some(mapping) => (mapping, block),
            None => (tables.small.get_mut(&page).ok_or(FaultKind::NotPresent)?, page),
        };
        if !mapping.prot.contains(access) {
            return Err(FaultKind::Protection);
        }
        mapping.dirty |= access.contains(Prot::WRITE);
        Ok(Mapping { frame: mapping.frame + (page - first), ..*mapping })
    }
}

impl FakePmap {
    /// Returns page tables that map nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) const fn shared(&self) -> &Arc<SharedTables> {
        &self.shared
    }

    /// Lets table allocations fail after `tables` more have succeeded; `None` lets all succeed again.
    pub fn limit_tables(&mut self, tables: Option<u64>) {
        self.shared.tables.lock().tables_left = tables;
    }

    /// Accesses `page` as a processor would that remembers nothing: returns its frame, and marks it dirty if `access` has
    /// [`Prot::WRITE`].
    ///
    /// # Errors
    /// The [`FaultKind`] that the kernel would resolve with [`VmMap::fault`](crate::VmMap::fault).
    pub fn access(&mut self, page: u64, access: Prot) -> Result<u64, FaultKind> {
        self.shared.walk(page, access).map(|mapping| mapping.frame)
    }

    /// Returns how `page` is mapped.
    #[must_use]
    pub fn translation(&self, page: u64) -> Option<Translation> {
        self.shared.tables.lock().translation(page)
    }

    /// Returns the pages that are mapped, 2 MiB mappings page by page.
    #[must_use]
    pub fn mapped_pages(&self) -> Vec<u64> {
        let tables = self.shared.tables.lock();
        let large = tables.large.keys().flat_map(|&block| block..block + BLOCK_PAGES);
        let mut pages: Vec<u64> = large.chain(tables.small.keys().copied()).collect();
        pages.sort_unstable();
        pages
    }

    /// Has every processor forget what it knows of `pages`.
    fn invalidate(&self, pages: PageRange) {
        invalidate(&self.shared, pages);
    }
}

impl fmt::Debug for FakePmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FakePmap").field(&*self.shared.tables.lock()).finish()
    }
}

impl Tables {
    fn translation(&self, page: u64) -> Option<Translation> {
        let block = block_of(page);
        let (mapping, first, large) = match self.large.get(&block) {
            Some(mapping) => (mapping, block, true),
            None => (self.small.get(&page)?, page, false),
        };
        let Mapping { frame, prot, dirty } = *mapping;
        Some(Translation { frame: frame + (page - first), prot, dirty, large })
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

    /// Returns the mark that a mapping of `page` to `frame` starts with: the one it has, if it shows that frame already.
    fn mark_of(&self, page: u64, frame: u64) -> bool {
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Mutant::EnterForgetsMark) {
            return false;
        }
        self.translation(page).is_some_and(|old| old.frame == frame && old.dirty)
    }

    /// Tells whether something else than before is mapped now.
    fn enter_small(&mut self, page: u64, frame: u64, prot: Prot) -> Result<bool, OutOfFrames> {
        let block = block_of(page);
        let same = self
            .large
            .get(&block)
            .is_some_and(|mapping| mapping.prot == prot && mapping.frame + (page - block) == frame);
        if same {
            return Ok(false);
        }
        self.split(page)?;
        self.ensure_table(page)?;
        let dirty = self.mark_of(page, frame);
        Ok(self.small.insert(page, Mapping { frame, prot, dirty }).is_some())
    }

    fn enter_large(&mut self, page: u64, frame: u64, prot: Prot) -> bool {
        let dirty = (0..BLOCK_PAGES).any(|at| self.mark_of(page + at, frame + at));
        let before = self.small.len();
        self.small.retain(|small, _| block_of(*small) != page);
        self.tables.remove(&page);
        self.large.insert(page, Mapping { frame, prot, dirty }).is_some() || self.small.len() < before
    }

    /// Takes all mappings of `pages` out; returns the pages that carry marks.
    fn take(&mut self, pages: PageRange) -> Vec<PageRange> {
        let dirty = self.clear_marks(pages);
        self.small.retain(|page, _| !pages.contains(*page));
        self.large.retain(|block, _| !pages.contains(*block));
        dirty
    }

    fn clear_marks(&mut self, pages: PageRange) -> Vec<PageRange> {
        let mut marked: Vec<PageRange> = Vec::new();
        for (&block, mapping) in self.large.range_mut(block_of(pages.start)..pages.end).filter(|(_, m)| m.dirty) {
            let whole = PageRange::new(block, block + BLOCK_PAGES);
            let met = whole.intersection(pages);
            mapping.dirty = met != whole;
            marked.push(met);
        }
        let mut last = None;
        for (&page, mapping) in self.small.range_mut(pages.start..pages.end).filter(|(_, m)| m.dirty) {
            mapping.dirty = false;
            match marked.last_mut() {
                Some(run) if last == Some(page) => run.end += 1,
                _ => marked.push(PageRange::new(page, page + 1)),
            }
            last = Some(page + 1);
        }
        marked
    }
}

impl Pmap for FakePmap {
    fn translate(&self, page: u64) -> Option<(u64, Prot)> {
        self.translation(page).map(|mapped| (mapped.frame, mapped.prot))
    }

    fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        let whole = PageRange::new(page, page + run.pages);
        let (mut at, mut replaced, mut result) = (0, false, Ok(()));
        while at < run.pages {
            let (page, frame) = (page + at, run.first + at);
            let fits = page.is_multiple_of(BLOCK_PAGES) && frame.is_multiple_of(BLOCK_PAGES);
            let mut tables = self.shared.tables.lock();
            if fits && run.pages - at >= BLOCK_PAGES {
                replaced |= tables.enter_large(page, frame, prot);
                at += BLOCK_PAGES;
                continue;
            }
            match tables.enter_small(page, frame, prot) {
                Ok(other) => replaced |= other,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            at += 1;
        }
        if replaced {
            self.invalidate(whole);
        }
        result
    }

    fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        self.shared.tables.lock().split_ends(pages)?;
        let marked = self.shared.tables.lock().take(pages);
        self.invalidate(pages);
        marked.into_iter().for_each(dirty);
        Ok(())
    }

    fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        assert!(!prot.is_none(), "pages without rights are unmapped");
        {
            let mut tables = self.shared.tables.lock();
            tables.split_ends(pages)?;
            let Tables { small, large, .. } = &mut *tables;
            let small = small.range_mut(pages.start..pages.end);
            for (_, mapping) in small.chain(large.range_mut(pages.start..pages.end)) {
                mapping.prot = prot;
            }
        }
        self.invalidate(pages);
        Ok(())
    }

    fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        let marked = self.shared.tables.lock().clear_marks(pages);
        // A processor that remembers a page as dirty would not mark it again.
        if !marked.is_empty() {
            self.invalidate(pages);
        }
        marked.into_iter().for_each(dirty);
    }
}

fn block_of(page: u64) -> u64 {
    page - page % BLOCK_PAGES
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::{FakePmap, FaultKind};
    use crate::fake::FakeProcessor;
    use crate::planted::{Mutant, plant_in_thread};
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

    /// Enters 512 pages, lets a processor write some after they were cleaned, enters them again in part and with other rights, and
    /// returns what is marked then.
    fn marks_after_entering_again(again: u64, run: FrameRun) -> Vec<PageRange> {
        let (mut pmap, processor) = (FakePmap::new(), FakeProcessor::new(1));
        // 4 KiB mappings, but for the second block.
        assert_eq!(pmap.enter(0, FrameRun::new(512, 1024), Prot::DEFAULT), Ok(()));
        assert_eq!(pmap.protect(PageRange::new(9, 10), Prot::READ), Ok(()));
        processor.load(&pmap);
        for page in [3, 7, 600] {
            assert_eq!(processor.access(page, Prot::WRITE, |frame| frame), Ok(512 + page));
        }
        assert_eq!(
            cleaned(&mut pmap, 0, 1024),
            [PageRange::new(512, 1024), PageRange::new(3, 4), PageRange::new(7, 8)]
        );
        for page in [3, 600] {
            assert_eq!(processor.access(page, Prot::WRITE, |frame| frame), Ok(512 + page));
        }
        assert_eq!(pmap.enter(again, run, Prot::READ), Ok(()));
        cleaned(&mut pmap, 0, 1024)
    }

    #[test]
    fn enter_over_a_page_written_since_it_was_cleaned_keeps_the_mark_of_the_same_frame() {
        let large = PageRange::new(512, 1024);
        assert_eq!(marks_after_entering_again(3, FrameRun::new(515, 5)), [large, PageRange::new(3, 4)]);
        assert_eq!(marks_after_entering_again(3, FrameRun::new(700, 5)), [large], "another frame");
        assert_eq!(marks_after_entering_again(0, FrameRun::new(512, 1024)), [PageRange::new(0, 512), large]);
        assert_eq!(marks_after_entering_again(600, FrameRun::new(1112, 1)), [PageRange::new(3, 4), large]);
        plant_in_thread(Some(Mutant::EnterForgetsMark));
        let found = marks_after_entering_again(3, FrameRun::new(515, 5));
        plant_in_thread(None);
        assert_eq!(found, [large], "the planted fault shows");
    }

    #[test]
    fn enter_without_a_table_maps_a_front_part_and_leaves_the_rest_with_its_marks() {
        let mut pmap = FakePmap::new();
        assert_eq!(pmap.enter(510, FrameRun::new(1022, 514), Prot::DEFAULT), Ok(()));
        assert_eq!((pmap.access(510, Prot::WRITE), pmap.access(512, Prot::WRITE)), (Ok(1022), Ok(1024)));
        pmap.limit_tables(Some(0));
        assert_eq!(pmap.enter(510, FrameRun::new(1022, 10), Prot::READ), Err(OutOfFrames));
        assert_eq!(pmap.translate(511), Some((1023, Prot::READ)));
        assert_eq!(pmap.translate(512), Some((1024, Prot::DEFAULT)));
        assert_eq!(cleaned(&mut pmap, 0, 1024), [PageRange::new(512, 1024), PageRange::new(510, 511)]);
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
