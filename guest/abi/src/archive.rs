//! The archive: the programs that the host passes to its guest, one entry for each time that one is to run.
//!
//! It begins with [`MAGIC`], the number of entries and the archive's length in bytes, each a word; then come the entries, of
//! [`ENTRY_WORDS`] words each; then what they name, in any order and possibly shared: texts and ELF files. Offsets count bytes
//! from the archive's start. A name is what reports call the program. Arguments are joined by zero bytes, without one at the end.
//! ELF files start at multiples of 8.

/// "WIREVMPA".
pub const MAGIC: u64 = u64::from_le_bytes(*b"WIREVMPA");
/// Words in front of the entries.
pub const HEADER_WORDS: usize = 3;
/// Words in an entry: offset and length of the name, of the arguments, of the ELF file.
pub const ENTRY_WORDS: usize = 6;
/// Most bytes of a name.
pub const MAX_NAME_BYTES: usize = 64;
/// Most bytes of the arguments together.
pub const MAX_ARGUMENT_BYTES: usize = 2048;
/// Most entries.
pub const MAX_ENTRIES: usize = 256;

/// One program to run, its parts borrowed from the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What reports call it.
    pub name: &'a str,
    /// Its arguments, joined by zero bytes.
    pub arguments: &'a str,
    /// Its ELF file, of which nothing has been checked.
    pub image: &'a [u8],
}

/// A view of an archive, whose header is checked.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
    count: usize,
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(8)?;
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn part(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

impl<'a> Archive<'a> {
    /// Reads the header of what `bytes` begins with; `None` for what is no archive.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let [magic, count, length] = [word(bytes, 0)?, word(bytes, 1)?, word(bytes, 2)?];
        let bytes = part(bytes, 0, length)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_ENTRIES)?;
        word(bytes, HEADER_WORDS.checked_add(count.checked_mul(ENTRY_WORDS)?)?.checked_sub(1)?)?;
        (magic == MAGIC).then_some(Self { bytes, count })
    }

    /// Returns the number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Tells whether there is no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns an entry; `None` behind the last one, and for one that lies about its parts.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry<'a>> {
        if index >= self.count {
            return None;
        }
        let at = HEADER_WORDS + index * ENTRY_WORDS;
        let piece =
            |pair: usize| part(self.bytes, word(self.bytes, at + 2 * pair)?, word(self.bytes, at + 2 * pair + 1)?);
        let text = |pair: usize, most: usize| core::str::from_utf8(piece(pair)?).ok().filter(|text| text.len() <= most);
        Some(Entry { name: text(0, MAX_NAME_BYTES)?, arguments: text(1, MAX_ARGUMENT_BYTES)?, image: piece(2)? })
    }
}
