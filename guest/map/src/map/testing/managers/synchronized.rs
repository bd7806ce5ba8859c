//! Synchronizations: the handshake of section 2.6 (rows K-01 to K-08).

use alloc::string::String;

use super::{ASYNC, INVALIDATE, PLAIN, PRECIOUS, Rig, SYNC, range};
use crate::fake::{Executor, block_on};
use crate::flags::SyncFlags;
use crate::handle::Supply;
use crate::kern_return::KernReturn;
use crate::manager::ShouldReturn;
use crate::map::Placement;
use crate::units::{PAGE_SHIFT, Prot};

#[test]
fn k_02_nothing_to_return_sends_nothing_unless_something_was_never_synchronized() {
    let rig = Rig::with(range(0, 2), PLAIN);
    let nothing = |flags| block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, flags));
    assert_eq!((nothing(SYNC), nothing(SyncFlags::NONE), rig.messages().as_str()), (Ok(()), Ok(()), ""));
    rig.write(0, 0x11);
    assert_eq!(block_on(rig.object.lock_request(range(0, 8), ShouldReturn::All, false, None)), Ok(()));
    assert_eq!(rig.messages(), "data_return[0,1)dirty,kept lock_completed[0,8)");
    assert_eq!(rig.states(), (2, 0), "clean, but nobody said that it is stable");
    assert_eq!(rig.synced(0, 8, SYNC), (String::from("synchronize[0,8)"), Ok(())));
    assert_eq!((nothing(SYNC), rig.messages().as_str()), (Ok(()), ""));
    rig.check();
}

#[test]
pub(in crate::map::testing) fn k_03_disjoint_parts_are_synchronized_in_parallel_and_overlapping_ones_one_after_the_other()
 {
    let rig = Rig::with(range(0, 8), PLAIN);
    for page in 0..8 {
        rig.write(page, 0x10);
    }
    let mut executor = Executor::new(3);
    let first = rig.msync(&mut executor, 0, 3, SYNC);
    let other = rig.msync(&mut executor, 4, 6, SYNC);
    let overlapping = rig.msync(&mut executor, 2, 5, SYNC);
    assert_eq!(
        rig.messages(),
        "data_return[0,3)dirty,kept synchronize[0,3) data_return[4,6)dirty,kept synchronize[4,6)"
    );
    assert_eq!(rig.completed(4, 6, Ok(())), Ok(()));
    executor.run_until_stalled();
    assert_eq!((other.take(), rig.messages().as_str()), (Some(Ok(())), ""), "the first is still out");
    assert_eq!(rig.completed(0, 3, Ok(())), Ok(()));
    executor.run_until_stalled();
    assert_eq!((first.take(), rig.messages().as_str()), (Some(Ok(())), "data_return[3,4)dirty,kept synchronize[2,5)"));
    assert_eq!(rig.completed(2, 5, Ok(())), Ok(()));
    assert_eq!((executor.run(), overlapping.take()), (Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
fn k_04_and_o_11_object_whose_manager_is_gone_is_passed_over_and_faults_on_it_fail() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(0, 0x11);
    assert_eq!(block_on(rig.object.kill()), Ok(()));
    assert_eq!(block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, SYNC)), Ok(()));
    assert_eq!(rig.messages(), "");
    assert_eq!(block_on(rig.bed.machine.map.fault(rig.bed.at(0), Prot::READ)), Err(KernReturn::ProtectionFailure));
    rig.check();
}

#[test]
fn k_05_asynchronous_call_begins_all_parts_and_waits_for_the_manager_to_answer_each() {
    let rig = Rig::with(range(0, 8), PLAIN);
    // Two entries: two parts.
    let guard = rig.bed.machine.map.deallocate(rig.bed.at(3), 1 << PAGE_SHIFT);
    assert_eq!(block_on(guard), Ok(()));
    rig.write(1, 0x11);
    rig.write(5, 0x15);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, ASYNC);
    assert_eq!(
        rig.messages(),
        "data_return[1,2)dirty,kept synchronize[0,3) data_return[5,6)dirty,kept synchronize[4,8)"
    );
    assert_eq!(rig.completed(4, 8, Ok(())), Ok(()));
    assert_eq!(executor.run_until_stalled(), 1);
    assert!(!sync.is_ready());
    assert_eq!(rig.completed(0, 3, Ok(())), Ok(()));
    assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (7, 0)));
    rig.check();
}

#[test]
pub(in crate::map::testing) fn k_06_completion_that_matches_no_request_exactly_is_refused_and_wakes_nobody() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 1, 4, SYNC);
    rig.messages();
    for (start, end) in [(0, 8), (1, 3), (2, 4), (1, 5), (4, 4)] {
        assert_eq!(rig.completed(start, end, Ok(())), Err(KernReturn::InvalidArgument), "{start} {end}");
    }
    for (offset, length) in [(4097, 3 << 12), (4096, (3 << 12) - 1), (u64::MAX - 4095, 8192)] {
        assert_eq!(rig.object.synchronize_completed(offset, length, Ok(())), Err(KernReturn::InvalidArgument));
    }
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(rig.completed(1, 4, Ok(())), Ok(()));
    assert_eq!(rig.completed(1, 4, Err(KernReturn::Failure)), Err(KernReturn::InvalidArgument), "not twice");
    assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
pub(in crate::map::testing) fn k_07_e_01_and_e_02_completion_carries_a_status_and_a_failure_leaves_everything_dirty() {
    for flags in [SYNC, SYNC | INVALIDATE, ASYNC | INVALIDATE] {
        let rig = Rig::with(range(0, 2), PRECIOUS);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags);
        rig.messages();
        assert_eq!(rig.completed(0, 8, Err(KernReturn::Failure)), Ok(()));
        assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Err(KernReturn::Failure))));
        assert_eq!(rig.states(), (2, 1), "{flags:?}: resident, and dirty as before");
        let retry = "data_return[0,1)precious,kept data_return[1,2)dirty,kept synchronize[0,8)";
        assert_eq!(rig.synced(0, 8, SYNC), (String::from(retry), Ok(())));
        rig.check();
    }
}

#[test]
pub(in crate::map::testing) fn k_08_death_of_the_manager_wakes_everybody_with_an_error() {
    let rig = Rig::with(range(0, 4), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let unlock = rig.object.lock_request(range(0, 2), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!(block_on(unlock), Ok(()));
    rig.write(0, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 2, SYNC);
    let overlapping = rig.msync(&mut executor, 1, 8, SYNC);
    let absent = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(6), Prot::READ));
    let locked = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(3), Prot::WRITE));
    let death = executor.spawn(rig.object.kill());
    assert_eq!(executor.run(), Ok(()));
    assert_eq!(
        (death.take(), sync.take(), overlapping.take()),
        (Some(Ok(())), Some(Err(KernReturn::Failure)), Some(Ok(())))
    );
    let dead = Some(Err(KernReturn::ProtectionFailure));
    assert_eq!((absent.take(), locked.take()), (dead, dead));
    rig.messages();
    rig.check();
}

#[test]
fn page_returned_behind_a_synchronize_is_synchronized_by_the_next() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(0, 5);
    let mut executor = Executor::new(1);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!(rig.messages(), "data_return[0,1)dirty,kept synchronize[0,8)");
    rig.write(1, 6);
    assert_eq!(block_on(rig.object.lock_request(range(1, 2), ShouldReturn::Dirty, false, None)), Ok(()));
    assert_eq!(rig.messages(), "data_return[1,2)dirty,kept lock_completed[1,2)");
    assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
    assert_eq!(rig.bed.machine.run(&mut executor), Ok(()));
    assert_eq!(sync.take(), Some(Ok(())));
    let mut executor = Executor::new(1);
    let again = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!((rig.messages().as_str(), again.take()), ("synchronize[0,8)", None));
}

#[test]
fn silent_manager_does_not_hold_up_who_syncs_other_memory() {
    let rig = Rig::with(range(0, 1), PLAIN);
    let placement = Placement::Fixed(rig.bed.at(20));
    assert_eq!(block_on(rig.bed.machine.map.allocate(placement, 1 << PAGE_SHIFT)), Ok(rig.bed.at(20)));
    rig.write(0, 5);
    rig.write(20, 6);
    rig.bed.host().hold();
    let mut executor = Executor::new(1);
    let _both = rig.msync(&mut executor, 0, 24, SYNC);
    rig.bed.host().release();
    executor.run_until_stalled();
    rig.messages();
    let other = rig.msync(&mut executor, 20, 21, SYNC);
    executor.run_until_stalled();
    assert_eq!(other.take(), Some(Ok(())), "storage has answered; only the manager has not");
}
