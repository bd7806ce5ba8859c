//! The one validated range type.

use core::fmt;

use crate::Status;

/// A range of RAM pages that is known to lie inside a RAM of a given size and to hold at least one page.
///
/// A guest's first page and count are allegations until [`RamRange::new`] has checked them; nothing else makes
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RamRange {
    first: u64,
    pages: u64,
}

impl RamRange {
    /// Checks a first page and a page count against a RAM of `ram_pages` pages.
    ///
    /// # Errors
    /// [`Status::INVALID_ARGUMENT`] when `pages` is 0, [`Status::INVALID_ADDRESS`] when the range wraps around
    /// or ends past RAM.
    pub const fn new(first: u64, pages: u64, ram_pages: u64) -> Result<Self, Status> {
        if pages == 0 {
            return Err(Status::INVALID_ARGUMENT);
        }
        match first.checked_add(pages) {
            Some(end) if end <= ram_pages => Ok(Self { first, pages }),
            _ => Err(Status::INVALID_ADDRESS),
        }
    }

    /// Returns the index of the first page.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Returns the number of pages, at least 1.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// Returns the index one past the last page.
    #[must_use]
    pub const fn end(self) -> u64 {
        // `new` proved that this does not wrap.
        self.first.wrapping_add(self.pages)
    }
}

impl fmt::Display for RamRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.first, self.end())
    }
}

#[cfg(test)]
mod test {
    use super::RamRange;
    use crate::Status;

    #[test]
    fn edges_of_ram_are_inside_and_one_past_is_not() {
        assert_eq!(RamRange::new(0, 512, 512).map(RamRange::end), Ok(512));
        assert_eq!(RamRange::new(511, 1, 512).map(RamRange::end), Ok(512));
        assert_eq!(RamRange::new(512, 1, 512), Err(Status::INVALID_ADDRESS));
        assert_eq!(RamRange::new(511, 2, 512), Err(Status::INVALID_ADDRESS));
        assert_eq!(RamRange::new(0, 0, 512), Err(Status::INVALID_ARGUMENT));
        assert_eq!(RamRange::new(u64::MAX, 1, 512), Err(Status::INVALID_ADDRESS));
        assert_eq!(RamRange::new(1, u64::MAX, 512), Err(Status::INVALID_ADDRESS));
        assert_eq!(RamRange::new(u64::MAX, u64::MAX, u64::MAX), Err(Status::INVALID_ADDRESS));
    }
}
