//! Part of an entry, seen as pages of its object.

use alloc::vec::Vec;

use super::populate::BLOCK_PAGES;
use super::{Found, ObjectId, ObjectTable, Objects, SpaceId, View};
use crate::ports::{OutOfFrames, Pmap, Ports};
use crate::units::{FrameRun, PageRange, Prot};

/// Pages of one entry and the pages of its object that they show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) object: ObjectId,
    pub(crate) pages: PageRange,
    pub(crate) indices: PageRange,
    pub(crate) prot: Prot,
    /// Nothing of the object may be written through the entry.
    pub(crate) needs_copy: bool,
    /// Pages come and go in whole 2 MiB.
    pub(crate) is_large: bool,
}

impl Window {
    /// Returns the same window on fewer pages.
    pub(crate) fn narrowed(&self, pages: PageRange) -> Self {
        Self { pages, indices: self.indices_of(pages), ..*self }
    }

    /// Tells whether all pages of one that is mapped as 2 MiB may be in the window.
    pub(crate) const fn holds_large_page(&self) -> bool {
        self.pages.start.next_multiple_of(BLOCK_PAGES) + BLOCK_PAGES <= self.pages.end
    }

    /// Returns the pages of the object that `pages` of the window show.
    pub(crate) fn indices_of(&self, pages: PageRange) -> PageRange {
        let index_of = |page: u64| page - self.pages.start + self.indices.start;
        PageRange::new(index_of(pages.start), index_of(pages.end))
    }

    /// Returns the page that shows page `index` of the object.
    pub(crate) const fn page_of(&self, index: u64) -> u64 {
        index - self.indices.start + self.pages.start
    }

    /// Returns what a mapping of pages of `owner` may permit: a page that others see is not written here.
    pub(crate) fn rights(&self, owner: ObjectId, forbidden: Prot) -> Prot {
        let own = if owner == self.object && !self.needs_copy { self.prot } else { self.prot.without(Prot::WRITE) };
        // No mapping could say that a page may be written and not read.
        if forbidden.contains(Prot::READ) { Prot::NONE } else { own.without(forbidden) }
    }
}

impl ObjectTable {
    /// Returns the frames behind the window's reachable pages with the rights of their mappings, as few runs as there are,
    /// each with its first page.
    pub(crate) fn mappings(&self, window: Window) -> impl Iterator<Item = (u64, FrameRun, Prot)> {
        let mut at = window.indices.start;
        let mut next = move || {
            while at < window.indices.end {
                let first = at;
                let (pages, found) = self.look(window.object, PageRange::new(at, window.indices.end));
                at += pages;
                if let Found::Resident { owner, extent, .. } = found {
                    let prot = window.rights(owner, extent.denied());
                    return Some((window.page_of(first), extent.frames, prot));
                }
            }
            None
        };
        let mut held = next();
        core::iter::from_fn(move || {
            let (page, mut run, prot) = held.take()?;
            loop {
                held = next();
                match held {
                    Some((more, frames, same))
                        if same == prot && more == page + run.pages && frames.first == run.end() =>
                    {
                        run.pages += frames.pages;
                    }
                    _ => return Some((page, run, prot)),
                }
            }
        })
    }
}

impl<P: Ports> Objects<P> {
    /// Folds the dirty marks of the window's mappings into the objects and clears them.
    pub(crate) fn collect_dirty(&mut self, space: SpaceId, window: &Window) {
        let (table, pmap) = self.split(space);
        pmap.clean(window.pages, &mut |dirty| table.mark_dirty(window.object, window.indices_of(dirty)));
    }

    /// As [`Objects::collect_dirty`], for the mappings of the same pages elsewhere: in other maps, and at other places of this
    /// one. Only entries that show the pages' very object can have written them.
    pub(crate) fn collect_dirty_elsewhere(&mut self, space: SpaceId, window: &Window) {
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Mutant::MarksElsewhereAreLost)
            && self.table[window.object].managed().is_some()
        {
            return;
        }
        let here = window.pages.start.wrapping_sub(window.indices.start);
        let is_here = |owner, view: &View| owner == window.object && view.space == space && view.distance == here;
        let mut shown = Vec::new();
        self.table.for_each(window.object, window.indices, |pages, found| {
            if let Found::Resident { owner, index, .. } = found
                && self.table[owner].views.iter().any(|view| !is_here(owner, view))
            {
                shown.push((owner, PageRange::new(index, index + pages.len())));
            }
        });
        for (owner, indices) in shown {
            for view in self.table[owner].views.clone().iter().filter(|view| !is_here(owner, view)) {
                let (table, pmap) = self.split(view.space);
                for part in view.shown_of(indices) {
                    pmap.clean(view.pages_of(part), &mut |dirty| table.mark_dirty(owner, view.indices_of(dirty)));
                }
            }
        }
    }

    /// Maps what is resident of the window, as the entry permits. The marks of older mappings must have been
    /// collected, for an entered page starts clean.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for a table; pages from the front on may be mapped then, the others are as they
    /// were.
    pub(crate) fn enter(&mut self, space: SpaceId, window: &Window) -> Result<(), OutOfFrames> {
        let (table, pmap) = self.split(space);
        table.mappings(*window).try_for_each(|(page, run, prot)| enter_run(pmap, page, run, prot))
    }

    /// As [`Objects::enter`], for pages from `page` on that are known to be in the frames of `run`, with these rights.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn enter_run(
        &mut self,
        space: SpaceId,
        page: u64,
        run: FrameRun,
        prot: Prot,
    ) -> Result<(), OutOfFrames> {
        enter_run(self.pmap(space), page, run, prot)
    }
}

/// Maps pages from `page` on to the frames of `run`, unless `prot` permits nothing.
pub(super) fn enter_run(pmap: &mut impl Pmap, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
    if prot.is_none() { Ok(()) } else { pmap.enter(page, run, prot) }
}
