//! From the host's entry state to a kernel with its own stack, tables, descriptors and heap.
#![expect(unsafe_code, reason = "the first instructions and the hand-over of raw memory")]
// UNSAFETY: entry code runs before any Rust invariant holds; each block says what the contract's entry state or the
// linker script guarantees.

use core::arch::global_asm;
use core::mem::size_of;

use wirevm_abi::boot::{BootInfo, MAGIC, MAX_ZERO_RUNS};
use wirevm_abi::note::{ABI_NOTE, AbiNote};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION};

use crate::mem::{self, SharedWords};
use crate::{address_space, arch, console, report, service};

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
    console::init(info.log_level);
    let first_free = info.reserved_pages + heap;
    let frames = service::frames(&info, first_free, free_pages);
    let root = address_space::build(&info, frames);
    arch::init(root);
    service::run(&info, root, frames)
}
