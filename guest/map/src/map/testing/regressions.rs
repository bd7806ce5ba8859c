//! What went wrong once.

use alloc::sync::Arc;

use super::{Bed, Outcome};
use crate::entry::Inheritance;
use crate::errno::Errno;
use crate::fake::{Executor, FakeConfig, FakePmap, FakePorts, block_on};
use crate::flags::{LockAllFlags, SyncFlags, WireFlags};
use crate::handle::{ObjectHandle, PagerFault};
use crate::kern_return::KernReturn;
use crate::map::{MapMode, Placement, VmMap};
use crate::units::{PAGE_SHIFT, PageRange, Prot};

fn fork(bed: &Bed) -> VmMap<FakePorts> {
    block_on(bed.machine.map.fork(FakePmap::new())).unwrap()
}

fn protect(bed: &Bed, pages: u64, prot: Prot) -> Outcome {
    block_on(bed.machine.map.protect(bed.at(0), pages << PAGE_SHIFT, false, prot))
}

/// Returns a machine whose map shows a file of 4 pages at page 0, for reading and writing.
fn private_file() -> Bed {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, 4));
    let mapped = block_on(bed.machine.map.map_object(place, &file, pages, MapMode::Private, Prot::DEFAULT));
    assert_eq!(mapped, Ok(bed.at(0)));
    bed
}

#[test]
fn n4_user_wire_of_what_the_system_wired_before_it_became_writable_needs_no_copy() {
    let bed = Bed::of(4);
    assert_eq!(bed.write(0, 1), Ok(()));
    let child = fork(&bed);
    assert_eq!(protect(&bed, 4, Prot::READ), Ok(()));
    assert_eq!(block_on(bed.machine.map.wire(bed.at(0), bed.at(4), WireFlags::SYSTEM)), Ok(()));
    assert_eq!(protect(&bed, 4, Prot::DEFAULT), Ok(()));
    assert_eq!(block_on(bed.machine.map.wire(bed.at(0), bed.at(4), WireFlags::USER)), Ok(()));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}

#[test]
fn n4_mlockall_on_fault_of_forked_memory_needs_no_copy() {
    let bed = Bed::of(4);
    assert_eq!(bed.write(0, 1), Ok(()));
    let child = fork(&bed);
    let flags = LockAllFlags::CURRENT | LockAllFlags::ONFAULT;
    assert_eq!(block_on(bed.machine.map.mlockall(flags)), Ok(()));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
    assert_eq!(block_on(bed.machine.write(bed.at(0), &[2])), Ok(()));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}

#[test]
fn d_04_fork_of_a_private_mapping_wired_on_fault_shows_the_file_where_nothing_was_copied() {
    let bed = private_file();
    assert_eq!(bed.write(0, 1), Ok(()));
    let flags = LockAllFlags::CURRENT | LockAllFlags::ONFAULT;
    assert_eq!(block_on(bed.machine.map.mlockall(flags)), Ok(()));
    let child = fork(&bed);
    let mut byte = [0];
    for (page, expected) in [(0, 1), (3, 0x13)] {
        assert_eq!(block_on(bed.machine.read_in(&child, bed.at(page), &mut byte)), Ok(()));
        assert_eq!(byte, [expected], "page {page}");
    }
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}

#[test]
fn y_04_page_that_is_copied_while_the_host_is_asked_to_hold_it_is_let_go() {
    let bed = private_file();
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 4 << PAGE_SHIFT, Inheritance::Share)), Ok(()));
    // Both show one object, and through it the file's pages.
    let child = fork(&bed);
    assert_eq!(protect(&bed, 4, Prot::READ), Ok(()));
    bed.host().set_yielding(true);
    let mut executor = Executor::new(0);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(2), WireFlags::USER));
    assert!(executor.poll(0), "the host is asked to hold the file's pages");
    let write = executor.spawn(child.fault(bed.at(0), Prot::WRITE));
    assert!(executor.poll(1), "and to hold the copy of one");
    assert!(executor.poll(1), "which takes its place and its wiring");
    assert_eq!((executor.run(), wire.take(), write.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
    assert_eq!(bed.wired_by_host(), 2);
}

#[test]
fn copy_replaces_no_mapping_of_the_same_page_through_another_object() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, 4));
    block_on(bed.machine.map.map_object(place, &file, pages, MapMode::Private, Prot::DEFAULT)).unwrap();
    assert_eq!(bed.write(3, 1), Ok(()), "the mapping has an object of its own");
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 2 << PAGE_SHIFT, Inheritance::None)), Ok(()));
    // The child shows pages 2 and 3 of that object, and the file itself in front of them.
    let child = fork(&bed);
    let front = PageRange::new(0, 2);
    assert_eq!(block_on(child.map_object(place, &file, front, MapMode::Shared, Prot::READ)), Ok(bed.at(0)));
    let mut byte = [0];
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(0), &mut byte)), Ok(()));
    assert_eq!(block_on(bed.machine.write(bed.at(0), &[7])), Ok(()));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(0), &mut byte)), Ok(()));
    assert_eq!(byte, [0x10], "what the parent writes is its own");
}

/// Maps all of `object` at page `page` of `map`, for reading and writing by everybody.
fn share(bed: &Bed, map: &VmMap<FakePorts>, object: &ObjectHandle<FakePorts>, page: u64) {
    let (place, pages) = (Placement::Fixed(bed.at(page)), PageRange::new(0, object.pages()));
    let mapped = block_on(map.map_object(place, object, pages, MapMode::Shared, Prot::DEFAULT));
    assert_eq!(mapped, Ok(bed.at(page)));
}

#[test]
fn p_10_wired_page_that_a_truncation_empties_differs_from_stable_storage() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(2);
    share(&bed, &bed.machine.map, &object, 0);
    assert_eq!((bed.write(0, 0x11), bed.wire(0, 2, WireFlags::USER)), (Ok(()), Ok(())));
    assert_eq!(bed.msync(0, 2, SyncFlags::SYNCHRONOUS), Ok(()));
    assert_eq!((block_on(object.truncate(0)), block_on(object.truncate(2))), (Ok(()), Ok(())));
    assert_eq!((bed.read(0), bed.msync(0, 2, SyncFlags::SYNCHRONOUS)), (Ok(0), Ok(())));
    assert_eq!(bed.stable(0), Some(0));
}

#[test]
fn y_04_copies_over_two_2_mib_mappings_without_a_table_leave_neither_mapped() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(1024, 1024);
    let (place, pages) = (Placement::Fixed(bed.at(496)), PageRange::new(0, 1024));
    let mapped = block_on(bed.machine.map.map_object(place, &file, pages, MapMode::Private, Prot::DEFAULT));
    assert_eq!(mapped, Ok(bed.at(496)));
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(496), 1024 << PAGE_SHIFT, Inheritance::Share)), Ok(()));
    let child = fork(&bed);
    for page in [496, 1008] {
        assert_eq!(block_on(child.fault(bed.at(page), Prot::READ)), Ok(()));
        assert!(child.with_pmap(|pmap| pmap.translation(bed.at(page) >> PAGE_SHIFT)).is_some_and(|at| at.large));
    }
    child.with_pmap(|pmap| pmap.limit_tables(Some(0)));
    assert_eq!(block_on(bed.machine.map.wire(bed.at(496), bed.at(1520), WireFlags::USER)), Ok(()));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}

#[test]
fn fork_that_must_copy_a_page_which_its_pager_does_not_supply_leaves_it_to_the_child() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    share(&bed, &bed.machine.map, &file, 0);
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 4 << PAGE_SHIFT, Inheritance::Copy)), Ok(()));
    file.fail(2, Some(PagerFault::Io));
    let child = fork(&bed);
    assert_eq!(block_on(bed.machine.write(bed.at(3), &[0x77])), Ok(()), "the child has a copy of what can be had");
    let mut byte = [0];
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(3), &mut byte)), Ok(()));
    assert_eq!(byte, [0x13]);
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(2), &mut byte)), Err(KernReturn::OutOfBounds));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}

#[test]
fn fork_that_finds_no_frame_for_a_page_that_it_must_copy_is_resource_shortage() {
    let bed = Bed::with(FakeConfig { frame_pages: 2, ..FakeConfig::default() });
    let file = bed.machine.vm.file_object(4, 1);
    share(&bed, &bed.machine.map, &file, 0);
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 4 << PAGE_SHIFT, Inheritance::Copy)), Ok(()));
    assert_eq!(block_on(bed.machine.map.fork(FakePmap::new())).err(), Some(KernReturn::ResourceShortage));
    assert_eq!(bed.machine.check_quiet(), Ok(()));
}

#[test]
fn msync_writes_what_was_written_through_another_mapping() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(4);
    share(&bed, &bed.machine.map, &object, 0);
    share(&bed, &bed.machine.map, &object, 8);
    let other = VmMap::new(Arc::clone(&bed.machine.vm), bed.machine.map.bounds(), FakePmap::new());
    share(&bed, &other, &object, 2);
    assert_eq!(bed.machine.check_quiet_with(&[&other]), Ok(()));
    let write = |map, page, byte| block_on(bed.machine.write_in(map, bed.at(page), &[byte]));
    assert_eq!((write(&other, 3, 0x11), write(&bed.machine.map, 10, 0x22)), (Ok(()), Ok(())));
    let flags = SyncFlags::SYNCHRONOUS;
    assert_eq!(block_on(bed.machine.map.msync(bed.at(0), 4 << PAGE_SHIFT, flags)), Ok(()));
    assert_eq!((bed.stable(1), bed.stable(2)), (Some(0x11), Some(0x22)));
    assert_eq!(bed.machine.check_quiet_with(&[&other]), Ok(()));
}

#[test]
fn d_01_deallocate_of_part_of_a_wired_entry_leaves_nobody_waiting_for_the_rest() {
    let bed = Bed::of(6);
    assert_eq!(bed.wire(0, 6, WireFlags::SYSTEM), Ok(()));
    let mut executor = Executor::new(0);
    let outcome = executor.spawn(bed.machine.map.deallocate(bed.at(2), 2 << PAGE_SHIFT));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(block_on(bed.machine.map.unwire(bed.at(2), bed.at(4), WireFlags::SYSTEM)), Ok(()));
    assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,2)1 [4,6)1");
}

#[test]
fn p_10_page_cut_off_before_the_host_held_it_ends_with_its_wiring() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    share(&bed, &bed.machine.map, &file, 0);
    file.gate(3);
    let mut executor = Executor::new(0);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), WireFlags::USER));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(block_on(file.truncate(0)), Ok(()));
    file.release(3);
    assert_eq!((executor.run(), wire.take()), (Ok(()), Some(Err(KernReturn::OutOfBounds))));
    assert_eq!(bed.machine.vm.resident_pages(), 0);
    assert_eq!(bed.machine.check_quiet(), Ok(()));
}

#[test]
fn b_13_mlockall_that_fails_keeps_what_another_call_asked_of_the_future() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    share(&bed, &bed.machine.map, &file, 0);
    file.gate(3);
    let mut executor = Executor::new(0);
    let current = executor.spawn(bed.machine.map.mlockall(LockAllFlags::CURRENT));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(block_on(bed.machine.map.mlockall(LockAllFlags::FUTURE)), Ok(()));
    file.fail(3, Some(PagerFault::Io));
    file.release(3);
    assert_eq!((executor.run(), current.take()), (Ok(()), Some(Err(Errno::Again))));
    bed.allocate(8, 10);
    assert_eq!(bed.layout(), "[0,4)0 [8,10)1U");
}

#[test]
fn page_in_of_the_last_page_there_can_be_does_not_overflow() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(u64::MAX, 1);
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(u64::MAX - 2, u64::MAX));
    let mapped = block_on(bed.machine.map.map_object(place, &file, pages, MapMode::Private, Prot::DEFAULT));
    assert_eq!((mapped, bed.read(1)), (Ok(bed.at(0)), Ok(0x0e)));
    assert_eq!((bed.write(0, 1), bed.read(1)), (Ok(()), Ok(0x0e)));
}

#[test]
fn f_07_deallocate_that_would_cut_a_large_page_leaves_one_entry() {
    let bed = Bed::new();
    let place = Placement::Fixed(bed.at(496));
    assert_eq!(block_on(bed.machine.map.allocate_large(place, 4 << 20)), Ok(bed.at(496)));
    let cut = block_on(bed.machine.map.deallocate(bed.at(1008), 1 << 20));
    assert_eq!((cut, bed.entries().as_str()), (Err(KernReturn::InvalidArgument), "[496,1520)"));
}

#[test]
fn stack_grows_over_a_gap_that_a_refused_wire_has_clipped() {
    let bed = Bed::new();
    let stack = block_on(bed.machine.map.stack(Placement::Fixed(bed.at(0)), 16 << PAGE_SHIFT, 1 << PAGE_SHIFT));
    assert_eq!(stack, Ok(bed.at(0)));
    assert_eq!(bed.wire(4, 6, WireFlags::USER), Err(KernReturn::InvalidAddress));
    assert_eq!(bed.write(5, 1), Ok(()));
    assert_eq!(bed.write(4, 1), Ok(()), "the first page of a piece is not the gap's lowest");
    assert_eq!(bed.write(0, 1), Err(KernReturn::ProtectionFailure));
    assert_eq!(bed.write(1, 1), Ok(()));
    assert_eq!(bed.entries(), "[0,1) [1,4) [4,5) [5,15) [15,16)");
}

#[test]
fn pages_past_the_end_of_an_object_stay_so_when_only_a_shadow_is_left() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(4);
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, 8));
    let mapped = block_on(bed.machine.map.map_object(place, &object, pages, MapMode::Private, Prot::DEFAULT));
    assert_eq!(mapped, Ok(bed.at(0)));
    assert_eq!((bed.write(0, 1), bed.write(5, 1)), (Ok(()), Err(KernReturn::OutOfBounds)));
    drop(object);
    assert_eq!((bed.write(5, 1), bed.write(1, 1), bed.read(0)), (Err(KernReturn::OutOfBounds), Ok(()), Ok(1)));
    bed.deallocate(0, 8);
    assert_eq!(bed.machine.vm.resident_pages(), 0);
}

#[test]
fn brk_that_lost_its_place_to_another_while_it_wired_leaves_no_hole() {
    let bed = Bed::new();
    let heap = block_on(bed.machine.map.brk(4 << PAGE_SHIFT));
    assert!(matches!(heap, Ok(1..)), "{heap:?}");
    assert_eq!(block_on(bed.machine.map.mlockall(LockAllFlags::FUTURE)), Ok(()));
    bed.host().hold();
    let mut executor = Executor::new(0);
    let grow = executor.spawn(bed.machine.map.brk(8 << PAGE_SHIFT));
    assert_eq!(executor.run_until_stalled(), 1);
    let shrink = executor.spawn(bed.machine.map.brk(2 << PAGE_SHIFT));
    executor.run_until_stalled();
    bed.host().release();
    assert_eq!((executor.run(), grow.take(), shrink.take()), (Ok(()), Some(Err(Errno::NoMem)), Some(heap)));
    drop(executor);
    let pages: u64 = bed.machine.map.entries().iter().map(|entry| entry.pages.len()).sum();
    assert_eq!(bed.settled(pages), 2);
    assert_eq!((block_on(bed.machine.map.brk(8 << PAGE_SHIFT)), bed.wired_by_host()), (heap, 6));
}

#[test]
fn fork_that_copies_now_keeps_the_end_of_the_object() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(2);
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, 4));
    let mapped = block_on(bed.machine.map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT));
    assert_eq!((mapped, bed.write(1, 7)), (Ok(bed.at(0)), Ok(())));
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 4 << PAGE_SHIFT, Inheritance::Copy)), Ok(()));
    let child = fork(&bed);
    let mut byte = [0];
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(1), &mut byte)), Ok(()));
    assert_eq!(byte, [7]);
    assert_eq!(block_on(bed.machine.read_in(&child, bed.at(2), &mut byte)), Err(KernReturn::OutOfBounds));
    assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
}
