//! From a request's ranges to the fewest runs, and from the runs' results back to the ranges.

use wirevm_abi::{RamRange, Status};

use crate::page_run::PageRun;

/// What a worker found out about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Runs whose own sync failed.
    pub(super) failed: Vec<PageRun>,
    /// Whether the latch was set when all was done.
    pub(super) latched: bool,
}

/// Returns the sorted, joined runs of the ranges that lie inside RAM.
pub(super) fn runs(ranges: &[RamRange], ram_pages: u64) -> Vec<PageRun> {
    PageRun::join(ranges.iter().filter(|range| range.end() <= ram_pages).copied().map(PageRun::from).collect())
}

/// Returns one answer a range: `granted` where nothing went wrong.
pub(super) fn answers(ranges: &[RamRange], ram_pages: u64, granted: Status, findings: &Findings) -> Vec<Status> {
    let answer = |range: &RamRange| {
        let run = PageRun::from(*range);
        if range.end() > ram_pages {
            Status::INVALID_ADDRESS
        } else if findings.failed.iter().any(|failed| failed.overlaps(run)) {
            Status::IO_ERROR
        } else if findings.latched {
            Status::POISONED
        } else {
            granted
        }
    };
    ranges.iter().map(answer).collect()
}
