//! Choosing who goes on next: every order once, those with few preemptions first.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One choice: which of the runnable tasks was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The runnable tasks, a bit each.
    pub(super) runnable: u8,
    pub(super) chosen: u8,
}

/// What one schedule came to.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) steps: Vec<Step>,
    /// What went wrong.
    pub(super) failure: Option<String>,
}

/// A schedule that went wrong.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) choices: Vec<u8>,
    pub(super) what: String,
}

/// Something that tasks do together, from scratch whenever it is run.
pub(super) trait Course {
    /// Runs it once. `choose` gets the runnable tasks and the number of the step; steps before `known` went the same way before.
    fn run(&mut self, known: usize, choose: &mut dyn FnMut(usize, u8) -> u8) -> Run;
}

/// The schedules of one scenario that are still to be run.
///
/// A schedule is a list of choices. From every schedule that was run, others follow: the same up to some step, where another task
/// goes on, and then whoever can goes on as long as he can. So each is run once. Those that take the processor from a task that
/// could go on come later, the more often they do.
#[derive(Debug)]
pub(super) struct Frontier {
    /// Beginnings to run now, the next last.
    now: Vec<Vec<u8>>,
    /// Beginnings with one preemption more.
    later: Vec<Vec<u8>>,
    known: HashSet<u64>,
    random: u64,
}

/// Every how many schedules one is drawn by lot, so that deep ones come too.
const LOT: u64 = 4;

impl Frontier {
    pub(super) fn new(seed: u64) -> Self {
        Self { now: alloc::vec![Vec::new()], later: Vec::new(), known: HashSet::new(), random: seed }
    }

    /// Runs up to `budget` schedules that were not run before; returns how many.
    pub(super) fn explore(&mut self, course: &mut impl Course, budget: u64) -> (u64, Option<Failure>) {
        let mut done = 0;
        // A lot can fall on a schedule that is known.
        for turn in 0..budget {
            if self.now.is_empty() {
                self.now = core::mem::take(&mut self.later);
            }
            // All are known, then.
            if self.now.is_empty() {
                break;
            }
            let run = if turn % LOT == LOT - 1 { self.draw(course) } else { self.follow(course) };
            let choices: Vec<u8> = run.steps.iter().map(|step| step.chosen).collect();
            let mut hasher = DefaultHasher::new();
            choices.hash(&mut hasher);
            done += u64::from(self.known.insert(hasher.finish()));
            if let Some(what) = run.failure {
                return (done, Some(Failure { choices, what }));
            }
        }
        (done, None)
    }

    /// Runs the next beginning and adds what follows from it.
    fn follow(&mut self, course: &mut impl Course) -> Run {
        let Some(beginning) = self.now.pop() else { return Run { steps: Vec::new(), failure: None } };
        let mut last = 0;
        // The last choice of the beginning is the first new one.
        let run = course.run(beginning.len().saturating_sub(1), &mut |at, runnable| {
            last = beginning.get(at).copied().unwrap_or_else(|| going_on(last, runnable));
            last
        });
        for at in (beginning.len()..run.steps.len()).rev() {
            let Step { runnable, chosen } = run.steps[at];
            let before = at.checked_sub(1).map(|at| run.steps[at].chosen);
            let preempts = before.is_some_and(|before| runnable & 1 << before != 0);
            for other in (0..8).filter(|other| *other != chosen && runnable & 1 << other != 0) {
                let mut choices: Vec<u8> = run.steps[..at].iter().map(|step| step.chosen).collect();
                choices.push(other);
                if preempts { self.later.push(choices) } else { self.now.push(choices) }
            }
        }
        run
    }

    fn draw(&mut self, course: &mut impl Course) -> Run {
        course.run(0, &mut |_, runnable| {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut which = (self.random >> 33) % u64::from(runnable.count_ones());
            let mut left = runnable;
            while which > 0 {
                left &= left - 1;
                which -= 1;
            }
            left.trailing_zeros().to_le_bytes()[0]
        })
    }
}

/// Whom the processor is not taken from, or else the first.
pub(super) fn going_on(last: u8, runnable: u8) -> u8 {
    if runnable & 1 << last != 0 { last } else { runnable.trailing_zeros().to_le_bytes()[0] }
}

/// Writes choices as one can give them back.
pub(super) fn show(choices: &[u8]) -> String {
    choices.iter().map(|choice| format!("{choice}")).collect()
}

#[cfg(test)]
mod test {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::{Course, Frontier, Run, Step, show};

    /// Tasks that end after so many polls; some order is wrong.
    struct Counting {
        polls: Vec<u8>,
        wrong: Vec<u8>,
        seen: Vec<Vec<u8>>,
    }

    impl Course for Counting {
        fn run(&mut self, _: usize, choose: &mut dyn FnMut(usize, u8) -> u8) -> Run {
            let mut left = self.polls.clone();
            let mut steps = Vec::new();
            loop {
                let runnable = (0..left.len()).fold(0, |mask, task| mask | u8::from(left[task] > 0) << task);
                if runnable == 0 {
                    break;
                }
                let chosen = choose(steps.len(), runnable);
                left[usize::from(chosen)] -= 1;
                steps.push(Step { runnable, chosen });
            }
            let order: Vec<u8> = steps.iter().map(|step| step.chosen).collect();
            let failure = (order == self.wrong).then(|| String::from("wrong"));
            self.seen.push(order);
            Run { steps, failure }
        }
    }

    #[test]
    fn explore_runs_every_order_and_none_twice() {
        let mut course = Counting { polls: [3, 2, 1].to_vec(), wrong: Vec::new(), seen: Vec::new() };
        let mut frontier = Frontier::new(1);
        let (done, failure) = frontier.explore(&mut course, 1000);
        assert_eq!((done, failure.is_none()), (60, true), "6! / (3! 2! 1!)");
        course.seen.sort();
        course.seen.dedup();
        assert_eq!(course.seen.len(), 60);
        assert_eq!(frontier.explore(&mut course, 1000).0, 0);
    }

    #[test]
    fn explore_begins_with_orders_without_preemptions_and_reports_the_choices() {
        let mut course = Counting { polls: [3, 3].to_vec(), wrong: [0, 1, 1, 1, 0, 0].to_vec(), seen: Vec::new() };
        let mut frontier = Frontier::new(1);
        let (done, failure) = frontier.explore(&mut course, 1000);
        assert_eq!(course.seen[..2], [[0, 0, 0, 1, 1, 1].to_vec(), [1, 1, 1, 0, 0, 0].to_vec()]);
        let failure = failure.unwrap();
        assert_eq!((show(&failure.choices).as_str(), failure.what.as_str()), ("011100", "wrong"));
        assert!(done < 20);
    }
}
