//! The guest's virtual-memory system: maps, entries, objects, pages, pagers.
//!
//! This crate holds no hardware, no unsafe code and nothing of the hypercall contract. It is generic
//! over three ports ([`Host`], [`Pmap`], [`Frames`]), so the same code runs against a scripted fake,
//! against the host's real services in one process, and inside a real guest.
//!
//! Every operation is an `async fn`: where FreeBSD sleeps, it awaits. The map's lock is never held
//! across an await; what must survive one is marked *in transition*, and whoever meets the mark sets
//! *needs wakeup*, waits, and looks again, because the map may have changed.
//!
//! All ranges are half-open. Addresses and sizes are in bytes where they are called `address`, `start`,
//! `end` or `size`, and in pages everywhere else.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod control;
mod entry;
mod errno;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod flags;
mod frame_runs;
mod frames;
mod handle;
mod host_error;
mod kern_return;
mod manager;
mod map;
mod objects;
#[cfg(test)]
mod planted;
mod ports;
mod runs;
mod slots;
mod units;
mod vm;
mod wait;
mod yielding;

pub use entry::{EntryKind, Inheritance};
pub use errno::Errno;
pub use flags::{LockAllFlags, MsyncFlags, SyncFlags, WireFlags};
pub use frames::FrameAllocator;
pub use handle::{ObjectHandle, PagerFault, Supply};
pub use kern_return::KernReturn;
pub use manager::{ManagerPort, Message, ShouldReturn};
pub use map::{
    Advice, EntryRow, FrameRow, LayoutRow, MapLimits, MapMode, MapStats, PageState, Placement, Violation, VmMap,
    check_all, check_quiet, check_some,
};
pub use spin::relax::{RelaxStrategy, Spin};

pub use ports::{
    Frames, FreshFrames, Host, HostError, OutOfFrames, Pmap, Ports, StoreId, StoreKind, StoreRun, SyncRun,
};
pub use units::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
pub use vm::{Background, Vm};
