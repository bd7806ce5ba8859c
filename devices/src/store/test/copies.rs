//! Copying between a store and RAM.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::rig::{Bench, OK, failed};
use crate::store::scripted::{Call, Mistake};

fn calls(bench: &Bench, kind: Call) -> Vec<std::ops::Range<u64>> {
    bench.disk.with(|disk| disk.calls.iter().filter(|call| call.0 == kind).map(|call| call.1.clone()).collect())
}

#[test]
fn bytes_go_out_and_come_back_in_slices() {
    let bench = Bench::new(Mistake::None, false);
    for (page, byte) in (3_u64..).zip(1..=100_u8) {
        bench.ram.fill(page, 1, byte);
    }
    assert_eq!(bench.give(0, 3, 1, 1), OK);
    let out = bench.give(0, 10, 100, 5);
    assert_eq!((out, calls(&bench, Call::Write)), (OK, vec![3..4, 10..74, 74..110]));
    assert_eq!((bench.get(1, 3, 100), calls(&bench, Call::Read)), (Ok(1), vec![3..67, 67..103]));
    let seen: Vec<_> = (3..103).map(|page| bench.ram.page(page)).collect();
    let expected: Vec<_> = (3..103)
        .map(|page| {
            if page == 3 {
                1
            } else if page < 10 {
                0
            } else {
                5
            }
        })
        .collect();
    assert_eq!(seen, expected);
    let counted = (bench.copied.pages_in.load(Ordering::Relaxed), bench.copied.pages_out.load(Ordering::Relaxed));
    assert_eq!(counted, (100, 101));
}

#[test]
fn exclusive_store_gives_its_copy_up_once_ram_has_the_bytes() {
    for exclusive in [true, false] {
        let bench = Bench::new(Mistake::None, exclusive);
        assert_eq!((bench.give(0, 4, 4, 7), bench.sync(0, 4, 4)), (OK, OK));
        assert_eq!(bench.get(0, 5, 2), Ok(7));
        let last = bench.disk.with(|disk| disk.calls.last().cloned()).expect("calls");
        assert_eq!(last, if exclusive { (Call::Punch, 5..7) } else { (Call::Read, 5..7) });
        let left: Vec<_> = (4..8).map(|page| bench.disk.stable(page)).collect();
        assert_eq!(left, if exclusive { [7, 0, 0, 7] } else { [7; 4] });
    }
}

#[test]
fn exclusive_store_keeps_its_copy_when_the_bytes_did_not_arrive() {
    let bench = Bench::new(Mistake::None, true);
    assert_eq!(bench.give(0, 0, 100, 7), OK);
    bench.disk.with(|disk| disk.fail = Some((Call::Read, 1, libc::EIO)));
    assert_eq!(bench.get(0, 0, 100), Err(failed(64)), "the second slice");
    *bench.ram.gone_from.lock().unwrap_or_else(PoisonError::into_inner) = 70;
    assert_eq!(bench.get(0, 66, 4), Ok(7));
    let given_up = calls(&bench, Call::Punch);
    assert_eq!((given_up.len(), given_up.first()), (1, Some(&(66..70))));
    assert_eq!(calls(&bench, Call::Read).last(), Some(&(66..70)));
}

#[test]
fn copy_that_could_not_be_given_up_harms_nobody() {
    let bench = Bench::new(Mistake::None, true);
    assert_eq!(bench.give(0, 4, 1, 7), OK);
    bench.disk.with(|disk| disk.fail = Some((Call::Punch, 0, libc::EOPNOTSUPP)));
    assert_eq!((bench.get(0, 4, 1), bench.sync(0, 4, 1), bench.get(0, 4, 1)), (Ok(7), OK, Ok(7)));
}

#[test]
fn page_that_was_given_up_is_neither_lost_nor_in_the_way_of_a_sync() {
    let bench = Bench::new(Mistake::None, true);
    assert_eq!((bench.give(0, 4, 2, 7), bench.get(0, 4, 1)), (OK, Ok(7)));
    bench.disk.with(|disk| disk.bad.insert(5));
    assert_eq!(bench.sync(0, 4, 2), failed(5), "not 4, of which there is nothing to lose");
    assert_eq!((bench.sync(0, 4, 1), bench.give(0, 4, 1, 8), bench.get(0, 4, 1)), (OK, OK, Ok(8)));
}

#[test]
fn write_without_room_tells_the_first_page_without_and_tears_one_at_most() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
        let bench = Bench::new(Mistake::None, false);
        assert_eq!((bench.give(0, 4, 4, 6), bench.sync(0, 4, 4)), (OK, OK));
        bench.disk.with(|disk| (disk.room, disk.fail) = (Some(4096 + 100), Some((Call::Write, 1, errno))));
        assert_eq!(bench.give(0, 4, 4, 7), failed(5));
        assert_eq!((bench.get(0, 4, 1), bench.get(0, 5, 1), bench.get(0, 6, 1)), (Ok(7), Err(failed(5)), Ok(6)));
        assert_eq!((bench.sync(0, 4, 1), bench.sync(0, 4, 4)), (OK, failed(5)));
        assert_eq!((bench.give(0, 4, 4, 8), bench.sync(0, 4, 4), bench.disk.stable(5)), (OK, OK, 8));
    }
}

#[test]
fn write_that_fails_between_pages_leaves_the_others_as_they_were() {
    let bench = Bench::new(Mistake::None, false);
    assert_eq!((bench.give(0, 0, 100, 6), bench.sync(0, 0, 100)), (OK, OK));
    bench.disk.with(|disk| disk.fail = Some((Call::Write, 1, libc::ENOSPC)));
    assert_eq!(bench.give(0, 0, 100, 7), failed(64));
    assert_eq!((bench.get(0, 63, 1), bench.get(0, 64, 1), bench.sync(0, 0, 100)), (Ok(7), Ok(6), OK));
}
