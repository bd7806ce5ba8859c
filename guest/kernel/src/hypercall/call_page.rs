//! The page that a call is written to.

use wirevm_abi::call::{CallEntry, CallHeader};
use wirevm_abi::{Status, port};

use crate::arch::port_out;
use crate::mem::SharedWords;

/// Words in the header and in an entry.
const HEADER_WORDS: usize = size_of::<CallHeader>() / 8;
const ENTRY_WORDS: usize = size_of::<CallEntry>() / 8;

/// The call page of this processor. Entries are written in place: a copy of a whole page would cost an emulated
/// processor more than the call.
#[derive(Debug)]
pub struct CallPage(SharedWords);

impl CallPage {
    /// Takes the page.
    pub const fn new(words: SharedWords) -> Self {
        Self(words)
    }

    /// Writes the entry at `index`, below [`MAX_ENTRIES`](wirevm_abi::call::MAX_ENTRIES).
    pub fn put(&self, index: usize, entry: &CallEntry) {
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

    /// Reads back the status of the entry at `index`, and nothing else of it.
    pub fn status(&self, index: usize) -> Status {
        CallEntry { control: self.0.load(HEADER_WORDS + index * ENTRY_WORDS), words: [0; 3] }.status()
    }

    /// Rings the doorbell for the first `count` entries.
    ///
    /// # Errors
    /// The status of the call as a whole, when the host looked at no entry.
    pub fn ring(&self, count: usize) -> Result<(), Status> {
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
    ///
    /// # Errors
    /// As [`CallPage::ring`].
    pub fn call(&self, entry: &CallEntry) -> Result<CallEntry, Status> {
        self.put(0, entry);
        self.ring(1)?;
        Ok(self.get(0))
    }

    /// Makes one call with those entries and hands the status of each, in order, to `answer`.
    pub fn call_all(&self, entries: impl ExactSizeIterator<Item = CallEntry>, mut answer: impl FnMut(usize, Status)) {
        let count = entries.len();
        for (index, entry) in entries.enumerate() {
            self.put(index, &entry);
        }
        let outcome = self.ring(count);
        for index in 0..count {
            answer(index, outcome.map_or_else(|status| status, |()| self.status(index)));
        }
    }
}
