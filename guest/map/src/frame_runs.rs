//! Frame runs on their way to the host.

use smallvec::SmallVec;

use crate::units::FrameRun;

/// Runs in a row: mostly it is one, which takes no memory.
pub(crate) type RunList = SmallVec<[FrameRun; 1]>;

/// Collects frame runs and joins those that touch.
#[derive(Debug, Default)]
pub(crate) struct FrameRuns {
    runs: RunList,
}

impl FrameRuns {
    pub(crate) const fn new() -> Self {
        Self { runs: RunList::new_const() }
    }

    #[inline]
    pub(crate) fn push(&mut self, run: FrameRun) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first => last.pages += run.pages,
            _ => self.runs.push(run),
        }
    }

    /// Returns the runs in the order of their frames, as few as there can be.
    #[inline]
    pub(crate) fn joined(mut self) -> RunList {
        if self.runs.len() > 1 {
            self.runs.sort_unstable_by_key(|run| run.first);
            self.runs.dedup_by(|next, kept| {
                let touches = kept.end() == next.first;
                if touches {
                    kept.pages += next.pages;
                }
                touches
            });
        }
        self.runs
    }
}

#[cfg(test)]
mod test {
    use super::FrameRuns;
    use crate::units::FrameRun;

    #[test]
    fn joined_scattered_runs_come_sorted_and_merged() {
        let mut runs = FrameRuns::new();
        for (first, pages) in [(10, 2), (12, 1), (4, 3), (0, 1), (7, 3), (20, 1)] {
            runs.push(FrameRun::new(first, pages));
        }
        assert_eq!(runs.joined().as_slice(), [FrameRun::new(0, 1), FrameRun::new(4, 9), FrameRun::new(20, 1)]);
        assert!(FrameRuns::new().joined().is_empty());
    }
}
