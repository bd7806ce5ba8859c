//! Storage that fails: the latch, who is answered what, and what is repaired.

use std::time::Duration;

use wirevm_abi::Status;

use super::{LONG, NEVER, RangeResult, range, run, service, statuses, submit};
use crate::sync::scripted::Asked;
use crate::sync::{During, LatchedError};

const fn latched(errno: i32, first_page: Option<u64>, during: During) -> LatchedError {
    LatchedError { errno, first_page, during, nothing_reverted: false }
}

#[test]
fn nth_call_failing_answers_the_request_and_poisons_all_later_ones_for_good() {
    let list = [range(30, 2), range(0, 2), range(1, 3), range(10, 1)];
    for (one_flush, calls) in [(true, 2), (false, 3)] {
        for failing in 0..calls {
            let (storage, syncs, told) = service(2, 4, NEVER);
            storage.with(|script| (script.one_flush, script.fail) = (one_flush, Some((failing, libc::ENOSPC))));
            // Which run an error is about, nobody can tell: it shows at whatever call looks first.
            assert_eq!(syncs.submit_and_wait(&list), [Status::IO_ERROR; 4]);
            let error = latched(libc::ENOSPC, None, During::Sync);
            assert_eq!((syncs.latched(), told.try_recv()), (Some(error), Ok(error)));
            assert_eq!(storage.take_asked().len(), failing + 1, "nothing is asked for after an error");
            assert_eq!(syncs.submit_and_wait(&[range(40, 1), range(0, 1)]), [Status::POISONED; 2]);
            assert_eq!(storage.take_asked(), [], "storage is not asked again");
            assert!(told.try_recv().is_err(), "the latch is told of once");
        }
    }
}

#[test]
fn single_run_failing_is_named() {
    let (storage, syncs, told) = service(1, 4, NEVER);
    storage.with(|script| script.fail = Some((0, libc::EIO)));
    assert_eq!(syncs.submit_and_wait(&[range(7, 3)]), [Status::IO_ERROR]);
    assert_eq!(told.try_recv(), Ok(latched(libc::EIO, Some(7), During::Sync)));
}

#[test]
fn error_found_by_the_look_after_it_poisons_the_answer() {
    let (storage, syncs, told) = service(1, 4, NEVER);
    storage.with(|script| script.unhealthy = Some(libc::EIO));
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::POISONED]);
    assert_eq!(told.try_recv(), Ok(latched(libc::EIO, None, During::HealthPoll)));
}

#[test]
fn request_under_way_while_another_fails_is_never_answered_ok_after_it() {
    let (storage, syncs, _told) = service(2, 4, NEVER);
    storage.with(|script| script.held = vec![0, 8]);
    let first = submit(&syncs, &[range(0, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    let second = submit(&syncs, &[range(8, 1), range(10, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 2);
    storage.with(|script| (script.bad, script.held) = (Some((0, libc::EIO)), vec![8]));
    assert_eq!(statuses(&first), [Status::IO_ERROR]);
    // The second one's system call began before the error and ends well after it.
    storage.with(|script| script.held.clear());
    assert_eq!(statuses(&second), [Status::POISONED; 2]);
    assert_eq!(syncs.latched().map(|error| error.errno), Some(libc::EIO));
}

#[test]
fn health_poll_finds_an_error_that_nobody_asked_for() {
    let (storage, syncs, told) = service(1, 4, Duration::from_millis(5));
    storage.wait_until(|script| script.looks >= 3);
    storage.with(|script| script.unhealthy = Some(libc::EIO));
    let error = told.recv_timeout(LONG).expect("the latch is set");
    assert_eq!((error.during, error.first_page), (During::HealthPoll, None));
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::POISONED]);
    assert_eq!(storage.take_asked(), []);
}

#[test]
fn worker_that_dies_answers_and_leaves_nobody_waiting() {
    let (storage, syncs, _told) = service(1, 4, NEVER);
    storage.with(|script| (script.panics, script.held_from) = (true, Some(0)));
    let first = submit(&syncs, &[range(0, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    let waiting = submit(&syncs, &[range(1, 1)]).expect("accepted");
    storage.with(|script| script.held_from = None);
    assert_eq!((statuses(&first), statuses(&waiting)), (vec![Status::IO_ERROR], vec![Status::IO_ERROR]));
    while submit(&syncs, &[range(2, 1)]).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::IO_ERROR]);
}

#[test]
fn wired_ranges_are_repaired_and_the_latch_stays() {
    let (storage, syncs, told) = service(1, 4, NEVER);
    storage.with(|script| (script.wired, script.fail) = (vec![run(0, 10)], Some((0, libc::EIO))));
    let asked = [range(4, 2), range(6, 2), range(9, 2), range(30, 1), range(0, 1)];
    let (ok, lost) = (Status::OK, Status::IO_ERROR);
    assert_eq!(syncs.submit_and_wait(&asked), [ok, ok, lost, lost, ok]);
    assert_eq!(storage.take_asked()[1..], [run(0, 1), run(4, 8)].map(Asked::Repair));
    assert_eq!(told.try_recv(), Ok(latched(libc::EIO, None, During::Sync)));
    // From now on each sync goes this way.
    assert_eq!(syncs.submit_and_wait(&[range(3, 1), range(20, 1)]), [Status::OK, Status::POISONED]);
    assert_eq!(storage.take_asked(), [Asked::Repair(run(3, 4))]);
    assert_eq!((syncs.stats().repairs, syncs.stats().flushes), (3, 0));
    assert!(syncs.latched().is_some() && told.try_recv().is_err());
}

#[test]
fn repair_that_fails_is_answered_with_its_own_ranges() {
    let (storage, syncs, _told) = service(1, 4, NEVER);
    storage.with(|script| (script.wired, script.unhealthy) = (vec![run(0, 64)], Some(libc::EIO)));
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::OK], "repaired, although the look found an error");
    storage.with(|script| script.bad = Some((5, libc::EIO)));
    assert_eq!(
        syncs.submit_and_wait(&[range(1, 2), range(4, 3), range(9, 1)]),
        [Status::OK, Status::POISONED, Status::OK]
    );
}

#[test]
fn page_that_is_let_go_during_its_repair_is_not_answered_ok() {
    let (storage, syncs, _told) = service(1, 4, NEVER);
    storage.with(|script| (script.wired, script.unhealthy) = (vec![run(0, 8)], Some(libc::EIO)));
    assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::OK]);
    storage.with(|script| (script.asked, script.held_from) = (Vec::new(), Some(0)));
    let results = submit(&syncs, &[range(1, 1), range(4, 1)]).expect("accepted");
    storage.wait_until(|script| script.asked.len() == 1);
    storage.with(|script| (script.wired, script.held_from) = (vec![run(2, 8)], None));
    assert_eq!(statuses(&results), [Status::POISONED, Status::OK]);
}

#[test]
fn first_failed_page_is_told_where_it_is_known() {
    let (storage, syncs, _told) = service(1, 4, NEVER);
    storage.with(|script| (script.wired, script.fail) = (vec![run(0, 4)], Some((0, libc::EIO))));
    let results = submit(&syncs, &[range(0, 4), range(2, 4), range(4, 1)]).expect("accepted");
    let of = |status, first_failed_page| RangeResult { status, first_failed_page };
    let expected = [of(Status::OK, None), of(Status::IO_ERROR, Some(4)), of(Status::IO_ERROR, None)];
    assert_eq!(results.recv_timeout(LONG), Ok(expected.to_vec()));
}

#[test]
fn latch_knows_whether_all_of_ram_was_wired() {
    for (held, expected) in [(run(0, 64), true), (run(0, 63), false)] {
        let (storage, syncs, told) = service(1, 4, NEVER);
        storage.with(|script| (script.wired, script.fail) = (vec![held], Some((0, libc::EIO))));
        assert_eq!(syncs.submit_and_wait(&[range(0, 1)]), [Status::OK]);
        assert_eq!(told.try_recv().map(|error| error.nothing_reverted), Ok(expected));
    }
}
