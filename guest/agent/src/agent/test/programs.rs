//! Programs, which here do what a test tells them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::future::{poll_fn, ready};
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use spin::Mutex;
use wirevm_map::fake::{FakePmap, FakePorts};
use wirevm_map::{PAGE_SIZE, Placement, VmMap, WireFlags};

use super::{BASE, Bed, SUCCESS, SYSTEM, at, deallocate, is_violation, unwire, wire};
use crate::command::{Command, Request};
use crate::program::{Program, ProgramEnd, ProgramStart};
use crate::reply::Reply;

/// The entry of a program that runs until a test ends it.
const RUNS: u64 = 0;
/// The entry of a program that exits with code 7 while it is started.
const ENDS: u64 = 1;
/// The entry of a program that is loaded when a test says so; it is given 4 pages before.
const LOADS: u64 = 2;
/// The entry of a program that does not end when it is killed, but when a test ends it.
const LASTS: u64 = 3;

/// The programs of a machine.
#[derive(Default)]
pub(super) struct Programs {
    running: Mutex<BTreeMap<u64, Arc<Scripted>>>,
    /// Maps of children.
    pub(super) children: Mutex<Vec<Arc<VmMap<FakePorts>>>>,
    loads: Mutex<Option<Waker>>,
    may_load: Mutex<bool>,
}

/// A program that a test tells what to do.
struct Scripted {
    map: Arc<VmMap<FakePorts>>,
    lasts: bool,
    state: Mutex<(Option<ProgramEnd>, Option<Waker>)>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    fn end(&self, end: ProgramEnd) {
        let waker = {
            let mut state = self.state.lock();
            state.0.get_or_insert(end);
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Carries an operation on its map out, as a thread of the program would.
    fn operate<T>(&self, operation: impl AsyncFnOnce(&VmMap<FakePorts>) -> T) -> T {
        let done = pin!(operation(&self.map)).poll(&mut Context::from_waker(Waker::noop()));
        match done {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("the operation waits"),
        }
    }
}

impl Program for Scripted {
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<ProgramEnd> {
        let mut state = self.state.lock();
        state.1 = Some(context.waker().clone());
        state.0.clone().map_or(Poll::Pending, Poll::Ready)
    }

    fn kill(&self) {
        if !self.lasts {
            self.end(ProgramEnd::Killed);
        }
    }
}

impl Programs {
    pub(super) fn start(self: &Arc<Self>, task: u64, map: Arc<VmMap<FakePorts>>, entry: u64) -> ProgramStart {
        let (state, lasts) = (Mutex::default(), entry == LASTS);
        let program = Arc::new(Scripted { map: Arc::clone(&map), lasts, state });
        match entry {
            RUNS | LASTS => {}
            ENDS => program.end(ProgramEnd::Exited(7)),
            LOADS => {
                let programs = Arc::clone(self);
                return Box::pin(async move {
                    map.allocate(Placement::Anywhere, 4 * PAGE_SIZE).await.expect("there is room");
                    poll_fn(|context| {
                        *programs.loads.lock() = Some(context.waker().clone());
                        if *programs.may_load.lock() { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                    programs.running.lock().insert(task, Arc::clone(&program));
                    Ok(program as Arc<dyn Program>)
                });
            }
            _ => return Box::pin(ready(Err("there is no such entry".to_string()))),
        }
        self.running.lock().insert(task, Arc::clone(&program));
        Box::pin(ready(Ok(program as Arc<dyn Program>)))
    }

    pub(super) fn running(&self) -> u64 {
        self.running.lock().values().filter(|program| program.state.lock().0.is_none()).count() as u64
    }

    fn load(&self) {
        *self.may_load.lock() = true;
        self.loads.lock().take().into_iter().for_each(Waker::wake);
    }
}

impl Bed {
    fn run(&self, entry: u64) -> u64 {
        match self.main(Command::Program { entry }) {
            Reply::Number(task) => task,
            reply => panic!("{reply:?}"),
        }
    }

    fn program(&self, task: u64) -> Arc<Scripted> {
        Arc::clone(&self.agent.platform().programs.running.lock()[&task])
    }

    fn await_program(&self, task: u64) -> Reply {
        self.main(Command::AwaitProgram { task })
    }

    fn await_host(&self) -> Reply {
        self.main(Command::AwaitHost)
    }
}

fn ended(end: ProgramEnd) -> Reply {
    Reply::Program(end)
}

#[test]
fn end_of_a_program_is_awaited_and_told_as_often_as_it_is_asked() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    assert_eq!((bed.await_program(task), bed.await_host()), (Reply::Awaits, Reply::Awaits));
    bed.program(task).end(ProgramEnd::Exited(3));
    assert_eq!(bed.await_host(), ended(ProgramEnd::Exited(3)));
    assert_eq!([bed.await_program(task), bed.await_program(task)], [3, 3].map(|code| ended(ProgramEnd::Exited(code))));
    assert_eq!((bed.layout(task), bed.main(Command::Quiesce)), (vec![], SUCCESS));
    assert_eq!(bed.task(task, Command::EndTask), SUCCESS);
    assert_eq!(bed.await_program(task), Reply::Malformed);
}

#[test]
fn program_may_end_before_anybody_asks() {
    let bed = Bed::new();
    let task = bed.run(ENDS);
    assert_eq!(bed.await_program(task), ended(ProgramEnd::Exited(7)));
    assert_eq!(bed.main(Command::KillProgram { task }), SUCCESS, "it has ended: nothing happens");
    assert_eq!(bed.await_program(task), ended(ProgramEnd::Exited(7)));
}

#[test]
fn what_can_not_be_started_says_why_and_leaves_nothing() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::Program { entry: 99 }), Reply::Text("there is no such entry".into()));
    assert_eq!((bed.agent.maps().len(), bed.main(Command::Quiesce)), (1, SUCCESS));
    assert_eq!(bed.main(Command::NewTask), Reply::Number(2), "no number comes twice");
    for command in [Command::AwaitProgram { task: 2 }, Command::KillProgram { task: 2 }] {
        assert_eq!(bed.main(command), Reply::Malformed, "it is no program");
    }
    assert_eq!(bed.main(Command::AwaitProgram { task: 0 }), Reply::Malformed);
}

#[test]
fn task_of_a_program_is_a_task_like_others() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    let program = bed.program(task);
    program.operate(async |map| map.allocate(Placement::Anywhere, 4 * PAGE_SIZE).await).expect("there is room");
    program.operate(async |map| map.wire(at(0), at(2), WireFlags::USER).await).expect("two pages");
    assert_eq!(bed.layout(task), [(0, 2, 1), (2, 4, 0)]);
    assert_eq!(bed.task(task, Command::Residents { start: BASE, end: at(4) }), Reply::Number(2));
    assert_eq!(bed.main(Command::Check), SUCCESS);
    program.operate(async |map| map.destroy().await);
    program.end(ProgramEnd::Faulted("store to 0x8".into()));
    assert_eq!(
        (bed.layout(task), bed.await_program(task)),
        (vec![], ended(ProgramEnd::Faulted("store to 0x8".into())))
    );
}

#[test]
fn operation_that_a_program_may_wake_awaits_it_and_is_blocked_without_one() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    bed.allocate(0, 4);
    assert_eq!(bed.main(wire(0, 1, SYSTEM)), SUCCESS);
    assert_eq!((bed.main(deallocate(0, 4)), bed.await_host()), (Reply::Awaits, Reply::Awaits));
    bed.start(1, deallocate(0, 1));
    assert_eq!(bed.poll(1), Reply::Awaits);
    bed.program(task).end(ProgramEnd::Killed);
    assert_eq!((bed.await_host(), bed.poll(1), bed.join(1)), (Reply::Blocked, Reply::Blocked, Reply::Blocked));
    assert_eq!(bed.main(unwire(0, 1, SYSTEM)), SUCCESS);
    assert_eq!((bed.join(1), bed.main(Command::Quiesce)), (SUCCESS, SUCCESS));
}

#[test]
fn threads_wait_for_programs_beside_others() {
    let bed = Bed::new();
    let (first, second) = (bed.run(RUNS), bed.run(RUNS));
    for (thread, task) in [(1, first), (2, second), (3, second)] {
        bed.start(thread, Command::AwaitProgram { task });
    }
    bed.allocate(0, 4);
    assert_eq!(bed.main(Command::KillProgram { task: second }), SUCCESS);
    assert_eq!([bed.poll(1), bed.poll(2), bed.poll(3)], [Reply::Awaits, Reply::Ended, Reply::Ended]);
    assert_eq!([bed.join(2), bed.join(3)], [(); 2].map(|()| ended(ProgramEnd::Killed)));
    // The kernel lets the agent go on between requests.
    let mut context = Context::from_waker(Waker::noop());
    assert!(pin!(bed.agent.woken()).poll(&mut context).is_pending());
    bed.program(first).end(ProgramEnd::Exited(0));
    assert!(pin!(bed.agent.woken()).poll(&mut context).is_ready());
    bed.agent.settle();
    assert!(pin!(bed.agent.woken()).poll(&mut context).is_pending());
    assert_eq!((bed.join(1), bed.main(Command::Quiesce)), (ended(ProgramEnd::Exited(0)), SUCCESS));
}

#[test]
fn result_that_came_between_requests_is_told_to_whoever_awaited_it() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    assert_eq!(bed.await_program(task), Reply::Awaits);
    bed.program(task).end(ProgramEnd::Exited(1));
    bed.agent.settle();
    assert_eq!(bed.await_host(), ended(ProgramEnd::Exited(1)));
}

#[test]
fn nothing_is_quiet_while_a_program_runs() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    assert!(is_violation(&bed.main(Command::Quiesce), "a program has not ended"));
    bed.program(task).end(ProgramEnd::Exited(0));
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn end_of_a_task_and_reset_wait_for_the_programs_that_they_kill() {
    let bed = Bed::new();
    let task = bed.run(LASTS);
    assert_eq!(bed.task(task, Command::EndTask), Reply::Awaits);
    assert_eq!(bed.await_program(task), Reply::Malformed, "the task takes nothing more");
    bed.program(task).end(ProgramEnd::Killed);
    assert_eq!((bed.main(Command::Quiesce), bed.agent.maps().len()), (SUCCESS, 1));
    let (task, other) = (bed.run(LASTS), bed.run(RUNS));
    bed.start(1, Command::AwaitProgram { task });
    bed.start(2, Command::AwaitProgram { task: other });
    assert_eq!((bed.main(Command::Reset), bed.await_host()), (Reply::Awaits, Reply::Awaits));
    bed.program(task).end(ProgramEnd::Killed);
    assert_eq!((bed.await_host(), bed.agent.maps().len(), bed.poll(1)), (SUCCESS, 1, Reply::Malformed));
}

#[test]
fn nobody_touches_a_program_that_is_being_loaded_but_checks_see_its_memory() {
    let bed = Bed::new();
    assert_eq!(bed.ask(Request { task: 0, thread: 1, command: Command::Program { entry: LOADS } }), Reply::Started);
    assert_eq!((bed.poll(1), bed.agent.maps().len()), (Reply::Blocked, 2));
    for command in [Command::EndTask, Command::Layout { start: 0, end: at(9) }] {
        assert_eq!(bed.task(1, command), Reply::Malformed);
    }
    for command in [Command::KillProgram { task: 1 }, Command::AwaitProgram { task: 1 }] {
        assert_eq!(bed.main(command), Reply::Malformed);
    }
    assert_eq!(bed.main(Command::Check), SUCCESS);
    bed.agent.platform().programs.load();
    assert_eq!((bed.join(1), bed.layout(1)), (Reply::Number(1), vec![(0, 4, 0)]));
}

#[test]
fn checks_look_at_the_maps_of_children_once() {
    let bed = Bed::new();
    let task = bed.run(RUNS);
    let program = bed.program(task);
    program.operate(async |map| map.allocate(Placement::Anywhere, 2 * PAGE_SIZE).await).expect("there is room");
    let child = Arc::new(program.operate(async |map| map.fork(FakePmap::new()).await).expect("a copy"));
    child_wires(&child);
    // While a program runs, maps may come and go that a check doesn't know; afterwards nobody has wired the pages.
    assert_eq!((bed.main(Command::Check), bed.agent.maps().len()), (SUCCESS, 2));
    program.end(ProgramEnd::Exited(0));
    assert!(matches!(bed.main(Command::Check), Reply::Violation(_)));
    bed.agent.platform().programs.children.lock().extend([child, Arc::clone(&program.map)]);
    assert_eq!((bed.main(Command::Check), bed.agent.maps().len()), (SUCCESS, 3));
}

fn child_wires(child: &VmMap<FakePorts>) {
    let wired = pin!(child.wire(at(0), at(2), WireFlags::USER)).poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(wired, Poll::Ready(Ok(())));
}
