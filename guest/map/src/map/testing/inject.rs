//! Every call to a port fails once, at every place.

use alloc::string::String;
use alloc::vec::Vec;

use super::Bed;
use crate::fake::{FakeConfig, HostCall};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::ports::HostError;
use crate::units::{PageRange, Prot};

/// What a failed wire must not change: entries, layout, host, charge and bytes.
type Visible = (String, String, u64, u64, Vec<u8>);

fn visible(bed: &Bed) -> Visible {
    let bytes = [1, 6, 12].into_iter().map(|page| bed.read(page).unwrap()).collect();
    (bed.entries(), bed.layout(), bed.wired_by_host(), bed.machine.vm.user_wired_pages(), bytes)
}

/// Entries of every kind, with a hole, partly resident: `[0,4)` `[4,8)` system-wired and read-only
/// `[8,10)` user-wired, `[10,16)`, `[18,20)`.
fn mixed() -> Bed {
    let bed = Bed::with(FakeConfig { map_pages: PageRange::new(500, 600), ..FakeConfig::default() });
    for (start, end) in [(0, 4), (4, 8), (8, 10), (10, 16), (18, 20)] {
        bed.allocate(start, end);
    }
    for page in [1, 6, 12] {
        assert_eq!(bed.write(page, 0x40), Ok(()));
    }
    assert_eq!(bed.wire(4, 8, WireFlags::SYSTEM), Ok(()));
    assert_eq!(bed.protect(4, 8, Prot::READ), Ok(()));
    assert_eq!(bed.wire(8, 10, WireFlags::USER), Ok(()));
    // Single frames make many allocations, each of which can fail.
    bed.machine.frames().fragment(1);
    bed
}

#[test]
fn wire_with_any_one_allocation_failing_changes_nothing_and_succeeds_when_repeated() {
    for flags in [WireFlags::USER, WireFlags::SYSTEM] {
        let mut failures = 0;
        loop {
            let bed = mixed();
            let before = visible(&bed);
            bed.machine.frames().fail_allocation(failures);
            let outcome = bed.wire(2, 20, flags | WireFlags::HOLESOK);
            if bed.machine.frames().withdraw_failure() {
                assert_eq!(outcome, Ok(()), "there is no allocation {failures}");
                break;
            }
            assert_eq!(outcome, Err(KernReturn::ResourceShortage), "allocation {failures}");
            assert_eq!(visible(&bed), before, "allocation {failures}");
            assert_eq!(bed.wire(2, 20, flags | WireFlags::HOLESOK), Ok(()));
            failures += 1;
        }
        assert_eq!(failures, 9, "pages 2, 3, 10, 11, 13 to 15, 18 and 19 are absent");
    }
}

#[test]
fn wire_with_any_one_page_table_missing_changes_nothing_and_succeeds_when_repeated() {
    let mut tables = 0;
    loop {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(0, 3000), ..FakeConfig::default() });
        for (start, end) in [(500, 520), (1000, 1030), (1030, 1060), (2040, 2050)] {
            bed.allocate(start, end);
        }
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(tables)));
        let outcome = bed.wire(0, 3000, WireFlags::USER | WireFlags::HOLESOK);
        if outcome.is_ok() {
            break;
        }
        assert_eq!(outcome, Err(KernReturn::ResourceShortage), "{tables} tables");
        assert_eq!(bed.layout(), "[500,520)0 [1000,1060)0 [2040,2050)0");
        assert_eq!((bed.host().take_log(), bed.machine.vm.user_wired_pages()), (Vec::new(), 0));
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(None));
        assert_eq!(bed.wire(0, 3000, WireFlags::USER | WireFlags::HOLESOK), Ok(()));
        tables += 1;
    }
    assert_eq!(tables, 5, "the entries lie in the blocks from 0, 512, 1024, 1536 and 2048 on");
}

#[test]
fn wire_refused_by_the_host_changes_nothing_and_succeeds_when_repeated() {
    for flags in [WireFlags::USER, WireFlags::SYSTEM] {
        let bed = mixed();
        let before = visible(&bed);
        bed.host().take_log();
        bed.host().fail_wire(0, HostError::Shortage);
        assert_eq!(bed.wire(0, 16, flags), Err(KernReturn::ResourceShortage));
        assert!(matches!(bed.host().take_log().as_slice(), [HostCall::Wire(_)]), "nothing is there to unwire");
        assert_eq!(visible(&bed), before);
        assert_eq!(bed.wire(0, 16, flags), Ok(()));
    }
}

#[test]
fn msync_with_any_one_run_failing_writes_all_others_and_repeats_that_one() {
    let pages = [0, 2, 3, 7, 11, 13];
    let mut failures = 0;
    loop {
        let bed = mixed();
        bed.machine.frames().fragment(u64::MAX);
        for page in pages {
            let permitted = if (4..8).contains(&page) { Err(KernReturn::ProtectionFailure) } else { Ok(()) };
            assert_eq!(bed.write(page, 0x77), permitted);
        }
        bed.host().fail_sync(failures, HostError::Io);
        let outcome = bed.msync(0, 20, SyncFlags::SYNCHRONOUS);
        let stable = |page| bed.stable(page) == Some(bed.read(page).unwrap());
        let all = [0, 1, 2, 3, 6, 11, 12, 13];
        let missing = all.into_iter().filter(|&page| !stable(page)).count();
        if outcome.is_ok() {
            assert_eq!(missing, 0, "there is no run {failures}");
            break;
        }
        assert_eq!((outcome, missing > 0), (Err(KernReturn::Failure), true), "run {failures}");
        assert_eq!(bed.machine.map.stats().dirty_pages, missing as u64, "run {failures}");
        assert_eq!(bed.msync(0, 20, SyncFlags::SYNCHRONOUS), Ok(()));
        assert!(all.into_iter().all(stable), "run {failures}");
        failures += 1;
    }
    assert!(failures >= 4, "there are several runs");
}
