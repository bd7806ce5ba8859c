//! Status codes.

use core::fmt;

/// The outcome of a call or of one entry, as it stands on the wire (16 bits).
///
/// The set is the contract's own: no errno of a host crosses it. Unknown numbers stay representable; treat
/// them as failures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Status(u16);

impl Status {
    /// The operation is complete and did all that was asked.
    pub const OK: Self = Self(0);
    /// Malformed: a flag, count or reserved word that the operation does not allow.
    pub const INVALID_ARGUMENT: Self = Self(1);
    /// A page outside RAM, or a call before `HELLO`.
    pub const INVALID_ADDRESS: Self = Self(2);
    /// The host is out of a resource: memory, lock limit, map entries, wire count.
    pub const RESOURCE_SHORTAGE: Self = Self(3);
    /// The virtual machine's own quota is used up.
    pub const QUOTA: Self = Self(4);
    /// Storage reported an error for this range: it is not known to be stable.
    pub const IO_ERROR: Self = Self(5);
    /// A storage error was reported before; nothing is known to be stable until the machine is restarted.
    pub const POISONED: Self = Self(6);
    /// This host does not offer the operation or flag.
    pub const UNSUPPORTED: Self = Self(7);
    /// The host's queue is full; ask again later.
    pub const BUSY: Self = Self(8);
    /// Accepted; the work goes on.
    pub const PENDING: Self = Self(9);
    /// What the guest presets: the host has not looked at this entry.
    pub const NOT_DONE: Self = Self(0xffff);

    /// Returns the status with that number, known or not.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns the number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Tells whether the operation was accepted: *ok* or *pending*.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        self.0 == Self::OK.0 || self.0 == Self::PENDING.0
    }

    /// Returns the name of a known status.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "ok",
            Self::INVALID_ARGUMENT => "invalid argument",
            Self::INVALID_ADDRESS => "invalid address",
            Self::RESOURCE_SHORTAGE => "resource shortage",
            Self::QUOTA => "quota",
            Self::IO_ERROR => "io error",
            Self::POISONED => "poisoned",
            Self::UNSUPPORTED => "unsupported",
            Self::BUSY => "busy",
            Self::PENDING => "pending",
            Self::NOT_DONE => "not done",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "unknown status {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}
