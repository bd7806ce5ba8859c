//! What the policies for folios do, looked at in the page cache and counted at the disk.

#[path = "common/disk.rs"]
#[expect(dead_code, reason = "no test here spoils a disk or cuts its power")]
mod disk;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
#[expect(dead_code, reason = "the RAM here is larger than the one that the ranges are for")]
mod machine;
#[path = "common/suite.rs"]
mod suite;

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use disk::{Disk, Kind};
use folder::{durable_folder, lacks_durable_folder};
use machine::{MAP_ENTRIES, Machine};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{Bytes, FileOffset, VolatileMemory};
use wirevm_abi::{RamRange, Status};
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;
use wirevm_devices::pin::PinKind;
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::sync::{FlushBackend, RamFlush, SyncConfig, SyncService};
use wirevm_devices::witness::{BlockDevice, DeviceCounts, FolioPages};

/// Bytes of RAM in the tests.
const RAM: u64 = 16 << 20;
/// Bytes of RAM in the measurement.
const MEASURED_RAM: u64 = 256 << 20;
/// Rounds of the measurement.
const ROUNDS: usize = 7;
/// Syncs of one page in each round.
const SYNCS: usize = 25;

/// Held by each test: what others write at the same time would be counted.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn service(machine: &Machine) -> SyncService {
    let config = SyncConfig { poll_interval: Duration::from_secs(3600), ..SyncConfig::default() };
    SyncService::start(&machine.ram, config, |error| panic!("storage is good: {error}")).expect("a service")
}

fn pages(ram: &RamFile, first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, ram.pages()).expect("inside RAM")
}

fn all(ram: &RamFile) -> RamRange {
    pages(ram, 0, ram.pages())
}

fn disk_and_path() -> (Disk, std::path::PathBuf) {
    let disk = Disk::new(Kind::Ext4, 64 << 20).expect("a disk");
    let path = disk.mounted().join("guest.ram");
    (disk, path)
}

fn fresh(path: &Path, policy: FolioPolicy) -> Machine {
    let ram = RamFile::create_for(path, RAM, Durability::Shared, policy).expect("a RAM file");
    Machine::new(ram, MAP_ENTRIES)
}

/// Makes a file and opens it again with nothing of it in memory.
fn cold(path: &Path, policy: FolioPolicy) -> Machine {
    drop(RamFile::create(path, RAM, Durability::Shared).expect("a RAM file"));
    Machine::new(RamFile::open_for(path, None, policy).expect("the RAM file"), MAP_ENTRIES)
}

/// Wires all of RAM and tells what it is in.
fn wired(machine: &Machine) -> FolioPages {
    machine.pins.wire(all(&machine.ram)).expect("wired");
    let folios = machine.witness.folios(all(&machine.ram)).expect("/proc").expect("root may look");
    println!("{}: {folios:?}", machine.ram.folio());
    assert_eq!(folios.values().sum::<u64>(), machine.ram.pages(), "all of it is mapped: {folios:?}");
    folios
}

/// Returns the bytes that syncs of one page have the disk write, the least first: what the file system writes by itself only adds.
fn bytes_of_one_page(disk: &Disk, machine: &Machine) -> [u64; 5] {
    let syncs = service(machine);
    let mut bytes = [0, 1, 2, 3, 4].map(|number| {
        let page = pages(&machine.ram, 100 + number * 700, 1);
        machine.store(page, 1);
        let (counts, answers) = disk.during(|| syncs.submit_and_wait(&[page]));
        assert_eq!(answers, [Status::OK]);
        counts.bytes
    });
    bytes.sort_unstable();
    println!("{}: syncs of one page write {bytes:?} bytes", machine.ram.folio());
    bytes
}

fn small_sync_is_in_single_pages_and_writes_one() {
    let _alone = alone();
    for make in [fresh, cold] {
        let (disk, path) = disk_and_path();
        let machine = make(&path, FolioPolicy::SmallSync);
        assert_eq!(wired(&machine), FolioPages::from([(4096, RAM / 4096)]));
        assert!((4096..=8192).contains(&bytes_of_one_page(&disk, &machine)[0]));
    }
}

fn small_sync_stays_in_single_pages_when_the_host_reads() {
    let _alone = alone();
    let (_disk, path) = disk_and_path();
    let machine = cold(&path, FolioPolicy::SmallSync);
    // From the start on, as whoever copies RAM does: what the kernel takes for a reason to read ahead.
    (0..RAM / 4096).for_each(|page| assert_eq!(machine.witness.bytes(page).expect("read")[0], 0));
    assert_eq!(wired(&machine), FolioPages::from([(4096, RAM / 4096)]));
}

fn balanced_new_file_is_in_64_kib_and_writes_64_kib() {
    let _alone = alone();
    let (disk, path) = disk_and_path();
    let machine = fresh(&path, FolioPolicy::Balanced);
    assert_eq!(wired(&machine), FolioPages::from([(64 << 10, RAM / 4096)]));
    assert_eq!(bytes_of_one_page(&disk, &machine)[0], 64 << 10);
}

fn balanced_file_from_the_disk_is_in_64_kib_at_most() {
    let _alone = alone();
    let (disk, path) = disk_and_path();
    let machine = cold(&path, FolioPolicy::Balanced);
    let folios = wired(&machine);
    assert!(folios.keys().all(|bytes| *bytes <= 64 << 10), "{folios:?}");
    let whole = folios.get(&(64 << 10)).copied().unwrap_or(0);
    assert!(whole * 4096 * 2 >= RAM, "at least half is in 64 KiB: {folios:?}");
    assert!(bytes_of_one_page(&disk, &machine)[0] <= 64 << 10);
}

fn bulk_is_in_large_folios_and_writes_much() {
    let _alone = alone();
    for make in [fresh, cold] {
        let (disk, path) = disk_and_path();
        let machine = make(&path, FolioPolicy::Bulk);
        let folios = wired(&machine);
        let large: u64 = folios.range((64 << 10) + 1..).map(|(_, pages)| pages).sum();
        assert!(large * 4096 * 2 >= RAM, "at least half is in more than 64 KiB: {folios:?}");
        // The kernel begins small, so it need not be all of them.
        assert!(bytes_of_one_page(&disk, &machine)[4] > 64 << 10);
    }
}

/// Where the kernel maps 2 MiB at once, it drops all of it from the page tables when a part is to be unlocked.
fn bulk_page_that_is_unwired_leaves_its_neighbours_held() {
    let _alone = alone();
    for kind in [PinKind::Runs, PinKind::best(RAM).expect("/proc")] {
        let (_disk, path) = disk_and_path();
        let ram = RamFile::create_for(&path, RAM, Durability::Shared, FolioPolicy::Bulk).expect("a RAM file");
        let machine = Machine::pinned(kind, ram, MAP_ENTRIES);
        let folios = wired(&machine);
        assert!(folios.contains_key(&(2 << 20)), "{folios:?}");
        for (unwired, page) in (1..).zip([700, 1024, 1535, 1600]) {
            machine.pins.unwire(pages(&machine.ram, page, 1)).expect("unwired");
            assert_eq!(machine.witness.locked_pages().expect("/proc"), machine.ram.pages() - unwired, "pin={kind}");
        }
    }
}

fn bulk_new_file_is_in_2_mib() {
    let _alone = alone();
    let (_disk, path) = disk_and_path();
    let folios = wired(&fresh(&path, FolioPolicy::Bulk));
    assert!(folios.get(&(2 << 20)).is_some_and(|pages| pages * 4096 * 2 >= RAM), "{folios:?}");
}

fn device_counts_are_those_of_the_device_under_the_file() {
    let _alone = alone();
    let (disk, path) = disk_and_path();
    let machine = fresh(&path, FolioPolicy::SmallSync);
    let file = machine.ram.reopen().expect("a description");
    let device = BlockDevice::under(&file).expect("/sys").expect("a loop device");
    let before = device.counts().expect("/sys");
    machine.store(pages(&machine.ram, 0, 300), 7);
    let (counts, result) = disk.during(|| file.sync_all());
    result.expect("synced");
    let since = device.counts().expect("/sys").since(before);
    assert!(counts.bytes >= 300 * 4096, "{counts:?}");
    let same = DeviceCounts { writes: counts.writes, written_bytes: counts.bytes, flushes: Some(counts.flushes) };
    assert_eq!(since, same);
    // No device has a memfd.
    let memory = RamFile::memfd(2 << 20).expect("a memfd");
    assert_eq!(BlockDevice::under(memory.file()).expect("/sys"), None);
}

/// What one round found of one way to have RAM.
#[derive(Clone, Copy, Default)]
struct Round {
    cold_ms: f64,
    resident_ms: f64,
    sync_us: f64,
    /// The quickest quarter is below this: what a sync takes while no neighbour has the processor.
    quick_us: f64,
    sync_kib: f64,
}

/// Finds what syncs of one page take (the median, and the lower quartile) and have the device write.
fn syncs(file: &File, store: impl Fn(u64, u8), sync: impl Fn(u64)) -> [f64; 3] {
    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    let device = BlockDevice::under(file).expect("/sys").expect("a disk");
    let written = || device.counts().expect("/sys").written_bytes;
    for number in 0..SYNCS {
        let page = (77 + 2417 * number as u64) % (MEASURED_RAM / 4096);
        store(page, u8::try_from(number + 1).expect("small"));
        let before = written();
        let began = Instant::now();
        sync(page);
        times.push(began.elapsed().as_secs_f64() * 1e6);
        bytes.push((written() - before) as f64 / 1024.0);
    }
    [quantile(times.clone(), 2), quantile(times, 4), quantile(bytes, 2)]
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e3
}

/// Nothing but system calls on a mapping without advice: `mlock` (as a flag of `mmap`) and `fdatasync`.
fn raw_round(ram: &RamFile) -> Round {
    let map = |flags| -> MmapRegion {
        MmapRegionBuilder::new(usize::try_from(ram.size_bytes()).expect("small"))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | flags)
            .with_file_offset(FileOffset::new(ram.reopen().expect("a description"), ram.data_offset()))
            .build()
            .expect("a mapping")
    };
    let mut mapping = None;
    let cold_ms = milliseconds(|| mapping = Some(map(libc::MAP_LOCKED)));
    let mapping = mapping.expect("mapped");
    let resident_ms = milliseconds(|| drop(map(libc::MAP_LOCKED)));
    let file = ram.reopen().expect("a description");
    let store = |page: u64, byte: u8| {
        let offset = usize::try_from(page * 4096).expect("small");
        mapping.as_volatile_slice().write_obj(byte, offset).expect("inside RAM");
    };
    let [sync_us, quick_us, sync_kib] = syncs(&file, store, |_| file.sync_data().expect("synced"));
    Round { cold_ms, resident_ms, sync_us, quick_us, sync_kib }
}

fn round(ram: RamFile) -> Round {
    let machine = Machine::new(ram, MAP_ENTRIES);
    let everything = all(&machine.ram);
    let cold_ms = milliseconds(|| machine.pins.wire(everything).expect("wired"));
    machine.pins.unwire(everything).expect("unwired");
    let resident_ms = milliseconds(|| machine.pins.wire(everything).expect("wired"));
    // As a worker of the sync service does it, without the way to the worker.
    let flush = RefCell::new(RamFlush::new(&machine.ram).expect("a view"));
    let file = machine.ram.reopen().expect("a description");
    let store = |page: u64, byte: u8| machine.store(pages(&machine.ram, page, 1), byte);
    let sync = |page: u64| flush.borrow_mut().flush(pages(&machine.ram, page, 1).into()).expect("synced");
    let [sync_us, quick_us, sync_kib] = syncs(&file, store, sync);
    Round { cold_ms, resident_ms, sync_us, quick_us, sync_kib }
}

/// Returns the value that one part of so many is below: 2 is the median.
fn quantile(mut values: Vec<f64>, part: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / part]
}

/// Prints the table of `resources/docs/folios.md`. Each round has all ways, in an order that turns, on one file.
fn measure_policies_beside_raw_system_calls() {
    let _alone = alone();
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    drop(RamFile::create(&path, MEASURED_RAM, Durability::Shared).expect("a RAM file"));
    // Raw is the first.
    let ways = [None, Some(FolioPolicy::SmallSync), Some(FolioPolicy::Balanced), Some(FolioPolicy::Bulk)];
    let mut rounds = vec![Vec::new(); ways.len()];
    for number in 0..ROUNDS {
        for place in 0..ways.len() {
            let way = (number + place) % ways.len();
            // Opening for single pages drops what is in memory.
            drop(RamFile::open(&path, None).expect("the RAM file"));
            let policy = ways[way].unwrap_or(FolioPolicy::Bulk);
            let ram = RamFile::open_for(&path, None, policy).expect("the RAM file");
            rounds[way].push(if ways[way].is_some() { round(ram) } else { raw_round(&ram) });
        }
    }
    println!("{ROUNDS} rounds; medians; in brackets the median of the ratios to raw in the same round");
    println!(
        "policy | KiB a 4 KiB sync | µs, median | µs, lower quartile | ms to wire 256 MiB from disk | ms to wire it resident"
    );
    for (way, found) in ways.iter().zip(&rounds) {
        let column = |of: fn(&Round) -> f64| {
            let ratios = found.iter().zip(&rounds[0]).map(|(ours, raw)| of(ours) / of(raw)).collect();
            format!("{:.1} ({:.3})", quantile(found.iter().map(of).collect(), 2), quantile(ratios, 2))
        };
        println!(
            "{} | {} | {} | {} | {} | {}",
            way.map_or("raw", FolioPolicy::name),
            column(|round| round.sync_kib),
            column(|round| round.sync_us),
            column(|round| round.quick_us),
            column(|round| round.cold_ms),
            column(|round| round.resident_ms)
        );
    }
}

/// Returns why folios can't be looked at here, if they can't.
fn lacks_folios() -> Option<String> {
    let disk = match Disk::new(Kind::Ext4, 64 << 20) {
        Ok(disk) => disk,
        Err(reason) => return Some(reason),
    };
    let machine = fresh(&disk.mounted().join("guest.ram"), FolioPolicy::Bulk);
    machine.pins.wire(pages(&machine.ram, 0, 512)).expect("wired");
    match machine.witness.folios(pages(&machine.ram, 0, 512)).expect("/proc") {
        None => Some("only root may look at /proc/kpageflags".to_owned()),
        Some(folios) if folios.keys().all(|bytes| *bytes == 4096) => {
            Some("this kernel keeps files of ext4 in single pages".to_owned())
        }
        Some(_) => None,
    }
}

fn main() -> ExitCode {
    let durable = lacks_durable_folder();
    let lacking = durable.clone().or_else(lacks_folios);
    let ext4 = durable.clone().or_else(|| Disk::new(Kind::Ext4, 0).err());
    let by_hand =
        durable.or_else(|| Some("a measurement of a minute, for a machine where nothing else runs".to_owned()));
    suite::run([
        ("small_sync_is_in_single_pages_and_writes_one", lacking.clone(), small_sync_is_in_single_pages_and_writes_one),
        (
            "small_sync_stays_in_single_pages_when_the_host_reads",
            lacking.clone(),
            small_sync_stays_in_single_pages_when_the_host_reads,
        ),
        (
            "balanced_new_file_is_in_64_kib_and_writes_64_kib",
            lacking.clone(),
            balanced_new_file_is_in_64_kib_and_writes_64_kib,
        ),
        (
            "balanced_file_from_the_disk_is_in_64_kib_at_most",
            lacking.clone(),
            balanced_file_from_the_disk_is_in_64_kib_at_most,
        ),
        ("bulk_is_in_large_folios_and_writes_much", lacking.clone(), bulk_is_in_large_folios_and_writes_much),
        ("bulk_new_file_is_in_2_mib", lacking.clone(), bulk_new_file_is_in_2_mib),
        (
            "bulk_page_that_is_unwired_leaves_its_neighbours_held",
            lacking,
            bulk_page_that_is_unwired_leaves_its_neighbours_held,
        ),
        (
            "device_counts_are_those_of_the_device_under_the_file",
            ext4,
            device_counts_are_those_of_the_device_under_the_file,
        ),
        ("measure_policies_beside_raw_system_calls", by_hand, measure_policies_beside_raw_system_calls),
    ])
}
