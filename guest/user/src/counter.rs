//! A count that survives: two slots, of which the one with the older count is written, so that a write which is cut off spoils
//! nothing that is needed.

use crate::crc::crc32c;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 24;
/// Bytes from one slot to the other: whoever writes one writes nothing of the other's page.
pub const SLOT_DISTANCE: usize = crate::PAGE_BYTES;

const MAGIC: &[u8; 8] = b"wvcount1";

/// Where the next count goes, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// 0 or 1.
    pub slot: usize,
    /// One more than what was found; 1 where nothing was.
    pub count: u64,
}

/// Returns the bytes of a slot with a count.
#[must_use]
pub fn encode(count: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&count.to_le_bytes());
    let crc = crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&u64::from(crc).to_le_bytes());
    bytes
}

/// Returns the count of a slot, if a whole one stands there.
#[must_use]
pub fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let count = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    (encode(count) == *bytes).then_some(count)
}

/// Returns what follows what the slots hold.
#[must_use]
pub fn next(slots: [&[u8; SLOT_BYTES]; 2]) -> Next {
    let [first, second] = slots.map(decode);
    // Nothing is less than any count, so an empty slot is the one to write.
    Next { slot: usize::from(first > second), count: first.max(second).unwrap_or(0).wrapping_add(1) }
}

#[cfg(test)]
mod test {
    use super::{SLOT_BYTES, decode, encode, next};

    #[test]
    fn counts_go_up_in_turns() {
        let mut slots = [[0; SLOT_BYTES]; 2];
        for expected in 1..=20 {
            let next = next([&slots[0], &slots[1]]);
            assert_eq!(next.count, expected);
            slots[next.slot] = encode(next.count);
        }
        assert_eq!([decode(&slots[0]), decode(&slots[1])], [Some(19), Some(20)]);
    }

    #[test]
    fn count_that_is_cut_off_anywhere_leaves_the_one_before() {
        let slots = [encode(19), encode(20)];
        let new = next([&slots[0], &slots[1]]);
        assert_eq!((new.slot, new.count), (0, 21));
        for written in 0..SLOT_BYTES {
            let mut torn = slots[0];
            torn[..written].copy_from_slice(&encode(21)[..written]);
            let after = next([&torn, &slots[1]]);
            assert!(after == new || after.count == 22 && after.slot == 1, "{written} bytes: {after:?}");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for bit in 0..SLOT_BYTES * 8 {
            let mut bytes = encode(0x1234_5678_9abc);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
    }
}
