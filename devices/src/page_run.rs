//! Runs of RAM pages as the host's services handle them: sorted, joined, half-open.

use std::fmt;

use wirevm_abi::{PAGE_SIZE, RamRange};

/// A non-empty run of RAM pages, half-open, made from validated ranges only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageRun {
    first: u64,
    end: u64,
}

impl PageRun {
    /// Makes a run of the pages from `first` up to, not including, `end`; none when that is empty.
    #[must_use]
    pub const fn new(first: u64, end: u64) -> Option<Self> {
        if first < end { Some(Self { first, end }) } else { None }
    }

    /// Returns the index of the first page.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Returns the index one past the last page.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Returns the number of pages, at least 1.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.end - self.first
    }

    /// Returns the number of bytes; none where that does not fit.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        self.pages().checked_mul(PAGE_SIZE)
    }

    /// Tells whether both runs hold a page in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }

    /// Sorts runs and joins those that touch or overlap.
    #[must_use]
    pub fn join(mut runs: Vec<Self>) -> Vec<Self> {
        runs.sort_unstable();
        runs.dedup_by(|next, kept| {
            let joined = next.first <= kept.end;
            if joined {
                kept.end = kept.end.max(next.end);
            }
            joined
        });
        runs
    }
}

impl From<RamRange> for PageRun {
    fn from(range: RamRange) -> Self {
        Self { first: range.first(), end: range.end() }
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.first, self.end)
    }
}

#[cfg(test)]
mod test {
    use super::PageRun;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn join_touching_and_overlapping_runs_become_one() {
        let joined = PageRun::join(vec![run(8, 9), run(0, 4), run(4, 6), run(1, 2), run(5, 7)]);
        assert_eq!(joined, [run(0, 7), run(8, 9)]);
    }

    #[test]
    fn new_empty_or_reversed_run_is_none() {
        assert_eq!(PageRun::new(3, 3), None);
        assert_eq!(PageRun::new(4, 3), None);
    }
}
