//! Names of stores, as they travel in two words.

use core::fmt;

/// A store's name: 1 to 16 of the characters a to z, 0 to 9, `-`, `_` and `.`, of which the first is no dot.
///
/// So it is a file name that leads nowhere else. In words 1 and 2 of a call its bytes stand from the lowest of word 1 on,
/// with zeros behind them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName([u8; 16]);

/// A text or words that name no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreNameError;

impl fmt::Display for StoreNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store's name is 1 to 16 characters of a-z, 0-9, '-', '_' and '.', and begins with no dot")
    }
}

impl core::error::Error for StoreNameError {}

impl StoreName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`StoreNameError`].
    pub fn new(text: &str) -> Result<Self, StoreNameError> {
        let mut bytes = [0; 16];
        if text.contains('\0') {
            return Err(StoreNameError);
        }
        bytes.get_mut(..text.len()).ok_or(StoreNameError)?.copy_from_slice(text.as_bytes());
        Self::check(bytes)
    }

    /// Reads the two words of a call.
    ///
    /// # Errors
    /// [`StoreNameError`].
    pub fn from_words(words: [u64; 2]) -> Result<Self, StoreNameError> {
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())) {
            *place = byte;
        }
        Self::check(bytes)
    }

    fn check(bytes: [u8; 16]) -> Result<Self, StoreNameError> {
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(length);
        let is_allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        match name.first() {
            Some(first) if *first != b'.' && name.iter().all(is_allowed) && rest.iter().all(|byte| *byte == 0) => {
                Ok(Self(bytes))
            }
            _ => Err(StoreNameError),
        }
    }

    /// Returns the two words of a call.
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        let mut words = [0; 2];
        for (index, byte) in self.0.iter().enumerate() {
            words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        words
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        core::str::from_utf8(self.0.split_at(length).0).unwrap_or("")
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreName({self})")
    }
}

#[cfg(test)]
mod test {
    use super::StoreName;

    #[test]
    fn names_travel_in_two_words_and_back() {
        for text in ["a", "log.0", "0123456789abcdef", "a_b-c..d"] {
            let name = StoreName::new(text).expect("a name");
            assert_eq!((name.as_str(), StoreName::from_words(name.to_words())), (text, Ok(name)));
        }
        assert_eq!(StoreName::new("ab").expect("a name").to_words(), [0x6261, 0]);
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        for text in ["", ".", "..", ".hidden", "a/b", "A", "a b", "a\0", "0123456789abcdefg", "é"] {
            assert!(StoreName::new(text).is_err(), "{text:?}");
        }
        assert!(StoreName::from_words([0x61_00_61, 0]).is_err(), "something behind the end");
        assert!(StoreName::from_words([0, 0x61]).is_err() && StoreName::from_words([u64::MAX; 2]).is_err());
    }
}
