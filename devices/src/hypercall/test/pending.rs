//! Entries that are answered *pending* and completed later.

use wirevm_abi::completion::{CAPACITY, Completion, HEAD_OFFSET, NO_PAGE};
use wirevm_abi::{Status, op};

use super::rig::{PAGES, Rig, run, start, start_with, sync};
use crate::bus::{PortDevice, Signal};
use crate::sync::scripted::Asked;

const fn stable(token: u64) -> Completion {
    Completion { token, status: Status::OK, first_failed_page: NO_PAGE }
}

#[test]
fn sync_that_nobody_waits_for_is_pending_and_completed_by_its_token_once_stable() {
    let rig = Rig::greeted();
    rig.storage.with(|script| script.held_from = Some(0));
    let (_, statuses) = rig.call(&[start_with(8, 2, 5), start_with(0, 1, 9), start_with(8, 1, 5)]);
    assert_eq!(statuses, [Status::PENDING; 3]);
    rig.storage.wait_until(|script| script.asked.len() == 1);
    assert_eq!((rig.guest.take(), rig.guest.ring.stats().outstanding), (vec![], 3));
    rig.storage.with(|script| script.held_from = None);
    assert_eq!(rig.completions(3), [stable(5), stable(9), stable(5)], "tokens are the guest's own");
    assert_eq!(rig.storage.take_asked(), [Asked::Write(vec![run(0, 1), run(8, 10)]), Asked::Flush(run(0, 1))]);
    let stats = rig.guest.ring.stats();
    assert_eq!((stats.posted, stats.outstanding, rig.syncs.stats().requests), (3, 0, 1));
}

#[test]
fn sync_that_fails_is_completed_with_what_became_of_each_range() {
    let rig = Rig::greeted();
    rig.storage.with(|script| script.fail = Some((0, libc::EIO)));
    assert_eq!(rig.call(&[start_with(3, 1, 1), start_with(7, 1, 2)]).1, [Status::PENDING; 2]);
    let failed = |token| Completion { status: Status::IO_ERROR, ..stable(token) };
    assert_eq!(rig.completions(2), [failed(1), failed(2)]);
}

#[test]
fn entries_without_a_place_in_the_ring_are_busy_and_begin_nothing() {
    let rig = Rig::greeted();
    rig.storage.with(|script| script.held_from = Some(0));
    let others = rig.guest.ring.reserve(CAPACITY - 2).expect("an empty ring");
    assert_eq!(rig.call(&[start(0, 1), start(2, 1), start(4, 1)]).1, [Status::BUSY; 3]);
    assert_eq!((rig.storage.take_asked(), rig.syncs.stats().requests), (vec![], 0));
    assert_eq!(rig.call(&[start(0, 1), start(2, 1)]).1, [Status::PENDING; 2]);
    assert_eq!(rig.call(&[start(0, 1)]).1, [Status::BUSY]);
    assert_eq!(rig.call(&[start(0, 1), sync(PAGES, 1)]).1, [Status::BUSY, Status::INVALID_ADDRESS]);
    drop(others);
    assert_eq!(rig.call(&[start(0, 1)]).1, [Status::PENDING], "places that were given back are free");
    rig.guest.memory.set(HEAD_OFFSET, 9);
    assert_eq!(rig.call(&[start(0, 1)]).1, [Status::BUSY], "a guest that lies waits for itself");
    rig.guest.memory.set(HEAD_OFFSET, 0);
    rig.storage.with(|script| script.held_from = None);
    assert_eq!(rig.completions(3), [stable(77); 3]);
    assert_eq!(rig.device.busy_answers(), 6);
}

#[test]
fn entries_that_a_full_queue_refuses_are_busy_and_give_their_places_back() {
    let rig = Rig::durable(1, 1, true);
    rig.storage.with(|script| script.held_from = Some(0));
    assert_eq!(rig.call(&[start(0, 1)]).1, [Status::PENDING]);
    rig.storage.wait_until(|script| script.asked.len() == 1);
    assert_eq!(rig.call(&[start(2, 1)]).1, [Status::PENDING]);
    for _ in 0..100 {
        assert_eq!(rig.call(&[start(4, 1), start(6, 1)]).1, [Status::BUSY; 2]);
    }
    assert_eq!((rig.guest.ring.stats().outstanding, rig.device.busy_answers()), (2, 200));
    rig.storage.with(|script| script.held_from = None);
    assert_eq!(rig.completions(2), [stable(77); 2]);
}

#[test]
fn without_a_ring_only_syncs_that_wait_are_offered() {
    let rig = Rig::durable(1, 1, false);
    assert_eq!(rig.call(&[start(0, 1), sync(0, 1)]).1, [Status::UNSUPPORTED, Status::OK]);
    let request = wirevm_abi::call::CallEntry::new(op::SYNCHRONIZE, 0, [0, 1, 0]);
    assert_eq!(rig.call(&[request]).1, [Status::UNSUPPORTED]);
}

#[test]
fn ring_that_is_gone_ends_the_conversation() {
    let rig = Rig::greeted();
    assert_eq!(rig.call(&[start(0, 1)]).1, [Status::PENDING]);
    rig.completions(1);
    rig.guest.memory.lose();
    // The call that finds it is answered, since its call page is there; the next is not begun.
    assert_eq!(rig.call(&[start(0, 1)]), (Signal::None, vec![Status::BUSY]));
    assert_eq!(rig.device.write(0, 0, &[0]), Signal::BackingLost);
}
