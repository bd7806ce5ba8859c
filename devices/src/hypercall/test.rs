//! The doorbell, call by call.

mod orders;
mod pending;
mod random;
mod rig;
mod stores;
mod vcpus;

use wirevm_abi::call::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
use wirevm_abi::{Status, VERSION, feature, op};
use zerocopy::FromZeros;

use self::rig::{PAGES, QUOTA, Rig, exit, hello, page, run, start, sync, unwire, wire};
use crate::bus::{PortDevice, Signal};
use crate::pin::scripted::Asked;
use crate::sync::scripted::Asked as Flushed;

#[test]
fn doorbell_before_hello_touches_nothing_and_is_answered_on_the_port() {
    let rig = Rig::volatile();
    assert_eq!(rig.last(0), Status::NOT_DONE);
    let refused = CallHeader::new(0);
    let malformed = CallPage { header: refused, ..page(&[hello(VERSION)]) };
    for asked in [page(&[wire(1, 1), hello(VERSION)]), page(&[exit(1)]), malformed, CallPage::new_zeroed()] {
        let (signal, left) = rig.ring(0, asked);
        assert_eq!((signal, left), (Signal::None, asked));
        assert!(rig.memory.ram().writes.is_empty());
        assert_eq!(rig.last(0), Status::INVALID_ADDRESS);
    }
    assert_eq!(rig.host.take_asked(), []);
}

#[test]
fn hello_is_answered_with_version_features_and_quota() {
    for (rig, features) in [
        (Rig::volatile(), 0),
        (Rig::greeted(), feature::SYNC | feature::COMPLETIONS),
        (Rig::durable(1, 1, false), feature::SYNC),
    ] {
        let (signal, left) = rig.ring(0, page(&[hello(VERSION), wire(1, 2)]));
        assert_eq!((signal, left.header.status()), (Signal::None, Status::OK));
        assert_eq!(left.entries[0].words, [VERSION, features, QUOTA]);
        assert_eq!((left.entries[0].status(), left.entries[1].status()), (Status::OK, Status::OK));
        assert_eq!(rig.host.take_asked(), [Asked::Lock(run(1, 3))]);
        assert_eq!(rig.last(0), Status::OK);
    }
}

#[test]
fn hello_of_another_version_tells_the_hosts_and_refuses_what_is_behind_it() {
    let rig = Rig::volatile();
    let (signal, left) = rig.ring(0, page(&[hello(VERSION + 1), wire(1, 1), sync(1, 1), exit(3)]));
    assert_eq!((signal, left.header.status(), rig.last(0)), (Signal::None, Status::OK, Status::OK));
    assert_eq!((left.entries[0].status(), left.entries[0].words), (Status::UNSUPPORTED, [VERSION, 0, 0]));
    for behind in &left.entries[1..4] {
        assert_eq!(behind.status(), Status::INVALID_ADDRESS);
    }
    assert_eq!(rig.host.take_asked(), []);
    // It has opened nothing; the next may.
    let asked = page(&[wire(1, 1)]);
    assert_eq!(rig.ring(0, asked), (Signal::None, asked));
    let again = [hello(VERSION + 1), wire(1, 1), hello(VERSION), wire(2, 1)];
    let expected = vec![Status::UNSUPPORTED, Status::INVALID_ADDRESS, Status::OK, Status::OK];
    assert_eq!(rig.call(&again), (Signal::None, expected));
    assert_eq!(rig.host.take_asked(), [Asked::Lock(run(2, 3))]);
}

#[test]
fn hello_of_one_vcpu_does_not_open_anothers_conversation() {
    let rig = Rig::greeted();
    let asked = page(&[wire(1, 1)]);
    assert_eq!(rig.ring(1, asked), (Signal::None, asked));
    assert_eq!((rig.last(0), rig.last(1)), (Status::OK, Status::INVALID_ADDRESS));
    assert_eq!(rig.ring(1, page(&[hello(VERSION)])).1.entries[0].status(), Status::OK);
    assert_eq!(rig.last(1), Status::OK);
}

#[test]
fn header_that_is_malformed_is_answered_alone() {
    let rig = Rig::greeted();
    let new = CallHeader::new;
    for (header, expected) in [
        (CallHeader { control: (VERSION + 1) | 1 << 32, ..new(1) }, Status::UNSUPPORTED),
        (new(0), Status::INVALID_ARGUMENT),
        (new(MAX_ENTRIES + 1), Status::INVALID_ARGUMENT),
        (CallHeader { reserved: [1, 0, 0, 0, 0, 0], ..new(1) }, Status::INVALID_ARGUMENT),
        (CallHeader { reserved: [0, 0, 0, 0, 0, 1 << 63], ..new(1) }, Status::INVALID_ARGUMENT),
    ] {
        let asked = CallPage { header, ..page(&[wire(1, 1)]) };
        let (signal, left) = rig.ring(0, asked);
        let answered = CallHeader { status: expected.bits().into(), ..header };
        assert_eq!((signal, left), (Signal::None, CallPage { header: answered, ..asked }));
        assert_eq!(rig.memory.ram().writes, [size_of::<CallHeader>()]);
        assert_eq!(rig.last(0), expected);
    }
    assert_eq!(rig.host.take_asked(), []);
    let (signal, statuses) = rig.call(&[wire(1, 1); MAX_ENTRIES]);
    assert_eq!((signal, statuses), (Signal::None, vec![Status::OK; MAX_ENTRIES]));
    assert_eq!(rig.pins.count(1), 126);
}

#[test]
fn batch_is_carried_out_in_order_and_each_entry_has_its_own_status() {
    let rig = Rig::greeted();
    rig.host.with(|script| script.fail_lock = Some((1, libc::ENOMEM)));
    let batch = [
        (unwire(2, 2), Status::INVALID_ARGUMENT),
        (wire(2, 2), Status::OK),
        (wire(9, 1), Status::RESOURCE_SHORTAGE),
        (unwire(2, 2), Status::OK),
        (wire(PAGES, 1), Status::INVALID_ADDRESS),
        (wire(0, 0), Status::INVALID_ARGUMENT),
        (wire(0, QUOTA + 1), Status::QUOTA),
        (CallEntry::new(op::WIRE, op::WIRE_ON_FAULT, [1, 1, 0]), Status::UNSUPPORTED),
        (CallEntry::new(op::STAT, 0, [0; 3]), Status::INVALID_ARGUMENT),
        (sync(2, 2), Status::OK),
        (start(2, 2), Status::PENDING),
        (wire(3, 1), Status::OK),
    ];
    let (entries, expected): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    assert_eq!(rig.call(&entries), (Signal::None, expected));
    let asked = [
        Asked::Lock(run(2, 4)),
        Asked::Lock(run(9, 10)),
        Asked::Unlock(run(9, 10)),
        Asked::Unlock(run(2, 4)),
        Asked::Lock(run(3, 4)),
    ];
    assert_eq!(rig.host.take_asked(), asked);
}

#[test]
fn syncs_that_stand_together_and_wait_alike_are_one_request() {
    for (entries, requests) in [
        (vec![sync(8, 1), sync(0, 1), sync(1, 1)], 1),
        (vec![start(8, 1), start(0, 1)], 1),
        (vec![sync(0, 1), wire(1, 1), sync(2, 1)], 2),
        (vec![sync(0, 1), start(1, 1), sync(2, 1), sync(3, 1)], 3),
        (vec![sync(0, 1), sync(PAGES, 1), sync(2, 1)], 2),
        (vec![hello(VERSION), sync(0, 1), exit(0), sync(2, 1)], 1),
    ] {
        let rig = Rig::greeted();
        let (_, statuses) = rig.call(&entries);
        assert_eq!(rig.syncs.stats().requests, requests, "{statuses:?}");
    }
    let rig = Rig::greeted();
    assert_eq!(rig.call(&[sync(8, 1), sync(0, 1), sync(1, 1)]).1, [Status::OK; 3]);
    assert_eq!(rig.storage.take_asked(), [Flushed::Write(vec![run(0, 2), run(8, 9)]), Flushed::Flush(run(8, 9))]);
}

#[test]
fn sync_that_fails_is_answered_on_its_entries() {
    let rig = Rig::greeted();
    rig.storage.with(|script| script.fail = Some((1, libc::EIO)));
    let (_, statuses) = rig.call(&[sync(20, 1), sync(0, 1), wire(0, 1), sync(0, 1), start(0, 1)]);
    let failed = Status::IO_ERROR;
    assert_eq!(statuses, [failed, failed, Status::OK, Status::POISONED, Status::PENDING]);
    assert_eq!(rig.completions(1)[0].status, Status::POISONED);
    let volatile = Rig::volatile();
    let (_, statuses) = volatile.call(&[hello(VERSION), sync(0, 1), start(0, 1)]);
    assert_eq!(statuses, [Status::OK, Status::UNSUPPORTED, Status::UNSUPPORTED]);
}

#[test]
fn exit_leaves_what_is_behind_it_not_done() {
    let rig = Rig::greeted();
    let (signal, statuses) = rig.call(&[exit(256), wire(1, 1), exit(7), wire(2, 1), exit(8)]);
    assert_eq!(signal, Signal::Exit { code: 7 });
    let (malformed, ok, left) = (Status::INVALID_ARGUMENT, Status::OK, Status::NOT_DONE);
    assert_eq!(statuses, [malformed, ok, ok, left, left]);
    assert_eq!(rig.memory.ram().writes, [size_of::<CallHeader>() + 3 * size_of::<CallEntry>()]);
    assert_eq!(rig.host.take_asked(), [Asked::Lock(run(1, 2))]);
}

#[test]
fn status_that_the_guest_presets_never_stays() {
    let batch = [
        (hello(VERSION + 1), Status::UNSUPPORTED),
        (unwire(1, 1), Status::INVALID_ADDRESS),
        (hello(VERSION), Status::OK),
        (CallEntry::new(op::HELLO, 1, [VERSION, 0, 0]), Status::INVALID_ARGUMENT),
        (unwire(1, 1), Status::INVALID_ARGUMENT),
        (wire(1, QUOTA + 1), Status::QUOTA),
        (wire(1, PAGES), Status::INVALID_ADDRESS),
        (sync(1, 1), Status::UNSUPPORTED),
        (sync(1, 0), Status::INVALID_ARGUMENT),
        (CallEntry::new(0, 0, [0; 3]), Status::UNSUPPORTED),
        (exit(1), Status::OK),
    ];
    for preset in [Status::OK, Status::PENDING, Status::NOT_DONE, Status::BUSY, Status::from_bits(0x1234)] {
        let rig = Rig::volatile();
        let mut asked = page(&batch.map(|(entry, _)| entry));
        asked.header.status = u64::MAX << 16 | u64::from(preset.bits());
        asked.entries.iter_mut().for_each(|entry| entry.set_status(preset));
        let (signal, left) = rig.ring(0, asked);
        assert_eq!((signal, left.header.status), (Signal::Exit { code: 1 }, 0));
        let expected = batch.map(|(_, status)| status);
        for (entry, expected) in left.entries.iter().zip(expected) {
            assert_eq!(entry.status(), expected, "{entry:?}");
        }
        assert_eq!(left.entries[expected.len()..], asked.entries[expected.len()..]);
    }
}

#[test]
fn memory_that_is_gone_is_a_signal_and_not_an_answer() {
    let rig = Rig::greeted();
    rig.memory.ram().reads_fail = true;
    let asked = page(&[wire(1, 1)]);
    assert_eq!(rig.ring(0, asked), (Signal::BackingLost, asked));
    assert!(rig.memory.ram().writes.is_empty());
    assert_eq!(rig.host.take_asked(), []);
    rig.memory.ram().reads_fail = false;
    rig.memory.ram().writes_fail = true;
    assert_eq!(rig.ring(0, page(&[exit(0)])).0, Signal::BackingLost);
}

#[test]
fn vcpu_that_does_not_exist_reaches_nothing() {
    let rig = Rig::greeted();
    let before = rig.memory.ram().reads;
    for vcpu in [2, usize::MAX] {
        assert_eq!(rig.device.write(vcpu, 0, &[0]), Signal::None);
        let mut data = [0xee; 2];
        rig.device.read(vcpu, 0, &mut data);
        assert_eq!(data, [0; 2]);
    }
    assert_eq!((rig.memory.ram().reads, rig.device.doorbells()), (before, 1));
}

#[test]
fn wires_in_a_row_ask_the_host_together_and_are_answered_one_by_one() {
    let rig = Rig::greeted();
    let calls = || rig.host.with(|script| std::mem::take(&mut script.calls));
    let wires: Vec<_> = (0..QUOTA).map(|run| wire(2 * run, 1)).collect();
    let unwires: Vec<_> = (0..QUOTA).map(|run| unwire(2 * run, 1)).collect();
    let ok = vec![Status::OK; wires.len()];
    assert_eq!((rig.call(&wires).1, calls()), (ok.clone(), 1));
    assert_eq!((rig.call(&unwires).1, calls()), (ok, 1));
    let mixed =
        [wire(0, 1), wire(2, 1), unwire(0, 1), wire(4, QUOTA), wire(4, 1), unwire(9, 1), unwire(2, 2), unwire(2, 1)];
    let (quota, invalid) = (Status::QUOTA, Status::INVALID_ARGUMENT);
    let expected = [Status::OK, Status::OK, Status::OK, quota, Status::OK, invalid, invalid, Status::OK];
    assert_eq!(rig.call(&mixed).1, expected);
    assert_eq!(rig.pins.stats().wired_pages, 1);
}
