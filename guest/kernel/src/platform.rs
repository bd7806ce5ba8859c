//! Tasks as the agent sees them: their page tables, and their memory through the tasks' own mappings.
#![expect(unsafe_code, reason = "hands a kernel buffer and a task address to a guarded copy")]
// UNSAFETY: task addresses are checked to be in the lower half; the kernel side is a slice, so its length is right.

use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_agent::{AccessFault, Platform, ProgramStart};
use wirevm_map::{OutOfFrames, VmMap};

use crate::arch;
use crate::frames::{Frame, KernelFrames};
use crate::pmap::KernelPmap;
use crate::service::Machine;
use crate::user::Programs;

/// The lower half of the address space ends here.
const USER_END: u64 = 1 << 47;

/// Makes page tables for tasks, and reaches a task's memory by loading its tables.
#[derive(Debug)]
pub struct KernelPlatform {
    home: Frame,
    frames: &'static KernelFrames,
    programs: Arc<Programs>,
}

impl KernelPlatform {
    /// Returns the platform whose kernel half is that of the root table `home`.
    pub const fn new(home: Frame, frames: &'static KernelFrames, programs: Arc<Programs>) -> Self {
        Self { home, frames, programs }
    }
}

fn check(address: u64, bytes: usize) -> Result<u64, AccessFault> {
    let bytes = bytes as u64;
    let end = address.checked_add(bytes).ok_or(AccessFault)?;
    if end <= USER_END { Ok(bytes) } else { Err(AccessFault) }
}

/// Makes the map's page tables those of the processor. They stay so until another task's are needed, the
/// processor halts, asks the host, or serves the agent.
fn load(map: &VmMap<Machine>) {
    map.with_pmap(|pmap| pmap.space().load());
}

impl Platform<Machine> for KernelPlatform {
    fn new_pmap(&self) -> Result<KernelPmap, OutOfFrames> {
        KernelPmap::beside(self.home, self.frames)
    }

    fn store(&self, map: &VmMap<Machine>, address: u64, bytes: &[u8]) -> Result<(), AccessFault> {
        let length = check(address, bytes.len())?;
        load(map);
        // SAFETY: `address` is a lower-half range of `length` bytes and `bytes` a readable kernel slice of as many.
        unsafe { arch::copy(address, bytes.as_ptr() as u64, length) }.map_err(|_| AccessFault)
    }

    fn load(&self, map: &VmMap<Machine>, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault> {
        let length = check(address, bytes.len())?;
        load(map);
        // SAFETY: as in `store`, with a writable slice.
        unsafe { arch::copy(bytes.as_mut_ptr() as u64, address, length) }.map_err(|_| AccessFault)
    }

    fn compare(&self, map: &VmMap<Machine>, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault> {
        let length = check(address, bytes.len())?;
        load(map);
        // SAFETY: as in `store`.
        unsafe { arch::compare(address, bytes.as_ptr() as u64, length) }.map_err(|_| AccessFault)
    }

    fn start_program(&self, task: u64, map: Arc<VmMap<Machine>>, entry: u64) -> ProgramStart {
        self.programs.start(task, map, entry)
    }

    fn further_maps(&self) -> Vec<Arc<VmMap<Machine>>> {
        self.programs.further_maps()
    }

    fn running_programs(&self) -> u64 {
        self.programs.count()
    }
}
