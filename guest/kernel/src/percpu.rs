//! What each processor has of its own, found by its task register: every processor has another segment selector there.
#![expect(unsafe_code, reason = "reads the task register; hands out blocks that only their processors use")]
// UNSAFETY: `str` copies a register. What is not atomic in a block is written before its processor runs, or by it alone.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use wirevm_map::RelaxStrategy;
use x86_64::structures::tss::TaskStateSegment;

use crate::arch;
use crate::shootdown::{Processors, Request, Shootdown};
use crate::space::{self, Space};

pub use crate::shootdown::MAX_CPUS;

/// Selector of processor 0's task state segment; each next one's is [`TSS_STRIDE`] further.
pub const FIRST_TSS: u16 = 0x28;
/// Bytes of a task state segment's descriptor.
pub const TSS_STRIDE: u16 = 16;

/// What the code at the entry to the kernel from ring 3 finds of its processor: the word behind the top of each trap
/// stack points here.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EntryBlock {
    /// Stack pointer of the kernel where it last entered ring 3.
    pub kernel_rsp: u64,
    /// Address of the context to save the registers of ring 3 to.
    pub context: u64,
}

/// One processor's block.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct Cpu {
    /// Used by nobody else, and with interrupts off.
    pub entry: UnsafeCell<EntryBlock>,
    /// Written once, before the processor loads it.
    pub tss: UnsafeCell<TaskStateSegment>,
    /// The space whose root is loaded; null for the kernel's own. Written by the processor alone.
    pub space: AtomicPtr<Space>,
    /// Whether it runs a task, so that what becomes ready must wait for it or be taken by another. Used by the processor alone.
    pub runs_task: AtomicBool,
    /// Its local APIC's address.
    pub apic_id: AtomicU64,
    /// Address of the registers of the thread that it took up last. Used by the processor alone.
    pub thread: AtomicU64,
}

// SAFETY: see the fields: what is not atomic is written before the processor runs or used by no other one.
unsafe impl Sync for Cpu {}

/// Bytes from one block to the next, as a shift.
const BLOCK_SHIFT: u32 = size_of::<Cpu>().trailing_zeros();
const _: () = assert!(size_of::<Cpu>() == 1 << BLOCK_SHIFT);
const STRIDE_SHIFT: u32 = TSS_STRIDE.trailing_zeros();

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        entry: UnsafeCell::new(EntryBlock { kernel_rsp: 0, context: 0 }),
        tss: UnsafeCell::new(TaskStateSegment::new()),
        space: AtomicPtr::new(null_mut()),
        runs_task: AtomicBool::new(false),
        apic_id: AtomicU64::new(0),
        thread: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// How many processors the machine has.
static COUNT: AtomicUsize = AtomicUsize::new(1);

static SHOOTDOWN: Shootdown = Shootdown::new();

/// Returns this processor's selector less that of processor 0: sixteen for each.
#[inline]
fn task_offset() -> u32 {
    let selector: u32;
    // SAFETY: copies the task register's selector.
    unsafe { asm!("str {:e}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector.wrapping_sub(FIRST_TSS as u32)
}

/// Returns the index of this processor, below [`MAX_CPUS`]. Its descriptors must be loaded.
#[inline]
pub fn index() -> usize {
    (task_offset() >> STRIDE_SHIFT) as usize % MAX_CPUS
}

/// Returns this processor's block. Its descriptors must be loaded.
#[inline]
pub fn this() -> &'static Cpu {
    &CPUS[index()]
}

/// Returns the block of processor `index`, taken modulo [`MAX_CPUS`].
pub fn block(index: usize) -> &'static Cpu {
    &CPUS[index % MAX_CPUS]
}

/// Returns how many processors the machine has; they may not all have started yet.
#[inline]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Says how many processors the machine has, at most [`MAX_CPUS`].
pub fn set_count(count: usize) {
    COUNT.store(count.clamp(1, MAX_CPUS), Ordering::Relaxed);
}

/// Goes to the kernel's own root, which maps no task, so that nobody waits for this processor before it halts, asks the host
/// for what may take long, or serves the agent. Whoever needs a task's mappings loads them again. On a machine with one processor, where nobody
/// waits, the task's tables stay loaded.
#[inline]
pub fn leave_task() {
    if count() > 1 {
        space::leave(this());
    }
}

/// Serves what another processor has asked of this one, if there is something.
#[inline]
pub fn acknowledge() {
    SHOOTDOWN.acknowledge(&Machine);
}

/// Interrupts another processor: it serves requests, and looks for work if it halts.
pub fn interrupt(index: usize) {
    arch::interrupt(block(index).apic_id.load(Ordering::Relaxed));
}

/// The protocol by which processors forget translations.
pub fn shootdown() -> &'static Shootdown {
    &SHOOTDOWN
}

/// The processors of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Processors for Machine {
    #[inline]
    fn index(&self) -> usize {
        index()
    }

    fn serve(&self, request: Request) {
        match request {
            Request::Forget(pages) => space::forget(pages),
            Request::Leave(mask) => space::leave_if(this(), mask),
        }
    }

    fn interrupt(&self, cpu: usize) {
        interrupt(cpu);
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }
}

/// How a processor waits for a lock that may be held by who waits for this very processor to forget translations: it serves
/// such requests meanwhile.
///
/// Translations are forgotten under a map's lock and the objects' lock, and under whatever locks a caller of a map's operation holds,
/// such as the agent's. All those must be waited for like this. The kernel's other locks (frames, heap and its growth, queues,
/// interrupt lines, call pages, what is under way at the host, rings, wakers, futexes, programs and what they are at, the console) are leaves, taken after those if at all: nothing under them changes
/// page tables, so whoever holds one never waits for another processor, and plain spinning ends.
#[derive(Clone, Copy, Debug)]
pub struct KernelRelax;

impl RelaxStrategy for KernelRelax {
    #[inline]
    fn relax() {
        core::hint::spin_loop();
        acknowledge();
    }
}
