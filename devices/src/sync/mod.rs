//! Syncing: which ranges of guest RAM are on stable storage.
//!
//! A [`SyncService`] has worker threads, each with an open file description and a view of its own, because the
//! kernel reports a storage error once a description: a shared one would lose it to another caller (rule D2).
//!
//! # One flush for many ranges
//!
//! A worker takes all requests that wait, joins their pages into runs, has the kernel start writing every run
//! (`sync_file_range`), awaits each, and then has one `msync` flush for all of them. A single run is one `msync`. That one
//! flush is enough on ext4 and xfs, and only there:
//!
//! - Data: awaiting a run with all three flags writes and awaits its dirty pages exactly as `msync` does before it flushes.
//!   The device has the bytes then, perhaps in a cache of its own. A flush empties that cache whatever range it was asked for,
//!   and both file systems send one at the end of every `msync`, even of a clean range.
//! - Metadata: none is outstanding that the bytes need to be found. Every block of a RAM file was allocated and written when
//!   the file was made, none is shared with another file (both are checked when a file is opened), and the size never changes;
//!   so writing a page maps no block, and converts none. What the writing does change, the time of modification, no reader of
//!   the bytes needs.
//!
//! btrfs keeps what is to be logged by range, so that an `msync` of one range says nothing about another. There, and on
//! everything else that may be used one day, every run has an `msync` of its own.
//!
//! # Errors
//!
//! The first error sets a latch for the whole machine (rule D3), before anybody is answered. The kernel has marked what
//! it could not write as clean, so a second `msync` would report success for what is lost. Pages that stay in memory
//! still have what the guest stored: from then on, and only for ranges whose pages were wired since before the failure, a sync
//! dirties every page again and writes it through a fresh description (rule D4), and what that makes stable is answered *ok*.
//! Everything else is *poisoned* for good.

mod backend;
mod faults;
mod health;
mod latch;
mod queue;
mod request;
#[cfg(test)]
pub(crate) mod scripted;
mod service;
#[cfg(test)]
mod test;
mod worker;

pub use self::backend::{FlushBackend, HealthProbe, RamFlush, RamProbe, SyncStartError};
pub use self::faults::FaultyFlush;
pub use self::latch::{During, LatchedError, WiredOracle};
pub use self::request::{Answer, RangeResult};
pub use self::service::{END_LIMIT, SyncConfig, SyncService, SyncStats};
pub use self::worker::SyncWorker;
