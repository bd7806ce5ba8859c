//! What a manager is asked, and what it answers: supplying, errors, locks (rows O-01 to O-06, O-08).

use alloc::format;

use super::{INVALIDATE, PLAIN, PRECIOUS, Rig, SYNC, range};
use crate::fake::{Executor, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::Supply;
use crate::kern_return::KernReturn;
use crate::manager::ShouldReturn;
use crate::map::MapMode;
use crate::units::{PAGE_SHIFT, Prot};

#[test]
fn o_01_init_comes_once_and_before_anything_else() {
    let rig = Rig::new();
    assert_eq!(rig.messages(), "init");
    rig.map(20, MapMode::Shared);
    assert_eq!(rig.read_supplied(3, PLAIN), Ok(0x43));
    assert_eq!(rig.messages(), "data_request[3,4)r");
    rig.check();
}

#[test]
fn o_02_data_request_says_what_the_page_is_needed_for_and_comes_once() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_request[2,3)rw"));
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (2, ""));
    assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()));
    assert_eq!((executor.run(), write.take(), read.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((rig.messages().as_str(), rig.dirty()), ("", [range(2, 3)].to_vec()));
    rig.check();
}

#[test]
pub(in crate::map::testing) fn o_03_supply_of_what_was_not_asked_for_is_refused_whole() {
    let rig = Rig::new();
    assert_eq!(rig.supply(range(2, 3), PLAIN), Err(KernReturn::InvalidArgument));
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.supply(range(2, 4), PLAIN), Err(KernReturn::InvalidArgument));
    assert_eq!(executor.run_until_stalled(), 1, "still waiting");
    assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(rig.supply(range(2, 3), PLAIN), Err(KernReturn::InvalidArgument), "it is there");
    rig.check();
}

#[test]
fn o_04_data_error_fails_who_waits_and_may_be_asked_again() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Err(KernReturn::MemoryError))));
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Err(KernReturn::InvalidArgument));
    assert_eq!(rig.read_supplied(2, PLAIN), Ok(0x42));
    assert_eq!(rig.messages(), "data_request[2,3)r data_request[2,3)r");
    rig.check();
}

#[test]
fn q_05_and_q_06_page_in_error_goes_by_a_flush_and_by_nothing_else() {
    for (flags, expected) in
        [(SyncFlags::NONE, Err(KernReturn::MemoryError)), (SYNC, Err(KernReturn::MemoryError)), (INVALIDATE, Ok(()))]
    {
        let rig = Rig::new();
        {
            let mut executor = Executor::new(1);
            let _read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
            executor.run_until_stalled();
        }
        // Whoever waited has gone.
        assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Ok(()));
        assert_eq!(block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, flags)), Ok(()));
        let mut executor = Executor::new(1);
        let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
        executor.run_until_stalled();
        if expected.is_ok() {
            assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()), "asked again");
        }
        assert_eq!((executor.run(), read.take()), (Ok(()), Some(expected)), "{flags:?}");
    }
}

#[test]
fn o_05_data_unavailable_gives_zero_pages_that_are_clean() {
    let rig = Rig::new();
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.object.data_unavailable(range(1, 3)), Err(KernReturn::InvalidArgument));
    assert_eq!(rig.object.data_unavailable(range(2, 3)), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Ok(()))));
    let mut byte = [9];
    assert_eq!(block_on(rig.bed.machine.read(rig.bed.at(2), &mut byte)), Ok(()));
    assert_eq!((byte, rig.states()), ([0], (1, 0)));
    rig.check();
}

#[test]
fn o_06_forbidden_access_asks_the_manager_and_waits_until_it_is_permitted() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    let again = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::WRITE));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (2, "data_unlock[2,3)w"));
    let unlock = rig.object.lock_request(range(2, 3), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!(block_on(unlock), Ok(()));
    assert_eq!((executor.run(), write.take(), again.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((rig.messages().as_str(), rig.states()), ("lock_completed[2,3)", (1, 1)));
    rig.check();
}

#[test]
fn o_06_refused_access_is_a_flush_and_an_error_for_the_request_that_follows() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    executor.run_until_stalled();
    let refuse = rig.object.lock_request(range(2, 3), ShouldReturn::Dirty, true, None);
    assert_eq!(block_on(refuse), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[2,3)w lock_completed[2,3) data_request[2,3)rw");
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryFailure), Ok(()));
    assert_eq!((executor.run(), write.take()), (Ok(()), Some(Err(KernReturn::MemoryFailure))));
    rig.check();
}

/// The matrix of section 4.2: what each request returns of a clean, a dirty, a precious and a dirty precious page, and how many
/// stay resident.
#[test]
fn o_08_lock_request_restricts_returns_and_flushes_by_its_matrix() {
    let cases = [
        (ShouldReturn::Nothing, false, "", 4),
        (ShouldReturn::Nothing, true, "", 0),
        (ShouldReturn::Dirty, false, "data_return[1,2)dirty,kept data_return[3,4)dirty,kept ", 4),
        (ShouldReturn::Dirty, true, "data_return[1,2)dirty data_return[3,4)dirty ", 0),
        (
            ShouldReturn::All,
            false,
            "data_return[1,2)dirty,kept data_return[2,3)precious,kept data_return[3,4)dirty,kept ",
            4,
        ),
        (ShouldReturn::All, true, "data_return[1,2)dirty data_return[2,3)precious data_return[3,4)dirty ", 0),
        (
            ShouldReturn::Anything,
            false,
            "data_return[0,1)precious,kept data_return[1,2)dirty,kept data_return[2,3)precious,kept \
             data_return[3,4)dirty,kept ",
            4,
        ),
        (
            ShouldReturn::Anything,
            true,
            "data_return[0,1)precious data_return[1,2)dirty data_return[2,3)precious data_return[3,4)dirty ",
            0,
        ),
    ];
    for (should_return, should_flush, messages, left) in cases {
        let rig = Rig::with(range(0, 2), PLAIN);
        assert!(rig.read_supplied(2, PRECIOUS).is_ok() && rig.read_supplied(3, PRECIOUS).is_ok());
        rig.messages();
        rig.write(1, 0x11);
        rig.write(3, 0x13);
        let request = rig.object.lock_request(range(0, 8), should_return, should_flush, None);
        assert_eq!(block_on(request), Ok(()));
        assert_eq!(rig.messages(), format!("{messages}lock_completed[0,8)"), "{should_return:?} {should_flush}");
        assert_eq!(rig.states().0, left, "{should_return:?} {should_flush}");
        rig.check();
    }
}

#[test]
fn o_08_lock_request_waits_for_what_is_on_its_way_and_leaves_wired_pages() {
    let rig = Rig::with(range(0, 2), PLAIN);
    let at = |page| rig.bed.at(page);
    assert_eq!(block_on(rig.bed.machine.map.wire(at(0), at(1), WireFlags::USER)), Ok(()));
    rig.write(0, 0x10);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    let flush = executor.spawn(rig.object.lock_request(range(0, 8), ShouldReturn::All, true, Some(Prot::WRITE)));
    executor.run_until_stalled();
    assert!(!flush.is_ready());
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
    assert_eq!((sync.take(), flush.take(), rig.states()), (Some(Ok(())), Some(Ok(())), (1, 0)));
    rig.messages();
    let other = rig.bed.machine.vm.anonymous_object(2);
    let request = other.lock_request(range(0, 1), ShouldReturn::All, true, None);
    assert_eq!(block_on(request), Err(KernReturn::InvalidArgument));
    assert_eq!(block_on(rig.object.kill()), Ok(()));
    let dead = rig.object.lock_request(range(0, 1), ShouldReturn::All, true, None);
    assert_eq!(block_on(dead), Err(KernReturn::InvalidArgument));
}

#[test]
fn refused_unlock_can_be_asked_again() {
    let rig = Rig::new();
    rig.messages();
    let no_write = Supply { is_precious: false, traps_writes: false, forbidden: Prot::WRITE };
    assert_eq!(rig.read_supplied(0, no_write), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[0,1)w");
    // Refuse as row O-06 says: flush, then data_error.
    assert_eq!(block_on(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, true, None)), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "lock_completed[0,1) data_request[0,1)rw");
    assert_eq!(rig.object.data_error(range(0, 1), KernReturn::MemoryError), Ok(()));
    executor.run_until_stalled();
    assert_eq!(write.take(), Some(Err(KernReturn::MemoryError)));
    drop(executor);
    assert_eq!(rig.read_supplied(0, no_write), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[0,1)w");
}

#[test]
fn unlock_does_not_wait_for_the_managers_own_sync() {
    let rig = Rig::new();
    rig.messages();
    let how = Supply { is_precious: true, traps_writes: true, forbidden: Prot::NONE };
    assert_eq!(rig.read_supplied(0, how), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    let _sync = rig.msync(&mut executor, 0, 1, SYNC);
    assert_eq!(rig.messages(), "data_unlock[0,1)w data_return[0,1)precious,kept synchronize[0,1)");
    // One message after the other, as the agent's manager does.
    let mut own = Executor::new(1);
    let unlock = own.spawn(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, false, Some(Prot::NONE)));
    own.run_until_stalled();
    assert_eq!(unlock.take(), Some(Ok(())), "the manager waits for itself");
}

#[test]
fn failed_supply_wakes_those_whose_pages_came() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let first = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(6), Prot::READ));
    let _second = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(7), Prot::READ));
    executor.run_until_stalled();
    // The manager's own page behind the first one is not there.
    let supplied = block_on(rig.object.data_supply(range(6, 8), &rig.own, rig.bed.at(7), PLAIN));
    assert_eq!(supplied, Err(KernReturn::InvalidAddress));
    executor.run_until_stalled();
    assert_eq!(first.take(), Some(Ok(())));
}
