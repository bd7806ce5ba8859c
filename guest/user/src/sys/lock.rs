//! The lock of the allocator, the output and [`Mutex`](crate::sync::Mutex): a futex.
#![expect(unsafe_code, reason = "a lock's promise to be one can't be checked")]
// UNSAFETY: `FutexLock` excludes; the module `futex_lock` says how and is tested there.

use core::sync::atomic::AtomicU64;

use talc::lock_api::{GuardSend, RawMutex};
use wirevm_abi::user;

use super::raw::safe_call;
use crate::futex_lock::{FutexLock, Waiting};

/// Waiting in the guest's kernel.
#[derive(Debug)]
pub struct Kernel;

impl Waiting for Kernel {
    fn wait(word: &AtomicU64, expected: u64) {
        // Whatever it answers, the caller looks at the word again.
        safe_call(user::FUTEX_WAIT, [super::address(word), expected, user::FOREVER]);
    }

    fn wake(word: &AtomicU64, count: u64) {
        safe_call(user::FUTEX_WAKE, [super::address(word), count]);
    }
}

/// A lock whose waiters sleep.
#[derive(Debug)]
pub struct RawLock(FutexLock<Kernel>);

// SAFETY: `FutexLock` gives the lock to one at a time.
unsafe impl RawMutex for RawLock {
    const INIT: Self = Self(FutexLock::new());
    type GuardMarker = GuardSend;

    fn lock(&self) {
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        self.0.unlock();
    }
}
