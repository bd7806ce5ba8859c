//! Repairing what a bad disk has lost, and what happens to those who repair wrongly.
//!
//! The disks are loop devices over files on a full tmpfs with a hole where the bad block was. Needs root.

#[path = "common/disk.rs"]
#[expect(dead_code, reason = "no test here counts")]
mod disk;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/spoiled.rs"]
mod spoiled;
#[path = "common/suite.rs"]
mod suite;

use std::io;
use std::num::NonZero;
use std::process::{Command, ExitCode};
use std::sync::{Arc, mpsc};

use disk::{Disk, Kind};
use folder::lacks_durable_folder;
use machine::{Machine, RAM_PAGES, range};
use spoiled::{BAD_PAGE, spoiled_machine};
use wirevm_abi::Status;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::sync::{
    FlushBackend, HealthProbe, LatchedError, RamFlush, RamProbe, SyncConfig, SyncService, SyncWorker, WiredOracle,
};

/// Repairs of the same page.
const REPAIRS: usize = 25;

/// Looks at nothing.
#[derive(Debug)]
struct Blind;

impl HealthProbe for Blind {
    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the real service over a machine, with what its pin service says about pages.
fn repairing(machine: &Machine, faults: Option<HostFaults>) -> (SyncService, mpsc::Receiver<LatchedError>) {
    let mut probe = RamProbe::new(&machine.ram).expect("a description");
    machine.pins.watch(move || probe.check());
    let pins = Arc::clone(&machine.pins);
    let oracle = WiredOracle::new(move |run| pins.is_held(run));
    let config = SyncConfig { oracle, faults, ..SyncConfig::default() };
    let (sender, latched) = mpsc::channel();
    let told = move |error| sender.send(error).expect("the test listens");
    (SyncService::start(&machine.ram, config, told).expect("a service"), latched)
}

fn wired_page_is_repaired(kind: Kind) {
    let disk = Disk::spoilable(kind).expect("a disk");
    let (machine, at) = spoiled_machine(&disk);
    let (syncs, latched) = repairing(&machine, None);
    for trial in 0..REPAIRS {
        let byte = u8::try_from(trial % 255 + 1).expect("small");
        machine.store(range(BAD_PAGE, 1), byte);
        machine.store(range(7, 2), byte);
        let failed = if trial == 0 { Status::IO_ERROR } else { Status::POISONED };
        assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [failed], "the disk is still bad");
        assert_eq!(syncs.submit_and_wait(&[range(7, 2)]), [Status::OK], "wired pages elsewhere are none the worse");
        assert_eq!(machine.witness.dirty(range(7, 2)).expect("cachestat"), Some(0));
        assert_eq!(disk.block(at)[0], 0, "trial {trial}");
        disk.heal();
        assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::OK]);
        assert_eq!(disk.block(at)[0], byte, "trial {trial}: answered ok, so the disk has it");
        disk.spoil(at);
    }
    let error = latched.try_recv().expect("told");
    assert!(error.nothing_reverted, "all of RAM is wired: {error}");
    assert!(latched.try_recv().is_err() && syncs.latched() == Some(error), "a repair does not take the latch back");
    disk.heal();
    machine.pins.unwire(range(BAD_PAGE, 1)).expect("unwired");
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::POISONED], "it may revert at any time");
    machine.pins.wire(range(BAD_PAGE, 1)).expect("wired");
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::POISONED], "it may have reverted in between");
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE + 1, 1)]), [Status::OK]);
    // Every page of a long run reaches the disk, those too that the kernel took for clean.
    for page in 0..BAD_PAGE {
        machine.store(range(page, 1), u8::try_from(page % 251 + 1).expect("small"));
    }
    let all = [range(0, BAD_PAGE)];
    assert_eq!([syncs.submit_and_wait(&all), syncs.submit_and_wait(&all)], [[Status::OK], [Status::OK]]);
    let file = disk.read_after_power_cut("guest.ram");
    for page in 0..BAD_PAGE {
        let byte = file[usize::try_from(machine.ram.data_offset() + page * 4096).expect("small")];
        assert_eq!(u64::from(byte), page % 251 + 1, "page {page}");
    }
}

fn wired_page_is_repaired_on_ext4() {
    wired_page_is_repaired(Kind::Ext4);
}

fn wired_page_is_repaired_on_xfs() {
    wired_page_is_repaired(Kind::Xfs);
}

/// The mistakes that rules D3 and D4 are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// A sync that failed is asked for again.
    Retry,
    /// A repair takes a fresh description and does not make the pages dirty again.
    NoDirtying,
}

#[derive(Debug)]
struct Mistaken {
    backend: RamFlush,
    fresh: RamFlush,
    mistake: Mistake,
}

impl FlushBackend for Mistaken {
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        self.backend.write(runs)
    }

    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        let result = self.backend.flush(run);
        if self.mistake == Mistake::Retry { result.or_else(|_| self.backend.flush(run)) } else { result }
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        // Errors from before do not count for a repair.
        self.fresh.write(&[run]).ok();
        self.fresh.flush(run)
    }

    fn flushes_what_is_written(&self) -> bool {
        true
    }
}

/// Each mistake is answered *ok* for a page that is not on the disk, even once the disk is good again.
fn mistakes_are_answered_ok_for_what_is_lost() {
    for mistake in [Mistake::Retry, Mistake::NoDirtying] {
        let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
        let (machine, at) = spoiled_machine(&disk);
        let fresh = || RamFlush::new(&machine.ram).expect("a backend");
        let backend = Mistaken { backend: fresh(), fresh: fresh(), mistake };
        let worker = SyncWorker { flush: Box::new(backend), health: Box::new(Blind) };
        let config = SyncConfig { oracle: WiredOracle::new(|_| true), ..SyncConfig::default() };
        let syncs = SyncService::with_backends(RAM_PAGES, config, vec![worker], Box::new(Blind), |_| ());
        let syncs = syncs.expect("a service");
        machine.store(range(BAD_PAGE, 1), 9);
        let first = syncs.submit_and_wait(&[range(BAD_PAGE, 1)]);
        disk.heal();
        let second = syncs.submit_and_wait(&[range(BAD_PAGE, 1)]);
        println!("{mistake:?}: {first:?}, and with a good disk {second:?}");
        assert_eq!(second, [Status::OK], "the control does not lie, so the test proves nothing");
        assert_eq!(disk.block(at)[0], 0, "{mistake:?}: the page reached the disk after all");
        assert_eq!(machine.witness.bytes(BAD_PAGE).expect("a page")[0], 9);
    }
}

/// The kernel writes a page by itself after the latch, and fails; no description has told anybody. A repair begins behind
/// that error.
fn repair_is_not_misled_by_an_error_that_nobody_was_told_of() {
    let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
    let (machine, at) = spoiled_machine(&disk);
    let faults = HostFaults::default();
    let (syncs, latched) = repairing(&machine, Some(faults.clone()));
    faults.fail_nth(NonZero::<u64>::MIN, libc::EIO);
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::OK], "repaired at once");
    assert_eq!(latched.try_recv().map(|error| error.errno), Ok(libc::EIO));
    machine.store(range(BAD_PAGE, 1), 3);
    Command::new("sync").arg("-f").arg(disk.mounted()).output().expect("the program runs");
    assert_eq!(machine.witness.dirty(range(BAD_PAGE, 1)).expect("cachestat"), Some(0), "the kernel calls it clean");
    disk.heal();
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::OK]);
    assert_eq!(disk.block(at)[0], 3);
}

fn main() -> ExitCode {
    let lacking = lacks_durable_folder().or_else(|| Disk::spoilable(Kind::Ext4).err());
    let xfs = lacking.clone().or_else(|| Disk::spoilable(Kind::Xfs).err());
    let disk = || lacking.clone();
    suite::run([
        ("wired_page_is_repaired_on_ext4", disk(), wired_page_is_repaired_on_ext4),
        ("wired_page_is_repaired_on_xfs", xfs, wired_page_is_repaired_on_xfs),
        (
            "repair_is_not_misled_by_an_error_that_nobody_was_told_of",
            disk(),
            repair_is_not_misled_by_an_error_that_nobody_was_told_of,
        ),
        ("mistakes_are_answered_ok_for_what_is_lost", disk(), mistakes_are_answered_ok_for_what_is_lost),
    ])
}
