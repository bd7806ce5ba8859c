//! What the map does to page tables, and how their dirty marks come back.

use super::MapState;
use crate::entry::MapEntry;
use crate::objects::{BLOCK_PAGES, ObjectTable, Objects};
use crate::ports::{OutOfFrames, Pmap, Ports};
use crate::runs::RunMap;
use crate::units::{PageRange, Prot};

impl<P: Ports> MapState<P> {
    /// Unmaps `pages` and folds what was written through the mappings into the objects.
    ///
    /// Where a 2 MiB mapping reaches over an end of `pages` and no frame is left to split it with, the
    /// whole of it goes: its other pages are entered again by the next fault on them.
    pub(super) fn unmap(&mut self, objects: &mut Objects<P>, pages: PageRange) {
        if self.try_unmap(objects, pages).is_err() {
            let blocks = PageRange::new(
                pages.start - pages.start % BLOCK_PAGES,
                pages.end.checked_next_multiple_of(BLOCK_PAGES).unwrap_or(pages.end),
            );
            // A block that reaches over the map's own end holds no 2 MiB mapping of the map, and what else it
            // maps is not the map's.
            let unsplit = self.try_unmap(objects, blocks.intersection(self.bounds));
            assert!(matches!(unsplit, Ok(())), "whole 2 MiB blocks are unmapped without a split");
        }
    }

    /// As [`MapState::unmap`], but where a 2 MiB mapping would have to be split and can't be changes nothing up to the next submap.
    pub(super) fn try_unmap(&mut self, objects: &mut Objects<P>, pages: PageRange) -> Result<(), OutOfFrames> {
        // Between the parts lie submaps, whose mappings go into none of this map's objects; no 2 MiB mapping reaches over
        // their borders.
        let mut result = Ok(());
        for part in self.own_parts(pages) {
            let (table, pmap) = objects.split(self.space);
            let entries = &self.entries;
            let removed = pmap.remove(part, &mut |dirty| fold_dirty(entries, table, dirty));
            result = result.and(removed);
        }
        result
    }

    /// Folds the dirty marks of the map's own `pages` into the objects and clears them, also those of 2 MiB
    /// mappings that several entries share.
    pub(super) fn collect_dirty(&mut self, objects: &mut Objects<P>, pages: PageRange) {
        for part in self.own_parts(pages.intersection(self.bounds)) {
            let (table, pmap) = objects.split(self.space);
            let entries = &self.entries;
            pmap.clean(part, &mut |dirty| fold_dirty(entries, table, dirty));
        }
    }

    /// As [`MapState::collect_dirty`], with what was written to the same pages through other mappings, of this map and others.
    pub(super) fn collect_all_dirty(&mut self, objects: &mut Objects<P>, pages: PageRange) {
        self.collect_dirty(objects, pages);
        for (start, entry) in self.entries.meeting(pages) {
            if let Some(window) = entry.window(start, entry.range(start).intersection(pages)) {
                objects.collect_dirty_elsewhere(self.space, &window);
            }
        }
    }

    /// Gives what is mapped of `pages` the protection `prot`.
    pub(super) fn reprotect(&mut self, objects: &mut Objects<P>, pages: PageRange, prot: Prot) {
        // Unmapped pages get their protection from the entry at the next fault, so unmapping always does.
        if prot.is_none() || objects.pmap(self.space).protect(pages, prot).is_err() {
            self.unmap(objects, pages);
        }
    }
}

/// Notes in the objects that the pages of `dirty` were written.
fn fold_dirty(entries: &RunMap<MapEntry>, table: &mut ObjectTable, dirty: PageRange) {
    for (start, entry) in entries.meeting(dirty) {
        if let Some(object) = entry.object {
            let part = dirty.intersection(entry.range(start));
            table.mark_dirty(object, entry.object_range(start, part));
        }
    }
}
