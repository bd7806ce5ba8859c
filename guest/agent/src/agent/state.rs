//! Tasks, objects and threads, and the turns that threads take.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_map::{Host, KernReturn, MapLimits, Ports, VmMap};

use super::managed::Object;
use super::whole::restless;
use super::{Awaited, Named, State, Task};
use crate::operate::Outcome;
use crate::reply::Reply;
use crate::threads::{Kind, Work};

/// Polls within one request beyond which threads are taken to wake one another for ever.
const MAX_POLLS: u32 = 1 << 22;

impl<P: Ports> State<P> {
    /// Returns a task that there is something to do with.
    pub(super) fn task(&mut self, task: u64) -> Option<&mut Task<P>> {
        let is_usable = |task: &&mut Task<P>| !task.is_starting && !task.is_ending && !task.map.is_detached();
        self.tasks.get_mut(&task).filter(is_usable)
    }

    /// Returns the maps of all tasks in the order of their numbers, then those of programs' children: always in the same order, since
    /// whoever looks at all locks them one after the other.
    pub(super) fn maps(&self) -> Vec<Arc<VmMap<P>>> {
        let mut maps: Vec<_> = self.tasks.values().map(|task| Arc::clone(&task.map)).collect();
        for map in self.platform.further_maps() {
            // None may be locked twice.
            if !maps.iter().any(|known| Arc::ptr_eq(known, &map)) {
                maps.push(map);
            }
        }
        maps
    }

    pub(super) fn object(&self, object: u64) -> Option<Arc<Object<P>>> {
        self.objects.get(&object).map(Arc::clone)
    }

    pub(super) fn add_task(&mut self, task: Task<P>) -> u64 {
        self.last_task += 1;
        self.tasks.insert(self.last_task, task);
        self.last_task
    }

    pub(super) fn add_object(&mut self, object: Object<P>) -> Reply {
        self.last_object += 1;
        self.objects.insert(self.last_object, Arc::new(object));
        Reply::Number(self.last_object)
    }

    /// Polls the thread that was woken first, and begins what the system is to do because of it. As
    /// [`Threads::step`](crate::threads::Threads::step).
    fn turn(&mut self) -> Option<Option<(u64, Outcome<P>)>> {
        let turn = self.threads.step();
        self.begin_background();
        turn
    }

    /// Begins what the system has to do for itself.
    fn begin_background(&mut self) {
        while let Some(work) = self.vm.take_background() {
            let work = async move {
                work.await;
                Outcome::Nothing
            };
            // Its outcome says nothing, whether it comes now or later.
            self.threads.start(Kind::Background, Box::pin(work));
        }
    }

    /// Polls threads until none can go on; `false` when that does not come to an end.
    pub(super) fn settle(&mut self) -> bool {
        self.begin_background();
        for _ in 0..MAX_POLLS {
            match self.turn() {
                None => return true,
                Some(None) => {}
                Some(Some((key, outcome))) => {
                    let reply = self.conclude(outcome);
                    self.ended(key, reply);
                }
            }
        }
        false
    }

    /// Runs work that no thread was asked for, and whatever it lets go on.
    pub(super) fn run(&mut self, work: Work<Outcome<P>>) -> Reply {
        // It is a thread like the others from here on, but its result is lost if it comes after this request, unless it is the
        // host that it waits for.
        let (key, first) = self.threads.start(Kind::Operation, work);
        self.awaited = Some(Awaited::Operation { key, reply: None });
        if let Some(outcome) = first {
            let reply = self.conclude(outcome);
            self.ended(key, reply);
        }
        if !self.settle() {
            return restless();
        }
        match self.awaited.take() {
            Some(Awaited::Operation { reply: Some(reply), .. }) => reply,
            waits => {
                let reply = self.stalled();
                if reply == Reply::Awaits {
                    self.awaited = waits;
                }
                reply
            }
        }
    }

    /// Says how it stands with whoever can't go on: the host, or a program, may yet change that, or nobody will.
    pub(super) fn stalled(&self) -> Reply {
        // In this order: what the host has answered, or a program done, may have woken a thread just now.
        let may_change = self.vm.host().outstanding() > 0 || self.has_programs() || self.threads.can_go_on();
        if may_change { Reply::Awaits } else { Reply::Blocked }
    }

    /// Says how many requests the host has answered since the last time, once it has answered all.
    pub(super) fn completions(&mut self) -> Reply {
        if self.vm.host().outstanding() > 0 || self.threads.count(Kind::Background) > 0 {
            return self.stalled();
        }
        let answered = self.vm.host().answered();
        Reply::Number(answered - core::mem::replace(&mut self.answers_told, answered))
    }

    /// Keeps the result of a thread that somebody will ask for.
    fn ended(&mut self, key: u64, reply: Reply) {
        if let Some(Awaited::Operation { key: known, reply: place }) = &mut self.awaited
            && *known == key
        {
            *place = Some(reply);
            return;
        }
        let is_this = |named: &&mut Named| matches!(named, Named::Waits { key: known } if *known == key);
        if let Some(named) = self.named.values_mut().find(is_this) {
            *named = Named::Ended(reply);
        }
    }

    pub(super) fn join(&mut self, thread: u64) -> Reply {
        match self.named.remove(&thread) {
            None => Reply::Malformed,
            Some(Named::Ended(reply)) => reply,
            Some(waits) => {
                self.named.insert(thread, waits);
                self.stalled()
            }
        }
    }

    /// Takes note of what an operation came to and says it.
    pub(super) fn conclude(&mut self, outcome: Outcome<P>) -> Reply {
        match outcome {
            Outcome::Reply(reply) => reply,
            Outcome::Forked(map, limits) => {
                if limits != MapLimits::default() {
                    map.set_limits(limits);
                }
                Reply::Number(self.add_task(Task { limits, ..Task::of(map) }))
            }
            Outcome::Submap(map) => Reply::Number(self.add_task(Task { limits: map.limits(), ..Task::of(map) })),
            Outcome::Program(task, started) => self.program_started(task, started),
            Outcome::Ended(task) => {
                self.tasks.remove(&task);
                // What was part of its map went with it.
                self.tasks.retain(|_, task| !task.map.is_detached());
                Reply::Done(KernReturn::Success)
            }
            Outcome::Emptied | Outcome::Nothing => Reply::Done(KernReturn::Success),
        }
    }
}
