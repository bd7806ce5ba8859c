//! What a script was promised, and by when: the judge of what a crash leaves.

use std::ops::Range;

use super::program::{Program, Sector};

/// Sectors in a page.
pub const SECTORS: usize = 8;

/// An acknowledged sync: from `position` on, `page` is at least at `version`.
#[derive(Clone, Copy, Debug)]
struct Promise {
    position: usize,
    page: usize,
    version: u64,
}

/// All that a script was promised while its disk was recorded.
#[derive(Clone, Debug)]
pub struct Promises<'a> {
    program: &'a Program,
    /// In the order of their positions.
    promises: Vec<Promise>,
}

/// What is wrong with what a crash left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A sector is older than an acknowledged sync allows.
    Lost {
        /// The page, counted from the script's first.
        page: usize,
        /// Its sector.
        sector: usize,
        /// What it holds.
        found: Sector,
        /// What it must hold, or a later one.
        promised: u64,
    },
    /// A sector holds what nobody wrote there.
    Foreign {
        /// The page.
        page: usize,
        /// Its sector.
        sector: usize,
        /// What it holds.
        found: Sector,
    },
}

impl<'a> Promises<'a> {
    /// Takes down a script's promises: `acknowledged` tells at which position of the record a sync, by its line and pages,
    /// was acknowledged, if it was.
    pub fn new(program: &'a Program, acknowledged: impl Fn(usize, &Range<usize>) -> Option<usize>) -> Self {
        let mut promises = Vec::new();
        for (line, pages) in &program.syncs {
            let Some(position) = acknowledged(*line, pages) else { continue };
            let promise = |page| Promise { position, page, version: program.version_before(*line, page) };
            promises.extend(pages.clone().map(promise));
        }
        promises.sort_by_key(|promise| promise.position);
        Self { program, promises }
    }

    /// Returns the least version of each page that was acknowledged before the first `position` entries were recorded.
    pub fn floor(&self, position: usize) -> Vec<u64> {
        let mut floor = vec![0; self.program.pages];
        for promise in self.promises.iter().take_while(|promise| promise.position <= position) {
            floor[promise.page] = promise.version.max(floor[promise.page]);
        }
        floor
    }

    /// Judges the sectors of all pages, which must not be below `floor`.
    pub fn judge(&self, sectors: &[Sector], floor: &[u64]) -> Result<(), Wrong> {
        for (at, found) in sectors.iter().enumerate() {
            let (page, sector) = (at / SECTORS, at % SECTORS);
            let version = match *found {
                Sector::Zeros => 0,
                Sector::Version(version) if self.program.wrote(page, version) => version,
                found => return Err(Wrong::Foreign { page, sector, found }),
            };
            if version < floor[page] {
                return Err(Wrong::Lost { page, sector, found: *found, promised: floor[page] });
            }
        }
        Ok(())
    }
}

/// The judge sees what is lost, what is torn though it was promised, and what nobody wrote; and nothing else.
pub fn judge_finds_what_is_lost_torn_and_foreign() {
    use super::program::Memory;
    let mut program = Program::new(Memory::Ram, 2);
    program.write(0..2);
    program.sync(0..2, "SUCCESS");
    program.write(0..1);
    program.write(1..2);
    program.sync(1..2, "SUCCESS");
    let positions = |line, _: &Range<usize>| Some(if line == 3 { 10 } else { 20 });
    let promises = Promises::new(&program, positions);
    assert_eq!([9, 10, 19, 20].map(|position| promises.floor(position)), [[0, 0], [1, 1], [1, 1], [1, 3]]);
    let pages = |first, second| [[first; SECTORS], [second; SECTORS]].concat();
    let judge = |position, sectors: &[Sector]| promises.judge(sectors, &promises.floor(position));
    let [one, two, three] = [1, 2, 3].map(Sector::Version);
    assert_eq!(judge(9, &pages(Sector::Zeros, one)), Ok(()));
    assert_eq!(judge(10, &pages(two, three)), Ok(()), "what is newer is fine");
    let mut torn = pages(two, one);
    torn[15] = three;
    assert_eq!(judge(19, &torn), Ok(()), "what was not promised may be torn");
    assert_eq!(judge(20, &torn), Err(Wrong::Lost { page: 1, sector: 0, found: one, promised: 3 }));
    assert_eq!(
        judge(10, &pages(Sector::Zeros, one)),
        Err(Wrong::Lost { page: 0, sector: 0, found: Sector::Zeros, promised: 1 })
    );
    for found in [three, Sector::Version(4), Sector::Version(0), Sector::Foreign] {
        assert_eq!(judge(9, &pages(found, one)), Err(Wrong::Foreign { page: 0, sector: 0, found }));
    }
}
