//! The sync service against storage that fails, waits or panics when told to.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use wirevm_abi::{RamRange, Status};

use super::scripted::ScriptedFlush;
use super::{During, LatchedError, SyncConfig, SyncService, Wait};
use crate::page_run::PageRun;

const PAGES: u64 = 64;
/// So long that the health poll's thread plays no part.
const NEVER: Duration = Duration::from_secs(3600);

fn service(
    workers: usize,
    queue: usize,
    poll_interval: Duration,
) -> (ScriptedFlush, SyncService, Receiver<LatchedError>) {
    let storage = ScriptedFlush::default();
    let (sender, latched) = mpsc::channel();
    let service = SyncService::with_backends(
        PAGES,
        SyncConfig { workers, queue, poll_interval, end_limit: Duration::from_secs(20) },
        (0..workers).map(|_| storage.worker()).collect(),
        Box::new(storage.clone()),
        move |error| sender.send(error).expect("the test listens"),
    );
    (storage, service.expect("threads"), latched)
}

fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, PAGES).expect("inside RAM")
}

fn run(first: u64, end: u64) -> PageRun {
    PageRun::new(first, end).expect("not empty")
}

#[test]
fn submit_ranges_are_sorted_merged_and_answered_one_by_one() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    let answers = syncs.submit(&[range(20, 2), range(0, 4), range(4, 1), range(2, 2), range(63, 1)], Wait::Wait);
    assert_eq!(answers, [Status::OK; 5]);
    assert_eq!(storage.with(|script| script.flushed.clone()), [run(0, 5), run(20, 22), run(63, 64)]);
    assert_eq!(storage.with(|script| script.looks), 1, "the file's health is looked at after the request");
    let stats = syncs.stats();
    assert_eq!((stats.requests, stats.pages, stats.flushes, stats.busy), (1, 8, 3, 0));
    assert_eq!(syncs.submit(&[], Wait::Wait), []);
}

#[test]
fn submit_nth_flush_failing_answers_its_ranges_and_poisons_the_rest_for_good() {
    let list = [range(30, 2), range(0, 2), range(1, 3), range(10, 1)];
    // Runs in order: [0,4), [10,11), [30,32).
    for (failing, expected) in [
        (0, [Status::POISONED, Status::IO_ERROR, Status::IO_ERROR, Status::POISONED]),
        (1, [Status::POISONED, Status::POISONED, Status::POISONED, Status::IO_ERROR]),
        (2, [Status::IO_ERROR, Status::POISONED, Status::POISONED, Status::POISONED]),
    ] {
        let (storage, syncs, latched) = service(2, 4, NEVER);
        storage.with(|script| script.fail = Some((failing, libc::ENOSPC)));
        assert_eq!(syncs.submit(&list, Wait::Wait), expected);
        let first_page = [0, 10, 30].get(failing).copied();
        let error = LatchedError { errno: libc::ENOSPC, first_page, during: During::Sync };
        assert_eq!((syncs.latched(), latched.try_recv()), (Some(error), Ok(error)));
        let asked = storage.with(|script| script.flushed.len());
        assert_eq!(asked, failing + 1, "nothing is asked for after an error");
        for wait in [Wait::Wait, Wait::NoWait] {
            assert_eq!(syncs.submit(&[range(40, 1)], wait), [Status::POISONED]);
        }
        assert_eq!(storage.with(|script| script.flushed.len()), asked, "storage is not asked again");
        assert!(latched.try_recv().is_err(), "the latch is told of once");
    }
}

#[test]
fn submit_error_found_by_the_look_after_it_poisons_the_answer() {
    let (storage, syncs, latched) = service(1, 4, NEVER);
    storage.with(|script| script.unhealthy = Some(libc::EIO));
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::POISONED]);
    let error = LatchedError { errno: libc::EIO, first_page: None, during: During::HealthPoll };
    assert_eq!(latched.try_recv(), Ok(error));
}

#[test]
fn submit_waiting_while_another_request_fails_is_never_answered_ok_after_it() {
    let (storage, syncs, _latched) = service(2, 4, NEVER);
    storage.with(|script| script.held_from = Some(0));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| syncs.submit(&[range(0, 1), range(2, 1)], Wait::Wait));
        let second = scope.spawn(|| syncs.submit(&[range(8, 1), range(10, 1)], Wait::Wait));
        storage.wait_until(|script| script.flushed.len() == 2);
        storage.with(|script| (script.fail, script.held_from) = (Some((0, libc::EIO)), Some(8)));
        assert_eq!(first.join().expect("no panic"), [Status::IO_ERROR, Status::POISONED]);
        // The second one's system call began before the error and ends well after it.
        storage.with(|script| script.held_from = None);
        assert_eq!(second.join().expect("no panic"), [Status::POISONED; 2]);
    });
    assert_eq!(storage.with(|script| script.flushed.len()), 2, "nothing is asked for after an error");
    assert_eq!(syncs.latched().map(|error| error.errno), Some(libc::EIO));
}

#[test]
fn submit_full_queue_is_busy_and_requests_are_not_merged_with_one_another() {
    let (storage, syncs, _latched) = service(1, 1, NEVER);
    storage.with(|script| script.held_from = Some(0));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| syncs.submit(&[range(5, 1)], Wait::Wait));
        storage.wait_until(|script| script.flushed.len() == 1);
        let second = scope.spawn(|| syncs.submit(&[range(5, 1)], Wait::Wait));
        while syncs.stats().requests < 2 {
            std::thread::yield_now();
        }
        assert_eq!(syncs.submit(&[range(5, 1), range(9, 1)], Wait::Wait), [Status::BUSY; 2]);
        assert_eq!(syncs.submit(&[range(5, 1)], Wait::NoWait), [Status::BUSY]);
        storage.with(|script| script.held_from = None);
        assert_eq!(first.join().expect("no panic"), [Status::OK]);
        assert_eq!(second.join().expect("no panic"), [Status::OK]);
    });
    // The second asked for the same page while the first was under way: it needs a sync of its own (D14).
    assert_eq!(storage.with(|script| script.flushed.clone()), [run(5, 6), run(5, 6)]);
    assert_eq!(syncs.stats().busy, 2);
}

#[test]
fn submit_no_wait_starts_the_writing_and_its_failure_sets_the_latch() {
    let (storage, syncs, latched) = service(1, 4, NEVER);
    assert_eq!(syncs.submit(&[range(3, 2), range(5, 1)], Wait::NoWait), [Status::PENDING; 2]);
    storage.wait_until(|script| script.looks == 1);
    assert_eq!(storage.with(|script| (script.started.clone(), script.flushed.len())), (vec![run(3, 6)], 0));
    storage.with(|script| script.fail = Some((0, libc::EIO)));
    assert_eq!(syncs.submit(&[range(7, 1)], Wait::NoWait), [Status::PENDING]);
    let error = latched.recv_timeout(Duration::from_secs(20)).expect("the latch is set");
    assert_eq!(error, LatchedError { errno: libc::EIO, first_page: Some(7), during: During::Start });
    assert_eq!(syncs.submit(&[range(7, 1)], Wait::Wait), [Status::POISONED]);
}

#[test]
fn health_poll_finds_an_error_that_nobody_asked_for() {
    let (storage, syncs, latched) = service(1, 4, Duration::from_millis(5));
    storage.wait_until(|script| script.looks >= 3);
    storage.with(|script| script.unhealthy = Some(libc::EIO));
    let error = latched.recv_timeout(Duration::from_secs(20)).expect("the latch is set");
    assert_eq!((error.during, error.first_page), (During::HealthPoll, None));
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::POISONED]);
    assert_eq!(storage.with(|script| script.flushed.len()), 0);
}

#[test]
fn submit_to_a_worker_that_dies_is_not_answered_ok() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    storage.with(|script| script.panics = true);
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::IO_ERROR]);
    assert_eq!(syncs.submit(&[range(0, 1)], Wait::Wait), [Status::IO_ERROR]);
}

#[test]
fn submit_range_of_another_ram_is_refused_alone() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    let beyond = RamRange::new(PAGES, 1, PAGES + 1).expect("inside a larger RAM");
    assert_eq!(syncs.submit(&[beyond, range(0, 1)], Wait::Wait), [Status::INVALID_ADDRESS, Status::OK]);
    assert_eq!(storage.with(|script| script.flushed.clone()), [run(0, 1)]);
    assert_eq!(syncs.submit(&[beyond], Wait::Wait), [Status::INVALID_ADDRESS]);
}

#[test]
fn drop_is_prompt_and_does_not_begin_what_nobody_waits_for() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    storage.with(|script| script.held_from = Some(0));
    for page in 0..4 {
        assert_eq!(syncs.submit(&[range(page * 2, 1)], Wait::NoWait), [Status::PENDING]);
    }
    storage.wait_until(|script| script.started.len() == 1);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| drop(syncs));
        std::thread::sleep(Duration::from_millis(200));
        storage.with(|script| script.held_from = None);
        ending.join().expect("no panic");
    });
    assert!(began.elapsed() < Duration::from_secs(10), "the health poll sleeps for an hour");
    assert_eq!(storage.with(|script| script.started.len()), 1);
}

#[test]
fn drop_leaves_a_thread_that_storage_holds_and_keeps_to_its_limit() {
    let storage = ScriptedFlush::default();
    let limit = Duration::from_millis(100);
    let (sender, ended) = mpsc::channel();
    let syncs = SyncService::with_backends(
        PAGES,
        SyncConfig { workers: 2, queue: 4, poll_interval: NEVER, end_limit: limit },
        vec![storage.worker(), storage.worker()],
        Box::new(storage.clone()),
        // Goes with the last thread.
        move |error| sender.send(error).expect("the test listens"),
    );
    let syncs = syncs.expect("threads");
    storage.with(|script| script.held_from = Some(0));
    for page in [0, 8] {
        assert_eq!(syncs.submit(&[range(page, 1)], Wait::NoWait), [Status::PENDING]);
    }
    storage.wait_until(|script| script.started.len() == 2);
    let began = Instant::now();
    drop(syncs);
    let taken = began.elapsed();
    assert!(limit <= taken && taken < Duration::from_secs(10), "{taken:?}: one limit for both threads");
    assert_eq!(ended.try_recv(), Err(TryRecvError::Empty), "the threads are still held");
    storage.with(|script| script.held_from = None);
    let last = ended.recv_timeout(Duration::from_secs(10));
    assert_eq!(last, Err(RecvTimeoutError::Disconnected), "they end when storage lets go of them");
}

#[test]
fn service_without_durability_is_unsupported() {
    let syncs = SyncService::unsupported(PAGES);
    assert!(!syncs.is_supported());
    assert_eq!(syncs.submit(&[range(0, 1), range(3, 1)], Wait::Wait), [Status::UNSUPPORTED; 2]);
    assert_eq!((syncs.latched(), syncs.stats().requests), (None, 0));
}
