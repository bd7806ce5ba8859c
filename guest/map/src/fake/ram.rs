//! The fake's guest RAM: its bytes, what of them is stable, and its free frames.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::processor::pause;
use super::{Failure, strike};
use crate::frames::FrameAllocator;
use crate::ports::{Frames, FreshFrames, OutOfFrames};
use crate::units::{FrameRun, PAGE_SHIFT};

/// The bytes of each frame, as the guest sees them and as stable storage holds them. What was never written is
/// zero.
#[derive(Debug, Default)]
pub struct FakeRam {
    cached: Mutex<BTreeMap<u64, Vec<u8>>>,
    stable: Mutex<BTreeMap<u64, Vec<u8>>>,
}

/// Bytes in a page.
const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

impl FakeRam {
    /// Reads what the guest sees in `frame`, from byte `offset` on.
    ///
    /// # Panics
    /// When it reaches over the end of the frame.
    pub fn read(&self, frame: u64, offset: usize, into: &mut [u8]) {
        read(&self.cached.lock(), frame, offset, into);
    }

    /// Writes as the guest does into `frame`, from byte `offset` on.
    ///
    /// # Panics
    /// When it reaches over the end of the frame.
    pub fn write(&self, frame: u64, offset: usize, from: &[u8]) {
        let mut cached = self.cached.lock();
        let page = cached.entry(frame).or_insert_with(|| alloc::vec![0; PAGE_BYTES]);
        page[offset..offset + from.len()].copy_from_slice(from);
    }

    /// Reads what stable storage holds of `frame`, from byte `offset` on.
    ///
    /// # Panics
    /// When it reaches over the end of the frame.
    pub fn read_stable(&self, frame: u64, offset: usize, into: &mut [u8]) {
        read(&self.stable.lock(), frame, offset, into);
    }

    /// Returns the bytes of `run` as the guest sees them now, frame by frame; zero frames are left out.
    pub(super) fn snapshot(&self, run: FrameRun) -> Vec<(u64, Vec<u8>)> {
        self.cached.lock().range(run.first..run.end()).map(|(&frame, page)| (frame, page.clone())).collect()
    }

    /// Makes a snapshot of `run` stable.
    pub(super) fn persist(&self, run: FrameRun, snapshot: Vec<(u64, Vec<u8>)>) {
        let mut stable = self.stable.lock();
        stable.retain(|frame, _| !(run.first..run.end()).contains(frame));
        stable.extend(snapshot);
    }

    /// Makes `run` zero, on stable storage too.
    pub(super) fn discard(&self, run: FrameRun) {
        self.zero(run);
        self.persist(run, Vec::new());
    }

    fn zero(&self, run: FrameRun) {
        self.cached.lock().retain(|frame, _| !(run.first..run.end()).contains(frame));
    }
}

fn read(pages: &BTreeMap<u64, Vec<u8>>, frame: u64, offset: usize, into: &mut [u8]) {
    assert!(offset + into.len() <= PAGE_BYTES, "a read stays within its frame");
    match pages.get(&frame) {
        Some(page) => into.copy_from_slice(&page[offset..offset + into.len()]),
        None => into.fill(0),
    }
}

/// The free frames of a [`FakeRam`].
#[derive(Debug)]
pub struct FakeFrames {
    ram: Arc<FakeRam>,
    allocator: Mutex<FrameAllocator>,
    failure: Mutex<Option<Failure<OutOfFrames>>>,
    /// The longest run that one allocation gives, in pages.
    longest_pages: Mutex<u64>,
}

impl FakeFrames {
    /// Returns the frames of `run` as free and known to be zero.
    #[must_use]
    pub fn new(ram: Arc<FakeRam>, run: FrameRun) -> Self {
        let mut allocator = FrameAllocator::new();
        allocator.free(run, true);
        Self { ram, allocator: Mutex::new(allocator), failure: Mutex::new(None), longest_pages: Mutex::new(u64::MAX) }
    }

    /// Lets one allocation fail, after `after` more have succeeded.
    pub fn fail_allocation(&self, after: u64) {
        *self.failure.lock() = Some(Failure { after, error: OutOfFrames });
    }

    /// Withdraws a failure that has not happened; tells whether there was one.
    pub fn withdraw_failure(&self) -> bool {
        self.failure.lock().take().is_some()
    }

    /// Gives at most `pages` frames (at least 1) at once from now on, as fragmented memory would.
    pub fn fragment(&self, pages: u64) {
        *self.longest_pages.lock() = pages.max(1);
    }

    /// Returns how many frames are free, in pages.
    pub fn free_pages(&self) -> u64 {
        self.allocator.lock().free_pages()
    }
}

impl Frames for FakeFrames {
    fn allocate(&self, pages: u64) -> Result<FreshFrames, OutOfFrames> {
        if let Some(error) = strike(&mut self.failure.lock()) {
            return Err(error);
        }
        let (run, zero) = self.allocator.lock().allocate(pages.min(*self.longest_pages.lock()))?;
        if !zero {
            self.ram.zero(run);
        }
        Ok(FreshFrames { run, dirty: !zero })
    }

    fn allocate_zero(&self, pages: u64) -> Option<FrameRun> {
        if self.failure.lock().is_some() {
            // Who expects a failure has it come where there is one to be had.
            return None;
        }
        self.allocator.lock().allocate_zero(pages.min(*self.longest_pages.lock()))
    }

    fn free(&self, run: FrameRun) {
        self.allocator.lock().free(run, false);
    }

    fn copy(&self, from: u64, to: u64) {
        let mut page = [0; PAGE_BYTES];
        self.ram.read(from, 0, &mut page);
        // Whoever may write one of the frames is to have time for it.
        pause();
        self.ram.write(to, 0, &page);
    }

    fn fill(&self, frame: u64, byte: u8) {
        self.ram.write(frame, 0, &[byte; PAGE_BYTES]);
    }

    fn trim(&self, give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        self.allocator.lock().trim(give)
    }
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;

    use super::{FakeFrames, FakeRam};
    use crate::ports::{Frames, FreshFrames, OutOfFrames};
    use crate::units::FrameRun;

    #[test]
    fn recycled_frame_reads_zero_and_is_dirty_for_stable_storage_is_not() {
        let ram = Arc::new(FakeRam::default());
        let frames = FakeFrames::new(Arc::clone(&ram), FrameRun::new(0, 1));
        let run = FrameRun::new(0, 1);
        assert_eq!(frames.allocate(4), Ok(FreshFrames { run, dirty: false }));
        assert_eq!(frames.allocate(1), Err(OutOfFrames));
        ram.write(0, 4095, &[7]);
        ram.persist(run, ram.snapshot(run));
        frames.free(run);
        assert_eq!(frames.allocate(1), Ok(FreshFrames { run, dirty: true }));
        let mut bytes = [1; 2];
        ram.read(0, 4094, &mut bytes);
        assert_eq!(bytes, [0, 0]);
        ram.read_stable(0, 4094, &mut bytes);
        assert_eq!(bytes, [0, 7]);
    }

    #[test]
    fn fail_allocation_strikes_once_after_the_given_number() {
        let frames = FakeFrames::new(Arc::default(), FrameRun::new(0, 10));
        frames.fail_allocation(1);
        assert!(frames.allocate(1).is_ok_and(|fresh| fresh.run.pages == 1));
        assert_eq!(frames.allocate(1), Err(OutOfFrames));
        assert!(!frames.withdraw_failure());
        frames.fragment(2);
        assert!(frames.allocate(9).is_ok_and(|fresh| fresh.run.pages == 2));
    }
}
