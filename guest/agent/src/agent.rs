//! Carries requests out: tasks, objects, and the threads that work on them.

mod at_once;
mod managed;
mod programs;
mod state;
#[cfg(test)]
mod test;
mod whole;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::mutex::Mutex;
use wirevm_map::{Host, KernReturn, MapLimits, Ports, Vm, VmMap};

use self::managed::Object;
use self::programs::Watch;
use self::whole::restless;
use crate::command::{Command, Crash, MAIN_TASK, Request};
use crate::manager::Manager;
use crate::operate::{Outcome, done, map_object, on_map, placement};
use crate::platform::Platform;
use crate::reply::Reply;
use crate::threads::{Kind, Threads, Woken, Work};

/// What became of a command.
#[derive(Debug)]
pub enum Answer {
    /// Tell the host this.
    Reply(Reply),
    /// End the machine with this code.
    Exit {
        /// The code.
        code: u8,
    },
    /// End the machine this way.
    Crash(Crash),
}

/// Carries requests out on the tasks of one system.
///
/// The agent is the executor of its threads: during every request it polls them, in the order in which they were woken,
/// until each has ended or waits. So every answer shows a settled system, and equal requests give equal answers. Beside the
/// threads that requests start, it runs those of the managers among the tasks, and [what the system does for
/// nobody](Vm::take_background).
pub struct Agent<P: Ports, L> {
    main: Arc<VmMap<P>>,
    platform: Arc<L>,
    /// The limit on user wiring that the system began with, in pages.
    user_wire_limit_pages: u64,
    /// Held while threads are polled, and so while maps change.
    state: Mutex<State<P>, P::Relax>,
}

struct State<P: Ports> {
    vm: Arc<Vm<P>>,
    platform: Arc<dyn Platform<P>>,
    tasks: BTreeMap<u64, Task<P>>,
    objects: BTreeMap<u64, Arc<Object<P>>>,
    /// Every operation that has not ended, whether a request gave it a number or not.
    threads: Threads<Outcome<P>>,
    /// The threads that have a number, from their start until they are joined.
    named: BTreeMap<u64, Named>,
    /// What was last answered by `Awaits`.
    awaited: Option<Awaited>,
    /// The host's number of answers when it was last asked for.
    answers_told: u64,
    last_task: u64,
    last_object: u64,
}

/// What `AwaitHost` goes on with.
enum Awaited {
    /// An operation without a number of its own.
    Operation {
        /// Its key among the threads.
        key: u64,
        /// What it came to since.
        reply: Option<Reply>,
    },
    /// A question, which is asked again.
    Question(Command),
}

struct Task<P: Ports> {
    map: Arc<VmMap<P>>,
    /// What the task does as a manager, if it is one.
    manager: Option<Arc<Manager<P>>>,
    limits: MapLimits,
    /// The program that runs in it, or did, if it was made for one.
    program: Option<Arc<Watch>>,
    /// Its program is being loaded: nobody may touch it yet.
    is_starting: bool,
    /// Its map is being destroyed: there is nothing more to do with it.
    is_ending: bool,
    /// `mlockall` was called, which may stand for what is mapped later.
    has_locked_all: bool,
    /// `brk` was called.
    has_heap: bool,
}

/// A thread with a number.
enum Named {
    Waits {
        /// Its key among the threads.
        key: u64,
    },
    Ended(Reply),
}

/// How a command goes on.
enum Start<P: Ports> {
    /// It is over.
    Over(Reply),
    /// It may have to wait.
    Work(Work<Outcome<P>>),
}

impl<P: Ports> Task<P> {
    fn new(map: VmMap<P>) -> Self {
        Self::of(Arc::new(map))
    }

    fn of(map: Arc<VmMap<P>>) -> Self {
        Self {
            map,
            manager: None,
            limits: MapLimits::default(),
            program: None,
            is_starting: false,
            is_ending: false,
            has_locked_all: false,
            has_heap: false,
        }
    }
}

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Returns the agent of a system whose first task has that map.
    pub fn new(main: VmMap<P>, platform: L) -> Self {
        let (main, platform) = (Arc::new(main), Arc::new(platform));
        let state = State {
            vm: Arc::clone(main.vm()),
            platform: Arc::clone(&platform) as Arc<dyn Platform<P>>,
            answers_told: main.vm().host().answered(),
            tasks: BTreeMap::from([(MAIN_TASK, Task::of(Arc::clone(&main)))]),
            objects: BTreeMap::new(),
            threads: Threads::new(),
            named: BTreeMap::new(),
            awaited: None,
            last_task: MAIN_TASK,
            last_object: 0,
        };
        let user_wire_limit_pages = main.vm().user_wire_limit_pages();
        Self { main, platform, user_wire_limit_pages, state: Mutex::new(state) }
    }

    /// Returns the first task's map.
    pub const fn map(&self) -> &Arc<VmMap<P>> {
        &self.main
    }

    /// Returns the maps of all tasks, the first task's first, and behind them those of programs' children.
    pub fn maps(&self) -> Vec<Arc<VmMap<P>>> {
        self.state.lock().maps()
    }

    /// Returns the machine below the maps.
    pub const fn platform(&self) -> &Arc<L> {
        &self.platform
    }

    /// Returns the system that the tasks live in.
    pub fn vm(&self) -> &Arc<Vm<P>> {
        self.main.vm()
    }

    /// As [`Agent::answer_now`]; but where [`Command::AwaitHost`] would be answered by `Awaits`, it is answered only after
    /// something from outside has woken a thread. Nothing is locked while that is waited for.
    pub async fn answer(&self, words: &[u64]) -> Answer {
        let answer = self.answer_now(words);
        let waits = matches!(Request::decode(words), Ok(Request { command: Command::AwaitHost, thread: 0, .. }));
        if !waits || !matches!(answer, Answer::Reply(Reply::Awaits)) {
            return answer;
        }
        self.woken().await;
        self.answer_now(words)
    }

    /// Returns what ends when a thread can go on, which is when [`Agent::settle`] is worth calling. One such wait is served at a
    /// time, that of [`Agent::answer`] included.
    pub fn woken(&self) -> Woken {
        self.state.lock().threads.woken()
    }

    /// Polls the threads until none can go on. Every request begins with this; between requests, it lets operations go on that a
    /// program or the host has woken. Never waits for anything but other callers.
    pub fn settle(&self) {
        // What does not come to an end is told in answer to the next request.
        let _comes_to_an_end = self.state.lock().settle();
    }

    /// Carries out the request in `words` (without its id): polls the threads until none can go on, and says where the
    /// request has come to by then. Never waits for anything.
    pub fn answer_now(&self, words: &[u64]) -> Answer {
        let Ok(Request { task, thread, command }) = Request::decode(words) else {
            return Answer::Reply(Reply::Malformed);
        };
        match command {
            Command::Exit { code } => Answer::Exit { code },
            Command::Crash(crash) => Answer::Crash(crash),
            command => {
                let mut state = self.state.lock();
                let reply = match thread {
                    0 => self.carry_out(&mut state, task, command),
                    thread => self.start_thread(&mut state, task, thread, command),
                };
                Answer::Reply(reply)
            }
        }
    }

    /// Carries out a command that no thread was asked for.
    fn carry_out(&self, state: &mut State<P>, task: u64, command: Command) -> Reply {
        // Something from outside may have woken a thread since the last request.
        if !state.settle() {
            return restless();
        }
        match command {
            Command::AwaitHost => self.go_on(state),
            Command::Check => self.check(state),
            Command::Quiesce | Command::Reset | Command::Poll { .. } | Command::Join { .. } | Command::Completions => {
                self.ask(state, command)
            }
            command => match self.start(state, task, command) {
                None => Reply::Malformed,
                Some(Start::Over(reply)) => {
                    // A gate that opened lets others go on.
                    if state.settle() { reply } else { restless() }
                }
                Some(Start::Work(work)) => state.run(work),
            },
        }
    }

    /// Answers a question that the host's next answer may change.
    fn ask(&self, state: &mut State<P>, question: Command) -> Reply {
        let reply = match question {
            Command::Quiesce => self.quiesce(state),
            Command::Reset => self.reset(state),
            Command::Completions => state.completions(),
            Command::Poll { thread } => match state.named.get(&thread) {
                Some(Named::Waits { .. }) => state.stalled(),
                Some(Named::Ended(_)) => Reply::Ended,
                None => Reply::Malformed,
            },
            Command::Join { thread } => state.join(thread),
            _ => Reply::Malformed,
        };
        if reply == Reply::Awaits {
            state.awaited = Some(Awaited::Question(question));
        }
        reply
    }

    /// Goes on with what was last answered by `Awaits`.
    fn go_on(&self, state: &mut State<P>) -> Reply {
        match state.awaited.take() {
            None => Reply::Malformed,
            Some(Awaited::Question(question)) => self.ask(state, question),
            Some(Awaited::Operation { reply: Some(reply), .. }) => reply,
            Some(waits) => {
                let reply = state.stalled();
                if reply == Reply::Awaits {
                    state.awaited = Some(waits);
                }
                reply
            }
        }
    }

    /// Starts a thread with a number of its own.
    fn start_thread(&self, state: &mut State<P>, task: u64, thread: u64, command: Command) -> Reply {
        if state.named.contains_key(&thread) {
            return Reply::Malformed;
        }
        if !state.settle() {
            return restless();
        }
        let started = match self.start(state, task, command) {
            None => return Reply::Malformed,
            Some(Start::Over(reply)) => Named::Ended(reply),
            Some(Start::Work(work)) => match state.threads.start(Kind::Operation, work) {
                (key, None) => Named::Waits { key },
                (_, Some(outcome)) => Named::Ended(state.conclude(outcome)),
            },
        };
        state.named.insert(thread, started);
        if state.settle() { Reply::Started } else { restless() }
    }

    /// Begins a command. `None` for one that is about a task or an object that is not there, or that no thread can do.
    fn start(&self, state: &mut State<P>, task: u64, command: Command) -> Option<Start<P>> {
        if let Some(reply) = self.at_once(state, task, command) {
            return Some(Start::Over(reply));
        }
        let work: Work<Outcome<P>> = match command {
            Command::EndTask if task != MAIN_TASK => {
                let ending = state.task(task)?;
                ending.is_ending = true;
                let (map, manager, program) = (Arc::clone(&ending.map), ending.manager.clone(), ending.program.clone());
                Box::pin(async move {
                    if let Some(program) = program {
                        program.kill();
                        program.end().await;
                    }
                    if let Some(manager) = manager {
                        manager.die().await;
                    }
                    map.destroy().await;
                    Outcome::Ended(task)
                })
            }
            Command::Fork => {
                let parent = state.task(task)?;
                let (map, limits) = (Arc::clone(&parent.map), parent.limits);
                let Ok(pmap) = self.platform.new_pmap() else {
                    return Some(Start::Over(Reply::Done(KernReturn::ResourceShortage)));
                };
                Box::pin(async move {
                    map.fork(pmap).await.map_or_else(
                        |code| Outcome::Reply(Reply::Done(code)),
                        |child| Outcome::Forked(Arc::new(child), limits),
                    )
                })
            }
            Command::Truncate { object, pages } => {
                let object = state.object(object)?;
                Box::pin(async move { Outcome::Reply(done(object.handle.truncate(pages).await)) })
            }
            Command::Kill { object } => {
                let object = state.object(object)?;
                Box::pin(async move { Outcome::Reply(done(object.handle.kill().await)) })
            }
            Command::MapObject { object, .. } => {
                let (map, object) = (Arc::clone(&state.task(task)?.map), state.object(object)?);
                Box::pin(async move { Outcome::Reply(map_object(map, &object.handle, command).await) })
            }
            Command::Program { .. } | Command::AwaitProgram { .. } | Command::KillProgram { .. } => {
                return self.start_program(state, command);
            }
            Command::Die | Command::LockRequest { .. } => return state.start_managed(task, command).map(Start::Work),
            Command::Submap { address, size } => {
                let map = Arc::clone(&state.task(task)?.map);
                Box::pin(async move { submap(&map, address, size).await })
            }
            Command::Sync { .. } | Command::Msync { .. } if state.task(task).is_none() => {
                // Rows S-01 and S-04.
                return Some(Start::Over(Reply::Done(KernReturn::InvalidTask)));
            }
            Command::NewTask
            | Command::EndTask
            | Command::Poll { .. }
            | Command::Join { .. }
            | Command::Check
            | Command::Quiesce
            | Command::Reset
            | Command::Completions
            | Command::AwaitHost
            | Command::Exit { .. }
            | Command::Crash(_) => return None,
            command => {
                let task = state.task(task)?;
                task.has_locked_all |= matches!(command, Command::Mlockall { .. });
                task.has_heap |= matches!(command, Command::Brk { .. });
                let (map, platform) = (Arc::clone(&task.map), Arc::clone(&self.platform));
                Box::pin(async move { Outcome::Reply(on_map(map, platform, command).await) })
            }
        };
        Some(Start::Work(work))
    }
}

/// Sets a range of a task's addresses aside.
async fn submap<P: Ports>(map: &VmMap<P>, address: Option<u64>, size: u64) -> Outcome<P> {
    match map.submap(placement(address), size).await {
        Ok(submap) => Outcome::Submap(submap),
        Err(code) => Outcome::Reply(Reply::Done(code)),
    }
}

impl<P: Ports, L> fmt::Debug for Agent<P, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Agent")
            .field("main", &self.main)
            .field("tasks", &state.tasks.len())
            .field("objects", &state.objects.len())
            .field("threads", &state.threads)
            .finish_non_exhaustive()
    }
}
