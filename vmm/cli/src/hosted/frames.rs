//! The free frames of RAM.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirevm_devices::witness::PAGE_BYTES;
use wirevm_map::{FrameAllocator, FrameRun, Frames, FreshFrames, OutOfFrames};

use super::ram::HostedRam;
use crate::in_process::FrameBytes;

/// Frames that are zeroed by one write.
const ZEROED_AT_ONCE: u64 = 256;

/// A frame allocator that zeroes what is not known to be zero.
pub(super) struct HostedFrames {
    ram: Arc<HostedRam>,
    allocator: Mutex<FrameAllocator>,
}

impl fmt::Debug for HostedFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostedFrames({} pages free)", self.allocator().free_pages())
    }
}

impl HostedFrames {
    /// Manages all of a RAM of `pages` pages; `zero` tells whether all of it is zero, on stable storage too.
    pub(super) fn new(ram: Arc<HostedRam>, pages: u64, zero: bool) -> Self {
        let mut allocator = FrameAllocator::new();
        allocator.free(FrameRun::new(0, pages), zero);
        Self { ram, allocator: Mutex::new(allocator) }
    }

    fn allocator(&self) -> MutexGuard<'_, FrameAllocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frames for HostedFrames {
    fn allocate(&self, pages: u64) -> Result<FreshFrames, OutOfFrames> {
        let (run, zero) = self.allocator().allocate(pages)?;
        if !zero {
            let most = run.pages.min(ZEROED_AT_ONCE);
            let zeros = vec![0; PAGE_BYTES * usize::try_from(most).unwrap_or(1)];
            let mut next = run.first;
            while next < run.end() {
                let count = most.min(run.end() - next);
                let bytes = PAGE_BYTES * usize::try_from(count).unwrap_or(1);
                self.ram.store(next, zeros.get(..bytes).unwrap_or(&zeros));
                next += count;
            }
        }
        Ok(FreshFrames { run, dirty: !zero })
    }

    fn allocate_zero(&self, pages: u64) -> Option<FrameRun> {
        self.allocator().allocate_zero(pages)
    }

    fn free(&self, run: FrameRun) {
        self.allocator().free(run, false);
    }

    fn copy(&self, from: u64, to: u64) {
        let mut page = [0; PAGE_BYTES];
        self.ram.read(from, 0, &mut page);
        self.ram.store(to, &page);
    }

    fn fill(&self, frame: u64, byte: u8) {
        self.ram.store(frame, &[byte; PAGE_BYTES]);
    }

    fn trim(&self, give: &mut dyn FnMut(FrameRun) -> bool) -> u64 {
        self.allocator().trim(give)
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;

    use wirevm_devices::ramfile::RamFile;
    use wirevm_map::{FrameRun, Frames, FreshFrames};
    use wirevm_vmm::memory::GuestRam;

    use super::{HostedFrames, HostedRam};
    use crate::in_process::FrameBytes;

    #[test]
    fn frames_that_held_something_are_zeroed_and_all_of_them() {
        let file = RamFile::memfd(4 << 20).expect("a memfd");
        let ram = Arc::new(HostedRam::new(GuestRam::map(&file).expect("a mapping")));
        let frames = HostedFrames::new(Arc::clone(&ram), 700, true);
        let run = FrameRun::new(0, 700);
        assert_eq!(frames.allocate(1), Ok(FreshFrames { run: FrameRun::new(0, 1), dirty: false }));
        frames.fill(0, 9);
        frames.copy(0, 699);
        frames.free(FrameRun::new(0, 1));
        let frames = HostedFrames::new(Arc::clone(&ram), 700, false);
        assert_eq!(frames.allocate(511), Ok(FreshFrames { run: FrameRun::new(0, 511), dirty: true }));
        let byte = |frame| {
            let mut byte = [1];
            ram.read(frame, 4095, &mut byte);
            byte[0]
        };
        assert_eq!((byte(0), byte(699)), (0, 9));
        assert_eq!(frames.allocate(300).map(|fresh| fresh.run.end()), Ok(run.end()));
        assert_eq!(byte(699), 0);
    }
}
