//! A machine without a guest: what the tests on real memory share.

use std::sync::Arc;

use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};
use wirevm_abi::RamRange;
use wirevm_devices::pin::{PinConfig, PinKind, PinService};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::view::View;
use wirevm_devices::witness::Witness;

use crate::folder::RAM_BYTES;

/// Pages of RAM in the tests.
pub const RAM_PAGES: u64 = RAM_BYTES / 4096;
/// Map entries that are enough for any test that is not about them.
pub const MAP_ENTRIES: u64 = 10_000;

/// Checks a range of the tests' RAM.
pub fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, RAM_PAGES).expect("inside RAM")
}

/// A RAM file with its pin service and witness over the same view, and a mapping to store through as a guest does.
pub struct Machine {
    pub pins: Arc<PinService>,
    pub witness: Witness,
    guest: MmapRegion,
    pub ram: RamFile,
}

impl Machine {
    /// Sets a machine up over a RAM file, with a quota of all of RAM.
    pub fn new(ram: RamFile, map_entry_budget: u64) -> Self {
        Self::pinned(PinKind::Runs, ram, map_entry_budget)
    }

    /// Sets a machine up as [`Machine::new`] does, whose pages are held that way.
    pub fn pinned(kind: PinKind, ram: RamFile, map_entry_budget: u64) -> Self {
        let view = Arc::new(View::new(&ram).expect("a view"));
        let witness = Witness::new(Arc::clone(&view), &ram).expect("a witness");
        let config = PinConfig { ram_pages: ram.pages(), quota_pages: ram.pages(), map_entry_budget };
        let method = kind.method(view).expect("a method");
        let pins = Arc::new(PinService::new(method, config));
        let file = FileOffset::new(ram.reopen().expect("a description"), ram.data_offset());
        let guest = MmapRegion::from_file(file, usize::try_from(ram.size_bytes()).expect("small")).expect("a mapping");
        Self { pins, witness, guest, ram }
    }

    /// Stores a byte to the start of each page of a range, as a guest does.
    pub fn store(&self, range: RamRange, byte: u8) {
        for page in range.first()..range.end() {
            let offset = usize::try_from(page * 4096).expect("small");
            self.guest.as_volatile_slice().write_obj(byte, offset).expect("inside RAM");
        }
    }
}
