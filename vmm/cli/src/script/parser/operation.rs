//! Operations.

use wirevm_agent::Crash;
use wirevm_map::Prot;

use super::place::{address, pattern, range};
use crate::script::ast::{FlagWord, Flags, Operation, Question};
use crate::script::cursor::Cursor;
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;

const OPERATIONS: &str = "an operation (allocate, deallocate, protect, write, read, expect, wire, unwire, sync, layout, \
                          host, check, exit or crash)";

/// Reads an operation; `name` is what stands in front of `=`.
pub(super) fn operation(cursor: &mut Cursor<'_>, name: Option<String>) -> Result<Operation, Fault> {
    let Some(Kind::Word(word)) = cursor.kind() else {
        return Err(cursor.wanted(OPERATIONS));
    };
    if name.is_some() && word != "allocate" {
        return Err(cursor.wanted("'allocate', the only operation that has something to name"));
    }
    let start = cursor.wanted(OPERATIONS);
    cursor.step();
    Ok(match word.as_str() {
        "allocate" => {
            let size = cursor.size("a size (as in allocate 8 pages, or allocate 64K)")?;
            let at = if cursor.takes_word("at") { Some(address(cursor)?) } else { None };
            Operation::Allocate { name, size, at }
        }
        "deallocate" => Operation::Deallocate(range(cursor)?),
        "protect" => protect(cursor)?,
        "write" => Operation::Write(range(cursor)?, pattern(cursor)?),
        "read" => Operation::Read(range(cursor)?),
        "expect" => Operation::Expect(range(cursor)?, pattern(cursor)?),
        "wire" => Operation::Wire(range(cursor)?, wire_flags(cursor)?),
        "unwire" => Operation::Unwire(range(cursor)?, wire_flags(cursor)?),
        "sync" => Operation::Sync(range(cursor)?, flags(cursor, &Flags::SYNC)?),
        "layout" => Operation::Layout(range(cursor)?),
        "host" => Operation::Host(question(cursor)?),
        "check" => Operation::Check,
        "exit" => {
            let code = cursor.number("an exit code", u8::MAX.into())?;
            Operation::Exit(u8::try_from(code).unwrap_or(u8::MAX))
        }
        "crash" => Operation::Crash(crash(cursor)?),
        _ => return Err(start),
    })
}

fn crash(cursor: &mut Cursor<'_>) -> Result<Crash, Fault> {
    let way = match cursor.kind() {
        Some(Kind::Word(word)) => Crash::from_name(word),
        _ => None,
    };
    let way = way.ok_or_else(|| cursor.wanted("a way to crash (panic, trap, triplefault or hang)"))?;
    cursor.step();
    Ok(way)
}

fn protect(cursor: &mut Cursor<'_>) -> Result<Operation, Fault> {
    let range = range(cursor)?;
    let set_maximum = cursor.takes_word("max");
    let rights = match cursor.kind() {
        Some(Kind::Word(word)) => RIGHTS.into_iter().zip(0..).find_map(|(name, bits)| (name == word).then_some(bits)),
        _ => None,
    };
    let Some(prot) = rights.and_then(Prot::from_bits) else {
        return Err(
            cursor.wanted("a protection (none, r, w, x, rw, rx, wx or rwx, with 'max' in front for the maximum)")
        );
    };
    cursor.step();
    Ok(Operation::Protect { range, set_maximum, prot })
}

/// The protections by their bits.
const RIGHTS: [&str; 8] = ["none", "r", "w", "rw", "x", "rx", "wx", "rwx"];

fn question(cursor: &mut Cursor<'_>) -> Result<Question, Fault> {
    let Some(Kind::Word(word)) = cursor.kind() else {
        return Err(cursor.wanted(QUESTIONS));
    };
    let start = cursor.wanted(QUESTIONS);
    cursor.step();
    Ok(match word.as_str() {
        "locked" => Question::Locked,
        "resident" => Question::Resident(range(cursor)?),
        "dirty" => Question::Dirty(range(cursor)?),
        "file" => Question::File(range(cursor)?),
        _ => return Err(start),
    })
}

const QUESTIONS: &str = "what the host is asked (locked, resident, dirty or file)";

fn wire_flags(cursor: &mut Cursor<'_>) -> Result<Flags, Fault> {
    let start = cursor.fault("");
    let flags = flags(cursor, &Flags::WIRE)?;
    let has = |name: &str| flags.words.iter().any(|word| matches!(word, FlagWord::Named(found, _) if *found == name));
    for [one, other] in [["user", "system"], ["holesok", "noholes"]] {
        if has(one) && has(other) {
            return Err(Fault { reason: format!("'{one}' and '{other}' contradict each other"), ..start });
        }
    }
    Ok(flags)
}

/// Reads flag words up to the end of the line or `=>`.
fn flags(cursor: &mut Cursor<'_>, known: &[FlagWord]) -> Result<Flags, Fault> {
    let mut words = Vec::new();
    while let Some(Kind::Word(word)) = cursor.kind() {
        if word == "flags" {
            cursor.step();
            let bits = cursor.number("a flag word", u32::MAX.into())?;
            words.push(FlagWord::Bits(u32::try_from(bits).unwrap_or(u32::MAX)));
            continue;
        }
        let flag = known.iter().find(|flag| matches!(flag, FlagWord::Named(name, _) if name == word));
        let Some(flag) = flag else {
            return Err(cursor.wanted(&format!("a flag ({}, or 'flags' and a number)", names(known))));
        };
        if words.contains(flag) {
            return Err(cursor.fault(format!("'{word}' stands here twice")));
        }
        words.push(*flag);
        cursor.step();
    }
    Ok(Flags { words })
}

fn names(known: &[FlagWord]) -> String {
    let names = known.iter().filter_map(|flag| match flag {
        FlagWord::Named(name, _) => Some(*name),
        FlagWord::Bits(_) => None,
    });
    names.collect::<Vec<_>>().join(", ")
}
