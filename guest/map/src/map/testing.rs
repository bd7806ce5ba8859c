//! A machine for tests that speaks in pages from the start of its map and checks itself after every step.

mod durable;
mod explore;
mod family;
mod inject;
mod managers;
mod model;
mod mutants;
mod owed;
mod parallel;
mod regressions;
mod sparse;
mod stores;
mod storm;
mod submaps;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use super::Placement;
use crate::fake::{FakeConfig, FakeHost, FakeMachine, HostCall, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::units::{FrameRun, PAGE_SHIFT, Prot};

pub(crate) type Outcome = Result<(), KernReturn>;

#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) machine: FakeMachine,
    base: u64,
}

impl Bed {
    /// Returns a machine with an empty map.
    pub(crate) fn new() -> Self {
        Self::with(FakeConfig::default())
    }

    pub(crate) fn with(config: FakeConfig) -> Self {
        Self { machine: FakeMachine::new(config), base: config.map_pages.start }
    }

    /// Returns a machine where pages `[0, pages)` are one allocation.
    pub(crate) fn of(pages: u64) -> Self {
        let bed = Self::new();
        bed.allocate(0, pages);
        bed
    }

    /// Returns the address of a page, in bytes.
    pub(crate) fn at(&self, page: u64) -> u64 {
        (self.base + page) << PAGE_SHIFT
    }

    pub(crate) fn host(&self) -> &FakeHost {
        self.machine.host()
    }

    pub(crate) fn settled<T>(&self, value: T) -> T {
        assert_eq!(self.machine.check_quiet(), Ok(()));
        value
    }

    pub(crate) fn allocate(&self, start: u64, end: u64) {
        let placement = Placement::Fixed(self.at(start));
        let address = block_on(self.machine.map.allocate(placement, (end - start) << PAGE_SHIFT));
        assert_eq!(self.settled(address), Ok(self.at(start)));
    }

    pub(crate) fn wire(&self, start: u64, end: u64, flags: WireFlags) -> Outcome {
        self.settled(block_on(self.machine.map.wire(self.at(start), self.at(end), flags)))
    }

    pub(crate) fn unwire(&self, start: u64, end: u64, flags: WireFlags) -> Outcome {
        self.settled(block_on(self.machine.map.unwire(self.at(start), self.at(end), flags)))
    }

    pub(crate) fn protect(&self, start: u64, end: u64, prot: Prot) -> Outcome {
        let size = (end - start) << PAGE_SHIFT;
        self.settled(block_on(self.machine.map.protect(self.at(start), size, false, prot)))
    }

    pub(crate) fn deallocate(&self, start: u64, end: u64) {
        let size = (end - start) << PAGE_SHIFT;
        assert_eq!(self.settled(block_on(self.machine.map.deallocate(self.at(start), size))), Ok(()));
    }

    pub(crate) fn msync(&self, start: u64, end: u64, flags: SyncFlags) -> Outcome {
        let size = (end - start) << PAGE_SHIFT;
        self.settled(block_on(self.machine.map.msync(self.at(start), size, flags)))
    }

    /// Writes the first byte of a page as a program would.
    pub(crate) fn write(&self, page: u64, byte: u8) -> Outcome {
        self.settled(block_on(self.machine.write(self.at(page), &[byte])))
    }

    /// Reads the first byte of a page as a program would.
    pub(crate) fn read(&self, page: u64) -> Result<u8, KernReturn> {
        let mut byte = [0xee];
        self.settled(block_on(self.machine.read(self.at(page), &mut byte)))?;
        Ok(byte[0])
    }

    pub(crate) fn stable(&self, page: u64) -> Option<u8> {
        self.machine.stable_byte(self.at(page))
    }

    pub(crate) fn is_mapped(&self, page: u64) -> bool {
        self.machine.map.with_pmap(|pmap| pmap.translation(self.base + page).is_some())
    }

    pub(crate) fn frame(&self, page: u64) -> Option<u64> {
        let rows = self.machine.map.frames(self.base + page, self.base + page + 1);
        Some(rows.first()?.frames?.first)
    }

    /// Returns the layout of the whole map: `[0,2)0 [2,4)1U`.
    pub(crate) fn layout(&self) -> String {
        let bounds = self.machine.map.bounds();
        let mut text = String::new();
        for row in self.machine.map.layout(bounds.start, bounds.end) {
            let user = if row.user_wired { "U" } else { "" };
            let (start, end) = (row.pages.start - self.base, row.pages.end - self.base);
            write!(text, "{}[{start},{end}){}{user}", if text.is_empty() { "" } else { " " }, row.wired_count).unwrap();
        }
        text
    }

    /// Returns the entries' ranges: `[0,2) [2,4)`.
    pub(crate) fn entries(&self) -> String {
        let row = |row: &super::EntryRow| format!("[{},{})", row.pages.start - self.base, row.pages.end - self.base);
        self.machine.map.entries().iter().map(row).collect::<Vec<_>>().join(" ")
    }

    /// Returns how many pages the host has wired.
    pub(crate) fn wired_by_host(&self) -> u64 {
        self.host().wired().iter().map(|run| run.pages).sum()
    }

    /// Takes the runs of all sync calls since the last time.
    pub(crate) fn synced(&self) -> Vec<FrameRun> {
        let runs = |call| match call {
            HostCall::Sync(runs) => runs,
            _ => Vec::new(),
        };
        self.host().take_log().into_iter().flat_map(runs).collect()
    }
}
