//! What calls are at work on while nobody holds the service's lock.

use std::sync::Arc;

use crate::page_run::PageRun;

/// Pages that calls are at work on: every other call about them waits. There are as many claims as calls that are under way, and a
/// claim's runs are sorted.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: Vec<Claim>,
    next: u64,
}

/// One call's pages.
#[derive(Debug)]
pub(super) struct Claim {
    id: ClaimId,
    runs: Arc<[PageRun]>,
    /// Those of them that the host is being asked about: whether it holds them is not known.
    pub(super) unsure: Arc<[PageRun]>,
    /// Locked runs that there will be more when those are unlocked.
    pub(super) splits: u64,
}

/// Names a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimId(u64);

impl Claims {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub(super) fn begin(&mut self, runs: Arc<[PageRun]>, unsure: Arc<[PageRun]>, splits: u64) -> ClaimId {
        let id = ClaimId(self.next);
        self.next += 1;
        self.claims.push(Claim { id, runs, unsure, splits });
        id
    }

    pub(super) fn end(&mut self, id: ClaimId) -> Option<Claim> {
        let place = self.claims.iter().position(|claim| claim.id == id)?;
        Some(self.claims.swap_remove(place))
    }

    /// Tells whether a call is at work on one of the run's pages.
    pub(super) fn is_busy(&self, run: PageRun) -> bool {
        self.claims.iter().any(|claim| overlap(&claim.runs, run))
    }

    /// Tells whether the host is being asked about one of the run's pages.
    pub(super) fn is_unsure(&self, run: PageRun) -> bool {
        self.claims.iter().any(|claim| overlap(&claim.unsure, run))
    }
}

fn overlap(sorted: &[PageRun], run: PageRun) -> bool {
    let place = sorted.partition_point(|held| held.end() <= run.first());
    sorted.get(place).is_some_and(|held| held.overlaps(run))
}

#[cfg(test)]
mod test {
    use super::Claims;
    use crate::page_run::PageRun;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn claims_hold_their_pages_until_they_end() {
        let mut claims = Claims::default();
        let first = claims.begin([run(2, 4), run(6, 8)].into(), [run(6, 7)].into(), 0);
        let second = claims.begin([run(4, 5)].into(), [].into(), 0);
        let all = [run(0, 2), run(3, 4), run(4, 6), run(5, 6), run(7, 9), run(8, 9)];
        assert_eq!(all.map(|run| claims.is_busy(run)), [false, true, true, false, true, false]);
        assert_eq!([run(2, 6), run(6, 9), run(7, 8)].map(|run| claims.is_unsure(run)), [false, true, false]);
        claims.end(first).expect("under way");
        assert!(claims.end(first).is_none());
        assert_eq!(all.map(|run| claims.is_busy(run)), [false, false, true, false, false, false]);
        claims.end(second).expect("under way");
        assert!(claims.is_empty());
    }
}
