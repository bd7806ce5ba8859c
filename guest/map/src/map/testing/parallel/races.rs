//! Pairs of operations that meet on the same pages, over and over.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Map, Random, Shared, at, bytes, load};
use crate::entry::Inheritance;
use crate::fake::{FakePmap, FakeProcessor};
use crate::flags::{LockAllFlags, SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::{Advice, MapMode, Placement};
use crate::objects::MOST_FILLED_PAGES;
use crate::planted::Mutant;
use crate::ports::StoreKind;
use crate::units::{PageRange, Prot};

fn allocate(shared: &Shared, start: u64, pages: u64) {
    let address = shared.run(shared.map().allocate(Placement::Fixed(at(start)), bytes(pages)));
    assert_eq!(address, Ok(at(start)));
}

/// Forks while another thread writes a number to the first page and then to the last: a child never has the later without the
/// earlier, nor half of a page.
pub(super) fn fork_and_write(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 256);
    shared.plant(mutant);
    allocate(&shared, 0, 6);
    // Copied at once where it is wired or other maps show it, else later.
    match seed % 3 {
        0 => assert_eq!(shared.run(shared.map().wire(at(0), at(6), WireFlags::USER)), Ok(())),
        1 => {
            let object = shared.machine.vm.anonymous_object(6);
            assert_eq!(shared.run(shared.map().deallocate(at(0), bytes(6))), Ok(()));
            let (place, pages) = (Placement::Fixed(at(0)), PageRange::new(0, 6));
            for map in [shared.map(), &shared.second] {
                let mapped = map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
                assert_eq!(shared.run(mapped), Ok(at(0)));
            }
            assert_eq!(shared.run(shared.map().inherit(at(0), bytes(6), Inheritance::Copy)), Ok(()));
        }
        _ => {}
    }
    // Through the other map where there is one.
    let writer = if seed % 3 == 1 { &shared.second } else { shared.map() };
    fork_while_written(&shared, seed, mutant, writer, 5, 100);
}

/// As [`fork_and_write`], where a fork copies more than it may in one hold of the locks.
pub(super) fn much_forked_and_write(seed: u64, mutant: Option<Mutant>) {
    const PAGES: u64 = 2 * MOST_FILLED_PAGES + 10;
    let shared = Shared::new(PAGES, 4 * PAGES);
    shared.plant(mutant);
    allocate(&shared, 0, PAGES);
    assert_eq!(shared.run(shared.map().wire(at(0), at(PAGES), WireFlags::USER)), Ok(()));
    fork_while_written(&shared, seed, mutant, shared.map(), PAGES - 1, 10);
}

/// Forks so many times while another thread writes the first page and the `last` through `writer`, and looks at what each child has.
fn fork_while_written(shared: &Shared, seed: u64, mutant: Option<Mutant>, writer: &Map, last: u64, forks: u64) {
    let is_done = AtomicBool::new(false);
    shared.on_threads(2, seed, mutant, |thread, processor| {
        if thread == 0 {
            load(processor, writer);
            for value in 1..1_000_000 {
                if is_done.load(Ordering::Relaxed) || shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                assert_eq!(shared.write(processor, writer, 0, value), Ok(()));
                assert_eq!(shared.write(processor, writer, last, value), Ok(()));
            }
            return;
        }
        for _ in 0..forks {
            let child = shared.run(shared.map().fork(FakePmap::new())).expect("frames are left");
            load(processor, &child);
            let [early, late] = [0, last].map(|page| shared.read(processor, &child, page).unwrap());
            assert!(late <= early && early <= late + 1, "the child has {early} and then {late}");
            load(processor, shared.map());
            shared.run(child.destroy());
        }
        is_done.store(true, Ordering::Relaxed);
    });
    shared.conclude();
    shared.check_empty();
}

/// Two threads fork one map, a third writes it.
pub(super) fn fork_and_fork(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 512);
    shared.plant(mutant);
    allocate(&shared, 0, 8);
    shared.on_threads(3, seed, mutant, |thread, processor| {
        for round in 1..12 {
            if thread == 0 {
                for page in 0..8 {
                    assert_eq!(shared.write(processor, shared.map(), page, round), Ok(()));
                    assert_eq!(shared.read(processor, shared.map(), page), Ok(round));
                }
                continue;
            }
            let child = shared.run(shared.map().fork(FakePmap::new())).expect("frames are left");
            load(processor, &child);
            let seen: alloc::vec::Vec<u64> = (0..8).map(|page| shared.read(processor, &child, page).unwrap()).collect();
            assert!(seen.is_sorted_by(|a, b| a >= b), "pages are written in order, and the child has {seen:?}");
            assert_eq!(shared.write(processor, &child, 3, 1000 + thread), Ok(()));
            assert_eq!(shared.read(processor, &child, 3), Ok(1000 + thread));
            load(processor, shared.map());
            shared.run(child.destroy());
        }
    });
    shared.conclude();
    shared.check_empty();
}

/// A child ends, so that what it shared falls to its parent alone, which writes it meanwhile.
pub(super) fn collapse_and_fault(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 256);
    shared.plant(mutant);
    allocate(&shared, 0, 6);
    let child = spin::Mutex::new(None);
    let turn = AtomicU64::new(0);
    shared.on_threads(2, seed, mutant, |thread, processor| {
        for round in 1..30 {
            if thread == 0 {
                let fork = shared.run(shared.map().fork(FakePmap::new())).expect("frames are left");
                *child.lock() = Some(fork);
                turn.store(round, Ordering::SeqCst);
                for page in 0..6 {
                    let before = shared.read(processor, shared.map(), page).unwrap();
                    assert_eq!(before, round - 1);
                    assert_eq!(shared.write(processor, shared.map(), page, round), Ok(()));
                    assert_eq!(shared.read(processor, shared.map(), page), Ok(round));
                }
                while turn.load(Ordering::SeqCst) == round && !shared.is_over.load(Ordering::Relaxed) {
                    shared.run(crate::fake::yield_now());
                }
                continue;
            }
            while turn.load(Ordering::SeqCst) != round && !shared.is_over.load(Ordering::Relaxed) {
                shared.run(crate::fake::yield_now());
            }
            let Some(mine) = child.lock().take() else { return };
            load(processor, &mine);
            assert_eq!(shared.read(processor, &mine, 2), Ok(round - 1));
            assert_eq!(shared.write(processor, &mine, 1, 7000), Ok(()));
            load(processor, shared.map());
            shared.run(mine.destroy());
            turn.store(0, Ordering::SeqCst);
        }
    });
    shared.conclude();
    shared.check_empty();
}

/// Pages come and go while another thread reads and writes them: it meets an error or its page, and never somebody else's.
pub(super) fn access_and_unmap(seed: u64, mutant: Option<Mutant>) {
    const MARK: u64 = 1 << 40;
    // So few frames that what one gives up another gets.
    let shared = Shared::new(64, 6);
    let is_done = AtomicBool::new(false);
    shared.plant(mutant);
    shared.on_threads(3, seed, mutant, |thread, processor| {
        let mut random = Random(seed + thread);
        if thread == 2 {
            // Its pages get the frames that the others give up.
            for value in 0..100 {
                let page = 40 + random.below(8);
                allocate(&shared, page, 1);
                assert_eq!(shared.read(processor, shared.map(), page), Ok(0), "somebody has written a free frame");
                assert_eq!(shared.write(processor, shared.map(), page, MARK + value), Ok(()));
                for _ in 0..4 {
                    assert_eq!(shared.read(processor, shared.map(), page), Ok(MARK + value), "somebody has written it");
                }
                assert_eq!(shared.run(shared.map().deallocate(at(page), bytes(1))), Ok(()));
            }
            is_done.store(true, Ordering::Relaxed);
            return;
        }
        for round in 0..10_000 {
            if is_done.load(Ordering::Relaxed) || shared.is_over.load(Ordering::Relaxed) {
                return;
            }
            if thread == 0 {
                let placed = shared.run(shared.map().allocate(Placement::Fixed(at(0)), bytes(4)));
                assert!(placed == Ok(at(0)) || placed == Err(KernReturn::NoSpace));
                match random.below(4) {
                    0 => shared.run(shared.map().advise(at(0), bytes(4), Advice::Free)).unwrap(),
                    1 => shared.run(shared.map().msync(at(0), bytes(4), SyncFlags::INVALIDATE)).unwrap(),
                    _ => shared.run(shared.map().deallocate(at(0), bytes(4))).unwrap(),
                }
            } else {
                let page = random.below(4);
                for _ in 0..8 {
                    if shared.write(processor, shared.map(), page, round).is_ok() {
                        let seen = shared.read(processor, shared.map(), page);
                        assert!(seen.is_err() || seen.is_ok_and(|seen| seen < MARK), "{seen:?} is another's");
                    }
                }
            }
        }
    });
    shared.conclude();
    shared.check_empty();
}

/// Wires pages that another thread deallocates and allocates again.
pub(super) fn wire_and_deallocate(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 64);
    shared.plant(mutant);
    shared.on_threads(2, seed, mutant, |thread, processor| {
        for round in 0..60 {
            if thread == 0 {
                let placed = shared.run(shared.map().allocate(Placement::Fixed(at(0)), bytes(4)));
                assert_eq!(placed, Ok(at(0)));
                shared.write(processor, shared.map(), round % 4, round).unwrap();
                assert_eq!(shared.run(shared.map().deallocate(at(0), bytes(4))), Ok(()));
                continue;
            }
            let flags = if round < 30 { WireFlags::USER } else { WireFlags::SYSTEM };
            let wired = shared.run(shared.map().wire(at(1), at(3), flags));
            assert!(matches!(wired, Ok(()) | Err(KernReturn::InvalidAddress)), "{wired:?}");
            if wired.is_ok() && flags == WireFlags::SYSTEM {
                assert_eq!(shared.run(shared.map().unwire(at(1), at(3), flags)), Ok(()), "it can't go away");
            }
        }
    });
    shared.conclude();
    shared.check_empty();
}

/// Faults on pages that are wired, and that another thread deallocates, page by page.
pub(super) fn fault_and_deallocate(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 64);
    shared.plant(mutant);
    shared.on_threads(3, seed, mutant, |thread, processor| {
        for round in 0..60 {
            if thread == 0 {
                allocate(&shared, 0, 4);
                shared.run(shared.map().wire(at(0), at(4), WireFlags::USER)).unwrap();
                assert_eq!(shared.run(shared.map().deallocate(at(0), bytes(4))), Ok(()));
            } else {
                let page = (round + thread) % 4;
                let written = shared.write(processor, shared.map(), page, round);
                assert!(matches!(written, Ok(()) | Err(KernReturn::InvalidAddress)), "{written:?}");
            }
        }
    });
    shared.conclude();
    shared.check_empty();
}

/// Two maps wire and unwire the pages of one object.
pub(super) fn wire_and_wire(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 64);
    shared.plant(mutant);
    let object = shared.machine.vm.anonymous_object(4);
    for map in [shared.map(), &shared.second] {
        let (place, pages) = (Placement::Fixed(at(0)), PageRange::new(0, 4));
        let mapped = map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(shared.run(mapped), Ok(at(0)));
    }
    shared.on_threads(2, seed, mutant, |thread, _| {
        let map = if thread == 0 { shared.map() } else { &shared.second };
        for _ in 0..60 {
            assert_eq!(shared.run(map.wire(at(0), at(4), WireFlags::USER)), Ok(()));
            assert_eq!(shared.run(map.unwire(at(0), at(4), WireFlags::USER)), Ok(()));
        }
    });
    drop(object);
    shared.conclude();
    shared.check_empty();
}

/// What is new while all memory is being unlocked stays unlocked, whichever comes first.
pub(super) fn allocate_and_munlockall(seed: u64, mutant: Option<Mutant>) {
    for round in 0..20 {
        let shared = Shared::new(16, 64);
        shared.plant(mutant);
        assert_eq!(shared.run(shared.map().mlockall(LockAllFlags::FUTURE)), Ok(()));
        shared.on_threads(2, seed + round, mutant, |thread, _| {
            if thread == 0 {
                allocate(&shared, 0, 2);
            } else {
                assert_eq!(shared.run(shared.map().munlockall()), Ok(()));
            }
        });
        assert_eq!(shared.map().user_wired_pages(), 0, "what is new is locked after all was unlocked");
        shared.conclude();
    }
}

/// Syncs while another thread writes and a third has the mappings made again: what was written before a sync is stable after it.
pub(super) fn sync_and_write(seed: u64, mutant: Option<Mutant>) {
    const PAGES: u64 = 4;
    let shared = Shared::new(16, 64);
    shared.plant(mutant);
    allocate(&shared, 0, PAGES);
    // One extent, whose pages are mapped together.
    assert_eq!(shared.run(shared.map().wire(at(0), at(PAGES), WireFlags::USER)), Ok(()));
    assert_eq!(shared.run(shared.map().unwire(at(0), at(PAGES), WireFlags::USER)), Ok(()));
    let written: [AtomicU64; 4] = Default::default();
    let is_done = AtomicBool::new(false);
    let stable = |page: u64| {
        let mut word = [0; 8];
        let frame = shared.map().frames(super::BASE + page, super::BASE + page + 1)[0].frames.unwrap().first;
        shared.machine.ram.read_stable(frame, 0, &mut word);
        u64::from_le_bytes(word)
    };
    shared.on_threads(3, seed, mutant, |thread, processor| match thread {
        0 => {
            for value in 1..100_000 {
                if is_done.load(Ordering::SeqCst) || shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let page = value % PAGES;
                assert_eq!(shared.write(processor, shared.map(), page, value), Ok(()));
                written[usize::try_from(page).unwrap()].store(value, Ordering::SeqCst);
            }
        }
        1 => {
            for _ in 0..30 {
                let before: alloc::vec::Vec<u64> = written.iter().map(|value| value.load(Ordering::SeqCst)).collect();
                assert_eq!(shared.run(shared.map().msync(at(0), bytes(PAGES), SyncFlags::SYNCHRONOUS)), Ok(()));
                for (page, before) in (0..).zip(before) {
                    let stable = stable(page);
                    assert!(
                        stable >= before,
                        "page {page} has {stable} on stable storage and had {before} before the sync"
                    );
                }
            }
            is_done.store(true, Ordering::SeqCst);
        }
        _ => {
            let mut random = Random(seed);
            while !is_done.load(Ordering::SeqCst) && !shared.is_over.load(Ordering::Relaxed) {
                // A page whose mapping has gone is mapped with its neighbours, which are being written.
                let page = random.below(PAGES);
                assert_eq!(shared.run(shared.map().msync(at(page), bytes(1), SyncFlags::INVALIDATE)), Ok(()));
                shared.read(processor, shared.map(), page).unwrap();
            }
        }
    });
    assert_eq!(shared.run(shared.map().msync(at(0), bytes(PAGES), SyncFlags::SYNCHRONOUS)), Ok(()));
    for (page, last) in (0..).zip(&written) {
        assert_eq!(stable(page), last.load(Ordering::SeqCst), "the last write to page {page} was forgotten");
    }
    shared.conclude();
    shared.check_empty();
}

/// Two maps write and sync the pages of one store.
pub(super) fn sync_and_sync(seed: u64, mutant: Option<Mutant>) {
    let shared = Shared::new(16, 64);
    shared.plant(mutant);
    let object = shared.machine.vm.store_object("shared", 4, StoreKind::Store).unwrap();
    for map in [shared.map(), &shared.second] {
        let (place, pages) = (Placement::Fixed(at(0)), PageRange::new(0, 4));
        let mapped = map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(shared.run(mapped), Ok(at(0)));
    }
    let work = |thread: u64, processor: &FakeProcessor| {
        let map = if thread.is_multiple_of(2) { shared.map() } else { &shared.second };
        load(processor, map);
        for value in 1..40 {
            assert_eq!(shared.write(processor, map, thread, value), Ok(()));
            let flags = if value % 5 == 1 { SyncFlags::INVALIDATE } else { SyncFlags::CONTIGUOUS };
            assert_eq!(shared.run(map.msync(at(0), bytes(4), SyncFlags::SYNCHRONOUS | flags)), Ok(()));
            let stable = shared.machine.host().store_byte("shared", thread).map(|(_, stable)| u64::from(stable));
            assert_eq!(stable, Some(value), "page {thread} was synced");
            assert_eq!(shared.read(processor, map, thread), Ok(value));
        }
    };
    shared.on_threads(4, seed, mutant, work);
    assert_eq!(shared.machine.host().violations(), [] as [&str; 0]);
    shared.conclude();
    drop(object);
    shared.run(async {});
    shared.check_empty();
}

macro_rules! races {
    ($($name:ident: $race:ident,)*) => {
        $(#[test]
        fn $name() {
            for seed in 0..12 {
                $race(seed, None);
            }
        })*
    };
}

races! {
    fork_against_a_writer_copies_one_moment: fork_and_write,
    fork_of_much_against_a_writer_copies_one_moment: much_forked_and_write,
    fork_against_fork_gives_each_child_one_moment: fork_and_fork,
    fault_against_the_end_of_a_child_keeps_the_parents_pages: collapse_and_fault,
    access_against_unmap_never_reaches_what_is_another_s: access_and_unmap,
    wire_against_deallocate_leaves_nothing_wired: wire_and_deallocate,
    fault_against_deallocate_leaves_nothing_behind: fault_and_deallocate,
    wire_against_wire_of_another_map_tells_the_host_once: wire_and_wire,
    allocate_against_munlockall_leaves_nothing_locked: allocate_and_munlockall,
    sync_against_a_writer_makes_stable_what_was_written_before: sync_and_write,
    sync_against_sync_of_another_map_never_overlaps: sync_and_sync,
}
