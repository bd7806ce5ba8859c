//! What a sync costs the disk, counted: flushes, write requests, bytes. Counts are gates; the one time is gated loosely.

#[path = "common/disk.rs"]
#[expect(dead_code, reason = "no test here spoils a disk")]
mod disk;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/suite.rs"]
mod suite;

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use disk::{Disk, DiskCounts, Kind};
use folder::{RAM_BYTES, durable_folder, lacks_durable_folder};
use machine::{MAP_ENTRIES, Machine, range};
use wirevm_abi::{RamRange, Status};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{FileSystemKind, RamFile, durable_file_system};
use wirevm_devices::sync::{RangeResult, SyncConfig, SyncService};

/// How often a count is taken. What a file system does by itself now and then only adds to it, so the least counts.
const TRIALS: usize = 5;
/// Bytes of RAM where much of it is dirty.
const WIDE_BYTES: u64 = 288 << 20;
/// Pages of 256 MiB.
const MANY: u64 = (256 << 20) / 4096;

/// Held by each test: what others do at the same time would be counted, or would take the processor.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn service(machine: &Machine) -> SyncService {
    // The health poll writes nothing, but let nothing happen that nobody asked for.
    let config = SyncConfig { poll_interval: Duration::from_secs(3600), ..SyncConfig::default() };
    SyncService::start(&machine.ram, config, |error| panic!("storage is good: {error}")).expect("a service")
}

fn machine_on(disk: &Disk, bytes: u64) -> Machine {
    let path = disk.mounted().join("guest.ram");
    let machine = Machine::new(RamFile::create(&path, bytes, Durability::Shared).expect("a RAM file"), MAP_ENTRIES);
    // Wiring brings the pages in one by one, as a machine does before its guest runs (rule D7).
    let all = RamRange::new(0, machine.ram.pages(), machine.ram.pages()).expect("all of RAM");
    machine.pins.wire(all).expect("wired");
    machine.pins.release_all();
    machine
}

/// Checks a range of a large RAM.
fn wide(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, WIDE_BYTES / 4096).expect("inside RAM")
}

/// Dirties ranges, counts what a request for them costs, and returns the least of some trials.
fn least(disk: &Disk, machine: &Machine, syncs: &SyncService, ranges: &[RamRange]) -> DiskCounts {
    let trial = |number: usize| {
        let byte = u8::try_from(number + 1).expect("small");
        ranges.iter().for_each(|range| machine.store(*range, byte));
        let (counts, answers) = disk.during(|| syncs.submit_and_wait(ranges));
        assert_eq!(answers, vec![Status::OK; ranges.len()]);
        counts
    };
    let trials: Vec<_> = (0..TRIALS).map(trial).collect();
    let least = |of: fn(&DiskCounts) -> u64| trials.iter().map(of).min().expect("a trial");
    DiskCounts {
        writes: least(|counts| counts.writes),
        bytes: least(|counts| counts.bytes),
        flushes: least(|counts| counts.flushes),
    }
}

fn scattered(count: u64) -> Vec<RamRange> {
    (0..count).map(|place| range(3 + place * 8, 1)).collect()
}

fn request_is_one_flush(kind: Kind) {
    let _alone = alone();
    let disk = Disk::new(kind, 64 << 20).expect("a disk");
    let machine = machine_on(&disk, RAM_BYTES);
    let syncs = service(&machine);
    for count in [1, 2, 16, 120] {
        let flushes = syncs.stats().flushes;
        let counts = least(&disk, &machine, &syncs, &scattered(count));
        println!("{kind:?}: a request of {count} ranges: {counts:?}");
        assert_eq!(counts.flushes, 1, "{count} ranges");
        assert_eq!(syncs.stats().flushes - flushes, TRIALS as u64, "{count} ranges");
    }
    // The control: a request for each range.
    let counts = disk.during(|| {
        for single in scattered(16) {
            machine.store(single, 99);
            assert_eq!(syncs.submit_and_wait(&[single]), [Status::OK]);
        }
    });
    assert!(counts.0.flushes >= 16, "{counts:?}");
}

fn request_of_any_number_of_ranges_is_one_flush_on_ext4() {
    request_is_one_flush(Kind::Ext4);
}

fn request_of_any_number_of_ranges_is_one_flush_on_xfs() {
    request_is_one_flush(Kind::Xfs);
}

fn request_has_a_flush_for_each_run_on_btrfs() {
    let _alone = alone();
    let disk = Disk::new(Kind::Btrfs, 0).expect("a disk");
    let machine = machine_on(&disk, RAM_BYTES);
    let syncs = service(&machine);
    let ranges = scattered(5);
    ranges.iter().for_each(|range| machine.store(*range, 1));
    let (counts, answers) = disk.during(|| syncs.submit_and_wait(&ranges));
    println!("Btrfs: a request of 5 ranges: {counts:?}");
    assert_eq!((answers, syncs.stats().flushes), (vec![Status::OK; 5], 5));
}

fn power_cut_after_one_flush(kind: Kind) {
    let _alone = alone();
    let disk = Disk::new(kind, 64 << 20).expect("a disk");
    let machine = machine_on(&disk, RAM_BYTES);
    let syncs = service(&machine);
    let ranges = scattered(120);
    ranges.iter().for_each(|range| machine.store(*range, 0x5a));
    machine.store(range(1000, 4), 0x77);
    assert_eq!(syncs.submit_and_wait(&ranges), vec![Status::OK; ranges.len()]);
    assert_eq!(syncs.stats().flushes, 1);
    let file = disk.read_after_power_cut("guest.ram");
    let byte = |page: u64| file[usize::try_from(machine.ram.data_offset() + page * 4096).expect("small")];
    for range in ranges {
        assert_eq!(byte(range.first()), 0x5a, "page {} was answered ok", range.first());
    }
    // The control: what was not synced is not there, so the copy is of the disk and not of the page cache.
    assert_eq!([byte(1000), byte(1003)], [0, 0]);
}

fn one_flush_of_many_ranges_survives_a_power_cut_on_ext4() {
    power_cut_after_one_flush(Kind::Ext4);
}

fn one_flush_of_many_ranges_survives_a_power_cut_on_xfs() {
    power_cut_after_one_flush(Kind::Xfs);
}

fn adjacent_dirty_pages_reach_the_disk_as_one_run() {
    let _alone = alone();
    let disk = Disk::new(Kind::Ext4, 64 << 20).expect("a disk");
    let machine = machine_on(&disk, RAM_BYTES);
    let syncs = service(&machine);
    let together = least(&disk, &machine, &syncs, &[range(256, 256)]);
    // In any order, from any number of ranges: a call takes 126.
    let apart: Vec<_> = (0..126).rev().map(|place| range(256 + place * 2, 2)).collect();
    let joined = least(&disk, &machine, &syncs, &apart);
    println!("256 pages at once: {together:?}; 252 pages in {} ranges: {joined:?}", apart.len());
    assert_eq!((together.bytes, joined.bytes), (256 * 4096, 252 * 4096));
    assert!(together.writes <= RUN_WRITES && joined.writes <= RUN_WRITES, "{together:?}, {joined:?}");
    // The control: pages that are not adjacent.
    let scattered = least(&disk, &machine, &syncs, &scattered(120));
    assert!(scattered.writes >= 120, "{scattered:?}");
}

/// Write requests that 1 MiB may take: the kernel cuts what is larger than a disk takes at once.
const RUN_WRITES: u64 = 4;

fn small_sync_writes_little() {
    let _alone = alone();
    let disk = Disk::new(Kind::Ext4, 64 << 20).expect("a disk");
    let machine = machine_on(&disk, RAM_BYTES);
    let syncs = service(&machine);
    let counts = least(&disk, &machine, &syncs, &[range(77, 1)]);
    println!("one page: {counts:?}");
    assert!((4096..=8192).contains(&counts.bytes), "{counts:?}");
    // The control: the count sees what is written.
    assert_eq!(least(&disk, &machine, &syncs, &[range(80, 16)]).bytes, 16 * 4096);
}

fn sync_beside_much_dirty_memory_writes_none_of_it() {
    let _alone = alone();
    let disk = Disk::new(Kind::Ext4, 400 << 20).expect("a disk");
    let machine = machine_on(&disk, WIDE_BYTES);
    let syncs = service(&machine);
    machine.store(wide(0, MANY), 1);
    let dirty = || machine.witness.dirty(wide(0, MANY)).expect("cachestat").expect("Linux 6.5 or newer");
    assert_eq!(dirty(), MANY, "the kernel writes nothing by itself so soon");
    let counts = least(&disk, &machine, &syncs, &[wide(MANY + 5, 1), wide(MANY + 9, 2)]);
    println!("three pages beside {MANY} dirty ones: {counts:?}");
    assert!(counts.bytes <= 3 * 4096 + 4096, "{counts:?}");
    assert_eq!(dirty(), MANY, "none of it was written");
    let (counts, answers) = disk.during(|| syncs.submit_and_wait(&[wide(0, MANY)]));
    assert_eq!((answers, dirty()), (vec![Status::OK], 0));
    assert!(counts.bytes >= MANY * 4096, "the control: {counts:?}");
}

fn submit_of_much_dirty_memory_returns_while_it_is_written() {
    let _alone = alone();
    let folder = durable_folder();
    let machine = Machine::new(RamFile::temporary(folder.path(), WIDE_BYTES).expect("a RAM file"), MAP_ENTRIES);
    let syncs = service(&machine);
    let all = wide(0, MANY);
    let (mut times, mut waited, mut under_way) = (Vec::new(), 0, 0);
    for trial in 0..TRIALS {
        machine.store(all, u8::try_from(trial + 1).expect("small"));
        let (sender, results) = mpsc::channel();
        let answer = move |results: Vec<RangeResult>| sender.send(results).expect("the test listens");
        // As a guest that has not used up its share of the processor.
        std::thread::sleep(Duration::from_millis(2));
        let (waits, began) = (voluntary_waits(), Instant::now());
        syncs.submit(&[all], Box::new(answer)).expect("accepted");
        times.push(began.elapsed());
        waited += voluntary_waits() - waits;
        let left = machine.witness.dirty(all).expect("cachestat").expect("Linux 6.5 or newer");
        under_way += usize::from(left > 0 && results.try_recv().is_err());
        let results = results.recv_timeout(Duration::from_secs(60)).expect("answered");
        assert!(results.iter().all(|result| result.status == Status::OK), "{results:?}");
        println!("256 MiB: the caller waited {:?}, the disk {:?}", times[trial], began.elapsed());
        assert_eq!(machine.witness.dirty(all).expect("cachestat"), Some(0));
    }
    times.sort_unstable();
    println!("median of {TRIALS}: {:?}", times[TRIALS / 2]);
    // What a neighbour does to the clock is not the service's doing; giving the processor away is.
    assert!(under_way > TRIALS / 2, "it was over before the caller went on, {} times", TRIALS - under_way);
    assert!(waited <= 1, "the caller waited {waited} times in {TRIALS} calls");
    assert!(times[1] <= Duration::from_micros(200), "{times:?}");
}

/// Returns how often this thread has waited for anything.
fn voluntary_waits() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
    line.trim().parse().expect("a number")
}

fn main() -> ExitCode {
    let durable = lacks_durable_folder();
    let ext4 = durable.clone().or_else(|| Disk::new(Kind::Ext4, 0).err());
    let xfs = durable.clone().or_else(|| Disk::new(Kind::Xfs, 0).err());
    // Of other file systems nobody knows when they write by themselves.
    let plain = durable.clone().or_else(|| {
        let kind = durable_file_system(durable_folder().path()).ok()?;
        (kind == FileSystemKind::BtrfsNoCow).then(|| "btrfs may write the whole file for any range of it".to_owned())
    });
    let btrfs = durable.clone().or_else(|| Disk::new(Kind::Btrfs, 0).err());
    suite::run([
        ("request_has_a_flush_for_each_run_on_btrfs", btrfs, request_has_a_flush_for_each_run_on_btrfs),
        (
            "request_of_any_number_of_ranges_is_one_flush_on_ext4",
            ext4.clone(),
            request_of_any_number_of_ranges_is_one_flush_on_ext4,
        ),
        (
            "request_of_any_number_of_ranges_is_one_flush_on_xfs",
            xfs.clone(),
            request_of_any_number_of_ranges_is_one_flush_on_xfs,
        ),
        (
            "one_flush_of_many_ranges_survives_a_power_cut_on_ext4",
            ext4.clone(),
            one_flush_of_many_ranges_survives_a_power_cut_on_ext4,
        ),
        (
            "one_flush_of_many_ranges_survives_a_power_cut_on_xfs",
            xfs,
            one_flush_of_many_ranges_survives_a_power_cut_on_xfs,
        ),
        (
            "adjacent_dirty_pages_reach_the_disk_as_one_run",
            ext4.clone(),
            adjacent_dirty_pages_reach_the_disk_as_one_run,
        ),
        ("small_sync_writes_little", ext4.clone(), small_sync_writes_little),
        ("sync_beside_much_dirty_memory_writes_none_of_it", ext4, sync_beside_much_dirty_memory_writes_none_of_it),
        (
            "submit_of_much_dirty_memory_returns_while_it_is_written",
            plain,
            submit_of_much_dirty_memory_returns_while_it_is_written,
        ),
    ])
}
