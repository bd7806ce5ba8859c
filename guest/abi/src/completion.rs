//! The completion ring: how calls that were answered *pending* end.
//!
//! One header page and [`DATA_PAGES`] data pages behind it; one producer (the host), one consumer (the guest). Head and tail
//! count completions since the start; a completion's place is its count modulo [`CAPACITY`]. The host writes the words of a
//! completion, then publishes the tail; the guest reads them, then publishes the head. Both counters are read with acquire and
//! written with release order as whole aligned `u64`s.
//!
//! The ring can't overflow: the host answers *busy* to an entry whose completion would have no place, counting the places of all
//! that it has accepted and not completed, and of all completions that the guest has not taken.
//!
//! The host announces completions by an interrupt with [`BootInfo::completion_vector`](crate::boot::BootInfo), unless the guest
//! has stored something else than 0 in the word at [`QUIET_OFFSET`]. A guest that drains the ring stores 1 there, takes what
//! there is, stores 0, and looks at the tail once more before it waits.

/// Data pages behind the header page.
pub const DATA_PAGES: u64 = 8;
/// All pages of the ring.
pub const PAGES: u64 = 1 + DATA_PAGES;
/// Words in a completion.
pub const WORDS: usize = 4;
/// Bytes of a completion.
pub const BYTES: u64 = 32;
/// Completions that the data pages hold.
pub const CAPACITY: u64 = DATA_PAGES * 4096 / BYTES;

/// Byte offset of the guest's counter in the header page.
pub const HEAD_OFFSET: u64 = 0;
/// Byte offset of the host's counter in the header page; a cache line of its own.
pub const TAIL_OFFSET: u64 = 64;
/// Byte offset of the word by which the guest says that it needs no interrupt now.
pub const QUIET_OFFSET: u64 = 128;
/// Byte offset of the first completion.
pub const DATA_OFFSET: u64 = 4096;

/// How an entry that was answered *pending* ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The entry's token.
    pub token: u64,
    /// What became of it; never *pending*.
    pub status: crate::Status,
    /// First page of the entry's range, counted as the entry counts, that is known to have failed; [`NO_PAGE`] where none is.
    pub first_failed_page: u64,
}

/// No page: [`Completion::first_failed_page`].
pub const NO_PAGE: u64 = u64::MAX;

impl Completion {
    /// Returns the words as they stand in the ring: token, status, page, zero.
    #[must_use]
    pub const fn to_words(self) -> [u64; WORDS] {
        [self.token, self.status.bits() as u64, self.first_failed_page, 0]
    }

    /// Reads words of the ring.
    #[must_use]
    pub fn from_words([token, status, first_failed_page, _]: [u64; WORDS]) -> Self {
        // A status that does not fit is none that anybody knows.
        let status = u16::try_from(status).unwrap_or(crate::Status::NOT_DONE.bits());
        Self { token, status: crate::Status::from_bits(status), first_failed_page }
    }
}

/// Returns how many completions are in the ring.
///
/// # Errors
/// [`Broken`](crate::ring::Broken) when the counters contradict each other.
pub const fn used(head: u64, tail: u64) -> Result<u64, crate::ring::Broken> {
    match tail.checked_sub(head) {
        Some(used) if used <= CAPACITY => Ok(used),
        _ => Err(crate::ring::Broken),
    }
}

/// Returns the byte offset, from the start of the ring, of the first word of the completion with that count.
#[must_use]
pub const fn offset(count: u64) -> u64 {
    DATA_OFFSET + count % CAPACITY * BYTES
}

#[cfg(test)]
mod test {
    use super::{CAPACITY, Completion, DATA_OFFSET, NO_PAGE, offset, used};
    use crate::Status;
    use crate::ring::Broken;

    #[test]
    fn golden_words_of_a_completion() {
        let completion = Completion { token: 7, status: Status::IO_ERROR, first_failed_page: NO_PAGE };
        assert_eq!(completion.to_words(), [7, 5, u64::MAX, 0]);
        assert_eq!(Completion::from_words(completion.to_words()), completion);
        assert_eq!(Completion::from_words([7, 1 << 16, 0, 0]).status, Status::NOT_DONE);
    }

    #[test]
    fn counters_that_contradict_each_other_break_the_ring() {
        assert_eq!((used(3, 3), used(3, 3 + CAPACITY)), (Ok(0), Ok(CAPACITY)));
        assert_eq!((used(3, 4 + CAPACITY), used(3, 2)), (Err(Broken), Err(Broken)));
    }

    #[test]
    fn completions_wrap_inside_the_data_pages() {
        assert_eq!(
            (offset(0), offset(CAPACITY - 1), offset(CAPACITY)),
            (DATA_OFFSET, DATA_OFFSET + 1023 * 32, DATA_OFFSET)
        );
    }
}
