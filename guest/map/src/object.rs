//! Memory objects: the pages that entries show.

mod extent;

use alloc::sync::Arc;

use spin::{Mutex, MutexGuard};

pub(crate) use extent::Resident;

/// Who supplies an object's pages and takes them back.
///
/// Whatever depends on it matches on it, so a further kind can't be forgotten anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pager {
    /// Guest RAM itself is the pages' home: an absent page is zero, and writing a page back is to sync its
    /// frame. The pager's copy *is* the resident page, so emptying the cache changes no byte.
    Ram,
}

/// Pages that belong together, whichever entries show them.
///
/// Lock order: a map's state, then an object's pages, then whatever the ports lock.
#[derive(Debug)]
pub(crate) struct VmObject {
    pager: Pager,
    resident: Mutex<Resident>,
}

impl VmObject {
    /// Returns an object of zero pages whose home is guest RAM.
    pub(crate) fn ram() -> Arc<Self> {
        Arc::new(Self { pager: Pager::Ram, resident: Mutex::new(Resident::new()) })
    }

    pub(crate) fn pager(&self) -> Pager {
        self.pager
    }

    /// Locks the object's resident pages.
    pub(crate) fn resident(&self) -> MutexGuard<'_, Resident> {
        self.resident.lock()
    }
}
