//! Mapping.

use wirevm_map::{FrameRun, OutOfFrames, PageRange, Prot};

use super::entry::{
    LARGE, LARGE_PAGES, NEXT_FRAME, NEXT_LARGE, PRESENT, frame_of, in_one_table, index_at, is_large, is_same, is_table,
    mapping_to,
};
use super::{DIRECTORY, PageTables, TableMemory};

impl<M: TableMemory> PageTables<M> {
    /// Maps pages from `page` on to `run`; see [`wirevm_map::Pmap::enter`].
    ///
    /// Where one large page maps a part of the run to the same frames with the same rights already, it is left as it is:
    /// splitting or writing that again would change nothing and may need a frame that is not there.
    ///
    /// # Errors
    /// [`OutOfFrames`]; a large page that reaches over an end of the run keeps mapping then, as it did.
    pub fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        let all = PageRange::new(page, page + run.pages);
        let mut rest = all;
        while !rest.is_empty() {
            let part = in_one_table(DIRECTORY, rest);
            let frame = run.first + (part.start - page);
            let entered =
                self.directory_for(part.start).and_then(|directory| self.enter_in(directory, part, frame, prot));
            if entered.is_err() {
                self.unmap(self.uncut(all), &mut |_| ());
                return Err(OutOfFrames);
            }
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
            let old = self.memory.read(directory, index);
            if !is_same(old, entry) {
                self.memory.write(directory, index, entry);
                if old & PRESENT != 0 {
                    replaced = true;
                    if is_table(old) {
                        self.memory.invalidate(pages);
                        self.memory.free(frame_of(old));
                    }
                }
            }
            // An address is far from the top bits; the check would be a tenth of the loop.
            entry = entry.wrapping_add(NEXT_LARGE);
        }
        if replaced {
            self.memory.invalidate(pages);
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
        let mut replaced = 0;
        for index in first..first + pages.len() {
            replaced |= self.memory.read(table, index);
            self.memory.write(table, index, entry);
            entry = entry.wrapping_add(NEXT_FRAME);
        }
        if replaced & PRESENT != 0 {
            self.memory.invalidate(pages);
        }
        Ok(())
    }

    /// Returns `pages` without the ends that lie inside large pages.
    fn uncut(&self, pages: PageRange) -> PageRange {
        let mut uncut = pages;
        if self.cut_by(pages.start).is_some() {
            uncut.start = pages.start.next_multiple_of(LARGE_PAGES);
        }
        if self.cut_by(pages.end).is_some() {
            uncut.end = pages.end - pages.end % LARGE_PAGES;
        }
        if uncut.start < uncut.end { uncut } else { PageRange::new(pages.start, pages.start) }
    }
}
