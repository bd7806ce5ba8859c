//! What a disk was asked to do, in order, and what a power cut would leave of it.

use std::ops::Range;

use wirevm_tests::Random;

/// Bytes that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Bytes were written; they are in the disk's own cache.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// All that was written before is on the medium.
    Flush,
}

/// Returns the bytes that [`decode`] reads: for each entry the number of bytes written plus one, or 0 for a flush, then
/// where, then the bytes.
pub fn encode(record: &[Entry]) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in record {
        match entry {
            Entry::Flush => all.extend_from_slice(&[0; 16]),
            Entry::Write { offset, data } => {
                all.extend_from_slice(&(data.len() as u64 + 1).to_le_bytes());
                all.extend_from_slice(&offset.to_le_bytes());
                all.extend_from_slice(data);
            }
        }
    }
    all
}

/// Reads what [`encode`] wrote.
pub fn decode(mut bytes: &[u8]) -> Vec<Entry> {
    let mut record = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(16) {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (length, offset) = (word(0), word(8));
        bytes = rest;
        if length == 0 {
            record.push(Entry::Flush);
        } else {
            let (data, rest) = bytes.split_at(usize::try_from(length - 1).expect("small"));
            record.push(Entry::Write { offset, data: data.to_vec() });
            bytes = rest;
        }
    }
    record
}

/// What stays of the writes that no flush has covered when the power goes.
#[derive(Clone, Debug)]
pub enum Pending {
    /// All: the host crashed, and the disk goes on.
    All,
    /// None.
    None,
    /// Each sector or not, as it happens.
    Some(Random),
}

impl Pending {
    /// Tells whether the next sector stays.
    pub fn stays(&mut self) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Some(random) => random.word() & 1 == 1,
        }
    }
}

/// Returns the disk of `size` bytes, zeros at first, as a crash behind the first `position` entries leaves it. Flushes in
/// `lies` did nothing, though the disk said otherwise.
pub fn image(record: &[Entry], size: usize, position: usize, lies: &Range<usize>, mut pending: Pending) -> Vec<u8> {
    let mut image = vec![0; size];
    let before = &record[..position];
    let is_flush = |(at, entry): (usize, &Entry)| *entry == Entry::Flush && !lies.contains(&at);
    let stable = before.iter().enumerate().rposition(is_flush).map_or(0, |last| last + 1);
    for (at, entry) in before.iter().enumerate() {
        let Entry::Write { offset, data } = entry else { continue };
        let start = usize::try_from(*offset).expect("small");
        for (sector, bytes) in data.chunks(SECTOR).enumerate() {
            if at < stable || pending.stays() {
                image[start + sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    image
}

/// A record reads back, and a crash keeps what a flush has covered.
pub fn model_of_the_disk_keeps_what_a_flush_has_covered() {
    let write = |offset, byte, length| Entry::Write { offset, data: vec![byte; length] };
    let record = [write(0, 1, 1024), Entry::Flush, write(0, 2, 1024), write(2048, 3, 512)];
    assert_eq!(decode(&encode(&record)), record);
    let honest = 0..0;
    let first = |pending| image(&record, 4096, 4, &honest, pending)[..1536].to_vec();
    assert_eq!(first(Pending::None), [vec![1; 1024], vec![0; 512]].concat());
    assert_eq!(first(Pending::All), [vec![2; 1024], vec![0; 512]].concat());
    let torn = (0..64).map(|seed| first(Pending::Some(Random::new(seed)))).filter(|image| image[0] != image[512]);
    assert!(torn.count() > 8, "writes are torn where a sector ends");
    assert_eq!(image(&record, 4096, 1, &honest, Pending::None), [0; 4096]);
    assert_eq!(image(&record, 4096, 4, &(0..4), Pending::None), [0; 4096], "a flush that lies covers nothing");
}
