//! The fake target, request by request.

use wirevm_agent::{Command, MAIN_TASK, Pattern, Reply, Request};
use wirevm_map::{FrameRun, KernReturn, PAGE_SIZE};
use wirevm_vmm::StorageErrorPolicy;

use super::{FakeConfig, FakeTarget};
use crate::in_process::Limits;
use crate::script::target::{Target, WitnessAnswer, WitnessQuery};

fn start(durable: bool) -> FakeTarget {
    let config = FakeConfig {
        ram_pages: 64,
        wire_quota_pages: 16,
        durable,
        store_quota_pages: Some(32),
        on_storage_error: StorageErrorPolicy::Latch,
        limits: Limits::default(),
    };
    FakeTarget::start(config).expect("a thread")
}

fn call(target: &mut FakeTarget, task: u64, command: Command) -> Reply {
    let reply = target.call(&Request { task, thread: 0, command }).expect("a reply");
    if command != Command::Check {
        // Each step leaves books and page tables that hold.
        assert_eq!(call(target, MAIN_TASK, Command::Check), Reply::Done(KernReturn::Success), "behind {command:?}");
    }
    reply
}

fn write(target: &mut FakeTarget, task: u64, address: u64, byte: u8) {
    let command = Command::Write { address, size: 4 * PAGE_SIZE, pattern: Pattern::byte(byte) };
    assert_eq!(call(target, task, command), Reply::Done(KernReturn::Success));
}

fn expect(target: &mut FakeTarget, task: u64, address: u64, byte: u8) {
    let command = Command::Expect { address, size: 4 * PAGE_SIZE, pattern: Pattern::byte(byte) };
    assert_eq!(call(target, task, command), Reply::Done(KernReturn::Success));
}

#[test]
fn tasks_have_memory_of_their_own_and_the_books_hold_behind_each_step() {
    let mut target = start(true);
    let size = 4 * PAGE_SIZE;
    let Reply::Address(address) = call(&mut target, MAIN_TASK, Command::Allocate { address: None, size }) else {
        panic!("no room")
    };
    write(&mut target, MAIN_TASK, address, 7);
    let wire = Command::Wire { start: address, end: address + 2 * PAGE_SIZE, flags: 1 };
    assert_eq!(call(&mut target, MAIN_TASK, wire), Reply::Done(KernReturn::Success));
    let Reply::Number(child) = call(&mut target, MAIN_TASK, Command::Fork) else { panic!("no child") };
    write(&mut target, child, address, 9);
    expect(&mut target, MAIN_TASK, address, 7);
    expect(&mut target, child, address, 9);
    assert_eq!(target.witness(WitnessQuery::Locked).expect("a count"), WitnessAnswer::Pages(2));
    call(&mut target, child, Command::EndTask);
    expect(&mut target, MAIN_TASK, address, 7);
    call(&mut target, MAIN_TASK, Command::Deallocate { address, size });
    assert_eq!(target.witness(WitnessQuery::Locked).expect("a count"), WitnessAnswer::Pages(0));
}

#[test]
fn dirtiness_is_that_of_stores_and_a_frame_outside_of_ram_is_refused() {
    let mut target = start(true);
    let size = 4 * PAGE_SIZE;
    let Reply::Address(address) = call(&mut target, MAIN_TASK, Command::Allocate { address: None, size }) else {
        panic!("no room")
    };
    let everything = || WitnessQuery::Dirty(vec![FrameRun::new(0, 64)]);
    // The same bytes again are a store again.
    for _ in 0..2 {
        write(&mut target, MAIN_TASK, address, 7);
        assert_eq!(target.witness(everything()).expect("a count"), WitnessAnswer::Pages(4));
        let sync = Command::Sync { address, size, flags: 2 };
        assert_eq!(call(&mut target, MAIN_TASK, sync), Reply::Done(KernReturn::Success));
        assert_eq!(target.witness(everything()).expect("a count"), WitnessAnswer::Pages(0));
    }
    for outside in [WitnessQuery::Resident(vec![FrameRun::new(63, 2)]), WitnessQuery::Page(64)] {
        let error = target.witness(outside).expect_err("no such frame");
        assert!(error.to_string().contains("which RAM does not have"), "{error}");
    }
    assert_eq!(start(false).witness(everything()).expect("an answer"), WitnessAnswer::Unsupported);
}
