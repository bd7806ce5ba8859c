//! The way into ring 3 and back: one call that ends when the thread traps.
//!
//! A thread's registers live in its [`UserContext`]. [`UserContext::enter`] loads them and leaves ring 0; every trap out of ring 3
//! stores them back and lets that call return, on the stack that it was made on, with interrupts off. So a thread needs no
//! kernel stack, and a trap no handler that could be interrupted.
#![expect(unsafe_code, reason = "leaves ring 0 and comes back")]
// UNSAFETY: the assembly keeps the calling convention over the way to ring 3: it saves what a callee must, and the trap's
// entry code restores it from where it was saved. The context is borrowed exclusively meanwhile.

use core::arch::{asm, global_asm};
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use super::trap::{PAGE_FAULT, TrapFrame, report_trap};
use super::{access, cpu};
use crate::percpu::{self, EntryBlock};

/// Selectors of ring 3; see the descriptor table.
const USER_DATA: u16 = 0x18 | 3;
const USER_CODE: u16 = 0x20 | 3;
/// Interrupts on, and the bit that is always set.
const USER_FLAGS: u64 = 1 << 9 | 1 << 1;
/// What a program may have changed of its flags: arithmetic, direction, single step, alignment check and identification.
const FLAGS_KEPT: u64 = 0x0024_0dd5;
const NMI: u64 = 2;
const INVALID_OPCODE: u64 = 6;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;
/// Bit of a page fault's error code: an instruction was to be read there.
pub const FETCH: u64 = 1 << 4;
/// `int 0x80`.
const CALL: u16 = u16::from_le_bytes([0xcd, 0x80]);
const CALL_BYTES: u64 = size_of_val(&CALL) as u64;
const CALL_VECTOR: u64 = 0x80;
/// Task addresses end here.
const USER_END: u64 = 1 << 47;

/// What FXSAVE64 saves. Starts as after a reset.
#[repr(C, align(16))]
#[derive(Clone)]
struct FxArea([u64; 64]);

impl FxArea {
    const fn new() -> Self {
        let mut words = [0; 64];
        // The control word masks all x87 exceptions, MXCSR all of SSE's.
        words[0] = 0x037f;
        words[3] = 0x1f80;
        Self(words)
    }
}

/// The registers of a thread of a program.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct UserContext {
    frame: TrapFrame,
    fx: FxArea,
}

/// Why a thread came back from ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// It made a system call.
    Call,
    /// A device, another processor or the timer wants this processor.
    Interrupt(u8),
    /// It touched what is not mapped, or not so.
    PageFault {
        /// The address.
        address: u64,
        /// The processor's error code.
        error_code: u64,
    },
    /// It did something else that it must not.
    Exception {
        /// The exception's vector.
        vector: u64,
        /// The processor's error code, 0 where there is none.
        error_code: u64,
    },
}

global_asm!(
    ".pushsection .text.user, \"ax\"",
    // enter_user(context: rdi, block: rsi)
    "enter_user:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rsi + {kernel_rsp}], rsp",
    "mov [rsi + {context}], rdi",
    // The context begins as a trap's frame does, so it is left like one.
    "mov rsp, rdi",
    "jmp trap_return",
    // Where the entry code of traps goes on after one out of ring 3, the registers saved on the trap's stack.
    ".global user_trap",
    "user_trap:",
    "mov rdx, [rsp + {frame_bytes}]",
    "mov rdi, [rdx + {context}]",
    "mov rsi, rsp",
    "mov ecx, {frame_words}",
    "rep movsq",
    "mov rsp, [rdx + {kernel_rsp}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    kernel_rsp = const offset_of!(EntryBlock, kernel_rsp),
    context = const offset_of!(EntryBlock, context),
    frame_bytes = const size_of::<TrapFrame>(),
    frame_words = const size_of::<TrapFrame>() / 8,
);

unsafe extern "C" {
    fn enter_user(context: *mut UserContext, block: *mut EntryBlock);
}

const _: () = assert!(offset_of!(UserContext, frame) == 0 && size_of::<TrapFrame>().is_multiple_of(16));

impl UserContext {
    /// Returns the registers of a thread that starts at `entry` with `argument` and `second` in its first two argument registers, and
    /// `stack_end` one past the last byte of its stack. Both addresses must lie in the lower half.
    pub fn new(entry: u64, stack_end: u64, argument: u64, second: u64) -> Self {
        let frame = TrapFrame {
            rip: entry,
            cs: u64::from(USER_CODE),
            rflags: USER_FLAGS,
            // As a function finds it, behind the return address.
            rsp: (stack_end & !0xf).wrapping_sub(8),
            ss: u64::from(USER_DATA),
            rdi: argument,
            rsi: second,
            ..TrapFrame::default()
        };
        Self { frame, fx: FxArea::new() }
    }

    /// Lets the thread run until it traps. The page tables that it runs on must be loaded, and so must be [its own state](Self::load).
    pub fn enter(&mut self) -> Trap {
        // An instruction may end where the lower half does, and `iretq` to there would fault in the kernel.
        if self.frame.rip >= USER_END {
            return Trap::PageFault { address: self.frame.rip, error_code: FETCH };
        }
        self.frame.rflags = self.frame.rflags & FLAGS_KEPT | USER_FLAGS;
        // SAFETY: the context's selectors are ring 3's, its instruction pointer is in the lower half, so that `iretq` cannot fault
        // (the look above sees to it), and its flags are cut to what a program may have; the block
        // is this processor's, which nobody else uses, and the code comes back here with everything that a callee must keep.
        unsafe { enter_user(self, percpu::this().entry.get()) };
        let TrapFrame { vector, error_code, .. } = self.frame;
        match vector {
            CALL_VECTOR => Trap::Call,
            INVALID_OPCODE => match self.is_call() {
                Ok(true) => {
                    self.frame.rip += CALL_BYTES;
                    Trap::Call
                }
                Ok(false) => Trap::Exception { vector, error_code },
                // The instruction went while it was carried out; it is looked for as the processor would.
                Err(address) => Trap::PageFault { address, error_code: FETCH },
            },
            PAGE_FAULT => Trap::PageFault { address: cpu::fault_address(), error_code },
            // Neither is the program's doing: the machine itself is out of order.
            NMI | DOUBLE_FAULT | MACHINE_CHECK => report_trap(&self.frame),
            vector => match u8::try_from(vector) {
                Ok(vector) if vector >= 0x20 => Trap::Interrupt(vector),
                _ => Trap::Exception { vector, error_code },
            },
        }
    }

    /// Tells whether the thread stands at a system call: where ring 3 runs natively below an emulated ring 0, that is how the
    /// instruction arrives.
    ///
    /// # Errors
    /// An address where no instruction can be read any more.
    fn is_call(&self) -> Result<bool, u64> {
        let rip = self.frame.rip;
        if rip > USER_END - CALL_BYTES {
            return Ok(false);
        }
        // SAFETY: both bytes are in the lower half, and its tables are loaded still.
        let code = unsafe { access::load(rip) };
        // The second byte may lie in the next page.
        code.map(|code| code == CALL).map_err(|_| cpu::fault_address().max(rip))
    }

    /// Returns the number of the system call.
    pub const fn call_number(&self) -> u64 {
        self.frame.rax
    }

    /// Returns the arguments of the system call.
    pub const fn call_arguments(&self) -> [u64; 6] {
        let TrapFrame { rdi, rsi, rdx, r10, r8, r9, .. } = self.frame;
        [rdi, rsi, rdx, r10, r8, r9]
    }

    /// Sets what the system call answers.
    pub const fn finish_call(&mut self, code: u64, value: u64) {
        self.frame.rax = code;
        self.frame.rdx = value;
    }

    /// Returns where the thread stands.
    pub const fn instruction(&self) -> u64 {
        self.frame.rip
    }

    /// Returns its stack pointer.
    pub const fn stack(&self) -> u64 {
        self.frame.rsp
    }

    /// Makes this processor ready for the thread: SSE and x87 state are the thread's, and no other thread has left anything in FS or
    /// GS. The two are not kept: without FSGSBASE, which the kernel does not turn on, a program can give them no base of its own;
    /// only where ring 3 runs natively below an emulated ring 0, the host may have turned it on.
    ///
    /// The upper halves of AVX registers stay as they are on a host of that kind: nothing that is emulated saves or clears them,
    /// and CPUID does not offer them.
    pub fn load(&self) {
        let thread = &percpu::this().thread;
        let address = &raw const *self as u64;
        if thread.load(Ordering::Relaxed) != address {
            thread.store(address, Ordering::Relaxed);
            cpu::clear_user_segments();
        }
        // SAFETY: the area is 512 bytes, aligned to 16, and was written by `new` or FXSAVE64, so no reserved bit of MXCSR is set; the
        // kernel itself uses none of these registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) &raw const self.fx, options(nostack, readonly)) };
    }

    /// Saves the processor's SSE and x87 state as the thread's.
    pub fn save(&mut self) {
        // SAFETY: the area is 512 bytes, aligned to 16, and this context's own.
        unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut self.fx, options(nostack)) };
    }
}

impl fmt::Debug for UserContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserContext")
            .field("rip", &self.frame.rip)
            .field("rsp", &self.frame.rsp)
            .finish_non_exhaustive()
    }
}
