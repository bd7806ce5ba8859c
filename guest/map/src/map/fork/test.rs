//! Tests of forks that copy so much that others get the locks in between.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use crate::entry::Inheritance;
use crate::fake::{FakeConfig, FakePmap, FakePorts, block_on, check_quiet_maps};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::testing::{Bed, Outcome};
use crate::map::{Advice, MapMode, Placement, VmMap};
use crate::objects::MOST_FILLED_PAGES;
use crate::ports::{Frames, StoreKind};
use crate::units::{PAGE_SIZE, PageRange, Prot};

/// Pages of the parent: three parts.
const PAGES: u64 = 3 * MOST_FILLED_PAGES;
const LAST: u64 = PAGES - 1;

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Map = VmMap<FakePorts>;

fn poll<T>(work: &mut Work<'_, T>) -> Poll<T> {
    work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// The byte that a page has before the fork.
fn byte(page: u64) -> u8 {
    page.to_le_bytes()[0] | 1
}

/// Returns a machine whose pages `[0, PAGES)` are written and wired.
fn wired() -> Bed {
    let bed = Bed::of(PAGES);
    assert_eq!(bed.wire(0, PAGES, WireFlags::USER), Ok(()));
    (0..PAGES).for_each(|page| assert_eq!(block_on(bed.machine.write(bed.at(page), &[byte(page)])), Ok(())));
    bed
}

/// Returns a fork that has copied its first part.
fn begun(bed: &Bed) -> Work<'_, Result<Map, KernReturn>> {
    let mut fork: Work<'_, _> = Box::pin(bed.machine.map.fork(FakePmap::new()));
    assert!(poll(&mut fork).is_pending());
    fork
}

fn write<'a>(bed: &'a Bed, map: &'a Map, page: u64, byte: &'a [u8; 1]) -> Work<'a, Outcome> {
    Box::pin(bed.machine.write_in(map, bed.at(page), byte))
}

fn read(bed: &Bed, map: &Map, page: u64) -> u8 {
    let mut byte = [0];
    assert_eq!(block_on(bed.machine.read_in(map, bed.at(page), &mut byte)), Ok(()));
    byte[0]
}

/// Ends the fork and checks that the child has what was there when it was begun.
fn ended(bed: &Bed, fork: Work<'_, Result<Map, KernReturn>>) {
    let child = block_on(fork).expect("frames are left");
    let has: Vec<u8> = (0..PAGES).map(|page| read(bed, &child, page)).collect();
    assert_eq!(has, (0..PAGES).map(byte).collect::<Vec<_>>());
    block_on(child.destroy());
}

#[test]
fn fork_of_much_that_is_wired_lets_others_have_the_locks_in_between() {
    let bed = wired();
    let before = bed.machine.frames().free_pages();
    let mut fork = begun(&bed);
    let mut copied = Vec::new();
    let child = loop {
        copied.push(before - bed.machine.frames().free_pages());
        assert_eq!(bed.machine.map.check(), Ok(()));
        if let Poll::Ready(child) = poll(&mut fork) {
            break child.expect("frames are left");
        }
    };
    // Each turn is polled twice.
    copied.dedup();
    assert_eq!(copied, [MOST_FILLED_PAGES, 2 * MOST_FILLED_PAGES]);
    assert_eq!(check_quiet_maps(&[&bed.machine.map, &child]), Ok(()));
    assert_eq!(read(&bed, &child, LAST), byte(LAST));
    block_on(child.destroy());
    assert_eq!((bed.settled(bed.wired_by_host()), bed.machine.frames().free_pages()), (PAGES, before));
}

#[test]
fn fork_gives_the_child_what_was_there_when_it_began_whatever_is_written_between_its_parts() {
    let bed = wired();
    let map = &bed.machine.map;
    let mut fork = begun(&bed);
    // What is copied can be written, what is not must wait; and all can be read.
    assert_eq!(poll(&mut write(&bed, map, 0, &[0xaa])), Poll::Ready(Ok(())));
    let mut last = write(&bed, map, LAST, &[0xbb]);
    assert!(poll(&mut last).is_pending());
    assert_eq!((read(&bed, map, 0), read(&bed, map, LAST)), (0xaa, byte(LAST)));
    assert!(poll(&mut fork).is_pending() && poll(&mut last).is_pending());
    ended(&bed, fork);
    assert_eq!(block_on(last), Ok(()));
    assert_eq!((bed.read(0), bed.read(LAST), bed.read(100)), (Ok(0xaa), Ok(0xbb), Ok(byte(100))));
}

#[test]
fn protection_changed_between_the_parts_of_a_fork_is_what_holds_after_it() {
    for last_prot in [Prot::DEFAULT, Prot::READ] {
        let bed = wired();
        let map = &bed.machine.map;
        let fork = begun(&bed);
        for prot in [Prot::READ, last_prot] {
            assert_eq!(block_on(map.protect(bed.at(0), PAGES * PAGE_SIZE, false, prot)), Ok(()));
        }
        let mut last = write(&bed, map, LAST, &[0xbb]);
        let is_allowed = last_prot == Prot::DEFAULT;
        assert_eq!(poll(&mut last).is_pending(), is_allowed, "what is still to be copied is not written");
        let outcome = if is_allowed { Ok(()) } else { Err(KernReturn::ProtectionFailure) };
        ended(&bed, fork);
        if is_allowed {
            assert_eq!(block_on(last), Ok(()));
        }
        for page in [0, MOST_FILLED_PAGES, LAST] {
            assert_eq!(bed.write(page, 1), outcome);
        }
    }
}

#[test]
fn deallocate_between_the_parts_of_a_fork_waits_and_unwire_does_not() {
    let bed = wired();
    let map = &bed.machine.map;
    let fork = begun(&bed);
    assert_eq!(block_on(map.unwire(bed.at(0), bed.at(PAGES), WireFlags::USER)), Ok(()));
    assert_eq!(block_on(map.advise(bed.at(0), PAGES * PAGE_SIZE, Advice::Free)), Ok(()));
    let mut gone: Work<'_, _> = Box::pin(map.deallocate(bed.at(0), PAGES * PAGE_SIZE));
    assert!(poll(&mut gone).is_pending());
    ended(&bed, fork);
    assert_eq!(block_on(gone), Ok(()));
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("", 0));
}

#[test]
fn fork_that_runs_out_of_frames_between_two_parts_leaves_nothing_behind() {
    let bed = Bed::with(FakeConfig { frame_pages: 2 * PAGES - 1, ..FakeConfig::default() });
    bed.allocate(0, PAGES);
    assert_eq!(bed.wire(0, PAGES, WireFlags::USER), Ok(()));
    for parts in 0..3 {
        // So many frames are left that the fork fails in its first, second or third part.
        let taken: Vec<_> = (parts..2).map(|_| bed.machine.frames().allocate(MOST_FILLED_PAGES)).collect();
        let mut fork: Work<'_, _> = Box::pin(bed.machine.map.fork(FakePmap::new()));
        let mut last = write(&bed, &bed.machine.map, LAST, &[7]);
        if parts > 0 {
            assert!(poll(&mut fork).is_pending() && poll(&mut last).is_pending());
        }
        assert_eq!(block_on(fork).err(), Some(KernReturn::ResourceShortage));
        assert_eq!(block_on(last), Ok(()));
        taken.into_iter().for_each(|fresh| bed.machine.frames().free(fresh.expect("frames were left").run));
        assert_eq!(bed.settled(bed.machine.frames().free_pages()), PAGES - 1);
        (0..PAGES).for_each(|page| assert_eq!(bed.write(page, byte(page)), Ok(()), "{parts}"));
        assert_eq!((bed.layout(), bed.wired_by_host()), (alloc::format!("[0,{PAGES})1U"), PAGES));
    }
}

#[test]
fn forks_whose_parts_alternate_give_each_child_its_moment() {
    let bed = wired();
    let (mut first, second) = (begun(&bed), begun(&bed));
    assert!(poll(&mut first).is_pending());
    let mut last = write(&bed, &bed.machine.map, LAST, &[0xbb]);
    ended(&bed, first);
    assert!(poll(&mut last).is_pending(), "the other is still to copy it");
    ended(&bed, second);
    assert_eq!(block_on(last), Ok(()));
    assert_eq!(bed.read(LAST), Ok(0xbb));
}

#[test]
fn fork_of_what_other_maps_share_holds_their_writes_back_and_the_end_of_the_object() {
    let bed = Bed::new();
    let map = &bed.machine.map;
    let [other, late] =
        [(); 2].map(|()| Map::new(alloc::sync::Arc::clone(&bed.machine.vm), map.bounds(), FakePmap::new()));
    let object = bed.machine.vm.file_object(PAGES, PAGES);
    let share = Inheritance::Share;
    for (map, inheritance) in [(&**map, Inheritance::Copy), (&other, share), (&late, share)] {
        let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, PAGES));
        let mapped = map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(bed.at(0)));
        assert_eq!(block_on(map.inherit(bed.at(0), PAGES * PAGE_SIZE, inheritance)), Ok(()));
    }
    (0..PAGES).for_each(|page| assert_eq!(block_on(bed.machine.write_in(&other, bed.at(page), &[byte(page)])), Ok(())));
    // One page is wired, so that its neighbours are not mapped with it.
    assert_eq!(block_on(other.wire(bed.at(LAST), bed.at(PAGES), WireFlags::USER)), Ok(()));
    let fork = begun(&bed);
    for page in [LAST - 1, LAST] {
        assert_eq!(read(&bed, &late, page), byte(page));
        assert!(poll(&mut write(&bed, &late, page, &[0xcc])).is_pending(), "what was mapped meanwhile is not written");
    }
    assert_eq!(poll(&mut write(&bed, &other, 0, &[0xaa])), Poll::Ready(Ok(())));
    let mut last = write(&bed, &other, LAST, &[0xbb]);
    assert!(poll(&mut last).is_pending());
    let from = [crate::units::FrameRun::new(0, 1)];
    let mut accepting: Work<'_, _> = Box::pin(other.accept_frames(bed.at(LAST), &from));
    assert!(poll(&mut accepting).is_pending());
    let mut cut: Work<'_, _> = Box::pin(object.truncate(0));
    assert!(poll(&mut cut).is_pending());
    ended(&bed, fork);
    assert_eq!((block_on(last), block_on(accepting), block_on(cut)), (Ok(()), Ok(()), Ok(())));
    block_on(late.destroy());
    assert_eq!(block_on(other.unwire(bed.at(LAST), bed.at(PAGES), WireFlags::USER)), Ok(()));
    assert_eq!(check_quiet_maps(&[map, &other]), Ok(()));
    block_on(other.destroy());
}

#[test]
fn invalidate_between_the_parts_of_a_fork_waits() {
    let bed = Bed::new();
    let map = &bed.machine.map;
    let object = bed.machine.vm.store_object("s", PAGES, StoreKind::Store).expect("it can be opened");
    let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, PAGES));
    assert_eq!(block_on(map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT)), Ok(bed.at(0)));
    assert_eq!(block_on(map.inherit(bed.at(0), PAGES * PAGE_SIZE, Inheritance::Copy)), Ok(()));
    (0..PAGES).for_each(|page| assert_eq!(block_on(bed.machine.write(bed.at(page), &[byte(page)])), Ok(())));
    let fork = begun(&bed);
    let flags = SyncFlags::SYNCHRONOUS | SyncFlags::INVALIDATE;
    let mut dropped: Work<'_, _> = Box::pin(map.msync(bed.at(0), PAGES * PAGE_SIZE, flags));
    assert!(poll(&mut dropped).is_pending());
    assert_eq!(bed.machine.vm.resident_pages(), PAGES + MOST_FILLED_PAGES);
    ended(&bed, fork);
    assert_eq!(block_on(dropped), Ok(()));
    assert_eq!(bed.machine.vm.resident_pages(), 0);
}
