//! What is about the whole system: checks, and emptying it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_map::{KernReturn, MapLimits, Ports, VmMap, check_all, check_quiet, check_some};

use super::{Agent, Named, State, Task};
use crate::command::MAIN_TASK;
use crate::operate::Outcome;
use crate::platform::Platform;
use crate::reply::Reply;
use crate::threads::Kind;

/// Most bytes of a sentence that an answer carries.
const MAX_SENTENCE_BYTES: usize = 4096;

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Checks every map, and what the machine knows beyond them.
    pub(super) fn check(&self, state: &State<P>) -> Reply {
        let maps = state.maps();
        let maps: Vec<&VmMap<P>> = maps.iter().map(AsRef::as_ref).collect();
        // Programs make maps while they run, which nobody knows of before they are done.
        let runs = self.platform.running_programs() > 0;
        let checked = if runs { check_some(&maps) } else { check_all(&maps) };
        if let Err(broken) = checked {
            return violation(broken.to_string());
        }
        match self.platform.check(&maps) {
            Ok(()) => Reply::Done(KernReturn::Success),
            Err(broken) => violation(broken),
        }
    }

    /// Checks that nothing is under way, and everything else.
    pub(super) fn quiesce(&self, state: &State<P>) -> Reply {
        if state.has_programs() {
            return violation("a program has not ended".to_string());
        }
        let waiting = state.at_work();
        if waiting > 0 && state.stalled() == Reply::Awaits {
            return Reply::Awaits;
        }
        match waiting {
            0 => {}
            1 => return violation("an operation waits and nothing will wake it".to_string()),
            waiting => return violation(format!("{waiting} operations wait and nothing will wake them")),
        }
        if let Some(thread) = state.named.keys().next() {
            return violation(format!("the result of thread {thread} was not taken"));
        }
        let maps = state.maps();
        let maps: Vec<&VmMap<P>> = maps.iter().map(AsRef::as_ref).collect();
        if let Err(broken) = check_quiet(&maps) {
            return violation(broken.to_string());
        }
        self.check(state)
    }

    /// Empties the system, once no program runs any more.
    pub(super) fn reset(&self, state: &mut State<P>) -> Reply {
        state.kill_programs();
        if !state.settle() {
            return restless();
        }
        if state.has_programs() {
            return Reply::Awaits;
        }
        state.named.retain(|_, named| matches!(named, Named::Waits { .. }));
        if state.threads.count(Kind::Operation) > 0 {
            return self.quiesce(state);
        }
        let others: Vec<_> = state.tasks.range(MAIN_TASK + 1..).map(|(_, task)| Arc::clone(&task.map)).collect();
        let managers: Vec<_> = state.tasks.values().filter_map(|task| task.manager.clone()).collect();
        let main = state.tasks.get(&MAIN_TASK);
        let (has_locked_all, has_heap) = main.map_or((false, false), |main| (main.has_locked_all, main.has_heap));
        let main = Arc::clone(&self.main);
        let emptied = state.run(Box::pin(async move {
            // Nobody is asked for what will be thrown away.
            for manager in managers {
                manager.die().await;
            }
            for map in others {
                map.destroy().await;
            }
            main.destroy().await;
            // What stands for memory to come outlives the memory. Neither can fail where nothing is mapped.
            if has_locked_all {
                main.munlockall().await.unwrap_or_default();
            }
            if has_heap {
                main.brk(0).await.unwrap_or_default();
            }
            Outcome::Emptied
        }));
        if emptied != Reply::Done(KernReturn::Success) {
            return self.quiesce(state);
        }
        state.objects.clear();
        state.tasks.retain(|number, _| *number == MAIN_TASK);
        if let Some(main) = state.tasks.get_mut(&MAIN_TASK) {
            if main.limits != MapLimits::default() {
                main.map.set_limits(MapLimits::default());
            }
            *main = Task::of(Arc::clone(&self.main));
        }
        if self.vm().user_wire_limit_pages() != self.user_wire_limit_pages {
            self.vm().set_user_wire_limit(self.user_wire_limit_pages);
        }
        // Objects that ended may have something to return.
        if state.settle() { self.quiesce(state) } else { restless() }
    }
}

pub(super) fn violation(sentence: String) -> Reply {
    Reply::Violation(shortened(sentence))
}

/// Cuts a sentence to what an answer carries.
pub(super) fn shortened(mut sentence: String) -> String {
    if sentence.len() > MAX_SENTENCE_BYTES {
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE_BYTES));
    }
    sentence
}

pub(super) fn restless() -> Reply {
    violation("threads wake one another for ever".to_string())
}
