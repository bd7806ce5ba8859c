//! Error numbers of the POSIX-shaped operations.

use core::fmt;

/// What a POSIX-shaped operation answers when it fails; the numbers are those of Linux and FreeBSD where they agree, and
/// Linux's for [`Errno::Again`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// `EPERM`: the task may not do this.
    Perm = 1,
    /// `EIO`: the data could not be written.
    Io = 5,
    /// `EAGAIN`: not all of it could be done now.
    Again = 11,
    /// `ENOMEM`: not allocated, or a limit is reached.
    NoMem = 12,
    /// `EFAULT`: a kernel could not reach the task's memory.
    Fault = 14,
    /// `EBUSY`: the pages are locked.
    Busy = 16,
    /// `EINVAL`: an argument is malformed.
    Inval = 22,
}

impl Errno {
    /// All numbers, ascending.
    pub const ALL: [Self; 7] = [Self::Perm, Self::Io, Self::Again, Self::NoMem, Self::Fault, Self::Busy, Self::Inval];

    /// Returns the number.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Returns the error with that number, if it is one of these.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Returns the name, such as `ENOMEM`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::Again => "EAGAIN",
            Self::NoMem => "ENOMEM",
            Self::Fault => "EFAULT",
            Self::Busy => "EBUSY",
            Self::Inval => "EINVAL",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod test {
    use super::Errno;

    #[test]
    fn errno_codes_and_names_are_distinct_and_come_back() {
        for (which, errno) in Errno::ALL.into_iter().enumerate() {
            assert_eq!(Errno::from_code(errno.code()), Some(errno));
            assert!(Errno::ALL[which + 1..].iter().all(|other| other.name() != errno.name()));
        }
        assert_eq!(Errno::from_code(0), None);
    }
}
