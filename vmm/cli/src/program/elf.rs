//! What can be told of an ELF file before a guest loads it.

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
    if count > 0 && size < HEADER_BYTES {
        return Err(ElfError::Cut);
    }
    let segments = (0..count).map(|number| segment(image, table, size * number)).collect::<Result<Vec<_>, _>>()?;
    if segments.iter().any(|segment| segment.kind == PT_INTERP) {
        return Err(ElfError::NotStatic);
    }
    let loaded: Vec<_> = segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.bytes > 0).collect();
    if !(1..=MAX_SEGMENTS).contains(&loaded.len()) {
        return Err(ElfError::Segments { count: loaded.len() });
    }
    loaded.iter().try_for_each(|segment| check_segment(segment, image.len() as u64))?;
    let begins = |segment: &&Segment| {
        segment.flags & PF_X != 0 && entry.checked_sub(segment.start).is_some_and(|at| at < segment.file_bytes)
    };
    if loaded.into_iter().any(|segment| begins(&segment)) { Ok(()) } else { Err(ElfError::Entry { entry }) }
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
}

#[cfg(test)]
mod test {
    use super::sample::executable;
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
