//! Tasks, objects and threads, and the turns that threads take.

use alloc::sync::Arc;

use wirevm_map::{KernReturn, MapLimits, ObjectHandle, Ports};

use super::whole::restless;
use super::{Named, State, Task};
use crate::operate::Outcome;
use crate::reply::Reply;
use crate::threads::Work;

/// Polls within one request beyond which threads are taken to wake one another for ever.
const MAX_POLLS: u32 = 1 << 22;

impl<P: Ports> State<P> {
    pub(super) fn task(&mut self, task: u64) -> Option<&mut Task<P>> {
        self.tasks.get_mut(&task).filter(|task| !task.is_ending)
    }

    pub(super) fn object(&self, object: u64) -> Option<Arc<ObjectHandle<P>>> {
        self.objects.get(&object).map(Arc::clone)
    }

    pub(super) fn add_task(&mut self, task: Task<P>) -> u64 {
        self.last_task += 1;
        self.tasks.insert(self.last_task, task);
        self.last_task
    }

    /// Polls threads until none can go on; `false` when that does not come to an end.
    pub(super) fn settle(&mut self) -> bool {
        for _ in 0..MAX_POLLS {
            match self.threads.step() {
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
        // It is a thread like the others from here on, but its result is lost if it comes after this request.
        let (mine, first) = self.threads.start(work);
        let mut reply = first.map(|outcome| self.conclude(outcome));
        for _ in 0..MAX_POLLS {
            match self.threads.step() {
                None => return reply.unwrap_or(Reply::Blocked),
                Some(None) => {}
                Some(Some((key, outcome))) => {
                    let ended = self.conclude(outcome);
                    if key == mine {
                        reply = Some(ended);
                    } else {
                        self.ended(key, ended);
                    }
                }
            }
        }
        restless()
    }

    /// Keeps the result of a thread that has a number.
    fn ended(&mut self, key: u64, reply: Reply) {
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
                Reply::Blocked
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
                Reply::Number(self.add_task(Task { limits, ..Task::new(map) }))
            }
            Outcome::Ended(task) => {
                self.tasks.remove(&task);
                Reply::Done(KernReturn::Success)
            }
            Outcome::Emptied => Reply::Done(KernReturn::Success),
        }
    }
}
