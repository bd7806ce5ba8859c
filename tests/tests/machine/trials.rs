//! What programs are promised: each promise is tried by a program.

use std::time::Duration;

use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};

use super::guests::{Entry, archive};
use super::lab::{Lab, Setup};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

const ALL: &[Entry] = &[("trials", &["all"])];
/// The trials among [`ALL`].
const NAMES: [&str; 11] = [
    "sleep",
    "futex",
    "join",
    "inherit",
    "maximum",
    "execute",
    "registers",
    "fresh",
    "fs-base",
    "private",
    "exclusive",
];
/// What a processor is said to lack whose kernel lets no program set this.
const UNSET: &str = "trials: fs-base: programs can't set it here\n";
const REGISTERS: &[Entry] =
    &[("trials", &["registers"]), ("trials", &["registers"]), ("trials", &["fresh"]), ("trials", &["fresh"])];

fn setup(vcpus: u32, programs: &[Entry]) -> Setup {
    Setup { vcpus, archive: archive(programs), time_limit: Duration::from_secs(600), ..Setup::default() }
}

/// Tries everything, twice, as stores then hold something.
fn promises(vcpus: u32) {
    let folder = scratch_dir();
    let mut lab = Lab::of_programs_on_disk(32 * MIB, folder.path(), setup(vcpus, ALL));
    for _ in 0..2 {
        let output = lab.expect_ok(0, LIMIT);
        if output.contains(UNSET) {
            print!("{UNSET}");
        }
        let expected: String = NAMES.iter().map(|name| format!("trials: {name}: ok\n")).collect();
        assert_eq!(output.replace(UNSET, ""), expected);
    }
    lab.stop();
}

/// Lets programs whose threads keep numbers in their registers run at the same time.
fn registers(vcpus: u32) {
    let mut lab = Lab::of_programs(32 * MIB, &setup(vcpus, REGISTERS));
    let tasks: Vec<u64> = (0..REGISTERS.len() as u64).map(|entry| lab.run_program(entry)).collect();
    for task in tasks {
        lab.expect_exit(task, 0, LIMIT);
        lab.end_task(task);
    }
    lab.expect_quiet();
    lab.stop();
}

const DISK: &[Need] = &[Need::Kvm, Need::Durable, Need::Stores];
const KVM: &[Need] = &[Need::Kvm];

pub const CASES: &[Case] = &[
    ("programs_get_what_they_are_promised", DISK, || promises(1)),
    ("programs_get_what_they_are_promised_on_2_vcpus", DISK, || promises(2)),
    ("registers_of_threads_and_programs_are_their_own", KVM, || registers(1)),
    ("registers_of_threads_and_programs_are_their_own_on_2_vcpus", KVM, || registers(2)),
];
