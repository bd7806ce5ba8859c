//! A program that runs.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;
use wirevm_agent::{Program, ProgramEnd};
use wirevm_map::{ObjectHandle, VmMap};

use super::futex::Futexes;
use super::programs::Programs;
use crate::service::Machine;
use crate::space::Space;

/// Most threads that a program has at a time.
const MAX_THREADS: usize = 256;
/// Most memory objects that a program has open at a time.
const MAX_OBJECTS: usize = 64;
/// Most children that a program has not waited for.
const MAX_CHILDREN: usize = 64;

/// A program that runs, or has.
pub struct Process {
    programs: Arc<Programs>,
    /// The number of the agent's task that its output goes under: its own, or that of the program which it is a child of.
    task: u64,
    /// What reports call it.
    name: String,
    map: Arc<VmMap<Machine>>,
    space: Arc<Space>,
    futexes: Arc<Futexes>,
    /// The threads are to end.
    is_ending: AtomicBool,
    /// How many threads have not ended.
    alive: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// What became of each thread that nobody has joined; `None` while it runs.
    threads: BTreeMap<u64, Option<u64>>,
    last_thread: u64,
    objects: BTreeMap<u64, Arc<ObjectHandle<Machine>>>,
    last_object: u64,
    children: BTreeMap<u64, Arc<Process>>,
    last_child: u64,
    /// How it is to end, once somebody has said so.
    ending: Option<ProgramEnd>,
    /// All threads have ended, and the map is empty.
    has_ended: bool,
    /// Everybody who waits for any of this to change.
    waiting: Vec<Waker>,
}

/// There are too many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Process {
    /// Returns a program without threads.
    pub fn new(programs: Arc<Programs>, task: u64, name: String, map: Arc<VmMap<Machine>>) -> Arc<Self> {
        let space = map.with_pmap(|pmap| Arc::clone(pmap.space()));
        Arc::new(Self {
            programs,
            task,
            name,
            map,
            space,
            futexes: Arc::default(),
            is_ending: AtomicBool::new(false),
            alive: AtomicU64::new(0),
            state: Mutex::new(State {
                threads: BTreeMap::new(),
                last_thread: 0,
                objects: BTreeMap::new(),
                last_object: 0,
                children: BTreeMap::new(),
                last_child: 0,
                ending: None,
                has_ended: false,
                waiting: Vec::new(),
            }),
        })
    }

    /// Returns all programs.
    pub const fn programs(&self) -> &Arc<Programs> {
        &self.programs
    }

    /// Returns the task that its output goes under.
    pub const fn task(&self) -> u64 {
        self.task
    }

    /// Returns its map.
    pub const fn map(&self) -> &Arc<VmMap<Machine>> {
        &self.map
    }

    /// Returns its page tables.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Returns who waits at its addresses.
    pub const fn futexes(&self) -> &Arc<Futexes> {
        &self.futexes
    }

    /// Tells whether its threads are to end.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Changes the state, and wakes everybody who waits for a change.
    fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state);
        let waiting = core::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        result
    }

    /// Looks for something in the state; if it isn't there, the context's waker is woken when anything changes.
    fn look<T>(&self, context: &Context<'_>, look: impl FnOnce(&mut State) -> Option<T>) -> Poll<T> {
        let mut state = self.state.lock();
        if let Some(found) = look(&mut state) {
            return Poll::Ready(found);
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Ends the program as soon as its threads get out of what they are doing, and its children. The first end that is told counts.
    pub fn end(&self, end: ProgramEnd) {
        self.is_ending.store(true, Ordering::Release);
        let children: Vec<Arc<Self>> = self.change(|state| {
            if state.ending.is_some() {
                return Vec::new();
            }
            state.ending = Some(end);
            state.children.values().cloned().collect()
        });
        // Threads in ring 3 come out with the interrupt.
        self.space.interrupt_others();
        // All of them before anybody waits for one: those that were left could have further ones as fast as the first end.
        for child in children {
            child.end(ProgramEnd::Killed);
        }
    }

    /// Waits for nothing but the program's ending.
    pub fn poll_ending(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_ending() {
            return Poll::Ready(());
        }
        self.look(context, |state| state.ending.is_some().then_some(()))
    }

    /// Numbers a thread that is about to start.
    ///
    /// # Errors
    /// [`TooMany`] when there is no room for one more.
    pub fn add_thread(&self) -> Result<u64, TooMany> {
        let mut state = self.state.lock();
        if state.threads.len() >= MAX_THREADS || state.ending.is_some() {
            return Err(TooMany);
        }
        state.last_thread += 1;
        let number = state.last_thread;
        state.threads.insert(number, None);
        self.alive.fetch_add(1, Ordering::AcqRel);
        Ok(number)
    }

    /// Takes note of a thread's end; tells whether it was the last one.
    pub fn thread_ended(&self, thread: u64, value: u64) -> bool {
        self.change(|state| {
            if let Some(place) = state.threads.get_mut(&thread) {
                *place = Some(value);
            }
            let is_last = self.alive.fetch_sub(1, Ordering::AcqRel) == 1;
            if is_last {
                // No thread can start another from here on.
                state.ending.get_or_insert(ProgramEnd::Exited(0));
            }
            is_last
        })
    }

    /// Takes what a thread ended with; `None` for a thread that there isn't.
    pub fn poll_join(&self, thread: u64, context: &Context<'_>) -> Poll<Option<u64>> {
        self.look(context, |state| match state.threads.get(&thread) {
            None => Some(None),
            Some(None) => None,
            Some(Some(value)) => {
                let value = *value;
                state.threads.remove(&thread);
                Some(Some(value))
            }
        })
    }

    /// Numbers an object.
    ///
    /// # Errors
    /// [`TooMany`] when there is no room for one more; the object is dropped then.
    pub fn add_object(&self, object: ObjectHandle<Machine>) -> Result<u64, TooMany> {
        let object = Arc::new(object);
        let mut state = self.state.lock();
        if state.objects.len() >= MAX_OBJECTS {
            // Giving an object back may take the objects' lock, which this one stands behind.
            drop(state);
            return Err(TooMany);
        }
        state.last_object += 1;
        let number = state.last_object;
        state.objects.insert(number, object);
        Ok(number)
    }

    /// Returns an object by its number.
    pub fn object(&self, number: u64) -> Option<Arc<ObjectHandle<Machine>>> {
        self.state.lock().objects.get(&number).cloned()
    }

    /// Gives an object's number back; tells whether there was one.
    pub fn remove_object(&self, number: u64) -> bool {
        let removed = self.state.lock().objects.remove(&number);
        removed.is_some()
    }

    /// Returns all objects with their numbers, and the last number.
    fn objects(&self) -> (BTreeMap<u64, Arc<ObjectHandle<Machine>>>, u64) {
        let state = self.state.lock();
        (state.objects.clone(), state.last_object)
    }

    /// Makes a child without threads, whose map is `map`, and numbers it.
    ///
    /// # Errors
    /// [`TooMany`] when there is no room for one more.
    pub fn add_child(self: &Arc<Self>, map: Arc<VmMap<Machine>>) -> Result<(u64, Arc<Self>), TooMany> {
        let child = Self::new(Arc::clone(&self.programs), self.task, self.name.clone(), map);
        let (objects, last_object) = self.objects();
        {
            let mut state = child.state.lock();
            (state.objects, state.last_object) = (objects, last_object);
        }
        let mut state = self.state.lock();
        if state.children.len() >= MAX_CHILDREN {
            return Err(TooMany);
        }
        state.last_child += 1;
        let number = state.last_child;
        state.children.insert(number, Arc::clone(&child));
        Ok((number, child))
    }

    /// Returns a child by its number.
    pub fn child(&self, number: u64) -> Option<Arc<Self>> {
        self.state.lock().children.get(&number).cloned()
    }

    /// Forgets a child that has ended.
    pub fn forget_child(&self, number: u64) {
        let child = self.state.lock().children.remove(&number);
        drop(child);
    }

    /// Gives back all that the program has, after its last thread's end, and lets everybody know. Its children end with it.
    pub async fn finish(&self) {
        let (objects, children) = {
            let mut state = self.state.lock();
            (core::mem::take(&mut state.objects), core::mem::take(&mut state.children))
        };
        for child in children.values() {
            child.end(ProgramEnd::Killed);
            poll_fn(|context| child.poll_end(context)).await;
        }
        drop((objects, children));
        self.map.destroy().await;
        // Objects that nobody else uses end with the program: what they owe is written, and their stores are free again.
        while let Some(work) = self.map.vm().take_background() {
            work.await;
        }
        // Somebody else may have taken them.
        self.map.vm().ends_are_over().await;
        self.programs.ended(self);
        self.change(|state| state.has_ended = true);
    }
}

impl Program for Process {
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<ProgramEnd> {
        self.look(context, |state| state.ending.clone().filter(|_| state.has_ended))
    }

    fn kill(&self) {
        self.end(ProgramEnd::Killed);
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("task", &self.task).field("name", &self.name).finish_non_exhaustive()
    }
}
