//! Overcoming what keeps a page from being had at once, with the map unlocked.

use core::future::poll_fn;
use core::task::Poll;

use spin::relax::RelaxStrategy;

use super::{MapState, VmMap};
use crate::kern_return::KernReturn;
use crate::objects::{Filling, Obstacle, PageIn, Pin, PinList, StoreIn, Transfer};
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
    /// Fills pages, some at a time.
    Filling(Filling),
    /// Has the host hold copies and puts them in place.
    Transfer(Transfer),
    /// Lets others have the locks.
    Turn,
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
            Obstacle::Filling(filling) => Work::Filling(filling),
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
            Work::Filling(filling) => self.fill(filling).await,
            Work::Transfer(transfer) => self.transfer(transfer).await,
            Work::Turn => {
                self.turn().await;
                Ok(())
            }
        };
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.end_busy();
        result
    }

    /// Ends one operation's being busy.
    #[inline]
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

    /// Lets whoever else can go on do so first: on this processor, and on others that wait for the map's lock or the objects'.
    pub(super) async fn turn(&self) {
        let (of_map, of_objects) = (self.state.waiters(), self.vm.objects_waiters());
        let mut was_polled = false;
        poll_fn(|context| {
            if core::mem::replace(&mut was_polled, true) {
                if self.state.has_served(of_map) && self.vm.has_served(of_objects) {
                    return Poll::Ready(());
                }
                P::Relax::relax();
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn fill(&self, mut filling: Filling) -> Result<(), KernReturn> {
        let frames = self.vm.frames();
        let mut result = Ok(());
        while !filling.is_over() {
            let Ok(fresh) = filling.allocate(frames) else {
                result = Err(KernReturn::ResourceShortage);
                break;
            };
            self.vm.objects().fill(&mut filling, fresh, frames);
            if fresh.dirty && !filling.is_over() {
                self.turn().await;
            }
        }
        self.vm.objects().end_filling(&filling, frames);
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
        self.unpin(&mut last).await;
        Ok(())
    }

    /// Lets the host let go of the pages of `list`.
    pub(super) async fn unpin(&self, list: &mut PinList) {
        while !list.is_empty() {
            #[cfg(test)]
            if self.vm.planted.has(crate::planted::Mutant::PinGoesBeforeHost) {
                let frames = list.frames().to_vec();
                self.vm.objects().table.finish_pins(list, Pin::No, self.vm.frames());
                self.vm.host().unwire(&frames).await;
                continue;
            }
            let frames = list.frames();
            if !frames.is_empty() {
                self.vm.host().unwire(frames).await;
            }
            #[cfg(test)]
            self.vm.planted.pause().await;
            self.vm.objects().table.finish_pins(list, Pin::No, self.vm.frames());
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

#[cfg(test)]
mod test {
    use core::pin::pin;
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::task::{Context, Waker};

    use crate::map::testing::Bed;

    /// Takes a turn while another thread waits for what `lock` locks around its argument.
    fn turn_while_another_waits(bed: &Bed, lock: impl Fn(&mut dyn FnMut()) + Sync) {
        let map = &bed.machine.map;
        let has_had_it = AtomicBool::new(false);
        let mut context = Context::from_waker(Waker::noop());
        std::thread::scope(|scope| {
            let mut turn = pin!(map.turn());
            lock(&mut || {
                let before = (map.state.waiters(), bed.machine.vm.objects_waiters());
                scope.spawn(|| lock(&mut || has_had_it.store(true, Ordering::SeqCst)));
                while (map.state.waiters(), bed.machine.vm.objects_waiters()) == before {
                    std::thread::yield_now();
                }
                for _ in 0..3 {
                    assert!(turn.as_mut().poll(&mut context).is_pending(), "nobody has had the lock");
                }
            });
            while turn.as_mut().poll(&mut context).is_pending() {
                std::thread::yield_now();
            }
            // Who had it has had time for nothing else than to take it.
            lock(&mut || assert!(has_had_it.load(Ordering::SeqCst), "the turn ended before the waiter had the lock"));
        });
    }

    #[test]
    fn turn_ends_when_who_waited_for_the_objects_has_had_them() {
        let bed = Bed::new();
        turn_while_another_waits(&bed, |work| {
            let _objects = bed.machine.vm.objects();
            work();
        });
    }

    #[test]
    fn turn_ends_when_who_waited_for_the_map_has_had_it() {
        let bed = Bed::new();
        turn_while_another_waits(&bed, |work| bed.machine.map.locked(|_| work()));
    }

    #[test]
    fn turn_that_nobody_waits_for_lets_others_run_once() {
        let bed = Bed::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut turn = pin!(bed.machine.map.turn());
        assert!(turn.as_mut().poll(&mut context).is_pending());
        assert!(turn.as_mut().poll(&mut context).is_ready());
    }
}
