//! The model's free frames.

use std::sync::Arc;

use wirevm_map::fake::FakeFrames;
use wirevm_map::{FrameRun, Frames, FreshFrames, OutOfFrames};

use super::ram::ModelRam;

/// Free frames; what the memory system stores into frames by itself marks them too.
#[derive(Debug)]
pub(super) struct ModelFrames {
    frames: FakeFrames,
    ram: Arc<ModelRam>,
}

impl ModelFrames {
    /// Manages all of a RAM of that many pages, all of them zero.
    pub(super) fn new(ram: Arc<ModelRam>, pages: u64) -> Self {
        Self { frames: FakeFrames::new(Arc::clone(ram.bytes()), FrameRun::new(0, pages)), ram }
    }
}

impl Frames for ModelFrames {
    fn allocate(&self, pages: u64) -> Result<FreshFrames, OutOfFrames> {
        let fresh = self.frames.allocate(pages)?;
        if fresh.dirty {
            self.ram.mark(fresh.run);
        }
        Ok(fresh)
    }

    fn allocate_zero(&self, pages: u64) -> Option<FrameRun> {
        self.frames.allocate_zero(pages)
    }

    fn free(&self, run: FrameRun) {
        self.frames.free(run);
    }

    fn copy(&self, from: u64, to: u64) {
        self.frames.copy(from, to);
        self.ram.mark(FrameRun::new(to, 1));
    }

    fn fill(&self, frame: u64, byte: u8) {
        self.frames.fill(frame, byte);
        self.ram.mark(FrameRun::new(frame, 1));
    }

    fn trim(&self, give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        self.frames.trim(give)
    }
}
