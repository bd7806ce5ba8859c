//! Tests of POSIX `msync`, by the topics of §5 of the semantics table.

use crate::errno::Errno;
use crate::fake::block_on;
use crate::flags::{MsyncFlags, WireFlags};
use crate::map::testing::Bed;
use crate::map::{MapMode, Placement};
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const SYNC: MsyncFlags = MsyncFlags::SYNC;
const ASYNC: MsyncFlags = MsyncFlags::ASYNC;
const INVALIDATE: MsyncFlags = MsyncFlags::INVALIDATE;
const NONE: MsyncFlags = MsyncFlags::from_bits(0);

fn msync(bed: &Bed, address: u64, size: u64, flags: MsyncFlags) -> Result<(), Errno> {
    bed.settled(block_on(bed.machine.map.msync_posix(address, size, flags)))
}

fn pages(bed: &Bed, start: u64, end: u64, flags: MsyncFlags) -> Result<(), Errno> {
    msync(bed, bed.at(start), (end - start) << PAGE_SHIFT, flags)
}

/// Returns a machine with 8 pages of which 1, 2 and 5 are written.
fn written() -> Bed {
    let bed = Bed::of(8);
    for page in [1, 2, 5] {
        assert_eq!(bed.write(page, 0x10 + u8::try_from(page).unwrap()), Ok(()));
    }
    bed.host().take_log();
    bed
}

#[test]
fn posix_msync_unaligned_conflicting_unknown_or_wrapping_is_einval_before_anything_else() {
    let bed = written();
    assert_eq!(msync(&bed, bed.at(1) + 1, 4096, SYNC), Err(Errno::Inval), "unaligned address");
    assert_eq!(pages(&bed, 0, 8, SYNC | ASYNC), Err(Errno::Inval), "both");
    for bit in 3..u32::BITS {
        assert_eq!(pages(&bed, 0, 8, SYNC | MsyncFlags::from_bits(1 << bit)), Err(Errno::Inval), "bit {bit}");
    }
    for (address, size) in [(bed.at(0), u64::MAX), (u64::MAX - 4095, 4096), (u64::MAX - 4095, 1)] {
        assert_eq!(msync(&bed, address, size, SYNC), Err(Errno::Inval), "{address:#x}: wraps");
    }
    assert_eq!(msync(&bed, bed.at(9) + 1, 0, SYNC), Err(Errno::Inval), "also of nothing");
    assert_eq!(bed.host().take_log(), []);
}

#[test]
fn posix_msync_of_length_zero_succeeds_even_where_nothing_is() {
    let bed = written();
    for address in [bed.at(0), bed.at(100), 0] {
        assert_eq!(msync(&bed, address, 0, SYNC), Ok(()));
    }
    assert_eq!(bed.host().take_log(), []);
}

#[test]
fn posix_msync_over_a_hole_is_enomem_before_any_io() {
    let bed = written();
    bed.deallocate(3, 4);
    bed.host().take_log();
    for (start, end) in [(0, 8), (3, 4), (2, 4), (3, 6), (5, 9)] {
        assert_eq!(pages(&bed, start, end, SYNC), Err(Errno::NoMem), "[{start},{end})");
    }
    assert_eq!((bed.host().take_log().len(), bed.stable(1)), (0, Some(0)));
    assert_eq!((pages(&bed, 0, 3, SYNC), bed.stable(1), bed.stable(5)), (Ok(()), Some(0x11), Some(0)));
}

#[test]
fn posix_msync_rounds_the_size_up_to_whole_pages() {
    let bed = written();
    assert_eq!(msync(&bed, bed.at(1), 4097, SYNC), Ok(()));
    assert_eq!([1, 2, 5].map(|page| bed.stable(page)), [Some(0x11), Some(0x12), Some(0)]);
    assert_eq!(msync(&bed, bed.at(7), 4097, SYNC), Err(Errno::NoMem));
}

#[test]
fn posix_msync_invalidate_over_a_locked_page_is_ebusy_before_any_io() {
    let bed = written();
    assert_eq!(bed.wire(5, 6, WireFlags::USER), Ok(()));
    bed.host().take_log();
    for flags in [INVALIDATE, INVALIDATE | SYNC, INVALIDATE | ASYNC] {
        assert_eq!(pages(&bed, 0, 8, flags), Err(Errno::Busy));
    }
    assert_eq!((bed.host().take_log().len(), bed.stable(1)), (0, Some(0)));
    bed.deallocate(7, 8);
    assert_eq!(pages(&bed, 0, 8, INVALIDATE), Err(Errno::NoMem), "a hole is told first");
    assert_eq!((pages(&bed, 0, 5, INVALIDATE), bed.stable(1)), (Ok(()), Some(0x11)));
    assert_eq!((pages(&bed, 0, 7, SYNC), bed.stable(5)), (Ok(()), Some(0x15)), "without it, locked pages are synced");
    assert_eq!(bed.unwire(5, 6, WireFlags::USER), Ok(()));
    assert_eq!(bed.wire(5, 6, WireFlags::SYSTEM), Ok(()));
    assert_eq!(pages(&bed, 0, 7, INVALIDATE), Ok(()), "only the user's locks count");
}

#[test]
fn b2_posix_msync_without_a_flag_is_synchronous_and_invalidate_alone_loses_nothing() {
    for flags in [NONE, SYNC, INVALIDATE, SYNC | INVALIDATE] {
        let bed = written();
        assert_eq!(pages(&bed, 0, 8, flags), Ok(()));
        assert_eq!([1, 2, 5].map(|page| bed.stable(page)), [Some(0x11), Some(0x12), Some(0x15)], "{flags:?}");
        assert_eq!(bed.is_mapped(1), !flags.contains(INVALIDATE));
        assert_eq!([1, 2, 5].map(|page| bed.read(page)), [Ok(0x11), Ok(0x12), Ok(0x15)]);
    }
}

#[test]
fn posix_msync_that_storage_fails_is_eio_and_can_be_repeated() {
    let bed = written();
    for error in [HostError::Io, HostError::Poisoned, HostError::Unsupported] {
        bed.host().fail_sync(0, error);
        assert_eq!(pages(&bed, 0, 3, SYNC), Err(Errno::Io), "{error:?}");
    }
    assert_eq!((pages(&bed, 0, 3, SYNC), bed.stable(1)), (Ok(()), Some(0x11)));
}

#[test]
fn posix_msync_of_a_private_mapping_succeeds_and_leaves_the_file_alone() {
    let bed = Bed::new();
    let file = bed.machine.vm.file_object(2, 1);
    let place = Placement::Fixed(bed.at(0));
    let mapped = bed.machine.map.map_object(place, &file, PageRange::new(0, 2), MapMode::Private, Prot::DEFAULT);
    assert_eq!(block_on(mapped), Ok(bed.at(0)));
    assert_eq!(bed.write(0, 9), Ok(()));
    assert_eq!(pages(&bed, 0, 2, SYNC), Ok(()));
    assert_eq!((bed.read(0), bed.read(1)), (Ok(9), Ok(0x11)));
}

#[test]
fn posix_msync_looks_for_holes_and_locks_in_submaps_too() {
    let bed = Bed::of(4);
    let submap = block_on(bed.machine.map.submap(Placement::Fixed(bed.at(4)), 4 << PAGE_SHIFT)).expect("it is free");
    let settled = || assert_eq!(bed.machine.check_quiet_with(&[&submap]), Ok(()));
    let sync = |start, flags| block_on(bed.machine.map.msync_posix(bed.at(start), (8 - start) << PAGE_SHIFT, flags));
    assert_eq!(block_on(submap.allocate(Placement::Fixed(bed.at(5)), 3 << PAGE_SHIFT)), Ok(bed.at(5)));
    assert_eq!(block_on(submap.wire(bed.at(6), bed.at(7), WireFlags::USER)), Ok(()));
    assert_eq!((sync(0, SYNC), sync(4, SYNC), sync(5, SYNC)), (Err(Errno::NoMem), Err(Errno::NoMem), Ok(())));
    assert_eq!((sync(5, INVALIDATE), sync(7, INVALIDATE)), (Err(Errno::Busy), Ok(())));
    settled();
}
