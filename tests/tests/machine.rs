//! The life of a real machine and its failures: through the library and through the binary.

#[path = "machine/agent.rs"]
mod agent;
#[path = "machine/backing.rs"]
mod backing;
#[path = "machine/code.rs"]
mod code;
#[path = "machine/crash.rs"]
mod crash;
#[path = "machine/disk.rs"]
mod disk;
#[path = "machine/doorbell.rs"]
mod doorbell;
#[path = "machine/flood.rs"]
mod flood;
#[path = "machine/footprint.rs"]
mod footprint;
#[path = "machine/guests.rs"]
mod guests;
#[path = "machine/lab.rs"]
mod lab;
#[path = "machine/later.rs"]
mod later;
#[path = "machine/numbers.rs"]
mod numbers;
#[path = "machine/programs.rs"]
mod programs;
#[path = "machine/reuse.rs"]
mod reuse;
#[path = "machine/signals.rs"]
mod signals;
#[path = "machine/storage.rs"]
mod storage;
#[path = "machine/touching.rs"]
mod touching;
#[path = "machine/trials.rs"]
mod trials;
#[path = "machine/vcpus.rs"]
mod vcpus;
#[path = "machine/waits.rs"]
mod waits;

use std::process::ExitCode;

use wirevm_tests::Suite;

fn main() -> ExitCode {
    let tables = [
        agent::CASES,
        crash::CASES,
        flood::CASES,
        backing::CASES,
        signals::CASES,
        reuse::CASES,
        storage::CASES,
        numbers::CASES,
        later::CASES,
        doorbell::CASES,
        programs::CASES,
        trials::CASES,
        footprint::CASES,
        waits::CASES,
        vcpus::CASES,
    ];
    tables.into_iter().fold(Suite::new(), Suite::cases).long(programs::LONG).long(touching::LONG).run()
}
