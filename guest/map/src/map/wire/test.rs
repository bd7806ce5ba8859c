//! Tests of wiring by the rows of the semantics table.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};

use crate::fake::{FakeConfig, FakePmap, HostCall, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::testing::{Bed, Outcome};
use crate::map::{MapMode, Placement};
use crate::objects::MOST_FILLED_PAGES;
use crate::ports::{Frames, HostError};
use crate::units::{FrameRun, PAGE_SHIFT, PageRange, Prot};

const USER: WireFlags = WireFlags::USER;
const SYSTEM: WireFlags = WireFlags::SYSTEM;
const HOLESOK: WireFlags = WireFlags::HOLESOK;
const WRITE: WireFlags = WireFlags::WRITE;

fn wire(bed: &Bed, start: u64, end: u64, flags: WireFlags) -> Outcome {
    bed.settled(block_on(bed.machine.map.wire(start, end, flags)))
}

#[test]
fn a_01_wire_empty_range_succeeds_even_unmapped_unaligned_or_with_unknown_flags() {
    let bed = Bed::of(4);
    for (address, flags) in [(bed.at(1), USER), (1, USER), (u64::MAX, WireFlags::from_bits(!0))] {
        assert_eq!(wire(&bed, address, address, flags), Ok(()));
    }
    assert_eq!((bed.layout().as_str(), bed.host().take_log().len()), ("[0,4)0", 0));
}

#[test]
fn a_02_wire_range_sticking_out_of_the_map_is_clamped() {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(4, 8), ..FakeConfig::default() });
    bed.allocate(0, 4);
    assert_eq!(wire(&bed, 0, 0x10_0000, USER), Ok(()));
    assert_eq!(bed.layout(), "[0,4)1U");
}

#[test]
fn a_02b_wire_range_outside_the_map_is_a_hole() {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(4, 8), ..FakeConfig::default() });
    bed.allocate(0, 4);
    for (start, end) in [(0, 0x1000), (0x2000, 0x4000), (0x8000, 0x9000), (0x10_0000, 0x20_0000)] {
        assert_eq!(wire(&bed, start, end, USER), Err(KernReturn::InvalidAddress), "{start:#x}");
        assert_eq!(wire(&bed, start, end, USER | HOLESOK), Ok(()), "{start:#x}");
    }
    assert_eq!(bed.layout(), "[0,4)0");
}

#[test]
fn a_03_wire_starting_in_a_hole_is_invalid_address_and_touches_nothing() {
    let bed = Bed::new();
    bed.allocate(2, 4);
    assert_eq!(bed.wire(1, 4, USER), Err(KernReturn::InvalidAddress));
    assert_eq!((bed.layout().as_str(), bed.machine.map.stats().resident_pages), ("[2,4)0", 0));
}

#[test]
fn a_04_wire_with_holesok_starts_at_the_next_entry_or_does_nothing() {
    let bed = Bed::new();
    bed.allocate(2, 4);
    assert_eq!(bed.wire(5, 8, USER | HOLESOK), Ok(()));
    assert_eq!(bed.layout(), "[2,4)0");
    assert_eq!(bed.wire(0, 3, USER | HOLESOK), Ok(()));
    assert_eq!(bed.layout(), "[2,3)1U [3,4)0");
}

#[test]
fn a_05_wire_reversed_range_is_invalid_argument() {
    let bed = Bed::of(4);
    for (start, end) in [(bed.at(2), bed.at(1)), (bed.at(1), 0), (u64::MAX, 0)] {
        assert_eq!(wire(&bed, start, end, USER | HOLESOK), Err(KernReturn::InvalidArgument));
    }
}

#[test]
fn a_06_wire_unaligned_range_is_invalid_argument() {
    let bed = Bed::of(4);
    for (start, end) in [(bed.at(0) + 1, bed.at(2)), (bed.at(0), bed.at(2) - 1), (bed.at(0), u64::MAX)] {
        assert_eq!(wire(&bed, start, end, USER), Err(KernReturn::InvalidArgument));
    }
}

#[test]
fn a_07_wire_unknown_flag_is_invalid_argument() {
    let bed = Bed::of(4);
    for bit in 3..32 {
        assert_eq!(bed.wire(0, 1, WireFlags::from_bits(1 << bit)), Err(KernReturn::InvalidArgument));
    }
    assert_eq!(bed.layout(), "[0,4)0");
}

#[test]
fn w_03_wire_of_unreadable_entries_is_invalid_address_or_skips_them() {
    for prot in [Prot::NONE, Prot::WRITE] {
        let bed = Bed::of(6);
        assert_eq!(bed.protect(2, 4, prot), Ok(()));
        assert_eq!(bed.wire(0, 6, USER), Err(KernReturn::InvalidAddress));
        assert_eq!((bed.layout().as_str(), bed.entries().as_str()), ("[0,6)0", "[0,2) [2,4) [4,6)"));
        assert_eq!(bed.wire(0, 6, USER | HOLESOK), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,2)1U [2,4)0 [4,6)1U", 4));
        assert_eq!(bed.machine.vm.user_wired_pages(), 4);
    }
}

#[test]
fn w_03_wire_of_an_executable_entry_succeeds_without_read() {
    let bed = Bed::of(2);
    assert_eq!(bed.protect(0, 2, Prot::EXECUTE), Ok(()));
    assert_eq!(bed.wire(0, 2, USER), Ok(()));
}

#[test]
fn w_04_wire_for_writing_treats_a_read_only_entry_as_unreadable() {
    let bed = Bed::of(4);
    assert_eq!(bed.protect(0, 2, Prot::READ), Ok(()));
    assert_eq!(bed.wire(0, 4, USER | WRITE), Err(KernReturn::InvalidAddress));
    assert_eq!(bed.wire(0, 4, USER | WRITE | HOLESOK), Ok(()));
    assert_eq!(bed.layout(), "[0,2)0 [2,4)1U");
    assert_eq!(bed.wire(0, 2, USER), Ok(()));
}

#[test]
fn w_05_user_wire_over_the_limit_is_resource_shortage_and_rolled_back() {
    let bed = Bed::with(FakeConfig { user_wire_limit_pages: 6, ..FakeConfig::default() });
    bed.allocate(0, 4);
    bed.allocate(4, 8);
    assert_eq!(bed.wire(0, 8, USER), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.layout().as_str(), bed.machine.vm.user_wired_pages()), ("[0,8)0", 0));
    assert_eq!(bed.host().take_log(), [], "the host is not asked");
    assert_eq!(bed.wire(2, 8, USER), Ok(()), "the limit itself is allowed");
    assert_eq!(bed.wire(0, 1, USER), Err(KernReturn::ResourceShortage));
    assert_eq!(bed.wire(0, 1, SYSTEM), Ok(()), "the limit is the user's");
}

#[test]
fn w_06_wire_makes_pages_resident_and_mapped_with_one_host_call() {
    let bed = Bed::of(4);
    bed.allocate(6, 8);
    assert_eq!(bed.protect(2, 4, Prot::READ), Ok(()));
    assert_eq!(bed.wire(0, 8, USER | HOLESOK), Ok(()));
    assert_eq!(bed.host().take_log(), [HostCall::Wire([FrameRun::new(0, 6)].to_vec())]);
    assert!([0, 1, 2, 3, 6, 7].into_iter().all(|page| bed.is_mapped(page)));
}

#[test]
fn w_06_wire_of_fresh_memory_uses_2_mib_runs_and_mappings() {
    let bed = Bed::of(1600);
    assert_eq!(bed.wire(0, 1600, SYSTEM), Ok(()));
    let stats = bed.machine.map.stats();
    assert!(stats.extents <= 3, "{stats:?}");
    let large = bed.machine.map.with_pmap(|pmap| (16..1616).filter(|&p| pmap.translation(p).unwrap().large).count());
    assert_eq!(large, 1024, "pages 512 to 1535 are two whole blocks");
}

#[test]
fn w_06_wire_of_a_fresh_gibibyte_is_one_run_for_object_and_host() {
    const GIBIBYTE: u64 = 1 << 18;
    let bed = Bed::with(FakeConfig {
        frame_pages: GIBIBYTE,
        map_pages: PageRange::new(0, GIBIBYTE),
        user_wire_limit_pages: GIBIBYTE,
    });
    bed.allocate(0, GIBIBYTE);
    assert_eq!(block_on(bed.machine.map.wire(0, GIBIBYTE << 12, USER)), Ok(()));
    assert_eq!(bed.machine.map.stats().extents, 1);
    assert_eq!(bed.host().take_log(), [HostCall::Wire([FrameRun::new(0, GIBIBYTE)].to_vec())]);
}

#[test]
fn w_07_system_wire_nests_by_count_and_asks_the_host_once() {
    let bed = Bed::of(4);
    for _ in 0..3 {
        assert_eq!(bed.wire(0, 4, SYSTEM), Ok(()));
    }
    assert_eq!((bed.layout().as_str(), bed.host().take_log().len()), ("[0,4)3", 1));
    assert_eq!(bed.machine.vm.user_wired_pages(), 0);
}

#[test]
fn w_08_user_wire_over_a_system_wiring_counts_and_charges() {
    let bed = Bed::with(FakeConfig { user_wire_limit_pages: 3, ..FakeConfig::default() });
    bed.allocate(0, 4);
    assert_eq!(bed.wire(0, 4, SYSTEM), Ok(()));
    assert_eq!(bed.wire(0, 4, USER), Err(KernReturn::ResourceShortage), "D-G charges by the user bit");
    assert_eq!(bed.layout(), "[0,4)1");
    assert_eq!(bed.wire(0, 3, USER), Ok(()));
    assert_eq!((bed.layout().as_str(), bed.machine.vm.user_wired_pages()), ("[0,3)2U [3,4)1", 3));
}

#[test]
fn w_09_user_wire_twice_is_undone_by_one_unwire() {
    let bed = Bed::of(4);
    assert_eq!((bed.wire(0, 4, USER), bed.wire(1, 3, USER)), (Ok(()), Ok(())));
    assert_eq!((bed.layout().as_str(), bed.machine.vm.user_wired_pages()), ("[0,4)1U", 4));
    assert_eq!(bed.unwire(0, 4, USER), Ok(()));
    assert_eq!(bed.layout(), "[0,4)0");
}

#[test]
fn w_10_wire_meeting_a_hole_is_invalid_address_and_undone() {
    let bed = Bed::of(4);
    bed.allocate(6, 8);
    for end in [5, 7, 8] {
        assert_eq!(bed.wire(1, end, USER), Err(KernReturn::InvalidAddress));
    }
    assert_eq!((bed.layout().as_str(), bed.entries().as_str()), ("[0,4)0 [6,8)0", "[0,4) [6,8)"));
    assert_eq!(bed.wire(0, 8, USER | HOLESOK), Ok(()));
    assert_eq!(bed.layout(), "[0,4)1U [6,8)1U");
}

#[test]
fn w_11_user_bit_appears_after_the_host_has_wired() {
    let bed = Bed::of(4);
    bed.host().hold();
    let mut executor = crate::fake::Executor::new(1);
    let outcome = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let entry = bed.machine.map.entries()[0];
    assert_eq!((entry.wired_count, entry.user_wired, entry.in_transition), (1, false, true));
    assert_eq!(bed.machine.vm.user_wired_pages(), 4, "the pages are reserved already");
    bed.host().release();
    assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,4)1U");
}

#[test]
fn wire_beyond_the_largest_count_is_failure_and_changes_nothing() {
    let bed = Bed::of(4);
    assert_eq!(bed.wire(0, 4, SYSTEM), Ok(()));
    let set = |count| {
        bed.machine.map.locked(|state| state.entries.get_mut(bed.at(0) >> 12).unwrap().wired_count = count);
    };
    set(u32::MAX);
    assert_eq!(bed.wire(0, 4, SYSTEM), Err(KernReturn::Failure));
    assert_eq!(bed.wire(0, 4, USER), Err(KernReturn::Failure));
    set(1);
    assert_eq!((bed.unwire(0, 4, SYSTEM), bed.machine.vm.user_wired_pages()), (Ok(()), 0));
}

#[test]
fn h9_wire_of_clean_pages_makes_none_dirty() {
    let bed = Bed::of(600);
    assert_eq!(bed.wire(0, 600, USER), Ok(()));
    bed.host().take_log();
    assert_eq!(bed.msync(0, 600, SyncFlags::SYNCHRONOUS), Ok(()));
    assert_eq!(bed.synced(), []);
}

#[test]
fn wire_of_pages_with_dirty_marks_loses_none() {
    let bed = Bed::of(8);
    assert_eq!((bed.write(2, 7), bed.write(5, 8)), (Ok(()), Ok(())));
    assert_eq!(bed.wire(0, 8, USER), Ok(()));
    assert_eq!(bed.msync(0, 8, SyncFlags::SYNCHRONOUS), Ok(()));
    assert_eq!((bed.stable(2), bed.stable(5), bed.synced().len()), (Some(7), Some(8), 2));
}

#[test]
fn f_01_wire_running_out_of_frames_is_resource_shortage_and_undone() {
    let bed = Bed::with(FakeConfig { frame_pages: 5, ..FakeConfig::default() });
    bed.allocate(0, 3);
    bed.allocate(3, 6);
    assert_eq!(bed.wire(0, 6, USER), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.layout().as_str(), bed.machine.vm.user_wired_pages()), ("[0,6)0", 0));
    assert_eq!(bed.machine.map.stats().resident_pages, 5, "F-06: what got a frame keeps it");
    assert_eq!(bed.host().take_log(), []);
}

#[test]
fn f_02_wire_failing_on_the_host_answers_by_the_kind_of_error_with_and_without_holesok() {
    use HostError::{Busy, Io, Poisoned, Quota, Rejected, Shortage, Unsupported};
    for error in [Shortage, Quota, Busy, Rejected, Io, Poisoned, Unsupported] {
        for flags in [USER, USER | HOLESOK, SYSTEM] {
            let bed = Bed::of(4);
            bed.host().fail_wire(0, error);
            let expected = match error {
                Shortage | Quota | Busy => KernReturn::ResourceShortage,
                _ => KernReturn::Failure,
            };
            assert_eq!(bed.wire(1, 3, flags), Err(expected), "{error}");
            assert_eq!((bed.layout().as_str(), bed.entries().as_str()), ("[0,4)0", "[0,4)"), "F-07");
            assert_eq!((bed.machine.vm.user_wired_pages(), bed.wired_by_host()), (0, 0), "F-03");
            assert_eq!(bed.machine.map.stats().last_host_error, Some(error));
        }
    }
}

#[test]
fn f_04_and_f_05_failed_wire_keeps_the_wirings_that_were_there_before() {
    let bed = Bed::of(12);
    assert_eq!((bed.wire(0, 2, SYSTEM), bed.wire(2, 4, USER)), (Ok(()), Ok(())));
    assert_eq!((bed.wire(4, 6, USER), bed.wire(4, 6, SYSTEM)), (Ok(()), Ok(())));
    let before = bed.layout();
    for flags in [USER, SYSTEM] {
        bed.host().fail_wire(0, HostError::Quota);
        assert_eq!(bed.wire(0, 12, flags), Err(KernReturn::ResourceShortage));
        assert_eq!((bed.layout(), bed.wired_by_host()), (before.clone(), 6));
        assert_eq!(bed.wire(0, 13, flags), Err(KernReturn::InvalidAddress));
        assert_eq!((bed.layout(), bed.machine.vm.user_wired_pages()), (before.clone(), 4));
    }
}

#[test]
fn n5_wire_within_a_wired_range_tells_the_host_of_the_new_frames_alone() {
    let bed = Bed::of(8);
    assert_eq!(bed.wire(2, 4, USER), Ok(()));
    bed.host().take_log();
    assert_eq!(bed.wire(0, 8, USER), Ok(()));
    let frames = |calls: Vec<HostCall>| match calls.as_slice() {
        [HostCall::Wire(runs)] => runs.iter().map(|run| run.pages).sum::<u64>(),
        other => panic!("one wire call, not {other:?}"),
    };
    assert_eq!(frames(bed.host().take_log()), 6);
}

#[test]
fn n5_wire_of_pages_that_one_call_shows_twice_waits_for_nobody_and_tells_the_host_once() {
    for is_resident in [true, false] {
        let bed = Bed::new();
        let object = bed.machine.vm.anonymous_object(4);
        for place in [0, 4] {
            let place = Placement::Fixed(bed.at(place));
            let pages = PageRange::new(0, 4);
            let mapped = bed.machine.map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
            block_on(mapped).expect("room for the object");
        }
        if is_resident {
            (0..4).for_each(|page| assert_eq!(bed.write(page, 1), Ok(())));
        }
        bed.host().take_log();
        assert_eq!(bed.wire(0, 8, USER), Ok(()));
        let told: u64 = bed
            .host()
            .take_log()
            .iter()
            .map(|call| match call {
                HostCall::Wire(runs) => runs.iter().map(|run| run.pages).sum(),
                _ => 0,
            })
            .sum();
        assert_eq!((told, bed.wired_by_host(), bed.machine.vm.user_wired_pages()), (4, 4, 8));
        assert_eq!(bed.unwire(0, 4, USER), Ok(()));
        assert_eq!(bed.wired_by_host(), 4);
        assert_eq!(bed.unwire(4, 8, USER), Ok(()));
        assert_eq!(bed.wired_by_host(), 0);
    }
}

/// One page of the object is wired already, so its pages are in three runs, of frames that go on.
#[test]
fn wire_of_2_mib_in_several_runs_maps_it_as_one() {
    let bed = Bed::with(FakeConfig { frame_pages: 2048, ..FakeConfig::default() });
    let object = bed.machine.vm.anonymous_object(512);
    // The bed begins 16 pages into 2 MiB.
    let (first, second) = (496, 1008);
    for place in [first, second] {
        let pages = PageRange::new(0, 512);
        let place = Placement::Fixed(bed.at(place));
        let mapped = bed.machine.map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
        block_on(mapped).expect("room for the object");
    }
    assert_eq!((bed.wire(first, first + 512, USER), bed.unwire(first, first + 512, USER)), (Ok(()), Ok(())));
    assert_eq!(bed.wire(first + 5, first + 6, SYSTEM), Ok(()));
    assert_eq!(bed.wire(second, second + 512, USER), Ok(()));
    let page = bed.at(second) >> PAGE_SHIFT;
    let is_large = |page| bed.machine.map.with_pmap(|pmap| pmap.translation(page).is_some_and(|found| found.large));
    assert!((page..page + 512).all(is_large));
    assert_eq!(bed.unwire(second, second + 512, USER), Ok(()));
    assert_eq!((bed.unwire(first + 5, first + 6, SYSTEM), bed.wired_by_host()), (Ok(()), 0));
}

#[test]
fn n5_wire_of_scattered_pages_tells_the_host_once_of_each_run() {
    let bed = Bed::new();
    for half in [0, 6] {
        bed.allocate(half, half + 6);
    }
    // Frames are given out one after the other, so those of the one half lie between those of the other.
    (0..6).for_each(|page| assert_eq!((bed.write(page, 1), bed.write(page + 6, 1)), (Ok(()), Ok(()))));
    let runs = |calls: Vec<HostCall>| match calls.as_slice() {
        [HostCall::Wire(runs) | HostCall::Unwire(runs)] => runs.iter().map(|run| run.pages).collect::<Vec<_>>(),
        other => panic!("one call, not {other:?}"),
    };
    bed.host().take_log();
    bed.host().fail_wire(0, HostError::Quota);
    assert_eq!(bed.wire(0, 6, USER), Err(KernReturn::ResourceShortage));
    assert_eq!((bed.wired_by_host(), bed.layout().as_str()), (0, "[0,12)0"));
    assert_eq!(bed.wire(2, 4, SYSTEM), Ok(()));
    bed.host().take_log();
    assert_eq!(bed.wire(0, 6, USER), Ok(()));
    assert_eq!(runs(bed.host().take_log()), [1; 4], "two are held already");
    assert_eq!(bed.layout(), "[0,2)1U [2,4)2U [4,6)1U [6,12)0");
    assert_eq!(bed.unwire(0, 6, USER), Ok(()));
    assert_eq!(runs(bed.host().take_log()), [1; 4]);
    assert_eq!(bed.unwire(2, 4, SYSTEM), Ok(()));
    assert_eq!((bed.wired_by_host(), bed.layout().as_str()), (0, "[0,12)0"));
}

/// Wires the bed's first `pages` pages, which others see too, and returns how many were resident in between each time.
fn residents_while_copying(bed: &Bed, pages: u64) -> Vec<u64> {
    let whole = PageRange::new(bed.at(0) >> PAGE_SHIFT, bed.at(pages) >> PAGE_SHIFT);
    let mut context = Context::from_waker(Waker::noop());
    let mut wiring = Box::pin(bed.machine.map.wire(bed.at(0), bed.at(pages), USER));
    let mut seen = Vec::new();
    while wiring.as_mut().poll(&mut context).is_pending() {
        assert_eq!(bed.machine.map.residents(whole), pages, "what is not copied shines through");
        seen.push(bed.machine.vm.resident_pages() - pages);
    }
    seen
}

#[test]
fn wire_of_much_that_must_be_copied_lets_others_have_the_locks_in_between() {
    const PAGES: u64 = 3 * MOST_FILLED_PAGES;
    let bed = Bed::of(PAGES);
    (0..PAGES).for_each(|page| assert_eq!(bed.write(page, page.to_le_bytes()[0]), Ok(())));
    let child = block_on(bed.machine.map.fork(FakePmap::new())).expect("frames are left");
    assert_eq!(residents_while_copying(&bed, PAGES), [MOST_FILLED_PAGES, 2 * MOST_FILLED_PAGES]);
    block_on(child.destroy());
    assert_eq!(bed.settled(bed.wired_by_host()), PAGES);
    (0..PAGES).for_each(|page| assert_eq!(bed.read(page), Ok(page.to_le_bytes()[0])));
}

#[test]
fn wire_of_much_that_must_be_zeroed_holds_no_lock_over_a_2_mib_block() {
    // The map begins 16 pages into a block.
    const PAGES: u64 = 496 + 2 * 512 + 70;
    let bed = Bed::with(FakeConfig { frame_pages: 4096, user_wire_limit_pages: PAGES, ..FakeConfig::default() });
    let used: Vec<_> = core::iter::from_fn(|| bed.machine.frames().allocate(512).ok()).collect();
    used.into_iter().for_each(|fresh| bed.machine.frames().free(fresh.run));
    bed.allocate(0, PAGES);
    let whole = PageRange::new(bed.at(0) >> PAGE_SHIFT, bed.at(PAGES) >> PAGE_SHIFT);
    let mut context = Context::from_waker(Waker::noop());
    let mut wiring = Box::pin(bed.machine.map.wire(bed.at(0), bed.at(PAGES), USER));
    let mut seen = Vec::new();
    while wiring.as_mut().poll(&mut context).is_pending() {
        assert_eq!(bed.machine.check(), Ok(()));
        seen.push(bed.machine.map.residents(whole));
    }
    let steps = |from: u64, to: u64, step| (from..to).step_by(step).skip(1);
    let head = steps(0, 496, 64).chain([496]);
    assert_eq!(seen, head.chain([496 + 512, 496 + 1024, 496 + 1024 + 64]).collect::<Vec<_>>());
    assert_eq!((bed.settled(bed.wired_by_host()), bed.layout()), (PAGES, format!("[0,{PAGES})1U")));
}

#[test]
fn wire_that_runs_out_of_frames_between_two_parts_is_undone() {
    const PAGES: u64 = 3 * MOST_FILLED_PAGES;
    let bed = Bed::with(FakeConfig { frame_pages: PAGES, ..FakeConfig::default() });
    let used: Vec<_> = core::iter::from_fn(|| bed.machine.frames().allocate(512).ok()).collect();
    used.into_iter().for_each(|fresh| bed.machine.frames().free(fresh.run));
    bed.allocate(0, PAGES);
    let mut context = Context::from_waker(Waker::noop());
    let mut wiring = Box::pin(bed.machine.map.wire(bed.at(0), bed.at(PAGES), USER));
    assert!(wiring.as_mut().poll(&mut context).is_pending());
    // Somebody else takes a frame: one is missing in the end, and all is undone.
    let other = bed.machine.frames().allocate(1).expect("a frame is left");
    assert_eq!(block_on(wiring), Err(KernReturn::ResourceShortage));
    bed.machine.frames().free(other.run);
    assert_eq!((bed.settled(bed.wired_by_host()), bed.layout()), (0, format!("[0,{PAGES})0")));
    assert_eq!(bed.wire(0, PAGES, USER), Ok(()));
}

#[test]
fn wire_of_much_that_must_be_zeroed_lets_others_have_the_locks_in_between() {
    const PAGES: u64 = 3 * MOST_FILLED_PAGES - 16;
    let limit = PAGES;
    let bed = Bed::with(FakeConfig { frame_pages: PAGES, user_wire_limit_pages: limit, ..FakeConfig::default() });
    let whole = PageRange::new(bed.at(0) >> PAGE_SHIFT, bed.at(PAGES) >> PAGE_SHIFT);
    bed.allocate(0, PAGES);
    let wire = || Box::pin(bed.machine.map.wire(bed.at(0), bed.at(PAGES), WireFlags::USER));
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(wire().as_mut().poll(&mut context), Poll::Ready(Ok(())), "nobody has used the frames before");
    bed.deallocate(0, PAGES);
    bed.allocate(0, PAGES);
    let mut wiring = wire();
    let mut seen = Vec::new();
    while wiring.as_mut().poll(&mut context).is_pending() {
        assert_eq!(bed.machine.check(), Ok(()));
        assert!(bed.machine.map.entries()[0].in_transition);
        seen.push(bed.machine.map.residents(whole));
        // A child would get copies of what is only half wired.
        let mut fork = Box::pin(bed.machine.map.fork(FakePmap::new()));
        assert!(fork.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().zip([0, seen[0]]).all(|(now, before)| now - before <= 2 * MOST_FILLED_PAGES), "{seen:?}");
    assert_eq!((bed.settled(bed.wired_by_host()), bed.layout()), (PAGES, format!("[0,{PAGES})1U")));
}
