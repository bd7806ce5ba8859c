//! What is accepted, in which order it is carried out, and that everything accepted is answered once.

use std::time::Duration;

use wirevm_abi::Status;
use wirevm_abi::completion::NO_PAGE;

use super::rig::{PAGES, Rig, data, name};
use crate::store::scripted::Call;
use crate::store::{StoreConfig, StoreService};

fn config() -> StoreConfig {
    StoreConfig { workers: 2, queue: 4, max_stores: 2, quota_pages: 200, ..StoreConfig::default() }
}

fn opened() -> (Rig, u16) {
    let rig = Rig::new(config(), true);
    let store = rig.stores.open(name("a"), PAGES, false).expect("a store");
    (rig, store)
}

#[test]
fn overlapping_requests_go_in_order_and_others_past_them() {
    let (rig, store) = opened();
    rig.disk.with(|disk| disk.held = Some(Call::Write));
    assert_eq!(rig.stores.data_return(data(store, 0, 4), rig.done(1)), Status::PENDING);
    rig.disk.wait_until(|disk| disk.calls.len() == 1);
    assert_eq!(rig.stores.synchronize(store, 3, 1, rig.done(2)), Status::PENDING);
    assert_eq!(rig.stores.data_request(data(store, 2, 9), rig.done(3)), Status::PENDING);
    assert_eq!(rig.stores.data_request(data(store, 20, 2), rig.done(4)), Status::PENDING);
    assert_eq!(rig.answer(), (4, Status::OK, NO_PAGE));
    assert_eq!(rig.disk.with(|disk| disk.calls.clone()), [(Call::Write, 0..4), (Call::Read, 20..22)]);
    rig.disk.with(|disk| disk.held = None);
    assert_eq!([rig.answer().0, rig.answer().0, rig.answer().0], [1, 2, 3]);
    let kinds: Vec<_> = rig.disk.with(|disk| disk.calls.iter().skip(2).map(|call| call.0).collect());
    assert_eq!(kinds, [Call::Start, Call::Sync, Call::Read]);
    assert_eq!(rig.stores.stats().flushes, 1, "one flush a request");
}

#[test]
fn full_queue_is_busy_and_begins_nothing() {
    let (rig, store) = opened();
    rig.disk.with(|disk| disk.held = Some(Call::Read));
    for token in 0..4 {
        assert_eq!(rig.stores.data_request(data(store, 0, 1), rig.done(token)), Status::PENDING);
    }
    assert_eq!(rig.stores.data_request(data(store, 9, 1), rig.done(9)), Status::BUSY);
    assert_eq!(rig.stores.synchronize(store, 9, 1, rig.done(9)), Status::BUSY);
    assert_eq!((rig.stores.close(store), rig.stores.stats().busy), (Status::BUSY, 2));
    rig.disk.with(|disk| disk.held = None);
    let answers: Vec<_> = (0..4).map(|_| rig.answer().0).collect();
    assert_eq!(answers, [0, 1, 2, 3]);
    rig.no_answer();
    assert_eq!(rig.disk.with(|disk| disk.calls.clone()), vec![(Call::Read, 0..1); 4]);
    // Who has the last answer may close.
    assert_eq!((rig.stores.close(store), rig.stores.close(store)), (Status::OK, Status::INVALID_ARGUMENT));
    assert_eq!(rig.stores.data_request(data(store, 0, 1), rig.done(9)), Status::INVALID_ARGUMENT);
}

#[test]
fn pages_outside_the_store_are_refused() {
    let (rig, store) = opened();
    let mut run = data(store, 0, 2);
    for first in [PAGES - 1, PAGES, u64::MAX - 1, u64::MAX] {
        run.first = first;
        assert_eq!(rig.stores.data_request(run, rig.done(1)), Status::INVALID_ARGUMENT);
        assert_eq!(rig.stores.data_return(run, rig.done(1)), Status::INVALID_ARGUMENT);
        assert_eq!(rig.stores.synchronize(store, first, 2, rig.done(1)), Status::INVALID_ARGUMENT);
    }
    assert_eq!(rig.stores.synchronize(store + 1, 0, 1, rig.done(1)), Status::INVALID_ARGUMENT);
    rig.no_answer();
}

#[test]
fn stores_have_a_quota_a_number_and_one_opener() {
    let (rig, store) = opened();
    let status = |name_of, pages| rig.stores.open(name(name_of), pages, false).map_err(|error| error.status());
    assert_eq!((status("a", 1), status("b", 73)), (Err(Status::BUSY), Err(Status::QUOTA)));
    let second = status("b", 72).expect("as much as is left");
    assert_ne!(store, second);
    assert_eq!((status("c", 1), rig.stores.stats().open_stores), (Err(Status::QUOTA), 2));
    assert_eq!(rig.stores.close(second), Status::OK);
    assert_eq!(status("c", 1), Err(Status::QUOTA), "the file of a store that was closed is still there");
    let third = status("b", 72).expect("it costs nothing more");
    assert!(![store, second].contains(&third), "a number that meant another store a moment ago is not given");
}

#[test]
fn volatile_file_system_keeps_bytes_and_promises_nothing() {
    let rig = Rig::new(config(), false);
    let store = rig.stores.open(name("a"), PAGES, false).expect("a store");
    rig.ram.fill(0, 1, 7);
    assert_eq!(rig.stores.data_return(data(store, 0, 1), rig.done(1)), Status::PENDING);
    assert_eq!(rig.answer(), (1, Status::OK, NO_PAGE));
    assert_eq!(rig.stores.synchronize(store, 0, 1, rig.done(2)), Status::UNSUPPORTED);
    let none = StoreService::unsupported();
    assert_eq!(none.open(name("a"), 1, false).map_err(|error| error.status()), Err(Status::UNSUPPORTED));
    assert_eq!((none.close(1), none.synchronize(1, 0, 1, rig.done(3))), (Status::UNSUPPORTED, Status::UNSUPPORTED));
    rig.no_answer();
}

#[test]
fn end_answers_what_it_does_not_begin() {
    let (rig, store) = opened();
    rig.disk.with(|disk| disk.held = Some(Call::Sync));
    for token in 0..3 {
        assert_eq!(rig.stores.synchronize(store, 0, 1, rig.done(token)), Status::PENDING);
    }
    rig.disk.wait_until(|disk| disk.calls.iter().any(|call| call.0 == Call::Sync));
    let (disk, stores) = (rig.disk.clone(), rig.stores);
    let end = std::thread::spawn(move || drop(stores));
    let mut answers = Vec::new();
    let mut answer = || answers.push(rig.answers.recv_timeout(Duration::from_secs(20)).expect("an answer"));
    answer();
    answer();
    disk.with(|disk| disk.held = None);
    answer();
    end.join().expect("no panic");
    assert_eq!(answers, [(1, Status::IO_ERROR, NO_PAGE), (2, Status::IO_ERROR, NO_PAGE), (0, Status::OK, NO_PAGE)]);
    rig.answers.try_recv().expect_err("nobody is told twice");
}

#[test]
fn held_storage_accepts_and_begins_nothing() {
    let config = config();
    let faults = config.faults.clone();
    let rig = Rig::new(config, true);
    let store = rig.stores.open(name("a"), PAGES, false).expect("a store");
    faults.hold();
    assert_eq!(rig.stores.data_return(data(store, 0, 1), rig.done(1)), Status::PENDING);
    assert_eq!(rig.stores.synchronize(store, 5, 1, rig.done(2)), Status::PENDING);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(rig.disk.with(|disk| disk.calls.len()), 0);
    rig.no_answer();
    faults.release();
    let mut tokens = [rig.answer().0, rig.answer().0];
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2]);
}
