//! Carries requests out: tasks, objects, and the threads that work on them.

mod state;
#[cfg(test)]
mod test;
mod whole;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;
use wirevm_map::{KernReturn, MapLimits, ObjectHandle, PageRange, Ports, Vm, VmMap};

use self::whole::restless;
use crate::command::{Command, Crash, Limit, MAIN_TASK, ObjectKind, Request};
use crate::lists;
use crate::operate::{Outcome, done, map_object, on_map};
use crate::platform::Platform;
use crate::reply::Reply;
use crate::threads::{Threads, Work};

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
/// until each has ended or waits. So every answer shows a settled system, and equal requests give equal answers.
pub struct Agent<P: Ports, L> {
    main: Arc<VmMap<P>>,
    platform: Arc<L>,
    /// The limit on user wiring that the system began with, in pages.
    user_wire_limit_pages: u64,
    state: Mutex<State<P>>,
}

struct State<P: Ports> {
    tasks: BTreeMap<u64, Task<P>>,
    objects: BTreeMap<u64, Arc<ObjectHandle<P>>>,
    /// Every operation that has not ended, whether a request gave it a number or not.
    threads: Threads<Outcome<P>>,
    /// The threads that have a number, from their start until they are joined.
    named: BTreeMap<u64, Named>,
    last_task: u64,
    last_object: u64,
}

struct Task<P: Ports> {
    map: Arc<VmMap<P>>,
    limits: MapLimits,
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
        Self { map, limits: MapLimits::default(), is_ending: false, has_locked_all: false, has_heap: false }
    }
}

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Returns the agent of a system whose first task has that map.
    pub fn new(main: VmMap<P>, platform: L) -> Self {
        let main = Arc::new(main);
        let state = State {
            tasks: BTreeMap::from([(MAIN_TASK, Task::of(Arc::clone(&main)))]),
            objects: BTreeMap::new(),
            threads: Threads::new(),
            named: BTreeMap::new(),
            last_task: MAIN_TASK,
            last_object: 0,
        };
        let user_wire_limit_pages = main.vm().user_wire_limit_pages();
        Self { main, platform: Arc::new(platform), user_wire_limit_pages, state: Mutex::new(state) }
    }

    /// Returns the first task's map.
    pub const fn map(&self) -> &Arc<VmMap<P>> {
        &self.main
    }

    /// Returns the maps of all tasks, the first task's first.
    pub fn maps(&self) -> Vec<Arc<VmMap<P>>> {
        self.state.lock().tasks.values().map(|task| Arc::clone(&task.map)).collect()
    }

    /// Returns the machine below the maps.
    pub const fn platform(&self) -> &Arc<L> {
        &self.platform
    }

    /// Returns the system that the tasks live in.
    pub fn vm(&self) -> &Arc<Vm<P>> {
        self.main.vm()
    }

    /// Carries out the request in `words` (without its id). Never waits: see [`Agent::answer_now`].
    pub async fn answer(&self, words: &[u64]) -> Answer {
        self.answer_now(words)
    }

    /// Carries out the request in `words` (without its id): polls the threads until none can go on, and says where the
    /// request has come to by then.
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
            Command::Check => self.check(state),
            Command::Quiesce => self.quiesce(state),
            Command::Reset => self.reset(state),
            Command::Poll { thread } => match state.named.get(&thread) {
                Some(Named::Waits { .. }) => Reply::Blocked,
                Some(Named::Ended(_)) => Reply::Ended,
                None => Reply::Malformed,
            },
            Command::Join { thread } => state.join(thread),
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
            Some(Start::Work(work)) => match state.threads.start(work) {
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
                let map = Arc::clone(&ending.map);
                Box::pin(async move {
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
                    map.fork(pmap)
                        .await
                        .map_or_else(|code| Outcome::Reply(Reply::Done(code)), |child| Outcome::Forked(child, limits))
                })
            }
            Command::Truncate { object, pages } => {
                let object = state.object(object)?;
                Box::pin(async move { Outcome::Reply(done(object.truncate(pages).await)) })
            }
            Command::Kill { object } => {
                let object = state.object(object)?;
                Box::pin(async move { Outcome::Reply(done(object.kill().await)) })
            }
            Command::MapObject { object, .. } => {
                let (map, object) = (Arc::clone(&state.task(task)?.map), state.object(object)?);
                Box::pin(async move { Outcome::Reply(map_object(map, object, command).await) })
            }
            Command::NewTask
            | Command::EndTask
            | Command::Poll { .. }
            | Command::Join { .. }
            | Command::Check
            | Command::Quiesce
            | Command::Reset
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

    /// Answers commands that never wait; `None` for the others.
    fn at_once(&self, state: &mut State<P>, task: u64, command: Command) -> Option<Reply> {
        let success = Reply::Done(KernReturn::Success);
        let about_map = |state: &mut State<P>, answer: &dyn Fn(&VmMap<P>) -> Reply| match state.task(task) {
            Some(task) => answer(&task.map),
            None => Reply::Malformed,
        };
        let about_object = |state: &State<P>, object, change: &dyn Fn(&ObjectHandle<P>)| match state.object(object) {
            Some(object) => {
                change(&object);
                Reply::Done(KernReturn::Success)
            }
            None => Reply::Malformed,
        };
        Some(match command {
            Command::Layout { start, end } => about_map(state, &|map| lists::layout(map, start, end)),
            Command::Entries { start, end } => about_map(state, &|map| lists::entries(map, start, end)),
            Command::Frames { start, end } => about_map(state, &|map| lists::frames(map, start, end)),
            Command::PageWires { start, end } => about_map(state, &|map| lists::page_wires(map, start, end)),
            Command::Residents { start, end } => about_map(state, &|map| lists::residents(map, start, end)),
            Command::WireTotal => Reply::Number(self.vm().user_wired_pages()),
            Command::WiredFrames { start, end } => lists::wired_frames(self.vm(), PageRange::new(start, end)),
            Command::NewTask => match self.platform.new_pmap() {
                Ok(pmap) => {
                    let map = VmMap::new(Arc::clone(self.vm()), self.main.bounds(), pmap);
                    Reply::Number(state.add_task(Task::new(map)))
                }
                Err(_) => Reply::Done(KernReturn::ResourceShortage),
            },
            Command::Limit(limit) => self.limit(state, task, limit),
            Command::NewObject { kind, pages } => {
                let object = match kind {
                    ObjectKind::Anonymous => self.vm().anonymous_object(pages),
                    ObjectKind::File { readahead } => self.vm().file_object(pages, readahead),
                };
                state.last_object += 1;
                state.objects.insert(state.last_object, Arc::new(object));
                Reply::Number(state.last_object)
            }
            Command::DropObject { object } => match state.objects.remove(&object) {
                Some(_) => success,
                None => Reply::Malformed,
            },
            Command::Gate { object, page } => about_object(state, object, &|object| object.gate(page)),
            Command::Release { object, page } => about_object(state, object, &|object| object.release(page)),
            Command::Fail { object, page, fault } => {
                about_object(state, object, &|object| object.fail(page, Some(fault)))
            }
            Command::Heal { object, page } => about_object(state, object, &|object| object.fail(page, None)),
            _ => return None,
        })
    }

    fn limit(&self, state: &mut State<P>, task: u64, limit: Limit) -> Reply {
        if let Limit::Global { pages } = limit {
            self.vm().set_user_wire_limit(pages);
            return Reply::Done(KernReturn::Success);
        }
        let Some(task) = state.task(task) else { return Reply::Malformed };
        match limit {
            Limit::Memlock { pages } => task.limits.memlock_pages = pages,
            Limit::Privilege { may_lock } => task.limits.may_lock = may_lock,
            Limit::Global { .. } => {}
        }
        task.map.set_limits(task.limits);
        Reply::Done(KernReturn::Success)
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
