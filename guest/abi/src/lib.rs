//! The contract between a wirevm guest and its host. This crate is the specification.
//!
//! # How a call is made
//!
//! 1. The host passes the guest a [`boot::BootInfo`] page (its address in `RDI` at entry). It says how
//!    large RAM is, where the guest's call page is and which memory the loader used.
//! 2. Each vCPU owns one 4 KiB [call page](call::CallPage): a 64-byte header and up to [`call::MAX_ENTRIES`]
//!    entries of 32 bytes. The guest fills in entries, sets every status to [`Status::NOT_DONE`], and writes
//!    [`port::DOORBELL`] once with `out`. That one exit is the batch.
//! 3. The host copies the page in once, checks it, acts on the entries in order, and copies the header and the
//!    entries that it looked at back: their statuses and results are new, and every other word in them is as it was
//!    copied in, so what a guest writes there during the call is lost. Nothing behind them is written. When `out` is
//!    over, every entry that the host accepted holds a status other than *not done*.
//! 4. `in` on the doorbell port returns the status of the last doorbell as a whole, for the guest that cannot
//!    trust its call page yet. A doorbell before the first [`op::HELLO`] answers [`Status::INVALID_ADDRESS`]
//!    there and touches nothing, unless the call's first entry is that `HELLO`; when that one is refused, so are the
//!    entries behind it, each with [`Status::INVALID_ADDRESS`].
//!
//! # Order
//!
//! Entries are accepted in order. Consecutive [`op::SYNC`] entries form one request: started together, waited
//! for once. Any other operation waits for what stands before it. [`Status::PENDING`] means accepted, the
//! work goes on; callers accept *ok* or *pending* wherever the operation says so. Every entry that was answered *pending* is
//! completed exactly once, in any order, through the [completion ring](completion).
//!
//! # Numbers
//!
//! Everything on the wire is a little-endian `u64` at a multiple of 8, because narrower plain accesses tear
//! where ring 0 is emulated. A *page* is the index of a 4 KiB page of guest RAM, counted from the start of RAM;
//! its guest-physical address is [`RAM_BASE`] + page * 4096. Unknown operations, flags and reserved words that
//! are not zero answer a status; no byte pattern does anything else.
//!
//! # Versions
//!
//! The version stands twice: in the image's [ELF note](note), checked before boot, and in [`op::HELLO`] at
//! run time. Within a version, additions are announced by [`feature`] bits.
#![no_std]
#![forbid(unsafe_code)]

pub mod archive;
pub mod boot;
pub mod call;
pub mod completion;
pub mod feature;
pub mod note;
pub mod op;
pub mod port;
mod range;
pub mod report;
pub mod request;
pub mod ring;
pub mod stat;
mod status;
mod store_name;
pub mod user;

pub use range::RamRange;
pub use status::Status;
pub use store_name::{StoreName, StoreNameError};

/// Version of the contract that this crate specifies.
pub const VERSION: u64 = 1;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Bytes in a large page; guest RAM is a whole number of them.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Guest-physical address of page 0 of RAM.
///
/// RAM stands above 4 GiB, so that it is one piece whatever its size and the devices have the low 4 GiB.
pub const RAM_BASE: u64 = 4 << 30;
