//! What all maps of a system share.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::Mutex;
use spin::mutex::MutexGuard;

use crate::entry::OperationId;
use crate::frame_runs::FrameRuns;
use crate::handle::ObjectHandle;
use crate::kern_return::KernReturn;
use crate::manager::ManagerPort;
use crate::map::terminate;
use crate::objects::{FilePager, Managed, Manager, Objects, Pager, VmObject};
use crate::ports::{Frames, Host, HostError, Ports, StoreKind};
use crate::units::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange};
use crate::wait::WaitQueue;
use crate::yielding::{Waiters, YieldingLock};

/// Work that nobody waits for; see [`Vm::take_background`].
pub type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The system that maps live in: its host, its frames, its objects and its limit on user wiring.
///
/// # Locks
/// Order: a map's state, then the objects (with all page tables), then whatever the ports lock. Queues of waiters, of messages and of
/// work in the background come last, and are held for moments only. Of the maps' states one is held at a time; but a fork holds
/// its child's, which nobody else knows yet, and [`check_all`](crate::check_all) holds all, in an order of its own.
///
/// A map's state guards its entries, marks, charges and limits; the objects' lock guards what is resident, wire counts, what managers owe,
/// who shows what, and page tables. Neither guards what frames hold: **other processors write pages while both locks are held**.
/// Whoever takes a page's content
///
/// - as of one moment, write-protects it first, on all processors, and copies under the same hold or marks the pages *still* until they
///   are copied (fork; copies of what is below need not, for nobody writes that, unless it is a file that others map, whose private
///   mappings promise no moment);
/// - to write it to storage, cleans its mapping first: what is written from then on makes a new mark.
///
/// No hold fills or copies more than a bounded number of pages. Who has more to do lets those have the locks who wait for them, and
/// goes on then; frames for many pages are made zero with nothing locked.
///
/// Whoever looks and then changes does so under one hold of the lock that guards what was looked at, or leaves a mark behind:
/// *in transition* on entries, *cleaning*, *going* or *still* on pages, a hold on an object, *busy* on a map.
pub struct Vm<P: Ports> {
    host: P::Host,
    frames: P::Frames,
    objects: YieldingLock<Objects<P>, P::Relax>,
    user_wired_pages: AtomicU64,
    /// The number of the last operation on any map.
    operations: AtomicU64,
    user_wire_limit_pages: AtomicU64,
    /// Woken after something ended that pages were busy with: a write to stable storage, a call to the host, a page's
    /// way from its pager.
    idle: WaitQueue,
    /// Work that nobody waits for and nobody has taken yet.
    background: Mutex<VecDeque<Background>>,
    /// How much there is to be taken: that, and objects whose managers are to be told of their end.
    waiting: Arc<AtomicU64>,
    /// The last returns of objects that somebody carries out.
    ends: Mutex<Ends>,
    /// How many objects ended before their managers had all that they were owed.
    lost_objects: AtomicU64,
    #[cfg(test)]
    pub(crate) planted: crate::planted::Planted,
}

/// Which objects' last returns are under way, by the order in which they were begun.
#[derive(Debug, Default)]
struct Ends {
    begun: u64,
    under_way: BTreeSet<u64>,
}

/// An object's last returns: noted as long as this lives.
struct NotedEnd<P: Ports> {
    vm: Arc<Vm<P>>,
    number: u64,
}

impl<P: Ports> NotedEnd<P> {
    fn new(vm: &Arc<Vm<P>>) -> Self {
        let mut ends = vm.ends.lock();
        let number = ends.begun;
        ends.begun += 1;
        ends.under_way.insert(number);
        drop(ends);
        Self { vm: Arc::clone(vm), number }
    }
}

impl<P: Ports> Drop for NotedEnd<P> {
    fn drop(&mut self) {
        self.vm.ends.lock().under_way.remove(&self.number);
        self.vm.idle.wake_all();
    }
}

impl<P: Ports> Vm<P> {
    /// Creates a system where at most `user_wire_limit_pages` pages may be user-wired, over all maps.
    pub fn new(host: P::Host, frames: P::Frames, user_wire_limit_pages: u64) -> Arc<Self> {
        let waiting = Arc::new(AtomicU64::new(0));
        Arc::new(Self {
            host,
            frames,
            objects: YieldingLock::new(Objects::new(Arc::clone(&waiting))),
            user_wired_pages: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            user_wire_limit_pages: AtomicU64::new(user_wire_limit_pages),
            idle: WaitQueue::new(),
            background: Mutex::new(VecDeque::new()),
            waiting,
            ends: Mutex::new(Ends::default()),
            lost_objects: AtomicU64::new(0),
            #[cfg(test)]
            planted: crate::planted::Planted::default(),
        })
    }

    /// Returns the host.
    pub fn host(&self) -> &P::Host {
        &self.host
    }

    /// Returns the frames.
    pub fn frames(&self) -> &P::Frames {
        &self.frames
    }

    /// Returns how many pages of all objects are resident.
    pub fn resident_pages(&self) -> u64 {
        let pages =
            |(_, object): (_, &VmObject)| object.resident.iter().map(|(_, extent)| extent.frames.pages).sum::<u64>();
        self.objects().table.iter().map(pages).sum()
    }

    /// Returns the frames of all wired pages, in order; adjacent ones are joined.
    pub fn wired_frames(&self) -> Vec<FrameRun> {
        let mut runs = FrameRuns::new();
        for (_, object) in self.objects().table.iter() {
            object
                .resident
                .iter()
                .filter(|(_, extent)| extent.wires > 0)
                .for_each(|(_, extent)| runs.push(extent.frames));
        }
        runs.join().to_vec()
    }

    /// Returns how many pages are charged against the limit: those of every user-wired entry, and those
    /// that a running wire call has reserved.
    pub fn user_wired_pages(&self) -> u64 {
        self.user_wired_pages.load(Ordering::Relaxed)
    }

    /// Returns the limit on user wiring, in pages.
    pub fn user_wire_limit_pages(&self) -> u64 {
        self.user_wire_limit_pages.load(Ordering::Relaxed)
    }

    /// Sets the limit on user wiring, in pages. What is wired stays so, even above it.
    pub fn set_user_wire_limit(&self, pages: u64) {
        self.user_wire_limit_pages.store(pages, Ordering::Relaxed);
    }

    /// Makes an object of `pages` zero pages that maps can share. Its home is guest RAM.
    pub fn anonymous_object(self: &Arc<Self>, pages: u64) -> ObjectHandle<P> {
        self.add_object(Pager::Ram, pages)
    }

    /// Makes a file of `pages` pages whose content is made up: each byte of page `i` is 0x10 plus `i`, modulo 256. Its pager
    /// supplies up to `readahead` pages (at least 1) at once.
    ///
    /// It stands for files until there are managers that keep some. What is written to its pages stays in guest memory.
    pub fn file_object(self: &Arc<Self>, pages: u64, readahead: u64) -> ObjectHandle<P> {
        self.add_object(Pager::File(FilePager::new(pages, readahead)), pages)
    }

    /// Makes an object of `pages` pages that a store of the host's backs. Its name is the store's.
    ///
    /// # Errors
    /// [`KernReturn::Failure`] where there are no stores, or the store can't be opened; [`KernReturn::ResourceShortage`] where it
    /// is in use or a quota forbids it; [`KernReturn::InvalidArgument`] for what is no name or no size.
    pub fn store_object(
        self: &Arc<Self>,
        name: &str,
        pages: u64,
        kind: StoreKind,
    ) -> Result<ObjectHandle<P>, KernReturn> {
        if pages == 0 {
            return Err(KernReturn::InvalidArgument);
        }
        let store = self.host.open_store(name, pages, kind).map_err(KernReturn::from_store_error)?;
        Ok(self.add_object(Pager::Managed(Managed::new(Manager::Store(store, kind))), pages))
    }

    /// Makes the port of a manager that is a task.
    pub fn manager_port(&self) -> Arc<ManagerPort> {
        ManagerPort::new()
    }

    /// Makes an object of `pages` pages whose manager listens at `port`.
    pub fn managed_object(self: &Arc<Self>, port: &Arc<ManagerPort>, pages: u64) -> ObjectHandle<P> {
        self.add_object(Pager::Managed(Managed::new(Manager::Task(Arc::clone(port)))), pages)
    }

    /// As [`ObjectHandle::synchronize_completed`], for the object of that [number](ObjectHandle::number): a manager is asked
    /// for the last time when nobody has a handle any more.
    ///
    /// # Errors
    /// As there, and for a number that stands for no object.
    pub fn synchronize_completed(
        &self,
        object: u64,
        offset: u64,
        length: u64,
        status: Result<(), KernReturn>,
    ) -> Result<(), KernReturn> {
        let end = offset.checked_add(length).filter(|end| (end | offset).is_multiple_of(PAGE_SIZE));
        let pages = PageRange::new(offset >> PAGE_SHIFT, end.ok_or(KernReturn::InvalidArgument)? >> PAGE_SHIFT);
        let mut objects = self.objects();
        let managed = objects.table.by_number(object).and_then(|id| objects.table[id].managed_mut());
        let is_known = managed.is_some_and(|managed| managed.complete_sync(pages, status));
        drop(objects);
        if !is_known {
            return Err(KernReturn::InvalidArgument);
        }
        self.idle.wake_all();
        Ok(())
    }

    /// Takes work that the system does for nobody who waits: writes that were only to be started, and the last returns of objects
    /// that nobody uses any more. Whoever runs operations polls it to its end beside them, and looks for more after each.
    #[inline]
    pub fn take_background(self: &Arc<Self>) -> Option<Background> {
        // Asked after every operation, and mostly there is nothing.
        if self.waiting.load(Ordering::Relaxed) == 0 { None } else { self.take_waiting() }
    }

    fn take_waiting(self: &Arc<Self>) -> Option<Background> {
        {
            let mut background = self.background.lock();
            if let Some(work) = background.pop_front() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                return Some(work);
            }
        }
        // Who locks the objects afterwards finds the end noted.
        let (ended, noted) = {
            let mut objects = self.objects();
            (objects.table.next_terminating()?, NotedEnd::new(self))
        };
        Some(Box::pin(async move {
            terminate(Arc::clone(&noted.vm), ended).await;
        }))
    }

    /// Waits until every object that has ended before this call, and whose last returns somebody has [taken](Self::take_background), is
    /// gone: its manager has what it is owed, its store is closed.
    pub async fn ends_are_over(&self) {
        drop(self.objects());
        let before = self.ends.lock().begun;
        loop {
            let wait = self.idle.wait();
            if self.ends.lock().under_way.first().is_none_or(|first| *first >= before) {
                return;
            }
            wait.await;
        }
    }

    /// Leaves work to whoever takes it.
    pub(crate) fn put_background(&self, work: Background) {
        let mut background = self.background.lock();
        background.push_back(work);
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many objects have ended with pages that their managers did not get, because these failed.
    pub fn lost_objects(&self) -> u64 {
        self.lost_objects.load(Ordering::Relaxed)
    }

    pub(crate) fn note_lost(&self) {
        self.lost_objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the content of free frames back to the host; returns how many pages.
    ///
    /// # Errors
    /// Why the host takes none.
    pub fn trim(&self) -> Result<u64, HostError> {
        let mut refused = None;
        let pages = self.frames.trim(&mut |run| match self.host.discard(run) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        });
        match refused {
            Some(error) if pages == 0 => Err(error),
            _ => Ok(pages),
        }
    }

    fn add_object(self: &Arc<Self>, pager: Pager, pages: u64) -> ObjectHandle<P> {
        let mut object = VmObject::new(pager, pages);
        object.handles = 1;
        let id = self.objects().table.add(object);
        ObjectHandle::new(Arc::clone(self), id)
    }

    /// Lets others have the objects for a moment where `mutant` is planted.
    #[cfg(test)]
    pub(crate) fn unlock_if<'a>(
        &'a self,
        objects: MutexGuard<'a, Objects<P>, P::Relax>,
        mutant: crate::planted::Mutant,
    ) -> MutexGuard<'a, Objects<P>, P::Relax> {
        if !self.planted.has(mutant) {
            return objects;
        }
        drop(objects);
        crate::planted::let_others_in();
        self.objects()
    }

    /// Locks the objects and all page tables.
    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects<P>, P::Relax> {
        self.objects.lock()
    }

    /// Returns those who wait for the objects now.
    pub(crate) fn objects_waiters(&self) -> Waiters {
        self.objects.waiters()
    }

    /// Tells whether as many have had the objects as waited for them then.
    pub(crate) fn has_served(&self, waiters: Waiters) -> bool {
        self.objects.has_served(waiters)
    }

    /// Returns the queue that is woken when pages are busy no more.
    pub(crate) fn idle(&self) -> &WaitQueue {
        &self.idle
    }

    /// Returns the identity of a new operation.
    pub(crate) fn next_operation(&self) -> OperationId {
        OperationId(self.operations.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// Returns how many operations there have been.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Charges `pages` pages against the limit (row L-05); `false` and no charge when it would be passed.
    pub(crate) fn charge(&self, pages: u64) -> bool {
        let limit = self.user_wire_limit_pages();
        self.user_wired_pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |charged| {
                charged.checked_add(pages).filter(|&total| total <= limit)
            })
            .is_ok()
    }

    /// Takes back a charge of `pages` pages.
    pub(crate) fn uncharge(&self, pages: u64) {
        self.user_wired_pages.fetch_sub(pages, Ordering::Relaxed);
    }
}

impl<P: Ports> fmt::Debug for Vm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("user_wired_pages", &self.user_wired_pages())
            .field("user_wire_limit_pages", &self.user_wire_limit_pages())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use alloc::boxed::Box;
    use core::future::Future;
    use core::pin::{Pin, pin};
    use core::task::{Context, Waker};
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::fake::{FakeMachine, block_on};
    use crate::ports::StoreKind;

    #[test]
    fn take_background_where_nothing_waits_takes_no_lock_of_the_objects() {
        let machine = FakeMachine::default();
        let (sender, answers) = mpsc::channel();
        let objects = machine.vm.objects();
        let vm = alloc::sync::Arc::clone(&machine.vm);
        std::thread::spawn(move || sender.send(vm.take_background().is_none()));
        assert_eq!(answers.recv_timeout(Duration::from_secs(10)), Ok(true));
        drop(objects);
    }

    #[test]
    fn ends_are_over_once_what_others_have_taken_is_carried_out() {
        let machine = FakeMachine::default();
        let end = || {
            drop(machine.vm.store_object("s", 1, StoreKind::Store).expect("it can be opened"));
            machine.vm.take_background().expect("its last returns")
        };
        let is_over =
            |waiting: Pin<&mut dyn Future<Output = ()>>| waiting.poll(&mut Context::from_waker(Waker::noop()));
        block_on(machine.vm.ends_are_over());
        let taken = end();
        let mut waiting = pin!(machine.vm.ends_are_over());
        assert!(is_over(waiting.as_mut()).is_pending(), "somebody has taken it and not begun");
        block_on(taken);
        // One that begins later is not waited for.
        let later = end();
        assert!(is_over(waiting.as_mut()).is_ready());
        let mut waiting = pin!(machine.vm.ends_are_over());
        assert!(is_over(waiting.as_mut()).is_pending());
        drop(later);
        assert!(is_over(waiting.as_mut()).is_ready(), "nobody carries it out any more");
    }

    #[test]
    fn take_background_gives_each_work_once() {
        let machine = FakeMachine::default();
        machine.vm.put_background(Box::pin(async {}));
        drop(machine.vm.store_object("s", 1, StoreKind::Store).expect("it can be opened"));
        for left in [2, 1] {
            assert_eq!(machine.vm.waiting.load(core::sync::atomic::Ordering::Relaxed), left);
            block_on(machine.vm.take_background().expect("there is more"));
        }
        assert!(machine.vm.take_background().is_none());
        assert_eq!(machine.vm.waiting.load(core::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(machine.vm.objects().table.iter().count(), 0);
    }
}
