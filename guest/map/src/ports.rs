//! The three doors through which the core meets the world.

use core::fmt;
use core::future::Future;

use crate::units::{FrameRun, PageRange, Prot};

/// Why the host refused, in the core's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostError {
    /// The host rejects the request as malformed; a bug on one of the two sides.
    Rejected,
    /// The host is out of a resource (memory, lock limit, map entries).
    Shortage,
    /// The guest's own quota is used up.
    Quota,
    /// Storage reported an error for this range.
    Io,
    /// An earlier storage error stands: nothing is known to be stable any more.
    Poisoned,
    /// The host does not offer this (no stable storage behind guest RAM).
    Unsupported,
    /// The host's queue is full.
    Busy,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected => "the host rejected the request as malformed",
            Self::Shortage => "the host is out of a resource",
            Self::Quota => "the guest's wire quota is used up",
            Self::Io => "storage reported an error",
            Self::Poisoned => "an earlier storage error stands",
            Self::Unsupported => "the host does not offer this",
            Self::Busy => "the host's queue is full",
        })
    }
}

impl core::error::Error for HostError {}

/// Whether a sync waits for stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// Success means: the bytes are on stable storage.
    Wait,
    /// Success means: the writing is started. Pages stay dirty in the guest.
    NoWait,
}

/// One run of a sync request and, afterwards, its own result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRun {
    /// The frames to put on stable storage.
    pub run: FrameRun,
    /// What became of it; set by [`Host::sync`].
    pub result: Result<(), HostError>,
}

/// The host: keeps frames in physical memory and puts them on stable storage.
///
/// The core calls with no lock held and never asks twice for the same frame without undoing the first:
/// it wires a frame when its page's wire count leaves 0 and unwires it when the count returns to 0.
pub trait Host: Send + Sync {
    /// Wires every frame of `runs`, or none of them.
    ///
    /// # Errors
    /// On any error no frame of `runs` is left wired by this call.
    fn wire(&self, runs: &[FrameRun]) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Takes back one [`Host::wire`] of every frame of `runs`. Cannot fail.
    fn unwire(&self, runs: &[FrameRun]) -> impl Future<Output = ()> + Send;

    /// Says why every sync would be refused now, whatever it is about: [`HostError::Unsupported`] where there is no stable
    /// storage, [`HostError::Poisoned`] once storage has failed. A sync that finds nothing to write asks this, so that it
    /// does not promise what nobody can keep.
    fn refuses_sync(&self) -> Option<HostError> {
        None
    }

    /// Syncs every run and fills in its `result`; all are started before any is awaited.
    fn sync(&self, runs: &mut [SyncRun], mode: SyncMode) -> impl Future<Output = ()> + Send;
}

/// No frame is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no physical frame is left")
    }
}

impl core::error::Error for OutOfFrames {}

/// One address space's page tables (or TLB model): pure bookkeeping of mappings, in 4 KiB and 2 MiB pages.
///
/// Effects are complete when a method returns: no processor can use an older translation any more.
pub trait Pmap: Send {
    /// Maps the virtual pages from `page` on to the frames of `run`, replacing what was there.
    ///
    /// Uses a 2 MiB mapping wherever page, frame and remaining length allow. A page entered starts clean; where
    /// the same frame is mapped with the same protection already, the mapping may be left as it is, with its
    /// dirty mark. Pages beside the run keep mapping and mark, also when a 2 MiB mapping is split.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for a table; then no page of the run is mapped but those that were mapped alike
    /// before, by a 2 MiB mapping that reaches over an end of the run.
    fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames>;

    /// Unmaps whatever is mapped in `pages` and calls `dirty` with each run of pages that were written
    /// through these mappings since they were entered or last cleaned.
    ///
    /// # Errors
    /// [`OutOfFrames`] when a 2 MiB mapping had to be split and no frame was left for the table; then
    /// nothing is changed. A range of whole 2 MiB blocks never needs a split.
    fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames>;

    /// Sets the protection of what is mapped in `pages`; keeps dirty marks. [`Prot::NONE`] is not allowed
    /// here: use [`Pmap::remove`].
    ///
    /// # Errors
    /// As for [`Pmap::remove`].
    fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames>;

    /// Calls `dirty` with each run of pages in `pages` that carry a dirty mark, and clears the marks.
    /// A 2 MiB mapping may be reported as a whole where only a part was written, clipped to `pages`, in
    /// which case its mark stays set unless `pages` covers all of it.
    fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange));

    /// Returns the frame that `page` is mapped to, and what the mapping permits.
    fn translate(&self, page: u64) -> Option<(u64, Prot)>;
}

/// Frames fresh from the allocator; their content is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshFrames {
    /// The frames.
    pub run: FrameRun,
    /// Whether zero had to be stored into them, so that stable storage may hold something else. `false`
    /// only for frames whose stable content is known to be zero.
    pub dirty: bool,
}

/// The physical frames of guest RAM that are free for use.
pub trait Frames: Send + Sync {
    /// Takes up to `pages` (at least 1) adjacent zero frames: as many as one free run gives, whole 2 MiB
    /// aligned runs first when `pages` is at least 512.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame at all is free.
    fn allocate(&self, pages: u64) -> Result<FreshFrames, OutOfFrames>;

    /// Gives frames back.
    fn free(&self, run: FrameRun);

    /// Copies the 4096 bytes of frame `from` to frame `to`; both are taken.
    fn copy(&self, from: u64, to: u64);

    /// Stores `byte` into all 4096 bytes of `frame`, which is taken.
    fn fill(&self, frame: u64, byte: u8);
}

/// The three ports as one type parameter.
pub trait Ports: 'static {
    /// The host.
    type Host: Host;
    /// Page tables.
    type Pmap: Pmap;
    /// Physical frames.
    type Frames: Frames;
}
