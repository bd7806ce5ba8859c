//! Checks on an image before anything of it is trusted.

use std::ops::Range;

use vm_memory::GuestMemoryError;
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION, note};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The image cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a 64-bit x86 ELF executable.
    #[error("the guest image is not an ELF executable for x86-64: {0}")]
    NotElf(&'static str),
    /// No ABI note.
    #[error("the guest image carries no wirevm ABI note, so it is not a guest for this machine monitor")]
    NoNote,
    /// Another contract version.
    #[error("the guest image speaks version {found} of the contract, this machine monitor version {VERSION}")]
    Version {
        /// What its note says.
        found: u64,
    },
    /// A segment lies outside RAM.
    #[error("the guest image does not fit: a segment lies at {start:#x}..{end:#x}, RAM at {RAM_BASE:#x}..{ram_end:#x}")]
    OutsideRam {
        /// First guest-physical address.
        start: u64,
        /// One past the last, or the largest number if it wraps.
        end: u64,
        /// One past RAM.
        ram_end: u64,
    },
    /// Image and boot structures do not leave room for a guest.
    #[error(
        "the guest image and what it boots and starts with on {} need {need} pages, RAM has {ram_pages}",
        processors(*vcpus)
    )]
    TooLarge {
        /// Pages needed.
        need: u64,
        /// The guest's vCPUs.
        vcpus: u64,
        /// Pages there.
        ram_pages: u64,
    },
    /// Image, boot structures and programs do not leave room for a guest.
    #[error(
        "the programs take {archive_pages} pages, the guest image and what it boots and starts with on {} {other_pages}, RAM \
         has {ram_pages}",
        processors(*vcpus)
    )]
    ProgramsTooLarge {
        /// Pages that the archive of programs takes.
        archive_pages: u64,
        /// Pages that all the rest takes.
        other_pages: u64,
        /// The guest's vCPUs.
        vcpus: u64,
        /// Pages there.
        ram_pages: u64,
    },
    /// The loader refused.
    #[error("the guest image cannot be loaded")]
    Load(#[source] linux_loader::loader::Error),
    /// Writing to RAM failed.
    #[error("guest RAM cannot be written")]
    Place(#[source] GuestMemoryError),
}

/// Says how many processors.
fn processors(vcpus: u64) -> String {
    if vcpus == 1 { "1 processor".to_owned() } else { format!("{vcpus} processors") }
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ElfHeader {
    ident: [u8; 16],
    file_type: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_fields: [u16; 3],
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    segment_type: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const FLAG_WRITABLE: u32 = 2;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
/// "\x7fELF", 64 bits, little-endian, version 1.
const IDENT: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];

/// An image that has passed every check that needs no machine.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    entry: u64,
    /// One past the last guest-physical address that the image uses.
    end: u64,
    /// The pages of RAM that the guest must not store to, in order: a segment lies there that is not writable, and none that is.
    read_only: Vec<Range<u64>>,
}

impl<'a> Image<'a> {
    /// Checks header, ABI note and segments against a RAM of `ram_pages` pages.
    ///
    /// # Errors
    /// [`ImageError`] for the first thing that is wrong.
    pub fn new(bytes: &'a [u8], ram_pages: u64) -> Result<Self, ImageError> {
        let header = check_header(bytes)?;
        let headers = program_headers(bytes, &header)?;
        let mut version = None;
        for segment in headers.iter().filter(|segment| segment.segment_type == SEGMENT_NOTE) {
            let notes = part(bytes, segment.offset, segment.file_size).ok_or(ImageError::NotElf("a note is cut"))?;
            version = version.or(note::find_version(notes));
        }
        match version {
            Some(VERSION) => (),
            Some(found) => return Err(ImageError::Version { found }),
            None => return Err(ImageError::NoNote),
        }
        let mut end = RAM_BASE;
        let mut entered = false;
        let (mut fixed, mut writable) = (Vec::new(), Vec::new());
        for segment in headers.iter().filter(|segment| segment.segment_type == SEGMENT_LOAD) {
            let segment_end = check_segment(bytes, segment, ram_pages)?;
            end = end.max(segment_end);
            if segment.memory_size > 0 {
                let first = (segment.physical_address - RAM_BASE) / PAGE_SIZE;
                let pages = first..(segment_end - RAM_BASE).div_ceil(PAGE_SIZE);
                if segment.flags & FLAG_WRITABLE == 0 { &mut fixed } else { &mut writable }.push(pages);
            }
            let inside = header.entry.checked_sub(segment.virtual_address);
            entered |= inside.is_some_and(|offset| offset < segment.memory_size);
        }
        if !entered {
            return Err(ImageError::NotElf("its entry point lies in no segment"));
        }
        Ok(Self { bytes, entry: header.entry, end, read_only: without(union(fixed), &union(writable)) })
    }

    /// Returns the image's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the virtual address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Returns the blocks of `block_pages` pages of RAM, by number and in order, in which it has something that the guest must not store to.
    pub(super) fn blocks_with_read_only(&self, block_pages: u64) -> impl Iterator<Item = u64> {
        let mut next = 0;
        self.read_only.iter().flat_map(move |pages| {
            // Two runs may meet in one block.
            let blocks = (pages.start / block_pages).max(next)..pages.end.div_ceil(block_pages);
            next = blocks.end.max(next);
            blocks
        })
    }

    /// Tells for each of `pages` whether the guest must not store to it.
    #[must_use]
    pub(super) fn read_only(&self, pages: Range<u64>) -> Vec<bool> {
        let from = self.read_only.partition_point(|run| run.end <= pages.start);
        let mut runs = self.read_only.get(from..).unwrap_or_default().iter().peekable();
        let is_read_only = |page| {
            while runs.next_if(|run| run.end <= page).is_some() {}
            runs.peek().is_some_and(|run| run.contains(&page))
        };
        pages.map(is_read_only).collect()
    }

    /// Returns the number of RAM pages from page 0 to the image's end.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        (self.end - RAM_BASE).div_ceil(PAGE_SIZE)
    }
}

fn check_header(bytes: &[u8]) -> Result<ElfHeader, ImageError> {
    let (header, _) = ElfHeader::read_from_prefix(bytes).map_err(|_| ImageError::NotElf("it is too short"))?;
    if header.ident.first_chunk() != Some(&IDENT) {
        return Err(ImageError::NotElf("its first bytes say something else"));
    }
    if header.file_type != TYPE_EXECUTABLE || header.machine != MACHINE_X86_64 {
        return Err(ImageError::NotElf("it is for another machine, or not linked to a fixed address"));
    }
    Ok(header)
}

fn program_headers(bytes: &[u8], header: &ElfHeader) -> Result<Vec<ProgramHeader>, ImageError> {
    let broken = ImageError::NotElf("its program headers are cut");
    if usize::from(header.program_header_size) != size_of::<ProgramHeader>() {
        return Err(broken);
    }
    let size = u64::from(header.program_header_count) * u64::from(header.program_header_size);
    let Some(table) = part(bytes, header.program_headers, size) else { return Err(broken) };
    table
        .chunks_exact(size_of::<ProgramHeader>())
        .map(|chunk| {
            ProgramHeader::read_from_bytes(chunk).map_err(|_| ImageError::NotElf("its program headers are cut"))
        })
        .collect()
}

/// Checks one loadable segment and returns where it ends in guest-physical memory.
fn check_segment(bytes: &[u8], segment: &ProgramHeader, ram_pages: u64) -> Result<u64, ImageError> {
    if segment.file_size > segment.memory_size || part(bytes, segment.offset, segment.file_size).is_none() {
        return Err(ImageError::NotElf("a segment is cut"));
    }
    let ram_end = RAM_BASE + ram_pages * PAGE_SIZE;
    let start = segment.physical_address;
    match start.checked_add(segment.memory_size) {
        Some(end) if start >= RAM_BASE && end <= ram_end => Ok(end),
        end => Err(ImageError::OutsideRam { start, end: end.unwrap_or(u64::MAX), ram_end }),
    }
}

/// Returns runs that have every page of `runs` once, in order, none meeting another.
fn union(mut runs: Vec<Range<u64>>) -> Vec<Range<u64>> {
    runs.sort_by_key(|run| run.start);
    let mut all: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => all.push(run),
        }
    }
    all
}

/// Returns what is left of `runs` where those of `others` are not; both as [`union`] returns them.
fn without(runs: Vec<Range<u64>>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut at = 0;
    for Range { mut start, end } in runs {
        at += others.get(at..).unwrap_or_default().iter().take_while(|other| other.end <= start).count();
        for other in others.get(at..).unwrap_or_default().iter().take_while(|other| other.start < end) {
            if start < other.start {
                left.push(start..other.start);
            }
            start = other.end;
        }
        if start < end {
            left.push(start..end);
        }
    }
    left
}

fn part(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    bytes.get(start..end)
}

#[cfg(test)]
pub(super) mod test {
    use super::{Image, ImageError, union, without};
    use wirevm_abi::RAM_BASE;
    use wirevm_abi::note::ABI_NOTE;
    use zerocopy::IntoBytes;

    /// A minimal image: header, a load and a note segment, note at 0xb0, code at 0x100.
    pub(in crate::boot) fn image(physical: u64, memory_size: u64) -> Vec<u8> {
        let mut bytes = vec![0; 0x110];
        bytes[..7].copy_from_slice(&super::IDENT);
        bytes[16..20].copy_from_slice(&[2, 0, 62, 0]);
        bytes[24..32].copy_from_slice(&0x1000_u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..58].copy_from_slice(&[56, 0, 2, 0]);
        let mut put = |at: usize, segment_type: u32, words: [u64; 5]| {
            bytes[at..at + 4].copy_from_slice(&segment_type.to_le_bytes());
            for (index, word) in words.iter().enumerate() {
                bytes[at + 8 + index * 8..at + 16 + index * 8].copy_from_slice(&word.to_le_bytes());
            }
        };
        put(64, 1, [0x100, 0x1000, physical, 16, memory_size]);
        put(120, 4, [0xb0, 0, 0, 28, 28]);
        bytes[0xb0..0xb0 + 28].copy_from_slice(ABI_NOTE.as_bytes());
        bytes
    }

    #[test]
    fn good_image_tells_entry_and_size() {
        let bytes = image(RAM_BASE + 0x2000, 0x1001);
        let image = Image::new(&bytes, 512).expect("good");
        assert_eq!((image.entry(), image.pages()), (0x1000, 4));
    }

    #[test]
    fn page_is_read_only_where_no_segment_is_writable() {
        let bytes = image(RAM_BASE + 0x1000, 0x1800);
        let image = Image::new(&bytes, 1024).expect("good");
        assert_eq!(image.read_only(0..5), [false, true, true, false, false]);
        assert_eq!(image.blocks_with_read_only(512).collect::<Vec<_>>(), [0]);
        let image = Image { read_only: vec![1..2, 5..9, 511..513, 1024..1025], ..image };
        assert_eq!(image.blocks_with_read_only(512).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(image.read_only(4..10), [false, true, true, true, true, false]);
        assert_eq!(image.read_only(512..514), [true, false]);
    }

    #[test]
    fn page_that_a_writable_segment_shares_is_writable() {
        let runs = union(vec![7..9, 1..3, 2..5, 5..6, 20..30, 8..9, 40..41]);
        assert_eq!(runs, [1..6, 7..9, 20..30, 40..41]);
        assert_eq!(without(runs.clone(), &[]), runs);
        assert_eq!(without(runs.clone(), &[0..2, 4..8, 22..23, 24..25, 29..60]), [2..4, 8..9, 20..22, 23..24, 25..29]);
        assert_eq!(without(runs, &[0..41, 50..60]), []);
    }

    #[test]
    fn image_of_very_many_segments_is_checked_in_no_time() {
        // Each over nearly all of RAM.
        let ram_pages = 1 << 24;
        let mut bytes = image(RAM_BASE, (ram_pages - 8) * 4096);
        let table = bytes.len();
        bytes[32..40].copy_from_slice(&(table as u64).to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        let (load, note) = (bytes[64..120].to_vec(), bytes[120..176].to_vec());
        bytes.extend((1..u16::MAX).flat_map(|_| load.clone()).chain(note));
        let begun = std::time::Instant::now();
        let image = Image::new(&bytes, ram_pages).expect("good");
        assert_eq!(image.blocks_with_read_only(512).count(), 1 << 15);
        assert!(image.read_only(0..512).iter().all(|read_only| *read_only));
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn segments_outside_ram_are_refused() {
        for (physical, size) in
            [(RAM_BASE - 1, 16), (0, 16), (RAM_BASE + (2 << 20) - 15, 16), (u64::MAX - 3, 16), (RAM_BASE, u64::MAX)]
        {
            let bytes = image(physical, size);
            assert!(matches!(Image::new(&bytes, 512), Err(ImageError::OutsideRam { .. })), "{physical:#x}+{size:#x}");
        }
        let bytes = image(RAM_BASE + (2 << 20) - 16, 16);
        assert_eq!(Image::new(&bytes, 512).expect("ends where RAM does").pages(), 512);
    }

    #[test]
    fn note_missing_or_of_another_version_is_refused() {
        let mut bytes = image(RAM_BASE, 16);
        bytes[0xb0 + 20] = 9;
        assert!(matches!(Image::new(&bytes, 512), Err(ImageError::Version { found: 9 })));
        bytes[0xb0 + 12] = b'x';
        assert!(matches!(Image::new(&bytes, 512), Err(ImageError::NoNote)));
    }

    #[test]
    fn every_cut_and_every_single_byte_change_is_an_image_or_an_error() {
        let good = image(RAM_BASE, 16);
        for end in 0..good.len() {
            assert!(Image::new(&good[..end], 512).is_err(), "cut at {end}");
        }
        for at in 0..0xd0 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(image) = Image::new(&bytes, 512) {
                    assert!(image.pages() <= 512);
                }
            }
        }
    }
}
