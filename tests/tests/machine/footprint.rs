//! What a machine takes of the host: memory besides its RAM, and time before its guest runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::witness::{Footprint, SAMPLE_INTERVAL};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Wirevm};

use super::lab::{Lab, Setup, kernel};

const MIB: u64 = 1 << 20;
/// Most that a process may keep resident besides guest RAM. A build for tests is larger than one for users.
const MOST_RESIDENT: u64 = if cfg!(debug_assertions) { 8 * MIB } else { 5 * MIB };
/// Wires, syncs and lets go, and so reaches what a machine does.
const SCRIPT: &str = "a = allocate 256 pages
wire a user
host locked => 256
sync a synchronous
unwire a user
host locked => 0
";

/// A RAM file that a machine has used, and a script, in a folder of their own.
struct Used {
    _folder: TempDir,
    ram: PathBuf,
    script: PathBuf,
}

fn used() -> Used {
    let folder = scratch_dir();
    let (ram, script) = (folder.path().join("ram"), folder.path().join("script"));
    drop(RamFile::create(&ram, 256 * MIB, Durability::Shared).expect("a RAM file"));
    fs::write(&script, SCRIPT).expect("a script");
    drop(run(&ram, &script).run().expect_code(0));
    Used { _folder: folder, ram, script }
}

fn run(ram: &Path, script: &Path) -> Wirevm {
    let memory = format!("256M,file={}", ram.display());
    Wirevm::new(["run", "--json", "--memory", &memory, "--script"]).with(|command| {
        command.arg(script);
    })
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("after the host's start")
}

pub const CASES: &[Case] = &[
    ("run_keeps_at_most_8_mib_resident_besides_guest_ram_at_any_time", &[Need::Kvm, Need::Durable], || {
        let Used { ram, script, .. } = &used();
        let file = File::open(ram).expect("the RAM file");
        let (finished, watch) = run(ram, script).run_beside(|id| {
            let footprint = Footprint::of_process(id, &file).expect("its mappings");
            footprint.watch(SAMPLE_INTERVAL).expect("a thread")
        });
        let peak = watch.finish().expect("its mappings");
        drop(finished.expect_code(0));
        println!("at most {} KiB besides guest RAM in {} looks", peak.bytes / 1024, peak.looks);
        assert!(peak.looks >= 2, "{peak:?}");
        // What is less than this misses the program itself.
        assert!((MIB..=MOST_RESIDENT).contains(&peak.bytes), "{peak:?}");
    }),
    ("first_entry_is_told_on_the_clock_of_whoever_started_the_program", &[Need::Kvm, Need::Durable], || {
        let Used { ram, script, .. } = &used();
        let before = monotonic_ns();
        let finished = run(ram, script).run().expect_code(0);
        let after = monotonic_ns();
        let document = finished.json();
        let word = |name: &str| document.pointer(name).and_then(serde_json::Value::as_u64).expect(name);
        let entry = word("/machine/first_entry_monotonic_ns");
        println!("from the start of the program to its guest's first instruction: {} us", (entry - before) / 1000);
        assert!(before < entry && entry < after, "{before}, {entry}, {after}");
    }),
    ("first_entry_is_known_once_the_guest_is_ready", &[Need::Kvm], || {
        let before = Instant::now();
        let lab = Lab::start(|| RamFile::memfd(16 * MIB).expect("a memfd"), kernel(), &Setup::default());
        lab.booted();
        let ready = Instant::now();
        let entry = lab.machine.first_entry().expect("the guest has run");
        assert!(before < entry && entry < ready, "{before:?}, {entry:?}, {ready:?}");
        lab.stop();
    }),
];
