//! The ELF note in a guest image by which a host knows, before boot, that it can run it.
//!
//! Section `.note.wirevm` in a `PT_NOTE` segment: name `"wirevm\0"`, type [`TYPE`], descriptor of 8 bytes: the
//! contract version as a little-endian `u64`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::VERSION;

/// The note's name with its terminating zero.
pub const NAME: [u8; 7] = *b"wirevm\0";
/// The note's type: the contract version.
pub const TYPE: u32 = 1;

/// The whole note as it lies in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub struct AbiNote {
    /// Bytes in the name with its zero.
    pub name_size: u32,
    /// Bytes in the descriptor.
    pub descriptor_size: u32,
    /// [`TYPE`].
    pub note_type: u32,
    /// The name, padded to a multiple of 4.
    pub name: [u8; 8],
    /// The contract version, little-endian, in two halves because a note is aligned to 4.
    pub version: [u32; 2],
}

const _: () = assert!(size_of::<AbiNote>() == 28);

/// The note of an image that speaks this version.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the version")]
pub const ABI_NOTE: AbiNote = AbiNote {
    name_size: NAME.len() as u32,
    descriptor_size: 8,
    note_type: TYPE,
    name: *b"wirevm\0\0",
    version: [VERSION as u32, (VERSION >> 32) as u32],
};

/// Finds the contract version in the bytes of a `PT_NOTE` segment (notes one after the other, each part padded
/// to 4 bytes). Returns `None` when no complete note of that name and type is there.
#[must_use]
pub fn find_version(mut notes: &[u8]) -> Option<u64> {
    loop {
        let (head, rest) = <[u32; 3]>::read_from_prefix(notes).ok()?;
        let [name_size, descriptor_size, note_type] = head;
        let (name, rest) = split_padded(rest, name_size)?;
        let (descriptor, rest) = split_padded(rest, descriptor_size)?;
        if name == NAME && note_type == TYPE {
            return u64::read_from_bytes(descriptor).ok();
        }
        notes = rest;
    }
}

/// Splits off `size` bytes and the padding after them; the last part of a segment may lack its padding.
fn split_padded(bytes: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = usize::try_from(size).ok()?;
    let part = bytes.get(..size)?;
    let padded = size.checked_next_multiple_of(4)?;
    Some((part, bytes.get(padded..).unwrap_or(&[])))
}

#[cfg(test)]
mod test {
    use super::{ABI_NOTE, find_version};
    use crate::VERSION;
    use zerocopy::IntoBytes;

    #[test]
    fn golden_bytes_of_the_note() {
        let golden =
            [7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, b'w', b'i', b'r', b'e', b'v', b'm', 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(ABI_NOTE.as_bytes(), golden);
        assert_eq!(find_version(&golden), Some(VERSION));
    }

    #[test]
    fn note_behind_another_note_is_found_and_a_cut_one_is_not() {
        let mut bytes = [0_u8; 16 + 4 + 28];
        bytes[..20].copy_from_slice(&[4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0, 9, 9, 0, 0]);
        bytes[20..].copy_from_slice(ABI_NOTE.as_bytes());
        assert_eq!(find_version(&bytes), Some(VERSION));
        for end in 0..bytes.len() {
            assert_eq!(find_version(&bytes[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn huge_sizes_are_refused() {
        for at in [0, 4] {
            let mut bytes = [0_u8; 28];
            bytes.copy_from_slice(ABI_NOTE.as_bytes());
            bytes[at..at + 4].fill(0xff);
            assert_eq!(find_version(&bytes), None);
        }
    }
}
