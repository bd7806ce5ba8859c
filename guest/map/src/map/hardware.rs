//! What the map does to page tables, and how their dirty marks come back.

use super::MapState;
use crate::entry::MapEntry;
use crate::ports::{OutOfFrames, Pmap, Ports};
use crate::runs::RunMap;
use crate::units::{PageRange, Prot};

/// Pages in the larger of the two page sizes.
pub(super) const BLOCK_PAGES: u64 = 512;

impl<P: Ports> MapState<P> {
    /// Unmaps `pages` and folds what was written through the mappings into the objects.
    ///
    /// Where a 2 MiB mapping reaches over an end of `pages` and no frame is left to split it with, the
    /// whole of it goes: its other pages are entered again by the next fault on them.
    pub(super) fn unmap(&mut self, pages: PageRange) {
        if self.try_unmap(pages).is_err() {
            let blocks = PageRange::new(
                pages.start - pages.start % BLOCK_PAGES,
                pages.end.checked_next_multiple_of(BLOCK_PAGES).unwrap_or(pages.end),
            );
            // A block that reaches over the map's own end holds no 2 MiB mapping of the map, and what else it
            // maps is not the map's.
            let unsplit = self.try_unmap(blocks.intersection(self.bounds));
            assert!(matches!(unsplit, Ok(())), "whole 2 MiB blocks are unmapped without a split");
        }
    }

    /// As [`MapState::unmap`], but changes nothing where a 2 MiB mapping would have to be split and can't be.
    pub(super) fn try_unmap(&mut self, pages: PageRange) -> Result<(), OutOfFrames> {
        let Self { entries, pmap, .. } = self;
        pmap.remove(pages, &mut |dirty| fold_dirty(entries, dirty))
    }

    /// Folds the dirty marks of the map's own `pages` into the objects and clears them, also those of 2 MiB
    /// mappings that several entries share.
    pub(super) fn collect_dirty(&mut self, pages: PageRange) {
        let Self { entries, pmap, bounds, .. } = self;
        pmap.clean(pages.intersection(*bounds), &mut |dirty| fold_dirty(entries, dirty));
    }

    /// Gives what is mapped of `pages` the protection `prot`.
    pub(super) fn reprotect(&mut self, pages: PageRange, prot: Prot) {
        // Unmapped pages get their protection from the entry at the next fault, so unmapping always does.
        if prot.is_none() || self.pmap.protect(pages, prot).is_err() {
            self.unmap(pages);
        }
    }
}

/// Notes in the objects that the pages of `dirty` were written.
fn fold_dirty(entries: &RunMap<MapEntry>, dirty: PageRange) {
    for (start, entry) in entries.meeting(dirty) {
        if let Some(object) = &entry.object {
            let part = dirty.intersection(PageRange::new(start, start + entry.pages));
            object.resident().mark_dirty(entry.object_range(start, part));
        }
    }
}
