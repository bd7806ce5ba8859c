//! What stands in an entry of a table, and where a page's entry is.

use wirevm_abi::RAM_BASE;
use wirevm_map::{PAGE_SHIFT, PageRange, Prot};

pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
pub const LARGE: u64 = 1 << 7;
pub const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What of a mapping a change of its rights leaves as it is.
pub const NOT_RIGHTS: u64 = ADDRESS | LARGE | ACCESSED | DIRTY;
/// The flags of a link to a table: rights are the mappings' business.
const LINK: u64 = PRESENT | WRITABLE | USER;

/// Entries in a table.
pub const ENTRIES: u64 = 512;
/// Pages in a large page.
pub const LARGE_PAGES: u64 = ENTRIES;
/// From the entry of a page to that of the next, where the frames are adjacent; and the same for large pages.
pub const NEXT_FRAME: u64 = 1 << PAGE_SHIFT;
pub const NEXT_LARGE: u64 = NEXT_FRAME * LARGE_PAGES;

/// The frame that an entry names.
pub const fn frame_of(entry: u64) -> u64 {
    // No entry names what is not RAM; a check would be a tenth of the way from a fault.
    (entry & ADDRESS).wrapping_sub(RAM_BASE) >> PAGE_SHIFT
}

const fn address_of(frame: u64) -> u64 {
    RAM_BASE.wrapping_add(frame << PAGE_SHIFT)
}

/// Links to the table in that frame.
pub const fn link_to(table: u64) -> u64 {
    address_of(table) | LINK
}

/// Maps a page to that frame. x86-64 has no write-only page: writable implies readable.
pub const fn mapping_to(frame: u64, prot: Prot) -> u64 {
    address_of(frame) | flags_of(prot)
}

/// Flags of a mapping with that protection.
pub const fn flags_of(prot: Prot) -> u64 {
    let mut flags = PRESENT | USER;
    if prot.contains(Prot::WRITE) {
        flags |= WRITABLE;
    }
    if !prot.contains(Prot::EXECUTE) {
        flags |= NO_EXECUTE;
    }
    flags
}

/// The rights that a mapping with these flags gives.
pub fn prot_of(entry: u64) -> Prot {
    let mut prot = Prot::READ;
    if entry & WRITABLE != 0 {
        prot = prot | Prot::WRITE;
    }
    if entry & NO_EXECUTE == 0 {
        prot = prot | Prot::EXECUTE;
    }
    prot
}

/// Tells whether two mappings differ in no more than what the processor marks.
pub const fn is_same(one: u64, other: u64) -> bool {
    (one ^ other) & !(ACCESSED | DIRTY) == 0
}

/// Returns the marks that a mapping keeps when it is replaced by another of the same frame.
pub const fn kept_marks(old: u64, new: u64) -> u64 {
    if old & PRESENT != 0 && (old ^ new) & (ADDRESS | LARGE) == 0 { old & (ACCESSED | DIRTY) } else { 0 }
}

/// Tells whether an entry above the last level links to a table.
pub const fn is_table(entry: u64) -> bool {
    entry & (PRESENT | LARGE) == PRESENT
}

/// Tells whether a directory's entry maps a large page.
pub const fn is_large(entry: u64) -> bool {
    entry & (PRESENT | LARGE) == PRESENT | LARGE
}

/// The place of a page's entry in its table at `level`.
pub const fn index_at(level: u32, page: u64) -> u64 {
    (page >> (9 * level)) % ENTRIES
}

/// Returns the front part of `pages` that one table at `level` covers.
pub fn in_one_table(level: u32, pages: PageRange) -> PageRange {
    let covered = ENTRIES << (9 * level);
    let table_end = (pages.start / covered + 1) * covered;
    PageRange::new(pages.start, pages.end.min(table_end))
}
