//! What all maps of a system share.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};

use crate::frame_runs::FrameRuns;
use crate::handle::ObjectHandle;
use crate::objects::{FilePager, Objects, Pager, VmObject};
use crate::ports::Ports;
use crate::units::FrameRun;
use crate::wait::WaitQueue;

/// The system that maps live in: its host, its frames, its objects and its limit on user wiring.
///
/// Lock order: a map's state, then the objects (with all page tables), then whatever the ports lock.
pub struct Vm<P: Ports> {
    host: P::Host,
    frames: P::Frames,
    objects: Mutex<Objects<P>>,
    user_wired_pages: AtomicU64,
    user_wire_limit_pages: AtomicU64,
    /// Woken after something ended that pages were busy with: a write to stable storage, a call to the host, a page's
    /// way from its pager.
    idle: WaitQueue,
    #[cfg(test)]
    pub(crate) planted: crate::planted::Planted,
}

impl<P: Ports> Vm<P> {
    /// Creates a system where at most `user_wire_limit_pages` pages may be user-wired, over all maps.
    pub fn new(host: P::Host, frames: P::Frames, user_wire_limit_pages: u64) -> Arc<Self> {
        Arc::new(Self {
            host,
            frames,
            objects: Mutex::new(Objects::new()),
            user_wired_pages: AtomicU64::new(0),
            user_wire_limit_pages: AtomicU64::new(user_wire_limit_pages),
            idle: WaitQueue::new(),
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
        runs.joined()
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

    fn add_object(self: &Arc<Self>, pager: Pager, pages: u64) -> ObjectHandle<P> {
        let mut object = VmObject::new(pager, pages);
        object.handles = 1;
        let id = self.objects().table.add(object);
        ObjectHandle::new(Arc::clone(self), id)
    }

    /// Locks the objects and all page tables.
    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects<P>> {
        self.objects.lock()
    }

    /// Returns the queue that is woken when pages are busy no more.
    pub(crate) fn idle(&self) -> &WaitQueue {
        &self.idle
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
