//! Where objects are shown.

use super::{Counts, ObjectId, ObjectTable, SpaceId};
use crate::ports::Frames;
use crate::units::PageRange;

/// Entries of one map that show an object at the same distance: virtual page minus page of the object, modulo 2^64.
///
/// Clipping and merging entries changes neither the distance nor which pages are shown, so views need no care then. Whoever goes
/// through them compares frames too: a page can be shown and not be mapped, and beside what is shown another object may map the
/// same frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) space: SpaceId,
    pub(crate) distance: u64,
    /// Which pages of the object are shown.
    shown: Counts,
}

impl View {
    /// Returns how many pages of the object are shown.
    pub(crate) fn pages(&self) -> u64 {
        self.shown.pages()
    }

    /// Tells whether all of `indices` (not empty) is shown.
    pub(crate) fn shows(&self, indices: PageRange) -> bool {
        self.shown.first_of(indices) == (indices.len(), 1)
    }

    /// Returns the parts of `indices` that are shown, in order.
    pub(super) fn shown_of(&self, indices: PageRange) -> impl Iterator<Item = PageRange> {
        let mut rest = indices;
        core::iter::from_fn(move || {
            while !rest.is_empty() {
                let (pages, count) = self.shown.first_of(rest);
                let part = PageRange::new(rest.start, rest.start + pages);
                rest.start = part.end;
                if count > 0 {
                    return Some(part);
                }
            }
            None
        })
    }

    /// Returns the pages of the object that are shown, if they are, as virtual pages `pages`.
    pub(crate) const fn indices_of(&self, pages: PageRange) -> PageRange {
        PageRange::new(pages.start.wrapping_sub(self.distance), pages.end.wrapping_sub(self.distance))
    }

    /// Returns the virtual pages that `indices`, which are shown, are.
    pub(super) const fn pages_of(&self, indices: PageRange) -> PageRange {
        PageRange::new(indices.start.wrapping_add(self.distance), indices.end.wrapping_add(self.distance))
    }
}

impl ObjectTable {
    /// Notes that an entry of `space` shows pages of the object, `indices.start` of it at virtual page `start`.
    pub(crate) fn show(&mut self, id: ObjectId, space: SpaceId, start: u64, indices: PageRange) {
        self.initialise(id);
        let distance = start.wrapping_sub(indices.start);
        let views = &mut self[id].views;
        match views.iter_mut().find(|view| view.space == space && view.distance == distance) {
            Some(view) => view.shown.add(indices),
            None => {
                let mut shown = Counts::new();
                shown.add(indices);
                views.push(View { space, distance, shown });
            }
        }
    }

    /// Notes that an entry shows pages of the object no more. The object may end by it, so does nothing else about it.
    pub(crate) fn hide(&mut self, id: ObjectId, space: SpaceId, start: u64, indices: PageRange, frames: &impl Frames) {
        let distance = start.wrapping_sub(indices.start);
        let views = &mut self[id].views;
        let mut gone = false;
        for view in views.iter_mut().filter(|view| view.space == space && view.distance == distance) {
            view.shown.subtract(indices);
            gone = view.shown.is_empty();
        }
        if gone {
            views.retain(|view| !view.shown.is_empty());
            self.settle(id, frames);
        }
    }

    /// Tells whether nothing but entries of one map, at one distance, shows the object's pages.
    pub(crate) fn is_unshared(&self, id: ObjectId) -> bool {
        let object = &self[id];
        object.views.len() == 1 && object.shadows.is_empty() && object.handles == 0
    }

    /// As [`ObjectTable::is_unshared`], whatever the map with the page tables `child` shows.
    pub(crate) fn is_unshared_but_for(&self, id: ObjectId, child: SpaceId) -> bool {
        let object = &self[id];
        let others = object.views.iter().filter(|view| view.space != child).count();
        others == 1 && object.shadows.is_empty() && object.handles == 0
    }
}
