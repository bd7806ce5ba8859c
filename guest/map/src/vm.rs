//! What all maps of a system share.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::ports::Ports;
use crate::wait::WaitQueue;

/// The system that maps live in: its host, its frames and its limit on user wiring.
pub struct Vm<P: Ports> {
    host: P::Host,
    frames: P::Frames,
    user_wired_pages: AtomicU64,
    user_wire_limit_pages: u64,
    /// Woken after writes to stable storage have ended.
    cleaned: WaitQueue,
}

impl<P: Ports> Vm<P> {
    /// Creates a system where at most `user_wire_limit_pages` pages may be user-wired, over all maps.
    pub fn new(host: P::Host, frames: P::Frames, user_wire_limit_pages: u64) -> Arc<Self> {
        Arc::new(Self {
            host,
            frames,
            user_wired_pages: AtomicU64::new(0),
            user_wire_limit_pages,
            cleaned: WaitQueue::new(),
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

    /// Returns how many pages are charged against the limit: those of every user-wired entry, and those
    /// that a running wire call has reserved.
    pub fn user_wired_pages(&self) -> u64 {
        self.user_wired_pages.load(Ordering::Relaxed)
    }

    /// Returns the limit on user wiring, in pages.
    pub fn user_wire_limit_pages(&self) -> u64 {
        self.user_wire_limit_pages
    }

    /// Returns the queue that is woken after writes to stable storage have ended.
    pub(crate) fn cleaned(&self) -> &WaitQueue {
        &self.cleaned
    }

    /// Charges `pages` pages against the limit (row L-05); `false` and no charge when it would be passed.
    pub(crate) fn charge(&self, pages: u64) -> bool {
        self.user_wired_pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |charged| {
                charged.checked_add(pages).filter(|&total| total <= self.user_wire_limit_pages)
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
            .field("user_wire_limit_pages", &self.user_wire_limit_pages)
            .finish_non_exhaustive()
    }
}
