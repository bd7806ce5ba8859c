//! A set of pages, kept as a bit each.

use crate::page_run::PageRun;

const BITS: u64 = u64::BITS as u64;

/// A set of pages below a fixed number, of which an operation costs the same however many runs there are.
///
/// It takes 32 KiB for each GiB of RAM, of which the host gives memory only to what was written.
/// [`RunSet`](crate::run_set::RunSet) is for sets that are mostly empty.
#[derive(Clone, Debug)]
pub(crate) struct PageMap {
    words: Vec<u64>,
    pages: u64,
    runs: u64,
}

impl PageMap {
    /// Makes an empty set of pages below `limit`.
    pub(crate) fn new(limit: u64) -> Self {
        Self { words: vec![0; to_index(limit.div_ceil(BITS))], pages: 0, runs: 0 }
    }

    /// Returns the number of pages in the set.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the number of runs that the pages lie in.
    pub(crate) const fn runs(&self) -> u64 {
        self.runs
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.word(page / BITS) >> (page % BITS) & 1 == 1
    }

    /// Returns how many of the run's pages are in the set.
    pub(crate) fn overlap_pages(&self, run: PageRun) -> u64 {
        words_of(run).map(|(index, mask)| ones(self.word(index) & mask)).sum()
    }

    /// Adds a run's pages, which are below the limit.
    pub(crate) fn insert(&mut self, run: PageRun) {
        let starts = self.starts_around(run);
        for (index, mask) in words_of(run) {
            if let Some(word) = self.words.get_mut(to_index(index)) {
                self.pages += ones(mask & !*word);
                *word |= mask;
            }
        }
        let follows = run.first().checked_sub(1).is_some_and(|before| self.contains(before));
        self.runs = self.runs - starts + u64::from(!follows);
    }

    /// Takes a run's pages out, as far as they are in.
    pub(crate) fn remove(&mut self, run: PageRun) {
        let starts = self.starts_around(run);
        for (index, mask) in words_of(run) {
            if let Some(word) = self.words.get_mut(to_index(index)) {
                self.pages -= ones(mask & *word);
                *word &= !mask;
            }
        }
        self.runs = self.runs - starts + u64::from(self.contains(run.end()));
    }

    /// Returns what the run has in common with the set, in order.
    pub(crate) fn parts_in(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        self.stretches(run, true)
    }

    /// Returns what of the run is not in the set, in order.
    pub(crate) fn gaps_in(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        self.stretches(run, false)
    }

    /// Returns the runs of pages inside of a run that are all in the set, or all not.
    fn stretches(&self, run: PageRun, inside: bool) -> impl Iterator<Item = PageRun> + '_ {
        let mut at = run.first();
        std::iter::from_fn(move || {
            let first = self.next(at, run.end(), inside);
            at = self.next(first, run.end(), !inside);
            PageRun::new(first, at)
        })
    }

    /// Returns the first page from `from` on that is in the set, or is not; `end` if there is none below.
    fn next(&self, from: u64, end: u64, inside: bool) -> u64 {
        let Some(run) = PageRun::new(from, end) else { return end };
        let found = words_of(run).find_map(|(index, mask)| {
            let word = self.word(index);
            let wanted = mask & if inside { word } else { !word };
            (wanted != 0).then(|| index * BITS + u64::from(wanted.trailing_zeros()))
        });
        found.unwrap_or(end)
    }

    /// Returns how many runs begin with a page of the given run or with the one behind it: those that can begin elsewhere, or not at
    /// all, when the run's pages change.
    fn starts_around(&self, run: PageRun) -> u64 {
        let around = PageRun::new(run.first(), run.end() + 1).into_iter().flat_map(words_of);
        around.map(|(index, mask)| ones(self.starts(index) & mask)).sum()
    }

    /// Returns a bit for each page of a word that is in the set while the page before it is not.
    fn starts(&self, index: u64) -> u64 {
        let word = self.word(index);
        let before = index.checked_sub(1).map_or(0, |before| self.word(before));
        word & !(word << 1 | before >> (BITS - 1))
    }

    fn word(&self, index: u64) -> u64 {
        self.words.get(to_index(index)).copied().unwrap_or(0)
    }
}

/// Returns the words that a run's pages lie in, each with its bits that are the run's.
fn words_of(run: PageRun) -> impl Iterator<Item = (u64, u64)> {
    let (first, last) = (run.first() / BITS, (run.end() - 1) / BITS);
    (first..=last).map(move |index| {
        let from = if index == first { u64::MAX << (run.first() % BITS) } else { u64::MAX };
        let to = if index == last { u64::MAX >> (BITS - 1 - (run.end() - 1) % BITS) } else { u64::MAX };
        (index, from & to)
    })
}

fn ones(word: u64) -> u64 {
    u64::from(word.count_ones())
}

/// No vector is as long as what does not fit.
fn to_index(words: u64) -> usize {
    usize::try_from(words).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

    use super::PageMap;
    use crate::page_run::PageRun;

    /// Not a whole number of words.
    const LIMIT: u64 = 203;

    /// Runs at the edges of words, single pages, and all there are.
    fn runs() -> impl Strategy<Value = PageRun> {
        let edge =
            || prop_oneof![Just(0), Just(63), Just(64), Just(65), Just(127), Just(128), Just(LIMIT - 1), 0..LIMIT];
        (edge(), prop_oneof![Just(1), Just(2), Just(64), Just(LIMIT), 1..LIMIT])
            .prop_map(|(first, pages)| PageRun::new(first, LIMIT.min(first + pages)).expect("not empty"))
    }

    fn joined(pages: impl Iterator<Item = u64>) -> Vec<PageRun> {
        PageRun::join(pages.filter_map(|page| PageRun::new(page, page + 1)).collect())
    }

    proptest! {
        #[test]
        fn page_map_any_operations_equal_a_set_of_pages(
            operations in prop::collection::vec((any::<bool>(), runs(), runs()), 1..60)
        ) {
            let (mut map, mut model) = (PageMap::new(LIMIT), BTreeSet::new());
            for (add, run, look) in operations {
                let pages = run.first()..run.end();
                if add {
                    map.insert(run);
                    model.extend(pages);
                } else {
                    map.remove(run);
                    model.retain(|page| !pages.contains(page));
                }
                let all = joined(model.iter().copied());
                assert_eq!(map.runs(), u64::try_from(all.len()).expect("small"));
                assert_eq!(map.pages(), u64::try_from(model.len()).expect("small"));
                assert_eq!(map.is_empty(), model.is_empty());
                let looked = || look.first()..look.end();
                let parts = joined(looked().filter(|page| model.contains(page)));
                assert_eq!(map.overlap_pages(look), parts.iter().map(|part| part.pages()).sum::<u64>());
                assert_eq!(map.parts_in(look).collect::<Vec<_>>(), parts);
                assert_eq!(map.gaps_in(look).collect::<Vec<_>>(), joined(looked().filter(|page| !model.contains(page))));
                for page in 0..LIMIT + 70 {
                    assert_eq!(map.contains(page), model.contains(&page));
                }
            }
        }
    }
}
