//! Memory objects whose manager is a task: the messages of the semantics table's section 4, and the handshake of 2.6.

pub(super) mod asked;
pub(super) mod returned;
pub(super) mod synchronized;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Bed, Outcome};
use crate::fake::{Executor, FakePmap, FakePorts, Output, block_on};
use crate::flags::SyncFlags;
use crate::handle::{ObjectHandle, Supply};
use crate::kern_return::KernReturn;
use crate::manager::{ManagerPort, Message};
use crate::map::{MapMode, Placement, VmMap};
use crate::ports::Frames;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;
const ASYNC: SyncFlags = SyncFlags::ASYNCHRONOUS;
const INVALIDATE: SyncFlags = SyncFlags::INVALIDATE;
pub(super) const PRECIOUS: Supply = Supply { is_precious: true, traps_writes: false, forbidden: Prot::NONE };
pub(super) const TRAPS: Supply = Supply { is_precious: false, traps_writes: true, forbidden: Prot::NONE };
pub(super) const PLAIN: Supply = Supply { is_precious: false, traps_writes: false, forbidden: Prot::NONE };

/// An object of 8 pages, mapped shared at the bed's pages 0 to 7, and its manager, whose own memory holds 0x40 plus the page.
pub(super) struct Rig {
    pub(super) bed: Bed,
    pub(super) port: Arc<ManagerPort>,
    pub(super) object: ObjectHandle<FakePorts>,
    pub(super) own: VmMap<FakePorts>,
}

pub(super) fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end)
}

impl Rig {
    pub(super) fn new() -> Self {
        let bed = Bed::new();
        let vm = &bed.machine.vm;
        let port = vm.manager_port();
        let object = vm.managed_object(&port, 8);
        let own = VmMap::new(Arc::clone(vm), bed.machine.map.bounds(), FakePmap::new());
        assert_eq!(block_on(own.allocate(Placement::Fixed(bed.at(0)), 8 << PAGE_SHIFT)), Ok(bed.at(0)));
        for page in 0..8 {
            let byte = 0x40 + u8::try_from(page).unwrap();
            assert_eq!(block_on(bed.machine.write_in(&own, bed.at(page), &[byte; 8])), Ok(()));
        }
        let rig = Self { bed, port, object, own };
        rig.map(0, MapMode::Shared);
        rig
    }

    /// As [`Rig::new`], with these pages resident and nothing to be received.
    pub(super) fn with(pages: PageRange, supply: Supply) -> Self {
        let rig = Self::new();
        for page in pages.start..pages.end {
            assert_eq!(rig.read_supplied(page, supply), Ok(0x40 + u8::try_from(page).unwrap()));
        }
        rig.messages();
        rig
    }

    pub(super) fn map(&self, page: u64, mode: MapMode) {
        let placement = Placement::Fixed(self.bed.at(page));
        let mapped = self.bed.machine.map.map_object(placement, &self.object, range(0, 8), mode, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(self.bed.at(page)));
    }

    /// Takes the messages, gives the frames in them back, and shows them.
    pub(super) fn messages(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        while let Some((object, message)) = self.port.receive() {
            assert_eq!(object, self.object.number());
            words.push(format!("{message}"));
            if let Message::DataReturn { frames, .. } = message {
                frames.into_iter().for_each(|run| self.bed.machine.frames().free(run));
            }
        }
        words.join(" ")
    }

    /// Takes the next message, which must return one page, and what that holds.
    pub(super) fn returned(&self) -> (PageRange, u8) {
        let Some((_, Message::DataReturn { pages, frames, .. })) = self.port.receive() else { panic!("no return") };
        let mut byte = [0];
        self.bed.machine.ram.read(frames[0].first, 0, &mut byte);
        frames.into_iter().for_each(|run| self.bed.machine.frames().free(run));
        (pages, byte[0])
    }

    pub(super) fn supply(&self, pages: PageRange, supply: Supply) -> Outcome {
        block_on(self.object.data_supply(pages, &self.own, self.bed.at(pages.start), supply))
    }

    /// Reads the first byte of a page, which the manager supplies.
    pub(super) fn read_supplied(&self, page: u64, supply: Supply) -> Result<u8, KernReturn> {
        let mut byte = [0];
        let mut executor = Executor::new(1);
        let read = executor.spawn(self.bed.machine.read(self.bed.at(page), &mut byte));
        assert_eq!(executor.run_until_stalled(), 1, "it waits for the manager");
        assert_eq!(self.supply(range(page, page + 1), supply), Ok(()));
        assert_eq!(executor.run(), Ok(()));
        read.take().unwrap()?;
        drop(executor);
        Ok(byte[0])
    }

    pub(super) fn write(&self, page: u64, byte: u8) {
        assert_eq!(block_on(self.bed.machine.write(self.bed.at(page), &[byte])), Ok(()));
    }

    pub(super) fn msync<'a>(
        &'a self,
        executor: &mut Executor<'a>,
        start: u64,
        end: u64,
        flags: SyncFlags,
    ) -> Output<Outcome> {
        let size = (end - start) << PAGE_SHIFT;
        let output = executor.spawn(self.bed.machine.map.msync(self.bed.at(start), size, flags));
        executor.run_until_stalled();
        output
    }

    pub(super) fn completed(&self, start: u64, end: u64, status: Outcome) -> Outcome {
        self.object.synchronize_completed(start << PAGE_SHIFT, (end - start) << PAGE_SHIFT, status)
    }

    /// An msync that the manager completes at once.
    pub(super) fn synced(&self, start: u64, end: u64, flags: SyncFlags) -> (String, Outcome) {
        let mut executor = Executor::new(3);
        let sync = self.msync(&mut executor, start, end, flags);
        let messages = self.messages();
        assert_eq!(self.completed(start, end, Ok(())), Ok(()));
        assert_eq!(self.bed.machine.run(&mut executor), Ok(()));
        (messages, sync.take().unwrap())
    }

    pub(super) fn states(&self) -> (u64, u64) {
        let stats = self.bed.machine.map.stats();
        (stats.resident_pages, self.dirty().iter().map(|pages| pages.len()).sum())
    }

    pub(super) fn dirty(&self) -> Vec<PageRange> {
        self.object.dirty_ranges()
    }

    pub(super) fn check(&self) {
        assert_eq!(self.bed.machine.check_quiet_with(&[&self.own]), Ok(()));
    }
}
