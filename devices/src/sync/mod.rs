//! Syncing: which ranges of guest RAM are on stable storage.
//!
//! A [`SyncService`] has worker threads, each with an open file description and a view of its own, because the
//! kernel reports a storage error once a description: a shared one would lose it to another caller (rule D2).
//! The first error sets a latch for the whole machine, and from then on nothing is answered *ok* (rule D3).

mod backend;
mod health;
mod latch;
mod merge;
#[cfg(test)]
pub(crate) mod scripted;
mod service;
#[cfg(test)]
mod test;
mod worker;

pub use self::backend::{FlushBackend, HealthProbe, RamFlush, RamProbe, SyncStartError};
pub use self::latch::{During, LatchedError};
pub use self::service::{END_LIMIT, SyncConfig, SyncService, SyncStats, Wait};
pub use self::worker::SyncWorker;
