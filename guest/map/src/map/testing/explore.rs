//! Every order in which operations on the same memory can go on: where they wait, where the host or a pager lets others run, and
//! where an operation holds no lock.

mod inject;
mod judge;
mod keeper;
mod mutants;
mod scenario;
mod schedule;
mod world;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use std::{eprintln, println};

use self::judge::{Outcome, check_step, conclude, is_serial};
use self::scenario::{Memory, Scenario, drawn, pairs};
use self::schedule::{Course, Failure, Frontier, Run, Step, going_on, show};
use self::world::World;
use crate::fake::Executor;
use crate::planted::Mutant;

/// Most polls of a schedule; one that takes more does not end.
const MOST_STEPS: usize = 500;

/// A scenario, and what it came to so far.
struct Stage<'a> {
    scenario: &'a Scenario,
    mutant: Option<Mutant>,
    /// What the tasks come to one after the other, in the orders tried so far.
    serial: Vec<Outcome>,
    /// The orders that were not tried, each with how many wires the host grants before it refuses one.
    orders: Vec<(Vec<u8>, Option<u64>)>,
}

impl<'a> Stage<'a> {
    fn new(scenario: &'a Scenario, mutant: Option<Mutant>) -> Self {
        // Which call is refused depends on the order of the calls, and whether one is.
        let refusals = || core::iter::once(None).chain((0..=scenario.refused.unwrap_or(0) + 2).map(Some));
        let orders = orders(scenario.tasks.len()).into_iter();
        let orders = orders.flat_map(|order| refusals().map(move |refused| (order.clone(), refused)));
        let orders = orders.filter(|(_, refused)| refused.is_none() || scenario.refused.is_some()).collect();
        Self { scenario, mutant, serial: Vec::new(), orders }
    }

    /// Runs one schedule, and returns what it came to unless it went wrong.
    fn perform(
        &self,
        refused: Option<u64>,
        known: usize,
        choose: &mut dyn FnMut(usize, u8, u8) -> Option<u8>,
    ) -> (Run, Option<Outcome>) {
        let mut steps = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.steps(refused, known, choose, &mut steps)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
        });
        match outcome {
            Ok(outcome) => (Run { steps, failure: None }, outcome),
            Err(failure) => (Run { steps, failure: Some(failure) }, None),
        }
    }

    fn steps(
        &self,
        refused: Option<u64>,
        known: usize,
        choose: &mut dyn FnMut(usize, u8, u8) -> Option<u8>,
        steps: &mut Vec<Step>,
    ) -> Result<Option<Outcome>, String> {
        // What went wrong is left as it is: taking it apart could go wrong too.
        let world = ManuallyDrop::new(World::new(self.scenario, refused, self.mutant));
        let mut executor = ManuallyDrop::new(Executor::new(0));
        let answers: Vec<_> = self
            .scenario
            .tasks
            .iter()
            .enumerate()
            .map(|(number, task)| executor.spawn(world.run(number, *task)))
            .collect();
        let has_manager = world.keeper.has_manager();
        if has_manager {
            executor.spawn(world.manage());
        }
        loop {
            while let Some(work) = world.machine.vm.take_background() {
                executor.spawn(work);
            }
            let runnable = executor.runnable().fold(0_u8, |mask, number| mask | 1 << number);
            if runnable == 0 {
                break;
            }
            let ended =
                (0..answers.len()).fold(0, |mask, number| mask | u8::from(answers[number].is_ready()) << number);
            let Some(chosen) = choose(steps.len(), runnable, ended) else { break };
            steps.push(Step { runnable, chosen });
            assert!(executor.poll(usize::from(chosen)), "task {chosen} can't go on");
            if steps.len() > known {
                check_step(&world, self.scenario)?;
            }
            if steps.len() > MOST_STEPS {
                return Err(String::from("the tasks do not come to an end"));
            }
        }
        let waiting: Vec<String> = (0..answers.len())
            .filter(|&number| !answers[number].is_ready())
            .map(|number| self.scenario.tasks[number].to_string())
            .collect();
        if !waiting.is_empty() {
            return Err(format!("{} will wait for ever", waiting.join(" and ")));
        }
        if executor.remaining() > usize::from(has_manager) {
            return Err(String::from("work in the background will wait for ever"));
        }
        drop(ManuallyDrop::into_inner(executor));
        let answers = answers.iter().filter_map(crate::fake::Output::take).collect();
        conclude(ManuallyDrop::into_inner(world), answers).map(Some)
    }

    /// Tells whether the tasks come to `outcome` one after the other in some order.
    fn is_serial(&mut self, outcome: &Outcome) -> bool {
        while !self.serial.contains(outcome) {
            let Some((order, refused)) = self.orders.pop() else { return false };
            // Where one waits for a later one, they do not come to their ends in this order.
            let others = u8::MAX << order.len();
            let (_, serial) = self.perform(refused, MOST_STEPS, &mut |_, runnable, ended| {
                // The manager, and what is done in the background, go on whenever they can.
                if runnable & others != 0 {
                    return Some(going_on(0, runnable & others));
                }
                let next = order.iter().find(|&&task| ended & 1 << task == 0)?;
                (runnable & 1 << next != 0).then_some(*next)
            });
            self.serial.extend(serial);
        }
        true
    }
}

impl Course for Stage<'_> {
    fn run(&mut self, known: usize, choose: &mut dyn FnMut(usize, u8) -> u8) -> Run {
        let (mut run, outcome) =
            self.perform(self.scenario.refused, known, &mut |at, runnable, _| Some(choose(at, runnable)));
        if let Some(outcome) = outcome
            && is_serial(self.scenario)
            && !self.is_serial(&outcome)
        {
            run.failure = Some(format!(
                "one after the other, the tasks never come to\n{outcome}\nbut to\n{}",
                self.serial.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            ));
        }
        run
    }
}

/// Returns all orders of `count` tasks.
fn orders(count: usize) -> Vec<Vec<u8>> {
    let mut orders = alloc::vec![Vec::new()];
    for task in 0..u8::try_from(count).unwrap_or(8) {
        let longer = |order: &Vec<u8>| {
            let insert = |at| {
                let mut order = order.clone();
                order.insert(at, task);
                order
            };
            (0..=order.len()).map(insert).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    orders
}

/// Runs schedules of `scenarios`: `rounds` says how many more of each in each round. Returns how many were run, and the first that
/// went wrong.
fn explore<'a>(
    scenarios: &'a [Scenario],
    mutant: Option<Mutant>,
    rounds: &[u64],
) -> (u64, Option<(&'a Scenario, Failure)>) {
    let mut stages: Vec<_> =
        (1..).zip(scenarios).map(|(seed, scenario)| (Frontier::new(seed), Stage::new(scenario, mutant))).collect();
    let mut done = 0;
    for &budget in rounds {
        for (frontier, stage) in &mut stages {
            let (more, failure) = frontier.explore(stage, budget);
            done += more;
            if let Some(failure) = failure {
                return (done, Some((stage.scenario, failure)));
            }
        }
    }
    (done, None)
}

fn report(found: Option<(&Scenario, Failure)>) {
    if let Some((scenario, failure)) = found {
        let schedule = format!("{} @ {}", scenario.name(), show(&failure.choices));
        panic!("{schedule}\n{}\nRun again with WIREVM_SCHEDULE='{schedule}' and the test replay.", failure.what);
    }
}

/// The scenarios of the normal run.
fn normal() -> Vec<Scenario> {
    let mut scenarios = pairs(&Memory::ALL, 0);
    scenarios.extend(drawn(&Memory::ALL, 1500, 3, 1));
    scenarios
}

/// Those of memory that somebody keeps.
fn kept() -> Vec<Scenario> {
    let mut scenarios = pairs(&Memory::KEPT, 0);
    scenarios.extend(drawn(&Memory::KEPT, 800, 3, 1));
    scenarios
}

/// The scenarios of the long run that are drawn, three operations and four; with `WIREVM_SEED`, others.
fn long() -> [Vec<Scenario>; 2] {
    let seed = std::env::var("WIREVM_SEED").map_or(2, |seed| seed.parse().expect("WIREVM_SEED is a number"));
    [drawn(&Memory::ALL, 30_000, 3, seed), drawn(&Memory::ALL, 6_000, 4, seed)]
}

/// The scenarios of the long run of memory that somebody keeps.
fn long_kept() -> Vec<Scenario> {
    let seed = std::env::var("WIREVM_SEED").map_or(2, |seed| seed.parse().expect("WIREVM_SEED is a number"));
    drawn(&Memory::KEPT, 4_000, 3, seed)
}

#[test]
fn schedules_of_two_and_three_operations_keep_every_invariant_and_all_end() {
    let begun = Instant::now();
    let scenarios = normal();
    let (done, found) = explore(&scenarios, None, &[4, 8]);
    report(found);
    println!("{done} schedules in {:?}", begun.elapsed());
    assert!(done >= 20_000, "{done} schedules are too few");
}

#[test]
fn schedules_of_synchronisations_lose_nothing_that_was_reported_as_stable_and_all_end() {
    let begun = Instant::now();
    let scenarios = kept();
    let (done, found) = explore(&scenarios, None, &[4, 8, 32]);
    report(found);
    println!("{done} schedules in {:?}", begun.elapsed());
    assert!(done >= 40_000, "{done} schedules are too few");
}

#[test]
#[ignore = "takes minutes: a few hundred thousand schedules; run it by name, with --nocapture for the numbers"]
fn many_schedules_of_synchronisations_lose_nothing_that_was_reported_as_stable_and_all_end() {
    let begun = Instant::now();
    let mut total = 0;
    for part in (0..4).flat_map(|shift| pairs(&Memory::KEPT, shift)).chain(long_kept()).collect::<Vec<_>>().chunks(500)
    {
        let (done, found) = explore(part, None, &[120]);
        report(found);
        total += done;
    }
    println!("{total} schedules in {:?}", begun.elapsed());
    assert!(total >= 100_000, "{total} schedules are too few");
}

#[test]
#[ignore = "takes minutes: more than a million schedules; run it by name, with --nocapture for the numbers"]
fn million_schedules_keep_every_invariant_and_all_end() {
    let begun = Instant::now();
    let mut total = 0;
    for shift in 0..4 {
        for part in pairs(&Memory::ALL, shift).chunks(500) {
            let (done, found) = explore(part, None, &[120]);
            report(found);
            total += done;
        }
    }
    println!("{total} schedules of pairs in {:?}", begun.elapsed());
    for scenarios in long() {
        for part in scenarios.chunks(500) {
            let (done, found) = explore(part, None, &[120]);
            report(found);
            total += done;
        }
    }
    println!("{total} schedules in {:?}", begun.elapsed());
    assert!(total >= 1_000_000, "{total} schedules are too few");
}

/// Runs the schedule that `WIREVM_SCHEDULE` names and says who went on when.
#[test]
#[ignore = "runs the one schedule that WIREVM_SCHEDULE names"]
fn replay() {
    let schedule = std::env::var("WIREVM_SCHEDULE").expect("WIREVM_SCHEDULE is what a failure has printed");
    let (name, choices) = schedule.rsplit_once(" @ ").expect("a scenario, ' @ ' and the choices");
    let pairs = (0..4).flat_map(|shift| [pairs(&Memory::ALL, shift), pairs(&Memory::KEPT, shift)]).flatten();
    let all = pairs.chain(normal()).chain(kept()).chain(long().into_iter().flatten()).chain(long_kept());
    let scenario = all.into_iter().find(|scenario| scenario.name() == name).expect("a scenario of that name");
    let choices: Vec<u8> = choices.bytes().map(|digit| digit - b'0').collect();
    let mut stage = Stage::new(&scenario, None);
    let mut last = 0;
    let run = stage.run(0, &mut |at, runnable| {
        last = choices.get(at).copied().unwrap_or_else(|| going_on(last, runnable));
        let does =
            scenario.tasks.get(usize::from(last)).map_or_else(|| String::from("beside them"), ToString::to_string);
        eprintln!("{at}: {runnable:#010b} can go on, {last} does: {does}");
        last
    });
    assert_eq!(run.failure, None);
}
