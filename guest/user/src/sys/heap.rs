//! The heap: an allocator that gets its memory by `VM_ALLOCATE` and gives it back by `VM_DEALLOCATE`.
#![expect(unsafe_code, reason = "memory for the allocator")]
// UNSAFETY: what `VM_ALLOCATE` answers is memory that nothing else has; the allocator gives back only what it got.

use core::alloc::{GlobalAlloc, Layout};

use talc::TalcLock;
use talc::source::GlobalAllocSource;

use super::lock::RawLock;
use super::{address, pointer, vm};

/// What is asked of the kernel at once, in bytes; address space only, until it is touched.
const BLOCK_BYTES: usize = 256 << 10;

/// Whole pages from the kernel.
#[derive(Debug)]
struct Pages;

// SAFETY: the kernel's memory is page-aligned (the allocator asks for bytes, aligned to 1), zero, and nobody else's.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match vm::allocate(layout.size() as u64) {
            Ok(start) if start != 0 => pointer(start),
            _ => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller got it from `alloc` and has done with it. A part that the kernel does not take stays unused.
        let _kept = unsafe { vm::deallocate(address(start), layout.size() as u64) };
    }
}

type Heap = TalcLock<RawLock, GlobalAllocSource<Pages>>;

#[global_allocator]
static HEAP: Heap = Heap::new(GlobalAllocSource::with_block_size(Pages, BLOCK_BYTES));

/// Keeps the heap as it is until what is returned is dropped.
pub(super) fn lock() -> impl Drop {
    HEAP.lock()
}
