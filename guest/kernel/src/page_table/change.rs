//! Unmapping, other rights, dirty marks: what changes mappings that are there.

use core::ops::Range;

use wirevm_map::{OutOfFrames, PageRange, Prot};

use super::entry::{DIRTY, LARGE_PAGES, NOT_RIGHTS, PRESENT, flags_of, frame_of, index_at, is_table};
use super::{DIRECTORY, LOWER_HALF_PAGES, PageTables, TableMemory, update};

/// Joins adjacent pages into runs before they are reported.
struct Joined<'a> {
    run: PageRange,
    report: &'a mut dyn FnMut(PageRange),
}

impl<'a> Joined<'a> {
    fn new(report: &'a mut dyn FnMut(PageRange)) -> Self {
        Self { run: PageRange::new(0, 0), report }
    }

    fn push(&mut self, pages: PageRange) {
        if pages.is_empty() {
            return;
        }
        if self.run.end == pages.start {
            self.run.end = pages.end;
        } else {
            self.flush();
            self.run = pages;
        }
    }

    fn flush(&mut self) {
        if !self.run.is_empty() {
            (self.report)(self.run);
        }
    }
}

/// One mapping: where it stands, and what it maps.
#[derive(Clone, Copy)]
struct Leaf {
    table: u64,
    index: u64,
    entry: u64,
    /// The pages that it maps, which may reach over the ends of what was asked for.
    pages: PageRange,
}

impl<M: TableMemory> PageTables<M> {
    /// Unmaps `pages`; see [`wirevm_map::Pmap::remove`].
    pub fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        let split = self.split_ends(pages);
        if split.is_ok() {
            self.unmap(pages, dirty);
        }
        self.settle();
        split
    }

    /// Sets the protection of what is mapped in `pages`; see [`wirevm_map::Pmap::protect`].
    pub fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        let split = self.split_ends(pages);
        if split.is_ok() {
            let flags = flags_of(prot);
            let mut mapped = false;
            self.for_each_leaf(pages, PRESENT, |memory, leaf| {
                mapped = true;
                update(memory, leaf.table, leaf.index, leaf.entry, |entry| entry & NOT_RIGHTS | flags);
            });
            if mapped {
                self.stale.add(pages);
            }
        }
        self.settle();
        split
    }

    /// Reports and clears dirty marks; see [`wirevm_map::Pmap::clean`].
    pub fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        let mut joined = Joined::new(dirty);
        let mut cleared = false;
        self.for_each_leaf(pages, PRESENT | DIRTY, |memory, leaf| {
            let inside = leaf.pages.intersection(pages);
            // A large page keeps its mark when only a part is asked for: the rest may be dirty.
            if inside == leaf.pages {
                update(memory, leaf.table, leaf.index, leaf.entry, |entry| entry & !DIRTY);
                cleared = true;
            }
            joined.push(inside);
        });
        joined.flush();
        if cleared {
            self.stale.add(pages);
        }
        self.settle();
    }

    /// Removes whole mappings in `pages`, whose ends must cut none. The caller settles.
    fn unmap(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        let mut joined = Joined::new(dirty);
        let mut mapped = false;
        let met_tables = self.for_each_leaf(pages, PRESENT, |memory, leaf| {
            mapped = true;
            if memory.swap(leaf.table, leaf.index, 0) & DIRTY != 0 {
                joined.push(leaf.pages);
            }
        });
        joined.flush();
        if mapped {
            self.stale.add(pages);
        }
        if met_tables {
            self.retire_empty_tables(pages);
        }
    }

    /// Retires the page tables whose whole 2 MiB lies in `pages`: they are empty now, and nothing else is there.
    fn retire_empty_tables(&mut self, pages: PageRange) {
        let first = pages.start.next_multiple_of(LARGE_PAGES);
        let end = pages.end.min(LOWER_HALF_PAGES);
        let mut rest = PageRange::new(first, (end - end % LARGE_PAGES).max(first));
        while let Some((directory, part)) = self.next_directory(&mut rest) {
            let first = index_at(DIRECTORY, part.start);
            let mut indices = first..first + part.len() / LARGE_PAGES;
            while let Some((index, entry)) = self.memory.first_used(directory, indices.clone()) {
                self.memory.write(directory, index, 0);
                // Processors remember links between tables too; any page's invalidation makes them forget those.
                self.retire(frame_of(entry), PageRange::new(part.start, part.start + 1));
                indices.start = index + 1;
            }
        }
    }

    /// Calls `visit` for every mapping that meets `pages` and has all of `flags`; tells whether there is a page table for
    /// any of them.
    fn for_each_leaf(&mut self, pages: PageRange, flags: u64, mut visit: impl FnMut(&mut M, Leaf)) -> bool {
        let mut rest = PageRange::new(pages.start, pages.end.min(LOWER_HALF_PAGES));
        let mut met_tables = false;
        while let Some((directory, part)) = self.next_directory(&mut rest) {
            let first = index_at(DIRECTORY, part.start);
            let block_of = |index| {
                let start = part.start - part.start % LARGE_PAGES + (index - first) * LARGE_PAGES;
                PageRange::new(start, start + LARGE_PAGES)
            };
            let mut indices = first..index_at(DIRECTORY, part.end - 1) + 1;
            let found = |entry| is_table(entry) || entry & flags == flags;
            while let Some((index, entry)) = self.next_entry(directory, &mut indices, found) {
                if is_table(entry) {
                    met_tables = true;
                    self.for_each_small(frame_of(entry), block_of(index).intersection(part), flags, &mut visit);
                } else {
                    visit(&mut self.memory, Leaf { table: directory, index, entry, pages: block_of(index) });
                }
            }
        }
        met_tables
    }

    /// Calls `visit` for every mapping of `pages` in their page table that has all of `flags`.
    fn for_each_small(&mut self, table: u64, pages: PageRange, flags: u64, visit: &mut impl FnMut(&mut M, Leaf)) {
        let first = index_at(0, pages.start);
        let mut indices = first..first + pages.len();
        while let Some((index, entry)) = self.next_entry(table, &mut indices, |entry| entry & flags == flags) {
            let page = pages.start + (index - first);
            visit(&mut self.memory, Leaf { table, index, entry, pages: PageRange::new(page, page + 1) });
        }
    }

    /// Takes entries from the front of `indices` until one is `found`, and returns that: most are passed over, so this loop
    /// does nothing else.
    #[inline]
    fn next_entry(&self, table: u64, indices: &mut Range<u64>, found: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        indices.map(|index| (index, self.memory.read(table, index))).find(|(_, entry)| found(*entry))
    }
}
