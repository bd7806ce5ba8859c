//! GDT, TSS and IDT, with a stack of its own for every gate.
#![expect(unsafe_code, reason = "descriptor tables name raw stacks and handlers")]
// UNSAFETY: the tables are static and written once before they are loaded; stacks and handlers are static too.

use core::cell::UnsafeCell;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::trap;

/// Bytes in each trap stack: enough to format a report.
const STACK_BYTES: usize = 16 << 10;
/// Trap stacks in the order of the IST: #DF, NMI, #MC, #PF, other exceptions, interrupts. The image may be built
/// with a red zone, so no handler runs on the stack it interrupted.
const STACKS: usize = 6;

#[repr(C, align(4096))]
struct Stacks([[u8; STACK_BYTES]; STACKS]);

/// What is written once by [`load`] and read by the processor ever after.
struct Once<T>(UnsafeCell<T>);
// SAFETY: only `load` writes, before any second processor or interrupt exists.
unsafe impl<T> Sync for Once<T> {}

static STACK_MEMORY: Once<Stacks> = Once(UnsafeCell::new(Stacks([[0; STACK_BYTES]; STACKS])));
static TSS: Once<TaskStateSegment> = Once(UnsafeCell::new(TaskStateSegment::new()));
static GDT: Once<GlobalDescriptorTable> = Once(UnsafeCell::new(GlobalDescriptorTable::new()));
static IDT: Once<InterruptDescriptorTable> = Once(UnsafeCell::new(InterruptDescriptorTable::new()));

const fn stack_of(vector: usize) -> u16 {
    match vector {
        8 => 0,
        2 => 1,
        18 => 2,
        14 => 3,
        0..=31 => 4,
        _ => 5,
    }
}

/// Builds and loads the tables. Called once, before anything can trap.
pub fn load() {
    // SAFETY: called once on the only running processor with interrupts off, so nothing else refers to the
    // statics; they live for ever, as the processor needs; the stacks are used by nothing but their gates.
    unsafe {
        let tss = &mut *TSS.0.get();
        let mut top = VirtAddr::new(STACK_MEMORY.0.get() as u64);
        // The TSS is packed, so its table is filled in as a whole.
        let mut stacks = tss.interrupt_stack_table;
        for slot in stacks.iter_mut().take(STACKS) {
            top += STACK_BYTES as u64;
            *slot = top;
        }
        tss.interrupt_stack_table = stacks;
        let gdt = &mut *GDT.0.get();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(&*TSS.0.get()));
        (*GDT.0.get()).load();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(task);
        fill_idt(&mut *IDT.0.get());
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
                    .set_stack_index(stack_of(usize::from($vector)));
            }
        };
    }
    gate!(idt.divide_error, 0_u8);
    gate!(idt.debug, 1_u8);
    gate!(idt.non_maskable_interrupt, 2_u8);
    gate!(idt.breakpoint, 3_u8);
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
}
