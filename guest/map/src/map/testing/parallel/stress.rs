//! Random operations of several threads on maps that they share.
//!
//! Each thread has pages of its own, whose content nobody else changes: the others may only wire, sync, fork and query them. On
//! the other pages everybody does everything.

use alloc::vec::Vec;
use std::eprintln;
use std::time::{Duration, Instant};

use super::{Map, Random, Shared, at, bytes, load};
use crate::entry::Inheritance;
use crate::fake::{FakePmap, FakeProcessor};
use crate::flags::{LockAllFlags, SyncFlags, WireFlags};
use crate::handle::ObjectHandle;
use crate::kern_return::KernReturn;
use crate::map::{Advice, MapMode, Placement};
use crate::planted::Mutant;
use crate::ports::{HostError, StoreKind};
use crate::units::{PageRange, Prot};

const THREADS: u64 = 4;
/// Pages of each thread's own.
const OWN: u64 = 8;
/// The first page that is everybody's, and how many are.
const COMMON: u64 = THREADS * OWN;
const COMMON_PAGES: u64 = 12;
/// Where the objects are shown, in both maps.
const OBJECTS: u64 = COMMON + COMMON_PAGES;
/// Pages of each object; every thread writes one page of each.
const OBJECT_PAGES: u64 = THREADS;
const PAGES: u64 = OBJECTS + 2 * OBJECT_PAGES;
const FRAMES: u64 = 1024;

/// What a thread knows of its own pages: what each holds, where something is allocated.
struct Own<'a> {
    shared: &'a Shared,
    processor: &'a FakeProcessor,
    random: Random,
    first: u64,
    pages: [Option<u64>; 8],
    /// What it wrote last to its page of each object.
    objects: [u64; 2],
    writes: u64,
}

impl Own<'_> {
    fn map(&self) -> &Map {
        self.shared.map()
    }

    /// Reads as the program does that tries again when the host could not hold a page that is wired as it comes.
    fn read(&self, map: &Map, page: u64) -> Result<u64, KernReturn> {
        again(&mut || self.shared.read(self.processor, map, page))
    }

    /// Writes like that.
    fn write(&self, map: &Map, page: u64, value: u64) -> Result<(), KernReturn> {
        again(&mut || self.shared.write(self.processor, map, page, value))
    }

    /// Returns some of the pages from `first` on, of `pages`.
    fn range(&mut self, first: u64, pages: u64) -> (u64, u64) {
        let start = self.random.below(pages);
        (first + start, first + start + 1 + self.random.below(pages - start))
    }

    /// Does something that changes own pages, or looks at them.
    fn at_home(&mut self) {
        let (start, end) = self.range(self.first, OWN);
        let size = bytes(end - start);
        let indices = usize::try_from(start - self.first).unwrap()..usize::try_from(end - self.first).unwrap();
        let is_free = self.pages[indices.clone()].iter().all(Option::is_none);
        match self.random.below(10) {
            0..3 if is_free => {
                assert_eq!(self.shared.run(self.map().allocate(Placement::Fixed(at(start)), size)), Ok(at(start)));
                self.pages[indices].fill(Some(0));
            }
            0 => {
                assert_eq!(self.shared.run(self.map().deallocate(at(start), size)), Ok(()));
                self.pages[indices].fill(None);
            }
            1 if !is_free => self.fork(),
            _ => {
                for page in start..end {
                    let index = usize::try_from(page - self.first).unwrap();
                    let expected = self.pages[index].ok_or(KernReturn::InvalidAddress);
                    assert_eq!(self.read(self.map(), page), expected, "page {page}");
                    if expected.is_ok() && self.random.below(2) == 0 {
                        self.writes += 1;
                        let value = self.writes << 8 | self.first;
                        assert_eq!(self.write(self.map(), page, value), Ok(()));
                        self.pages[index] = Some(value);
                    }
                }
            }
        }
    }

    /// Forks, and looks for the own pages in the child.
    fn fork(&mut self) {
        let Ok(child) = self.shared.run(self.map().fork(FakePmap::new())) else { return };
        load(self.processor, &child);
        for (page, known) in (self.first..).zip(self.pages) {
            let seen = self.read(&child, page);
            assert_eq!(seen, known.ok_or(KernReturn::InvalidAddress), "page {page} of the child");
            if known.is_some() && page % 3 == 0 {
                assert_eq!(self.write(&child, page, 7), Ok(()));
            }
        }
        if self.random.below(3) == 0 {
            self.shared.run(child.wire(at(0), at(PAGES), WireFlags::USER | WireFlags::HOLESOK)).unwrap_or_default();
        }
        load(self.processor, self.map());
        self.shared.run(child.destroy());
    }

    /// Does something to any pages that changes no content.
    fn about(&mut self) {
        let (start, end) = self.range(0, PAGES);
        let (start, end, size) = (at(start), at(end), bytes(end - start));
        let map = if self.random.below(4) == 0 { &self.shared.second } else { self.shared.map() };
        let user = WireFlags::USER | WireFlags::HOLESOK;
        let shared = self.shared;
        match self.random.below(14) {
            0 | 1 => shared.run(map.wire(start, end, user)).map(drop).unwrap_or_default(),
            2 | 3 => assert_eq!(shared.run(map.unwire(start, end, user)), Ok(())),
            4 => {
                let held = shared.run(map.wire(start, end, WireFlags::SYSTEM));
                if held.is_ok() {
                    assert_eq!(shared.run(map.unwire(start, end, WireFlags::SYSTEM)), Ok(()), "it can't go away");
                }
            }
            5 => shared.run(map.mlock(start, size)).map(drop).unwrap_or_default(),
            6 => shared.run(map.munlock(start, size)).map(drop).unwrap_or_default(),
            7 | 8 => shared.run(map.msync(start, size, SyncFlags::SYNCHRONOUS)).map(drop).unwrap_or_default(),
            9 => shared
                .run(map.msync(start, size, SyncFlags::SYNCHRONOUS | SyncFlags::INVALIDATE))
                .map(drop)
                .unwrap_or_default(),
            10 => shared.run(map.msync(start, size, SyncFlags::ASYNCHRONOUS)).map(drop).unwrap_or_default(),
            11 => {
                let on_fault = if self.random.below(2) == 0 { LockAllFlags::ONFAULT } else { LockAllFlags::default() };
                shared.run(map.mlockall(LockAllFlags::CURRENT | on_fault)).unwrap_or_default();
                assert_eq!(shared.run(map.munlockall()), Ok(()));
            }
            12 => shared.run(map.advise(start, size, Advice::DontNeed)).map(drop).unwrap_or_default(),
            _ => {
                shared.run(map.mincore(start, size)).unwrap_or_default();
                map.page_states(start >> 12, end >> 12);
                assert_eq!(map.check(), Ok(()));
            }
        }
    }

    /// Does whatever may be done to the pages that are everybody's.
    fn in_common(&mut self) {
        let (start, end) = self.range(COMMON, COMMON_PAGES);
        let size = bytes(end - start);
        let (shared, map) = (self.shared, self.shared.map());
        match self.random.below(8) {
            0 | 1 => shared.run(map.allocate(Placement::Fixed(at(start)), size)).map(drop).unwrap_or_default(),
            2 => assert_eq!(shared.run(map.deallocate(at(start), size)), Ok(())),
            3 => {
                let prot = [Prot::READ, Prot::DEFAULT, Prot::NONE][usize::try_from(self.random.below(3)).unwrap()];
                shared.run(map.protect(at(start), size, false, prot)).unwrap_or_default();
            }
            4 => {
                let inheritance = if self.random.below(2) == 0 { Inheritance::Share } else { Inheritance::Copy };
                assert_eq!(shared.run(map.inherit(at(start), size, inheritance)), Ok(()));
            }
            5 => shared.run(map.advise(at(start), size, Advice::Free)).map(drop).unwrap_or_default(),
            6 => shared.read(self.processor, map, start).map(drop).unwrap_or_default(),
            _ => shared.write(self.processor, map, start, self.first).map(drop).unwrap_or_default(),
        }
    }

    /// Writes the own page of an object through one map, and reads it through another.
    fn on_objects(&mut self) {
        let which = self.random.below(2);
        let page = OBJECTS + which * OBJECT_PAGES + self.first / OWN;
        self.writes += 1;
        let value = self.writes;
        let maps = [self.shared.map(), &self.shared.second];
        let order = if self.random.below(2) == 0 { [0, 1] } else { [1, 0] };
        load(self.processor, maps[order[0]]);
        assert_eq!(self.write(maps[order[0]], page, value), Ok(()));
        load(self.processor, maps[order[1]]);
        assert_eq!(self.read(maps[order[1]], page), Ok(value), "page {page}");
        self.objects[usize::try_from(which).unwrap()] = value;
        load(self.processor, self.shared.map());
    }
}

/// Does it again as long as there is a shortage, which ends.
fn again<T>(access: &mut dyn FnMut() -> Result<T, KernReturn>) -> Result<T, KernReturn> {
    for _ in 0..20 {
        match access() {
            Err(KernReturn::ResourceShortage) => {}
            outcome => return outcome,
        }
    }
    access()
}

/// Makes the objects and shows them in both maps.
fn show_objects(shared: &Shared) -> [ObjectHandle<crate::fake::FakePorts>; 2] {
    let vm = &shared.machine.vm;
    let store = vm.store_object("stress", OBJECT_PAGES, StoreKind::Exclusive).unwrap();
    let objects = [vm.anonymous_object(OBJECT_PAGES), store];
    for (first, object) in [OBJECTS, OBJECTS + OBJECT_PAGES].into_iter().zip(&objects) {
        for map in [shared.map(), &shared.second] {
            let (place, pages) = (Placement::Fixed(at(first)), PageRange::new(0, OBJECT_PAGES));
            let mapped = map.map_object(place, object, pages, MapMode::Shared, Prot::DEFAULT);
            assert_eq!(shared.run(mapped), Ok(at(first)));
        }
    }
    objects
}

/// Checks, when all threads have ended, that a sync of everything leaves nothing that is not on stable storage.
fn check_stable(shared: &Shared) {
    shared.machine.host().withdraw_failures();
    for map in [shared.map(), &shared.second] {
        assert_eq!(shared.run(map.msync(at(0), bytes(PAGES), SyncFlags::SYNCHRONOUS)), Ok(()));
    }
    let mut bytes = [[0; 8]; 2];
    for page in 0..OBJECTS + OBJECT_PAGES {
        let rows = shared.map().frames(super::BASE + page, super::BASE + page + 1);
        let Some(run) = rows.first().and_then(|row| row.frames) else { continue };
        shared.machine.ram.read(run.first, 0, &mut bytes[0]);
        shared.machine.ram.read_stable(run.first, 0, &mut bytes[1]);
        assert_eq!(bytes[0], bytes[1], "a write to page {page} was forgotten");
    }
}

/// Runs threads for so long; returns how many operations there were.
fn stress(seed: u64, mutant: Option<Mutant>, time: Duration) -> u64 {
    let shared = Shared::new(PAGES, FRAMES);
    shared.plant(mutant);
    let objects = show_objects(&shared);
    let written: spin::Mutex<Vec<(u64, [u64; 2])>> = spin::Mutex::default();
    let begun = Instant::now();
    let done = core::sync::atomic::AtomicU64::new(0);
    shared.on_threads(THREADS, seed, mutant, |thread, processor| {
        let random = Random(seed.wrapping_mul(31) + thread);
        let first = thread * OWN;
        let mut own = Own { shared: &shared, processor, random, first, pages: [None; 8], objects: [0; 2], writes: 0 };
        let mut operations = 0;
        while begun.elapsed() < time && !shared.is_over.load(core::sync::atomic::Ordering::Relaxed) {
            match own.random.below(20) {
                0..9 => own.at_home(),
                9..13 => own.about(),
                13..17 => own.in_common(),
                17 if operations % 8 == 0 => shared.machine.host().fail_wire(own.random.below(20), HostError::Quota),
                _ => own.on_objects(),
            }
            operations += 1;
        }
        done.fetch_add(operations, core::sync::atomic::Ordering::Relaxed);
        written.lock().push((thread, own.objects));
    });
    check_stable(&shared);
    for (thread, [_, value]) in written.into_inner() {
        let mut page = [0; 4096];
        assert!(shared.machine.host().read_store("stress", thread, &mut page));
        assert_eq!(page[..8], value.to_le_bytes(), "thread {thread}'s last write to the store was forgotten");
    }
    shared.conclude();
    drop(objects);
    shared.run(async {});
    assert_eq!(shared.machine.vm.lost_objects(), 0);
    shared.check_empty();
    done.into_inner()
}

/// Runs stresses, each with a new seed, for so long; `WIREVM_SEED` gives the first.
fn stresses(time: Duration, each: Duration) {
    let first = std::env::var("WIREVM_SEED").map_or(1, |seed| seed.parse().expect("WIREVM_SEED is a number"));
    let begun = Instant::now();
    let mut operations = 0;
    for seed in first.. {
        eprintln!("seed {seed}");
        operations += stress(seed, None, each);
        if begun.elapsed() >= time {
            break;
        }
    }
    eprintln!("{operations} operations in {:?}", begun.elapsed());
}

/// A stress of a moment.
pub(super) fn short(seed: u64, mutant: Option<Mutant>) {
    stress(seed, mutant, Duration::from_millis(500));
}

#[test]
fn threads_on_shared_maps_keep_their_pages_and_every_invariant() {
    stresses(Duration::from_secs(5), Duration::from_millis(500));
}

#[test]
#[ignore = "takes a minute; run it by name, with --nocapture for the seeds"]
fn threads_on_shared_maps_keep_their_pages_and_every_invariant_for_a_minute() {
    stresses(Duration::from_secs(60), Duration::from_secs(3));
}
