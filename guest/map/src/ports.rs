//! The three doors through which the core meets the world.

use core::fmt;
use core::future::Future;

use spin::relax::RelaxStrategy;

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

/// Names an open store of the host: a file that backs a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u16);

/// Whether a store keeps its copy of a page that it has supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// It does.
    Store,
    /// It does not: a supplied page is precious, and must be returned even if nobody wrote to it.
    Exclusive,
}

/// One run of a data return and, afterwards, its own result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRun {
    /// The store's page that the first frame is for.
    pub first: u64,
    /// The frames to take the bytes from.
    pub frames: FrameRun,
    /// What became of it; set by [`Host::data_return`].
    pub result: Result<(), HostError>,
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

    /// Puts every run on stable storage and fills in its `result`. All are begun before the future is first pending, so that
    /// whoever polls it once and awaits it later has started the writing; a host that is busy is waited for.
    fn sync(&self, runs: &mut [SyncRun]) -> impl Future<Output = ()> + Send;

    /// Returns how many requests the host has accepted and not answered yet: whoever waits for one of them will go on
    /// without anybody else's doing. A request counts until the future of its call has ended, so that the number falls only
    /// where operations are polled, and whoever sees it above 0 will still be woken.
    fn outstanding(&self) -> u64 {
        0
    }

    /// Returns how many calls of [`Host::sync`], [`Host::data_request`], [`Host::data_return`] and [`Host::synchronize`] have
    /// ended since the start, whatever came of them. Counted where [`Host::outstanding`] is.
    fn answered(&self) -> u64 {
        0
    }

    /// Opens a store by name, with at least `pages` pages.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] where there are none, [`HostError::Busy`] when it is open already, [`HostError::Quota`],
    /// [`HostError::Io`], [`HostError::Rejected`] for what is no name.
    fn open_store(&self, name: &str, pages: u64, kind: StoreKind) -> Result<StoreId, HostError> {
        let _ = (name, pages, kind);
        Err(HostError::Unsupported)
    }

    /// Closes a store, about which no call is under way.
    fn close_store(&self, store: StoreId) {
        let _ = store;
    }

    /// Fills frames with the store's pages from `first` on. Of an exclusive store the frames are the only copy afterwards.
    ///
    /// # Errors
    /// [`HostError::Io`] when a page can't be read or was lost; what the frames hold is unknown then.
    fn data_request(
        &self,
        store: StoreId,
        first: u64,
        frames: FrameRun,
    ) -> impl Future<Output = Result<(), HostError>> + Send {
        let _ = (store, first, frames);
        core::future::ready(Err(HostError::Unsupported))
    }

    /// Writes every run to the store and fills in its `result`. What the store has is not stable yet. Begins like
    /// [`Host::sync`].
    fn data_return(&self, store: StoreId, runs: &mut [StoreRun]) -> impl Future<Output = ()> + Send {
        let _ = store;
        for run in runs {
            run.result = Err(HostError::Unsupported);
        }
        core::future::ready(())
    }

    /// Puts what was returned of the store's `pages` on stable storage.
    ///
    /// # Errors
    /// [`HostError::Io`] as long as a returned page of them is not known to be stable.
    fn synchronize(&self, store: StoreId, pages: PageRange) -> impl Future<Output = Result<(), HostError>> + Send {
        let _ = (store, pages);
        core::future::ready(Err(HostError::Unsupported))
    }

    /// Returns one of the host's numbers by its selector in the contract.
    ///
    /// # Errors
    /// [`HostError::Rejected`] for a selector that the host does not know.
    fn stat(&self, selector: u64) -> Result<u64, HostError> {
        let _ = selector;
        Err(HostError::Unsupported)
    }

    /// Gives the content of frames that nobody uses back to the host; they are zero afterwards.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] where RAM is a file, [`HostError::Busy`] when a frame is wired; nothing is given back then.
    fn discard(&self, run: FrameRun) -> Result<(), HostError> {
        let _ = run;
        Err(HostError::Unsupported)
    }
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
/// Processors read the tables and set dirty marks in them whenever they want, so a method changes what is mapped by exchanges, and
/// what it learns of marks is what it took out. Effects are complete when a method returns: no processor can use an older
/// translation any more, nor write a page that was cleaned without marking it again. Processors that wait for the lock
/// meanwhile can be told, for they do what [`Ports::Relax`] says.
pub trait Pmap: Send {
    /// Maps the virtual pages from `page` on to the frames of `run`, replacing what was there.
    ///
    /// Uses a 2 MiB mapping wherever page, frame and remaining length allow. A page entered starts clean; but **where the same
    /// frame is mapped already, its dirty mark stays**: one that another processor has set since the caller cleaned the page, or
    /// sets at this very moment, for other processors go on writing through the mapping that is replaced. That 2 MiB mappings and
    /// 4 KiB mappings take each other's place changes nothing of that; a 2 MiB mapping has the marks of all its pages. With the
    /// same protection, the mapping may be left as it is. Pages beside the run keep mapping and mark, also when a 2 MiB mapping is
    /// split.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for a table; then pages from the front of the run on are mapped to it, perhaps
    /// none, and the others are mapped as they were, with the same marks.
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

    /// Maps one page where nothing is mapped, if a table is there for it; `false`, with nothing changed, where that is not so. The
    /// short way of [`Pmap::enter`], which a port may leave out.
    fn enter_absent(&mut self, page: u64, frame: u64, prot: Prot) -> bool {
        self.translate(page).is_none() && self.enter(page, FrameRun::new(frame, 1), prot).is_ok()
    }

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

    /// Takes frames as [`allocate`](Self::allocate) does, but only such as need not be made zero first, so that it takes no longer for
    /// many than for few. From 512 `pages` on they are whole aligned 2 MiB runs. None where there are no such frames.
    fn allocate_zero(&self, _pages: u64) -> Option<FrameRun> {
        None
    }

    /// Gives frames back.
    fn free(&self, run: FrameRun);

    /// Copies the 4096 bytes of frame `from` to frame `to`; both are taken.
    fn copy(&self, from: u64, to: u64);

    /// Stores `byte` into all 4096 bytes of `frame`, which is taken.
    fn fill(&self, frame: u64, byte: u8);

    /// Offers `give` each run of free frames that are not known to be zero. Where it returns `true` they are from then on; where
    /// it returns `false` no more are offered. Returns how many pages became so.
    fn trim(&self, _give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        0
    }
}

/// The three ports as one type parameter.
pub trait Ports: 'static {
    /// The host.
    type Host: Host;
    /// Page tables.
    type Pmap: Pmap;
    /// Physical frames.
    type Frames: Frames;
    /// What a processor does while it waits for a map's lock or the objects' lock. Page tables change under those, and whoever
    /// changes them may wait for this very processor to forget its translations: where processors share maps, this must let it.
    type Relax: RelaxStrategy + Send + Sync;
}
