//! Byte patterns that fill memory.

use core::fmt;

/// 1 to 64 bytes that are repeated to fill a range; the range's first byte is the pattern's first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pattern {
    bytes: [u8; Self::MAX_BYTES],
    len: u8,
}

/// A pattern needs 1 to 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyPattern;

impl fmt::Display for EmptyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern has 1 to 64 bytes")
    }
}

impl core::error::Error for EmptyPattern {}

impl Pattern {
    /// Most bytes in a pattern.
    pub const MAX_BYTES: usize = 64;

    /// Returns the pattern of those bytes.
    ///
    /// # Errors
    /// [`EmptyPattern`] for no byte or more than [`Self::MAX_BYTES`].
    pub fn new(pattern: &[u8]) -> Result<Self, EmptyPattern> {
        let mut bytes = [0; Self::MAX_BYTES];
        let len = u8::try_from(pattern.len()).map_err(|_| EmptyPattern)?;
        match bytes.get_mut(..pattern.len()) {
            Some(place) if len > 0 => place.copy_from_slice(pattern),
            _ => return Err(EmptyPattern),
        }
        Ok(Self { bytes, len })
    }

    /// Returns the pattern of one byte.
    #[must_use]
    pub const fn byte(byte: u8) -> Self {
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[0] = byte;
        Self { bytes, len: 1 }
    }

    /// Returns the pattern's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Returns the byte at `offset` bytes into the filled range.
    #[must_use]
    pub fn at(&self, offset: u64) -> u8 {
        let place = offset % u64::from(self.len.max(1));
        usize::try_from(place).ok().and_then(|place| self.bytes().get(place)).copied().unwrap_or(0)
    }

    /// Returns the 8 bytes that repeat from `offset` on as one little-endian word, if the pattern's length divides
    /// 8: then memory can be filled and compared word by word.
    #[must_use]
    pub fn word(&self, offset: u64) -> Option<u64> {
        8_u8.is_multiple_of(self.len)
            .then(|| u64::from_le_bytes(core::array::from_fn(|i| self.at(offset.wrapping_add(i as u64)))))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

/// Shows the pattern as a script writes it: one byte as `0x5a`, more as `hex:5aa5`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.len == 1 { "0x" } else { "hex:" })?;
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod test {
    use super::{EmptyPattern, Pattern};
    use alloc::string::ToString;

    #[test]
    fn pattern_repeats_from_any_offset() {
        let pattern = Pattern::new(b"abc").expect("three bytes");
        let text: alloc::vec::Vec<u8> = (0..7).map(|offset| pattern.at(offset)).collect();
        assert_eq!(text, b"abcabca");
        assert_eq!(pattern.word(0), None);
        assert_eq!(pattern.to_string(), "hex:616263");
    }

    #[test]
    fn word_follows_the_offset() {
        let pattern = Pattern::new(&[1, 2]).expect("two bytes");
        assert_eq!(pattern.word(0), Some(0x0201_0201_0201_0201));
        assert_eq!(pattern.word(3), Some(0x0102_0102_0102_0102));
        assert_eq!(Pattern::byte(0x5a).word(9), Some(0x5a5a_5a5a_5a5a_5a5a));
        assert_eq!(Pattern::byte(0x5a).to_string(), "0x5a");
    }

    #[test]
    fn length_is_1_to_64() {
        assert_eq!(Pattern::new(&[]), Err(EmptyPattern));
        assert_eq!(Pattern::new(&[7; 65]), Err(EmptyPattern));
        assert_eq!(Pattern::new(&[7; 64]).map(|p| p.at(64)), Ok(7));
    }
}
