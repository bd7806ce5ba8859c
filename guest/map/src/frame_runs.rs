//! Frame runs on their way to the host.

use alloc::vec::Vec;

use crate::units::FrameRun;

/// Collects frame runs and joins those that touch.
#[derive(Debug, Default)]
pub(crate) struct FrameRuns {
    runs: Vec<FrameRun>,
}

impl FrameRuns {
    pub(crate) const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, run: FrameRun) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first => last.pages += run.pages,
            _ => self.runs.push(run),
        }
    }

    /// Returns the runs in the order of their frames, as few as there can be.
    pub(crate) fn joined(mut self) -> Vec<FrameRun> {
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
        assert_eq!(runs.joined(), [FrameRun::new(0, 1), FrameRun::new(4, 9), FrameRun::new(20, 1)]);
        assert_eq!(FrameRuns::new().joined(), []);
    }
}
