//! The host's decoder: from an entry as the guest wrote it to a request that has been checked.
//!
//! The decoder is total: every pattern of four words is either a [`Request`] or a [`Status`].

use crate::call::CallEntry;
use crate::{RamRange, Status, StoreName, op};

/// Pages of RAM and the pages of a store that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRun {
    /// The store's number, as the guest says.
    pub store: u16,
    /// The RAM pages: 1 to [`op::MAX_DATA_PAGES`].
    pub ram: RamRange,
    /// The store's page that the first of them is. The last one's number fits as well.
    pub first: u64,
    /// The guest's token.
    pub token: u64,
}

/// How a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuStart {
    /// Its index, as the guest says: at least 1, of which a machine may have fewer.
    pub vcpu: u32,
    /// The virtual address of its first instruction; canonical.
    pub entry: u64,
    /// What it finds in `RDI`.
    pub argument: u64,
}

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
    /// [`op::DATA_REQUEST`].
    DataRequest(DataRun),
    /// [`op::DATA_RETURN`].
    DataReturn(DataRun),
    /// [`op::SYNCHRONIZE`].
    Synchronize {
        /// The store's number, as the guest says.
        store: u16,
        /// First page of the store.
        first: u64,
        /// How many pages, at least 1; `first + pages` fits.
        pages: u64,
        /// The guest's token.
        token: u64,
    },
    /// [`op::STAT`].
    Stat {
        /// What about; known or not.
        selector: u64,
    },
    /// [`op::DISCARD`].
    Discard(RamRange),
    /// [`op::OPEN_STORE`].
    OpenStore {
        /// Its name.
        name: StoreName,
        /// How many pages it must have, at least 1.
        pages: u64,
        /// Whether the host keeps no copy of what it supplies.
        exclusive: bool,
    },
    /// [`op::CLOSE_STORE`].
    CloseStore {
        /// The store's number, as the guest says.
        store: u16,
    },
    /// [`op::START_VCPU`].
    StartVcpu(VcpuStart),
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
        op::DATA_REQUEST => data_run(entry, ram_pages).map(Request::DataRequest),
        op::DATA_RETURN => data_run(entry, ram_pages).map(Request::DataReturn),
        op::SYNCHRONIZE => match first.checked_add(second) {
            Some(_) if second > 0 => {
                Ok(Request::Synchronize { store: store(entry)?, first, pages: second, token: third })
            }
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::STAT => match (entry.flags(), second, third) {
            (0, 0, 0) => Ok(Request::Stat { selector: first }),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::DISCARD => match (entry.flags(), third) {
            (0, 0) => Ok(Request::Discard(RamRange::new(first, second, ram_pages)?)),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::OPEN_STORE => match (entry.flags(), StoreName::from_words([first, second])) {
            (flags @ (0 | op::STORE_EXCLUSIVE), Ok(name)) if third > 0 => {
                Ok(Request::OpenStore { name, pages: third, exclusive: flags == op::STORE_EXCLUSIVE })
            }
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::CLOSE_STORE => match (entry.flags(), u16::try_from(first), second, third) {
            (0, Ok(store), 0, 0) => Ok(Request::CloseStore { store }),
            _ => Err(Status::INVALID_ARGUMENT),
        },
        op::START_VCPU => match (entry.flags(), u32::try_from(first)) {
            (0, Ok(vcpu @ 1..)) if is_canonical(second) => {
                Ok(Request::StartVcpu(VcpuStart { vcpu, entry: second, argument: third }))
            }
            _ => Err(Status::INVALID_ARGUMENT),
        },
        _ => Err(Status::UNSUPPORTED),
    }
}

/// Tells whether a processor takes `address` as a virtual one: its bits from 47 on are alike.
const fn is_canonical(address: u64) -> bool {
    matches!(address >> 47, 0 | 0x1_ffff)
}

/// Returns the store's number in an entry's flags, of which nothing else may be set.
fn store(entry: &CallEntry) -> Result<u16, Status> {
    let flags = entry.flags();
    match (u16::try_from(flags >> op::STORE_SHIFT), flags & ((1 << op::STORE_SHIFT) - 1)) {
        (Ok(store), 0) => Ok(store),
        _ => Err(Status::INVALID_ARGUMENT),
    }
}

fn data_run(entry: &CallEntry, ram_pages: u64) -> Result<DataRun, Status> {
    let [run, first, token] = entry.words;
    let (ram_first, pages) = op::unpack_run(run);
    if pages > op::MAX_DATA_PAGES || first.checked_add(pages).is_none() {
        return Err(Status::INVALID_ARGUMENT);
    }
    Ok(DataRun { store: store(entry)?, ram: RamRange::new(ram_first, pages, ram_pages)?, first, token })
}

#[cfg(test)]
mod test {
    use super::{DataRun, Request, SyncWait, VcpuStart, decode};
    use crate::call::CallEntry;
    use crate::{Status, op};

    const RAM: u64 = 512;
    const TOP_OF_LOWER: u64 = 0x7fff_ffff_ffff;
    const BOTTOM_OF_UPPER: u64 = 0xffff_8000_0000_0000;

    fn start(vcpu: u32, entry: u64, argument: u64) -> Request {
        Request::StartVcpu(VcpuStart { vcpu, entry, argument })
    }

    fn try_all(entry: &CallEntry) -> Result<Request, Status> {
        let request = decode(entry, RAM);
        if let Ok(
            Request::Wire(range)
            | Request::Unwire(range)
            | Request::Sync { range, .. }
            | Request::Discard(range)
            | Request::DataRequest(DataRun { ram: range, .. })
            | Request::DataReturn(DataRun { ram: range, .. }),
        ) = request
        {
            assert!(range.pages() > 0 && range.end() <= RAM && range.end() - range.first() == range.pages());
        }
        if let Ok(Request::StartVcpu(start)) = request {
            // Sign-extended from bit 47, it is itself.
            let extended = i64::from_le_bytes(start.entry.to_le_bytes()) << 16 >> 16;
            assert!(start.vcpu > 0 && extended.to_le_bytes() == start.entry.to_le_bytes());
        }
        request
    }

    #[test]
    fn each_operation_decodes() {
        let range = crate::RamRange::new(3, 5, RAM).expect("inside");
        let data = DataRun { store: 7, ram: range, first: 9, token: 1 };
        let name = crate::StoreName::new("a").expect("a name");
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
            (CallEntry::new(op::DATA_REQUEST, 7 << 16, [3 | 5 << 40, 9, 1]), Request::DataRequest(data)),
            (CallEntry::new(op::DATA_RETURN, 7 << 16, [3 | 5 << 40, 9, 1]), Request::DataReturn(data)),
            (
                CallEntry::new(op::SYNCHRONIZE, 7 << 16, [9, 5, 1]),
                Request::Synchronize { store: 7, first: 9, pages: 5, token: 1 },
            ),
            (CallEntry::new(op::STAT, 0, [99, 0, 0]), Request::Stat { selector: 99 }),
            (CallEntry::new(op::DISCARD, 0, [3, 5, 0]), Request::Discard(range)),
            (CallEntry::new(op::OPEN_STORE, 0, [0x61, 0, 8]), Request::OpenStore { name, pages: 8, exclusive: false }),
            (CallEntry::new(op::OPEN_STORE, 1, [0x61, 0, 8]), Request::OpenStore { name, pages: 8, exclusive: true }),
            (CallEntry::new(op::CLOSE_STORE, 0, [7, 0, 0]), Request::CloseStore { store: 7 }),
            (CallEntry::new(op::START_VCPU, 0, [1, TOP_OF_LOWER, u64::MAX]), start(1, TOP_OF_LOWER, u64::MAX)),
            (CallEntry::new(op::START_VCPU, 0, [15, BOTTOM_OF_UPPER, 0]), start(15, BOTTOM_OF_UPPER, 0)),
            (CallEntry::new(op::START_VCPU, 0, [u32::MAX.into(), u64::MAX, 9]), start(u32::MAX, u64::MAX, 9)),
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
            (CallEntry::new(op::DATA_REQUEST, 1, [3 | 5 << 40, 9, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DATA_REQUEST, 0, [3, 9, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DATA_REQUEST, 0, [511 | 2 << 40, 9, 1]), Status::INVALID_ADDRESS),
            (CallEntry::new(op::DATA_RETURN, 0, [3 | 0x10001 << 40, 9, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DATA_RETURN, 0, [3 | 5 << 40, u64::MAX - 3, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::SYNCHRONIZE, 0, [9, 0, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::SYNCHRONIZE, 0, [9, u64::MAX, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::STAT, 0, [1, 1, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DISCARD, 0, [3, 5, 1]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::DISCARD, 0, [3, 510, 0]), Status::INVALID_ADDRESS),
            (CallEntry::new(op::OPEN_STORE, 2, [0x61, 0, 8]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::OPEN_STORE, 0, [0x61, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::OPEN_STORE, 0, [0x2f, 0, 8]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::CLOSE_STORE, 0, [1 << 16, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::START_VCPU, 1, [1, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::START_VCPU, 0, [0, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::START_VCPU, 0, [1 << 32 | 1, 0, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::START_VCPU, 0, [1, TOP_OF_LOWER + 1, 0]), Status::INVALID_ARGUMENT),
            (CallEntry::new(op::START_VCPU, 0, [1, BOTTOM_OF_UPPER - 1, 0]), Status::INVALID_ARGUMENT),
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
        for op in 0..=u64::from(op::START_VCPU) + 1 {
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
