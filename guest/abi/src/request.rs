//! The host's decoder: from an entry as the guest wrote it to a request that has been checked.
//!
//! The decoder is total: every pattern of four words is either a [`Request`] or a [`Status`].

use crate::call::CallEntry;
use crate::{RamRange, Status, op};

/// Whether a sync waits for stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWait {
    /// Answer when the pages are stable.
    Wait,
    /// Start the writing and answer *pending*.
    NoWait,
}

/// A checked operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`op::HELLO`] by a guest of `version`.
    Hello {
        /// The guest's contract version.
        version: u64,
    },
    /// [`op::WIRE`].
    Wire(RamRange),
    /// [`op::UNWIRE`].
    Unwire(RamRange),
    /// [`op::SYNC`].
    Sync {
        /// The pages.
        range: RamRange,
        /// Wait for stable storage or not.
        wait: SyncWait,
        /// The guest's token.
        token: u64,
    },
    /// [`op::EXIT`].
    Exit {
        /// The guest's exit code.
        code: u8,
    },
}

/// Decodes one entry for a RAM of `ram_pages` pages.
///
/// # Errors
/// [`Status::UNSUPPORTED`] for an operation or flag that this version does not offer, [`Status::INVALID_ARGUMENT`]
/// and [`Status::INVALID_ADDRESS`] as the [operation](crate::op) says.
pub fn decode(entry: &CallEntry, ram_pages: u64) -> Result<Request, Status> {
    let [first, second, third] = entry.words;
    match entry.op() {
        op::HELLO => match (entry.flags(), second, third) {
            (0, 0, 0) => Ok(Request::Hello { version: first }),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::WIRE => match (entry.flags(), third) {
            (0, 0) => Ok(Request::Wire(RamRange::new(first, second, ram_pages)?)),
            (op::WIRE_ON_FAULT, 0) => Err(Status::UNSUPPORTED),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::UNWIRE => match (entry.flags(), third) {
            (0, 0) => Ok(Request::Unwire(RamRange::new(first, second, ram_pages)?)),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::SYNC => {
            let wait = match entry.flags() {
                op::SYNC_WAIT => SyncWait::Wait,
                op::SYNC_NO_WAIT => SyncWait::NoWait,
                _ => return Err(Status::INVALID_ARGUMENT),
            };
            Ok(Request::Sync { range: RamRange::new(first, second, ram_pages)?, wait, token: third })
        }
        op::EXIT => match (entry.flags(), u8::try_from(first), second, third) {
            (0, Ok(code), 0, 0) => Ok(Request::Exit { code }),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        _ => Err(Status::UNSUPPORTED),
    }
}

#[cfg(test)]
mod test {
    use super::{Request, SyncWait, decode};
    use crate::call::CallEntry;
    use crate::{Status, op};

    const RAM: u64 = 512;

    fn try_all(entry: &CallEntry) -> Result<Request, Status> {
        let request = decode(entry, RAM);
        if let Ok(Request::Wire(range) | Request::Unwire(range) | Request::Sync { range, .. }) = request {
            assert!(range.pages() > 0 && range.end() <= RAM && range.end() - range.first() == range.pages());
        }
        request
    }

    #[test]
    fn each_operation_decodes() {
        let range = crate::RamRange::new(3, 5, RAM).expect("inside");
        let cases = [
            (CallEntry::new(op::HELLO, 0, [1, 0, 0]), Request::Hello { version: 1 }),
            (CallEntry::new(op::WIRE, 0, [3, 5, 0]), Request::Wire(range)),
            (CallEntry::new(op::UNWIRE, 0, [3, 5, 0]), Request::Unwire(range)),
            (
                CallEntry::new(op::SYNC, op::SYNC_WAIT, [3, 5, 9]),
                Request::Sync { range, wait: SyncWait::Wait, token: 9 },
            ),
            (
                CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [3, 5, 9]),
                Request::Sync { range, wait: SyncWait::NoWait, token: 9 },
            ),
            (CallEntry::new(op::EXIT, 0, [255, 0, 0]), Request::Exit { code: 255 }),
        ];
        for (entry, request) in cases {
            assert_eq!(try_all(&entry), Ok(request));
        }
    }

    #[test]
    fn what_is_malformed_or_not_offered_has_its_status() {
        let cases = [
            (CallEntry::new(op::HELLO, 1, [1, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::HELLO, 0, [1, 0, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::WIRE, 0, [3, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::WIRE, 0, [3, 5, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::WIRE, op::WIRE_ON_FAULT, [3, 5, 0]), Status::UNSUPPORTED),
            (CallEntry::new(op::WIRE, 2, [3, 5, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::WIRE, 0, [512, 1, 0]), Status::INVALID_ADDRESS),
            (CallEntry::new(op::UNWIRE, 1, [3, 5, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::UNWIRE, 0, [u64::MAX, 2, 0]), Status::INVALID_ADDRESS),
            (CallEntry::new(op::SYNC, 0, [3, 5, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::SYNC, 3, [3, 5, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::EXIT, 0, [256, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DATA_REQUEST, 0, [0; 3]), Status::UNSUPPORTED),
            (CallEntry::new(0, 0, [0; 3]), Status::UNSUPPORTED),
            (CallEntry::new(u16::MAX, u32::MAX, [u64::MAX; 3]), Status::UNSUPPORTED),
        ];
        for (entry, status) in cases {
            assert_eq!(try_all(&entry), Err(status), "{entry:?}");
        }
    }

    #[test]
    fn every_edge_pattern_is_a_request_or_a_status() {
        let mut edges = [0_u64; 64 * 3 + 8];
        let mut filled = 0;
        for power in 0..64 {
            for delta in [0_u64, 1, u64::MAX] {
                edges[filled] = (1_u64 << power).wrapping_add(delta);
                filled += 1;
            }
        }
        edges[filled..].copy_from_slice(&[0, u64::MAX, RAM - 1, RAM, RAM + 1, RAM * 2, u64::MAX - RAM, 3]);
        for op in 0..=12_u64 {
            for flags in [0, 1, 2, 3, u64::from(u32::MAX)] {
                let control = op | flags << 32;
                for first in edges {
                    for second in edges {
                        let _seen = try_all(&CallEntry { control, words: [first, second, 0] });
                        let _seen = try_all(&CallEntry { control, words: [first, second, u64::MAX] });
                    }
                }
            }
        }
    }
}
