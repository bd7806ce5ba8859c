//! Handles of memory objects: how objects are named from outside of maps.

use alloc::sync::Arc;
use core::fmt;

use crate::kern_return::KernReturn;
use crate::objects::{ObjectId, Pager};
use crate::ports::Ports;
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
            self.vm.objects().table[self.id].is_dead = true;
        }
        self.vm.idle().wake_all();
        self.truncate(0).await
    }

    /// Lets the object end with page `pages`.
    ///
    /// Pages behind are unmapped from every map and their content is lost; accesses fail with [`KernReturn::OutOfBounds`]. A
    /// wired page stays taken until its last unwiring. If the object grows, its new pages are zero (row P-10). Pages that are
    /// on their way to stable storage or that the host is asked about are waited for.
    ///
    /// # Errors
    /// None today; the type leaves room.
    pub async fn truncate(&self, pages: u64) -> Result<(), KernReturn> {
        loop {
            let wait = {
                let mut objects = self.vm.objects();
                if objects.truncate(self.id, pages, self.vm.frames()) {
                    return Ok(());
                }
                self.vm.idle().wait()
            };
            wait.await;
        }
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
