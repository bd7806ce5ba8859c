//! System calls: which they are, and those about threads, time and text.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::future::poll_fn;
use core::task::Poll;

use wirevm_abi::user;
use wirevm_agent::{Program, ProgramEnd};

use super::copy::USER_END;
use super::memory;
use super::process::Process;
use super::thread;
use crate::arch::UserContext;
use crate::executor;
use crate::mem::{self, Room};
use crate::percpu;
use crate::timer::Alarm;

/// Whether a thread goes on behind a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    GoOn,
    /// It ends, and leaves this to whoever joins it.
    End(u64),
}

/// What a call answers: its value, or a code.
pub type Answer = Result<u64, u64>;

/// Returns the code of an `errno`.
pub const fn errno(number: u64) -> u64 {
    user::ERRNO + number
}

/// Carries out the system call that a thread stands behind.
pub async fn carry_out(process: &Arc<Process>, context: &mut UserContext) -> Flow {
    let [first, ..] = context.call_arguments();
    let answer = match context.call_number() {
        user::EXIT => {
            process.end(ProgramEnd::Exited(first.to_le_bytes()[0]));
            return Flow::End(0);
        }
        user::THREAD_EXIT => return Flow::End(first),
        // A call may make entries, objects and waits; the kernel's own memory must not be what ends.
        number if !has_room(process, number) => Err(shortage(number)),
        user::FORK => fork(process, context).await,
        number @ user::VM_ALLOCATE..=user::VM_INHERIT => {
            memory::as_mach(process, number, context).await.map_err(|code| u64::from(code.code()))
        }
        number @ user::MLOCK..=user::MSYNC => memory::as_posix(process, number, context).await,
        number => about_threads(process, number, context).await,
    };
    match answer {
        Ok(value) => context.finish_call(user::KERN_SUCCESS, value),
        Err(code) => context.finish_call(code, 0),
    }
    Flow::GoOn
}

/// Tells whether the kernel has room for a call.
fn has_room(process: &Process, number: u64) -> bool {
    let (programs, room) = (process.programs(), room_for(number));
    match number {
        // These leave a few entries behind at most.
        user::VM_ALLOCATE..=user::VM_PROTECT
        | user::VM_MAP_WIRE..=user::VM_INHERIT
        | user::MLOCK
        | user::MUNLOCK
        | user::MSYNC => programs.admits_step(room),
        _ => mem::has_room(programs.frames(), room),
    }
}

/// Returns what room the kernel wants before a call: little for one that gives memory back, and none for one that others wait for or that
/// takes none, so that a program can always help itself.
const fn room_for(number: u64) -> Room {
    match number {
        user::FUTEX_WAKE
        | user::THREAD_JOIN
        | user::WAIT
        | user::SLEEP
        | user::YIELD
        | user::OBJECT_CLOSE
        | user::PROCESSORS => Room::None,
        user::VM_DEALLOCATE | user::VM_MAP_UNWIRE | user::MUNLOCK | user::MUNLOCKALL => Room::Little,
        _ => Room::Much,
    }
}

/// Returns what a call answers when the kernel has no memory for it.
const fn shortage(number: u64) -> u64 {
    match number {
        user::VM_ALLOCATE..=user::VM_INHERIT => wirevm_map::KernReturn::ResourceShortage.code() as u64,
        _ => errno(user::ENOMEM),
    }
}

async fn about_threads(process: &Arc<Process>, number: u64, context: &UserContext) -> Answer {
    let [first, second, third, ..] = context.call_arguments();
    match number {
        user::PRINT => print(process, first, second).await,
        user::SLEEP => {
            wait(process, first, |_| Poll::<()>::Pending).await;
            Ok(0)
        }
        user::YIELD => {
            executor::give_way().await;
            Ok(0)
        }
        user::PROCESSORS => Ok(percpu::count() as u64),
        user::THREAD_CREATE => create(process, first, second, third),
        user::THREAD_JOIN => match wait(process, second, |context| process.poll_join(first, context)).await {
            Some(Some(value)) => Ok(value),
            Some(None) => Err(errno(user::ESRCH)),
            None => Err(errno(user::ETIMEDOUT)),
        },
        user::FUTEX_WAIT => futex_wait(process, first, second, third).await,
        user::FUTEX_WAKE if first.is_multiple_of(8) => Ok(process.futexes().wake(first, second)),
        user::FUTEX_WAKE => Err(errno(user::EINVAL)),
        user::WAIT => wait_for_child(process, first).await,
        _ => Err(errno(user::ENOSYS)),
    }
}

/// Waits until `done`, for `limit` nanoseconds, or until the program is ending; `None` for the latter two.
async fn wait<T>(
    process: &Process,
    limit: u64,
    mut done: impl FnMut(&mut core::task::Context<'_>) -> Poll<T> + Send,
) -> Option<T> {
    let mut alarm = Alarm::after(limit);
    poll_fn(|context| {
        if let Poll::Ready(value) = done(context) {
            return Poll::Ready(Some(value));
        }
        if process.poll_ending(context).is_ready() || alarm.poll(context).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

async fn print(process: &Process, address: u64, length: u64) -> Answer {
    let Some(length) = usize::try_from(length).ok().filter(|_| length <= user::MAX_PRINT_BYTES) else {
        return Err(errno(user::EINVAL));
    };
    let mut bytes = vec![0; length];
    process.copy_in(address, &mut bytes).await.map_err(|_| errno(user::EFAULT))?;
    process.programs().output().send(process.task(), bytes).await;
    Ok(0)
}

fn create(process: &Arc<Process>, entry: u64, stack_end: u64, argument: u64) -> Answer {
    if entry >= USER_END || stack_end > USER_END {
        return Err(errno(user::EINVAL));
    }
    let context = Box::new(UserContext::new(entry, stack_end, argument, 0));
    thread::start(process, context).map_err(|_| errno(user::EAGAIN))
}

async fn futex_wait(process: &Arc<Process>, address: u64, expected: u64, limit: u64) -> Answer {
    if !address.is_multiple_of(8) {
        return Err(errno(user::EINVAL));
    }
    let place = loop {
        // The word is looked at with the futexes locked, where nothing can wait for it to be mapped.
        let mut seen = None;
        let place = process.futexes().take_place(address, || {
            seen = process.peek(address);
            seen == Some(expected)
        });
        match (place, seen) {
            (Some(place), _) => break place,
            (None, Some(_)) => return Err(errno(user::EAGAIN)),
            (None, None) => process.copy_in(address, &mut [0; 8]).await.map_err(|_| errno(user::EFAULT))?,
        }
    };
    let woken =
        wait(process, limit, |context| if place.is_woken(context.waker()) { Poll::Ready(()) } else { Poll::Pending });
    let is_woken = woken.await.is_some();
    if is_woken || place.leave() { Ok(0) } else { Err(errno(user::ETIMEDOUT)) }
}

async fn fork(process: &Arc<Process>, context: &UserContext) -> Answer {
    let programs = process.programs();
    if !programs.begin_child() {
        return Err(errno(user::EAGAIN));
    }
    let give_up = |code: u64| {
        programs.give_up();
        errno(code)
    };
    let pmap = programs.new_pmap().map_err(|_| give_up(user::ENOMEM))?;
    let map = Arc::new(process.map().fork(pmap).await.map_err(|_| give_up(user::ENOMEM))?);
    let Ok((number, child)) = process.add_child(Arc::clone(&map)) else {
        map.destroy().await;
        return Err(give_up(user::EAGAIN));
    };
    programs.add_child(&child);
    let mut registers = Box::new(context.clone());
    registers.finish_call(user::KERN_SUCCESS, 0);
    if thread::start(&child, registers).is_err() {
        // A program that is ending ends its children.
        child.finish().await;
        process.forget_child(number);
        return Err(errno(user::EAGAIN));
    }
    if process.is_ending() {
        child.kill();
    }
    Ok(number)
}

async fn wait_for_child(process: &Arc<Process>, number: u64) -> Answer {
    const NO_CODE: u64 = 256;
    let child = process.child(number).ok_or(errno(user::ECHILD))?;
    let Some(end) = wait(process, user::FOREVER, |context| child.poll_end(context)).await else {
        // This program is ending, and takes the child with it.
        return Ok(NO_CODE);
    };
    process.forget_child(number);
    Ok(match end {
        ProgramEnd::Exited(code) => u64::from(code),
        _ => NO_CODE,
    })
}
