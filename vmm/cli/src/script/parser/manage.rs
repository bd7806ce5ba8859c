//! Operations on managers, stores, and what waits for storage.

use wirevm_abi::{StoreName, stat};
use wirevm_agent::MAX_OBJECT_PAGES;
use wirevm_map::{KernReturn, StoreKind};

use super::memory::place;
use super::operation::rights;
use super::place::pages;
use crate::script::ast::{Backing, Managing, Operation, RETURNS};
use crate::script::cursor::{Cursor, PAGE_SIZE};
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;
use crate::script::target::StorageErrno;

/// Words that begin an operation and can all the same be names.
pub(super) const WORDS: [&str; 9] =
    ["completions", "dirty-ranges", "manager", "msync", "object", "page-states", "stat", "submap", "trim"];

/// Reads what a manager is to do, if two words of that kind come next: a task, and what managers do.
pub(super) fn managing(cursor: &mut Cursor<'_>) -> Result<Option<Operation>, Fault> {
    let (Some(Kind::Word(manager)), Some(Kind::Word(verb))) = (cursor.kind(), cursor.kind_after()) else {
        return Ok(None);
    };
    // An older script may have given something a name that is such a word: `wire plain`, or a new operation's: `stat wired`.
    let is_operation = super::is_reserved(manager) || manager.contains('-') || WORDS.contains(&manager.as_str());
    if !Managing::is_verb(verb) || is_operation && !cursor.names().is_task(manager) {
        return Ok(None);
    }
    cursor.names().manager(manager).map_err(|reason| cursor.fault(reason))?;
    cursor.step();
    cursor.step();
    let managing = match verb.as_str() {
        "dies" => Managing::Die,
        "messages" => Managing::Messages,
        "answers" => answer(cursor, manager)?,
        "requests" => request(cursor, manager)?,
        verb => match Managing::BEHAVIOURS.iter().find(|(known, _)| *known == verb) {
            Some((_, behaviour)) => Managing::Behave(*behaviour),
            None => return Ok(None),
        },
    };
    Ok(Some(Operation::Manage { manager: manager.clone(), managing }))
}

/// Reads `[OBJECT] OFFSET LENGTH STATUS`.
fn answer(cursor: &mut Cursor<'_>, manager: &str) -> Result<Managing, Fault> {
    let object = match cursor.kind() {
        Some(Kind::Word(_)) => object_of(cursor, manager)?,
        _ => cursor.names().only_object_of(manager).map_err(|reason| cursor.fault(reason))?,
    };
    let offset = cursor.size("where the range begins (as in 2 pages)")?;
    let length = cursor.size("the length of the range (as in 2 pages)")?;
    let status = match cursor.kind() {
        Some(Kind::Word(word)) => KernReturn::from_name(word),
        _ => None,
    };
    let status = status.ok_or_else(|| cursor.wanted("what became of it (a return code such as SUCCESS)"))?;
    cursor.step();
    Ok(Managing::Answer { object, offset, length, status })
}

/// Reads `OBJECT[PAGES] RETURN [flush] [forbid RIGHTS]`.
fn request(cursor: &mut Cursor<'_>, manager: &str) -> Result<Managing, Fault> {
    let object = object_of(cursor, manager)?;
    let pages = pages(cursor, MAX_OBJECT_PAGES)?;
    let should_return = cursor.choice(&RETURNS, "which pages come back")?;
    let should_flush = cursor.takes_word("flush");
    let mut forbidden = None;
    if cursor.takes_word("forbid") {
        let wanted = "the accesses to forbid (r, w, x, rw, rx, wx or rwx; none to permit all)";
        forbidden = Some(rights(cursor).ok_or_else(|| cursor.wanted(wanted))?);
    }
    Ok(Managing::Request { object, pages, should_return, should_flush, forbidden })
}

fn object_of(cursor: &mut Cursor<'_>, manager: &str) -> Result<String, Fault> {
    let place = cursor.fault("");
    let object = cursor.object()?;
    cursor.names().object_of(manager, &object).map_err(|reason| Fault { reason, ..place })?;
    Ok(object)
}

/// Reads what follows a word that is about managers and storage; `None` for any other word.
pub(super) fn operation(cursor: &mut Cursor<'_>, word: &str) -> Result<Option<Operation>, Fault> {
    Ok(Some(match word {
        "manager" => {
            let name = name(cursor, "a name for the manager")?;
            if !cursor.takes_word("task") {
                return Err(cursor.wanted("'task': a manager is one"));
            }
            Operation::NewManager(name)
        }
        "object" => {
            let name = name(cursor, "a name for the object")?;
            Operation::NewBackedObject { name, backing: backing(cursor)?, pages: object_pages(cursor)? }
        }
        "submap" => {
            let name = name(cursor, "a name for the submap")?;
            let size = cursor.size("a size (as in submap s 16 pages)")?;
            let mut task = None;
            let at = place(cursor, &mut task)?;
            Operation::Submap { name, size, task: task.unwrap_or(None), at }
        }
        "dirty-ranges" => Operation::DirtyRanges(cursor.object()?),
        "completions" => Operation::Completions,
        "stat" => {
            let selector = match cursor.kind() {
                Some(Kind::Word(word)) => stat::from_name(word),
                _ => None,
            };
            let selector =
                selector.ok_or_else(|| cursor.wanted(&format!("a number's name ({})", stat::NAMES.join(", "))))?;
            cursor.step();
            Operation::Stat(selector)
        }
        "trim" => Operation::Trim,
        _ => return Ok(None),
    }))
}

/// Reads a new name behind an operation's word; whether it is free is checked with the whole line.
fn name(cursor: &mut Cursor<'_>, what: &str) -> Result<String, Fault> {
    let Some(Kind::Word(name)) = cursor.kind() else {
        return Err(cursor.wanted(what));
    };
    cursor.step();
    Ok(name.clone())
}

fn backing(cursor: &mut Cursor<'_>) -> Result<Backing, Fault> {
    let kinds = [("store", Some(StoreKind::Store)), ("exclusive", Some(StoreKind::Exclusive)), ("manager", None)];
    match cursor.choice(&kinds, "what is behind the object")? {
        Some(kind) => Ok(Backing::Store(store_name(cursor)?, kind)),
        None => {
            let Some(Kind::Word(manager)) = cursor.kind() else {
                return Err(cursor.wanted("a manager"));
            };
            cursor.names().manager(manager).map_err(|reason| cursor.fault(reason))?;
            cursor.step();
            Ok(Backing::Manager(manager.clone()))
        }
    }
}

/// Reads the name of a store: a word or a string.
pub(super) fn store_name(cursor: &mut Cursor<'_>) -> Result<StoreName, Fault> {
    let text = match cursor.kind() {
        Some(Kind::Word(word)) => word.as_str(),
        Some(Kind::Text(bytes)) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => return Err(cursor.wanted("the name of a store, as a word or as a string")),
    };
    let name = StoreName::new(text).map_err(|error| cursor.fault(error.to_string()))?;
    cursor.step();
    Ok(name)
}

fn object_pages(cursor: &mut Cursor<'_>) -> Result<u64, Fault> {
    let place = cursor.fault("");
    let size = cursor.size("the size of the object (as in 8 pages)")?;
    let pages = size / PAGE_SIZE;
    let reason = match size % PAGE_SIZE {
        _ if pages > MAX_OBJECT_PAGES => format!("an object has at most {MAX_OBJECT_PAGES} pages"),
        0 if pages > 0 => return Ok(pages),
        _ => "the size of an object is a number of whole pages, at least 1".to_owned(),
    };
    Err(Fault { reason, ..place })
}

/// The failures of storage with their names.
pub(super) fn storage_errors() -> [(&'static str, StorageErrno); 3] {
    StorageErrno::ALL.map(|errno| (errno.name(), errno))
}
