//! What a script says, free of how it was written.

use wirevm_agent::{Crash, Pattern};
use wirevm_map::{KernReturn, Prot, SyncFlags, WireFlags};

/// A script whose every line makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The statements, in order.
    pub statements: Vec<Statement>,
}

/// One operation and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its line in the script, from 1.
    pub line: usize,
    /// The operation as it was written, without expectation and comment.
    pub text: String,
    /// The operation.
    pub operation: Operation,
    /// What is expected; `None` where nothing was written, which means success.
    pub expected: Option<Expectation>,
}

/// What is expected of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The result, or the result where guest RAM is durable if `otherwise` is given.
    pub value: Value,
    /// The result where guest RAM is not durable.
    pub otherwise: Option<Value>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Allocates memory and names it.
    Allocate {
        /// The name.
        name: Option<String>,
        /// Bytes.
        size: u64,
        /// Where; anywhere if `None`.
        at: Option<Address>,
    },
    /// Gives memory back.
    Deallocate(Range),
    /// Changes the protection, or the maximum protection.
    Protect {
        /// The range.
        range: Range,
        /// Lower the maximum instead.
        set_maximum: bool,
        /// The protection.
        prot: Prot,
    },
    /// Stores a pattern.
    Write(Range, Pattern),
    /// Shows memory.
    Read(Range),
    /// Compares memory with a pattern, in the guest.
    Expect(Range, Pattern),
    /// `vm_map_wire`.
    Wire(Range, Flags),
    /// `vm_map_unwire`.
    Unwire(Range, Flags),
    /// `vm_msync`.
    Sync(Range, Flags),
    /// Shows the map's entries.
    Layout(Range),
    /// Asks the host.
    Host(Question),
    /// Checks the VM system's invariants.
    Check,
    /// Ends the guest.
    Exit(u8),
    /// Ends the guest the hard way.
    Crash(Crash),
}

/// What the host is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// How many pages of RAM are locked.
    Locked,
    /// How many pages of the range are in memory.
    Resident(Range),
    /// How many pages of the range differ from stable storage.
    Dirty(Range),
    /// What the file holds for each page.
    File(Range),
}

/// A range of guest addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of what a name names.
    Whole(String),
    /// Pages of what a name names: from `start` to before `end`, which may be lower or beyond.
    Pages {
        /// The name.
        name: String,
        /// First page.
        start: u64,
        /// One past the last page.
        end: u64,
    },
    /// Bytes from an address on.
    Length(Address, u64),
    /// Bytes from an address to before another, which may be lower.
    Bounds(Address, Address),
}

/// An address: what a name names, or 0, and bytes to be added, modulo 2^64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name; `None` for a plain number.
    pub name: Option<String>,
    /// Bytes.
    pub offset: u64,
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
    /// Entries of a map.
    Layout(Vec<Span>),
    /// Contents of pages.
    Pages(Vec<PageValue>),
}

/// Pages of a map with the same wiring, as `layout` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First page, from the start of the range asked for.
    pub start: u64,
    /// One past the last page.
    pub end: u64,
    /// Wired count.
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
