//! Flags, and what is expected of operations.

use wirevm_agent::{Pattern, page_state};
use wirevm_map::{Errno, KernReturn, LockAllFlags, MsyncFlags, SyncFlags, WireFlags};

/// What is expected of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The result, or the result where guest RAM is durable if `otherwise` is given.
    pub value: Value,
    /// The result where guest RAM is not durable.
    pub otherwise: Option<Value>,
}

/// Flag words of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The words, in the order they were written.
    pub words: Vec<FlagWord>,
}

/// One flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagWord {
    /// A flag with a name.
    Named(&'static str, u32),
    /// Bits by their number, known or not.
    Bits(u32),
}

impl Flags {
    /// The names of wire's flags.
    pub const WIRE: [FlagWord; 5] = [
        FlagWord::Named("user", WireFlags::USER.bits()),
        FlagWord::Named("system", WireFlags::SYSTEM.bits()),
        FlagWord::Named("holesok", WireFlags::HOLESOK.bits()),
        FlagWord::Named("noholes", WireFlags::NOHOLES.bits()),
        FlagWord::Named("write", WireFlags::WRITE.bits()),
    ];

    /// The names of sync's flags.
    pub const SYNC: [FlagWord; 7] = [
        FlagWord::Named("synchronous", SyncFlags::SYNCHRONOUS.bits()),
        FlagWord::Named("asynchronous", SyncFlags::ASYNCHRONOUS.bits()),
        FlagWord::Named("invalidate", SyncFlags::INVALIDATE.bits()),
        FlagWord::Named("killpages", SyncFlags::KILLPAGES.bits()),
        FlagWord::Named("deactivate", SyncFlags::DEACTIVATE.bits()),
        FlagWord::Named("contiguous", SyncFlags::CONTIGUOUS.bits()),
        FlagWord::Named("reusablepages", SyncFlags::REUSABLEPAGES.bits()),
    ];

    /// The names of msync's flags.
    pub const MSYNC: [FlagWord; 3] = [
        FlagWord::Named("async", MsyncFlags::ASYNC.bits()),
        FlagWord::Named("sync", MsyncFlags::SYNC.bits()),
        FlagWord::Named("invalidate", MsyncFlags::INVALIDATE.bits()),
    ];

    /// The names of mlockall's flags.
    pub const LOCK_ALL: [FlagWord; 3] = [
        FlagWord::Named("current", LockAllFlags::CURRENT.bits()),
        FlagWord::Named("future", LockAllFlags::FUTURE.bits()),
        FlagWord::Named("onfault", LockAllFlags::ONFAULT.bits()),
    ];

    /// Returns all bits.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.words.iter().fold(0, |all, word| match *word {
            FlagWord::Named(_, bits) | FlagWord::Bits(bits) => all | u64::from(bits),
        })
    }
}

/// A result that can be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Whatever comes.
    Any,
    /// A return code. Success stands for any result that is no failure.
    Code(KernReturn),
    /// How a POSIX-shaped operation failed.
    Errno(Errno),
    /// The operation waits for something that nobody is about to do.
    Blocked,
    /// Memory that differs.
    Mismatch,
    /// Nothing there.
    None,
    /// The host can't tell.
    Unsupported,
    /// An address or a count.
    Number(u64),
    /// Bytes, repeated.
    Pattern(Pattern),
    /// Counts of pages or entries.
    Layout(Vec<Span>),
    /// Contents of pages.
    Pages(Vec<PageValue>),
    /// States of pages, whose counts are their bits.
    States(Vec<PageState>),
    /// What a manager was asked, a word a message.
    Messages(Vec<String>),
    /// A program ended with that code.
    Exit(u8),
    /// A program did what it must not, and what is said of that has this in it, if there is something.
    Fault(Option<String>),
    /// A program was ended by somebody else.
    Killed,
    /// Text that has this in it.
    Text(String),
}

/// Pages in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    /// First page, from the start of the range asked for.
    pub start: u64,
    /// One past the last page.
    pub end: u64,
    /// [`page_state`] bits.
    pub bits: u64,
}

impl PageState {
    /// The words for the bits, in the order in which they are shown. A page without any is [`PageState::CLEAN`].
    pub const WORDS: [(&str, u64); 4] = [
        ("dirty", page_state::DIRTY),
        ("precious", page_state::PRECIOUS),
        ("cleaning", page_state::CLEANING),
        ("error", page_state::ERROR),
    ];
    /// The word for no bit.
    pub const CLEAN: &str = "clean";
}

/// Pages with the same count, as `layout` and its kin show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First page, from the start of the range asked for.
    pub start: u64,
    /// One past the last page.
    pub end: u64,
    /// The count: of wirings, or what `mincore` tells.
    pub wired_count: u64,
    /// Whether the user's wiring is among them.
    pub user_wired: bool,
}

/// Contents of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageValue {
    /// No frame, so no contents.
    None,
    /// The pattern, repeated over the whole page.
    Filled(Pattern),
    /// These bytes first, then anything.
    Starts(Pattern),
}
