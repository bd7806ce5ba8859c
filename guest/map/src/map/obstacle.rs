//! Overcoming what keeps a page from being had at once, with the map unlocked.

use core::future::poll_fn;
use core::task::Poll;

use super::{MapState, VmMap};
use crate::kern_return::KernReturn;
use crate::objects::{Obstacle, PageIn, Pin, PinList, StoreIn, Transfer};
use crate::ports::{Frames, Host, Ports};
use crate::wait::Wait;

/// What an operation does with the map unlocked before it goes on where it was.
#[must_use = "the pages are not there before it has been awaited"]
pub(super) enum Work<'a> {
    /// Awaits the pager.
    PageIn(PageIn),
    /// Awaits the host's store.
    StoreIn(StoreIn),
    /// Waits until pages are busy no more.
    Idle(Wait<'a>),
    /// Has the host hold copies and puts them in place.
    Transfer(Transfer),
    /// Lets others have the locks.
    Turn,
}

/// Lets whoever else can go on do so first.
async fn turn() {
    let mut was_polled = false;
    poll_fn(|context| {
        if core::mem::replace(&mut was_polled, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<P: Ports> VmMap<P> {
    /// Returns what must be done about an obstacle, and makes the map busy for as long (row T-10). The objects must still be
    /// locked as they were when it was met, so that no wake-up is lost.
    ///
    /// # Errors
    /// The code that an obstacle which can't be overcome stands for.
    pub(super) fn work(&self, busy: &mut u32, obstacle: Obstacle) -> Result<Work<'_>, KernReturn> {
        let work = match obstacle {
            Obstacle::PageIn(page_in) => Work::PageIn(page_in),
            Obstacle::StoreIn(coming) => Work::StoreIn(coming),
            Obstacle::Paging => Work::Idle(self.vm.idle().wait()),
            Obstacle::Transfer(transfer) => Work::Transfer(transfer),
            Obstacle::Turn => Work::Turn,
            Obstacle::Failed(code) => return Err(code),
        };
        *busy += 1;
        Ok(work)
    }

    /// Does it. Afterwards everything must be looked up again.
    ///
    /// # Errors
    /// Why the page can't be had.
    pub(super) async fn overcome(&self, work: Work<'_>) -> Result<(), KernReturn> {
        #[cfg(test)]
        self.vm.planted.pause().await;
        let result = match work {
            Work::PageIn(page_in) => self.page_in(page_in).await,
            Work::StoreIn(coming) => self.store_in(coming).await,
            Work::Idle(wait) => {
                wait.await;
                Ok(())
            }
            Work::Transfer(transfer) => self.transfer(transfer).await,
            Work::Turn => {
                turn().await;
                Ok(())
            }
        };
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.end_busy();
        result
    }

    /// Ends one operation's being busy.
    pub(super) fn end_busy(&self) {
        let awaited = self.locked(|state| {
            state.busy -= 1;
            state.busy == 0 && core::mem::take(&mut state.busy_awaited)
        });
        #[cfg(test)]
        let awaited = awaited && !self.vm.planted.has(crate::planted::Mutant::BusyForgetsToWake);
        self.wake_if(awaited);
    }

    async fn page_in(&self, page_in: PageIn) -> Result<(), KernReturn> {
        loop {
            let wait = {
                let objects = self.vm.objects();
                if !objects.table.is_gated(&page_in) {
                    break;
                }
                self.vm.idle().wait()
            };
            wait.await;
        }
        let result = self.vm.objects().table.finish_page_in(page_in, self.vm.frames());
        #[cfg(test)]
        if self.vm.planted.has(crate::planted::Mutant::PageInForgetsToWake) {
            return result;
        }
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.vm.idle().wake_all();
        result
    }

    async fn store_in(&self, mut coming: StoreIn) -> Result<(), KernReturn> {
        let ask = |coming: &StoreIn| self.vm.host().data_request(coming.store, coming.pages.start, coming.frames);
        let mut result = ask(&coming).await;
        if result.is_err() && coming.pages.len() > 1 {
            // It may be another page that can't be had.
            coming = self.vm.objects().table.only_needed(coming, self.vm.frames());
            self.vm.idle().wake_all();
            result = ask(&coming).await;
        }
        if let Err(error) = result {
            self.note_host_error(error);
        }
        let result = self.vm.objects().table.finish_store_in(coming, result.is_err(), self.vm.frames());
        self.vm.idle().wake_all();
        result
    }

    async fn transfer(&self, transfer: Transfer) -> Result<(), KernReturn> {
        let runs = transfer.frames().to_vec();
        if !runs.is_empty()
            && let Err(error) = self.vm.host().wire(&runs).await
        {
            self.vm.objects().give_up_transfer(transfer, self.vm.frames());
            self.note_host_error(error);
            return Err(KernReturn::from_wire_error(error));
        }
        let mut last = PinList::new();
        let spare = self.vm.objects().finish_transfer(transfer, self.vm.frames(), &mut last);
        self.vm.idle().wake_all();
        if !spare.is_empty() {
            self.vm.host().unwire(&spare).await;
            spare.into_iter().for_each(|run| self.vm.frames().free(run));
        }
        self.unpin(last).await;
        Ok(())
    }

    /// Lets the host let go of the pages of `list`.
    pub(super) async fn unpin(&self, mut list: PinList) {
        while !list.is_empty() {
            #[cfg(test)]
            if self.vm.planted.has(crate::planted::Mutant::PinGoesBeforeHost) {
                let frames = list.take_frames();
                list = self.vm.objects().table.finish_pins(list, Pin::No, self.vm.frames());
                self.vm.host().unwire(&frames).await;
                continue;
            }
            let frames = list.take_frames();
            if !frames.is_empty() {
                self.vm.host().unwire(&frames).await;
            }
            #[cfg(test)]
            self.vm.planted.pause().await;
            list = self.vm.objects().table.finish_pins(list, Pin::No, self.vm.frames());
            self.vm.idle().wake_all();
        }
    }

    /// Begins to wait until no operation is busy, if one is.
    pub(super) fn wait_busy(&self, state: &mut MapState<P>) -> Option<Wait<'_>> {
        if state.busy == 0 {
            return None;
        }
        state.busy_awaited = true;
        Some(self.transitions.wait())
    }
}
