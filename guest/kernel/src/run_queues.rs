//! One queue of work for each processor, and which processors are idle.
//!
//! The queues are free of hardware, so they are tested on the host with threads. A processor takes the oldest work of its own
//! queue; when that is empty it takes the oldest of another's. When there is nothing anywhere it notes that it is idle, and halts.
//!
//! # Why no work is left lying while all processors halt
//!
//! Who adds work does, in this order: put it into the queue and store the queue's length; a full fence; read the idle mask;
//! wake an idle processor, if there is one. Who goes idle does: set its bit; a full fence; read all lengths; halt if they are 0.
//! One of two reads must see the other's store, because both fences are in one order. If the adder's fence comes first, the
//! idler sees the length and doesn't halt. If the idler's comes first, the adder sees the bit and takes it away: only one adder
//! can, and that one sends an interrupt. The idler runs with interrupts off from its look at the lengths to the instruction that
//! lets them in and halts at once, so an interrupt that was sent before it halts ends the halt. An adder that sees no idle
//! processor is not idle itself, nor are the others: it, or whoever comes first, takes the work before it halts. The same goes for
//! work that was added quietly: its processor takes from its queue next, and halts only when it has found that empty.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use spin::Mutex;

use crate::shootdown::MAX_CPUS;

/// The work of one processor.
///
/// The lock is held for no more than one push or pop, so waiting for it needs no care.
#[derive(Debug)]
#[repr(align(64))]
struct Queue<T> {
    /// How much there is, to be looked at without the lock.
    length: AtomicU64,
    work: Mutex<VecDeque<T>>,
}

/// All processors' work.
#[derive(Debug)]
pub struct RunQueues<T> {
    queues: [Queue<T>; MAX_CPUS],
    /// Bit n: processor n is about to halt or halts, and nobody has woken it yet.
    idle: AtomicU64,
}

impl<T> RunQueues<T> {
    /// Returns queues without work.
    pub const fn new() -> Self {
        let queues = [const { Queue { length: AtomicU64::new(0), work: Mutex::new(VecDeque::new()) } }; MAX_CPUS];
        Self { queues, idle: AtomicU64::new(0) }
    }

    /// Adds work to the queue of processor `cpu`. If some processor is idle, one such is handed to `wake`.
    pub fn push(&self, cpu: usize, work: T, wake: impl FnOnce(usize)) {
        self.push_quietly(cpu, work);
        fence(Ordering::SeqCst);
        if self.idle.load(Ordering::Relaxed) != 0 {
            self.wake_one(wake);
        }
    }

    /// Adds work to the queue of processor `cpu`, which runs this and is about to take work itself: nobody is woken for it.
    pub fn push_quietly(&self, cpu: usize, work: T) {
        let Some(queue) = self.queues.get(cpu) else { return };
        let mut waiting = queue.work.lock();
        waiting.push_back(work);
        queue.length.store(waiting.len() as u64, Ordering::Relaxed);
    }

    /// Hands an idle processor to `wake`, if there is one, and work in any of the first `count` queues. Whoever has taken work and
    /// is about to do it calls this, so that what else there is does not wait for it.
    pub fn share(&self, count: usize, wake: impl FnOnce(usize)) {
        fence(Ordering::SeqCst);
        if self.idle.load(Ordering::Relaxed) != 0 && self.has_any(count) {
            self.wake_one(wake);
        }
    }

    /// Takes one processor out of the idle mask and wakes it.
    #[cold]
    fn wake_one(&self, wake: impl FnOnce(usize)) {
        loop {
            let idle = self.idle.load(Ordering::SeqCst);
            if idle == 0 {
                return;
            }
            let bit = idle & idle.wrapping_neg();
            if self.idle.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
                return wake(usize::try_from(bit.trailing_zeros()).unwrap_or(0));
            }
        }
    }

    /// Takes the next work of processor `cpu`, or of another one of the first `count`.
    pub fn pop(&self, cpu: usize, count: usize) -> Option<T> {
        self.take(cpu).or_else(|| if count > 1 { self.steal(cpu, count) } else { None })
    }

    fn steal(&self, cpu: usize, count: usize) -> Option<T> {
        (cpu + 1..count).chain(0..cpu).find_map(|other| self.take(other))
    }

    fn take(&self, cpu: usize) -> Option<T> {
        let queue = self.queues.get(cpu)?;
        if queue.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut waiting = queue.work.lock();
        let work = waiting.pop_front();
        queue.length.store(waiting.len() as u64, Ordering::Relaxed);
        work
    }

    /// Tells whether the queue of processor `cpu` holds work.
    pub fn has_work(&self, cpu: usize) -> bool {
        self.queues.get(cpu).is_some_and(|queue| queue.length.load(Ordering::Relaxed) != 0)
    }

    fn has_any(&self, count: usize) -> bool {
        (0..count).any(|cpu| self.has_work(cpu))
    }

    /// Calls `halt` on processor `cpu`, unless there is work in any of the first `count` queues. `halt` returns when the processor
    /// was woken, or earlier.
    pub fn rest(&self, cpu: usize, count: usize, halt: impl FnOnce()) {
        let bit = 1 << cpu;
        self.idle.fetch_or(bit, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.has_any(count) {
            halt();
        }
        self.idle.fetch_and(!bit, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod test;
