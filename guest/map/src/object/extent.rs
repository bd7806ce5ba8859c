//! The resident pages of an object, as runs of pages that agree in all they are.

use crate::frame_runs::FrameRuns;
use crate::runs::{Run, RunMap};
use crate::units::{FrameRun, PageRange};

/// Resident pages with consecutive indices, consecutive frames and the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) frames: FrameRun,
    /// How many wired entries show the pages (row N5).
    pub(crate) wires: u32,
    /// Stable storage may hold something else. A page can be dirtier than this says by the marks that the
    /// page tables still hold.
    pub(crate) dirty: bool,
    /// A write to stable storage is in flight, begun when the pages were last turned from dirty to not
    /// dirty. A page written again meanwhile is both (row Z-01).
    pub(crate) cleaning: bool,
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
            && self.dirty == next.dirty
            && self.cleaning == next.cleaning
    }

    fn append(&mut self, next: Self) {
        self.frames.pages += next.frames.pages;
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

    /// Returns what is resident of `range`, extent by extent, clipped to it.
    pub(crate) fn pieces(&self, range: PageRange) -> impl Iterator<Item = (PageRange, Extent)> {
        self.extents.meeting(range).map(move |(start, extent)| {
            let pages = PageRange::new(start, start + extent.frames.pages).intersection(range);
            let frames = FrameRun::new(extent.frames.first + (pages.start - start), pages.len());
            (pages, Extent { frames, ..*extent })
        })
    }

    /// Returns the frames behind `range`, joined over extents that differ only in their state, each run
    /// with its first index.
    pub(crate) fn frames(&self, range: PageRange) -> impl Iterator<Item = (u64, FrameRun)> {
        let mut pieces = self.pieces(range).peekable();
        core::iter::from_fn(move || {
            let (pages, mut extent) = pieces.next()?;
            while let Some((next_pages, next)) = pieces.peek()
                && next_pages.start == pages.start + extent.frames.pages
                && next.frames.first == extent.frames.end()
            {
                extent.frames.pages += next.frames.pages;
                pieces.next();
            }
            Some((pages.start, extent.frames))
        })
    }

    /// Tells whether no page of `range` is resident.
    pub(crate) fn is_absent(&self, range: PageRange) -> bool {
        self.extents.meeting(range).next().is_none()
    }

    /// Returns the first part of `range` that is not resident.
    pub(crate) fn next_gap(&self, range: PageRange) -> Option<PageRange> {
        self.extents.next_gap(range)
    }

    /// Tells whether a page of `range` is on its way to stable storage.
    pub(crate) fn is_cleaning(&self, range: PageRange) -> bool {
        self.extents.meeting(range).any(|(_, extent)| extent.cleaning)
    }

    /// Makes pages from `index` on resident, unwired, in `frames`.
    pub(crate) fn insert(&mut self, index: u64, frames: FrameRun, dirty: bool) {
        self.extents.insert(index, Extent { frames, wires: 0, dirty, cleaning: false });
        self.extents.merge(PageRange::new(index, index + frames.pages));
    }

    /// Takes the resident pages of `range` out and hands their frames to `free`.
    pub(crate) fn remove(&mut self, range: PageRange, mut free: impl FnMut(FrameRun)) {
        self.extents.split(range.start);
        self.extents.split(range.end);
        while let Some((start, _)) = self.extents.at_or_after(range.start)
            && start < range.end
            && let Some(extent) = self.extents.remove(start)
        {
            free(extent.frames);
        }
    }

    /// Notes that the resident pages of `range` were written.
    pub(crate) fn mark_dirty(&mut self, range: PageRange) {
        // Mostly the pages are known to be dirty; then nothing is split and merged again.
        if self.extents.meeting(range).any(|(_, extent)| !extent.dirty) {
            self.update(range, |extent| extent.dirty = true);
        }
    }

    /// Counts one more wired entry on every page of `range` and adds the frames that had none to `first`.
    pub(crate) fn wire(&mut self, range: PageRange, first: &mut FrameRuns) {
        self.update(range, |extent| {
            extent.wires += 1;
            if extent.wires == 1 {
                first.push(extent.frames);
            }
        });
    }

    /// Counts one wired entry less on every page of `range` and adds the frames that have none left to
    /// `last`.
    pub(crate) fn unwire(&mut self, range: PageRange, last: &mut FrameRuns) {
        self.update(range, |extent| {
            extent.wires -= 1;
            if extent.wires == 0 {
                last.push(extent.frames);
            }
        });
    }

    /// Turns the pages of `range` from dirty to cleaning: a write of their content begins now.
    pub(crate) fn begin_cleaning(&mut self, range: PageRange) {
        self.update(range, |extent| {
            extent.dirty = false;
            extent.cleaning = true;
        });
    }

    /// Ends the write of `range`: what failed is dirty again, and so is what was written meanwhile.
    pub(crate) fn end_cleaning(&mut self, range: PageRange, failed: bool) {
        self.update(range, |extent| {
            extent.dirty |= failed;
            extent.cleaning = false;
        });
    }

    /// Changes the state of the resident pages of `range`, and of no others.
    fn update(&mut self, range: PageRange, mut change: impl FnMut(&mut Extent)) {
        self.extents.split(range.start);
        self.extents.split(range.end);
        for (_, extent) in self.extents.starting_mut(range) {
            change(extent);
        }
        self.extents.merge(range);
    }
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::Resident;
    use crate::frame_runs::FrameRuns;
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
        assert_eq!(
            resident.frames(range(1, 9)).collect::<Vec<_>>(),
            [(1, FrameRun::new(101, 5)), (6, FrameRun::new(90, 2))]
        );
    }

    #[test]
    fn wire_and_unwire_report_the_edges_of_zero_only() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 8), false);
        let mut first = FrameRuns::new();
        resident.wire(range(2, 4), &mut first);
        resident.wire(range(0, 8), &mut first);
        assert_eq!(first.joined(), [FrameRun::new(100, 8)]);
        assert_eq!(states(&resident), [(0, 2, 1, false, false), (2, 2, 2, false, false), (4, 4, 1, false, false)]);
        let mut last = FrameRuns::new();
        resident.unwire(range(2, 4), &mut last);
        assert_eq!(last.joined(), []);
        assert_eq!(states(&resident), [(0, 8, 1, false, false)]);
    }

    #[test]
    fn z_01_page_written_during_its_write_is_dirty_after_success() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 4), true);
        resident.begin_cleaning(range(0, 4));
        resident.mark_dirty(range(1, 2));
        assert!(resident.is_cleaning(range(3, 4)));
        resident.end_cleaning(range(0, 4), false);
        assert_eq!(states(&resident), [(0, 1, 0, false, false), (1, 1, 0, true, false), (2, 2, 0, false, false)]);
        resident.begin_cleaning(range(1, 2));
        resident.end_cleaning(range(1, 2), true);
        assert!(resident.containing(1).is_some_and(|(_, extent)| extent.dirty));
    }

    #[test]
    fn remove_range_frees_exactly_its_frames() {
        let mut resident = Resident::new();
        resident.insert(0, FrameRun::new(100, 8), false);
        resident.insert(10, FrameRun::new(50, 2), true);
        let mut freed = Vec::new();
        resident.remove(range(6, 11), |run| freed.push(run));
        assert_eq!(freed, [FrameRun::new(106, 2), FrameRun::new(50, 1)]);
        assert_eq!(resident.next_gap(range(0, 12)), Some(range(6, 11)));
        assert!(resident.is_absent(range(6, 11)) && !resident.is_absent(range(5, 7)));
    }
}
