//! An ordered map of page numbers to runs: the container behind entries, resident pages and counts.

use alloc::collections::BTreeMap;
use core::iter;

use crate::slots::{NOWHERE, Slots};
use crate::units::PageRange;

/// A value that stands for several consecutive pages.
pub(crate) trait Run {
    /// Returns how many pages the run has.
    fn pages(&self) -> u64;

    /// Keeps the first `pages` pages and returns the rest; `pages` is within the run and not 0.
    fn split_off(&mut self, pages: u64) -> Self;

    /// Tells whether `next`, which follows directly, agrees with this run in everything that must agree.
    fn continues_as(&self, next: &Self) -> bool;

    /// Takes in the run that follows directly and agrees.
    fn append(&mut self, next: Self);
}

/// Where a run is among the slots of its map.
type Place = usize;

/// A run and its neighbours, which need not touch it.
#[derive(Clone, Debug)]
struct Slot<R> {
    start: u64,
    before: Place,
    after: Place,
    run: R,
}

impl<R: Run> Slot<R> {
    /// One past the run's last page.
    fn end(&self) -> u64 {
        self.start + self.run.pages()
    }

    fn holds(&self, page: u64) -> bool {
        self.start <= page && page < self.end()
    }
}

/// Runs that don't overlap, by their first page.
///
/// A tree finds them, and each knows its neighbours, as entries of a map do in FreeBSD: whoever changes a run looks next whether it
/// can be merged with these, and a search costs more than all else there. The run that was added, or was asked for to be changed,
/// last is remembered, because an operation comes back to it time and again.
#[derive(Clone, Debug)]
pub(crate) struct RunMap<R> {
    places: BTreeMap<u64, Place>,
    slots: Slots<Slot<R>>,
    /// The place of the run that is remembered; there may be no run any more, or another one.
    recent: Place,
}

impl<R: Run + PartialEq> PartialEq for RunMap<R> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<R: Run + Eq> Eq for RunMap<R> {}

impl<R: Run> RunMap<R> {
    pub(crate) const fn new() -> Self {
        Self { places: BTreeMap::new(), slots: Slots::new(), recent: NOWHERE }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns all runs in order, each with its first page.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &R)> {
        self.places.values().filter_map(|&place| self.at(place))
    }

    /// Returns the run at a place, if there is one.
    fn at(&self, place: Place) -> Option<(u64, &R)> {
        self.slots.get(place).map(|slot| (slot.start, &slot.run))
    }

    /// Returns the place of the run that holds `page`.
    #[inline(always)]
    fn place_around(&self, page: u64) -> Option<Place> {
        match self.slots.get(self.recent) {
            Some(slot) if slot.holds(page) => Some(self.recent),
            _ => match self.places.get(&page) {
                Some(place) => Some(*place),
                None => self.search(page),
            },
        }
    }

    /// As [`RunMap::place_around`], for a page that no run starts with.
    #[inline(never)]
    fn search(&self, page: u64) -> Option<Place> {
        let (_, place) = self.places.range(..page).next_back()?;
        self.slots.get(*place)?.holds(page).then_some(*place)
    }

    /// Returns the place of the first run that starts with `page` or behind it.
    #[inline(always)]
    fn place_from(&self, page: u64) -> Place {
        match self.slots.get(self.recent) {
            Some(slot) if slot.start == page => self.recent,
            _ => self.search_from(page),
        }
    }

    /// As [`RunMap::place_from`], for a run that is not the remembered one.
    #[inline(never)]
    fn search_from(&self, page: u64) -> Place {
        // To find one that starts there takes half the time.
        match self.places.get(&page) {
            Some(place) => *place,
            None => self.places.range(page..).next().map_or(NOWHERE, |(_, place)| *place),
        }
    }

    /// Returns the run that holds `page`.
    pub(crate) fn containing(&self, page: u64) -> Option<(u64, &R)> {
        self.at(self.place_around(page)?)
    }

    /// As [`RunMap::containing`]. What is done to the run must not change how many pages it has. In line, as a fault is little more
    /// than this.
    #[inline(always)]
    pub(crate) fn containing_mut(&mut self, page: u64) -> Option<(u64, &mut R)> {
        // Nothing is written in between, so that the place is looked at once.
        let next = match self.slots.get(self.recent) {
            Some(slot) if slot.holds(page) => {
                return self.slots.get_mut(self.recent).map(|slot| (slot.start, &mut slot.run));
            }
            Some(slot) => slot.after,
            None => NOWHERE,
        };
        self.recent = match self.slots.get(next) {
            // Who goes from one run to the next asks for that.
            Some(slot) if slot.holds(page) => next,
            // Else it mostly is the first of its run, and that is found in half the time.
            _ => match self.places.get(&page) {
                Some(place) => *place,
                None => self.search(page)?,
            },
        };
        self.slots.get_mut(self.recent).map(|slot| (slot.start, &mut slot.run))
    }

    /// Returns the run that holds `page`, or else the first one after it.
    pub(crate) fn at_or_after(&self, page: u64) -> Option<(u64, &R)> {
        self.at(self.place_around(page).unwrap_or_else(|| self.place_from(page)))
    }

    /// Returns the run that starts with `page`. What is done to it must not change how many pages it has.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, page: u64) -> Option<&mut R> {
        let next = match self.slots.get(self.recent) {
            Some(slot) if slot.start == page => return self.slots.get_mut(self.recent).map(|slot| &mut slot.run),
            Some(slot) => slot.after,
            None => NOWHERE,
        };
        self.recent = match self.slots.get(next) {
            Some(slot) if slot.start == page => next,
            _ => *self.places.get(&page)?,
        };
        self.slots.get_mut(self.recent).map(|slot| &mut slot.run)
    }

    /// Returns the runs that meet `range`, in order and whole.
    pub(crate) fn meeting(&self, range: PageRange) -> impl Iterator<Item = (u64, &R)> {
        let first = if range.is_empty() {
            NOWHERE
        } else {
            self.place_around(range.start).unwrap_or_else(|| self.place_from(range.start))
        };
        let slot = move |place| self.slots.get(place).filter(|slot: &&Slot<R>| slot.start < range.end);
        iter::successors(slot(first), move |before| slot(before.after)).map(|slot| (slot.start, &slot.run))
    }

    /// Changes the runs that start within `range`, in order, each given its first page. How many pages they have must not change.
    #[inline]
    pub(crate) fn change_starting(&mut self, range: PageRange, mut change: impl FnMut(u64, &mut R)) {
        let mut place = self.place_from(range.start);
        while let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.start < range.end) {
            change(slot.start, &mut slot.run);
            place = slot.after;
        }
    }

    /// Returns the first part of `range` that no run covers.
    pub(crate) fn next_gap(&self, range: PageRange) -> Option<PageRange> {
        let mut page = range.start;
        for (start, run) in self.meeting(range) {
            if start > page {
                return Some(PageRange::new(page, start));
            }
            page = start + run.pages();
        }
        (page < range.end).then(|| PageRange::new(page, range.end))
    }

    /// Returns the first part of `range` that runs which are `wanted` cover without a gap.
    pub(crate) fn next_where(&self, range: PageRange, wanted: impl Fn(&R) -> bool) -> Option<PageRange> {
        let mut runs = self.meeting(range).filter(|(_, run)| wanted(run));
        let (start, run) = runs.next()?;
        let mut end = start + run.pages();
        while let Some((start, run)) = runs.next()
            && start == end
        {
            end += run.pages();
        }
        Some(PageRange::new(start, end).intersection(range))
    }

    /// Adds a run where there is none yet. It is not merged with its neighbours.
    pub(crate) fn insert(&mut self, start: u64, run: R) {
        self.insert_behind(self.place_before(start), start, run);
    }

    /// As [`RunMap::insert`], and merges the run with its neighbours where they agree.
    pub(crate) fn insert_merged(&mut self, start: u64, run: R) {
        let before = self.place_before(start);
        // Mostly it continues the one before: then nothing is inserted and taken out again.
        match self.slots.get_mut(before) {
            Some(slot) if slot.end() == start && slot.run.continues_as(&run) => {
                slot.run.append(run);
                let (end, after) = (slot.end(), slot.after);
                debug_assert!(self.slots.get(after).is_none_or(|slot| end <= slot.start), "runs must not overlap");
                self.recent = before;
                self.join(after);
            }
            _ => {
                let place = self.insert_behind(before, start, run);
                let after = self.slots.get(place).map_or(NOWHERE, |slot| slot.after);
                self.join(after);
                self.join(place);
            }
        }
    }

    /// Returns the place of the last run that starts before `page`.
    fn place_before(&self, page: u64) -> Place {
        match self.slots.get(self.recent) {
            // Pages mostly come one after the other.
            Some(slot) if slot.start < page && self.slots.get(slot.after).is_none_or(|next| next.start >= page) => {
                self.recent
            }
            _ => self.places.range(..page).next_back().map_or(NOWHERE, |(_, place)| *place),
        }
    }

    /// Adds a run behind the one at `before`, the last that starts before it; returns its place.
    fn insert_behind(&mut self, before: Place, start: u64, run: R) -> Place {
        let after = match self.slots.get(before) {
            Some(slot) => slot.after,
            None => self.places.first_key_value().map_or(NOWHERE, |(_, place)| *place),
        };
        debug_assert!(
            self.slots.get(before).is_none_or(|slot| slot.end() <= start)
                && self.slots.get(after).is_none_or(|slot| start + run.pages() <= slot.start),
            "runs must not overlap"
        );
        let place = self.slots.insert(Slot { start, before, after, run });
        self.places.insert(start, place);
        if let Some(slot) = self.slots.get_mut(before) {
            slot.after = place;
        }
        if let Some(slot) = self.slots.get_mut(after) {
            slot.before = place;
        }
        self.recent = place;
        place
    }

    /// Takes out the first run, with its first page.
    pub(crate) fn pop_first(&mut self) -> Option<(u64, R)> {
        let (start, place) = self.places.pop_first()?;
        self.unlink(place).map(|run| (start, run))
    }

    /// Takes out the run that starts with `start`.
    pub(crate) fn remove(&mut self, start: u64) -> Option<R> {
        let place = self.places.remove(&start)?;
        self.unlink(place)
    }

    /// Takes a run out that is in the tree no more.
    fn unlink(&mut self, place: Place) -> Option<R> {
        let Slot { before, after, run, .. } = self.slots.remove(place)?;
        if let Some(slot) = self.slots.get_mut(before) {
            slot.after = after;
        }
        if let Some(slot) = self.slots.get_mut(after) {
            slot.before = before;
        }
        Some(run)
    }

    /// Makes `page` the first page of its run, if it is in one.
    pub(crate) fn split(&mut self, page: u64) {
        if let Some(place) = self.place_around(page)
            && let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.start < page)
        {
            let rest = slot.run.split_off(page - slot.start);
            self.insert_behind(place, page, rest);
        }
    }

    /// As [`RunMap::change_starting`], and merges what agrees then, as [`RunMap::merge`] does.
    #[inline(always)]
    pub(crate) fn change_and_merge(&mut self, range: PageRange, mut change: impl FnMut(u64, &mut R)) {
        let mut place = self.place_from(range.start);
        while let Some(slot) = self.slots.get_mut(place) {
            let (start, after) = (slot.start, slot.after);
            if start > range.end {
                break;
            }
            if start < range.end {
                change(start, &mut slot.run);
            }
            self.join(place);
            place = after;
        }
    }

    /// Changes the run that starts with `start`, if there is one that `fits`, and merges it with its neighbours where they agree then.
    /// How many pages it has must not change.
    #[inline(always)]
    pub(crate) fn change_one<T>(
        &mut self,
        start: u64,
        fits: impl FnOnce(&R) -> bool,
        change: impl FnOnce(&mut R) -> T,
    ) -> Option<T> {
        let run = self.get_mut(start).filter(|run| fits(run))?;
        let value = change(run);
        // Mostly there is no other.
        if self.places.len() > 1 {
            self.join_both(self.recent);
        }
        Some(value)
    }

    /// Merges the run at `place` with the ones before and behind it, if they touch and agree.
    fn join_both(&mut self, place: Place) {
        let Some(slot) = self.slots.get(place) else { return };
        let (start, end, before) = (slot.start, slot.end(), slot.before);
        let continues =
            |first: &Slot<R>, next: &Slot<R>| first.end() == next.start && first.run.continues_as(&next.run);
        let joins_next = self.slots.get(slot.after).is_some_and(|next| continues(slot, next));
        let joins_before = self.slots.get(before).is_some_and(|before| continues(before, slot));
        // What the run begins with stays as it is by that.
        if joins_next {
            self.append(place, end);
        }
        if joins_before {
            self.append(before, start);
            self.recent = before;
        }
    }

    /// Merges the runs that touch each other at a page from the range's start to its end, the end included, and
    /// agree.
    pub(crate) fn merge(&mut self, range: PageRange) {
        // Mostly an object has one run.
        if self.places.len() > 1 {
            self.change_and_merge(range, |_, _| ());
        }
    }

    /// Merges the run at `place` with the one before, if they touch and agree.
    #[inline(always)]
    fn join(&mut self, place: Place) {
        if let Some(slot) = self.slots.get(place)
            && let Some(before) = self.slots.get(slot.before)
            && before.end() == slot.start
            && before.run.continues_as(&slot.run)
        {
            self.append(slot.before, slot.start);
        }
    }

    /// Merges the run at `before` with the next one, which starts with `start`.
    fn append(&mut self, before: Place, start: u64) {
        if let Some(run) = self.remove(start)
            && let Some(before) = self.slots.get_mut(before)
        {
            before.run.append(run);
        }
    }
}

#[cfg(test)]
mod test {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    use super::{Run, RunMap};
    use crate::units::PageRange;

    /// A run that merges with runs of the same kind.
    struct Kind(u64, char);

    impl Run for Kind {
        fn pages(&self) -> u64 {
            self.0
        }
        fn split_off(&mut self, pages: u64) -> Self {
            let rest = Self(self.0 - pages, self.1);
            self.0 = pages;
            rest
        }
        fn continues_as(&self, next: &Self) -> bool {
            self.1 == next.1
        }
        fn append(&mut self, next: Self) {
            self.0 += next.0;
        }
    }

    /// A generator of numbers, the same ones each time.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// Enough for many more runs than the first piece of slots holds.
    const PAGES: u64 = 512;

    /// What each page is said to be by the tree, by the neighbours' links, and by a look at each page.
    fn pages(map: &RunMap<Kind>) -> [Vec<(u64, char)>; 3] {
        let spread = |runs: &mut dyn Iterator<Item = (u64, &Kind)>| {
            runs.flat_map(|(start, run)| (start..start + run.0).map(move |page| (page, run.1))).collect()
        };
        let found = (0..PAGES).filter_map(|page| map.containing(page).map(|(_, run)| (page, run.1))).collect();
        [spread(&mut map.iter()), spread(&mut map.meeting(PageRange::new(0, u64::MAX))), found]
    }

    /// Returns at how many pages of `range`, its end included, runs meet that could be one.
    fn joints(map: &RunMap<Kind>, range: PageRange) -> usize {
        let at = |start: u64| range.start <= start && start <= range.end;
        let pairs = map.iter().zip(map.iter().skip(1));
        pairs.filter(|(run, next)| run.0 + run.1.0 == next.0 && at(next.0) && run.1.1 == next.1.1).count()
    }

    #[test]
    fn whatever_is_done_tree_links_and_what_was_asked_for_last_agree() {
        let (mut map, mut model) = (RunMap::new(), BTreeMap::new());
        let mut seed = 1;
        let mut most = 0;
        for step in 0..20_000 {
            let first = next(&mut seed) % PAGES;
            let range = PageRange::new(first, (first + 1 + next(&mut seed) % 8).min(PAGES));
            let kind = if next(&mut seed).is_multiple_of(2) { 'a' } else { 'b' };
            let mut change = |pages: PageRange, to| model.extend((pages.start..pages.end).map(|page| (page, to)));
            match next(&mut seed) % 9 {
                0 | 1 => {
                    while let Some(gap) = map.next_gap(range) {
                        if step % 2 == 0 {
                            map.insert_merged(gap.start, Kind(gap.len(), kind))
                        } else {
                            map.insert(gap.start, Kind(gap.len(), kind))
                        }
                        change(gap, Some(kind));
                    }
                }
                2 => map.split(range.start),
                3 => {
                    map.merge(range);
                    assert_eq!(joints(&map, range), 0, "after step {step}");
                }
                4 => {
                    map.split(range.start);
                    map.split(range.end);
                    let set = |start: u64, run: &mut Kind| {
                        run.1 = kind;
                        change(PageRange::new(start, start + run.0), Some(kind));
                    };
                    if step % 2 == 0 {
                        map.change_starting(range, set);
                    } else {
                        map.change_and_merge(range, set);
                        assert_eq!(joints(&map, range), 0, "after step {step}");
                    }
                }
                5 => {
                    let start = map.at_or_after(range.start).map(|(start, _)| start);
                    if let Some((start, run)) = start.and_then(|start| Some((start, map.remove(start)?))) {
                        change(PageRange::new(start, start + run.0), None);
                    }
                }
                6 => {
                    let around = map.containing_mut(range.start).map(|(start, run)| (start, run.0));
                    let held = around.is_some_and(|(start, pages)| start <= range.start && range.start < start + pages);
                    let expected = model.get(&range.start).copied().flatten();
                    assert_eq!(held, expected.is_some());
                    if let Some((start, _)) = around {
                        assert_eq!(map.get_mut(start).map(|run| run.1), expected);
                    }
                }
                7 => {
                    let start = map.at_or_after(range.start).map_or(range.start, |(start, _)| start);
                    let set = |run: &mut Kind| {
                        run.1 = kind;
                        run.0
                    };
                    let changed = map.change_one(start, |run| run.1 != kind, set);
                    if let Some(pages) = changed {
                        let run = PageRange::new(start, start + pages);
                        change(run, Some(kind));
                        assert_eq!(joints(&map, run), 0, "after step {step}");
                    }
                    let starts = map.iter().any(|(first, run)| first == start && run.1 != kind);
                    assert!(!starts, "after step {step}");
                }
                _ => {
                    if step % 64 == 0
                        && let Some((start, run)) = map.pop_first()
                    {
                        change(PageRange::new(start, start + run.0), None);
                    }
                }
            }
            let expected: Vec<_> = model.iter().filter_map(|(page, kind)| kind.map(|kind| (*page, kind))).collect();
            for seen in pages(&map) {
                assert_eq!(seen, expected, "after step {step}");
            }
            most = most.max(map.len());
        }
        assert!(most > 100, "{most}");
    }

    #[test]
    fn merge_leaves_no_two_neighbours_that_agree() {
        let mut map = RunMap::new();
        for page in 0..64 {
            map.insert(page, Kind(1, if page % 8 == 7 { 'b' } else { 'a' }));
        }
        map.merge(PageRange::new(8, 24));
        assert_eq!(map.len(), 64 - 6 - 6);
        map.merge(PageRange::new(0, 64));
        assert_eq!(map.len(), 16);
        map.change_and_merge(PageRange::new(0, 64), |_, run| run.1 = 'a');
        assert_eq!(shape(&map), [(0, 64, 'a')]);
    }

    fn sample() -> RunMap<Kind> {
        let mut map = RunMap::new();
        map.insert(10, Kind(5, 'a'));
        map.insert(15, Kind(5, 'b'));
        map.insert(30, Kind(1, 'b'));
        map
    }

    fn shape(map: &RunMap<Kind>) -> Vec<(u64, u64, char)> {
        map.iter().map(|(start, run)| (start, run.0, run.1)).collect()
    }

    #[test]
    fn containing_and_at_or_after_edges_are_half_open() {
        let map = sample();
        let start = |found: Option<(u64, &Kind)>| found.map(|(start, _)| start);
        assert_eq!(start(map.containing(9)), None);
        assert_eq!(start(map.containing(10)), Some(10));
        assert_eq!(start(map.containing(14)), Some(10));
        assert_eq!(start(map.containing(15)), Some(15));
        assert_eq!(start(map.containing(20)), None);
        assert_eq!(start(map.at_or_after(0)), Some(10));
        assert_eq!(start(map.at_or_after(20)), Some(30));
        assert_eq!(start(map.at_or_after(31)), None);
    }

    #[test]
    fn meeting_includes_the_run_that_starts_before_the_range() {
        let mut map = sample();
        let starts = |start, end| map.meeting(PageRange::new(start, end)).map(|(s, _)| s).collect::<Vec<_>>();
        assert_eq!(starts(12, 16), [10, 15]);
        assert_eq!(starts(0, 10), []);
        assert_eq!(starts(20, 30), []);
        assert_eq!(starts(19, 31), [15, 30]);
        assert_eq!(starts(12, 12), [10_u64; 0]);
        let mut pages = Vec::new();
        map.change_starting(PageRange::new(14, 31), |start, run| pages.push((start, run.0)));
        assert_eq!(pages, [(15, 5), (30, 1)]);
    }

    #[test]
    fn next_gap_walks_over_touching_runs() {
        let map = sample();
        assert_eq!(map.next_gap(PageRange::new(5, 40)), Some(PageRange::new(5, 10)));
        assert_eq!(map.next_gap(PageRange::new(10, 40)), Some(PageRange::new(20, 30)));
        assert_eq!(map.next_gap(PageRange::new(30, 40)), Some(PageRange::new(31, 40)));
        assert_eq!(map.next_gap(PageRange::new(12, 18)), None);
        assert_eq!(map.next_gap(PageRange::new(12, 12)), None);
    }

    #[test]
    fn next_where_joins_touching_runs_and_clips_to_the_range() {
        let map = sample();
        let next = |start, end, wanted: fn(&Kind) -> bool| map.next_where(PageRange::new(start, end), wanted);
        assert_eq!(next(0, 40, |_| true), Some(PageRange::new(10, 20)));
        assert_eq!(next(12, 17, |_| true), Some(PageRange::new(12, 17)));
        assert_eq!(next(0, 40, |kind| kind.1 == 'b'), Some(PageRange::new(15, 20)));
        assert_eq!(next(20, 40, |kind| kind.1 == 'b'), Some(PageRange::new(30, 31)));
        assert_eq!(next(0, 40, |kind| kind.1 == 'c'), None);
    }

    #[test]
    fn split_then_merge_restores_the_runs() {
        let mut map = sample();
        for page in [10, 12, 14, 15, 17, 20, 25] {
            map.split(page);
        }
        assert_eq!(shape(&map), [(10, 2, 'a'), (12, 2, 'a'), (14, 1, 'a'), (15, 2, 'b'), (17, 3, 'b'), (30, 1, 'b')]);
        map.merge(PageRange::new(13, 17));
        assert_eq!(shape(&map), [(10, 2, 'a'), (12, 3, 'a'), (15, 5, 'b'), (30, 1, 'b')]);
        map.merge(PageRange::new(12, 12));
        assert_eq!(shape(&map), [(10, 5, 'a'), (15, 5, 'b'), (30, 1, 'b')]);
    }

    #[test]
    fn merge_gap_or_other_kind_between_keeps_both() {
        let mut map = sample();
        map.merge(PageRange::new(0, 100));
        assert_eq!(map.len(), 3);
        assert!(map.remove(30).is_some());
        assert!(map.remove(31).is_none());
    }

    #[test]
    fn merge_of_a_point_joins_the_runs_that_meet_there() {
        let mut map = sample();
        map.split(17);
        map.split(12);
        map.merge(PageRange::new(17, 17));
        assert_eq!(shape(&map), [(10, 2, 'a'), (12, 3, 'a'), (15, 5, 'b'), (30, 1, 'b')]);
    }
}
