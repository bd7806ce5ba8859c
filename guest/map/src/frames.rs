//! A pure allocator of physical frames, for whoever implements [`Frames`](crate::Frames).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::ports::OutOfFrames;
use crate::units::FrameRun;

/// Pages in a 2 MiB block.
const BLOCK_PAGES: u64 = 512;

/// The free frames, as runs that are known to be zero or not.
///
/// It knows frames by number only and zeroes nothing. Known-zero frames are given out first, for zeroing
/// costs more than anything here. A large request gets whole 2 MiB aligned blocks, a small one the
/// smallest run that holds it, so that leftovers go before a block is broken up.
#[derive(Clone, Debug, Default)]
pub struct FrameAllocator {
    /// Free runs by first frame: pages, and whether all of them are known to be zero. Neighbours of the same
    /// kind are one run.
    runs: BTreeMap<u64, (u64, bool)>,
    /// The same runs as (pages, first frame): those known to be zero, and the others.
    zero_by_size: BTreeSet<(u64, u64)>,
    used_by_size: BTreeSet<(u64, u64)>,
    free_pages: u64,
}

impl FrameAllocator {
    /// Returns an allocator without frames.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new(), zero_by_size: BTreeSet::new(), used_by_size: BTreeSet::new(), free_pages: 0 }
    }

    /// Returns how many frames are free, in pages.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// Takes up to `pages` adjacent frames (at least one is taken) and tells whether they are known to be zero.
    ///
    /// From 512 pages on, whole 2 MiB aligned blocks are taken as long as there are any: as many as one run
    /// gives and `pages` holds. Else the smallest run that is large enough is used, or the largest there is.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is free.
    pub fn allocate(&mut self, pages: u64) -> Result<(FrameRun, bool), OutOfFrames> {
        let wanted = pages.max(1);
        let blocks = (wanted >= BLOCK_PAGES)
            .then(|| find_blocks(&self.zero_by_size, wanted).or_else(|| find_blocks(&self.used_by_size, wanted)));
        let found = blocks
            .flatten()
            .or_else(|| find_any(&self.zero_by_size, wanted))
            .or_else(|| find_any(&self.used_by_size, wanted));
        let taken = found.ok_or(OutOfFrames)?;
        let zero = self.cut(taken);
        Ok((taken, zero))
    }

    /// Takes up to `pages` adjacent frames that are known to be zero: from 512 pages on whole 2 MiB aligned blocks, as many as one run
    /// gives and `pages` holds. None where there are no such frames.
    pub fn allocate_zero(&mut self, pages: u64) -> Option<FrameRun> {
        let find = if pages >= BLOCK_PAGES { find_blocks } else { find_any };
        let taken = find(&self.zero_by_size, pages.max(1))?;
        self.cut(taken);
        Some(taken)
    }

    /// Takes `pages` (at least 1) adjacent frames, of the smallest run that has them, and tells whether they are known to be zero; for
    /// whoever needs no zero frames, so others go first. None where no run has so many.
    pub fn allocate_whole(&mut self, pages: u64) -> Option<(FrameRun, bool)> {
        let fits = |by_size: &BTreeSet<(u64, u64)>| by_size.range((pages.max(1), 0)..).next().map(|&(_, first)| first);
        let first = fits(&self.used_by_size).or_else(|| fits(&self.zero_by_size))?;
        let taken = FrameRun::new(first, pages.max(1));
        let zero = self.cut(taken);
        Some((taken, zero))
    }

    /// Gives frames to the allocator: fresh ones, or ones that were taken. `zero` tells whether they are known
    /// to be zero.
    ///
    /// # Panics
    /// When one of them is free already: two owners of a frame would read each other's data.
    pub fn free(&mut self, run: FrameRun, zero: bool) {
        if run.pages == 0 {
            return;
        }
        let before = self.runs.range(..run.end()).next_back().map(|(&first, &(pages, _))| first + pages);
        assert!(before.is_none_or(|end| end <= run.first), "frames are freed twice");
        self.free_pages += run.pages;
        let mut whole = run;
        if let Some((&first, &(pages, kind))) = self.runs.range(..run.first).next_back()
            && first + pages == run.first
            && kind == zero
        {
            self.forget(first);
            whole = FrameRun::new(first, pages + run.pages);
        }
        if let Some(&(pages, kind)) = self.runs.get(&run.end())
            && kind == zero
        {
            self.forget(run.end());
            whole.pages += pages;
        }
        self.note(whole, zero);
    }

    /// Offers `give` each free run that is not known to be zero, in order; it is from then on where `give` returns `true`.
    /// Where it returns `false` no more are offered. Returns how many pages became so.
    pub fn trim(&mut self, give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        let used = self.runs.iter().filter(|(_, (_, zero))| !zero);
        let used: Vec<FrameRun> = used.map(|(&first, &(pages, _))| FrameRun::new(first, pages)).collect();
        let mut given = 0;
        for run in used {
            if !give(run) {
                break;
            }
            self.cut(run);
            self.free(run, true);
            given += run.pages;
        }
        given
    }

    /// Takes `taken` out of the free run that it lies in, and tells whether that was known to be zero.
    fn cut(&mut self, taken: FrameRun) -> bool {
        let Some((&first, _)) = self.runs.range(..=taken.first).next_back() else { return false };
        let Some((pages, zero)) = self.forget(first) else { return false };
        let end = first + pages;
        self.note(FrameRun::new(first, taken.first - first), zero);
        self.note(FrameRun::new(taken.end(), end - taken.end()), zero);
        self.free_pages -= taken.pages;
        zero
    }

    fn note(&mut self, run: FrameRun, zero: bool) {
        if run.pages > 0 {
            self.runs.insert(run.first, (run.pages, zero));
            self.by_size(zero).insert((run.pages, run.first));
        }
    }

    fn forget(&mut self, first: u64) -> Option<(u64, bool)> {
        let (pages, zero) = self.runs.remove(&first)?;
        self.by_size(zero).remove(&(pages, first));
        Some((pages, zero))
    }

    fn by_size(&mut self, zero: bool) -> &mut BTreeSet<(u64, u64)> {
        if zero { &mut self.zero_by_size } else { &mut self.used_by_size }
    }
}

/// Returns whole aligned blocks for a request of `wanted` pages: from the smallest run that is sure to hold
/// them all, else as many as the largest run has.
fn find_blocks(by_size: &BTreeSet<(u64, u64)>, wanted: u64) -> Option<FrameRun> {
    let wanted = wanted - wanted % BLOCK_PAGES;
    let sure = by_size.range((wanted.saturating_add(BLOCK_PAGES - 1), 0)..).next();
    let large = by_size.iter().rev().take_while(|(pages, _)| *pages >= BLOCK_PAGES);
    sure.into_iter().chain(large).find_map(|&(pages, first)| {
        let aligned = first.checked_next_multiple_of(BLOCK_PAGES)?;
        let room = (first + pages).checked_sub(aligned)?;
        let taken = (room - room % BLOCK_PAGES).min(wanted);
        (taken > 0).then(|| FrameRun::new(aligned, taken))
    })
}

/// Returns the start of the smallest run that holds `wanted` pages, else all of the largest one.
fn find_any(by_size: &BTreeSet<(u64, u64)>, wanted: u64) -> Option<FrameRun> {
    let &(pages, first) = by_size.range((wanted, 0)..).next().or_else(|| by_size.last())?;
    Some(FrameRun::new(first, pages.min(wanted)))
}

#[cfg(test)]
mod test {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::FrameAllocator;
    use crate::units::FrameRun;

    fn fresh(first: u64, pages: u64) -> FrameAllocator {
        let mut frames = FrameAllocator::new();
        frames.free(FrameRun::new(first, pages), true);
        frames
    }

    #[test]
    fn allocate_large_request_takes_whole_aligned_blocks() {
        let mut frames = fresh(5, 3000);
        assert_eq!(frames.allocate(1500), Ok((FrameRun::new(512, 1024), true)));
        assert_eq!(frames.allocate(10_000), Ok((FrameRun::new(1536, 1024), true)));
        assert_eq!(frames.allocate(512), Ok((FrameRun::new(5, 507), true)), "no block is left: what there is");
        assert_eq!(frames.free_pages(), 3000 - 2048 - 507);
    }

    #[test]
    fn allocate_small_request_takes_the_smallest_leftover_first() {
        let mut frames = fresh(0, 1024);
        frames.free(FrameRun::new(2000, 3), true);
        frames.free(FrameRun::new(3000, 7), true);
        assert_eq!(frames.allocate(1), Ok((FrameRun::new(2000, 1), true)));
        assert_eq!(frames.allocate(3), Ok((FrameRun::new(3000, 3), true)));
        assert_eq!(frames.allocate(5), Ok((FrameRun::new(0, 5), true)));
    }

    #[test]
    fn allocate_known_zero_frames_go_first_and_kinds_stay_apart() {
        let mut frames = FrameAllocator::new();
        frames.free(FrameRun::new(0, 4), false);
        frames.free(FrameRun::new(4, 4), true);
        assert_eq!(frames.allocate(8), Ok((FrameRun::new(4, 4), true)));
        assert_eq!(frames.allocate(8), Ok((FrameRun::new(0, 4), false)));
        assert_eq!(frames.allocate(1), Err(crate::OutOfFrames));
    }

    #[test]
    fn allocate_zero_takes_whole_blocks_or_few_frames_and_none_that_were_used() {
        let mut frames = FrameAllocator::new();
        frames.free(FrameRun::new(0, 4096), false);
        assert_eq!((frames.allocate_zero(1), frames.allocate_zero(512)), (None, None));
        frames.free(FrameRun::new(5000, 2000), true);
        assert_eq!(frames.allocate_zero(1500), Some(FrameRun::new(5120, 1024)));
        assert_eq!(frames.allocate_zero(10_000), Some(FrameRun::new(6144, 512)));
        assert_eq!(frames.allocate_zero(512), None, "no whole block is left");
        assert_eq!(frames.allocate_zero(200), Some(FrameRun::new(6656, 200)));
        assert_eq!(frames.allocate_zero(511), Some(FrameRun::new(6856, 144)));
        assert_eq!(frames.free_pages(), 4096 + 120);
    }

    #[test]
    fn allocate_whole_takes_all_or_nothing_and_used_frames_first() {
        let mut frames = FrameAllocator::new();
        for (first, pages, zero) in [(0, 8, true), (8, 4, false), (20, 6, false)] {
            frames.free(FrameRun::new(first, pages), zero);
        }
        assert_eq!(frames.allocate_whole(9), None);
        assert_eq!(frames.allocate_whole(7), Some((FrameRun::new(0, 7), true)));
        assert_eq!(frames.allocate_whole(3), Some((FrameRun::new(8, 3), false)));
        assert_eq!(frames.allocate_whole(6), Some((FrameRun::new(20, 6), false)));
        assert_eq!((frames.allocate_whole(2), frames.free_pages()), (None, 2));
    }

    #[test]
    fn free_in_the_middle_joins_both_neighbours() {
        let mut frames = FrameAllocator::new();
        for (first, pages) in [(0, 2), (4, 2), (2, 2)] {
            frames.free(FrameRun::new(first, pages), false);
        }
        assert_eq!(frames.allocate(6), Ok((FrameRun::new(0, 6), false)));
    }

    #[test]
    fn trim_makes_used_runs_zero_until_one_is_refused() {
        let mut frames = FrameAllocator::new();
        for (first, zero) in [(0, false), (4, true), (8, false), (20, false)] {
            frames.free(FrameRun::new(first, 4), zero);
        }
        let mut offered = Vec::new();
        let given = frames.trim(&mut |run| {
            offered.push(run);
            run.first != 20
        });
        assert_eq!((given, frames.free_pages()), (8, 16));
        assert_eq!(offered, [FrameRun::new(0, 4), FrameRun::new(8, 4), FrameRun::new(20, 4)]);
        assert_eq!(frames.allocate(16), Ok((FrameRun::new(0, 12), true)), "neighbours of one kind are one run");
        assert_eq!(frames.allocate(16), Ok((FrameRun::new(20, 4), false)));
        assert_eq!(frames.trim(&mut |_| true), 0);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn free_of_a_free_frame_panics() {
        let mut frames = fresh(0, 8);
        frames.free(FrameRun::new(7, 3), false);
    }

    proptest! {
        #[test]
        fn allocator_agrees_with_a_set_of_frames(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![1..4_u64, 500..1200_u64], any::<usize>()), 1..60),
        ) {
            let mut frames = fresh(3, 4000);
            let mut model: BTreeSet<u64> = (3..4003).collect();
            let mut taken: Vec<FrameRun> = Vec::new();
            for (allocates, pages, which) in steps {
                if allocates {
                    match frames.allocate(pages) {
                        Ok((run, _)) => {
                            prop_assert!((1..=pages).contains(&run.pages));
                            for frame in run.first..run.end() {
                                prop_assert!(model.remove(&frame), "frame {frame} was not free");
                            }
                            taken.push(run);
                        }
                        Err(_) => prop_assert!(model.is_empty()),
                    }
                } else if !taken.is_empty() {
                    let run = taken.swap_remove(which % taken.len());
                    model.extend(run.first..run.end());
                    frames.free(run, false);
                }
                prop_assert_eq!(frames.free_pages(), u64::try_from(model.len()).unwrap());
                let listed: u64 = frames.runs.values().map(|(pages, _)| pages).sum();
                prop_assert_eq!(listed, frames.free_pages());
                prop_assert_eq!(frames.zero_by_size.len() + frames.used_by_size.len(), frames.runs.len());
            }
        }
    }
}
