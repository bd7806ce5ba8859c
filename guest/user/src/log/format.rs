//! What stands where. Numbers are little-endian.
//!
//! A half's header: magic (8 bytes), generation (8), CRC-32C of both (8). A record: CRC-32C (4 bytes) of what follows and of the
//! generation, so that records of the half's earlier use are none; bytes of the key (2) and of the value (2); number of the put (8); key;
//! value; bytes that mean nothing, up to a multiple of 8.

use crate::crc;

/// Bytes of a half's header.
pub(super) const HEADER_BYTES: usize = 24;
/// Bytes of a record before its key.
pub(super) const RECORD_BYTES: usize = 16;
/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = 0xffff;
/// Most bytes of a value.
pub const MAX_VALUE_BYTES: usize = 0xffff;

const MAGIC: &[u8; 8] = b"wvkvlog1";

pub(super) fn encode_header(generation: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    let crc = crc::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&u64::from(crc).to_le_bytes());
    bytes
}

/// Returns the generation, which is never 0.
pub(super) fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Option<u64> {
    let generation = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    (generation > 0 && encode_header(generation) == *bytes).then_some(generation)
}

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) sequence: u64,
    key_bytes: u16,
    value_bytes: u16,
}

impl RecordHeader {
    /// Describes a record, unless a part is too long.
    pub(super) fn new(sequence: u64, key: &[u8], value: &[u8]) -> Option<Self> {
        Some(Self {
            sequence,
            key_bytes: u16::try_from(key.len()).ok()?,
            value_bytes: u16::try_from(value.len()).ok()?,
        })
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes.into()
    }

    pub(super) fn value_bytes(&self) -> usize {
        self.value_bytes.into()
    }

    /// Returns the bytes from this record to the next.
    pub(super) fn bytes(&self) -> usize {
        (RECORD_BYTES + self.key_bytes() + self.value_bytes()).next_multiple_of(8)
    }

    /// Returns what stands before the key.
    pub(super) fn encode(&self, generation: u64, key: &[u8], value: &[u8]) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[4..6].copy_from_slice(&self.key_bytes.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.value_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        let parts = [&generation.to_le_bytes()[..], &bytes[4..], key, value];
        let crc = parts.into_iter().fold(0, crc::append);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads what stands before the key; whether it is whole shows when the rest is there.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Self {
        let [_, _, _, _, k0, k1, v0, v1, sequence @ ..] = *bytes;
        Self {
            sequence: u64::from_le_bytes(sequence),
            key_bytes: u16::from_le_bytes([k0, k1]),
            value_bytes: u16::from_le_bytes([v0, v1]),
        }
    }
}
