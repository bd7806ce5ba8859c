//! Task memory as the agent reaches it: through the task's own mappings.
#![expect(unsafe_code, reason = "hands a kernel buffer and a task address to a guarded copy")]
// UNSAFETY: task addresses are checked to be in the lower half; the kernel side is a slice, so its length is right.

use wirevm_agent::AccessFault;
use wirevm_agent::TaskMemory;

use crate::arch;

/// The lower half of the address space ends here.
const USER_END: u64 = 1 << 47;

/// The memory of the task whose address space is loaded.
#[derive(Debug)]
pub struct LoadedTask;

fn check(address: u64, bytes: usize) -> Result<u64, AccessFault> {
    let bytes = bytes as u64;
    let end = address.checked_add(bytes).ok_or(AccessFault)?;
    if end <= USER_END { Ok(bytes) } else { Err(AccessFault) }
}

impl TaskMemory for LoadedTask {
    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), AccessFault> {
        let length = check(address, bytes.len())?;
        // SAFETY: `address` is a lower-half range of `length` bytes and `bytes` a readable kernel slice of as many.
        unsafe { arch::copy(address, bytes.as_ptr() as u64, length) }.map_err(|_| AccessFault)
    }

    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault> {
        let length = check(address, bytes.len())?;
        // SAFETY: as in `store`, with a writable slice.
        unsafe { arch::copy(bytes.as_mut_ptr() as u64, address, length) }.map_err(|_| AccessFault)
    }

    fn compare(&self, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault> {
        let length = check(address, bytes.len())?;
        // SAFETY: as in `store`.
        unsafe { arch::compare(address, bytes.as_ptr() as u64, length) }.map_err(|_| AccessFault)
    }
}
