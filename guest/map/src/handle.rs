//! Handles of memory objects: how objects are named from outside of maps.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::kern_return::KernReturn;
use crate::manager::{Message, ShouldReturn};
use crate::map::VmMap;
use crate::objects::{Extent, Managed, ObjectId, Objects, Pager};
use crate::ports::{Frames, Ports};
use crate::units::{PAGE_SIZE, PageRange, Prot};
use crate::vm::Vm;

/// Why a pager does not supply a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagerFault {
    /// It can't read it: accesses fail with [`KernReturn::OutOfBounds`].
    Io,
    /// It does not want to: accesses fail with [`KernReturn::Failure`].
    Refused,
}

/// Keeps a memory object alive and says what its pager does.
pub struct ObjectHandle<P: Ports> {
    vm: Arc<Vm<P>>,
    id: ObjectId,
}

impl<P: Ports> ObjectHandle<P> {
    pub(crate) const fn new(vm: Arc<Vm<P>>, id: ObjectId) -> Self {
        Self { vm, id }
    }

    pub(crate) const fn id(&self) -> ObjectId {
        self.id
    }

    pub(crate) fn is_of(&self, vm: &Arc<Vm<P>>) -> bool {
        Arc::ptr_eq(&self.vm, vm)
    }

    /// Returns how many pages the object has.
    pub fn pages(&self) -> u64 {
        self.vm.objects().table[self.id].pages
    }

    /// Lets accesses to page `page` wait for [`ObjectHandle::release`] when it is absent. Nothing for an object that has no
    /// pager.
    pub fn gate(&self, page: u64) {
        if let Pager::File(file) = &mut self.vm.objects().table[self.id].pager {
            file.gate(page);
        }
    }

    /// Lets go on what [`ObjectHandle::gate`] has stopped.
    pub fn release(&self, page: u64) {
        if let Pager::File(file) = &mut self.vm.objects().table[self.id].pager {
            file.release(page);
        }
        self.vm.idle().wake_all();
    }

    /// Lets the pager fail to supply page `page`, or supply it again.
    pub fn fail(&self, page: u64, fault: Option<PagerFault>) {
        if let Pager::File(file) = &mut self.vm.objects().table[self.id].pager {
            file.fail(page, fault);
        }
    }

    /// Lets the pager die: all pages go, wired ones as [`ObjectHandle::truncate`] says, and accesses fail with
    /// [`KernReturn::ProtectionFailure`] from now on. Waits like that, too.
    ///
    /// # Errors
    /// None today; the type leaves room.
    pub async fn kill(&self) -> Result<(), KernReturn> {
        {
            let object = &mut self.vm.objects().table[self.id];
            object.is_dead = true;
            if let Some(managed) = object.managed_mut() {
                managed.give_up();
            }
        }
        self.vm.idle().wake_all();
        self.cut(0).await;
        Ok(())
    }

    /// Lets the object end with page `pages`.
    ///
    /// Pages behind are unmapped from every map and their content is lost; accesses fail with [`KernReturn::OutOfBounds`]. A
    /// wired page stays taken until its last unwiring. If the object grows, its new pages are zero (row P-10). Pages that are
    /// on their way to stable storage or that the host is asked about are waited for.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] for an object with a manager: its size is the manager's business.
    pub async fn truncate(&self, pages: u64) -> Result<(), KernReturn> {
        if self.vm.objects().table[self.id].managed().is_some() {
            return Err(KernReturn::InvalidArgument);
        }
        self.cut(pages).await;
        Ok(())
    }

    async fn cut(&self, pages: u64) {
        loop {
            let wait = {
                let mut objects = self.vm.objects();
                if objects.truncate(self.id, pages, self.vm.frames()) {
                    return;
                }
                self.vm.idle().wait()
            };
            wait.await;
        }
    }
}

/// How a manager supplies pages (row O-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// The manager keeps no copy: the pages must come back even if nobody writes to them.
    pub is_precious: bool,
    /// The manager wants to be asked before a clean page is written, each time (row Z-04).
    pub traps_writes: bool,
    /// Accesses that are forbidden until the manager permits them.
    pub forbidden: Prot,
}

/// What a manager says about its object.
impl<P: Ports> ObjectHandle<P> {
    /// Returns the number by which messages name the object.
    pub fn number(&self) -> u64 {
        u64::from(self.id.number())
    }

    /// Supplies pages that were asked for, from those that `source` has at `address` (bytes) and behind (row O-03).
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] for pages that were not asked for, of which none is taken over then; what an access to
    /// `source` fails with.
    ///
    /// # Partial effects
    /// Pages before the one that could not be taken over are supplied.
    pub async fn data_supply(
        &self,
        pages: PageRange,
        source: &VmMap<P>,
        address: u64,
        supply: Supply,
    ) -> Result<(), KernReturn> {
        if !is_owed(&self.vm.objects(), self.id, pages) {
            return Err(KernReturn::InvalidArgument);
        }
        let result = self.take_over_all(pages, source, address, supply).await;
        // Whatever has come, somebody may wait for.
        self.vm.idle().wake_all();
        result
    }

    async fn take_over_all(
        &self,
        pages: PageRange,
        source: &VmMap<P>,
        address: u64,
        supply: Supply,
    ) -> Result<(), KernReturn> {
        for (count, page) in (pages.start..pages.end).enumerate() {
            let from = address.wrapping_add(count as u64 * PAGE_SIZE);
            loop {
                source.fault(from, Prot::READ).await?;
                // The page may have gone again before it is looked at.
                if let Some(result) =
                    source.with_frame(from, |objects, frame| self.take_over(objects, page, frame, supply))
                {
                    result?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Says that pages which were asked for can't be had (row O-04). Accesses that wait for them fail with `reason`.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] for pages that were not asked for.
    pub fn data_error(&self, pages: PageRange, reason: KernReturn) -> Result<(), KernReturn> {
        {
            let mut objects = self.vm.objects();
            if !is_owed(&objects, self.id, pages) {
                return Err(KernReturn::InvalidArgument);
            }
            if let Some(managed) = objects.table[self.id].managed_mut() {
                managed.answered(pages);
                managed.set_errors(pages, reason);
            }
        }
        self.vm.idle().wake_all();
        Ok(())
    }

    /// Says that pages which were asked for are zero (row O-05).
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] for pages that were not asked for; [`KernReturn::ResourceShortage`] without frames.
    ///
    /// # Partial effects
    /// Pages before the one without a frame are there.
    pub fn data_unavailable(&self, pages: PageRange) -> Result<(), KernReturn> {
        let result = {
            let mut objects = self.vm.objects();
            if !is_owed(&objects, self.id, pages) {
                return Err(KernReturn::InvalidArgument);
            }
            (pages.start..pages.end).try_for_each(|page| {
                let fresh = self.vm.frames().allocate(1).map_err(|_| KernReturn::ResourceShortage)?;
                supply(&mut objects, self.id, page, Extent::clean(fresh.run));
                Ok(())
            })
        };
        self.vm.idle().wake_all();
        result
    }

    /// Restricts access to resident pages, then has them returned, then flushed, as asked (rows O-08 and those of §4.2). Ends
    /// after all resulting returns, with a [`Message::LockCompleted`](crate::Message::LockCompleted). Wired and busy pages are
    /// not flushed.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] for an object without a manager, or a dead one.
    pub async fn lock_request(
        &self,
        pages: PageRange,
        should_return: ShouldReturn,
        should_flush: bool,
        forbidden: Option<Prot>,
    ) -> Result<(), KernReturn> {
        loop {
            let wait = {
                let mut objects = self.vm.objects();
                let object = &objects.table[self.id];
                let Some(port) = object.managed().and_then(Managed::port).filter(|_| !object.is_dead).cloned() else {
                    return Err(KernReturn::InvalidArgument);
                };
                // What is only permitted or forbidden need not wait. It must not: a manager that answers one message after the other
                // permits the write of a page whose synchronization it has not come to yet.
                let sends = should_return != ShouldReturn::Nothing || should_flush;
                if !sends || !object.resident.pieces(pages).any(|(_, extent)| extent.is_busy()) {
                    objects.collect_dirty_of(self.id);
                    let frames = self.vm.frames();
                    let done = objects.lock_pages(self.id, pages, should_return, should_flush, forbidden, frames);
                    port.send(self.number(), Message::LockCompleted { pages });
                    drop(objects);
                    self.vm.idle().wake_all();
                    return done.map_err(|_| KernReturn::ResourceShortage);
                }
                self.vm.idle().wait()
            };
            wait.await;
        }
    }

    /// Says that a synchronization is over (row K-06, with the status that decision D-F adds). `offset` and `length` are in
    /// bytes.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] where none is outstanding for exactly this range; nobody is woken then.
    pub fn synchronize_completed(
        &self,
        offset: u64,
        length: u64,
        status: Result<(), KernReturn>,
    ) -> Result<(), KernReturn> {
        self.vm.synchronize_completed(self.number(), offset, length, status)
    }

    /// Returns the dirty pages, as few ranges as there are, in order (row Z-03).
    pub fn dirty_ranges(&self) -> Vec<PageRange> {
        let mut objects = self.vm.objects();
        objects.collect_dirty_of(self.id);
        let object = &objects.table[self.id];
        let whole = PageRange::new(0, object.pages);
        let mut ranges: Vec<PageRange> = Vec::new();
        for (pages, _) in object.resident.pieces(whole).filter(|(_, extent)| extent.dirty) {
            match ranges.last_mut() {
                Some(last) if last.end == pages.start => last.end = pages.end,
                _ => ranges.push(pages),
            }
        }
        ranges
    }
}

impl<P: Ports> ObjectHandle<P> {
    /// Makes a copy of `frame` the object's page, if it is still asked for.
    fn take_over(&self, objects: &mut Objects<P>, page: u64, frame: u64, how: Supply) -> Result<(), KernReturn> {
        let this = PageRange::new(page, page + 1);
        if !is_owed(objects, self.id, this) {
            return Err(KernReturn::InvalidArgument);
        }
        let fresh = self.vm.frames().allocate(1).map_err(|_| KernReturn::ResourceShortage)?;
        self.vm.frames().copy(frame, fresh.run.first);
        let trapped = if how.traps_writes { Prot::WRITE } else { Prot::NONE };
        let extent = Extent {
            precious: how.is_precious,
            forbidden: how.forbidden | trapped,
            traps: how.traps_writes,
            ..Extent::clean(fresh.run)
        };
        supply(objects, self.id, page, extent);
        Ok(())
    }
}

/// Tells whether the object's manager owes an answer about all of `pages`.
fn is_owed<P: Ports>(objects: &Objects<P>, id: ObjectId, pages: PageRange) -> bool {
    objects.table[id].managed().is_some_and(|managed| managed.owes(pages))
}

/// Makes a page resident that its manager was asked for.
fn supply<P: Ports>(objects: &mut Objects<P>, id: ObjectId, page: u64, extent: Extent) {
    let object = &mut objects.table[id];
    object.resident.insert_as(page, extent);
    if let Some(managed) = object.managed_mut() {
        let this = PageRange::new(page, page + 1);
        managed.answered(this);
        // What was asked about the page that was there before is void: this one may forbid the access again.
        managed.unlocked(this);
    }
}

impl<P: Ports> Drop for ObjectHandle<P> {
    fn drop(&mut self) {
        let mut objects = self.vm.objects();
        objects.table[self.id].handles -= 1;
        objects.table.settle(self.id, self.vm.frames());
    }
}

impl<P: Ports> fmt::Debug for ObjectHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectHandle").field("pages", &self.pages()).finish_non_exhaustive()
    }
}
