//! A request: ranges in, one result a range out, whatever becomes of the worker that has it.

use std::fmt;

use wirevm_abi::{RamRange, Status};

use crate::page_run::PageRun;

/// What became of one range of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// *Ok* when the range is stable; *io error* when this request's own calls failed; *poisoned* when an earlier error
    /// stands, or the service ended before it began; *invalid address* for a range that was checked against a larger RAM.
    pub status: Status,
    /// First page of the range that is known to have failed; none when all or none of it is, or nobody can tell which.
    pub first_failed_page: Option<u64>,
}

/// Is told the results of a request, one a range in the request's order, exactly once, by a worker thread that holds no lock.
/// It must not block.
pub type Answer = Box<dyn FnOnce(Vec<RangeResult>) + Send>;

/// A request that was accepted. Whatever happens it is answered: one that is dropped, because its worker has died, with
/// *io error*.
pub(super) struct Ticket {
    ranges: Vec<RamRange>,
    ram_pages: u64,
    answer: Option<Answer>,
}

/// What a worker found out about a batch of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is stable.
    Stable,
    /// Nothing of it is known to be stable, except for the repaired runs.
    Failed {
        /// *Io error* or *poisoned*.
        status: Status,
        /// Sorted, joined runs that are stable all the same.
        repaired: Vec<PageRun>,
    },
}

impl Verdict {
    /// The service ended before anything was begun.
    pub(super) const NOT_BEGUN: Self = Self::Failed { status: Status::POISONED, repaired: Vec::new() };
}

impl RangeResult {
    const fn of(status: Status) -> Self {
        Self { status, first_failed_page: None }
    }
}

impl Ticket {
    pub(super) fn new(ranges: &[RamRange], ram_pages: u64, answer: Answer) -> Self {
        Self { ranges: ranges.to_vec(), ram_pages, answer: Some(answer) }
    }

    /// Takes a request back that was not accepted; its answer is not called.
    pub(super) fn withdraw(mut self) {
        self.answer = None;
    }

    /// Returns the runs of the ranges that lie inside RAM, as they were asked for.
    pub(super) fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.ranges.iter().filter(|range| range.end() <= self.ram_pages).copied().map(PageRun::from)
    }

    /// Answers each range.
    pub(super) fn answer(mut self, verdict: &Verdict) {
        if let Some(answer) = self.answer.take() {
            answer(self.ranges.iter().map(|range| self.result(*range, verdict)).collect());
        }
    }

    fn result(&self, range: RamRange, verdict: &Verdict) -> RangeResult {
        if range.end() > self.ram_pages {
            return RangeResult::of(Status::INVALID_ADDRESS);
        }
        match verdict {
            Verdict::Stable => RangeResult::of(Status::OK),
            Verdict::Failed { status, repaired } => match first_outside(repaired, range.into()) {
                None => RangeResult::of(Status::OK),
                // Part of it is known to be stable, so the rest begins here.
                Some(page) if page > range.first() => RangeResult { status: *status, first_failed_page: Some(page) },
                Some(_) => RangeResult::of(*status),
            },
        }
    }
}

/// Returns the first page of `run` that none of the sorted, joined runs holds.
fn first_outside(runs: &[PageRun], run: PageRun) -> Option<u64> {
    let holding = runs.iter().find(|held| held.first() <= run.first() && run.first() < held.end());
    match holding {
        Some(held) if held.end() >= run.end() => None,
        Some(held) => Some(held.end()),
        None => Some(run.first()),
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(vec![RangeResult::of(Status::IO_ERROR); self.ranges.len()]);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use super::first_outside;
    use crate::page_run::PageRun;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn first_page_that_was_not_repaired_is_found() {
        let repaired = [run(2, 4), run(8, 9)];
        for (asked, expected) in
            [(run(2, 4), None), (run(3, 4), None), (run(2, 5), Some(4)), (run(1, 3), Some(1)), (run(8, 12), Some(9))]
        {
            assert_eq!(first_outside(&repaired, asked), expected, "{asked}");
        }
        assert_eq!(first_outside(&[], run(0, 1)), Some(0));
    }
}
