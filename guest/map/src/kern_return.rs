//! Return codes of the VM operations.

use core::fmt;

/// What a VM operation answers when it does not succeed, or [`KernReturn::Success`].
///
/// The numbers are Mach's (XNU `osfmk/mach/kern_return.h`). FreeBSD gives 9 and 10 other meanings, so
/// the two codes that only FreeBSD has stand outside Mach's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum KernReturn {
    /// The operation did all it was asked to.
    Success = 0,
    /// The range is not (wholly) allocated, or does not permit the access.
    InvalidAddress = 1,
    /// The protection asked for exceeds what the range permits.
    ProtectionFailure = 2,
    /// No room in the address space.
    NoSpace = 3,
    /// An argument is malformed: unaligned, reversed, unknown flag.
    InvalidArgument = 4,
    /// The operation failed for a reason of its backing store.
    Failure = 5,
    /// A limit or quota is reached, or memory is short.
    ResourceShortage = 6,
    /// A memory manager could not supply a page.
    MemoryFailure = 9,
    /// A memory manager reported an error for a page.
    MemoryError = 10,
    /// The operation was interrupted.
    Aborted = 14,
    /// The task does not exist.
    InvalidTask = 16,
    /// FreeBSD's 9: the page lies past the end of its object, or its pager failed to read it.
    OutOfBounds = 0x1009,
    /// FreeBSD's 10: the caller must look again.
    Restart = 0x100a,
}

impl KernReturn {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Success,
        Self::InvalidAddress,
        Self::ProtectionFailure,
        Self::NoSpace,
        Self::InvalidArgument,
        Self::Failure,
        Self::ResourceShortage,
        Self::MemoryFailure,
        Self::MemoryError,
        Self::Aborted,
        Self::InvalidTask,
        Self::OutOfBounds,
        Self::Restart,
    ];

    /// Returns the code's number.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Returns the code with that number, if there is one.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Returns the code's name without the `KERN_` prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::InvalidAddress => "INVALID_ADDRESS",
            Self::ProtectionFailure => "PROTECTION_FAILURE",
            Self::NoSpace => "NO_SPACE",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Failure => "FAILURE",
            Self::ResourceShortage => "RESOURCE_SHORTAGE",
            Self::MemoryFailure => "MEMORY_FAILURE",
            Self::MemoryError => "MEMORY_ERROR",
            Self::Aborted => "ABORTED",
            Self::InvalidTask => "INVALID_TASK",
            Self::OutOfBounds => "OUT_OF_BOUNDS",
            Self::Restart => "RESTART",
        }
    }

    /// Returns the code of that name, with or without the `KERN_` prefix.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("KERN_").unwrap_or(name);
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

impl fmt::Display for KernReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for KernReturn {}

#[cfg(test)]
mod test {
    use super::KernReturn;

    #[test]
    fn every_code_round_trips_by_number_and_by_both_names() {
        for code in KernReturn::ALL {
            assert_eq!(KernReturn::from_code(code.code()), Some(code));
            assert_eq!(KernReturn::from_name(code.name()), Some(code));
            let long = alloc::format!("KERN_{code}");
            assert_eq!(KernReturn::from_name(&long), Some(code));
        }
        assert_eq!(KernReturn::from_code(9999), None);
        assert_eq!(KernReturn::from_name("success"), None);
    }
}
