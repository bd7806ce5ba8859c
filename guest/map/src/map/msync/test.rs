//! Tests of synchronisation by the rows of the semantics table.

use alloc::vec::Vec;

use crate::fake::{Executor, FakeConfig, HostCall, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::testing::{Bed, Outcome};
use crate::ports::HostError;
use crate::units::{FrameRun, PageRange, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;
const ASYNC: SyncFlags = SyncFlags::ASYNCHRONOUS;
const INVALIDATE: SyncFlags = SyncFlags::INVALIDATE;
const CONTIGUOUS: SyncFlags = SyncFlags::CONTIGUOUS;
const USER: WireFlags = WireFlags::USER;

fn msync(bed: &Bed, address: u64, size: u64, flags: SyncFlags) -> Outcome {
    bed.settled(block_on(bed.machine.map.msync(address, size, flags)))
}

/// Returns a machine with 8 pages of which 1, 2 and 5 are written.
fn written() -> Bed {
    let bed = Bed::of(8);
    for page in [1, 2, 5] {
        assert_eq!(bed.write(page, 0x10 + u8::try_from(page).unwrap()), Ok(()));
    }
    bed
}

fn dirty(bed: &Bed) -> u64 {
    bed.machine.map.stats().dirty_pages
}

#[test]
fn s_02_and_s_05_msync_of_size_zero_succeeds_whatever_the_flags() {
    let bed = Bed::new();
    for flags in [SyncFlags::NONE, SYNC | ASYNC, CONTIGUOUS, SyncFlags::from_bits(!0)] {
        assert_eq!(msync(&bed, 12_345, 0, flags), Ok(()));
    }
}

#[test]
fn s_03_msync_with_both_sync_flags_is_invalid_argument() {
    let bed = written();
    for flags in [SYNC | ASYNC, SyncFlags::from_bits(!0)] {
        assert_eq!(bed.msync(0, 8, flags), Err(KernReturn::InvalidArgument));
        assert_eq!(msync(&bed, u64::MAX, 2, flags), Err(KernReturn::InvalidArgument), "before the wrap");
    }
    assert_eq!(bed.host().take_log(), []);
}

#[test]
fn s_06_msync_that_wraps_is_invalid_address() {
    let bed = Bed::of(2);
    for (address, size) in [(u64::MAX, 1), (bed.at(0), u64::MAX), (u64::MAX - 4095, 1)] {
        assert_eq!(msync(&bed, address, size, SYNC), Err(KernReturn::InvalidAddress), "{address:#x}");
    }
}

#[test]
fn s_07_msync_truncates_the_start_and_rounds_the_end_up() {
    let bed = written();
    assert_eq!(msync(&bed, bed.at(1) + 4095, 2, SYNC), Ok(()));
    assert_eq!((bed.stable(1), bed.stable(2), bed.stable(5)), (Some(0x11), Some(0x12), Some(0)));
}

#[test]
fn s_08_msync_ignores_unknown_flags() {
    let bed = written();
    for bit in 7..32 {
        assert_eq!(bed.msync(0, 8, SyncFlags::from_bits(1 << bit)), Ok(()));
    }
    assert_eq!(bed.synced(), []);
    assert_eq!(bed.msync(0, 8, SYNC | SyncFlags::from_bits(1 << 7)), Ok(()));
    assert_eq!(bed.stable(5), Some(0x15));
}

#[test]
fn s_09_msync_without_sync_flag_changes_nothing() {
    let bed = written();
    for flags in [SyncFlags::NONE, CONTIGUOUS, SyncFlags::REUSABLEPAGES] {
        assert_eq!(bed.msync(0, 8, flags), Ok(()));
    }
    assert_eq!((bed.synced(), bed.is_mapped(1)), (Vec::new(), true));
    assert_eq!(bed.msync(0, 9, SyncFlags::NONE), Ok(()));
    assert_eq!(bed.msync(0, 9, CONTIGUOUS), Err(KernReturn::InvalidAddress));
}

#[test]
fn m_01_synchronous_sends_exactly_the_dirty_pages_and_cleans_them() {
    let bed = written();
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    let first = bed.frame(1).unwrap();
    let runs = [FrameRun::new(first, 2), FrameRun::new(bed.frame(5).unwrap(), 1)];
    // Frames come in the order of the first touch, so all three are neighbours; pages 3 and 4 are between.
    assert_eq!(bed.host().take_log(), [HostCall::Sync(runs.to_vec())]);
    assert_eq!((bed.stable(1), bed.stable(2), bed.stable(5)), (Some(0x11), Some(0x12), Some(0x15)));
    assert!(bed.is_mapped(1), "pages stay resident and mapped");
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!(bed.synced(), [], "all is clean now");
    assert_eq!(bed.write(2, 0x22), Ok(()));
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!((bed.stable(2), bed.synced().len()), (Some(0x22), 1));
}

#[test]
fn m_02_asynchronous_starts_the_writes_and_does_not_wait_for_them() {
    let bed = written();
    bed.host().hold();
    assert_eq!(block_on(bed.machine.map.msync(bed.at(0), 8 << 12, ASYNC)), Ok(()));
    assert!(matches!(bed.host().take_log().as_slice(), [HostCall::Sync(_)]), "begun");
    assert_eq!((dirty(&bed), bed.machine.map.stats().cleaning_pages, bed.stable(5)), (0, 3, Some(0)));
    // A second one finds nothing that is not on its way; a synchronous one waits for what is.
    assert_eq!(block_on(bed.machine.map.msync(bed.at(0), 8 << 12, ASYNC)), Ok(()));
    let mut executor = Executor::new(1);
    let sync = executor.spawn(bed.machine.map.msync(bed.at(0), 8 << 12, SYNC));
    assert_eq!(executor.run_until_stalled(), 1);
    bed.host().release();
    assert_eq!((bed.machine.run(&mut executor), sync.take()), (Ok(()), Some(Ok(()))));
    assert_eq!((bed.stable(5), dirty(&bed), bed.synced()), (Some(0x15), 0, Vec::new()));
    assert_eq!(bed.settled(bed.stable(1)), Some(0x11));
}

#[test]
fn m_02_asynchronous_write_that_fails_leaves_the_pages_dirty() {
    let bed = written();
    bed.host().hold();
    bed.host().fail_sync(0, HostError::Io);
    assert_eq!(block_on(bed.machine.map.msync(bed.at(0), 8 << 12, ASYNC)), Ok(()));
    assert_eq!(dirty(&bed), 0);
    bed.host().release();
    let mut executor = Executor::new(1);
    assert_eq!((bed.machine.run(&mut executor), dirty(&bed)), (Ok(()), 2));
    assert_eq!((bed.stable(1), bed.stable(5)), (Some(0), Some(0x15)));
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!(bed.stable(1), Some(0x11));
}

#[test]
fn m_03_invalidate_with_sync_writes_and_unmaps_and_keeps_the_bytes() {
    for sync in [SYNC, ASYNC] {
        let bed = written();
        assert_eq!(bed.msync(0, 8, sync | INVALIDATE), Ok(()));
        assert_eq!((bed.stable(1), dirty(&bed), bed.is_mapped(1)), (Some(0x11), 0, false));
        assert_eq!(bed.read(1), Ok(0x11));
    }
}

#[test]
fn m_04_invalidate_alone_unmaps_keeps_the_bytes_and_loses_no_dirty_page() {
    let bed = written();
    assert_eq!(bed.msync(0, 8, INVALIDATE), Ok(()));
    assert_eq!((bed.synced(), bed.is_mapped(1), dirty(&bed)), (Vec::new(), false, 3));
    assert_eq!((bed.read(1), bed.stable(1)), (Ok(0x11), Some(0)));
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!(bed.stable(1), Some(0x11));
}

#[test]
fn m_06_and_m_07_deactivate_wins_over_sync_and_changes_nothing() {
    let bed = written();
    for other in [SyncFlags::NONE, SYNC, ASYNC, INVALIDATE, SYNC | INVALIDATE] {
        assert_eq!(bed.msync(0, 8, SyncFlags::DEACTIVATE | other), Ok(()));
    }
    assert_eq!((bed.synced(), bed.is_mapped(1), bed.read(1)), (Vec::new(), true, Ok(0x11)));
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!(bed.stable(1), Some(0x11), "the page was still dirty");
}

#[test]
pub(crate) fn m_05_and_m_07_killpages_wins_over_sync_and_spares_the_write_of_unwired_pages() {
    for other in [SyncFlags::NONE, SYNC, ASYNC, INVALIDATE, SyncFlags::DEACTIVATE] {
        let bed = written();
        assert_eq!(bed.wire(2, 3, USER), Ok(()));
        assert_eq!(bed.msync(0, 8, SyncFlags::KILLPAGES | other), Ok(()));
        assert_eq!((bed.synced(), bed.read(1), dirty(&bed)), (Vec::new(), Ok(0x11), 1));
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
        assert_eq!((bed.stable(1), bed.stable(2), bed.stable(5)), (Some(0), Some(0x12), Some(0)));
        assert_eq!(bed.write(1, 0x21), Ok(()));
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
        assert_eq!((bed.stable(1), bed.stable(5)), (Some(0x21), Some(0)), "written since");
    }
}

#[test]
fn m_05_killpages_leaves_memory_alone_that_others_see() {
    let bed = Bed::new();
    let object = bed.machine.vm.anonymous_object(4);
    let placement = crate::map::Placement::Fixed(bed.at(0));
    let (map, mode) = (&bed.machine.map, crate::map::MapMode::Shared);
    let mapped = map.map_object(placement, &object, PageRange::new(0, 4), mode, Prot::DEFAULT);
    assert_eq!(block_on(mapped), Ok(bed.at(0)));
    assert_eq!(bed.write(1, 0x11), Ok(()));
    assert_eq!(bed.msync(0, 4, SyncFlags::KILLPAGES), Ok(()));
    assert_eq!((bed.msync(0, 4, SYNC), bed.stable(1)), (Ok(()), Some(0x11)));
}

#[test]
fn m_08_and_h_01_contiguous_reports_a_hole_after_the_whole_range_is_synced() {
    let bed = Bed::of(2);
    bed.allocate(4, 6);
    assert_eq!((bed.write(0, 1), bed.write(5, 5)), (Ok(()), Ok(())));
    assert_eq!(bed.msync(0, 6, SYNC | CONTIGUOUS), Err(KernReturn::InvalidAddress));
    assert_eq!((bed.stable(0), bed.stable(5)), (Some(1), Some(5)));
    assert_eq!(bed.write(5, 6), Ok(()));
    assert_eq!(bed.msync(3, 6, SYNC), Ok(()));
    assert_eq!(bed.stable(5), Some(6));
    assert_eq!(bed.msync(0, 2, SYNC | CONTIGUOUS), Ok(()));
}

#[test]
fn h_02_killpages_with_a_hole_reports_it_with_contiguous_alone() {
    let bed = Bed::of(2);
    assert_eq!(bed.msync(0, 3, SyncFlags::KILLPAGES), Ok(()));
    assert_eq!(bed.msync(0, 3, SyncFlags::KILLPAGES | CONTIGUOUS), Err(KernReturn::InvalidAddress));
}

#[test]
fn h_03_msync_past_the_last_entry_or_in_an_empty_map_is_a_hole() {
    let bed = Bed::new();
    assert_eq!(bed.msync(0, 4, SYNC), Ok(()));
    assert_eq!(bed.msync(0, 4, SYNC | CONTIGUOUS), Err(KernReturn::InvalidAddress));
    assert_eq!(msync(&bed, 0, 4096, SYNC | CONTIGUOUS), Err(KernReturn::InvalidAddress), "below the map");
    bed.allocate(0, 3);
    assert_eq!(bed.msync(0, 4, SYNC), Ok(()));
    assert_eq!(bed.msync(0, 4, SYNC | CONTIGUOUS), Err(KernReturn::InvalidAddress));
}

#[test]
fn h_06_entry_without_an_object_is_no_hole() {
    let bed = Bed::of(4);
    assert_eq!(bed.msync(0, 4, SYNC | CONTIGUOUS), Ok(()));
    assert_eq!(bed.synced(), []);
    assert!(!bed.machine.map.entries()[0].has_object);
}

#[test]
fn h_08_msync_pushes_dirty_pages_through_any_protection() {
    for prot in [Prot::READ, Prot::NONE] {
        let bed = written();
        assert_eq!(bed.protect(0, 8, prot), Ok(()));
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
        assert_eq!(bed.stable(5), Some(0x15), "{prot}");
    }
}

#[test]
fn h_09_and_q_04_msync_writes_wired_pages_and_never_unmaps_them() {
    let bed = written();
    assert_eq!(bed.wire(0, 3, USER), Ok(()));
    assert_eq!(bed.msync(0, 8, INVALIDATE), Ok(()));
    assert_eq!((bed.is_mapped(1), bed.is_mapped(5)), (true, false));
    assert_eq!(bed.msync(0, 8, SYNC | INVALIDATE), Ok(()));
    assert_eq!((bed.is_mapped(1), bed.stable(1), bed.wired_by_host()), (true, Some(0x11), 3));
}

#[test]
fn d_b_failed_run_is_failure_after_the_whole_range_and_stays_dirty() {
    for error in [HostError::Io, HostError::Poisoned, HostError::Unsupported, HostError::Busy] {
        let bed = written();
        bed.host().fail_sync(0, error);
        assert_eq!(bed.msync(0, 8, SYNC | INVALIDATE), Err(KernReturn::Failure), "{error}");
        assert_eq!((bed.stable(1), bed.stable(2), bed.stable(5)), (Some(0), Some(0), Some(0x15)));
        assert_eq!((dirty(&bed), bed.read(1)), (2, Ok(0x11)), "pages 1 and 2 are dirty and resident");
        assert_eq!(bed.machine.map.stats().last_host_error, Some(error));
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
        assert_eq!((bed.stable(2), dirty(&bed)), (Some(0x12), 0));
    }
}

#[test]
fn d_b_sync_with_nothing_to_write_fails_where_the_host_refuses_every_sync() {
    for error in [HostError::Unsupported, HostError::Poisoned] {
        let bed = written();
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
        bed.host().refuse_sync(Some(error));
        for flags in [SYNC, ASYNC, SYNC | INVALIDATE] {
            assert_eq!(bed.msync(0, 8, flags), Err(KernReturn::Failure), "{error}");
            assert_eq!(bed.machine.map.stats().last_host_error, Some(error));
        }
        // Nothing is promised by these.
        for flags in [SyncFlags::NONE, INVALIDATE, SYNC | SyncFlags::KILLPAGES] {
            assert_eq!(bed.msync(0, 8, flags), Ok(()), "{error}");
        }
        bed.host().refuse_sync(None);
        assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    }
}

#[test]
fn d_b_failure_comes_before_the_report_of_a_hole_and_from_asynchronous_too() {
    let bed = written();
    bed.host().fail_sync(1, HostError::Io);
    assert_eq!(bed.msync(0, 9, SYNC | CONTIGUOUS), Err(KernReturn::Failure));
    bed.host().fail_sync(0, HostError::Io);
    assert_eq!(bed.msync(0, 8, ASYNC), Err(KernReturn::Failure));
    assert_eq!(dirty(&bed), 1);
}

#[test]
fn z_01_page_written_while_its_write_is_in_flight_stays_dirty() {
    let bed = written();
    bed.host().hold();
    let mut executor = Executor::new(5);
    let sync = executor.spawn(bed.machine.map.msync(bed.at(0), 8 << 12, SYNC));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(block_on(bed.machine.write(bed.at(1), &[0x99])), Ok(()));
    bed.host().release();
    assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
    assert_eq!((bed.stable(1), bed.stable(2)), (Some(0x11), Some(0x12)));
    bed.host().take_log();
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!((bed.stable(1), bed.synced().len()), (Some(0x99), 1));
}

#[test]
fn second_synchronous_msync_waits_for_the_write_in_flight_and_repeats_what_failed() {
    let bed = written();
    bed.host().hold();
    bed.host().fail_sync(0, HostError::Io);
    let mut executor = Executor::new(5);
    let first = executor.spawn(bed.machine.map.msync(bed.at(0), 8 << 12, SYNC));
    assert_eq!(executor.run_until_stalled(), 1);
    let second = executor.spawn(bed.machine.map.msync(bed.at(2), 4096, SYNC));
    let other = executor.spawn(bed.machine.map.msync(bed.at(6), 4096, SYNC));
    assert_eq!(executor.run_until_stalled(), 2, "a range without such pages does not wait");
    assert_eq!((other.take(), second.is_ready()), (Some(Ok(())), false));
    bed.host().release();
    assert_eq!((executor.run(), first.take(), second.take()), (Ok(()), Some(Err(KernReturn::Failure)), Some(Ok(()))));
    assert_eq!((bed.stable(1), bed.stable(2)), (Some(0), Some(0x12)));
    assert_eq!(bed.settled(dirty(&bed)), 1);
}

#[test]
fn msync_dropped_while_the_host_writes_leaves_the_pages_dirty() {
    let bed = written();
    bed.host().hold();
    let mut executor = Executor::new(5);
    executor.spawn(bed.machine.map.msync(bed.at(0), 8 << 12, SYNC));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(bed.machine.map.stats().cleaning_pages, 3);
    drop(executor);
    bed.host().release();
    assert_eq!(bed.settled(dirty(&bed)), 3);
}

#[test]
fn fresh_frame_that_was_used_before_is_dirty_until_synced() {
    let bed = Bed::with(FakeConfig { frame_pages: 1, ..FakeConfig::default() });
    bed.allocate(0, 1);
    assert_eq!((bed.write(0, 7), bed.msync(0, 1, SYNC)), (Ok(()), Ok(())));
    bed.deallocate(0, 1);
    bed.allocate(0, 1);
    assert_eq!(bed.wire(0, 1, USER), Ok(()));
    assert_eq!((bed.read(0), bed.stable(0)), (Ok(0), Some(7)));
    assert_eq!(bed.msync(0, 1, SYNC), Ok(()));
    assert_eq!(bed.stable(0), Some(0));
}

#[test]
fn msync_of_part_of_a_2_mib_mapping_sends_that_part_and_forgets_nothing() {
    let bed = Bed::new();
    bed.allocate(496, 1008);
    assert_eq!(bed.wire(496, 1008, USER), Ok(()));
    assert_eq!((bed.write(500, 5), bed.write(900, 9)), (Ok(()), Ok(())));
    assert_eq!(bed.msync(496, 600, SYNC), Ok(()));
    assert_eq!((bed.stable(500), bed.stable(900)), (Some(5), Some(0)));
    assert_eq!(bed.synced().iter().map(|run| run.pages).sum::<u64>(), 104);
    assert_eq!(bed.msync(600, 1008, SYNC), Ok(()));
    assert_eq!(bed.stable(900), Some(9));
}

/// Returns a machine where pages `[496,1008)` are one 2 MiB mapping, written, of which `[600,610)` is an entry of
/// its own.
fn clipped_block() -> Bed {
    let bed = Bed::new();
    bed.allocate(496, 1008);
    assert_eq!(bed.wire(496, 1008, USER), Ok(()));
    assert_eq!(bed.unwire(496, 1008, USER), Ok(()));
    let lowered = bed.machine.map.protect(bed.at(600), 10 << 12, true, Prot::DEFAULT);
    assert_eq!((block_on(lowered), bed.write(500, 5)), (Ok(()), Ok(())));
    assert_eq!(bed.entries(), "[496,600) [600,610) [610,1008)");
    assert!(is_large(&bed, 500));
    bed
}

fn is_large(bed: &Bed, page: u64) -> bool {
    let mapping = bed.machine.map.with_pmap(|pmap| pmap.translation(bed.at(page) >> 12));
    mapping.is_some_and(|mapping| mapping.large)
}

#[test]
fn msync_of_a_2_mib_mapping_that_entries_share_cleans_it() {
    let bed = clipped_block();
    assert_eq!(bed.msync(0, 1008, SYNC), Ok(()));
    assert_eq!((bed.stable(500), bed.synced().len()), (Some(5), 1));
    assert_eq!(bed.msync(0, 1008, SYNC), Ok(()));
    assert_eq!(bed.synced(), [], "all is clean now");
}

#[test]
fn invalidate_and_protect_of_a_2_mib_mapping_that_entries_share_split_nothing() {
    let bed = clipped_block();
    bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(0)));
    assert_eq!(bed.protect(0, 1008, Prot::READ), Err(KernReturn::InvalidAddress));
    assert_eq!(bed.protect(496, 1008, Prot::READ), Ok(()));
    assert!(is_large(&bed, 500) && is_large(&bed, 605));
    assert_eq!(bed.msync(0, 1008, INVALIDATE), Ok(()));
    assert!((496..1008).all(|page| !bed.is_mapped(page)));
    bed.machine.map.with_pmap(|pmap| pmap.limit_tables(None));
    assert_eq!((bed.read(500), bed.stable(500)), (Ok(5), Some(0)));
    assert_eq!(bed.msync(0, 1008, SYNC), Ok(()));
    assert_eq!(bed.stable(500), Some(5));
}

#[test]
fn q_04_invalidate_never_unmaps_a_wired_page_even_if_no_table_is_left() {
    let bed = Bed::new();
    bed.allocate(496, 1008);
    assert_eq!(bed.wire(496, 1008, USER), Ok(()));
    assert_eq!(bed.unwire(600, 610, USER), Ok(()));
    assert_eq!(bed.write(500, 5), Ok(()));
    assert!(is_large(&bed, 500));
    bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(0)));
    assert_eq!(bed.msync(496, 1008, INVALIDATE), Ok(()));
    assert_eq!((bed.read(500), bed.read(605)), (Ok(5), Ok(0)));
    assert_eq!(bed.msync(496, 1008, SYNC), Ok(()));
    assert_eq!(bed.stable(500), Some(5));
}

#[test]
fn msync_of_two_objects_whose_pages_and_frames_continue_cleans_each_ones_own() {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(0, 64), ..FakeConfig::default() });
    bed.allocate(0, 4);
    bed.allocate(8, 16);
    // The second object begins with its page 4, in the frame after those of the first.
    bed.deallocate(4, 12);
    for page in [0, 1, 2, 3, 12] {
        assert_eq!(bed.write(page, 7), Ok(()));
    }
    assert_eq!(bed.frame(12), bed.frame(3).map(|frame| frame + 1));
    assert_eq!(bed.msync(0, 16, SYNC), Ok(()));
    assert_eq!(dirty(&bed), 0);
    assert_eq!(bed.write(12, 8), Ok(()));
    assert_eq!(bed.msync(0, 16, SYNC), Ok(()));
    assert_eq!((bed.stable(12), dirty(&bed)), (Some(8), 0));
}

#[test]
fn msync_over_clipped_entries_sends_neighbouring_frames_as_one_run() {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(0, 1024), ..FakeConfig::default() });
    bed.allocate(0, 8);
    assert_eq!(bed.wire(0, 8, USER), Ok(()));
    assert_eq!(bed.protect(2, 4, Prot::DEFAULT | Prot::EXECUTE), Ok(()));
    assert_eq!(bed.wire(5, 6, WireFlags::SYSTEM), Ok(()));
    for page in 0..8 {
        assert_eq!(bed.write(page, 1), Ok(()));
    }
    bed.host().take_log();
    assert_eq!(bed.msync(0, 8, SYNC), Ok(()));
    assert_eq!(bed.synced(), [FrameRun::new(bed.frame(0).unwrap(), 8)]);
    assert_eq!(dirty(&bed), 0);
}
