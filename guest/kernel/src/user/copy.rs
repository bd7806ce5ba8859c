//! Between the kernel and a program's memory.
#![expect(unsafe_code, reason = "hands a kernel buffer and a program's address to a guarded copy")]
// UNSAFETY: a program's addresses are checked to be in the lower half, whose tables are loaded right before; the kernel's side is
// a slice, so its length is right.

use wirevm_map::{KernReturn, PAGE_SIZE, Prot};

use super::process::Process;
use crate::{arch, executor};

/// The lower half of the address space ends here.
pub const USER_END: u64 = 1 << 47;

/// Tells whether `bytes` bytes from `address` on lie in the lower half.
fn is_user(address: u64, bytes: usize) -> bool {
    address.checked_add(bytes as u64).is_some_and(|end| end <= USER_END)
}

impl Process {
    /// Copies from the program's memory, as the program itself would read it.
    ///
    /// # Errors
    /// What the map says of the first byte that the program can't read; `bytes` may hold a part then.
    pub async fn copy_in(&self, address: u64, bytes: &mut [u8]) -> Result<(), KernReturn> {
        if !is_user(address, bytes.len()) {
            return Err(KernReturn::InvalidAddress);
        }
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(in_page(at, rest.len()));
            loop {
                self.space().load();
                // SAFETY: `at` is a lower-half range as long as the slice, which may be written.
                if unsafe { arch::copy(now.as_mut_ptr() as u64, at, now.len() as u64) }.is_ok() {
                    break;
                }
                self.map().fault(at, Prot::READ).await?;
            }
            at += now.len() as u64;
            rest = later;
            give_way(self).await?;
        }
        Ok(())
    }

    /// Copies to the program's memory, as the program itself would write it.
    ///
    /// # Errors
    /// What the map says of the first byte that the program can't write; what lies before it is written.
    pub async fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), KernReturn> {
        if !is_user(address, bytes.len()) {
            return Err(KernReturn::InvalidAddress);
        }
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(in_page(at, rest.len()));
            loop {
                self.space().load();
                // SAFETY: `at` is a lower-half range as long as the slice, which may be read.
                if unsafe { arch::copy(at, now.as_ptr() as u64, now.len() as u64) }.is_ok() {
                    break;
                }
                self.map().fault(at, Prot::WRITE).await?;
            }
            at += now.len() as u64;
            rest = later;
            give_way(self).await?;
        }
        Ok(())
    }

    /// Reads a word of the program's memory without waiting; `None` if it is not mapped. The address must be a multiple of 8.
    pub fn peek(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        if !is_user(address, bytes.len()) || !address.is_multiple_of(8) {
            return None;
        }
        self.space().load();
        // SAFETY: as in `copy_in`. One aligned word is one load, which does not tear.
        unsafe { arch::copy(bytes.as_mut_ptr() as u64, address, 8) }.ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// Lets others run between two pages of a long copy, if there are any (the agent, which loads programs, goes on at once); a program that is
/// ending gives it up.
async fn give_way(process: &Process) -> Result<(), KernReturn> {
    if executor::has_ready() {
        executor::give_way().await;
    }
    if process.is_ending() { Err(KernReturn::Aborted) } else { Ok(()) }
}

/// Returns how many of `length` bytes lie in the page of the first, which is at `address`.
fn in_page(address: u64, length: usize) -> usize {
    let left = PAGE_SIZE - address % PAGE_SIZE;
    usize::try_from(left).unwrap_or(0).min(length)
}
