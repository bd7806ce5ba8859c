//! From the host's entry state to a kernel with its own stack, tables, descriptors and heap.
#![expect(unsafe_code, reason = "the first instructions and the hand-over of raw memory")]
// UNSAFETY: entry code runs before any Rust invariant holds; each block says what the contract's entry state or the
// linker script guarantees.

use alloc::vec::Vec;
use core::arch::global_asm;
use core::mem::size_of;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use wirevm_abi::boot::{BootInfo, MAGIC, MAX_ZERO_RUNS};
use wirevm_abi::note::{ABI_NOTE, AbiNote};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION};

use crate::address_space::{self, MAIN_STACK_END, STACKS_STRIDE_PAGES};
use crate::frames::{Frame, KernelFrames};
use crate::hypercall::{self, KernelHost};
use crate::mem::{self, SharedWords};
use crate::{arch, console, executor, percpu, report, service};

#[used]
#[unsafe(link_section = ".note.wirevm")]
static NOTE: AbiNote = ABI_NOTE;

// RDI holds the guest-physical address of the boot info; it is the first argument of `start` as well.
global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "lea rsp, [rip + __stack_top]",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".popsection",
    start = sym start,
);

// A further processor: RDI holds its index, which is the argument of `start_further` as well. It goes to the kernel's own tables
// before it has a stack, and those have pages that are not executable, so that feature comes first.
global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global further_start",
    "further_start:",
    "mov ecx, 0xc0000080", // EFER
    "rdmsr",
    "or eax, 1 << 11", // no-execute
    "wrmsr",
    "mov rax, [rip + {root}]",
    "mov cr3, rax",
    "mov rax, rdi",
    "shl rax, {stride_shift}",
    "movabs rsp, {first_end}",
    "add rsp, rax",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".popsection",
    root = sym FURTHER_ROOT,
    stride_shift = const (STACKS_STRIDE_PAGES * PAGE_SIZE).trailing_zeros(),
    first_end = const MAIN_STACK_END.cast_signed(),
    start = sym start_further,
);

/// Guest-physical address of the kernel's own root.
static FURTHER_ROOT: AtomicU64 = AtomicU64::new(0);
/// The call pages of the processors beside the first.
static FURTHER_CALL_PAGES: Mutex<Vec<SharedWords>> = Mutex::new(Vec::new());

/// The host's boot info, copied and checked as far as the kernel's own safety needs it.
pub fn read_info(address: u64) -> Option<BootInfo> {
    // The loader's page count is in the page itself; until it is read, one page is all that is taken for granted.
    let first_page = address.checked_sub(RAM_BASE)? / PAGE_SIZE;
    let words = SharedWords::in_reserved(address, 1, first_page + 1)?;
    let mut raw = [0_u64; size_of::<BootInfo>() / 8];
    for (index, word) in raw.iter_mut().enumerate() {
        *word = words.load(index);
    }
    let info: BootInfo = zerocopy::transmute!(raw);
    let sound = info.magic == MAGIC
        && info.version == VERSION
        && info.reserved_pages > first_page
        && info.reserved_pages < info.ram_pages
        && usize::try_from(info.zero_run_count).is_ok_and(|count| count <= MAX_ZERO_RUNS);
    sound.then_some(info)
}

/// Pages for the heap: a 32nd of RAM within bounds. The frame allocator keeps its own books on the heap, so the
/// heap cannot grow out of it.
fn heap_pages(ram_pages: u64) -> u64 {
    (ram_pages / 32).clamp(64, 16384)
}

extern "C" fn start(info_address: u64) -> ! {
    let Some(info) = read_info(info_address) else { report::die("the boot info is not of this contract's version") };
    let Some(report_page) = SharedWords::in_reserved(info.report_page, 1, info.reserved_pages) else {
        report::die("the report page lies outside the reserved pages")
    };
    report::set_page(report_page);
    let heap = heap_pages(info.ram_pages);
    let Some(free_pages) = (info.ram_pages - info.reserved_pages).checked_sub(heap) else {
        panic!("{} pages of RAM leave no room for a heap", info.ram_pages)
    };
    // SAFETY: the pages behind the reserved ones belong to the guest; the frame allocator starts after the heap.
    unsafe { mem::claim_heap(info.reserved_pages, heap) };
    mem::set_heap_limit(info.ram_pages / 4);
    console::init(info.log_level);
    let first_free = info.reserved_pages + heap;
    let frames = service::frames(&info, first_free, free_pages);
    let root = address_space::build(&info, frames);
    arch::init(root);
    service::run(&info, root, frames)
}

/// Starts every processor beside the first: `call_pages` are theirs, at most [`MAX_CPUS`](percpu::MAX_CPUS) less 1.
///
/// # Panics
/// When the host starts one that it has announced not, or when there are no frames for its stacks.
pub fn start_further_processors(
    host: &KernelHost,
    root: Frame,
    frames: &'static KernelFrames,
    call_pages: Vec<SharedWords>,
) {
    unsafe extern "C" {
        /// See above.
        safe fn further_start() -> !;
    }
    percpu::set_count(1 + call_pages.len());
    *FURTHER_CALL_PAGES.lock() = call_pages;
    FURTHER_ROOT.store(RAM_BASE + root.0 * PAGE_SIZE, Ordering::Release);
    for index in 1..percpu::count() {
        let Some(trap_stacks) = address_space::map_stacks(root, index, frames) else {
            panic!("no frames are left for the stacks of processor {index}")
        };
        // SAFETY: the processor waits for the call below; the stacks were mapped for it alone.
        unsafe { arch::prepare(index, trap_stacks) };
        if let Err(error) = host.start_vcpu(index as u64, further_start as *const () as u64) {
            panic!("the host does not start processor {index}: {error}");
        }
    }
}

/// The first Rust code of a further processor.
extern "C" fn start_further(index: usize) -> ! {
    arch::init_further(index);
    let page = FURTHER_CALL_PAGES.lock().get(index - 1).copied().expect("each processor has a call page");
    if let Err(status) = hypercall::greet(page) {
        panic!("the host does not speak this contract with processor {index}: {status}");
    }
    executor::run()
}
