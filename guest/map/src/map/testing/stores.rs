//! Memory objects that stores of the host's back, and a model of what each page's bytes are: in the cache, in the store's file,
//! on stable storage.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{Bed, Outcome};
use crate::fake::{Executor, FakePorts, HostCall, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::ObjectHandle;
use crate::kern_return::KernReturn;
use crate::map::{MapMode, Placement};
use crate::ports::{HostError, StoreId, StoreKind};
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;
const ASYNC: SyncFlags = SyncFlags::ASYNCHRONOUS;
const INVALIDATE: SyncFlags = SyncFlags::INVALIDATE;
/// Pages of the store.
const PAGES: u64 = 8;
/// What every byte of its file is before anybody writes.
const OLD: u8 = 0x77;

/// A store of 8 pages, mapped shared at the bed's pages 0 to 7.
pub(super) struct Rig {
    pub(super) bed: Bed,
    pub(super) object: Option<ObjectHandle<FakePorts>>,
    kind: StoreKind,
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end)
}

impl Rig {
    pub(super) fn new(kind: StoreKind) -> Self {
        let bed = Bed::new();
        bed.host().fill_store("data", PAGES, OLD);
        let mut rig = Self { bed, object: None, kind };
        rig.open();
        rig
    }

    pub(super) fn open(&mut self) {
        let object = self.bed.machine.vm.store_object("data", PAGES, self.kind).unwrap();
        let placement = Placement::Fixed(self.bed.at(0));
        let (map, pages) = (&self.bed.machine.map, range(0, PAGES));
        let mapped = block_on(map.map_object(placement, &object, pages, MapMode::Shared, Prot::DEFAULT));
        assert_eq!(mapped, Ok(self.bed.at(0)));
        self.object = Some(object);
    }

    /// Lets the object end.
    pub(super) fn close(&mut self) -> Outcome {
        let closed = block_on(self.bed.machine.map.deallocate(self.bed.at(0), PAGES << PAGE_SHIFT));
        self.object = None;
        self.run_background();
        closed
    }

    pub(super) fn run_background(&self) {
        assert_eq!(self.bed.machine.run(&mut Executor::new(1)), Ok(()));
    }

    pub(super) fn msync(&self, start: u64, end: u64, flags: SyncFlags) -> Outcome {
        let size = (end - start) << PAGE_SHIFT;
        let outcome = block_on(self.bed.machine.map.msync(self.bed.at(start), size, flags));
        self.run_background();
        self.bed.settled(outcome)
    }

    pub(super) fn bytes(&self, page: u64) -> (u8, u8) {
        self.bed.host().store_byte("data", page).unwrap()
    }

    pub(super) fn dirty(&self) -> Vec<PageRange> {
        self.object.as_ref().unwrap().dirty_ranges()
    }

    pub(super) fn log(&self) -> Vec<HostCall> {
        self.bed.host().take_log()
    }
}

#[test]
fn store_supplies_its_bytes_in_clusters_and_takes_back_what_was_written() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.read(2), Ok(OLD));
    assert_eq!(rig.log(), [HostCall::DataRequest(StoreId(0), range(2, 8))]);
    assert_eq!((rig.bed.write(3, 1), rig.bed.write(4, 2), rig.bed.write(7, 3)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(rig.bytes(3), (OLD, OLD), "only in the cache");
    assert_eq!(rig.msync(0, 8, SYNC), Ok(()));
    let calls = [
        HostCall::DataReturn(StoreId(0), [range(3, 5), range(7, 8)].to_vec()),
        HostCall::Synchronize(StoreId(0), range(0, 8)),
    ];
    assert_eq!(rig.log(), calls);
    assert_eq!((rig.bytes(3), rig.bytes(4), rig.bytes(7), rig.bytes(2)), ((1, 1), (2, 2), (3, 3), (OLD, OLD)));
    assert_eq!((rig.msync(0, 8, SYNC), rig.log()), (Ok(()), Vec::new()), "nothing to write");
}

#[test]
pub(super) fn m_02_asynchronous_call_returns_while_the_store_works_and_a_synchronous_one_awaits_it() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.write(3, 1), Ok(()));
    rig.bed.host().hold();
    let at = |page| rig.bed.at(page);
    rig.log();
    assert_eq!(block_on(rig.bed.machine.map.msync(at(0), 8 << PAGE_SHIFT, ASYNC)), Ok(()));
    assert_eq!(rig.log(), [HostCall::DataReturn(StoreId(0), [range(3, 4)].to_vec())], "it is under way");
    let mut executor = Executor::new(1);
    let sync = executor.spawn(rig.bed.machine.map.msync(at(3), 1 << PAGE_SHIFT, SYNC));
    assert_eq!((executor.run_until_stalled(), rig.bytes(3)), (1, (OLD, OLD)));
    rig.bed.host().release();
    assert_eq!(rig.bed.machine.run(&mut executor), Ok(()));
    assert_eq!((sync.take(), rig.bytes(3)), (Some(Ok(())), (1, 1)));
}

#[test]
fn m_03_invalidate_lets_the_next_access_read_what_the_store_has() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!((rig.bed.write(3, 1), rig.bed.read(5)), (Ok(()), Ok(OLD)));
    assert_eq!(rig.msync(0, 8, SYNC | INVALIDATE), Ok(()));
    assert_eq!(rig.bed.machine.map.stats().resident_pages, 0);
    rig.log();
    assert_eq!((rig.bed.read(3), rig.bed.read(5)), (Ok(1), Ok(OLD)));
    assert_eq!(rig.log(), [HostCall::DataRequest(StoreId(0), range(3, 8))]);
}

#[test]
fn m_04_invalidate_alone_loses_what_was_not_returned() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.write(3, 1), Ok(()));
    assert_eq!((rig.msync(0, 8, INVALIDATE), rig.bed.read(3), rig.bytes(3)), (Ok(()), Ok(OLD), (OLD, OLD)));
}

#[test]
fn q_03_exclusive_store_gives_its_only_copy_away_and_gets_it_back_unwritten() {
    let rig = Rig::new(StoreKind::Exclusive);
    assert_eq!((rig.bed.read(3), rig.bed.read(4)), (Ok(OLD), Ok(OLD)));
    assert_eq!((rig.bytes(3).0, rig.bytes(4).0, rig.bytes(5).0), (0, 0, OLD), "nobody else needs page 5");
    assert_eq!(rig.bed.write(4, 9), Ok(()));
    assert_eq!(rig.msync(0, 8, INVALIDATE), Ok(()));
    assert_eq!((rig.bytes(3), rig.bytes(4)), ((OLD, OLD), (9, 9)), "precious pages are returned");
    assert_eq!(rig.bed.read(4), Ok(9));
}

#[test]
pub(super) fn d_b_failed_return_or_synchronization_is_a_failure_and_a_retry_makes_good() {
    // The first run, the second, the synchronization.
    for failing in 0..3 {
        for flags in [SYNC, SYNC | INVALIDATE] {
            let rig = Rig::new(StoreKind::Store);
            assert_eq!((rig.bed.write(1, 1), rig.bed.write(3, 3)), (Ok(()), Ok(())));
            rig.bed.host().fail_store(failing, HostError::Io);
            assert_eq!(rig.msync(0, 8, flags), Err(KernReturn::Failure), "{failing}");
            let dirty = match failing {
                0 => [range(1, 2)].to_vec(),
                1 => [range(3, 4)].to_vec(),
                _ => [range(1, 2), range(3, 4)].to_vec(),
            };
            assert_eq!(rig.dirty(), dirty, "{failing}");
            assert_eq!((rig.bed.read(1), rig.bed.read(3)), (Ok(1), Ok(3)));
            assert_eq!(rig.msync(0, 8, flags), Ok(()), "{failing}");
            assert_eq!((rig.bytes(1), rig.bytes(3)), ((1, 1), (3, 3)));
        }
    }
}

#[test]
pub(super) fn page_that_the_store_has_lost_is_an_error_until_it_is_returned_again() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.write(1, 1), Ok(()));
    rig.bed.host().fail_store(1, HostError::Io);
    assert_eq!(rig.msync(0, 8, SYNC), Err(KernReturn::Failure));
    assert_eq!(rig.msync(1, 2, INVALIDATE), Ok(()), "the guest gives its copy up");
    assert_eq!(rig.bed.read(1), Err(KernReturn::MemoryError), "nobody knows its bytes");
    assert_eq!(rig.msync(0, 8, SYNC), Err(KernReturn::Failure));
}

#[test]
fn page_that_can_be_had_is_had_whatever_is_wrong_with_its_neighbours() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.write(5, 1), Ok(()));
    rig.bed.host().fail_store(1, HostError::Io);
    assert_eq!((rig.msync(0, 8, SYNC), rig.msync(0, 8, INVALIDATE)), (Err(KernReturn::Failure), Ok(())));
    rig.log();
    assert_eq!(rig.bed.read(4), Ok(OLD));
    let calls = [range(4, 8), range(4, 5)].map(|pages| HostCall::DataRequest(StoreId(0), pages));
    assert_eq!((rig.log(), rig.bed.read(5)), (calls.to_vec(), Err(KernReturn::MemoryError)));
}

#[test]
fn page_that_can_not_be_had_is_a_memory_error_and_leaves_nothing_behind() {
    let rig = Rig::new(StoreKind::Store);
    rig.bed.host().fail_store(0, HostError::Io);
    assert_eq!(rig.bed.read(7), Err(KernReturn::MemoryError));
    rig.bed.machine.frames().fail_allocation(0);
    assert_eq!(rig.bed.read(7), Err(KernReturn::ResourceShortage));
    assert_eq!(rig.bed.read(7), Ok(OLD));
}

#[test]
pub(super) fn o_10_end_of_the_object_returns_what_it_owes_and_closes_the_store() {
    for kind in [StoreKind::Store, StoreKind::Exclusive] {
        let mut rig = Rig::new(kind);
        assert_eq!((rig.bed.write(1, 1), rig.bed.read(2)), (Ok(()), Ok(OLD)));
        assert!(matches!(rig.bed.machine.vm.store_object("data", 1, kind), Err(KernReturn::ResourceShortage)));
        assert_eq!((rig.close(), rig.bed.host().open_stores()), (Ok(()), 0));
        assert_eq!((rig.bytes(1), rig.bytes(2), rig.bed.machine.vm.lost_objects()), ((1, 1), (OLD, OLD), 0));
        rig.open();
        assert_eq!((rig.bed.read(1), rig.bed.read(2)), (Ok(1), Ok(OLD)));
        assert_eq!(rig.bed.write(1, 5), Ok(()));
        rig.bed.host().fail_store(0, HostError::Io);
        assert_eq!((rig.close(), rig.bed.machine.vm.lost_objects()), (Ok(()), 1), "it is counted");
    }
}

#[test]
fn o_10_death_of_the_object_returns_nothing_and_closes_the_store() {
    let mut rig = Rig::new(StoreKind::Store);
    assert_eq!(rig.bed.write(1, 1), Ok(()));
    assert_eq!(block_on(rig.object.as_ref().unwrap().kill()), Ok(()));
    assert_eq!(rig.bed.read(1), Err(KernReturn::ProtectionFailure));
    assert_eq!((rig.close(), rig.bytes(1), rig.bed.host().open_stores()), (Ok(()), (OLD, OLD), 0));
}

#[test]
fn store_that_can_not_be_opened_is_no_object() {
    let bed = Bed::new();
    for (error, code) in [
        (HostError::Io, KernReturn::Failure),
        (HostError::Unsupported, KernReturn::Failure),
        (HostError::Quota, KernReturn::ResourceShortage),
        (HostError::Rejected, KernReturn::InvalidArgument),
    ] {
        bed.host().fail_store(0, error);
        assert_eq!(bed.machine.vm.store_object("data", 1, StoreKind::Store).err(), Some(code));
    }
    let empty = bed.machine.vm.store_object("data", 0, StoreKind::Store);
    assert_eq!(empty.err(), Some(KernReturn::InvalidArgument));
}

#[test]
fn truncation_of_an_object_with_a_manager_is_the_managers_business() {
    let rig = Rig::new(StoreKind::Store);
    assert_eq!(block_on(rig.object.as_ref().unwrap().truncate(2)), Err(KernReturn::InvalidArgument));
    assert_eq!(rig.bed.read(5), Ok(OLD));
}

/// One of the operations that the model knows.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Write(u64, u8),
    Read(u64),
    Msync(u64, u64, SyncFlags),
    Wire(u64, u64),
    Unwire(u64, u64),
    /// The n-th call about the store from now on fails.
    Fail(u64),
    Reopen,
}

/// What a page's bytes are.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// What a read finds.
    cached: u8,
    /// What the store's file holds; what it is of a page that an exclusive store has given away does not matter.
    file: u8,
    /// What a power cut leaves, likewise.
    stable: u8,
    is_wired: bool,
    /// It was written, and no write of it has succeeded since.
    is_dirty: bool,
    /// Storage may have lost it: reads may fail.
    may_be_lost: bool,
}

struct Model {
    pages: Vec<Page>,
    /// A failure is about to happen, or may have been.
    is_failing: bool,
}

fn place(page: u64) -> usize {
    usize::try_from(page).unwrap()
}

impl Model {
    /// Notes what an msync has done, as far as it has a choice, and checks that it had.
    fn synced(&mut self, rig: &Rig, start: u64, end: u64, flags: SyncFlags, outcome: Outcome) -> TestCaseResult {
        let both = flags.contains(SYNC | ASYNC) && start < end;
        if both {
            prop_assert_eq!(outcome, Err(KernReturn::InvalidArgument));
            return Ok(());
        }
        let sends = flags.intersects(SYNC | ASYNC);
        let discards = flags.intersects(SyncFlags::KILLPAGES | SyncFlags::DEACTIVATE);
        let may_fail = self.is_failing || self.pages[place(start)..place(end)].iter().any(|page| page.may_be_lost);
        if !may_fail || discards {
            prop_assert_eq!(outcome, Ok(()));
        }
        let mut returned = Vec::new();
        for page in start..end {
            let known = &mut self.pages[place(page)];
            let (file, stable) = rig.bytes(page);
            if sends && !discards && outcome.is_ok() && (flags.contains(SYNC) || !self.is_failing) {
                // The promise: what was written is in the file and on stable storage.
                if known.is_dirty {
                    prop_assert_eq!((file, stable), (known.cached, known.cached), "page {}", page);
                    returned.push(page);
                }
                known.is_dirty = false;
            } else if flags.contains(INVALIDATE) && !sends && !discards && !known.is_wired && outcome.is_ok() {
                // Dirty pages that are precious come back; others are lost.
                if known.is_dirty {
                    let returns = rig.kind == StoreKind::Exclusive && file == known.cached;
                    prop_assert!(returns || file == known.file || known.file == 0, "page {}", page);
                    known.cached = file;
                    known.is_dirty = false;
                }
            }
            if !known.is_dirty && rig.kind == StoreKind::Store && !known.may_be_lost {
                prop_assert_eq!(file, known.cached, "page {}", page);
            }
            // A write that failed may have come through; nothing else may have come to the file.
            prop_assert!([known.file, known.cached, 0].contains(&file), "page {}: {:#x} in {:?}", page, file, known);
            prop_assert!([known.stable, known.file, known.cached, 0].contains(&stable), "page {}", page);
            (known.file, known.stable) = (file, stable);
        }
        if self.is_failing {
            // Storage loses what was returned and not synchronized, wherever it is.
            self.pages.iter_mut().for_each(|page| page.may_be_lost = true);
        }
        if outcome.is_ok() && flags.contains(SYNC) {
            returned.into_iter().for_each(|page| self.pages[place(page)].may_be_lost = false);
        }
        Ok(())
    }
}

fn apply(rig: &mut Rig, model: &mut Model, operation: Operation) -> TestCaseResult {
    let at = |rig: &Rig, page| rig.bed.at(page);
    match operation {
        Operation::Write(page, byte) => {
            let outcome = rig.bed.write(page, byte);
            let known = &mut model.pages[place(page)];
            match outcome {
                Ok(()) => (known.cached, known.is_dirty) = (byte, true),
                // The page had to come first.
                Err(code) => {
                    prop_assert!(model.is_failing || known.may_be_lost, "{:?}", code);
                    prop_assert_eq!(code, KernReturn::MemoryError);
                }
            }
        }
        Operation::Read(page) => {
            let known = model.pages[place(page)];
            match rig.bed.read(page) {
                Ok(byte) => prop_assert_eq!(byte, known.cached, "page {}", page),
                Err(code) => {
                    prop_assert!(model.is_failing || known.may_be_lost, "{:?}", code);
                    prop_assert_eq!(code, KernReturn::MemoryError);
                }
            }
        }
        Operation::Msync(start, end, flags) => {
            let outcome = rig.msync(start, end, flags);
            model.synced(rig, start, end, flags, outcome)?;
            let alone = flags.contains(INVALIDATE) && !flags.intersects(SYNC | ASYNC);
            if alone && outcome.is_err() {
                // What was lost and what could not be returned is only seen by looking.
                for page in start..end {
                    let known = &mut model.pages[place(page)];
                    match rig.bed.read(page) {
                        Ok(byte) => {
                            prop_assert!([known.cached, known.file].contains(&byte), "page {}", page);
                            known.cached = byte;
                        }
                        Err(_) => (known.is_dirty, known.may_be_lost) = (false, true),
                    }
                }
            }
        }
        Operation::Wire(start, end) => {
            let flags = WireFlags::USER;
            match block_on(rig.bed.machine.map.wire(at(rig, start), at(rig, end), flags)) {
                Ok(()) => (start..end).for_each(|page| model.pages[place(page)].is_wired = true),
                Err(code) => {
                    prop_assert!(model.is_failing || model.pages.iter().any(|page| page.may_be_lost), "{:?}", code)
                }
            }
        }
        Operation::Unwire(start, end) => {
            if (start..end).all(|page| model.pages[place(page)].is_wired) {
                let outcome = block_on(rig.bed.machine.map.unwire(at(rig, start), at(rig, end), WireFlags::USER));
                prop_assert_eq!(outcome, Ok(()));
                (start..end).for_each(|page| model.pages[place(page)].is_wired = false);
            }
        }
        Operation::Fail(nth) => {
            rig.bed.host().fail_store(nth, HostError::Io);
            model.is_failing = true;
        }
        Operation::Reopen => {
            rig.bed.host().withdraw_failures();
            let lost = rig.bed.machine.vm.lost_objects();
            prop_assert_eq!(rig.close(), Ok(()));
            let may_be_lost = model.pages.iter().any(|page| page.may_be_lost);
            prop_assert!(may_be_lost || rig.bed.machine.vm.lost_objects() == lost, "no failure was ordered");
            for page in 0..PAGES {
                let known = &mut model.pages[place(page)];
                let (file, stable) = rig.bytes(page);
                if known.is_dirty {
                    prop_assert_eq!((file, stable), (known.cached, known.cached), "page {}", page);
                }
                let may_be_lost = known.may_be_lost && !known.is_dirty;
                *known = Page { file, stable, is_wired: false, is_dirty: false, may_be_lost, ..*known };
            }
            model.is_failing = false;
            rig.open();
        }
    }
    prop_assert_eq!(rig.bed.machine.check_quiet(), Ok(()));
    Ok(())
}

fn run(kind: StoreKind, operations: &[Operation]) -> TestCaseResult {
    let mut rig = Rig::new(kind);
    let page = Page { cached: OLD, file: OLD, stable: OLD, is_wired: false, is_dirty: false, may_be_lost: false };
    let mut model = Model { pages: alloc::vec![page; place(PAGES)], is_failing: false };
    for operation in operations.iter().chain([&Operation::Reopen]) {
        apply(&mut rig, &mut model, *operation)
            .map_err(|error| TestCaseError::fail(alloc::format!("{operation:?}: {error}")))?;
    }
    for page in 0..PAGES {
        let known = model.pages[place(page)];
        if !known.may_be_lost {
            prop_assert_eq!(rig.bed.read(page), Ok(known.cached), "page {} at the end", page);
        }
    }
    Ok(())
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let page = 0..PAGES;
    let pages = (0..PAGES, 0..PAGES).prop_map(|(a, b)| (a.min(b), a.max(b) + 1));
    let flags = prop_oneof![
        6 => proptest::sample::select(alloc::vec![2_u32, 1, 6, 5, 4]),
        1 => 0_u32..0x80,
    ];
    let operation = prop_oneof![
        6 => (page.clone(), 1_u8..=255).prop_map(|(page, byte)| Operation::Write(page, byte)),
        3 => page.prop_map(Operation::Read),
        5 => (pages.clone(), flags)
            .prop_map(|((start, end), flags)| Operation::Msync(start, end, SyncFlags::from_bits(flags))),
        1 => pages.clone().prop_map(|(start, end)| Operation::Wire(start, end)),
        1 => pages.prop_map(|(start, end)| Operation::Unwire(start, end)),
        2 => (0_u64..4).prop_map(Operation::Fail),
        1 => Just(Operation::Reopen),
    ];
    prop::collection::vec(operation, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cached_file_and_stable_bytes_of_a_store_agree_with_the_model(operations in operations()) {
        run(StoreKind::Store, &operations)?;
    }

    #[test]
    fn cached_file_and_stable_bytes_of_an_exclusive_store_agree_with_the_model(operations in operations()) {
        run(StoreKind::Exclusive, &operations)?;
    }
}

#[test]
fn sync_past_the_end_of_the_store_succeeds() {
    let rig = Rig::new(StoreKind::Store);
    let (map, object) = (&rig.bed.machine.map, rig.object.as_ref().unwrap());
    let placement = Placement::Fixed(rig.bed.at(16));
    let mapped = block_on(map.map_object(placement, object, range(0, 12), MapMode::Shared, Prot::DEFAULT));
    assert_eq!(mapped, Ok(rig.bed.at(16)));
    assert_eq!(rig.bed.write(16, 1), Ok(()));
    let outcome = rig.msync(16, 28, SYNC);
    assert_eq!(rig.log().last(), Some(&HostCall::Synchronize(StoreId(0), range(0, 8))));
    assert_eq!((outcome, rig.dirty()), (Ok(()), Vec::new()));
}

#[test]
fn two_views_of_an_exclusive_store_return_a_page_once() {
    let rig = Rig::new(StoreKind::Exclusive);
    let (map, object) = (&rig.bed.machine.map, rig.object.as_ref().unwrap());
    let placement = Placement::Fixed(rig.bed.at(8));
    let mapped = block_on(map.map_object(placement, object, range(0, 8), MapMode::Shared, Prot::DEFAULT));
    assert_eq!(mapped, Ok(rig.bed.at(8)));
    assert_eq!(rig.bed.write(2, 1), Ok(()));
    rig.log();
    assert_eq!(rig.msync(0, 16, SYNC | INVALIDATE), Ok(()));
    let log = rig.log();
    let returns = log.iter().filter(|call| matches!(call, HostCall::DataReturn(..))).count();
    assert_eq!(returns, 1, "{log:?}");
}

#[test]
fn two_views_of_an_exclusive_store_lose_nothing() {
    for seed in 0..300 {
        let rig = Rig::new(StoreKind::Exclusive);
        let (map, object) = (&rig.bed.machine.map, rig.object.as_ref().unwrap());
        let placement = Placement::Fixed(rig.bed.at(8));
        let mapped = block_on(map.map_object(placement, object, range(0, 8), MapMode::Shared, Prot::DEFAULT));
        assert_eq!(mapped, Ok(rig.bed.at(8)));
        assert_eq!(rig.bed.write(2, 1), Ok(()));
        rig.bed.host().set_yielding(true);
        let mut executor = Executor::new(seed);
        let sync = executor.spawn(map.msync(rig.bed.at(0), 16 << PAGE_SHIFT, SYNC | INVALIDATE));
        let mut byte = [0];
        let read = executor.spawn(async {
            for _ in 0..seed % 12 {
                crate::fake::yield_now().await;
            }
            map.fault(rig.bed.at(2), Prot::READ).await
        });
        assert_eq!(rig.bed.machine.run(&mut executor), Ok(()));
        assert_eq!((sync.take(), read.take()), (Some(Ok(())), Some(Ok(()))));
        drop(executor);
        rig.bed.host().set_yielding(false);
        assert_eq!(rig.msync(0, 8, INVALIDATE), Ok(()));
        block_on(rig.bed.machine.read(rig.bed.at(2), &mut byte)).unwrap();
        assert_eq!(byte[0], 1, "seed {seed}");
    }
}
