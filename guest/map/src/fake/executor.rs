//! A deterministic executor.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use super::processor::set_idle;

/// Runs tasks one poll at a time, in an order that a seed decides, or whoever calls [`Executor::poll`].
pub struct Executor<'a> {
    tasks: Vec<Task<'a>>,
    spawned: usize,
    random: u64,
}

struct Task<'a> {
    /// How many tasks were added before this one.
    number: usize,
    future: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    runnable: Arc<Runnable>,
}

/// Whether a task was woken since it was last polled.
struct Runnable(AtomicBool);

impl Wake for Runnable {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a task returned, once it has.
#[derive(Debug)]
pub struct Output<T>(Arc<Mutex<Option<T>>>);

impl<T> Output<T> {
    /// Takes the output out; `None` before the task has ended, and after it was taken.
    pub fn take(&self) -> Option<T> {
        self.0.lock().take()
    }

    /// Tells whether the task has ended and its output was not taken yet.
    pub fn is_ready(&self) -> bool {
        self.0.lock().is_some()
    }
}

/// Tasks are left and none of them can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlock {
    /// How many tasks are left.
    pub tasks: usize,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks wait and nothing will wake them", self.tasks)
    }
}

impl core::error::Error for Deadlock {}

impl<'a> Executor<'a> {
    /// Creates an executor without tasks. Equal seeds give equal orders.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { tasks: Vec::new(), spawned: 0, random: seed }
    }

    /// Adds a task, runnable from the start.
    pub fn spawn<T: Send + 'a>(&mut self, future: impl Future<Output = T> + Send + 'a) -> Output<T> {
        let output = Output(Arc::new(Mutex::new(None)));
        let slot = Arc::clone(&output.0);
        let future = Box::pin(async move {
            let value = future.await;
            *slot.lock() = Some(value);
        });
        let runnable = Arc::new(Runnable(AtomicBool::new(true)));
        self.tasks.push(Task { number: self.spawned, future, runnable });
        self.spawned += 1;
        output
    }

    /// Returns how many tasks have not ended.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.tasks.len()
    }

    /// Returns the numbers of the runnable tasks, in order: how many tasks had been added before each.
    pub fn runnable(&self) -> impl Iterator<Item = usize> {
        self.tasks.iter().filter(|task| task.runnable.0.load(Ordering::Relaxed)).map(|task| task.number)
    }

    /// Polls the task of that number; `false` if it has ended or is not runnable.
    pub fn poll(&mut self, number: usize) -> bool {
        let Some(at) = self.tasks.iter().position(|task| task.number == number) else { return false };
        let task = &mut self.tasks[at];
        if !task.runnable.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&task.runnable));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(at);
        }
        true
    }

    /// Polls one of the runnable tasks; `false` when there is none.
    pub fn step(&mut self) -> bool {
        let runnable: Vec<usize> = self.runnable().collect();
        if runnable.is_empty() {
            return false;
        }
        let number = runnable[self.draw(runnable.len())];
        self.poll(number)
    }

    /// Polls until no task is runnable and returns how many are left.
    pub fn run_until_stalled(&mut self) -> usize {
        while self.step() {}
        self.tasks.len()
    }

    /// Polls until every task has ended.
    ///
    /// # Errors
    /// [`Deadlock`] when tasks are left that nothing will wake.
    pub fn run(&mut self) -> Result<(), Deadlock> {
        match self.run_until_stalled() {
            0 => Ok(()),
            tasks => Err(Deadlock { tasks }),
        }
    }

    /// Returns a number below `below` (splitmix64).
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % below as u64).unwrap_or(0)
    }
}

impl fmt::Debug for Executor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// Polls `future` until it has ended.
///
/// # Panics
/// When it waits and nothing will wake it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let runnable = Arc::new(Runnable(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&runnable));
    while runnable.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
    }
    panic!("{}", Deadlock { tasks: 1 });
}

/// Polls `future` until it has ended, while other threads do what it waits for. A processor that the thread plays is idle
/// meanwhile.
///
/// # Panics
/// When nothing has woken it for 20 seconds.
pub fn park_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut slept = 0;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        set_idle(true);
        // What it waits for is to take its time, also where few threads can run at a time.
        std::thread::yield_now();
        // It may have been woken already, or by something else; then it is polled in vain.
        let begun = std::time::Instant::now();
        std::thread::park_timeout(SLICE);
        set_idle(false);
        slept = if begun.elapsed() < SLICE { 0 } else { slept + 1 };
        assert!(slept < MOST_SLICES, "{}", Deadlock { tasks: 1 });
    }
}

/// After how long a thread looks again although nobody has woken it, which must find nothing.
const SLICE: std::time::Duration = std::time::Duration::from_millis(100);
/// How often in a row, before that counts as a deadlock.
const MOST_SLICES: u32 = 200;

/// A thread that waits.
struct Parked(std::thread::Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Lets other tasks run once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;
    use core::future::pending;

    use spin::Mutex;

    use super::{Deadlock, Executor, block_on, yield_now};

    fn order(seed: u64) -> Vec<u32> {
        let order = Mutex::new(Vec::new());
        let mut executor = Executor::new(seed);
        for task in 0..4 {
            let order = &order;
            executor.spawn(async move {
                for _ in 0..3 {
                    order.lock().push(task);
                    yield_now().await;
                }
            });
        }
        assert_eq!(executor.run(), Ok(()));
        drop(executor);
        order.into_inner()
    }

    #[test]
    fn run_same_seed_gives_the_same_order_and_seeds_differ() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn poll_runs_the_chosen_task_and_refuses_one_that_can_not_run() {
        let mut executor = Executor::new(0);
        let never = executor.spawn(pending::<()>());
        let twice = executor.spawn(yield_now());
        assert_eq!(executor.runnable().collect::<Vec<_>>(), [0, 1]);
        assert!(executor.poll(0) && !executor.poll(0), "nothing has woken it");
        assert!(executor.poll(1) && executor.poll(1));
        assert_eq!((twice.take(), never.is_ready(), executor.remaining()), (Some(()), false, 1));
        assert!(!executor.poll(1) && !executor.poll(2));
    }

    #[test]
    fn run_task_that_nothing_wakes_is_a_deadlock() {
        let mut executor = Executor::new(0);
        let never = executor.spawn(pending::<()>());
        let ended = executor.spawn(async { 7 });
        assert_eq!(executor.run(), Err(Deadlock { tasks: 1 }));
        assert_eq!(ended.take(), Some(7));
        assert!(!never.is_ready());
    }

    #[test]
    #[should_panic(expected = "nothing will wake")]
    fn block_on_future_that_nothing_wakes_panics() {
        block_on(pending::<()>());
    }
}
