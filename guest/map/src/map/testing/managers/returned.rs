//! What comes back to a manager, and when (rows M, Q, Z, O-10, H).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{ASYNC, INVALIDATE, PLAIN, PRECIOUS, Rig, SYNC, TRAPS, range};
use crate::fake::{Executor, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::manager::{Message, ShouldReturn};
use crate::map::{Advice, MapMode};
use crate::ports::Frames;
use crate::units::{PAGE_SHIFT, Prot};

#[test]
fn m_01_o_07_and_k_01_dirty_pages_come_back_in_runs_and_are_synchronized_then() {
    let rig = Rig::with(range(0, 6), PLAIN);
    for (page, byte) in [(1, 0x11), (2, 0x12), (4, 0x14)] {
        rig.write(page, byte);
    }
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC | SyncFlags::CONTIGUOUS);
    assert_eq!(rig.returned(), (range(1, 3), 0x11));
    assert_eq!(rig.returned(), (range(4, 5), 0x14));
    let told = Message::Synchronize { pages: range(0, 8), flags: SYNC.bits() };
    assert_eq!(rig.port.receive(), Some((rig.object.number(), told)));
    assert!(!sync.is_ready() && rig.bed.machine.map.stats().cleaning_pages == 3);
    assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
    assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(rig.states(), (6, 0), "resident and clean");
    rig.check();
}

#[test]
fn q_02_and_q_03_precious_pages_come_back_once_even_if_they_are_clean() {
    let rig = Rig::with(range(0, 2), PRECIOUS);
    rig.write(1, 0x11);
    let messages = "data_return[0,1)precious,kept data_return[1,2)dirty,kept synchronize[0,8)";
    assert_eq!(rig.synced(0, 8, SYNC), (String::from(messages), Ok(())));
    let mut executor = Executor::new(3);
    let again = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!((again.take(), rig.messages().as_str()), (Some(Ok(())), ""), "the manager has them");
    rig.check();
}

#[test]
fn m_03_and_q_01_invalidate_with_sync_frees_clean_pages_at_once_and_others_when_their_write_ends() {
    for flags in [SYNC, ASYNC] {
        let rig = Rig::with(range(0, 4), PLAIN);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags | INVALIDATE);
        assert_eq!((rig.messages().as_str(), rig.states().0), ("data_return[1,2)dirty synchronize[0,8)", 1));
        assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
        assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (0, 0)));
        drop(executor);
        assert_eq!(rig.read_supplied(1, PLAIN), Ok(0x41), "what the manager has");
        rig.check();
    }
}

#[test]
pub(in crate::map::testing) fn m_04_and_d_a_invalidate_alone_returns_precious_pages_and_loses_dirty_ones() {
    let rig = Rig::with(range(0, 2), PLAIN);
    assert_eq!((rig.read_supplied(2, PRECIOUS), rig.read_supplied(3, PRECIOUS)), (Ok(0x42), Ok(0x43)));
    rig.messages();
    rig.write(0, 0x10);
    rig.write(3, 0x13);
    let messages = "data_return[2,3)precious data_return[3,4)dirty synchronize[0,8)";
    assert_eq!(rig.synced(0, 8, INVALIDATE), (String::from(messages), Ok(())));
    assert_eq!(rig.states(), (0, 0));
    assert_eq!(rig.read_supplied(0, PLAIN), Ok(0x40), "the write is lost");
    rig.check();
}

#[test]
pub(in crate::map::testing) fn q_04_wired_pages_are_returned_and_never_dropped() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    let at = |page| rig.bed.at(page);
    assert_eq!(block_on(rig.bed.machine.map.wire(at(1), at(3), WireFlags::USER)), Ok(()));
    rig.write(2, 0x12);
    let alone = rig.synced(0, 8, INVALIDATE);
    assert_eq!(alone, (String::from("data_return[0,1)precious data_return[3,4)precious synchronize[0,8)"), Ok(())));
    assert_eq!(rig.states(), (2, 1), "nothing happens to the wired ones");
    let both = rig.synced(0, 8, SYNC | INVALIDATE);
    let messages = "data_return[1,2)precious,kept data_return[2,3)dirty,kept synchronize[0,8)";
    assert_eq!((both, rig.states()), ((String::from(messages), Ok(())), (2, 0)));
    assert!(rig.bed.is_mapped(2) && rig.bed.wired_by_host() == 2);
    rig.check();
}

#[test]
pub(in crate::map::testing) fn z_01_page_written_during_its_write_stays_dirty_and_resident_under_invalidate() {
    for flags in [SYNC, SYNC | INVALIDATE] {
        let rig = Rig::with(range(1, 2), PLAIN);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags);
        assert_eq!(rig.returned(), (range(1, 2), 0x11));
        rig.write(1, 0x21);
        assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
        assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (1, 1)));
        drop(executor);
        let mut executor = Executor::new(3);
        let _again = rig.msync(&mut executor, 0, 8, SYNC);
        rig.port.receive();
        assert_eq!(rig.returned(), (range(1, 2), 0x21));
        assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
        rig.messages();
        rig.check();
    }
}

#[test]
fn z_02_only_what_was_sent_becomes_clean() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    rig.write(2, 0x12);
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), sync.take()), (Ok(()), Ok(()), Some(Ok(()))));
    assert_eq!(rig.dirty(), [range(2, 3)]);
    rig.messages();
    rig.check();
}

#[test]
fn z_03_dirty_ranges_are_sorted_and_joined_through_every_mapping() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.map(20, MapMode::Shared);
    for page in [5, 1, 22, 26] {
        rig.write(page, 1);
    }
    assert_eq!(rig.dirty(), [range(1, 3), range(5, 7)]);
    rig.check();
}

#[test]
fn z_04_and_z_05_first_write_of_a_clean_page_is_asked_for_each_time_it_was_cleaned() {
    let rig = Rig::with(range(1, 3), TRAPS);
    let mut byte = [0];
    assert_eq!(block_on(rig.bed.machine.read(rig.bed.at(1), &mut byte)), Ok(()));
    assert_eq!(rig.messages(), "", "no request for a read");
    for number in [0x11, 0x21] {
        let bytes = [number];
        let mut executor = Executor::new(1);
        let write = executor.spawn(rig.bed.machine.write(rig.bed.at(1), &bytes));
        assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_unlock[1,2)w"));
        let permit = rig.object.lock_request(range(1, 2), ShouldReturn::Nothing, false, Some(Prot::NONE));
        assert_eq!((block_on(permit), executor.run(), write.take()), (Ok(()), Ok(()), Some(Ok(()))));
        drop(executor);
        rig.write(1, number + 1);
        assert_eq!(rig.messages(), "lock_completed[1,2)", "no request for the second write");
        assert_eq!(rig.synced(0, 8, SYNC).1, Ok(()));
    }
    rig.check();
}

#[test]
pub(in crate::map::testing) fn o_10_last_use_returns_what_is_owed_and_then_terminates() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    rig.write(1, 0x11);
    let Rig { bed, port, object, own } = rig;
    assert_eq!(block_on(bed.machine.map.deallocate(bed.at(0), 8 << PAGE_SHIFT)), Ok(()));
    let number = object.number();
    assert_eq!(port.receive(), None, "the handle may map it again");
    drop(object);
    let work = bed.machine.vm.take_background().expect("the end of the object");
    let mut executor = Executor::new(1);
    executor.spawn(work);
    assert_eq!(executor.run_until_stalled(), 1);
    let mut words: Vec<String> = Vec::new();
    while let Some((object, message)) = port.receive() {
        assert_eq!(object, number);
        words.push(format!("{message}"));
        if let Message::DataReturn { frames, .. } = message {
            frames.into_iter().for_each(|run| bed.machine.frames().free(run));
        }
    }
    let expected = "data_return[0,1)precious data_return[1,2)dirty data_return[2,4)precious synchronize[0,8)";
    assert_eq!(words.join(" "), expected);
    // Nobody holds the object by name any more; its manager answers by its number, which stands for it until the end.
    assert_eq!(bed.machine.vm.synchronize_completed(number, 0, 8 << PAGE_SHIFT, Ok(())), Ok(()));
    assert_eq!(executor.run(), Ok(()));
    assert_eq!(port.receive(), Some((number, Message::Terminate)));
    assert_eq!((bed.machine.check_quiet_with(&[&own]), bed.machine.vm.lost_objects()), (Ok(()), 0));
}

#[test]
fn h_07_private_mapping_keeps_its_writes_from_the_manager() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.map(20, MapMode::Private);
    rig.write(1, 0x11);
    rig.write(21, 0x21);
    let private = rig.bed.machine.map.msync(rig.bed.at(20), 8 << PAGE_SHIFT, SYNC);
    assert_eq!((block_on(private), rig.messages().as_str()), (Ok(()), ""));
    assert_eq!(rig.bed.stable(21), Some(0x21), "its home is guest RAM");
    assert_eq!(rig.dirty(), [range(1, 2)]);
    rig.check();
}

#[test]
fn h_08_dirty_pages_come_back_through_a_mapping_that_may_not_write_them() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(1, 0x11);
    let protect = rig.bed.machine.map.protect(rig.bed.at(0), 8 << PAGE_SHIFT, false, Prot::READ);
    assert_eq!(block_on(protect), Ok(()));
    assert_eq!(rig.synced(0, 8, SYNC), (String::from("data_return[1,2)dirty,kept synchronize[0,8)"), Ok(())));
    rig.check();
}

#[test]
fn return_for_which_no_copy_can_be_made_is_a_failure_and_the_page_stays_dirty() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(1, 0x11);
    rig.bed.machine.frames().fail_allocation(0);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!(rig.messages(), "synchronize[0,8)");
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
    assert_eq!((sync.take(), rig.states()), (Some(Err(KernReturn::Failure)), (2, 1)));
    rig.check();
}

#[test]
fn advice_drops_clean_pages_of_a_manager_and_no_precious_one() {
    let rig = Rig::with(range(0, 2), PLAIN);
    assert_eq!(rig.read_supplied(2, PRECIOUS), Ok(0x42));
    rig.write(1, 0x11);
    let advice = rig.bed.machine.map.advise(rig.bed.at(0), 8 << PAGE_SHIFT, Advice::DontNeed);
    assert_eq!((block_on(advice), rig.states()), (Ok(()), (2, 1)));
    rig.check();
}

#[test]
fn precious_page_supplied_during_termination_comes_back() {
    let rig = Rig::new();
    rig.messages();
    assert_eq!(rig.read_supplied(0, PLAIN), Ok(0x40));
    rig.write(0, 5);
    rig.messages();
    let number = rig.object.number();
    let map = &rig.bed.machine.map;
    let mut executor = Executor::new(1);
    let read = executor.spawn(map.fault(rig.bed.at(1), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_request[1,2)r");
    let gone = executor.spawn(map.deallocate(rig.bed.at(0), 8 << PAGE_SHIFT));
    executor.run_until_stalled();
    std::eprintln!("read {:?} gone {:?}", read.take(), gone.take());
    let vm = Arc::clone(&rig.bed.machine.vm);
    drop(executor);
    let port = Arc::clone(&rig.port);
    // the last handle goes
    let Rig { object, bed, own, .. } = rig;
    drop(object);
    let mut background = Executor::new(1);
    let work = vm.take_background();
    std::eprintln!("terminates {}", work.is_some());
    let done = background.spawn(work.unwrap());
    background.run_until_stalled();
    let handle = vm.managed_object_of(&port, number).unwrap();
    let supplied = block_on(handle.data_supply(range(1, 2), &own, bed.at(1), PRECIOUS));
    std::eprintln!("supplied {supplied:?}");
    drop(handle);
    assert_eq!(vm.synchronize_completed(number, 0, 8 << PAGE_SHIFT, Ok(())), Ok(()));
    background.run_until_stalled();
    std::eprintln!("done {:?}", done.take().is_some());
    let mut words: Vec<String> = Vec::new();
    while let Some((_, message)) = port.receive() {
        words.push(format!("{message}"));
    }
    let words = words.join(" ");
    assert!(supplied.is_err() || words.contains("data_return[1,2)"), "{words}");
}

#[test]
fn two_views_in_one_range_return_a_precious_page_once() {
    let rig = Rig::with(range(0, 1), PRECIOUS);
    rig.map(8, MapMode::Shared);
    let mut executor = Executor::new(1);
    let _sync = rig.msync(&mut executor, 0, 16, SYNC);
    let words = rig.messages();
    assert_eq!(words.matches("data_return").count(), 1, "{words}");
}

#[test]
fn wired_page_stays_mapped_through_a_sync() {
    let rig = Rig::with(range(0, 1), TRAPS);
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(block_on(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, false, Some(Prot::NONE))), Ok(()));
    executor.run_until_stalled();
    drop(executor);
    rig.messages();
    assert_eq!(block_on(rig.bed.machine.map.wire(rig.bed.at(0), rig.bed.at(1), WireFlags::USER)), Ok(()));
    assert!(rig.bed.is_mapped(0), "before");
    rig.messages();
    let (words, outcome) = rig.synced(0, 1, SYNC);
    std::eprintln!("{words} {outcome:?} check {:?}", rig.bed.machine.check());
    assert!(rig.bed.is_mapped(0), "Q-04");
}
