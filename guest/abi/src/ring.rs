//! Rings of `u64` words: one producer, one consumer.
//!
//! A ring is one header page and [`DATA_PAGES`] data pages behind it. Head and tail count words since the start
//! and never wrap in practice; a word's place is its count modulo [`CAPACITY`]. The producer writes the words of
//! a message, then publishes `tail`; the consumer reads them, then publishes `head`. Both are read with acquire
//! and written with release order as whole aligned `u64`s.
//!
//! A message is a length word (number of words that follow, 1 to [`MAX_MESSAGE`]) and those words. What they mean
//! is between the two ends. Each end treats the other's counter as an allegation: a tail below the head or more
//! than [`CAPACITY`] above it, or a length of 0 or beyond what is there, makes the ring broken for good.

/// Data pages behind the header page.
pub const DATA_PAGES: u64 = 8;
/// All pages of a ring.
pub const PAGES: u64 = 1 + DATA_PAGES;
/// Words that the data pages hold.
pub const CAPACITY: u64 = DATA_PAGES * 512;
/// Most words in a message, without its length word.
pub const MAX_MESSAGE: u64 = 1024;

/// Byte offset of the consumer's counter in the header page.
pub const HEAD_OFFSET: u64 = 0;
/// Byte offset of the producer's counter in the header page; a cache line of its own.
pub const TAIL_OFFSET: u64 = 64;
/// Byte offset of the first data word.
pub const DATA_OFFSET: u64 = 4096;

/// The other end broke the ring's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the other end broke the rules of the message ring")
    }
}

impl core::error::Error for Broken {}

/// Returns how many words are in the ring.
///
/// # Errors
/// [`Broken`] when the counters contradict each other.
pub const fn used(head: u64, tail: u64) -> Result<u64, Broken> {
    match tail.checked_sub(head) {
        Some(used) if used <= CAPACITY => Ok(used),
        _ => Err(Broken),
    }
}

/// Tells whether a message of `length` words can be read, given the words `used` in the ring including its
/// length word.
///
/// # Errors
/// [`Broken`] for a length that no honest producer publishes.
pub const fn check_length(length: u64, used: u64) -> Result<(), Broken> {
    if length == 0 || length > MAX_MESSAGE || length >= used {
        return Err(Broken);
    }
    Ok(())
}

/// Returns the byte offset, from the start of the ring, of the word with that count.
#[must_use]
pub const fn word_offset(count: u64) -> u64 {
    DATA_OFFSET + count % CAPACITY * 8
}

#[cfg(test)]
mod test {
    use super::{Broken, CAPACITY, DATA_OFFSET, MAX_MESSAGE, check_length, used, word_offset};

    #[test]
    fn counters_that_contradict_each_other_break_the_ring() {
        assert_eq!(used(5, 5), Ok(0));
        assert_eq!(used(5, 5 + CAPACITY), Ok(CAPACITY));
        assert_eq!(used(5, 6 + CAPACITY), Err(Broken));
        assert_eq!(used(5, 4), Err(Broken));
        assert_eq!(used(0, u64::MAX), Err(Broken));
    }

    #[test]
    fn lengths_that_are_not_there_break_the_ring() {
        assert_eq!(check_length(1, 2), Ok(()));
        assert_eq!(check_length(MAX_MESSAGE, CAPACITY), Ok(()));
        assert_eq!(check_length(0, 2), Err(Broken));
        assert_eq!(check_length(2, 2), Err(Broken));
        assert_eq!(check_length(MAX_MESSAGE + 1, CAPACITY), Err(Broken));
    }

    #[test]
    fn words_wrap_inside_the_data_pages() {
        assert_eq!(word_offset(0), DATA_OFFSET);
        assert_eq!(word_offset(CAPACITY - 1), DATA_OFFSET + (CAPACITY - 1) * 8);
        assert_eq!(word_offset(CAPACITY), DATA_OFFSET);
        assert_eq!(word_offset(u64::MAX), DATA_OFFSET + (CAPACITY - 1) * 8);
    }
}
