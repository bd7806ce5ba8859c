//! Frame runs on their way to the host.

use smallvec::SmallVec;

use crate::units::FrameRun;

/// Collects frame runs and joins those that touch.
#[derive(Debug, Default)]
pub(crate) struct FrameRuns {
    /// Mostly one, which takes no memory.
    runs: SmallVec<[FrameRun; 1]>,
}

impl FrameRuns {
    pub(crate) const fn new() -> Self {
        Self { runs: SmallVec::new_const() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, run: FrameRun) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first => last.pages += run.pages,
            _ => self.runs.push(run),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.runs = SmallVec::new_const();
    }

    /// Puts the runs in the order of their frames, as few as there can be, and returns them.
    #[inline(always)]
    pub(crate) fn join(&mut self) -> &[FrameRun] {
        if self.runs.len() > 1 {
            self.sort();
        }
        &self.runs
    }

    fn sort(&mut self) {
        self.runs.sort_unstable_by_key(|run| run.first);
        self.runs.dedup_by(|next, kept| {
            let touches = kept.end() == next.first;
            if touches {
                kept.pages += next.pages;
            }
            touches
        });
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
        assert_eq!(runs.join(), [FrameRun::new(0, 1), FrameRun::new(4, 9), FrameRun::new(20, 1)]);
        assert!(FrameRuns::new().join().is_empty());
    }
}
