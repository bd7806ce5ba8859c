//! Syncing to a disk of which one block can't be written: nobody may be told that it was.
//!
//! The disk is a loop device over a file on a full tmpfs with a hole where that block was. Needs root.

#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/suite.rs"]
mod suite;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use folder::{RAM_BYTES, durable_folder, lacks_durable_folder};
use machine::{MAP_ENTRIES, Machine, RAM_PAGES, range};
use tempfile::TempDir;
use wirevm_abi::Status;
use wirevm_devices::durability::Durability;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::sync::{During, FlushBackend, HealthProbe, RamFlush, SyncConfig, SyncService, SyncWorker, Wait};

/// The page whose block can't be written.
const BAD_PAGE: u64 = 500;
const DISK_BYTES: usize = 48 << 20;
/// Callers that sync good pages meanwhile.
const OTHERS: u64 = 3;
const WORKERS: usize = 4;
const TRIALS: usize = 100;

/// A mounted disk that is unmounted when dropped.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Makes a disk of its own, or says why this host has none to make: not root, no loop devices, no mkfs.
    fn new() -> Result<Self, String> {
        let disk = Self { folder: durable_folder() };
        for name in ["under", "mounted"] {
            fs::create_dir(disk.folder.path().join(name)).expect("a folder");
        }
        let (under, image, mounted) = (disk.under(), disk.image(), disk.mounted());
        let options = format!("size={}", DISK_BYTES + (4 << 20));
        disk.run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&under))?;
        fs::write(&image, vec![0; DISK_BYTES]).expect("space for the disk");
        let layout = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        disk.run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-E", layout]).arg(&image))?;
        // Zeros are holes to mkfs and to a file system that zeroes late; holes would give space back under the test.
        let made = fs::read(&image).expect("the disk");
        File::options().write(true).open(&image).and_then(|file| file.write_all_at(&made, 0)).expect("no holes");
        disk.run(Command::new("mount").args(["-o", "loop,noinit_itable"]).args([&image, &mounted]))?;
        Ok(disk)
    }

    fn under(&self) -> PathBuf {
        self.folder.path().join("under")
    }

    fn image(&self) -> PathBuf {
        self.under().join("disk")
    }

    fn mounted(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn run(&self, command: &mut Command) -> Result<(), String> {
        let output = command.output().expect("the program runs");
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Sets a machine up on this disk with all of its RAM wired, and takes the bad page's block away.
    fn spoiled_machine(&self) -> (Machine, u64) {
        let path = self.mounted().join("guest.ram");
        let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
        let machine = Machine::new(ram, MAP_ENTRIES);
        machine.pins.wire(range(0, RAM_PAGES)).expect("wired");
        let pattern: Vec<u8> = (0..=255).cycle().take(4096).collect();
        let second = machine.ram.reopen().expect("a description");
        second.write_all_at(&pattern, machine.ram.data_offset() + BAD_PAGE * 4096).expect("a store");
        second.sync_all().expect("the disk is still good");
        let at = self.spoil(&pattern);
        (machine, at)
    }

    /// Takes the block away that holds `page` now, and returns its offset.
    fn spoil(&self, page: &[u8]) -> u64 {
        let image = fs::read(self.image()).expect("the disk");
        let block = image.chunks(4096).position(|block| block == page).expect("the page is on the disk");
        let at = u64::try_from(block * 4096).expect("small");
        let offset = at.to_string();
        let mut command = Command::new("fallocate");
        self.run(command.args(["-p", "-o", &offset, "-l", "4096"]).arg(self.image())).expect("a hole");
        fill(&self.under().join("filler"));
        at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for name in [self.mounted(), self.under()] {
            let ended = Command::new("umount").arg(&name).output().is_ok_and(|output| output.status.success());
            if !ended {
                eprintln!("'{}' is not unmounted", name.display());
            }
        }
    }
}

/// Writes a file until its file system is full.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

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

    fn start(&mut self, run: PageRun) -> io::Result<()> {
        self.backend.start(run)
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

    fn start(&mut self, _: PageRun) -> io::Result<()> {
        Ok(())
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
                        if syncs.submit(&[mine], Wait::Wait) != [Status::OK] {
                            break;
                        }
                    }
                });
            }
            machine.store(range(BAD_PAGE, 1), byte);
            if syncs.submit(&[range(BAD_PAGE, 1)], Wait::Wait) == [Status::OK] {
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    (calls.load(Ordering::Relaxed), answers.into_inner())
}

fn bad_block_is_never_answered_ok_unless_workers_share_a_description() {
    let disk = Disk::new().expect("a disk");
    let (machine, at) = disk.spoiled_machine();
    let own = || (0..WORKERS).map(|_| RamFlush::new(&machine.ram).expect("a backend")).collect();
    assert_eq!(false_successes(&machine, own), (0, 0), "of {TRIALS} syncs of a block that can't be written");

    let shared = || {
        let file = Arc::new(machine.ram.reopen().expect("a description"));
        (0..WORKERS).map(|_| SharedFlush { file: Arc::clone(&file) }).collect()
    };
    let (calls, answers) = false_successes(&machine, shared);
    println!("with a shared description {calls} of {TRIALS} calls and {answers} answers said that the block is stable");
    assert!(calls > 0, "the control loses nothing, so the test proves nothing");
    let mut block = [0; 4096];
    let image = File::open(disk.image()).expect("the disk");
    image.read_exact_at(&mut block, at).expect("a block");
    assert_eq!(block, [0; 4096], "the block was written after all, so the test proves nothing");
}

fn bad_block_sets_the_latch_of_the_real_service() {
    let disk = Disk::new().expect("a disk");
    let (machine, _) = disk.spoiled_machine();
    let (sender, latched) = mpsc::channel();
    let syncs = SyncService::start(&machine.ram, SyncConfig::default(), move |error| {
        sender.send(error).expect("the test listens");
    })
    .expect("a service");
    machine.store(range(BAD_PAGE, 1), 1);
    machine.store(range(0, 1), 1);
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::OK], "a sync of other pages does not write it");
    assert_eq!(machine.witness.dirty(range(BAD_PAGE, 1)).expect("cachestat"), Some(1));
    assert_eq!(syncs.submit(&[range(BAD_PAGE, 1)], Wait::Wait), [Status::IO_ERROR]);
    let error = latched.try_recv().expect("told before the answer");
    assert!(matches!(error.errno, libc::EIO | libc::ENOSPC) && error.first_page == Some(BAD_PAGE), "{error}");
    assert_eq!(
        machine.witness.dirty(range(BAD_PAGE, 1)).expect("cachestat"),
        Some(0),
        "the kernel calls it clean (H6)"
    );
    assert_eq!(syncs.submit(&[range(BAD_PAGE, 1)], Wait::Wait), [Status::POISONED]);
    assert_eq!(machine.witness.bytes(BAD_PAGE).expect("a page")[0], 1, "a wired page keeps what was stored");
}

fn bad_block_written_for_nobody_is_found_by_the_health_poll() {
    let disk = Disk::new().expect("a disk");
    let (machine, _) = disk.spoiled_machine();
    let (sender, latched) = mpsc::channel();
    let config = SyncConfig { poll_interval: Duration::from_millis(20), ..SyncConfig::default() };
    let syncs = SyncService::start(&machine.ram, config, move |error| sender.send(error).expect("the test listens"))
        .expect("a service");
    machine.store(range(BAD_PAGE, 1), 1);
    assert_eq!(syncs.submit(&[range(BAD_PAGE, 1)], Wait::NoWait), [Status::PENDING]);
    let error = latched.recv_timeout(Duration::from_secs(20)).expect("the latch is set");
    assert_eq!((error.during, error.first_page), (During::HealthPoll, None));
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::POISONED]);
}

fn main() -> ExitCode {
    let lacking = lacks_durable_folder().or_else(|| Disk::new().err());
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
