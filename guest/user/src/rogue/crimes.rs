//! What a processor or a page table prevents.

use alloc::sync::Arc;
use core::arch::asm;
use core::hint::black_box;

use wirevm_abi::boot::{DIRECT_BASE, IMAGE_BASE};
use wirevm_user::process::exit;
use wirevm_user::sync::Barrier;
use wirevm_user::{println, thread};

/// Where the kernel is linked, and where it sees all of RAM.
#[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits")]
const KERNEL_IMAGE: usize = IMAGE_BASE as usize;
#[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits")]
const DIRECT_MAP: usize = DIRECT_BASE as usize;
/// No address of this processor's.
const NONCANONICAL: usize = 0x8000_0000_0000;

/// Instructions that the processor refuses.
macro_rules! instruction {
    ($($operands:tt)*) => {
        // SAFETY: none: it traps, or the kernel is wrong, and then the program says so and ends.
        unsafe { asm!($($operands)*) }
    };
}

/// Names, and what must end whoever does it.
pub const ALL: &[(&str, fn())] = &[
    ("kernel-read", || load(KERNEL_IMAGE)),
    ("direct-read", || load(DIRECT_MAP)),
    ("kernel-write", || store(KERNEL_IMAGE)),
    ("direct-write", || store(DIRECT_MAP)),
    ("kernel-jump", || jump(KERNEL_IMAGE)),
    ("noncanonical", || load(NONCANONICAL)),
    ("noncanonical-jump", || jump(NONCANONICAL)),
    ("null", || load(black_box(0))),
    ("write-text", || store(load as *const () as usize)),
    ("write-rodata", || store(ALL.as_ptr() as usize)),
    ("jump-to-data", jump_to_data),
    ("jump-to-stack", jump_to_stack),
    ("stack-overflow", overflow_stack),
    ("cli", || instruction!("cli")),
    ("sti", || instruction!("sti")),
    ("hlt", || instruction!("hlt")),
    ("in", || instruction!("in al, dx", in("dx") 0x60_u16, out("al") _)),
    ("out", || instruction!("out dx, eax", in("dx") 0x604_u16, in("eax") 0_u32)),
    ("rdmsr", || instruction!("rdmsr", in("ecx") 0xc000_0080_u32, out("eax") _, out("edx") _)),
    ("wrmsr", || instruction!("wrmsr", in("ecx") 0xc000_0080_u32, in("eax") 0_u32, in("edx") 0_u32)),
    ("mov-cr3", || instruction!("mov cr3, {}", in(reg) 0_u64)),
    ("mov-cr0", || instruction!("mov {0}, cr0", "mov cr0, {0}", out(reg) _)),
    ("invlpg", || instruction!("invlpg [{}]", in(reg) 0_u64)),
    ("lidt", || instruction!("lidt [{}]", in(reg) &[0_u64; 2])),
    ("ltr", || instruction!("ltr {0:x}", in(reg) 0x28_u64)),
    ("int3", || instruction!("int3")),
    ("ud2", || instruction!("ud2")),
    ("int-0x81", || instruction!("int 0x81")),
    ("int-timer", || instruction!("int 0x34")),
    ("int-page-fault", || instruction!("int 14")),
    ("syscall", || instruction!("syscall", out("rcx") _, out("r11") _, inlateout("rax") 1_u64 => _)),
    ("sysenter", || instruction!("sysenter", out("rcx") _, out("rdx") _)),
    ("iretq", || instruction!("push 0", "push 0", "push 2", "push 8", "push 0", "iretq")),
    ("divide", || {
        instruction!("div {0:r}", in(reg) 0_u64, inlateout("rax") 1_u64 => _, inlateout("rdx") 0_u64 => _);
    }),
    ("single-step", || instruction!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop")),
    ("alignment", || instruction!("movaps xmm0, [{}]", in(reg) &raw const ALIGNED.0[1], out("xmm0") _)),
    ("simd", || {
        instruction!(
            "ldmxcsr [{csr}]", "divps xmm0, xmm1",
            csr = in(reg) &UNMASKED, inlateout("xmm0") 1.0_f32 => _, in("xmm1") 0.0_f32
        );
    }),
    ("bad-stack", || instruction!("mov rsp, {}", "push rax", "ud2", in(reg) KERNEL_IMAGE)),
];

#[repr(align(16))]
struct Aligned([u8; 32]);

static ALIGNED: Aligned = Aligned([0; 32]);
/// No exception of SSE is masked.
static UNMASKED: u32 = 0;
/// A return, as data.
static mut RETURN: u8 = 0xc3;

/// Bytes of a frame that leaves most of its pages alone.
const LARGE_FRAME_BYTES: usize = 256 << 10;
/// How many of them there are: they leave between one and two of the 8 MiB that the kernel gives a program for its first stack.
const LARGE_FRAMES: usize = (8 << 20) / LARGE_FRAME_BYTES - 2;

fn load(address: usize) {
    // SAFETY: the page table prevents it.
    black_box(unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() });
}

fn store(address: usize) {
    // SAFETY: as above.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(0x90c3_90c3_90c3_90c3) }
}

fn jump(address: usize) {
    // SAFETY: as above; should something run there, it returns or does not.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) }
}

fn jump_to_data() {
    jump((&raw const RETURN) as usize);
}

fn jump_to_stack() {
    let code = black_box([0xc3_u8; 16]);
    jump((&raw const code) as usize);
}

/// Calls itself until the stack is used up: with large frames as long as there is much of it, for a page that is touched first takes its
/// time, and then with frames of less than the one page at its end that guards it.
fn overflow_stack() {
    // SAFETY: none: it never comes back.
    unsafe {
        asm!(
            "2: sub rsp, {bytes}",
            "mov [rsp], rsp",
            "dec {frames:e}",
            "jnz 2b",
            "and rsp, -16",
            "call {overflow}",
            "ud2",
            bytes = const LARGE_FRAME_BYTES,
            frames = in(reg) LARGE_FRAMES,
            overflow = sym overflow,
            options(noreturn)
        )
    }
}

#[expect(unconditional_recursion, reason = "it must overflow the stack")]
#[inline(never)]
extern "C" fn overflow(depth: u64) -> u64 {
    let filling = black_box([depth; 64]);
    overflow(depth + 1) + filling[usize::try_from(depth % 64).unwrap_or(0)]
}

/// Never ends, in so many threads, of which this is one.
pub fn spin_in(threads: usize) -> ! {
    // All begin together, or those that spin would keep this one from starting the others.
    let begin = Arc::new(Barrier::new(threads));
    for _ in 1..threads {
        let all = Arc::clone(&begin);
        let started = thread::spawn(move || {
            all.wait();
            spin()
        });
        if let Err(error) = started {
            println!("rogue: spin: not so many threads: {error}");
            exit(1);
        }
    }
    println!("rogue: spin: begins");
    begin.wait();
    spin()
}

/// Never ends.
fn spin() -> ! {
    loop {
        // SAFETY: waits for nothing; no call, no fault.
        unsafe { asm!("pause", options(nomem, nostack)) }
    }
}
