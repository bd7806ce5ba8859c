//! x86-64 page tables of one address space: 4 KiB and 2 MiB mappings in four levels.
//!
//! The logic is free of unsafe code and of hardware: it reads and writes tables through [`TableMemory`], so it
//! is tested on the host. Only the lower half of the address space is ever touched; the upper half of the
//! root belongs to the kernel.
//!
//! Where the kernel's instructions are emulated, a walk from the root costs as much as twenty entries. So every operation
//! walks once per directory, which covers 1 GiB, and then goes from entry to entry.
//!
//! Processors use the tables while they change. They set accessed and dirty marks in entries that are present, at any time, so
//! what such a mark must survive is changed by an exchange. They remember translations and links until they are told to
//! forget them: an operation changes all its entries first, has everything forgotten once, and only then gives
//! the frames of tables back. Until all have forgotten, marks are set in a table that nothing links to any more as well: where a
//! large page has taken its place, the large page gets them then.

mod change;
mod enter;
mod entry;

use core::ops::Range;

pub use entry::ENTRIES;
use entry::{
    ACCESSED, DIRTY, LARGE, LARGE_PAGES, NEXT_FRAME, PRESENT, frame_of, in_one_table, index_at, is_large, is_table,
    link_to, prot_of,
};
use wirevm_map::{OutOfFrames, PageRange, Prot};

/// Levels above the last: a page table (0) holds 4 KiB mappings, a directory (1) 2 MiB ones.
const ROOT_LEVEL: u32 = 3;
/// The level of directories.
const DIRECTORY: u32 = 1;
/// Virtual pages in the lower half of the address space.
const LOWER_HALF_PAGES: u64 = 1 << 35;

/// Where tables live, and the translation caches they feed.
pub trait TableMemory {
    /// Takes a frame for a table, filled with zero.
    fn allocate(&mut self) -> Option<u64>;
    /// Gives a table's frame back.
    fn free(&mut self, frame: u64);
    /// Reads entry `index` (below 512) of the table in `frame`.
    fn read(&self, frame: u64, index: u64) -> u64;
    /// Writes entry `index` (below 512) of the table in `frame`; marks that processors set in what stood there are lost.
    fn write(&mut self, frame: u64, index: u64, entry: u64);
    /// Writes entry `index` and returns what stood there, with every mark that was set until then.
    fn swap(&mut self, frame: u64, index: u64, entry: u64) -> u64;
    /// Writes entry `index` if `expected` stands there.
    ///
    /// # Errors
    /// What stands there instead; nothing is changed.
    fn replace(&mut self, frame: u64, index: u64, expected: u64, entry: u64) -> Result<(), u64>;
    /// Returns index and value of the first entry in `indices` that is not zero.
    fn first_used(&self, frame: u64, indices: Range<u64>) -> Option<(u64, u64)>;
    /// Fills a table that nothing links to yet: with `entry`, and each next entry `step` further.
    fn fill(&mut self, frame: u64, entry: u64, step: u64);
    /// Makes every processor forget its translations of `pages`, and every link between tables. None uses them any more
    /// when this returns.
    fn invalidate(&mut self, pages: PageRange);
    /// Tells whether a processor other than this one may have used the tables, ever: if none has, nobody sets marks while this one
    /// changes them.
    fn is_shared(&self) -> bool;
}

/// The tables of one address space.
#[derive(Debug)]
pub struct PageTables<M: TableMemory> {
    root: u64,
    memory: M,
    stale: Stale,
    /// A mistake that tests plant: tables are given back as soon as nothing links to them.
    #[cfg(test)]
    frees_at_once: bool,
}

/// What processors may still remember of entries that an operation has changed.
#[derive(Debug)]
struct Stale {
    /// The pages of all those entries, and what lies between.
    pages: PageRange,
    /// The last table that nothing links to any more; its first entry tells of the one before, its second what large page has
    /// taken its place, if one has.
    tables: Option<u64>,
}

impl Stale {
    const NONE: Self = Self { pages: PageRange { start: 0, end: 0 }, tables: None };

    fn add(&mut self, pages: PageRange) {
        if self.pages.is_empty() {
            self.pages = pages;
        } else if !pages.is_empty() {
            self.pages = PageRange::new(self.pages.start.min(pages.start), self.pages.end.max(pages.end));
        }
    }
}

/// Changes an entry, whatever marks are set in it meanwhile, by `change`; returns what stood there last.
fn update<M: TableMemory>(memory: &mut M, table: u64, index: u64, seen: u64, change: impl Fn(u64) -> u64) -> u64 {
    let mut entry = seen;
    while let Err(now) = memory.replace(table, index, entry, change(entry)) {
        entry = now;
    }
    entry
}

/// Tells whether an entry of a table carries a mark of the page that `large`, in the table's place, maps there.
const fn has_mark_for(entry: u64, large: u64, index: u64) -> bool {
    entry & (PRESENT | DIRTY) == PRESENT | DIRTY && frame_of(entry) == frame_of(large) + index
}

impl<M: TableMemory> PageTables<M> {
    /// Takes over the address space with that root table.
    pub const fn new(root: u64, memory: M) -> Self {
        Self {
            root,
            memory,
            stale: Stale::NONE,
            #[cfg(test)]
            frees_at_once: false,
        }
    }

    /// Notes a table that nothing links to any more and the pages that it was for. No processor may find an entry
    /// in it that is present and reuse the frame's content: it is given back by [`PageTables::settle`].
    fn retire(&mut self, table: u64, pages: PageRange) {
        #[cfg(test)]
        if self.frees_at_once {
            self.stale.add(pages);
            return self.memory.free(table);
        }
        // The lowest bit says that the entry is not present, so that a walk that got here stops.
        let before = self.stale.tables.map_or(0, |before| (before + 1) << 1);
        self.memory.write(table, 0, before);
        self.stale.tables = Some(table);
        self.stale.add(pages);
    }

    /// As [`PageTables::retire`], for a table in whose place `large` maps the pages from `start` on.
    fn retire_for(&mut self, table: u64, start: u64, large: u64) {
        let block = PageRange::new(start, start + LARGE_PAGES);
        #[cfg(test)]
        if self.frees_at_once {
            return self.retire(table, block);
        }
        // The two entries that serve as notes give up what marks they have now, and are not present any more.
        let is_dirty = [0, 1].map(|index| has_mark_for(self.memory.swap(table, index, 0), large, index));
        let note = (start / LARGE_PAGES + 1) << 2 | u64::from(is_dirty.contains(&true)) << 1;
        self.memory.write(table, 1, note);
        self.retire(table, block);
    }

    /// Ends an operation: has every processor forget what has changed, then gives tables back.
    fn settle(&mut self) {
        let Stale { pages, mut tables } = core::mem::replace(&mut self.stale, Stale::NONE);
        if !pages.is_empty() {
            self.memory.invalidate(pages);
        }
        while let Some(table) = tables {
            // A mark costs a look at each entry. Without other processors, the caller has collected all there are.
            if self.memory.is_shared() {
                self.carry_marks(table);
            }
            tables = (self.memory.read(table, 0) >> 1).checked_sub(1);
            self.memory.free(table);
        }
    }

    /// Marks the large page that has taken the place of `table`, if one has, for what was written to its pages through the table.
    /// No processor uses the table any more.
    fn carry_marks(&mut self, table: u64) {
        let note = self.memory.read(table, 1);
        let Some(block) = (note >> 2).checked_sub(1) else { return };
        let start = block * LARGE_PAGES;
        let Ok(directory) = self.find_directory(start) else { return };
        let place = index_at(DIRECTORY, start);
        let large = self.memory.read(directory, place);
        let is_dirty = |index| has_mark_for(self.memory.read(table, index), large, index);
        if note & 1 << 1 != 0 || (2..ENTRIES).any(is_dirty) {
            update(&mut self.memory, directory, place, large, |entry| entry | ACCESSED | DIRTY);
        }
    }

    /// Returns the frame and the rights of a mapped page; see [`wirevm_map::Pmap::translate`].
    pub fn translate(&self, page: u64) -> Option<(u64, Prot)> {
        if page >= LOWER_HALF_PAGES {
            return None;
        }
        let directory = self.find_directory(page).ok()?;
        let mut entry = self.memory.read(directory, index_at(DIRECTORY, page));
        let mut offset = page % LARGE_PAGES;
        if is_table(entry) {
            entry = self.memory.read(frame_of(entry), index_at(0, page));
            offset = 0;
        }
        (entry & PRESENT != 0).then(|| (frame_of(entry) + offset, prot_of(entry)))
    }

    /// Finds the directory for `page`; where there is none, says at which page the hole ends.
    fn find_directory(&self, page: u64) -> Result<u64, u64> {
        let mut table = self.root;
        for level in (DIRECTORY + 1..=ROOT_LEVEL).rev() {
            let entry = self.memory.read(table, index_at(level, page));
            if !is_table(entry) {
                let span = 1 << (9 * level);
                return Err((page / span + 1) * span);
            }
            table = frame_of(entry);
        }
        Ok(table)
    }

    /// Takes from the front of `rest` what is not mapped at all and then what one directory covers; returns the directory
    /// and what it covers.
    fn next_directory(&self, rest: &mut PageRange) -> Option<(u64, PageRange)> {
        while !rest.is_empty() {
            match self.find_directory(rest.start) {
                Ok(directory) => {
                    let part = in_one_table(DIRECTORY, *rest);
                    rest.start = part.end;
                    return Some((directory, part));
                }
                Err(hole_end) => rest.start = hole_end.min(rest.end),
            }
        }
        None
    }

    /// Finds or makes the directory for `page`.
    fn directory_for(&mut self, page: u64) -> Result<u64, OutOfFrames> {
        let mut table = self.root;
        for level in (DIRECTORY + 1..=ROOT_LEVEL).rev() {
            table = self.linked_table(table, index_at(level, page))?;
        }
        Ok(table)
    }

    /// Finds or makes the table that entry `index` of `table` links to; the entry must not map a large page.
    fn linked_table(&mut self, table: u64, index: u64) -> Result<u64, OutOfFrames> {
        let entry = self.memory.read(table, index);
        if entry & PRESENT != 0 {
            return Ok(frame_of(entry));
        }
        let fresh = self.memory.allocate().ok_or(OutOfFrames)?;
        self.memory.write(table, index, link_to(fresh));
        Ok(fresh)
    }

    /// Returns where the large page that `page` cuts in two, if one does, is mapped: directory, index and entry.
    fn cut_by(&self, page: u64) -> Option<(u64, u64, u64)> {
        if page.is_multiple_of(LARGE_PAGES) {
            return None;
        }
        let directory = self.find_directory(page).ok()?;
        let index = index_at(DIRECTORY, page);
        let entry = self.memory.read(directory, index);
        is_large(entry).then_some((directory, index, entry))
    }

    /// Splits the large pages, if any, that the two ends of `pages` cut.
    fn split_ends(&mut self, pages: PageRange) -> Result<(), OutOfFrames> {
        for end in [pages.start, pages.end] {
            if let Some((directory, index, large)) = self.cut_by(end) {
                self.split(directory, index, large, end)?;
            }
        }
        Ok(())
    }

    /// Maps the pages of a large page one by one, `page` among them, and returns their table.
    fn split(&mut self, directory: u64, index: u64, large: u64, page: u64) -> Result<u64, OutOfFrames> {
        let table = self.memory.allocate().ok_or(OutOfFrames)?;
        let mut large = large;
        loop {
            self.memory.fill(table, large & !LARGE, NEXT_FRAME);
            // A mark that was set since the entry was read belongs to each of the pages.
            match self.memory.replace(directory, index, large, link_to(table)) {
                Ok(()) => break,
                Err(now) => large = now,
            }
        }
        let start = page - page % LARGE_PAGES;
        self.stale.add(PageRange::new(start, start + LARGE_PAGES));
        Ok(table)
    }

    /// Frees every table of the lower half, and the root too: no processor may have it loaded, nor load it any more.
    pub fn release_all(&mut self) {
        let mut from = 0;
        while let Some((index, entry)) = self.memory.first_used(self.root, from..ENTRIES / 2) {
            self.release_below(frame_of(entry), ROOT_LEVEL - 1);
            from = index + 1;
        }
        self.memory.free(self.root);
    }

    fn release_below(&mut self, table: u64, level: u32) {
        let mut from = if level > 0 { 0 } else { ENTRIES };
        while let Some((index, entry)) = self.memory.first_used(table, from..ENTRIES) {
            if is_table(entry) {
                self.release_below(frame_of(entry), level - 1);
            }
            from = index + 1;
        }
        self.memory.free(table);
    }
}

#[cfg(test)]
mod test;
