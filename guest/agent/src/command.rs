//! What the host asks.

mod words;

#[cfg(test)]
mod test;

use wirevm_map::{Advice, Inheritance, MapMode, PagerFault, Prot};

use crate::pattern::Pattern;

/// Most bytes that one [`Command::Read`] returns.
pub const MAX_READ_BYTES: u64 = 4096;

/// Most pages of a memory object, and highest number of a page of one.
pub const MAX_OBJECT_PAGES: u64 = 1 << 40;

/// The task that every guest starts with.
pub const MAIN_TASK: u64 = 0;

/// A command, the task that it is about, and the thread that carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The task: [`MAIN_TASK`], or one that a `Number` named. Commands that are about no task ignore it.
    pub task: u64,
    /// 0 carries the command out before anything else is taken; any other number, not in use, starts a thread of that
    /// number with it, which is answered by `Started`.
    pub thread: u64,
    /// What to do.
    pub command: Command,
}

impl Request {
    /// Returns the request for a command of a task that is carried out at once.
    #[must_use]
    pub const fn new(task: u64, command: Command) -> Self {
        Self { task, thread: 0, command }
    }
}

/// An operation on a guest's task. Addresses and sizes are in bytes; flags carry the numbers of the
/// operation's own flag type, unknown bits included, because how those are answered is the map's business.
///
/// Any operation that waits for something which nobody is about to do is answered by `Blocked`, and goes on when it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Allocates zero-filled memory: anywhere, or at `address`. Answered by `Address`.
    Allocate {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much.
        size: u64,
    },
    /// Gives a range back. Answered by `Done`.
    Deallocate {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// Sets the protection, or the maximum protection. Answered by `Done`.
    Protect {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// Lower the maximum instead of setting the current protection.
        set_maximum: bool,
        /// The protection.
        prot: Prot,
    },
    /// Stores a pattern through the task's mapping, faulting pages in. Answered by `Done`; on failure the part
    /// in front of the failing address is written.
    Write {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What to store.
        pattern: Pattern,
    },
    /// Compares memory with a pattern through the task's mapping. Answered by `Done` or `Mismatch`.
    Expect {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What should be there.
        pattern: Pattern,
    },
    /// Reads up to [`MAX_READ_BYTES`] through the task's mapping. Answered by `Bytes`.
    Read {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `vm_map_wire`. Answered by `Done`.
    Wire {
        /// Start.
        start: u64,
        /// End.
        end: u64,
        /// `WireFlags` bits.
        flags: u64,
    },
    /// `vm_map_unwire`. Answered by `Done`.
    Unwire {
        /// Start.
        start: u64,
        /// End.
        end: u64,
        /// `WireFlags` bits.
        flags: u64,
    },
    /// `vm_msync`. Answered by `Done`.
    Sync {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// `SyncFlags` bits.
        flags: u64,
    },
    /// Lists the entries of a range. Answered by `Layout`.
    Layout {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Lists the frames behind a range. Answered by `Frames`.
    Frames {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Lists the entries that meet a range, each as a row of its own and with all of its pages. Answered by `Layout`.
    Entries {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Counts the resident pages of a range. Answered by `Number`.
    Residents {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Lists the wire counts of a range's resident pages. Answered by `Layout`.
    PageWires {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Returns how many pages are charged against the limit on user wiring, over all tasks. Answered by `Number`.
    WireTotal,
    /// Lists the frames of all wired pages, whichever task wired them. Answered by `Frames`, whose rows name frames twice: no
    /// one virtual page stands for a frame.
    WiredFrames {
        /// First frame, in pages from the start of RAM.
        start: u64,
        /// One past the last frame.
        end: u64,
    },
    /// Makes a task with an empty map. Answered by `Number`, the task, or `Done`.
    NewTask,
    /// Ends the task: its map is destroyed, system wirings included. Not for [`MAIN_TASK`]. Answered by `Done`.
    EndTask,
    /// Makes a task that is a copy of the task, as inheritance says. Answered by `Number`, the new task, or `Done`.
    Fork,
    /// Tells whether a thread has ended. Answered by `Ended` or `Blocked`.
    Poll {
        /// The thread.
        thread: u64,
    },
    /// Takes a thread's result, whose number is free afterwards. Answered by what the thread's command is answered by, or
    /// by `Blocked` while the thread has not ended.
    Join {
        /// The thread.
        thread: u64,
    },
    /// As [`Command::Allocate`], made of 2 MiB pages.
    AllocateLarge {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much.
        size: u64,
    },
    /// Allocates a range that nothing may access. Answered by `Address` or `Done`.
    Guard {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much.
        size: u64,
    },
    /// Reserves a stack, which grows downwards from its end. Answered by `Address` or `Done`.
    Stack {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much is reserved.
        size: u64,
        /// How much of it is mapped from the start.
        initial: u64,
    },
    /// Maps pages of a memory object. Answered by `Address` or `Done`.
    MapObject {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// The object.
        object: u64,
        /// First page of the object.
        first_page: u64,
        /// One past the last page of the object.
        end_page: u64,
        /// Whether writes reach the object.
        mode: MapMode,
        /// The protection.
        prot: Prot,
    },
    /// Says what a fork gives of a range. Answered by `Done`.
    Inherit {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What.
        inheritance: Inheritance,
    },
    /// `madvise`. Answered by `Done`.
    Advise {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What about the range.
        advice: Advice,
    },
    /// `mlock`. Answered by `Done` or `Errno`.
    Mlock {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `munlock`. Answered by `Done` or `Errno`.
    Munlock {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `mlockall`. Answered by `Done` or `Errno`.
    Mlockall {
        /// `LockAllFlags` bits.
        flags: u64,
    },
    /// `munlockall`. Answered by `Done` or `Errno`.
    Munlockall,
    /// `mincore`: 0 for an absent page, 1 for a resident one, 3 for a modified one. Answered by `Layout` or `Errno`.
    Mincore {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `vslock`: the kernel holds a range. Answered by `Done` or `Errno`.
    Vslock {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `vsunlock`. Answered by `Done` or `Errno`.
    Vsunlock {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// Gives the task's heap segment that size. Answered by `Address`, its start, or `Errno`.
    Brk {
        /// How much.
        size: u64,
    },
    /// Sets a limit. Answered by `Done`.
    Limit(Limit),
    /// Makes a memory object. Answered by `Number`, the object.
    NewObject {
        /// What its pages hold.
        kind: ObjectKind,
        /// How many pages.
        pages: u64,
    },
    /// Gives the reference to an object back; mappings keep it. Answered by `Done`.
    DropObject {
        /// The object.
        object: u64,
    },
    /// Lets the object's pager keep a page back until it is released. Answered by `Done`.
    Gate {
        /// The object.
        object: u64,
        /// The page.
        page: u64,
    },
    /// Lets the object's pager supply a page again that was kept back. Answered by `Done`.
    Release {
        /// The object.
        object: u64,
        /// The page.
        page: u64,
    },
    /// Lets the object's pager fail at a page. Answered by `Done`.
    Fail {
        /// The object.
        object: u64,
        /// The page.
        page: u64,
        /// How.
        fault: PagerFault,
    },
    /// Lets the object's pager succeed at a page again. Answered by `Done`.
    Heal {
        /// The object.
        object: u64,
        /// The page.
        page: u64,
    },
    /// Ends the object's pager. Answered by `Done`.
    Kill {
        /// The object.
        object: u64,
    },
    /// Gives an object another size. Answered by `Done`.
    Truncate {
        /// The object.
        object: u64,
        /// How many pages it has from now on.
        pages: u64,
    },
    /// Checks that nothing is under way: no entry is in transition, nobody waits, no thread is left; and every invariant
    /// as [`Command::Check`] does. Answered by `Done`, or by `Violation` with the reason.
    Quiesce,
    /// Ends every task but [`MAIN_TASK`], which is emptied, gives all objects back, forgets threads that have ended, sets
    /// all limits back, and answers as [`Command::Quiesce`].
    Reset,
    /// Checks every invariant of the VM system, over all tasks. Answered by `Done`, or by `Violation` with the reason.
    Check,
    /// Ends the guest with that exit code. Not answered: the machine stops.
    Exit {
        /// The code.
        code: u8,
    },
    /// Ends the guest the hard way, to see what its host makes of it. Not answered.
    Crash(Crash),
}

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
