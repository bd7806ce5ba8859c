//! Carrying one operation out.

mod ask;
mod command;
mod make;
mod program;
mod threads;
mod truth;

use std::collections::HashMap;
use std::time::Instant;

use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
use wirevm_map::{KernReturn, PageRange};

use super::Script;
use super::ast::{Backing, Expectation, Managing, Operation, Question, Statement, Task, Value};
use super::frames;
use super::outcome::Outcome;
use super::run::StepReport;
use super::scopes::{MAIN, Scopes};
use super::target::{Target, TargetError, WitnessQuery};
use crate::exit_code::ExitCode;
use crate::program::Wanted;

/// Error of carrying out an operation that the guest or the host answered in a way that makes no sense.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The guest.
    #[error("the guest answered {reply} to {command:?}, which is no answer to it")]
    Reply {
        /// What was asked.
        command: Command,
        /// What came back.
        reply: String,
    },
    /// The host.
    #[error("the host answered {answer} to a question about {question}, which is no answer to it")]
    Answer {
        /// What was asked.
        question: &'static str,
        /// What came back.
        answer: String,
    },
    /// A name without a value. The parser refuses scripts that could come to this.
    #[error("the name '{name}' has no value")]
    Unbound {
        /// The name.
        name: String,
    },
}

/// What operations are carried out with.
pub(super) struct Runner<'t, 's> {
    target: &'t mut dyn Target,
    durable: bool,
    /// Start and size, in bytes, of what each name names.
    memory: Scopes<(u64, u64)>,
    tasks: HashMap<&'s str, TaskNumber>,
    /// The archive's entries of the programs.
    programs: Vec<Wanted>,
    objects: HashMap<&'s str, Object>,
    threads: HashMap<&'s str, Started<'s>>,
    last_thread: u64,
    /// A task locks what it will map.
    locks_future: bool,
}

/// A task's number in the guest, and the scope of its names.
#[derive(Clone, Copy)]
struct TaskNumber {
    number: u64,
    scope: usize,
}

/// An object's number in the guest, and its pages as the script last said them.
#[derive(Clone, Copy)]
struct Object {
    number: u64,
    pages: u64,
}

/// A thread that is not joined.
#[derive(Clone, Copy)]
struct Started<'s> {
    number: u64,
    statement: &'s Statement,
    command: Command,
    made: Made,
}

/// What is known of what an operation makes before it is made.
#[derive(Clone, Copy, Default)]
struct Made {
    /// Bytes of memory.
    size: u64,
    /// Scope of a task's names.
    scope: usize,
}

/// Start and end of a range of a task, in bytes; the end may be lower.
#[derive(Clone, Copy)]
struct Bytes {
    task: u64,
    start: u64,
    end: u64,
}

impl Bytes {
    /// The length, modulo 2^64: what operations that take a size are given.
    const fn size(self) -> u64 {
        self.end.wrapping_sub(self.start)
    }

    const fn pages(self) -> PageRange {
        frames::touched(self.start, self.end)
    }
}

impl From<RunError> for TargetError {
    fn from(error: RunError) -> Self {
        Self::new(ExitCode::Failure, error)
    }
}

fn unexpected(command: Command, reply: Reply) -> TargetError {
    let reply = match reply {
        Reply::Malformed => "that it is malformed".to_owned(),
        Reply::Bytes(bytes) => format!("{} bytes", bytes.len()),
        other => format!("{other:?}"),
    };
    RunError::Reply { command, reply }.into()
}

fn unbound(name: &str) -> TargetError {
    RunError::Unbound { name: name.to_owned() }.into()
}

impl<'t, 's> Runner<'t, 's> {
    /// Returns a runner for the statements of a script.
    pub(super) fn new(script: &'s Script, target: &'t mut dyn Target, durable: bool) -> Self {
        Self {
            target,
            durable,
            memory: Scopes::new(),
            tasks: HashMap::new(),
            programs: script.programs(),
            objects: HashMap::new(),
            threads: HashMap::new(),
            last_thread: 0,
            locks_future: false,
        }
    }

    /// Carries a statement out, judges what it came to, and checks every invariant of the guest's VM system.
    pub(super) fn step(&mut self, statement: &'s Statement) -> Result<StepReport, TargetError> {
        let success = Value::Code(KernReturn::Success);
        let expected = match &statement.expected {
            None => &success,
            Some(Expectation { otherwise: Some(value), .. }) if !self.durable => value,
            Some(Expectation { value, .. }) => value,
        };
        let began = Instant::now();
        let outcome = self.perform(statement, expected)?;
        let elapsed = began.elapsed();
        // Whoever joins wants a result, whatever it is.
        let has_none = matches!((&statement.operation, &outcome), (Operation::Join(_), Outcome::Blocked));
        let mut ok = outcome.meets(expected) && !has_none;
        let mut result = if ok { outcome.to_string() } else { outcome.in_detail() };
        let ended = matches!(statement.operation, Operation::Exit(_));
        let mut truth = (None, None);
        if !ended {
            truth = self.truth_behind(statement)?;
            if ok && let Some(violation) = self.violation_after(&statement.operation)? {
                (ok, result) = (false, violation.to_string());
            }
        }
        let (host_truth, host_locked_after) = truth;
        Ok(StepReport {
            line: statement.line,
            text: statement.text.clone(),
            asks_host: matches!(
                statement.operation,
                Operation::Host(_) | Operation::FailHost(_) | Operation::FailStorage(_) | Operation::HoldStorage(_)
            ),
            result,
            expected: shown_expectation(statement, expected),
            ok,
            host_truth,
            host_locked_after,
            elapsed,
        })
    }

    /// Checks that nothing is left under way; returns a step for the end of the script where something is.
    pub(super) fn finish(&mut self, line: usize) -> Result<Option<StepReport>, TargetError> {
        let began = Instant::now();
        let Some(violation) = self.violation(Command::Quiesce)? else { return Ok(None) };
        Ok(Some(StepReport {
            line,
            text: "end of script".to_owned(),
            asks_host: false,
            result: violation.to_string(),
            expected: KernReturn::Success.to_string(),
            ok: false,
            host_truth: None,
            host_locked_after: None,
            elapsed: began.elapsed(),
        }))
    }

    /// Checks behind an operation, unless it has checked itself.
    fn violation_after(&mut self, operation: &Operation) -> Result<Option<Outcome>, TargetError> {
        match operation {
            Operation::Check | Operation::Reset => Ok(None),
            _ => self.violation(Command::Check),
        }
    }

    fn violation(&mut self, command: Command) -> Result<Option<Outcome>, TargetError> {
        match self.call(MAIN_TASK, command)? {
            Reply::Done(KernReturn::Success) => Ok(None),
            Reply::Violation(reason) => Ok(Some(Outcome::Violation(reason))),
            reply => Err(unexpected(command, reply)),
        }
    }

    fn call(&mut self, task: u64, command: Command) -> Result<Reply, TargetError> {
        self.target.call(&Request::new(task, command))
    }

    fn perform(&mut self, statement: &'s Statement, expected: &Value) -> Result<Outcome, TargetError> {
        if let Some(thread) = &statement.thread {
            return self.start(thread, statement);
        }
        match &statement.operation {
            Operation::Read(range) => {
                let pattern = if let Value::Pattern(pattern) = expected { Some(*pattern) } else { None };
                let range = self.resolve(range)?;
                self.read(range, pattern)
            }
            Operation::Show(showing, range) => self.show(*showing, range),
            Operation::Host(Question::Locked) => Ok(Outcome::Count(Some(self.locked()?))),
            Operation::Host(Question::Resident(range)) => self.count(range, "residency", WitnessQuery::Resident),
            Operation::Host(Question::Dirty(range)) => self.count(range, "dirtiness", WitnessQuery::Dirty),
            Operation::Host(Question::File(range)) => self.file(range),
            Operation::FailHost(fault) => {
                self.target.fail_host(*fault)?;
                Ok(Outcome::Code(KernReturn::Success))
            }
            Operation::Host(Question::Store(name, pages)) => self.store(*name, *pages),
            Operation::FailStorage(fault) => {
                self.target.fail_storage(*fault)?;
                Ok(Outcome::Code(KernReturn::Success))
            }
            Operation::HoldStorage(hold) => {
                self.target.hold_storage(*hold)?;
                Ok(Outcome::Code(KernReturn::Success))
            }
            Operation::DirtyRanges(object) => self.dirty_ranges(object),
            Operation::NewBackedObject { name, backing: Backing::Manager(manager), pages } => {
                self.new_managed_object(name, manager, *pages)
            }
            Operation::Program { name, wanted } => self.run_program(name, wanted, statement),
            Operation::Output(task) => self.printed(task),
            Operation::Thread { thread, has_ended } => self.look_at(thread, *has_ended),
            Operation::Join(thread) => self.join(thread),
            Operation::Exit(code) => {
                let command = Command::Exit { code: *code };
                match self.call(MAIN_TASK, command)? {
                    Reply::Done(KernReturn::Success) => Ok(Outcome::Exit(*code)),
                    reply => Err(unexpected(command, reply)),
                }
            }
            operation => {
                let (task, command) = self.command(operation)?;
                let made = self.made(operation)?;
                let reply = self.call(task, command)?;
                self.conclude(statement, command, made, reply)
            }
        }
    }

    /// Says what a reply to an operation means, and gives what was made its name.
    fn conclude(
        &mut self,
        statement: &'s Statement,
        command: Command,
        made: Made,
        reply: Reply,
    ) -> Result<Outcome, TargetError> {
        if let Some(outcome) = self.name_made(statement, made, &reply)? {
            return Ok(outcome);
        }
        Ok(match (&statement.operation, reply) {
            (_, Reply::Blocked) => Outcome::Blocked,
            (_, Reply::Violation(reason)) => Outcome::Violation(reason),
            (
                Operation::Residents(_)
                | Operation::WireTotal
                | Operation::Completions
                | Operation::Stat(_)
                | Operation::Trim,
                Reply::Number(number),
            ) => Outcome::Number(number),
            (Operation::Manage { managing: Managing::Messages, .. }, Reply::Text(text)) => Outcome::Messages(text),
            (Operation::Program { .. }, Reply::Program(end)) => Outcome::Program(end),
            // These say what they made, or how much there is.
            (
                Operation::Allocate(_)
                | Operation::Fork(_)
                | Operation::NewTask(_)
                | Operation::NewManager(_)
                | Operation::Submap { .. }
                | Operation::NewObject { .. }
                | Operation::NewBackedObject { .. }
                | Operation::Manage { managing: Managing::Messages, .. }
                | Operation::Residents(_)
                | Operation::WireTotal
                | Operation::Completions
                | Operation::Stat(_)
                | Operation::Trim,
                reply @ Reply::Done(KernReturn::Success),
            ) => return Err(unexpected(command, reply)),
            (Operation::Reset, Reply::Done(KernReturn::Success)) => {
                self.memory = Scopes::new();
                self.tasks.clear();
                self.objects.clear();
                self.threads.clear();
                self.locks_future = false;
                Outcome::Code(KernReturn::Success)
            }
            (Operation::Crash(_), reply) => return Err(unexpected(command, reply)),
            (_, Reply::Done(code)) => Outcome::Code(code),
            (Operation::Expect(..), Reply::Mismatch { address, expected, got }) => {
                Outcome::Mismatch { address, expected, got }
            }
            (
                Operation::Allocate(_)
                | Operation::Lock(..)
                | Operation::Mlockall(..)
                | Operation::Munlockall(_)
                | Operation::Msync(..),
                Reply::Errno(errno),
            ) => Outcome::Errno(errno),
            (_, reply) => return Err(unexpected(command, reply)),
        })
    }

    fn task(&self, task: &Task) -> Result<TaskNumber, TargetError> {
        match task {
            None => Ok(TaskNumber { number: MAIN_TASK, scope: MAIN }),
            Some(name) => self.tasks.get(name.as_str()).copied().ok_or_else(|| unbound(name)),
        }
    }

    fn object(&self, name: &str) -> Result<Object, TargetError> {
        self.objects.get(name).copied().ok_or_else(|| unbound(name))
    }
}

fn shown_expectation(statement: &Statement, expected: &Value) -> String {
    match (&statement.operation, expected) {
        (Operation::Allocate(_), Value::Number(address)) => format!("{address:#x}"),
        (Operation::Thread { has_ended: true, .. }, _) => "ended".to_owned(),
        (Operation::Thread { .. }, _) => "blocked".to_owned(),
        _ => expected.to_string(),
    }
}
