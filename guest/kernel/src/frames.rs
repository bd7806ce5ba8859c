//! The guest's free frames.

use core::fmt;

use spin::Mutex;
use wirevm_map::{FrameAllocator, FrameRun, Frames, FreshFrames, OutOfFrames};

use crate::mem::{copy_frame, fill_frame, zero_frames};

/// The number of one page of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub u64);

/// The frame allocator of the machine, zeroing what is not known to be zero.
pub struct KernelFrames(Mutex<FrameAllocator>);

impl fmt::Debug for KernelFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelFrames({} pages free)", self.0.lock().free_pages())
    }
}

impl KernelFrames {
    /// Manages the frames in `allocator`.
    pub const fn new(allocator: FrameAllocator) -> Self {
        Self(Mutex::new(allocator))
    }

    /// Takes `pages` adjacent frames, whatever is in them; `None` when no so many are free side by side.
    pub fn take(&self, pages: u64) -> Option<FrameRun> {
        self.0.lock().allocate_whole(pages).map(|(run, _)| run)
    }

    /// Takes a zero frame for a page table.
    pub fn table(&'static self) -> Option<Frame> {
        Frames::allocate(&self, 1).ok().map(|fresh| Frame(fresh.run.first))
    }
}

impl Frames for &'static KernelFrames {
    fn allocate(&self, pages: u64) -> Result<FreshFrames, OutOfFrames> {
        let (run, zero) = self.0.lock().allocate(pages)?;
        if !zero {
            zero_frames(run.first, run.pages);
        }
        Ok(FreshFrames { run, dirty: !zero })
    }

    fn allocate_zero(&self, pages: u64) -> Option<FrameRun> {
        self.0.lock().allocate_zero(pages)
    }

    fn free(&self, run: FrameRun) {
        // Whatever was in the frames is still there.
        self.0.lock().free(run, false);
    }

    fn copy(&self, from: u64, to: u64) {
        copy_frame(from, to);
    }

    fn fill(&self, frame: u64, byte: u8) {
        fill_frame(frame, byte);
    }

    fn trim(&self, give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        self.0.lock().trim(give)
    }
}
