//! Numbers of pages, kept as runs of equal number.

use std::collections::BTreeMap;

use crate::page_run::PageRun;

/// A number for each page, 0 unless it was counted up. Pages of number 0 take no room.
///
/// Each operation costs the logarithm of the number of runs plus the runs it touches.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// By first page; neighbours differ in number or do not touch.
    runs: BTreeMap<u64, Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    pages: u64,
    count: u32,
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// Returns a page's number.
    pub(super) fn count(&self, page: u64) -> u32 {
        match self.runs.range(..=page).next_back() {
            Some((first, run)) if page - first < run.pages => run.count,
            _ => 0,
        }
    }

    /// Returns what of a run has numbers above 0, in order, with the numbers.
    pub(super) fn parts_in(&self, run: PageRun) -> impl Iterator<Item = (PageRun, u32)> + '_ {
        let start = match self.runs.range(..run.first()).next_back() {
            Some((first, held)) if first + held.pages > run.first() => *first,
            _ => run.first(),
        };
        self.runs.range(start..run.end()).filter_map(move |(first, held)| {
            let part = PageRun::new(run.first().max(*first), run.end().min(first + held.pages))?;
            Some((part, held.count))
        })
    }

    /// Counts every page of a run up.
    pub(super) fn up(&mut self, run: PageRun) {
        self.split_at(run.first());
        self.split_at(run.end());
        let (mut next, mut gaps) = (run.first(), Vec::new());
        for (first, held) in self.runs.range_mut(run.first()..run.end()) {
            gaps.extend(PageRun::new(next, *first));
            held.count += 1;
            next = first + held.pages;
        }
        gaps.extend(PageRun::new(next, run.end()));
        for gap in gaps {
            self.runs.insert(gap.first(), Run { pages: gap.pages(), count: 1 });
        }
        self.merge_around(run);
    }

    /// Counts every page of a run down that has a number above 0.
    pub(super) fn down(&mut self, run: PageRun) {
        self.split_at(run.first());
        self.split_at(run.end());
        let mut ended = Vec::new();
        for (first, held) in self.runs.range_mut(run.first()..run.end()) {
            held.count -= 1;
            if held.count == 0 {
                ended.push(*first);
            }
        }
        for first in ended {
            self.runs.remove(&first);
        }
        self.merge_around(run);
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

    /// Joins neighbours of equal number that a change of the run may have left.
    fn merge_around(&mut self, run: PageRun) {
        let start = self.runs.range(..run.first()).next_back().map_or(run.first(), |(first, _)| *first);
        let touched: Vec<_> = self.runs.range(start..=run.end()).map(|(first, held)| (*first, *held)).collect();
        let mut last: Option<(u64, Run)> = None;
        for (first, held) in touched {
            match &mut last {
                Some((kept_first, kept)) if *kept_first + kept.pages == first && kept.count == held.count => {
                    kept.pages += held.pages;
                    self.runs.remove(&first);
                    self.runs.insert(*kept_first, *kept);
                }
                _ => last = Some((first, held)),
            }
        }
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::{any, prop, proptest};

    use super::{Counts, Run};
    use crate::page_run::PageRun;

    /// Checks that runs are what their definition says.
    fn check(counts: &Counts) {
        let mut last: Option<(u64, Run)> = None;
        for (first, run) in &counts.runs {
            assert!(run.count > 0 && run.pages > 0);
            if let Some((before, held)) = last {
                assert!(before + held.pages <= *first, "runs overlap");
                assert!(before + held.pages < *first || held.count != run.count, "runs are not joined");
            }
            last = Some((*first, *run));
        }
    }

    proptest! {
        #[test]
        fn counts_any_operations_equal_an_array(
            operations in prop::collection::vec((any::<bool>(), 0_u64..24, 1_u64..9), 1..80)
        ) {
            let (mut counts, mut model) = (Counts::new(), [0_u32; 32]);
            for (up, first, pages) in operations {
                let run = PageRun::new(first, first + pages).expect("not empty");
                let touched = (0..32).filter(|page| (run.first()..run.end()).contains(page));
                if up { counts.up(run) } else { counts.down(run) }
                for page in touched {
                    let count = &mut model[usize::try_from(page).expect("small")];
                    *count = if up { *count + 1 } else { count.saturating_sub(1) };
                }
                check(&counts);
                let parts: Vec<_> = counts.parts_in(run).collect();
                for (page, count) in (0..).zip(&model) {
                    assert_eq!(counts.count(page), *count);
                    let part = parts.iter().find(|(part, _)| part.first() <= page && page < part.end());
                    let expected = if run.first() <= page && page < run.end() { *count } else { 0 };
                    assert_eq!(part.map_or(0, |(_, count)| *count), expected);
                }
            }
        }
    }
}
