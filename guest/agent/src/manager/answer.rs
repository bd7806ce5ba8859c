//! What a manager answers.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use wirevm_map::{
    FrameRun, Frames, Host, HostError, KernReturn, Message, ObjectHandle, PAGE_SIZE, PageRange, PagerFault, Ports,
    Prot, ShouldReturn, Supply, SyncFlags,
};

use super::Manager;
use crate::access;
use crate::pattern::Pattern;
use crate::platform::Platform;

impl<P: Ports> Manager<P> {
    /// Answers a message about the object of that number. The kernel refuses answers that it does not expect any more, such as
    /// those about an object that has ended meanwhile; nobody minds.
    pub(super) async fn answer(&self, platform: &impl Platform<P>, number: u64, message: Message) {
        match message {
            Message::DataRequest { pages, .. } => self.supply(platform, number, pages).await,
            Message::DataReturn { pages, frames, .. } => self.take_back(number, pages, frames).await,
            Message::Synchronize { pages, .. } => self.synchronize(number, pages).await,
            Message::DataUnlock { pages, .. } => {
                if let Some(object) = self.answered(number) {
                    let permits_all = Some(Prot::NONE);
                    object.lock_request(pages, ShouldReturn::Nothing, false, permits_all).await.unwrap_or_default();
                }
            }
            Message::Terminate => self.forget(number),
            Message::Init | Message::LockCompleted { .. } => {}
        }
    }

    /// Supplies pages, one after the other, but for those that it is to fail at.
    async fn supply(&self, platform: &impl Platform<P>, number: u64, pages: PageRange) {
        let Some(object) = self.answered(number) else { return };
        for page in pages.start..pages.end {
            let fault = self.state.lock().managed(number).and_then(|managed| managed.failing.get(&page).copied());
            let refused = match fault {
                Some(PagerFault::Io) => Some(KernReturn::MemoryError),
                Some(PagerFault::Refused) => Some(KernReturn::Failure),
                None => self.supply_page(platform, number, &object, page).await.err(),
            };
            if let Some(reason) = refused {
                object.data_error(PageRange::new(page, page + 1), reason).unwrap_or_default();
            }
        }
    }

    async fn supply_page(
        &self,
        platform: &impl Platform<P>,
        number: u64,
        object: &ObjectHandle<P>,
        page: u64,
    ) -> Result<(), KernReturn> {
        let address = self.address(number, page).ok_or(KernReturn::MemoryError)?;
        let (is_precious, traps_writes) = {
            let state = self.state.lock();
            (state.is_precious, state.traps_writes)
        };
        let supply = Supply { is_precious, traps_writes, forbidden: Prot::NONE };
        let pages = PageRange::new(page, page + 1);
        // Memory that the manager has lost is a page that it can't supply.
        let supplied = object.data_supply(pages, &self.map, address, supply).await;
        supplied.map_err(|_| KernReturn::MemoryError)?;
        if is_precious {
            // The only copy is the kernel's from now on.
            let zero = Pattern::byte(0);
            access::write(&self.map, platform, address, PAGE_SIZE, zero).await.unwrap_or_default();
        }
        Ok(())
    }

    /// Takes pages back into the manager's memory.
    async fn take_back(&self, number: u64, pages: PageRange, frames: Vec<FrameRun>) {
        let taken = match self.address(number, pages.start) {
            Some(address) => self.map.accept_frames(address, &frames).await,
            None => Ok(()),
        };
        if let Some(managed) = self.state.lock().managed(number) {
            // A return has no answer of its own: the next synchronization of these pages tells.
            for page in pages.start..pages.end {
                if taken.is_ok() {
                    managed.lost.remove(&page)
                } else {
                    managed.lost.insert(page)
                };
            }
        }
        frames.into_iter().for_each(|run| self.map.vm().frames().free(run));
    }

    /// Puts what the manager has of the pages on stable storage. Its memory is guest RAM, so that means to sync it there; where
    /// guest RAM keeps nothing stable, the manager's copy is all there is, and it has it.
    async fn synchronize(&self, number: u64, pages: PageRange) {
        let size = pages.len().saturating_mul(PAGE_SIZE);
        let has_lost = self
            .state
            .lock()
            .managed(number)
            .is_some_and(|managed| managed.lost.range(pages.start..pages.end).next().is_some());
        let synced = match self.address(number, pages.start) {
            Some(_) if has_lost => Err(KernReturn::Failure),
            Some(_) if self.map.vm().host().refuses_sync() == Some(HostError::Unsupported) => Ok(()),
            Some(address) => self.map.msync(address, size, SyncFlags::SYNCHRONOUS).await,
            None => Err(KernReturn::Failure),
        };
        if let Some(object) = self.answered(number) {
            let offset = pages.start.saturating_mul(PAGE_SIZE);
            object.synchronize_completed(offset, size, synced).unwrap_or_default();
        }
    }

    /// Forgets the object that ended first of those that had the number.
    fn forget(&self, number: u64) {
        let mut state = self.state.lock();
        if let Some(known) = state.objects.get_mut(&number) {
            known.pop_front();
            if known.is_empty() {
                state.objects.remove(&number);
            }
        }
    }

    /// Returns a handle of the object that the message answered now is about. None when that has ended, and when the number is
    /// another's by now.
    fn answered(&self, number: u64) -> Option<ObjectHandle<P>> {
        let is_current = self.state.lock().objects.get(&number).map(VecDeque::len) == Some(1);
        if is_current { self.object(number) } else { None }
    }

    /// Returns where the manager has a page of the object.
    fn address(&self, number: u64, page: u64) -> Option<u64> {
        let address = self.state.lock().managed(number)?.address;
        page.checked_mul(PAGE_SIZE)?.checked_add(address)
    }
}
