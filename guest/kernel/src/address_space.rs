//! The kernel's own half of every address space: its image, each section with the rights it needs, and the direct
//! map of RAM.

use wirevm_abi::PAGE_SIZE;
use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::{BootInfo, DIRECT_BASE, IMAGE_BASE};

use crate::frames::{Frame, KernelFrames};
use crate::mem::{Section, read_table, sections, write_table};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;

const fn root_index(address: u64) -> u64 {
    (address >> 39) % 512
}

fn table_entry(frame: Frame) -> u64 {
    (RAM_BASE + frame.0 * PAGE_SIZE) | PRESENT | WRITABLE
}

/// Builds a root table whose upper half is the kernel's and whose lower half is empty.
///
/// The direct map goes on using the host's tables, made non-executable at the top: building them again would cost an
/// emulated processor two instructions for every 2 MiB of RAM.
pub fn build(info: &BootInfo, frames: &'static KernelFrames) -> Frame {
    let root = frames.table().expect("a fresh machine has a frame for the root table");
    for slot in (root_index(DIRECT_BASE)..).take_while(|slot| *slot < 512) {
        let direct = read_table(info.boot_tables.first, slot);
        if direct & PRESENT == 0 {
            break;
        }
        write_table(root.0, slot, direct | NO_EXECUTE);
    }

    // The image lies within the last 2 GiB: one table a level, plus a page table for every 2 MiB.
    let [pointers, directory] =
        [(); 2].map(|()| frames.table().expect("a fresh machine has frames for the image's tables"));
    write_table(root.0, root_index(IMAGE_BASE), table_entry(pointers));
    write_table(pointers.0, (IMAGE_BASE >> 30) % 512, table_entry(directory));
    for Section { start, end, writable, executable } in sections() {
        let mut flags = PRESENT;
        if writable {
            flags |= WRITABLE;
        }
        if !executable {
            flags |= NO_EXECUTE;
        }
        let mut page = start;
        while page < end {
            let slot = (page - IMAGE_BASE) >> 21;
            let mut entry = read_table(directory.0, slot);
            if entry & PRESENT == 0 {
                entry = table_entry(frames.table().expect("a fresh machine has frames for the image's tables"));
                write_table(directory.0, slot, entry);
            }
            let table = ((entry & !NO_EXECUTE) - RAM_BASE) / PAGE_SIZE;
            let table_end = ((slot + 1) << 21) + IMAGE_BASE;
            while page < end.min(table_end) {
                write_table(table, page / PAGE_SIZE % 512, (page - IMAGE_BASE + RAM_BASE) | flags);
                page += PAGE_SIZE;
            }
        }
    }
    root
}
