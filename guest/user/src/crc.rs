//! CRC-32C (Castagnoli), a byte at a time: the instruction for it is not among those that every processor has.

/// The polynomial, its bits from the lowest power on.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 0 { value >> 1 } else { value >> 1 ^ POLYNOMIAL };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// Returns the checksum of bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// Returns the checksum of what `before` is the checksum of, with `bytes` behind it.
#[must_use]
pub fn append(before: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)];
    !bytes.iter().fold(!before, step)
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use proptest::prelude::any;
    use proptest::{collection, prop_assert_eq, proptest};

    use super::{append, crc32c};

    #[test]
    fn checksum_of_the_standards_example() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    proptest! {
        #[test]
        fn checksums_are_those_of_another_implementation(bytes in collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let bytes: Vec<u8> = bytes;
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(append(crc32c(first), second), ::crc32c::crc32c(&bytes));
        }
    }
}
