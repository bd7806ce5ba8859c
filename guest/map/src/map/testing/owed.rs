//! What a manager is asked and owed when several things happen to the same pages.

use super::managers::{PLAIN, PRECIOUS, Rig, TRAPS, range};
use super::stores;
use crate::fake::{Executor, FakePmap, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::Supply;
use crate::kern_return::KernReturn;
use crate::manager::{Message, ShouldReturn};
use crate::map::{MapMode, Placement, VmMap};
use crate::ports::{Frames, StoreKind};
use crate::units::{PAGE_SHIFT, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;

#[test]
fn k_02_page_returned_while_a_synchronization_is_out_is_synchronized_by_the_next() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!(rig.messages(), "data_return[1,2)dirty,kept synchronize[0,8)");
    rig.write(2, 0x12);
    assert_eq!(block_on(rig.object.lock_request(range(2, 3), ShouldReturn::All, false, None)), Ok(()));
    assert_eq!(rig.messages(), "data_return[2,3)dirty,kept lock_completed[2,3)");
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), sync.take()), (Ok(()), Ok(()), Some(Ok(()))));
    drop(executor);
    assert_eq!(rig.synced(0, 8, SYNC), ("synchronize[0,8)".into(), Ok(())), "it came back behind the other");
    assert_eq!(block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, SYNC)), Ok(()));
    rig.check();
}

#[test]
fn k_02_page_returned_and_never_synchronized_stays_so_when_a_synchronization_fails() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.write(1, 0x11);
    assert_eq!(block_on(rig.object.lock_request(range(1, 2), ShouldReturn::All, false, None)), Ok(()));
    rig.messages();
    for outcome in [Err(KernReturn::Failure), Ok(())] {
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, SYNC);
        assert_eq!(rig.messages(), "synchronize[0,8)");
        assert_eq!((rig.completed(0, 8, outcome), executor.run(), sync.take()), (Ok(()), Ok(()), Some(outcome)));
    }
    rig.check();
}

#[test]
pub(super) fn k_03_synchronization_waits_until_the_failure_of_the_one_before_shows() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.write(1, 0x11);
    assert_eq!(block_on(rig.object.lock_request(range(1, 2), ShouldReturn::All, false, None)), Ok(()));
    rig.messages();
    let mut executor = Executor::new(3);
    let first = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!((rig.messages().as_str(), rig.completed(0, 8, Err(KernReturn::Failure))), ("synchronize[0,8)", Ok(())));
    // The first has not gone on yet.
    let second = executor.spawn(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, SYNC));
    assert!(executor.poll(1) && !second.is_ready());
    executor.run_until_stalled();
    assert_eq!((first.take(), rig.messages().as_str()), (Some(Err(KernReturn::Failure)), "synchronize[0,8)"));
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), second.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
fn k_03_pages_shown_twice_are_returned_and_synchronized_once() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    let whole = range(2, 8);
    let placement = Placement::Fixed(rig.bed.at(8));
    let again = rig.bed.machine.map.map_object(placement, &rig.object, whole, MapMode::Shared, Prot::DEFAULT);
    assert_eq!(block_on(again), Ok(rig.bed.at(8)));
    rig.write(1, 0x11);
    rig.write(8, 0x12);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 14, SYNC | SyncFlags::INVALIDATE);
    let messages = "data_return[0,1)precious data_return[1,3)dirty data_return[3,4)precious synchronize[0,8)";
    assert_eq!(rig.messages(), messages);
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), sync.take()), (Ok(()), Ok(()), Some(Ok(()))));
    assert_eq!(rig.states(), (0, 0));
    rig.check();
}

#[test]
fn f_02_mapping_that_reaches_past_the_end_is_synchronized_up_to_the_end() {
    let rig = stores::Rig::new(StoreKind::Store);
    let placement = Placement::Fixed(rig.bed.at(0));
    assert_eq!(block_on(rig.bed.machine.map.deallocate(rig.bed.at(0), 8 << PAGE_SHIFT)), Ok(()));
    let (map, object) = (&rig.bed.machine.map, rig.object.as_ref().unwrap());
    let longer = map.map_object(placement, object, range(0, 12), MapMode::Shared, Prot::DEFAULT);
    assert_eq!(block_on(longer), Ok(rig.bed.at(0)));
    assert_eq!((rig.bed.write(7, 1), rig.bed.read(8)), (Ok(()), Err(KernReturn::OutOfBounds)));
    assert_eq!((rig.msync(0, 12, SYNC), rig.bytes(7)), (Ok(()), (1, 1)));
    assert_eq!(rig.msync(8, 12, SYNC), Ok(()), "nothing is there");
}

#[test]
fn o_03_supply_that_fails_midway_wakes_who_waits_for_what_has_come() {
    let rig = Rig::new();
    let mut executor = Executor::new(1);
    let first = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    let second = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(3), Prot::READ));
    executor.run_until_stalled();
    rig.bed.machine.frames().fail_allocation(1);
    assert_eq!(rig.supply(range(2, 4), PLAIN), Err(KernReturn::ResourceShortage));
    executor.run_until_stalled();
    assert_eq!((first.take(), second.is_ready()), (Some(Ok(())), false));
    assert_eq!((rig.supply(range(3, 4), PLAIN), executor.run(), second.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
fn o_05_zero_pages_that_fail_midway_wake_who_waits_for_what_has_come() {
    let rig = Rig::new();
    let mut executor = Executor::new(1);
    let first = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    let second = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(3), Prot::READ));
    executor.run_until_stalled();
    rig.bed.machine.frames().fail_allocation(1);
    assert_eq!(rig.object.data_unavailable(range(2, 4)), Err(KernReturn::ResourceShortage));
    executor.run_until_stalled();
    assert_eq!((first.take(), second.is_ready()), (Some(Ok(())), false));
    assert_eq!((rig.object.data_unavailable(range(3, 4)), executor.run()), (Ok(()), Ok(())));
    assert_eq!(second.take(), Some(Ok(())));
    rig.check();
}

#[test]
fn o_06_access_to_a_page_that_came_anew_is_asked_for_anew() {
    let forbidden = Supply { forbidden: Prot::WRITE, ..PLAIN };
    let rig = Rig::with(range(2, 3), forbidden);
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    executor.run_until_stalled();
    // The manager drops the page instead of permitting the access, and supplies it again.
    assert_eq!(block_on(rig.object.lock_request(range(2, 3), ShouldReturn::Dirty, true, None)), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[2,3)w lock_completed[2,3) data_request[2,3)rw");
    assert_eq!(rig.supply(range(2, 3), forbidden), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[2,3)w");
    let permit = rig.object.lock_request(range(2, 3), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!((block_on(permit), executor.run(), write.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.messages();
    rig.check();
}

#[test]
fn z_04_write_of_a_page_that_a_lock_request_cleaned_is_asked_for() {
    let rig = Rig::with(range(1, 2), TRAPS);
    let permit = || rig.object.lock_request(range(1, 2), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!(block_on(permit()), Ok(()));
    rig.write(1, 0x11);
    assert_eq!(block_on(rig.object.lock_request(range(0, 8), ShouldReturn::Dirty, false, None)), Ok(()));
    rig.messages();
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(1), &[0x21]));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_unlock[1,2)w"));
    assert_eq!((block_on(permit()), executor.run(), write.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.messages();
    rig.check();
}

#[test]
pub(super) fn m_01_what_another_map_has_written_comes_back() {
    let rig = Rig::with(range(0, 2), PLAIN);
    let second = VmMap::new(rig.bed.machine.vm.clone(), rig.bed.machine.map.bounds(), FakePmap::new());
    let placement = Placement::Fixed(rig.bed.at(4));
    let mapped = second.map_object(placement, &rig.object, range(0, 8), MapMode::Shared, Prot::DEFAULT);
    assert_eq!(block_on(mapped), Ok(rig.bed.at(4)));
    assert_eq!(block_on(rig.bed.machine.write_in(&second, rig.bed.at(5), &[0x11])), Ok(()));
    assert_eq!(rig.synced(0, 8, SYNC), ("data_return[1,2)dirty,kept synchronize[0,8)".into(), Ok(())));
    assert_eq!(rig.bed.machine.check_quiet_with(&[&rig.own, &second]), Ok(()));
}

#[test]
fn o_06_write_is_permitted_to_a_page_whose_synchronization_its_manager_has_not_come_to() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::WRITE, ..PRECIOUS });
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    executor.run_until_stalled();
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    // A manager that answers one message after the other comes to the access first.
    let permit = executor.spawn(rig.object.lock_request(range(2, 3), ShouldReturn::Nothing, false, Some(Prot::NONE)));
    executor.run_until_stalled();
    assert_eq!((permit.take(), write.take()), (Some(Ok(())), Some(Ok(()))));
    let messages = "data_unlock[2,3)w data_return[2,3)precious,kept synchronize[0,8) lock_completed[2,3)";
    assert_eq!(rig.messages(), messages);
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), sync.take()), (Ok(()), Ok(()), Some(Ok(()))));
    assert_eq!(rig.dirty(), [range(2, 3)]);
    rig.check();
}

#[test]
fn h_07_private_mapping_does_not_wait_for_the_manager_of_what_it_hides() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.map(20, MapMode::Private);
    rig.map(30, MapMode::Private);
    rig.write(1, 0x11);
    rig.write(22, 0x22);
    let mut executor = Executor::new(3);
    let shared = rig.msync(&mut executor, 0, 8, SYNC);
    for start in [20, 30] {
        let private = rig.msync(&mut executor, start, start + 8, SYNC | SyncFlags::INVALIDATE);
        assert_eq!(private.take(), Some(Ok(())), "{start}: nothing of it is the manager's");
    }
    rig.messages();
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), shared.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
fn o_06_forbidden_execution_asks_the_manager() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::EXECUTE, ..PLAIN });
    let protect = rig.bed.machine.map.protect(rig.bed.at(0), 8 << PAGE_SHIFT, false, Prot::READ | Prot::EXECUTE);
    assert_eq!(block_on(protect), Ok(()));
    let mut executor = Executor::new(1);
    let fetch = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::EXECUTE));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_unlock[2,3)x"));
    let permit = rig.object.lock_request(range(2, 3), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!((block_on(permit), executor.run(), fetch.take()), (Ok(()), Ok(()), Some(Ok(()))));
    rig.messages();
    rig.check();
}

#[test]
fn o_10_last_use_under_a_private_mapping_returns_what_is_owed_when_that_goes() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    rig.map(20, MapMode::Private);
    rig.write(1, 0x11);
    rig.write(22, 0x22);
    let Rig { bed, port, object, own } = rig;
    assert_eq!(block_on(bed.machine.map.deallocate(bed.at(0), 8 << PAGE_SHIFT)), Ok(()));
    drop(object);
    assert!(bed.machine.vm.take_background().is_none(), "the private mapping shows it");
    assert_eq!(block_on(bed.machine.map.deallocate(bed.at(20), 8 << PAGE_SHIFT)), Ok(()));
    let work = bed.machine.vm.take_background().expect("the end of the object");
    let mut executor = Executor::new(1);
    executor.spawn(work);
    executor.run_until_stalled();
    let mut words = alloc::vec::Vec::new();
    while let Some((_, message)) = port.receive() {
        words.push(alloc::format!("{message}"));
        if let Message::DataReturn { frames, .. } = message {
            frames.into_iter().for_each(|run| bed.machine.frames().free(run));
        }
    }
    let expected = "data_return[0,1)precious data_return[1,2)dirty data_return[2,4)precious synchronize[0,8)";
    assert_eq!(words.join(" "), expected);
    assert_eq!(bed.machine.vm.synchronize_completed(0, 0, 8 << PAGE_SHIFT, Ok(())), Ok(()));
    assert_eq!((executor.run(), bed.machine.check_quiet_with(&[&own])), (Ok(()), Ok(())));
}

#[test]
fn wire_of_a_manager_whose_page_fails_undoes_all_and_may_be_tried_again() {
    let rig = Rig::with(range(0, 1), PLAIN);
    let (first, last) = (rig.bed.at(0), rig.bed.at(2));
    let mut executor = Executor::new(1);
    let wire = executor.spawn(rig.bed.machine.map.wire(first, last, WireFlags::USER));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_request[1,2)rw"));
    assert_eq!(rig.object.data_error(range(1, 2), KernReturn::MemoryError), Ok(()));
    assert_eq!((executor.run(), wire.take()), (Ok(()), Some(Err(KernReturn::MemoryError))));
    rig.check();
    let wire = executor.spawn(rig.bed.machine.map.wire(first, last, WireFlags::USER));
    executor.run_until_stalled();
    assert_eq!(block_on(rig.object.kill()), Ok(()));
    assert_eq!((executor.run(), wire.take()), (Ok(()), Some(Err(KernReturn::ProtectionFailure))));
    rig.messages();
    rig.check();
}

#[test]
fn q_04_page_wired_while_it_is_flushed_stays() {
    let rig = Rig::with(range(0, 2), PRECIOUS);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC | SyncFlags::INVALIDATE);
    let wire = executor.spawn(rig.bed.machine.map.wire(rig.bed.at(1), rig.bed.at(2), WireFlags::USER));
    executor.run_until_stalled();
    rig.messages();
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
    assert_eq!((sync.take(), wire.take(), rig.states()), (Some(Ok(())), Some(Ok(())), (1, 0)));
    assert!(rig.bed.is_mapped(1));
    rig.check();
}

#[test]
fn o_06_protection_permits_nothing_that_the_manager_forbids() {
    for (supply, right) in [(TRAPS, Prot::WRITE), (Supply { forbidden: Prot::EXECUTE, ..PLAIN }, Prot::EXECUTE)] {
        let rig = Rig::with(range(1, 3), supply);
        let protect = |prot| rig.bed.machine.map.protect(rig.bed.at(0), 8 << PAGE_SHIFT, false, prot);
        assert_eq!((block_on(protect(Prot::READ)), block_on(protect(Prot::ALL))), (Ok(()), Ok(())));
        let page = rig.bed.at(1) >> PAGE_SHIFT;
        let reaches = rig.bed.machine.map.with_pmap(|pmap| pmap.access(page, right).is_ok());
        assert!(!reaches, "{right:?} must be asked for");
        rig.check();
    }
}
