//! Locks and conditions between threads of a program.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use talc::lock_api;
use wirevm_abi::user;

use crate::Errno;
use crate::futex_lock::Waiting;
use crate::sys::lock::Kernel;
pub use crate::sys::lock::RawLock;
use crate::sys::time::{futex_wait, to_nanoseconds};

/// A lock around a value; who waits for it sleeps.
pub type Mutex<T> = lock_api::Mutex<RawLock, T>;

/// A lock that is held.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;

/// Something that threads wait for with a [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar {
    /// Counts notifications, so that none between the lock's release and the wait is missed.
    turn: AtomicU64,
}

impl Condvar {
    /// Makes a condition.
    #[must_use]
    pub const fn new() -> Self {
        Self { turn: AtomicU64::new(0) }
    }

    /// Lets the lock go, waits for a notification, and takes the lock again. May return without one, so look again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let turn = self.turn.load(Ordering::Relaxed);
        MutexGuard::unlocked(guard, || Kernel::wait(&self.turn, turn));
    }

    /// As [`Condvar::wait`], for a time at most.
    ///
    /// # Errors
    /// [`Errno::ETIMEDOUT`], with the lock taken again.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, at_most: Duration) -> Result<(), Errno> {
        let turn = self.turn.load(Ordering::Relaxed);
        match MutexGuard::unlocked(guard, || futex_wait(&self.turn, turn, to_nanoseconds(at_most))) {
            Err(Errno::EAGAIN) => Ok(()),
            result => result,
        }
    }

    /// Wakes one of those who wait.
    pub fn notify_one(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        Kernel::wake(&self.turn, 1);
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        Kernel::wake(&self.turn, user::FOREVER);
    }
}

/// A place where threads wait until all have come.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    /// Threads that have come this time, and how often all have.
    state: Mutex<(usize, u64)>,
    all_here: Condvar,
}

impl Barrier {
    /// Makes a barrier for so many threads.
    #[must_use]
    pub const fn new(threads: usize) -> Self {
        Self { threads, state: Mutex::new((0, 0)), all_here: Condvar::new() }
    }

    /// Waits until all have come.
    pub fn wait(&self) {
        let mut state = self.state.lock();
        let turn = state.1;
        state.0 += 1;
        if state.0 >= self.threads {
            *state = (0, turn + 1);
            self.all_here.notify_all();
        }
        while state.1 == turn {
            self.all_here.wait(&mut state);
        }
    }
}
