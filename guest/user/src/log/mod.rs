//! A key-value log that survives: records with checksums, appended and synced one by one, in one of two halves of some storage.
//!
//! A half begins with a header: a generation and a checksum. The half with the newer header is in use. When it is full, what
//! is still current is written to the other half as the next generation: records first, synced, then the header. So a header stands
//! only before records that are whole, and what a loss of power cuts off is an unfinished half that nobody looks at, or records at the
//! log's end that were never reported as synced.
//!
//! After a sync that failed nobody knows what will be found: a header that could not be synced may still be written back, and then
//! the half that it is in is the newer one. So nothing more is put until the log is opened again.

mod format;
#[cfg(test)]
mod test;

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::{fmt, mem};

use format::{HEADER_BYTES, RECORD_BYTES, RecordHeader, decode_header, encode_header};
pub use format::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// Bytes that stay, once they are synced.
pub trait Storage {
    /// Why a sync failed.
    type Error: fmt::Display;

    /// Returns the number of bytes.
    fn len(&self) -> usize;

    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out; they are within the storage.
    fn read(&self, offset: usize, to: &mut [u8]);

    /// Copies bytes in; they are within the storage.
    fn write(&mut self, offset: usize, from: &[u8]);

    /// Returns when exactly these bytes, and whatever shares their pages, are stable.
    ///
    /// # Errors
    /// They are not known to be.
    fn sync(&mut self, offset: usize, bytes: usize) -> Result<(), Self::Error>;
}

/// Why a record was not put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError<E> {
    /// A key or value is too long, or what is current fills a half.
    Full,
    /// The storage did not sync. What was put last may or may not be there the next time.
    Sync(E),
    /// A sync has failed before. Nothing is put until the log is opened again.
    Latched,
}

impl<E: fmt::Display> fmt::Display for LogError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the log is full"),
            Self::Sync(error) => write!(f, "the log can't be synced: {error}"),
            Self::Latched => f.write_str("the log takes nothing more, as it could not be synced before"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for LogError<E> {}

/// A value and the number of the put that it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Puts are numbered from 1 on.
    pub sequence: u64,
    /// The value.
    pub value: Vec<u8>,
}

/// A log that is open.
#[derive(Debug)]
pub struct Log<S> {
    storage: S,
    generation: u64,
    /// Where the next record goes, from the half's start.
    end: usize,
    /// Records in the half, those that others have replaced included.
    records: u64,
    /// The number of the last put.
    last: u64,
    current: BTreeMap<Vec<u8>, Entry>,
    /// A sync has failed.
    is_latched: bool,
}

impl<S: Storage> Log<S> {
    /// Opens the log that the storage holds, up to the first record that is not whole; an empty one where there is none.
    pub fn open(storage: S) -> Self {
        let current = BTreeMap::new();
        let mut log =
            Self { storage, generation: 0, end: HEADER_BYTES, records: 0, last: 0, current, is_latched: false };
        log.generation = (0..2).filter_map(|half| log.header(half)).max().unwrap_or(0);
        if log.generation > 0 {
            while log.take_record().is_some() {}
        }
        log
    }

    /// Returns the number of records that were found or put since what is current was last collected.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Returns how many times what is current was collected.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of the last put, 0 if there was none.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Returns what a key has.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.current.get(key)
    }

    /// Returns all keys and what they have, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.current.iter().map(|(key, entry)| (key.as_slice(), entry))
    }

    /// Gives a key a value and returns the put's number when both are stable.
    ///
    /// # Errors
    /// [`LogError`]. After [`LogError::Full`] the log is as it was; after [`LogError::Sync`] every further put is
    /// [`LogError::Latched`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<u64, LogError<S::Error>> {
        if self.is_latched {
            return Err(LogError::Latched);
        }
        let sequence = self.last + 1;
        let header = RecordHeader::new(sequence, key, value).ok_or(LogError::Full)?;
        if self.generation == 0 || self.end + header.bytes() > self.half_bytes() {
            self.collect(header.bytes())?;
        }
        let start = self.append(self.generation, self.end, &header, key, value);
        self.sync(start, header.bytes())?;
        self.note(&header, key, value);
        Ok(sequence)
    }

    /// Begins the next generation with what is current, if there is room for `more` bytes besides.
    fn collect(&mut self, more: usize) -> Result<(), LogError<S::Error>> {
        let generation = self.generation + 1;
        let current = mem::take(&mut self.current);
        let mut kept: Vec<_> = current
            .iter()
            .filter_map(|(key, entry)| Some((RecordHeader::new(entry.sequence, key, &entry.value)?, key, entry)))
            .collect();
        kept.sort_by_key(|(_, _, entry)| entry.sequence);
        let mut end = HEADER_BYTES;
        let needed = end + kept.iter().map(|(header, _, _)| header.bytes()).sum::<usize>();
        let mut result = if needed + more > self.half_bytes() { Err(LogError::Full) } else { Ok(()) };
        if result.is_ok() {
            for (header, key, entry) in &kept {
                self.append(generation, end, header, key, &entry.value);
                end += header.bytes();
            }
            result = self.begin(generation, end);
        }
        if result.is_ok() {
            (self.generation, self.end, self.records) = (generation, end, kept.len() as u64);
        }
        self.current = current;
        result
    }

    /// Makes a half that is written up to `end` the newer one.
    fn begin(&mut self, generation: u64, end: usize) -> Result<(), LogError<S::Error>> {
        let start = self.half_start(generation);
        if end > HEADER_BYTES {
            self.sync(start + HEADER_BYTES, end - HEADER_BYTES)?;
        }
        self.storage.write(start, &encode_header(generation));
        self.sync(start, HEADER_BYTES)
    }

    /// Syncs, and latches the log where that fails.
    fn sync(&mut self, start: usize, bytes: usize) -> Result<(), LogError<S::Error>> {
        self.storage.sync(start, bytes).map_err(|error| {
            self.is_latched = true;
            LogError::Sync(error)
        })
    }

    /// Writes a record and returns where in the storage it begins.
    fn append(&mut self, generation: u64, at: usize, header: &RecordHeader, key: &[u8], value: &[u8]) -> usize {
        let start = self.half_start(generation) + at;
        self.storage.write(start, &header.encode(generation, key, value));
        self.storage.write(start + RECORD_BYTES, key);
        self.storage.write(start + RECORD_BYTES + key.len(), value);
        start
    }

    /// Takes in the record at the end, if a whole one stands there that follows what is known.
    fn take_record(&mut self) -> Option<()> {
        let start = self.half_start(self.generation) + self.end;
        let mut bytes = [0; RECORD_BYTES];
        if self.end + RECORD_BYTES > self.half_bytes() {
            return None;
        }
        self.storage.read(start, &mut bytes);
        let header = RecordHeader::decode(&bytes);
        if header.sequence <= self.last || self.end + header.bytes() > self.half_bytes() {
            return None;
        }
        let mut payload = vec![0; header.key_bytes() + header.value_bytes()];
        self.storage.read(start + RECORD_BYTES, &mut payload);
        let (key, value) = payload.split_at(header.key_bytes());
        if header.encode(self.generation, key, value) != bytes {
            return None;
        }
        self.note(&header, key, value);
        Some(())
    }

    /// Takes note of a record at the end.
    fn note(&mut self, header: &RecordHeader, key: &[u8], value: &[u8]) {
        self.current.insert(key.to_vec(), Entry { sequence: header.sequence, value: value.to_vec() });
        self.last = header.sequence;
        self.end += header.bytes();
        self.records += 1;
    }

    /// Returns the generation whose header a half has.
    fn header(&self, half: u64) -> Option<u64> {
        let start = self.half_start(half);
        let mut bytes = [0; HEADER_BYTES];
        if self.half_bytes() < HEADER_BYTES {
            return None;
        }
        self.storage.read(start, &mut bytes);
        decode_header(&bytes).filter(|generation| generation % 2 == half)
    }

    fn half_bytes(&self) -> usize {
        self.storage.len() / 2
    }

    fn half_start(&self, generation: u64) -> usize {
        if generation.is_multiple_of(2) { 0 } else { self.half_bytes() }
    }
}
