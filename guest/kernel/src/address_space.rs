//! The kernel's own half of every address space: its image, each section with the rights it needs, the direct map of RAM,
//! and the stacks of the processors beside the first. What of the image is read-only is so in the direct map as well, by the host's tables.

use wirevm_abi::PAGE_SIZE;
use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::{BootInfo, DIRECT_BASE, IMAGE_BASE, PAGES_PER_FURTHER_VCPU};
use wirevm_map::{FrameRun, Frames};

use crate::arch::{self, TRAP_STACK_BYTES, TRAP_STACK_STRIDE, TRAP_STACKS};
use crate::frames::{Frame, KernelFrames};
use crate::mem::{Section, copy_upper_half, fill_table, read_table, sections, write_table};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;

/// Where the stacks of processors stand: the last gigabyte.
const STACKS_BASE: u64 = 0xffff_ffff_c000_0000;
/// Pages from one processor's stacks to the next one's.
pub const STACKS_STRIDE_PAGES: u64 = 64;
/// Pages of the stack on which a processor runs what interrupts nothing.
const MAIN_PAGES: u64 = 32;
/// The end of processor 0's main stack, if it had one here. The main stack comes first, behind a page that is never mapped.
pub const MAIN_STACK_END: u64 = STACKS_BASE + (1 + MAIN_PAGES) * PAGE_SIZE;
const TRAP_PAGES: u64 = TRAP_STACK_BYTES as u64 / PAGE_SIZE;

const _: () = assert!(1 + MAIN_PAGES + TRAP_STACKS as u64 * (1 + TRAP_PAGES) <= STACKS_STRIDE_PAGES);
// With the tables above the first one's stacks: one of each level.
const _: () = assert!(MAIN_PAGES + TRAP_STACKS as u64 * TRAP_PAGES + 3 <= PAGES_PER_FURTHER_VCPU);

const fn root_index(address: u64) -> u64 {
    (address >> 39) % 512
}

fn table_entry(frame: Frame) -> u64 {
    (RAM_BASE + frame.0 * PAGE_SIZE) | PRESENT | WRITABLE
}

/// Returns the frame of the table that an entry links to.
const fn table_of(entry: u64) -> u64 {
    ((entry & !(NO_EXECUTE | 0xfff)) - RAM_BASE) / PAGE_SIZE
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
            let table = table_of(entry);
            let table_end = ((slot + 1) << 21) + IMAGE_BASE;
            let part_end = end.min(table_end);
            let first = page / PAGE_SIZE % 512;
            let indices = first..first + (part_end - page) / PAGE_SIZE;
            fill_table(table, indices, (page - IMAGE_BASE + RAM_BASE) | flags, PAGE_SIZE);
            page = part_end;
        }
    }
    for stack in 0..TRAP_STACKS {
        let guard = arch::first_trap_stacks() + (stack * TRAP_STACK_STRIDE) as u64;
        let table = table_of(read_table(directory.0, image_slot(guard)));
        write_table(table, guard / PAGE_SIZE % 512, 0);
    }
    root
}

/// Returns the table that an entry links to, made now if there is none.
fn table_at(frames: &'static KernelFrames, table: Frame, index: u64) -> Option<Frame> {
    let entry = read_table(table.0, index);
    if entry & PRESENT != 0 {
        return Some(Frame(table_of(entry)));
    }
    let fresh = frames.table()?;
    write_table(table.0, index, table_entry(fresh));
    Some(fresh)
}

/// Maps the stacks of processor `index`, which has none yet, in the kernel's half of every root; returns where its trap stacks
/// begin: each ends [`TRAP_STACK_STRIDE`](arch::TRAP_STACK_STRIDE) behind the one before. `None` when there are not enough frames.
pub fn map_stacks(home: Frame, index: usize, frames: &'static KernelFrames) -> Option<u64> {
    // Below the root, so that all roots have it: they link to the same tables.
    let pointers = table_at(frames, home, root_index(STACKS_BASE))?;
    let directory = table_at(frames, pointers, (STACKS_BASE >> 30) % 512)?;
    let first = index as u64 * STACKS_STRIDE_PAGES;
    let table = table_at(frames, directory, first / 512)?;
    let map = |from: u64, pages: u64| {
        let mut rest = from..from + pages;
        while !rest.is_empty() {
            let run = frames.take(rest.end - rest.start)?;
            let part = rest.start..rest.start + run.pages;
            fill_table(table.0, part, (RAM_BASE + run.first * PAGE_SIZE) | PRESENT | WRITABLE | NO_EXECUTE, PAGE_SIZE);
            rest.start += run.pages;
        }
        Some(rest.end)
    };
    let main_end = map(first % 512 + 1, MAIN_PAGES)?;
    let mut end = main_end;
    for _ in 0..TRAP_STACKS {
        end = map(end + 1, TRAP_PAGES)?;
    }
    Some(STACKS_BASE + (first - first % 512 + main_end) * PAGE_SIZE)
}

/// Makes a root table with an empty lower half and the upper half of `home`, which never changes once [`build`] is done: it
/// links to the same tables.
pub fn root_beside(home: Frame, frames: &'static KernelFrames) -> Option<Frame> {
    let root = frames.table()?;
    copy_upper_half(home.0, root.0);
    Some(root)
}
