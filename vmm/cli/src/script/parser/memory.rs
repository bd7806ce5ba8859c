//! Operations that make memory.

use wirevm_agent::MAX_OBJECT_PAGES;
use wirevm_map::Prot;

use super::operation::rights;
use super::place::{address, pages};
use crate::script::ast::{Address, Allocation, AllocationKind, Task};
use crate::script::cursor::{Cursor, PAGE_SIZE};
use crate::script::print::MODES;
use crate::script::syntax_error::Fault;

/// Reads what follows a word that makes memory; `None` for any other word. `task` is the one of the name in front of `=`.
pub(super) fn allocation(
    cursor: &mut Cursor<'_>,
    word: &str,
    task: &mut Option<Task>,
) -> Result<Option<Allocation>, Fault> {
    let is_named = task.is_some();
    let size = |cursor: &mut Cursor<'_>| cursor.size(&format!("a size (as in {word} 8 pages, or {word} 64K)"));
    let kind = match word {
        "allocate" => {
            let size = size(cursor)?;
            if cursor.takes_word("large") { AllocationKind::Large { size } } else { AllocationKind::Plain { size } }
        }
        "guard" => AllocationKind::Guard { size: size(cursor)? },
        "stack" => {
            let size = size(cursor)?;
            let initial = if cursor.takes_word("initial") { cursor.size("the size to begin with")? } else { PAGE_SIZE };
            AllocationKind::Stack { size, initial }
        }
        "map" => {
            let object = cursor.object()?;
            let pages = pages(cursor, MAX_OBJECT_PAGES)?;
            let mode = cursor.choice(&MODES, "whose pages they are")?;
            let prot = rights(cursor).unwrap_or(Prot::DEFAULT);
            AllocationKind::Object { object, pages, mode, prot }
        }
        "brk" => AllocationKind::Heap { size: size(cursor)? },
        _ => return Ok(None),
    };
    // A heap has a place of its own.
    let has_place = !matches!(kind, AllocationKind::Heap { .. });
    let at = if has_place && cursor.takes_word("at") { Some(address(cursor, task)?) } else { None };
    if !is_named {
        in_task(cursor, task)?;
    }
    Ok(Some(Allocation { task: task.clone().unwrap_or(None), kind, at }))
}

/// Reads `[at ADDRESS] [in TASK]`, and tells the task that either names.
pub(super) fn place(cursor: &mut Cursor<'_>, task: &mut Option<Task>) -> Result<Option<Address>, Fault> {
    let at = if cursor.takes_word("at") { Some(address(cursor, task)?) } else { None };
    in_task(cursor, task)?;
    Ok(at)
}

/// Reads `[in TASK]`, which must agree with a task that is known already.
fn in_task(cursor: &mut Cursor<'_>, task: &mut Option<Task>) -> Result<(), Fault> {
    if cursor.takes_word("in") {
        let place = cursor.fault("");
        let told = cursor.task()?;
        if task.as_ref().is_some_and(|task| *task != told) {
            return Err(Fault { reason: "the address is of another task".to_owned(), ..place });
        }
        *task = Some(told);
    }
    Ok(())
}
