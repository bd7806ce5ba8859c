//! Lines into statements.

mod expectation;
mod manage;
mod memory;
mod operation;
mod place;
mod program;
mod system;

use std::collections::HashSet;

use wirevm_abi::archive::MAX_ENTRIES;

use super::ast::{Backing, Managing, Operation, Script, Statement, Task};
use super::cursor::Cursor;
use super::lexer::{self, Kind, Token};
use super::names::{Defined, Kind as Made, Names, may_lack_value};
use super::syntax_error::{Fault, SyntaxErrors};
use crate::program::Wanted;

/// Most bytes in a script.
pub const MAX_SCRIPT_BYTES: usize = 8 << 20;
/// Most characters in a line.
pub const MAX_LINE_CHARS: usize = 4096;

/// Words that mean something, so that nothing can be named by them. In alphabetical order.
const RESERVED: [&str; 70] = [
    "allocate",
    "anonymous",
    "any",
    "at",
    "blocked",
    "brk",
    "check",
    "crash",
    "current",
    "deallocate",
    "dirty",
    "drop",
    "durable",
    "else",
    "end",
    "ended",
    "entries",
    "exit",
    "expect",
    "fail",
    "file",
    "flags",
    "fork",
    "future",
    "gate",
    "guard",
    "heal",
    "hex",
    "host",
    "if",
    "in",
    "inherit",
    "join",
    "kill",
    "layout",
    "limit",
    "locked",
    "madvise",
    "main",
    "map",
    "max",
    "mincore",
    "mlock",
    "mlockall",
    "munlock",
    "munlockall",
    "none",
    "onfault",
    "page",
    "pages",
    "protect",
    "r",
    "read",
    "release",
    "reset",
    "resident",
    "residents",
    "rw",
    "rwx",
    "rx",
    "stack",
    "sync",
    "task",
    "truncate",
    "unsupported",
    "unwire",
    "vslock",
    "vsunlock",
    "wire",
    "write",
];

/// Tells whether nothing can be named by a word.
fn is_reserved(word: &str) -> bool {
    RESERVED.binary_search(&word).is_ok()
}

/// Reads a script.
///
/// # Errors
/// Every line's first error; no statement of a script with an error is carried out.
pub fn parse(script: &[u8]) -> Result<Script, SyntaxErrors> {
    if script.len() > MAX_SCRIPT_BYTES {
        let reason = format!("the script has {} bytes; {MAX_SCRIPT_BYTES} are the most", script.len());
        return Err(SyntaxErrors::one(1, "", Fault { column: 1, width: 1, reason }));
    }
    let mut parser =
        Parser { script: Script::default(), names: Names::new(), has_ended: false, programs: HashSet::new() };
    let mut errors = SyntaxErrors::none();
    for (number, bytes) in script.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(bytes);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        let result = match std::str::from_utf8(bytes) {
            Err(error) => Err(not_utf8(bytes, error.valid_up_to())),
            Ok(_) => parser.line(number + 1, line),
        };
        if let Err(fault) = result {
            errors.push(number + 1, line, fault);
        }
    }
    // A line with an error may be the one that joins, and the end of the guest ends its threads.
    if errors.is_empty() && !parser.has_ended {
        for (line, text, fault) in parser.names.take_running() {
            errors.push(line, &text, fault);
        }
    }
    if errors.is_empty() { Ok(parser.script) } else { Err(errors) }
}

fn not_utf8(bytes: &[u8], valid: usize) -> Fault {
    let before = bytes.get(..valid).map_or(0, |bytes| String::from_utf8_lossy(bytes).chars().count());
    let byte = bytes.get(valid).copied().unwrap_or(0);
    Fault { column: before + 1, width: 1, reason: format!("the byte {byte:#04x} is not UTF-8") }
}

struct Parser {
    script: Script,
    /// What is named so far, also by lines with an error, which would otherwise cause more errors.
    names: Names,
    has_ended: bool,
    /// The programs so far.
    programs: HashSet<Wanted>,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) -> Result<(), Fault> {
        // No character is less than a byte.
        if line.len() > MAX_LINE_CHARS {
            let length = line.chars().count();
            if length > MAX_LINE_CHARS {
                let reason = format!("the line has {length} characters; {MAX_LINE_CHARS} are the most");
                return Err(Fault { column: MAX_LINE_CHARS + 1, width: 1, reason });
            }
        }
        let tokens = lexer::tokens(line)?;
        let Some(first) = tokens.first() else {
            return Ok(());
        };
        if self.has_ended {
            let reason = "nothing can follow an operation that ends the guest".to_owned();
            return Err(Fault { column: first.column, width: first.width, reason });
        }
        let defined = defined(&tokens, &self.names);
        let result = self.statement(number, line, &tokens, &defined);
        self.names.note(number, line, &defined, result.as_ref().ok());
        let statement = result?;
        if let Operation::Program { wanted, .. } = &statement.operation
            && self.programs.insert(wanted.clone())
            && self.programs.len() > MAX_ENTRIES
        {
            let reason = format!("the script starts more than {MAX_ENTRIES} programs that differ, which are the most");
            return Err(Fault { column: first.column, width: first.width, reason });
        }
        self.has_ended |= matches!(statement.operation, Operation::Exit(_) | Operation::Crash(_));
        self.script.statements.push(statement);
        Ok(())
    }

    fn statement(&self, line: usize, text: &str, tokens: &[Token], defined: &Defined<'_>) -> Result<Statement, Fault> {
        let mut cursor = Cursor::new(tokens, &self.names);
        if let Some(thread) = defined.thread {
            self.check_name(&cursor, &None, thread)?;
            cursor.step();
            cursor.step();
        }
        let in_front = if cursor.kind_is_name_definition() { self.name_in_front(&mut cursor)? } else { None };
        let place = cursor.fault("");
        let (mut task, name) = in_front.map_or((None, None), |(task, name)| (Some(task), Some(name)));
        let operation = operation::operation(&mut cursor, &mut task)?;
        if let Some(name) = &name {
            if defined.thread == Some(name.as_str()) {
                return Err(Fault { reason: format!("'{name}' is the name of the thread"), ..place });
            }
            self.check_made(&operation, &task, &place)?;
        } else if matches!(operation, Operation::NewObject { .. }) {
            let reason = "a memory object needs a name in front, as in f = file(8)".to_owned();
            return Err(Fault { reason, ..place });
        }
        if let Some((name, of)) = named_behind(&operation) {
            // The name stands behind its word.
            let at = tokens.get(tokens.len().min(usize::from(defined.thread.is_some()) * 2 + 1));
            let place =
                at.map_or(place.clone(), |at| Fault { column: at.column, width: at.width, reason: String::new() });
            let free = self.check_free(&None, name).and_then(|()| of.map_or(Ok(()), |of| self.check_free(&of, name)));
            free.map_err(|reason| Fault { reason, ..place })?;
        }
        if defined.thread.is_some() {
            operation::check_threaded(&operation).map_err(|reason| Fault { reason, ..place })?;
        }
        let rest = cursor.token();
        let is_named =
            name.is_some() || matches!(&operation, Operation::Join(thread) if self.names.makes_something(thread));
        let answer = self.answer(&operation, defined);
        let expected = expectation::expectation(&mut cursor, answer)?;
        if let Some(arrow) = rest
            && is_named
            && expected.as_ref().is_some_and(may_lack_value)
        {
            return Err(Fault { column: arrow.column, width: arrow.width, reason: NAMED_FAILURE.to_owned() });
        }
        if cursor.token().is_some() {
            return Err(cursor.wanted("the end of the line"));
        }
        let text = operation_text(text, tokens, rest);
        Ok(Statement { line, text, thread: defined.thread.map(str::to_owned), name, operation, expected })
    }

    /// Returns what can stand behind `=>`, or why nothing can.
    fn answer(&self, operation: &Operation, defined: &Defined<'_>) -> Result<expectation::Answer, &'static str> {
        if defined.thread.is_some() {
            return Err("a thread that is started has no result yet: 'join' has it");
        }
        match operation {
            Operation::Join(thread) => match self.names.thread(thread) {
                Ok(Some(operation)) => expectation::Answer::of(operation).map(expectation::Answer::joined),
                _ => Ok(expectation::Answer::CODE),
            },
            operation => expectation::Answer::of(operation),
        }
    }

    /// Reads `NAME =` or `TASK.NAME =`.
    fn name_in_front(&self, cursor: &mut Cursor<'_>) -> Result<Option<(Task, String)>, Fault> {
        let task = cursor.task_in_front()?;
        let Some(Kind::Word(name)) = cursor.kind() else {
            return Err(cursor.wanted("a name"));
        };
        let of = task.clone().unwrap_or(None);
        self.check_name(cursor, &of, name)?;
        cursor.step();
        cursor.mark("=")?;
        Ok(Some((of, name.clone())))
    }

    fn check_name(&self, cursor: &Cursor<'_>, task: &Task, name: &str) -> Result<(), Fault> {
        self.check_free(task, name).map_err(|reason| cursor.fault(reason))
    }

    /// Checks that nothing has the name already.
    fn check_free(&self, task: &Task, name: &str) -> Result<(), String> {
        if is_reserved(name) {
            return Err(format!("'{name}' is a word of the language and can't be a name"));
        }
        if name.contains('-') {
            return Err(format!("'{name}' can't be a name: a name has letters, digits and '_'"));
        }
        if self.names.is_taken(task, name) {
            return Err(format!("'{name}' is defined above already; choose another name"));
        }
        Ok(())
    }

    /// Checks that an operation makes something that can have the name in front of it.
    fn check_made(&self, operation: &Operation, task: &Option<Task>, place: &Fault) -> Result<(), Fault> {
        let reason = match operation.makes() {
            None => {
                "expected an operation that makes something to name (allocate, guard, stack, map, brk, file, anonymous or fork)"
            }
            Some(Made::Memory) => return Ok(()),
            Some(_) if *task == Some(None) => return Ok(()),
            Some(_) => "only memory has a name within a task",
        };
        Err(Fault { reason: reason.to_owned(), ..place.clone() })
    }
}

/// Returns the name that stands behind an operation's word, and the task in which its memory has the same, if it has.
fn named_behind(operation: &Operation) -> Option<(&str, Option<Task>)> {
    match operation {
        Operation::NewTask(name)
        | Operation::NewManager(name)
        | Operation::Submap { name, .. }
        | Operation::Program { name, .. } => Some((name, None)),
        Operation::NewBackedObject { name, backing: Backing::Manager(manager), .. } => {
            Some((name, Some(Some(manager.clone()))))
        }
        Operation::NewBackedObject { name, .. } => Some((name, None)),
        _ => None,
    }
}

/// Returns what a line names: a word in front of `:`, a word in front of `=`, and the word behind `task` and its like.
fn defined<'a>(tokens: &'a [Token], names: &Names) -> Defined<'a> {
    let word = |at: usize| match tokens.get(at).map(|token| &token.kind) {
        Some(Kind::Word(word)) => Some(word.as_str()),
        _ => None,
    };
    let is_mark = |at: usize, mark: &str| matches!(tokens.get(at).map(|token| &token.kind), Some(Kind::Mark(found)) if *found == mark);
    let thread = word(0).filter(|_| is_mark(1, ":"));
    let start = if thread.is_some() { 2 } else { 0 };
    let (name, behind) = match word(start) {
        Some(made @ ("task" | "manager" | "submap" | "object" | "program"))
            if word(start + 1).is_some_and(|next| {
                let is_question = matches!(next, "blocked" | "ended");
                !(is_question || names.is_task(made) && Managing::is_verb(next))
            }) =>
        {
            let name = word(start + 1).map(|name| (None, name));
            let kind = if made == "object" { Made::Object } else { Made::Task };
            return Defined { thread, name, kind };
        }
        Some(name) if is_mark(start + 1, "=") => (Some((None, name)), start + 2),
        Some(task) if is_mark(start + 1, ".") && is_mark(start + 3, "=") => {
            (word(start + 2).map(|name| (Some(task), name)), start + 4)
        }
        _ => (None, start),
    };
    let kind = match word(behind) {
        Some("fork") => Made::Task,
        Some("file" | "anonymous") => Made::Object,
        _ => Made::Memory,
    };
    Defined { thread, name, kind }
}

const NAMED_FAILURE: &str = "what may fail can't have a name: the name would stand for nothing";

/// Returns the operation as it was written: up to the token `rest`, without a comment.
fn operation_text(line: &str, tokens: &[Token], rest: Option<&Token>) -> String {
    let last = tokens.iter().rfind(|token| rest.is_none_or(|rest| token.column < rest.column));
    let end = last.map_or(0, |token| token.column - 1 + token.width);
    line.chars().take(end).collect::<String>().trim_start().to_owned()
}
