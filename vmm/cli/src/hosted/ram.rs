//! Guest RAM without a guest: its bytes, reached as devices reach them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wirevm_abi::RamRange;
use wirevm_devices::guest_memory::{BackingLostError, GuestMemory};
use wirevm_vmm::memory::GuestRam;

use crate::in_process::FrameBytes;

/// Bytes of a frame.
const FRAME_BYTES: usize = wirevm_devices::witness::PAGE_BYTES;

/// The mapping that a guest would store through. Memory that is gone is noted: no operation of the memory system can
/// fail for it, so whoever asked for one looks afterwards.
#[derive(Debug)]
pub(super) struct HostedRam {
    memory: Arc<GuestRam>,
    lost: AtomicBool,
}

impl HostedRam {
    pub(super) fn new(memory: GuestRam) -> Self {
        Self { memory: Arc::new(memory), lost: AtomicBool::new(false) }
    }

    /// Returns the mapping, for services that store to RAM on the guest's behalf.
    pub(super) const fn memory(&self) -> &Arc<GuestRam> {
        &self.memory
    }

    /// Tells whether part of RAM could not be reached.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Stores bytes from the start of a frame on, over as many frames as they take.
    pub(super) fn store(&self, frame: u64, bytes: &[u8]) {
        let pages = bytes.len().div_ceil(FRAME_BYTES) as u64;
        self.with(frame, pages, |range| self.memory.write(range, bytes));
    }

    fn with(&self, frame: u64, pages: u64, access: impl FnOnce(RamRange) -> Result<(), BackingLostError>) {
        let range = RamRange::new(frame, pages, self.memory.pages());
        if !range.is_ok_and(|range| access(range).is_ok()) {
            self.lost.store(true, Ordering::Release);
        }
    }
}

impl FrameBytes for HostedRam {
    fn read(&self, frame: u64, offset: usize, into: &mut [u8]) {
        if offset == 0 {
            return self.with(frame, 1, |range| self.memory.read(range, into));
        }
        let mut page = [0; FRAME_BYTES];
        self.with(frame, 1, |range| self.memory.read(range, &mut page));
        into.copy_from_slice(page.get(offset..offset + into.len()).unwrap_or(&[]));
    }

    fn write(&self, frame: u64, offset: usize, from: &[u8]) {
        if offset == 0 {
            return self.store(frame, from);
        }
        // Devices write from the start of a page on; nobody else stores to RAM meanwhile.
        let mut page = [0; FRAME_BYTES];
        self.with(frame, 1, |range| self.memory.read(range, &mut page));
        if let Some(part) = page.get_mut(offset..offset + from.len()) {
            part.copy_from_slice(from);
        }
        self.store(frame, &page);
    }
}

#[cfg(test)]
mod test {
    use wirevm_devices::ramfile::RamFile;
    use wirevm_vmm::memory::GuestRam;

    use super::HostedRam;
    use crate::in_process::FrameBytes;

    fn ram() -> HostedRam {
        let file = RamFile::memfd(2 << 20).expect("a memfd");
        HostedRam::new(GuestRam::map(&file).expect("a mapping"))
    }

    #[test]
    fn part_of_a_frame_is_written_and_read_with_the_rest_as_it_was() {
        let ram = ram();
        ram.store(3, &[7; 2 * 4096]);
        ram.write(4, 4090, &[1, 2, 3]);
        let mut bytes = [0; 6];
        ram.read(4, 4088, &mut bytes);
        assert_eq!(bytes, [7, 7, 1, 2, 3, 7]);
        let mut bytes = [0; 2];
        ram.read(3, 0, &mut bytes);
        assert_eq!(bytes, [7, 7]);
        assert!(!ram.is_lost());
    }

    #[test]
    fn access_outside_of_ram_is_noted() {
        let ram = ram();
        ram.write(512, 0, &[1]);
        assert!(ram.is_lost());
    }
}
