//! What is said after storage has failed.
//!
//! Each test is a scene that tells what was answered; its control plays the scene with a mistake and must not hear the same.

use std::num::NonZero;
use std::sync::{Arc, Mutex};

use wirevm_abi::completion::NO_PAGE;

use super::rig::{Bench, OK, failed};
use crate::store::scripted::{Call, Mistake};
use crate::store::worker::Outcome;

/// Page 4 is returned, and its writing fails during a sync; nobody returns it again.
fn sync_twice(mistake: Mistake) -> [Outcome; 2] {
    let bench = Bench::new(mistake, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(4));
    let answers = [bench.sync(0, 4, 1), bench.sync(0, 4, 1)];
    assert_eq!(bench.disk.stable(4), 0, "it never got there");
    answers
}

#[test]
fn lost_page_stays_lost_however_often_it_is_synchronized() {
    assert_eq!(sync_twice(Mistake::None), [failed(4), failed(4)]);
    // A service that asked storage again would have been told that all is well.
    assert_eq!(sync_twice(Mistake::BelievesTheSecondSync), [OK, OK]);
}

#[test]
fn lost_page_is_not_read_and_stable_ones_are() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!((bench.give(0, 2, 1, 6), bench.sync(1, 2, 1)), (OK, OK));
    assert_eq!(bench.give(0, 4, 2, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(4));
    assert_eq!(bench.sync(0, 4, 2), failed(4));
    assert_eq!(bench.get(0, 4, 1), Err(failed(4)));
    assert_eq!(bench.get(1, 1, 4), Err(failed(4)));
    assert_eq!((bench.get(1, 2, 1), bench.sync(1, 0, 4)), (Ok(6), OK));
}

#[test]
fn lost_page_that_is_returned_again_is_stable_after_the_next_sync_of_any_worker() {
    for worker in [0, 1] {
        for other in [0, 1] {
            let bench = Bench::new(Mistake::None, false);
            assert_eq!(bench.give(0, 4, 1, 7), OK);
            bench.disk.with(|disk| disk.bad.insert(4));
            assert_eq!(bench.sync(0, 4, 1), failed(4));
            assert_eq!((bench.give(worker, 4, 1, 8), bench.get(other, 4, 1)), (OK, Ok(8)));
            assert_eq!((bench.sync(other, 4, 1), bench.disk.stable(4)), (OK, 8));
        }
    }
}

#[test]
fn sync_of_stable_pages_succeeds_although_others_are_lost_by_it() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(4));
    assert_eq!(bench.sync(0, 0, 4), OK);
    assert_eq!(bench.sync(0, 4, 1), failed(4));
}

/// Page 4 is returned, written out in vain behind everybody's back, and dropped from the cache; then it is read.
fn read_after_loss(mistake: Mistake) -> Result<u8, Outcome> {
    let bench = Bench::new(mistake, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(4));
    bench.disk.write_out(4);
    bench.disk.evict(4);
    bench.get(1, 4, 1)
}

#[test]
fn page_that_reverted_behind_everybodys_back_is_not_read() {
    assert_eq!(read_after_loss(Mistake::None), Err(failed(4)));
    assert_eq!(read_after_loss(Mistake::IsBlind), Ok(0), "the control reads what was there before");
}

#[test]
fn return_that_an_error_overtakes_says_so() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(4));
    bench.disk.write_out(4);
    // Nobody knows whether the error was about these pages.
    assert_eq!(bench.give(0, 8, 2, 7), failed(8));
    assert_eq!((bench.sync(1, 8, 2), bench.sync(1, 4, 1)), (failed(8), failed(4)));
    assert_eq!((bench.give(1, 8, 2, 7), bench.sync(0, 8, 2)), (OK, OK));
}

/// While one worker's sync has been told of the loss of page 4 and has told nobody yet, another worker syncs that page.
fn sync_meanwhile(mistake: Mistake) -> [Outcome; 2] {
    let bench = Bench::new(mistake, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    let (answer, inner) = (Arc::new(Mutex::new(OK)), Arc::clone(&bench));
    let told = Arc::clone(&answer);
    bench.disk.with(|disk| {
        disk.bad.insert(4);
        disk.before_error_returns = Some(Box::new(move || *told.lock().expect("lock") = inner.sync(1, 4, 1)));
    });
    let outer = bench.sync(0, 4, 1);
    [outer, *answer.lock().expect("lock")]
}

#[test]
fn workers_do_not_take_each_others_errors() {
    assert_eq!(sync_meanwhile(Mistake::None), [failed(4), failed(4)]);
    assert_eq!(
        sync_meanwhile(Mistake::SharesTheDescription),
        [OK, OK],
        "the control believes the worker that was not told"
    );
}

#[test]
fn worker_that_slept_through_a_failure_does_not_meet_it_later() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    let inner = Arc::clone(&bench);
    bench.disk.with(|disk| {
        disk.bad.insert(4);
        // The other worker is busy with a sync when the first one finds the error, so nobody else renews its description.
        disk.before_sync_looks = Some(Box::new(move || assert_eq!(inner.sync(0, 4, 1), failed(4))));
    });
    assert_eq!(bench.sync(1, 100, 1), OK, "nobody returned it");
    assert_eq!((bench.give(0, 4, 1, 8), bench.sync(1, 4, 1), bench.disk.stable(4)), (OK, OK, 8));
}

#[test]
fn error_that_somebody_outside_was_told_of_is_not_skipped_by_a_new_description() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    let inner = Arc::clone(&bench);
    let outside = bench.disk.open(Mistake::None);
    bench.disk.with(|disk| {
        disk.before_sync_returns = Some(Box::new(move || {
            inner.faults.fail_nth(NonZero::<u64>::MIN, libc::EIO);
            assert_eq!(inner.sync(0, 9, 1), OK, "nobody returned it, and every description is to be made anew");
            assert_eq!(inner.give(0, 5, 1, 8), OK);
            inner.disk.with(|disk| disk.bad.insert(5));
            inner.disk.write_out(5);
            inner.disk.evict(5);
            outside.sync().expect_err("told to somebody outside, so a new description will not be");
        }));
    });
    assert_eq!(bench.sync(1, 100, 1), OK);
    assert_eq!(bench.get(1, 5, 1), Err(failed(5)));
}

/// Page 9 is returned once more during a sync, after that has written everything out; then its writing fails.
fn return_during_sync(during: bool) -> Outcome {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!((bench.give(0, 4, 1, 7), bench.give(0, 9, 1, 7)), (OK, OK));
    let inner = Arc::clone(&bench);
    if during {
        bench.disk.with(|disk| {
            disk.before_sync_looks = Some(Box::new(move || assert_eq!(inner.give(1, 9, 1, 8), OK)));
        });
    }
    assert_eq!(bench.sync(0, 4, 1), OK);
    assert_eq!(bench.disk.stable(9), 7);
    // Another page's loss: whatever is not stable by now is lost.
    assert_eq!(bench.give(0, 20, 1, 7), OK);
    bench.disk.with(|disk| disk.bad.insert(20));
    bench.disk.write_out(20);
    let _lost = bench.get(0, 20, 1);
    bench.sync(1, 9, 1)
}

#[test]
fn sync_covers_returns_from_before_it_and_none_from_during_it() {
    assert_eq!(return_during_sync(false), OK, "it was covered although it is outside the range");
    assert_eq!(return_during_sync(true), failed(9));
}

#[test]
fn sync_that_another_workers_error_overtakes_proves_nothing() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!((bench.give(0, 4, 1, 7), bench.give(0, 9, 1, 7)), (OK, OK));
    let inner = Arc::clone(&bench);
    bench.disk.with(|disk| {
        disk.before_sync_returns = Some(Box::new(move || {
            inner.disk.with(|disk| disk.fail = Some((Call::Sync, 0, libc::ENOSPC)));
            assert_eq!(inner.sync(1, 9, 1), failed(9));
        }));
    });
    assert_eq!(bench.sync(0, 4, 1), failed(4));
}

#[test]
fn every_call_of_a_sync_can_fail_it() {
    for (call, errno) in [(Call::Start, libc::ENOSPC), (Call::Sync, libc::EDQUOT), (Call::Sync, libc::EIO)] {
        let bench = Bench::new(Mistake::None, false);
        assert_eq!(bench.give(0, 4, 1, 7), OK);
        bench.disk.with(|disk| disk.fail = Some((call, 0, errno)));
        assert_eq!((bench.sync(0, 4, 1), bench.sync(0, 4, 1)), (failed(4), failed(4)), "{call:?} {errno}");
        assert_eq!((bench.give(0, 4, 1, 7), bench.sync(0, 4, 1)), (OK, OK));
    }
}

#[test]
fn ordered_fault_strikes_a_sync_as_storage_would() {
    let bench = Bench::new(Mistake::None, false);
    bench.faults.fail_nth(NonZero::new(2).expect("not 0"), libc::EIO);
    assert_eq!((bench.give(0, 4, 1, 7), bench.sync(0, 4, 1)), (OK, OK));
    assert_eq!((bench.give(0, 5, 1, 7), bench.sync(0, 5, 1)), (OK, failed(5)));
    assert_eq!((bench.sync(0, 5, 1), bench.sync(0, 4, 1)), (failed(5), OK));
}

#[test]
fn without_a_new_description_nothing_is_believed_after_a_failure() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| {
        disk.bad.insert(4);
        disk.descriptions = Some(0);
    });
    assert_eq!(bench.sync(0, 4, 1), failed(4));
    assert_eq!((bench.sync(0, 100, 1), bench.give(0, 4, 1, 8)), (failed(NO_PAGE), failed(NO_PAGE)));
    bench.disk.with(|disk| disk.descriptions = None);
    assert_eq!((bench.give(0, 4, 1, 8), bench.sync(0, 4, 1), bench.disk.stable(4)), (OK, OK, 8));
}

#[test]
fn store_that_somebody_cuts_loses_what_was_behind_the_cut() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!((bench.give(0, 0, 8, 7), bench.sync(0, 0, 8)), (OK, OK));
    bench.disk.with(|disk| disk.cut = Some(5 * 4096 + 1));
    assert_eq!(bench.get(0, 3, 4), Err(failed(5)));
    assert_eq!((bench.get(0, 3, 2), bench.sync(1, 0, 8), bench.sync(1, 0, 5)), (Ok(7), failed(5), OK));
    let writes =
        |disk: &mut crate::store::scripted::Disk| disk.calls.iter().filter(|call| call.0 == Call::Write).count();
    let before = bench.disk.with(writes);
    assert_eq!(bench.give(0, 4, 4, 7), failed(5), "a write would make it longer, with zeros in between");
    assert_eq!((bench.disk.with(writes), bench.give(0, 4, 1, 7)), (before, OK));
    bench.disk.with(|disk| disk.cut = None);
    assert_eq!(
        bench.get(0, 6, 1),
        Err(failed(6)),
        "somebody made it longer again; what stands there is not what stood there"
    );
    assert_eq!((bench.give(0, 5, 123, 9), bench.get(0, 6, 1)), (OK, Ok(9)));
}

#[test]
fn cut_is_found_by_a_sync_before_it_says_that_pages_are_stable() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!(bench.give(0, 6, 1, 7), OK);
    bench.disk.with(|disk| disk.cut = Some(4096));
    assert_eq!(bench.sync(0, 6, 1), failed(6));
}
