//! The kernel's own half of every address space: its image, each section with the rights it needs, and the direct
//! map of RAM.

use wirevm_abi::PAGE_SIZE;
use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::{BootInfo, DIRECT_BASE, IMAGE_BASE};
use wirevm_map::{FrameRun, Frames};

use crate::frames::{Frame, KernelFrames};
use crate::mem::{Section, copy_upper_half, fill_table, read_table, sections, write_table};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;

const fn root_index(address: u64) -> u64 {
    (address >> 39) % 512
}

fn table_entry(frame: Frame) -> u64 {
    (RAM_BASE + frame.0 * PAGE_SIZE) | PRESENT | WRITABLE
}

/// Frames for the kernel's tables, taken together: an allocation costs more than filling a table in.
struct Tables {
    frames: &'static KernelFrames,
    taken: FrameRun,
    missing: u64,
}

impl Tables {
    /// Promises `count` tables.
    const fn new(frames: &'static KernelFrames, count: u64) -> Self {
        Self { frames, taken: FrameRun::new(0, 0), missing: count }
    }

    /// Returns the next one, filled with zero.
    fn take(&mut self) -> Frame {
        if self.taken.pages == 0 {
            let fresh = Frames::allocate(&self.frames, self.missing.max(1));
            self.taken = fresh.expect("a fresh machine has frames for the kernel's tables").run;
            self.missing = self.missing.saturating_sub(self.taken.pages);
        }
        let frame = Frame(self.taken.first);
        self.taken = FrameRun::new(self.taken.first + 1, self.taken.pages - 1);
        frame
    }
}

/// Returns in which 2 MiB of the kernel's last 2 GiB an address lies.
const fn image_slot(address: u64) -> u64 {
    (address - IMAGE_BASE) >> 21
}

/// Builds a root table whose upper half is the kernel's and whose lower half is empty.
///
/// The direct map goes on using the host's tables, made non-executable at the top: building them again would cost an
/// emulated processor two instructions for every 2 MiB of RAM.
pub fn build(info: &BootInfo, frames: &'static KernelFrames) -> Frame {
    let sections = sections();
    let [first, .., last] = &sections;
    // The image lies within the last 2 GiB: one table a level, plus a page table for every 2 MiB.
    let mut tables = Tables::new(frames, 3 + image_slot(last.end - 1) - image_slot(first.start) + 1);
    let root = tables.take();
    for slot in (root_index(DIRECT_BASE)..).take_while(|slot| *slot < 512) {
        let direct = read_table(info.boot_tables.first, slot);
        if direct & PRESENT == 0 {
            break;
        }
        write_table(root.0, slot, direct | NO_EXECUTE);
    }

    let [pointers, directory] = [tables.take(), tables.take()];
    write_table(root.0, root_index(IMAGE_BASE), table_entry(pointers));
    write_table(pointers.0, (IMAGE_BASE >> 30) % 512, table_entry(directory));
    for Section { start, end, writable, executable } in sections {
        let mut flags = PRESENT;
        if writable {
            flags |= WRITABLE;
        }
        if !executable {
            flags |= NO_EXECUTE;
        }
        let mut page = start;
        while page < end {
            let slot = image_slot(page);
            let mut entry = read_table(directory.0, slot);
            if entry & PRESENT == 0 {
                entry = table_entry(tables.take());
                write_table(directory.0, slot, entry);
            }
            let table = ((entry & !NO_EXECUTE) - RAM_BASE) / PAGE_SIZE;
            let table_end = ((slot + 1) << 21) + IMAGE_BASE;
            let part_end = end.min(table_end);
            let first = page / PAGE_SIZE % 512;
            let indices = first..first + (part_end - page) / PAGE_SIZE;
            fill_table(table, indices, (page - IMAGE_BASE + RAM_BASE) | flags, PAGE_SIZE);
            page = part_end;
        }
    }
    root
}

/// Makes a root table with an empty lower half and the upper half of `home`, which never changes once [`build`] is done: it
/// links to the same tables.
pub fn root_beside(home: Frame, frames: &'static KernelFrames) -> Option<Frame> {
    let root = frames.table()?;
    copy_upper_half(home.0, root.0);
    Some(root)
}
