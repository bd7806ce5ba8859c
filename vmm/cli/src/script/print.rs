//! The AST as text in its plainest form, which reads back as the same AST.

use std::fmt;

use wirevm_map::Prot;

use super::ast::{
    Address, Expectation, FlagWord, Flags, Operation, PageValue, Question, Range, Script, Span, Statement, Value,
};

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statements.iter().try_for_each(|statement| writeln!(f, "{statement}"))
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        match &self.expected {
            Some(expected) => write!(f, " => {expected}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)?;
        match &self.otherwise {
            Some(otherwise) => write!(f, " if durable else {otherwise}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocate { name, size, at } => {
                if let Some(name) = name {
                    write!(f, "{name} = ")?;
                }
                write!(f, "allocate {size}")?;
                at.as_ref().map_or(Ok(()), |at| write!(f, " at {at}"))
            }
            Self::Deallocate(range) => write!(f, "deallocate {range}"),
            Self::Protect { range, set_maximum, prot } => {
                write!(f, "protect {range}{}", if *set_maximum { " max" } else { "" })?;
                rights(f, *prot)
            }
            Self::Write(range, pattern) => write!(f, "write {range} {pattern}"),
            Self::Read(range) => write!(f, "read {range}"),
            Self::Expect(range, pattern) => write!(f, "expect {range} {pattern}"),
            Self::Wire(range, flags) => write!(f, "wire {range}{flags}"),
            Self::Unwire(range, flags) => write!(f, "unwire {range}{flags}"),
            Self::Sync(range, flags) => write!(f, "sync {range}{flags}"),
            Self::Layout(range) => write!(f, "layout {range}"),
            Self::Host(Question::Locked) => f.write_str("host locked"),
            Self::Host(Question::Resident(range)) => write!(f, "host resident {range}"),
            Self::Host(Question::Dirty(range)) => write!(f, "host dirty {range}"),
            Self::Host(Question::File(range)) => write!(f, "host file {range}"),
            Self::Check => f.write_str("check"),
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Crash(crash) => write!(f, "crash {}", crash.name()),
        }
    }
}

fn rights(f: &mut fmt::Formatter<'_>, prot: Prot) -> fmt::Result {
    if prot.is_none() {
        return f.write_str(" none");
    }
    let letter = |bit, letter| if prot.contains(bit) { letter } else { "" };
    write!(f, " {}{}{}", letter(Prot::READ, "r"), letter(Prot::WRITE, "w"), letter(Prot::EXECUTE, "x"))
}

/// Shows the flags with a blank in front of each.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| match word {
            FlagWord::Named(name, _) => write!(f, " {name}"),
            FlagWord::Bits(bits) => write!(f, " flags {bits:#x}"),
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(name) => f.write_str(name),
            Self::Pages { name, start, end } => write!(f, "{name}[{start},{end})"),
            Self::Length(address, bytes) => write!(f, "@{address}+{bytes:#x}"),
            Self::Bounds(start, end) => write!(f, "@{start}..{end}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.offset) {
            (Some(name), 0) => f.write_str(name),
            (Some(name), offset) => write!(f, "{name}+{offset:#x}"),
            (None, offset) => write!(f, "{offset:#x}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Code(code) => write!(f, "{code}"),
            Self::Mismatch => f.write_str("MISMATCH"),
            Self::None => f.write_str("none"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Pattern(pattern) => write!(f, "{pattern}"),
            Self::Layout(spans) => joined(f, spans),
            Self::Pages(pages) => joined(f, pages),
        }
    }
}

/// Shows items with a blank between them.
pub(super) fn joined(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(place, item)| {
        f.write_str(if place == 0 { "" } else { " " })?;
        write!(f, "{item}")
    })
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.user_wired { "U" } else { "" };
        write!(f, "[{},{}){}{user}", self.start, self.end, self.wired_count)
    }
}

impl fmt::Display for PageValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Filled(pattern) => write!(f, "{pattern}"),
            Self::Starts(pattern) => write!(f, "{pattern}…"),
        }
    }
}
