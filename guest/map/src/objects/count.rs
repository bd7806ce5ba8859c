//! Wire counts of pages, and which of them the host holds.

use smallvec::SmallVec;

use super::{Extent, Found, ObjectId, ObjectTable, Pin};
use crate::frame_runs::FrameRuns;
use crate::ports::Frames;
use crate::runs::{Run, RunMap};
use crate::units::{FrameRun, PageRange};

/// A count for each page of a range; absent means 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    runs: RunMap<CountRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CountRun {
    pages: u64,
    count: u32,
}

impl Run for CountRun {
    fn pages(&self) -> u64 {
        self.pages
    }

    fn split_off(&mut self, pages: u64) -> Self {
        let rest = Self { pages: self.pages - pages, ..*self };
        self.pages = pages;
        rest
    }

    fn continues_as(&self, next: &Self) -> bool {
        self.count == next.count
    }

    fn append(&mut self, next: Self) {
        self.pages += next.pages;
    }
}

impl Counts {
    pub(crate) const fn new() -> Self {
        Self { runs: RunMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.len() == 0
    }

    /// Returns how many pages have a count.
    pub(crate) fn pages(&self) -> u64 {
        self.runs.iter().map(|(_, run)| run.pages).sum()
    }

    /// Returns how many pages of `range` have a count.
    pub(crate) fn pages_within(&self, range: PageRange) -> u64 {
        let counted =
            |(start, run): (u64, &CountRun)| PageRange::new(start, start + run.pages).intersection(range).len();
        self.runs.meeting(range).map(counted).sum()
    }

    /// Counts each page of `range` once more.
    pub(crate) fn add(&mut self, range: PageRange) {
        while let Some(gap) = self.runs.next_gap(range) {
            self.runs.insert(gap.start, CountRun { pages: gap.len(), count: 0 });
        }
        self.change(range, |count| *count += 1);
    }

    /// Counts each page of `range` once less.
    pub(crate) fn subtract(&mut self, range: PageRange) {
        self.change(range, |count| *count = count.saturating_sub(1));
        self.drop_zeros(range);
    }

    /// Forgets the counts of `range`.
    #[inline(never)]
    pub(crate) fn clear(&mut self, range: PageRange) {
        if !self.is_empty() {
            self.change(range, |count| *count = 0);
            self.drop_zeros(range);
        }
    }

    /// Returns the count of the first page of `range` (not empty), and for how many pages it is the same.
    pub(crate) fn first_of(&self, range: PageRange) -> (u64, u32) {
        match self.runs.at_or_after(range.start) {
            Some((start, run)) if start <= range.start => ((start + run.pages).min(range.end) - range.start, run.count),
            Some((start, _)) => (start.min(range.end) - range.start, 0),
            None => (range.len(), 0),
        }
    }

    fn change(&mut self, range: PageRange, change: impl Fn(&mut u32)) {
        self.runs.split(range.start);
        self.runs.split(range.end);
        self.runs.change_starting(range, |_, run| change(&mut run.count));
        self.runs.merge(range);
    }

    fn drop_zeros(&mut self, range: PageRange) {
        let mut at = range.start;
        while let Some(zero) = self.runs.next_where(PageRange::new(at, range.end), |run| run.count == 0) {
            self.runs.split(zero.start);
            self.runs.split(zero.end);
            self.runs.remove(zero.start);
            at = zero.end;
        }
    }
}

/// Pages that the host is asked to hold or to let go, while the lock is given up: each is marked [`Pin::Going`], and
/// its object held.
#[derive(Debug, Default)]
#[must_use = "the pages stay marked until the list is finished"]
pub(crate) struct PinList {
    /// Mostly one, which takes no memory.
    items: SmallVec<[(ObjectId, PageRange); 1]>,
    frames: FrameRuns,
}

impl PinList {
    pub(crate) const fn new() -> Self {
        Self { items: SmallVec::new_const(), frames: FrameRuns::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Marks pages, and notes them and, if the host is to be asked about them, their frames. Their owner is to be held, which this tells.
    #[inline]
    pub(super) fn mark(&mut self, topmost: &Topmost, extent: &mut Extent, asks: bool) -> bool {
        extent.pin = Pin::Going;
        if asks {
            self.frames.push(extent.frames);
        }
        self.items.push((topmost.owner, topmost.pages));
        true
    }

    /// Returns the frames, as few runs as there can be.
    #[inline]
    pub(crate) fn frames(&mut self) -> &[FrameRun] {
        self.frames.join()
    }
}

/// Resident pages that an entry shows, of the topmost object that has them.
pub(super) struct Topmost {
    pub(super) owner: ObjectId,
    /// Which pages of the owner they are.
    pub(super) pages: PageRange,
    /// One past the owner's last page.
    pub(super) end: u64,
}

impl ObjectTable {
    /// Counts one more wired entry on the topmost page behind each page of `range` of `top`. All are resident.
    pub(crate) fn count(&mut self, top: ObjectId, range: PageRange) {
        self.change_topmost(top, range, Counts::add, |_, extent| {
            extent.wires += 1;
            false
        });
    }

    /// Counts one wired entry less on the topmost page behind each page of `range` of `top`, whether an access could
    /// reach it or not (rows U-06, B-07). Pages that no entry wires any more are added to `last` if the host holds them, or if
    /// they were cut off their object.
    pub(crate) fn uncount(&mut self, top: ObjectId, range: PageRange, last: &mut PinList) {
        self.change_topmost(top, range, Counts::subtract, |topmost, extent| {
            extent.wires -= 1;
            match extent.pin {
                _ if extent.wires > 0 => false,
                Pin::Yes => last.mark(topmost, extent, true),
                // Cut off before the host was asked: they end with the list all the same.
                Pin::No if topmost.pages.end > topmost.end => last.mark(topmost, extent, false),
                Pin::No | Pin::Going => false,
            }
        });
    }

    /// As [`ObjectTable::uncount`], for a count that another object's takes the place of at once.
    pub(crate) fn uncount_only(&mut self, top: ObjectId, range: PageRange) {
        self.change_topmost(top, range, Counts::subtract, |_, extent| {
            extent.wires -= 1;
            false
        });
    }

    /// Adds to `list` the pages behind `range` of `top` that the host does not hold. About none of them may a call to the host
    /// be under way ([`ObjectTable::is_pin_going`]).
    pub(crate) fn begin_pins(&mut self, top: ObjectId, range: PageRange, list: &mut PinList) {
        self.change_topmost(
            top,
            range,
            |_, _| (),
            |topmost, extent| extent.pin == Pin::No && list.mark(topmost, extent, true),
        );
    }

    /// Changes the topmost resident pages behind `range` of `top`, run by run; where `change` says so, their owner is held. For those that
    /// are not the object's own, `below` changes how many wired entries count on them.
    fn change_topmost(
        &mut self,
        top: ObjectId,
        range: PageRange,
        below: fn(&mut Counts, PageRange),
        mut change: impl FnMut(&Topmost, &mut Extent) -> bool,
    ) {
        let mut at = range.start;
        while at < range.end {
            // Mostly they are runs of the object's own: a search costs more than all else here.
            let object = &mut self[top];
            let end = object.pages;
            let changed = object.resident.change_first_run(PageRange::new(at, range.end), |pages, extent| {
                change(&Topmost { owner: top, pages, end }, extent)
            });
            if let Some((pages, is_held)) = changed {
                object.holds += u32::from(is_held);
                at += pages;
                continue;
            }
            let (pages, found) = self.look_raw(top, PageRange::new(at, range.end));
            if let Found::Resident { owner, index, .. } = found {
                let object = &mut self[owner];
                let topmost = Topmost { owner, pages: PageRange::new(index, index + pages), end: object.pages };
                let mut is_held = false;
                object.resident.update(topmost.pages, |extent| is_held = change(&topmost, extent));
                object.holds += u32::from(is_held);
                if owner != top {
                    below(&mut self[top].below, PageRange::new(at, at + pages));
                }
            }
            at += pages;
        }
    }

    /// Tells whether a call to the host about a page behind `range` of `top` is under way.
    pub(crate) fn is_pin_going(&self, top: ObjectId, range: PageRange) -> bool {
        let mut going = false;
        self.for_each(top, range, |_, found| {
            going |= matches!(found, Found::Resident { extent, .. } if extent.pin == Pin::Going);
        });
        going
    }

    /// Counts `less` wired entries less on resident pages of `owner`; what the host need not hold any more is added to `last`.
    pub(super) fn uncount_below(&mut self, owner: ObjectId, pages: PageRange, less: u32, last: &mut PinList) {
        if less > 0 {
            self[owner].resident.subtract_wires(pages, less);
        }
        let mut at = pages.start;
        while at < pages.end {
            match self[owner].resident.first_of(PageRange::new(at, pages.end)) {
                Ok(extent) => {
                    let part = PageRange::new(at, at + extent.frames.pages);
                    if extent.wires == 0 && extent.pin == Pin::Yes {
                        self.begin_pin(owner, part, extent.frames, last);
                    }
                    at = part.end;
                }
                Err(gap) => at += gap,
            }
        }
    }

    fn begin_pin(&mut self, owner: ObjectId, pages: PageRange, frames: FrameRun, list: &mut PinList) {
        self[owner].resident.set_pin(pages, Pin::Going);
        self[owner].holds += 1;
        list.items.push((owner, pages));
        list.frames.push(frames);
    }

    /// Ends the host's call about the pages of `list`: they are in state `pin` now. What is in the list then are those that the host
    /// holds for nobody, because a copy took their wirings over during the call: it must let them go.
    ///
    /// Wired pages that were cut off their object stayed for the wiring's sake only (row P-10), so they end with it.
    pub(crate) fn finish_pins(&mut self, list: &mut PinList, pin: Pin, frames: &impl Frames) {
        list.frames.clear();
        if let &[(id, pages)] = list.items.as_slice() {
            list.items.clear();
            return self.finish_pin(id, pages, pin, frames, list);
        }
        for (id, pages) in core::mem::take(&mut list.items) {
            self.finish_pin(id, pages, pin, frames, list);
        }
    }

    #[inline(always)]
    fn finish_pin(&mut self, id: ObjectId, pages: PageRange, pin: Pin, frames: &impl Frames, last: &mut PinList) {
        let object = &mut self[id];
        let end = object.pages;
        let is_unwired = object.resident.set_pin(pages, pin);
        object.holds -= 1;
        let is_held_for_nobody = is_unwired && pin == Pin::Yes;
        let is_cut_off = pin == Pin::No && pages.end > end;
        let is_used = object.is_used();
        #[cfg(test)]
        let is_held_for_nobody = is_held_for_nobody && self.mutant != Some(crate::planted::Mutant::CopyLeavesPageHeld);
        if is_held_for_nobody {
            self.uncount_below(id, pages, 0, last);
        }
        if is_cut_off {
            let beyond = PageRange::new(pages.start.max(end), pages.end);
            self[id].resident.remove_unwired(beyond, |run| frames.free(run));
        }
        if !is_used && !self[id].is_used() {
            self.settle(id, frames);
        }
    }
}
