//! Flag words of wiring and of synchronisation.

use core::ops::BitOr;

/// What all flag words can do.
macro_rules! flag_word {
    ($Flags:ident) => {
        impl $Flags {
            /// Returns the word with exactly those bits, known or not.
            #[must_use]
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// Returns the bits.
            #[must_use]
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Tells whether every bit of `other` is set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl BitOr for $Flags {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

/// How [`VmMap::wire`](crate::VmMap::wire) and [`VmMap::unwire`](crate::VmMap::unwire) work; the numbers are
/// those of FreeBSD's `VM_MAP_WIRE_*`.
///
/// The word keeps whatever bits it was made of: the operations refuse unknown ones (row A-07 of the
/// semantics table).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WireFlags(u32);

impl WireFlags {
    /// The system's wiring, which nests by count (the absence of [`WireFlags::USER`]).
    pub const SYSTEM: Self = Self(0);
    /// The user's wiring, which is one bit and does not nest.
    pub const USER: Self = Self(1);
    /// Every page of the range must be allocated and readable (the absence of [`WireFlags::HOLESOK`]).
    pub const NOHOLES: Self = Self(0);
    /// Holes and unreadable entries are passed over.
    pub const HOLESOK: Self = Self(2);
    /// Entries that may not be written count as unreadable ones.
    pub const WRITE: Self = Self(4);

    const KNOWN: u32 = Self::USER.0 | Self::HOLESOK.0 | Self::WRITE.0;

    /// Tells whether a bit is set that no flag has.
    #[must_use]
    pub const fn has_unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }

    pub(crate) const fn is_user(self) -> bool {
        self.contains(Self::USER)
    }

    pub(crate) const fn allows_holes(self) -> bool {
        self.contains(Self::HOLESOK)
    }
}

flag_word!(WireFlags);

/// What [`VmMap::mlockall`](crate::VmMap::mlockall) locks; the numbers are those of Linux's `MCL_*`.
///
/// The word keeps whatever bits it was made of: the operation refuses unknown ones (row L-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockAllFlags(u32);

impl LockAllFlags {
    /// What is mapped now.
    pub const CURRENT: Self = Self(1);
    /// What will be mapped.
    pub const FUTURE: Self = Self(2);
    /// Pages only as they become resident.
    pub const ONFAULT: Self = Self(4);

    const KNOWN: u32 = Self::CURRENT.0 | Self::FUTURE.0 | Self::ONFAULT.0;

    /// Tells whether a bit is set that no flag has.
    #[must_use]
    pub const fn has_unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

flag_word!(LockAllFlags);

/// What [`VmMap::msync`](crate::VmMap::msync) does; the numbers are those of XNU `osfmk/mach/vm_sync.h`.
///
/// The word keeps whatever bits it was made of; unknown ones are ignored (row S-08 of the semantics
/// table).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SyncFlags(u32);

impl SyncFlags {
    /// Walk the range and change nothing.
    pub const NONE: Self = Self(0);
    /// Start writing what is dirty; don't wait for stable storage.
    pub const ASYNCHRONOUS: Self = Self(0x01);
    /// Write what is dirty and wait until it is on stable storage.
    pub const SYNCHRONOUS: Self = Self(0x02);
    /// Empty the cache of the range afterwards, wired pages excepted.
    pub const INVALIDATE: Self = Self(0x04);
    /// Forget that unwired pages of internal objects are dirty; stops at a hole.
    pub const KILLPAGES: Self = Self(0x08);
    /// Age unwired pages.
    pub const DEACTIVATE: Self = Self(0x10);
    /// Report holes, after the whole range has been processed.
    pub const CONTIGUOUS: Self = Self(0x20);
    /// Defined and never consulted.
    pub const REUSABLEPAGES: Self = Self(0x40);

    /// Tells whether any bit of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Tells whether pages go to their manager: SYNCHRONOUS or ASYNCHRONOUS, unless the flags [discard](Self::discards).
    #[must_use]
    pub(crate) const fn sends(self) -> bool {
        self.intersects(Self(Self::SYNCHRONOUS.0 | Self::ASYNCHRONOUS.0)) && !self.discards()
    }

    /// Tells whether pages lose content or age: KILLPAGES or DEACTIVATE, which win over sending (row M-07).
    #[must_use]
    pub(crate) const fn discards(self) -> bool {
        self.intersects(Self(Self::KILLPAGES.0 | Self::DEACTIVATE.0))
    }
}

flag_word!(SyncFlags);

/// What [`VmMap::msync_posix`](crate::VmMap::msync_posix) does; the numbers are those of Linux's `MS_*`.
///
/// The word keeps whatever bits it was made of: the operation refuses unknown ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsyncFlags(u32);

impl MsyncFlags {
    /// Only start the writing.
    pub const ASYNC: Self = Self(1);
    /// Empty the cache of the range afterwards.
    pub const INVALIDATE: Self = Self(2);
    /// Wait until the bytes are on stable storage; also what no flag means.
    pub const SYNC: Self = Self(4);

    const KNOWN: u32 = Self::ASYNC.0 | Self::INVALIDATE.0 | Self::SYNC.0;

    /// Tells whether a bit is set that no flag has.
    #[must_use]
    pub const fn has_unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

flag_word!(MsyncFlags);

#[cfg(test)]
mod test {
    use super::{SyncFlags, WireFlags};

    #[test]
    fn wire_flags_every_bit_but_three_is_unknown() {
        for bit in 0..u32::BITS {
            let flags = WireFlags::from_bits(1 << bit);
            assert_eq!(flags.has_unknown(), bit > 2, "bit {bit}");
            assert_eq!(flags.bits(), 1 << bit);
        }
        assert!(!(WireFlags::USER | WireFlags::HOLESOK | WireFlags::WRITE).has_unknown());
    }

    #[test]
    fn sync_flags_union_contains_and_intersects_its_parts() {
        let both = SyncFlags::SYNCHRONOUS | SyncFlags::INVALIDATE;
        assert_eq!(both.bits(), 6);
        assert!(both.contains(SyncFlags::INVALIDATE));
        assert!(!both.contains(both | SyncFlags::CONTIGUOUS));
        assert!(both.intersects(SyncFlags::INVALIDATE | SyncFlags::CONTIGUOUS));
        assert!(!both.intersects(SyncFlags::ASYNCHRONOUS | SyncFlags::CONTIGUOUS));
    }
}
