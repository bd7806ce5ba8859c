//! How often each page of RAM is wired. Pure: it decides, and asks nobody.

use wirevm_abi::RamRange;

use super::counts::Counts;
use crate::page_map::PageMap;
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

/// Wire counts of all pages of RAM.
///
/// Whether a page is wired at all is a bit of a map, which is all that most wires and unwires ever look at: they cost the same
/// however much is wired. How often more a page is wired is kept as runs, since nearly all pages are wired once.
#[derive(Clone, Debug)]
pub struct Ledger {
    wired: PageMap,
    /// Of wired pages, their counts less 1.
    more: Counts,
}

impl Ledger {
    /// Makes a ledger of so many pages of RAM in which nothing is wired. All ranges that it is asked about lie inside of that.
    #[must_use]
    pub fn new(ram_pages: u64) -> Self {
        Self { wired: PageMap::new(ram_pages), more: Counts::new() }
    }

    /// Counts every page of the range up, and returns the runs of pages that went from 0 to 1.
    ///
    /// # Errors
    /// [`LedgerError::Saturated`]; then nothing has changed.
    pub fn wire(&mut self, range: RamRange) -> Result<Vec<PageRun>, LedgerError> {
        let run = PageRun::from(range);
        if self.wired.overlap_pages(run) == 0 {
            self.wired.insert(run);
            return Ok(vec![run]);
        }
        if let Some((part, _)) = self.more.parts_in(run).find(|(_, more)| more + 1 >= MAX_WIRE_COUNT) {
            return Err(LedgerError::Saturated { page: part.first() });
        }
        for part in self.wired.parts_in(run) {
            self.more.up(part);
        }
        let edges = self.wired.gaps_in(run).collect();
        self.wired.insert(run);
        Ok(edges)
    }

    /// Counts every page of the range down, and returns the runs of pages that went from 1 to 0.
    ///
    /// # Errors
    /// [`LedgerError::NotWired`]; then nothing has changed.
    pub fn unwire(&mut self, range: RamRange) -> Result<Vec<PageRun>, LedgerError> {
        let run = PageRun::from(range);
        if let Some(gap) = self.wired.gaps_in(run).next() {
            return Err(LedgerError::NotWired { page: gap.first() });
        }
        let (mut next, mut edges) = (run.first(), Vec::new());
        for (part, _) in self.more.parts_in(run) {
            edges.extend(PageRun::new(next, part.first()));
            next = part.end();
        }
        edges.extend(PageRun::new(next, run.end()));
        if edges != [run] {
            self.more.down(run);
        }
        for edge in &edges {
            self.wired.remove(*edge);
        }
        Ok(edges)
    }

    /// Returns how often a page is wired.
    #[must_use]
    pub fn count(&self, page: u64) -> u32 {
        if self.wired.contains(page) { self.more.count(page) + 1 } else { 0 }
    }

    /// Returns the number of pages whose count is not 0.
    #[must_use]
    pub const fn wired_pages(&self) -> u64 {
        self.wired.pages()
    }

    /// Returns what of a run is not wired, in order.
    pub(super) fn unwired_in(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        self.wired.gaps_in(run)
    }

    /// Returns the number of runs that wired pages lie in.
    #[must_use]
    pub const fn runs(&self) -> u64 {
        self.wired.runs()
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
            let mut ledger = Ledger::new(PAGES);
            let mut model = vec![0_u32; usize::try_from(PAGES).expect("small")];
            for (up, range) in operations {
                let expected = naive(&mut model, range, up);
                let found = if up { ledger.wire(range) } else { ledger.unwire(range) };
                assert_eq!(found, expected);
                let wired = (0..).zip(&model).filter(|(_, count)| **count > 0);
                let runs = PageRun::join(wired.filter_map(|(page, _)| PageRun::new(page, page + 1)).collect());
                assert_eq!(ledger.runs(), u64::try_from(runs.len()).expect("small"));
                assert_eq!(ledger.wired_pages(), runs.iter().map(|run| run.pages()).sum::<u64>());
                for (page, count) in (0..).zip(&model) {
                    assert_eq!(ledger.count(page), *count);
                }
            }
        }
    }

    #[test]
    fn wire_over_wired_pages_gives_only_the_new_ones() {
        let mut ledger = Ledger::new(PAGES);
        assert_eq!(ledger.wire(range(2, 3)), Ok(vec![run(2, 5)]));
        assert_eq!(ledger.wire(range(0, 8)), Ok(vec![run(0, 2), run(5, 8)]));
        assert_eq!(ledger.unwire(range(2, 3)), Ok(vec![]));
        assert_eq!(ledger.runs(), 1);
        assert_eq!(ledger.unwire(range(0, 8)), Ok(vec![run(0, 8)]));
        assert_eq!((ledger.runs(), ledger.wired_pages()), (0, 0));
    }

    #[test]
    fn wire_at_the_largest_count_changes_nothing() {
        let mut ledger = Ledger::new(PAGES);
        for _ in 0..MAX_WIRE_COUNT {
            ledger.wire(range(5, 1)).expect("below the limit");
        }
        assert_eq!(ledger.wire(range(0, 10)), Err(LedgerError::Saturated { page: 5 }));
        assert_eq!((ledger.count(4), ledger.count(5), ledger.wired_pages()), (0, MAX_WIRE_COUNT, 1));
    }

    #[test]
    fn unwire_with_one_page_missing_changes_nothing() {
        let mut ledger = Ledger::new(PAGES);
        ledger.wire(range(0, 4)).expect("wired");
        ledger.wire(range(5, 4)).expect("wired");
        assert_eq!(ledger.unwire(range(0, 9)), Err(LedgerError::NotWired { page: 4 }));
        assert_eq!(ledger.unwire(range(8, 2)), Err(LedgerError::NotWired { page: 9 }));
        assert_eq!(ledger.unwire(range(20, 1)), Err(LedgerError::NotWired { page: 20 }));
        assert_eq!(ledger.wired_pages(), 8);
    }
}
