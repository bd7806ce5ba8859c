//! Single instructions that Rust has no word for.
#![expect(unsafe_code, reason = "privileged instructions")]
// UNSAFETY: each wrapper either cannot break memory safety or says what its callers keep.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use wirevm_abi::report::Registers;
use wirevm_abi::{PAGE_SIZE, RAM_BASE};
use x86_64::PhysAddr;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::instructions::{hlt, interrupts, tlb};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{FsBase, GsBase};
use x86_64::registers::segmentation::{DS, ES, FS, GS, Segment, SegmentSelector};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::paging::PhysFrame;

use crate::frames::Frame;

/// Turns on write protection at ring 0, no-execute, FXSAVE and, where the processor has it, that ring 0 runs no page of ring 3.
pub fn enable_features() {
    let mut flags = Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    if has_smep() {
        flags |= Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION;
    }
    // SAFETY: the features only add checks; the kernel's own mappings obey them.
    unsafe {
        Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|flags| flags.insert(Cr0Flags::WRITE_PROTECT));
        Cr4::update(|now| now.insert(flags));
    }
}

fn has_smep() -> bool {
    const FEATURES: u32 = 7;
    const SMEP: u32 = 1 << 7;
    __cpuid(0).eax >= FEATURES && __cpuid_count(FEATURES, 0).ebx & SMEP != 0
}

/// Makes `root` the address space. Its upper half must be the kernel's.
pub fn switch_to(root: Frame) {
    let address = PhysAddr::new(RAM_BASE + root.0 * PAGE_SIZE);
    // SAFETY: every root carries the kernel's upper half, so code, stack and direct map stay where they are.
    unsafe { Cr3::write(PhysFrame::containing_address(address), Cr3Flags::empty()) };
}

/// Leaves nothing in the segment registers and bases that ring 3 may have set and the kernel does not use.
pub fn clear_user_segments() {
    // SAFETY: in 64-bit mode the kernel reaches no memory by these four, and a null selector is none that could be wrong.
    unsafe {
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
    }
    // Not every processor clears the bases with their selectors.
    FsBase::write(VirtAddr::zero());
    GsBase::write(VirtAddr::zero());
}

/// Forgets the translation of one virtual page.
pub fn flush_page(page: u64) {
    tlb::flush(VirtAddr::new_truncate(page * PAGE_SIZE));
}

/// Forgets every translation that is not global.
pub fn flush_translations() {
    tlb::flush_all();
}

/// Lets interrupts in, halts until one has been handled, and shuts them out again.
pub fn halt_until_interrupt() {
    // Between STI and HLT no interrupt is taken, so none can be missed.
    interrupts::enable_and_hlt();
    interrupts::disable();
}

/// Lets in the interrupts that wait, and shuts them out again.
pub fn let_interrupts_in() {
    interrupts::enable();
    // The first instruction behind STI is still without them.
    x86_64::instructions::nop();
    interrupts::disable();
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// Writes 32 bits to a port of the contract.
pub fn port_out(port: u16, value: u32) {
    // SAFETY: the contract's ports have no effect on the guest but what the caller's call page asks for, and that
    // names only frames which the map core owns.
    unsafe { Port::new(port).write(value) };
}

/// Reads 8 bits from a port.
pub fn port_in(port: u16) -> u8 {
    // SAFETY: reading a port of the contract changes no memory.
    unsafe { Port::new(port).read() }
}

/// Writes bytes to a port one after the other: one instruction, one exit a byte.
pub fn port_out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes` only; the direction flag is clear by the calling convention.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack, readonly, preserves_flags)
        );
    }
}

/// Returns what can be said of the registers from inside a function: stack, flags, address space.
pub fn registers() -> Registers {
    let (rsp, rbp, rip): (u64, u64, u64);
    // SAFETY: copies three registers.
    unsafe {
        asm!(
            "mov {}, rsp", "mov {}, rbp", "lea {}, [rip]",
            out(reg) rsp, out(reg) rbp, out(reg) rip,
            options(nomem, nostack, preserves_flags)
        );
    }
    let rflags = x86_64::registers::rflags::read_raw();
    Registers { rsp, rbp, rip, rflags, ..control_registers() }
}

/// Returns the address of the last page fault.
#[inline]
pub fn fault_address() -> u64 {
    Cr2::read_raw()
}

/// Returns CR2 and CR3, the rest zero.
pub fn control_registers() -> Registers {
    let cr3 = Cr3::read().0.start_address().as_u64();
    Registers { cr2: Cr2::read_raw(), cr3, ..Registers::default() }
}

/// Touches memory that is not there, at ring 0 and outside any guarded routine.
pub fn touch_nothing() -> ! {
    // A non-canonical hole would be #GP; this is an address of the kernel's half that nothing maps.
    const NOTHING: u64 = 0xffff_ffff_4000_0000;
    // SAFETY: none is kept: the page is not mapped, so the load traps and nothing follows it.
    unsafe { core::ptr::read_volatile(NOTHING as *const u64) };
    stop()
}

/// Makes the processor give up: an exception with no table to handle it.
pub fn triple_fault() -> ! {
    let empty = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: none is kept: the machine ends with the next instruction.
    unsafe {
        lidt(&empty);
        asm!("ud2", options(noreturn));
    }
}
