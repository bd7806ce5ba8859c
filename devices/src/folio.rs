//! In what pieces the kernel keeps guest RAM's file in memory, chosen once for each machine.
//!
//! A piece of the page cache is a *folio*. A store to one byte of a folio makes all of it dirty, and a sync writes all of it; one of
//! 2 MiB is wired as fast as one page. No size serves both, so the user chooses.
//!
//! No system call sets the size of a folio. What decides it on Linux 6.18, and what the policies do about it:
//!
//! - A fault in a mapping brings in read-ahead, whose folios grow to 2 MiB as it goes on; with `MADV_RANDOM`, given before the first
//!   touch, it brings in a single page.
//! - A read through a description behaves likewise, and `POSIX_FADV_RANDOM` is the advice. `POSIX_FADV_WILLNEED` makes single pages.
//! - A write makes folios as large as itself, where nothing is in the cache yet. So a new file's image can stay as it was
//!   written.

use std::fmt;
use std::str::FromStr;

use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE};

/// What guest RAM's folios are to be good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FolioPolicy {
    /// Single pages: a sync of one page writes one page. Wiring takes the longest.
    #[default]
    SmallSync,
    /// 64 KiB: a new file's image is all in such folios. What is read from storage is in folios of at most this size, most of it of
    /// this size where runs of more than a megabyte are wired.
    Balanced,
    /// As the kernel reads ahead, up to 2 MiB: wiring costs next to nothing, and a sync of one page writes up to 2 MiB.
    Bulk,
}

/// Error of reading a [`FolioPolicy`] from text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown folio policy '{text}': expected small-sync, balanced or bulk")]
pub struct FolioPolicyError {
    text: String,
}

impl FolioPolicy {
    /// All policies, by the size of their folios.
    pub const ALL: [Self; 3] = [Self::SmallSync, Self::Balanced, Self::Bulk];

    /// Returns the policy's name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SmallSync => "small-sync",
            Self::Balanced => "balanced",
            Self::Bulk => "bulk",
        }
    }

    /// Returns the most bytes that a folio should have: what a sync of one page writes at most.
    #[must_use]
    pub const fn most_bytes(self) -> u64 {
        match self {
            Self::SmallSync => PAGE_SIZE,
            Self::Balanced => 64 << 10,
            Self::Bulk => LARGE_PAGE_SIZE,
        }
    }

    /// Tells whether mappings and descriptions are told that access is random, so that the kernel reads nothing ahead by itself.
    #[must_use]
    pub const fn is_read_by_pages(self) -> bool {
        !matches!(self, Self::Bulk)
    }

    /// Tells whether what making a file leaves in the cache is in folios of the right size, because it was written in such pieces.
    pub(crate) const fn keeps_what_was_written(self) -> bool {
        !matches!(self, Self::SmallSync)
    }
}

impl fmt::Display for FolioPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FolioPolicy {
    type Err = FolioPolicyError;

    /// Reads a policy by its name, in lower case.
    ///
    /// # Errors
    /// [`FolioPolicyError`] for any other text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| FolioPolicyError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod test {
    use super::FolioPolicy;

    #[test]
    fn policies_are_read_by_the_names_they_show() {
        for policy in FolioPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!(FolioPolicy::default(), FolioPolicy::SmallSync);
        let error = "Bulk".parse::<FolioPolicy>().expect_err("lower case only").to_string();
        assert_eq!(error, "unknown folio policy 'Bulk': expected small-sync, balanced or bulk");
    }
}
