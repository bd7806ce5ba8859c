//! The hosted target, request by request.

use std::fs::File;
use std::num::NonZero;
use std::sync::Arc;

use wirevm_agent::{Command, MAIN_TASK, Pattern, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::pin::{PinConfig, PinService, RunsMethod};
use wirevm_devices::ramfile::{HEADER_BYTES, PreviousEnd, RamFile};
use wirevm_devices::sync::SyncService;
use wirevm_devices::view::View;
use wirevm_map::fake::{FakePmap, block_on};
use wirevm_map::{HostError, KernReturn, PAGE_SIZE, Placement, Vm, VmMap, WireFlags};
use wirevm_vmm::StorageErrorPolicy;
use wirevm_vmm::memory::GuestRam;

use super::frames::HostedFrames;
use super::ram::HostedRam;
use super::services::Services;
use super::{HostedConfig, HostedPorts, HostedTarget};
use crate::exit_code::ExitCode;
use crate::in_process::{Limits, ServiceHost, TASK_PAGES};
use crate::script::target::{HostErrno, HostFault, Target, TargetError, WitnessAnswer, WitnessQuery};

fn start(ram: RamFile) -> HostedTarget {
    let config =
        HostedConfig { wire_quota_pages: 8, on_storage_error: StorageErrorPolicy::Stop, limits: Limits::default() };
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
    let services = Services { pins: Arc::clone(&pins), syncs, ram_pages: ram.pages() };
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
