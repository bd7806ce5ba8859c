//! What stands behind `=>`.

use wirevm_map::{Errno, KernReturn};

use super::place::{PATTERN, pattern};
use super::program::text;
use crate::script::ast::{
    AllocationKind, Expectation, Managing, Operation, PageState, PageValue, Question, Showing, Span, Value,
};
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
    /// Pages' states or a return code.
    States,
    /// What a manager was asked.
    Messages,
    /// How a program ended.
    Program,
    /// What a program has printed.
    Output,
    /// Contents of pages, or that there are none.
    Store,
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
            Operation::Lock(..) | Operation::Mlockall(..) | Operation::Munlockall(_) | Operation::Msync(..) => {
                Results::Posix
            }
            Operation::Expect(..) => Results::Mismatch,
            Operation::Read(_) => Results::Bytes,
            Operation::Show(Showing::Layout | Showing::Entries, _) => Results::Layout,
            Operation::Show(Showing::PageWires, _) | Operation::DirtyRanges(_) => Results::Counts,
            Operation::Show(Showing::PageStates, _) => Results::States,
            Operation::Show(Showing::Mincore, _) => Results::Core,
            Operation::Residents(_) | Operation::WireTotal | Operation::Completions => Results::Total,
            Operation::Host(Question::Locked) | Operation::Stat(_) | Operation::Trim => Results::Locked,
            Operation::Manage { managing: Managing::Messages, .. } => Results::Messages,
            Operation::Host(Question::Store(..)) => Results::Store,
            Operation::Program { .. } => Results::Program,
            Operation::Output(_) => Results::Output,
            Operation::Host(Question::Resident(_) | Question::Dirty(_)) => Results::Count,
            Operation::Host(Question::File(_)) => Results::Pages,
            _ => Results::Code,
        };
        let may_block = !matches!(
            operation,
            Operation::Show(Showing::Layout | Showing::Entries | Showing::PageWires | Showing::PageStates, _)
                | Operation::Residents(_)
                | Operation::WireTotal
                | Operation::Host(_)
                | Operation::FailHost(_)
                | Operation::FailStorage(_)
                | Operation::HoldStorage(_)
                | Operation::DirtyRanges(_)
                | Operation::Stat(_)
                | Operation::Trim
                | Operation::NewManager(_)
                | Operation::KillProgram(_)
                | Operation::Output(_)
                | Operation::Manage { managing: Managing::Messages | Managing::Behave(_), .. }
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
            Results::Store => "contents of pages (a pattern, or hex:0102… for a beginning), 'none' or 'unsupported'",
            Results::States => "states such as [0,2)dirty [2,3)clean [3,4)dirty,precious, or 'none', or a return code",
            Results::Program => "'exit' and a code, 'fault', 'killed' or a return code",
            Results::Output => "a string that the output has in it, or 'none'",
            Results::Messages => "messages such as init data_request[0,1)r data_return[0,2)dirty,kept, or 'none'",
        }
    }

    /// Returns the value that a word stands for.
    fn word(self, word: &str) -> Option<Value> {
        let results = self.results;
        match word {
            "any" => return Some(Value::Any),
            "MISMATCH" if results == Results::Mismatch => return Some(Value::Mismatch),
            "BLOCKED" if self.may_block => return Some(Value::Blocked),
            "none"
                if matches!(
                    results,
                    Results::Count
                        | Results::Layout
                        | Results::Counts
                        | Results::Core
                        | Results::States
                        | Results::Messages
                        | Results::Output
                ) =>
            {
                return Some(Value::None);
            }
            "killed" if results == Results::Program => return Some(Value::Killed),
            "unsupported" if matches!(results, Results::Count | Results::Store) => return Some(Value::Unsupported),
            _ => {}
        }
        let code = KernReturn::from_name(word);
        let errno = Errno::ALL.into_iter().find(|errno| errno.name() == word).map(Value::Errno);
        match results {
            Results::Posix | Results::Heap | Results::Core => {
                errno.or(code.filter(|code| *code == KernReturn::Success).map(Value::Code))
            }
            Results::Total | Results::Counts | Results::Messages | Results::Store | Results::Output => {
                code.filter(|code| *code == KernReturn::Success).map(Value::Code)
            }
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
        (Results::Pages | Results::Store, Some(_)) => pages(cursor, answer),
        (Results::Program, Some(Kind::Word(word))) if word == "exit" => {
            cursor.step();
            let code = cursor.number("an exit code", u8::MAX.into())?;
            Ok(Value::Exit(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        (Results::Program, Some(Kind::Word(word))) if word == "fault" => {
            cursor.step();
            let part = if matches!(cursor.kind(), Some(Kind::Text(_))) { Some(text(cursor)?) } else { None };
            Ok(Value::Fault(part))
        }
        (Results::Output, Some(Kind::Text(_))) => Ok(Value::Text(text(cursor)?)),
        (Results::States, Some(Kind::Mark("["))) => states(cursor),
        (Results::Messages, Some(Kind::Word(_))) => messages(cursor, answer),
        _ => Err(cursor.wanted(answer.describe())),
    }
}

/// Reads `START,END)`, which begins at page `least` or behind.
fn span(cursor: &mut Cursor<'_>, least: u64) -> Result<(u64, u64), Fault> {
    let start = cursor.number("a page number", u64::MAX)?;
    cursor.mark(",")?;
    let end = cursor.number("a page number", u64::MAX)?;
    if end <= start || start < least {
        return Err(cursor.fault("the pages of a layout ascend, and none of its ranges is empty"));
    }
    cursor.mark(")")?;
    Ok((start, end))
}

fn states(cursor: &mut Cursor<'_>) -> Result<Value, Fault> {
    let mut states: Vec<PageState> = Vec::new();
    while cursor.takes_mark("[") {
        let (start, end) = span(cursor, states.last().map_or(0, |last| last.end))?;
        let mut bits = 0;
        if !cursor.takes_word(PageState::CLEAN) {
            loop {
                let bit = cursor.choice(&PageState::WORDS, "a state of pages, or 'clean'")?;
                if bits & bit != 0 {
                    return Err(cursor.fault_behind("the state stands here twice"));
                }
                bits |= bit;
                if !cursor.takes_mark(",") {
                    break;
                }
            }
        }
        states.push(PageState { start, end, bits });
    }
    Ok(Value::States(states))
}

/// What a manager is asked, and whether it is about pages.
const MESSAGES: [(&str, bool); 7] = [
    ("init", false),
    ("data_request", true),
    ("data_unlock", true),
    ("data_return", true),
    ("synchronize", true),
    ("lock_completed", true),
    ("terminate", false),
];

/// What a message says behind its pages: the access that is needed, and what becomes of pages.
const DETAILS: [&str; 10] = ["r", "w", "x", "rw", "rx", "wx", "rwx", "dirty", "precious", "kept"];

/// Reads messages; each becomes one word again.
fn messages(cursor: &mut Cursor<'_>, answer: Answer) -> Result<Value, Fault> {
    let mut messages = Vec::new();
    while let Some(Kind::Word(word)) = cursor.kind() {
        // Behind the first, `if` goes on.
        if !messages.is_empty() && word == "if" {
            break;
        }
        let Some((name, has_pages)) = MESSAGES.iter().find(|(name, _)| name == word) else {
            return Err(cursor.wanted(answer.describe()));
        };
        cursor.step();
        let mut message = (*name).to_owned();
        if *has_pages {
            cursor.mark("[")?;
            let (start, end) = span(cursor, 0)?;
            message += &format!("[{start},{end})");
            message += &details(cursor)?;
        }
        messages.push(message);
    }
    Ok(Value::Messages(messages))
}

/// Reads what stands directly behind the pages of a message: words joined by commas. A word that names a message is the next.
fn details(cursor: &mut Cursor<'_>) -> Result<String, Fault> {
    let mut details = String::new();
    match cursor.kind() {
        Some(Kind::Word(word)) if word != "if" && MESSAGES.iter().all(|(name, _)| name != word) => {}
        _ => return Ok(details),
    }
    let known = DETAILS.map(|word| (word, word));
    loop {
        details += cursor.choice(&known, "what else the message says")?;
        if !cursor.takes_mark(",") {
            return Ok(details);
        }
        details.push(',');
    }
}

fn layout(cursor: &mut Cursor<'_>, with_user: bool) -> Result<Value, Fault> {
    let mut spans: Vec<Span> = Vec::new();
    while cursor.takes_mark("[") {
        let (start, end) = span(cursor, spans.last().map_or(0, |last| last.end))?;
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
