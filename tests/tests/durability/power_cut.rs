//! The host crashes, or its power goes, at every moment of a run.

use std::ops::Range;
use std::sync::OnceLock;

use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_tests::{Case, Need, Random};

use super::disk::{NEEDS as HOSTED, NEEDS_OF_KVM as ON_KVM};
use super::promise::Wrong;
use super::record::Pending;
use super::sizes;
use super::trace::{
    Flushes, HOSTED_RAM, KVM_RAM, RAM_FILE, Tally, Trace, Way, look_at_blocks, look_at_files, mount, power_cut,
};

const TAKEN_SYNCS: &[Need] =
    &[Need::Strace, Need::Root, Need::Mounts, Need::Fuse, Need::LoopDevices, Need::Ext4Programs];

/// Returns the recordings of a way, made once for all cases.
fn traces(way: Way) -> &'static [Trace] {
    static KVM: OnceLock<Vec<Trace>> = OnceLock::new();
    static IN_PROCESS: OnceLock<Vec<Trace>> = OnceLock::new();
    let traces = if way.host == "kvm" { &KVM } else { &IN_PROCESS };
    traces.get_or_init(|| record(way))
}

/// Records runs of random scripts.
pub fn record(way: Way) -> Vec<Trace> {
    // A line takes a real guest longer.
    let rounds = if way.host == "kvm" { 80 } else { 240 };
    let first = sizes::seed();
    (first..first + sizes::recordings()).map(|seed| Trace::of(way, &["env"], seed, rounds)).collect()
}

/// Says where a promise was broken, and how to see it again.
pub fn broken(position: usize, wrong: Wrong) {
    panic!("a crash behind {position} requests: {wrong:?} (WIREVM_DURABILITY_SEED={})", sizes::seed());
}

fn told(what: &str, tally: Tally) {
    println!("{what}: {tally:?}");
}

/// Judges the one image that a crash of the host leaves at each place: the disk goes on.
pub fn host_crash(traces: &[Trace]) {
    for trace in traces {
        let mut all = || vec![Pending::All];
        let tally = look_at_blocks(trace, &trace.promises(), &mut all, Flushes::Honest, &mut broken);
        told("host crash", tally);
        assert_eq!(tally.images, trace.places().len() as u64);
        let early = trace.promises_made_early();
        let lost = look_at_blocks(trace, &early, &mut all, Flushes::Honest, &mut |_, _| {});
        told("host crash, acknowledged before it was done", lost);
        assert!(lost.wrong > 0, "the control loses nothing, so the test proves nothing");
    }
}

/// Judges many images that a power cut may leave at each place.
pub fn power_cuts(traces: &[Trace]) {
    let mut random = Random::new(sizes::seed());
    for trace in traces {
        let mut images = || power_cut(&mut random, sizes::images());
        let tally = look_at_blocks(trace, &trace.promises(), &mut images, Flushes::Honest, &mut broken);
        told("power cut", tally);
        assert!(tally.images > trace.program.syncs.len() as u64 * sizes::images(), "{tally:?}");
        assert!(tally.torn > 0, "no write is ever torn, so this is no power cut: {tally:?}");
    }
}

/// What the judge must find: syncs that are acknowledged before they are done, and a disk that lies about flushes.
pub fn controls(traces: &[Trace]) {
    let mut random = Random::new(sizes::seed());
    for trace in traces {
        let mut images = || power_cut(&mut random, 4);
        let mut lost = 0;
        let mut count = |_, wrong| lost += u64::from(matches!(wrong, Wrong::Lost { .. }));
        let early = look_at_blocks(trace, &trace.promises_made_early(), &mut images, Flushes::Honest, &mut count);
        told("acknowledged before it was done", early);
        let lying = look_at_blocks(trace, &trace.promises(), &mut images, Flushes::Lies, &mut count);
        told("flushes that do nothing", lying);
        assert!(early.wrong > 0 && lying.wrong > 0, "a control loses nothing, so the test proves nothing");
        assert_eq!(lost, early.wrong + lying.wrong, "what is wrong is lost, not foreign");
    }
}

/// Takes the binary its calls that make bytes stable: they do nothing and say that they did. The judge must find that.
fn without_syncs() {
    const INJECT: &str = "inject=msync,fsync,fdatasync,sync_file_range:retval=0";
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", INJECT];
    let trace = Trace::of(HOSTED_RAM, &strace, sizes::seed(), 40);
    let mut none = || vec![Pending::None, Pending::All];
    let mut lost = 0;
    let mut count = |_, wrong| lost += u64::from(matches!(wrong, Wrong::Lost { .. }));
    let tally = look_at_blocks(&trace, &trace.promises(), &mut none, Flushes::Honest, &mut count);
    told("syncs that do nothing", tally);
    assert!(lost > 0 && lost == tally.wrong, "the control loses nothing, so the test proves nothing");
}

/// Mounts the disk as it is left at places drawn at random, looks at the files, and runs the binary on some of them.
pub fn recovered(way: Way, traces: &[Trace]) {
    let mut random = Random::new(sizes::seed());
    let honest = 0..0;
    for trace in traces {
        let promises = trace.promises();
        let left = |position, lies: &Range<usize>, pending| {
            let disk = mount(trace, position, lies, pending)?;
            look_at_files(&disk, trace, way, &promises, position).map(|end| (end, disk))
        };
        let mut restarts = 0;
        for number in 0..sizes::mounts() {
            let position = place(&trace.places(), &mut random);
            let (end, disk) = left(position, &honest, pending(number, &mut random)).unwrap_or_else(|wrong| {
                panic!("a crash behind {position} requests: {wrong} (WIREVM_DURABILITY_SEED={})", sizes::seed())
            });
            if end == PreviousEnd::NotClean && restarts < 2 {
                restarts += 1;
                let notes = way.notes(&disk.path(""));
                assert!(notes.iter().any(|note| note.contains("was not closed in order")), "{notes:?}");
            }
            assert!(matches!(end, PreviousEnd::NotClean | PreviousEnd::Clean), "{end:?}");
        }
        assert!(restarts > 0, "all crashes are behind the end");
        let (end, _disk) = left(trace.record.len(), &honest, Pending::None).expect("the machine has ended");
        assert_eq!(end, PreviousEnd::Clean);
        // Behind the first answer the disk lies: what was made before is there, what is promised later is not.
        let lost = (0..3)
            .filter(|number| left(trace.record.len(), &trace.places(), pending(2 * number, &mut random)).is_err());
        assert!(lost.count() > 0, "a disk that lies loses nothing, so the test proves nothing");
    }
}

/// Mounts the disk as it is left at places drawn at random while the RAM file is made: it is whole, or it is not there.
fn while_it_is_made(traces: &[Trace]) {
    let mut random = Random::new(sizes::seed());
    for trace in traces {
        let making = trace.started..trace.places().start;
        let mut there = 0;
        for number in 0..sizes::mounts() {
            // The last of them are around the moment at which it gets its name.
            let position = if number % 2 == 0 {
                place(&making, &mut random)
            } else {
                making.end.saturating_sub(usize::try_from(number).expect("small")).max(making.start)
            };
            let again = format!("a crash behind {position} requests (WIREVM_DURABILITY_SEED={})", sizes::seed());
            let disk = mount(trace, position, &(0..0), pending(number, &mut random));
            let path = disk.as_ref().expect(&again).path(RAM_FILE);
            if path.exists() {
                let ram = RamFile::open(&path, Some(16 << 20));
                assert!(ram.is_ok(), "{again}: {}", ram.expect_err("it is not whole"));
                there += 1;
            }
        }
        println!("of {} crashes while the RAM file is made {there} left it, whole", sizes::mounts());
    }
}

/// Returns how a crash treats pending writes, each way in turn.
fn pending(number: u64, random: &mut Random) -> Pending {
    match number % 4 {
        0 => Pending::None,
        1 => Pending::All,
        _ => Pending::Some(Random::new(random.word())),
    }
}

/// Draws a place at which the power goes.
fn place(places: &Range<usize>, random: &mut Random) -> usize {
    places.start + usize::try_from(random.below((places.end - places.start) as u64)).expect("small")
}

pub const CASES: &[Case] = &[
    ("host_crash_keeps_what_was_acknowledged", ON_KVM, || host_crash(traces(KVM_RAM))),
    ("host_crash_keeps_what_was_acknowledged_on_hosted", HOSTED, || host_crash(traces(HOSTED_RAM))),
    ("power_cut_keeps_what_was_acknowledged", ON_KVM, || power_cuts(traces(KVM_RAM))),
    ("power_cut_keeps_what_was_acknowledged_on_hosted", HOSTED, || power_cuts(traces(HOSTED_RAM))),
    ("power_cut_then_mounted_keeps_file_and_what_was_acknowledged", ON_KVM, || recovered(KVM_RAM, traces(KVM_RAM))),
    ("power_cut_then_mounted_keeps_file_and_what_was_acknowledged_on_hosted", HOSTED, || {
        recovered(HOSTED_RAM, traces(HOSTED_RAM));
    }),
    ("power_cut_while_the_file_is_made_leaves_it_whole_or_not_at_all", HOSTED, || while_it_is_made(traces(HOSTED_RAM))),
    ("early_acknowledgements_and_lying_flushes_are_found", ON_KVM, || controls(traces(KVM_RAM))),
    ("early_acknowledgements_and_lying_flushes_are_found_on_hosted", HOSTED, || controls(traces(HOSTED_RAM))),
    ("syncs_that_do_nothing_are_found", TAKEN_SYNCS, without_syncs),
];
