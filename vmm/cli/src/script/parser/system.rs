//! Operations on tasks, threads, limits, memory objects and the host.

use std::num::NonZero;

use wirevm_agent::{MAX_OBJECT_PAGES, ObjectKind};
use wirevm_map::PagerFault;

use super::manage::storage_errors;
use super::operation::flags;
use crate::script::ast::{Flags, Limit, ObjectChange, Operation, Task};
use crate::script::cursor::{Cursor, PAGE_SIZE};
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;
use crate::script::target::{HostErrno, HostFault, StorageFault};

/// Reads `THREAD blocked` or `THREAD ended`, given what follows the first word; `None` for anything else.
pub(super) fn thread_question(cursor: &mut Cursor<'_>, second: &Kind) -> Result<Option<Operation>, Fault> {
    let has_ended = match second {
        Kind::Word(word) if word == "blocked" => false,
        Kind::Word(word) if word == "ended" => true,
        _ => return Ok(None),
    };
    let thread = cursor.thread()?;
    cursor.step();
    Ok(Some(Operation::Thread { thread, has_ended }))
}

/// Reads what follows a word that is about the system; `None` for any other word.
pub(super) fn operation(cursor: &mut Cursor<'_>, word: &str) -> Result<Option<Operation>, Fault> {
    Ok(Some(match word {
        "task" => {
            let Some(Kind::Word(name)) = cursor.kind() else {
                return Err(cursor.wanted("a name for the task"));
            };
            cursor.step();
            Operation::NewTask(name.clone())
        }
        "fork" => Operation::Fork(cursor.optional_task()?),
        "end" => {
            let place = cursor.fault("'main' can't end: 'exit' ends the guest");
            Operation::EndTask(cursor.task()?.ok_or(place)?)
        }
        "join" => Operation::Join(cursor.thread()?),
        "mlockall" => {
            let task = lockall_task(cursor)?;
            Operation::Mlockall(task, flags(cursor, &Flags::LOCK_ALL)?)
        }
        "munlockall" => Operation::Munlockall(cursor.optional_task()?),
        "limit" => Operation::Limit(limit(cursor)?),
        "file" => {
            let pages = object_size(cursor)?;
            let readahead = if cursor.takes_word("readahead") { object_page(cursor, "a number of pages")? } else { 1 };
            if readahead == 0 {
                return Err(cursor.fault_behind("a pager supplies at least 1 page"));
            }
            Operation::NewObject { kind: ObjectKind::File { readahead }, pages }
        }
        "anonymous" => Operation::NewObject { kind: ObjectKind::Anonymous, pages: object_size(cursor)? },
        word => match object_change(cursor, word)? {
            Some(operation) => operation,
            None => return Ok(None),
        },
    }))
}

/// Reads the task in front of flags.
fn lockall_task(cursor: &mut Cursor<'_>) -> Result<Task, Fault> {
    match cursor.kind() {
        Some(Kind::Word(word)) if cursor.names().is_task(word) => cursor.task(),
        _ => Ok(None),
    }
}

fn limit(cursor: &mut Cursor<'_>) -> Result<Limit, Fault> {
    let which = [("memlock", 0), ("privileged", 1), ("unprivileged", 2), ("wire", 3)];
    let pages = |cursor: &mut Cursor<'_>| Ok(cursor.size("a size (as in 8 pages)")? / PAGE_SIZE);
    Ok(match cursor.choice(&which, "a limit")? {
        0 => {
            let task = cursor.optional_task()?;
            Limit::Memlock(task, pages(cursor)?)
        }
        1 => Limit::Privilege(cursor.optional_task()?, true),
        2 => Limit::Privilege(cursor.optional_task()?, false),
        _ => Limit::Wire(pages(cursor)?),
    })
}

/// Reads `(PAGES)`.
fn object_size(cursor: &mut Cursor<'_>) -> Result<u64, Fault> {
    cursor.mark("(")?;
    let pages = object_page(cursor, "a number of pages")?;
    cursor.mark(")")?;
    Ok(pages)
}

fn object_page(cursor: &mut Cursor<'_>, what: &str) -> Result<u64, Fault> {
    cursor.number(what, MAX_OBJECT_PAGES)
}

fn object_change(cursor: &mut Cursor<'_>, word: &str) -> Result<Option<Operation>, Fault> {
    const PAGE: &str = "a page number";
    if !["gate", "release", "fail", "heal", "kill", "truncate", "drop"].contains(&word) {
        return Ok(None);
    }
    let place = cursor.fault("");
    let object = cursor.object()?;
    let fits = match word {
        "gate" | "release" => cursor.names().paged_object(&object),
        "fail" | "heal" => cursor.names().object_that_fails(&object),
        _ => Ok(()),
    };
    fits.map_err(|reason| Fault { reason, ..place })?;
    let change = match word {
        "gate" => ObjectChange::Gate(object_page(cursor, PAGE)?),
        "release" => ObjectChange::Release(object_page(cursor, PAGE)?),
        "fail" => {
            let page = object_page(cursor, PAGE)?;
            let faults = [("io", PagerFault::Io), ("refused", PagerFault::Refused)];
            ObjectChange::Fail(page, cursor.choice(&faults, "how the pager fails")?)
        }
        "heal" => ObjectChange::Heal(object_page(cursor, PAGE)?),
        "kill" => ObjectChange::Kill,
        "truncate" => ObjectChange::Truncate(object_page(cursor, "a number of pages")?),
        _ => ObjectChange::Drop,
    };
    Ok(Some(Operation::Object { object, change }))
}

/// Reads what follows `host fail`.
pub(super) fn host_fault(cursor: &mut Cursor<'_>) -> Result<Operation, Fault> {
    let is_sync = cursor.choice(&[("mlock", false), ("sync", true)], "what the host can be made to fail at")?;
    if !cursor.takes_word("nth") {
        return Err(cursor.wanted("'nth' and a number from 1"));
    }
    let nth = NonZero::new(cursor.number("a number from 1", u64::MAX)?);
    let nth = nth.ok_or_else(|| cursor.fault_behind("calls are counted from 1"))?;
    if is_sync {
        let errno = cursor.choice(&storage_errors(), "an error of storage")?;
        return Ok(Operation::FailStorage(StorageFault { nth, errno }));
    }
    let errno = cursor.choice(&HostErrno::ALL.map(|errno| (errno.name(), errno)), "an error")?;
    Ok(Operation::FailHost(HostFault { nth, errno }))
}

/// Reads what follows `host hold` and `host release`.
pub(super) fn hold(cursor: &mut Cursor<'_>, hold: bool) -> Result<Operation, Fault> {
    if cursor.takes_word("sync") {
        return Ok(Operation::HoldStorage(hold));
    }
    Err(cursor.wanted("'sync': what storage is asked for is all that can be held"))
}

/// Checks that no thread is left for a reset to meet.
pub(super) fn reset(cursor: &mut Cursor<'_>, start: usize) -> Result<Operation, Fault> {
    match cursor.names().first_running() {
        None => Ok(Operation::Reset),
        Some((thread, line)) => {
            let reason =
                format!("the thread '{thread}' of line {line} is not joined: 'join {thread}' takes its result");
            cursor.back_to(start);
            Err(cursor.fault(reason))
        }
    }
}
