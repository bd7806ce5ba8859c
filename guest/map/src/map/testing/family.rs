//! Several maps over shared objects: copies, shadows, files.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Bed, Outcome};
use crate::entry::Inheritance;
use crate::fake::{Executor, FakeConfig, FakePmap, FakePorts, HostCall, block_on};
use crate::flags::{LockAllFlags, SyncFlags, WireFlags};
use crate::handle::{ObjectHandle, PagerFault};
use crate::kern_return::KernReturn;
use crate::map::{Advice, MapMode, Placement, VmMap};
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const USER: WireFlags = WireFlags::USER;
const SYSTEM: WireFlags = WireFlags::SYSTEM;

/// A map beside the bed's own; operations take pages as the bed's do.
struct Relative<'a> {
    bed: &'a Bed,
    map: VmMap<FakePorts>,
}

impl<'a> Relative<'a> {
    fn fork_of(bed: &'a Bed) -> Self {
        let map = block_on(bed.machine.map.fork(FakePmap::new())).unwrap();
        Self { bed, map }.settled()
    }

    fn empty(bed: &'a Bed) -> Self {
        let map = VmMap::new(Arc::clone(&bed.machine.vm), bed.machine.map.bounds(), FakePmap::new());
        Self { bed, map }
    }

    fn settled(self) -> Self {
        self.check();
        self
    }

    fn check(&self) {
        assert_eq!(self.bed.machine.check_quiet_with(&[&self.map]), Ok(()));
    }

    fn wire(&self, start: u64, end: u64, flags: WireFlags) -> Outcome {
        let outcome = block_on(self.map.wire(self.bed.at(start), self.bed.at(end), flags));
        self.check();
        outcome
    }

    fn unwire(&self, start: u64, end: u64, flags: WireFlags) -> Outcome {
        let outcome = block_on(self.map.unwire(self.bed.at(start), self.bed.at(end), flags));
        self.check();
        outcome
    }

    fn write(&self, page: u64, byte: u8) -> Outcome {
        let outcome = block_on(self.bed.machine.write_in(&self.map, self.bed.at(page), &[byte]));
        self.check();
        outcome
    }

    fn read(&self, page: u64) -> Result<u8, KernReturn> {
        let mut byte = [0];
        let outcome = block_on(self.bed.machine.read_in(&self.map, self.bed.at(page), &mut byte));
        self.check();
        outcome.map(|()| byte[0])
    }

    fn protect(&self, start: u64, end: u64, prot: Prot) -> Outcome {
        let size = (end - start) << PAGE_SHIFT;
        let outcome = block_on(self.map.protect(self.bed.at(start), size, false, prot));
        self.check();
        outcome
    }

    fn page_wires(&self, start: u64, end: u64) -> Vec<(u64, u64, u32)> {
        wires(self.bed, &self.map, start, end)
    }

    fn frame(&self, page: u64) -> Option<u64> {
        let at = self.bed.at(page) >> PAGE_SHIFT;
        Some(self.map.frames(at, at + 1).first()?.frames?.first)
    }

    fn end(self) {
        block_on(self.map.destroy());
        let Self { bed, map } = self;
        drop(map);
        assert_eq!(bed.machine.check_quiet(), Ok(()));
    }
}

fn wires(bed: &Bed, map: &VmMap<FakePorts>, start: u64, end: u64) -> Vec<(u64, u64, u32)> {
    let base = bed.at(0) >> PAGE_SHIFT;
    let rows = map.page_wires(PageRange::new(base + start, base + end));
    rows.into_iter().map(|(pages, count)| (pages.start - base, pages.end - base, count)).collect()
}

fn map(bed: &Bed, map: &VmMap<FakePorts>, object: &ObjectHandle<FakePorts>, at: u64, mode: MapMode, prot: Prot) {
    let pages = PageRange::new(0, object.pages());
    let address = block_on(map.map_object(Placement::Fixed(bed.at(at)), object, pages, mode, prot));
    assert_eq!(address, Ok(bed.at(at)));
}

#[test]
fn fork_copies_at_the_first_write_of_either_and_both_keep_their_bytes() {
    let bed = Bed::of(4);
    for page in 0..4 {
        assert_eq!(bed.write(page, 0x40), Ok(()));
    }
    let child = Relative::fork_of(&bed);
    assert_eq!((child.read(0), child.frame(0)), (Ok(0x40), bed.frame(0)), "nothing is copied before a write");
    assert_eq!(child.write(0, 0x50), Ok(()));
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[0x41])), Ok(()));
    assert_eq!((child.read(0), child.read(1)), (Ok(0x50), Ok(0x40)));
    let mut bytes = [0; 2];
    block_on(bed.machine.read(bed.at(0), &mut bytes[..1])).unwrap();
    block_on(bed.machine.read(bed.at(1), &mut bytes[1..])).unwrap();
    assert_eq!(bytes, [0x40, 0x41]);
    child.end();
    assert_eq!(bed.machine.vm.resident_pages(), 4, "the shadow took the pages over when nobody else saw them");
    assert_eq!((bed.read(0), bed.read(1)), (Ok(0x40), Ok(0x41)));
    bed.deallocate(0, 4);
    assert_eq!(bed.machine.vm.resident_pages(), 0);
}

#[test]
fn fork_of_generations_collapses_to_one_object_again() {
    let bed = Bed::of(8);
    for round in 0..20 {
        assert_eq!(bed.write(round % 8, 1), Ok(()));
        let child = Relative::fork_of(&bed);
        assert_eq!(block_on(bed.machine.write(bed.at(round % 8), &[2])), Ok(()));
        assert_eq!(child.read(round % 8), Ok(1));
        child.end();
    }
    assert_eq!(bed.machine.vm.objects().table.iter().count(), 1, "no chain is left");
}

#[test]
fn d_04_fork_of_wired_writable_memory_keeps_the_parents_pages_and_copies_for_the_child() {
    let bed = Bed::of(6);
    assert_eq!((bed.write(2, 7), bed.wire(1, 4, USER)), (Ok(()), Ok(())));
    let frames: Vec<_> = (1..4).map(|page| bed.frame(page)).collect();
    bed.host().take_log();
    let child = Relative::fork_of(&bed);
    assert_eq!((child.page_wires(0, 6), child.read(2)), ([(1, 4, 0)].to_vec(), Ok(7)));
    assert_ne!(child.frame(2), bed.frame(2));
    assert_eq!(block_on(bed.machine.write(bed.at(2), &[8])), Ok(()));
    assert_eq!((1..4).map(|page| bed.frame(page)).collect::<Vec<_>>(), frames, "the parent's pages never move");
    assert_eq!((child.read(2), bed.host().take_log()), (Ok(7), Vec::new()));
    child.end();
}

#[test]
fn d_05_fork_of_wired_read_only_memory_shares_it_and_p_03_copies_when_it_becomes_writable() {
    let bed = Bed::of(4);
    assert_eq!(bed.write(1, 5), Ok(()));
    assert_eq!((bed.protect(0, 4, Prot::READ), bed.wire(0, 4, USER)), (Ok(()), Ok(())));
    let child = Relative::fork_of(&bed);
    assert_eq!(child.frame(1), bed.frame(1));
    let old = bed.frame(1);
    bed.host().take_log();
    let size = 4 << PAGE_SHIFT;
    assert_eq!(block_on(bed.machine.map.protect(bed.at(0), size, false, Prot::DEFAULT)), Ok(()));
    child.check();
    assert_ne!(bed.frame(1), old, "the wired pages are copies now");
    assert_eq!(wires(&bed, &bed.machine.map, 0, 4), [(0, 4, 1)]);
    assert_eq!(child.page_wires(0, 4), [(0, 4, 0)]);
    assert!(matches!(bed.host().take_log().as_slice(), [HostCall::Wire(new), HostCall::Unwire(old)] if new != old));
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[6])), Ok(()));
    assert_eq!(child.read(1), Ok(5));
    child.end();
}

#[test]
fn d_05_fork_of_an_entry_that_was_clipped_shares_all_its_pieces_until_one_is_written() {
    let bed = Bed::of(6);
    for page in 0..6 {
        assert_eq!(bed.write(page, 5), Ok(()));
    }
    assert_eq!((bed.protect(2, 3, Prot::READ), bed.wire(2, 3, USER), bed.wire(4, 5, USER)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(bed.entries(), "[0,2) [2,3) [3,4) [4,5) [5,6)");
    let child = Relative::fork_of(&bed);
    let shared: Vec<bool> = (0..6).map(|page| child.frame(page) == bed.frame(page)).collect();
    assert_eq!(shared, [true, true, true, true, false, true], "only what is wired and may be written is copied now");
    assert_eq!((child.write(0, 6), child.write(3, 6)), (Ok(()), Ok(())));
    let mut byte = [0];
    for page in [0, 3] {
        assert_eq!(block_on(bed.machine.read(bed.at(page), &mut byte)), Ok(()));
        assert_eq!(byte, [5]);
    }
    child.end();
}

#[test]
fn p_03_protect_whose_copies_the_host_refuses_changes_nothing() {
    let bed = Bed::of(4);
    assert_eq!((bed.write(1, 5), bed.protect(0, 4, Prot::READ), bed.wire(0, 4, USER)), (Ok(()), Ok(()), Ok(())));
    let child = Relative::fork_of(&bed);
    let before = (bed.frame(0), bed.frame(1), bed.layout(), bed.host().wired());
    bed.host().fail_wire(0, HostError::Shortage);
    let size = 2 << PAGE_SHIFT;
    let refused = block_on(bed.machine.map.protect(bed.at(1), size, false, Prot::DEFAULT));
    assert_eq!(refused, Err(KernReturn::ResourceShortage));
    child.check();
    assert_eq!((bed.frame(0), bed.frame(1), bed.layout(), bed.host().wired()), before);
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[6])), Err(KernReturn::ProtectionFailure));
    child.end();
}

#[test]
fn p_04_write_to_a_system_wired_page_that_others_see_moves_the_wiring_to_the_copy() {
    let bed = Bed::of(4);
    assert_eq!((bed.write(1, 5), bed.protect(0, 4, Prot::READ), bed.wire(0, 4, SYSTEM)), (Ok(()), Ok(()), Ok(())));
    let child = Relative::fork_of(&bed);
    let size = 4 << PAGE_SHIFT;
    assert_eq!(block_on(bed.machine.map.protect(bed.at(0), size, false, Prot::DEFAULT)), Ok(()));
    let shared = bed.frame(1);
    bed.host().fail_wire(0, HostError::Quota);
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[6])), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.frame(1), child.read(1)), (shared, Ok(5)), "a copy that the host does not hold takes no place");
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[6])), Ok(()));
    child.check();
    assert_ne!(bed.frame(1), shared);
    assert_eq!(wires(&bed, &bed.machine.map, 0, 4), [(0, 4, 1)]);
    assert_eq!((child.frame(1), child.page_wires(1, 2)), (shared, [(1, 2, 0)].to_vec()));
    assert_eq!(block_on(bed.machine.map.unwire(bed.at(0), bed.at(4), SYSTEM)), Ok(()));
    child.check();
    child.end();
}

#[test]
fn y_04_copy_under_another_maps_wired_mapping_moves_its_wiring_and_its_mapping() {
    let bed = Bed::of(2);
    assert_eq!((bed.write(0, 5), bed.write(1, 5)), (Ok(()), Ok(())));
    let first = Relative::fork_of(&bed);
    // From here on both relatives share one object over what the bed shows.
    assert_eq!(block_on(first.map.inherit(bed.at(0), 2 << PAGE_SHIFT, Inheritance::Share)), Ok(()));
    let map = block_on(first.map.fork(FakePmap::new())).unwrap();
    let second = Relative { bed: &bed, map };
    let all = |rule| assert_eq!(bed.machine.check_quiet_with(&[&first.map, &second.map]), Ok(()), "{rule}");
    let (start, end) = (bed.at(0), bed.at(2));
    assert_eq!(block_on(first.map.protect(start, end - start, false, Prot::READ)), Ok(()));
    assert_eq!(block_on(first.map.wire(start, end, USER)), Ok(()));
    all("wired through the shared object, on the bed's pages");
    assert_eq!(block_on(bed.machine.write_in(&second.map, start, &[6])), Ok(()));
    all("the copy took the wiring along");
    let (mut seen, mut own) = ([0], [0]);
    assert_eq!(block_on(bed.machine.read_in(&first.map, start, &mut seen)), Ok(()));
    assert_eq!(block_on(bed.machine.read(start, &mut own)), Ok(()));
    assert_eq!((seen, own), ([6], [5]));
    assert_eq!(wires(&bed, &first.map, 0, 2), [(0, 2, 1)]);
    assert_eq!(block_on(first.map.unwire(start, end, USER)), Ok(()));
    all("unwired once, it is wired no more");
    block_on(second.map.destroy());
    block_on(first.map.destroy());
    assert_eq!(bed.machine.check_quiet(), Ok(()));
}

#[test]
fn d_06_pages_of_a_shared_object_that_two_maps_wire_are_held_until_both_let_go() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(4);
    map(&bed, &bed.machine.map, &object, 0, MapMode::Shared, Prot::DEFAULT);
    let other = Relative::fork_of(&bed);
    assert_eq!(block_on(bed.machine.map.wire(bed.at(0), bed.at(3), USER)), Ok(()));
    assert_eq!(other.page_wires(0, 4), [(0, 3, 1)]);
    bed.host().take_log();
    assert_eq!(other.wire(1, 4, USER), Ok(()));
    assert_eq!((other.page_wires(0, 4), bed.wired_by_host()), ([(0, 1, 1), (1, 3, 2), (3, 4, 1)].to_vec(), 4));
    assert!(
        matches!(bed.host().take_log().as_slice(), [HostCall::Wire(runs)] if runs.len() == 1 && runs[0].pages == 1)
    );
    assert_eq!(block_on(bed.machine.map.unwire(bed.at(0), bed.at(3), USER)), Ok(()));
    assert_eq!((other.page_wires(0, 4), bed.wired_by_host()), ([(0, 1, 0), (1, 4, 1)].to_vec(), 3));
    assert_eq!((other.unwire(1, 4, USER), bed.wired_by_host()), (Ok(()), 0));
    other.end();
}

#[test]
fn wire_of_a_page_whose_hosts_answer_is_out_waits_for_it_and_asks_again_after_a_refusal() {
    for refused in [false, true] {
        let bed = Bed::new();
        let object = bed.machine.vm.anonymous_object(2);
        map(&bed, &bed.machine.map, &object, 0, MapMode::Shared, Prot::DEFAULT);
        let other = Relative::fork_of(&bed);
        bed.host().hold();
        if refused {
            bed.host().fail_wire(0, HostError::Quota);
        }
        let mut executor = Executor::new(1);
        let one = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(2), USER));
        assert_eq!(executor.run_until_stalled(), 1);
        let two = executor.spawn(other.map.wire(bed.at(0), bed.at(2), USER));
        assert_eq!(executor.run_until_stalled(), 2);
        assert_eq!(bed.host().take_log().len(), 1, "one asks, the other waits for the answer");
        bed.host().release();
        assert_eq!(executor.run(), Ok(()));
        drop(executor);
        let expected = if refused { Err(KernReturn::ResourceShortage) } else { Ok(()) };
        assert_eq!((one.take(), two.take()), (Some(expected), Some(Ok(()))));
        assert_eq!(other.page_wires(0, 2), [(0, 2, if refused { 1 } else { 2 })]);
        other.end();
    }
}

#[test]
fn fork_of_memory_that_others_write_copies_it_now() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(2);
    map(&bed, &bed.machine.map, &object, 0, MapMode::Shared, Prot::DEFAULT);
    map(&bed, &bed.machine.map, &object, 4, MapMode::Shared, Prot::DEFAULT);
    assert_eq!(bed.write(0, 1), Ok(()));
    assert_eq!(block_on(bed.machine.map.inherit(bed.at(0), 2 << PAGE_SHIFT, Inheritance::Copy)), Ok(()));
    let child = Relative::fork_of(&bed);
    assert_eq!(block_on(bed.machine.write(bed.at(4), &[2])), Ok(()));
    assert_eq!((child.read(0), child.read(4)), (Ok(1), Ok(2)), "a copy is what was there then; sharing goes on");
    child.end();
}

#[test]
fn p_02_wire_of_a_read_only_private_mapping_wires_the_files_own_pages() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Private, Prot::READ);
    map(&bed, &bed.machine.map, &file, 8, MapMode::Shared, Prot::READ);
    assert_eq!(bed.wire(1, 3, USER), Ok(()));
    assert_eq!((bed.frame(1), bed.read(1), bed.read(9)), (bed.frame(9), Ok(0x11), Ok(0x11)));
    assert_eq!(wires(&bed, &bed.machine.map, 8, 12), [(9, 11, 1)]);
    assert_eq!((bed.unwire(1, 3, USER), bed.wired_by_host()), (Ok(()), 0));
}

#[test]
fn c_05_and_p_01_wire_of_the_middle_of_a_writable_private_mapping_copies_it_and_stays_three_entries() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(6, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Private, Prot::DEFAULT);
    map(&bed, &bed.machine.map, &file, 8, MapMode::Shared, Prot::DEFAULT);
    assert_eq!(bed.wire(2, 4, USER), Ok(()));
    assert_ne!(bed.frame(2), bed.frame(10));
    assert_eq!((bed.write(10, 0x77), bed.read(2)), (Ok(()), Ok(0x12)), "copied when it was wired");
    assert_eq!(bed.unwire(2, 4, USER), Ok(()));
    assert_eq!(bed.entries(), "[0,2) [2,4) [4,6) [8,14)");
}

#[test]
fn b_01_pager_that_supplies_more_than_asked_for_wires_nothing_twice() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(8, 4);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Shared, Prot::READ);
    assert_eq!(bed.wire(0, 6, USER), Ok(()));
    assert_eq!(wires(&bed, &bed.machine.map, 0, 8), [(0, 6, 1), (6, 8, 0)]);
    assert_eq!((bed.unwire(0, 6, USER), bed.wired_by_host()), (Ok(()), 0));
}

#[test]
fn f_02_faults_say_why_a_page_can_not_be_had_and_undo_everything() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    let pages = PageRange::new(0, 6);
    let address =
        block_on(bed.machine.map.map_object(Placement::Fixed(bed.at(0)), &file, pages, MapMode::Shared, Prot::READ));
    assert_eq!(address, Ok(bed.at(0)));
    let wires_nothing = |end, code| {
        assert_eq!(bed.wire(0, end, USER | WireFlags::HOLESOK), Err(code));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,6)0", 0));
        assert_eq!(bed.machine.vm.user_wired_pages(), 0);
    };
    wires_nothing(6, KernReturn::OutOfBounds);
    assert_eq!(bed.machine.map.residents(PageRange::new(16, 24)), 4, "F-06: what came may stay");
    block_on(bed.machine.map.advise(bed.at(0), 4 << PAGE_SHIFT, Advice::DontNeed)).unwrap();
    assert_eq!(bed.machine.map.residents(PageRange::new(16, 24)), 0);
    file.fail(2, Some(PagerFault::Io));
    wires_nothing(4, KernReturn::OutOfBounds);
    file.fail(2, Some(PagerFault::Refused));
    wires_nothing(4, KernReturn::Failure);
    file.fail(2, None);
    assert_eq!((bed.wire(0, 4, USER), bed.unwire(0, 4, USER)), (Ok(()), Ok(())));
    assert_eq!(block_on(file.kill()), Ok(()));
    wires_nothing(4, KernReturn::ProtectionFailure);
}

#[test]
fn t_08_faults_on_one_absent_page_come_once_and_meet() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Shared, Prot::READ);
    file.gate(1);
    let mut executor = Executor::new(5);
    let faults: Vec<_> = (0..3).map(|_| executor.spawn(bed.machine.map.fault(bed.at(1), Prot::READ))).collect();
    let elsewhere = executor.spawn(bed.machine.map.fault(bed.at(2), Prot::READ));
    assert_eq!(executor.run_until_stalled(), 3);
    assert_eq!(elsewhere.take(), Some(Ok(())), "other pages of the entry come meanwhile");
    file.release(1);
    assert_eq!(executor.run(), Ok(()));
    assert!(faults.iter().all(|fault| fault.take() == Some(Ok(()))));
    assert_eq!(bed.settled(bed.machine.map.residents(PageRange::new(16, 24))), 2);
}

#[test]
fn t_10_fork_and_protect_wait_while_a_wire_brings_pages_in_and_deallocate_for_its_marks() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Shared, Prot::READ);
    bed.allocate(8, 10);
    file.gate(3);
    let mut executor = Executor::new(5);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let fork = executor.spawn(bed.machine.map.fork(FakePmap::new()));
    let protect = executor.spawn(bed.machine.map.protect(bed.at(8), 4096, false, Prot::READ));
    let gone = executor.spawn(bed.machine.map.deallocate(bed.at(2), 4096));
    assert_eq!(executor.run_until_stalled(), 4);
    file.release(3);
    assert_eq!(executor.run(), Ok(()));
    drop(executor);
    assert_eq!((wire.take(), protect.take(), gone.take()), (Some(Ok(())), Some(Ok(())), Some(Ok(()))));
    let child = Relative { bed: &bed, map: fork.take().unwrap().unwrap() };
    child.check();
    child.end();
    assert_eq!(bed.wired_by_host(), 3);
}

#[test]
fn t_07_entry_that_is_clipped_while_its_pages_come_in_is_wired_as_one() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(6, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Shared, Prot::READ);
    for fails in [false, true] {
        file.gate(4);
        file.fail(5, fails.then_some(PagerFault::Io));
        let mut executor = Executor::new(5);
        let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(6), USER));
        assert_eq!(executor.run_until_stalled(), 1);
        let clip = executor.spawn(bed.machine.map.inherit(bed.at(2), 1 << PAGE_SHIFT, Inheritance::None));
        assert_eq!((executor.run_until_stalled(), clip.take()), (1, Some(Ok(()))));
        assert_eq!(bed.entries(), "[0,2) [2,3) [3,6)");
        file.release(4);
        assert_eq!(executor.run(), Ok(()));
        drop(executor);
        let (result, layout, total) =
            if fails { (Err(KernReturn::OutOfBounds), "[0,6)0", 0) } else { (Ok(()), "[0,6)1U", 6) };
        assert_eq!((wire.take(), bed.layout().as_str()), (Some(result), layout));
        assert_eq!((bed.settled(bed.machine.vm.user_wired_pages()), bed.wired_by_host()), (total, total));
        bed.unwire(0, 6, USER).unwrap();
        block_on(bed.machine.map.inherit(bed.at(0), 6 << PAGE_SHIFT, Inheritance::Share)).unwrap();
        block_on(bed.machine.map.advise(bed.at(0), 6 << PAGE_SHIFT, Advice::DontNeed)).unwrap();
    }
}

#[test]
fn p_10_wired_page_that_is_cut_off_stays_until_it_is_unwired_and_is_zero_when_the_file_grows_again() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Shared, Prot::DEFAULT);
    assert_eq!((bed.wire(1, 3, USER), bed.read(0), bed.read(3)), (Ok(()), Ok(0x10), Ok(0x13)));
    assert_eq!(block_on(file.truncate(2)), Ok(()));
    assert_eq!(
        (bed.read(1), bed.read(2), bed.read(3)),
        (Ok(0x11), Err(KernReturn::OutOfBounds), Err(KernReturn::OutOfBounds))
    );
    assert_eq!((bed.wired_by_host(), bed.machine.vm.resident_pages()), (2, 3));
    assert_eq!(block_on(file.truncate(4)), Ok(()));
    assert_eq!((bed.read(2), bed.read(3)), (Ok(0), Ok(0)));
    assert_eq!(block_on(file.truncate(1)), Ok(()));
    assert_eq!((bed.unwire(1, 3, USER), bed.wired_by_host()), (Ok(()), 0));
    assert_eq!(bed.machine.vm.resident_pages(), 1, "B-06: what stayed for the wiring only is gone");
}

#[test]
fn truncate_takes_pages_away_from_private_mappings_but_not_their_copies() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(4, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Private, Prot::DEFAULT);
    assert_eq!((bed.write(2, 0x55), bed.read(3)), (Ok(()), Ok(0x13)));
    assert_eq!(block_on(file.truncate(1)), Ok(()));
    assert_eq!((bed.read(2), bed.read(3)), (Ok(0x55), Err(KernReturn::OutOfBounds)));
}

#[test]
fn mlockall_on_fault_wires_pages_as_they_come_and_a_later_lock_brings_the_others_in_uncharged() {
    let bed = Bed::of(8);
    assert_eq!(bed.write(1, 1), Ok(()));
    let all = LockAllFlags::CURRENT | LockAllFlags::FUTURE | LockAllFlags::ONFAULT;
    assert_eq!(block_on(bed.machine.map.mlockall(all)), Ok(()));
    assert_eq!(wires(&bed, &bed.machine.map, 0, 8), [(1, 2, 1)]);
    assert_eq!((bed.layout().as_str(), bed.machine.vm.user_wired_pages()), ("[0,8)1U", 8));
    assert_eq!(bed.write(5, 1), Ok(()));
    assert_eq!((bed.wired_by_host(), bed.read(6)), (2, Ok(0)));
    assert_eq!(bed.wired_by_host(), 3);
    bed.host().fail_wire(0, HostError::Shortage);
    assert_eq!(bed.write(7, 1), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.wired_by_host(), bed.write(7, 1), bed.wired_by_host()), (3, Ok(()), 4));
    bed.host().fail_wire(0, HostError::Shortage);
    assert_eq!(bed.wire(0, 8, USER), Err(KernReturn::ResourceShortage));
    assert_eq!(wires(&bed, &bed.machine.map, 0, 8), [(0, 1, 0), (1, 2, 1), (2, 5, 0), (5, 8, 1)], "as before");
    assert_eq!((bed.write(2, 1), bed.wired_by_host()), (Ok(()), 5), "the call's pages are wired as they are touched");
    assert_eq!((bed.wire(0, 8, USER), bed.wired_by_host()), (Ok(()), 8));
    assert_eq!(bed.machine.vm.user_wired_pages(), 8, "not charged again");
    assert_eq!((block_on(bed.machine.map.munlockall()), bed.wired_by_host()), (Ok(()), 0));
    bed.settled(());
}

#[test]
fn entries_wired_on_fault_part_and_join_and_each_forgets_its_own_pages() {
    let bed = Bed::of(12);
    assert_eq!(block_on(bed.machine.map.mlockall(LockAllFlags::CURRENT | LockAllFlags::ONFAULT)), Ok(()));
    for page in 0..8 {
        assert_eq!(bed.write(page, 1), Ok(()));
    }
    assert_eq!(bed.protect(5, 6, Prot::READ), Ok(()));
    assert_eq!(bed.machine.map.entries().len(), 3);
    assert_eq!(bed.protect(5, 6, Prot::DEFAULT), Ok(()));
    assert_eq!(bed.machine.map.entries().len(), 1, "all agree again");
    assert_eq!((bed.unwire(2, 4, USER), bed.wired_by_host()), (Ok(()), 6));
    bed.deallocate(7, 9);
    assert_eq!((bed.settled(bed.wired_by_host()), bed.machine.vm.user_wired_pages()), (5, 8));
    assert_eq!((bed.write(3, 2), bed.write(9, 2), bed.wired_by_host()), (Ok(()), Ok(()), 6), "3 is wired no more");
    assert_eq!(wires(&bed, &bed.machine.map, 0, 7), [(0, 2, 1), (2, 4, 0), (4, 7, 1)]);
    // Two entries and what lies between them are wired as a whole, or not at all.
    bed.host().fail_wire(0, HostError::Shortage);
    assert_eq!(bed.wire(0, 7, USER), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.wired_by_host(), bed.machine.vm.user_wired_pages()), (6, 8));
    assert_eq!((bed.wire(0, 7, USER), bed.wired_by_host()), (Ok(()), 8));
    assert_eq!((block_on(bed.machine.map.munlockall()), bed.wired_by_host()), (Ok(()), 0));
    bed.settled(());
}

#[test]
fn free_drops_unshared_anonymous_pages_but_no_wired_ones() {
    let bed = Bed::of(4);
    for page in 0..4 {
        assert_eq!(bed.write(page, 9), Ok(()));
    }
    assert_eq!(bed.wire(1, 2, USER), Ok(()));
    let free = || block_on(bed.machine.map.advise(bed.at(0), 4 << PAGE_SHIFT, Advice::Free));
    assert_eq!((bed.settled(free()), bed.machine.vm.resident_pages()), (Ok(()), 1));
    assert_eq!((bed.read(0), bed.read(1)), (Ok(0), Ok(9)));
    assert_eq!(bed.write(3, 9), Ok(()));
    let child = Relative::fork_of(&bed);
    assert_eq!((free(), child.read(3)), (Ok(()), Ok(9)));
    child.end();
}

#[test]
fn msync_of_what_a_private_mapping_of_a_file_shows_sends_copies_and_refuses_written_file_pages() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(2, 1);
    map(&bed, &bed.machine.map, &file, 0, MapMode::Private, Prot::DEFAULT);
    map(&bed, &bed.machine.map, &file, 4, MapMode::Shared, Prot::DEFAULT);
    assert_eq!((bed.write(0, 3), bed.read(1)), (Ok(()), Ok(0x11)));
    assert_eq!((bed.msync(0, 2, SyncFlags::SYNCHRONOUS), bed.stable(0)), (Ok(()), Some(3)));
    assert_eq!(bed.write(5, 3), Ok(()));
    assert_eq!(bed.msync(4, 6, SyncFlags::SYNCHRONOUS), Err(KernReturn::Failure));
    assert_eq!(bed.read(5), Ok(3));
}

#[test]
fn shared_object_outlives_its_handle_and_ends_with_its_last_mapping() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(2);
    map(&bed, &bed.machine.map, &object, 0, MapMode::Shared, Prot::DEFAULT);
    let other = Relative::empty(&bed);
    map(&bed, &other.map, &object, 3, MapMode::Shared, Prot::DEFAULT);
    drop(object);
    assert_eq!((other.write(3, 8), other.protect(3, 4, Prot::READ)), (Ok(()), Ok(())));
    let mut byte = [0];
    assert_eq!(block_on(bed.machine.read(bed.at(0), &mut byte)), Ok(()));
    assert_eq!(byte, [8]);
    block_on(bed.machine.map.deallocate(bed.at(0), 2 << PAGE_SHIFT)).unwrap();
    assert_eq!((other.read(3), bed.machine.vm.resident_pages()), (Ok(8), 1));
    other.end();
    assert_eq!(bed.machine.vm.resident_pages(), 0);
}

#[test]
fn a_08_large_pages_come_whole_and_can_not_be_clipped() {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(512, 8192), ..FakeConfig::default() });
    let address = block_on(bed.machine.map.allocate_large(Placement::Anywhere, 2 << 21));
    assert_eq!(address, Ok(bed.at(0)));
    assert_eq!(bed.write(700, 1), Ok(()));
    assert_eq!(bed.machine.vm.resident_pages(), 512);
    for (start, end) in [(0, 1), (1, 512), (100, 600), (0, 1023)] {
        assert_eq!(bed.wire(start, end, USER), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.unwire(start, end, USER), Err(KernReturn::InvalidArgument));
        let (address, size) = (bed.at(start), (end - start) << PAGE_SHIFT);
        assert_eq!(
            block_on(bed.machine.map.protect(address, size, false, Prot::READ)),
            Err(KernReturn::InvalidArgument)
        );
        assert_eq!(block_on(bed.machine.map.deallocate(address, size)), Err(KernReturn::InvalidArgument));
    }
    assert_eq!((bed.wire(0, 512, USER), bed.layout().as_str()), (Ok(()), "[0,512)1U [512,1024)0"));
    assert_eq!(bed.wired_by_host(), 512);
    bed.deallocate(512, 1024);
    assert_eq!((bed.settled(bed.entries()), bed.machine.vm.resident_pages()), ("[0,512)".into(), 512));
}

#[test]
fn p_09_stack_grows_to_the_page_touched_and_is_wired_where_future_memory_is() {
    let bed = Bed::new();
    let stack = block_on(bed.machine.map.stack(Placement::Fixed(bed.at(0)), 16 << PAGE_SHIFT, 2 << PAGE_SHIFT));
    assert_eq!((stack, bed.entries().as_str()), (Ok(bed.at(0)), "[0,14) [14,16)"));
    assert_eq!((bed.write(12, 1), bed.entries().as_str()), (Ok(()), "[0,12) [12,14) [14,16)"));
    assert_eq!(bed.write(0, 1), Err(KernReturn::ProtectionFailure), "the lowest page is never given away");
    let limits = |pages| crate::map::MapLimits { memlock_pages: pages, may_lock: true };
    assert_eq!(block_on(bed.machine.map.mlockall(LockAllFlags::FUTURE)), Ok(()));
    bed.machine.map.set_limits(limits(1));
    assert_eq!(bed.write(10, 1), Err(KernReturn::NoSpace));
    assert_eq!(bed.entries(), "[0,12) [12,14) [14,16)");
    bed.machine.map.set_limits(limits(4));
    bed.host().fail_wire(0, HostError::Quota);
    assert_eq!(bed.write(10, 1), Err(KernReturn::ResourceShortage));
    assert_eq!(bed.entries(), "[0,10) [10,12) [12,14) [14,16)", "the growth is kept");
    assert_eq!((bed.write(9, 1), bed.layout().as_str()), (Ok(()), "[0,9)0 [9,10)1U [10,16)0"));
    assert_eq!(bed.wire(0, 16, USER), Err(KernReturn::InvalidAddress), "P-08: a gap can't be wired");
    assert_eq!(bed.wire(0, 16, USER | WireFlags::HOLESOK), Err(KernReturn::ResourceShortage), "4 pages are the limit");
}
