//! A lock in one word: 0 free, 1 taken, 2 taken and somebody may wait (the third mutex of Drepper's *Futexes are tricky*).

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

/// How a thread waits for a word to change.
pub trait Waiting {
    /// Waits until woken if the word is `expected`, for an end of its own choosing otherwise.
    fn wait(word: &AtomicU64, expected: u64);
    /// Wakes at most `count` of those who wait for the word.
    fn wake(word: &AtomicU64, count: u64);
}

const FREE: u64 = 0;
const TAKEN: u64 = 1;
const AWAITED: u64 = 2;

/// The lock's word.
#[derive(Debug)]
pub struct FutexLock<W> {
    word: AtomicU64,
    waiting: PhantomData<fn() -> W>,
}

impl<W: Waiting> FutexLock<W> {
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(FREE), waiting: PhantomData }
    }

    pub fn try_lock(&self) -> bool {
        self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    pub fn lock(&self) {
        if self.try_lock() {
            return;
        }
        // Whoever has waited cannot know whether others still do, so it takes the lock as one that is awaited.
        while self.word.swap(AWAITED, Ordering::Acquire) != FREE {
            W::wait(&self.word, AWAITED);
        }
    }

    pub fn unlock(&self) {
        if self.word.swap(FREE, Ordering::Release) == AWAITED {
            W::wake(&self.word, 1);
        }
    }
}

#[cfg(test)]
mod test {
    use core::cell::Cell;
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Condvar, Mutex};
    use std::thread;

    use super::{FutexLock, Waiting};

    static CALLS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

    /// Futexes of which every wake reaches all, as one that goes astray would be seen by nobody.
    struct Host;

    std::thread_local! {
        static WAKES: Cell<u64> = const { Cell::new(0) };
    }

    impl Waiting for Host {
        fn wait(word: &AtomicU64, expected: u64) {
            let guard = CALLS.0.lock().expect("no panics");
            if word.load(Ordering::SeqCst) == expected {
                drop(CALLS.1.wait(guard).expect("no panics"));
            }
        }

        fn wake(_: &AtomicU64, _: u64) {
            WAKES.set(WAKES.get() + 1);
            let _guard = CALLS.0.lock().expect("no panics");
            CALLS.1.notify_all();
        }
    }

    #[test]
    fn lock_excludes_and_wakes_all_who_wait() {
        let shared = Arc::new((FutexLock::<Host>::new(), AtomicU64::new(0)));
        let threads: [_; 4] = core::array::from_fn(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for _ in 0..20_000 {
                    shared.0.lock();
                    // Not one operation: what another thread adds meanwhile would be lost.
                    let sum = shared.1.load(Ordering::Relaxed);
                    shared.1.store(sum + 1, Ordering::Relaxed);
                    shared.0.unlock();
                }
            })
        });
        for thread in threads {
            thread.join().expect("no panics");
        }
        assert_eq!((shared.1.load(Ordering::Relaxed), shared.0.try_lock(), shared.0.try_lock()), (80_000, true, false));
    }

    #[test]
    fn lock_nobody_waits_for_asks_the_kernel_nothing() {
        let lock = FutexLock::<Host>::new();
        for _ in 0..3 {
            lock.lock();
            lock.unlock();
        }
        assert_eq!(WAKES.get(), 0);
    }
}
