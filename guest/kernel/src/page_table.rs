//! x86-64 page tables of one address space: 4 KiB and 2 MiB mappings in four levels.
//!
//! The logic is free of unsafe code and of hardware: it reads and writes tables through [`TableMemory`], so it
//! is tested on the host. Only the lower half of the address space is ever touched; the upper half of the
//! root belongs to the kernel.

use wirevm_abi::RAM_BASE;
use wirevm_map::{FrameRun, OutOfFrames, PAGE_SHIFT, PageRange, Prot};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Entries in a table.
pub const ENTRIES: u64 = 512;
/// Pages in a large page.
const LARGE_PAGES: u64 = ENTRIES;
/// Levels above the last: a page table (0) holds 4 KiB mappings, a directory (1) 2 MiB ones.
const ROOT_LEVEL: u32 = 3;
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
    /// Makes every processor forget its translations of `pages`.
    fn invalidate(&mut self, pages: PageRange);
}

/// The tables of one address space.
#[derive(Debug)]
pub struct PageTables<M: TableMemory> {
    root: u64,
    memory: M,
}

/// Joins adjacent pages into runs before they are reported.
struct Joined<'a> {
    run: PageRange,
    report: &'a mut dyn FnMut(PageRange),
}

impl Joined<'_> {
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

const fn frame_of(entry: u64) -> u64 {
    ((entry & ADDRESS) - RAM_BASE) >> PAGE_SHIFT
}

const fn address_of(frame: u64) -> u64 {
    RAM_BASE + (frame << PAGE_SHIFT)
}

const fn index_at(level: u32, page: u64) -> u64 {
    (page >> (9 * level)) % ENTRIES
}

/// Flags of a mapping with that protection. x86-64 has no write-only page: writable implies readable.
const fn flags_of(prot: Prot) -> u64 {
    let mut flags = PRESENT | USER;
    if prot.contains(Prot::WRITE) {
        flags |= WRITABLE;
    }
    if !prot.contains(Prot::EXECUTE) {
        flags |= NO_EXECUTE;
    }
    flags
}

const fn is_table(entry: u64) -> bool {
    entry & PRESENT != 0 && entry & LARGE == 0
}

/// Returns the part of `pages` that the table holding `pages.start` at `level` 0 covers.
fn in_one_table(pages: PageRange) -> PageRange {
    let table_end = (pages.start / LARGE_PAGES + 1) * LARGE_PAGES;
    PageRange::new(pages.start, pages.end.min(table_end))
}

impl<M: TableMemory> PageTables<M> {
    /// Takes over the address space with that root table.
    pub const fn new(root: u64, memory: M) -> Self {
        Self { root, memory }
    }

    /// Maps pages from `page` on to `run`; see [`wirevm_map::Pmap::enter`].
    pub fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        let all = PageRange::new(page, page + run.pages);
        let mut rest = all;
        let mut frame = run.first;
        while !rest.is_empty() {
            if let Some(part) = self.same_large(rest, frame, prot) {
                frame += part.len();
                rest.start = part.end;
                continue;
            }
            let large = rest.start.is_multiple_of(LARGE_PAGES)
                && frame.is_multiple_of(LARGE_PAGES)
                && rest.len() >= LARGE_PAGES;
            let part = if large { PageRange::new(rest.start, rest.start + LARGE_PAGES) } else { in_one_table(rest) };
            let entered =
                if large { self.enter_large(part.start, frame, prot) } else { self.enter_small(part, frame, prot) };
            if entered.is_err() {
                // Nothing of the run may stay mapped. The failed part had no table, so this splits nothing new.
                let done = PageRange::new(all.start, part.start);
                self.unmap(done, &mut |_| ());
                return Err(OutOfFrames);
            }
            frame += part.len();
            rest.start = part.end;
        }
        Ok(())
    }

    /// Returns the front part of `pages` if one large page maps it to `frame` on with these rights already: splitting or
    /// writing that again would change nothing and may need a frame that is not there.
    fn same_large(&self, pages: PageRange, frame: u64, prot: Prot) -> Option<PageRange> {
        let directory = self.find_table(pages.start, 1).ok()?;
        let entry = self.memory.read(directory, index_at(1, pages.start));
        let offset = pages.start % LARGE_PAGES;
        let wanted = address_of(frame.checked_sub(offset)?) | flags_of(prot) | LARGE;
        (entry & !(ACCESSED | DIRTY) == wanted).then(|| in_one_table(pages))
    }

    fn enter_large(&mut self, page: u64, frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let directory = self.table_for(page, 1)?;
        let index = index_at(1, page);
        let old = self.memory.read(directory, index);
        self.memory.write(directory, index, address_of(frame) | flags_of(prot) | LARGE);
        if old & PRESENT != 0 {
            self.memory.invalidate(PageRange::new(page, page + LARGE_PAGES));
        }
        if is_table(old) {
            self.memory.free(frame_of(old));
        }
        Ok(())
    }

    fn enter_small(&mut self, pages: PageRange, frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let table = self.table_for(pages.start, 0)?;
        let first = index_at(0, pages.start);
        let mut entry = address_of(frame) | flags_of(prot);
        let mut replaced = 0;
        for index in first..first + pages.len() {
            replaced |= self.memory.read(table, index);
            self.memory.write(table, index, entry);
            entry += 1 << PAGE_SHIFT;
        }
        if replaced & PRESENT != 0 {
            self.memory.invalidate(pages);
        }
        Ok(())
    }

    /// Unmaps `pages`; see [`wirevm_map::Pmap::remove`].
    pub fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        self.split_ends(pages)?;
        self.unmap(pages, dirty);
        Ok(())
    }

    /// Sets the protection of what is mapped in `pages`; see [`wirevm_map::Pmap::protect`].
    pub fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        self.split_ends(pages)?;
        let flags = flags_of(prot);
        self.for_each_leaf(pages, |memory, table, index, entry, _| {
            let kept = entry & (ADDRESS | LARGE | ACCESSED | DIRTY);
            memory.write(table, index, kept | flags);
        });
        self.memory.invalidate(pages);
        Ok(())
    }

    /// Reports and clears dirty marks; see [`wirevm_map::Pmap::clean`].
    pub fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        let mut joined = Joined { run: PageRange::new(0, 0), report: dirty };
        let mut cleared = false;
        self.for_each_leaf(pages, |memory, table, index, entry, covers| {
            if entry & DIRTY != 0 {
                let inside = covers.intersection(pages);
                // A large page keeps its mark when only a part is asked for: the rest may be dirty.
                if inside == covers {
                    memory.write(table, index, entry & !DIRTY);
                    cleared = true;
                }
                joined.push(inside);
            }
        });
        joined.flush();
        if cleared {
            self.memory.invalidate(pages);
        }
    }

    /// Removes whole leaves in `pages`; the ends must be split.
    fn unmap(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        let mut joined = Joined { run: PageRange::new(0, 0), report: dirty };
        let mut mapped = false;
        self.for_each_leaf(pages, |memory, table, index, entry, covers| {
            mapped = true;
            memory.write(table, index, 0);
            if entry & DIRTY != 0 {
                joined.push(covers);
            }
        });
        joined.flush();
        if mapped {
            self.memory.invalidate(pages);
        }
        self.free_empty_tables(pages);
    }

    /// Frees the page tables whose whole 2 MiB lies in `pages`: they are empty now.
    fn free_empty_tables(&mut self, pages: PageRange) {
        let mut page = pages.start.next_multiple_of(LARGE_PAGES);
        while page + LARGE_PAGES <= pages.end {
            match self.find_table(page, 1) {
                Ok(directory) => {
                    let index = index_at(1, page);
                    let entry = self.memory.read(directory, index);
                    if is_table(entry) {
                        self.memory.write(directory, index, 0);
                        // Processors cache links between tables too; one page's invalidation forgets those.
                        self.memory.invalidate(PageRange::new(page, page + 1));
                        self.memory.free(frame_of(entry));
                    }
                    page += LARGE_PAGES;
                }
                Err(next) => page = next,
            }
        }
    }

    /// Calls `visit(memory, table, index, entry, pages covered)` for every mapping that meets `pages`.
    fn for_each_leaf(&mut self, pages: PageRange, mut visit: impl FnMut(&mut M, u64, u64, u64, PageRange)) {
        let mut rest = PageRange::new(pages.start, pages.end.min(LOWER_HALF_PAGES));
        while !rest.is_empty() {
            let directory = match self.find_table(rest.start, 1) {
                Ok(directory) => directory,
                Err(next) => {
                    rest = PageRange::new(next.min(rest.end), rest.end);
                    continue;
                }
            };
            let part = in_one_table(rest);
            let index = index_at(1, part.start);
            let entry = self.memory.read(directory, index);
            if is_table(entry) {
                let table = frame_of(entry);
                let first = index_at(0, part.start);
                for (index, page) in (first..first + part.len()).zip(part.start..) {
                    let entry = self.memory.read(table, index);
                    if entry & PRESENT != 0 {
                        visit(&mut self.memory, table, index, entry, PageRange::new(page, page + 1));
                    }
                }
            } else if entry & PRESENT != 0 {
                let start = part.start - part.start % LARGE_PAGES;
                visit(&mut self.memory, directory, index, entry, PageRange::new(start, start + LARGE_PAGES));
            }
            rest.start = part.end;
        }
    }

    /// Splits the large pages, if any, that the two ends of `pages` cut.
    fn split_ends(&mut self, pages: PageRange) -> Result<(), OutOfFrames> {
        self.split_at(pages.start)?;
        self.split_at(pages.end)
    }

    fn split_at(&mut self, page: u64) -> Result<(), OutOfFrames> {
        if page.is_multiple_of(LARGE_PAGES) {
            return Ok(());
        }
        let Ok(directory) = self.find_table(page, 1) else { return Ok(()) };
        let index = index_at(1, page);
        let large = self.memory.read(directory, index);
        if large & PRESENT == 0 || is_table(large) {
            return Ok(());
        }
        let table = self.memory.allocate().ok_or(OutOfFrames)?;
        let mut entry = large & !LARGE;
        for small in 0..ENTRIES {
            self.memory.write(table, small, entry);
            entry += 1 << PAGE_SHIFT;
        }
        self.memory.write(directory, index, address_of(table) | PRESENT | WRITABLE | USER);
        let start = page - page % LARGE_PAGES;
        self.memory.invalidate(PageRange::new(start, start + LARGE_PAGES));
        Ok(())
    }

    /// Finds the table at `level` for `page`; where there is none, says at which page the hole ends.
    fn find_table(&self, page: u64, level: u32) -> Result<u64, u64> {
        let mut table = self.root;
        for above in (level + 1..=ROOT_LEVEL).rev() {
            let entry = self.memory.read(table, index_at(above, page));
            if !is_table(entry) {
                let span = 1 << (9 * above);
                return Err((page / span + 1) * span);
            }
            table = frame_of(entry);
        }
        Ok(table)
    }

    /// Finds or makes the table at `level` for `page`, splitting a large page in its place.
    fn table_for(&mut self, page: u64, level: u32) -> Result<u64, OutOfFrames> {
        let mut table = self.root;
        for above in (level + 1..=ROOT_LEVEL).rev() {
            let index = index_at(above, page);
            let mut entry = self.memory.read(table, index);
            if above == 1 && entry & LARGE != 0 {
                // The large page goes: its other 4 KiB pages stay mapped through the new table.
                self.split_at(page | 1)?;
                entry = self.memory.read(table, index);
            }
            if entry & PRESENT == 0 {
                let fresh = self.memory.allocate().ok_or(OutOfFrames)?;
                entry = address_of(fresh) | PRESENT | WRITABLE | USER;
                self.memory.write(table, index, entry);
            }
            table = frame_of(entry);
        }
        Ok(table)
    }

    /// Frees every table of the lower half below the root, mapped or not.
    pub fn release(&mut self) {
        for index in 0..ENTRIES / 2 {
            let entry = self.memory.read(self.root, index);
            if entry & PRESENT != 0 {
                self.memory.write(self.root, index, 0);
                self.memory.invalidate(PageRange::new(0, LOWER_HALF_PAGES));
                self.release_below(frame_of(entry), ROOT_LEVEL - 1);
            }
        }
    }

    fn release_below(&mut self, table: u64, level: u32) {
        if level > 0 {
            for index in 0..ENTRIES {
                let entry = self.memory.read(table, index);
                if is_table(entry) {
                    self.release_below(frame_of(entry), level - 1);
                }
            }
        }
        self.memory.free(table);
    }
}

#[cfg(test)]
mod test;
