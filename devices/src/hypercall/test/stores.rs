//! Stores, numbers and pages given back, as the guest asks for them.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use wirevm_abi::call::CallEntry;
use wirevm_abi::completion::{Completion, NO_PAGE};
use wirevm_abi::{RamRange, Status, StoreName, VERSION, feature, op, stat};

use super::rig::{PAGES, QUOTA, Rig, hello, page, range, unwire, wire};
use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::ramfile::RamFile;
use crate::store::scripted::{Call, ScriptedDisk, ScriptedFolder};
use crate::store::{StoreConfig, StoreService};

/// RAM full of sevens that takes everything.
#[derive(Debug)]
struct Sevens;

impl GuestMemory for Sevens {
    fn read(&self, _: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        bytes.fill(7);
        Ok(())
    }

    fn write(&self, _: RamRange, _: &[u8]) -> Result<(), BackingLostError> {
        Ok(())
    }

    fn load_word(&self, range: RamRange, _: u64) -> Result<u64, BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }

    fn store_word(&self, range: RamRange, _: u64, _: u64) -> Result<(), BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }
}

fn with_stores(queue: usize, has_ring: bool) -> (Rig, ScriptedDisk) {
    let disk = ScriptedDisk::new(16);
    let folder = ScriptedFolder { disk: disk.clone(), is_durable: true };
    let config = StoreConfig { queue, ..StoreConfig::default() };
    let stores = StoreService::with_folder(Box::new(folder), config, Arc::new(Sevens)).expect("threads");
    (Rig::with_stores(stores, None, has_ring), disk)
}

fn open(name: &str) -> CallEntry {
    let [low, high] = StoreName::new(name).expect("a name").to_words();
    CallEntry::new(op::OPEN_STORE, 0, [low, high, 16])
}

fn close(store: u64) -> CallEntry {
    CallEntry::new(op::CLOSE_STORE, 0, [store, 0, 0])
}

fn data(op: u16, store: u64, first: u64, pages: u64, token: u64) -> CallEntry {
    let flags = u32::try_from(store).expect("small") << op::STORE_SHIFT;
    CallEntry::new(op, flags, [op::pack_run(10, pages).expect("short"), first, token])
}

fn synchronize(store: u64, first: u64, pages: u64, token: u64) -> CallEntry {
    let flags = u32::try_from(store).expect("small") << op::STORE_SHIFT;
    CallEntry::new(op::SYNCHRONIZE, flags, [first, pages, token])
}

/// Makes one call of one entry that has a number for an answer.
fn number(rig: &Rig, entry: CallEntry) -> Result<u64, Status> {
    let (_, left) = rig.ring(0, page(&[entry]));
    match left.entries[0].status() {
        Status::OK => Ok(left.entries[0].words[0]),
        status => Err(status),
    }
}

fn stat_of(rig: &Rig, selector: u64) -> u64 {
    number(rig, CallEntry::new(op::STAT, 0, [selector, 0, 0])).expect("a number")
}

#[test]
fn requests_about_stores_are_pending_and_completed_with_their_tokens() {
    let (rig, disk) = with_stores(64, true);
    let store = number(&rig, open("a")).expect("a number");
    let entries = [data(op::DATA_RETURN, store, 3, 2, 21), synchronize(store, 3, 2, 22), close(store)];
    disk.with(|disk| disk.held = Some(Call::Write));
    let (_, statuses) = rig.call(&entries);
    assert_eq!(statuses, [Status::PENDING, Status::PENDING, Status::BUSY]);
    disk.with(|disk| disk.held = None);
    let done = |token| Completion { token, status: Status::OK, first_failed_page: NO_PAGE };
    assert_eq!(rig.completions(2), [done(21), done(22)]);
    assert_eq!([disk.stable(2), disk.stable(3), disk.stable(4), disk.stable(5)], [0, 7, 7, 0]);
    disk.with(|disk| disk.fail = Some((Call::Read, 0, libc::EIO)));
    assert_eq!(rig.call(&[data(op::DATA_REQUEST, store, 3, 2, 23)]).1, [Status::PENDING]);
    let failed = Completion { token: 23, status: Status::IO_ERROR, first_failed_page: 3 };
    assert_eq!(rig.completions(1), [failed]);
    assert_eq!(rig.call(&[data(op::DATA_REQUEST, store, 3, 2, 24)]).1, [Status::PENDING]);
    assert_eq!(rig.completions(1), [done(24)]);
    let counted = [stat::OPEN_STORES, stat::STORE_PAGES_IN, stat::STORE_PAGES_OUT, stat::COMPLETIONS];
    assert_eq!(counted.map(|selector| stat_of(&rig, selector)), [1, 2, 2, 4]);
    assert_eq!(rig.call(&[close(store), close(store)]).1, [Status::OK, Status::INVALID_ARGUMENT]);
}

#[test]
fn refused_request_gives_its_place_in_the_ring_back() {
    let (rig, disk) = with_stores(1, true);
    let store = number(&rig, open("a")).expect("a number");
    disk.with(|disk| disk.held = Some(Call::Write));
    let entries = [data(op::DATA_RETURN, store, 3, 2, 1), data(op::DATA_RETURN, store, 3, 2, 2)];
    assert_eq!(rig.call(&entries).1, [Status::PENDING, Status::BUSY]);
    assert_eq!(rig.call(&[data(op::DATA_RETURN, store, 15, 2, 3)]).1, [Status::INVALID_ARGUMENT]);
    assert_eq!(rig.guest.ring.stats().outstanding, 1);
    disk.with(|disk| disk.held = None);
    assert_eq!(rig.completions(1)[0].token, 1);
    assert_eq!((rig.guest.ring.stats().outstanding, stat_of(&rig, stat::BUSY_ANSWERS)), (0, 1));
}

#[test]
fn stores_are_offered_only_with_a_folder_and_a_ring() {
    let (rig, _) = with_stores(64, true);
    let features = |rig: &Rig| rig.ring(0, page(&[hello(VERSION)])).1.entries[0].words[1];
    assert_ne!(features(&rig) & feature::STORES, 0);
    let (rig, _) = with_stores(64, false);
    assert_eq!((features(&rig) & feature::STORES, number(&rig, open("a"))), (0, Err(Status::UNSUPPORTED)));
    let rig = Rig::greeted();
    assert_eq!((features(&rig) & feature::STORES, number(&rig, open("a"))), (0, Err(Status::UNSUPPORTED)));
    assert_eq!(rig.call(&[synchronize(1, 0, 1, 9), close(1)]).1, [Status::UNSUPPORTED, Status::UNSUPPORTED]);
    assert_eq!(rig.guest.ring.stats().outstanding, 0);
}

#[test]
fn every_selector_has_a_number_and_no_other_word_does() {
    let rig = Rig::greeted();
    assert_eq!(rig.call(&[wire(7, 3)]).1, [Status::OK]);
    let first = [stat::WIRED_PAGES, stat::WIRE_QUOTA_PAGES, stat::LOCKED_PAGES];
    assert_eq!(first.map(|selector| stat_of(&rig, selector)), [3, QUOTA, 3]);
    let last = stat::NAMES.len() as u64;
    assert!((1..=last).all(|selector| number(&rig, CallEntry::new(op::STAT, 0, [selector, 0, 0])).is_ok()));
    for selector in [0, last + 1, u64::MAX] {
        let asked = number(&rig, CallEntry::new(op::STAT, 0, [selector, 0, 0]));
        assert_eq!(asked, Err(Status::INVALID_ARGUMENT));
    }
}

#[test]
fn storage_error_of_a_store_has_its_number() {
    let (rig, disk) = with_stores(64, true);
    let store = number(&rig, open("a")).expect("a number");
    assert_eq!(stat_of(&rig, stat::STORAGE_ERROR), 0);
    disk.with(|disk| disk.fail = Some((Call::Sync, 0, libc::EDQUOT)));
    assert_eq!(rig.call(&[data(op::DATA_RETURN, store, 3, 2, 1)]).1, [Status::PENDING]);
    assert_eq!(rig.call(&[synchronize(store, 3, 2, 2)]).1, [Status::PENDING]);
    assert_eq!(rig.completions(2)[1], Completion { token: 2, status: Status::IO_ERROR, first_failed_page: 3 });
    assert_eq!(stat_of(&rig, stat::STORAGE_ERROR), u64::from(libc::EDQUOT.unsigned_abs()));
}

#[test]
fn discarded_pages_are_zero_and_wired_ones_are_left_alone() {
    let ram = RamFile::memfd(2 << 20).expect("a RAM");
    ram.file().write_all_at(&vec![7; 64 * 4096], 0).expect("room");
    let rig = Rig::with_stores(StoreService::unsupported(), ram.discard().expect("a description"), true);
    let discard = |first, pages| CallEntry::new(op::DISCARD, 0, [first, pages, 0]);
    let pages = || {
        let mut byte = [0];
        let first = |page: u64| ram.file().read_exact_at(&mut byte, page * 4096).map(|()| byte[0]).expect("a byte");
        (8..14).map(first).collect::<Vec<_>>()
    };
    let (_, statuses) = rig.call(&[wire(10, 1), discard(8, 3), discard(10, 1), discard(11, 2)]);
    assert_eq!(statuses, [Status::OK, Status::BUSY, Status::BUSY, Status::OK]);
    assert_eq!((pages(), stat_of(&rig, stat::DISCARDED_PAGES)), (vec![7, 7, 7, 0, 0, 7], 2));
    // What nobody wires but the host still holds is no reason.
    rig.host.with(|host| host.fail_unlock = Some(0));
    assert_eq!(rig.call(&[unwire(10, 1), discard(9, 3)]).1, [Status::OK, Status::OK]);
    assert_eq!((pages(), ram.file().metadata().expect("a length").len()), (vec![7, 0, 0, 0, 0, 7], 2 << 20));
    assert_eq!(
        rig.call(&[discard(PAGES - 1, 2), discard(0, 0)]).1,
        [Status::INVALID_ADDRESS, Status::INVALID_ARGUMENT]
    );
}

#[test]
fn no_page_is_wired_between_the_look_and_the_hole() {
    let rig = Rig::with_stores(StoreService::unsupported(), None, true);
    std::thread::scope(|scope| {
        let (sender, wired) = std::sync::mpsc::channel();
        let done = rig.pins.while_unwired(range(8, 4), || {
            let pins = &rig.pins;
            scope.spawn(move || {
                pins.wire(range(9, 1)).expect("granted");
                sender.send(()).expect("the test listens");
            });
            wired.recv_timeout(std::time::Duration::from_millis(50)).expect_err("it waits");
            wired
        });
        done.expect("nothing is wired").recv().expect("now it is");
        assert!(rig.pins.while_unwired(range(8, 4), || ()).is_none());
    });
}

#[test]
fn ram_in_a_file_is_not_discarded() {
    let rig = Rig::greeted();
    let features = rig.ring(0, page(&[hello(VERSION)])).1.entries[0].words[1];
    assert_eq!(features & feature::DISCARD, 0);
    assert_eq!(rig.call(&[CallEntry::new(op::DISCARD, 0, [8, 1, 0])]).1, [Status::UNSUPPORTED]);
}
