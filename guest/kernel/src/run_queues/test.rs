use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Class, RunQueues};

const CPUS: usize = 4;

/// A processor that halts until it is interrupted. An interrupt that comes before the halt ends it.
#[derive(Default)]
struct Halt {
    interrupted: Mutex<bool>,
    changed: Condvar,
}

impl Halt {
    fn interrupt(&self) {
        *self.interrupted.lock().expect("no panic") = true;
        self.changed.notify_one();
    }

    fn halt(&self) {
        let mut interrupted = self.interrupted.lock().expect("no panic");
        while !*interrupted {
            interrupted = self.changed.wait(interrupted).expect("no panic");
        }
        *interrupted = false;
    }
}

/// Work that leads to more: each piece to two with one less.
type Work = u32;

struct Machine {
    queues: RunQueues<Work>,
    halts: [Halt; CPUS],
    done: AtomicU64,
    halted: AtomicUsize,
    stop: AtomicBool,
    /// Nobody is woken: a mistake.
    wakes_nobody: bool,
}

impl Machine {
    fn new(wakes_nobody: bool) -> Self {
        Self {
            queues: RunQueues::new(),
            halts: Default::default(),
            done: AtomicU64::new(0),
            halted: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            wakes_nobody,
        }
    }

    fn push(&self, cpu: usize, work: Work) {
        self.queues.push(cpu, Class::Thread, work, |idle| {
            assert_ne!(idle, cpu, "who pushes is not idle");
            self.wake(idle);
        });
    }

    fn wake(&self, idle: usize) {
        if !self.wakes_nobody {
            self.halts[idle].interrupt();
        }
    }

    fn run(&self, cpu: usize) {
        while !self.stop.load(Ordering::SeqCst) {
            if let Some(work) = self.queues.pop(cpu) {
                self.queues.share(|idle| self.wake(idle));
                if let Some(less) = work.checked_sub(1) {
                    self.push(cpu, less);
                    self.push(cpu, less);
                }
                self.done.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            self.queues.rest(cpu, || {
                self.halted.fetch_add(1, Ordering::SeqCst);
                self.halts[cpu].halt();
                self.halted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.halts.iter().for_each(Halt::interrupt);
    }
}

/// Waits until something is so; says whether it came.
fn within(most: Duration, is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > most {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn all_work_is_done_and_then_every_processor_halts_again_and_again() {
    let machine = Machine::new(false);
    std::thread::scope(|scope| {
        for cpu in 1..CPUS {
            scope.spawn({
                let machine = &machine;
                move || machine.run(cpu)
            });
        }
        // This thread is processor 0, which is interrupted from outside now and then.
        let mut expected = 0;
        for round in 0..3000_u32 {
            let depth = round % 7;
            machine.push(0, depth);
            expected += (2 << depth) - 1;
            if round % 3 == 0 {
                // It does other things meanwhile: the work is the others' to take.
                assert!(
                    within(LONG, || machine.done.load(Ordering::SeqCst) == expected),
                    "round {round} is left lying"
                );
                if round % 30 == 0 {
                    let all_halt = within(LONG, || machine.halted.load(Ordering::SeqCst) == CPUS - 1);
                    assert!(all_halt, "round {round}");
                }
            }
        }
        assert!(within(LONG, || machine.done.load(Ordering::SeqCst) == expected));
        machine.stop();
    });
}

#[test]
fn planted_push_that_wakes_nobody_is_caught() {
    let machine = Machine::new(true);
    std::thread::scope(|scope| {
        for cpu in 1..CPUS {
            scope.spawn({
                let machine = &machine;
                move || machine.run(cpu)
            });
        }
        assert!(within(LONG, || machine.halted.load(Ordering::SeqCst) == CPUS - 1));
        machine.push(0, 0);
        assert!(!within(Duration::from_millis(300), || machine.done.load(Ordering::SeqCst) == 1));
        machine.stop();
    });
}

#[test]
fn own_work_comes_oldest_first_and_before_that_of_others() {
    let queues = RunQueues::new();
    [(0, 1), (1, 10), (0, 2), (1, 11)]
        .into_iter()
        .for_each(|(cpu, work)| queues.push(cpu, Class::Thread, work, |_| panic!("nobody is idle")));
    assert!(queues.has_work());
    let taken: Vec<Option<u32>> = (0..5).map(|_| queues.pop(1)).collect();
    assert_eq!(taken, [Some(10), Some(11), Some(1), Some(2), None]);
    assert!(!queues.has_work());
}

#[test]
fn work_of_a_processor_that_takes_none_is_done_by_one_that_always_has_its_own() {
    let queues = RunQueues::new();
    queues.push_quietly(3, Class::Thread, 3);
    queues.push_quietly(0, Class::Thread, 0);
    // What it does is ready again at once.
    let does = || {
        let work = queues.pop(0).expect("there is always work");
        queues.push_quietly(0, Class::Thread, work);
        work
    };
    let done: Vec<u32> = (0..6).map(|_| does()).collect();
    assert_eq!(done, [0, 0, 0, 0, 3, 0]);
    // Taken over, it is one of its own: nothing is left with the other.
    assert_eq!((queues.pop(3), queues.pop(3), queues.pop(3)), (Some(3), Some(0), None));
}

#[test]
fn work_of_the_service_comes_before_threads_and_by_turns_with_them() {
    let queues = RunQueues::new();
    (0..3).for_each(|work| queues.push_quietly(0, Class::Thread, work));
    assert!(!queues.has_service());
    queues.push(1, Class::Service, 10, |_| panic!("nobody is idle"));
    assert!(queues.has_service());
    let does = |cpu| {
        let work = queues.pop(cpu).expect("there is always work");
        let class = if work < 10 { Class::Thread } else { Class::Service };
        queues.push_quietly(0, class, work);
        work
    };
    assert_eq!((0..5).map(|_| does(0)).collect::<Vec<u32>>(), [10, 0, 10, 1, 10]);
    assert_eq!(does(2), 10, "each processor takes turns of its own");
}

#[test]
fn work_of_the_service_alone_needs_no_turns() {
    let queues = RunQueues::new();
    queues.push_quietly(0, Class::Service, 1);
    queues.push_quietly(0, Class::Service, 2);
    assert_eq!((queues.pop(3), queues.pop(3), queues.pop(3)), (Some(1), Some(2), None));
    assert!(!queues.has_work());
    queues.rest(2, || queues.push(0, Class::Service, 1, |cpu| assert_eq!(cpu, 2)));
    queues.rest(2, || panic!("there is work"));
}

#[test]
fn idle_processor_is_woken_by_one_push_only_and_rests_only_without_work() {
    let queues = RunQueues::new();
    let mut woken = Vec::new();
    queues.rest(2, || {
        queues.push(0, Class::Thread, 1, |cpu| woken.push(cpu));
        queues.push(0, Class::Thread, 2, |cpu| woken.push(cpu));
    });
    assert_eq!(woken, [2]);
    queues.rest(2, || panic!("there is work"));
    queues.push(0, Class::Thread, 3, |_| panic!("nobody is idle any more"));
}

#[test]
fn work_added_quietly_is_shared_when_its_processor_takes_other_work() {
    let queues = RunQueues::new();
    let mut woken = Vec::new();
    queues.rest(3, || {
        queues.push_quietly(0, Class::Thread, 1);
        assert_eq!(queues.pop(0), Some(1));
        queues.share(|_| panic!("nothing is left to share"));
        [2, 3].into_iter().for_each(|work| queues.push_quietly(0, Class::Thread, work));
        assert_eq!(queues.pop(0), Some(2));
        queues.share(|cpu| woken.push(cpu));
        queues.share(|_| panic!("nobody is idle any more"));
    });
    assert_eq!(woken, [3]);
}
