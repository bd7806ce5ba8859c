//! How often each page of RAM is wired. Pure: it decides, and asks nobody.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use wirevm_abi::RamRange;

use crate::page_run::PageRun;

/// A page can be wired this many times at once; one more is refused (rule S5).
pub const MAX_WIRE_COUNT: u32 = 65_535;

/// Error of changing wire counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A page has the largest count already.
    #[error("page {page} is wired {MAX_WIRE_COUNT} times already")]
    Saturated {
        /// The first such page.
        page: u64,
    },
    /// A page to unwire is not wired.
    #[error("page {page} is not wired")]
    NotWired {
        /// The first such page.
        page: u64,
    },
}

/// Wire counts of all pages of RAM, kept as runs of equal count; pages of count 0 take no room.
///
/// Each operation costs the logarithm of the number of runs plus the runs it touches. There are never more
/// runs than pages of RAM.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By first page; neighbours differ in count or do not touch.
    runs: BTreeMap<u64, Run>,
    wired_pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    pages: u64,
    count: u32,
}

impl Ledger {
    /// Makes a ledger in which nothing is wired.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new(), wired_pages: 0 }
    }

    /// Counts every page of the range up, and returns the runs of pages that went from 0 to 1.
    ///
    /// # Errors
    /// [`LedgerError::Saturated`]; then nothing has changed.
    pub fn wire(&mut self, range: RamRange) -> Result<Vec<PageRun>, LedgerError> {
        if self.is_apart(range) {
            self.runs.insert(range.first(), Run { pages: range.pages(), count: 1 });
            self.wired_pages += range.pages();
            return Ok(vec![range.into()]);
        }
        if let Some((first, _)) = self.overlapping(range).find(|(_, run)| run.count >= MAX_WIRE_COUNT) {
            return Err(LedgerError::Saturated { page: first.max(range.first()) });
        }
        self.split_at(range.first());
        self.split_at(range.end());
        let mut edges = Vec::new();
        let mut next = range.first();
        for (first, run) in self.runs.range_mut(range.first()..range.end()) {
            edges.extend(PageRun::new(next, *first));
            run.count += 1;
            next = first + run.pages;
        }
        edges.extend(PageRun::new(next, range.end()));
        for edge in &edges {
            self.runs.insert(edge.first(), Run { pages: edge.pages(), count: 1 });
            self.wired_pages += edge.pages();
        }
        self.merge_around(range);
        Ok(edges)
    }

    /// Counts every page of the range down, and returns the runs of pages that went from 1 to 0.
    ///
    /// # Errors
    /// [`LedgerError::NotWired`]; then nothing has changed.
    pub fn unwire(&mut self, range: RamRange) -> Result<Vec<PageRun>, LedgerError> {
        if let Entry::Occupied(held) = self.runs.entry(range.first())
            && *held.get() == (Run { pages: range.pages(), count: 1 })
        {
            // A whole run: nothing is left to be split or joined.
            held.remove();
            self.wired_pages -= range.pages();
            return Ok(vec![range.into()]);
        }
        let mut next = range.first();
        for (first, run) in self.overlapping(range) {
            if first > next {
                break;
            }
            next = first + run.pages;
        }
        if next < range.end() {
            return Err(LedgerError::NotWired { page: next });
        }
        self.split_at(range.first());
        self.split_at(range.end());
        let mut edges = Vec::new();
        for (first, run) in self.runs.range_mut(range.first()..range.end()) {
            run.count -= 1;
            if run.count == 0 {
                edges.extend(PageRun::new(*first, first + run.pages));
            }
        }
        for edge in &edges {
            self.runs.remove(&edge.first());
            self.wired_pages -= edge.pages();
        }
        self.merge_around(range);
        Ok(edges)
    }

    /// Returns how often a page is wired.
    #[must_use]
    pub fn count(&self, page: u64) -> u32 {
        match self.runs.range(..=page).next_back() {
            Some((first, run)) if page - first < run.pages => run.count,
            _ => 0,
        }
    }

    /// Returns the number of pages whose count is not 0.
    #[must_use]
    pub const fn wired_pages(&self) -> u64 {
        self.wired_pages
    }

    /// Returns the number of runs of equal count.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Tells whether no page of the range, and none beside it, is wired.
    fn is_apart(&self, range: RamRange) -> bool {
        let before = self.runs.range(..=range.end()).next_back();
        before.is_none_or(|(first, run)| first + run.pages < range.first())
    }

    /// Returns the runs that hold a page of the range, from the first.
    fn overlapping(&self, range: RamRange) -> impl Iterator<Item = (u64, Run)> + '_ {
        let start = match self.runs.range(..range.first()).next_back() {
            Some((first, run)) if first + run.pages > range.first() => *first,
            _ => range.first(),
        };
        self.runs.range(start..range.end()).map(|(first, run)| (*first, *run))
    }

    /// Makes a run start at `page` where one holds it in its middle.
    fn split_at(&mut self, page: u64) {
        let Some((first, run)) = self.runs.range_mut(..page).next_back() else { return };
        let (kept, count) = (page - first, run.count);
        if kept < run.pages {
            let rest = run.pages - kept;
            run.pages = kept;
            self.runs.insert(page, Run { pages: rest, count });
        }
    }

    /// Joins neighbours of equal count that a change of the range may have left.
    fn merge_around(&mut self, range: RamRange) {
        let start = self.runs.range(..range.first()).next_back().map_or(range.first(), |(first, _)| *first);
        let touched: Vec<_> = self.runs.range(start..=range.end()).map(|(first, run)| (*first, *run)).collect();
        let mut last: Option<(u64, Run)> = None;
        for (first, run) in touched {
            match &mut last {
                Some((held, kept)) if *held + kept.pages == first && kept.count == run.count => {
                    kept.pages += run.pages;
                    self.runs.remove(&first);
                    self.runs.insert(*held, *kept);
                }
                _ => last = Some((first, run)),
            }
        }
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
    use wirevm_abi::RamRange;

    use super::{Ledger, LedgerError, MAX_WIRE_COUNT};
    use crate::page_run::PageRun;

    const PAGES: u64 = 96;

    fn range(first: u64, pages: u64) -> RamRange {
        RamRange::new(first, pages, PAGES).expect("inside RAM")
    }

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    /// Ranges that meet: few distinct edges, the first and last page, single pages and all of RAM.
    fn ranges() -> impl Strategy<Value = RamRange> {
        let edge = || prop_oneof![Just(0), Just(1), Just(47), Just(48), Just(49), Just(PAGES - 1), 0..PAGES];
        (edge(), prop_oneof![Just(1), Just(2), Just(PAGES), 1..PAGES])
            .prop_map(|(first, pages)| range(first, pages.min(PAGES - first)))
    }

    /// Checks that runs are what their definition says.
    fn check(ledger: &Ledger) {
        let mut last: Option<(u64, super::Run)> = None;
        for (first, run) in &ledger.runs {
            assert!(run.count > 0 && run.pages > 0);
            if let Some((before, held)) = last {
                assert!(before + held.pages <= *first, "runs overlap");
                assert!(before + held.pages < *first || held.count != run.count, "runs are not joined");
            }
            last = Some((*first, *run));
        }
        assert_eq!(ledger.wired_pages(), ledger.runs.values().map(|run| run.pages).sum::<u64>());
    }

    /// The same, page by page.
    fn naive(model: &mut [u32], range: RamRange, up: bool) -> Result<Vec<PageRun>, LedgerError> {
        let pages = range.first()..range.end();
        let index = |page: u64| usize::try_from(page).expect("small");
        if let Some(page) = pages.clone().find(|page| !up && model[index(*page)] == 0) {
            return Err(LedgerError::NotWired { page });
        }
        let mut edges = Vec::new();
        for page in pages {
            let count = &mut model[index(page)];
            if *count == u32::from(!up) {
                edges.extend(PageRun::new(page, page + 1));
            }
            *count = if up { *count + 1 } else { *count - 1 };
        }
        Ok(PageRun::join(edges))
    }

    proptest! {
        #[test]
        fn ledger_any_operations_equal_an_array_of_counts(
            operations in prop::collection::vec((any::<bool>(), ranges()), 1..80)
        ) {
            let mut ledger = Ledger::new();
            let mut model = vec![0_u32; usize::try_from(PAGES).expect("small")];
            for (up, range) in operations {
                let expected = naive(&mut model, range, up);
                let found = if up { ledger.wire(range) } else { ledger.unwire(range) };
                assert_eq!(found, expected);
                check(&ledger);
                for (page, count) in (0..).zip(&model) {
                    assert_eq!(ledger.count(page), *count);
                }
            }
        }
    }

    #[test]
    fn wire_over_wired_pages_gives_only_the_new_ones() {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.wire(range(2, 3)), Ok(vec![run(2, 5)]));
        assert_eq!(ledger.wire(range(0, 8)), Ok(vec![run(0, 2), run(5, 8)]));
        assert_eq!(ledger.unwire(range(2, 3)), Ok(vec![]));
        assert_eq!(ledger.runs(), 1);
        assert_eq!(ledger.unwire(range(0, 8)), Ok(vec![run(0, 8)]));
        assert_eq!((ledger.runs(), ledger.wired_pages()), (0, 0));
    }

    #[test]
    fn wire_at_the_largest_count_changes_nothing() {
        let mut ledger = Ledger::new();
        for _ in 0..MAX_WIRE_COUNT {
            ledger.wire(range(5, 1)).expect("below the limit");
        }
        assert_eq!(ledger.wire(range(0, 10)), Err(LedgerError::Saturated { page: 5 }));
        check(&ledger);
        assert_eq!((ledger.count(4), ledger.count(5), ledger.wired_pages()), (0, MAX_WIRE_COUNT, 1));
    }

    #[test]
    fn unwire_with_one_page_missing_changes_nothing() {
        let mut ledger = Ledger::new();
        ledger.wire(range(0, 4)).expect("wired");
        ledger.wire(range(5, 4)).expect("wired");
        assert_eq!(ledger.unwire(range(0, 9)), Err(LedgerError::NotWired { page: 4 }));
        assert_eq!(ledger.unwire(range(8, 2)), Err(LedgerError::NotWired { page: 9 }));
        assert_eq!(ledger.unwire(range(20, 1)), Err(LedgerError::NotWired { page: 20 }));
        assert_eq!(ledger.wired_pages(), 8);
    }
}
