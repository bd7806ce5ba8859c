//! The kernel's list of a process's mappings, read a line at a time.
//!
//! A library would give all of it at once, as a map of names a mapping. That takes far more memory than what is asked here, and
//! what is asked is how much memory this process takes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::ops::ControlFlow;

use super::WitnessError;

/// Bytes that are read at a time. The kernel fills no more than a page or so at once.
const READ_BYTES: usize = 4096;

/// What the kernel says of one mapping, as far as somebody here asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First address.
    pub(crate) start: usize,
    /// The address one past the last byte.
    pub(crate) end: usize,
    /// The file's inode number; 0 where there is no file.
    pub(crate) inode: u64,
    /// Bytes of it that are in memory and in the page tables (`Rss`).
    pub(crate) resident_bytes: u64,
    /// Bytes of it that are in no file: of a private mapping of a file, what was stored to.
    pub(crate) stored_bytes: u64,
    /// Whether it was asked for as a shared one.
    pub(crate) is_shared: bool,
    /// Whether it can be stored to.
    pub(crate) is_writable: bool,
    /// Whether it is shared and what is stored to it reaches the file: flag `sh`.
    pub(crate) writes_back: bool,
    /// Whether it is locked: flag `lo`.
    pub(crate) is_locked: bool,
}

/// A process's list of mappings, which can be read any number of times and takes no more memory for that.
#[derive(Debug)]
pub(crate) struct Smaps {
    file: BufReader<File>,
    line: Vec<u8>,
}

impl Smaps {
    /// Opens the list of this process.
    pub(crate) fn of_this_process() -> Result<Self, WitnessError> {
        Self::open("/proc/self/smaps")
    }

    /// Opens the list of the process with that number.
    pub(crate) fn of_process(id: u32) -> Result<Self, WitnessError> {
        Self::open(&format!("/proc/{id}/smaps"))
    }

    fn open(path: &str) -> Result<Self, WitnessError> {
        let file = File::open(path).map_err(unread)?;
        Ok(Self { file: BufReader::with_capacity(READ_BYTES, file), line: Vec::with_capacity(READ_BYTES) })
    }

    /// Reads the list as it is now and hands out each mapping, in the order of addresses, until somebody has seen enough: the kernel
    /// counts pages for every one that is read.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`] when the list cannot be read or has a line that no kernel writes.
    pub(crate) fn each(&mut self, mut take: impl FnMut(Mapping) -> ControlFlow<()>) -> Result<(), WitnessError> {
        self.file.rewind().map_err(unread)?;
        read(&mut self.file, &mut self.line, &mut take).map_err(unread)
    }
}

const fn unread(source: io::Error) -> WitnessError {
    WitnessError::Kernel { what: "which mappings there are", source }
}

/// Reads a list to its end.
fn read(
    list: &mut impl BufRead,
    line: &mut Vec<u8>,
    take: &mut impl FnMut(Mapping) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut mapping = None;
    loop {
        line.clear();
        if list.read_until(b'\n', line)? == 0 {
            // Whether that was enough makes no difference behind the last.
            let _enough = mapping.map(take);
            return Ok(());
        }
        let bad = || io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(line));
        // Names begin with a capital letter, addresses do not.
        if !line.first().is_some_and(u8::is_ascii_uppercase) {
            let previous = mapping.replace(first_line(line).ok_or_else(bad)?);
            if previous.map(&mut *take).is_some_and(|enough| enough.is_break()) {
                return Ok(());
            }
            continue;
        }
        let mapping = mapping.as_mut().ok_or_else(bad)?;
        if let Some(size) = line.strip_prefix(b"Rss:") {
            mapping.resident_bytes = bytes(size).ok_or_else(bad)?;
        } else if let Some(size) = line.strip_prefix(b"Anonymous:").or(line.strip_prefix(b"Swap:")) {
            mapping.stored_bytes += bytes(size).ok_or_else(bad)?;
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            for flag in words(flags) {
                mapping.writes_back |= flag == b"sh";
                mapping.is_locked |= flag == b"lo";
            }
        }
    }
}

/// Reads a mapping's first line: addresses, rights, offset, device, inode number and perhaps a path.
fn first_line(line: &[u8]) -> Option<Mapping> {
    let mut words = words(line);
    let mut addresses = words.next()?.split(|byte| *byte == b'-');
    let mut address = || usize::try_from(number(addresses.next()?, 16)?).ok();
    let (start, end) = (address()?, address()?);
    let rights = words.next()?;
    let (is_shared, is_writable) = (rights.ends_with(b"s"), rights.contains(&b'w'));
    let inode = number(words.nth(2)?, 10)?;
    Some(Mapping { start, end, inode, is_shared, is_writable, ..Mapping::default() })
}

/// Reads a size, which is in KiB.
fn bytes(size: &[u8]) -> Option<u64> {
    number(words(size).next()?, 10)?.checked_mul(1024)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn number(word: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(word).ok()?, radix).ok()
}

#[cfg(test)]
mod test {
    use std::ops::ControlFlow;

    use super::{Mapping, Smaps, read};

    /// Two mappings as Linux 6.18 tells of them, with fewer of the lines that nobody asks for. A name may hold anything but the end of a line.
    const LIST: &str = "\
55d0c8a00000-55d0c8a02000 rw-p 00000000 00:00 0                          [heap]
Size:                  8 kB
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  8 kB
SwapPss:               8 kB
VmFlags: rd wr mr mw me ac sd 
7f5e10000000-7f5e20000000 rw-s 00200000 fe:00 1310772                    /srv/Rss: 7 kB sh lo (deleted)
Size:             262144 kB
Rss:                1040 kB
Pss:                 520 kB
Locked:             1040 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms lo rr dd sd 
";

    fn mappings(list: &str) -> std::io::Result<Vec<Mapping>> {
        let mut all = Vec::new();
        let keep = &mut |mapping| {
            all.push(mapping);
            ControlFlow::Continue(())
        };
        read(&mut list.as_bytes(), &mut Vec::new(), keep).map(|()| all)
    }

    #[test]
    fn list_is_read_as_the_kernel_writes_it() {
        let heap = Mapping {
            start: 0x55d0_c8a0_0000,
            end: 0x55d0_c8a0_2000,
            resident_bytes: 4 << 10,
            stored_bytes: 12 << 10,
            is_writable: true,
            ..Mapping::default()
        };
        let ram = Mapping {
            start: 0x7f5e_1000_0000,
            end: 0x7f5e_2000_0000,
            inode: 1_310_772,
            resident_bytes: 1040 << 10,
            stored_bytes: 0,
            is_shared: true,
            is_writable: true,
            writes_back: true,
            is_locked: true,
        };
        assert_eq!(mappings(LIST).expect("a list"), [heap, ram]);
        assert_eq!(mappings("").expect("an empty list"), []);
        let mut first = Vec::new();
        let enough = &mut |mapping| {
            first.push(mapping);
            ControlFlow::Break(())
        };
        read(&mut LIST.as_bytes(), &mut Vec::new(), enough).expect("a list");
        assert_eq!(first, [heap], "one was enough");
    }

    #[test]
    fn line_that_no_kernel_writes_is_an_error() {
        for bad in ["Rss: 4 kB\n", "55d0-55d1 rw-p 0 0:0\n", "x-y rw-p 0 0:0 0\n", "\n"] {
            mappings(bad).expect_err(bad);
        }
        mappings(&LIST.replace("1040 kB", "many kB")).expect_err("a size that is no number");
    }

    #[test]
    fn list_of_this_process_holds_this_code_and_can_be_read_again() {
        let mut smaps = Smaps::of_this_process().expect("/proc");
        let here = (mappings as *const ()).addr();
        for _ in 0..2 {
            let mut found = Vec::new();
            let look = |mapping: Mapping| {
                found.extend((mapping.start..mapping.end).contains(&here).then_some(mapping));
                ControlFlow::Continue(())
            };
            smaps.each(look).expect("/proc");
            assert!(matches!(found[..], [Mapping { resident_bytes: 4096.., is_shared: false, .. }]), "{found:?}");
        }
    }
}
