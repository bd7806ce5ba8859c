//! The call page.
//!
//! The answer to a doorbell covers the header and the entries that the host looked at, all their words: those that
//! are neither status nor result are written as the host read them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Status, VERSION};

/// Most entries in one call.
pub const MAX_ENTRIES: usize = 126;

/// The first 64 bytes of a call page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallHeader {
    /// Bits 0–31: contract version; bits 32–63: number of entries. Written by the guest.
    pub control: u64,
    /// Bits 0–15: [`Status`] of the call as a whole. The guest presets *not done*; the host answers.
    pub status: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

/// One operation of a call, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallEntry {
    /// Bits 0–15: [operation](crate::op); bits 16–31: [`Status`], preset by the guest to *not done* and answered
    /// by the host; bits 32–63: flags of the operation.
    pub control: u64,
    /// Arguments in, results out; their meaning and unit are the operation's.
    pub words: [u64; 3],
}

/// A whole call page: one page, owned by one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallPage {
    /// The header.
    pub header: CallHeader,
    /// The entries; those at and past the header's count mean nothing.
    pub entries: [CallEntry; MAX_ENTRIES],
}

const _: () = assert!(size_of::<CallHeader>() == 64 && size_of::<CallEntry>() == 32);
const _: () = assert!(size_of::<CallPage>() == 4096 && align_of::<CallPage>() == 8);

#[expect(clippy::cast_possible_truncation, reason = "a field of a word is cut out on purpose")]
const fn low16(word: u64) -> u16 {
    word as u16
}

impl CallHeader {
    /// Returns the header of a call of this version with `entries` entries, status *not done*.
    #[must_use]
    pub const fn new(entries: usize) -> Self {
        Self { control: VERSION | (entries as u64) << 32, status: Status::NOT_DONE.bits() as u64, reserved: [0; 6] }
    }

    /// Returns the contract version that the guest speaks.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.control & 0xffff_ffff
    }

    /// Returns the number of entries that the guest claims.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.control >> 32
    }

    /// Returns the status of the call as a whole.
    pub const fn status(&self) -> Status {
        Status::from_bits(low16(self.status))
    }

    /// Checks version, entry count and reserved words and returns the count.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for another version, [`Status::INVALID_ARGUMENT`] for a count of 0 or above
    /// [`MAX_ENTRIES`] and for a reserved word that is not zero.
    pub fn check(&self) -> Result<usize, Status> {
        if self.version() != VERSION {
            return Err(Status::UNSUPPORTED);
        }
        match usize::try_from(self.count()) {
            Ok(count @ 1..=MAX_ENTRIES) if self.reserved == [0; 6] => Ok(count),
            _ => Err(Status::INVALID_ARGUMENT),
        }
    }
}

impl CallEntry {
    /// Returns an entry with status *not done*.
    #[must_use]
    pub const fn new(op: u16, flags: u32, words: [u64; 3]) -> Self {
        Self { control: op as u64 | (Status::NOT_DONE.bits() as u64) << 16 | (flags as u64) << 32, words }
    }

    /// Returns the operation's number.
    #[must_use]
    pub const fn op(&self) -> u16 {
        low16(self.control)
    }

    /// Returns the entry's status.
    pub const fn status(&self) -> Status {
        Status::from_bits(low16(self.control >> 16))
    }

    /// Returns the flags.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        (self.control >> 32) as u32
    }

    /// Sets the status and leaves operation and flags.
    pub const fn set_status(&mut self, status: Status) {
        self.control = self.control & !(0xffff << 16) | (status.bits() as u64) << 16;
    }
}

#[cfg(test)]
mod test {
    use super::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
    use crate::{Status, op};
    use zerocopy::{FromZeros, IntoBytes};

    #[test]
    fn golden_bytes_of_a_header_and_an_entry() {
        let mut page = CallPage::new_zeroed();
        page.header = CallHeader::new(2);
        page.entries[0] = CallEntry::new(op::SYNC, op::SYNC_WAIT, [0x0102_0304, 7, 0xfeed]);
        let bytes = page.as_bytes();
        assert_eq!(bytes[..16], [1, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..64], [0; 48]);
        assert_eq!(
            bytes[64..96],
            [
                4, 0, 0xff, 0xff, 1, 0, 0, 0, // op, status, flags
                4, 3, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xed, 0xfe, 0, 0, 0, 0, 0, 0,
            ]
        );
    }

    #[test]
    fn a_status_replaces_only_itself() {
        let mut entry = CallEntry::new(op::WIRE, 0xdead_beef, [1, 2, 3]);
        assert_eq!(entry.status(), Status::NOT_DONE);
        entry.set_status(Status::QUOTA);
        assert_eq!((entry.op(), entry.status(), entry.flags()), (op::WIRE, Status::QUOTA, 0xdead_beef));
        entry.set_status(Status::OK);
        assert_eq!((entry.op(), entry.status(), entry.flags()), (op::WIRE, Status::OK, 0xdead_beef));
    }

    #[test]
    fn header_of_another_version_or_count_or_reserved_word_is_refused() {
        assert_eq!(CallHeader::new(1).check(), Ok(1));
        assert_eq!(CallHeader::new(MAX_ENTRIES).check(), Ok(MAX_ENTRIES));
        assert_eq!(CallHeader::new(0).check(), Err(Status::INVALID_ARGUMENT));
        assert_eq!(CallHeader::new(127).check(), Err(Status::INVALID_ARGUMENT));
        let other = CallHeader { control: 2 | 1 << 32, ..CallHeader::new(1) };
        assert_eq!(other.check(), Err(Status::UNSUPPORTED));
        let reserved = CallHeader { reserved: [0, 0, 0, 0, 0, 1], ..CallHeader::new(1) };
        assert_eq!(reserved.check(), Err(Status::INVALID_ARGUMENT));
        assert_eq!(CallHeader { control: u64::MAX, ..CallHeader::new(1) }.check(), Err(Status::UNSUPPORTED));
    }
}
