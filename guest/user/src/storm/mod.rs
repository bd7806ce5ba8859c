//! Random operations on memory of one's own, with a record of what it must hold.

mod plot;

use alloc::vec::Vec;
use core::fmt;

use crate::process::{Ended, Fork, exit, fork, wait};
use crate::random::Random;
use crate::{Errno, KernReturn, LockAllFlags, PAGE_BYTES, Prot, WireFlags, posix, println, vm};
use plot::Plot;

/// Most plots of a thread.
const MAX_PLOTS: usize = 6;
/// Most pages of a plot.
const MAX_PAGES: usize = 24;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A call of Mach's answered what it should not.
    Mach(&'static str, KernReturn),
    /// A call of POSIX's did.
    Posix(&'static str, Errno),
    /// Memory does not hold what was written.
    Memory {
        /// The word's address.
        address: u64,
        /// What it holds.
        found: u64,
        /// What was written.
        expected: u64,
    },
    /// A page that was locked or wired is not resident.
    NotResident {
        /// Its address.
        address: u64,
    },
    /// A child did not end as it should.
    Child(Ended),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mach(call, code) => write!(f, "{call} answered {code}"),
            Self::Posix(call, code) => write!(f, "{call} answered {code}"),
            Self::Memory { address, found, expected } => {
                write!(f, "the word at {address:#x} is {found:#x} and should be {expected:#x}")
            }
            Self::NotResident { address } => write!(f, "the page at {address:#x} is locked and not resident"),
            Self::Child(ended) => write!(f, "a child ended with {ended:?}"),
        }
    }
}

impl core::error::Error for Trouble {}

/// What a child exits with when its memory was right.
const CHILD_OK: u8 = 17;

/// One thread's part.
#[derive(Debug)]
pub struct Storm {
    random: Random,
    plots: Vec<Plot>,
    children: u64,
}

impl Storm {
    /// Makes the part of a thread. The same numbers make the same operations.
    #[must_use]
    pub const fn new(thread: u64, seed: u64) -> Self {
        Self { random: Random::new(seed.wrapping_mul(1000).wrapping_add(thread)), plots: Vec::new(), children: 0 }
    }

    /// Returns how many children it had.
    #[must_use]
    pub const fn children(&self) -> u64 {
        self.children
    }

    /// Does one thing.
    ///
    /// # Errors
    /// [`Trouble`]; the memory is then to be left as it is.
    pub fn step(&mut self) -> Result<(), Trouble> {
        let what = self.random.below(100);
        if self.plots.is_empty() || what < 6 {
            return self.allocate();
        }
        let which = self.random.below(self.plots.len());
        if what < 9 {
            // Checked before it goes; the kernel undoes what the user has wired of it.
            let plot = self.plots.swap_remove(which);
            return plot.check();
        }
        if what < 12 {
            return self.have_child();
        }
        let random = &mut self.random;
        let Some(plot) = self.plots.get_mut(which) else { return Ok(()) };
        let first = random.below(plot.pages());
        let pages = 1 + random.below(plot.pages() - first);
        let range = plot.bytes(first, pages);
        match what {
            12..40 => plot.store(random, first, pages)?,
            40..50 => plot.check()?,
            50..58 => wire(&range)?,
            58..64 => allow_mach(
                "vm_map_unwire",
                vm::map_unwire(range.start, range.end, WireFlags::USER),
                // Some of it was not wired.
                &[KernReturn::INVALID_ARGUMENT],
            )?,
            64..67 => wire_for_the_system(plot, first, pages)?,
            67..72 => lock(plot, first, pages)?,
            72..76 => allow_posix("munlock", posix::munlock(range.start, range.end - range.start), &[])?,
            76..90 => plot.protect(random.pick(&[Prot::NONE, Prot::READ, Prot::READ_WRITE]), first, pages)?,
            90..94 => allow_mach(
                "vm_msync",
                vm::sync(range.start, range.end - range.start),
                // Guest RAM may have no stable storage behind it.
                &[KernReturn::FAILURE],
            )?,
            94..98 => look(plot)?,
            _ => {
                lock_everything(random)?;
                plot.store(random, first, pages)?;
                allow_posix("munlockall", posix::munlockall(), &[])?;
            }
        }
        Ok(())
    }

    /// Checks all memory.
    ///
    /// # Errors
    /// [`Trouble::Memory`].
    pub fn check_all(&self) -> Result<(), Trouble> {
        self.plots.iter().try_for_each(Plot::check)
    }

    fn allocate(&mut self) -> Result<(), Trouble> {
        if self.plots.len() < MAX_PLOTS {
            match Plot::new(1 + self.random.below(MAX_PAGES)) {
                Ok(plot) => self.plots.push(plot),
                // Also where another thread has all future memory locked.
                Err(KernReturn::NO_SPACE | KernReturn::RESOURCE_SHORTAGE) => {}
                Err(error) => return Err(Trouble::Mach("vm_allocate", error)),
            }
        }
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
                    plot.store(&mut self.random, 0, 1)?;
                }
                let ended = wait(child).map_err(|error| Trouble::Posix("wait", error))?;
                if ended != Ended::Exit(CHILD_OK) {
                    return Err(Trouble::Child(ended));
                }
                self.children += 1;
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
            plot.store(&mut self.random, 0, plot.pages())?;
        }
        self.check_all()
    }
}

/// Passes over what may be answered for want of memory, and what else is expected.
fn allow_mach(call: &'static str, result: Result<(), KernReturn>, expected: &[KernReturn]) -> Result<(), Trouble> {
    match result {
        Err(code) if code != KernReturn::RESOURCE_SHORTAGE && !expected.contains(&code) => {
            Err(Trouble::Mach(call, code))
        }
        _ => Ok(()),
    }
}

/// As [`allow_mach`].
fn allow_posix(call: &'static str, result: Result<(), Errno>, expected: &[Errno]) -> Result<(), Trouble> {
    match result {
        Err(code) if !expected.contains(&code) => Err(Trouble::Posix(call, code)),
        _ => Ok(()),
    }
}

fn wire(range: &core::ops::Range<u64>) -> Result<(), Trouble> {
    // A page of it may be one that nothing is permitted on.
    let expected = [KernReturn::INVALID_ADDRESS];
    allow_mach("vm_map_wire", vm::map_wire(range.start, range.end, WireFlags::USER), &expected)
}

/// Wires and unwires again, for a deallocation would wait for the system's wiring.
fn wire_for_the_system(plot: &mut Plot, first: usize, pages: usize) -> Result<(), Trouble> {
    let range = plot.bytes(first, pages);
    if vm::map_wire(range.start, range.end, WireFlags::SYSTEM).is_ok() {
        plot.check_resident(first, pages)?;
        allow_mach("vm_map_unwire", vm::map_unwire(range.start, range.end, WireFlags::SYSTEM), &[])?;
    }
    Ok(())
}

fn lock(plot: &Plot, first: usize, pages: usize) -> Result<(), Trouble> {
    let range = plot.bytes(first, pages);
    match posix::mlock(range.start, range.end - range.start) {
        // Another thread may have unlocked everything since, but nothing takes pages away.
        Ok(()) => plot.check_resident(first, pages),
        result => allow_posix("mlock", result, &[Errno::ENOMEM, Errno::EAGAIN]),
    }
}

fn lock_everything(random: &mut Random) -> Result<(), Trouble> {
    let flags = random.pick(&[
        LockAllFlags::CURRENT,
        LockAllFlags::FUTURE,
        LockAllFlags::CURRENT | LockAllFlags::FUTURE,
        LockAllFlags::CURRENT | LockAllFlags::ONFAULT,
    ]);
    allow_posix("mlockall", posix::mlockall(flags), &[Errno::ENOMEM, Errno::EAGAIN])
}

/// Asks which pages are resident: whatever was written is.
fn look(plot: &Plot) -> Result<(), Trouble> {
    let mut bytes = [0; MAX_PAGES];
    let Some(bytes) = bytes.get_mut(..plot.pages()) else { return Ok(()) };
    let range = plot.bytes(0, plot.pages());
    allow_posix("mincore", posix::mincore(range.start, range.end - range.start, bytes), &[])?;
    for (index, byte) in bytes.iter().enumerate() {
        if byte & 1 == 0 && plot.is_written(index) {
            return Err(Trouble::NotResident { address: range.start + (index * PAGE_BYTES) as u64 });
        }
    }
    Ok(())
}
