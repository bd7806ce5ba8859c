//! The hosted target, request by request.

use std::fs::File;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use wirevm_abi::{StoreName, stat};
use wirevm_agent::{Command, MAIN_TASK, Pattern, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::pin::{PinConfig, PinKind, PinService, RunsMethod};
use wirevm_devices::ramfile::{HEADER_BYTES, PreviousEnd, RamFile};
use wirevm_devices::store::StoreService;
use wirevm_devices::sync::SyncService;
use wirevm_devices::view::View;
use wirevm_map::fake::{FakePmap, block_on};
use wirevm_map::{
    HostError, KernReturn, MapMode, PAGE_SIZE, Placement, Prot, StoreKind, SyncFlags, Vm, VmMap, WireFlags,
};
use wirevm_vmm::StorageErrorPolicy;
use wirevm_vmm::memory::GuestRam;

use super::frames::HostedFrames;
use super::ram::HostedRam;
use super::services::Services;
use super::{HostedConfig, HostedPorts, HostedTarget};
use crate::exit_code::ExitCode;
use crate::in_process::{Limits, ServiceHost, TASK_PAGES};
use crate::script::target::{
    HostErrno, HostFault, StorageErrno, StorageFault, Target, TargetError, WitnessAnswer, WitnessQuery,
};

fn start(ram: RamFile) -> HostedTarget {
    let config = HostedConfig {
        wire_quota_pages: 8,
        pin: PinKind::Runs,
        stores: None,
        on_storage_error: StorageErrorPolicy::Stop,
        limits: Limits::default(),
    };
    HostedTarget::start(config, ram).expect("services")
}

fn call(target: &mut HostedTarget, command: Command) -> Result<Reply, TargetError> {
    target.call(&Request { task: MAIN_TASK, thread: 0, command })
}

fn allocate(target: &mut HostedTarget, pages: u64) -> u64 {
    match call(target, Command::Allocate { address: None, size: pages * PAGE_SIZE }) {
        Ok(Reply::Address(address)) => address,
        other => panic!("{other:?}"),
    }
}

fn wire(target: &mut HostedTarget, start: u64, pages: u64) -> Reply {
    let command = Command::Wire { start, end: start + pages * PAGE_SIZE, flags: 1 };
    call(target, command).expect("a reply")
}

#[test]
fn ordered_failure_and_quota_are_shortages_and_leave_nothing_locked() {
    let mut target = start(RamFile::memfd(2 << 20).expect("a memfd"));
    let address = allocate(&mut target, 9);
    target.fail_host(HostFault { nth: NonZero::<u64>::MIN, errno: HostErrno::NoMem }).expect("an order");
    for pages in [4, 9] {
        assert_eq!(wire(&mut target, address, pages), Reply::Done(KernReturn::ResourceShortage), "{pages} pages");
        assert_eq!(target.witness(WitnessQuery::Locked).expect("a count"), WitnessAnswer::Pages(0));
    }
    assert_eq!(wire(&mut target, address, 8), Reply::Done(KernReturn::Success));
    assert_eq!(target.witness(WitnessQuery::Locked).expect("a count"), WitnessAnswer::Pages(8));
    assert_eq!(call(&mut target, Command::Check).expect("a reply"), Reply::Done(KernReturn::Success));
    target.finish().expect("an end in order");
}

#[test]
fn ram_file_cut_short_ends_the_run_and_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest.ram");
    let mut target = start(RamFile::create(&path, 2 << 20, Durability::None).expect("a RAM file"));
    let address = allocate(&mut target, 2);
    let file = File::options().write(true).open(&path).expect("the file");
    file.set_len(HEADER_BYTES).expect("cut short");
    let store = Command::Write { address, size: PAGE_SIZE, pattern: Pattern::byte(1) };
    assert_eq!(call(&mut target, store).expect_err("no memory").exit, ExitCode::BackingLost);
    assert_eq!(target.finish().expect_err("no memory").exit, ExitCode::BackingLost);
    assert_eq!(file.metadata().expect("the file").len(), HEADER_BYTES);
}

#[test]
fn ram_file_is_left_clean_and_can_be_used_again_although_it_is_not_zero() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest.ram");
    let mut target = start(RamFile::create(&path, 2 << 20, Durability::None).expect("a RAM file"));
    let address = allocate(&mut target, 512);
    let store = Command::Write { address, size: 2 << 20, pattern: Pattern::byte(7) };
    assert_eq!(call(&mut target, store).expect("a reply"), Reply::Done(KernReturn::Success));
    target.finish().expect("an end in order");
    let ram = RamFile::open(&path, None).expect("the same file");
    assert_eq!(ram.previous_end(), PreviousEnd::Clean);
    let mut target = start(ram);
    let address = allocate(&mut target, 512);
    let zero = Command::Expect { address, size: 2 << 20, pattern: Pattern::byte(0) };
    assert_eq!(call(&mut target, zero).expect("a reply"), Reply::Done(KernReturn::Success));
    target.finish().expect("an end in order");
}

#[test]
fn host_map_fragmentation_is_a_shortage_and_no_quota() {
    let ram = RamFile::memfd(2 << 20).expect("a memfd");
    let view = Arc::new(View::new(&ram).expect("a view"));
    // Two locked runs may be there, and a third one not.
    let config = PinConfig { ram_pages: ram.pages(), quota_pages: ram.pages(), map_entry_budget: 4 };
    let pins = Arc::new(PinService::new(Box::new(RunsMethod::new(view)), config));
    let syncs = Arc::new(SyncService::unsupported(ram.pages()));
    let memory = Arc::new(HostedRam::new(GuestRam::map(&ram).expect("a mapping")));
    let frames = HostedFrames::new(memory, ram.pages(), true);
    let services = Services {
        pins: Arc::clone(&pins),
        syncs,
        stores: Arc::new(StoreService::unsupported()),
        discard: None,
        discarded_pages: AtomicU64::new(0),
        ram_pages: ram.pages(),
    };
    let vm = Vm::<HostedPorts>::new(ServiceHost::new(services), frames, ram.pages());
    let map = VmMap::new(vm, TASK_PAGES, FakePmap::new());
    let start = block_on(map.allocate(Placement::Anywhere, 8 * PAGE_SIZE)).expect("room");
    // All get their frames at once, so that every second page is a run of its own.
    assert_eq!(block_on(map.wire(start, start + 8 * PAGE_SIZE, WireFlags::USER)), Ok(()));
    assert_eq!(block_on(map.unwire(start, start + 8 * PAGE_SIZE, WireFlags::USER)), Ok(()));
    let results = [0, 2, 4].map(|page| {
        let page = start + page * PAGE_SIZE;
        block_on(map.wire(page, page + PAGE_SIZE, WireFlags::USER))
    });
    assert_eq!(results, [Ok(()), Ok(()), Err(KernReturn::ResourceShortage)]);
    assert_eq!(map.stats().last_host_error, Some(HostError::Shortage));
    assert_eq!(pins.stats().wired_pages, 2);
}

/// A target over a RAM file and stores on a disk, and the folder that they are in.
fn on_disk(on_storage_error: StorageErrorPolicy) -> (tempfile::TempDir, HostedTarget) {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let ram = RamFile::create(&folder.path().join("guest.ram"), 2 << 20, Durability::Shared).expect("a RAM file");
    let config = HostedConfig {
        wire_quota_pages: 8,
        pin: PinKind::Runs,
        stores: Some((folder.path().to_owned(), 64)),
        on_storage_error,
        limits: Limits { time_limit: Some(Duration::from_secs(60)), ..Limits::default() },
    };
    (folder, HostedTarget::start(config, ram).expect("services"))
}

const SUCCESS: Reply = Reply::Done(KernReturn::Success);

fn write(target: &mut HostedTarget, address: u64, pages: u64, byte: u8) {
    let store = Command::Write { address, size: pages * PAGE_SIZE, pattern: Pattern::byte(byte) };
    assert_eq!(call(target, store).expect("a reply"), SUCCESS);
}

fn sync(target: &mut HostedTarget, address: u64, pages: u64, thread: u64) -> Result<Reply, TargetError> {
    let command = Command::Sync { address, size: pages * PAGE_SIZE, flags: SyncFlags::SYNCHRONOUS.bits().into() };
    target.call(&Request { task: MAIN_TASK, thread, command })
}

#[test]
fn sync_waits_for_the_disk_and_for_a_script_that_holds_it() {
    let (_folder, mut target) = on_disk(StorageErrorPolicy::Stop);
    let address = allocate(&mut target, 4);
    write(&mut target, address, 4, 7);
    assert_eq!(sync(&mut target, address, 2, 0).expect("a reply"), SUCCESS);
    target.hold_storage(true).expect("an order");
    assert_eq!(sync(&mut target, address, 4, 1).expect("a reply"), Reply::Started);
    assert_eq!(call(&mut target, Command::Poll { thread: 1 }).expect("a reply"), Reply::Blocked);
    assert_eq!(call(&mut target, Command::Completions).expect("a reply"), Reply::Blocked);
    let quiesced = call(&mut target, Command::Quiesce).expect("a reply");
    assert!(matches!(&quiesced, Reply::Violation(reason) if reason.contains("holds")), "{quiesced:?}");
    target.hold_storage(false).expect("an order");
    assert_eq!(call(&mut target, Command::Join { thread: 1 }).expect("a reply"), SUCCESS);
    assert_eq!(call(&mut target, Command::Completions).expect("a reply"), Reply::Number(2));
    assert_eq!(call(&mut target, Command::Stat { selector: stat::SYNC_REQUESTS }).expect("a reply"), Reply::Number(2));
    assert_eq!(call(&mut target, Command::Quiesce).expect("a reply"), SUCCESS);
    target.finish().expect("an end in order");
}

#[test]
fn run_that_ends_while_storage_is_held_ends_all_the_same() {
    let (_folder, mut target) = on_disk(StorageErrorPolicy::Stop);
    let address = allocate(&mut target, 4);
    write(&mut target, address, 4, 7);
    target.hold_storage(true).expect("an order");
    assert_eq!(sync(&mut target, address, 4, 1).expect("a reply"), Reply::Started);
    let began = Instant::now();
    target.finish().expect("an end in order");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn failed_sync_ends_the_run_where_it_is_to_stop_and_marks_the_file() {
    let (folder, mut target) = on_disk(StorageErrorPolicy::Stop);
    let address = allocate(&mut target, 4);
    write(&mut target, address, 4, 7);
    target.fail_storage(StorageFault { nth: NonZero::<u64>::MIN, errno: StorageErrno::NoSpace }).expect("an order");
    assert_eq!(sync(&mut target, address, 4, 0).expect_err("an end").exit, ExitCode::Storage);
    assert_eq!(target.finish().expect_err("storage failed").exit, ExitCode::Storage);
    let ram = RamFile::open(&folder.path().join("guest.ram"), None).expect("the same file");
    assert!(matches!(ram.previous_end(), PreviousEnd::Failed { .. }), "{:?}", ram.previous_end());
}

#[test]
fn failed_sync_is_a_failure_of_unwired_pages_and_wired_ones_are_repaired_where_it_goes_on() {
    let (_folder, mut target) = on_disk(StorageErrorPolicy::Latch);
    let address = allocate(&mut target, 8);
    write(&mut target, address, 8, 7);
    assert_eq!(wire(&mut target, address, 2), SUCCESS);
    target.fail_storage(StorageFault { nth: NonZero::<u64>::MIN, errno: StorageErrno::Io }).expect("an order");
    let failure = Reply::Done(KernReturn::Failure);
    assert_eq!(sync(&mut target, address + 4 * PAGE_SIZE, 2, 0).expect("a reply"), failure);
    assert_eq!(sync(&mut target, address + 6 * PAGE_SIZE, 2, 0).expect("a reply"), failure);
    assert_eq!(sync(&mut target, address, 2, 0).expect("a reply"), SUCCESS);
    assert_eq!(call(&mut target, Command::Stat { selector: stat::STORAGE_ERROR }).expect("a reply"), Reply::Number(5));
    assert_eq!(target.finish().expect_err("storage failed").exit, ExitCode::Storage);
}

#[test]
fn store_is_a_file_in_the_folder_and_the_witness_reads_it() {
    let (folder, mut target) = on_disk(StorageErrorPolicy::Stop);
    let name = StoreName::new("disk").expect("a name");
    let query = |page| WitnessQuery::StorePage { name, page };
    assert_eq!(target.witness(query(0)).expect("an answer"), WitnessAnswer::Unsupported);
    let open = Command::NewStoreObject { name: name.to_words(), pages: 4, kind: StoreKind::Store };
    let object = match call(&mut target, open) {
        Ok(Reply::Number(object)) => object,
        other => panic!("{other:?}"),
    };
    let map = Command::MapObject {
        address: None,
        object,
        first_page: 0,
        end_page: 4,
        mode: MapMode::Shared,
        prot: Prot::DEFAULT,
    };
    let address = match call(&mut target, map) {
        Ok(Reply::Address(address)) => address,
        other => panic!("{other:?}"),
    };
    write(&mut target, address, 1, 9);
    assert_eq!(sync(&mut target, address, 4, 0).expect("a reply"), SUCCESS);
    assert_eq!(target.witness(query(0)).expect("an answer"), WitnessAnswer::Page(Box::new([9; 4096])));
    assert_eq!(target.witness(query(3)).expect("an answer"), WitnessAnswer::Page(Box::new([0; 4096])));
    assert_eq!(target.witness(query(4)).expect("an answer"), WitnessAnswer::Unsupported);
    assert_eq!(std::fs::metadata(folder.path().join("disk")).expect("a file").len(), 4 * PAGE_SIZE);
    let numbers = [stat::OPEN_STORES, stat::STORE_PAGES_IN, stat::STORE_PAGES_OUT]
        .map(|selector| call(&mut target, Command::Stat { selector }).expect("a reply"));
    // The page that is missed brings those behind it along.
    assert_eq!(numbers, [1, 4, 1].map(Reply::Number));
    target.finish().expect("an end in order");
}

#[test]
fn trim_gives_back_what_was_used_where_ram_is_no_file() {
    let mut target = start(RamFile::memfd(2 << 20).expect("a memfd"));
    let address = allocate(&mut target, 4);
    write(&mut target, address, 4, 7);
    let size = 4 * PAGE_SIZE;
    assert_eq!(call(&mut target, Command::Deallocate { address, size }).expect("a reply"), SUCCESS);
    assert_eq!(call(&mut target, Command::Trim).expect("a reply"), Reply::Number(4));
    assert_eq!(call(&mut target, Command::Trim).expect("a reply"), Reply::Number(0));
    assert_eq!(
        call(&mut target, Command::Stat { selector: stat::DISCARDED_PAGES }).expect("a reply"),
        Reply::Number(4)
    );
    let address = allocate(&mut target, 4);
    assert_eq!(
        call(&mut target, Command::Expect { address, size, pattern: Pattern::byte(0) }).expect("a reply"),
        SUCCESS
    );
    target.finish().expect("an end in order");
}
