//! Memory as the kernel sees it: the image's sections, the direct map of RAM, pages shared with the host, the heap.
#![expect(unsafe_code, reason = "raw memory is what this module turns into safe types")]
// UNSAFETY: the direct map makes every RAM page addressable; the functions below hand out only pages that the
// loader reserved for the purpose (shared words) or that the frame allocator gave to nobody else.

use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use talc::TalcLock;
use talc::source::Manual;
use wirevm_abi::boot::{DIRECT_BASE, PageRun};
use wirevm_abi::{PAGE_SIZE, RAM_BASE};

use crate::frames::KernelFrames;

/// Bytes in a page, as a length.
#[expect(clippy::cast_possible_truncation, reason = "4096 fits any length")]
const PAGE_BYTES: usize = PAGE_SIZE as usize;

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

    /// Stores word `index`; no later load goes ahead of it. Past the end the store goes nowhere.
    pub fn exchange(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.swap(value, Ordering::SeqCst);
        }
    }

    /// Stores word `index`, with release order. Past the end the store goes nowhere.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

/// Returns the address in the direct map of an entry of a page table. Nothing is checked for overflow: entries are what
/// loops go over, frames and the direct map lie within bounds, and an index is cut to the table's size.
const fn entry_address(frame: u64, index: u64) -> u64 {
    DIRECT_BASE.wrapping_add(frame.wrapping_mul(PAGE_SIZE)).wrapping_add(index % 512 * 8)
}

/// Reads an entry of a page table.
pub fn read_table(frame: u64, index: u64) -> u64 {
    // SAFETY: `frame` is a page table's (the callers walk from a root that the frame allocator or the loader
    // provided), within the direct map and aligned; the processor may write accessed and dirty bits meanwhile.
    unsafe { core::ptr::read_volatile(entry_address(frame, index) as *const u64) }
}

/// Writes an entry of a page table.
pub fn write_table(frame: u64, index: u64, entry: u64) {
    // SAFETY: as for `read_table`; the frame holds nothing but this table.
    unsafe { core::ptr::write_volatile(entry_address(frame, index) as *mut u64, entry) }
}

/// Returns an entry of a page table as a word that processors, too, change at any time.
fn entry_word(frame: u64, index: u64) -> &'static AtomicU64 {
    // SAFETY: as for `read_table`; the direct map is never taken down, and whatever else changes the word does so atomically.
    unsafe { &*(entry_address(frame, index) as *const AtomicU64) }
}

/// Writes an entry of a page table; returns what stood there.
pub fn swap_table(frame: u64, index: u64, entry: u64) -> u64 {
    entry_word(frame, index).swap(entry, Ordering::SeqCst)
}

/// Writes an entry of a page table if `expected` stands there.
///
/// # Errors
/// What stands there instead.
pub fn exchange_table(frame: u64, index: u64, expected: u64, entry: u64) -> Result<(), u64> {
    let word = entry_word(frame, index);
    word.compare_exchange(expected, entry, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
}

/// Returns the index and the value of the first entry of a page table that is not zero, among those in `indices`.
pub fn first_used(frame: u64, indices: Range<u64>) -> Option<(u64, u64)> {
    unsafe extern "C" {
        /// See `wirevm_strings::first_nonzero`.
        fn first_nonzero(words: *const u64, count: usize) -> usize;
    }
    let end = indices.end.min(512);
    let count = usize::try_from(end.checked_sub(indices.start)?).ok()?;
    // SAFETY: as for `read_table`; the words from the first index to the end lie within the table.
    let index =
        indices.start + unsafe { first_nonzero(entry_address(frame, indices.start) as *const u64, count) } as u64;
    (index < end).then(|| (index, read_table(frame, index)))
}

/// Fills a part of a page table with mappings of adjacent frames: `entry`, and each next one `step` further. The table must
/// not be in use.
pub fn fill_table(frame: u64, indices: Range<u64>, mut entry: u64, step: u64) {
    let end = indices.end.min(512);
    let count = usize::try_from(end.saturating_sub(indices.start)).unwrap_or(0);
    // SAFETY: as for `write_table`; the words lie within the table, which nothing else refers to while it is not in use.
    let words = unsafe { core::slice::from_raw_parts_mut(entry_address(frame, indices.start) as *mut u64, count) };
    let mut put = |word: &mut u64| {
        *word = entry;
        entry = entry.wrapping_add(step);
    };
    // By eights, or the loop itself would cost more than what it does.
    let (eights, rest) = words.as_chunks_mut::<8>();
    eights.iter_mut().for_each(|eight| eight.iter_mut().for_each(&mut put));
    rest.iter_mut().for_each(put);
}

/// Copies the upper half of one page table's entries to another.
pub fn copy_upper_half(from: u64, to: u64) {
    let half = PAGE_BYTES / 2;
    let [from, to] = [from, to].map(|table| direct_address(table) + PAGE_SIZE / 2);
    // SAFETY: as for `read_table` and `write_table`; the tables are two, and each is one page.
    unsafe { core::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, half) }
}

/// Fills free frames with zero.
pub fn zero_frames(first: u64, pages: u64) {
    let bytes = usize::try_from(pages * PAGE_SIZE).unwrap_or(0);
    // SAFETY: the frames come from the allocator, so nothing else lives there, and the direct map covers them.
    unsafe { core::ptr::write_bytes(direct_address(first) as *mut u8, 0, bytes) }
}

/// Stores `byte` all over a frame that is taken.
pub fn fill_frame(frame: u64, byte: u8) {
    // SAFETY: the frame is the caller's, who took it from the allocator, and the direct map covers it; it is memory of
    // tasks, so no Rust object lives there.
    unsafe { core::ptr::write_bytes(direct_address(frame) as *mut u8, byte, PAGE_BYTES) }
}

/// Copies one taken frame to another.
pub fn copy_frame(from: u64, to: u64) {
    // SAFETY: as for `fill_frame`, for both; copying a frame to itself is a copy all the same.
    unsafe { core::ptr::copy(direct_address(from) as *const u8, direct_address(to) as *mut u8, PAGE_BYTES) }
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
    HEAP_PAGES.fetch_add(pages, Ordering::Relaxed);
}

/// How much of the heap must be free, in one piece, before the kernel begins what a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Almost half of it: for what may make entries, pages or waits. The kernel's largest tables double when they are full, and need twice
    /// their size in one piece then.
    Much,
    /// [`LITTLE_ROOM_BYTES`]: for what mostly gives memory back.
    Little,
    /// Next to nothing: for what others wait for.
    None,
}

/// See [`Room::Little`].
const LITTLE_ROOM_BYTES: usize = 16 << 10;

/// What part of [`Room::Much`] must do where the heap can't grow.
const LAST_RESORT: usize = 4;

/// Pages of the heap, and how many it may have: programs must not turn all of RAM into the kernel's books about them.
static HEAP_PAGES: AtomicU64 = AtomicU64::new(0);
static MAX_HEAP_PAGES: AtomicU64 = AtomicU64::new(0);

/// Says how many pages the heap may grow to.
pub fn set_heap_limit(pages: u64) {
    MAX_HEAP_PAGES.store(pages, Ordering::Relaxed);
}

/// Tells whether the heap has that room; it doubles by free frames if it hasn't, as far as it may.
pub fn has_room(frames: &KernelFrames, room: Room) -> bool {
    has_all(room) || room == Room::Much && grows(frames)
}

/// Tells whether the heap has all that room now, not only what must do where it can't grow.
pub fn has_all(room: Room) -> bool {
    match room {
        Room::Much => is_free(much_bytes()),
        Room::Little => is_free(LITTLE_ROOM_BYTES),
        Room::None => true,
    }
}

/// Returns what [`Room::Much`] stands for now: less than the half that was claimed last, for its own books are in it.
fn much_bytes() -> usize {
    usize::try_from(HEAP_PAGES.load(Ordering::Relaxed) * PAGE_SIZE / 16 * 7).unwrap_or(usize::MAX)
}

/// Doubles the heap until [`Room::Much`] is free; tells whether that is so, or what is left must do because there is no more.
#[cold]
fn grows(frames: &KernelFrames) -> bool {
    /// One processor grows the heap at a time; the others find that it has grown.
    static GROWTH: Mutex<()> = Mutex::new(());
    let _growth = GROWTH.lock();
    while !is_free(much_bytes()) {
        let pages = HEAP_PAGES.load(Ordering::Relaxed);
        let is_allowed = 2 * pages <= MAX_HEAP_PAGES.load(Ordering::Relaxed);
        let Some(run) = is_allowed.then(|| frames.take(pages)).flatten() else {
            return is_free(much_bytes() / LAST_RESORT);
        };
        // SAFETY: the frames come from the allocator and are never given back.
        unsafe { claim_heap(run.first, run.pages) };
    }
    true
}

/// Tells whether the heap has `bytes` bytes in one piece. No other processor finds them taken meanwhile.
fn is_free(bytes: usize) -> bool {
    let Ok(layout) = Layout::from_size_align(bytes.max(1), 16) else { return false };
    let mut heap = HEAP.lock();
    // SAFETY: the layout is not empty, and what was allocated is given back with the same.
    unsafe {
        let probe = heap.allocate(layout);
        probe.inspect(|probe| heap.deallocate(probe.as_ptr(), layout)).is_some()
    }
}

/// Returns the bytes of a run of reserved pages; `None` for one that is empty or lies elsewhere.
pub fn reserved_bytes(run: PageRun, reserved_pages: u64) -> Option<&'static [u8]> {
    if run.pages == 0 || run.first.checked_add(run.pages)? > reserved_pages {
        return None;
    }
    let bytes = usize::try_from(run.pages * PAGE_SIZE).ok()?;
    // SAFETY: the direct map covers the pages, which the loader reserved and nobody writes once the guest runs.
    Some(unsafe { core::slice::from_raw_parts(direct_address(run.first) as *const u8, bytes) })
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
