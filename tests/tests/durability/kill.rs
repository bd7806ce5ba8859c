//! The process is killed: at any moment, and right behind a line that was answered.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_devices::witness::dirty_pages;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Random, Watched};

use super::program::{Memory, PAGE, Program};
use super::sizes;
use super::trace::{HOSTED_RAM, KVM_RAM, RAM_FILE, Way};

/// Returns a script that writes pages one after the other and syncs each before the next.
fn program(way: Way) -> Program {
    // A line takes a real guest longer.
    Program::one_by_one(way.memory, if way.host == "kvm" { 24 } else { 200 }, "SUCCESS")
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// As soon as that line is answered.
    Behind(usize),
}

/// What a kill left.
struct Left {
    /// Where each page is in the file, if it is there whole.
    places: Vec<Option<u64>>,
    /// How many lines were answered.
    answered: usize,
}

/// Runs the script in a folder of its own and kills it at that moment.
fn kill(way: Way, program: &Program, folder: &Path, moment: Moment) -> Left {
    way.prepare(folder);
    let mut run = Watched::start(&program.text, way.arguments(folder));
    let mut answered = 0;
    match moment {
        Moment::After(time) => thread::sleep(time),
        Moment::Behind(line) => {
            while answered < line {
                answered = run.answered().expect("the line is answered").line;
            }
        }
    }
    run.kill();
    // What it had said by then counts, though it was not read yet.
    while let Some(line) = run.answered() {
        answered = line.line;
    }
    let file = fs::read(way.file(folder));
    assert!(file.is_ok() || answered == 0, "{moment:?}: {file:?}");
    Left { places: program.locate(&file.unwrap_or_default()), answered }
}

/// Returns how many of these pages of a file differ from stable storage; none where this kernel can't tell.
fn dirty(file: &Path, places: &[u64]) -> Option<u64> {
    let file = File::open(file).expect("the file");
    places.iter().map(|place| dirty_pages(&file, *place, PAGE as u64).expect("the witness")).sum()
}

/// Kills a script at that moment and checks what is left. Returns how many pages that nobody synced were dirty, where this kernel can
/// tell.
fn check(way: Way, program: &Program, moment: Moment) -> Option<u64> {
    let folder = scratch_dir();
    let left = kill(way, program, folder.path(), moment);
    let acknowledged = program.syncs.iter().filter(|(line, _)| *line <= left.answered);
    let mut synced = Vec::new();
    for page in acknowledged.flat_map(|(_, pages)| pages.clone()) {
        let place = left.places[page];
        let place = place.unwrap_or_else(|| panic!("killed at {moment:?}, page {page} is lost; {}", again()));
        synced.push(place);
    }
    let unsynced: Vec<u64> = left.places.into_iter().flatten().filter(|place| !synced.contains(place)).collect();
    println!("{way:?}, killed at {moment:?}: {} lines answered, {} pages synced", left.answered, synced.len());
    if !folder.path().join(RAM_FILE).exists() {
        assert_eq!(left.answered, 0, "killed at {moment:?}");
        return Some(0);
    }
    let file = way.file(folder.path());
    if way.memory == Memory::Ram {
        // What was acknowledged is not only in the kernel's cache, which a kill leaves alone. A store's file may be cached in
        // units of many pages, all of which count as dirty when one is; what it keeps is shown by cutting the power.
        assert!(matches!(dirty(&file, &synced), None | Some(0)), "killed at {moment:?}; {}", again());
    }
    let others = if unsynced.is_empty() { Some(0) } else { dirty(&file, &unsynced) };
    let end = RamFile::open(&folder.path().join(RAM_FILE), None).expect("the RAM file").previous_end();
    // With its last line answered it may have ended in order before it was killed.
    if left.answered > 0 && left.answered < program.text.lines().count() {
        assert_eq!(end, PreviousEnd::NotClean, "killed at {moment:?}");
    }
    if end == PreviousEnd::NotClean {
        let notes = way.notes(folder.path());
        assert!(notes.iter().any(|note| note.contains("was not closed in order")), "{notes:?}");
    }
    assert_eq!(way.notes(folder.path()), Vec::<String>::new(), "it is told once");
    others
}

fn again() -> String {
    format!("WIREVM_DURABILITY_SEED={}", sizes::seed())
}

/// Kills scripts right behind answers drawn at random: those of a sync, and those of a write that nobody has synced.
pub fn behind_answers(way: Way) {
    println!("{}", again());
    let mut random = Random::new(sizes::seed());
    let program = program(way);
    let mut dirty = Some(0);
    for number in 0..sizes::kills() {
        let (line, _) = program.syncs[usize::try_from(random.below(program.pages as u64)).expect("small")];
        // The line in front of a sync is a write.
        let moment = Moment::Behind(line - usize::from(number % 2 == 0));
        dirty = dirty.zip(check(way, &program, moment)).map(|(all, more)| all + more);
    }
    if way.memory == Memory::Ram {
        // Otherwise it would mean nothing that no synced page is dirty. What is not synced never reaches a store.
        assert_ne!(dirty, Some(0), "no page is ever dirty, so the test proves nothing");
    }
}

/// Kills scripts at moments drawn at random, from their start to behind their end.
pub fn at_any_moment(way: Way) {
    println!("{}", again());
    let mut random = Random::new(sizes::seed());
    let program = program(way);
    let folder = scratch_dir();
    way.prepare(folder.path());
    let start = Instant::now();
    drop(Watched::start(&program.text, way.arguments(folder.path())).wait().expect_code(0));
    let whole = u64::try_from(start.elapsed().as_micros()).expect("small");
    for _ in 0..sizes::kills() {
        // A run that has ended by itself was not killed.
        let moment = Duration::from_micros(random.below(whole * 9 / 10));
        check(way, &program, Moment::After(moment));
    }
}

/// Without durability no sync is acknowledged, and a killed process leaves nothing at all.
fn nothing_is_left(host: &str) {
    let folder = scratch_dir();
    let program = Program::one_by_one(Memory::Ram, 3, "FAILURE");
    let arguments = ["--on", host, "--memory", "size=16M,durability=none"];
    let name = folder.path().to_str().expect("a folder named by text");
    // These are all the folders that a temporary RAM file could be in, but for one that all programs share.
    let wrapper = ["env", "--chdir", name, &format!("XDG_CACHE_HOME={name}")];
    let mut run = Watched::behind(&wrapper, &program.text, arguments);
    let (last, _) = program.syncs.last().expect("syncs");
    while let Some(line) = run.answered() {
        let failed = program.syncs.iter().any(|(sync, _)| *sync == line.line);
        assert_eq!(line.result == "FAILURE", failed, "{line:?}");
        if line.line == *last {
            break;
        }
    }
    run.kill();
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "something is left");
}

const ON_KVM: &[Need] = &[Need::Kvm, Need::Durable];
const HOSTED: &[Need] = &[Need::Durable];

pub const CASES: &[Case] = &[
    ("process_kill_behind_an_answer_keeps_what_was_acknowledged", ON_KVM, || behind_answers(KVM_RAM)),
    ("process_kill_behind_an_answer_keeps_what_was_acknowledged_on_hosted", HOSTED, || behind_answers(HOSTED_RAM)),
    ("process_kill_at_any_moment_keeps_what_was_acknowledged", ON_KVM, || at_any_moment(KVM_RAM)),
    ("process_kill_at_any_moment_keeps_what_was_acknowledged_on_hosted", HOSTED, || at_any_moment(HOSTED_RAM)),
    ("process_kill_without_durability_leaves_nothing", &[Need::Kvm], || nothing_is_left("kvm")),
    ("process_kill_without_durability_leaves_nothing_on_hosted", &[], || nothing_is_left("hosted")),
];
