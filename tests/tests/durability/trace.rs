//! A run of the binary on a recorded disk.

use std::fs;
use std::ops::Range;
use std::path::Path;

use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_tests::{Random, Watched, Wirevm};

use super::disk::{DISK_BYTES, RecordedDisk, extents, on_disk};
use super::mounted::Mounted;
use super::program::{Memory, PAGE, Program, Sector, sectors};
use super::promise::{Promises, SECTORS, Wrong};
use super::record::{Entry, Pending, SECTOR, image};

/// The RAM file's name on the disk.
pub const RAM_FILE: &str = "guest.ram";
/// The folder of the stores on the disk.
pub const STORES: &str = "stores";
/// Pages that scripts write and sync.
const PAGES: usize = 24;

/// What happened to a disk under a script, and when lines were answered.
pub struct Trace {
    /// The script.
    pub program: Program,
    /// All that the disk was asked.
    pub record: Vec<Entry>,
    /// How many entries the record had when the script was started: there was nothing on the disk by then.
    pub started: usize,
    /// How many entries the record had when each line of the script was seen to be answered.
    answered: Vec<usize>,
    /// Where each page is in its file.
    pub in_file: Vec<u64>,
    /// Where each page is on the disk.
    pub on_disk: Vec<u64>,
}

/// Where the script runs, and what its pages are of.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// As in `--on`.
    pub host: &'static str,
    /// What the pages are of.
    pub memory: Memory,
}

/// A guest's own memory, in a virtual machine.
pub const KVM_RAM: Way = Way { host: "kvm", memory: Memory::Ram };
/// The same without one.
pub const HOSTED_RAM: Way = Way { host: "hosted", memory: Memory::Ram };
/// A store, in a virtual machine.
pub const KVM_STORE: Way = Way { host: "kvm", memory: Memory::Store("kept") };
/// The same without one.
pub const HOSTED_STORE: Way = Way { host: "hosted", memory: Memory::Store("kept") };

impl Way {
    /// Returns the command line's end for files in that folder.
    pub fn arguments(self, folder: &Path) -> Vec<String> {
        let memory = format!("size=16M,file={}", folder.join(RAM_FILE).display());
        let mut arguments = vec!["--on".to_owned(), self.host.to_owned(), "--memory".to_owned(), memory];
        if let Memory::Store(_) = self.memory {
            arguments.extend(["--store".to_owned(), folder.join(STORES).display().to_string()]);
        }
        arguments
    }

    /// Returns the path of the pages' file in that folder.
    pub fn file(self, folder: &Path) -> std::path::PathBuf {
        match self.memory {
            Memory::Ram => folder.join(RAM_FILE),
            Memory::Store(name) => folder.join(STORES).join(name),
        }
    }

    /// Carries `check` out on files in that folder, and returns the notes that the report holds.
    pub fn notes(self, folder: &Path) -> Vec<String> {
        let line = [vec!["script".to_owned(), "-".to_owned(), "--json".to_owned()], self.arguments(folder)].concat();
        let report = Wirevm::new(line).input("check\n").run().expect_code(0).json();
        let notes = report.pointer("/machine/notes").and_then(|notes| notes.as_array()).expect("notes");
        notes.iter().map(|note| note.as_str().expect("text").to_owned()).collect()
    }

    /// Makes the folder of the stores.
    pub fn prepare(self, folder: &Path) {
        if let Memory::Store(_) = self.memory {
            fs::create_dir(folder.join(STORES)).expect("a folder for stores");
        }
    }
}

impl Trace {
    /// Runs a random script on a recorded disk, to its end, behind a program that carries out the rest of its line.
    pub fn of(way: Way, wrapper: &[&str], seed: u64, rounds: usize) -> Self {
        let mut disk = RecordedDisk::new();
        let folder = disk.path("");
        way.prepare(&folder);
        let started = disk.position();
        let program = Program::random(way.memory, PAGES, rounds, &mut Random::new(seed));
        let mut run = Watched::behind(wrapper, &program.text, way.arguments(&folder));
        let mut answered = Vec::new();
        while let Some(line) = run.answered() {
            answered.push(disk.position());
            assert_eq!(answered.len(), line.line, "every line is answered, in order");
        }
        drop(run.wait().expect_code(0));
        let file = way.file(&folder);
        let places = program.locate(&fs::read(&file).expect("the file"));
        let in_file: Vec<u64> = places.into_iter().map(|place| place.expect("every page is in the file")).collect();
        let extents = extents(&file);
        let on_disk = in_file.iter().map(|place| on_disk(&extents, *place)).collect();
        let trace = Self { program, record: disk.record(), started, answered, in_file, on_disk };
        let flushes = trace.record.iter().filter(|entry| **entry == Entry::Flush).count();
        println!(
            "{way:?}, seed {seed}: {} lines, {} syncs, {} requests to the disk of which {flushes} are flushes",
            trace.answered.len(),
            trace.program.syncs.len(),
            trace.record.len(),
        );
        trace
    }

    /// Returns what was promised, and by when.
    pub fn promises(&self) -> Promises<'_> {
        Promises::new(&self.program, |line, _| self.answered.get(line - 1).copied())
    }

    /// Returns what would have been promised if every sync were acknowledged before it is done.
    pub fn promises_made_early(&self) -> Promises<'_> {
        Promises::new(&self.program, |line, _| self.answered.get(line - 2).copied())
    }

    /// Returns the places in the record at which the power may go: from the first answer on, when all files are made.
    pub fn places(&self) -> Range<usize> {
        self.answered[0]..self.record.len() + 1
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Images.
    pub images: u64,
    /// Pages of them whose sectors are not all of one write.
    pub torn: u64,
    /// Images that a promise was broken in.
    pub wrong: u64,
}

/// Whether the disk keeps what it says at a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// It does.
    Honest,
    /// It does nothing at a flush.
    Lies,
}

/// Looks at the script's own blocks on the disk, at every place in the record, in as many images for each as
/// there are `kinds`. Every wrong image is shown to `found`.
pub fn look_at_blocks(
    trace: &Trace,
    promises: &Promises<'_>,
    kinds: &mut dyn FnMut() -> Vec<Pending>,
    flushes: Flushes,
    found: &mut dyn FnMut(usize, Wrong),
) -> Tally {
    let mut tally = Tally::default();
    let mut stable = vec![Sector::Zeros; trace.on_disk.len() * SECTORS];
    let mut pending: Vec<(usize, Sector)> = Vec::new();
    for position in 1..trace.places().end {
        match &trace.record[position - 1] {
            Entry::Flush if flushes == Flushes::Honest || position < trace.places().start => {
                pending.drain(..).for_each(|(at, sector)| stable[at] = sector);
            }
            Entry::Flush => {}
            Entry::Write { offset, data } => pending.extend(own_sectors(trace, *offset, data)),
        }
        if position < trace.places().start {
            continue;
        }
        let floor = promises.floor(position);
        let mut kinds = kinds();
        if pending.is_empty() {
            // All images are the same.
            kinds.truncate(1);
        }
        for mut kind in kinds {
            let mut image = stable.clone();
            for (at, sector) in &pending {
                if kind.stays() {
                    image[*at] = *sector;
                }
            }
            tally.images += 1;
            tally.torn +=
                image.chunks(SECTORS).filter(|page| page.iter().any(|sector| *sector != page[0])).count() as u64;
            if let Err(wrong) = promises.judge(&image, &floor) {
                tally.wrong += 1;
                found(position, wrong);
            }
        }
    }
    tally
}

/// Returns the sectors of a write that are of the script's own blocks, by their number among those.
fn own_sectors(trace: &Trace, offset: u64, data: &[u8]) -> Vec<(usize, Sector)> {
    let mut own = Vec::new();
    for (page, place) in trace.on_disk.iter().enumerate() {
        for (number, bytes) in data.chunks(SECTOR).enumerate() {
            let at = offset + (number * SECTOR) as u64;
            if (*place..place + PAGE as u64).contains(&at) {
                let sector = usize::try_from((at - place) / SECTOR as u64).expect("small");
                own.push((page * SECTORS + sector, Sector::of(bytes)));
            }
        }
    }
    own
}

/// Mounts the disk as a crash at `position` leaves it, which recovers its journal. Says why if it can't.
pub fn mount(trace: &Trace, position: usize, lies: &Range<usize>, pending: Pending) -> Result<Mounted, String> {
    Mounted::new(&image(&trace.record, DISK_BYTES, position, lies, pending))
}

/// Looks at the files on a disk that was left by a crash at `position`. Returns what the RAM file says of the end, or what
/// is wrong.
pub fn look_at_files(
    disk: &Mounted,
    trace: &Trace,
    way: Way,
    promises: &Promises<'_>,
    position: usize,
) -> Result<PreviousEnd, String> {
    let ram = RamFile::open(&disk.path(RAM_FILE), None).map_err(|error| error.to_string())?;
    let file = fs::read(way.file(&disk.path(""))).map_err(|error| error.to_string())?;
    let page = |place: &u64| {
        let start = usize::try_from(*place).expect("small");
        file.get(start..start + PAGE).map(sectors)
    };
    let pages: Option<Vec<Vec<Sector>>> = trace.in_file.iter().map(page).collect();
    let Some(pages) = pages else { return Err(format!("the file has {} bytes", file.len())) };
    let judged = promises.judge(&pages.concat(), &promises.floor(position));
    judged.map(|()| ram.previous_end()).map_err(|wrong| format!("{wrong:?}"))
}

/// Returns so many ways in which a power cut may treat pending writes.
pub fn power_cut(random: &mut Random, images: u64) -> Vec<Pending> {
    let mut kinds = vec![Pending::None];
    kinds.extend((1..images).map(|_| Pending::Some(Random::new(random.word()))));
    kinds
}
