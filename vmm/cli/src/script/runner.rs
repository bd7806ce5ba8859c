//! Carrying one operation out.

use std::collections::HashMap;
use std::time::Instant;

use wirevm_agent::{Command, MAX_READ_BYTES, Pattern, Reply};
use wirevm_map::{FrameRun, KernReturn, PageRange};

use super::ast::{Address, Expectation, Operation, Question, Range, Statement, Value};
use super::cursor::PAGE_SIZE;
use super::frames::{self, Listing};
use super::outcome::Outcome;
use super::run::StepReport;
use super::sample::{Page, Pages, Sample};
use super::target::{Target, TargetError, WitnessAnswer, WitnessQuery};
use crate::exit_code::ExitCode;

/// Most pages that one `host file` shows.
const MAX_FILE_PAGES: u64 = 1024;
/// Most pages whose dirtiness is counted unasked.
const MAX_TRUTH_PAGES: u64 = 1 << 18;

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
pub(super) struct Runner<'a> {
    target: &'a mut dyn Target,
    durable: bool,
    /// Start and size, in bytes, of what each name names.
    names: HashMap<String, (u64, u64)>,
}

/// Start and end of a range, in bytes; the end may be lower.
#[derive(Clone, Copy)]
struct Bytes {
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

impl<'a> Runner<'a> {
    pub(super) fn new(target: &'a mut dyn Target, durable: bool) -> Self {
        Self { target, durable, names: HashMap::new() }
    }

    /// Carries a statement out and judges what it came to.
    pub(super) fn step(&mut self, statement: &Statement) -> Result<StepReport, TargetError> {
        let success = Value::Code(KernReturn::Success);
        let expected = match &statement.expected {
            None => &success,
            Some(Expectation { otherwise: Some(value), .. }) if !self.durable => value,
            Some(Expectation { value, .. }) => value,
        };
        let began = Instant::now();
        let outcome = self.perform(&statement.operation, expected)?;
        let elapsed = began.elapsed();
        let ok = outcome.meets(expected);
        let ended = matches!(statement.operation, Operation::Exit(_));
        let (host_truth, host_locked_after) =
            if ended { (None, None) } else { self.truth_behind(&statement.operation)? };
        Ok(StepReport {
            line: statement.line,
            text: statement.text.clone(),
            asks_host: matches!(statement.operation, Operation::Host(_)),
            result: if ok { outcome.to_string() } else { outcome.in_detail() },
            expected: match (&statement.operation, expected) {
                (Operation::Allocate { .. }, Value::Number(address)) => format!("{address:#x}"),
                _ => expected.to_string(),
            },
            ok,
            host_truth,
            host_locked_after,
            elapsed,
        })
    }

    fn perform(&mut self, operation: &Operation, expected: &Value) -> Result<Outcome, TargetError> {
        match operation {
            Operation::Allocate { name, size, at } => self.allocate(name.as_deref(), *size, at.as_ref()),
            Operation::Read(range) => {
                let pattern = if let Value::Pattern(pattern) = expected { Some(*pattern) } else { None };
                let range = self.resolve(range)?;
                self.read(range, pattern)
            }
            Operation::Layout(range) => {
                let pages = self.resolve(range)?.pages();
                Ok(match frames::layout(self.target, pages)? {
                    Listing::Rows(spans) => Outcome::Layout(spans),
                    Listing::Code(code) => Outcome::Code(code),
                    Listing::Unexpected(reply) => {
                        return Err(unexpected(Command::Layout { start: pages.start, end: pages.end }, reply));
                    }
                })
            }
            Operation::Host(Question::Locked) => Ok(Outcome::Count(Some(self.locked()?))),
            Operation::Host(Question::Resident(range)) => self.count(range, "residency", WitnessQuery::Resident),
            Operation::Host(Question::Dirty(range)) => self.count(range, "dirtiness", WitnessQuery::Dirty),
            Operation::Host(Question::File(range)) => self.file(range),
            Operation::Exit(code) => {
                let command = Command::Exit { code: *code };
                match self.target.call(&command)? {
                    Reply::Done(KernReturn::Success) => Ok(Outcome::Exit(*code)),
                    reply => Err(unexpected(command, reply)),
                }
            }
            Operation::Crash(crash) => {
                let command = Command::Crash(*crash);
                let reply = self.target.call(&command)?;
                Err(unexpected(command, reply))
            }
            operation => {
                let command = self.command(operation)?;
                match self.target.call(&command)? {
                    Reply::Done(code) => Ok(Outcome::Code(code)),
                    Reply::Mismatch { address, expected, got } if matches!(command, Command::Expect { .. }) => {
                        Ok(Outcome::Mismatch { address, expected, got })
                    }
                    Reply::Violation(reason) if command == Command::Check => Ok(Outcome::Violation(reason)),
                    reply => Err(unexpected(command, reply)),
                }
            }
        }
    }

    /// Returns the one command that carries out an operation whose answer is a return code.
    fn command(&self, operation: &Operation) -> Result<Command, TargetError> {
        let range = |range| self.resolve(range);
        Ok(match operation {
            Operation::Deallocate(place) => {
                let place = range(place)?;
                Command::Deallocate { address: place.start, size: place.size() }
            }
            Operation::Protect { range: place, set_maximum, prot } => {
                let place = range(place)?;
                let (address, size) = (place.start, place.size());
                Command::Protect { address, size, set_maximum: *set_maximum, prot: *prot }
            }
            Operation::Write(place, pattern) => {
                let place = range(place)?;
                Command::Write { address: place.start, size: place.size(), pattern: *pattern }
            }
            Operation::Expect(place, pattern) => {
                let place = range(place)?;
                Command::Expect { address: place.start, size: place.size(), pattern: *pattern }
            }
            Operation::Wire(place, flags) => {
                let Bytes { start, end } = range(place)?;
                Command::Wire { start, end, flags: flags.bits() }
            }
            Operation::Unwire(place, flags) => {
                let Bytes { start, end } = range(place)?;
                Command::Unwire { start, end, flags: flags.bits() }
            }
            Operation::Sync(place, flags) => {
                let place = range(place)?;
                Command::Sync { address: place.start, size: place.size(), flags: flags.bits() }
            }
            Operation::Check => Command::Check,
            Operation::Crash(crash) => Command::Crash(*crash),
            Operation::Exit(code) => Command::Exit { code: *code },
            // Carried out piece by piece, or not in the guest at all, before this is asked.
            Operation::Allocate { .. } | Operation::Read(_) | Operation::Layout(_) | Operation::Host(_) => {
                return Err(TargetError::new(ExitCode::Failure, format!("'{operation}' is no single command")));
            }
        })
    }

    fn resolve(&self, range: &Range) -> Result<Bytes, TargetError> {
        Ok(match range {
            Range::Whole(name) => {
                let (start, size) = self.named(name)?;
                Bytes { start, end: start.wrapping_add(size) }
            }
            Range::Pages { name, start, end } => {
                let (base, _) = self.named(name)?;
                let at = |page: &u64| base.wrapping_add(page.wrapping_mul(PAGE_SIZE));
                Bytes { start: at(start), end: at(end) }
            }
            Range::Length(address, bytes) => {
                let start = self.address(address)?;
                Bytes { start, end: start.wrapping_add(*bytes) }
            }
            Range::Bounds(start, end) => Bytes { start: self.address(start)?, end: self.address(end)? },
        })
    }

    fn address(&self, address: &Address) -> Result<u64, TargetError> {
        let base = address.name.as_ref().map_or(Ok(0), |name| self.named(name).map(|(start, _)| start))?;
        Ok(base.wrapping_add(address.offset))
    }

    fn named(&self, name: &str) -> Result<(u64, u64), TargetError> {
        self.names.get(name).copied().ok_or_else(|| RunError::Unbound { name: name.to_owned() }.into())
    }

    fn allocate(&mut self, name: Option<&str>, size: u64, at: Option<&Address>) -> Result<Outcome, TargetError> {
        let address = at.map(|at| self.address(at)).transpose()?;
        let command = Command::Allocate { address, size };
        match self.target.call(&command)? {
            Reply::Address(address) => {
                if let Some(name) = name {
                    self.names.insert(name.to_owned(), (address, size));
                }
                Ok(Outcome::Address(address))
            }
            Reply::Done(code) if code != KernReturn::Success => Ok(Outcome::Code(code)),
            reply => Err(unexpected(command, reply)),
        }
    }

    /// Reads in as many pieces as it takes; the first that fails gives the result.
    fn read(&mut self, range: Bytes, pattern: Option<Pattern>) -> Result<Outcome, TargetError> {
        let mut sample = Sample::new(pattern);
        loop {
            let size = (range.size() - sample.length()).min(MAX_READ_BYTES);
            let command = Command::Read { address: range.start.wrapping_add(sample.length()), size };
            match self.target.call(&command)? {
                Reply::Bytes(bytes) if bytes.len() as u64 == size => sample.push(&bytes),
                Reply::Done(code) if code != KernReturn::Success => return Ok(Outcome::Code(code)),
                reply => return Err(unexpected(command, reply)),
            }
            if sample.length() == range.size() {
                return Ok(Outcome::Bytes(sample));
            }
        }
    }

    /// Asks the host about the frames behind a range; none has no count.
    fn count(
        &mut self,
        range: &Range,
        question: &'static str,
        query: fn(Vec<FrameRun>) -> WitnessQuery,
    ) -> Result<Outcome, TargetError> {
        let pages = self.resolve(range)?.pages();
        let runs = match frames::frames(self.target, pages)? {
            Listing::Rows(rows) => frames::runs(&rows),
            Listing::Code(code) => return Ok(Outcome::Code(code)),
            Listing::Unexpected(reply) => {
                return Err(unexpected(Command::Frames { start: pages.start, end: pages.end }, reply));
            }
        };
        if runs.is_empty() {
            return Ok(Outcome::Count(None));
        }
        match self.target.witness(query(runs))? {
            WitnessAnswer::Pages(pages) => Ok(Outcome::Count(Some(pages))),
            WitnessAnswer::Unsupported => Ok(Outcome::Unsupported),
            answer => Err(senseless(question, &answer)),
        }
    }

    fn locked(&mut self) -> Result<u64, TargetError> {
        match self.target.witness(WitnessQuery::Locked)? {
            WitnessAnswer::Pages(pages) => Ok(pages),
            answer => Err(senseless("locked pages", &answer)),
        }
    }

    fn file(&mut self, range: &Range) -> Result<Outcome, TargetError> {
        let pages = self.resolve(range)?.pages();
        if pages.len() > MAX_FILE_PAGES {
            return Ok(Outcome::TooMany(MAX_FILE_PAGES));
        }
        let rows = match frames::frames(self.target, pages)? {
            Listing::Rows(rows) => rows,
            Listing::Code(code) => return Ok(Outcome::Code(code)),
            Listing::Unexpected(reply) => {
                return Err(unexpected(Command::Frames { start: pages.start, end: pages.end }, reply));
            }
        };
        let mut shown = Vec::new();
        for page in pages.start..pages.end {
            let row = rows.iter().find(|row| row.pages.contains(page));
            let frame = row.and_then(|row| row.frames.map(|run| run.first + (page - row.pages.start)));
            let Some(frame) = frame else {
                shown.push(Page(None));
                continue;
            };
            match self.target.witness(WitnessQuery::Page(frame))? {
                WitnessAnswer::Page(bytes) => shown.push(Page(Some(bytes))),
                answer => return Err(senseless("a page of the file", &answer)),
            }
        }
        Ok(Outcome::Pages(Pages(shown)))
    }

    /// Asks the host what it sees of an operation's effect.
    fn truth_behind(&mut self, operation: &Operation) -> Result<(Option<String>, Option<u64>), TargetError> {
        Ok(match operation {
            Operation::Wire(..) | Operation::Unwire(..) | Operation::Deallocate(_) => {
                let locked = self.locked()?;
                (Some(format!("{locked} locked")), Some(locked))
            }
            Operation::Sync(..) if !self.durable => (Some("unsupported".to_owned()), None),
            Operation::Write(range, _) | Operation::Sync(range, _) if self.durable => {
                // Bounds that make no sense to the guest make none here either.
                let place = self.resolve(range)?;
                let sensible = place.start < place.end && place.pages().len() <= MAX_TRUTH_PAGES;
                let outcome = if sensible { Some(self.count(range, "dirtiness", WitnessQuery::Dirty)?) } else { None };
                let dirty = outcome.and_then(|outcome| match outcome {
                    Outcome::Count(Some(pages)) => Some(format!("{pages} dirty")),
                    _ => None,
                });
                (dirty, None)
            }
            _ => (None, None),
        })
    }
}

fn senseless(question: &'static str, answer: &WitnessAnswer) -> TargetError {
    let answer = match answer {
        WitnessAnswer::Pages(pages) => format!("{pages} pages"),
        WitnessAnswer::Unsupported => "that it can't tell".to_owned(),
        WitnessAnswer::Page(_) => "the bytes of a page".to_owned(),
    };
    RunError::Answer { question, answer }.into()
}
