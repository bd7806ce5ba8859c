//! A task's memory, page by page, with the map putting faults right.

use alloc::vec;
use alloc::vec::Vec;

use wirevm_map::{KernReturn, PAGE_SIZE, Ports, Prot, VmMap};

use crate::command::MAX_READ_BYTES;
use crate::pattern::Pattern;
use crate::platform::{AccessFault, Platform};
use crate::reply::Reply;

/// Calls `access(address, offset into the range, bytes)` page by page, letting the map put a fault right.
async fn access<P: Ports, T>(
    map: &VmMap<P>,
    address: u64,
    size: u64,
    right: Prot,
    mut access: impl FnMut(u64, u64, usize) -> Result<Option<T>, AccessFault> + Send,
) -> Result<Option<T>, KernReturn> {
    let end = address.checked_add(size).ok_or(KernReturn::InvalidAddress)?;
    let mut at = address;
    while at < end {
        let page_end = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE);
        let length = usize::try_from(page_end.min(end) - at).map_err(|_| KernReturn::InvalidArgument)?;
        match access(at, at - address, length) {
            Ok(None) => at = page_end,
            Ok(found) => return Ok(found),
            Err(AccessFault) => map.fault(at, right).await?,
        }
    }
    Ok(None)
}

/// Fills a range with a pattern.
pub(crate) async fn write<P: Ports>(
    map: &VmMap<P>,
    platform: &impl Platform<P>,
    address: u64,
    size: u64,
    pattern: Pattern,
) -> Result<(), KernReturn> {
    let fill = Fill::new(pattern);
    let store = |at, offset, length| platform.store(map, at, fill.bytes(offset, length)).map(|()| None::<()>);
    access(map, address, size, Prot::WRITE, store).await.map(|_| ())
}

/// Compares a range with a pattern.
pub(crate) async fn expect<P: Ports>(
    map: &VmMap<P>,
    platform: &impl Platform<P>,
    address: u64,
    size: u64,
    pattern: Pattern,
) -> Reply {
    let fill = Fill::new(pattern);
    let compare = |at, offset, length| {
        let difference = platform.compare(map, at, fill.bytes(offset, length))?;
        let Some(inside) = difference else { return Ok(None) };
        let mut got = [0];
        platform.load(map, at + inside, &mut got)?;
        let [got] = got;
        Ok(Some(Reply::Mismatch { address: at + inside, expected: pattern.at(offset + inside), got }))
    };
    match access(map, address, size, Prot::READ, compare).await {
        Ok(None) => Reply::Done(KernReturn::Success),
        Ok(Some(mismatch)) => mismatch,
        Err(code) => Reply::Done(code),
    }
}

/// Reads a range of at most [`MAX_READ_BYTES`].
pub(crate) async fn read<P: Ports>(map: &VmMap<P>, platform: &impl Platform<P>, address: u64, size: u64) -> Reply {
    let Some(length) = usize::try_from(size).ok().filter(|_| size <= MAX_READ_BYTES) else {
        return Reply::Malformed;
    };
    let mut bytes = vec![0; length];
    let load = |at, offset, length| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let place = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..length)).unwrap_or(&mut []);
        platform.load(map, at, place).map(|()| None::<()>)
    };
    match access(map, address, size, Prot::READ, load).await {
        Ok(_) => Reply::Bytes(bytes),
        Err(code) => Reply::Done(code),
    }
}

/// A page of a repeated pattern and the rest of one more repetition, so that any page-sized part of a filled range, at any
/// phase, is one slice: stores and comparisons are then single string instructions.
struct Fill {
    period: u64,
    bytes: Vec<u8>,
}

impl Fill {
    fn new(pattern: Pattern) -> Self {
        let period = pattern.bytes().len();
        let wanted = usize::try_from(PAGE_SIZE).unwrap_or(0) + period;
        let mut bytes = Vec::with_capacity(wanted);
        bytes.extend_from_slice(pattern.bytes());
        while bytes.len() < wanted {
            // Doubling: a dozen copies instead of a loop over bytes.
            let more = bytes.len().min(wanted - bytes.len());
            bytes.extend_from_within(..more);
        }
        Self { period: period as u64, bytes }
    }

    /// Returns `length` bytes (at most a page) of the filled range from `offset` on.
    fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        let phase = usize::try_from(offset % self.period).unwrap_or(0);
        self.bytes.get(phase..phase + length).unwrap_or(&[])
    }
}

#[cfg(test)]
mod test {
    use super::Fill;
    use crate::pattern::Pattern;

    #[test]
    fn every_page_at_every_phase_continues_the_pattern() {
        for period in [1, 2, 3, 7, 8, 63, 64] {
            let bytes: alloc::vec::Vec<u8> = (1..=period).collect();
            let pattern = Pattern::new(&bytes).expect("1 to 64 bytes");
            let fill = Fill::new(pattern);
            for offset in [0, 1, 5, 100, 4095, 4096, 1 << 40] {
                let part = fill.bytes(offset, 4096);
                assert_eq!(part.len(), 4096);
                for (at, byte) in (offset..).zip(part) {
                    assert_eq!(*byte, pattern.at(at), "period {period}, offset {at}");
                }
            }
        }
    }
}
