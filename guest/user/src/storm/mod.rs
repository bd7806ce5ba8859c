//! Random operations on memory of one's own, with a record of what it must hold.

mod plot;
mod tally;
mod trouble;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use wirevm_abi::StoreName;

use crate::process::{Ended, Fork, exit, fork, wait};
use crate::random::Random;
use crate::{
    Errno, KernReturn, LockAllFlags, Object, ObjectKind, PAGE_BYTES, Prot, Region, WireFlags, posix, println, vm,
};
use plot::Plot;
use tally::Deed;
pub use tally::{DEEDS, Tally};
pub use trouble::Trouble;

/// Most plots of a thread.
const MAX_PLOTS: usize = 6;
/// Most pages of a plot.
const MAX_PAGES: usize = 12;
/// Pages of a thread's store.
const STORE_PAGES: usize = 4;
/// The first operations, and whether they are about the store: everything once, so that no storm is too short for anything.
const FIRST: [(usize, bool); 12] = [
    (ALLOCATE, false),
    (ALLOCATE, false),
    (12, false),
    (90, false),
    (90, true),
    (50, false),
    (58, false),
    (67, false),
    (72, false),
    (76, false),
    (9, false),
    (6, false),
];
/// The lowest number of an operation, of 100, allocates.
const ALLOCATE: usize = 0;

/// What a child exits with when its memory was right.
const CHILD_OK: u8 = 17;

/// One thread's part.
#[derive(Debug)]
pub struct Storm {
    random: Random,
    plots: Vec<Plot>,
    /// A plot in a store, which children share: while there is a child, only looked at.
    store: Option<(Plot, Object)>,
    /// What has no store behind it can be synchronized all the same.
    is_durable: bool,
    /// How many operations there were.
    operations: usize,
    tally: Tally,
}

/// Tells whether there is stable storage behind memory: whether it can be synchronized.
///
/// # Errors
/// Whatever else that is answered.
pub fn is_durable() -> Result<bool, KernReturn> {
    let region = Region::allocate(PAGE_BYTES)?;
    region.word(0).store(1, Ordering::Relaxed);
    match region.sync(0, PAGE_BYTES) {
        Ok(()) => Ok(true),
        Err(KernReturn::FAILURE) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Storm {
    /// Makes the part of a thread, with a store of its own where the host has stores. The same numbers make the same operations.
    #[must_use]
    pub fn new(thread: u64, seed: u64, is_durable: bool) -> Self {
        let mut random = Random::new(seed.wrapping_mul(1000).wrapping_add(thread));
        let mut store = open_store(thread, seed);
        if let Some((plot, _)) = &mut store {
            plot.overwrite(&mut random);
        }
        Self { random, plots: Vec::new(), store, is_durable, operations: 0, tally: Tally::default() }
    }

    /// Tells whether everything was tried once.
    #[must_use]
    pub const fn has_tried_everything(&self) -> bool {
        self.operations >= FIRST.len()
    }

    /// Returns what was done.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Wires all its memory and returns how many pages that are. Whatever the memory does not suffice for is left.
    ///
    /// # Errors
    /// [`Trouble`], as for [`Storm::step`].
    pub fn wire_all(&mut self) -> Result<u64, Trouble> {
        let mut wired = 0;
        for plot in self.plots.iter_mut().chain(self.store.as_mut().map(|(plot, _)| plot)) {
            let (pages, range) = (plot.pages(), plot.bytes(0, plot.pages()));
            if plot.protect(Prot::READ_WRITE, 0, pages)?
                && allow_mach("vm_map_wire", vm::map_wire(range.start, range.end, WireFlags::USER), &[])?
            {
                plot.check_resident(0, pages)?;
                wired += pages as u64;
            }
        }
        Ok(wired)
    }

    /// Does one thing.
    ///
    /// # Errors
    /// [`Trouble`]; the memory is then to be left as it is.
    pub fn step(&mut self) -> Result<(), Trouble> {
        let first_time = FIRST.get(self.operations);
        self.operations += 1;
        let what = first_time.map_or_else(|| self.random.below(100), |(what, _)| *what);
        if self.plots.is_empty() || what < 6 {
            return self.allocate();
        }
        // The one behind the last is the store.
        let which = match first_time {
            Some((_, is_store)) => {
                if *is_store {
                    self.plots.len()
                } else {
                    0
                }
            }
            None => self.random.below(self.plots.len() + usize::from(self.store.is_some())),
        };
        if what < 9 {
            return self.deallocate(which);
        }
        if what < 12 {
            return self.have_child();
        }
        let (plot, is_store) = match (self.plots.get_mut(which), &mut self.store) {
            (Some(plot), _) => (plot, false),
            (None, Some((plot, _))) => (plot, true),
            (None, None) => return Ok(()),
        };
        let random = &mut self.random;
        let first = if first_time.is_some() { 0 } else { random.below(plot.pages()) };
        let pages = if first_time.is_some() { plot.pages() } else { 1 + random.below(plot.pages() - first) };
        let range = plot.bytes(first, pages);
        let (deed, is_done) = match what {
            12..40 => {
                let faults = plot.store(random, first, pages)?;
                self.tally.note(Deed::Fault, faults);
                return Ok(());
            }
            40..50 => return plot.check(),
            50..58 => (Deed::Wire, wire(&range)?),
            58..64 => (Deed::Unwire, unwire(&range)?),
            64..67 => return expect_no_wiring_for_the_system(&range),
            67..72 => (Deed::Lock, lock(plot, first, pages)?),
            72..76 => {
                (Deed::Unwire, allow_posix("munlock", posix::munlock(range.start, range.end - range.start), &[])?)
            }
            76..90 => {
                let prot = random.pick(&[Prot::NONE, Prot::READ, Prot::READ_WRITE]);
                (Deed::Protect, plot.protect(prot, first, pages)?)
            }
            90..94 => {
                let is_durable = is_store || self.is_durable;
                let deed = if is_store { Deed::StoreSync } else { Deed::Sync };
                // One that had nothing to write does not count.
                (deed, sync(&range, is_durable)? && plot.take_stored(first, pages))
            }
            94..98 => return plot.check_written_are_resident(),
            _ => {
                let is_locked = lock_everything(random)?;
                plot.store(random, first, pages)?;
                allow_posix("munlockall", posix::munlockall(), &[])?;
                (Deed::Lock, is_locked)
            }
        };
        self.tally.note(deed, is_done.into());
        Ok(())
    }

    /// Checks all memory.
    ///
    /// # Errors
    /// [`Trouble::Memory`].
    pub fn check_all(&self) -> Result<(), Trouble> {
        self.plots.iter().chain(self.store.as_ref().map(|(plot, _)| plot)).try_for_each(Plot::check)
    }

    fn allocate(&mut self) -> Result<(), Trouble> {
        if self.plots.len() < MAX_PLOTS {
            match Plot::new(1 + self.random.below(MAX_PAGES)) {
                Ok(plot) => {
                    self.plots.push(plot);
                    self.tally.note(Deed::Allocate, 1);
                }
                // Also where another thread has all future memory locked.
                Err(KernReturn::NO_SPACE | KernReturn::RESOURCE_SHORTAGE) => {}
                Err(error) => return Err(Trouble::Mach("vm_allocate", error)),
            }
        }
        Ok(())
    }

    /// Gives memory back, which is checked before. The kernel undoes what the user has wired of it. A store is mapped again.
    fn deallocate(&mut self, which: usize) -> Result<(), Trouble> {
        if which < self.plots.len() {
            self.plots.swap_remove(which).check()?;
        } else if let Some((plot, object)) = self.store.take() {
            plot.check()?;
            match plot.map_again(&object) {
                Ok(plot) => {
                    plot.check()?;
                    self.store = Some((plot, object));
                    self.tally.note(Deed::Allocate, 1);
                }
                Err(KernReturn::NO_SPACE | KernReturn::RESOURCE_SHORTAGE) => {}
                Err(error) => return Err(Trouble::Mach("vm_map", error)),
            }
        }
        self.tally.note(Deed::Deallocate, 1);
        Ok(())
    }

    /// Has a child that finds all memory as it is here, and whose stores go into its own.
    fn have_child(&mut self) -> Result<(), Trouble> {
        match fork() {
            Ok(Fork::Child) => match self.live_as_child() {
                Ok(()) => exit(CHILD_OK),
                Err(trouble) => {
                    println!("storm: in a child: {trouble}");
                    exit(1)
                }
            },
            Ok(Fork::Parent(child)) => {
                // Meanwhile, so that pages are copied for one as for the other.
                if let Some(plot) = self.plots.first_mut() {
                    let faults = plot.store(&mut self.random, 0, 1)?;
                    self.tally.note(Deed::Fault, faults);
                }
                let ended = wait(child).map_err(|error| Trouble::Posix("wait", error))?;
                if ended != Ended::Exit(CHILD_OK) {
                    return Err(Trouble::Child(ended));
                }
                self.tally.note(Deed::Fork, 1);
                self.check_all()
            }
            Err(Errno::ENOMEM | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(Trouble::Posix("fork", error)),
        }
    }

    fn live_as_child(&mut self) -> Result<(), Trouble> {
        self.check_all()?;
        for plot in &mut self.plots {
            plot.protect(Prot::READ_WRITE, 0, plot.pages())?;
            // Each of them is copied, which is what takes a child's time.
            plot.store(&mut self.random, 0, plot.pages().min(2))?;
        }
        self.check_all()
    }
}

/// Opens a thread's store, if the host has stores and nobody else has it.
fn open_store(thread: u64, seed: u64) -> Option<(Plot, Object)> {
    let name = StoreName::new(&format!("storm-{:x}-{thread}", seed & 0xffff)).ok()?;
    let kind = if thread.is_multiple_of(2) { ObjectKind::Exclusive(name) } else { ObjectKind::Store(name) };
    let object = Object::open(kind, STORE_PAGES as u64).ok()?;
    Some((Plot::of_object(&object, STORE_PAGES).ok()?, object))
}

/// Passes over what may be answered for want of memory, and what else is expected; tells whether the call succeeded.
fn allow_mach(call: &'static str, result: Result<(), KernReturn>, expected: &[KernReturn]) -> Result<bool, Trouble> {
    match result {
        Err(code) if code != KernReturn::RESOURCE_SHORTAGE && !expected.contains(&code) => {
            Err(Trouble::Mach(call, code))
        }
        result => Ok(result.is_ok()),
    }
}

/// As [`allow_mach`].
fn allow_posix(call: &'static str, result: Result<(), Errno>, expected: &[Errno]) -> Result<bool, Trouble> {
    match result {
        Err(code) if !expected.contains(&code) => Err(Trouble::Posix(call, code)),
        result => Ok(result.is_ok()),
    }
}

fn wire(range: &Range<u64>) -> Result<bool, Trouble> {
    // A page of it may be one that nothing is permitted on.
    let expected = [KernReturn::INVALID_ADDRESS];
    allow_mach("vm_map_wire", vm::map_wire(range.start, range.end, WireFlags::USER), &expected)
}

fn unwire(range: &Range<u64>) -> Result<bool, Trouble> {
    // Some of it was not wired.
    let expected = [KernReturn::INVALID_ARGUMENT];
    allow_mach("vm_map_unwire", vm::map_unwire(range.start, range.end, WireFlags::USER), &expected)
}

/// Checks that a program can neither make nor undo wirings of the system's.
fn expect_no_wiring_for_the_system(range: &Range<u64>) -> Result<(), Trouble> {
    for (call, result) in [
        ("vm_map_wire for the system", vm::map_wire(range.start, range.end, WireFlags::SYSTEM)),
        ("vm_map_unwire for the system", vm::map_unwire(range.start, range.end, WireFlags::SYSTEM)),
    ] {
        if allow_mach(call, result, &[KernReturn::INVALID_ARGUMENT])? {
            return Err(Trouble::Granted(call));
        }
    }
    Ok(())
}

/// Synchronizes a range, which where there is nothing that it could be written to must be refused or have nothing to write.
fn sync(range: &Range<u64>, is_durable: bool) -> Result<bool, Trouble> {
    let expected: &[KernReturn] = if is_durable { &[] } else { &[KernReturn::FAILURE] };
    allow_mach("vm_msync", vm::sync(range.start, range.end - range.start), expected)
}

fn lock(plot: &Plot, first: usize, pages: usize) -> Result<bool, Trouble> {
    let range = plot.bytes(first, pages);
    match posix::mlock(range.start, range.end - range.start) {
        // Another thread may have unlocked everything since, but nothing takes pages away.
        Ok(()) => plot.check_resident(first, pages).map(|()| true),
        result => allow_posix("mlock", result, &[Errno::ENOMEM, Errno::EAGAIN]),
    }
}

fn lock_everything(random: &mut Random) -> Result<bool, Trouble> {
    let flags = random.pick(&[
        LockAllFlags::CURRENT,
        LockAllFlags::FUTURE,
        LockAllFlags::CURRENT | LockAllFlags::FUTURE,
        LockAllFlags::CURRENT | LockAllFlags::ONFAULT,
    ]);
    allow_posix("mlockall", posix::mlockall(flags), &[Errno::ENOMEM, Errno::EAGAIN])
}
