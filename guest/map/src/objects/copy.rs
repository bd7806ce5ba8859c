//! Copying pages of an object below into the object that is to be written.

use alloc::vec::Vec;

use super::{Found, MOST_FILLED_PAGES, ObjectId, Objects, Obstacle, Pin, PinList, Window};
use crate::ports::{Frames, OutOfFrames, Pmap, Ports};
use crate::units::{FrameRun, PageRange};

/// Copies of wired pages that are about to take their place: frames that the host must hold first, for a wired page is
/// never one that it does not hold (rows P-03, P-04, B-05). The object is held meanwhile.
#[derive(Debug)]
#[must_use = "the frames are nobody's until the transfer is finished or given up"]
pub(crate) struct Transfer {
    top: ObjectId,
    indices: PageRange,
    frames: Vec<FrameRun>,
}

impl Transfer {
    /// Returns the frames of the copies.
    pub(crate) fn frames(&self) -> &[FrameRun] {
        &self.frames
    }
}

impl<P: Ports> Objects<P> {
    /// Copies the pages in `from`, which `part` of the window's object shows from below; returns how many.
    pub(super) fn copy_up(
        &mut self,
        frames: &P::Frames,
        window: &Window,
        part: PageRange,
        from: FrameRun,
    ) -> Result<u64, Obstacle> {
        let (pages, wired) = self.table[window.object].below.first_of(part);
        let part = PageRange::new(part.start, part.start + pages);
        if wired > 0 {
            return Err(Obstacle::Transfer(self.begin_transfer(frames, window.object, part)?));
        }
        let fresh = frames.allocate(pages.min(MOST_FILLED_PAGES))?;
        let part = PageRange::new(part.start, part.start + fresh.run.pages);
        for offset in 0..fresh.run.pages {
            frames.copy(from.first + offset, fresh.run.first + offset);
        }
        self.table[window.object].resident.insert(part.start, fresh.run, true);
        self.replace(window.object, part, from.first, fresh.run);
        Ok(fresh.run.pages)
    }

    /// Takes frames for copies of all pages of `indices` that `top` shows from below.
    ///
    /// # Errors
    /// [`OutOfFrames`]; nothing is taken then.
    pub(crate) fn begin_transfer(
        &mut self,
        frames: &P::Frames,
        top: ObjectId,
        indices: PageRange,
    ) -> Result<Transfer, OutOfFrames> {
        let (mut missing, mut at) = (0, indices.start);
        while at < indices.end {
            let (pages, found) = self.table.look(top, PageRange::new(at, indices.end));
            if matches!(found, Found::Resident { owner, .. } if owner != top) {
                missing += pages;
            }
            at += pages;
        }
        let mut runs: Vec<FrameRun> = Vec::new();
        while missing > 0 {
            match frames.allocate(missing) {
                Ok(fresh) => {
                    missing -= fresh.run.pages;
                    runs.push(fresh.run);
                }
                Err(error) => {
                    runs.into_iter().for_each(|run| frames.free(run));
                    return Err(error);
                }
            }
        }
        self.table[top].holds += 1;
        Ok(Transfer { top, indices, frames: runs })
    }

    /// Gives the frames of a transfer back, of which the host holds none.
    pub(crate) fn give_up_transfer(&mut self, transfer: Transfer, frames: &P::Frames) {
        transfer.frames.into_iter().for_each(|run| frames.free(run));
        self.table.let_go(transfer.top, frames);
    }

    /// Puts the copies, which the host holds, in place of the pages that still are shown from below, and moves the wirings
    /// made through the object along. Pages below that lost their last wiring are added to `last`; frames that turned out not to
    /// be needed are returned, and are the caller's to let the host and then the allocator have.
    pub(crate) fn finish_transfer(
        &mut self,
        transfer: Transfer,
        frames: &P::Frames,
        last: &mut PinList,
    ) -> Vec<FrameRun> {
        let Transfer { top, indices, frames: mut spare } = transfer;
        #[cfg(test)]
        let mutant = self.table.mutant;
        let mut at = indices.start;
        while at < indices.end {
            let (mut pages, found) = self.table.look(top, PageRange::new(at, indices.end));
            if let Found::Resident { owner, index, extent } = found
                && owner != top
                && let Some(run) = spare.last_mut()
            {
                let (same, wires) = self.table[top].below.first_of(PageRange::new(at, at + pages));
                pages = same.min(run.pages);
                let copy = FrameRun::new(run.first, pages);
                run.first += pages;
                run.pages -= pages;
                if run.pages == 0 {
                    spare.pop();
                }
                for offset in 0..pages {
                    frames.copy(extent.frames.first + offset, copy.first + offset);
                }
                let (old, new) = (PageRange::new(index, index + pages), PageRange::new(at, at + pages));
                if wires > 0 {
                    self.table.uncount_below(owner, old, wires, last);
                    self.table[top].below.clear(new);
                }
                let upper = &mut self.table[top].resident;
                upper.insert(at, copy, true);
                #[cfg(test)]
                let wires = if mutant == Some(crate::planted::Mutant::CopyLosesWiring) { 0 } else { wires };
                upper.add_wires(new, wires);
                upper.set_pin(new, Pin::Yes);
                self.replace(top, new, extent.frames.first, copy);
                if wires == 0 {
                    self.table.uncount_below(top, new, 0, last);
                }
            }
            at += pages;
        }
        self.table.let_go(top, frames);
        spare
    }

    /// Maps the frames of `to` wherever the pages `part` of `top` are mapped to the frames from `from` on, with the same rights:
    /// whoever looks through the object sees the copy from now on (Y-04).
    fn replace(&mut self, top: ObjectId, part: PageRange, from: u64, to: FrameRun) {
        #[cfg(test)]
        if self.table.mutant == Some(crate::planted::Mutant::CopyReplacesOwnMappingOnly) {
            return;
        }
        for view in self.table[top].views.clone() {
            for offset in 0..part.len() {
                let index = part.start + offset;
                let page = index.wrapping_add(view.distance);
                if !view.shows(PageRange::new(index, index + 1)) {
                    continue;
                }
                let pmap = self.pmap(view.space);
                let Some((frame, prot)) = pmap.translate(page).filter(|(frame, _)| *frame == from + offset) else {
                    continue;
                };
                debug_assert_ne!(frame, to.first + offset, "a copy is another frame");
                if pmap.enter(page, FrameRun::new(to.first + offset, 1), prot).is_err() {
                    self.unmap_block(top, &view, page);
                }
            }
        }
    }
}
