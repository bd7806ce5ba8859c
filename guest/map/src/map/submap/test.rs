//! Tests of submaps.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::entry::Inheritance;
use crate::fake::{Executor, FakePmap, FakePorts, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::testing::{Bed, Outcome};
use crate::map::{MapMode, Placement, VmMap};
use crate::planted::Mutant;
use crate::ports::HostError;
use crate::units::{FrameRun, PAGE_SHIFT, PageRange, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;
const USER: WireFlags = WireFlags::USER;
const SYSTEM: WireFlags = WireFlags::SYSTEM;
const HOLESOK: WireFlags = WireFlags::HOLESOK;

/// A machine with memory in pages 0 to 3 and 16 to 19, and a submap over pages 8 to 15 with memory in 10 to 13.
struct Two {
    bed: Bed,
    submap: Arc<VmMap<FakePorts>>,
}

impl Two {
    fn new() -> Self {
        let bed = Bed::of(4);
        bed.allocate(16, 20);
        let submap =
            block_on(bed.machine.map.submap(Placement::Fixed(bed.at(8)), 8 << PAGE_SHIFT)).expect("it is free");
        let two = Self { bed, submap };
        let address = two.bed.at(10);
        assert_eq!(block_on(two.submap.allocate(Placement::Fixed(address), 4 << PAGE_SHIFT)), Ok(address));
        two.settled(());
        two
    }

    fn settled<T>(&self, value: T) -> T {
        assert_eq!(self.bed.machine.check_quiet_with(&[&self.submap]), Ok(()));
        value
    }

    fn parent(&self) -> &VmMap<FakePorts> {
        &self.bed.machine.map
    }

    fn write(&self, map: &VmMap<FakePorts>, page: u64, byte: u8) -> Outcome {
        self.settled(block_on(self.bed.machine.write_in(map, self.bed.at(page), &[byte])))
    }

    fn read(&self, map: &VmMap<FakePorts>, page: u64) -> Result<u8, KernReturn> {
        let mut byte = [0xee];
        self.settled(block_on(self.bed.machine.read_in(map, self.bed.at(page), &mut byte)))?;
        Ok(byte[0])
    }

    fn msync(&self, start: u64, end: u64, flags: SyncFlags) -> Outcome {
        self.settled(block_on(self.parent().msync(self.bed.at(start), (end - start) << PAGE_SHIFT, flags)))
    }

    fn deallocate(&self, start: u64, end: u64) -> Outcome {
        self.settled(block_on(self.parent().deallocate(self.bed.at(start), (end - start) << PAGE_SHIFT)))
    }

    fn frame(&self, page: u64) -> u64 {
        let page = self.bed.at(page) >> PAGE_SHIFT;
        self.submap.frames(page, page + 1)[0].frames.expect("it is resident").first
    }

    fn stable(&self, page: u64) -> u8 {
        let mut byte = [0];
        self.bed.machine.ram.read_stable(self.frame(page), 0, &mut byte);
        byte[0]
    }

    /// Returns the submap's allocated pages, counted from the start of the parent.
    fn inside(&self) -> Vec<(u64, u64)> {
        let base = self.bed.at(0) >> PAGE_SHIFT;
        self.submap.entries().iter().map(|row| (row.pages.start - base, row.pages.end - base)).collect()
    }
}

#[test]
fn submap_shows_the_same_pages_at_the_same_addresses_as_its_parent() {
    let two = Two::new();
    assert_eq!(two.write(two.parent(), 11, 7), Ok(()));
    assert_eq!((two.read(&two.submap, 11), two.read(two.parent(), 11)), (Ok(7), Ok(7)));
    assert_eq!(two.write(&two.submap, 12, 8), Ok(()));
    assert_eq!(two.read(two.parent(), 12), Ok(8));
    assert_eq!(two.read(two.parent(), 9), Err(KernReturn::InvalidAddress), "a hole of the submap");
    assert_eq!(two.read(&two.submap, 0), Err(KernReturn::InvalidAddress), "outside of the submap");
    assert_eq!((two.bed.entries().as_str(), two.inside()), ("[0,4) [8,16) [16,20)", alloc::vec![(10, 14)]));
    assert_eq!((two.parent().stats().resident_pages, two.submap.stats().resident_pages), (0, 2));
}

#[test]
fn submap_places_memory_within_its_range_alone() {
    let two = Two::new();
    let place = |placement, pages: u64| two.settled(block_on(two.submap.allocate(placement, pages << PAGE_SHIFT)));
    assert_eq!(place(Placement::Anywhere, 2), Ok(two.bed.at(8)));
    assert_eq!(place(Placement::Anywhere, 3), Err(KernReturn::NoSpace));
    assert_eq!(place(Placement::Fixed(two.bed.at(15)), 2), Err(KernReturn::InvalidAddress));
    let parent = |placement| two.settled(block_on(two.parent().allocate(placement, 1 << PAGE_SHIFT)));
    assert_eq!(parent(Placement::Fixed(two.bed.at(14))), Err(KernReturn::NoSpace));
    assert_eq!(parent(Placement::Anywhere), Ok(two.bed.at(4)));
    assert_eq!(block_on(two.submap.submap(Placement::Anywhere, 0)).err(), Some(KernReturn::InvalidArgument));
    assert_eq!(block_on(two.submap.submap(Placement::Anywhere, u64::MAX)).err(), Some(KernReturn::InvalidArgument));
}

#[test]
fn submap_is_passed_over_like_a_guard_by_what_its_parent_does() {
    let two = Two::new();
    assert_eq!(two.write(&two.submap, 10, 1), Ok(()));
    let (parent, at) = (two.parent(), |page| two.bed.at(page));
    let wire = |start, end, flags| two.settled(block_on(parent.wire(at(start), at(end), flags)));
    assert_eq!(wire(8, 16, USER), Err(KernReturn::InvalidAddress));
    assert_eq!(wire(0, 20, USER | HOLESOK), Ok(()));
    assert_eq!((two.bed.layout().as_str(), two.submap.stats().wired_pages), ("[0,4)1U [8,16)0 [16,20)1U", 0));
    assert_eq!(wire(16, 20, SYSTEM | HOLESOK), Ok(()));
    assert_eq!(wire(0, 12, USER | HOLESOK), Err(KernReturn::InvalidArgument), "it is cut nowhere");
    let protect = |start: u64, end: u64, prot| {
        two.settled(block_on(parent.protect(at(start), (end - start) << PAGE_SHIFT, false, prot)))
    };
    assert_eq!(protect(8, 16, Prot::READ), Err(KernReturn::ProtectionFailure));
    assert_eq!(protect(8, 20, Prot::NONE), Ok(()));
    assert_eq!(protect(9, 10, Prot::NONE), Err(KernReturn::InvalidArgument));
    assert_eq!(two.read(parent, 10), Ok(1), "what the submap permits is its own");
    let inherit = |start: u64, end: u64| {
        two.settled(block_on(parent.inherit(at(start), (end - start) << PAGE_SHIFT, Inheritance::Share)))
    };
    assert_eq!((inherit(0, 20), inherit(0, 9)), (Ok(()), Err(KernReturn::InvalidArgument)));
    assert_eq!(block_on(parent.advise(at(0), 20 << PAGE_SHIFT, crate::map::Advice::Free)), Ok(()));
    assert_eq!(two.settled(two.read(&two.submap, 10)), Ok(1));
}

#[test]
fn fork_gives_a_child_nothing_where_a_submap_is() {
    let two = Two::new();
    assert_eq!((two.write(&two.submap, 10, 1), two.write(two.parent(), 0, 2)), (Ok(()), Ok(())));
    let child = block_on(two.parent().fork(FakePmap::new())).expect("frames are left");
    assert_eq!(two.bed.machine.check_quiet_with(&[&two.submap, &child]), Ok(()));
    let mut byte = [0];
    assert_eq!(block_on(two.bed.machine.read_in(&child, two.bed.at(0), &mut byte)), Ok(()));
    assert_eq!(byte, [2]);
    let missing = block_on(two.bed.machine.read_in(&child, two.bed.at(10), &mut byte));
    assert_eq!(missing, Err(KernReturn::InvalidAddress));
    block_on(child.destroy());
    two.settled(());
}

#[test]
fn deallocate_of_part_of_a_submap_is_invalid_argument_and_of_all_of_it_empties_it_for_good() {
    let two = Two::new();
    assert_eq!((two.write(&two.submap, 10, 1), two.write(two.parent(), 17, 2)), (Ok(()), Ok(())));
    assert_eq!(block_on(two.submap.wire(two.bed.at(10), two.bed.at(12), USER)), Ok(()));
    for (start, end) in [(8, 15), (9, 16), (12, 13), (9, 20)] {
        assert_eq!(two.deallocate(start, end), Err(KernReturn::InvalidArgument), "[{start},{end})");
    }
    assert_eq!((two.read(&two.submap, 10), two.submap.is_detached()), (Ok(1), false));
    assert_eq!(two.deallocate(8, 16), Ok(()));
    assert_eq!((two.bed.entries().as_str(), two.inside()), ("[0,4) [16,20)", Vec::new()));
    assert!(two.submap.is_detached() && !two.parent().is_detached());
    assert_eq!((two.bed.wired_by_host(), two.bed.machine.vm.user_wired_pages()), (0, 0));
    let again = block_on(two.submap.allocate(Placement::Anywhere, 1 << PAGE_SHIFT));
    assert_eq!(two.settled(again), Err(KernReturn::NoSpace));
    // The range is its parent's again.
    two.bed.allocate(8, 16);
    assert_eq!((two.write(two.parent(), 10, 3), two.read(two.parent(), 17)), (Ok(()), Ok(2)));
    assert_eq!(two.read(&two.submap, 11), Err(KernReturn::InvalidAddress));
}

#[test]
fn d_01_deallocate_of_a_submap_waits_for_the_system_wirings_in_it() {
    let two = Two::new();
    assert_eq!(block_on(two.submap.wire(two.bed.at(11), two.bed.at(12), SYSTEM)), Ok(()));
    let mut executor = Executor::new(5);
    let outcome = executor.spawn(two.parent().deallocate(two.bed.at(8), 8 << PAGE_SHIFT));
    assert_eq!(executor.run_until_stalled(), 1);
    let grown = block_on(two.submap.allocate(Placement::Fixed(two.bed.at(8)), 1 << PAGE_SHIFT));
    assert_eq!(grown, Err(KernReturn::NoSpace), "nothing comes behind what is emptied");
    assert_eq!(block_on(two.submap.unwire(two.bed.at(11), two.bed.at(12), SYSTEM)), Ok(()));
    assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(two.settled(two.bed.entries()), "[0,4) [16,20)");
}

#[test]
fn destroy_of_the_parent_ends_the_system_wirings_in_its_submaps() {
    let two = Two::new();
    let within = block_on(two.submap.submap(Placement::Fixed(two.bed.at(8)), 2 << PAGE_SHIFT)).expect("it is free");
    assert_eq!(block_on(within.allocate(Placement::Fixed(two.bed.at(9)), 1 << PAGE_SHIFT)), Ok(two.bed.at(9)));
    assert_eq!(block_on(within.wire(two.bed.at(9), two.bed.at(10), SYSTEM)), Ok(()));
    block_on(two.parent().destroy());
    assert_eq!(two.bed.machine.check_quiet_with(&[&two.submap, &within]), Ok(()));
    assert_eq!((two.bed.wired_by_host(), two.bed.machine.frames().free_pages()), (0, 4096));
    assert!(two.submap.is_detached() && within.is_detached());
}

#[test]
fn fault_finds_the_innermost_of_maps_within_maps() {
    let two = Two::new();
    let within = block_on(two.submap.submap(Placement::Fixed(two.bed.at(8)), 2 << PAGE_SHIFT)).expect("it is free");
    assert_eq!(block_on(within.allocate(Placement::Fixed(two.bed.at(9)), 1 << PAGE_SHIFT)), Ok(two.bed.at(9)));
    assert_eq!(block_on(two.bed.machine.write_in(two.parent(), two.bed.at(9), &[5])), Ok(()));
    let mut byte = [0];
    assert_eq!(block_on(two.bed.machine.read_in(&within, two.bed.at(9), &mut byte)), Ok(()));
    assert_eq!((byte, within.stats().resident_pages), ([5], 1));
    assert_eq!(block_on(two.parent().fault(two.bed.at(8), Prot::READ)), Err(KernReturn::InvalidAddress));
    assert_eq!(two.bed.machine.check_quiet_with(&[&two.submap, &within]), Ok(()));
}

#[test]
fn accepted_frames_go_into_the_submap_that_rules_over_the_address() {
    let two = Two::new();
    let fresh = crate::ports::Frames::allocate(two.bed.machine.frames(), 1).expect("frames are left").run;
    two.bed.machine.ram.write(fresh.first, 0, &[9]);
    assert_eq!(block_on(two.parent().accept_frames(two.bed.at(13), &[fresh])), Ok(()));
    crate::ports::Frames::free(two.bed.machine.frames(), fresh);
    assert_eq!(two.read(&two.submap, 13), Ok(9));
}

/// Writes pages 2, 10, 11, 12, 13 and 17, syncs pages 11 to 17 through the parent, and returns what the host was sent.
fn sync_from_within(mutant: Option<Mutant>) -> (Two, Vec<FrameRun>) {
    let two = Two::new();
    for page in [2, 10, 11, 12, 13, 17] {
        assert_eq!(two.write(two.parent(), page, 0x10 + u8::try_from(page).unwrap()), Ok(()));
    }
    two.bed.machine.vm.planted.set(mutant, false);
    two.bed.host().take_log();
    assert_eq!(two.msync(11, 18, SYNC), Ok(()));
    let sent = two.bed.synced();
    two.bed.machine.vm.planted.set(None, false);
    (two, sent)
}

#[test]
fn h_04_and_h_05_msync_goes_on_in_a_submap_where_the_range_meets_it() {
    let (two, sent) = sync_from_within(None);
    assert_eq!(sent.iter().map(|run| run.pages).sum::<u64>(), 4);
    assert_eq!([10, 11, 12, 13].map(|page| two.stable(page)), [0, 0x1b, 0x1c, 0x1d]);
    assert_eq!((two.bed.stable(17), two.bed.stable(2)), (Some(0x21), Some(0)));
    // A range that ends within it.
    assert_eq!(two.msync(0, 11, SYNC), Ok(()));
    assert_eq!((two.bed.stable(2), two.stable(10)), (Some(0x12), 0x1a));
}

#[test]
fn h_05_sync_that_begins_where_the_submap_does_is_found() {
    let (two, _) = sync_from_within(Some(Mutant::SubmapSyncsFromItsStart));
    assert_ne!([10, 11, 12, 13].map(|page| two.stable(page)), [0, 0x1b, 0x1c, 0x1d]);
}

#[test]
fn h_04_what_msync_comes_to_in_a_submap_is_not_lost() {
    let two = Two::new();
    let contiguous = SYNC | SyncFlags::CONTIGUOUS;
    assert_eq!((two.msync(10, 14, contiguous), two.msync(8, 16, SYNC)), (Ok(()), Ok(())));
    assert_eq!(two.msync(9, 12, contiguous), Err(KernReturn::InvalidAddress));
    assert_eq!((two.write(two.parent(), 11, 1), two.write(two.parent(), 16, 2)), (Ok(()), Ok(())));
    two.bed.host().fail_sync(1, HostError::Io);
    assert_eq!(
        two.msync(11, 20, SYNC),
        Err(KernReturn::Failure),
        "its own pages are sent first, and then the submap's"
    );
    assert_eq!((two.bed.stable(16), two.stable(11)), (Some(2), 0));
    assert_eq!(two.msync(11, 12, SYNC), Ok(()));
    assert_eq!(two.stable(11), 1);
}

#[test]
fn x_04_submap_outlives_its_entry_for_whoever_is_in_it() {
    let two = Two::new();
    let file = two.bed.machine.vm.file_object(4, 1);
    file.gate(1);
    let place = Placement::Fixed(two.bed.at(8));
    let mapped = two.submap.map_object(place, &file, PageRange::new(1, 2), MapMode::Shared, Prot::READ);
    assert_eq!(block_on(mapped), Ok(two.bed.at(8)));
    let Two { bed, submap } = two;
    drop(submap);
    let mut executor = Executor::new(7);
    let fault = executor.spawn(bed.machine.map.fault(bed.at(8), Prot::READ));
    assert_eq!(executor.run_until_stalled(), 1);
    let gone = executor.spawn(bed.machine.map.deallocate(bed.at(8), 8 << PAGE_SHIFT));
    executor.run_until_stalled();
    file.release(1);
    assert_eq!((executor.run(), gone.take()), (Ok(()), Some(Ok(()))));
    assert!(matches!(fault.take(), Some(Ok(()) | Err(KernReturn::InvalidAddress))));
    drop(file);
    assert_eq!(bed.settled(bed.entries()), "[0,4) [16,20)");
}

/// Writes to a submap's page, lets the parent do what collects the marks of its page tables, and syncs the page.
fn survives(mutant: Option<Mutant>, act: impl Fn(&Two)) -> bool {
    let two = Two::new();
    assert_eq!((two.write(&two.submap, 11, 5), two.write(two.parent(), 3, 6)), (Ok(()), Ok(())));
    two.bed.machine.vm.planted.set(mutant, false);
    act(&two);
    two.bed.machine.vm.planted.set(None, false);
    let size = 1 << PAGE_SHIFT;
    assert_eq!(block_on(two.submap.msync(two.bed.at(11), size, SYNC)), Ok(()));
    two.stable(11) == 5
}

#[test]
fn marks_of_a_submaps_pages_outlast_what_its_parent_does() {
    let acts: [fn(&Two); 4] = [
        |two| drop(block_on(two.parent().mincore(two.bed.at(8), 12 << PAGE_SHIFT)).expect("no hole")),
        |two| drop(two.parent().page_states(two.bed.at(0) >> PAGE_SHIFT, two.bed.at(20) >> PAGE_SHIFT)),
        |two| {
            let advised = two.parent().advise(two.bed.at(0), 20 << PAGE_SHIFT, crate::map::Advice::DontNeed);
            assert_eq!(block_on(advised), Ok(()));
        },
        |two| assert_eq!(block_on(two.parent().protect(two.bed.at(8), 12 << PAGE_SHIFT, false, Prot::NONE)), Ok(())),
    ];
    for (which, act) in acts.into_iter().enumerate() {
        assert!(survives(None, act), "{which}");
    }
    assert!(!survives(Some(Mutant::MarksOfSubmapsAreLost), acts[1]));
}

#[test]
fn submap_keeps_the_page_tables_that_its_parent_gave_up() {
    let two = Two::new();
    block_on(two.parent().destroy());
    let Two { bed, submap } = two;
    let machine = bed.machine;
    let vm = Arc::clone(&machine.vm);
    drop(machine);
    submap.with_pmap(|pmap| assert_eq!(pmap.mapped_pages(), []));
    drop(submap);
    drop(VmMap::<FakePorts>::new(vm, PageRange::new(0, 1), FakePmap::new()));
}
