//! What is explored: memory of every kind, and operations on it at the same time.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write;

use crate::entry::Inheritance;
use crate::flags::{LockAllFlags, SyncFlags};
use crate::manager::ShouldReturn;
use crate::map::Advice;
use crate::units::Prot;

/// The memory. All maps are 6 pages that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Two allocations, `[0,3)` and `[3,5)`; pages 0 and 4 are written.
    Plain,
    /// The same, `[1,4)` user-wired.
    Wired,
    /// The same, all wired as pages come.
    OnFault,
    /// The same, `[3,5)` read-only, and forked: the second map is the child.
    Forked,
    /// As forked, and what is read-only is user-wired.
    ForkedWired,
    /// An object that both maps show; the second has wired `[0,2)`.
    Shared,
    /// A private mapping of a file that a child shares: both show the same shadow. The first may only read.
    Shadow,
    /// A file, private in the first map, shared and read-only in the second. Page 1 comes when it is released.
    File,
    /// A file that both share; page 2 is gated, page 3 fails, and the second map has wired `[0,2)`.
    Failing,
    /// An object of 4 pages that both share and a store keeps; page 0 is written.
    Store,
    /// The same, of an exclusive store.
    Exclusive,
    /// The same, and a task manages it.
    Managed,
    /// The same, and keeps no copies.
    Precious,
    /// The same, and wants to be asked before each first write.
    Trapped,
}

impl Memory {
    pub(super) const ALL: [Self; 9] = [
        Self::Plain,
        Self::Wired,
        Self::OnFault,
        Self::Forked,
        Self::ForkedWired,
        Self::Shared,
        Self::Shadow,
        Self::File,
        Self::Failing,
    ];

    /// What somebody keeps, so that it can be synchronised with him.
    pub(super) const KEPT: [Self; 5] = [Self::Store, Self::Exclusive, Self::Managed, Self::Precious, Self::Trapped];

    pub(super) const fn is_kept(self) -> bool {
        self.is_managed() || matches!(self, Self::Store | Self::Exclusive)
    }

    const fn is_managed(self) -> bool {
        matches!(self, Self::Managed | Self::Precious | Self::Trapped)
    }

    pub(super) const fn has_second(self) -> bool {
        !matches!(self, Self::Plain | Self::Wired | Self::OnFault)
    }

    pub(super) const fn has_object(self) -> bool {
        matches!(self, Self::Shared | Self::File | Self::Failing)
    }

    /// The page that a further task releases.
    pub(super) const fn gated(self) -> Option<u64> {
        match self {
            Self::File => Some(1),
            Self::Failing => Some(2),
            _ => None,
        }
    }
}

/// What one task does, on pages from the first to before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Wire(u64, u64),
    WireHoles(u64, u64),
    /// Wires for the system, lets others run, and unwires again: that must succeed.
    Hold(u64, u64),
    Unwire(u64, u64),
    UnwireHoles(u64, u64),
    Protect(u64, u64, Prot),
    Deallocate(u64, u64),
    Allocate(u64, u64),
    /// Forks; the child is written, read and destroyed.
    ForkWrite,
    /// Forks; the child wires everything, and is destroyed.
    ForkWire,
    /// Forks; the child stays.
    ForkKeep,
    Read(u64),
    Write(u64),
    Msync(SyncFlags),
    Inherit(u64, u64, Inheritance),
    Advise(Advice),
    Mlockall(LockAllFlags),
    Munlockall,
    /// Lets the object end there.
    Truncate(u64),
    /// Ends the object's pager.
    Kill,
    /// Releases the gated page.
    Release,
    /// The manager has pages returned, and flushed if so.
    LockRequest(ShouldReturn, bool),
}

/// An act and whether it is done in the second map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) second: bool,
    pub(super) act: Act,
}

/// Memory, and what tasks do to it at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) memory: Memory,
    /// The host refuses one wire, after so many.
    pub(super) refused: Option<u64>,
    /// Operations let others run where they hold no lock, and not only where they wait.
    pub(super) pauses: bool,
    pub(super) tasks: Vec<Task>,
}

impl Scenario {
    pub(super) fn name(&self) -> String {
        let mut name = alloc::format!("{:?}", self.memory);
        if let Some(after) = self.refused {
            write!(name, " refused {after}").unwrap();
        }
        if self.pauses {
            name.push_str(" pauses");
        }
        for (at, task) in self.tasks.iter().enumerate() {
            write!(name, "{}{task}", if at == 0 { ": " } else { "; " }).unwrap();
        }
        name
    }

    pub(super) fn any(&self, which: impl Fn(Act) -> bool) -> bool {
        self.tasks.iter().any(|task| which(task.act))
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.act, if self.second { " in the second" } else { "" })
    }
}

/// What the first map is asked to do.
fn first_acts() -> Vec<Act> {
    let (current, on_fault) = (LockAllFlags::CURRENT, LockAllFlags::CURRENT | LockAllFlags::ONFAULT);
    [
        Act::Wire(0, 4),
        Act::Unwire(0, 4),
        Act::Wire(1, 5),
        Act::Deallocate(1, 2),
        Act::Write(1),
        Act::Protect(0, 3, Prot::READ),
        Act::Inherit(1, 2, Inheritance::Share),
        Act::Hold(1, 4),
        Act::Protect(1, 4, Prot::DEFAULT),
        Act::ForkWrite,
        Act::Deallocate(0, 5),
        Act::WireHoles(0, 6),
        Act::UnwireHoles(2, 6),
        Act::Read(1),
        Act::Hold(0, 2),
        Act::Mlockall(on_fault),
        Act::Munlockall,
        Act::Protect(0, 4, Prot::NONE),
        Act::ForkWire,
        Act::Write(4),
        Act::Msync(SyncFlags::SYNCHRONOUS),
        Act::Mlockall(current),
        Act::Allocate(1, 2),
        Act::Inherit(2, 4, Inheritance::None),
        Act::Advise(Advice::Free),
        Act::ForkKeep,
        Act::Msync(SyncFlags::INVALIDATE),
        Act::Allocate(5, 6),
        Act::Mlockall(LockAllFlags::FUTURE),
        Act::Advise(Advice::DontNeed),
    ]
    .to_vec()
}

/// What the second map is asked to do.
fn second_acts() -> Vec<Act> {
    [
        Act::Write(0),
        Act::Wire(0, 4),
        Act::Unwire(0, 4),
        Act::Protect(0, 4, Prot::DEFAULT),
        Act::Deallocate(0, 4),
        Act::Hold(0, 4),
        Act::ForkWrite,
        Act::Read(1),
    ]
    .to_vec()
}

/// What is asked of memory that somebody keeps.
fn tasks_for_kept(memory: Memory) -> Vec<Task> {
    let (sync, flush) = (SyncFlags::SYNCHRONOUS | SyncFlags::CONTIGUOUS, SyncFlags::INVALIDATE);
    let first = [
        Act::Write(1),
        Act::Msync(sync),
        Act::Msync(SyncFlags::ASYNCHRONOUS),
        Act::Msync(sync | flush),
        Act::Write(0),
        Act::Read(1),
        Act::Kill,
        Act::Deallocate(0, 4),
        Act::Deallocate(1, 2),
        Act::Wire(0, 2),
        Act::Unwire(0, 2),
        Act::Msync(SyncFlags::ASYNCHRONOUS | flush),
        Act::Protect(0, 4, Prot::READ),
        Act::Protect(0, 4, Prot::DEFAULT),
    ];
    let second = [Act::Write(0), Act::Write(1), Act::Msync(sync), Act::Msync(sync | flush), Act::Read(1)];
    let asked =
        [(ShouldReturn::All, true), (ShouldReturn::Dirty, false)].map(|(what, flush)| Act::LockRequest(what, flush));
    let mut tasks: Vec<Task> = first.map(|act| Task { second: false, act }).to_vec();
    tasks.extend(second.map(|act| Task { second: true, act }));
    if memory.is_managed() {
        tasks.extend(asked.map(|act| Task { second: false, act }));
    }
    tasks
}

fn tasks_for(memory: Memory) -> Vec<Task> {
    if memory.is_kept() {
        return tasks_for_kept(memory);
    }
    let mut tasks: Vec<Task> = first_acts().into_iter().map(|act| Task { second: false, act }).collect();
    if memory.has_second() {
        tasks.extend(second_acts().into_iter().map(|act| Task { second: true, act }));
    }
    if memory.has_object() {
        tasks.extend([Act::Truncate(2), Act::Truncate(6), Act::Kill].map(|act| Task { second: false, act }));
    }
    tasks
}

/// Which way things go beside the tasks.
const WAYS: [(Option<u64>, bool); 4] = [(None, false), (Some(0), false), (None, true), (Some(1), true)];

fn scenario(memory: Memory, way: usize, mut tasks: Vec<Task>) -> Scenario {
    let (refused, pauses) = WAYS[way % WAYS.len()];
    if memory.gated().is_some() {
        tasks.push(Task { second: false, act: Act::Release });
    }
    Scenario { memory, refused, pauses, tasks }
}

/// Returns every pair of operations on every kind of memory, the same one twice included, each in one of the ways; `shift` says
/// in which.
pub(super) fn pairs(kinds: &[Memory], shift: usize) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (which, &memory) in kinds.iter().enumerate() {
        let tasks = tasks_for(memory);
        for (at, one) in tasks.iter().enumerate() {
            for (behind, other) in tasks[at..].iter().enumerate() {
                scenarios.push(scenario(memory, which + at + behind + shift, [*one, *other].to_vec()));
            }
        }
    }
    scenarios
}

/// Returns `count` scenarios of so many operations each, drawn with `seed`.
pub(super) fn drawn(kinds: &[Memory], count: usize, operations: usize, seed: u64) -> Vec<Scenario> {
    let mut random = seed;
    let mut draw = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let mut scenarios = Vec::new();
    for at in 0..count {
        let memory = kinds[at % kinds.len()];
        let tasks = tasks_for(memory);
        let drawn = (0..operations).map(|_| tasks[draw(tasks.len())]).collect();
        scenarios.push(scenario(memory, draw(WAYS.len()), drawn));
    }
    scenarios
}
