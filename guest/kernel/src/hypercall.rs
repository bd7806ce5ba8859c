//! The guest's side of the contract: fills the call page, rings the doorbell, reads what became of it.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;
use wirevm_abi::call::{CallEntry, CallHeader, MAX_ENTRIES};
use wirevm_abi::{Status, VERSION, feature, op, port};
use wirevm_map::{FrameRun, Host, HostError, SyncMode, SyncRun};

use crate::arch::port_out;
use crate::mem::SharedWords;

/// Words in the header and in an entry.
const HEADER_WORDS: usize = size_of::<CallHeader>() / 8;
const ENTRY_WORDS: usize = size_of::<CallEntry>() / 8;

/// The call page of this processor. Entries are written in place: a copy of a whole page would cost an emulated
/// processor more than the call.
#[derive(Debug)]
struct CallPage(SharedWords);

impl CallPage {
    /// Writes the entry at `index`, below [`MAX_ENTRIES`].
    fn put(&self, index: usize, entry: &CallEntry) {
        let at = HEADER_WORDS + index * ENTRY_WORDS;
        self.0.store(at, entry.control);
        for (offset, word) in entry.words.iter().enumerate() {
            self.0.store(at + 1 + offset, *word);
        }
    }

    /// Reads back the entry at `index`.
    fn get(&self, index: usize) -> CallEntry {
        let at = HEADER_WORDS + index * ENTRY_WORDS;
        CallEntry { control: self.0.load(at), words: core::array::from_fn(|offset| self.0.load(at + 1 + offset)) }
    }

    /// Rings the doorbell for the first `count` entries.
    ///
    /// # Errors
    /// The status of the call as a whole, when the host looked at no entry.
    fn ring(&self, count: usize) -> Result<(), Status> {
        let header = CallHeader::new(count);
        self.0.store(0, header.control);
        self.0.store(1, header.status);
        port_out(port::DOORBELL, 0);
        match (CallHeader { status: self.0.load(1), ..header }).status() {
            Status::OK => Ok(()),
            status => Err(status),
        }
    }

    /// Makes one call of one entry and returns what the host left of it.
    fn call(&self, entry: &CallEntry) -> Result<CallEntry, Status> {
        self.put(0, entry);
        self.ring(1)?;
        Ok(self.get(0))
    }

    /// Makes one call with those entries and hands the status of each, in order, to `answer`.
    fn call_all(&self, entries: impl ExactSizeIterator<Item = CallEntry>, mut answer: impl FnMut(usize, Status)) {
        let count = entries.len();
        for (index, entry) in entries.enumerate() {
            self.put(index, &entry);
        }
        let outcome = self.ring(count);
        for index in 0..count {
            answer(index, outcome.map_or_else(|status| status, |()| self.get(index).status()));
        }
    }
}

/// What the host said in answer to `HELLO`.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    /// Feature bits.
    pub features: u64,
    /// Pages that may be wired.
    pub wire_quota: u64,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sync = if self.features & feature::SYNC != 0 { "sync" } else { "no sync" };
        write!(f, "contract {VERSION}, {sync}, wire quota {} pages", self.wire_quota)
    }
}

/// The host behind the doorbell.
#[derive(Debug)]
pub struct KernelHost {
    page: Mutex<CallPage>,
    /// Whether the host has stable storage for RAM.
    offers_sync: bool,
    /// Whether storage has failed: from then on the host answers no sync with success.
    poisoned: AtomicBool,
}

impl KernelHost {
    /// Takes the call page and says hello.
    ///
    /// # Errors
    /// The host's status when it does not speak this version.
    pub fn connect(page: SharedWords) -> Result<(Self, Hello), Status> {
        let page = CallPage(page);
        let hello = page.call(&CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]))?;
        match hello.status() {
            Status::OK => {
                let [_, features, wire_quota] = hello.words;
                let host = Self {
                    page: Mutex::new(page),
                    offers_sync: features & feature::SYNC != 0,
                    poisoned: AtomicBool::new(false),
                };
                Ok((host, Hello { features, wire_quota }))
            }
            status => Err(status),
        }
    }

    /// Ends the machine with an exit code.
    pub fn exit(&self, code: u8) -> ! {
        let answer = self.page.lock().call(&CallEntry::new(op::EXIT, 0, [u64::from(code), 0, 0]));
        panic!("the host let the guest go on after its exit: {answer:?}")
    }

    /// Wires one call's worth of runs, or none of them.
    fn wire_batch(&self, batch: &[FrameRun]) -> Result<(), HostError> {
        let page = self.page.lock();
        let mut refused = None;
        page.call_all(batch.iter().map(|run| run_entry(op::WIRE, run)), |_, status| {
            if status != Status::OK {
                refused = refused.or(Some(status));
            }
        });
        let Some(status) = refused else { return Ok(()) };
        // The statuses still stand in the page: collect the runs that were wired before the page is used again.
        let wired: Vec<FrameRun> = batch
            .iter()
            .enumerate()
            .filter(|(index, _)| page.get(*index).status() == Status::OK)
            .map(|(_, run)| *run)
            .collect();
        drop(page);
        self.unwire_all(&wired);
        Err(error_of(status))
    }

    fn unwire_all(&self, runs: &[FrameRun]) {
        for batch in runs.chunks(MAX_ENTRIES) {
            self.page.lock().call_all(batch.iter().map(|run| run_entry(op::UNWIRE, run)), |index, status| {
                assert!(status == Status::OK, "the host refused to unwire {:?}: {status}", batch.get(index));
            });
        }
    }
}

/// Returns the entry of an operation on a run of frames.
const fn run_entry(op: u16, run: &FrameRun) -> CallEntry {
    CallEntry::new(op, 0, [run.first, run.pages, 0])
}

const fn error_of(status: Status) -> HostError {
    match status {
        Status::RESOURCE_SHORTAGE => HostError::Shortage,
        Status::QUOTA => HostError::Quota,
        Status::IO_ERROR => HostError::Io,
        Status::POISONED => HostError::Poisoned,
        Status::UNSUPPORTED => HostError::Unsupported,
        Status::BUSY => HostError::Busy,
        _ => HostError::Rejected,
    }
}

impl Host for KernelHost {
    async fn wire(&self, runs: &[FrameRun]) -> Result<(), HostError> {
        for (index, batch) in runs.chunks(MAX_ENTRIES).enumerate() {
            if let Err(error) = self.wire_batch(batch) {
                self.unwire_all(runs.get(..index * MAX_ENTRIES).unwrap_or(&[]));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn unwire(&self, runs: &[FrameRun]) {
        self.unwire_all(runs);
    }

    fn refuses_sync(&self) -> Option<HostError> {
        if !self.offers_sync {
            return Some(HostError::Unsupported);
        }
        self.poisoned.load(Ordering::Acquire).then_some(HostError::Poisoned)
    }

    async fn sync(&self, runs: &mut [SyncRun], mode: SyncMode) {
        let flags = match mode {
            SyncMode::Wait => op::SYNC_WAIT,
            SyncMode::NoWait => op::SYNC_NO_WAIT,
        };
        for batch in runs.chunks_mut(MAX_ENTRIES) {
            let page = self.page.lock();
            for (index, item) in batch.iter().enumerate() {
                page.put(index, &CallEntry::new(op::SYNC, flags, [item.run.first, item.run.pages, 0]));
            }
            let outcome = page.ring(batch.len());
            for (index, item) in batch.iter_mut().enumerate() {
                let status = outcome.map_or_else(|status| status, |()| page.get(index).status());
                if matches!(status, Status::IO_ERROR | Status::POISONED) {
                    self.poisoned.store(true, Ordering::Release);
                }
                // Without completions, *pending* cannot stand for stable storage.
                item.result = match (status, mode) {
                    (Status::OK, _) | (Status::PENDING, SyncMode::NoWait) => Ok(()),
                    _ => Err(error_of(status)),
                };
            }
        }
    }
}
