//! Trap entry: every vector saves all general registers and calls one Rust function.
#![expect(unsafe_code, reason = "trap entry code and the frame it leaves")]
// UNSAFETY: the stubs keep the processor's trap frame intact around the call; the frame pointer that `on_trap` gets
// is valid and unaliased until it returns.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::report::{KIND_TRAP, Registers};

use super::{access, apic, cpu};
use crate::{percpu, report};

/// Vectors of interrupts: three of devices, that of other processors, that of the timer, and three that nobody has.
pub const INTERRUPTS: RangeInclusive<u8> = 0x30..=0x37;

pub const PAGE_FAULT: u64 = 14;
/// Task addresses end here.
const USER_END: u64 = 1 << 47;

/// Interrupts that were taken and not yet looked at: bit n stands for vector 0x30 + n.
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Returns the events since the last call, one bit a vector from 0x30 on, and forgets them.
pub fn take_events() -> u64 {
    EVENTS.swap(0, Ordering::AcqRel)
}

/// Tells whether there are events to take.
#[inline]
pub fn has_events() -> bool {
    EVENTS.load(Ordering::Acquire) != 0
}

/// What a stub leaves on the trap stack.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

// Vectors 8, 10-14, 17, 21, 29 and 30 push an error code; the others get a zero in its place. 22 quadwords lie on the
// 16-byte aligned trap stack at the call.
global_asm!(
    ".altmacro",
    ".macro trap_stub vector",
    "trap_stub_\\vector:",
    ".if (\\vector == 8) || ((\\vector >= 10) && (\\vector <= 14)) || (\\vector == 17) || (\\vector == 21) || (\\vector == 29) || (\\vector == 30)",
    ".else",
    "push 0",
    ".endif",
    "push \\vector",
    "jmp trap_common",
    ".endm",
    ".macro trap_address vector",
    ".quad trap_stub_\\vector",
    ".endm",
    ".pushsection .text.traps, \"ax\"",
    ".set vector, 0",
    ".rept 256",
    "trap_stub %vector",
    ".set vector, vector + 1",
    ".endr",
    "trap_common:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "test byte ptr [rsp + {cs}], 3",
    "jnz user_trap",
    "mov rdi, rsp",
    "call {on_trap}",
    "trap_return:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
    ".pushsection .rodata.traps, \"a\"",
    ".balign 8",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    "trap_address %vector",
    ".set vector, vector + 1",
    ".endr",
    ".popsection",
    ".noaltmacro",
    on_trap = sym on_trap,
    cs = const offset_of!(TrapFrame, cs),
);

unsafe extern "C" {
    #[link_name = "trap_stubs"]
    static STUBS: [u64; 256];
}

/// Returns the address of the entry code for a vector below 256.
pub fn stub(vector: usize) -> u64 {
    // SAFETY: the assembly above defines the table, constant, with 256 entries.
    unsafe { STUBS[vector & 0xff] }
}

/// Does what an interrupt asks for at once, takes note of a device's, and lets the next one come.
pub fn take_interrupt(vector: u8) {
    match vector {
        apic::SPURIOUS_VECTOR => return,
        // Another reason for it, work to do, is found by the executor.
        apic::IPI_VECTOR => percpu::acknowledge(),
        // The executor looks at the time whenever it is back.
        apic::TIMER_VECTOR => {}
        vector if INTERRUPTS.contains(&vector) => {
            EVENTS.fetch_or(1 << (vector - INTERRUPTS.start()), Ordering::AcqRel);
        }
        _ => {}
    }
    apic::end_of_interrupt();
}

extern "C" fn on_trap(frame: *mut TrapFrame) {
    // SAFETY: the stub passes its own frame, which nothing else refers to until this returns.
    let frame = unsafe { &mut *frame };
    match u8::try_from(frame.vector) {
        Ok(vector) if vector == apic::SPURIOUS_VECTOR || INTERRUPTS.contains(&vector) => take_interrupt(vector),
        // A fault of the kernel's own buffer is not the task's: no map could put it right.
        _ if frame.vector == PAGE_FAULT && access::is_guarded(frame.rip) && cpu::fault_address() < USER_END => {
            // The copy stops where it is and says so to its caller, who can wait for the page; a handler cannot.
            frame.rip = access::fixup();
        }
        _ => report_trap(frame),
    }
}

/// Ends the machine over a trap that nothing expected.
#[cold]
pub fn report_trap(frame: &TrapFrame) -> ! {
    let registers = Registers {
        rax: frame.rax,
        rbx: frame.rbx,
        rcx: frame.rcx,
        rdx: frame.rdx,
        rsi: frame.rsi,
        rdi: frame.rdi,
        rbp: frame.rbp,
        rsp: frame.rsp,
        r8: frame.r8,
        r9: frame.r9,
        r10: frame.r10,
        r11: frame.r11,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
        rip: frame.rip,
        rflags: frame.rflags,
        ..cpu::control_registers()
    };
    report::crash(KIND_TRAP, frame.vector, frame.error_code, &registers, format_args!("unexpected trap"))
}
