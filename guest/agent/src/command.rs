//! What the host asks.

mod kinds;
mod words;

#[cfg(test)]
mod test;

use wirevm_map::{Advice, Inheritance, KernReturn, MapMode, PagerFault, Prot, ShouldReturn, StoreKind};

pub use kinds::{Behaviour, Crash, Limit, ObjectKind, page_state};

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
/// Any operation that waits for something which nobody is about to do is answered by `Blocked`, and goes on when it can. While the host
/// has something to answer, or a program runs, that can't be known: it is answered by `Awaits` then.
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
    /// Ends the task: its program, if it has one, is killed, and then its map is destroyed, system wirings included. Not for
    /// [`MAIN_TASK`]. Answered by `Done`.
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
    /// `msync`, as POSIX has it. Answered by `Done` or `Errno`.
    Msync {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// `MsyncFlags` bits.
        flags: u64,
    },
    /// Sets a range of the task's addresses aside as a map of its own, which further commands reach as a task: what is mapped there
    /// is seen at the same addresses in both. Answered by `Number`, the new task, or `Done`.
    Submap {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much.
        size: u64,
    },
    /// Makes a memory object that a store of the host's backs. Answered by `Number`, the object, or `Done`.
    NewStoreObject {
        /// The store's name, as in the contract.
        name: [u64; 2],
        /// How many pages, at least 1.
        pages: u64,
        /// Whether the store keeps no copy of what it has supplied.
        kind: StoreKind,
    },
    /// Makes a task that is a manager of memory objects: it supplies their pages from its own memory and takes them back into
    /// it. Answered by `Number`, the new task, or `Done`.
    NewManager,
    /// Makes a memory object whose manager is the task. What the manager has of it is the task's memory from `address` on,
    /// allocated with this. Answered by `Number`, the object, or `Done`.
    NewManagedObject {
        /// How many pages, at least 1.
        pages: u64,
        /// Where the manager's copy begins in its memory.
        address: u64,
    },
    /// Changes how the task, a manager, behaves from now on. Answered by `Done`.
    Behave(Behaviour),
    /// Lets the task, a manager, end: its objects are destroyed, and whoever waits for it fails. Answered by `Done`.
    Die,
    /// Lets the task, a manager, say that a synchronization is over, whether it has been asked or not. Answered by `Done`, with
    /// `InvalidArgument` where the kernel waits for no such thing.
    SynchronizeCompleted {
        /// The object.
        object: u64,
        /// First byte of the object.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// What became of it.
        status: KernReturn,
    },
    /// Lets the task, a manager, ask for pages of its object. Answered by `Done` when all that follows from it is done.
    LockRequest {
        /// The object.
        object: u64,
        /// First page.
        first_page: u64,
        /// One past the last page.
        end_page: u64,
        /// Which pages to return.
        should_return: ShouldReturn,
        /// Whether pages are to leave the cache.
        should_flush: bool,
        /// Accesses to forbid from now on; `None` leaves them.
        forbidden: Option<Prot>,
    },
    /// Takes what the kernel has asked the task, a manager, since the last time. Answered by `Text`, one word a message.
    Messages,
    /// Lists which pages of an object are dirty. Answered by `Layout`, with pages of the object.
    DirtyRanges {
        /// The object.
        object: u64,
    },
    /// Lists the states of a range's pages. Answered by `Layout`: counts are [`page_state`] bits, absent pages left out.
    PageStates {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Waits until the host has answered all that it was asked. Answered by `Number`: how many requests to put pages on stable
    /// storage, or to supply, return or synchronize pages of stores, it has answered since the last time.
    Completions,
    /// Goes on with what was answered by `Awaits`. Answered as that command; by `Awaits` again when the host has answered
    /// something, or a program woken something, and that was not enough. Not answered before.
    AwaitHost,
    /// Asks the host for one of its numbers. Answered by `Number` or `Done`.
    Stat {
        /// The selector, as in the contract.
        selector: u64,
    },
    /// Gives the content of free memory back to the host. Answered by `Number`, the pages, or `Done`.
    Trim,
    /// Starts the program of an entry of the archive, in a task of its own. Answered by `Number`, the new task; by `Text`, why it
    /// could not be started; or by `Done`. Nothing is made where it is not started.
    Program {
        /// The entry, from 0.
        entry: u64,
    },
    /// Waits for the end of a program and of its children. Answered by `Program`, as often as it is asked until the task ends;
    /// by `Awaits` before.
    AwaitProgram {
        /// The program's task.
        task: u64,
    },
    /// Ends a program and its children, soon. Nothing for one that has ended. Answered by `Done`.
    KillProgram {
        /// The program's task.
        task: u64,
    },
    /// Checks that nothing is under way: no program, no entry is in transition, nobody waits, no thread is left; and every invariant
    /// as [`Command::Check`] does. Answered by `Done`, or by `Violation` with the reason.
    Quiesce,
    /// Ends every task but [`MAIN_TASK`], which is emptied, gives all objects back, forgets threads that have ended, sets
    /// all limits back, and answers as [`Command::Quiesce`]. Programs are killed first, and `Awaits` answers until they have ended.
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
