//! Syncing to a disk of which one block can't be written: nobody may be told that it was.
//!
//! The disk is a loop device over a file on a full tmpfs with a hole where that block was. Needs root.

#[path = "common/disk.rs"]
#[expect(dead_code, reason = "no test here counts, heals or cuts the power")]
mod disk;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/spoiled.rs"]
mod spoiled;
#[path = "common/suite.rs"]
mod suite;

use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use disk::{Disk, Kind};
use folder::lacks_durable_folder;
use machine::{Machine, RAM_PAGES, range};
use spoiled::{BAD_PAGE, spoiled_machine};
use wirevm_abi::Status;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::sync::{During, FlushBackend, HealthProbe, RamFlush, SyncConfig, SyncService, SyncWorker};

/// Callers that sync good pages meanwhile.
const OTHERS: u64 = 3;
const WORKERS: usize = 4;
const TRIALS: usize = 100;

/// A backend whose successes for the bad page are counted before the latch can correct them.
#[derive(Debug)]
struct Counted<B> {
    backend: B,
    successes: Arc<AtomicUsize>,
}

impl<B: FlushBackend> FlushBackend for Counted<B> {
    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        let result = self.backend.flush(run);
        if result.is_ok() && run.first() == BAD_PAGE {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        self.backend.write(runs)
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        self.backend.repair(run)
    }

    fn flushes_what_is_written(&self) -> bool {
        false
    }
}

/// The mistake that rule D2 is about: workers that share one description, and so one error cursor.
#[derive(Clone, Debug)]
struct SharedFlush {
    file: Arc<File>,
}

impl FlushBackend for SharedFlush {
    fn flush(&mut self, _: PageRun) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&mut self, _: &[PageRun]) -> io::Result<()> {
        Ok(())
    }

    fn repair(&mut self, _: PageRun) -> io::Result<()> {
        unreachable!("nothing is said to be wired");
    }

    fn flushes_what_is_written(&self) -> bool {
        false
    }
}

/// Looks at nothing.
#[derive(Debug)]
struct Blind;

impl HealthProbe for Blind {
    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Syncs the bad page while others sync good ones, with fresh workers in each trial. Returns how often the storage
/// calls, and how often the service, said that the bad page is stable.
fn false_successes<B: FlushBackend + 'static>(machine: &Machine, backends: impl Fn() -> Vec<B>) -> (usize, usize) {
    let (calls, answers) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    for trial in 0..TRIALS {
        let counted = |backend| Counted { backend, successes: Arc::clone(&calls) };
        let workers: Vec<_> = backends()
            .into_iter()
            .map(|backend| SyncWorker { flush: Box::new(counted(backend)), health: Box::new(Blind) })
            .collect();
        let config = SyncConfig::default();
        let syncs = SyncService::with_backends(RAM_PAGES, config, workers, Box::new(Blind), |_| ()).expect("a service");
        let byte = u8::try_from(trial).expect("small");
        std::thread::scope(|scope| {
            for other in 0..OTHERS {
                let syncs = &syncs;
                scope.spawn(move || {
                    let mine = range(other * 8, 1);
                    for _ in 0..200 {
                        machine.store(mine, byte);
                        if syncs.submit_and_wait(&[mine]) != [Status::OK] {
                            break;
                        }
                    }
                });
            }
            machine.store(range(BAD_PAGE, 1), byte);
            if syncs.submit_and_wait(&[range(BAD_PAGE, 1)]) == [Status::OK] {
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    (calls.load(Ordering::Relaxed), answers.into_inner())
}

fn bad_block_is_never_answered_ok_unless_workers_share_a_description() {
    let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
    let (machine, at) = spoiled_machine(&disk);
    let own = || (0..WORKERS).map(|_| RamFlush::new(&machine.ram).expect("a backend")).collect();
    assert_eq!(false_successes(&machine, own), (0, 0), "of {TRIALS} syncs of a block that can't be written");

    let shared = || {
        let file = Arc::new(machine.ram.reopen().expect("a description"));
        (0..WORKERS).map(|_| SharedFlush { file: Arc::clone(&file) }).collect()
    };
    let (calls, answers) = false_successes(&machine, shared);
    println!("with a shared description {calls} of {TRIALS} calls and {answers} answers said that the block is stable");
    assert!(calls > 0, "the control loses nothing, so the test proves nothing");
    assert_eq!(disk.block(at), [0; 4096], "the block was written after all, so the test proves nothing");
}

fn bad_block_sets_the_latch_of_the_real_service() {
    let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
    let (machine, _) = spoiled_machine(&disk);
    let (sender, latched) = mpsc::channel();
    let syncs = SyncService::start(&machine.ram, SyncConfig::default(), move |error| {
        sender.send(error).expect("the test listens");
    })
    .expect("a service");
    machine.store(range(BAD_PAGE, 1), 1);
    machine.store(range(0, 1), 1);
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::OK], "a sync of other pages does not write it");
    assert_eq!(machine.witness.dirty(range(BAD_PAGE, 1)).expect("cachestat"), Some(1));
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::IO_ERROR]);
    let error = latched.try_recv().expect("told before the answer");
    assert!(matches!(error.errno, libc::EIO | libc::ENOSPC) && error.first_page == Some(BAD_PAGE), "{error}");
    assert_eq!(
        machine.witness.dirty(range(BAD_PAGE, 1)).expect("cachestat"),
        Some(0),
        "the kernel calls it clean (H6)"
    );
    assert_eq!(syncs.submit_and_wait(&[range(BAD_PAGE, 1)]), [Status::POISONED]);
    assert_eq!(machine.witness.bytes(BAD_PAGE).expect("a page")[0], 1, "a wired page keeps what was stored");
}

fn bad_block_written_for_nobody_is_found_by_the_health_poll() {
    let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
    let (machine, _) = spoiled_machine(&disk);
    // The control: without a look nobody would learn of it.
    let blind = SyncConfig { poll_interval: Duration::from_secs(3600), ..SyncConfig::default() };
    let blind = SyncService::start(&machine.ram, blind, |_| ()).expect("a service");
    let (sender, latched) = mpsc::channel();
    let config = SyncConfig { poll_interval: Duration::from_millis(20), ..SyncConfig::default() };
    let syncs = SyncService::start(&machine.ram, config, move |error| sender.send(error).expect("the test listens"))
        .expect("a service");
    machine.store(range(BAD_PAGE, 1), 1);
    // As the kernel does by itself when memory is short.
    let mut kernel = RamFlush::new(&machine.ram).expect("a backend");
    if let Err(error) = kernel.write(&[range(BAD_PAGE, 1).into()]) {
        println!("whoever waits for the writing learns of it too: {error}");
    }
    let error = latched.recv_timeout(Duration::from_secs(20)).expect("the latch is set");
    assert_eq!((error.during, error.first_page), (During::HealthPoll, None));
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::POISONED]);
    assert_eq!(blind.latched(), None);
}

fn main() -> ExitCode {
    let lacking = lacks_durable_folder().or_else(|| Disk::spoilable(Kind::Ext4).err());
    let disk = || lacking.clone();
    suite::run([
        (
            "bad_block_is_never_answered_ok_unless_workers_share_a_description",
            disk(),
            bad_block_is_never_answered_ok_unless_workers_share_a_description,
        ),
        ("bad_block_sets_the_latch_of_the_real_service", disk(), bad_block_sets_the_latch_of_the_real_service),
        (
            "bad_block_written_for_nobody_is_found_by_the_health_poll",
            disk(),
            bad_block_written_for_nobody_is_found_by_the_health_poll,
        ),
    ])
}
