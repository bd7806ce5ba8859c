//! A running guest as what a script is carried out on.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use wirevm_abi::RamRange;
use wirevm_agent::{Command, Reply};
use wirevm_devices::witness::{Witness, WitnessError};
use wirevm_map::{FrameRun, KernReturn};
use wirevm_vmm::{ChannelError, Machine, Outcome};

use crate::exit_code::{CommandError, ExitCode};
use crate::script::target::{Target, TargetError, WitnessAnswer, WitnessQuery};

/// Longest wait for one reply where no time limit was given: a hung guest is an error, not a hung command line.
const REPLY_LIMIT: Duration = Duration::from_secs(600);

/// Returns the error that stands for a machine's end before its work was done.
pub fn ended(outcome: &Outcome) -> CommandError {
    CommandError::new(exit_code_of(outcome), outcome.to_string())
}

/// Returns the exit code for a machine that ended that way.
pub const fn exit_code_of(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Exit { code: 0 } => ExitCode::Ok,
        Outcome::Exit { .. } | Outcome::Interrupted | Outcome::Stopped | Outcome::VcpuError { .. } => ExitCode::Failure,
        Outcome::Crashed(_) => ExitCode::GuestPanic,
        Outcome::TripleFault { .. } => ExitCode::GuestCrash,
        Outcome::Timeout { .. } => ExitCode::Timeout,
        Outcome::BackingLost { .. } => ExitCode::BackingLost,
        Outcome::StorageError { .. } => ExitCode::Storage,
    }
}

/// The guest's agent behind its message rings, and the host's witness.
#[derive(Debug)]
pub struct KvmTarget<'a> {
    machine: &'a mut Machine,
    next_id: u64,
    /// Replies that came before somebody asked for them, by id.
    early: HashMap<u64, Vec<u64>>,
}

/// The guest's agent said something that no agent says.
#[derive(Debug)]
struct Nonsense(String);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest's agent answered {}", self.0)
    }
}

impl std::error::Error for Nonsense {}

impl<'a> KvmTarget<'a> {
    /// Talks to the agent of a machine that is ready.
    pub fn new(machine: &'a mut Machine) -> Self {
        Self { machine, next_id: 1, early: HashMap::new() }
    }

    fn send(&mut self, command: &Command) -> Result<u64, TargetError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut words = vec![id];
        command.encode(&mut words);
        self.machine.channel().send(&words, REPLY_LIMIT).map_err(|error| self.explain(error))?;
        Ok(id)
    }

    fn receive(&mut self, id: u64) -> Result<Reply, TargetError> {
        let deadline = Instant::now() + REPLY_LIMIT;
        loop {
            if let Some(words) = self.early.remove(&id) {
                let reply = Reply::decode(&words)
                    .map_err(|_| CommandError::new(ExitCode::Failure, Nonsense(format!("{words:x?}"))))?;
                return Ok(reply);
            }
            // One limit for all: a guest that repeats other replies does not put it off.
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.explain(ChannelError::Timeout(REPLY_LIMIT)));
            }
            let message = self.machine.channel().receive(left).map_err(|error| self.explain(error))?;
            match message.split_first() {
                Some((id, words)) if *id < self.next_id => {
                    self.early.insert(*id, words.to_vec());
                }
                _ => {
                    return Err(CommandError::new(
                        ExitCode::Failure,
                        Nonsense("a command that nobody sent".to_owned()),
                    ));
                }
            }
        }
    }

    /// A channel that is over says why the machine is.
    fn explain(&self, error: ChannelError) -> CommandError {
        match error {
            ChannelError::Ended => ended(&self.machine.wait()),
            ChannelError::Timeout(_) => CommandError::new(ExitCode::Timeout, error),
            other => CommandError::new(ExitCode::Failure, other),
        }
    }

    fn ranges(&self, runs: &[FrameRun]) -> Result<Vec<RamRange>, TargetError> {
        let pages = self.machine.ram_pages();
        let range = |run: &FrameRun| {
            RamRange::new(run.first, run.pages, pages).map_err(|_| {
                CommandError::new(ExitCode::Failure, Nonsense(format!("with frames {run:?}, which RAM does not have")))
            })
        };
        runs.iter().map(range).collect()
    }

    fn sum(
        &self,
        runs: &[FrameRun],
        count: impl Fn(&Witness, RamRange) -> Result<u64, WitnessError>,
    ) -> Result<u64, TargetError> {
        self.ranges(runs)?.into_iter().map(|range| count(self.machine.witness(), range).map_err(blind)).sum()
    }
}

fn blind(error: WitnessError) -> CommandError {
    CommandError::new(ExitCode::Failure, error)
}

impl Target for KvmTarget<'_> {
    fn call(&mut self, command: &Command) -> Result<Reply, TargetError> {
        let id = self.send(command)?;
        match (self.receive(id), command) {
            (Err(_), Command::Exit { code }) if matches!(self.machine.outcome(), Some(Outcome::Exit { code: got }) if got == *code) => {
                Ok(Reply::Done(KernReturn::Success))
            }
            (answer, _) => answer,
        }
    }

    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        Ok(match query {
            WitnessQuery::Locked => WitnessAnswer::Pages(self.machine.witness().locked_pages().map_err(blind)?),
            WitnessQuery::Resident(runs) => WitnessAnswer::Pages(self.sum(&runs, Witness::resident)?),
            WitnessQuery::Dirty(runs) => {
                let mut pages = Some(0);
                for range in self.ranges(&runs)? {
                    let dirty = self.machine.witness().dirty(range).map_err(blind)?;
                    pages = pages.zip(dirty).map(|(sum, dirty)| sum + dirty);
                }
                pages.map_or(WitnessAnswer::Unsupported, WitnessAnswer::Pages)
            }
            WitnessQuery::Page(frame) => {
                WitnessAnswer::Page(Box::new(self.machine.witness().bytes(frame).map_err(blind)?))
            }
        })
    }
}
