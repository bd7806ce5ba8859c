//! The resident pages of an object, as runs of pages that agree in all they are.

use crate::runs::{Run, RunMap};
use crate::units::{FrameRun, PageRange, Prot};

/// Whether the host holds a page in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// It does not.
    No,
    /// It has been asked to begin or to end, and has not answered. Nobody else asks meanwhile.
    Going,
    /// It does.
    Yes,
}

/// Resident pages with consecutive indices, consecutive frames and the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) frames: FrameRun,
    /// How many wired entries show the pages (row N5).
    pub(crate) wires: u32,
    pub(crate) pin: Pin,
    /// The manager's copy, or stable storage, may hold something else. A page can be dirtier than this says by the marks that
    /// the page tables still hold.
    pub(crate) dirty: bool,
    /// The manager has no copy (row O-03): the page goes back to it even if nobody wrote to it.
    pub(crate) precious: bool,
    /// A write to stable storage is in flight, begun when the pages were last turned from dirty to not
    /// dirty. A page written again meanwhile is both (row Z-01).
    pub(crate) cleaning: bool,
    /// Accesses that the manager has not permitted.
    pub(crate) forbidden: Prot,
    /// The manager wants to be asked before each first write (row Z-04).
    pub(crate) traps: bool,
    /// How many forks are still to copy the pages: nobody may write them, and they stay where they are.
    pub(crate) still: u32,
}

impl Run for Extent {
    fn pages(&self) -> u64 {
        self.frames.pages
    }

    fn split_off(&mut self, pages: u64) -> Self {
        let rest = FrameRun::new(self.frames.first + pages, self.frames.pages - pages);
        self.frames.pages = pages;
        Self { frames: rest, ..*self }
    }

    fn continues_as(&self, next: &Self) -> bool {
        self.frames.end() == next.frames.first
            && self.wires == next.wires
            && self.pin == next.pin
            && self.dirty == next.dirty
            && self.precious == next.precious
            && self.cleaning == next.cleaning
            && self.forbidden.bits() == next.forbidden.bits()
            && self.traps == next.traps
            && self.still == next.still
    }

    fn append(&mut self, next: Self) {
        self.frames.pages += next.frames.pages;
    }
}

impl Extent {
    /// Tells whether somebody will come back to the pages: they must stay where they are.
    pub(crate) const fn is_busy(&self) -> bool {
        self.cleaning || matches!(self.pin, Pin::Going) || self.still > 0
    }

    /// Returns the accesses that no mapping may permit now.
    pub(crate) fn denied(&self) -> Prot {
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Mutant::StillPagesAreWritten) {
            return self.forbidden;
        }
        if self.still > 0 { self.forbidden | Prot::WRITE } else { self.forbidden }
    }

    /// Returns clean pages that nobody wires.
    pub(crate) const fn clean(frames: FrameRun) -> Self {
        Self {
            frames,
            wires: 0,
            pin: Pin::No,
            dirty: false,
            precious: false,
            cleaning: false,
            forbidden: Prot::NONE,
            traps: false,
            still: 0,
        }
    }

    /// Tells whether the pages can be dropped if their content is of no use: nobody wires them or will come back to them.
    pub(crate) const fn is_loose(&self) -> bool {
        self.wires == 0 && !self.is_busy() && matches!(self.pin, Pin::No)
    }

    /// Tells whether the manager must have the pages before they go.
    pub(crate) const fn is_owed(&self) -> bool {
        self.dirty || self.precious
    }

    /// Returns the part from page `skipped` on, `pages` pages long.
    pub(crate) const fn part(self, skipped: u64, pages: u64) -> Self {
        Self { frames: FrameRun::new(self.frames.first + skipped, pages), ..self }
    }
}

/// All resident pages of an object, by index within the object.
#[derive(Debug)]
pub(crate) struct Resident {
    extents: RunMap<Extent>,
}

impl Resident {
    pub(crate) const fn new() -> Self {
        Self { extents: RunMap::new() }
    }

    /// Returns all extents with their first index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Extent)> {
        self.extents.iter()
    }

    /// Returns the extent that holds the page `index`, with its first index.
    pub(crate) fn containing(&self, index: u64) -> Option<(u64, &Extent)> {
        self.extents.containing(index)
    }

    /// As [`Resident::containing`], best where the next question is about the same extent.
    #[inline]
    pub(crate) fn come_to(&mut self, index: u64) -> Option<(u64, &Extent)> {
        self.extents.containing_mut(index).map(|(start, extent)| (start, &*extent))
    }

    /// Returns the resident pages that `range` (not empty) begins with, cut to it, or else how many absent pages it
    /// begins with.
    pub(crate) fn first_of(&self, range: PageRange) -> Result<Extent, u64> {
        match self.extents.at_or_after(range.start) {
            Some((start, extent)) if start <= range.start => {
                let skipped = range.start - start;
                Ok(extent.part(skipped, (extent.frames.pages - skipped).min(range.len())))
            }
            Some((start, _)) => Err(start.min(range.end) - range.start),
            None => Err(range.len()),
        }
    }

    /// Returns what is resident of `range`, extent by extent, clipped to it.
    pub(crate) fn pieces(&self, range: PageRange) -> impl Iterator<Item = (PageRange, Extent)> {
        self.extents.meeting(range).map(move |(start, extent)| {
            let pages = PageRange::new(start, start + extent.frames.pages).intersection(range);
            let frames = FrameRun::new(extent.frames.first + (pages.start - start), pages.len());
            (pages, Extent { frames, ..*extent })
        })
    }

    /// Makes pages from `index` on resident, unwired, in `frames`.
    pub(crate) fn insert(&mut self, index: u64, frames: FrameRun, dirty: bool) {
        self.insert_as(index, Extent { dirty, ..Extent::clean(frames) });
    }

    /// Makes pages from `index` on resident as `extent` says.
    pub(crate) fn insert_as(&mut self, index: u64, extent: Extent) {
        self.extents.insert_merged(index, extent);
    }

    /// Takes those resident pages of `range` out that `goes`, and hands their frames to `free`.
    pub(crate) fn remove_where(
        &mut self,
        range: PageRange,
        goes: impl Fn(&Extent) -> bool,
        mut free: impl FnMut(FrameRun),
    ) {
        self.extents.split(range.start);
        self.extents.split(range.end);
        let mut at = range.start;
        while let Some((start, extent)) = self.extents.at_or_after(at)
            && start < range.end
        {
            at = start + extent.frames.pages;
            if goes(extent)
                && let Some(extent) = self.extents.remove(start)
            {
                free(extent.frames);
            }
        }
        self.extents.merge(range);
    }

    /// Takes the resident pages of `range` out that nobody wires or will come back to.
    pub(crate) fn remove_unwired(&mut self, range: PageRange, free: impl FnMut(FrameRun)) {
        self.remove_where(range, Extent::is_loose, free);
    }

    /// Takes everything out.
    pub(crate) fn remove_all(&mut self, mut free: impl FnMut(FrameRun)) {
        while let Some((_, extent)) = self.extents.pop_first() {
            free(extent.frames);
        }
    }

    /// Takes all extents out.
    pub(crate) fn take(&mut self) -> RunMap<Extent> {
        core::mem::replace(&mut self.extents, RunMap::new())
    }

    /// Takes over the pages `whole` of an object that this one hides: those of `seen` that are absent here get what `extent` says,
    /// `offset` pages lower; the frames of all others go to `free`.
    pub(crate) fn absorb(
        &mut self,
        whole: PageRange,
        seen: PageRange,
        offset: u64,
        extent: Extent,
        mut free: impl FnMut(FrameRun),
    ) {
        let mut give = |pages: PageRange| {
            if !pages.is_empty() {
                free(extent.part(pages.start - whole.start, pages.len()).frames);
            }
        };
        if seen.is_empty() {
            return give(whole);
        }
        give(PageRange::new(whole.start, seen.start));
        give(PageRange::new(seen.end, whole.end));
        let mut at = seen.start;
        while at < seen.end {
            let (pages, absent) = match self.first_of(PageRange::new(at - offset, seen.end - offset)) {
                Ok(own) => (own.frames.pages, false),
                Err(gap) => (gap, true),
            };
            if absent {
                self.extents.insert(at - offset, extent.part(at - whole.start, pages));
                self.extents.merge(PageRange::new(at - offset, at - offset + pages));
            } else {
                give(PageRange::new(at, at + pages));
            }
            at += pages;
        }
    }

    /// Notes that the resident pages of `range` were written.
    pub(crate) fn mark_dirty(&mut self, range: PageRange) {
        // Mostly the pages are known to be dirty; then nothing is split and merged again.
        if self.extents.meeting(range).any(|(_, extent)| !extent.dirty) {
            self.update(range, |extent| extent.dirty = true);
        }
    }

    /// Counts `more` more wired entries on every page of `range`.
    pub(crate) fn add_wires(&mut self, range: PageRange, more: u32) {
        self.update(range, |extent| extent.wires += more);
    }

    /// Counts `less` wired entries less on every page of `range`.
    pub(crate) fn subtract_wires(&mut self, range: PageRange, less: u32) {
        self.update(range, |extent| extent.wires -= less);
    }

    /// Counts one more fork that is to copy the pages of `range`.
    pub(crate) fn hold_still(&mut self, range: PageRange) {
        self.update(range, |extent| extent.still += 1);
    }

    /// Counts one such fork less.
    pub(crate) fn let_move(&mut self, range: PageRange) {
        self.update(range, |extent| extent.still -= 1);
    }

    /// Notes whether the host holds the pages of `range`; tells whether nobody wires some of them.
    #[inline(always)]
    pub(crate) fn set_pin(&mut self, range: PageRange, pin: Pin) -> bool {
        let mut is_unwired = false;
        self.update(range, |extent| {
            extent.pin = pin;
            is_unwired |= extent.wires == 0;
        });
        is_unwired
    }

    /// Turns the pages of `range` from dirty to cleaning: a write of their content begins now. Before an unwired page whose manager
    /// wants to be asked is written again, it is asked again.
    pub(crate) fn begin_cleaning(&mut self, range: PageRange) {
        self.update(range, |extent| {
            extent.dirty = false;
            extent.cleaning = true;
            if extent.traps && extent.wires == 0 {
                extent.forbidden = extent.forbidden | Prot::WRITE;
            }
        });
    }

    /// Ends the write of `range`, pages which were dirty when it began if `was_dirty`: what failed is as before, and what was
    /// written meanwhile is dirty. What the manager has is not precious any more.
    pub(crate) fn end_cleaning(&mut self, range: PageRange, was_dirty: bool, failed: bool) {
        self.update(range, |extent| {
            extent.dirty |= failed && was_dirty;
            extent.precious &= failed;
            extent.cleaning = false;
        });
    }

    /// Notes that the loose pages of `range` need not be written, whatever they hold (row M-05).
    pub(crate) fn forget_dirty(&mut self, range: PageRange) {
        self.update(range, |extent| {
            let goes = extent.is_loose();
            #[cfg(test)]
            let goes = goes || crate::planted::is_planted(crate::planted::Mutant::KillReachesWired);
            if goes {
                extent.dirty = false;
            }
        });
    }

    /// Notes that the manager has the pages of `range`; dirty ones only if not `all`. Before a page whose manager wants to be asked
    /// is written again, it is asked again.
    pub(crate) fn settle_returned(&mut self, range: PageRange, all: bool) {
        self.update(range, |extent| {
            if extent.traps && extent.dirty && extent.wires == 0 {
                extent.forbidden = extent.forbidden | Prot::WRITE;
            }
            extent.dirty = false;
            extent.precious &= !all;
        });
    }

    /// Forbids accesses to the resident pages of `range`, and permits all others.
    pub(crate) fn set_forbidden(&mut self, range: PageRange, forbidden: Prot) {
        self.update(range, |extent| extent.forbidden = forbidden);
    }

    /// Changes the state of the run of pages that `range` (not empty) begins with, if one starts there and does not go on behind the
    /// range; returns its number of pages and what `change` does.
    pub(crate) fn change_first_run<T>(
        &mut self,
        range: PageRange,
        change: impl FnOnce(PageRange, &mut Extent) -> T,
    ) -> Option<(u64, T)> {
        self.extents.change_one(
            range.start,
            |extent| extent.frames.pages <= range.len(),
            |extent| {
                let pages = extent.frames.pages;
                (pages, change(PageRange::new(range.start, range.start + pages), extent))
            },
        )
    }

    /// Changes the state of the resident pages of `range`, and of no others.
    #[inline(always)]
    pub(crate) fn update(&mut self, range: PageRange, mut change: impl FnMut(&mut Extent)) {
        // Mostly the range is one extent, and a search costs more than all else here.
        if self.extents.change_one(range.start, |extent| extent.frames.pages == range.len(), &mut change).is_none() {
            self.update_all(range, &mut change);
        }
    }

    fn update_all(&mut self, range: PageRange, change: &mut dyn FnMut(&mut Extent)) {
        self.extents.split(range.start);
        self.extents.split(range.end);
        self.extents.change_and_merge(range, |_, extent| change(extent));
    }
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::{Extent, Pin, Resident};
    use crate::units::{FrameRun, PageRange};

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(start, end)
    }

    fn states(resident: &Resident) -> Vec<(u64, u64, u32, bool, bool)> {
        resident.iter().map(|(at, e)| (at, e.frames.pages, e.wires, e.dirty, e.cleaning)).collect()
    }

    #[test]
    fn insert_neighbouring_frames_makes_one_extent() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 2), false);
        resident.insert(4, FrameRun::new(104, 2), false);
        resident.insert(2, FrameRun::new(102, 2), false);
        assert_eq!(states(&resident), [(0, 6, 0, false, false)]);
        resident.insert(6, FrameRun::new(90, 1), false);
        resident.insert(7, FrameRun::new(91, 1), true);
        assert_eq!(resident.iter().count(), 3, "another place, then another state");
        assert_eq!(resident.first_of(range(1, 9)).map(|extent| extent.frames), Ok(FrameRun::new(101, 5)));
        assert_eq!(resident.first_of(range(8, 12)), Err(4));
    }

    #[test]
    fn wires_and_pins_part_extents_and_join_them_again() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 8), false);
        resident.add_wires(range(2, 4), 1);
        resident.add_wires(range(0, 8), 1);
        assert_eq!(states(&resident), [(0, 2, 1, false, false), (2, 2, 2, false, false), (4, 4, 1, false, false)]);
        resident.subtract_wires(range(2, 4), 1);
        assert_eq!(states(&resident), [(0, 8, 1, false, false)]);
        resident.set_pin(range(3, 5), Pin::Yes);
        assert_eq!(resident.iter().count(), 3);
        resident.set_pin(range(0, 8), Pin::Yes);
        assert_eq!(resident.iter().count(), 1);
    }

    #[test]
    fn z_01_page_written_during_its_write_is_dirty_after_success() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 4), true);
        resident.begin_cleaning(range(0, 4));
        resident.mark_dirty(range(1, 2));
        assert!(resident.containing(3).is_some_and(|(_, extent)| extent.cleaning));
        resident.end_cleaning(range(0, 4), true, false);
        assert_eq!(states(&resident), [(0, 1, 0, false, false), (1, 1, 0, true, false), (2, 2, 0, false, false)]);
        resident.begin_cleaning(range(1, 2));
        resident.end_cleaning(range(1, 2), true, true);
        assert!(resident.containing(1).is_some_and(|(_, extent)| extent.dirty));
    }

    #[test]
    fn remove_takes_exactly_what_it_is_asked_to() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 8), false);
        resident.insert(10, FrameRun::new(50, 2), true);
        resident.add_wires(range(7, 8), 1);
        let mut freed = Vec::new();
        resident.remove_unwired(range(6, 11), |run| freed.push(run));
        assert_eq!(freed, [FrameRun::new(106, 1), FrameRun::new(50, 1)]);
        assert_eq!(states(&resident), [(0, 6, 0, false, false), (7, 1, 1, false, false), (11, 1, 0, true, false)]);
    }

    #[test]
    fn absorb_takes_what_is_absent_and_frees_what_is_hidden() {
        let mut resident = Resident::new();
        resident.insert(1, FrameRun::new(10, 1), true);
        let below = Extent { wires: 2, pin: Pin::Yes, ..Extent::clean(FrameRun::new(100, 8)) };
        let mut freed = Vec::new();
        // Pages 4 to 11 of the object below; the shadow shows pages 6 to 9 of it as its pages 0 to 3.
        resident.absorb(range(4, 12), range(6, 10), 6, below, |run| freed.push(run));
        assert_eq!(freed, [FrameRun::new(100, 2), FrameRun::new(106, 2), FrameRun::new(103, 1)]);
        assert_eq!(states(&resident), [(0, 1, 2, false, false), (1, 1, 0, true, false), (2, 2, 2, false, false)]);
    }
}
