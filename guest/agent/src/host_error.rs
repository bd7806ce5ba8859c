//! What the host's statuses are to the memory system.

use wirevm_abi::Status;
use wirevm_map::HostError;

/// Returns what a status of the contract, other than *ok*, is to the memory system. One that has no place where it stands, such as
/// *pending* at an end, is as good as a rejection.
#[must_use]
pub const fn host_error_of(status: Status) -> HostError {
    match status {
        Status::RESOURCE_SHORTAGE => HostError::Shortage,
        Status::QUOTA => HostError::Quota,
        Status::IO_ERROR => HostError::Io,
        Status::POISONED => HostError::Poisoned,
        Status::UNSUPPORTED => HostError::Unsupported,
        Status::BUSY => HostError::Busy,
        _ => HostError::Rejected,
    }
}

#[cfg(test)]
mod test {
    use super::host_error_of;
    use wirevm_abi::Status;
    use wirevm_map::HostError;

    #[test]
    fn statuses_that_end_nothing_are_rejections() {
        for status in [Status::PENDING, Status::NOT_DONE, Status::INVALID_ARGUMENT, Status::from_bits(0x7777)] {
            assert_eq!(host_error_of(status), HostError::Rejected, "{status}");
        }
        assert_eq!(host_error_of(Status::POISONED), HostError::Poisoned);
    }
}
