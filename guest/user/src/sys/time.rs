//! Time, and waiting for it or for a word.
#![expect(unsafe_code, reason = "instructions that the compiler has no safe name for")]
// UNSAFETY: reading the time-stamp counter, and a fence in front of and behind it, touch no memory; every processor of 64 bits has both.

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::sync::atomic::AtomicU64;
use core::time::Duration;

use wirevm_abi::user;

use super::raw::safe_call;
use crate::Errno;

/// Returns the time since the machine started.
#[must_use]
pub fn clock() -> Duration {
    Duration::from_nanos(safe_call(user::CLOCK, []).1)
}

/// Returns the processor's time-stamp counter. What stands in front of this in the program is over when it is read, stores that wait to
/// be seen by others excepted, and what stands behind it has not begun.
///
/// It is no system call, so it can time a single load. How long a tick is, [`Ticks`](crate::ticks::Ticks) finds out.
#[inline(always)]
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: neither touches memory, and the kernel lets programs read the counter.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Waits.
pub fn sleep(how_long: Duration) {
    safe_call(user::SLEEP, [to_nanoseconds(how_long)]);
}

/// Lets other threads run.
pub fn yield_now() {
    safe_call(user::YIELD, []);
}

/// Waits at a word, if it is as expected, for at most so many nanoseconds (or [`user::FOREVER`]).
///
/// # Errors
/// [`Errno::EAGAIN`]: it is not. [`Errno::ETIMEDOUT`].
pub fn futex_wait(word: &AtomicU64, expected: u64, at_most_nanoseconds: u64) -> Result<(), Errno> {
    Errno::check(safe_call(user::FUTEX_WAIT, [super::address(word), expected, at_most_nanoseconds]).0)
}

/// Wakes at most `count` threads of this program that wait at a word, and returns how many.
pub fn futex_wake(word: &AtomicU64, count: u64) -> u64 {
    safe_call(user::FUTEX_WAKE, [super::address(word), count]).1
}

/// Returns a time as calls take it; what is too long for them is for ever.
#[must_use]
pub fn to_nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(user::FOREVER)
}
