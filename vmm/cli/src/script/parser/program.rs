//! Operations about programs.

use crate::program::Wanted;
use crate::script::ast::{Operation, Place, Range};
use crate::script::cursor::Cursor;
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;

use super::place::range;

/// Reads what follows a word that is about programs; `None` for any other word.
pub(super) fn operation(cursor: &mut Cursor<'_>, word: &str) -> Result<Option<Operation>, Fault> {
    Ok(Some(match word {
        "program" => {
            let Some(Kind::Word(name)) = cursor.kind() else {
                return Err(cursor.wanted("a name for the program's task, as in program p kv 1000"));
            };
            cursor.step();
            Operation::Program { name: name.clone(), wanted: wanted(cursor)? }
        }
        "output" => Operation::Output(program(cursor)?),
        "kill" if matches!(cursor.kind(), Some(Kind::Word(name)) if cursor.names().is_program(name)) => {
            Operation::KillProgram(program(cursor)?)
        }
        _ => return Ok(None),
    }))
}

/// Reads a program and its arguments, up to the end of the line or `=>`.
fn wanted(cursor: &mut Cursor<'_>) -> Result<Wanted, Fault> {
    let place = cursor.fault("");
    if !matches!(cursor.kind(), Some(Kind::Word(_) | Kind::Text(_))) {
        return Err(cursor.wanted("a built-in program, or the path of a file as a string"));
    }
    let name = argument(cursor)?;
    let mut arguments = Vec::new();
    while cursor.kind().is_some_and(|kind| *kind != Kind::Mark("=>")) {
        arguments.push(argument(cursor)?);
    }
    Wanted::new(&name, arguments).map_err(|error| Fault { reason: error.to_string(), ..place })
}

fn argument(cursor: &mut Cursor<'_>) -> Result<String, Fault> {
    let argument = match cursor.kind() {
        Some(Kind::Word(text) | Kind::Number(text)) => text.clone(),
        Some(Kind::Text(_)) => return text(cursor),
        _ => return Err(cursor.wanted("an argument (a word, a number, or a string for anything else)")),
    };
    cursor.step();
    Ok(argument)
}

/// Reads a string that is text.
pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<String, Fault> {
    let Some(Kind::Text(bytes)) = cursor.kind() else {
        return Err(cursor.wanted("a string"));
    };
    let text = String::from_utf8(bytes.clone()).map_err(|_| cursor.fault("the string is not UTF-8"))?;
    cursor.step();
    Ok(text)
}

/// Reads the name of a program's task.
fn program(cursor: &mut Cursor<'_>) -> Result<String, Fault> {
    let Some(Kind::Word(name)) = cursor.kind() else {
        return Err(cursor.wanted("the task of a program"));
    };
    cursor.names().program(name).map_err(|reason| cursor.fault(reason))?;
    cursor.step();
    Ok(name.clone())
}

/// Reads a range, or a task, which stands for all of its map.
pub(super) fn range_or_task(cursor: &mut Cursor<'_>) -> Result<Range, Fault> {
    match (cursor.kind(), cursor.kind_after()) {
        (Some(Kind::Word(_)), Some(Kind::Mark("."))) => range(cursor),
        (Some(Kind::Word(name)), _) if cursor.names().is_task(name) => {
            Ok(Range { task: cursor.task()?, place: Place::All })
        }
        _ => range(cursor),
    }
}
