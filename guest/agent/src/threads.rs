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

/// Whom a thread works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whoever asked for an operation.
    Operation,
    /// Nobody: the system does it for itself, and it ends.
    Background,
    /// Whoever calls, as long as it is wanted.
    Service,
}

/// Threads by key, those that can go on in the order in which they were woken.
pub(crate) struct Threads<T> {
    all: BTreeMap<u64, Thread<T>>,
    ready: Arc<Ready>,
    last_key: u64,
}

struct Thread<T> {
    work: Work<T>,
    kind: Kind,
    wakeup: Arc<Wakeup>,
}

/// Keys of threads that were woken and not polled since.
#[derive(Default)]
struct Ready(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    keys: VecDeque<u64>,
    /// Who wants to know when there is one.
    watcher: Option<Waker>,
}

/// Ends when a thread of the agent's can go on; see [`Agent::woken`](crate::Agent::woken).
#[must_use = "nothing is waited for unless it is awaited"]
pub struct Woken(Arc<Ready>);

impl fmt::Debug for Woken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Woken").finish_non_exhaustive()
    }
}

impl Future for Woken {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.0.lock();
        if queue.keys.is_empty() {
            queue.watcher = Some(context.waker().clone());
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

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
        if !self.is_queued.swap(true, Ordering::SeqCst) {
            let watcher = {
                let mut queue = self.ready.0.lock();
                queue.keys.push_back(self.key);
                queue.watcher.take()
            };
            // A waker may poll at once, so it is not called under the lock.
            if let Some(watcher) = watcher {
                watcher.wake();
            }
        }
    }
}

impl<T> Threads<T> {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), ready: Arc::default(), last_key: 0 }
    }

    /// Returns how many threads of a kind have not ended.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.all.values().filter(|thread| thread.kind == kind).count()
    }

    /// Waits until a thread can go on, which somebody outside must have seen to. One such wait is served at a time.
    pub(crate) fn woken(&self) -> Woken {
        Woken(Arc::clone(&self.ready))
    }

    /// Tells whether a thread was woken and not polled since.
    pub(crate) fn can_go_on(&self) -> bool {
        !self.ready.0.lock().keys.is_empty()
    }

    /// Polls a new thread for the first time. One that does not end is kept; both get a key of their own.
    pub(crate) fn start(&mut self, kind: Kind, work: Work<T>) -> (u64, Option<T>) {
        self.last_key += 1;
        let key = self.last_key;
        let wakeup = Arc::new(Wakeup { key, is_queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        (key, self.poll(Thread { work, kind, wakeup }))
    }

    /// Polls the thread that was woken first; `None` when no thread can go on. A thread that ended leaves its key and
    /// its output.
    pub(crate) fn step(&mut self) -> Option<Option<(u64, T)>> {
        let key = self.ready.0.lock().keys.pop_front()?;
        // A thread that has ended may have been woken since.
        let Some(thread) = self.all.remove(&key) else { return Some(None) };
        Some(self.poll(thread).map(|output| (key, output)))
    }

    fn poll(&mut self, mut thread: Thread<T>) -> Option<T> {
        // A wake during the poll queues the thread again. An exchange, for a plain store could come after the looks of the poll,
        // and the wake between them would find the thread queued still.
        thread.wakeup.is_queued.swap(false, Ordering::SeqCst);
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
    use super::{Kind, Threads};
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use alloc::vec::Vec;
    use core::future::poll_fn;
    use core::pin::pin;
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::task::{Context, Poll, Waker};
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
            let (key, output) = threads.start(Kind::Operation, Box::pin(work));
            assert_eq!(output, None);
            keys.push(key);
        }
        assert_eq!((threads.step(), threads.count(Kind::Operation)), (None, 3));
        open.store(true, Ordering::Relaxed);
        for which in [2, 0, 2, 1] {
            wakers.lock()[which].wake_by_ref();
        }
        let ended: Vec<_> = core::iter::from_fn(|| threads.step()).flatten().collect();
        assert_eq!(ended, [(keys[2], 2), (keys[0], 0), (keys[1], 1)]);
        wakers.lock()[0].wake_by_ref();
        assert_eq!((threads.step(), threads.step(), threads.count(Kind::Operation)), (Some(None), None, 0));
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
        let (key, output) = threads.start(Kind::Operation, Box::pin(work));
        assert_eq!(output, None);
        let ended: Vec<_> = core::iter::from_fn(|| threads.step()).flatten().collect();
        assert_eq!(ended, [(key, "done")]);
    }

    #[test]
    fn woken_ends_with_the_next_wake_and_at_once_where_a_thread_is_ready() {
        let mut threads = Threads::<()>::new();
        let inner = Arc::new(Mutex::new(None::<Waker>));
        let known = Arc::clone(&inner);
        let work = poll_fn(move |context| {
            *known.lock() = Some(context.waker().clone());
            Poll::Pending
        });
        threads.start(Kind::Service, Box::pin(work));
        assert_eq!((threads.count(Kind::Operation), threads.count(Kind::Service)), (0, 1));
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let mut woken = pin!(threads.woken());
        assert!(woken.as_mut().poll(&mut context).is_pending());
        inner.lock().as_ref().expect("it was polled").wake_by_ref();
        assert!(flag.0.load(Ordering::Relaxed));
        assert!(woken.as_mut().poll(&mut context).is_ready());
        assert!(pin!(threads.woken()).poll(&mut context).is_ready());
        assert_eq!(threads.step(), Some(None));
        assert!(pin!(threads.woken()).poll(&mut context).is_pending());
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
