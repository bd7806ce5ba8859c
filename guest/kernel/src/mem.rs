//! Memory as the kernel sees it: the image's sections, the direct map of RAM, pages shared with the host, the heap.
#![expect(unsafe_code, reason = "raw memory is what this module turns into safe types")]
// UNSAFETY: the direct map makes every RAM page addressable; the functions below hand out only pages that the
// loader reserved for the purpose (shared words) or that the frame allocator gave to nobody else.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use talc::TalcLock;
use talc::source::Manual;
use wirevm_abi::boot::DIRECT_BASE;
use wirevm_abi::{PAGE_SIZE, RAM_BASE};

/// Returns the address in the direct map of the start of a RAM page.
pub const fn direct_address(page: u64) -> u64 {
    DIRECT_BASE + page * PAGE_SIZE
}

/// Words of RAM that the host reads and writes at the same time.
///
/// Every access is one aligned 64-bit load or store: those tear on no host, narrower ones do where ring 0 is
/// emulated.
#[derive(Clone, Copy, Debug)]
pub struct SharedWords(&'static [AtomicU64]);

impl SharedWords {
    /// Returns the words of `pages` reserved pages from guest-physical address `address` on, or `None` if they
    /// do not lie, aligned, in the first `reserved_pages` pages of RAM.
    pub fn in_reserved(address: u64, pages: u64, reserved_pages: u64) -> Option<Self> {
        let offset = address.checked_sub(RAM_BASE)?;
        let first = offset / PAGE_SIZE;
        if !offset.is_multiple_of(PAGE_SIZE) || first.checked_add(pages)? > reserved_pages {
            return None;
        }
        let words = usize::try_from(pages * PAGE_SIZE / 8).ok()?;
        // SAFETY: the direct map covers the pages, checked above to be RAM that the loader reserved; the frame
        // allocator never gets them, so no Rust object lives there; the map is never taken down; atomics allow
        // the host to write at any time.
        Some(Self(unsafe { core::slice::from_raw_parts(direct_address(first) as *const AtomicU64, words) }))
    }

    /// Loads word `index`, with acquire order. Past the end there is only zero.
    pub fn load(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Stores word `index`, with release order. Past the end the store goes nowhere.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

/// Reads an entry of a page table.
pub fn read_table(frame: u64, index: u64) -> u64 {
    // SAFETY: `frame` is a page table's (the callers walk from a root that the frame allocator or the loader
    // provided), within the direct map and aligned; the processor may write accessed and dirty bits meanwhile.
    unsafe { core::ptr::read_volatile((direct_address(frame) + index % 512 * 8) as *const u64) }
}

/// Writes an entry of a page table.
pub fn write_table(frame: u64, index: u64, entry: u64) {
    // SAFETY: as for `read_table`; the frame holds nothing but this table.
    unsafe { core::ptr::write_volatile((direct_address(frame) + index % 512 * 8) as *mut u64, entry) }
}

/// Fills free frames with zero.
pub fn zero_frames(first: u64, pages: u64) {
    let bytes = usize::try_from(pages * PAGE_SIZE).unwrap_or(0);
    // SAFETY: the frames come from the allocator, so nothing else lives there, and the direct map covers them.
    unsafe { core::ptr::write_bytes(direct_address(first) as *mut u8, 0, bytes) }
}

#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the heap the RAM pages `[first, first + pages)` for good.
///
/// # Safety
/// Nothing else may use the pages, ever.
pub unsafe fn claim_heap(first: u64, pages: u64) {
    let bytes = usize::try_from(pages * PAGE_SIZE).unwrap_or(0);
    // SAFETY: the caller gives the pages away; the direct map covers them.
    unsafe { HEAP.lock().claim(direct_address(first) as *mut u8, bytes) };
}

/// A part of the image with rights of its own; addresses are virtual, whole pages.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Whether the kernel may store there.
    pub writable: bool,
    /// Whether the kernel may run what is there.
    pub executable: bool,
}

/// Returns the image's sections; the page below the boot stack is in none of them, so that an overflow faults.
pub fn sections() -> [Section; 4] {
    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_end: u8;
        static __stack_guard: u8;
        static __image_end: u8;
    }
    let at = |symbol: *const u8| symbol as u64;
    let (text, text_end, rodata_end) =
        (at(&raw const __text_start), at(&raw const __text_end), at(&raw const __rodata_end));
    let (guard, end) = (at(&raw const __stack_guard), at(&raw const __image_end));
    [
        Section { start: text, end: text_end, writable: false, executable: true },
        Section { start: text_end, end: rodata_end, writable: false, executable: false },
        Section { start: rodata_end, end: guard, writable: true, executable: false },
        Section { start: guard + PAGE_SIZE, end, writable: true, executable: false },
    ]
}
