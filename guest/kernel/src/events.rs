//! Who waits for which interrupt.
//!
//! The interrupt says that there may be something new to look at, on a ring or a device; it can be taken, and told to its waiters,
//! by any processor at any time. So whoever waits takes a [ticket](Events::seen) first, then looks, and then waits for an
//! interrupt after the ticket: one that comes between the look and the wait ends the wait at once.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use spin::Mutex;

/// First vector of device interrupts.
const FIRST_VECTOR: u64 = 0x30;
/// Vectors of device interrupts.
const LINES: usize = 3;

/// How often an interrupt had been taken when somebody was about to look.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Ticket(u64);

/// The interrupt vectors of devices.
#[derive(Debug)]
pub struct Events([Mutex<Line>; LINES]);

/// One interrupt vector. Who waits is woken under the lock: that puts a task into a queue, and never comes back here.
#[derive(Debug)]
struct Line {
    /// How often it was taken.
    taken: u64,
    /// Everybody who waits for the next time.
    waiting: Vec<Waker>,
}

impl Events {
    /// Returns the table with nobody waiting.
    pub const fn new() -> Self {
        Self([const { Mutex::new(Line { taken: 0, waiting: Vec::new() }) }; LINES])
    }

    fn line(&self, vector: u64) -> &Mutex<Line> {
        let index = usize::try_from(vector.wrapping_sub(FIRST_VECTOR)).unwrap_or(0);
        &self.0[index % LINES]
    }

    /// Takes a ticket for [`Events::after`]. What has led to earlier interrupts can be seen from now on.
    pub fn seen(&self, vector: u64) -> Ticket {
        Ticket(self.line(vector).lock().taken)
    }

    /// Waits for an interrupt with `vector` after the ticket; one interrupt wakes everybody who waits for it.
    pub async fn after(&self, vector: u64, seen: Ticket) {
        poll_fn(|context| {
            let mut line = self.line(vector).lock();
            if line.taken != seen.0 {
                return Poll::Ready(());
            }
            if !line.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                line.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes who waits for the interrupts in `taken`: bit n stands for the n-th device vector; further bits for nothing here.
    pub fn deliver(&self, taken: u64) {
        for (bit, line) in self.0.iter().enumerate() {
            if taken & 1 << bit != 0 {
                let mut line = line.lock();
                line.taken += 1;
                // The list keeps its memory for the next time.
                line.waiting.drain(..).for_each(Waker::wake);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};

    use super::Events;
    use crate::wakes::Wakes;

    #[test]
    fn interrupt_between_the_look_and_the_wait_ends_the_wait_at_once() {
        let events = Events::new();
        let mut context = Context::from_waker(Waker::noop());
        let seen = events.seen(0x31);
        events.deliver(0b010);
        assert_eq!(pin!(events.after(0x31, seen)).poll(&mut context), Poll::Ready(()));
        let seen = events.seen(0x31);
        events.deliver(0b101);
        assert_eq!(pin!(events.after(0x31, seen)).poll(&mut context), Poll::Pending, "those were others");
    }

    #[test]
    fn interrupt_wakes_everybody_who_waits_for_it_once() {
        let (events, wakes) = (Events::new(), [Arc::new(Wakes::default()), Arc::new(Wakes::default())]);
        let wakers = wakes.clone().map(Waker::from);
        let seen = events.seen(0x30);
        let [mut one, mut other] = [pin!(events.after(0x30, seen)), pin!(events.after(0x30, seen))];
        let counts = || wakes.each_ref().map(|wakes| wakes.count());
        for _ in 0..2 {
            assert_eq!(one.as_mut().poll(&mut Context::from_waker(&wakers[0])), Poll::Pending);
            assert_eq!(other.as_mut().poll(&mut Context::from_waker(&wakers[1])), Poll::Pending);
        }
        assert_eq!(counts(), [0, 0]);
        events.deliver(0b1);
        events.deliver(0b1);
        assert_eq!(counts(), [1, 1]);
        assert_eq!(one.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
    }
}
