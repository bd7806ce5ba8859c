//! Words in, words out.

use alloc::vec::Vec;
use core::fmt;

use crate::pattern::Pattern;

/// Words that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message is malformed")
    }
}

impl core::error::Error for Malformed {}

/// Reads words in order.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u64]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(words: &'a [u64]) -> Self {
        Self(words)
    }

    pub(crate) fn word(&mut self) -> Result<u64, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn words<const N: usize>(&mut self) -> Result<[u64; N], Malformed> {
        let (&first, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let len = usize::try_from(self.word()?).map_err(|_| Malformed)?;
        let (words, rest) = self.0.split_at_checked(len.div_ceil(8)).ok_or(Malformed)?;
        self.0 = rest;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(len);
        Ok(bytes)
    }

    pub(crate) fn pattern(&mut self) -> Result<Pattern, Malformed> {
        Pattern::new(&self.bytes()?).map_err(|_| Malformed)
    }

    /// Says `value` if every word was read.
    pub(crate) fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(value) } else { Err(Malformed) }
    }
}

/// Appends a byte string: its length in bytes, then the bytes in words, the last padded with zero.
pub(crate) fn put_bytes(words: &mut Vec<u64>, bytes: &[u8]) {
    words.push(bytes.len() as u64);
    let (whole, rest) = bytes.as_chunks::<8>();
    words.extend(whole.iter().map(|chunk| u64::from_le_bytes(*chunk)));
    if !rest.is_empty() {
        let mut last = [0; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        words.push(u64::from_le_bytes(last));
    }
}
