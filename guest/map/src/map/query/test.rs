//! Tests of queries.

use alloc::sync::Arc;

use super::PageState;
use crate::fake::{Executor, FakePmap, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::Supply;
use crate::kern_return::KernReturn;
use crate::map::testing::Bed;
use crate::map::{MapMode, Placement, VmMap};
use crate::units::{PAGE_SHIFT, PageRange, Prot};

#[test]
fn layout_is_clipped_joins_equal_wirings_and_shows_the_common_rights() {
    let bed = Bed::of(4);
    bed.allocate(4, 8);
    assert_eq!(bed.protect(2, 6, Prot::READ), Ok(()));
    assert_eq!(bed.layout(), "[0,8)0");
    assert_eq!(bed.wire(2, 4, WireFlags::USER), Ok(()));
    assert_eq!(bed.layout(), "[0,2)0 [2,4)1U [4,8)0");
    let rows = bed.machine.map.layout(17, 23);
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0].pages, rows[0].prot), (PageRange::new(17, 18), Prot::DEFAULT));
    assert_eq!((rows[2].pages, rows[2].prot), (PageRange::new(20, 23), Prot::READ));
}

#[test]
fn frames_rows_cover_the_range_and_join_over_entries() {
    let bed = Bed::of(6);
    assert_eq!(bed.wire(1, 5, WireFlags::SYSTEM), Ok(()));
    assert_eq!(bed.protect(2, 3, Prot::READ), Ok(()));
    let rows = bed.machine.map.frames(16, 26);
    let pages: alloc::vec::Vec<_> = rows.iter().map(|row| (row.pages, row.frames.map(|run| run.pages))).collect();
    let expected = [(PageRange::new(16, 17), None), (PageRange::new(17, 21), Some(4)), (PageRange::new(21, 26), None)];
    assert_eq!(pages, expected);
    assert_eq!(bed.machine.map.frames(18, 18), []);
}

#[test]
fn stats_count_what_the_map_holds() {
    let bed = Bed::of(8);
    bed.allocate(10, 12);
    assert_eq!(bed.wire(0, 4, WireFlags::USER), Ok(()));
    assert_eq!(bed.wire(2, 4, WireFlags::SYSTEM), Ok(()));
    assert_eq!(bed.write(7, 1), Ok(()));
    let stats = bed.machine.map.stats();
    assert_eq!((stats.entries, stats.allocated_pages, stats.resident_pages), (4, 10, 5));
    assert_eq!((stats.wired_pages, stats.user_wired_pages, stats.cleaning_pages), (4, 4, 0));
    assert!(stats.timestamp > 0 && stats.last_host_error.is_none());
}

#[test]
fn page_states_tell_what_is_owed_to_the_manager_what_is_on_its_way_and_what_could_not_come() {
    let bed = Bed::new();
    let vm = &bed.machine.vm;
    let object = vm.managed_object(&vm.manager_port(), 8);
    let own = VmMap::new(Arc::clone(vm), bed.machine.map.bounds(), FakePmap::new());
    assert_eq!(block_on(own.allocate(Placement::Fixed(bed.at(0)), 8 << PAGE_SHIFT)), Ok(bed.at(0)));
    for (place, mode) in [(0, MapMode::Shared), (8, MapMode::Private)] {
        let (placement, pages) = (Placement::Fixed(bed.at(place)), PageRange::new(0, 8));
        let mapped = bed.machine.map.map_object(placement, &object, pages, mode, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(bed.at(place)));
    }
    let states = |start: u64, end: u64| {
        let word = |(pages, state): (PageRange, PageState)| {
            let flags = [
                (state.is_dirty, "dirty"),
                (state.is_precious, "precious"),
                (state.is_cleaning, "cleaning"),
                (state.is_error, "error"),
            ];
            let words = flags.into_iter().filter_map(|(is_set, word)| is_set.then_some(word));
            let pages = PageRange::new(pages.start - 16, pages.end - 16);
            alloc::format!("{pages}{}", words.collect::<alloc::vec::Vec<_>>().join(","))
        };
        let rows = bed.machine.map.page_states(16 + start, 16 + end);
        rows.into_iter().map(word).collect::<alloc::vec::Vec<_>>().join(" ")
    };
    let write = |page| block_on(bed.machine.write(bed.at(page), &[1]));
    let mut executor = Executor::new(1);
    let faults: alloc::vec::Vec<_> =
        (0..6).map(|page| executor.spawn(bed.machine.map.fault(bed.at(page), Prot::READ))).collect();
    assert_eq!((executor.run_until_stalled(), states(0, 8)), (6, alloc::string::String::new()));
    let supply = |page, is_precious| {
        let supply = Supply { is_precious, ..Supply::default() };
        block_on(object.data_supply(PageRange::new(page, page + 1), &own, bed.at(page), supply))
    };
    for page in 0..5 {
        assert_eq!(supply(page, page >= 3), Ok(()));
    }
    assert_eq!(object.data_error(PageRange::new(5, 6), KernReturn::MemoryError), Ok(()));
    assert_eq!(states(0, 8), "[0,3) [3,5)precious [5,6)error");
    assert_eq!(states(8, 16), "[8,11) [11,13)precious [13,14)error", "what shines through");
    assert_eq!(executor.run(), Ok(()));
    assert_eq!(faults[5].take(), Some(Err(KernReturn::MemoryError)), "who waited has learnt of it");
    assert_eq!(states(4, 8), "[4,5)precious");
    assert_eq!((write(0), write(3)), (Ok(()), Ok(())));
    assert_eq!(states(0, 5), "[0,1)dirty [1,3) [3,4)dirty,precious [4,5)precious");
    assert_eq!(block_on(bed.machine.write(bed.at(9), &[5])), Ok(()));
    assert_eq!(states(9, 10), "[9,10)dirty", "a private page of its own");
    let (home, at) = (block_on(bed.machine.map.allocate(Placement::Anywhere, 2 << PAGE_SHIFT)), bed.at(16));
    assert_eq!((home, write(16)), (Ok(at), Ok(())));
    bed.host().hold();
    let mut executor = Executor::new(1);
    executor.spawn(bed.machine.map.msync(at, 2 << PAGE_SHIFT, SyncFlags::SYNCHRONOUS));
    assert_eq!((executor.run_until_stalled(), states(16, 18)), (1, "[16,17)cleaning".into()));
    assert_eq!((block_on(bed.machine.write(at, &[2])), states(16, 18)), (Ok(()), "[16,17)dirty,cleaning".into()));
    bed.host().release();
    assert_eq!((executor.run(), states(16, 18)), (Ok(()), "[16,17)dirty".into()), "row Z-01");
    block_on(own.destroy());
}
