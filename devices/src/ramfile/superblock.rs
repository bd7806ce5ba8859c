//! The RAM file's superblock: what the header says about the image, and its form on disk.
//!
//! Two copies stand in a block of 4096 bytes each at the start of the file and are written in turn, so that
//! one whole copy survives a write that a crash cuts short.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use wirevm_abi::PAGE_SIZE;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::durability::Durability;

/// Bytes of the header: the image starts here, on a large-page boundary.
pub const HEADER_BYTES: u64 = wirevm_abi::LARGE_PAGE_SIZE;
/// Version of the header's layout that this build reads and writes.
pub const LAYOUT_VERSION: u64 = 1;
/// Copies of the superblock.
pub(super) const COPIES: usize = 2;
/// Bytes from one copy to the next.
pub(super) const COPY_BYTES: u64 = PAGE_SIZE;

const MAGIC: u64 = u64::from_le_bytes(*b"WIREVMRF");
const NO_PAGE: u64 = u64::MAX;
/// Bytes that the checksum covers: all words before it.
const SUMMED_BYTES: usize = size_of::<Words>() - size_of::<U64>();

/// What the RAM file records about the machine that uses it (rule D13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RamState {
    /// Made, and never used by a machine: the image is zeros.
    Fresh,
    /// A machine runs on it, or ended without a word.
    Open,
    /// The last machine ended in order and without a storage error.
    Clean,
    /// Storage failed under the last machine: what it held is not known to be in the file.
    Failed {
        /// The first error's errno.
        errno: i32,
        /// First RAM page of the range whose sync failed; none when the error had no range.
        first_page: Option<u64>,
    },
}

/// Error of reading a superblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The block is none of ours.
    #[error("this is no RAM file: its first word is {found:#018x}, not {MAGIC:#018x}")]
    Magic {
        /// The word found.
        found: u64,
    },
    /// The header was written by another version.
    #[error("the RAM file has layout version {found}; this build reads version {LAYOUT_VERSION}")]
    Layout {
        /// The version found.
        found: u64,
    },
    /// The block does not match its checksum.
    #[error("the superblock's checksum is {computed:#010x} but {stored:#010x} is stored")]
    Checksum {
        /// CRC32C of the block's words.
        computed: u32,
        /// The stored word.
        stored: u64,
    },
    /// A word holds a number that means nothing.
    #[error("the superblock's word '{name}' holds {value}, which means nothing")]
    Word {
        /// Name of the word.
        name: &'static str,
        /// The number found.
        value: u64,
    },
}

/// The header's contents, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Grows by one with each write; the copy with the larger one holds.
    pub(super) generation: u64,
    /// Size of the RAM image in bytes.
    pub(super) ram_bytes: u64,
    /// Byte offset of the image in the file.
    pub(super) data_offset: u64,
    /// Mode that the file was made for.
    pub(super) durability: Durability,
    /// The file's state.
    pub(super) state: RamState,
}

/// A superblock as it stands on disk; the rest of its block is zeros.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Words {
    magic: U64,
    layout: U64,
    generation: U64,
    ram_bytes: U64,
    data_offset: U64,
    durability: U64,
    state: U64,
    errno: U64,
    first_page: U64,
    crc32c: U64,
}

const _: () = assert!(size_of::<Words>() == 80);

impl fmt::Display for RamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("fresh"),
            Self::Open => f.write_str("open"),
            Self::Clean => f.write_str("clean"),
            Self::Failed { errno, first_page: Some(page) } => write!(f, "failed (errno {errno}, page {page})"),
            Self::Failed { errno, first_page: None } => write!(f, "failed (errno {errno})"),
        }
    }
}

impl RamState {
    /// Returns the words `state`, `errno` and `first_page`.
    fn words(self) -> (u64, u64, u64) {
        match self {
            Self::Fresh => (0, 0, NO_PAGE),
            Self::Open => (1, 0, NO_PAGE),
            Self::Clean => (2, 0, NO_PAGE),
            Self::Failed { errno, first_page } => (3, u64::from(errno.unsigned_abs()), first_page.unwrap_or(NO_PAGE)),
        }
    }

    fn from_words(state: u64, errno: u64, first_page: u64) -> Result<Self, SuperblockError> {
        match state {
            0 => Ok(Self::Fresh),
            1 => Ok(Self::Open),
            2 => Ok(Self::Clean),
            3 => Ok(Self::Failed {
                errno: errno.try_into().map_err(|_| SuperblockError::Word { name: "errno", value: errno })?,
                first_page: (first_page != NO_PAGE).then_some(first_page),
            }),
            value => Err(SuperblockError::Word { name: "state", value }),
        }
    }
}

impl Superblock {
    /// Returns the block to write: the words, then zeros.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (state, errno, first_page) = self.state.words();
        let durability = match self.durability {
            Durability::None => 0,
            Durability::Shared => 1,
            Durability::Atomic => 2,
        };
        let mut words = Words {
            magic: MAGIC.into(),
            layout: LAYOUT_VERSION.into(),
            generation: self.generation.into(),
            ram_bytes: self.ram_bytes.into(),
            data_offset: self.data_offset.into(),
            durability: U64::new(durability),
            state: state.into(),
            errno: errno.into(),
            first_page: first_page.into(),
            crc32c: U64::ZERO,
        };
        words.crc32c = u64::from(words.checksum()).into();
        let mut block = words.as_bytes().to_vec();
        block.resize(usize::try_from(COPY_BYTES).unwrap_or(block.len()), 0);
        block
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// [`SuperblockError`]; a layout of another version is told before its checksum is looked at.
    pub(super) fn decode(block: &[u8]) -> Result<Self, SuperblockError> {
        let Ok((words, _)) = Words::ref_from_prefix(block) else {
            return Err(SuperblockError::Magic { found: 0 });
        };
        if words.magic.get() != MAGIC {
            return Err(SuperblockError::Magic { found: words.magic.get() });
        }
        if words.layout.get() != LAYOUT_VERSION {
            return Err(SuperblockError::Layout { found: words.layout.get() });
        }
        let (computed, stored) = (words.checksum(), words.crc32c.get());
        if u64::from(computed) != stored {
            return Err(SuperblockError::Checksum { computed, stored });
        }
        let durability = match words.durability.get() {
            0 => Durability::None,
            1 => Durability::Shared,
            2 => Durability::Atomic,
            value => return Err(SuperblockError::Word { name: "durability", value }),
        };
        Ok(Self {
            generation: words.generation.get(),
            ram_bytes: words.ram_bytes.get(),
            data_offset: words.data_offset.get(),
            durability,
            state: RamState::from_words(words.state.get(), words.errno.get(), words.first_page.get())?,
        })
    }

    /// Picks the copy that holds: the one of the larger generation among those that read well.
    ///
    /// # Errors
    /// When neither reads well, what is wrong with the first copy that is ours, or else with the first.
    pub(super) fn newest(copies: [&[u8]; COPIES]) -> Result<(usize, Self), SuperblockError> {
        let read = copies.map(Self::decode);
        let held = read.iter().enumerate().filter_map(|(copy, block)| block.as_ref().ok().map(|block| (copy, *block)));
        if let Some(newest) = held.max_by_key(|(_, block)| block.generation) {
            return Ok(newest);
        }
        let [first, second] = read.map(Result::err);
        let foreign = matches!(first, Some(SuperblockError::Magic { .. }));
        Err((if foreign { second } else { first }).unwrap_or(SuperblockError::Magic { found: 0 }))
    }
}

impl Words {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(self.as_bytes().get(..SUMMED_BYTES).unwrap_or_default())
    }
}

/// Tells whether a file begins like a RAM file, with either copy of its header.
///
/// # Errors
/// When it can't be read.
pub(crate) fn begins_as_ram_file(file: &File) -> io::Result<bool> {
    let mut found = false;
    for copy in 0..COPIES {
        let mut word = [0; 8];
        // A file that is shorter has no header there.
        match file.read_exact_at(&mut word, super::copy_offset(copy)) {
            Ok(()) => found |= u64::from_le_bytes(word) == MAGIC,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod test {
    use super::{RamState, Superblock, SuperblockError};
    use crate::durability::Durability;

    fn superblock(generation: u64, state: RamState) -> Superblock {
        Superblock { generation, ram_bytes: 4 << 20, data_offset: 2 << 20, durability: Durability::Shared, state }
    }

    #[test]
    fn superblock_on_disk_has_these_golden_bytes() {
        let state = RamState::Failed { errno: 5, first_page: Some(0x0102) };
        let block = superblock(7, state).encode();
        assert_eq!(block.len(), 4096);
        let words = [
            "5749524556 4d5246",
            "0100000000000000",
            "0700000000000000",
            "0000400000000000",
            "0000200000000000",
            "0100000000000000",
            "0300000000000000",
            "0500000000000000",
            "0201000000000000",
        ];
        let hex: String = block.iter().take(72).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, words.concat().replace(' ', ""));
        let crc = crc32c::crc32c(&block[..72]).to_le_bytes();
        assert_eq!(block[72..80], [crc[0], crc[1], crc[2], crc[3], 0, 0, 0, 0]);
        assert!(block[80..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn superblock_every_state_reads_back() {
        for state in [
            RamState::Fresh,
            RamState::Open,
            RamState::Clean,
            RamState::Failed { errno: 28, first_page: None },
            RamState::Failed { errno: 5, first_page: Some(0) },
        ] {
            let written = superblock(1, state);
            assert_eq!(Superblock::decode(&written.encode()), Ok(written));
        }
    }

    #[test]
    fn superblock_any_single_flipped_bit_is_refused() {
        let block = superblock(3, RamState::Open).encode();
        for bit in 0..80 * 8 {
            let mut torn = block.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            Superblock::decode(&torn).expect_err("a flipped bit must be noticed");
        }
    }

    #[test]
    fn newest_torn_write_falls_back_to_the_older_copy() {
        let old = superblock(4, RamState::Open);
        let mut torn = superblock(5, RamState::Clean).encode();
        torn[40] ^= 1;
        assert_eq!(Superblock::newest([&torn, &old.encode()]), Ok((1, old)));
    }

    #[test]
    fn newest_larger_generation_holds_wherever_it_stands() {
        let (old, new) = (superblock(4, RamState::Open), superblock(5, RamState::Clean));
        assert_eq!(Superblock::newest([&old.encode(), &new.encode()]), Ok((1, new)));
        assert_eq!(Superblock::newest([&new.encode(), &old.encode()]), Ok((0, new)));
    }

    #[test]
    fn newest_with_no_good_copy_tells_what_is_wrong() {
        let zeros = [0; 4096];
        let mut future = superblock(1, RamState::Clean).encode();
        future[8] = 9;
        assert_eq!(Superblock::newest([&zeros, &zeros]), Err(SuperblockError::Magic { found: 0 }));
        assert_eq!(Superblock::newest([&zeros, &future]), Err(SuperblockError::Layout { found: 9 }));
        assert_eq!(Superblock::newest([&future, &zeros]), Err(SuperblockError::Layout { found: 9 }));
    }
}
