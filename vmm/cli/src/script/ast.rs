//! What a script says, free of how it was written.

mod manage;
mod value;

use std::collections::HashSet;

use wirevm_abi::StoreName;
use wirevm_agent::{Crash, ObjectKind, Pattern};
use wirevm_map::{Advice, Inheritance, MapMode, PagerFault, Prot};

pub use self::manage::{Backing, Managing, RETURNS};
pub use self::value::{Expectation, FlagWord, Flags, PageState, PageValue, Span, Value};
use super::target::{HostFault, StorageFault};
use crate::program::Wanted;

/// A script whose every line makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The statements, in order.
    pub statements: Vec<Statement>,
}

impl Script {
    /// Returns the programs that the script starts, each once, in the order of their first lines: the entries of the archive that its
    /// guest is given.
    #[must_use]
    pub fn programs(&self) -> Vec<Wanted> {
        let mut known = HashSet::new();
        let wanted = self.statements.iter().filter_map(|statement| match &statement.operation {
            Operation::Program { wanted, .. } => Some(wanted),
            _ => None,
        });
        wanted.filter(|wanted| known.insert(*wanted)).cloned().collect()
    }
}

/// One operation and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its line in the script, from 1.
    pub line: usize,
    /// The operation as it was written, without expectation and comment.
    pub text: String,
    /// The thread that is started with it; `None` where the script waits for the operation.
    pub thread: Option<String>,
    /// What is made gets this name. Memory is named within the task that it is in.
    pub name: Option<String>,
    /// The operation.
    pub operation: Operation,
    /// What is expected; `None` where nothing was written, which means success.
    pub expected: Option<Expectation>,
}

/// The name of a task; `None` is the first task, `main`.
pub type Task = Option<String>;

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes memory.
    Allocate(Allocation),
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
    /// `msync`, as POSIX has it.
    Msync(Range, Flags),
    /// Says what a fork gives of a range.
    Inherit(Range, Inheritance),
    /// `madvise`.
    Advise(Range, Advice),
    /// A call about locks on a range.
    Lock(Locking, Range),
    /// `mlockall`.
    Mlockall(Task, Flags),
    /// `munlockall`.
    Munlockall(Task),
    /// Shows something of each page or entry of a range.
    Show(Showing, Range),
    /// Counts the resident pages of a range.
    Residents(Range),
    /// Shows how many pages are charged as user-wired.
    WireTotal,
    /// Makes a task.
    NewTask(String),
    /// Makes a task that is a copy of one.
    Fork(Task),
    /// Sets part of a task's addresses aside as a map of its own, which has a name like a task.
    Submap {
        /// Its name.
        name: String,
        /// How much, in bytes.
        size: u64,
        /// The task.
        task: Task,
        /// Where in the task; anywhere if `None`.
        at: Option<Address>,
    },
    /// Makes a task that is a manager of memory objects.
    NewManager(String),
    /// Lets a manager do something.
    Manage {
        /// Its name.
        manager: String,
        /// What.
        managing: Managing,
    },
    /// Starts a program in a task of its own, and waits for its end.
    Program {
        /// The task's name.
        name: String,
        /// The program.
        wanted: Wanted,
    },
    /// Ends a task's program.
    KillProgram(String),
    /// Shows what a task's program has printed.
    Output(String),
    /// Ends a task.
    EndTask(String),
    /// Sets a limit.
    Limit(Limit),
    /// Makes a memory object.
    NewObject {
        /// What its pages hold.
        kind: ObjectKind,
        /// How many pages.
        pages: u64,
    },
    /// Makes a memory object that something outside of the guest's memory system backs.
    NewBackedObject {
        /// Its name.
        name: String,
        /// What backs it.
        backing: Backing,
        /// How many pages.
        pages: u64,
    },
    /// Lists the dirty pages of a memory object.
    DirtyRanges(String),
    /// Does something to a memory object.
    Object {
        /// Its name.
        object: String,
        /// What.
        change: ObjectChange,
    },
    /// Expects a thread to wait, or to have ended.
    Thread {
        /// Its name.
        thread: String,
        /// It has ended.
        has_ended: bool,
    },
    /// Takes a thread's result.
    Join(String),
    /// Asks the host.
    Host(Question),
    /// Orders a failure of the host.
    FailHost(HostFault),
    /// Orders a failure of the host's storage.
    FailStorage(StorageFault),
    /// Keeps the host from carrying out what storage is asked for, or lets it.
    HoldStorage(bool),
    /// Counts what the host has completed, once it has completed everything.
    Completions,
    /// Asks the contract for a number, by its selector.
    Stat(u64),
    /// Gives the content of free memory back to the host.
    Trim,
    /// Checks the VM system's invariants.
    Check,
    /// Empties the system; every name goes.
    Reset,
    /// Ends the guest.
    Exit(u8),
    /// Ends the guest the hard way.
    Crash(Crash),
}

/// Memory to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The task that it is for.
    pub task: Task,
    /// What it is.
    pub kind: AllocationKind,
    /// Where; anywhere if `None`. In the same task as the memory.
    pub at: Option<Address>,
}

/// Kinds of memory. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocationKind {
    /// Zeros.
    Plain {
        /// How much.
        size: u64,
    },
    /// Zeros in 2 MiB pages.
    Large {
        /// How much.
        size: u64,
    },
    /// Nothing that can be accessed.
    Guard {
        /// How much.
        size: u64,
    },
    /// A stack.
    Stack {
        /// How much is reserved.
        size: u64,
        /// How much is mapped from the start.
        initial: u64,
    },
    /// Pages of a memory object.
    Object {
        /// The object's name.
        object: String,
        /// From which page to before which; all of the object if `None`.
        pages: Option<(u64, u64)>,
        /// Whether writes reach the object.
        mode: MapMode,
        /// The protection.
        prot: Prot,
    },
    /// The task's heap segment. Has no place of its own.
    Heap {
        /// How much.
        size: u64,
    },
}

/// Calls about locks on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// `mlock`.
    Mlock,
    /// `munlock`.
    Munlock,
    /// `vslock`.
    Vslock,
    /// `vsunlock`.
    Vsunlock,
}

impl Locking {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mlock, Self::Munlock, Self::Vslock, Self::Vsunlock];

    /// Returns the word that scripts use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mlock => "mlock",
            Self::Munlock => "munlock",
            Self::Vslock => "vslock",
            Self::Vsunlock => "vsunlock",
        }
    }
}

/// What can be shown of the pages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Showing {
    /// The wirings of the entries; neighbours with the same are one item.
    Layout,
    /// The wirings of each entry.
    Entries,
    /// The wire counts of the resident pages.
    PageWires,
    /// What `mincore` tells.
    Mincore,
    /// The states of the pages.
    PageStates,
}

impl Showing {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Layout, Self::Entries, Self::PageWires, Self::Mincore, Self::PageStates];

    /// Returns the word that scripts use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::Entries => "entries",
            Self::PageWires => "page-wc",
            Self::Mincore => "mincore",
            Self::PageStates => "page-states",
        }
    }
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Most pages that the task may lock.
    Memlock(Task, u64),
    /// Whether the task may lock.
    Privilege(Task, bool),
    /// Most pages that may be user-wired, over all tasks.
    Wire(u64),
}

/// What can be done to a memory object. Numbers are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectChange {
    /// Its pager keeps a page back.
    Gate(u64),
    /// Its pager gives the page.
    Release(u64),
    /// Its pager fails at the page.
    Fail(u64, PagerFault),
    /// Its pager does not fail there any more.
    Heal(u64),
    /// Its pager ends.
    Kill,
    /// It gets that size.
    Truncate(u64),
    /// The script lets go of it.
    Drop,
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
    /// What the file of a store holds for each of its pages from one to before another.
    Store(StoreName, (u64, u64)),
}

/// A range of addresses of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The task, whose names the place uses.
    pub task: Task,
    /// Where in the task.
    pub place: Place,
}

/// A range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of the task's map.
    All,
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
