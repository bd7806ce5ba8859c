//! Programs as tasks: starting them, waiting for their end, and ending them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use spin::Mutex;
use wirevm_map::{KernReturn, Ports, VmMap};

use super::whole::shortened;
use super::{Agent, Start, State, Task};
use crate::command::Command;
use crate::operate::Outcome;
use crate::platform::Platform;
use crate::program::{Program, ProgramEnd};
use crate::reply::Reply;
use crate::threads::Kind;

/// A program that was started, and whoever waits for its end. One thread of the agent's asks the program, on behalf of all.
pub(super) struct Watch(Mutex<Watched>);

struct Watched {
    /// The program, until it has ended.
    program: Option<Arc<dyn Program>>,
    end: Option<ProgramEnd>,
    waiters: Vec<Waker>,
}

impl Watch {
    fn new(program: Arc<dyn Program>) -> Self {
        Self(Mutex::new(Watched { program: Some(program), end: None, waiters: Vec::new() }))
    }

    /// Tells whether the program has not ended, as far as the agent knows.
    pub(super) fn is_running(&self) -> bool {
        self.0.lock().end.is_none()
    }

    /// Ends the program, which takes its time.
    pub(super) fn kill(&self) {
        // The program may wake whom it likes, so nothing is locked.
        let program = self.0.lock().program.clone();
        if let Some(program) = program {
            program.kill();
        }
    }

    /// Returns how the program ended, once it has.
    pub(super) async fn end(&self) -> ProgramEnd {
        poll_fn(|context| {
            let mut watched = self.0.lock();
            if let Some(end) = &watched.end {
                return Poll::Ready(end.clone());
            }
            if !watched.waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                watched.waiters.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for the program's end and tells everybody.
    async fn watch(&self) {
        let Some(program) = self.0.lock().program.clone() else { return };
        let end = match poll_fn(|context| program.poll_end(context)).await {
            ProgramEnd::Faulted(text) => ProgramEnd::Faulted(shortened(text)),
            end => end,
        };
        let waiters = {
            let mut watched = self.0.lock();
            watched.program = None;
            watched.end = Some(end);
            core::mem::take(&mut watched.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }
}

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Begins a command about programs; `None` for one about a program that is not there, and for all others.
    pub(super) fn start_program(&self, state: &mut State<P>, command: Command) -> Option<Start<P>> {
        match command {
            Command::Program { entry } => {
                let Ok(pmap) = self.platform.new_pmap() else {
                    return Some(Start::Over(Reply::Done(KernReturn::ResourceShortage)));
                };
                let map = Arc::new(VmMap::new(Arc::clone(self.vm()), self.main.bounds(), pmap));
                // Checks have to see what the program gets while it is loaded.
                let task = state.add_task(Task { is_starting: true, ..Task::of(Arc::clone(&map)) });
                let start = self.platform.start_program(task, map, entry);
                Some(Start::Work(Box::pin(async move { Outcome::Program(task, start.await) })))
            }
            Command::AwaitProgram { task } => {
                let watch = state.task(task)?.program.clone()?;
                Some(Start::Work(Box::pin(async move { Outcome::Reply(Reply::Program(watch.end().await)) })))
            }
            Command::KillProgram { task } => {
                state.task(task)?.program.clone()?.kill();
                Some(Start::Over(Reply::Done(KernReturn::Success)))
            }
            _ => None,
        }
    }
}

impl<P: Ports> State<P> {
    /// Takes note of a program that was started, or was not, and says so.
    pub(super) fn program_started(
        &mut self,
        task: u64,
        started: Result<Arc<dyn Program>, alloc::string::String>,
    ) -> Reply {
        let (program, known) = match (started, self.tasks.get_mut(&task)) {
            (Ok(program), Some(known)) => (program, known),
            (Ok(_), None) => return Reply::Malformed,
            (Err(reason), _) => {
                self.tasks.remove(&task);
                return Reply::Text(shortened(reason));
            }
        };
        let watch = Arc::new(Watch::new(program));
        known.is_starting = false;
        known.program = Some(Arc::clone(&watch));
        let watching = async move {
            watch.watch().await;
            Outcome::Nothing
        };
        // It may have ended already; whoever asks for its end is told.
        self.threads.start(Kind::Service, Box::pin(watching));
        Reply::Number(task)
    }

    /// Tells whether a program runs: it may do things that let others go on.
    pub(super) fn has_programs(&self) -> bool {
        self.platform.running_programs() > 0 || self.watches().any(|watch| watch.is_running())
    }

    /// Ends all programs, which takes their time.
    pub(super) fn kill_programs(&self) {
        self.watches().for_each(|watch| watch.kill());
    }

    fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.tasks.values().filter_map(|task| task.program.as_deref())
    }
}
