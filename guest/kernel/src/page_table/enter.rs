//! Mapping.

use wirevm_map::{FrameRun, OutOfFrames, PageRange, Prot};

use super::entry::{
    LARGE, LARGE_PAGES, NEXT_FRAME, NEXT_LARGE, PRESENT, frame_of, in_one_table, index_at, is_large, is_same, is_table,
    kept_marks, mapping_to,
};
use super::{DIRECTORY, PageTables, ROOT_LEVEL, TableMemory};

impl<M: TableMemory> PageTables<M> {
    /// Maps pages from `page` on to `run`; see [`wirevm_map::Pmap::enter`].
    ///
    /// Where one large page maps a part of the run to the same frames with the same rights already, it is left as it is:
    /// splitting or writing that again would change nothing and may need a frame that is not there.
    ///
    /// # Errors
    /// [`OutOfFrames`]; pages from the front of the run on are mapped to it then, the others are as they were.
    pub fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        if run.pages == 1 && self.enter_easily(page, run.first, prot) {
            return Ok(());
        }
        let all = PageRange::new(page, page + run.pages);
        let entered = self.enter_all(all, run.first, prot);
        self.settle();
        entered
    }

    /// Maps one page, if nothing is mapped there and its table is there; see [`wirevm_map::Pmap::enter_absent`].
    pub fn enter_absent(&mut self, page: u64, frame: u64, prot: Prot) -> bool {
        let Some((table, index)) = self.find_small(page) else { return false };
        if self.memory.read(table, index) & PRESENT != 0 {
            return false;
        }
        // No processor remembers that nothing is there, nor marks such an entry.
        self.memory.write(table, index, mapping_to(frame, prot));
        true
    }

    /// Maps one page, if its table is there and nothing has to be replaced: nothing is mapped there, or the very same.
    fn enter_easily(&mut self, page: u64, frame: u64, prot: Prot) -> bool {
        let Some((table, index)) = self.find_small(page) else { return false };
        let (old, entry) = (self.memory.read(table, index), mapping_to(frame, prot));
        if old & PRESENT == 0 {
            self.memory.write(table, index, entry);
            return true;
        }
        is_same(old, entry)
    }

    /// Finds where a small page is mapped, if there is a table for it.
    #[inline]
    fn find_small(&self, page: u64) -> Option<(u64, u64)> {
        let mut table = self.root;
        for level in (DIRECTORY..=ROOT_LEVEL).rev() {
            let link = self.memory.read(table, index_at(level, page));
            if !is_table(link) {
                return None;
            }
            table = frame_of(link);
        }
        Some((table, index_at(0, page)))
    }

    /// Maps `all` to the frames from `first_frame` on, as far as tables can be had.
    fn enter_all(&mut self, all: PageRange, first_frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let mut rest = all;
        while !rest.is_empty() {
            let part = in_one_table(DIRECTORY, rest);
            let frame = first_frame + (part.start - all.start);
            let directory = self.directory_for(part.start)?;
            self.enter_in(directory, part, frame, prot)?;
            rest.start = part.end;
        }
        Ok(())
    }

    /// Maps `pages`, which `directory` covers, to the frames from `frame` on: in large pages where that can be.
    fn enter_in(&mut self, directory: u64, pages: PageRange, frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let mut rest = pages;
        while !rest.is_empty() {
            let frame = frame + (rest.start - pages.start);
            let is_aligned = (rest.start | frame).is_multiple_of(LARGE_PAGES);
            if is_aligned && rest.len() >= LARGE_PAGES {
                let whole = PageRange::new(rest.start, rest.end - rest.end % LARGE_PAGES);
                self.enter_large(directory, whole, frame, prot);
                rest.start = whole.end;
            } else {
                let part = in_one_table(0, rest);
                self.enter_small(directory, part, frame, prot)?;
                rest.start = part.end;
            }
        }
        Ok(())
    }

    /// Maps whole large pages.
    fn enter_large(&mut self, directory: u64, pages: PageRange, frame: u64, prot: Prot) {
        let first = index_at(DIRECTORY, pages.start);
        let mut entry = mapping_to(frame, prot) | LARGE;
        let mut replaced = false;
        for index in first..first + pages.len() / LARGE_PAGES {
            let mut old = self.memory.read(directory, index);
            if !is_same(old, entry) {
                while let Err(now) = self.memory.replace(directory, index, old, entry | kept_marks(old, entry)) {
                    old = now;
                }
                if old & PRESENT != 0 {
                    replaced = true;
                    if is_table(old) {
                        let start = pages.start + (index - first) * LARGE_PAGES;
                        self.retire_for(frame_of(old), start, entry);
                    }
                }
            }
            // An address is far from the top bits; the check would be a tenth of the loop.
            entry = entry.wrapping_add(NEXT_LARGE);
        }
        if replaced {
            self.stale.add(pages);
        }
    }

    /// Maps pages of one table, one by one.
    fn enter_small(&mut self, directory: u64, pages: PageRange, frame: u64, prot: Prot) -> Result<(), OutOfFrames> {
        let index = index_at(DIRECTORY, pages.start);
        let first = index_at(0, pages.start);
        let mut entry = mapping_to(frame, prot);
        let old = self.memory.read(directory, index);
        let table = if is_large(old) {
            // A large page that is the same begins as far in front of these pages' frames as of the pages.
            if is_same(old + first * NEXT_FRAME, entry | LARGE) {
                return Ok(());
            }
            // The large page goes: its other pages stay mapped through the new table.
            self.split(directory, index, old, pages.start)?
        } else {
            self.linked_table(directory, index)?
        };
        let mut replaced = false;
        for index in first..first + pages.len() {
            let mut old = self.memory.read(table, index);
            if old & PRESENT == 0 {
                self.memory.write(table, index, entry);
            } else if !is_same(old, entry) {
                replaced = true;
                // Another processor may write to the page right now. Where it stays the same page, it stays dirty.
                while let Err(now) = self.memory.replace(table, index, old, entry | kept_marks(old, entry)) {
                    old = now;
                }
            }
            entry = entry.wrapping_add(NEXT_FRAME);
        }
        if replaced {
            self.stale.add(pages);
        }
        Ok(())
    }
}
