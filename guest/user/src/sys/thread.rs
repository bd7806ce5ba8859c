//! Threads.
#![expect(unsafe_code, reason = "a thread's stack and its first instruction")]
// UNSAFETY: a thread gets a stack that is its own until it has ended, and a closure that is given to it and nobody else.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use wirevm_abi::user;

use super::raw::{call, safe_call};
use super::region::Region;
use super::vm;
use crate::sync::Mutex;
use crate::{Errno, PAGE_BYTES, Prot};

/// Bytes of a thread's stack, unless it is asked for another size.
pub const STACK_BYTES: usize = 64 << 10;

type Start = Box<dyn FnOnce() + Send>;

/// A thread that was started. Where this is dropped the thread goes on, and keeps its stack to the program's end.
#[derive(Debug)]
pub struct JoinHandle<T> {
    number: u64,
    result: Arc<Mutex<Option<T>>>,
    stack: ManuallyDrop<Region>,
}

/// Starts a thread.
///
/// # Errors
/// [`Errno::ENOMEM`]: no room for its stack; or whatever the kernel answers.
pub fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Errno> {
    spawn_with_stack(STACK_BYTES, run)
}

/// Starts a thread with a stack of so many bytes, rounded up to pages. Below it is a page that nobody may touch, so that an overflow is
/// a fault.
///
/// # Errors
/// As for [`spawn`].
pub fn spawn_with_stack<T: Send + 'static>(
    stack_bytes: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Errno> {
    let bytes = stack_bytes.checked_add(PAGE_BYTES).ok_or(Errno::ENOMEM)?;
    let stack = Region::allocate(bytes).map_err(|_| Errno::ENOMEM)?;
    // SAFETY: the lowest page of a stack that nobody uses yet; only an overflow ever comes there.
    unsafe { vm::protect(stack.address(), PAGE_BYTES as u64, false, Prot::NONE) }.map_err(|_| Errno::ENOMEM)?;
    let result = Arc::new(Mutex::new(None));
    let place = Arc::clone(&result);
    let start: Box<Start> = Box::new(Box::new(move || *place.lock() = Some(run())));
    let argument = Box::into_raw(start);
    let top = stack.address() + stack.len() as u64;
    // SAFETY: the stack is the thread's alone and stays until it was joined; the closure is its to take.
    let (code, number) =
        unsafe { call(user::THREAD_CREATE, [first_instruction(), top, super::address(argument), 0, 0, 0]) };
    if let Err(error) = Errno::check(code) {
        // SAFETY: no thread has come to life that would take it.
        drop(unsafe { Box::from_raw(argument) });
        return Err(error);
    }
    Ok(JoinHandle { number, result, stack: ManuallyDrop::new(stack) })
}

impl<T> JoinHandle<T> {
    /// Returns the thread's number, as calls have it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the thread's end and returns what it returned.
    ///
    /// # Errors
    /// [`Errno::ESRCH`]: in a child that was forked since there is no such thread.
    pub fn join(mut self) -> Result<T, Errno> {
        Errno::check(safe_call(user::THREAD_JOIN, [self.number, user::FOREVER]).0)?;
        // SAFETY: the thread has ended and nothing else has its stack; `self` is not used any more.
        unsafe { ManuallyDrop::drop(&mut self.stack) };
        let result = self.result.lock().take();
        result.ok_or(Errno::ESRCH)
    }
}

/// Does a thread's work; the argument is what `spawn_with_stack` passed.
#[cfg(feature = "program")]
extern "C" fn run(start: *mut Start) -> ! {
    // SAFETY: the box was made for this thread and given up to it.
    let start = unsafe { Box::from_raw(start) };
    start();
    loop {
        safe_call(user::THREAD_EXIT, [0]);
    }
}

#[cfg(feature = "program")]
#[unsafe(naked)]
unsafe extern "C" fn first() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {run}", "ud2", run = sym run)
}

#[cfg(feature = "program")]
fn first_instruction() -> u64 {
    first as *const () as u64
}

#[cfg(not(feature = "program"))]
const fn first_instruction() -> u64 {
    0
}
