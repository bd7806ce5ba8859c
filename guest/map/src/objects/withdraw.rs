//! Taking pages away from whoever maps them.

use alloc::vec::Vec;

use super::{BLOCK_PAGES, ObjectId, Objects, Pager, View};
use crate::ports::{Frames, Pmap, Ports};
use crate::units::PageRange;

impl<P: Ports> Objects<P> {
    /// Unmaps the resident pages of `range` of the object wherever they are mapped, through shadows too.
    pub(crate) fn unmap_everywhere(&mut self, id: ObjectId, range: PageRange) {
        let pages: Vec<(PageRange, u64)> =
            self.table[id].resident.pieces(range).map(|(pages, extent)| (pages, extent.frames.first)).collect();
        // Each object with how far its pages lie below those of `id`.
        let mut shown = alloc::vec![(id, 0_u64)];
        while let Some((object, offset)) = shown.pop() {
            for &shadow in &self.table[object].shadows {
                let deeper = self.table[shadow].backing.map_or(0, |backing| backing.offset);
                shown.push((shadow, offset.wrapping_add(deeper)));
            }
            for view in self.table[object].views.clone() {
                for &(part, first) in &pages {
                    for (index, frame) in (part.start..part.end).zip(first..) {
                        // What lies before it no shadow shows.
                        if let Some(index) = index.checked_sub(offset) {
                            self.unmap_frame(object, &view, index, frame);
                        }
                    }
                }
            }
        }
    }

    /// Unmaps page `index` of the object from one view, if it is shown and mapped to `frame` there.
    fn unmap_frame(&mut self, id: ObjectId, view: &View, index: u64, frame: u64) {
        let page = index.wrapping_add(view.distance);
        let is_mapped = self.pmap(view.space).translate(page).is_some_and(|(mapped, _)| mapped == frame);
        if is_mapped && view.shows(PageRange::new(index, index + 1)) {
            self.unmap_page(id, view, page);
        }
    }

    /// Unmaps `page`, which shows a page of the object through that view.
    pub(super) fn unmap_page(&mut self, id: ObjectId, view: &View, page: u64) {
        let (table, pmap) = self.split(view.space);
        let mut note = |dirty: PageRange| table.mark_dirty(id, view.indices_of(dirty));
        if pmap.remove(PageRange::new(page, page + 1), &mut note).is_err() {
            self.unmap_block(id, view, page);
        }
    }

    /// Unmaps the whole 2 MiB mapping of one view of the object that holds `page`, where no frame is left to split it with: its
    /// other pages are entered again by the next fault on them. A 2 MiB mapping is entered for one object, so its marks are that
    /// object's.
    pub(super) fn unmap_block(&mut self, id: ObjectId, view: &View, page: u64) {
        let block = page - page % BLOCK_PAGES;
        let (table, pmap) = self.split(view.space);
        let mut note = |dirty: PageRange| table.mark_dirty(id, view.indices_of(dirty));
        let whole = pmap.remove(PageRange::new(block, block + BLOCK_PAGES), &mut note);
        debug_assert!(whole.is_ok(), "whole 2 MiB blocks are unmapped without a split");
    }

    /// Lets the object end with page `pages` (row P-10).
    ///
    /// Pages behind are unmapped everywhere and go, but for those that are wired: they are emptied, stay for the sake of the
    /// wiring, and are there again, as zeros, if the object grows again. `false`, with nothing changed, while somebody will come
    /// back to one of them.
    pub(crate) fn truncate(&mut self, id: ObjectId, pages: u64, frames: &P::Frames) -> bool {
        let gone = PageRange::new(pages, self.table[id].pages.max(pages));
        if self.table[id].resident.pieces(gone).any(|(_, extent)| extent.is_busy()) {
            return false;
        }
        self.unmap_everywhere(id, gone);
        let object = &mut self.table[id];
        object.pages = pages;
        if let Pager::File(file) = &mut object.pager {
            file.cut(pages);
        }
        object.resident.remove_unwired(gone, |run| frames.free(run));
        let kept: Vec<_> = object.resident.pieces(gone).map(|(_, extent)| extent.frames).collect();
        for run in kept {
            (run.first..run.end()).for_each(|frame| frames.fill(frame, 0));
        }
        // Zeros are what a file's pager would supply there; guest RAM's stable storage holds something else.
        if matches!(object.pager, Pager::Ram) {
            object.resident.mark_dirty(gone);
        }
        true
    }
}
