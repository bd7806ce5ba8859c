//! Locks whose holders can let those have them who wait.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::{Mutex, MutexGuard};
use spin::relax::RelaxStrategy;

/// A spin lock that knows how many have had to wait for it.
///
/// Whoever is there when it is free takes it: on machines whose processors are threads, an order of arrival would let all wait
/// for one that does not run. So whoever takes it time and again must let others have it: it asks who waits
/// ([`YieldingLock::waiters`]), and does not come back before they have been served ([`YieldingLock::has_served`]).
pub(crate) struct YieldingLock<T, R> {
    inner: Mutex<T, R>,
    /// How many have found the lock taken so far.
    arrived: AtomicU64,
    /// How many of those have had it.
    served: AtomicU64,
}

/// Those who waited for a lock at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiters {
    arrived: u64,
}

impl<T, R: RelaxStrategy> YieldingLock<T, R> {
    pub(crate) const fn new(value: T) -> Self {
        Self { inner: Mutex::new(value), arrived: AtomicU64::new(0), served: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T, R> {
        match self.inner.try_lock() {
            Some(guard) => guard,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T, R> {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let guard = self.inner.lock();
        self.served.fetch_add(1, Ordering::Relaxed);
        guard
    }

    /// Returns those who wait for the lock now.
    pub(crate) fn waiters(&self) -> Waiters {
        Waiters { arrived: self.arrived.load(Ordering::Relaxed) }
    }

    /// Tells whether as many have had the lock as waited for it then.
    pub(crate) fn has_served(&self, waiters: Waiters) -> bool {
        self.served.load(Ordering::Relaxed) >= waiters.arrived
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    #[cfg(test)]
    pub(crate) fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }
}

impl<T, R> fmt::Debug for YieldingLock<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("YieldingLock").finish_non_exhaustive()
    }
}
