//! Registers that are each thread's own.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::time::Duration;

use wirevm_abi::user;
use wirevm_user::process::Ended;
use wirevm_user::random::Random;
use wirevm_user::time::{clock, sleep};
use wirevm_user::{Errno, PAGE_BYTES, Region, println, raw, thread};

use super::{Trial, ensure, in_a_child, said};

/// Threads that keep something in their registers at the same time.
const THREADS: u64 = 3;
/// How often each looks at its registers, with calls of both kinds between.
const LOOKS: u64 = 60;
/// Steps between two looks, in which time passes and others get their turn.
const STEPS: u64 = 300_000;
/// MXCSR and the x87 control word after a reset.
const MXCSR: u32 = 0x1f80;
const CONTROL: u16 = 0x37f;
/// Bits of MXCSR that round, and those of the x87 control word.
const ROUNDING: [u32; 2] = [0x6000, 0x0c00];

/// What a thread has in its registers.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    sse: [u64; 32],
    x87: [u64; 4],
    mxcsr: u32,
    control: u32,
}

/// One instruction for each SSE register: to load it from its place behind `before`, or to store it to that behind `after`.
macro_rules! each_sse {
    (load) => { each_sse!(load 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    (store) => { each_sse!(store 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    (load $($number:literal)*) => { concat!($("movups xmm", $number, ", [{before} + 16*", $number, "]\n"),*) };
    (store $($number:literal)*) => { concat!($("movups [{after} + 16*", $number, "], xmm", $number, "\n"),*) };
}

impl Kept {
    /// Returns something else for each random number; only the rounding of the control words differs.
    fn of(random: &mut Random) -> Self {
        let [mxcsr, control] = ROUNDING.map(|bits| u32::try_from(random.next_word() & 0x7fff_ffff).unwrap_or(0) & bits);
        Self {
            sse: core::array::from_fn(|_| random.next_word()),
            // An x87 register holds any whole number of 64 bits.
            x87: core::array::from_fn(|_| random.next_word()),
            mxcsr: MXCSR | mxcsr,
            control: u32::from(CONTROL) | control,
        }
    }

    /// Loads all of it, lets time pass, makes a call, and returns what is there then.
    fn keep(&self, call: u64, argument: u64) -> Self {
        let mut after = self.clone();
        let reset = Self { mxcsr: MXCSR, ..self.clone() };
        // SAFETY: what is loaded and stored are the fields of the values that are borrowed; all registers that change are said to, and
        // the control words are given back. The call changes no memory.
        unsafe {
            asm!(
                "fninit",
                "fldcw [{before} + 292]",
                "ldmxcsr [{before} + 288]",
                "fild qword ptr [{before} + 256]",
                "fild qword ptr [{before} + 264]",
                "fild qword ptr [{before} + 272]",
                "fild qword ptr [{before} + 280]",
                each_sse!(load),
                "2: pause",
                "dec rcx",
                "jnz 2b",
                "mov rax, {call}",
                "int 0x80",
                "stmxcsr [{after} + 288]",
                "fnstcw [{after} + 292]",
                "fistp qword ptr [{after} + 280]",
                "fistp qword ptr [{after} + 272]",
                "fistp qword ptr [{after} + 264]",
                "fistp qword ptr [{after} + 256]",
                each_sse!(store),
                "ldmxcsr [{reset} + 288]",
                "fninit",
                before = in(reg) self,
                after = in(reg) &raw mut after,
                reset = in(reg) &reset,
                call = in(reg) call,
                in("rdi") argument,
                inout("rcx") STEPS => _,
                clobber_abi("C"),
            );
        }
        after
    }
}

/// Several threads keep what they have in their registers over calls, interrupts and what other threads and programs have there.
pub fn keeping_registers() -> Trial {
    let seed = u64::try_from(clock().as_nanos()).unwrap_or(0);
    let look = move |index: u64| {
        let mut random = Random::new(seed.wrapping_mul(THREADS) + index);
        (0..LOOKS).find_map(|look| {
            let before = Kept::of(&mut random);
            let call = [user::YIELD, user::SLEEP, user::NULL][usize::try_from(look % 3).unwrap_or(0)];
            let after = before.keep(call, 1_000_000);
            (after != before).then(|| (look, Box::new((before, after))))
        })
    };
    let mut threads = Vec::new();
    for index in 0..THREADS {
        threads.push(said("spawn", thread::spawn(move || look(index)))?);
    }
    for thread in threads {
        let found = said("join", thread.join())?;
        ensure!(found.is_none(), "registers have changed: {found:x?}");
    }
    Ok(())
}

/// A thread begins with registers as after a reset, whatever others have in theirs.
pub fn starting_fresh() -> Trial {
    let stack = said("vm_allocate", Region::allocate(2 * PAGE_BYTES))?;
    let busy = said("spawn", thread::spawn(|| _ = Kept::of(&mut Random::new(1)).keep(user::NULL, 0)))?;
    for _ in 0..5 {
        let area = stack.address();
        // SAFETY: the thread has a stack of its own, and stores what its registers are to the lower page only.
        let (code, number) =
            unsafe { raw::call(user::THREAD_CREATE, [first_instruction(), area + stack.len() as u64, area, 0, 0, 0]) };
        said("THREAD_CREATE", Errno::check(code))?;
        // SAFETY: nothing is changed.
        let (code, _) = unsafe { raw::call(user::THREAD_JOIN, [number, user::FOREVER, 0, 0, 0, 0]) };
        said("THREAD_JOIN", Errno::check(code))?;
        let mut bytes = [0; 512];
        stack.read(0, &mut bytes);
        let (control, mxcsr) = (u16::from_le_bytes([bytes[0], bytes[1]]), bytes[24..28].first_chunk::<4>().copied());
        ensure!(control == CONTROL, "the x87 control word is {control:#x}");
        ensure!(mxcsr.map(u32::from_le_bytes) == Some(MXCSR), "MXCSR is {mxcsr:x?}");
        ensure!(bytes[2..5].iter().all(|byte| *byte == 0), "status and tags are {:x?}", &bytes[2..5]);
        ensure!(bytes[32..416].iter().all(|byte| *byte == 0), "registers are {:x?}", &bytes[32..416]);
        sleep(Duration::from_millis(1));
    }
    said("join", busy.join())
}

/// No thread and no child finds another's base in its FS segment, where the processor lets programs set one. Its own it finds, or none:
/// the kernel keeps it for nobody.
pub fn finding_no_others_fs_base() -> Trial {
    let may_set = in_a_child(|| {
        set_fs_base(0x1000);
        0
    })?;
    if may_set == Ended::Killed {
        println!("trials: fs-base: programs can't set it here");
        return Ok(());
    }
    let keep = |index: u64| {
        (1..=LOOKS).find_map(|look| {
            let base = (index + 1) << 32 | look << 12;
            let before = fs_base();
            set_fs_base(base);
            for _ in 0..STEPS {
                core::hint::spin_loop();
            }
            sleep(Duration::from_millis(look % 2));
            let after = fs_base();
            let is_wrong = ![0, base].contains(&after) || look == 1 && before != 0;
            is_wrong.then_some((before, base, after))
        })
    };
    let mut threads = Vec::new();
    for index in 1..=THREADS {
        threads.push(said("spawn", thread::spawn(move || keep(index)))?);
    }
    set_fs_base(0xf000);
    let ended = in_a_child(|| u8::from(fs_base() != 0))?;
    ensure!(ended == Ended::Exit(0), "a child has somebody's: {ended:?}");
    for thread in threads {
        let found = said("join", thread.join())?;
        ensure!(found.is_none(), "before, as set, and after: {found:x?}");
    }
    let last = fs_base();
    ensure!([0, 0xf000].contains(&last), "the first thread's is {last:#x}");
    Ok(())
}

fn fs_base() -> u64 {
    let base;
    // SAFETY: reads a register, or is a fault.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) }
    base
}

fn set_fs_base(base: u64) {
    // SAFETY: nothing here is reached by way of FS.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) }
}

/// Stores all registers of x87 and SSE where the first argument says, and ends.
#[cfg(feature = "program")]
#[unsafe(naked)]
unsafe extern "C" fn fresh() -> ! {
    core::arch::naked_asm!("fxsave64 [rdi]", "mov eax, {exit}", "int 0x80", "ud2", exit = const user::THREAD_EXIT)
}

#[cfg(feature = "program")]
fn first_instruction() -> u64 {
    fresh as *const () as u64
}

#[cfg(not(feature = "program"))]
const fn first_instruction() -> u64 {
    0
}
