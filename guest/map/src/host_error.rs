//! What an operation answers when the host refused: the one place that decides it.

use crate::kern_return::KernReturn;
use crate::ports::HostError;

impl KernReturn {
    /// Returns what a wire call answers: a shortage where trying again later, or asking for less, can help, and
    /// a failure otherwise. A rejection is a failure too, for the caller's arguments were checked long before.
    pub(crate) const fn from_wire_error(error: HostError) -> Self {
        match error {
            HostError::Shortage | HostError::Quota | HostError::Busy => Self::ResourceShortage,
            HostError::Rejected | HostError::Io | HostError::Poisoned | HostError::Unsupported => Self::Failure,
        }
    }

    /// Returns what opening a store answers.
    pub(crate) const fn from_store_error(error: HostError) -> Self {
        match error {
            HostError::Rejected => Self::InvalidArgument,
            HostError::Shortage | HostError::Quota | HostError::Busy => Self::ResourceShortage,
            HostError::Io | HostError::Poisoned | HostError::Unsupported => Self::Failure,
        }
    }

    /// Returns what a sync answers: the bytes are not known to be stable, whatever the reason (rows H7, D-B).
    /// Of the codes that Mach's `vm_msync` has none fits better, a host without stable storage included.
    pub(crate) const fn from_sync_error(_error: HostError) -> Self {
        Self::Failure
    }
}
