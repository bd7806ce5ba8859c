//! The disk fails: writes to the blocks of some pages come back with an error, others go on.

use std::fs;

use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_tests::{Case, Finished, Watched};

use super::disk::{DISK_BYTES, NEEDS as HOSTED, NEEDS_OF_KVM as ON_KVM, RecordedDisk, extents, on_disk};
use super::program::{Memory, PAGE, Program, Sector, sectors};
use super::record::{Pending, image};
use super::trace::{HOSTED_RAM, KVM_RAM, RAM_FILE, Way};

/// Pages of the script; writes to the blocks of the upper half fail.
const PAGES: usize = 16;
const GOOD: usize = PAGES / 2;

/// A disk on which the blocks of some pages can't be written, and what ran on it.
struct Failing {
    disk: RecordedDisk,
    /// The pages' places in their file.
    in_file: Vec<u64>,
    /// The pages' places on the disk.
    on_disk: Vec<u64>,
    before: Program,
}

impl Failing {
    /// Writes all pages while the disk is good, and lets it fail then.
    fn new(way: Way) -> Self {
        let mut disk = RecordedDisk::new();
        let folder = disk.path("");
        way.prepare(&folder);
        let mut before = Program::new(way.memory, PAGES);
        for page in 0..PAGES {
            before.write(page..page + 1);
        }
        before.sync(0..PAGES, "SUCCESS");
        drop(Watched::start(&before.text, way.arguments(&folder)).wait().expect_code(0));
        let file = way.file(&folder);
        let places = before.locate(&fs::read(&file).expect("the file"));
        let in_file: Vec<u64> = places.into_iter().map(|place| place.expect("every page is in the file")).collect();
        let extents = extents(&file);
        let on_disk: Vec<u64> = in_file.iter().map(|place| on_disk(&extents, *place)).collect();
        for place in &on_disk[GOOD..] {
            disk.fail(*place, PAGE as u64);
        }
        Self { disk, in_file, on_disk, before }
    }

    /// Returns what a power cut now would leave of the pages.
    fn stable(&mut self) -> Vec<Sector> {
        let record = self.disk.record();
        let image = image(&record, DISK_BYTES, record.len(), &(0..0), Pending::None);
        let start = |place: &u64| usize::try_from(*place).expect("small");
        self.on_disk.iter().flat_map(|place| sectors(&image[start(place)..start(place) + PAGE])).collect()
    }

    /// Runs a script that has new versions of good pages synced, then of bad ones, which gives `result`; nothing that was
    /// acknowledged may be lost.
    fn run(&mut self, way: Way, result: &str, more: &[&str]) -> Finished {
        let mut program = Program::new(way.memory, PAGES).versions_from(1000);
        program.write(0..GOOD);
        program.sync(0..GOOD, "SUCCESS");
        program.write(GOOD..PAGES);
        program.sync(GOOD..PAGES, result);
        more.iter().for_each(|line| program.line(line));
        let finished = Watched::start(&program.text, way.arguments(&self.disk.path(""))).wait();
        let stable = self.stable();
        for (at, found) in stable.iter().enumerate() {
            let page = at / 8;
            // The bad half was not written, or the test would prove nothing.
            let expected = if page < GOOD { 1000 } else { self.before.version_before(usize::MAX, page) };
            assert_eq!(*found, Sector::Version(expected), "sector {at}:\n{}", finished.stderr);
        }
        finished
    }
}

/// The machine stops with the storage error, the file records it and names the page, and the next run tells.
fn ram(way: Way) {
    let mut failing = Failing::new(way);
    let stopped = failing.run(way, "any", &["check", "check"]).expect_code(7);
    assert!(stopped.stderr.contains("storage failed"), "{}", stopped.stderr);
    let folder = failing.disk.path("");
    let ram = RamFile::open(&folder.join(RAM_FILE), None).expect("the RAM file");
    let page = |place: &u64| (place - ram.data_offset()) / PAGE as u64;
    let bad: Vec<u64> = failing.in_file[GOOD..].iter().map(page).collect();
    let PreviousEnd::Failed { errno, first_page: Some(first) } = ram.previous_end() else {
        panic!("{:?}\n{}", ram.previous_end(), stopped.stderr)
    };
    assert!(errno == libc::EIO && bad.contains(&first), "errno {errno}, page {first}; the bad pages are {bad:?}");
    drop(ram);
    let notes = way.notes(&folder).concat();
    assert!(notes.contains("storage failed under") && notes.contains(&format!("RAM page {first})")), "{notes}");
}

/// The guest is told, keeps its bytes, and goes on; the other pages of the store can still be synced.
pub fn store(way: Way) {
    assert!(matches!(way.memory, Memory::Store(_)));
    let mut failing = Failing::new(way);
    let again = format!("sync a[{GOOD},{PAGES}) synchronous => FAILURE");
    let finished = failing.run(way, "FAILURE", &[&again, "check"]);
    assert!(matches!(finished.code, Some(0 | 7)), "{:?}\n{}", finished.code, finished.stderr);
}

pub const CASES: &[Case] = &[
    ("disk_error_stops_the_machine_and_keeps_what_was_acknowledged", ON_KVM, || ram(KVM_RAM)),
    ("disk_error_stops_the_machine_and_keeps_what_was_acknowledged_on_hosted", HOSTED, || ram(HOSTED_RAM)),
];
