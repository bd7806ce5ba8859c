//! What stands behind `=>`.

use wirevm_map::{Errno, KernReturn};

use super::place::{PATTERN, pattern};
use crate::script::ast::{AllocationKind, Expectation, Operation, PageValue, Question, Showing, Span, Value};
use crate::script::cursor::Cursor;
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;

/// Reads `=> VALUE` or `=> VALUE if durable else VALUE`, if it is there. `answer` says what can be expected, or why
/// nothing can.
pub(super) fn expectation(
    cursor: &mut Cursor<'_>,
    answer: Result<Answer, &'static str>,
) -> Result<Option<Expectation>, Fault> {
    if !cursor.takes_mark("=>") {
        return Ok(None);
    }
    let answer = answer.map_err(|reason| cursor.fault(reason))?;
    let first = value(cursor, answer)?;
    let mut otherwise = None;
    if cursor.takes_word("if") {
        if !cursor.takes_word("durable") {
            return Err(cursor.wanted("'durable', the only condition"));
        }
        if !cursor.takes_word("else") {
            return Err(cursor.wanted("'else' and the result where RAM is not durable"));
        }
        otherwise = Some(value(cursor, answer)?);
    }
    Ok(Some(Expectation { value: first, otherwise }))
}

/// What an operation can answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    results: Results,
    /// It may wait for something that nobody is about to do.
    may_block: bool,
}

/// Results beside `any`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Results {
    /// Return codes.
    Code,
    /// Success and error numbers.
    Posix,
    /// An address or an error number.
    Heap,
    Mismatch,
    /// An address or a return code.
    Address,
    /// A number and nothing else.
    Total,
    /// A number or a return code.
    Locked,
    /// A number, `none` or `unsupported`.
    Count,
    Bytes,
    Layout,
    /// Counts of pages, without user bits.
    Counts,
    /// Counts of pages or an error number.
    Core,
    Pages,
}

impl Answer {
    /// Answers by a return code, without ever waiting.
    pub(super) const CODE: Self = Self { results: Results::Code, may_block: false };

    /// Returns what can be expected of an operation.
    ///
    /// # Errors
    /// Why nothing can.
    pub(super) const fn of(operation: &Operation) -> Result<Self, &'static str> {
        let results = match operation {
            Operation::Exit(_) | Operation::Crash(_) => return Err("an operation that ends the guest has no result"),
            Operation::Thread { .. } => return Err("the line itself says what is expected"),
            Operation::Allocate(allocation) => match allocation.kind {
                AllocationKind::Heap { .. } => Results::Heap,
                _ => Results::Address,
            },
            Operation::Lock(..) | Operation::Mlockall(..) | Operation::Munlockall(_) => Results::Posix,
            Operation::Expect(..) => Results::Mismatch,
            Operation::Read(_) => Results::Bytes,
            Operation::Show(Showing::Layout | Showing::Entries, _) => Results::Layout,
            Operation::Show(Showing::PageWires, _) => Results::Counts,
            Operation::Show(Showing::Mincore, _) => Results::Core,
            Operation::Residents(_) | Operation::WireTotal => Results::Total,
            Operation::Host(Question::Locked) => Results::Locked,
            Operation::Host(Question::Resident(_) | Question::Dirty(_)) => Results::Count,
            Operation::Host(Question::File(_)) => Results::Pages,
            _ => Results::Code,
        };
        let may_block = !matches!(
            operation,
            Operation::Show(Showing::Layout | Showing::Entries | Showing::PageWires, _)
                | Operation::Residents(_)
                | Operation::WireTotal
                | Operation::Host(_)
                | Operation::FailHost(_)
                | Operation::Check
                | Operation::Reset
                | Operation::NewTask(_)
                | Operation::NewObject { .. }
                | Operation::Limit(_)
        );
        Ok(Self { results, may_block })
    }

    /// Returns what can be expected of a thread's operation where the thread is joined: it has ended by then.
    pub(super) const fn joined(self) -> Self {
        Self { may_block: false, ..self }
    }

    const fn describe(self) -> &'static str {
        match self.results {
            Results::Code => "a return code such as SUCCESS or INVALID_ADDRESS",
            Results::Posix => "SUCCESS or an error such as ENOMEM",
            Results::Heap => "an address, SUCCESS or an error such as ENOMEM",
            Results::Mismatch => "SUCCESS, MISMATCH or another return code",
            Results::Address | Results::Locked => "a number or a return code",
            Results::Total => "a number",
            Results::Count => "a number of pages, 'none', 'unsupported' or a return code",
            Results::Bytes => PATTERN,
            Results::Layout => "a layout such as [0,2)0 [2,4)1U, 'none' or a return code",
            Results::Counts => "counts such as [0,2)0 [2,4)1, or 'none'",
            Results::Core => "what mincore tells, such as [0,2)1 [2,3)3 [3,8)0, or 'none', or an error such as ENOMEM",
            Results::Pages => "contents of pages ('none', a pattern, or hex:0102… for a beginning) or a return code",
        }
    }

    /// Returns the value that a word stands for.
    fn word(self, word: &str) -> Option<Value> {
        let results = self.results;
        match word {
            "any" => return Some(Value::Any),
            "MISMATCH" if results == Results::Mismatch => return Some(Value::Mismatch),
            "BLOCKED" if self.may_block => return Some(Value::Blocked),
            "none" if matches!(results, Results::Count | Results::Layout | Results::Counts | Results::Core) => {
                return Some(Value::None);
            }
            "unsupported" if results == Results::Count => return Some(Value::Unsupported),
            _ => {}
        }
        let code = KernReturn::from_name(word);
        let errno = Errno::ALL.into_iter().find(|errno| errno.name() == word).map(Value::Errno);
        match results {
            Results::Posix | Results::Heap | Results::Core => {
                errno.or(code.filter(|code| *code == KernReturn::Success).map(Value::Code))
            }
            Results::Total | Results::Counts => code.filter(|code| *code == KernReturn::Success).map(Value::Code),
            _ => code.map(Value::Code),
        }
    }
}

fn value(cursor: &mut Cursor<'_>, answer: Answer) -> Result<Value, Fault> {
    if let Some(Kind::Word(word)) = cursor.kind()
        && let Some(value) = answer.word(word)
    {
        cursor.step();
        return Ok(value);
    }
    match (answer.results, cursor.kind()) {
        (
            Results::Address | Results::Heap | Results::Total | Results::Locked | Results::Count,
            Some(Kind::Number(_)),
        ) => Ok(Value::Number(cursor.number("a number", u64::MAX)?)),
        (Results::Bytes, Some(Kind::Number(_) | Kind::Text(_) | Kind::Hex(_))) => Ok(Value::Pattern(pattern(cursor)?)),
        (Results::Layout | Results::Counts | Results::Core, Some(Kind::Mark("["))) => {
            layout(cursor, answer.results == Results::Layout)
        }
        (Results::Pages, Some(_)) => pages(cursor, answer),
        _ => Err(cursor.wanted(answer.describe())),
    }
}

fn layout(cursor: &mut Cursor<'_>, with_user: bool) -> Result<Value, Fault> {
    let mut spans: Vec<Span> = Vec::new();
    while cursor.takes_mark("[") {
        let start = cursor.number("a page number", u64::MAX)?;
        cursor.mark(",")?;
        let end = cursor.number("a page number", u64::MAX)?;
        if end <= start || spans.last().is_some_and(|last| start < last.end) {
            return Err(cursor.fault("the pages of a layout ascend, and none of its ranges is empty"));
        }
        cursor.mark(")")?;
        let (wired_count, user_wired) = count(cursor, with_user)?;
        spans.push(Span { start, end, wired_count, user_wired });
    }
    Ok(Value::Layout(spans))
}

/// Reads a count, with or without `U` where that can be.
fn count(cursor: &mut Cursor<'_>, with_user: bool) -> Result<(u64, bool), Fault> {
    let wanted = match with_user {
        true => "a wired count, with U behind it where the user's wiring is among them",
        false => "a count",
    };
    let Some(Kind::Number(text)) = cursor.kind() else {
        return Err(cursor.wanted(wanted));
    };
    let digits = if with_user { text.strip_suffix('U') } else { None };
    let (digits, user_wired) = digits.map_or((text.as_str(), false), |digits| (digits, true));
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
