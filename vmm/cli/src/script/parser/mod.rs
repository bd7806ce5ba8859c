//! Lines into statements.

mod expectation;
mod operation;
mod place;

use super::ast::{Expectation, Operation, Script, Statement, Value};
use super::cursor::Cursor;
use super::lexer::{self, Kind, Token};
use super::syntax_error::{Fault, SyntaxErrors};
use wirevm_map::KernReturn;

/// Most bytes in a script.
pub const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// Most characters in a line.
pub const MAX_LINE_CHARS: usize = 4096;

/// Words that mean something, so that nothing can be named by them.
const RESERVED: [&str; 34] = [
    "allocate",
    "any",
    "at",
    "check",
    "crash",
    "deallocate",
    "dirty",
    "durable",
    "else",
    "exit",
    "expect",
    "file",
    "flags",
    "hex",
    "host",
    "if",
    "layout",
    "locked",
    "max",
    "none",
    "page",
    "pages",
    "protect",
    "r",
    "read",
    "resident",
    "rw",
    "rwx",
    "rx",
    "sync",
    "unsupported",
    "unwire",
    "wire",
    "write",
];

/// Reads a script.
///
/// # Errors
/// Every line's first error; no statement of a script with an error is carried out.
pub fn parse(script: &[u8]) -> Result<Script, SyntaxErrors> {
    if script.len() > MAX_SCRIPT_BYTES {
        let reason = format!("the script has {} bytes; {MAX_SCRIPT_BYTES} are the most", script.len());
        return Err(SyntaxErrors::one(1, "", Fault { column: 1, width: 1, reason }));
    }
    let mut parser = Parser { script: Script::default(), names: Vec::new(), has_ended: false };
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
    if errors.is_empty() { Ok(parser.script) } else { Err(errors) }
}

fn not_utf8(bytes: &[u8], valid: usize) -> Fault {
    let before = bytes.get(..valid).map_or(0, |bytes| String::from_utf8_lossy(bytes).chars().count());
    let byte = bytes.get(valid).copied().unwrap_or(0);
    Fault { column: before + 1, width: 1, reason: format!("the byte {byte:#04x} is not UTF-8") }
}

struct Parser {
    script: Script,
    /// Names defined so far, also those of lines with an error, which would otherwise cause more errors.
    names: Vec<String>,
    has_ended: bool,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) -> Result<(), Fault> {
        let length = line.chars().count();
        if length > MAX_LINE_CHARS {
            let reason = format!("the line has {length} characters; {MAX_LINE_CHARS} are the most");
            return Err(Fault { column: MAX_LINE_CHARS + 1, width: 1, reason });
        }
        let tokens = lexer::tokens(line)?;
        let Some(first) = tokens.first() else {
            return Ok(());
        };
        if self.has_ended {
            let reason = "nothing can follow an operation that ends the guest".to_owned();
            return Err(Fault { column: first.column, width: first.width, reason });
        }
        let name = defined_name(&tokens);
        let fresh = name.as_ref().is_none_or(|name| !self.names.contains(name));
        // The name counts from the next line on, and even if this line has an error.
        let result = self.statement(number, line, &tokens, fresh);
        self.names.extend(name.filter(|_| fresh));
        self.script.statements.push(result?);
        Ok(())
    }

    fn statement(&mut self, line: usize, text: &str, tokens: &[Token], fresh: bool) -> Result<Statement, Fault> {
        let mut cursor = Cursor::new(tokens, &self.names);
        let name = match defined_name(tokens) {
            None => None,
            Some(name) => {
                check_name(&cursor, &name, fresh)?;
                cursor.step();
                cursor.step();
                Some(name)
            }
        };
        let operation = operation::operation(&mut cursor, name)?;
        let rest = cursor.token();
        let is_named = matches!(operation, Operation::Allocate { name: Some(_), .. });
        let expected = expectation::expectation(&mut cursor, &operation)?;
        if let Some(arrow) = rest
            && is_named
            && expected.as_ref().is_some_and(may_lack_address)
        {
            return Err(Fault { column: arrow.column, width: arrow.width, reason: NAMED_FAILURE.to_owned() });
        }
        if cursor.token().is_some() {
            return Err(cursor.wanted("the end of the line"));
        }
        self.has_ended |= matches!(operation, Operation::Exit(_) | Operation::Crash(_));
        let text = operation_text(text, tokens, rest);
        Ok(Statement { line, text, operation, expected })
    }
}

const NAMED_FAILURE: &str = "an allocation that may fail can't have a name: the name would have no address";

/// Tells whether what is expected of an allocation includes that there is no address.
fn may_lack_address(expected: &Expectation) -> bool {
    let gives_one = |value: &Value| matches!(value, Value::Number(_) | Value::Code(KernReturn::Success));
    !gives_one(&expected.value) || expected.otherwise.as_ref().is_some_and(|value| !gives_one(value))
}

/// Returns the operation as it was written: up to the token `rest`, without a comment.
fn operation_text(line: &str, tokens: &[Token], rest: Option<&Token>) -> String {
    let last = tokens.iter().rfind(|token| rest.is_none_or(|rest| token.column < rest.column));
    let end = last.map_or(0, |token| token.column - 1 + token.width);
    line.chars().take(end).collect::<String>().trim_start().to_owned()
}

/// Returns the name that the line defines: a word in front of `=`.
fn defined_name(tokens: &[Token]) -> Option<String> {
    match tokens {
        [Token { kind: Kind::Word(name), .. }, Token { kind: Kind::Mark("="), .. }, ..] => Some(name.clone()),
        _ => None,
    }
}

fn check_name(cursor: &Cursor<'_>, name: &str, fresh: bool) -> Result<(), Fault> {
    if RESERVED.contains(&name) {
        return Err(cursor.fault(format!("'{name}' is a word of the language and can't be a name")));
    }
    if !fresh {
        return Err(cursor.fault(format!("'{name}' is defined above already; choose another name")));
    }
    Ok(())
}
