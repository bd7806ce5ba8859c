//! The fake's parts put together.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Deadlock, Executor, FakeFrames, FakeHost, FakePmap, FakePorts, FakeProcessor, FakeRam};
use crate::entry::EntryKind;
use crate::kern_return::KernReturn;
use crate::map::{VmMap, check_all, check_quiet};
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

    /// Runs the tasks of `executor`, and beside them what the system does for nobody who waits.
    ///
    /// # Errors
    /// [`Deadlock`] when tasks are left that nothing will wake.
    pub fn run(&self, executor: &mut Executor<'_>) -> Result<(), Deadlock> {
        loop {
            executor.run_until_stalled();
            let Some(work) = self.vm.take_background() else { return executor.run() };
            executor.spawn(work);
        }
    }

    /// Reads as a user program would, from `address` (bytes) on, taking faults.
    ///
    /// # Errors
    /// What [`VmMap::fault`] answers for the first page that can't be read.
    ///
    /// # Partial effects
    /// The bytes below that page are read.
    pub async fn read(&self, address: u64, into: &mut [u8]) -> Result<(), KernReturn> {
        self.read_in(&self.map, address, into).await
    }

    /// As [`FakeMachine::read`], in another map of the system.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Partial effects
    /// As there.
    pub async fn read_in(&self, map: &VmMap<FakePorts>, address: u64, into: &mut [u8]) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, into.len()) {
            let frame = access(map, page, Prot::READ).await?;
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
        self.write_in(&self.map, address, from).await
    }

    /// As [`FakeMachine::write`], in another map of the system.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Partial effects
    /// As there.
    pub async fn write_in(&self, map: &VmMap<FakePorts>, address: u64, from: &[u8]) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, from.len()) {
            let frame = access(map, page, Prot::WRITE).await?;
            self.ram.write(frame, offset, &from[bytes]);
        }
        Ok(())
    }

    /// As [`FakeMachine::read_in`], by `processor`, with the translations that it remembers; the map must be [loaded](FakeProcessor::load).
    /// No lock of the kernel's is taken but for faults.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Partial effects
    /// As there.
    pub async fn read_on(
        &self,
        processor: &FakeProcessor,
        map: &VmMap<FakePorts>,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, into.len()) {
            let mut read = |frame| self.ram.read(frame, offset, &mut into[bytes.clone()]);
            while processor.access(page, Prot::READ, &mut read).is_err() {
                map.fault(page << PAGE_SHIFT, Prot::READ).await?;
            }
        }
        Ok(())
    }

    /// As [`FakeMachine::write_in`], by `processor`, as [`FakeMachine::read_on`] reads.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Partial effects
    /// As there.
    pub async fn write_on(
        &self,
        processor: &FakeProcessor,
        map: &VmMap<FakePorts>,
        address: u64,
        from: &[u8],
    ) -> Result<(), KernReturn> {
        for (page, offset, bytes) in pieces(address, from.len()) {
            let write = |frame| self.ram.write(frame, offset, &from[bytes.clone()]);
            while processor.access(page, Prot::WRITE, write).is_err() {
                map.fault(page << PAGE_SHIFT, Prot::WRITE).await?;
            }
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

    /// Checks what must hold while operations are under way; see [`check_maps`].
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check(&self) -> Result<(), String> {
        check_maps(&[&self.map])
    }

    /// As [`FakeMachine::check`], and what must hold when no operation is under way; see [`check_quiet_maps`].
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check_quiet(&self) -> Result<(), String> {
        self.check_quiet_with(&[])
    }

    /// As [`FakeMachine::check_quiet`], where `others` are the system's further maps.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    pub fn check_quiet_with(&self, others: &[&VmMap<FakePorts>]) -> Result<(), String> {
        let maps: Vec<&VmMap<FakePorts>> = core::iter::once(&*self.map).chain(others.iter().copied()).collect();
        check_quiet_maps(&maps)?;
        let (resident, free) = (self.vm.resident_pages(), self.frames().free_pages());
        if resident + free != self.config.frame_pages {
            return Err(alloc::format!("frames are lost: {resident} are resident and {free} free"));
        }
        Ok(())
    }
}

/// Returns the frame behind a page, as an access by a processor finds it, taking faults.
async fn access(map: &VmMap<FakePorts>, page: u64, access: Prot) -> Result<u64, KernReturn> {
    loop {
        if let Ok(frame) = map.with_pmap(|pmap| pmap.access(page, access)) {
            return Ok(frame);
        }
        map.fault(page << PAGE_SHIFT, access).await?;
    }
}

/// Checks what must hold of a system whose maps are `maps`, all of them, while operations are under way: every invariant, the
/// host's contract, and that page tables map nothing but what the maps show.
///
/// # Errors
/// A sentence about the first thing found wrong.
pub fn check_maps(maps: &[&VmMap<FakePorts>]) -> Result<(), String> {
    check_all(maps).map_err(|violation| violation.to_string())?;
    for map in maps {
        if let Some(violation) = map.vm().host().violations().first() {
            return Err(alloc::format!("the host's contract was broken: {violation}"));
        }
        check_mappings(map)?;
    }
    Ok(())
}

/// Checks that every mapping shows the frame that the map says, and permits no more than the entry.
fn check_mappings(map: &VmMap<FakePorts>) -> Result<(), String> {
    let entries = map.entries();
    let bounds = map.bounds();
    let frames = map.frames(bounds.start, bounds.end);
    let mapped = map.with_pmap(|pmap| {
        let mapping = |page| (page, pmap.translation(page));
        pmap.mapped_pages().into_iter().map(mapping).collect::<Vec<_>>()
    });
    // What lies outside, or in a submap, or in the range that was a detached map's, is another map's, which has the same page tables.
    let submaps: Vec<_> = entries.iter().filter(|entry| entry.kind == EntryKind::Submap).map(|row| row.pages).collect();
    let is_own =
        |page| !map.is_detached() && bounds.contains(page) && !submaps.iter().any(|pages| pages.contains(page));
    let mapped = mapped.into_iter().filter(|(page, _)| is_own(*page));
    // Both lists are in order, and so are the pages.
    let (mut entries, mut frames) = (entries.iter().peekable(), frames.iter().peekable());
    for (page, translation) in mapped {
        while entries.next_if(|entry| entry.pages.end <= page).is_some() {}
        while frames.next_if(|row| row.pages.end <= page).is_some() {}
        let entry = entries.peek().filter(|entry| entry.pages.contains(page));
        let row = frames.peek().filter(|row| row.pages.contains(page));
        let frame = row.and_then(|row| Some(row.frames?.first + (page - row.pages.start)));
        let agrees = match (translation, entry) {
            (Some(mapped), Some(entry)) => {
                // Where others see the page too, it may not be written yet.
                let shared = entry.prot.without(Prot::WRITE);
                frame == Some(mapped.frame) && (mapped.prot == entry.prot && !entry.needs_copy || mapped.prot == shared)
            }
            _ => false,
        };
        if !agrees {
            return Err(alloc::format!("page {page} is mapped as {translation:?}, entry {entry:?}, frame {frame:?}"));
        }
    }
    Ok(())
}

/// As [`check_maps`], and what must hold when no operation is under way: nothing is in transition, waited for or busy, and the host
/// holds exactly the frames of wired pages.
///
/// # Errors
/// A sentence about the first thing found wrong.
pub fn check_quiet_maps(maps: &[&VmMap<FakePorts>]) -> Result<(), String> {
    check_maps(maps)?;
    check_quiet(maps).map_err(|violation| violation.to_string())?;
    let Some(first) = maps.first() else { return Ok(()) };
    let (ledger, wired) = (first.vm().host().wired(), first.vm().wired_frames());
    let pages_of = |runs: &[FrameRun]| runs.iter().flat_map(|run| run.first..run.end()).collect::<Vec<_>>();
    if pages_of(&wired) != pages_of(&ledger) {
        return Err(alloc::format!("the host has wired {ledger:?}, the objects {wired:?}"));
    }
    Ok(())
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
