//! What stands behind `=>`.

use wirevm_map::KernReturn;

use super::place::{PATTERN, pattern};
use crate::script::ast::{Expectation, Operation, PageValue, Question, Span, Value};
use crate::script::cursor::Cursor;
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;

/// Reads `=> VALUE` or `=> VALUE if durable else VALUE`, if it is there.
pub(super) fn expectation(cursor: &mut Cursor<'_>, operation: &Operation) -> Result<Option<Expectation>, Fault> {
    if !cursor.takes_mark("=>") {
        return Ok(None);
    }
    if matches!(operation, Operation::Exit(_) | Operation::Crash(_)) {
        return Err(cursor.fault("an operation that ends the guest has no result"));
    }
    let first = value(cursor, operation)?;
    let mut otherwise = None;
    if cursor.takes_word("if") {
        if !cursor.takes_word("durable") {
            return Err(cursor.wanted("'durable', the only condition"));
        }
        if !cursor.takes_word("else") {
            return Err(cursor.wanted("'else' and the result where RAM is not durable"));
        }
        otherwise = Some(value(cursor, operation)?);
    }
    Ok(Some(Expectation { value: first, otherwise }))
}

/// What an operation can answer beside a return code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Code,
    Mismatch,
    Number,
    /// A number, `none` or `unsupported`.
    Count,
    Bytes,
    Layout,
    Pages,
}

impl Answer {
    const fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Allocate { .. } | Operation::Host(Question::Locked) => Self::Number,
            Operation::Expect(..) => Self::Mismatch,
            Operation::Read(_) => Self::Bytes,
            Operation::Layout(_) => Self::Layout,
            Operation::Host(Question::Resident(_) | Question::Dirty(_)) => Self::Count,
            Operation::Host(Question::File(_)) => Self::Pages,
            _ => Self::Code,
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Code => "a return code such as SUCCESS or INVALID_ADDRESS",
            Self::Mismatch => "SUCCESS, MISMATCH or another return code",
            Self::Number => "a number or a return code",
            Self::Count => "a number of pages, 'none', 'unsupported' or a return code",
            Self::Bytes => PATTERN,
            Self::Layout => "a layout such as [0,2)0 [2,4)1U, 'none' or a return code",
            Self::Pages => "contents of pages ('none', a pattern, or hex:0102… for a beginning) or a return code",
        }
    }
}

fn value(cursor: &mut Cursor<'_>, operation: &Operation) -> Result<Value, Fault> {
    let answer = Answer::of(operation);
    if let Some(Kind::Word(word)) = cursor.kind() {
        let value = match word.as_str() {
            "any" => Some(Value::Any),
            "MISMATCH" if answer == Answer::Mismatch => Some(Value::Mismatch),
            "none" if matches!(answer, Answer::Count | Answer::Layout) => Some(Value::None),
            "unsupported" if answer == Answer::Count => Some(Value::Unsupported),
            word => KernReturn::from_name(word).map(Value::Code),
        };
        if let Some(value) = value {
            cursor.step();
            return Ok(value);
        }
    }
    match (answer, cursor.kind()) {
        (Answer::Number | Answer::Count, Some(Kind::Number(_))) => {
            Ok(Value::Number(cursor.number("a number", u64::MAX)?))
        }
        (Answer::Bytes, Some(Kind::Number(_) | Kind::Text(_) | Kind::Hex(_))) => Ok(Value::Pattern(pattern(cursor)?)),
        (Answer::Layout, Some(Kind::Mark("["))) => layout(cursor),
        (Answer::Pages, Some(_)) => pages(cursor, answer),
        _ => Err(cursor.wanted(answer.describe())),
    }
}

fn layout(cursor: &mut Cursor<'_>) -> Result<Value, Fault> {
    let mut spans: Vec<Span> = Vec::new();
    while cursor.takes_mark("[") {
        let start = cursor.number("a page number", u64::MAX)?;
        cursor.mark(",")?;
        let end = cursor.number("a page number", u64::MAX)?;
        if end <= start || spans.last().is_some_and(|last| start < last.end) {
            return Err(cursor.fault("the pages of a layout ascend, and none of its ranges is empty"));
        }
        cursor.mark(")")?;
        let (wired_count, user_wired) = wiring(cursor)?;
        spans.push(Span { start, end, wired_count, user_wired });
    }
    Ok(Value::Layout(spans))
}

/// Reads a wired count with or without `U`.
fn wiring(cursor: &mut Cursor<'_>) -> Result<(u64, bool), Fault> {
    let wanted = "a wired count, with U behind it where the user's wiring is among them";
    let Some(Kind::Number(text)) = cursor.kind() else {
        return Err(cursor.wanted(wanted));
    };
    let (digits, user_wired) = text.strip_suffix('U').map_or((text.as_str(), false), |digits| (digits, true));
    let count = digits.parse::<u64>().map_err(|_| cursor.wanted(wanted))?;
    cursor.step();
    Ok((count, user_wired))
}

fn pages(cursor: &mut Cursor<'_>, answer: Answer) -> Result<Value, Fault> {
    let mut pages = Vec::new();
    loop {
        let page = match cursor.kind() {
            Some(Kind::Word(word)) if word == "none" => {
                cursor.step();
                PageValue::None
            }
            Some(Kind::Number(_) | Kind::Text(_) | Kind::Hex(_)) => {
                let bytes = pattern(cursor)?;
                if cursor.takes_mark("…") { PageValue::Starts(bytes) } else { PageValue::Filled(bytes) }
            }
            _ if pages.is_empty() => return Err(cursor.wanted(answer.describe())),
            _ => return Ok(Value::Pages(pages)),
        };
        pages.push(page);
    }
}
