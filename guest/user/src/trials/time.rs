//! Time, and whom one waits for.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use wirevm_abi::user;
use wirevm_user::time::{clock, futex_wait, futex_wake, sleep, to_nanoseconds};
use wirevm_user::{Errno, raw, thread};

use super::{Trial, ensure, said};

/// Longest time that anything may come late, on a host that has other things to do.
const LATE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(30);

/// Sleeps at least as long as it is asked for, and not for ever.
pub fn sleeping() -> Trial {
    for milliseconds in [0, 1, 20, 150] {
        let time = Duration::from_millis(milliseconds);
        let start = clock();
        sleep(time);
        let slept = clock() - start;
        ensure!((time..time + LATE).contains(&slept), "{slept:?} instead of {time:?}");
    }
    Ok(())
}

/// Waits at a word for its time, or until it is woken, or not at all.
pub fn waiting_at_a_word() -> Trial {
    let word = Arc::new(AtomicU64::new(5));
    let start = clock();
    let waited = futex_wait(&word, 5, to_nanoseconds(SHORT));
    let time = clock() - start;
    ensure!(waited == Err(Errno::ETIMEDOUT), "a wait that nobody ends: {waited:?}");
    ensure!((SHORT..SHORT + LATE).contains(&time), "{time:?} instead of {SHORT:?}");
    let waited = futex_wait(&word, 6, user::FOREVER);
    ensure!(waited == Err(Errno::EAGAIN), "a word that is another: {waited:?}");
    ensure!(futex_wake(&word, 1) == 0, "nobody waits any more");
    // SAFETY: waiting at a word changes nothing.
    let (code, _) = unsafe { raw::call(user::FUTEX_WAIT, [word.as_ptr().addr() as u64 + 4, 5, 0, 0, 0, 0]) };
    ensure!(Errno::check(code) == Err(Errno::EINVAL), "a word that is not aligned: {code:#x}");
    let other = Arc::clone(&word);
    let waiter = said("spawn", thread::spawn(move || futex_wait(&other, 5, user::FOREVER)))?;
    let start = clock();
    while futex_wake(&word, u64::MAX) == 0 {
        ensure!(clock() - start < LATE, "the thread does not come to wait");
        sleep(Duration::from_millis(1));
    }
    let woken = said("join", waiter.join())?;
    ensure!(woken == Ok(()), "a thread that was woken: {woken:?}");
    Ok(())
}

/// Waits for a thread that goes on, that has ended, and that there is not.
pub fn joining() -> Trial {
    let word = Arc::new(AtomicU64::new(0));
    let other = Arc::clone(&word);
    let thread = said(
        "spawn",
        thread::spawn(move || {
            while other.load(Ordering::Acquire) == 0 {
                sleep(SHORT)
            }
        }),
    )?;
    let number = thread.number();
    // SAFETY: waiting for a thread changes nothing, and its stack stays until the handle is joined.
    let join = |number, time| Errno::check(unsafe { raw::call(user::THREAD_JOIN, [number, time, 0, 0, 0, 0]) }.0);
    let start = clock();
    let joined = join(number, to_nanoseconds(SHORT));
    let time = clock() - start;
    ensure!(joined == Err(Errno::ETIMEDOUT), "a thread that goes on: {joined:?}");
    ensure!((SHORT..SHORT + LATE).contains(&time), "{time:?} instead of {SHORT:?}");
    word.store(1, Ordering::Release);
    said("join", thread.join())?;
    let joined = join(number, user::FOREVER);
    ensure!(joined == Err(Errno::ESRCH), "a thread that was joined: {joined:?}");
    let joined = join(u64::MAX, user::FOREVER);
    ensure!(joined == Err(Errno::ESRCH), "no thread: {joined:?}");
    Ok(())
}
