//! Syncing a real file, against what the kernel says is dirty.

#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/suite.rs"]
mod suite;

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use folder::{RAM_BYTES, durable_folder, lacks_durable_folder};
use machine::{MAP_ENTRIES, Machine, RAM_PAGES, range};
use wirevm_abi::{RamRange, Status};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{FileSystemKind, PreviousEnd, RamFile, RamState, durable_file_system};
use wirevm_devices::sync::{RangeResult, SyncConfig, SyncService};

fn start(ram: &RamFile) -> SyncService {
    SyncService::start(ram, SyncConfig::default(), |error| panic!("storage is good: {error}")).expect("a service")
}

/// Sets up a machine whose pages are in the cache one by one, and none dirty.
fn machine() -> (tempfile::TempDir, Machine) {
    let folder = durable_folder();
    let machine = Machine::new(RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file"), MAP_ENTRIES);
    machine.pins.wire(range(0, RAM_PAGES)).expect("wired");
    machine.pins.release_all();
    assert_eq!(dirty(&machine, range(0, RAM_PAGES)), 0);
    (folder, machine)
}

fn dirty(machine: &Machine, range: RamRange) -> u64 {
    machine.witness.dirty(range).expect("cachestat").expect("Linux 6.5 or newer counts dirty pages")
}

fn submit_makes_exactly_the_asked_pages_clean() {
    let (folder, machine) = machine();
    if durable_file_system(folder.path()).expect("checked") == FileSystemKind::BtrfsNoCow {
        eprintln!("SKIPPED: btrfs may write the whole file for any range of it");
        return;
    }
    let syncs = start(&machine.ram);
    machine.store(range(0, 8), 0xaa);
    machine.store(range(500, 2), 0xbb);
    assert_eq!(dirty(&machine, range(0, RAM_PAGES)), 10);
    assert_eq!(syncs.submit_and_wait(&[range(2, 3)]), [Status::OK]);
    let left = [range(0, 2), range(2, 3), range(5, 3), range(500, 2)].map(|range| dirty(&machine, range));
    assert_eq!(left, [2, 0, 3, 2], "a sync must write its range and nothing else");
    let answers = syncs.submit_and_wait(&[range(501, 1), range(0, 2), range(0, 4), range(7, 1)]);
    assert_eq!(answers, [Status::OK; 4]);
    let left =
        [range(0, 5), range(5, 2), range(7, 1), range(500, 1), range(501, 1)].map(|range| dirty(&machine, range));
    assert_eq!(left, [0, 2, 0, 1, 0]);
    let stats = syncs.stats();
    assert_eq!((stats.requests, stats.runs, stats.flushes), (2, 4, 2), "one flush a request");
    assert_eq!(machine.witness.bytes(501).expect("a page")[0], 0xbb);
}

fn submit_of_wired_pages_makes_them_clean_and_keeps_them_locked() {
    let (_folder, machine) = machine();
    let syncs = start(&machine.ram);
    machine.pins.wire(range(10, 4)).expect("wired");
    machine.store(range(10, 4), 1);
    assert_eq!(dirty(&machine, range(10, 4)), 4);
    assert_eq!(syncs.submit_and_wait(&[range(10, 4)]), [Status::OK]);
    assert_eq!(dirty(&machine, range(10, 4)), 0);
    assert_eq!(machine.witness.locked_in(range(10, 4)).expect("/proc"), 4);
}

fn submit_writes_while_the_caller_goes_on_and_answers_when_the_pages_are_clean() {
    let (_folder, machine) = machine();
    let syncs = start(&machine.ram);
    machine.store(range(0, 16), 1);
    let (sender, results) = mpsc::channel();
    let answer = move |results: Vec<RangeResult>| sender.send(results).expect("the test listens");
    syncs.submit(&[range(0, 8), range(8, 8)], Box::new(answer)).expect("accepted");
    let results = results.recv_timeout(Duration::from_secs(20)).expect("answered");
    assert!(results.iter().all(|result| result.status == Status::OK), "{results:?}");
    assert_eq!(dirty(&machine, range(0, 16)), 0);
}

fn submit_from_many_threads_leaves_each_ones_pages_clean() {
    let (_folder, machine) = machine();
    let syncs = start(&machine.ram);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (machine, syncs) = (&machine, &syncs);
            scope.spawn(move || {
                for round in 0..50_u64 {
                    let mine = range(thread * 256 + round * 5, 3);
                    machine.store(mine, 1);
                    assert_eq!(syncs.submit_and_wait(&[mine]), [Status::OK]);
                    assert_eq!(dirty(machine, mine), 0);
                }
            });
        }
    });
    assert_eq!((syncs.stats().requests, syncs.latched()), (200, None));
}

fn service_without_durability_answers_unsupported() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = RamFile::create(&folder.path().join("guest.ram"), RAM_BYTES, Durability::None).expect("a RAM file");
    for ram in [file, RamFile::memfd(RAM_BYTES).expect("a memfd")] {
        let syncs = start(&ram);
        assert!(!syncs.is_supported());
        assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::UNSUPPORTED]);
    }
    let machine = Machine::new(RamFile::memfd(RAM_BYTES).expect("a memfd"), MAP_ENTRIES);
    machine.store(range(0, 1), 1);
    assert_eq!(machine.witness.dirty(range(0, 1)).expect("known"), None, "dirty means nothing without storage");
    assert_eq!(machine.witness.bytes(0).expect("a page")[0], 1);
    machine.witness.bytes(RAM_PAGES).expect_err("one past the last page");
}

fn ram_synced_and_closed_is_there_when_opened_again() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let machine = Machine::new(RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file"), MAP_ENTRIES);
    machine.ram.set_state(RamState::Open).expect("recorded");
    let syncs = start(&machine.ram);
    machine.store(range(1000, 24), 0x5a);
    assert_eq!(syncs.submit_and_wait(&[range(1000, 24)]), [Status::OK]);
    drop(syncs);
    machine.ram.set_state(RamState::Clean).expect("recorded");
    drop(machine);
    let ram = RamFile::open(&path, Some(RAM_BYTES)).expect("free again: nothing holds the file's lock");
    assert_eq!(ram.previous_end(), PreviousEnd::Clean);
    let machine = Machine::new(ram, MAP_ENTRIES);
    assert_eq!([999, 1000, 1023].map(|page| machine.witness.bytes(page).expect("a page")[0]), [0, 0x5a, 0x5a]);
}

fn main() -> ExitCode {
    let durable = lacks_durable_folder;
    suite::run([
        ("submit_makes_exactly_the_asked_pages_clean", durable(), submit_makes_exactly_the_asked_pages_clean),
        (
            "submit_of_wired_pages_makes_them_clean_and_keeps_them_locked",
            durable(),
            submit_of_wired_pages_makes_them_clean_and_keeps_them_locked,
        ),
        (
            "submit_writes_while_the_caller_goes_on_and_answers_when_the_pages_are_clean",
            durable(),
            submit_writes_while_the_caller_goes_on_and_answers_when_the_pages_are_clean,
        ),
        (
            "submit_from_many_threads_leaves_each_ones_pages_clean",
            durable(),
            submit_from_many_threads_leaves_each_ones_pages_clean,
        ),
        ("service_without_durability_answers_unsupported", None, service_without_durability_answers_unsupported),
        (
            "ram_synced_and_closed_is_there_when_opened_again",
            durable(),
            ram_synced_and_closed_is_there_when_opened_again,
        ),
    ])
}
