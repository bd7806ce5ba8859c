//! What survives: a killed process, a crash of the host, a power cut, a failing disk. The README's table of durability
//! names these tests.
//!
//! Power is cut in a model: a disk whose every write and flush is recorded ([`disk`]), and images of what it holds when the
//! power goes at any place in the record ([`record`]), with and without what no flush has covered, torn at 512 bytes.
//!
//! For longer runs see [`sizes`].

#[path = "durability/disk.rs"]
mod disk;
#[path = "durability/disk_error.rs"]
mod disk_error;
#[path = "durability/kill.rs"]
mod kill;
#[path = "durability/mounted.rs"]
mod mounted;
#[path = "durability/power_cut.rs"]
mod power_cut;
#[path = "durability/program.rs"]
mod program;
#[path = "durability/promise.rs"]
mod promise;
#[path = "durability/record.rs"]
mod record;
#[path = "durability/server.rs"]
mod server;
#[path = "durability/sizes.rs"]
mod sizes;
#[path = "durability/store.rs"]
mod store;
#[path = "durability/trace.rs"]
mod trace;

use std::env;
use std::process::ExitCode;

use wirevm_tests::{Case, Suite};

/// The suites' own cases.
const ALL: [&[Case]; 5] = [MODELS, kill::CASES, power_cut::CASES, disk_error::CASES, store::CASES];

/// The README's table of durability names tests that there are, and every other cell says that it is not shown.
fn readme_names_tests_that_there_are() {
    let readme = include_str!("../../README.md");
    let cells: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| the "))
        .flat_map(|line| line.trim_matches('|').split('|').skip(1))
        .collect();
    assert_eq!(cells.len(), 12, "four events, three kinds of memory");
    for cell in cells {
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || cell.contains("*not shown*"), "{cell}");
        for name in names {
            assert!(ALL.iter().copied().flatten().any(|(known, ..)| *known == name), "{name} is no test");
        }
    }
}

const MODELS: &[Case] = &[
    ("readme_names_tests_that_there_are", &[], readme_names_tests_that_there_are),
    ("model_of_the_disk_keeps_what_a_flush_has_covered", &[], record::model_of_the_disk_keeps_what_a_flush_has_covered),
    ("judge_finds_what_is_lost_torn_and_foreign", &[], promise::judge_finds_what_is_lost_torn_and_foreign),
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(server::ARGUMENT) {
        return server::serve(&arguments.collect::<Vec<_>>());
    }
    ALL.into_iter().fold(Suite::new(), Suite::cases).run()
}
