//! Time, and waiting for it or for a word.

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
