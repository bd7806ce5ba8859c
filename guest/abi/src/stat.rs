//! Selectors of [`STAT`](crate::op::STAT). Numbers count since the machine's start unless said otherwise.

/// Pages that are wired now.
pub const WIRED_PAGES: u64 = 1;
/// Pages that may be wired.
pub const WIRE_QUOTA_PAGES: u64 = 2;
/// Pages that the host keeps locked now: the wired ones, and those that it could not unlock yet.
pub const LOCKED_PAGES: u64 = 3;
/// Sync requests accepted; consecutive entries of a call are one.
pub const SYNC_REQUESTS: u64 = 4;
/// Flushes of stable storage that answered sync requests: at most one a request, whatever number of ranges it has.
pub const SYNC_FLUSHES: u64 = 5;
/// Pages in accepted sync requests, each counted once a request.
pub const SYNC_PAGES: u64 = 6;
/// Entries that were answered *busy* because a queue or the completion ring was full.
pub const BUSY_ANSWERS: u64 = 7;
/// Completions posted.
pub const COMPLETIONS: u64 = 8;
/// 0, or the host's number for the first storage error.
pub const STORAGE_ERROR: u64 = 9;
/// Stores that are open now.
pub const OPEN_STORES: u64 = 10;
/// Pages read from stores.
pub const STORE_PAGES_IN: u64 = 11;
/// Pages written to stores.
pub const STORE_PAGES_OUT: u64 = 12;
/// Pages given back by [`DISCARD`](crate::op::DISCARD).
pub const DISCARDED_PAGES: u64 = 13;

/// The selectors with the names that people use, in the order of their numbers from 1 on.
pub const NAMES: [&str; 13] = [
    "wired",
    "wire-quota",
    "locked",
    "sync-requests",
    "sync-flushes",
    "sync-pages",
    "busy",
    "completions",
    "storage-error",
    "open-stores",
    "store-pages-in",
    "store-pages-out",
    "discarded",
];

/// Returns the selector of that name.
#[must_use]
pub fn from_name(name: &str) -> Option<u64> {
    NAMES.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, selector)| selector)
}

#[cfg(test)]
mod test {
    use super::{DISCARDED_PAGES, NAMES, SYNC_FLUSHES, WIRED_PAGES, from_name};

    #[test]
    fn names_stand_in_the_order_of_the_selectors() {
        assert_eq!(NAMES.len() as u64, DISCARDED_PAGES);
        assert_eq!((from_name("wired"), from_name("discarded")), (Some(WIRED_PAGES), Some(DISCARDED_PAGES)));
        assert_eq!((from_name("sync-flushes"), from_name("flushes")), (Some(SYNC_FLUSHES), None));
    }
}
