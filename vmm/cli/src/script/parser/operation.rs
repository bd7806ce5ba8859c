//! Operations.

use wirevm_agent::{Crash, MAX_OBJECT_PAGES};
use wirevm_map::Prot;

use super::place::{pages, pattern, range};
use super::program::range_or_task;
use super::{manage, memory, program, system};
use crate::script::ast::{FlagWord, Flags, Locking, Managing, ObjectChange, Operation, Question, Showing, Task};
use crate::script::cursor::Cursor;
use crate::script::lexer::Kind;
use crate::script::print::{ADVICES, INHERITANCES};
use crate::script::syntax_error::Fault;

const OPERATIONS: &str = "an operation (allocate, guard, stack, map, brk, deallocate, protect, inherit, madvise, write, read, \
                          expect, wire, unwire, sync, mlock, munlock, mlockall, munlockall, vslock, vsunlock, layout, \
                          entries, page-wc, mincore, residents, wire-total, task, fork, end, join, limit, file, anonymous, \
                          object, manager, submap, program, output, msync, page-states, dirty-ranges, completions, stat, trim, gate, \
                          release, fail, heal, kill, truncate, drop, host, check, reset, exit or crash, or what a manager \
                          does, as in m delays)";

/// Reads an operation. `task` is the one of the name in front of `=`, if there is one.
pub(super) fn operation(cursor: &mut Cursor<'_>, task: &mut Option<Task>) -> Result<Operation, Fault> {
    let Some(Kind::Word(word)) = cursor.kind() else {
        return Err(cursor.wanted(OPERATIONS));
    };
    if let Some(kind @ (Kind::Word(_) | Kind::Mark("("))) = cursor.kind_after()
        && let Some(question) = system::thread_question(cursor, kind)?
    {
        return Ok(question);
    }
    if let Some(managing) = manage::managing(cursor)? {
        return Ok(managing);
    }
    let start = cursor.place();
    cursor.step();
    Ok(match word.as_str() {
        "deallocate" => Operation::Deallocate(range(cursor)?),
        "protect" => protect(cursor)?,
        "write" => Operation::Write(range(cursor)?, pattern(cursor)?),
        "read" => Operation::Read(range(cursor)?),
        "expect" => Operation::Expect(range(cursor)?, pattern(cursor)?),
        "wire" => Operation::Wire(range(cursor)?, wire_flags(cursor)?),
        "unwire" => Operation::Unwire(range(cursor)?, wire_flags(cursor)?),
        "sync" => Operation::Sync(range(cursor)?, flags(cursor, &Flags::SYNC)?),
        "msync" => Operation::Msync(range(cursor)?, flags(cursor, &Flags::MSYNC)?),
        "inherit" => Operation::Inherit(range(cursor)?, cursor.choice(&INHERITANCES, "what a fork gives")?),
        "madvise" => Operation::Advise(range(cursor)?, cursor.choice(&ADVICES, "an advice")?),
        "residents" => Operation::Residents(range_or_task(cursor)?),
        "wire-total" => Operation::WireTotal,
        "host" if cursor.takes_word("fail") => system::host_fault(cursor)?,
        "host" if cursor.takes_word("hold") => system::hold(cursor, true)?,
        "host" if cursor.takes_word("release") => system::hold(cursor, false)?,
        "host" => Operation::Host(question(cursor)?),
        "check" => Operation::Check,
        "reset" => system::reset(cursor, start)?,
        "exit" => {
            let code = cursor.number("an exit code", u8::MAX.into())?;
            Operation::Exit(u8::try_from(code).unwrap_or(u8::MAX))
        }
        "crash" => Operation::Crash(crash(cursor)?),
        word => {
            if let Some(locking) = Locking::ALL.into_iter().find(|locking| locking.word() == word) {
                return Ok(Operation::Lock(locking, range(cursor)?));
            }
            if let Some(showing) = Showing::ALL.into_iter().find(|showing| showing.word() == word) {
                // mincore is the task's own call, which takes no gaps.
                let range = if showing == Showing::Mincore { range(cursor)? } else { range_or_task(cursor)? };
                return Ok(Operation::Show(showing, range));
            }
            if let Some(operation) = program::operation(cursor, word)? {
                return Ok(operation);
            }
            if let Some(allocation) = memory::allocation(cursor, word, task)? {
                return Ok(Operation::Allocate(allocation));
            }
            if let Some(operation) = manage::operation(cursor, word)? {
                return Ok(operation);
            }
            match system::operation(cursor, word)? {
                Some(operation) => operation,
                None => {
                    cursor.back_to(start);
                    return Err(cursor.wanted(OPERATIONS));
                }
            }
        }
    })
}

/// Tells why a thread can't do an operation.
pub(super) fn check_threaded(operation: &Operation) -> Result<(), String> {
    let reason = match operation {
        Operation::Allocate(_)
        | Operation::Deallocate(_)
        | Operation::Protect { .. }
        | Operation::Write(..)
        | Operation::Expect(..)
        | Operation::Wire(..)
        | Operation::Unwire(..)
        | Operation::Sync(..)
        | Operation::Msync(..)
        | Operation::Manage { managing: Managing::Request { .. } | Managing::Die | Managing::Answer { .. }, .. }
        | Operation::Inherit(..)
        | Operation::Advise(..)
        | Operation::Lock(..)
        | Operation::Mlockall(..)
        | Operation::Munlockall(_)
        | Operation::Fork(_)
        | Operation::Program { .. }
        | Operation::EndTask(_) => return Ok(()),
        Operation::Object { change: ObjectChange::Truncate(_) | ObjectChange::Kill, .. } => return Ok(()),
        Operation::Read(_) => "a thread can't read: it can 'expect'",
        _ => {
            "a thread can't do this: it changes or uses memory, forks, runs a program, ends a task, truncates or kills an \
             object, or is a manager's request, answer or end"
        }
    };
    Err(reason.to_owned())
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
    let prot = rights(cursor).ok_or_else(|| {
        cursor.wanted("a protection (none, r, w, x, rw, rx, wx or rwx, with 'max' in front for the maximum)")
    })?;
    Ok(Operation::Protect { range, set_maximum, prot })
}

/// Reads a protection if one comes next.
pub(super) fn rights(cursor: &mut Cursor<'_>) -> Option<Prot> {
    let rights = match cursor.kind() {
        Some(Kind::Word(word)) => RIGHTS.into_iter().zip(0..).find_map(|(name, bits)| (name == word).then_some(bits)),
        _ => None,
    };
    let prot = rights.and_then(Prot::from_bits);
    if prot.is_some() {
        cursor.step();
    }
    prot
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
        "store" => {
            let name = manage::store_name(cursor)?;
            let pages =
                pages(cursor, MAX_OBJECT_PAGES)?.ok_or_else(|| cursor.wanted("pages of the store, as in [0,4)"))?;
            Question::Store(name, pages)
        }
        _ => return Err(start),
    })
}

const QUESTIONS: &str = "what the host is asked (locked, resident, dirty, file or store)";

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
pub(super) fn flags(cursor: &mut Cursor<'_>, known: &[FlagWord]) -> Result<Flags, Fault> {
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
