//! Wiring: which pages of guest RAM the host holds in memory.
//!
//! The [`Ledger`] counts, because host locks do not nest (H1): the host is told only when a page's count leaves
//! 0 or comes back to it. The [`PinService`] decides what is admitted, asks a [`PinMethod`] to lock and unlock,
//! and undoes a call that fails midway.

mod claims;
mod counts;
mod crew;
mod error;
mod faults;
mod ledger;
mod limit;
mod method;
mod populate;
mod read_ahead;
#[cfg(test)]
pub(crate) mod scripted;
mod service;
mod state;
#[cfg(test)]
mod test;
mod watch;

pub use self::error::PinError;
pub use self::faults::FaultyMethod;
pub use self::ledger::{Ledger, LedgerError, MAX_WIRE_COUNT};
pub use self::limit::{LimitError, LockBudget, lock_error_status, map_entry_budget};
pub use self::method::{LockFailure, PinKind, PinMethod, PinMethodError, RunsMethod, ViewMethod, ViewMethodError};
pub use self::service::{PinConfig, PinService, PinStats};
