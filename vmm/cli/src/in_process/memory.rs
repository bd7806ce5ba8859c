//! Tasks' memory through page tables in software.

use std::fmt;
use std::sync::Arc;

use wirevm_agent::{AccessFault, Platform};
use wirevm_map::fake::FakePmap;
use wirevm_map::{OutOfFrames, PAGE_SIZE, Ports, Prot, VmMap, check_quiet};

use super::contract::{HostServices, ServiceHost};
use super::tables;

/// The bytes of RAM by frame. An access stays within its frame.
pub trait FrameBytes: fmt::Debug + Send + Sync + 'static {
    /// Reads from byte `offset` of a frame on.
    fn read(&self, frame: u64, offset: usize, into: &mut [u8]);

    /// Writes from byte `offset` of a frame on.
    fn write(&self, frame: u64, offset: usize, from: &[u8]);
}

/// What a processor and its page tables do for the agent: translates, checks rights, sets dirty marks.
#[derive(Debug)]
pub struct SoftwareMemory<R> {
    ram: Arc<R>,
}

impl<R: FrameBytes> SoftwareMemory<R> {
    /// Reaches that RAM.
    pub const fn new(ram: Arc<R>) -> Self {
        Self { ram }
    }
}

/// Returns the frame and the offset in it that a task's address leads to.
fn translate<P: Ports<Pmap = FakePmap>>(
    map: &VmMap<P>,
    address: u64,
    right: Prot,
) -> Result<(u64, usize), AccessFault> {
    let frame = map.with_pmap(|pmap| pmap.access(address / PAGE_SIZE, right)).map_err(|_| AccessFault)?;
    let offset = usize::try_from(address % PAGE_SIZE).map_err(|_| AccessFault)?;
    Ok((frame, offset))
}

impl<P, S, R> Platform<P> for SoftwareMemory<R>
where
    P: Ports<Pmap = FakePmap, Host = ServiceHost<S>>,
    S: HostServices,
    R: FrameBytes,
{
    fn new_pmap(&self) -> Result<FakePmap, OutOfFrames> {
        Ok(FakePmap::new())
    }

    fn store(&self, map: &VmMap<P>, address: u64, bytes: &[u8]) -> Result<(), AccessFault> {
        let (frame, offset) = translate(map, address, Prot::WRITE)?;
        self.ram.write(frame, offset, bytes);
        Ok(())
    }

    fn load(&self, map: &VmMap<P>, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault> {
        let (frame, offset) = translate(map, address, Prot::READ)?;
        self.ram.read(frame, offset, bytes);
        Ok(())
    }

    fn compare(&self, map: &VmMap<P>, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault> {
        let mut got = vec![0; bytes.len()];
        self.load(map, address, &mut got)?;
        Ok((0..).zip(got.iter().zip(bytes)).find(|(_, (got, expected))| got != expected).map(|(at, _)| at))
    }

    /// Checks the host's books, and that no page table maps what its map does not show.
    fn check(&self, maps: &[&VmMap<P>]) -> Result<(), String> {
        if let Some(map) = maps.first() {
            let wired = check_quiet(maps).is_ok().then(|| map.vm().wired_frames());
            map.vm().host().services().check(wired.as_deref())?;
        }
        maps.iter().try_for_each(|map| tables::check(map))
    }
}
