//! The end of a service while requests wait or storage hangs.

use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use wirevm_abi::Status;

use super::{NEVER, PAGES, range, run, service, statuses, submit};
use crate::faults::HostFaults;
use crate::sync::scripted::{Asked, ScriptedFlush};
use crate::sync::{SyncConfig, SyncService};

#[test]
fn drop_finishes_what_was_begun_and_poisons_what_was_not() {
    let (storage, syncs, _latched) = service(1, 4, NEVER);
    storage.with(|script| script.held_from = Some(0));
    let begun = submit(&syncs, &[range(0, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    let waiting: Vec<_> = (1..4).map(|page| submit(&syncs, &[range(page * 2, 1)]).expect("accepted")).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| drop(syncs));
        waiting.iter().for_each(|results| assert_eq!(statuses(results), [Status::POISONED]));
        storage.with(|script| script.held_from = None);
        ending.join().expect("no panic");
    });
    assert_eq!(statuses(&begun), [Status::OK]);
    assert!(began.elapsed() < Duration::from_secs(10), "the health poll sleeps for an hour");
    assert_eq!(storage.take_asked(), [Asked::Flush(run(0, 1))]);
}

#[test]
fn drop_leaves_a_thread_that_storage_holds_and_keeps_to_its_limit() {
    let storage = ScriptedFlush::default();
    let limit = Duration::from_millis(100);
    let (sender, ended) = mpsc::channel();
    let syncs = SyncService::with_backends(
        PAGES,
        SyncConfig { queue: 4, poll_interval: NEVER, end_limit: limit, ..SyncConfig::default() },
        vec![storage.worker(), storage.worker()],
        Box::new(storage.clone()),
        // Goes with the last thread.
        move |error| sender.send(error).expect("the test listens"),
    );
    let syncs = syncs.expect("threads");
    storage.with(|script| script.held_from = Some(0));
    for (place, page) in [0, 8].into_iter().enumerate() {
        syncs.submit(&[range(page, 1)], Box::new(|_| ())).expect("accepted");
        storage.wait_until(|script| script.asked.len() == place + 1);
    }
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
fn storage_held_by_order_hangs_until_it_is_released_or_the_service_ends() {
    for released in [true, false] {
        let (storage, faults) = (ScriptedFlush::default(), HostFaults::default());
        let config = SyncConfig { poll_interval: NEVER, faults: Some(faults.clone()), ..SyncConfig::default() };
        let probe = Box::new(storage.clone());
        let syncs = SyncService::with_backends(PAGES, config, vec![storage.worker()], probe, |_| ()).expect("threads");
        faults.hold();
        let results = submit(&syncs, &[range(0, 1)]).expect("accepted");
        results.recv_timeout(Duration::from_millis(50)).expect_err("storage hangs");
        assert_eq!(storage.take_asked(), []);
        if released {
            faults.release();
            assert_eq!(statuses(&results), [Status::OK]);
        } else {
            drop(syncs);
            results.try_recv().expect("nobody is left waiting");
        }
    }
}

#[test]
fn failure_by_order_strikes_the_nth_flush() {
    let (storage, faults) = (ScriptedFlush::default(), HostFaults::default());
    let config = SyncConfig { poll_interval: NEVER, faults: Some(faults.clone()), ..SyncConfig::default() };
    let probe = Box::new(storage.clone());
    let syncs = SyncService::with_backends(PAGES, config, vec![storage.worker()], probe, |_| ()).expect("threads");
    faults.fail_nth(std::num::NonZero::new(2).expect("not 0"), libc::EDQUOT);
    assert_eq!(syncs.submit_and_wait(&[range(0, 1), range(2, 1), range(4, 1)]), [Status::OK; 3], "one flush");
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::IO_ERROR]);
    assert_eq!(syncs.latched().map(|error| error.errno), Some(libc::EDQUOT));
}
