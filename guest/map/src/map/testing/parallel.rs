//! Operations on several processors at once: a thread of the host's each, with translations of its own.

mod mutants;
mod races;
mod stress;
mod translations;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;
use std::panic::resume_unwind;
use std::sync::Barrier;

use crate::fake::{FakeConfig, FakeMachine, FakePmap, FakePorts, FakeProcessor, check_quiet_maps, park_on};
use crate::kern_return::KernReturn;
use crate::map::VmMap;
use crate::planted::{Mutant, plant_in_thread};
use crate::units::{PAGE_SHIFT, PageRange};

type Map = VmMap<FakePorts>;

/// The first page of every map.
const BASE: u64 = 16;

const fn at(page: u64) -> u64 {
    (BASE + page) << PAGE_SHIFT
}

const fn bytes(pages: u64) -> u64 {
    pages << PAGE_SHIFT
}

std::thread_local! {
    /// How many operations this thread has begun.
    static TURNS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// A machine with two maps that threads share.
struct Shared {
    machine: FakeMachine,
    second: Map,
    frames: u64,
    /// A thread has failed: the others need not wait for it.
    is_over: AtomicBool,
}

impl Shared {
    fn new(pages: u64, frames: u64) -> Self {
        let bounds = PageRange::new(BASE, BASE + pages);
        let machine = FakeMachine::new(FakeConfig { frame_pages: frames, map_pages: bounds, ..FakeConfig::default() });
        let second = Map::new(Arc::clone(&machine.vm), bounds, FakePmap::new());
        machine.host().set_yielding(true);
        Self { machine, second, frames, is_over: AtomicBool::new(false) }
    }

    fn map(&self) -> &Map {
        &self.machine.map
    }

    /// Plants `mutant` into the system, and into what this thread does.
    fn plant(&self, mutant: Option<Mutant>) {
        self.machine.vm.planted.set(mutant, false);
        self.machine.vm.objects().table.mutant = mutant;
    }

    /// Runs an operation to its end on this thread, and then what is left to be done in the background.
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let value = self.until_over(work);
        while let Some(work) = self.machine.vm.take_background() {
            self.until_over(work);
        }
        value
    }

    fn until_over<T>(&self, work: impl Future<Output = T>) -> T {
        let turn = TURNS.get().wrapping_add(1);
        TURNS.set(turn);
        if turn.is_multiple_of(4) {
            // Where few threads can run at a time, they take turns.
            std::thread::yield_now();
        }
        let mut work = pin!(work);
        let outcome = park_on(poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Pending if self.is_over.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(value) => Poll::Ready(Some(value)),
        }));
        // An operation that is not polled to its end leaves its marks, which nobody looks at any more.
        outcome.unwrap_or_else(|| panic!("another thread has failed"))
    }

    /// Reads the number at the start of a page.
    fn read(&self, processor: &FakeProcessor, map: &Map, page: u64) -> Result<u64, KernReturn> {
        let mut word = [0; 8];
        self.until_over(self.machine.read_on(processor, map, at(page), &mut word)).map(|()| u64::from_le_bytes(word))
    }

    /// Writes a number to the start of a page.
    fn write(&self, processor: &FakeProcessor, map: &Map, page: u64, value: u64) -> Result<(), KernReturn> {
        self.until_over(self.machine.write_on(processor, map, at(page), &value.to_le_bytes()))
    }

    /// Runs `work` on `threads` threads, which begin together; each plays a processor that has the first map loaded.
    fn on_threads(&self, threads: u64, seed: u64, mutant: Option<Mutant>, work: impl Fn(u64, &FakeProcessor) + Sync) {
        let processors: Vec<FakeProcessor> =
            (0..threads).map(|thread| FakeProcessor::new(seed.wrapping_mul(977) + thread)).collect();
        let barrier = Barrier::new(processors.len());
        std::thread::scope(|scope| {
            let begin = |(thread, processor)| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    plant_in_thread(mutant);
                    let over = OverOnPanic(&self.is_over);
                    let _playing = FakeProcessor::play(processor);
                    load(processor, self.map());
                    barrier.wait();
                    work(thread, processor);
                    core::mem::forget(over);
                })
            };
            let running: Vec<_> = (0..threads).zip(&processors).map(begin).collect();
            let ends: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            if let Some(panic) = ends.into_iter().find_map(Result::err) {
                resume_unwind(panic);
            }
        });
    }

    /// Checks what must hold when all threads have ended; then takes the maps apart, after which nothing may be left.
    fn conclude(&self) {
        assert_eq!(check_quiet_maps(&[self.map(), &self.second]), Ok(()));
        for map in [self.map(), &self.second] {
            self.run(map.destroy());
        }
        assert_eq!(check_quiet_maps(&[self.map(), &self.second]), Ok(()));
        let machine = &self.machine;
        assert_eq!((machine.host().wired().len(), machine.vm.user_wired_pages()), (0, 0));
    }

    /// Checks that all frames are free, as they are when no object is left.
    fn check_empty(&self) {
        let left = (self.machine.vm.resident_pages(), self.machine.frames().free_pages());
        assert_eq!(left, (0, self.frames), "frames are lost");
        assert_eq!(self.machine.vm.objects().table.iter().count(), 0, "objects are left");
    }
}

/// Loads the map's page tables into the processor.
fn load(processor: &FakeProcessor, map: &Map) {
    map.with_pmap(|pmap| processor.load(pmap));
}

struct OverOnPanic<'a>(&'a AtomicBool);

impl Drop for OverOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}
