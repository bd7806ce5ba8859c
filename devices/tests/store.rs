//! Stores on real files and real disks, some of which fail. What a store holds is looked at through a second descriptor.
//!
//! The disks are loop devices and need root. A full quota is shown on btrfs, whose quotas need nothing from the kernel's
//! configuration but the file system.

#[path = "common/disk.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "common/folder.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod folder;
#[path = "common/suite.rs"]
mod suite;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use disk::{Disk, Kind};
use folder::{durable_folder, lacks_durable_folder};
use tempfile::TempDir;
use wirevm_abi::completion::NO_PAGE;
use wirevm_abi::request::DataRun;
use wirevm_abi::{RamRange, Status, StoreName};
use wirevm_devices::durability::Durability;
use wirevm_devices::guest_memory::{BackingLostError, GuestMemory};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::store::{Done, StoreConfig, StoreService};

const PAGES: u64 = 64;
const OK: (Status, u64) = (Status::OK, NO_PAGE);

/// RAM of a machine without a guest.
#[derive(Debug)]
struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn with<T>(&self, range: RamRange, bytes: usize, act: impl FnOnce(&mut [u8]) -> T) -> T {
        let first = usize::try_from(range.first() * 4096).expect("small");
        act(&mut self.0.lock().expect("lock")[first..first + bytes])
    }
}

impl GuestMemory for Ram {
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        self.with(range, bytes.len(), |ram| bytes.copy_from_slice(ram));
        Ok(())
    }

    fn write(&self, range: RamRange, bytes: &[u8]) -> Result<(), BackingLostError> {
        self.with(range, bytes.len(), |ram| ram.copy_from_slice(bytes));
        Ok(())
    }

    fn load_word(&self, range: RamRange, _: u64) -> Result<u64, BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }

    fn store_word(&self, range: RamRange, _: u64, _: u64) -> Result<(), BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }
}

/// A machine with one store open, whose pages are those of RAM with the same numbers.
struct Machine {
    ram: Arc<Ram>,
    stores: StoreService,
    store: u16,
    path: PathBuf,
}

impl Machine {
    fn new(folder: &Path, exclusive: bool) -> Self {
        let (ram, stores) = service(folder);
        let store = stores.open(name("a"), PAGES, exclusive).expect("a store");
        Self { ram, stores, store, path: folder.join("a") }
    }

    fn wait(ask: impl FnOnce(Done) -> Status) -> (Status, u64) {
        let (sender, answer) = mpsc::channel();
        let done = Box::new(move |status, page| sender.send((status, page)).expect("the test listens"));
        match ask(done) {
            Status::PENDING => answer.recv_timeout(Duration::from_secs(60)).expect("an answer"),
            status => (status, NO_PAGE),
        }
    }

    fn data(&self, first: u64, pages: u64) -> DataRun {
        DataRun { store: self.store, ram: range(first, pages), first, token: 0 }
    }

    /// Returns pages that are full of that byte.
    fn give(&self, first: u64, pages: u64, byte: u8) -> (Status, u64) {
        self.fill(first, pages, byte);
        Self::wait(|done| self.stores.data_return(self.data(first, pages), done))
    }

    fn fill(&self, first: u64, pages: u64, byte: u8) {
        self.ram.with(range(first, pages), usize::try_from(pages * 4096).expect("small"), |ram| ram.fill(byte));
    }

    /// Requests pages over others in RAM and tells the last byte.
    fn get(&self, first: u64, pages: u64) -> Result<u8, (Status, u64)> {
        self.fill(first, pages, 0xee);
        match Self::wait(|done| self.stores.data_request(self.data(first, pages), done)) {
            OK => Ok(self.ram.with(range(first + pages - 1, 1), 4096, |ram| ram[4095])),
            failed => Err(failed),
        }
    }

    fn sync(&self, first: u64, pages: u64) -> (Status, u64) {
        Self::wait(|done| self.stores.synchronize(self.store, first, pages, done))
    }

    /// Reads a page of the store's file through a descriptor of its own.
    fn page(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        File::open(&self.path).and_then(|file| file.read_exact_at(&mut bytes, page * 4096)).expect("a page");
        bytes
    }
}

fn service(folder: &Path) -> (Arc<Ram>, StoreService) {
    let ram = Arc::new(Ram(Mutex::new(vec![0; usize::try_from(PAGES * 4096).expect("small")])));
    let config = StoreConfig { quota_pages: 2 * PAGES, ..StoreConfig::default() };
    let stores = StoreService::start(folder, config, Arc::<Ram>::clone(&ram)).expect("a service");
    (ram, stores)
}

fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, PAGES).expect("inside RAM")
}

fn name(text: &str) -> StoreName {
    StoreName::new(text).expect("a name")
}

fn failed(page: u64) -> (Status, u64) {
    (Status::IO_ERROR, page)
}

fn new_store_is_zeros_of_its_owners_and_held_against_others() {
    let folder = durable_folder();
    let machine = Machine::new(folder.path(), false);
    let metadata = fs::symlink_metadata(&machine.path).expect("the file");
    assert!(metadata.is_file() && metadata.len() == PAGES * 4096 && metadata.permissions().mode() & 0o777 == 0o600);
    assert_eq!(fs::read(&machine.path).expect("bytes"), vec![0; usize::try_from(PAGES * 4096).expect("small")]);
    let names: Vec<_> =
        fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(names, ["a"], "nothing is left of how it was made");
    let (_ram, other) = service(folder.path());
    assert_eq!(other.open(name("a"), 1, false).map_err(|error| error.status()), Err(Status::BUSY));
    assert_eq!(machine.stores.close(machine.store), Status::OK);
    other.open(name("a"), 1, false).expect("nobody holds it any more");
}

fn shorter_store_is_lengthened_by_zeros_and_keeps_its_bytes() {
    let folder = durable_folder();
    fs::write(folder.path().join("a"), vec![7; 5000]).expect("a file");
    let machine = Machine::new(folder.path(), false);
    let bytes = fs::read(&machine.path).expect("bytes");
    assert_eq!(bytes.len() as u64, PAGES * 4096);
    assert!(bytes[..5000].iter().all(|byte| *byte == 7) && bytes[5000..].iter().all(|byte| *byte == 0));
    assert_eq!((machine.get(0, 1), machine.get(0, 2)), (Ok(7), Ok(0)));
}

fn longer_store_counts_with_all_its_pages() {
    let folder = durable_folder();
    fs::write(folder.path().join("a"), vec![7; 2 * 64 * 4096 + 1]).expect("a file");
    let (_ram, stores) = service(folder.path());
    assert_eq!(stores.open(name("a"), 1, false).map_err(|error| error.status()), Err(Status::QUOTA));
    assert_eq!(fs::metadata(folder.path().join("a")).expect("the file").len(), 2 * 64 * 4096 + 1, "it is as it was");
    assert_eq!(stores.open(name("b"), 129, false).map_err(|error| error.status()), Err(Status::QUOTA));
    assert!(!folder.path().join("b").exists());
}

fn names_that_lead_elsewhere_do_not_open() {
    let folder = durable_folder();
    fs::write(folder.path().join("target"), [7; 4096]).expect("a file");
    symlink("target", folder.path().join("link")).expect("a link");
    symlink("nothing", folder.path().join("nowhere")).expect("a link");
    fs::create_dir(folder.path().join("folder")).expect("a folder");
    let fifo = Command::new("mkfifo").arg(folder.path().join("pipe")).status().expect("mkfifo runs");
    assert!(fifo.success());
    drop(RamFile::create(&folder.path().join("ram"), 2 << 20, Durability::Shared).expect("a RAM file"));
    let (_ram, stores) = service(folder.path());
    for text in ["link", "nowhere", "folder", "pipe", "ram"] {
        assert_eq!(stores.open(name(text), 1, false).map_err(|error| error.status()), Err(Status::IO_ERROR), "{text}");
    }
    assert!(!folder.path().join("nothing").exists());
    RamFile::open(&folder.path().join("ram"), None).expect("it is as it was");
}

fn store_on_tmpfs_takes_bytes_and_promises_nothing() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let machine = Machine::new(folder.path(), true);
    assert_eq!((machine.give(3, 2, 7), machine.page(4)), (OK, vec![7; 4096]));
    assert_eq!(machine.sync(3, 2), (Status::UNSUPPORTED, NO_PAGE));
    assert_eq!((machine.get(3, 2), machine.page(4)), (Ok(7), vec![0; 4096]));
}

fn store_that_somebody_cuts_is_an_error_and_not_zeros() {
    let folder = durable_folder();
    let machine = Machine::new(folder.path(), false);
    assert_eq!((machine.give(0, PAGES, 7), machine.sync(0, PAGES)), (OK, OK));
    let file = OpenOptions::new().write(true).open(&machine.path).expect("the file");
    file.set_len(10 * 4096 + 1).expect("shorter");
    assert_eq!((machine.get(0, PAGES), machine.get(4, 6)), (Err(failed(10)), Ok(7)));
    assert_eq!((machine.give(20, 1, 8), machine.sync(0, PAGES), machine.sync(0, 10)), (failed(20), failed(10), OK));
    assert_eq!(fs::metadata(&machine.path).expect("the file").len(), 10 * 4096 + 1, "nobody made it longer");
}

fn synchronized_pages_survive_a_power_cut_and_others_need_not() {
    let disk = Disk::new(Kind::Ext4, 0).expect("a disk");
    let machine = Machine::new(&disk.mounted(), true);
    let page = |bytes: &[u8], page: usize| bytes[page * 4096..(page + 1) * 4096].to_vec();
    assert_eq!(disk.read_after_power_cut("a").len() as u64, PAGES * 4096, "an open store is there after a power cut");
    assert_eq!((machine.give(3, 2, 7), machine.sync(3, 2), machine.give(9, 1, 8)), (OK, OK, OK));
    let left = disk.read_after_power_cut("a");
    assert_eq!((page(&left, 3), page(&left, 4)), (vec![7; 4096], vec![7; 4096]));
    assert_eq!(page(&left, 9), vec![0; 4096], "the control: what nobody synchronized is not there");
    // A page that was given up and comes back needs a block anew, which has to be found after the cut as well.
    assert_eq!((machine.get(3, 2), machine.page(3)), (Ok(7), vec![0; 4096]));
    assert_eq!((machine.give(3, 2, 9), machine.sync(3, 2)), (OK, OK));
    assert_eq!(page(&disk.read_after_power_cut("a"), 4), vec![9; 4096]);
}

fn full_disk_fails_the_return_to_a_store_that_gave_its_pages_up() {
    let disk = Disk::new(Kind::Ext4, 0).expect("a disk");
    let machine = Machine::new(&disk.mounted(), true);
    assert_eq!((machine.give(0, PAGES, 7), machine.sync(0, PAGES)), (OK, OK));
    assert_eq!((machine.get(0, 48), machine.page(0)), (Ok(7), vec![0; 4096]));
    let filler = disk.mounted().join("filler");
    fill(&filler);
    let (status, page) = machine.give(0, PAGES, 8);
    assert!(status == Status::IO_ERROR && page < 48, "{status} {page}");
    assert_eq!(machine.page(page), vec![0; 4096]);
    assert_eq!((machine.give(50, 4, 9), machine.page(50)), (OK, vec![9; 4096]), "pages that it kept have their blocks");
    fs::remove_file(&filler).expect("room");
    assert_eq!((machine.give(0, PAGES, 8), machine.sync(0, PAGES), machine.page(47)), (OK, OK, vec![8; 4096]));
}

fn block_that_cannot_be_written_loses_its_page_until_it_is_returned_again() {
    let disk = Disk::spoilable(Kind::Ext4).expect("a disk");
    let machine = Machine::new(&disk.mounted(), false);
    assert_eq!((machine.give(5, 1, 6), machine.sync(0, PAGES)), (OK, OK));
    let pattern: Vec<u8> = (0..=255).cycle().take(4096).collect();
    machine.ram.with(range(20, 1), 4096, |ram| ram.copy_from_slice(&pattern));
    assert_eq!(Machine::wait(|done| machine.stores.data_return(machine.data(20, 1), done)), OK);
    assert_eq!(machine.sync(20, 1), OK);
    let at = disk.block_of(&pattern);
    disk.spoil(at);

    assert_eq!((machine.give(20, 1, 8), machine.sync(20, 1)), (OK, failed(20)));
    let outside = OpenOptions::new().read(true).write(true).open(&machine.path).expect("the file");
    outside.sync_data().expect("the control: a description that was not there then is told that all is well");
    assert_eq!((disk.block(at), machine.sync(20, 1), machine.sync(20, 1)), ([0; 4096], failed(20), failed(20)));
    assert_eq!(machine.get(20, 1), Err(failed(20)));
    assert_eq!((machine.get(5, 1), machine.sync(0, 20)), (Ok(6), OK), "pages that were stable stay so");
    assert_eq!((machine.give(20, 1, 8), machine.get(20, 1), machine.sync(20, 1)), (OK, Ok(8), failed(20)));

    disk.heal();
    assert_eq!(machine.sync(20, 1), failed(20), "a disk that is well again does not bring it back");
    assert_eq!((machine.give(20, 1, 9), machine.sync(20, 1), disk.block(at)), (OK, OK, [9; 4096]));
}

/// A mounted btrfs in which one subvolume may have 2 MiB.
struct Narrow(TempDir);

impl Narrow {
    fn new() -> Result<Self, String> {
        let narrow = Self(durable_folder());
        let (image, mounted) = (narrow.0.path().join("disk"), narrow.0.path().join("mounted"));
        fs::create_dir(&mounted).expect("a folder");
        File::create(&image).and_then(|file| file.set_len(256 << 20)).expect("the disk");
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]))?;
        run(Command::new("btrfs").args(["quota", "enable"]).arg(&mounted))?;
        run(Command::new("btrfs").args(["subvolume", "create"]).arg(narrow.folder()))?;
        run(Command::new("btrfs").args(["qgroup", "limit", "2M"]).arg(narrow.folder()))?;
        Ok(narrow)
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("mounted").join("stores")
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let mounted = self.0.path().join("mounted");
        if let Err(error) = run(Command::new("umount").arg(&mounted)) {
            eprintln!("'{}' is not unmounted: {error}", mounted.display());
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn full_quota_fails_the_return_to_a_store_that_gave_its_pages_up() {
    let narrow = Narrow::new().expect("a disk");
    let machine = Machine::new(&narrow.folder(), true);
    assert_eq!((machine.give(0, PAGES, 7), machine.sync(0, PAGES)), (OK, OK));
    assert_eq!((machine.get(0, PAGES), machine.page(0)), (Ok(7), vec![0; 4096]));
    let filler = narrow.folder().join("filler");
    let error = fill(&filler);
    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
    let (status, page) = machine.give(0, PAGES, 8);
    assert!(status == Status::IO_ERROR && page < PAGES, "{status} {page}");
    assert_eq!(machine.page(page), vec![0; 4096]);
    fs::remove_file(&filler).expect("room");
    run(Command::new("btrfs").args(["filesystem", "sync"]).arg(narrow.folder())).expect("a commit");
    assert_eq!((machine.give(0, PAGES, 8), machine.sync(0, PAGES), machine.page(47)), (OK, OK, vec![8; 4096]));
}

/// Writes a file until that fails, and tells why.
fn fill(path: &Path) -> std::io::Error {
    let mut file = File::create(path).expect("a file");
    let mut last = None;
    for size in [1 << 20, 4096] {
        loop {
            if let Err(error) = file.write_all(&vec![1; size]).and_then(|()| file.sync_data()) {
                last = Some(error);
                break;
            }
        }
    }
    last.expect("an error")
}

fn main() -> ExitCode {
    let folder = lacks_durable_folder();
    let disk = folder.clone().or_else(|| Disk::spoilable(Kind::Ext4).err());
    let narrow = folder.clone().or_else(|| Narrow::new().err());
    let shm = (!Path::new("/dev/shm").is_dir()).then(|| "this host has no /dev/shm".to_owned());
    suite::run([
        (
            "new_store_is_zeros_of_its_owners_and_held_against_others",
            folder.clone(),
            new_store_is_zeros_of_its_owners_and_held_against_others,
        ),
        (
            "shorter_store_is_lengthened_by_zeros_and_keeps_its_bytes",
            folder.clone(),
            shorter_store_is_lengthened_by_zeros_and_keeps_its_bytes,
        ),
        ("longer_store_counts_with_all_its_pages", folder.clone(), longer_store_counts_with_all_its_pages),
        ("names_that_lead_elsewhere_do_not_open", folder.clone(), names_that_lead_elsewhere_do_not_open),
        ("store_on_tmpfs_takes_bytes_and_promises_nothing", shm, store_on_tmpfs_takes_bytes_and_promises_nothing),
        (
            "store_that_somebody_cuts_is_an_error_and_not_zeros",
            folder,
            store_that_somebody_cuts_is_an_error_and_not_zeros,
        ),
        (
            "synchronized_pages_survive_a_power_cut_and_others_need_not",
            disk.clone(),
            synchronized_pages_survive_a_power_cut_and_others_need_not,
        ),
        (
            "full_disk_fails_the_return_to_a_store_that_gave_its_pages_up",
            disk.clone(),
            full_disk_fails_the_return_to_a_store_that_gave_its_pages_up,
        ),
        (
            "block_that_cannot_be_written_loses_its_page_until_it_is_returned_again",
            disk,
            block_that_cannot_be_written_loses_its_page_until_it_is_returned_again,
        ),
        (
            "full_quota_fails_the_return_to_a_store_that_gave_its_pages_up",
            narrow,
            full_quota_fails_the_return_to_a_store_that_gave_its_pages_up,
        ),
    ])
}
