//! What a sync has sent, until it has come to its end.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;

use smallvec::SmallVec;

use crate::kern_return::KernReturn;
use crate::manager::Message;
use crate::objects::{Extent, Manager, ObjectId, Objects, Returns};
use crate::ports::{Host, HostError, Ports, StoreRun, SyncRun};
use crate::units::PageRange;
use crate::vm::Vm;

/// Pages whose home is guest RAM on their way to stable storage. Dropping it ends the writes by their results.
pub(crate) struct RamWrite<P: Ports> {
    vm: Arc<Vm<P>>,
    /// Which pages of which object each of `runs` holds; the objects are held once the writes have begun.
    pages: SmallVec<[(ObjectId, PageRange); 1]>,
    /// Failures until the host says otherwise, so that a call that ends early leaves the pages dirty.
    runs: SmallVec<[SyncRun; 1]>,
}

/// Pages on their way to their manager. Dropping it ends the return as a failure.
pub(crate) struct Returning<P: Ports> {
    vm: Arc<Vm<P>>,
    returns: Option<Returns>,
    outcome: Result<(), KernReturn>,
}

/// What a sync sends to one place.
pub(crate) enum Outgoing<P: Ports> {
    /// To the RAM file.
    Ram(RamWrite<P>),
    /// To a manager.
    Managed(Returning<P>),
}

/// A send, which tells whether all has reached backing storage.
type Send<'a> = Pin<Box<dyn Future<Output = Result<(), HostError>> + core::marker::Send + 'a>>;

impl<P: Ports> RamWrite<P> {
    pub(super) fn new(vm: &Arc<Vm<P>>) -> Self {
        Self { vm: Arc::clone(vm), pages: SmallVec::new(), runs: SmallVec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds the pages of `extent`, from page `index` of `object` on; adjacent frames as one run.
    pub(super) fn add(&mut self, object: ObjectId, index: u64, extent: Extent) {
        let pages = PageRange::new(index, index + extent.frames.pages);
        match (self.pages.last_mut(), self.runs.last_mut()) {
            (Some((known, last)), Some(sync))
                if *known == object && last.end == pages.start && sync.run.end() == extent.frames.first =>
            {
                last.end = pages.end;
                sync.run.pages += pages.len();
            }
            _ => {
                self.pages.push((object, pages));
                self.runs.push(SyncRun { run: extent.frames, result: Err(HostError::Rejected) });
            }
        }
    }

    /// Marks the pages.
    pub(super) fn begin(&self, objects: &mut Objects<P>) {
        for (object, pages) in &self.pages {
            objects.table[*object].holds += 1;
            objects.table[*object].resident.begin_cleaning(*pages);
        }
    }
}

impl<P: Ports> Drop for RamWrite<P> {
    fn drop(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let mut objects = self.vm.objects();
        for ((object, pages), sync) in self.pages.iter().zip(&self.runs) {
            objects.table[*object].resident.end_cleaning(*pages, true, sync.result.is_err());
            objects.table.let_go(*object, self.vm.frames());
        }
        drop(objects);
        self.vm.idle().wake_all();
    }
}

impl<P: Ports> Drop for Returning<P> {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            self.vm.objects().finish_returns(returns, self.outcome, self.vm.frames());
            self.vm.idle().wake_all();
        }
    }
}

impl<P: Ports> Outgoing<P> {
    pub(super) fn returning(vm: &Arc<Vm<P>>, returns: Returns) -> Self {
        Self::Managed(Returning { vm: Arc::clone(vm), returns: Some(returns), outcome: Err(KernReturn::Failure) })
    }

    pub(super) const fn is_ram(&self) -> bool {
        matches!(self, Self::Ram(_))
    }

    /// Tells whether a task must answer.
    pub(super) fn is_task(&self) -> bool {
        match self {
            Self::Ram(_) => false,
            Self::Managed(returning) => {
                returning.returns.as_ref().is_some_and(|returns| matches!(returns.manager, Manager::Task(_)))
            }
        }
    }
}

/// Sends it and waits until it is on backing storage.
pub(crate) async fn send<P: Ports>(vm: Arc<Vm<P>>, outgoing: Outgoing<P>) -> Result<(), HostError> {
    match outgoing {
        Outgoing::Ram(mut ram) => {
            vm.host().sync(&mut ram.runs).await;
            ram.runs.iter().find_map(|sync| sync.result.err()).map_or(Ok(()), Err)
        }
        Outgoing::Managed(mut returning) => {
            let Some(returns) = &mut returning.returns else { return Ok(()) };
            let result = match &returns.manager {
                Manager::Store(store, _) => {
                    let store = *store;
                    let of = |sent: &crate::objects::Sent| StoreRun {
                        first: sent.pages.start,
                        frames: sent.frames,
                        result: Err(HostError::Rejected),
                    };
                    let mut runs: Vec<StoreRun> = returns.sent.iter().map(of).collect();
                    if !runs.is_empty() {
                        vm.host().data_return(store, &mut runs).await;
                    }
                    for (sent, run) in returns.sent.iter_mut().zip(&runs) {
                        sent.result = run.result;
                    }
                    // What has arrived is put on backing storage even if something else has not.
                    let synced = vm.host().synchronize(store, returns.part).await;
                    let returned = runs.iter().find_map(|run| run.result.err()).map_or(Ok(()), Err);
                    (synced, returned.and(synced))
                }
                Manager::Task(_) => {
                    let outcome = completed(&vm, returns).await.map_err(|_| HostError::Io);
                    (outcome, outcome)
                }
            };
            let (synced, result) = result;
            returning.outcome = synced.map_err(|_| KernReturn::Failure);
            result
        }
    }
}

/// Waits until the manager has completed the synchronization, or has died (row K-08).
async fn completed<P: Ports>(vm: &Arc<Vm<P>>, returns: &Returns) -> Result<(), KernReturn> {
    loop {
        let wait = {
            let objects = vm.objects();
            match objects.table[returns.object].managed().and_then(|managed| managed.sync_outcome(returns.sync)) {
                Some(outcome) => return outcome,
                None => vm.idle().wait(),
            }
        };
        wait.await;
    }
}

/// Begins a send. One that is over has its result; one that is left alone goes on in the background, as if it had succeeded; any
/// other is handed back to be awaited.
pub(super) async fn detach<P: Ports>(
    vm: &Arc<Vm<P>>,
    mut future: Send<'static>,
    left_alone: bool,
) -> Result<Result<(), HostError>, Send<'static>> {
    let begun = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    match begun {
        Poll::Ready(result) => Ok(result),
        Poll::Pending if left_alone => {
            vm.put_background(Box::pin(async move {
                // The pages tell what became of it: they are clean now, or dirty again.
                future.await.unwrap_or_default();
            }));
            Ok(Ok(()))
        }
        Poll::Pending => Err(future),
    }
}

/// Awaits all sends at once: what has come to its end is over at once, whatever becomes of the others.
pub(super) async fn all(mut sends: Vec<Send<'static>>) -> Vec<Result<(), HostError>> {
    let mut results = Vec::new();
    poll_fn(|context| {
        sends.retain_mut(|send| match send.as_mut().poll(context) {
            Poll::Ready(result) => {
                results.push(result);
                false
            }
            Poll::Pending => true,
        });
        if sends.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results
}

/// Tells the manager that the object has ended, and ends it.
pub(super) fn end_object<P: Ports>(vm: &Arc<Vm<P>>, id: ObjectId) {
    let (store, port) = {
        let mut objects = vm.objects();
        let is_dead = core::mem::replace(&mut objects.table[id].is_dead, true);
        match objects.table[id].managed().map(|managed| managed.manager.clone()) {
            Some(Manager::Store(store, _)) => (Some(store), None),
            Some(Manager::Task(port)) if !is_dead => (None, Some(port)),
            _ => (None, None),
        }
    };
    if let Some(store) = store {
        vm.host().close_store(store);
    }
    if let Some(port) = port {
        port.send(u64::from(id.number()), Message::Terminate);
    }
    vm.objects().table.let_go(id, vm.frames());
    vm.idle().wake_all();
}
