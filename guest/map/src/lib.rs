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
#[cfg(test)]
extern crate std;

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
mod map;
mod objects;
#[cfg(test)]
mod planted;
mod ports;
mod runs;
mod units;
mod vm;
mod wait;

pub use entry::{EntryKind, Inheritance};
pub use errno::Errno;
pub use flags::{LockAllFlags, SyncFlags, WireFlags};
pub use frames::FrameAllocator;
pub use handle::{ObjectHandle, PagerFault};
pub use kern_return::KernReturn;
pub use map::{
    Advice, EntryRow, FrameRow, LayoutRow, MapLimits, MapMode, MapStats, Placement, Violation, VmMap, check_all,
    check_quiet,
};
pub use ports::{Frames, FreshFrames, Host, HostError, OutOfFrames, Pmap, Ports, SyncMode, SyncRun};
pub use units::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
pub use vm::Vm;
