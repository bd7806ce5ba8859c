//! Pages that nobody may write until a fork has copied them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Found, MOST_FILLED_PAGES, ObjectId, Objects, SpaceId, View};
use crate::ports::{Frames, OutOfFrames, Pmap, Ports};
use crate::units::{PageRange, Prot};

/// What a fork is still to copy: pages that stay as they were when it was begun, whatever others do with the objects unlocked.
#[derive(Debug, Default)]
#[must_use = "what is held still is to be let go"]
pub(crate) struct Copies {
    rest: VecDeque<Copy>,
    /// Mappings that were write-protected, with the rights that they are to have again.
    mappings: Vec<(SpaceId, PageRange, Prot)>,
}

/// Pages of one object, which is held, and where their copies go.
#[derive(Debug)]
struct Copy {
    from: ObjectId,
    pages: PageRange,
    to: ObjectId,
    index: u64,
}

impl Copies {
    /// Tells whether all is copied.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<P: Ports> Objects<P> {
    /// Lets no processor write the resident pages that `range` of `top` shows, through whichever map, until they have been copied
    /// to pages from 0 on of `to`.
    pub(crate) fn hold_still(&mut self, copies: &mut Copies, top: ObjectId, range: PageRange, to: ObjectId) {
        let mut at = range.start;
        while at < range.end {
            let (pages, found) = self.table.look(top, PageRange::new(at, range.end));
            if let Found::Resident { owner, index, .. } = found {
                let copy =
                    Copy { from: owner, pages: PageRange::new(index, index + pages), to, index: at - range.start };
                self.table[owner].resident.hold_still(copy.pages);
                self.table[owner].holds += 1;
                self.protect_everywhere(copies, owner, copy.pages);
                copies.rest.push_back(copy);
            }
            at += pages;
        }
    }

    /// Copies the next pages, as many as others can wait for, and lets them go.
    ///
    /// # Errors
    /// [`OutOfFrames`]: none are left for the copies. Pages may have been copied before.
    pub(crate) fn copy_some(&mut self, copies: &mut Copies, frames: &P::Frames) -> Result<(), OutOfFrames> {
        let mut left = MOST_FILLED_PAGES;
        while left > 0
            && let Some(copy) = copies.rest.front_mut()
        {
            let from = copy.from;
            // What is held still is there.
            let pages = match self.table[from].resident.first_of(copy.pages) {
                Ok(extent) => {
                    let fresh = frames.allocate(extent.frames.pages.min(left))?;
                    for offset in 0..fresh.run.pages {
                        frames.copy(extent.frames.first + offset, fresh.run.first + offset);
                    }
                    self.table[copy.to].resident.insert(copy.index, fresh.run, true);
                    fresh.run.pages
                }
                Err(gap) => gap,
            };
            let done = PageRange::new(copy.pages.start, copy.pages.start + pages);
            copy.index += pages;
            copy.pages.start = done.end;
            let is_over = copy.pages.is_empty();
            self.table[from].resident.let_move(done);
            if is_over {
                copies.rest.pop_front();
                self.table.let_go(from, frames);
            }
            left = left.saturating_sub(pages);
        }
        Ok(())
    }

    /// Permits what was permitted before, if all was copied and the objects have been locked all the while.
    pub(crate) fn let_move(&mut self, copies: Copies) {
        for (space, pages, prot) in copies.mappings {
            // What can't be had again now, the next fault gets.
            self.pmap(space).protect(pages, prot).unwrap_or_default();
        }
    }

    /// Lets go what was not copied.
    pub(crate) fn give_up_copies(&mut self, copies: Copies, frames: &P::Frames) {
        for copy in copies.rest {
            self.table[copy.from].resident.let_move(copy.pages);
            self.table.let_go(copy.from, frames);
        }
    }

    /// Takes the right to write pages `indices` of `owner` from all mappings.
    fn protect_everywhere(&mut self, copies: &mut Copies, owner: ObjectId, indices: PageRange) {
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Mutant::CopiesWhatIsWritten) {
            return;
        }
        // Only entries that show the pages' very object can permit writes.
        for view in self.table[owner].views.clone() {
            for part in view.shown_of(indices) {
                self.protect_view(owner, &view, view.pages_of(part), copies);
            }
        }
    }

    fn protect_view(&mut self, owner: ObjectId, view: &View, pages: PageRange, copies: &mut Copies) {
        let mut rest = pages;
        while let Some((run, prot)) = self.writable_run(view.space, &mut rest) {
            let rights = prot.without(Prot::WRITE);
            let is_protected = |pmap: &mut P::Pmap, pages| !rights.is_none() && pmap.protect(pages, rights).is_ok();
            if is_protected(self.pmap(view.space), run) {
                copies.mappings.push((view.space, run, prot));
                continue;
            }
            for page in run.start..run.end {
                let this = PageRange::new(page, page + 1);
                if is_protected(self.pmap(view.space), this) {
                    copies.mappings.push((view.space, this, prot));
                } else {
                    self.unmap_page(owner, view, page);
                }
            }
        }
    }

    /// Takes the first pages of `rest` that are mapped alike and may be written, and what is before them, from `rest`.
    fn writable_run(&mut self, space: SpaceId, rest: &mut PageRange) -> Option<(PageRange, Prot)> {
        let pmap = self.pmap(space);
        let rights = |page: u64| pmap.translate(page).map(|(_, prot)| prot).filter(|prot| prot.contains(Prot::WRITE));
        let (start, prot) = (rest.start..rest.end).find_map(|page| Some((page, rights(page)?)))?;
        let end = (start..rest.end).find(|&page| rights(page) != Some(prot)).unwrap_or(rest.end);
        rest.start = end;
        Some((PageRange::new(start, end), prot))
    }
}
