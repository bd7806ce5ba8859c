//! A thread of a program: in ring 3 as long as it can be, in the kernel for what it traps for.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};

use wirevm_abi::user;
use wirevm_agent::ProgramEnd;
use wirevm_map::{KernReturn, Prot};

use super::calls::{self, Flow};
use super::copy::USER_END;
use super::process::{Process, TooMany};
use crate::arch::{self, Trap, UserContext};
use crate::executor;
use crate::mem::Room;
use crate::timer::{self, Turn};

/// Bit of a page fault's error code: something was to be stored there.
const FAULT_WRITE: u64 = 1 << 1;
/// What a thread that was ended leaves to whoever joins it.
const ENDED_VALUE: u64 = u64::MAX;

/// Starts a thread with those registers; returns its number.
///
/// # Errors
/// [`TooMany`] when the program has too many, or is ending.
pub fn start(process: &Arc<Process>, context: Box<UserContext>) -> Result<u64, TooMany> {
    let number = process.add_thread()?;
    executor::spawn_thread(run(Arc::clone(process), number, context));
    Ok(number)
}

/// Runs a thread to its end, and, after the last one, ends the program.
async fn run(process: Arc<Process>, number: u64, mut context: Box<UserContext>) {
    let value = run_until_end(&process, &mut context).await;
    drop(context);
    if process.thread_ended(number, value) {
        process.finish().await;
    }
}

async fn run_until_end(process: &Arc<Process>, context: &mut UserContext) -> u64 {
    let mut turn = Turn::next();
    loop {
        let mut has_waited = false;
        match (Ring3 { process, context, turn: &mut turn }).await {
            None => return ENDED_VALUE,
            Some(Trap::Call) => {
                let flow = noting(&mut has_waited, pin!(calls::carry_out(process, context))).await;
                if let Flow::End(value) = flow {
                    return value;
                }
                run_background(process).await;
            }
            Some(Trap::PageFault { address, error_code }) => {
                let resolved = if process.programs().admits_step(Room::Much) {
                    noting(&mut has_waited, pin!(process.map().fault(address, access_of(error_code)))).await
                } else {
                    Err(KernReturn::ResourceShortage)
                };
                if let Err(code) = resolved {
                    end_for_fault(process, context, address, error_code, code);
                    return ENDED_VALUE;
                }
            }
            Some(Trap::Exception { vector, error_code }) => {
                end_for_exception(process, context, vector, error_code);
                return ENDED_VALUE;
            }
            Some(Trap::Interrupt(_)) => {}
        }
        // Calls and faults that never wait would keep the processor for ever otherwise: no interrupt is taken in them.
        if has_waited {
            turn = Turn::next();
        } else if turn.is_used_up(executor::has_urgent(), executor::has_ready()) {
            executor::give_way().await;
            turn = Turn::next();
        }
    }
}

/// Awaits `work`, and notes in `has_waited` whether it had to wait: others had the processor meanwhile.
async fn noting<T>(has_waited: &mut bool, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        *has_waited |= polled.is_pending();
        polled
    })
    .await
}

/// Begins what the memory system does for nobody who waits, and lets the executor go on with it.
async fn run_background(process: &Process) {
    while let Some(mut work) = process.map().vm().take_background() {
        // Begun here: whoever looks behind the call finds that the host has been asked.
        let is_over = poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
        if !is_over {
            executor::spawn_service(work);
        }
    }
}

/// Returns the right that a page fault was about.
const fn access_of(error_code: u64) -> Prot {
    if error_code & arch::FETCH != 0 {
        Prot::EXECUTE
    } else if error_code & FAULT_WRITE != 0 {
        Prot::WRITE
    } else {
        Prot::READ
    }
}

#[cold]
fn end_for_fault(process: &Process, context: &UserContext, address: u64, error_code: u64, code: KernReturn) {
    let what = match access_of(error_code) {
        Prot::EXECUTE => "ran into",
        Prot::WRITE => "stored to",
        _ => "loaded from",
    };
    let (at, stack) = (context.instruction(), context.stack());
    process.end(ProgramEnd::Faulted(format!("{what} {address:#x}: {code} (rip {at:#x}, rsp {stack:#x})")));
}

#[cold]
fn end_for_exception(process: &Process, context: &UserContext, vector: u64, error_code: u64) {
    let what = match vector {
        0 => "divided by zero, or beyond the quotient",
        1 => "met a debug exception",
        3 => "met a breakpoint",
        4 => "overflowed",
        5 => "left a bound",
        6 => "used an invalid instruction",
        13 => "did what only the kernel may",
        16 => "met an x87 exception",
        17 => "met an unaligned address",
        19 => "met an SSE exception",
        _ => "met an exception",
    };
    let (at, stack) = (context.instruction(), context.stack());
    let text = format!("{what} (vector {vector}, error code {error_code:#x}, rip {at:#x}, rsp {stack:#x})");
    process.end(ProgramEnd::Faulted(text));
}

/// A thread's way through ring 3 until it traps for something that takes the kernel; `None` when its program is ending.
struct Ring3<'a> {
    process: &'a Process,
    context: &'a mut UserContext,
    turn: &'a mut Turn,
}

impl Future for Ring3<'_> {
    type Output = Option<Trap>;

    fn poll(self: Pin<&mut Self>, waker: &mut Context<'_>) -> Poll<Option<Trap>> {
        let Self { process, context, turn } = self.get_mut();
        if process.is_ending() {
            return Poll::Ready(None);
        }
        process.space().load();
        // Behind what it did not wait for the thread finds its processor as it left it.
        if !turn.is_set() {
            context.load();
            turn.enter();
        }
        let left = loop {
            match context.enter() {
                Trap::Call => {
                    // What needs nothing but the registers is answered here: a call costs little more than the way.
                    let answered = match context.call_number() {
                        user::NULL => Some(0),
                        user::CLOCK => Some(timer::now()),
                        _ => None,
                    };
                    let Some(value) = answered else {
                        break Poll::Ready(Some(Trap::Call));
                    };
                    context.finish_call(user::KERN_SUCCESS, value);
                }
                Trap::Interrupt(vector) => {
                    turn.interrupted();
                    arch::take_interrupt(vector);
                    timer::expire();
                    if process.is_ending() {
                        break Poll::Ready(None);
                    }
                    // One that an interrupt found behind the last address of the lower half must not be entered again.
                    if turn.is_over(executor::has_urgent(), executor::has_ready()) {
                        // To the end of the queue, for another turn.
                        **turn = Turn::next();
                        waker.waker().wake_by_ref();
                        break Poll::Pending;
                    }
                }
                // Most faults are about a page that is there and only not mapped.
                Trap::PageFault { address, error_code }
                    if address < USER_END && process.map().fault_at_once(address, access_of(error_code)) => {}
                trap => break Poll::Ready(Some(trap)),
            }
        };
        context.save();
        left
    }
}
