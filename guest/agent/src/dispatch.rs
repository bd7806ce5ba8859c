//! Carries commands out over a map.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use wirevm_abi::ring::MAX_MESSAGE;
use wirevm_map::{KernReturn, PAGE_SIZE, Placement, Ports, Prot, SyncFlags, VmMap, WireFlags};

use crate::command::{Command, Crash, MAX_READ_BYTES};
use crate::memory::{AccessFault, TaskMemory};
use crate::pattern::Pattern;
use crate::reply::{FrameRow, LayoutRow, Reply};

/// Rows of three words that an answer can hold, behind its id and two words of its own.
const MAX_ROWS: usize = ((MAX_MESSAGE - 3) / 3) as usize;

/// What became of a command.
#[derive(Debug)]
pub enum Answer {
    /// Tell the host this.
    Reply(Reply),
    /// End the machine with this code.
    Exit {
        /// The code.
        code: u8,
    },
    /// End the machine this way.
    Crash(Crash),
}

/// Carries commands out on one task: its map, and its memory as the task itself reaches it.
#[derive(Debug)]
pub struct Agent<P: Ports, M> {
    map: VmMap<P>,
    memory: M,
}

impl<P: Ports, M: TaskMemory> Agent<P, M> {
    /// Returns the agent of the task with that map and memory.
    pub const fn new(map: VmMap<P>, memory: M) -> Self {
        Self { map, memory }
    }

    /// Returns the task's map.
    pub const fn map(&self) -> &VmMap<P> {
        &self.map
    }

    /// Carries out the command in `words` (without its id).
    pub async fn answer(&self, words: &[u64]) -> Answer {
        let Ok(command) = Command::decode(words) else { return Answer::Reply(Reply::Malformed) };
        Answer::Reply(match command {
            Command::Exit { code } => return Answer::Exit { code },
            Command::Crash(crash) => return Answer::Crash(crash),
            Command::Allocate { address, size } => {
                let placement = address.map_or(Placement::Anywhere, Placement::Fixed);
                match self.map.allocate(placement, size).await {
                    Ok(address) => Reply::Address(address),
                    Err(code) => Reply::Done(code),
                }
            }
            Command::Deallocate { address, size } => done(self.map.deallocate(address, size).await),
            Command::Protect { address, size, set_maximum, prot } => {
                done(self.map.protect(address, size, set_maximum, prot).await)
            }
            Command::Wire { start, end, flags } => match u32::try_from(flags) {
                Ok(bits) => done(self.map.wire(start, end, WireFlags::from_bits(bits)).await),
                Err(_) => Reply::Done(KernReturn::InvalidArgument),
            },
            Command::Unwire { start, end, flags } => match u32::try_from(flags) {
                Ok(bits) => done(self.map.unwire(start, end, WireFlags::from_bits(bits)).await),
                Err(_) => Reply::Done(KernReturn::InvalidArgument),
            },
            Command::Sync { address, size, flags } => match u32::try_from(flags) {
                Ok(bits) => done(self.map.msync(address, size, SyncFlags::from_bits(bits)).await),
                Err(_) => Reply::Done(KernReturn::InvalidArgument),
            },
            Command::Write { address, size, pattern } => done(self.write(address, size, pattern).await),
            Command::Expect { address, size, pattern } => self.expect(address, size, pattern).await,
            Command::Read { address, size } => self.read(address, size).await,
            Command::Layout { start, end } => self.layout(start, end),
            Command::Frames { start, end } => self.frames(start, end),
            Command::Check => match self.map.check() {
                Ok(()) => Reply::Done(KernReturn::Success),
                Err(violation) => Reply::Violation(violation.to_string()),
            },
        })
    }

    /// Calls `access(address, offset into the range, bytes)` page by page, letting the map put a fault right.
    async fn access<T>(
        &self,
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
                Err(AccessFault) => self.map.fault(at, right).await?,
            }
        }
        Ok(None)
    }

    async fn write(&self, address: u64, size: u64, pattern: Pattern) -> Result<(), KernReturn> {
        let fill = Fill::new(pattern);
        let store = |at, offset, length| self.memory.store(at, fill.bytes(offset, length)).map(|()| None::<()>);
        self.access(address, size, Prot::WRITE, store).await.map(|_| ())
    }

    async fn expect(&self, address: u64, size: u64, pattern: Pattern) -> Reply {
        let fill = Fill::new(pattern);
        let compare = |at, offset, length| {
            let difference = self.memory.compare(at, fill.bytes(offset, length))?;
            let Some(inside) = difference else { return Ok(None) };
            let mut got = [0];
            self.memory.load(at + inside, &mut got)?;
            let [got] = got;
            Ok(Some(Reply::Mismatch { address: at + inside, expected: pattern.at(offset + inside), got }))
        };
        match self.access(address, size, Prot::READ, compare).await {
            Ok(None) => Reply::Done(KernReturn::Success),
            Ok(Some(mismatch)) => mismatch,
            Err(code) => Reply::Done(code),
        }
    }

    async fn read(&self, address: u64, size: u64) -> Reply {
        let Some(length) = usize::try_from(size).ok().filter(|_| size <= MAX_READ_BYTES) else {
            return Reply::Malformed;
        };
        let mut bytes = vec![0; length];
        let load = |at, offset, length| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let place = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..length)).unwrap_or(&mut []);
            self.memory.load(at, place).map(|()| None::<()>)
        };
        match self.access(address, size, Prot::READ, load).await {
            Ok(_) => Reply::Bytes(bytes),
            Err(code) => Reply::Done(code),
        }
    }

    fn layout(&self, start: u64, end: u64) -> Reply {
        let rows: Vec<LayoutRow> = self
            .map
            .layout(start / PAGE_SIZE, end.div_ceil(PAGE_SIZE))
            .into_iter()
            .map(|row| LayoutRow {
                pages: row.pages,
                wired_count: u64::from(row.wired_count),
                user_wired: row.user_wired,
            })
            .collect();
        if rows.len() <= MAX_ROWS { Reply::Layout(rows) } else { Reply::Malformed }
    }

    fn frames(&self, start: u64, end: u64) -> Reply {
        let rows: Vec<FrameRow> = self
            .map
            .frames(start / PAGE_SIZE, end.div_ceil(PAGE_SIZE))
            .into_iter()
            .map(|row| FrameRow { pages: row.pages, frames: row.frames })
            .collect();
        if rows.len() <= MAX_ROWS { Reply::Frames(rows) } else { Reply::Malformed }
    }
}

fn done(result: Result<(), KernReturn>) -> Reply {
    Reply::Done(result.err().unwrap_or(KernReturn::Success))
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
