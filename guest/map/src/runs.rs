//! An ordered map of page numbers to runs: the container behind entries, resident pages and free frames.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Range;

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

/// Runs that don't overlap, by their first page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunMap<R> {
    runs: BTreeMap<u64, R>,
}

impl<R: Run> RunMap<R> {
    pub(crate) const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Returns all runs in order, each with its first page.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &R)> {
        self.runs.iter().map(|(&start, run)| (start, run))
    }

    /// Returns the run that holds `page`: that is found in half the time where it is the first of its run.
    pub(crate) fn containing(&self, page: u64) -> Option<(u64, &R)> {
        self.containing_near(page, page)
    }

    /// As [`RunMap::containing`], where the run probably starts with `guess`. In line, as a fault is little more than this.
    #[inline(always)]
    pub(crate) fn containing_near(&self, page: u64, guess: u64) -> Option<(u64, &R)> {
        match self.runs.get(&guess) {
            Some(run) if guess <= page && page - guess < run.pages() => Some((guess, run)),
            _ => self.search(page),
        }
    }

    /// As [`RunMap::containing`]. What is done to the run must not change how many pages it has.
    pub(crate) fn containing_mut(&mut self, page: u64) -> Option<(u64, &mut R)> {
        let start = if self.runs.contains_key(&page) { page } else { self.search(page)?.0 };
        self.runs.get_mut(&start).map(|run| (start, run))
    }

    fn search(&self, page: u64) -> Option<(u64, &R)> {
        let (&start, run) = self.runs.range(..=page).next_back()?;
        (page - start < run.pages()).then_some((start, run))
    }

    /// Returns the run that holds `page`, or else the first one after it.
    pub(crate) fn at_or_after(&self, page: u64) -> Option<(u64, &R)> {
        self.containing(page).or_else(|| self.runs.range(page..).next().map(|(&start, run)| (start, run)))
    }

    /// Returns the run that starts with `page`.
    pub(crate) fn get_mut(&mut self, page: u64) -> Option<&mut R> {
        self.runs.get_mut(&page)
    }

    /// Returns the runs that meet `range`, in order and whole.
    pub(crate) fn meeting(&self, range: PageRange) -> impl Iterator<Item = (u64, &R)> {
        let first = if range.is_empty() { None } else { self.containing(range.start) };
        let covered = first.map_or(range.start, |(start, run)| start + run.pages());
        // Mostly one run holds the whole range, and a search costs more than all else here.
        let rest = if covered < range.end { self.runs.range(covered..range.end) } else { Range::default() };
        first.into_iter().chain(rest.map(|(&start, run)| (start, run)))
    }

    /// Returns the runs that start within `range`, in order and whole. What is done to them must not change how
    /// many pages they have.
    pub(crate) fn starting_mut(&mut self, range: PageRange) -> impl Iterator<Item = (u64, &mut R)> {
        self.runs.range_mut(range.start..range.end).map(|(&start, run)| (start, run))
    }

    /// Changes the runs that start within `range`, in order, as [`RunMap::starting_mut`] gives them. Mostly one run is the whole range,
    /// and that is found in half the time.
    pub(crate) fn change_starting(&mut self, range: PageRange, mut change: impl FnMut(u64, &mut R)) {
        match self.runs.get_mut(&range.start) {
            Some(run) if !range.is_empty() && run.pages() >= range.len() => change(range.start, run),
            _ => self.starting_mut(range).for_each(|(start, run)| change(start, run)),
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
        debug_assert!(
            self.meeting(PageRange::new(start, start + run.pages())).next().is_none(),
            "runs must not overlap"
        );
        self.runs.insert(start, run);
    }

    /// As [`RunMap::insert`], and merges the run with its neighbours where they agree.
    pub(crate) fn insert_merged(&mut self, start: u64, run: R) {
        let range = PageRange::new(start, start + run.pages());
        debug_assert!(self.meeting(range).next().is_none(), "runs must not overlap");
        // Mostly it continues the one before: then nothing is inserted and taken out again.
        match self.runs.range_mut(..start).next_back() {
            Some((&first, before)) if first + before.pages() == start && before.continues_as(&run) => {
                before.append(run);
                if self.runs.contains_key(&range.end) {
                    self.merge(PageRange::new(range.end, range.end));
                }
            }
            _ => {
                self.runs.insert(start, run);
                self.merge(range);
            }
        }
    }

    /// Takes out the first run, with its first page.
    pub(crate) fn pop_first(&mut self) -> Option<(u64, R)> {
        self.runs.pop_first()
    }

    /// Takes out the run that starts with `start`.
    pub(crate) fn remove(&mut self, start: u64) -> Option<R> {
        self.runs.remove(&start)
    }

    /// Makes `page` the first page of its run, if it is in one.
    pub(crate) fn split(&mut self, page: u64) {
        let Some((&start, run)) = self.runs.range_mut(..page).next_back() else { return };
        if page - start < run.pages() {
            let rest = run.split_off(page - start);
            self.runs.insert(page, rest);
        }
    }

    /// Merges the runs that touch each other at a page from the range's start to its end, the end included, and
    /// agree.
    #[inline]
    pub(crate) fn merge(&mut self, range: PageRange) {
        // Mostly an object has one run.
        if self.runs.len() > 1 {
            self.merge_all(range);
        }
    }

    fn merge_all(&mut self, range: PageRange) {
        let mut last = range.end;
        while let Some((start, next)) = self.last_joint(range.start, last) {
            if let Some(next) = self.runs.remove(&next)
                && let Some(run) = self.runs.get_mut(&start)
            {
                run.append(next);
            }
            last = start;
        }
    }

    /// Returns the starts of the last two runs that can be merged at a page from `first` to `last`.
    fn last_joint(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let mut runs = self.runs.range(..=last).rev();
        let (mut next_start, mut next) = runs.next()?;
        while *next_start >= first
            && let Some((start, run)) = runs.next()
        {
            if start + run.pages() == *next_start && run.continues_as(next) {
                return Some((*start, *next_start));
            }
            (next_start, next) = (start, run);
        }
        None
    }
}

#[cfg(test)]
mod test {
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
        let pages = map.starting_mut(PageRange::new(14, 31)).map(|(_, run)| run.0).collect::<Vec<_>>();
        assert_eq!(pages, [5, 1]);
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
