//! A set of pages, kept as runs.

use std::collections::BTreeMap;

use crate::page_run::PageRun;

/// A set of pages as disjoint runs that do not touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunSet {
    /// First page to end.
    runs: BTreeMap<u64, u64>,
    pages: u64,
}

impl RunSet {
    /// Returns the number of pages in the set.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the number of runs.
    pub(crate) fn runs(&self) -> u64 {
        u64::try_from(self.runs.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds a run's pages.
    pub(crate) fn insert(&mut self, run: PageRun) {
        let met: Vec<_> = self.meeting(run, true).collect();
        let first = met.last().map_or(run.first(), |held| held.first().min(run.first()));
        let end = met.first().map_or(run.end(), |held| held.end().max(run.end()));
        for held in met {
            self.runs.remove(&held.first());
            self.pages -= held.pages();
        }
        self.runs.insert(first, end);
        self.pages += end - first;
    }

    /// Takes a run's pages out, as far as they are in.
    pub(crate) fn remove(&mut self, run: PageRun) {
        let met: Vec<_> = self.meeting(run, false).collect();
        for held in met {
            self.runs.remove(&held.first());
            self.pages -= held.pages();
            let rests = [PageRun::new(held.first(), run.first()), PageRun::new(run.end(), held.end())];
            for rest in rests.into_iter().flatten() {
                self.runs.insert(rest.first(), rest.end());
                self.pages += rest.pages();
            }
        }
    }

    /// Returns how many of the run's pages are in the set.
    pub(crate) fn overlap_pages(&self, run: PageRun) -> u64 {
        self.parts_in(run).map(PageRun::pages).sum()
    }

    /// Returns what the run has in common with the set, from the last.
    pub(crate) fn parts_in(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        self.meeting(run, false)
            .filter_map(move |held| PageRun::new(held.first().max(run.first()), held.end().min(run.end())))
    }

    /// Returns the first of the run's pages that is in the set.
    pub(crate) fn first_in(&self, run: PageRun) -> Option<u64> {
        self.meeting(run, false).map(|held| held.first().max(run.first())).last()
    }

    /// Returns the run that holds a page.
    pub(crate) fn holding(&self, page: u64) -> Option<PageRun> {
        let (first, end) = self.runs.range(..=page).next_back()?;
        PageRun::new(*first, *end).filter(|held| page < held.end())
    }

    /// Returns the first run that starts at `page` or later.
    pub(crate) fn next_from(&self, page: u64) -> Option<PageRun> {
        let (first, end) = self.runs.range(page..).next()?;
        PageRun::new(*first, *end)
    }

    /// Returns all runs.
    pub(crate) fn to_runs(&self) -> Vec<PageRun> {
        self.runs.iter().filter_map(|(first, end)| PageRun::new(*first, *end)).collect()
    }

    /// Returns the runs that overlap the given one, or, if asked, that touch it too, from the last. It looks the set up once.
    fn meeting(&self, run: PageRun, touching: bool) -> impl Iterator<Item = PageRun> + '_ {
        let all = self.runs.range(..=run.end()).rev().map_while(|(first, end)| PageRun::new(*first, *end));
        all.take_while(move |held| held.end() >= run.first()).filter(move |held| touching || held.overlaps(run))
    }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, prop, proptest};

    use super::RunSet;
    use crate::page_run::PageRun;

    proptest! {
        #[test]
        fn run_set_any_operations_equal_a_set_of_pages(
            operations in prop::collection::vec((any::<bool>(), 0_u64..24, 1_u64..9), 1..60)
        ) {
            let (mut set, mut model) = (RunSet::default(), BTreeSet::new());
            for (add, first, pages) in operations {
                let run = PageRun::new(first, first + pages).expect("not empty");
                let overlap = (first..first + pages).filter(|page| model.contains(page)).count();
                assert_eq!(set.overlap_pages(run), u64::try_from(overlap).expect("small"));
                assert_eq!(set.first_in(run), model.range(first..first + pages).next().copied());
                if add {
                    set.insert(run);
                    model.extend(first..first + pages);
                } else {
                    set.remove(run);
                    model.retain(|page| !(first..first + pages).contains(page));
                }
                let pages = model.iter().filter_map(|page| PageRun::new(*page, page + 1)).collect();
                assert_eq!(set.to_runs(), PageRun::join(pages));
                assert_eq!(set.pages(), u64::try_from(model.len()).expect("small"));
                assert_eq!(set.runs(), u64::try_from(set.to_runs().len()).expect("small"));
                for page in 0..40 {
                    assert_eq!(set.holding(page).is_some(), model.contains(&page));
                }
            }
        }
    }
}
