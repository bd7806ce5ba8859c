//! The agent's threads: operations under way, and which of them can go on.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::task::Wake;
use core::fmt;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;

/// An operation under way. It owns what it works on, and is polled to its end whoever started it.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Threads by key, those that can go on in the order in which they were woken.
pub(crate) struct Threads<T> {
    all: BTreeMap<u64, Thread<T>>,
    ready: Arc<Ready>,
    last_key: u64,
}

struct Thread<T> {
    work: Work<T>,
    wakeup: Arc<Wakeup>,
}

/// Keys of threads that were woken and not polled since.
#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

/// What wakes one thread.
struct Wakeup {
    key: u64,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            self.ready.0.lock().push_back(self.key);
        }
    }
}

impl<T> Threads<T> {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), ready: Arc::default(), last_key: 0 }
    }

    /// Returns how many threads have not ended.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Polls a new thread for the first time. One that does not end is kept; both get a key of their own.
    pub(crate) fn start(&mut self, work: Work<T>) -> (u64, Option<T>) {
        self.last_key += 1;
        let key = self.last_key;
        let wakeup = Arc::new(Wakeup { key, is_queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        (key, self.poll(Thread { work, wakeup }))
    }

    /// Polls the thread that was woken first; `None` when no thread can go on. A thread that ended leaves its key and
    /// its output.
    pub(crate) fn step(&mut self) -> Option<Option<(u64, T)>> {
        let key = self.ready.0.lock().pop_front()?;
        // A thread that has ended may have been woken since.
        let Some(thread) = self.all.remove(&key) else { return Some(None) };
        Some(self.poll(thread).map(|output| (key, output)))
    }

    fn poll(&mut self, mut thread: Thread<T>) -> Option<T> {
        // A wake during the poll queues the thread again.
        thread.wakeup.is_queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&thread.wakeup));
        match thread.work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => {
                self.all.insert(thread.wakeup.key, thread);
                None
            }
        }
    }
}

impl<T> fmt::Debug for Threads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("waiting", &self.all.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use super::Threads;
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use core::future::poll_fn;
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::task::{Poll, Waker};
    use spin::Mutex;

    #[test]
    fn threads_go_on_in_the_order_of_their_wakes() {
        let mut threads = Threads::new();
        let (wakers, open) = (Arc::new(Mutex::new(Vec::<Waker>::new())), Arc::new(AtomicBool::new(false)));
        let mut keys = Vec::new();
        for number in 0..3 {
            let (wakers, open) = (Arc::clone(&wakers), Arc::clone(&open));
            let work = poll_fn(move |context| {
                if open.load(Ordering::Relaxed) {
                    return Poll::Ready(number);
                }
                wakers.lock().push(context.waker().clone());
                Poll::Pending
            });
            let (key, output) = threads.start(Box::pin(work));
            assert_eq!(output, None);
            keys.push(key);
        }
        assert_eq!((threads.step(), threads.len()), (None, 3));
        open.store(true, Ordering::Relaxed);
        for which in [2, 0, 2, 1] {
            wakers.lock()[which].wake_by_ref();
        }
        let ended: Vec<_> = core::iter::from_fn(|| threads.step()).flatten().collect();
        assert_eq!(ended, [(keys[2], 2), (keys[0], 0), (keys[1], 1)]);
        wakers.lock()[0].wake_by_ref();
        assert_eq!((threads.step(), threads.step(), threads.len()), (Some(None), None, 0));
    }

    #[test]
    fn thread_that_wakes_itself_is_polled_again() {
        let mut threads = Threads::new();
        let mut left = 3;
        let work = poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready("done");
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let (key, output) = threads.start(Box::pin(work));
        assert_eq!(output, None);
        let ended: Vec<_> = core::iter::from_fn(|| threads.step()).flatten().collect();
        assert_eq!(ended, [(key, "done")]);
    }
}
