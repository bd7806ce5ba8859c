//! Why pages were not wired or unwired.

use wirevm_abi::{RamRange, Status};

use super::ledger::LedgerError;
use super::limit::Refusal;
use super::method::PinMethodError;

/// Error of wiring or unwiring. Nothing has changed, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The machine's quota would be exceeded.
    #[error("wiring {asked_pages} pages more would exceed the quota of {quota_pages}: {locked_pages} are locked")]
    Quota {
        /// Pages that would have to be locked.
        asked_pages: u64,
        /// Pages locked now: wired ones and deferred ones.
        locked_pages: u64,
        /// The quota.
        quota_pages: u64,
    },
    /// The locked pages would lie in too many pieces for the host's memory map.
    #[error("host map fragmentation: {runs} locked runs need {entries} map entries and the budget is {budget}")]
    HostMapFragmentation {
        /// Runs that there would be.
        runs: u64,
        /// Map entries that they would need.
        entries: u64,
        /// Map entries that they may use.
        budget: u64,
    },
    /// The host lacks memory, or does not let this process lock more.
    #[error("the host refuses to lock {limits}")]
    Shortage {
        /// What was asked for and what the limits are.
        limits: String,
        /// What failed.
        #[source]
        source: PinMethodError,
    },
    /// A page could not be read from the RAM file.
    #[error("guest RAM cannot be read from its file")]
    Fault {
        /// What failed.
        #[source]
        source: PinMethodError,
    },
    /// A wire count can't go up or down.
    #[error(transparent)]
    Count(#[from] LedgerError),
    /// The range was checked against a larger RAM than this one.
    #[error("pages {range} end past guest RAM, which has {ram_pages} pages")]
    Outside {
        /// The range.
        range: RamRange,
        /// Pages in guest RAM.
        ram_pages: u64,
    },
}

impl PinError {
    /// Returns what the guest is told.
    pub const fn status(&self) -> Status {
        match self {
            Self::Quota { .. } => Status::QUOTA,
            Self::HostMapFragmentation { .. } | Self::Count(LedgerError::Saturated { .. }) => Status::RESOURCE_SHORTAGE,
            Self::Shortage { .. } => Refusal::Shortage.status(),
            Self::Fault { .. } => Refusal::Fault.status(),
            Self::Count(LedgerError::NotWired { .. }) => Status::INVALID_ARGUMENT,
            Self::Outside { .. } => Status::INVALID_ADDRESS,
        }
    }
}
