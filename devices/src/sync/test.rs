//! The sync service against storage that fails, waits or panics when told to.

mod end;
mod failure;

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use wirevm_abi::{RamRange, Status};

use super::scripted::{Asked, ScriptedFlush};
use super::{LatchedError, RangeResult, SyncConfig, SyncService, WiredOracle};
use crate::page_run::PageRun;

const PAGES: u64 = 64;
/// So long that the health poll's thread plays no part.
const NEVER: Duration = Duration::from_secs(3600);
/// Longer than any test takes that does not fail.
const LONG: Duration = Duration::from_secs(20);

fn service(
    workers: usize,
    queue: usize,
    poll_interval: Duration,
) -> (ScriptedFlush, SyncService, Receiver<LatchedError>) {
    let storage = ScriptedFlush::default();
    let (sender, latched) = mpsc::channel();
    let known = storage.clone();
    let oracle = WiredOracle::new(move |run| {
        known.with(|script| script.wired.iter().any(|held| held.first() <= run.first() && run.end() <= held.end()))
    });
    let service = SyncService::with_backends(
        PAGES,
        SyncConfig { workers, queue, poll_interval, end_limit: LONG, oracle, faults: None },
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

/// Asks without waiting; the results come through the channel.
fn submit(syncs: &SyncService, ranges: &[RamRange]) -> Result<Receiver<Vec<RangeResult>>, Status> {
    let (sender, results) = mpsc::channel();
    let answer = move |results| sender.send(results).expect("the test listens");
    syncs.submit(ranges, Box::new(answer)).map(|()| results)
}

fn statuses(results: &Receiver<Vec<RangeResult>>) -> Vec<Status> {
    let statuses = results.recv_timeout(LONG).expect("answered").into_iter().map(|result| result.status).collect();
    results.try_recv().expect_err("answered once");
    statuses
}

#[test]
fn submit_ranges_are_sorted_joined_written_and_flushed_once() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    let answers = syncs.submit_and_wait(&[range(20, 2), range(0, 4), range(4, 1), range(2, 2), range(63, 1)]);
    assert_eq!(answers, [Status::OK; 5]);
    let runs = vec![run(0, 5), run(20, 22), run(63, 64)];
    assert_eq!(storage.take_asked(), [Asked::Write(runs), Asked::Flush(run(63, 64))], "the shortest run is flushed");
    assert_eq!(storage.with(|script| script.looks), 1, "the file's health is looked at after the request");
    let stats = syncs.stats();
    assert_eq!((stats.requests, stats.pages, stats.runs, stats.flushes, stats.busy), (1, 8, 3, 1, 0));
    assert_eq!(syncs.submit_and_wait(&[]), []);
}

#[test]
fn submit_single_run_is_one_call() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    assert_eq!(syncs.submit_and_wait(&[range(3, 2), range(5, 1)]), [Status::OK; 2]);
    assert_eq!(storage.take_asked(), [Asked::Flush(run(3, 6))]);
}

#[test]
fn submit_where_a_flush_is_by_range_has_one_for_each_run() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    storage.with(|script| script.one_flush = false);
    assert_eq!(syncs.submit_and_wait(&[range(9, 1), range(0, 1), range(4, 4)]), [Status::OK; 3]);
    assert_eq!(storage.take_asked(), [run(0, 1), run(4, 8), run(9, 10)].map(Asked::Flush));
    assert_eq!((syncs.stats().flushes, syncs.stats().requests), (3, 1));
}

#[test]
fn submit_returns_before_storage_has_begun_and_answers_when_it_is_done() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    storage.with(|script| script.held_from = Some(0));
    let results = submit(&syncs, &[range(3, 2), range(9, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    results.recv_timeout(Duration::from_millis(50)).expect_err("it is not stable yet");
    storage.with(|script| script.held_from = None);
    assert_eq!(statuses(&results), [Status::OK; 2]);
}

#[test]
fn submit_requests_that_wait_together_are_carried_out_together_and_after_they_came() {
    let (storage, syncs, _latched) = service(1, 8, NEVER);
    storage.with(|script| script.held_from = Some(0));
    let first = submit(&syncs, &[range(5, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    let late: Vec<_> = [5, 6, 20].map(|page| submit(&syncs, &[range(page, 1)]).expect("accepted")).into();
    storage.with(|script| script.held_from = None);
    assert_eq!(statuses(&first), [Status::OK]);
    late.iter().for_each(|results| assert_eq!(statuses(results), [Status::OK]));
    // Page 5 was asked for again while it was being synced: it needs a sync of its own (D14).
    let together = Asked::Write(vec![run(5, 7), run(20, 21)]);
    assert_eq!(storage.take_asked(), [Asked::Flush(run(5, 6)), together, Asked::Flush(run(20, 21))]);
    let stats = syncs.stats();
    assert_eq!((stats.requests, stats.batches, stats.flushes, stats.pages), (4, 2, 2, 4));
}

#[test]
fn submit_disjoint_requests_run_beside_one_another() {
    let (storage, syncs, _latched) = service(2, 8, NEVER);
    storage.with(|script| script.held = vec![5]);
    let slow = submit(&syncs, &[range(5, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    assert_eq!(syncs.submit_and_wait(&[range(9, 1)]), [Status::OK]);
    slow.try_recv().expect_err("storage still holds it");
    storage.with(|script| script.held.clear());
    assert_eq!(statuses(&slow), [Status::OK]);
}

#[test]
fn submit_to_a_full_queue_is_busy_and_nothing_grows() {
    let (storage, syncs, _latched) = service(1, 3, NEVER);
    storage.with(|script| script.held_from = Some(0));
    let mut accepted = vec![submit(&syncs, &[range(5, 1)]).expect("accepted")];
    storage.wait_until(|script| script.asked.len() == 1);
    accepted.extend((0..3).map(|page| submit(&syncs, &[range(page, 1)]).expect("accepted")));
    for _ in 0..1000 {
        assert_eq!(submit(&syncs, &[range(7, 1)]).err(), Some(Status::BUSY));
    }
    assert_eq!(syncs.submit_and_wait(&[range(5, 1), range(9, 1)]), [Status::BUSY; 2]);
    assert_eq!((syncs.stats().waiting, syncs.stats().requests, syncs.stats().busy), (3, 4, 1001));
    storage.with(|script| script.held_from = None);
    accepted.iter().for_each(|results| assert_eq!(statuses(results), [Status::OK]));
    assert_eq!((syncs.stats().waiting, syncs.stats().batches), (0, 2));
}

#[test]
fn submit_range_of_another_ram_is_refused_alone() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    let beyond = RamRange::new(PAGES, 1, PAGES + 1).expect("inside a larger RAM");
    assert_eq!(syncs.submit_and_wait(&[beyond, range(0, 1)]), [Status::INVALID_ADDRESS, Status::OK]);
    assert_eq!(storage.take_asked(), [Asked::Flush(run(0, 1))]);
    assert_eq!(syncs.submit_and_wait(&[beyond]), [Status::INVALID_ADDRESS]);
    assert_eq!(storage.take_asked(), []);
}

#[test]
fn service_without_durability_is_unsupported() {
    let syncs = SyncService::unsupported(PAGES);
    assert!(!syncs.is_supported());
    assert_eq!(syncs.submit_and_wait(&[range(0, 1), range(3, 1)]), [Status::UNSUPPORTED; 2]);
    assert_eq!(submit(&syncs, &[range(0, 1)]).err(), Some(Status::UNSUPPORTED));
    assert_eq!((syncs.latched(), syncs.stats().requests), (None, 0));
}
