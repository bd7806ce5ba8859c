//! Memory objects whose manager is a task: the messages of the semantics table's section 4, and the handshake of 2.6.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Bed, Outcome};
use crate::fake::{Executor, FakePmap, FakePorts, Output, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::{ObjectHandle, Supply};
use crate::kern_return::KernReturn;
use crate::manager::{ManagerPort, Message, ShouldReturn};
use crate::map::{Advice, MapMode, Placement, VmMap};
use crate::ports::Frames;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;
const ASYNC: SyncFlags = SyncFlags::ASYNCHRONOUS;
const INVALIDATE: SyncFlags = SyncFlags::INVALIDATE;
pub(super) const PRECIOUS: Supply = Supply { is_precious: true, traps_writes: false, forbidden: Prot::NONE };
pub(super) const TRAPS: Supply = Supply { is_precious: false, traps_writes: true, forbidden: Prot::NONE };
pub(super) const PLAIN: Supply = Supply { is_precious: false, traps_writes: false, forbidden: Prot::NONE };

/// An object of 8 pages, mapped shared at the bed's pages 0 to 7, and its manager, whose own memory holds 0x40 plus the page.
pub(super) struct Rig {
    pub(super) bed: Bed,
    pub(super) port: Arc<ManagerPort>,
    pub(super) object: ObjectHandle<FakePorts>,
    pub(super) own: VmMap<FakePorts>,
}

pub(super) fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end)
}

impl Rig {
    pub(super) fn new() -> Self {
        let bed = Bed::new();
        let vm = &bed.machine.vm;
        let port = vm.manager_port();
        let object = vm.managed_object(&port, 8);
        let own = VmMap::new(Arc::clone(vm), bed.machine.map.bounds(), FakePmap::new());
        assert_eq!(block_on(own.allocate(Placement::Fixed(bed.at(0)), 8 << PAGE_SHIFT)), Ok(bed.at(0)));
        for page in 0..8 {
            let byte = 0x40 + u8::try_from(page).unwrap();
            assert_eq!(block_on(bed.machine.write_in(&own, bed.at(page), &[byte; 8])), Ok(()));
        }
        let rig = Self { bed, port, object, own };
        rig.map(0, MapMode::Shared);
        rig
    }

    /// As [`Rig::new`], with these pages resident and nothing to be received.
    pub(super) fn with(pages: PageRange, supply: Supply) -> Self {
        let rig = Self::new();
        for page in pages.start..pages.end {
            assert_eq!(rig.read_supplied(page, supply), Ok(0x40 + u8::try_from(page).unwrap()));
        }
        rig.messages();
        rig
    }

    pub(super) fn map(&self, page: u64, mode: MapMode) {
        let placement = Placement::Fixed(self.bed.at(page));
        let mapped = self.bed.machine.map.map_object(placement, &self.object, range(0, 8), mode, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(self.bed.at(page)));
    }

    /// Takes the messages, gives the frames in them back, and shows them.
    pub(super) fn messages(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        while let Some((object, message)) = self.port.receive() {
            assert_eq!(object, self.object.number());
            words.push(format!("{message}"));
            if let Message::DataReturn { frames, .. } = message {
                frames.into_iter().for_each(|run| self.bed.machine.frames().free(run));
            }
        }
        words.join(" ")
    }

    /// Takes the next message, which must return one page, and what that holds.
    pub(super) fn returned(&self) -> (PageRange, u8) {
        let Some((_, Message::DataReturn { pages, frames, .. })) = self.port.receive() else { panic!("no return") };
        let mut byte = [0];
        self.bed.machine.ram.read(frames[0].first, 0, &mut byte);
        frames.into_iter().for_each(|run| self.bed.machine.frames().free(run));
        (pages, byte[0])
    }

    pub(super) fn supply(&self, pages: PageRange, supply: Supply) -> Outcome {
        block_on(self.object.data_supply(pages, &self.own, self.bed.at(pages.start), supply))
    }

    /// Reads the first byte of a page, which the manager supplies.
    pub(super) fn read_supplied(&self, page: u64, supply: Supply) -> Result<u8, KernReturn> {
        let mut byte = [0];
        let mut executor = Executor::new(1);
        let read = executor.spawn(self.bed.machine.read(self.bed.at(page), &mut byte));
        assert_eq!(executor.run_until_stalled(), 1, "it waits for the manager");
        assert_eq!(self.supply(range(page, page + 1), supply), Ok(()));
        assert_eq!(executor.run(), Ok(()));
        read.take().unwrap()?;
        drop(executor);
        Ok(byte[0])
    }

    pub(super) fn write(&self, page: u64, byte: u8) {
        assert_eq!(block_on(self.bed.machine.write(self.bed.at(page), &[byte])), Ok(()));
    }

    pub(super) fn msync<'a>(
        &'a self,
        executor: &mut Executor<'a>,
        start: u64,
        end: u64,
        flags: SyncFlags,
    ) -> Output<Outcome> {
        let size = (end - start) << PAGE_SHIFT;
        let output = executor.spawn(self.bed.machine.map.msync(self.bed.at(start), size, flags));
        executor.run_until_stalled();
        output
    }

    pub(super) fn completed(&self, start: u64, end: u64, status: Outcome) -> Outcome {
        self.object.synchronize_completed(start << PAGE_SHIFT, (end - start) << PAGE_SHIFT, status)
    }

    /// An msync that the manager completes at once.
    pub(super) fn synced(&self, start: u64, end: u64, flags: SyncFlags) -> (String, Outcome) {
        let mut executor = Executor::new(3);
        let sync = self.msync(&mut executor, start, end, flags);
        let messages = self.messages();
        assert_eq!(self.completed(start, end, Ok(())), Ok(()));
        assert_eq!(self.bed.machine.run(&mut executor), Ok(()));
        (messages, sync.take().unwrap())
    }

    pub(super) fn states(&self) -> (u64, u64) {
        let stats = self.bed.machine.map.stats();
        (stats.resident_pages, self.dirty().iter().map(|pages| pages.len()).sum())
    }

    pub(super) fn dirty(&self) -> Vec<PageRange> {
        self.object.dirty_ranges()
    }

    pub(super) fn check(&self) {
        assert_eq!(self.bed.machine.check_quiet_with(&[&self.own]), Ok(()));
    }
}

#[test]
fn o_01_init_comes_once_and_before_anything_else() {
    let rig = Rig::new();
    assert_eq!(rig.messages(), "init");
    rig.map(20, MapMode::Shared);
    assert_eq!(rig.read_supplied(3, PLAIN), Ok(0x43));
    assert_eq!(rig.messages(), "data_request[3,4)r");
    rig.check();
}

#[test]
fn o_02_data_request_says_what_the_page_is_needed_for_and_comes_once() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_request[2,3)rw"));
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (2, ""));
    assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()));
    assert_eq!((executor.run(), write.take(), read.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((rig.messages().as_str(), rig.dirty()), ("", [range(2, 3)].to_vec()));
    rig.check();
}

#[test]
pub(super) fn o_03_supply_of_what_was_not_asked_for_is_refused_whole() {
    let rig = Rig::new();
    assert_eq!(rig.supply(range(2, 3), PLAIN), Err(KernReturn::InvalidArgument));
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.supply(range(2, 4), PLAIN), Err(KernReturn::InvalidArgument));
    assert_eq!(executor.run_until_stalled(), 1, "still waiting");
    assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(rig.supply(range(2, 3), PLAIN), Err(KernReturn::InvalidArgument), "it is there");
    rig.check();
}

#[test]
fn o_04_data_error_fails_who_waits_and_may_be_asked_again() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Err(KernReturn::MemoryError))));
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Err(KernReturn::InvalidArgument));
    assert_eq!(rig.read_supplied(2, PLAIN), Ok(0x42));
    assert_eq!(rig.messages(), "data_request[2,3)r data_request[2,3)r");
    rig.check();
}

#[test]
fn q_05_and_q_06_page_in_error_goes_by_a_flush_and_by_nothing_else() {
    for (flags, expected) in
        [(SyncFlags::NONE, Err(KernReturn::MemoryError)), (SYNC, Err(KernReturn::MemoryError)), (INVALIDATE, Ok(()))]
    {
        let rig = Rig::new();
        {
            let mut executor = Executor::new(1);
            let _read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
            executor.run_until_stalled();
        }
        // Whoever waited has gone.
        assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryError), Ok(()));
        assert_eq!(block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, flags)), Ok(()));
        let mut executor = Executor::new(1);
        let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
        executor.run_until_stalled();
        if expected.is_ok() {
            assert_eq!(rig.supply(range(2, 3), PLAIN), Ok(()), "asked again");
        }
        assert_eq!((executor.run(), read.take()), (Ok(()), Some(expected)), "{flags:?}");
    }
}

#[test]
fn o_05_data_unavailable_gives_zero_pages_that_are_clean() {
    let rig = Rig::new();
    let mut executor = Executor::new(1);
    let read = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.object.data_unavailable(range(1, 3)), Err(KernReturn::InvalidArgument));
    assert_eq!(rig.object.data_unavailable(range(2, 3)), Ok(()));
    assert_eq!((executor.run(), read.take()), (Ok(()), Some(Ok(()))));
    let mut byte = [9];
    assert_eq!(block_on(rig.bed.machine.read(rig.bed.at(2), &mut byte)), Ok(()));
    assert_eq!((byte, rig.states()), ([0], (1, 0)));
    rig.check();
}

#[test]
fn o_06_forbidden_access_asks_the_manager_and_waits_until_it_is_permitted() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    let again = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(2), Prot::WRITE));
    assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (2, "data_unlock[2,3)w"));
    let unlock = rig.object.lock_request(range(2, 3), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!(block_on(unlock), Ok(()));
    assert_eq!((executor.run(), write.take(), again.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((rig.messages().as_str(), rig.states()), ("lock_completed[2,3)", (1, 1)));
    rig.check();
}

#[test]
fn o_06_refused_access_is_a_flush_and_an_error_for_the_request_that_follows() {
    let rig = Rig::with(range(2, 3), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(2), &[7]));
    executor.run_until_stalled();
    let refuse = rig.object.lock_request(range(2, 3), ShouldReturn::Dirty, true, None);
    assert_eq!(block_on(refuse), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[2,3)w lock_completed[2,3) data_request[2,3)rw");
    assert_eq!(rig.object.data_error(range(2, 3), KernReturn::MemoryFailure), Ok(()));
    assert_eq!((executor.run(), write.take()), (Ok(()), Some(Err(KernReturn::MemoryFailure))));
    rig.check();
}

#[test]
fn m_01_o_07_and_k_01_dirty_pages_come_back_in_runs_and_are_synchronized_then() {
    let rig = Rig::with(range(0, 6), PLAIN);
    for (page, byte) in [(1, 0x11), (2, 0x12), (4, 0x14)] {
        rig.write(page, byte);
    }
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC | SyncFlags::CONTIGUOUS);
    assert_eq!(rig.returned(), (range(1, 3), 0x11));
    assert_eq!(rig.returned(), (range(4, 5), 0x14));
    let told = Message::Synchronize { pages: range(0, 8), flags: SYNC.bits() };
    assert_eq!(rig.port.receive(), Some((rig.object.number(), told)));
    assert!(!sync.is_ready() && rig.bed.machine.map.stats().cleaning_pages == 3);
    assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
    assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(rig.states(), (6, 0), "resident and clean");
    rig.check();
}

#[test]
fn q_02_and_q_03_precious_pages_come_back_once_even_if_they_are_clean() {
    let rig = Rig::with(range(0, 2), PRECIOUS);
    rig.write(1, 0x11);
    let messages = "data_return[0,1)precious,kept data_return[1,2)dirty,kept synchronize[0,8)";
    assert_eq!(rig.synced(0, 8, SYNC), (String::from(messages), Ok(())));
    let mut executor = Executor::new(3);
    let again = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!((again.take(), rig.messages().as_str()), (Some(Ok(())), ""), "the manager has them");
    rig.check();
}

#[test]
fn k_02_nothing_to_return_sends_nothing_unless_something_was_never_synchronized() {
    let rig = Rig::with(range(0, 2), PLAIN);
    let nothing = |flags| block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, flags));
    assert_eq!((nothing(SYNC), nothing(SyncFlags::NONE), rig.messages().as_str()), (Ok(()), Ok(()), ""));
    rig.write(0, 0x11);
    assert_eq!(block_on(rig.object.lock_request(range(0, 8), ShouldReturn::All, false, None)), Ok(()));
    assert_eq!(rig.messages(), "data_return[0,1)dirty,kept lock_completed[0,8)");
    assert_eq!(rig.states(), (2, 0), "clean, but nobody said that it is stable");
    assert_eq!(rig.synced(0, 8, SYNC), (String::from("synchronize[0,8)"), Ok(())));
    assert_eq!((nothing(SYNC), rig.messages().as_str()), (Ok(()), ""));
    rig.check();
}

#[test]
pub(super) fn k_03_disjoint_parts_are_synchronized_in_parallel_and_overlapping_ones_one_after_the_other() {
    let rig = Rig::with(range(0, 8), PLAIN);
    for page in 0..8 {
        rig.write(page, 0x10);
    }
    let mut executor = Executor::new(3);
    let first = rig.msync(&mut executor, 0, 3, SYNC);
    let other = rig.msync(&mut executor, 4, 6, SYNC);
    let overlapping = rig.msync(&mut executor, 2, 5, SYNC);
    assert_eq!(
        rig.messages(),
        "data_return[0,3)dirty,kept synchronize[0,3) data_return[4,6)dirty,kept synchronize[4,6)"
    );
    assert_eq!(rig.completed(4, 6, Ok(())), Ok(()));
    executor.run_until_stalled();
    assert_eq!((other.take(), rig.messages().as_str()), (Some(Ok(())), ""), "the first is still out");
    assert_eq!(rig.completed(0, 3, Ok(())), Ok(()));
    executor.run_until_stalled();
    assert_eq!((first.take(), rig.messages().as_str()), (Some(Ok(())), "data_return[3,4)dirty,kept synchronize[2,5)"));
    assert_eq!(rig.completed(2, 5, Ok(())), Ok(()));
    assert_eq!((executor.run(), overlapping.take()), (Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
fn k_04_and_o_11_object_whose_manager_is_gone_is_passed_over_and_faults_on_it_fail() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(0, 0x11);
    assert_eq!(block_on(rig.object.kill()), Ok(()));
    assert_eq!(block_on(rig.bed.machine.map.msync(rig.bed.at(0), 8 << PAGE_SHIFT, SYNC)), Ok(()));
    assert_eq!(rig.messages(), "");
    assert_eq!(block_on(rig.bed.machine.map.fault(rig.bed.at(0), Prot::READ)), Err(KernReturn::ProtectionFailure));
    rig.check();
}

#[test]
fn k_05_asynchronous_call_begins_all_parts_and_waits_for_the_manager_to_answer_each() {
    let rig = Rig::with(range(0, 8), PLAIN);
    // Two entries: two parts.
    let guard = rig.bed.machine.map.deallocate(rig.bed.at(3), 1 << PAGE_SHIFT);
    assert_eq!(block_on(guard), Ok(()));
    rig.write(1, 0x11);
    rig.write(5, 0x15);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, ASYNC);
    assert_eq!(
        rig.messages(),
        "data_return[1,2)dirty,kept synchronize[0,3) data_return[5,6)dirty,kept synchronize[4,8)"
    );
    assert_eq!(rig.completed(4, 8, Ok(())), Ok(()));
    assert_eq!(executor.run_until_stalled(), 1);
    assert!(!sync.is_ready());
    assert_eq!(rig.completed(0, 3, Ok(())), Ok(()));
    assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (7, 0)));
    rig.check();
}

#[test]
pub(super) fn k_06_completion_that_matches_no_request_exactly_is_refused_and_wakes_nobody() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 1, 4, SYNC);
    rig.messages();
    for (start, end) in [(0, 8), (1, 3), (2, 4), (1, 5), (4, 4)] {
        assert_eq!(rig.completed(start, end, Ok(())), Err(KernReturn::InvalidArgument), "{start} {end}");
    }
    for (offset, length) in [(4097, 3 << 12), (4096, (3 << 12) - 1), (u64::MAX - 4095, 8192)] {
        assert_eq!(rig.object.synchronize_completed(offset, length, Ok(())), Err(KernReturn::InvalidArgument));
    }
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(rig.completed(1, 4, Ok(())), Ok(()));
    assert_eq!(rig.completed(1, 4, Err(KernReturn::Failure)), Err(KernReturn::InvalidArgument), "not twice");
    assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
    rig.check();
}

#[test]
pub(super) fn k_07_e_01_and_e_02_completion_carries_a_status_and_a_failure_leaves_everything_dirty() {
    for flags in [SYNC, SYNC | INVALIDATE, ASYNC | INVALIDATE] {
        let rig = Rig::with(range(0, 2), PRECIOUS);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags);
        rig.messages();
        assert_eq!(rig.completed(0, 8, Err(KernReturn::Failure)), Ok(()));
        assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Err(KernReturn::Failure))));
        assert_eq!(rig.states(), (2, 1), "{flags:?}: resident, and dirty as before");
        let retry = "data_return[0,1)precious,kept data_return[1,2)dirty,kept synchronize[0,8)";
        assert_eq!(rig.synced(0, 8, SYNC), (String::from(retry), Ok(())));
        rig.check();
    }
}

#[test]
pub(super) fn k_08_death_of_the_manager_wakes_everybody_with_an_error() {
    let rig = Rig::with(range(0, 4), Supply { forbidden: Prot::WRITE, ..PLAIN });
    let unlock = rig.object.lock_request(range(0, 2), ShouldReturn::Nothing, false, Some(Prot::NONE));
    assert_eq!(block_on(unlock), Ok(()));
    rig.write(0, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 2, SYNC);
    let overlapping = rig.msync(&mut executor, 1, 8, SYNC);
    let absent = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(6), Prot::READ));
    let locked = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(3), Prot::WRITE));
    let death = executor.spawn(rig.object.kill());
    assert_eq!(executor.run(), Ok(()));
    assert_eq!(
        (death.take(), sync.take(), overlapping.take()),
        (Some(Ok(())), Some(Err(KernReturn::Failure)), Some(Ok(())))
    );
    let dead = Some(Err(KernReturn::ProtectionFailure));
    assert_eq!((absent.take(), locked.take()), (dead, dead));
    rig.messages();
    rig.check();
}

#[test]
fn m_03_and_q_01_invalidate_with_sync_frees_clean_pages_at_once_and_others_when_their_write_ends() {
    for flags in [SYNC, ASYNC] {
        let rig = Rig::with(range(0, 4), PLAIN);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags | INVALIDATE);
        assert_eq!((rig.messages().as_str(), rig.states().0), ("data_return[1,2)dirty synchronize[0,8)", 1));
        assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
        assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (0, 0)));
        drop(executor);
        assert_eq!(rig.read_supplied(1, PLAIN), Ok(0x41), "what the manager has");
        rig.check();
    }
}

#[test]
pub(super) fn m_04_and_d_a_invalidate_alone_returns_precious_pages_and_loses_dirty_ones() {
    let rig = Rig::with(range(0, 2), PLAIN);
    assert_eq!((rig.read_supplied(2, PRECIOUS), rig.read_supplied(3, PRECIOUS)), (Ok(0x42), Ok(0x43)));
    rig.messages();
    rig.write(0, 0x10);
    rig.write(3, 0x13);
    let messages = "data_return[2,3)precious data_return[3,4)dirty synchronize[0,8)";
    assert_eq!(rig.synced(0, 8, INVALIDATE), (String::from(messages), Ok(())));
    assert_eq!(rig.states(), (0, 0));
    assert_eq!(rig.read_supplied(0, PLAIN), Ok(0x40), "the write is lost");
    rig.check();
}

#[test]
pub(super) fn q_04_wired_pages_are_returned_and_never_dropped() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    let at = |page| rig.bed.at(page);
    assert_eq!(block_on(rig.bed.machine.map.wire(at(1), at(3), WireFlags::USER)), Ok(()));
    rig.write(2, 0x12);
    let alone = rig.synced(0, 8, INVALIDATE);
    assert_eq!(alone, (String::from("data_return[0,1)precious data_return[3,4)precious synchronize[0,8)"), Ok(())));
    assert_eq!(rig.states(), (2, 1), "nothing happens to the wired ones");
    let both = rig.synced(0, 8, SYNC | INVALIDATE);
    let messages = "data_return[1,2)precious,kept data_return[2,3)dirty,kept synchronize[0,8)";
    assert_eq!((both, rig.states()), ((String::from(messages), Ok(())), (2, 0)));
    assert!(rig.bed.is_mapped(2) && rig.bed.wired_by_host() == 2);
    rig.check();
}

#[test]
pub(super) fn z_01_page_written_during_its_write_stays_dirty_and_resident_under_invalidate() {
    for flags in [SYNC, SYNC | INVALIDATE] {
        let rig = Rig::with(range(1, 2), PLAIN);
        rig.write(1, 0x11);
        let mut executor = Executor::new(3);
        let sync = rig.msync(&mut executor, 0, 8, flags);
        assert_eq!(rig.returned(), (range(1, 2), 0x11));
        rig.write(1, 0x21);
        assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
        assert_eq!((executor.run(), sync.take(), rig.states()), (Ok(()), Some(Ok(())), (1, 1)));
        drop(executor);
        let mut executor = Executor::new(3);
        let _again = rig.msync(&mut executor, 0, 8, SYNC);
        rig.port.receive();
        assert_eq!(rig.returned(), (range(1, 2), 0x21));
        assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
        rig.messages();
        rig.check();
    }
}

#[test]
fn z_02_only_what_was_sent_becomes_clean() {
    let rig = Rig::with(range(0, 4), PLAIN);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    rig.write(2, 0x12);
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run(), sync.take()), (Ok(()), Ok(()), Some(Ok(()))));
    assert_eq!(rig.dirty(), [range(2, 3)]);
    rig.messages();
    rig.check();
}

#[test]
fn z_03_dirty_ranges_are_sorted_and_joined_through_every_mapping() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.map(20, MapMode::Shared);
    for page in [5, 1, 22, 26] {
        rig.write(page, 1);
    }
    assert_eq!(rig.dirty(), [range(1, 3), range(5, 7)]);
    rig.check();
}

#[test]
fn z_04_and_z_05_first_write_of_a_clean_page_is_asked_for_each_time_it_was_cleaned() {
    let rig = Rig::with(range(1, 3), TRAPS);
    let mut byte = [0];
    assert_eq!(block_on(rig.bed.machine.read(rig.bed.at(1), &mut byte)), Ok(()));
    assert_eq!(rig.messages(), "", "no request for a read");
    for number in [0x11, 0x21] {
        let bytes = [number];
        let mut executor = Executor::new(1);
        let write = executor.spawn(rig.bed.machine.write(rig.bed.at(1), &bytes));
        assert_eq!((executor.run_until_stalled(), rig.messages().as_str()), (1, "data_unlock[1,2)w"));
        let permit = rig.object.lock_request(range(1, 2), ShouldReturn::Nothing, false, Some(Prot::NONE));
        assert_eq!((block_on(permit), executor.run(), write.take()), (Ok(()), Ok(()), Some(Ok(()))));
        drop(executor);
        rig.write(1, number + 1);
        assert_eq!(rig.messages(), "lock_completed[1,2)", "no request for the second write");
        assert_eq!(rig.synced(0, 8, SYNC).1, Ok(()));
    }
    rig.check();
}

/// The matrix of section 4.2: what each request returns of a clean, a dirty, a precious and a dirty precious page, and how many
/// stay resident.
#[test]
fn o_08_lock_request_restricts_returns_and_flushes_by_its_matrix() {
    let cases = [
        (ShouldReturn::Nothing, false, "", 4),
        (ShouldReturn::Nothing, true, "", 0),
        (ShouldReturn::Dirty, false, "data_return[1,2)dirty,kept data_return[3,4)dirty,kept ", 4),
        (ShouldReturn::Dirty, true, "data_return[1,2)dirty data_return[3,4)dirty ", 0),
        (
            ShouldReturn::All,
            false,
            "data_return[1,2)dirty,kept data_return[2,3)precious,kept data_return[3,4)dirty,kept ",
            4,
        ),
        (ShouldReturn::All, true, "data_return[1,2)dirty data_return[2,3)precious data_return[3,4)dirty ", 0),
        (
            ShouldReturn::Anything,
            false,
            "data_return[0,1)precious,kept data_return[1,2)dirty,kept data_return[2,3)precious,kept \
             data_return[3,4)dirty,kept ",
            4,
        ),
        (
            ShouldReturn::Anything,
            true,
            "data_return[0,1)precious data_return[1,2)dirty data_return[2,3)precious data_return[3,4)dirty ",
            0,
        ),
    ];
    for (should_return, should_flush, messages, left) in cases {
        let rig = Rig::with(range(0, 2), PLAIN);
        assert!(rig.read_supplied(2, PRECIOUS).is_ok() && rig.read_supplied(3, PRECIOUS).is_ok());
        rig.messages();
        rig.write(1, 0x11);
        rig.write(3, 0x13);
        let request = rig.object.lock_request(range(0, 8), should_return, should_flush, None);
        assert_eq!(block_on(request), Ok(()));
        assert_eq!(rig.messages(), format!("{messages}lock_completed[0,8)"), "{should_return:?} {should_flush}");
        assert_eq!(rig.states().0, left, "{should_return:?} {should_flush}");
        rig.check();
    }
}

#[test]
fn o_08_lock_request_waits_for_what_is_on_its_way_and_leaves_wired_pages() {
    let rig = Rig::with(range(0, 2), PLAIN);
    let at = |page| rig.bed.at(page);
    assert_eq!(block_on(rig.bed.machine.map.wire(at(0), at(1), WireFlags::USER)), Ok(()));
    rig.write(0, 0x10);
    rig.write(1, 0x11);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    let flush = executor.spawn(rig.object.lock_request(range(0, 8), ShouldReturn::All, true, Some(Prot::WRITE)));
    executor.run_until_stalled();
    assert!(!flush.is_ready());
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
    assert_eq!((sync.take(), flush.take(), rig.states()), (Some(Ok(())), Some(Ok(())), (1, 0)));
    rig.messages();
    let other = rig.bed.machine.vm.anonymous_object(2);
    let request = other.lock_request(range(0, 1), ShouldReturn::All, true, None);
    assert_eq!(block_on(request), Err(KernReturn::InvalidArgument));
    assert_eq!(block_on(rig.object.kill()), Ok(()));
    let dead = rig.object.lock_request(range(0, 1), ShouldReturn::All, true, None);
    assert_eq!(block_on(dead), Err(KernReturn::InvalidArgument));
}

#[test]
pub(super) fn o_10_last_use_returns_what_is_owed_and_then_terminates() {
    let rig = Rig::with(range(0, 4), PRECIOUS);
    rig.write(1, 0x11);
    let Rig { bed, port, object, own } = rig;
    assert_eq!(block_on(bed.machine.map.deallocate(bed.at(0), 8 << PAGE_SHIFT)), Ok(()));
    let number = object.number();
    assert_eq!(port.receive(), None, "the handle may map it again");
    drop(object);
    let work = bed.machine.vm.take_background().expect("the end of the object");
    let mut executor = Executor::new(1);
    executor.spawn(work);
    assert_eq!(executor.run_until_stalled(), 1);
    let mut words: Vec<String> = Vec::new();
    while let Some((object, message)) = port.receive() {
        assert_eq!(object, number);
        words.push(format!("{message}"));
        if let Message::DataReturn { frames, .. } = message {
            frames.into_iter().for_each(|run| bed.machine.frames().free(run));
        }
    }
    let expected = "data_return[0,1)precious data_return[1,2)dirty data_return[2,4)precious synchronize[0,8)";
    assert_eq!(words.join(" "), expected);
    // Nobody holds the object by name any more; its manager answers by its number, which stands for it until the end.
    assert_eq!(bed.machine.vm.synchronize_completed(number, 0, 8 << PAGE_SHIFT, Ok(())), Ok(()));
    assert_eq!(executor.run(), Ok(()));
    assert_eq!(port.receive(), Some((number, Message::Terminate)));
    assert_eq!((bed.machine.check_quiet_with(&[&own]), bed.machine.vm.lost_objects()), (Ok(()), 0));
}

#[test]
fn h_07_private_mapping_keeps_its_writes_from_the_manager() {
    let rig = Rig::with(range(0, 8), PLAIN);
    rig.map(20, MapMode::Private);
    rig.write(1, 0x11);
    rig.write(21, 0x21);
    let private = rig.bed.machine.map.msync(rig.bed.at(20), 8 << PAGE_SHIFT, SYNC);
    assert_eq!((block_on(private), rig.messages().as_str()), (Ok(()), ""));
    assert_eq!(rig.bed.stable(21), Some(0x21), "its home is guest RAM");
    assert_eq!(rig.dirty(), [range(1, 2)]);
    rig.check();
}

#[test]
fn h_08_dirty_pages_come_back_through_a_mapping_that_may_not_write_them() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(1, 0x11);
    let protect = rig.bed.machine.map.protect(rig.bed.at(0), 8 << PAGE_SHIFT, false, Prot::READ);
    assert_eq!(block_on(protect), Ok(()));
    assert_eq!(rig.synced(0, 8, SYNC), (String::from("data_return[1,2)dirty,kept synchronize[0,8)"), Ok(())));
    rig.check();
}

#[test]
fn return_for_which_no_copy_can_be_made_is_a_failure_and_the_page_stays_dirty() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(1, 0x11);
    rig.bed.machine.frames().fail_allocation(0);
    let mut executor = Executor::new(3);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!(rig.messages(), "synchronize[0,8)");
    assert_eq!((rig.completed(0, 8, Ok(())), executor.run()), (Ok(()), Ok(())));
    assert_eq!((sync.take(), rig.states()), (Some(Err(KernReturn::Failure)), (2, 1)));
    rig.check();
}

#[test]
fn advice_drops_clean_pages_of_a_manager_and_no_precious_one() {
    let rig = Rig::with(range(0, 2), PLAIN);
    assert_eq!(rig.read_supplied(2, PRECIOUS), Ok(0x42));
    rig.write(1, 0x11);
    let advice = rig.bed.machine.map.advise(rig.bed.at(0), 8 << PAGE_SHIFT, Advice::DontNeed);
    assert_eq!((block_on(advice), rig.states()), (Ok(()), (2, 1)));
    rig.check();
}

#[test]
fn refused_unlock_can_be_asked_again() {
    let rig = Rig::new();
    rig.messages();
    let no_write = Supply { is_precious: false, traps_writes: false, forbidden: Prot::WRITE };
    assert_eq!(rig.read_supplied(0, no_write), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[0,1)w");
    // Refuse as row O-06 says: flush, then data_error.
    assert_eq!(block_on(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, true, None)), Ok(()));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "lock_completed[0,1) data_request[0,1)rw");
    assert_eq!(rig.object.data_error(range(0, 1), KernReturn::MemoryError), Ok(()));
    executor.run_until_stalled();
    assert_eq!(write.take(), Some(Err(KernReturn::MemoryError)));
    drop(executor);
    assert_eq!(rig.read_supplied(0, no_write), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_unlock[0,1)w");
}

#[test]
fn unlock_does_not_wait_for_the_managers_own_sync() {
    let rig = Rig::new();
    rig.messages();
    let how = Supply { is_precious: true, traps_writes: true, forbidden: Prot::NONE };
    assert_eq!(rig.read_supplied(0, how), Ok(0x40));
    rig.messages();
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    let _sync = rig.msync(&mut executor, 0, 1, SYNC);
    assert_eq!(rig.messages(), "data_unlock[0,1)w data_return[0,1)precious,kept synchronize[0,1)");
    // One message after the other, as the agent's manager does.
    let mut own = Executor::new(1);
    let unlock = own.spawn(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, false, Some(Prot::NONE)));
    own.run_until_stalled();
    assert_eq!(unlock.take(), Some(Ok(())), "the manager waits for itself");
}

#[test]
fn precious_page_supplied_during_termination_comes_back() {
    let rig = Rig::new();
    rig.messages();
    assert_eq!(rig.read_supplied(0, PLAIN), Ok(0x40));
    rig.write(0, 5);
    rig.messages();
    let number = rig.object.number();
    let map = &rig.bed.machine.map;
    let mut executor = Executor::new(1);
    let read = executor.spawn(map.fault(rig.bed.at(1), Prot::READ));
    executor.run_until_stalled();
    assert_eq!(rig.messages(), "data_request[1,2)r");
    let gone = executor.spawn(map.deallocate(rig.bed.at(0), 8 << PAGE_SHIFT));
    executor.run_until_stalled();
    std::eprintln!("read {:?} gone {:?}", read.take(), gone.take());
    let vm = Arc::clone(&rig.bed.machine.vm);
    drop(executor);
    let port = Arc::clone(&rig.port);
    // the last handle goes
    let Rig { object, bed, own, .. } = rig;
    drop(object);
    let mut background = Executor::new(1);
    let work = vm.take_background();
    std::eprintln!("terminates {}", work.is_some());
    let done = background.spawn(work.unwrap());
    background.run_until_stalled();
    let handle = vm.managed_object_of(&port, number).unwrap();
    let supplied = block_on(handle.data_supply(range(1, 2), &own, bed.at(1), PRECIOUS));
    std::eprintln!("supplied {supplied:?}");
    drop(handle);
    assert_eq!(vm.synchronize_completed(number, 0, 8 << PAGE_SHIFT, Ok(())), Ok(()));
    background.run_until_stalled();
    std::eprintln!("done {:?}", done.take().is_some());
    let mut words: Vec<String> = Vec::new();
    while let Some((_, message)) = port.receive() {
        words.push(format!("{message}"));
    }
    let words = words.join(" ");
    assert!(supplied.is_err() || words.contains("data_return[1,2)"), "{words}");
}

#[test]
fn two_views_in_one_range_return_a_precious_page_once() {
    let rig = Rig::with(range(0, 1), PRECIOUS);
    rig.map(8, MapMode::Shared);
    let mut executor = Executor::new(1);
    let _sync = rig.msync(&mut executor, 0, 16, SYNC);
    let words = rig.messages();
    assert_eq!(words.matches("data_return").count(), 1, "{words}");
}

#[test]
fn failed_supply_wakes_those_whose_pages_came() {
    let rig = Rig::new();
    rig.messages();
    let mut executor = Executor::new(1);
    let first = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(6), Prot::READ));
    let _second = executor.spawn(rig.bed.machine.map.fault(rig.bed.at(7), Prot::READ));
    executor.run_until_stalled();
    // The manager's own page behind the first one is not there.
    let supplied = block_on(rig.object.data_supply(range(6, 8), &rig.own, rig.bed.at(7), PLAIN));
    assert_eq!(supplied, Err(KernReturn::InvalidAddress));
    executor.run_until_stalled();
    assert_eq!(first.take(), Some(Ok(())));
}

#[test]
fn wired_page_stays_mapped_through_a_sync() {
    let rig = Rig::with(range(0, 1), TRAPS);
    let mut executor = Executor::new(1);
    let _write = executor.spawn(rig.bed.machine.write(rig.bed.at(0), &[9]));
    executor.run_until_stalled();
    assert_eq!(block_on(rig.object.lock_request(range(0, 1), ShouldReturn::Nothing, false, Some(Prot::NONE))), Ok(()));
    executor.run_until_stalled();
    drop(executor);
    rig.messages();
    assert_eq!(block_on(rig.bed.machine.map.wire(rig.bed.at(0), rig.bed.at(1), WireFlags::USER)), Ok(()));
    assert!(rig.bed.is_mapped(0), "before");
    rig.messages();
    let (words, outcome) = rig.synced(0, 1, SYNC);
    std::eprintln!("{words} {outcome:?} check {:?}", rig.bed.machine.check());
    assert!(rig.bed.is_mapped(0), "Q-04");
}

#[test]
fn page_returned_behind_a_synchronize_is_synchronized_by_the_next() {
    let rig = Rig::with(range(0, 2), PLAIN);
    rig.write(0, 5);
    let mut executor = Executor::new(1);
    let sync = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!(rig.messages(), "data_return[0,1)dirty,kept synchronize[0,8)");
    rig.write(1, 6);
    assert_eq!(block_on(rig.object.lock_request(range(1, 2), ShouldReturn::Dirty, false, None)), Ok(()));
    assert_eq!(rig.messages(), "data_return[1,2)dirty,kept lock_completed[1,2)");
    assert_eq!(rig.completed(0, 8, Ok(())), Ok(()));
    assert_eq!(rig.bed.machine.run(&mut executor), Ok(()));
    assert_eq!(sync.take(), Some(Ok(())));
    let mut executor = Executor::new(1);
    let again = rig.msync(&mut executor, 0, 8, SYNC);
    assert_eq!((rig.messages().as_str(), again.take()), ("synchronize[0,8)", None));
}

#[test]
fn silent_manager_does_not_hold_up_who_syncs_other_memory() {
    let rig = Rig::with(range(0, 1), PLAIN);
    let placement = Placement::Fixed(rig.bed.at(20));
    assert_eq!(block_on(rig.bed.machine.map.allocate(placement, 1 << PAGE_SHIFT)), Ok(rig.bed.at(20)));
    rig.write(0, 5);
    rig.write(20, 6);
    rig.bed.host().hold();
    let mut executor = Executor::new(1);
    let _both = rig.msync(&mut executor, 0, 24, SYNC);
    rig.bed.host().release();
    executor.run_until_stalled();
    rig.messages();
    let other = rig.msync(&mut executor, 20, 21, SYNC);
    executor.run_until_stalled();
    assert_eq!(other.take(), Some(Ok(())), "storage has answered; only the manager has not");
}
