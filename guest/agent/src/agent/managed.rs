//! Objects with pagers of their own, and the tasks that are managers.

use alloc::boxed::Box;
use alloc::sync::Arc;

use wirevm_abi::StoreName;
use wirevm_map::{KernReturn, ObjectHandle, PAGE_SIZE, PageRange, PagerFault, Ports, VmMap};

use super::{Agent, State, Task};
use crate::command::Command;
use crate::lists;
use crate::manager::Manager;
use crate::operate::{Outcome, done};
use crate::platform::Platform;
use crate::reply::Reply;
use crate::threads::{Kind, Work};

/// An object as requests name it.
pub(super) struct Object<P: Ports> {
    pub(super) handle: ObjectHandle<P>,
    /// The manager, where it is a task.
    pub(super) manager: Option<Arc<Manager<P>>>,
}

impl<P: Ports, L: Platform<P>> Agent<P, L> {
    /// Answers commands about objects and managers that never wait; `None` for all others.
    pub(super) fn managed_at_once(&self, state: &mut State<P>, task: u64, command: Command) -> Option<Reply> {
        Some(match command {
            Command::DirtyRanges { object } => match state.object(object) {
                Some(object) => {
                    lists::counts(object.handle.dirty_ranges().into_iter().map(|pages| (pages, 1)).collect())
                }
                None => Reply::Malformed,
            },
            Command::NewStoreObject { name, pages, kind } => match StoreName::from_words(name) {
                Ok(name) => match self.vm().store_object(name.as_str(), pages, kind) {
                    Ok(handle) => state.add_object(Object { handle, manager: None }),
                    Err(code) => Reply::Done(code),
                },
                Err(_) => Reply::Done(KernReturn::InvalidArgument),
            },
            Command::NewManager => match self.platform.new_pmap() {
                Ok(pmap) => {
                    let map = Arc::new(VmMap::new(Arc::clone(self.vm()), self.main.bounds(), pmap));
                    let manager = Arc::new(Manager::new(Arc::clone(&map)));
                    state.begin_service(Arc::clone(&manager), Arc::clone(&self.platform));
                    Reply::Number(state.add_task(Task { manager: Some(manager), ..Task::of(map) }))
                }
                Err(_) => Reply::Done(KernReturn::ResourceShortage),
            },
            Command::NewManagedObject { .. }
            | Command::Behave(_)
            | Command::SynchronizeCompleted { .. }
            | Command::Messages => match state.task(task).and_then(|task| task.manager.clone()) {
                Some(manager) => self.tell(state, &manager, command),
                None => Reply::Malformed,
            },
            _ => return None,
        })
    }

    /// Carries out what is about a task that is a manager.
    fn tell(&self, state: &mut State<P>, manager: &Arc<Manager<P>>, command: Command) -> Reply {
        match command {
            Command::NewManagedObject { pages, address } => match manager.new_object(pages, address) {
                Some(handle) => state.add_object(Object { handle, manager: Some(Arc::clone(manager)) }),
                None => Reply::Done(KernReturn::Failure),
            },
            Command::Behave(behaviour) => {
                manager.behave(behaviour);
                Reply::Done(KernReturn::Success)
            }
            Command::SynchronizeCompleted { object, offset, length, status } => {
                let status = if status == KernReturn::Success { Ok(()) } else { Err(status) };
                match state.managed_by(object, manager) {
                    Some(object) => {
                        let completed = object.handle.synchronize_completed(offset, length, status);
                        if completed.is_ok() {
                            let pages = PageRange::new(offset / PAGE_SIZE, (offset + length) / PAGE_SIZE);
                            manager.has_completed(object.handle.number(), pages);
                        }
                        done(completed)
                    }
                    None => Reply::Malformed,
                }
            }
            Command::Messages => lists::text(manager.take_heard()),
            _ => Reply::Malformed,
        }
    }
}

impl<P: Ports> Object<P> {
    /// Lets whoever supplies the object's pages fail at one, or succeed again.
    pub(super) fn fail(&self, page: u64, fault: Option<PagerFault>) {
        match &self.manager {
            Some(manager) => manager.fail(self.handle.number(), page, fault),
            None => self.handle.fail(page, fault),
        }
    }
}

impl<P: Ports> State<P> {
    /// Returns an object that the manager manages.
    fn managed_by(&self, object: u64, manager: &Arc<Manager<P>>) -> Option<Arc<Object<P>>> {
        let is_its = |known: &Arc<Manager<P>>| Arc::ptr_eq(known, manager);
        self.object(object).filter(|object| object.manager.as_ref().is_some_and(is_its))
    }

    /// Begins commands of a manager that may wait.
    pub(super) fn start_managed(&mut self, task: u64, command: Command) -> Option<Work<Outcome<P>>> {
        let manager = self.task(task)?.manager.clone()?;
        match command {
            Command::Die => Some(Box::pin(async move {
                manager.die().await;
                Outcome::Reply(Reply::Done(KernReturn::Success))
            })),
            Command::LockRequest { object, first_page, end_page, should_return, should_flush, forbidden } => {
                let object = self.managed_by(object, &manager)?;
                Some(Box::pin(async move {
                    if end_page < first_page {
                        return Outcome::Reply(Reply::Done(KernReturn::InvalidArgument));
                    }
                    let pages = PageRange::new(first_page, end_page);
                    let locked = object.handle.lock_request(pages, should_return, should_flush, forbidden).await;
                    Outcome::Reply(done(locked))
                }))
            }
            _ => None,
        }
    }

    /// Lets a manager answer, from now until it ends.
    fn begin_service(&mut self, manager: Arc<Manager<P>>, platform: Arc<impl Platform<P>>) {
        let service = async move {
            manager.serve(platform.as_ref()).await;
            Outcome::Nothing
        };
        self.threads.start(Kind::Service, Box::pin(service));
    }

    /// Returns how many operations have begun and not ended, those of managers and of the system itself included.
    pub(super) fn at_work(&self) -> usize {
        let is_at_work = |task: &&Task<P>| task.manager.as_ref().is_some_and(|manager| manager.is_at_work());
        self.threads.count(Kind::Operation)
            + self.threads.count(Kind::Background)
            + self.tasks.values().filter(is_at_work).count()
    }
}
