//! Thousands of sequences through few processes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::draw::{Draws, Strategies, operations, sequences};
use super::render::{Looks, script};
use super::shrink;
use super::state::Rules;
use crate::binary::{Finished, Wirevm};

/// Longest script that one process is given, in bytes: below the language's limit of 1 MiB.
const BATCH_BYTES: usize = 900_000;
/// Most processes at a time.
const PROCESSES: usize = 2;

/// Sequences to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Host that carries them out.
    pub host: &'static str,
    /// How many.
    pub sequences: usize,
    /// Most sequences that one process carries out.
    pub batch: usize,
    /// Seed; each sequence's own is made of it and of its number.
    pub seed: u64,
    /// Rules that the model follows.
    pub rules: Rules,
    /// Most operations of a sequence.
    pub longest: usize,
    /// How often each sequence looks at memory.
    pub looks: Looks,
}

/// A script that comes to something else than the model says.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// Number of the sequence.
    pub number: usize,
    /// The smallest script found.
    pub script: String,
    /// What the program said of it.
    pub says: String,
}

/// The numbers of a sequence as a tree to shrink, made of the plan's seed alone.
pub type Tree = <Strategies as Strategy>::Tree;

impl Plan {
    /// Returns the tree of a sequence.
    ///
    /// # Panics
    /// When the strategy rejects all values, which it can't.
    #[must_use]
    pub fn tree(&self, number: usize) -> Tree {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(number as u64).to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let config = Config { failure_persistence: None, ..Config::default() };
        sequences().new_tree(&mut TestRunner::new_with_rng(config, random)).expect("a tree")
    }

    /// Returns the script of a sequence.
    #[must_use]
    pub fn script(&self, draws: &Draws) -> String {
        let mut operations = operations(draws);
        operations.truncate(self.longest);
        script(usize::from(draws.0), &operations, self.rules, self.looks)
    }

    /// Carries all sequences out, two processes at a time, and returns the first disagreement found, made as small as can
    /// be.
    ///
    /// # Errors
    /// The disagreement.
    ///
    /// # Panics
    /// When a process can't be run.
    pub fn run(&self) -> Result<(), Box<Disagreement>> {
        let next = AtomicUsize::new(0);
        let found: Mutex<Option<Box<Disagreement>>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..PROCESSES {
                scope.spawn(|| {
                    loop {
                        let first = next.fetch_add(self.batch, Ordering::Relaxed);
                        let stop = found.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                        if first >= self.sequences || stop {
                            return;
                        }
                        if let Err(one) = self.run_batch(first, (first + self.batch).min(self.sequences)) {
                            found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(one);
                        }
                    }
                });
            }
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Carries sequences out in as few processes as their scripts' length allows.
    fn run_batch(&self, first: usize, end: usize) -> Result<(), Box<Disagreement>> {
        use proptest::strategy::ValueTree;
        let mut text = String::new();
        let mut starts: Vec<(usize, usize)> = Vec::new();
        let mut lines = 0;
        for number in first..end {
            let script = self.script(&self.tree(number).current());
            if text.len() + script.len() > BATCH_BYTES {
                self.run_scripts(&text, &starts)?;
                (lines, text) = (0, String::new());
                starts.clear();
            }
            starts.push((number, lines));
            lines += script.lines().count();
            text.push_str(&script);
        }
        self.run_scripts(&text, &starts)
    }

    /// Carries out sequences, each beginning at a line of the text.
    fn run_scripts(&self, text: &str, starts: &[(usize, usize)]) -> Result<(), Box<Disagreement>> {
        let finished = self.carry_out(text);
        if finished.code == Some(0) {
            return Ok(());
        }
        let line = line_of(&finished.stderr);
        let met = line.and_then(|line| starts.iter().rposition(|(_, start)| *start < line));
        let suspects: Vec<usize> = met.map_or_else(|| (0..starts.len()).collect(), |at| vec![at]);
        for at in suspects {
            if let Some(one) = shrink::shrink(self, starts[at].0) {
                return Err(Box::new(one));
            }
        }
        // No sequence alone does it: what an earlier one left behind is needed.
        let number = met.map_or(0, |at| starts[at].0);
        Err(Box::new(Disagreement { number, script: text.to_owned(), says: says(&finished) }))
    }

    /// Carries a script out on the plan's host.
    #[must_use]
    pub fn carry_out(&self, script: &str) -> Finished {
        let _slot = Slot::take();
        let mut arguments = vec!["script", "-", "--on", self.host, "--quiet"];
        if self.host != "fake" {
            arguments.extend(["--memory", "16M,durability=none"]);
        }
        Wirevm::new(arguments).input(script).run()
    }
}

/// Returns what a failed run says of its reason.
#[must_use]
pub fn says(finished: &Finished) -> String {
    let lines = finished.stderr.lines().take(20).map(|line| format!("  {line}\n"));
    format!("{}  exit code {:?}", lines.collect::<String>(), finished.code)
}

/// Returns the line that an error is about.
fn line_of(errors: &str) -> Option<usize> {
    let rest = errors.split("line ").skip(1);
    rest.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).next()
}

/// The right to run one process.
struct Slot;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Slot {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= PROCESSES {
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
