//! What a storm must not meet.

use core::fmt;

use crate::process::Ended;
use crate::{Errno, KernReturn};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A call of Mach's answered what it should not.
    Mach(&'static str, KernReturn),
    /// A call of POSIX's did.
    Posix(&'static str, Errno),
    /// A call that is to be refused was not.
    Granted(&'static str),
    /// Memory does not hold what was written.
    Memory {
        /// The word's address.
        address: u64,
        /// What it holds.
        found: u64,
        /// What was written.
        expected: u64,
    },
    /// A page that was locked or wired is not resident.
    NotResident {
        /// Its address.
        address: u64,
    },
    /// A child did not end as it should.
    Child(Ended),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mach(call, code) => write!(f, "{call} answered {code}"),
            Self::Posix(call, code) => write!(f, "{call} answered {code}"),
            Self::Granted(what) => write!(f, "{what} was granted"),
            Self::Memory { address, found, expected } => {
                write!(f, "the word at {address:#x} is {found:#x} and should be {expected:#x}")
            }
            Self::NotResident { address } => write!(f, "the page at {address:#x} is locked and not resident"),
            Self::Child(ended) => write!(f, "a child ended with {ended:?}"),
        }
    }
}

impl core::error::Error for Trouble {}
