//! The fake's parts put together.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{FakeFrames, FakeHost, FakePmap, FakePorts, FakeRam};
use crate::kern_return::KernReturn;
use crate::map::VmMap;
use crate::units::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
use crate::vm::Vm;

/// What a [`FakeMachine`] consists of.
#[derive(Clone, Copy, Debug)]
pub struct FakeConfig {
    /// Frames of RAM, in pages; all are free and known to be zero.
    pub frame_pages: u64,
    /// The pages of the map.
    pub map_pages: PageRange,
    /// The limit on user wiring, in pages.
    pub user_wire_limit_pages: u64,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self { frame_pages: 4096, map_pages: PageRange::new(16, 16 + 8192), user_wire_limit_pages: 4096 }
    }
}

/// A fake guest with one map.
#[derive(Debug)]
pub struct FakeMachine {
    /// Guest RAM.
    pub ram: Arc<FakeRam>,
    /// The system.
    pub vm: Arc<Vm<FakePorts>>,
    /// The map.
    pub map: Arc<VmMap<FakePorts>>,
    config: FakeConfig,
}

impl Default for FakeMachine {
    fn default() -> Self {
        Self::new(FakeConfig::default())
    }
}

impl FakeMachine {
    /// Creates a machine with an empty map.
    #[must_use]
    pub fn new(config: FakeConfig) -> Self {
        let ram = Arc::new(FakeRam::default());
        let host = FakeHost::new(Arc::clone(&ram));
        let frames = FakeFrames::new(Arc::clone(&ram), FrameRun::new(0, config.frame_pages));
        let vm = Vm::new(host, frames, config.user_wire_limit_pages);
        let map = Arc::new(VmMap::new(Arc::clone(&vm), config.map_pages, FakePmap::new()));
        Self { ram, vm, map, config }
    }

    /// Returns the host.
    #[must_use]
    pub fn host(&self) -> &FakeHost {
        self.vm.host()
    }

    /// Returns the free frames.
    #[must_use]
    pub fn frames(&self) -> &FakeFrames {
        self.vm.frames()
    }

    /// Reads as a user program would, from `address` (bytes) on, taking faults.
    ///
    /// # Errors
    /// What [`VmMap::fault`] answers for the first page that can't be read.
    ///
    /// # Partial effects
    /// The bytes below that page are read.
    pub async fn read(&self, address: u64, into: &mut [u8]) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, into.len()) {
            let frame = self.access(page, Prot::READ).await?;
            self.ram.read(frame, offset, &mut into[bytes]);
        }
        Ok(())
    }

    /// Writes as a user program would, from `address` (bytes) on, taking faults.
    ///
    /// # Errors
    /// What [`VmMap::fault`] answers for the first page that can't be written.
    ///
    /// # Partial effects
    /// The bytes below that page are written.
    pub async fn write(&self, address: u64, from: &[u8]) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, from.len()) {
            let frame = self.access(page, Prot::WRITE).await?;
            self.ram.write(frame, offset, &from[bytes]);
        }
        Ok(())
    }

    /// Returns the byte that stable storage holds for `address`; `None` when its page has no frame.
    #[must_use]
    pub fn stable_byte(&self, address: u64) -> Option<u8> {
        let page = address >> PAGE_SHIFT;
        let frame = self.map.frames(page, page + 1).first()?.frames?.first;
        let mut byte = [0];
        self.ram.read_stable(frame, usize::try_from(address % PAGE_SIZE).ok()?, &mut byte);
        Some(byte[0])
    }

    async fn access(&self, page: u64, access: Prot) -> Result<u64, KernReturn> {
        loop {
            if let Ok(frame) = self.map.with_pmap(|pmap| pmap.access(page, access)) {
                return Ok(frame);
            }
            self.map.fault(page << PAGE_SHIFT, access).await?;
        }
    }

    /// Checks what must hold while operations are under way: the map's invariants, the host's contract, and that
    /// page tables map nothing but what the map shows.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check(&self) -> Result<(), String> {
        self.map.check().map_err(|violation| violation.to_string())?;
        if let Some(violation) = self.host().violations().first() {
            return Err(alloc::format!("the host's contract was broken: {violation}"));
        }
        let entries = self.map.entries();
        let frames = self.map.frames(self.config.map_pages.start, self.config.map_pages.end);
        let mapped = self.map.with_pmap(|pmap| {
            let mapping = |page| (page, pmap.translation(page));
            pmap.mapped_pages().into_iter().map(mapping).collect::<Vec<_>>()
        });
        for (page, translation) in mapped {
            let entry = entries.iter().find(|entry| entry.pages.contains(page));
            let row = frames.iter().find(|row| row.pages.contains(page));
            let frame = row.and_then(|row| Some(row.frames?.first + (page - row.pages.start)));
            let agrees = match (translation, entry) {
                (Some(mapped), Some(entry)) => entry.prot == mapped.prot && frame == Some(mapped.frame),
                _ => false,
            };
            if !agrees {
                return Err(alloc::format!(
                    "page {page} is mapped as {translation:?}, entry {entry:?}, frame {frame:?}"
                ));
            }
        }
        Ok(())
    }

    /// As [`FakeMachine::check`], and what must hold when no operation is under way: nothing is in transition or
    /// waited for, the host has wired exactly the frames of wired pages, the charge is exact, and no frame is
    /// lost.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check_quiet(&self) -> Result<(), String> {
        self.check()?;
        let entries = self.map.entries();
        if let Some(entry) = entries.iter().find(|entry| entry.in_transition) {
            return Err(alloc::format!("an entry is left in transition: {entry:?}"));
        }
        let mut wired: Vec<FrameRun> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.wired_count > 0) {
            wired.extend(self.map.frames(entry.pages.start, entry.pages.end).iter().filter_map(|row| row.frames));
        }
        wired.sort_unstable_by_key(|run| run.first);
        let pages_of = |runs: &[FrameRun]| runs.iter().flat_map(|run| run.first..run.end()).collect::<Vec<_>>();
        let ledger = self.host().wired();
        if pages_of(&wired) != pages_of(&ledger) {
            return Err(alloc::format!("the host has wired {ledger:?}, the map {wired:?}"));
        }
        let (charged, total) = (self.map.user_wired_pages(), self.vm.user_wired_pages());
        if charged != total {
            return Err(alloc::format!("the map is charged {charged} pages, the system {total}"));
        }
        let stats = self.map.stats();
        if stats.resident_pages + self.frames().free_pages() != self.config.frame_pages {
            return Err(alloc::format!("frames are lost: {stats:?}, {} are free", self.frames().free_pages()));
        }
        if stats.cleaning_pages > 0 {
            return Err(alloc::format!("pages are left cleaning: {stats:?}"));
        }
        Ok(())
    }
}

/// Cuts `length` bytes from `address` on at page borders: page, offset in it, and which of the bytes.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, usize, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = address + done as u64;
        let offset = usize::try_from(at % PAGE_SIZE).ok()?;
        let end = length.min(done + usize::try_from(PAGE_SIZE).ok()? - offset);
        let bytes = done..end;
        done = end;
        Some((at >> PAGE_SHIFT, offset, bytes))
    })
}
