//! Scripts that write pages and sync them, and what they are promised for it.
//!
//! Every write has a version, which stands 32 times in each sector that it fills, so it can be seen of every sector which
//! write it is from.

use std::fmt::Write;
use std::ops::Range;

use wirevm_tests::Random;

use super::record::SECTOR;

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// What each version begins with.
const MAGIC: [u8; 8] = *b"wrotethe";

/// What memory a script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Memory of the guest's own.
    Ram,
    /// The pages of the store with this name.
    Store(&'static str),
}

/// A write of a version to some pages.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its line.
    pub line: usize,
    /// The pages, counted from the first that the script has.
    pub pages: Range<usize>,
    /// The version, larger than all before.
    pub version: u64,
}

/// A script.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its text.
    pub text: String,
    /// How many pages it has.
    pub pages: usize,
    /// All writes.
    pub writes: Vec<Written>,
    /// All syncs that are waited for: line and pages.
    pub syncs: Vec<(usize, Range<usize>)>,
    lines: usize,
    first_version: u64,
}

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// Zeros.
    Zeros,
    /// That version.
    Version(u64),
    /// What no script writes.
    Foreign,
}

impl Sector {
    /// Says what the bytes of a sector are.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Zeros;
        }
        let (unit, magic) = (&bytes[..16], &bytes[..8]);
        if magic != MAGIC || bytes.chunks(16).any(|other| other != unit) {
            return Self::Foreign;
        }
        Self::Version(u64::from_le_bytes(unit[8..].try_into().expect("eight bytes")))
    }
}

/// Says what the sectors of pages are.
pub fn sectors(bytes: &[u8]) -> Vec<Sector> {
    bytes.chunks(SECTOR).map(Sector::of).collect()
}

impl Program {
    /// Begins a script with that many pages of memory named `a`.
    pub fn new(memory: Memory, pages: usize) -> Self {
        let mut program =
            Self { text: String::new(), pages, writes: vec![], syncs: vec![], lines: 0, first_version: 1 };
        match memory {
            Memory::Ram => program.line(&format!("a = allocate {pages} pages")),
            Memory::Store(name) => {
                program.line(&format!("object o store {name} {pages} pages"));
                program.line("a = map o shared");
            }
        }
        program
    }

    /// Numbers the versions from `first` on, so that they differ from those of another script.
    pub fn versions_from(mut self, first: u64) -> Self {
        self.first_version = first;
        self
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("text");
        self.lines += 1;
    }

    /// Writes a new version to pages.
    pub fn write(&mut self, pages: Range<usize>) {
        let version = self.writes.last().map_or(self.first_version, |last| last.version + 1);
        let stamp: String = MAGIC.into_iter().chain(version.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
        self.line(&format!("write a[{},{}) hex:{stamp}", pages.start, pages.end));
        self.writes.push(Written { line: self.lines, pages, version });
    }

    /// Syncs pages and waits for it; `result` is what must come of it.
    pub fn sync(&mut self, pages: Range<usize>, result: &str) {
        self.line(&format!("sync a[{},{}) synchronous => {result}", pages.start, pages.end));
        self.syncs.push((self.lines, pages));
    }

    /// A script that writes each page once and syncs it before the next: one line for each.
    pub fn one_by_one(memory: Memory, pages: usize, result: &str) -> Self {
        let mut program = Self::new(memory, pages);
        for page in 0..pages {
            program.write(page..page + 1);
            program.sync(page..page + 1, result);
        }
        program
    }

    /// A script of `rounds` rounds in which random pages are written and random ones synced. At first all pages are
    /// written and synced, and at last each is written by itself.
    pub fn random(memory: Memory, pages: usize, rounds: usize, random: &mut Random) -> Self {
        let mut program = Self::new(memory, pages);
        let range = |random: &mut Random| {
            let mut draw = || usize::try_from(random.below(pages as u64)).expect("small");
            let (one, other) = (draw(), draw());
            one.min(other)..one.max(other) + 1
        };
        program.write(0..pages);
        program.sync(0..pages, "SUCCESS");
        for _ in 0..rounds {
            for _ in 0..=random.below(3) {
                program.write(range(random));
            }
            match random.below(8) {
                // Nobody waits for it: it promises nothing, and its writes are under way beside others.
                0 => {
                    let pages = range(random);
                    program.line(&format!("sync a[{},{}) asynchronous", pages.start, pages.end));
                }
                1 => {}
                _ => program.sync(range(random), "SUCCESS"),
            }
        }
        for page in 0..pages {
            program.write(page..page + 1);
        }
        program.sync(0..pages, "SUCCESS");
        program
    }

    /// Returns the version that the last write in front of a line gave a page, 0 without one.
    pub fn version_before(&self, line: usize, page: usize) -> u64 {
        let written = |write: &&Written| write.line < line && write.pages.contains(&page);
        self.writes.iter().rfind(written).map_or(0, |write| write.version)
    }

    /// Tells whether a page was ever given a version.
    pub fn wrote(&self, page: usize, version: u64) -> bool {
        // Versions are numbered in the order of their writes.
        let index = version.checked_sub(self.first_version).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.writes.get(index)).is_some_and(|write| write.pages.contains(&page))
    }

    /// Returns where in a file each page is that was written last by a write of its own: the file must hold it whole.
    pub fn locate(&self, file: &[u8]) -> Vec<Option<u64>> {
        let mut places = vec![None; self.pages];
        for (number, bytes) in file.chunks(PAGE).enumerate() {
            let Sector::Version(version) = Sector::of(&bytes[..SECTOR]) else { continue };
            for (page, place) in places.iter_mut().enumerate() {
                if self.version_before(usize::MAX, page) == version
                    && bytes.chunks(SECTOR).all(|sector| Sector::of(sector) == Sector::Version(version))
                {
                    assert_eq!(*place, None, "version {version} of page {page} is there twice");
                    *place = Some((number * PAGE) as u64);
                }
            }
        }
        places
    }
}
