//! Which processors have an address space loaded.
#![expect(unsafe_code, reason = "follows a processor's pointer to the space that it has loaded")]
// UNSAFETY: `leave` says why the pointer is good.

use core::ptr::{eq, from_ref, null_mut};
use core::sync::atomic::{AtomicU64, Ordering};

use wirevm_map::PageRange;

use crate::arch;
use crate::frames::Frame;
use crate::percpu::{self, Cpu, Machine};

/// Pages up to which each translation is forgotten by name; beyond, all are.
const FORGET_BY_PAGE: u64 = 16;

/// The kernel's own root, with an empty lower half. It is written once, before there is a task.
static HOME: AtomicU64 = AtomicU64::new(0);

/// Says which root maps no task; it is loaded.
pub fn set_home(root: Frame) {
    HOME.store(root.0, Ordering::Relaxed);
}

/// An address space as the processors know it. It outlives the page tables that it is about, for whoever still refers to it.
#[derive(Debug)]
#[repr(C)]
pub struct Space {
    /// Bit n: processor n has the root loaded, is about to load it, or has just loaded another.
    cpus: AtomicU64,
    /// The root's frame; [`Space::ENDED`] once the tables are about to be freed.
    root: AtomicU64,
    /// Bit n: processor n has had the root loaded, or is about to load it for the first time.
    users: AtomicU64,
}

impl Space {
    const ENDED: u64 = u64::MAX;

    /// Returns the space with that root, which no processor has loaded.
    pub const fn new(root: Frame) -> Self {
        Self { cpus: AtomicU64::new(0), root: AtomicU64::new(root.0), users: AtomicU64::new(0) }
    }

    /// Makes the space that of this processor, if it is not so already, and serves requests of other processors. A space whose page
    /// tables are gone has no mappings.
    #[inline]
    pub fn load(&self) {
        let cpu = percpu::this();
        if !eq(cpu.space.load(Ordering::Relaxed), self) {
            self.load_anew(cpu);
        }
        percpu::acknowledge();
    }

    #[cold]
    fn load_anew(&self, cpu: &'static Cpu) {
        let bit = 1 << percpu::index();
        self.users.fetch_or(bit, Ordering::SeqCst);
        self.cpus.fetch_or(bit, Ordering::SeqCst);
        // The bit first: `end` makes the root unknown before it looks at the bits, so one of the two sees the other.
        let root = self.root.load(Ordering::SeqCst);
        if root == Self::ENDED {
            self.cpus.fetch_and(!bit, Ordering::SeqCst);
            return leave(cpu);
        }
        go_to(cpu, Frame(root), from_ref(self).cast_mut());
    }

    /// Makes every processor that has the space loaded forget `pages` and links between tables.
    #[inline]
    pub fn invalidate(&self, pages: PageRange) {
        percpu::shootdown().invalidate(&Machine, &self.cpus, pages);
    }

    /// Tells whether a processor other than this one has ever had the space loaded. One of which this does not know yet finds whatever
    /// was written to the tables before.
    pub fn is_shared(&self) -> bool {
        self.users.load(Ordering::SeqCst) & !(1 << percpu::index()) != 0
    }

    /// Interrupts every other processor that has the space loaded: its threads come out of ring 3.
    pub fn interrupt_others(&self) {
        let others = self.cpus.load(Ordering::SeqCst) & !(1 << percpu::index());
        (0..percpu::count()).filter(|cpu| others & 1 << cpu != 0).for_each(percpu::interrupt);
    }

    /// Makes every processor leave the space; none loads it again.
    pub fn end(&self) {
        self.root.store(Self::ENDED, Ordering::SeqCst);
        percpu::shootdown().evict(&Machine, &self.cpus);
    }
}

/// Loads a root in the place of another space's.
fn go_to(cpu: &'static Cpu, root: Frame, space: *mut Space) {
    arch::switch_to(root);
    let before = cpu.space.load(Ordering::Relaxed);
    cpu.space.store(space, Ordering::Relaxed);
    if before.is_null() {
        return;
    }
    // SAFETY: a processor's pointer is to a space whose bit for the processor is set. Page tables own their space until
    // `Space::end` has returned, which waits until every bit is clear; so this one, cleared last, keeps the space alive.
    let before = unsafe { &*before };
    // Behind the switch, which leaves no translation of the space before.
    before.cpus.fetch_and(!(1 << percpu::index()), Ordering::SeqCst);
}

/// Goes to the kernel's own root, if a task's is loaded.
#[inline]
pub fn leave(cpu: &'static Cpu) {
    if !cpu.space.load(Ordering::Relaxed).is_null() {
        go_to(cpu, Frame(HOME.load(Ordering::Relaxed)), null_mut());
    }
}

/// Goes to the kernel's own root, if the space with its mask at the address `mask` is loaded.
pub fn leave_if(cpu: &'static Cpu, mask: usize) {
    // The mask is the first field.
    const { assert!(core::mem::offset_of!(Space, cpus) == 0) };
    if cpu.space.load(Ordering::Relaxed).addr() == mask {
        leave(cpu);
    }
}

/// Makes this processor forget `pages`, and all links between tables.
pub fn forget(pages: PageRange) {
    if pages.len() <= FORGET_BY_PAGE {
        (pages.start..pages.end).for_each(arch::flush_page);
    } else {
        arch::flush_translations();
    }
}
