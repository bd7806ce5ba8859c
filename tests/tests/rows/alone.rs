//! Rows that no script can show, on the fake machine: what can be seen only between two steps of an operation, or only by
//! taking things away from it.

use wirevm_map::fake::{Executor, FakeConfig, FakeMachine, FakePmap, block_on};
use wirevm_map::{HostError, KernReturn, MapMode, PAGE_SIZE, PageRange, PagerFault, Placement, Prot, WireFlags};

use super::RowCase;

/// The address of a page of the tests' memory.
pub const fn at(page: u64) -> u64 {
    (1000 + page) * PAGE_SIZE
}

/// Allocates pages `start` to `end`.
pub fn allocate(machine: &FakeMachine, start: u64, end: u64) {
    let size = (end - start) * PAGE_SIZE;
    assert_eq!(block_on(machine.map.allocate(Placement::Fixed(at(start)), size)), Ok(at(start)));
}

/// Shows entries as `[start,end)count`, with `U` for the user's bit and `T` in transition.
pub fn entries(machine: &FakeMachine) -> String {
    let entry = |row: &wirevm_map::EntryRow| {
        let (user, mark) = (if row.user_wired { "U" } else { "" }, if row.in_transition { "T" } else { "" });
        format!("[{},{}){}{user}{mark}", row.pages.start - 1000, row.pages.end - 1000, row.wired_count)
    };
    machine.map.entries().iter().map(entry).collect::<Vec<_>>().join(" ")
}

const USER: WireFlags = WireFlags::USER;

fn holesok() -> WireFlags {
    WireFlags::USER | WireFlags::HOLESOK
}

pub const CASES: &[RowCase] = &[
    ("another_calls_mark_is_left_alone_by_a_final_pass_over_it", &["T-01", "N2", "N3"], || {
        // A wire with holesok begins behind a hole. While it waits for a page, memory is mapped into the hole and another
        // wire marks it: the first call's range holds an entry in transition that is not its own.
        let machine = FakeMachine::default();
        let file = machine.vm.file_object(4, 1);
        let other = machine.vm.file_object(2, 1);
        let map = |page, object, pages| {
            let range = PageRange::new(0, pages);
            let placement = Placement::Fixed(at(page));
            block_on(machine.map.map_object(placement, object, range, MapMode::Shared, Prot::DEFAULT))
        };
        assert_eq!(map(2, &file, 4), Ok(at(2)));
        file.gate(1);
        other.gate(1);
        let mut executor = Executor::new(1);
        let first = executor.spawn(machine.map.wire(at(0), at(6), holesok()));
        executor.run_until_stalled();
        assert_eq!(map(0, &other, 2), Ok(at(0)));
        let second = executor.spawn(machine.map.wire(at(0), at(2), WireFlags::SYSTEM));
        executor.run_until_stalled();
        assert_eq!(entries(&machine), "[0,2)1T [2,6)1T");
        file.release(1);
        executor.run_until_stalled();
        assert_eq!(first.take(), Some(Ok(())));
        assert!(!second.is_ready());
        assert_eq!(entries(&machine), "[0,2)1T [2,6)1U", "the mark stays, and no user bit is set for another's wiring");
        assert_eq!(machine.check(), Ok(()));
        other.release(1);
        executor.run_until_stalled();
        assert_eq!(second.take(), Some(Ok(())));
        assert_eq!(entries(&machine), "[0,2)1 [2,6)1U");
        drop(executor);
        assert_eq!(machine.check_quiet(), Ok(()));
    }),
    ("marks_stand_exactly_as_long_as_their_call_runs", &["N2", "W-02", "W-11", "U-02", "U-09"], || {
        let machine = FakeMachine::default();
        allocate(&machine, 0, 8);
        machine.host().hold();
        let mut executor = Executor::new(1);
        let wire = executor.spawn(machine.map.wire(at(2), at(6), USER));
        executor.run_until_stalled();
        assert_eq!(entries(&machine), "[0,2)0 [2,6)1T [6,8)0");
        assert_eq!(machine.check(), Ok(()));
        machine.host().release();
        executor.run_until_stalled();
        assert_eq!((wire.take(), entries(&machine).as_str()), (Some(Ok(())), "[0,2)0 [2,6)1U [6,8)0"));
        machine.host().hold();
        let unwire = executor.spawn(machine.map.unwire(at(0), at(8), USER));
        executor.run_until_stalled();
        assert!(machine.map.entries().iter().all(|entry| entry.in_transition), "{}", entries(&machine));
        assert_eq!(machine.check(), Ok(()));
        machine.host().release();
        executor.run_until_stalled();
        assert_eq!((unwire.take(), entries(&machine).as_str()), (Some(Ok(())), "[0,8)0"));
        drop(executor);
        assert_eq!(machine.check_quiet(), Ok(()));
    }),
    ("skipped_entries_are_skipped_for_one_call_only", &["N2", "D-08", "W-03"], || {
        let machine = FakeMachine::default();
        allocate(&machine, 0, 6);
        assert_eq!(block_on(machine.map.protect(at(2), 2 * PAGE_SIZE, false, Prot::NONE)), Ok(()));
        machine.host().hold();
        let mut executor = Executor::new(1);
        let wire = executor.spawn(machine.map.wire(at(0), at(6), holesok()));
        executor.run_until_stalled();
        assert_eq!(entries(&machine), "[0,2)1T [2,4)0T [4,6)1T");
        assert_eq!(machine.check(), Ok(()));
        // A child made at the worst of moments.
        let fork = executor.spawn(machine.map.fork(FakePmap::new()));
        executor.run_until_stalled();
        machine.host().release();
        executor.run_until_stalled();
        assert_eq!(wire.take(), Some(Ok(())));
        let child = fork.take().expect("the fork ends").expect("a child");
        drop(executor);
        assert!(child.entries().iter().all(|entry| !entry.in_transition && entry.wired_count == 0));
        assert_eq!(block_on(child.protect(at(2), 2 * PAGE_SIZE, false, Prot::DEFAULT)), Ok(()));
        assert_eq!(block_on(child.wire(at(2), at(4), USER)), Ok(()));
        let wired = |row: &wirevm_map::EntryRow| row.pages.start == 1002 && row.user_wired;
        assert!(child.entries().iter().any(wired), "a stale mark would keep the user's bit away");
        assert_eq!(block_on(child.deallocate(at(2), 2 * PAGE_SIZE)), Ok(()));
        assert_eq!(machine.check_quiet_with(&[&child]), Ok(()));
        block_on(child.destroy());
    }),
    ("counts_between_two_steps_are_those_of_before_or_after", &["N6", "F-01", "F-03", "N1"], || {
        // A failing wire is watched step by step: no count stands for a failure, and none is seen half-way back.
        for (gated, fails) in [(5, true), (5, false), (0, true)] {
            let machine = FakeMachine::default();
            allocate(&machine, 0, 2);
            let file = machine.vm.file_object(8, 1);
            let placement = Placement::Fixed(at(2));
            let range = PageRange::new(0, 8);
            let mapped = machine.map.map_object(placement, &file, range, MapMode::Shared, Prot::DEFAULT);
            assert_eq!(block_on(mapped), Ok(at(2)));
            assert_eq!(block_on(machine.map.wire(at(1), at(4), WireFlags::SYSTEM)), Ok(()));
            machine.host().set_yielding(true);
            file.gate(gated);
            if fails {
                file.fail(gated, Some(PagerFault::Io));
            }
            let mut executor = Executor::new(7);
            let wire = executor.spawn(machine.map.wire(at(0), at(10), USER));
            let watch = |steps: usize| {
                for entry in machine.map.entries() {
                    let most = if (1001..1004).contains(&entry.pages.start) { 2 } else { 1 };
                    assert!(entry.wired_count <= most, "step {steps}: {entry:?}");
                    assert!(!entry.user_wired || entry.wired_count > 0, "step {steps}: {entry:?}");
                }
                assert_eq!(machine.check(), Ok(()), "step {steps}");
            };
            let mut steps = 0;
            while executor.step() {
                steps += 1;
                watch(steps);
            }
            file.release(gated);
            while executor.step() {
                steps += 1;
                watch(steps);
            }
            let is_resident = gated == 0;
            let expected = if fails && !is_resident { Err(KernReturn::OutOfBounds) } else { Ok(()) };
            assert_eq!(wire.take(), Some(expected), "gate {gated}");
            drop(executor);
            assert_eq!(machine.check_quiet(), Ok(()));
        }
    }),
    ("real_shortage_is_reported_and_not_taken_for_a_wait", &["B-12", "T-08", "F-03"], || {
        let machine = FakeMachine::new(FakeConfig { frame_pages: 3, ..FakeConfig::default() });
        allocate(&machine, 0, 8);
        // No frame is left for the fourth page: everybody who needs one is told so, at once.
        assert_eq!(block_on(machine.map.wire(at(0), at(4), USER)), Err(KernReturn::ResourceShortage));
        assert_eq!((entries(&machine).as_str(), machine.host().wired().len()), ("[0,8)0", 0));
        let mut executor = Executor::new(3);
        let faults: Vec<_> = (0..4).map(|page| executor.spawn(machine.map.fault(at(page), Prot::WRITE))).collect();
        let mut steps = 0;
        while executor.step() {
            steps += 1;
            assert!(steps < 1000, "a fault that can't be helped goes round and round");
        }
        let short = faults.iter().filter(|fault| fault.take() == Some(Err(KernReturn::ResourceShortage))).count();
        assert_eq!((executor.remaining(), short), (0, 1));
        drop(executor);
        // A mark is something to wait for, with frames or without.
        let machine = FakeMachine::default();
        allocate(&machine, 0, 4);
        machine.host().hold();
        let mut executor = Executor::new(3);
        let wire = executor.spawn(machine.map.wire(at(0), at(4), USER));
        executor.run_until_stalled();
        let fault = executor.spawn(machine.map.fault(at(1), Prot::WRITE));
        assert_eq!(executor.run_until_stalled(), 2, "the fault waits");
        machine.host().release();
        executor.run_until_stalled();
        assert_eq!((wire.take(), fault.take()), (Some(Ok(())), Some(Ok(()))));
    }),
    ("each_refusal_of_the_host_leaves_everything_as_it_was", &["F-01", "F-03", "F-04", "F-05", "N7"], || {
        for error in [HostError::Shortage, HostError::Quota, HostError::Busy, HostError::Io, HostError::Rejected] {
            let machine = FakeMachine::default();
            allocate(&machine, 0, 8);
            assert_eq!(block_on(machine.map.wire(at(1), at(3), WireFlags::SYSTEM)), Ok(()));
            assert_eq!(block_on(machine.map.wire(at(2), at(4), USER)), Ok(()));
            let before = (entries(&machine), machine.host().wired(), machine.vm.user_wired_pages());
            for flags in [USER, WireFlags::SYSTEM, holesok()] {
                machine.host().fail_wire(0, error);
                assert!(block_on(machine.map.wire(at(0), at(8), flags)).is_err(), "{error:?}");
                let after = (entries(&machine), machine.host().wired(), machine.vm.user_wired_pages());
                assert_eq!(after, before, "{error:?}");
                assert_eq!(machine.check_quiet(), Ok(()));
            }
        }
    }),
    ("truncated_wired_file_gives_all_its_frames_back", &["B-06", "P-10", "D-02"], || {
        let machine = FakeMachine::default();
        let free = machine.frames().free_pages();
        for unwire_first in [false, true] {
            let file = machine.vm.file_object(8, 1);
            let placement = Placement::Fixed(at(0));
            let range = PageRange::new(0, 8);
            let mapped = machine.map.map_object(placement, &file, range, MapMode::Shared, Prot::DEFAULT);
            assert_eq!(block_on(mapped), Ok(at(0)));
            assert_eq!(block_on(machine.map.wire(at(0), at(8), USER)), Ok(()));
            assert_eq!(block_on(file.truncate(2)), Ok(()));
            assert_eq!(machine.check(), Ok(()));
            if unwire_first {
                assert_eq!(block_on(machine.map.unwire(at(0), at(8), USER)), Ok(()));
            }
            assert_eq!(block_on(machine.map.deallocate(at(0), 8 * PAGE_SIZE)), Ok(()));
            drop(file);
            assert_eq!((machine.host().wired().len(), machine.frames().free_pages()), (0, free));
            assert_eq!(machine.check_quiet(), Ok(()));
        }
    }),
];
