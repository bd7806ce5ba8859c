//! x86-64 page tables of one address space: 4 KiB and 2 MiB mappings in four levels.
//!
//! The logic is free of unsafe code and of hardware: it reads and writes tables through [`TableMemory`], so it
//! is tested on the host. Only the lower half of the address space is ever touched; the upper half of the
//! root belongs to the kernel.
//!
//! Where the kernel's instructions are emulated, a walk from the root costs as much as twenty entries. So every operation
//! walks once per directory, which covers 1 GiB, and then goes from entry to entry.

mod change;
mod enter;
mod entry;

use core::ops::Range;

pub use entry::ENTRIES;
use entry::{
    LARGE, LARGE_PAGES, NEXT_FRAME, PRESENT, frame_of, in_one_table, index_at, is_large, is_table, link_to, prot_of,
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
    /// Writes entry `index` (below 512) of the table in `frame`.
    fn write(&mut self, frame: u64, index: u64, entry: u64);
    /// Returns index and value of the first entry in `indices` that is not zero.
    fn first_used(&self, frame: u64, indices: Range<u64>) -> Option<(u64, u64)>;
    /// Fills a table that nothing links to yet: with `entry`, and each next entry `step` further.
    fn fill(&mut self, frame: u64, entry: u64, step: u64);
    /// Makes every processor forget its translations of `pages`, and every link between tables on the way there.
    fn invalidate(&mut self, pages: PageRange);
}

/// The tables of one address space.
#[derive(Debug)]
pub struct PageTables<M: TableMemory> {
    root: u64,
    memory: M,
}

impl<M: TableMemory> PageTables<M> {
    /// Takes over the address space with that root table.
    pub const fn new(root: u64, memory: M) -> Self {
        Self { root, memory }
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
        self.memory.fill(table, large & !LARGE, NEXT_FRAME);
        self.memory.write(directory, index, link_to(table));
        let start = page - page % LARGE_PAGES;
        self.memory.invalidate(PageRange::new(start, start + LARGE_PAGES));
        Ok(table)
    }

    /// Frees every table of the lower half, and the root too: nothing may use the tables any more, so no processor may have
    /// them loaded.
    pub fn release_all(&mut self) {
        self.release();
        self.memory.free(self.root);
    }

    /// Frees every table of the lower half below the root, mapped or not.
    pub fn release(&mut self) {
        let mut from = 0;
        while let Some((index, entry)) = self.memory.first_used(self.root, from..ENTRIES / 2) {
            self.memory.write(self.root, index, 0);
            self.memory.invalidate(PageRange::new(0, LOWER_HALF_PAGES));
            self.release_below(frame_of(entry), ROOT_LEVEL - 1);
            from = index + 1;
        }
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
