//! Waiting for something that happens under a lock, without holding the lock.

use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use spin::Mutex;

/// A queue of tasks that wait for the next [`WaitQueue::wake_all`].
///
/// Wakers are called with locks of maps and of the objects held, and must do no more than have their tasks run later.
///
/// No wakeup is lost as long as [`WaitQueue::wait`] is called under the lock that guards the condition
/// and `wake_all` after the condition changed: a wait that began before a wake ends with it, even if it
/// is first polled later.
pub(crate) struct WaitQueue {
    inner: Mutex<Inner>,
    #[cfg(test)]
    late: Mutex<Late>,
}

/// What a test lets the waits on a queue do before they are first queued.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Late {
    #[default]
    Never,
    /// They let others run.
    Queued,
    /// And they begin only then, which is wrong.
    Begun,
}

struct Inner {
    /// How often the queue was woken.
    wakes: u64,
    next_ticket: u64,
    wakers: Vec<(u64, Waker)>,
}

impl WaitQueue {
    pub(crate) const fn new() -> Self {
        Self {
            inner: Mutex::new(Inner { wakes: 0, next_ticket: 0, wakers: Vec::new() }),
            #[cfg(test)]
            late: Mutex::new(Late::Never),
        }
    }

    /// Begins to wait: the future ends with the first wake after this call.
    pub(crate) fn wait(&self) -> Wait<'_> {
        Wait {
            queue: self,
            wakes: self.inner.lock().wakes,
            ticket: None,
            #[cfg(test)]
            polls: 0,
        }
    }

    /// Ends every wait that has begun.
    #[inline]
    pub(crate) fn wake_all(&self) {
        let mut inner = self.inner.lock();
        inner.wakes += 1;
        if !inner.wakers.is_empty() {
            let wakers = core::mem::take(&mut inner.wakers);
            drop(inner);
            Self::wake(wakers);
        }
    }

    /// A waker may poll at once, so none is called under the lock.
    fn wake(wakers: Vec<(u64, Waker)>) {
        for (_, waker) in wakers {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn set_late(&self, late: Late) {
        *self.late.lock() = late;
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.inner.lock().wakers.len()
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue").finish_non_exhaustive()
    }
}

/// One task's wait. Dropping it leaves nothing behind.
#[must_use = "a wait does nothing unless it is awaited"]
pub(crate) struct Wait<'a> {
    queue: &'a WaitQueue,
    /// The queue's count of wakes when the wait began.
    wakes: u64,
    /// Under which number the waker is queued.
    ticket: Option<u64>,
    #[cfg(test)]
    polls: u32,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let queue = self.queue;
        #[cfg(test)]
        {
            let late = *queue.late.lock();
            self.polls += 1;
            if late != Late::Never && self.polls == 1 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if late == Late::Begun && self.polls == 2 {
                self.wakes = queue.inner.lock().wakes;
            }
        }
        let mut inner = queue.inner.lock();
        if inner.wakes != self.wakes {
            self.ticket = None;
            return Poll::Ready(());
        }
        let waker = context.waker();
        let queued = self.ticket.and_then(|mine| inner.wakers.iter_mut().find(|(ticket, _)| *ticket == mine));
        if let Some((_, known)) = queued {
            // Dropping a waker may drop a task, and with it another wait, so none is dropped under the lock.
            let old = core::mem::replace(known, waker.clone());
            drop(inner);
            drop(old);
        } else {
            let ticket = inner.next_ticket;
            inner.next_ticket += 1;
            inner.wakers.push((ticket, waker.clone()));
            self.ticket = Some(ticket);
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(mine) = self.ticket {
            let mut inner = self.queue.inner.lock();
            let queued = inner.wakers.iter().position(|(ticket, _)| *ticket == mine);
            let waker = queued.map(|at| inner.wakers.swap_remove(at));
            drop(inner);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod test {
    use alloc::boxed::Box;
    use core::pin::pin;
    use core::task::{Context, Waker};

    use super::WaitQueue;

    #[test]
    fn wait_woken_before_its_first_poll_is_ready() {
        let queue = WaitQueue::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = pin!(queue.wait());
        queue.wake_all();
        assert!(wait.as_mut().poll(&mut context).is_ready());
        let mut late = pin!(queue.wait());
        assert!(late.as_mut().poll(&mut context).is_pending(), "a wake does not serve later waits");
    }

    #[test]
    fn wait_polled_twice_queues_one_waker() {
        let queue = WaitQueue::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = pin!(queue.wait());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        assert_eq!(queue.waiting(), 1);
    }

    #[test]
    fn wait_dropped_while_queued_leaves_no_waker() {
        let queue = WaitQueue::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(queue.wait());
        let mut second = Box::pin(queue.wait());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert_eq!(queue.waiting(), 1);
        queue.wake_all();
        assert!(second.as_mut().poll(&mut context).is_ready());
        drop(second);
        assert_eq!(queue.waiting(), 0);
    }
}
