//! Kinds of things that commands name.

/// What a memory object's pages hold before anybody writes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Zeros.
    Anonymous,
    /// A file: page i is filled with the byte 0x10 + i, modulo 256.
    File {
        /// Pages that the pager supplies at once, at least 1.
        readahead: u64,
    },
}

/// How a task that is a manager behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers nothing until it is prompt again.
    Delays,
    /// It answers at once, as from the start.
    Prompt,
    /// It keeps no copy of what it supplies: pages are precious.
    Precious,
    /// It keeps copies, as from the start.
    Plain,
    /// It wants to be asked before a page that is clean is written.
    TrapsWrites,
    /// It does not, as from the start.
    AllowsWrites,
}

impl Behaviour {
    /// All of them, in the order of their numbers from 0 on.
    pub const ALL: [Self; 6] =
        [Self::Delays, Self::Prompt, Self::Precious, Self::Plain, Self::TrapsWrites, Self::AllowsWrites];
}

/// Bits of the counts that answer [`Command::PageStates`](super::Command::PageStates); a resident page without any is clean.
pub mod page_state {
    /// Its manager, or stable storage, may have something else.
    pub const DIRTY: u64 = 1;
    /// Its manager has no copy.
    pub const PRECIOUS: u64 = 2;
    /// It is being written.
    pub const CLEANING: u64 = 4;
    /// It is in error: its manager could not supply it. Nothing is resident.
    pub const ERROR: u64 = 8;
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Most pages that the task may have user-wired by locking calls.
    Memlock {
        /// How many.
        pages: u64,
    },
    /// Whether the task may lock at all.
    Privilege {
        /// It may.
        may_lock: bool,
    },
    /// Most pages that all tasks together may have user-wired.
    Global {
        /// How many.
        pages: u64,
    },
}

/// Ways for a guest to end that no guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The kernel panics.
    Panic,
    /// The kernel touches memory that is not there.
    Trap,
    /// The processor gives up.
    TripleFault,
    /// The kernel hangs.
    Hang,
}

impl Crash {
    /// All of them, in the order of their numbers from 0 on.
    pub const ALL: [Self; 4] = [Self::Panic, Self::Trap, Self::TripleFault, Self::Hang];

    /// Returns the way of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|crash| crash.name() == name)
    }

    /// Returns the name that scripts use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Trap => "trap",
            Self::TripleFault => "triplefault",
            Self::Hang => "hang",
        }
    }
}
