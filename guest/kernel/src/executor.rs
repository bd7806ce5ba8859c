//! The executor of one processor: runs the tasks that are ready, halts when none is.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::arch;

/// First vector of device interrupts.
const FIRST_VECTOR: u64 = 0x30;
/// Vectors of device interrupts.
const LINES: usize = 4;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Ids of tasks that asked to run. Interrupt handlers don't touch it.
type ReadyQueue = Mutex<VecDeque<u64>>;

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(self.id);
        }
    }
}

/// Tasks and the queue of those that can go on.
pub struct Executor {
    ready: Arc<ReadyQueue>,
    spawned: Mutex<VecDeque<Task>>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    /// Returns an executor without tasks.
    pub fn new() -> Self {
        Self { ready: Arc::new(Mutex::new(VecDeque::new())), spawned: Mutex::new(VecDeque::new()) }
    }

    /// Adds a task; it runs as soon as the current one waits.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawned.lock().push_back(Box::pin(task));
    }

    /// Runs tasks for ever, halting while none is ready. `events` is told of each interrupt vector taken.
    pub fn run(&self, events: &Events) -> ! {
        let mut tasks: BTreeMap<u64, (Task, Arc<TaskWaker>)> = BTreeMap::new();
        let mut next_id = 0;
        loop {
            while let Some(task) = { self.spawned.lock().pop_front() } {
                let waker =
                    Arc::new(TaskWaker { id: next_id, queued: AtomicBool::new(true), ready: Arc::clone(&self.ready) });
                tasks.insert(next_id, (task, waker));
                self.ready.lock().push_back(next_id);
                next_id += 1;
            }
            let id = { self.ready.lock().pop_front() };
            if let Some(id) = id {
                if let Some((task, waker)) = tasks.get_mut(&id) {
                    waker.queued.store(false, Ordering::Release);
                    let context_waker = Waker::from(Arc::clone(waker));
                    if task.as_mut().poll(&mut Context::from_waker(&context_waker)).is_ready() {
                        tasks.remove(&id);
                    }
                }
                continue;
            }
            if !events.deliver(arch::take_events()) {
                arch::halt_until_interrupt();
            }
        }
    }
}

/// Who waits for which interrupt.
#[derive(Debug)]
pub struct Events(Mutex<[Line; LINES]>);

/// One interrupt vector.
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
        Self(Mutex::new([const { Line { taken: 0, waiting: Vec::new() } }; LINES]))
    }

    /// Waits for the next interrupt with `vector`; one interrupt wakes everybody who waits for it.
    ///
    /// Interrupts are delivered only while no task runs, so none is missed between a look at what the interrupt is about
    /// and this wait, as long as the task awaits nothing else in between.
    pub async fn interrupt(&self, vector: u64) {
        let line = usize::try_from(vector.wrapping_sub(FIRST_VECTOR)).unwrap_or(0) % LINES;
        let mut seen = None;
        core::future::poll_fn(|context| {
            let mut lines = self.0.lock();
            let Line { taken, waiting } = &mut lines[line];
            if *seen.get_or_insert(*taken) != *taken {
                return Poll::Ready(());
            }
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes who waits for the events in `taken`; says whether there was any.
    fn deliver(&self, taken: u64) -> bool {
        for (bit, line) in self.0.lock().iter_mut().enumerate() {
            if taken & 1 << bit != 0 {
                line.taken += 1;
                line.waiting.drain(..).for_each(Waker::wake);
            }
        }
        taken != 0
    }
}
