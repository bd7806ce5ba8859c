//! Random call pages, with many numbers at the edges.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use wirevm_abi::call::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
use wirevm_abi::{Status, VERSION, op};
use zerocopy::FromZeros;

use super::rig::{PAGES, Rig};
use crate::bus::Signal;

/// Numbers at the edges of RAM, counts and words.
fn word() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![PAGES - 1, PAGES, PAGES + 1, 255, 256, 1 << 63, u64::MAX - PAGES, u64::MAX]);
    prop_oneof![4 => 0..4_u64, 2 => 0..PAGES, 1 => edge, 1 => any::<u64>()]
}

fn entry() -> impl Strategy<Value = CallEntry> {
    let op = prop_oneof![12 => op::HELLO..op::EXIT, 1 => 0..=op::START_VCPU + 1, 1 => any::<u16>()];
    let flags = prop_oneof![6 => 0..3_u32, 1 => any::<u32>()];
    let third = prop_oneof![4 => Just(0), 1 => word()];
    (op, any::<u16>(), flags, word(), word(), third).prop_map(|(op, status, flags, first, second, third)| {
        let mut entry = CallEntry::new(op, flags, [first, second, third]);
        entry.set_status(Status::from_bits(status));
        entry
    })
}

fn any_page() -> impl Strategy<Value = CallPage> {
    let version = prop_oneof![9 => Just(VERSION), 1 => word()];
    let reserved = prop_oneof![9 => Just(0), 1 => any::<u64>()];
    let count = prop_oneof![4 => 1..=8_u64, 3 => 1..=126_u64, 1 => 125..=128_u64, 1 => word()];
    let entries = prop::collection::vec(entry(), MAX_ENTRIES);
    (version, count, any::<u64>(), reserved, entries).prop_map(|(version, count, status, reserved, entries)| {
        let mut page = CallPage::new_zeroed();
        page.header = CallHeader { control: version | count << 32, status, reserved: [reserved, 0, 0, 0, 0, 0] };
        page.entries.copy_from_slice(&entries);
        page
    })
}

/// What holds of any page that was rung for: how it was left, given how it was.
fn check_answer(asked: &CallPage, left: &CallPage, signal: Signal, written: usize) {
    let header = CallHeader { status: left.header.status, ..asked.header };
    assert_eq!(left.header, header, "of the header only the status changes");
    assert!(left.header.status().name().is_some() && left.header.status() != Status::NOT_DONE);
    let done = (written - size_of::<CallHeader>()) / size_of::<CallEntry>();
    assert_eq!(left.entries[done..], asked.entries[done..]);
    match (signal, asked.header.check()) {
        (Signal::Exit { .. }, Ok(count)) => {
            assert!(done <= count);
            assert_eq!((asked.entries[done - 1].op(), left.entries[done - 1].status()), (op::EXIT, Status::OK));
        }
        (Signal::None, Ok(count)) => assert_eq!(done, count),
        (Signal::None, Err(status)) => assert_eq!((done, left.header.status()), (0, status)),
        (signal, check) => panic!("{signal:?} after {check:?}"),
    }
    for (before, after) in asked.entries.iter().zip(&left.entries).take(done) {
        assert!(after.status().name().is_some() && after.status() != Status::NOT_DONE, "{before:?} became {after:?}");
        assert_eq!((after.op(), after.flags()), (before.op(), before.flags()));
        assert!(
            after.words == before.words || matches!(before.op(), op::HELLO | op::STAT),
            "{before:?} became {after:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_page_is_answered_with_known_statuses(pages in prop::collection::vec(any_page(), 1..4), greeted in any::<bool>()) {
        let rig = if greeted { Rig::greeted() } else { Rig::volatile() };
        for asked in pages {
            let (signal, left) = rig.ring(0, asked);
            let written = rig.memory.ram().writes.first().copied();
            match written {
                Some(written) => check_answer(&asked, &left, signal, written),
                None => {
                    assert!(!greeted);
                    assert_eq!((signal, left, rig.last(0)), (Signal::None, asked, Status::INVALID_ADDRESS));
                }
            }
        }
    }
}
