//! What can be told of an ELF file before a guest loads it.

use wirevm_abi::PAGE_SIZE;

/// Lowest address of a program, in bytes.
const LOWEST: u64 = 0x1_0000;
/// One past the highest address of a program, in bytes.
const HIGHEST: u64 = 1 << 47;
/// Most segments that are loaded.
const MAX_SEGMENTS: usize = 16;

const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
/// Stands for a number of segments that is somewhere else.
const MANY_SEGMENTS: u64 = 0xffff;

/// Why a file is no program that the guest can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It is something else.
    #[error("it is no 64-bit ELF file")]
    NotElf,
    /// It is for something else.
    #[error("it is for another processor than x86-64")]
    Machine,
    /// It is an object file, a library, or wants to be placed by somebody.
    #[error("it is no static executable at fixed addresses; link it with -static -no-pie")]
    NotStatic,
    /// It says more than there is.
    #[error("it is cut off, or says wrong things about itself")]
    Cut,
    /// Nothing, or more than is taken.
    #[error("it has {count} segments to load; 1 to {MAX_SEGMENTS} are taken")]
    Segments {
        /// How many.
        count: usize,
    },
    /// A segment is where no program can be.
    #[error("its segment at {start:#x} does not lie between {LOWEST:#x} and {HIGHEST:#x}")]
    Place {
        /// First byte.
        start: u64,
    },
    /// A segment could be changed and run.
    #[error("its segment at {start:#x} is writable and executable")]
    WriteExecute {
        /// First byte.
        start: u64,
    },
    /// Two segments want the same page.
    #[error(
        "its segments at {first:#x} and {second:#x} have the page at {page:#x} in common; link it with -z separate-code"
    )]
    Overlap {
        /// First byte of the lower one.
        first: u64,
        /// First byte of the other.
        second: u64,
        /// The page's address.
        page: u64,
    },
    /// It begins nowhere.
    #[error("its entry point {entry:#x} is in no segment that may be executed")]
    Entry {
        /// The entry point.
        entry: u64,
    },
}

/// A segment as its header has it.
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    start: u64,
    file_bytes: u64,
    bytes: u64,
}

/// Checks that a file is a static x86-64 executable for the lower half of the address space.
///
/// # Errors
/// [`ElfError`] for the first thing that is in the way.
pub fn check(image: &[u8]) -> Result<(), ElfError> {
    // 64 bits, little-endian, version 1.
    if !image.starts_with(b"\x7fELF\x02\x01\x01") {
        return Err(ElfError::NotElf);
    }
    let entry = word(image, 24)?;
    if half(image, 18)? != EM_X86_64 {
        return Err(ElfError::Machine);
    }
    if half(image, 16)? != ET_EXEC {
        return Err(ElfError::NotStatic);
    }
    let (table, size, count) = (word(image, 32)?, u64::from(half(image, 54)?), u64::from(half(image, 56)?));
    if table == 0 || size != HEADER_BYTES || count == MANY_SEGMENTS {
        return Err(ElfError::Cut);
    }
    check_sections(image)?;
    let segments = (0..count).map(|number| segment(image, table, size * number)).collect::<Result<Vec<_>, _>>()?;
    if segments.iter().any(|segment| segment.kind == PT_INTERP) {
        return Err(ElfError::NotStatic);
    }
    let loaded: Vec<_> = segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.bytes > 0).collect();
    if !(1..=MAX_SEGMENTS).contains(&loaded.len()) {
        return Err(ElfError::Segments { count: loaded.len() });
    }
    loaded.iter().try_for_each(|segment| check_segment(segment, image.len() as u64))?;
    check_pages(&loaded)?;
    let begins = |segment: &&Segment| {
        segment.flags & PF_X != 0 && entry.checked_sub(segment.start).is_some_and(|at| at < segment.file_bytes)
    };
    if loaded.into_iter().any(|segment| begins(&segment)) { Ok(()) } else { Err(ElfError::Entry { entry }) }
}

/// Checks that the table of sections, which nobody needs, is none or is in the file: the guest's own reader insists.
fn check_sections(image: &[u8]) -> Result<(), ElfError> {
    let (table, size, count) = (word(image, 40)?, u64::from(half(image, 58)?), u64::from(half(image, 60)?));
    if table == 0 {
        return Ok(());
    }
    let count = match count {
        // The number stands in the first one.
        0 => word(image, table.checked_add(32).and_then(|at| usize::try_from(at).ok()).ok_or(ElfError::Cut)?)?,
        count => count,
    };
    let end = count.max(1).checked_mul(SECTION_HEADER_BYTES).and_then(|bytes| table.checked_add(bytes));
    let is_there = end.is_some_and(|end| end <= image.len() as u64);
    if size == SECTION_HEADER_BYTES && is_there { Ok(()) } else { Err(ElfError::Cut) }
}

/// Checks that no two segments have a page in common, whatever their rights: the guest gives each its pages for itself.
fn check_pages(loaded: &[&Segment]) -> Result<(), ElfError> {
    let mut ordered: Vec<_> = loaded.iter().map(|segment| (segment.start, segment.start + segment.bytes)).collect();
    ordered.sort_unstable();
    for pair in ordered.windows(2) {
        let &[(first, end), (second, _)] = pair else { continue };
        let page = second / PAGE_SIZE * PAGE_SIZE;
        if page < end {
            return Err(ElfError::Overlap { first, second, page });
        }
    }
    Ok(())
}

fn check_segment(segment: &Segment, image_bytes: u64) -> Result<(), ElfError> {
    let &Segment { flags, offset, start, file_bytes, bytes, .. } = segment;
    if offset.checked_add(file_bytes).is_none_or(|end| end > image_bytes) || file_bytes > bytes {
        return Err(ElfError::Cut);
    }
    if start < LOWEST || start.checked_add(bytes).is_none_or(|end| end > HIGHEST) {
        return Err(ElfError::Place { start });
    }
    if flags & PF_W != 0 && flags & PF_X != 0 {
        return Err(ElfError::WriteExecute { start });
    }
    Ok(())
}

fn segment(image: &[u8], table: u64, offset: u64) -> Result<Segment, ElfError> {
    let at = table.checked_add(offset).and_then(|at| usize::try_from(at).ok()).ok_or(ElfError::Cut)?;
    let header = image.get(at..).ok_or(ElfError::Cut)?;
    Ok(Segment {
        kind: u32::from_le_bytes(bytes(header, 0)?),
        flags: u32::from_le_bytes(bytes(header, 4)?),
        offset: word(header, 8)?,
        start: word(header, 16)?,
        file_bytes: word(header, 32)?,
        bytes: word(header, 40)?,
    })
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    image.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(ElfError::Cut)
}

fn half(image: &[u8], at: usize) -> Result<u16, ElfError> {
    bytes(image, at).map(u16::from_le_bytes)
}

fn word(image: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes(image, at).map(u64::from_le_bytes)
}

/// Small ELF files for tests.
#[cfg(test)]
pub mod sample {
    /// Returns an executable whose one segment, with those flags, begins at `start`, 16 bytes into the segment's first page.
    #[must_use]
    pub fn executable(start: u64, flags: u32) -> Vec<u8> {
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [start + 16, 64, 0] {
            image.extend(word.to_le_bytes());
        }
        image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        image.extend(1_u32.to_le_bytes());
        image.extend(flags.to_le_bytes());
        for word in [0, start, start, 0x80, 0x2000, 4096] {
            image.extend(word.to_le_bytes());
        }
        image.resize(0x80, 0xf4);
        image
    }

    /// Returns an executable with a second segment, readable and writable, of `bytes` bytes of memory from `start` on.
    #[must_use]
    pub fn with_data(start: u64, bytes: u64) -> Vec<u8> {
        let mut image = executable(0x40_0000, 5);
        // Both headers fit in front of where the code ends, which goes on at 0x10 of what is loaded.
        image[32..40].copy_from_slice(&0x80_u64.to_le_bytes());
        image[56] = 2;
        let first = image[64..120].to_vec();
        image.extend(first);
        image.extend([1, 0, 0, 0, 6, 0, 0, 0]);
        for word in [0, start, start, 0, bytes, 4096] {
            image.extend(word.to_le_bytes());
        }
        image
    }
}

#[cfg(test)]
mod test {
    use super::sample::{executable, with_data};
    use super::{ElfError, check};

    #[test]
    fn static_executable_passes_and_no_cut_one_does() {
        let image = executable(0x40_0000, 5);
        assert_eq!(check(&image), Ok(()));
        for cut in 0..image.len() {
            assert!(check(&image[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn segments_with_a_page_in_common_are_refused_in_any_order() {
        // The code takes 0x400000..0x402000.
        for (start, bytes) in [(0x40_2000, 1), (0x40_2fff, 1), (0x3f_f000, 0x1000), (0x3f_fffe, 2), (1 << 46, 1 << 40)]
        {
            assert_eq!(check(&with_data(start, bytes)), Ok(()), "{start:#x}");
        }
        for (start, bytes) in [(0x40_0000, 1), (0x40_1fff, 1), (0x40_1000, 0x9000)] {
            let page = start & !0xfff;
            let refused = ElfError::Overlap { first: 0x40_0000, second: start, page };
            assert_eq!(check(&with_data(start, bytes)), Err(refused), "{start:#x}");
        }
        for (start, bytes) in [(0x3f_f000, 0x1001), (0x3f_ffff, 2), (0x1_0000, 1 << 40)] {
            let refused = ElfError::Overlap { first: start, second: 0x40_0000, page: 0x40_0000 };
            assert_eq!(check(&with_data(start, bytes)), Err(refused), "{start:#x}");
        }
    }

    #[test]
    fn table_of_sections_is_none_or_there() {
        let with = |table: u64, size: u8, count: u8, bytes: usize| {
            let mut image = executable(0x40_0000, 5);
            image[40..48].copy_from_slice(&table.to_le_bytes());
            (image[58], image[60]) = (size, count);
            image.resize(bytes, 0);
            check(&image)
        };
        assert_eq!(with(0x80, 64, 2, 0x100), Ok(()));
        assert_eq!(with(0x80, 64, 0, 0xc0), Ok(()));
        for (table, size, count, bytes) in
            [(0x80, 64, 2, 0xff), (0x80, 63, 1, 0x100), (u64::MAX, 64, 1, 0x100), (0x80, 64, 0, 0xbf)]
        {
            assert_eq!(with(table, size, count, bytes), Err(ElfError::Cut), "{table:#x}, {size}, {count}");
        }
    }

    #[test]
    fn each_lie_is_told_by_its_name() {
        let changed = |at: usize, bytes: &[u8]| {
            let mut image = executable(0x40_0000, 5);
            image[at..at + bytes.len()].copy_from_slice(bytes);
            check(&image).expect_err("it is wrong")
        };
        assert_eq!(check(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        assert_eq!(changed(4, &[1]), ElfError::NotElf);
        assert_eq!(changed(18, &[183]), ElfError::Machine);
        assert_eq!(changed(16, &[3]), ElfError::NotStatic);
        assert_eq!(changed(64, &[3]), ElfError::NotStatic);
        assert_eq!(changed(56, &[0]), ElfError::Segments { count: 0 });
        assert_eq!(changed(54, &[55]), ElfError::Cut);
        assert_eq!(changed(54, &[57]), ElfError::Cut);
        assert_eq!(changed(56, &[0xff, 0xff]), ElfError::Cut);
        assert_eq!(changed(32, &[0xff; 8]), ElfError::Cut);
        assert_eq!(changed(24, &0x3f_ffff_u64.to_le_bytes()), ElfError::Entry { entry: 0x3f_ffff });
        assert_eq!(changed(24, &0x40_1000_u64.to_le_bytes()), ElfError::Entry { entry: 0x40_1000 });
        assert_eq!(check(&executable(0x40_0000, 4)), Err(ElfError::Entry { entry: 0x40_0010 }));
        assert_eq!(check(&executable(0x40_0000, 7)), Err(ElfError::WriteExecute { start: 0x40_0000 }));
        for start in [0, 0xf000, (1 << 47) - 4096, 1 << 47, 0xffff_ffff_8000_0000] {
            assert_eq!(check(&executable(start, 5)), Err(ElfError::Place { start }));
        }
    }
}
