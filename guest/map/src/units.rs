//! Pages, frames, protections.

use core::fmt;
use core::ops::{BitAnd, BitOr};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A half-open range of virtual page numbers (address / 4096), or of page indices within an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// First page of the range.
    pub start: u64,
    /// One past the last page; never below `start`.
    pub end: u64,
}

impl PageRange {
    /// Returns the range `[start, end)`; a reversed one comes out empty at `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// Returns the number of pages.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Tells whether the range holds no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Tells whether `page` lies in the range.
    #[must_use]
    pub const fn contains(self, page: u64) -> bool {
        self.start <= page && page < self.end
    }

    /// Returns the pages that both ranges hold (empty when they don't meet).
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.start, self.end)
    }
}

/// A run of physically adjacent frames of guest RAM, numbered from the first page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRun {
    /// The first frame.
    pub first: u64,
    /// How many frames, in pages.
    pub pages: u64,
}

impl FrameRun {
    /// Returns the run of `pages` frames from `first`.
    #[must_use]
    pub const fn new(first: u64, pages: u64) -> Self {
        Self { first, pages }
    }

    /// Returns one past the last frame.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.first + self.pages
    }
}

/// What may be done with a page: a set of read, write, execute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prot(u8);

impl Prot {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read.
    pub const READ: Self = Self(1);
    /// Write.
    pub const WRITE: Self = Self(2);
    /// Execute.
    pub const EXECUTE: Self = Self(4);
    /// Read and write, what an allocation starts with.
    pub const DEFAULT: Self = Self(3);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// Returns the set with those bits (1 read, 2 write, 4 execute), or `None` for any other bit.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            #[expect(clippy::cast_possible_truncation, reason = "the arm admits 0 to 7 only")]
            0..=7 => Some(Self(bits as u8)),
            _ => None,
        }
    }

    /// Returns the bits: 1 read, 2 write, 4 execute.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }

    /// Tells whether every right of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the set without the rights of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Tells whether the set is empty.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Prot {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Prot {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |bit, c| if self.contains(bit) { c } else { '-' };
        write!(f, "{}{}{}", letter(Self::READ, 'r'), letter(Self::WRITE, 'w'), letter(Self::EXECUTE, 'x'))
    }
}
