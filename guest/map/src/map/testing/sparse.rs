//! Ranges of a size that nobody could go through page by page: what an operation costs goes with what is there.

use std::time::{Duration, Instant};

use super::Bed;
use crate::entry::Inheritance;
use crate::fake::{Executor, FakeConfig, FakePmap, FakePorts, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::handle::ObjectHandle;
use crate::kern_return::KernReturn;
use crate::map::{Advice, MapMode, Placement};
use crate::ports::StoreKind;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

/// Pages of each range, and pages of the objects that are mapped there.
const GIANT: u64 = 1 << 30;
const SMALL: u64 = 64;
const SIZE: u64 = GIANT << PAGE_SHIFT;
/// Far more than any of these takes on a busy machine, and far less than a look at each page would.
const LONG: Duration = Duration::from_secs(5);

fn quickly<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let elapsed = start.elapsed();
    assert!(elapsed < LONG, "{what} took {elapsed:?}");
    result
}

fn bed() -> Bed {
    let map_pages = PageRange::new(16, 16 + 2 * GIANT);
    Bed::with(FakeConfig { map_pages, user_wire_limit_pages: u64::MAX, ..FakeConfig::default() })
}

/// Maps a store of few pages, of which some are written, over a giant range.
fn mapped_store(bed: &Bed, mode: MapMode) -> ObjectHandle<FakePorts> {
    bed.host().fill_store("data", SMALL, 7);
    let object = bed.machine.vm.store_object("data", SMALL, StoreKind::Store).unwrap();
    let (placement, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, GIANT));
    let mapped = block_on(bed.machine.map.map_object(placement, &object, pages, mode, Prot::DEFAULT));
    assert_eq!(mapped, Ok(bed.at(0)));
    assert_eq!((bed.write(3, 1), bed.write(SMALL - 1, 2)), (Ok(()), Ok(())));
    assert_eq!(bed.write(SMALL, 3), Err(KernReturn::OutOfBounds));
    object
}

/// Does to the first `GIANT` pages what costs nothing where nothing is.
fn exercise(bed: &Bed) {
    let (map, at) = (&bed.machine.map, bed.at(0));
    let end = bed.at(GIANT);
    quickly("msync", || bed.msync(0, GIANT, SyncFlags::SYNCHRONOUS)).unwrap();
    quickly("invalidate", || bed.msync(0, GIANT, SyncFlags::SYNCHRONOUS | SyncFlags::INVALIDATE)).unwrap();
    let resident = quickly("mincore", || block_on(map.mincore(at, SIZE))).unwrap();
    assert!(resident.len() < 100);
    let (first, last) = (at >> PAGE_SHIFT, end >> PAGE_SHIFT);
    quickly("page states", || drop((map.page_states(first, last), map.frames(first, last))));
    quickly("residents", || map.residents(PageRange::new(first, last)));
    quickly("advise", || block_on(map.advise(at, SIZE, Advice::DontNeed))).unwrap();
    quickly("wire on fault", || block_on(map.wire_pages(PageRange::new(first, last), WireFlags::USER, true))).unwrap();
    quickly("unwire", || block_on(map.unwire(at, end, WireFlags::USER))).unwrap();
    quickly("protect", || bed.protect(0, GIANT, Prot::READ)).unwrap();
    quickly("protect", || bed.protect(0, GIANT, Prot::DEFAULT)).unwrap();
    for inheritance in [Inheritance::Share, Inheritance::None, Inheritance::Copy] {
        quickly("inherit", || block_on(map.inherit(at, SIZE, inheritance))).unwrap();
        let child = quickly("fork", || block_on(map.fork(FakePmap::new()))).unwrap();
        assert_eq!(bed.machine.check_quiet_with(&[&child]), Ok(()));
        if inheritance != Inheritance::None {
            let mut byte = [0];
            let read = block_on(bed.machine.read_in(&child, bed.at(3), &mut byte));
            assert_eq!((read, byte), (Ok(()), [1]));
        }
        quickly("destroy", || block_on(child.destroy()));
    }
    assert_eq!(bed.read(3), Ok(1));
}

#[test]
fn mapping_far_beyond_the_end_of_its_object_costs_what_the_object_holds() {
    for mode in [MapMode::Shared, MapMode::Private] {
        let bed = bed();
        let object = mapped_store(&bed, mode);
        exercise(&bed);
        let wired = quickly("wire", || bed.wire(0, GIANT, WireFlags::SYSTEM));
        assert_eq!(wired, Err(KernReturn::OutOfBounds), "{mode:?}");
        quickly("deallocate", || bed.deallocate(0, GIANT));
        drop(object);
        assert_eq!(bed.machine.run(&mut Executor::new(1)), Ok(()));
    }
}

#[test]
fn allocation_larger_than_memory_costs_what_was_touched() {
    let bed = bed();
    bed.allocate(0, GIANT);
    for page in [3, SMALL - 1, GIANT / 2, GIANT - 1] {
        assert_eq!(bed.write(page, 1), Ok(()));
    }
    exercise(&bed);
    let wired = quickly("wire", || bed.wire(0, GIANT, WireFlags::SYSTEM));
    assert_eq!(wired, Err(KernReturn::ResourceShortage));
    quickly("deallocate", || bed.deallocate(0, GIANT));
}
