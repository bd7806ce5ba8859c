//! One queue of work for each processor, one of the service's work for all, and which processors are idle.
//!
//! The queues are free of hardware, so they are tested on the host with threads. A processor takes the oldest work of its own
//! queue; when that is empty it takes the oldest of another's. When there is nothing anywhere it notes that it is idle, and halts.
//!
//! What serves the host and all programs comes first, so that no number of threads that are ready keeps it waiting: a processor
//! takes it and the other work by turns.
//!
//! A processor that waits for the host takes nothing, for as long as that lasts. What lies in its queue is not left to idle
//! processors alone: one that always has work of its own looks at the others' queues every few times.
//!
//! # Why no work is left lying while all processors halt
//!
//! Who adds work does, in this order: put it into the queue and set the queue's bit in the mask of those that hold work; a full
//! fence; read the idle mask; wake an idle processor, if there is one. Who goes idle does: set its bit; a full fence; read the mask
//! of queues that hold work; halt if that is 0. One of two reads must see the other's store, because both fences are in one order.
//! If the adder's fence comes first, the idler sees the queue's bit and doesn't halt. If the idler's comes first, the adder sees the
//! idler's bit and takes it away: only one adder can, and that one sends an interrupt. The idler runs with interrupts off from its look at the lengths to the instruction that
//! lets them in and halts at once, so an interrupt that was sent before it halts ends the halt. An adder that sees no idle
//! processor is not idle itself, nor are the others: it, or whoever comes first, takes the work before it halts. The same goes for
//! work that was added quietly: its processor takes from its queue next, and halts only when it has found that empty.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use spin::Mutex;

use crate::shootdown::MAX_CPUS;

/// Whom work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The host, or all programs.
    Service,
    /// One program.
    Thread,
}

/// The bit of the service's queue among those of the queues that hold work.
const SERVICE: u64 = 1 << 63;

/// How many times a processor takes work of its own, while others' queues hold some, before it takes theirs.
const MOST_OWN: u32 = 4;

/// The work of one processor.
///
/// The lock is held for no more than one push or pop, so waiting for it needs no care.
#[derive(Debug)]
#[repr(align(64))]
struct Queue<T> {
    work: Mutex<VecDeque<T>>,
    /// How many times its processor has taken its own work while others' queues held some. Used by that processor alone.
    own: AtomicU32,
    /// Whether what its processor took last was the service's work. Used by that processor alone.
    has_served: AtomicBool,
}

impl<T> Queue<T> {
    const fn new() -> Self {
        Self { work: Mutex::new(VecDeque::new()), own: AtomicU32::new(0), has_served: AtomicBool::new(false) }
    }
}

/// All processors' work.
#[derive(Debug)]
pub struct RunQueues<T> {
    queues: [Queue<T>; MAX_CPUS],
    service: Mutex<VecDeque<T>>,
    /// Bit n: queue n holds work; [`SERVICE`]: the service's does. Changed under that queue's lock, looked at without it.
    ready: AtomicU64,
    /// Bit n: processor n is about to halt or halts, and nobody has woken it yet.
    idle: AtomicU64,
}

impl<T> RunQueues<T> {
    /// Returns queues without work.
    pub const fn new() -> Self {
        Self {
            queues: [const { Queue::new() }; MAX_CPUS],
            service: Mutex::new(VecDeque::new()),
            ready: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        }
    }

    /// Adds work on processor `cpu`, to its queue or the service's. If some processor is idle, one such is handed to `wake`.
    pub fn push(&self, cpu: usize, class: Class, work: T, wake: impl FnOnce(usize)) {
        self.push_quietly(cpu, class, work);
        self.wake(wake);
    }

    /// Adds work on processor `cpu`, which runs this and is about to take work itself: nobody is woken for it.
    pub fn push_quietly(&self, cpu: usize, class: Class, work: T) {
        let (queue, bit) = match (class, self.queues.get(cpu)) {
            (Class::Service, _) => (&self.service, SERVICE),
            (Class::Thread, Some(queue)) => (&queue.work, bit(cpu)),
            (Class::Thread, None) => return,
        };
        let mut waiting = queue.lock();
        waiting.push_back(work);
        if waiting.len() == 1 {
            self.ready.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Hands an idle processor to `wake`, if there is one, and work in any queue. Whoever has taken work and is about to do it calls
    /// this, so that what else there is does not wait for it.
    pub fn share(&self, wake: impl FnOnce(usize)) {
        fence(Ordering::SeqCst);
        if self.idle.load(Ordering::Relaxed) != 0 && self.has_work() {
            self.wake_one(wake);
        }
    }

    /// Hands an idle processor to `wake`, if there is one: a processor that is not idle yet sees, before it halts, what was stored before
    /// this.
    pub fn wake(&self, wake: impl FnOnce(usize)) {
        fence(Ordering::SeqCst);
        if self.idle.load(Ordering::Relaxed) != 0 {
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
            let first = idle & idle.wrapping_neg();
            if self.idle.fetch_and(!first, Ordering::SeqCst) & first != 0 {
                return wake(usize::try_from(first.trailing_zeros()).unwrap_or(0));
            }
        }
    }

    /// Takes the next work for processor `cpu`, which runs this: the service's, its own or that of another one.
    pub fn pop(&self, cpu: usize) -> Option<T> {
        let queue = self.queues.get(cpu)?;
        let ready = self.ready.load(Ordering::Relaxed);
        if ready & SERVICE != 0 && (ready == SERVICE || !queue.has_served.load(Ordering::Relaxed)) {
            queue.has_served.store(true, Ordering::Relaxed);
            if let Some(work) = self.take_from(&self.service, SERVICE) {
                return Some(work);
            }
        }
        queue.has_served.store(false, Ordering::Relaxed);
        if ready & !(bit(cpu) | SERVICE) == 0 {
            return self.take(cpu);
        }
        let own = queue.own.load(Ordering::Relaxed);
        if own < MOST_OWN && ready & bit(cpu) != 0 {
            queue.own.store(own + 1, Ordering::Relaxed);
            return self.take(cpu).or_else(|| self.steal(cpu));
        }
        queue.own.store(0, Ordering::Relaxed);
        self.steal(cpu).or_else(|| self.take(cpu))
    }

    /// Takes another processor's work: of the first one behind `cpu` that has some.
    fn steal(&self, cpu: usize) -> Option<T> {
        let others = self.ready.load(Ordering::Relaxed) & !bit(cpu);
        (cpu + 1..MAX_CPUS).chain(0..cpu).filter(|other| others & bit(*other) != 0).find_map(|other| self.take(other))
    }

    fn take(&self, cpu: usize) -> Option<T> {
        if self.ready.load(Ordering::Relaxed) & bit(cpu) == 0 {
            return None;
        }
        self.take_from(&self.queues.get(cpu)?.work, bit(cpu))
    }

    fn take_from(&self, queue: &Mutex<VecDeque<T>>, bit: u64) -> Option<T> {
        let mut waiting = queue.lock();
        let work = waiting.pop_front();
        if waiting.is_empty() {
            self.ready.fetch_and(!bit, Ordering::Relaxed);
        }
        work
    }

    /// Tells whether any queue holds work.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.ready.load(Ordering::Relaxed) != 0
    }

    /// Tells whether the service's queue holds work.
    #[inline]
    pub fn has_service(&self) -> bool {
        self.ready.load(Ordering::Relaxed) & SERVICE != 0
    }

    /// Calls `halt` on processor `cpu`, unless there is work in any queue. `halt` returns when the processor was woken, or earlier.
    pub fn rest(&self, cpu: usize, halt: impl FnOnce()) {
        self.idle.fetch_or(bit(cpu), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.has_work() {
            halt();
        }
        self.idle.fetch_and(!bit(cpu), Ordering::SeqCst);
    }
}

/// Returns the bit of a processor.
const fn bit(cpu: usize) -> u64 {
    1 << cpu
}

#[cfg(test)]
mod test;
