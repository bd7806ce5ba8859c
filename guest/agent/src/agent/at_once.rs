//! Commands that never wait.

use alloc::sync::Arc;

use wirevm_map::{Host, KernReturn, PageRange, Ports, VmMap};

use super::managed::Object;
use super::{Agent, State, Task};
use crate::command::{Command, Limit, ObjectKind};
use crate::lists;
use crate::operate::refused;
use crate::platform::Platform;
use crate::reply::Reply;

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Answers commands that never wait; `None` for the others.
    pub(super) fn at_once(&self, state: &mut State<P>, task: u64, command: Command) -> Option<Reply> {
        let success = Reply::Done(KernReturn::Success);
        let about_map = |state: &mut State<P>, answer: &dyn Fn(&VmMap<P>) -> Reply| match state.task(task) {
            Some(task) => answer(&task.map),
            None => Reply::Malformed,
        };
        let about_object = |state: &State<P>, object, change: &dyn Fn(&Object<P>)| match state.object(object) {
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
            Command::PageStates { start, end } => about_map(state, &|map| lists::page_states(map, start, end)),
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
                state.add_object(Object { handle: object, manager: None })
            }
            Command::DropObject { object } => match state.objects.remove(&object) {
                Some(_) => success,
                None => Reply::Malformed,
            },
            Command::Gate { object, page } => about_object(state, object, &|object| object.handle.gate(page)),
            Command::Release { object, page } => about_object(state, object, &|object| object.handle.release(page)),
            Command::Fail { object, page, fault } => {
                about_object(state, object, &|object| object.fail(page, Some(fault)))
            }
            Command::Heal { object, page } => about_object(state, object, &|object| object.fail(page, None)),
            Command::Stat { selector } => {
                self.vm().host().stat(selector).map_or_else(|error| Reply::Done(refused(error)), Reply::Number)
            }
            Command::Trim => self.vm().trim().map_or_else(|error| Reply::Done(refused(error)), Reply::Number),
            command => return self.managed_at_once(state, task, command),
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
