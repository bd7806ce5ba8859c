//! Who keeps the pages that are synchronised, and what he must have: a store, or a task that manages them.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::scenario::Memory;
use super::world::{World, at};
use crate::fake::{Executor, FakePmap, FakePorts, yield_now};
use crate::flags::SyncFlags;
use crate::handle::{ObjectHandle, Supply};
use crate::kern_return::KernReturn;
use crate::manager::{ManagerPort, Message, ShouldReturn};
use crate::map::{Placement, VmMap};
use crate::ports::{Frames, StoreKind};
use crate::units::{PAGE_SHIFT, Prot};

/// Pages of the object.
pub(super) const KEPT: u64 = 4;
/// What its bytes are before anybody writes.
const OLD: u8 = 0x40;
const NAME: &str = "kept";

/// A task that manages the object, and keeps the pages in memory of its own.
#[derive(Debug)]
struct Manager {
    port: Arc<ManagerPort>,
    own: Arc<VmMap<FakePorts>>,
    supply: Supply,
    /// What a power cut leaves.
    stable: Mutex<Vec<u8>>,
    /// After how many synchronizations one fails.
    failing: Mutex<Option<u64>>,
}

/// What is known about the pages that somebody keeps.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    manager: Option<Manager>,
    /// The bytes written, in the order of their writes, each with its page.
    written: Mutex<Vec<(u64, u8)>>,
    is_killed: Mutex<bool>,
}

impl Keeper {
    /// Returns the manager's own memory.
    pub(super) fn own(&self) -> Option<Arc<VmMap<FakePorts>>> {
        self.manager.as_ref().map(|manager| Arc::clone(&manager.own))
    }

    /// Tells whether there is anything to keep.
    pub(super) fn keeps(&self) -> bool {
        !self.written.lock().is_empty()
    }

    pub(super) const fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// Notes that a write has come to its end.
    pub(super) fn note_written(&self, page: u64, byte: u8) {
        self.written.lock().push((page, byte));
    }

    /// Notes that nothing is kept from now on.
    pub(super) fn note_killed(&self) {
        *self.is_killed.lock() = true;
    }

    pub(super) fn fail(&self, after: Option<u64>) {
        if let Some(manager) = &self.manager {
            *manager.failing.lock() = after;
        }
    }

    /// Returns after how many writes each page got its last byte.
    fn turns(&self) -> Vec<usize> {
        let written = self.written.lock();
        let last = |page| written.iter().rposition(|(known, _)| *known == page).unwrap_or(0);
        (0..KEPT).map(last).collect()
    }
}

impl World {
    /// Makes the object.
    pub(super) async fn keep(&mut self, memory: Memory) -> Result<ObjectHandle<FakePorts>, KernReturn> {
        let vm = &self.machine.vm;
        (0..KEPT).for_each(|page| self.keeper.note_written(page, OLD));
        if matches!(memory, Memory::Store | Memory::Exclusive) {
            self.machine.host().fill_store(NAME, KEPT, OLD);
            let kind = if memory == Memory::Store { StoreKind::Store } else { StoreKind::Exclusive };
            return vm.store_object(NAME, KEPT, kind);
        }
        let port = vm.manager_port();
        let object = vm.managed_object(&port, KEPT);
        let own = VmMap::new(Arc::clone(vm), self.machine.map.bounds(), FakePmap::new());
        own.allocate(Placement::Fixed(at(0)), KEPT << PAGE_SHIFT).await?;
        for page in 0..KEPT {
            self.machine.write_in(&own, at(page), &[OLD]).await?;
        }
        let supply = Supply {
            is_precious: memory == Memory::Precious,
            traps_writes: memory == Memory::Trapped,
            ..Supply::default()
        };
        let stable = Mutex::new(alloc::vec![OLD; 4]);
        self.keeper.manager = Some(Manager { port, own: Arc::new(own), supply, stable, failing: Mutex::default() });
        Ok(object)
    }

    /// Does what the manager does, and does not end.
    pub(super) async fn manage(&self) {
        let Some(manager) = &self.keeper.manager else { return };
        loop {
            let (number, message) = manager.port.next().await;
            yield_now().await;
            self.answer(manager, number, message).await;
        }
    }

    async fn answer(&self, manager: &Manager, number: u64, message: Message) {
        let vm = &self.machine.vm;
        let object = vm.managed_object_of(&manager.port, number);
        if *self.keeper.is_killed.lock() {
            // Nobody answers any more.
            if let Message::DataReturn { frames, .. } = message {
                frames.into_iter().for_each(|run| self.machine.frames().free(run));
            }
            return;
        }
        match message {
            Message::DataRequest { pages, .. } => {
                if let Some(object) = object {
                    // Nobody needs it any more where it is refused.
                    let supplied = object.data_supply(pages, &manager.own, at(pages.start), manager.supply);
                    supplied.await.unwrap_or_default();
                }
            }
            Message::DataUnlock { pages, .. } => {
                if let Some(object) = object {
                    let permit = object.lock_request(pages, ShouldReturn::Nothing, false, Some(Prot::NONE));
                    permit.await.unwrap_or_default();
                }
            }
            Message::DataReturn { pages, frames, .. } => {
                drop(object);
                assert_eq!(manager.own.accept_frames(at(pages.start), &frames).await, Ok(()));
                frames.into_iter().for_each(|run| self.machine.frames().free(run));
            }
            Message::Synchronize { pages, .. } => {
                drop(object);
                let status = match &mut *manager.failing.lock() {
                    Some(0) => Err(KernReturn::Failure),
                    Some(after) => {
                        *after -= 1;
                        Ok(())
                    }
                    None => Ok(()),
                };
                if status.is_ok() {
                    for page in pages.start..pages.end {
                        let byte = self.read(&manager.own, page).await.expect("its own memory");
                        manager.stable.lock()[usize::try_from(page).unwrap()] = byte;
                    }
                } else {
                    *manager.failing.lock() = None;
                }
                let (offset, length) = (pages.start << PAGE_SHIFT, pages.len() << PAGE_SHIFT);
                // Where it is refused, the object has been killed.
                vm.synchronize_completed(number, offset, length, status).unwrap_or_default();
            }
            Message::Init | Message::LockCompleted { .. } | Message::Terminate => {}
        }
    }

    /// Runs `work` to its end, with the manager and all that is done in the background beside it; `None` if anything is left.
    pub(super) fn settle<T: Send>(&self, work: impl Future<Output = T> + Send) -> Option<T> {
        let mut executor = Executor::new(0);
        if self.keeper.has_manager() {
            executor.spawn(self.manage());
        }
        let output = executor.spawn(work);
        loop {
            executor.run_until_stalled();
            let Some(work) = self.machine.vm.take_background() else { break };
            executor.spawn(work);
        }
        if executor.remaining() == usize::from(self.keeper.has_manager()) { output.take() } else { None }
    }

    fn stable(&self, page: u64) -> u8 {
        match &self.keeper.manager {
            Some(manager) => manager.stable.lock()[usize::try_from(page).unwrap()],
            None => self.machine.host().store_byte(NAME, page).expect("a page of the store").1,
        }
    }

    /// Synchronises the object's pages, and checks that what was written before is stable when that is reported.
    pub(super) async fn sync_kept(&self, map: &VmMap<FakePorts>, flags: SyncFlags) -> Result<(), KernReturn> {
        let before = self.keeper.turns();
        let outcome = map.msync(at(0), KEPT << PAGE_SHIFT, flags).await;
        if outcome.is_ok() && flags.contains(SyncFlags::SYNCHRONOUS) {
            self.check_stable(&before).unwrap_or_else(|what| panic!("{what}"));
        }
        outcome
    }

    /// Checks that every page is stable as its write of that turn left it, or a later one.
    fn check_stable(&self, turns: &[usize]) -> Result<(), String> {
        if *self.keeper.is_killed.lock() {
            return Ok(());
        }
        let written = self.keeper.written.lock();
        for (page, turn) in (0..KEPT).zip(turns) {
            let stable = self.stable(page);
            let found = written.iter().rposition(|known| *known == (page, stable));
            if found.is_none_or(|found| found < *turn) {
                let (_, expected) = written[*turn];
                return Err(format!("page {page} is reported as stable as {expected:#x} and is {stable:#x}"));
            }
        }
        Ok(())
    }

    /// Checks what holds of pages that somebody keeps when all tasks have ended, and that nothing of what was written is missing
    /// after a synchronisation of all of it.
    pub(super) fn check_kept(&self) -> Result<(), String> {
        let (true, Some(object), Some(second)) = (self.keeper.keeps(), &self.object, &self.second) else {
            return Ok(());
        };
        let is_idle =
            self.machine.vm.objects().table[object.id()].managed().is_none_or(crate::objects::Managed::is_idle);
        if !is_idle {
            return Err(String::from("a question to the manager is left, or a synchronization"));
        }
        if self.settle(self.sync_kept(second, SyncFlags::SYNCHRONOUS)) != Some(Ok(())) {
            return Err(String::from("what is left can't be synchronised"));
        }
        self.check_end()
    }

    /// Checks that stable storage holds what was written last.
    pub(super) fn check_end(&self) -> Result<(), String> {
        if self.machine.vm.lost_objects() > 0 {
            return Err(String::from("pages are lost with the object"));
        }
        if self.keeper.keeps() { self.check_stable(&self.keeper.turns()) } else { Ok(()) }
    }
}
