//! What an operation came to, and whether that was expected.

use std::fmt;

use wirevm_agent::ProgramEnd;
use wirevm_map::{Errno, KernReturn};

use super::ast::{PageState, PageValue, Span, Value};
use super::print::{Quoted, joined};
use super::sample::{Pages, Sample};

/// Most bytes of text that a result shows; of more, the last.
const MAX_SHOWN_BYTES: usize = 1000;

/// What an operation came to.
pub(super) enum Outcome {
    Code(KernReturn),
    Errno(Errno),
    /// The operation waits for something that nobody is about to do.
    Blocked,
    /// A thread was started.
    Started,
    /// Where a thread has come to, and whether it was expected to have ended.
    Thread {
        has_ended: bool,
        expected: bool,
    },
    Address(u64),
    Number(u64),
    /// Pages; `None` when none of the pages asked about has a frame.
    Count(Option<u64>),
    Unsupported,
    Bytes(Sample),
    Mismatch {
        address: u64,
        expected: u8,
        got: u8,
    },
    Layout(Vec<Span>),
    Pages(Pages),
    States(Vec<PageState>),
    /// What a manager was asked: words with blanks between them.
    Messages(String),
    /// How a program ended.
    Program(ProgramEnd),
    /// Why a program was not started.
    NotStarted(String),
    /// What a program has printed.
    Printed(String),
    /// A broken invariant of the VM system.
    Violation(String),
    /// More pages than one operation shows.
    TooMany(u64),
    Exit(u8),
}

impl Outcome {
    /// Tells whether this is what was expected.
    pub(super) fn meets(&self, expected: &Value) -> bool {
        match (expected, self) {
            (_, Self::Thread { has_ended, expected }) => has_ended == expected,
            (Value::Any, _) => true,
            (Value::Code(code), Self::Code(got)) => code == got,
            (Value::Errno(errno), Self::Errno(got)) => errno == got,
            (Value::Blocked, Self::Blocked) => true,
            (Value::Code(code), _) => *code == KernReturn::Success && self.is_success(),
            (Value::Mismatch, Self::Mismatch { .. }) => true,
            (Value::None, Self::Count(None)) | (Value::Unsupported, Self::Unsupported) => true,
            (Value::None, Self::Layout(spans)) => spans.is_empty(),
            (Value::None, Self::States(states)) => states.is_empty(),
            (Value::None, Self::Messages(text)) => text.split_whitespace().next().is_none(),
            (Value::States(states), Self::States(got)) => states == got,
            (Value::Messages(words), Self::Messages(text)) => text.split_whitespace().eq(words),
            (Value::Number(number), Self::Address(got) | Self::Number(got) | Self::Count(Some(got))) => number == got,
            (Value::Pattern(_), Self::Bytes(sample)) => sample.length() > 0 && sample.difference().is_none(),
            (Value::Layout(spans), Self::Layout(got)) => spans == got,
            (Value::Pages(expected), Self::Pages(got)) => pages_meet(expected, got),
            (Value::Exit(code), Self::Program(ProgramEnd::Exited(got))) => code == got,
            (Value::Fault(part), Self::Program(ProgramEnd::Faulted(text))) => {
                part.as_ref().is_none_or(|part| text.contains(part))
            }
            (Value::Killed, Self::Program(ProgramEnd::Killed)) => true,
            (Value::Text(part), Self::Printed(text)) => text.contains(part),
            (Value::None, Self::Printed(text)) => text.is_empty(),
            _ => false,
        }
    }

    /// Tells whether a result that is no code counts as success.
    const fn is_success(&self) -> bool {
        !matches!(
            self,
            Self::Program(ProgramEnd::Faulted(_) | ProgramEnd::Killed | ProgramEnd::Exited(1..))
                | Self::NotStarted(_)
                | Self::Code(_)
                | Self::Errno(_)
                | Self::Blocked
                | Self::Mismatch { .. }
                | Self::Violation(_)
                | Self::TooMany(_)
        )
    }

    /// Returns the result as a mismatch shows it: with the first byte that differs, where there is one.
    pub(super) fn in_detail(&self) -> String {
        match self {
            Self::Bytes(sample) => sample.difference().map_or_else(
                || self.to_string(),
                |found| {
                    let (offset, expected, got) = (found.offset, found.expected, found.got);
                    format!("{sample}, with {got:#04x} in place of {expected:#04x} at byte {offset}")
                },
            ),
            _ => self.to_string(),
        }
    }
}

/// Returns the end of a text, as much as a result shows.
fn shown(text: &str) -> &str {
    let start = text.len().saturating_sub(MAX_SHOWN_BYTES);
    text.get(text.ceil_char_boundary(start)..).unwrap_or(text)
}

fn pages_meet(expected: &[PageValue], got: &Pages) -> bool {
    let page_meets = |(expected, got): (&PageValue, &Option<Box<[u8; 4096]>>)| match (expected, got) {
        (PageValue::None, None) => true,
        (PageValue::Filled(pattern), Some(bytes)) => (0..).zip(bytes.iter()).all(|(at, byte)| pattern.at(at) == *byte),
        (PageValue::Starts(pattern), Some(bytes)) => bytes.starts_with(pattern.bytes()),
        _ => false,
    };
    // A range without pages is shown as one `none`, like a page without a frame.
    if got.0.is_empty() {
        return expected == [PageValue::None];
    }
    expected.len() == got.0.len() && expected.iter().zip(got.0.iter().map(|page| &page.0)).all(page_meets)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Errno(errno) => write!(f, "{errno}"),
            Self::Blocked => f.write_str("BLOCKED"),
            Self::Started => f.write_str("started"),
            Self::Thread { has_ended: true, .. } => f.write_str("ended"),
            Self::Thread { .. } => f.write_str("blocked"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Count(None) => f.write_str("none"),
            Self::Count(Some(pages)) => write!(f, "{pages}"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::Bytes(sample) => write!(f, "{sample}"),
            Self::Mismatch { address, expected, got } => {
                write!(f, "MISMATCH at {address:#x} ({got:#04x} in place of {expected:#04x})")
            }
            Self::Layout(spans) if spans.is_empty() => f.write_str("none"),
            Self::Layout(spans) => joined(f, spans),
            Self::Pages(pages) => write!(f, "{pages}"),
            Self::States(states) if states.is_empty() => f.write_str("none"),
            Self::States(states) => joined(f, states),
            Self::Messages(text) if text.is_empty() => f.write_str("none"),
            Self::Messages(text) => f.write_str(text),
            Self::Program(ProgramEnd::Exited(code)) => write!(f, "exit {code}"),
            Self::Program(ProgramEnd::Faulted(text)) => write!(f, "fault {}", Quoted(shown(text))),
            Self::Program(ProgramEnd::Killed) => f.write_str("killed"),
            Self::NotStarted(reason) => write!(f, "not started ({reason})"),
            Self::Printed(text) if text.is_empty() => f.write_str("none"),
            Self::Printed(text) => write!(f, "{}", Quoted(shown(text))),
            Self::Violation(reason) => write!(f, "VIOLATION ({reason})"),
            Self::TooMany(most) => write!(f, "more than {most} pages"),
            Self::Exit(code) => write!(f, "exit {code}"),
        }
    }
}
