//! GDT, TSS and IDT, with a stack of its own for every gate and processor.
#![expect(unsafe_code, reason = "descriptor tables name raw stacks and handlers")]
// UNSAFETY: the tables are static; what a processor uses of them is written before it loads them.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lgdt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::trap;
use crate::percpu::{self, FIRST_TSS, MAX_CPUS, TSS_STRIDE};

/// Bytes in each trap stack: enough to format a report.
pub const TRAP_STACK_BYTES: usize = 16 << 10;
/// Bytes from one trap stack's end to the next one's: each has a page in front of it that is never mapped.
pub const TRAP_STACK_STRIDE: usize = 4096 + TRAP_STACK_BYTES;
/// Trap stacks of a processor, in the order of the IST: #DF, NMI, #MC, #PF, other exceptions and calls from ring 3,
/// interrupts. The image may be built with a red zone, so no handler runs on the stack it interrupted.
pub const TRAP_STACKS: usize = 6;
/// Bytes between a trap stack's initial top and its end. In their first word stands the address of the processor's
/// [`EntryBlock`](percpu::EntryBlock).
const BEHIND_TOP: u64 = 16;

/// The vector of calls from ring 3.
const CALL_VECTOR: u8 = 0x80;

const KERNEL_CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
const KERNEL_DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);

/// Descriptors in front of the task state segments: none, code and data of the kernel, data and code of ring 3.
const SEGMENTS: usize = FIRST_TSS as usize / 8;
/// Words of the descriptor table, and the offset of its last byte.
const WORDS: usize = SEGMENTS + 2 * MAX_CPUS;
const LIMIT: u16 = FIRST_TSS + 16 * TSS_STRIDE - 1;
const _: () = assert!(LIMIT as usize == 8 * WORDS - 1);

/// Each stack, behind a page that is not mapped.
#[repr(C, align(4096))]
struct Stacks([[u8; TRAP_STACK_STRIDE]; TRAP_STACKS]);

/// What is written before it is loaded, and read by the processor ever after.
struct Once<T>(UnsafeCell<T>);
// SAFETY: only `init` and, for the stacks, the processor write.
unsafe impl<T> Sync for Once<T> {}

/// Processor 0's trap stacks.
static STACK_MEMORY: Once<Stacks> = Once(UnsafeCell::new(Stacks([[0; TRAP_STACK_STRIDE]; TRAP_STACKS])));
/// One table for all processors; loading a task register marks its descriptor there.
static GDT: [AtomicU64; WORDS] = {
    let mut table = [const { AtomicU64::new(0) }; WORDS];
    table[1] = AtomicU64::new(DescriptorFlags::KERNEL_CODE64.bits());
    table[2] = AtomicU64::new(DescriptorFlags::KERNEL_DATA.bits());
    table[3] = AtomicU64::new(DescriptorFlags::USER_DATA.bits());
    table[4] = AtomicU64::new(DescriptorFlags::USER_CODE64.bits());
    table
};
static IDT: Once<InterruptDescriptorTable> = Once(UnsafeCell::new(InterruptDescriptorTable::new()));

const fn stack_of(vector: usize) -> u16 {
    match vector {
        8 => 0,
        2 => 1,
        18 => 2,
        14 => 3,
        0..=31 => 4,
        0x80 => 4,
        _ => 5,
    }
}

/// Builds what all processors share and what processor 0 has of its own. Called once, before anything can trap.
pub fn init() {
    // SAFETY: called once on the only running processor with interrupts off, so nothing else refers to the table.
    fill_idt(unsafe { &mut *IDT.0.get() });
    // SAFETY: the stacks are static, one behind the other, and used by nothing but processor 0's gates.
    unsafe { prepare(0, first_trap_stacks()) };
}

/// Returns where processor 0's trap stacks begin, with the first one's page that must not be mapped.
pub fn first_trap_stacks() -> u64 {
    STACK_MEMORY.0.get() as u64
}

/// Prepares what processor `index` loads: its task state segment, whose trap stacks end at `stacks` plus one, two and so on times
/// [`TRAP_STACK_STRIDE`], and the descriptor of that.
///
/// # Safety
/// The processor must not have started. The [`TRAP_STACK_BYTES`] in front of each end must be mapped, writable, for good, and used
/// by nothing else.
pub unsafe fn prepare(index: usize, stacks: u64) {
    let cpu = percpu::block(index);
    // SAFETY: the processor has not started, so nobody else refers to its segment; the words lie in its stacks.
    unsafe {
        let tss = &mut *cpu.tss.get();
        // The TSS is packed, so its table is filled in as a whole.
        let mut tops = tss.interrupt_stack_table;
        let mut end = stacks;
        for top in tops.iter_mut().take(TRAP_STACKS) {
            end += TRAP_STACK_STRIDE as u64;
            *top = VirtAddr::new_unsafe(end - BEHIND_TOP);
            ((end - BEHIND_TOP) as *mut u64).write(cpu.entry.get() as u64);
        }
        tss.interrupt_stack_table = tops;
    }
    // SAFETY: the segment is static.
    if let Descriptor::SystemSegment(low, high) = unsafe { Descriptor::tss_segment_unchecked(cpu.tss.get()) }
        && let Some([first, second]) = GDT.get(SEGMENTS + 2 * index..).and_then(|rest| rest.first_chunk())
    {
        first.store(low, Ordering::Relaxed);
        second.store(high, Ordering::Relaxed);
    }
}

/// Loads the tables on processor `index`, for which they are prepared.
pub fn load(index: usize) {
    let gdt = DescriptorTablePointer { limit: LIMIT, base: VirtAddr::from_ptr(&raw const GDT) };
    let task = SegmentSelector(FIRST_TSS + u16::try_from(index).unwrap_or(0) * TSS_STRIDE);
    // SAFETY: the tables are static and hold flat segments for the kernel, a segment of its own for this processor, and
    // handlers for every vector that can come.
    unsafe {
        lgdt(&gdt);
        CS::set_reg(KERNEL_CODE);
        SS::set_reg(KERNEL_DATA);
        DS::set_reg(KERNEL_DATA);
        ES::set_reg(KERNEL_DATA);
        load_tss(task);
        (*IDT.0.get()).load();
    }
}

fn fill_idt(idt: &mut InterruptDescriptorTable) {
    macro_rules! gate {
        ($entry:expr, $vector:expr) => {
            // SAFETY: the stub for the vector keeps the interrupt calling convention (with or without error code as
            // the vector has one), and the stack index is one of the six that the TSS defines.
            unsafe {
                $entry
                    .set_handler_addr(VirtAddr::new(trap::stub(usize::from($vector))))
                    .set_stack_index(stack_of(usize::from($vector)))
            }
        };
    }
    gate!(idt.divide_error, 0_u8);
    gate!(idt.debug, 1_u8);
    gate!(idt.non_maskable_interrupt, 2_u8);
    // A program may use it as it is made for.
    gate!(idt.breakpoint, 3_u8).set_privilege_level(PrivilegeLevel::Ring3);
    gate!(idt.overflow, 4_u8);
    gate!(idt.bound_range_exceeded, 5_u8);
    gate!(idt.invalid_opcode, 6_u8);
    gate!(idt.device_not_available, 7_u8);
    gate!(idt.double_fault, 8_u8);
    gate!(idt.invalid_tss, 10_u8);
    gate!(idt.segment_not_present, 11_u8);
    gate!(idt.stack_segment_fault, 12_u8);
    gate!(idt.general_protection_fault, 13_u8);
    gate!(idt.page_fault, 14_u8);
    gate!(idt.x87_floating_point, 16_u8);
    gate!(idt.alignment_check, 17_u8);
    gate!(idt.machine_check, 18_u8);
    gate!(idt.simd_floating_point, 19_u8);
    gate!(idt.virtualization, 20_u8);
    gate!(idt.cp_protection_exception, 21_u8);
    for vector in trap::INTERRUPTS {
        gate!(idt[vector], vector);
    }
    gate!(idt[super::apic::SPURIOUS_VECTOR], super::apic::SPURIOUS_VECTOR);
    gate!(idt[CALL_VECTOR], CALL_VECTOR).set_privilege_level(PrivilegeLevel::Ring3);
}
