//! Runs the tasks that are ready, on every processor; halts those that find none.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::Ordering;
use core::task::Poll;

use async_task::Runnable;

use crate::events::Events;
use crate::percpu;
use crate::run_queues::{Class, RunQueues};
use crate::{arch, timer};

static QUEUES: RunQueues<Runnable> = RunQueues::new();
static EVENTS: Events = Events::new();

/// Returns the interrupts of devices, for whoever waits for them.
pub fn events() -> &'static Events {
    &EVENTS
}

/// Adds a program's thread. It runs on whatever processor comes to it first.
pub fn spawn_thread(thread: impl Future<Output = ()> + Send + 'static) {
    let (runnable, handle) = async_task::spawn(thread, |task| schedule(Class::Thread, task));
    handle.detach();
    runnable.schedule();
}

/// Adds a task that serves the host or all programs. It runs before any number of threads, on whatever processor comes to it first; it
/// must give way, and not often.
pub fn spawn_service(task: impl Future<Output = ()> + Send + 'static) {
    let serving = async {
        let mut task = pin!(task);
        poll_fn(|context| {
            before_service();
            task.as_mut().poll(context)
        })
        .await;
    };
    let (runnable, handle) = async_task::spawn(serving, |task| schedule(Class::Service, task));
    handle.detach();
    runnable.schedule();
}

/// Makes this processor one that nobody waits for while it serves the host, or all programs, which may take long: it has no task's tables loaded,
/// and another one looks after the moments that somebody waits for.
fn before_service() {
    percpu::leave_task();
    if timer::is_awaited() {
        wake_idle();
    }
}

/// Takes note of what has happened in the meantime, and leaves the task's tables that may have been loaded; tells whether somebody is ready.
/// Whoever serves for long calls this now and then: no interrupt is taken and no moment comes in the kernel otherwise.
pub fn look_around() -> bool {
    arch::let_interrupts_in();
    timer::expire();
    before_service();
    has_ready()
}

/// Puts a task that is ready at the end of its queue.
fn schedule(class: Class, task: Runnable) {
    let cpu = percpu::index();
    if percpu::block(cpu).runs_task.load(Ordering::Relaxed) {
        QUEUES.push(cpu, class, task, percpu::interrupt);
    } else {
        // Between two tasks: the next one that this processor takes, if nobody else is ready.
        QUEUES.push_quietly(cpu, class, task);
    }
}

/// Wakes a processor that halts, if there is one: it looks for work, and sets its timer before it halts again.
pub fn wake_idle() {
    QUEUES.wake(percpu::interrupt);
}

/// Lets other tasks run.
pub async fn give_way() {
    let mut given = false;
    poll_fn(|context| {
        if core::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tells whether there is something to do beside what the processors do: a task that is ready, on whichever queue, or an interrupt
/// that was taken and not told to its waiters.
#[inline]
pub fn has_ready() -> bool {
    QUEUES.has_work() || arch::has_events()
}

/// Tells whether somebody waits whom a thread should not keep waiting for a whole turn: a task of the service, or the waiters of an
/// interrupt.
#[inline]
pub fn has_urgent() -> bool {
    QUEUES.has_service() || arch::has_events()
}

/// Runs tasks on this processor for ever, halting while none is ready.
pub fn run() -> ! {
    let cpu = percpu::index();
    let runs_task = &percpu::block(cpu).runs_task;
    loop {
        percpu::acknowledge();
        timer::expire();
        if arch::has_events() {
            EVENTS.deliver(arch::take_events());
        }
        if let Some(task) = QUEUES.pop(cpu) {
            if percpu::count() > 1 {
                QUEUES.share(percpu::interrupt);
            }
            runs_task.store(true, Ordering::Relaxed);
            task.run();
            runs_task.store(false, Ordering::Relaxed);
            continue;
        }
        // A processor that halts has no task's tables loaded, so that nobody interrupts it about them.
        percpu::leave_task();
        QUEUES.rest(cpu, || {
            // Interrupts are off from here to the halt, which lets them in: none is missed, whatever it is about.
            if !has_ready() {
                timer::before_halt();
                arch::halt_until_interrupt();
            }
        });
    }
}
