//! What the agent needs of the machine that it runs on.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_map::{OutOfFrames, Ports, VmMap};

use crate::program::ProgramStart;

/// A task address could not be accessed: it is not mapped, or not with the right that the access needs. The map
/// may be able to put that right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessFault;

/// The machine below the maps: page tables for new tasks, and the tasks' memory as the tasks themselves reach it, through
/// their own mappings, so that rights and dirty marks are the mapping's.
///
/// Accesses are at most a page long and stay within one page. After a fault the part of a store in front of the
/// faulting byte may have happened.
pub trait Platform<P: Ports>: Send + Sync + 'static {
    /// Makes page tables that map nothing, for a new task.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for them.
    fn new_pmap(&self) -> Result<P::Pmap, OutOfFrames>;

    /// Stores bytes.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped writable.
    fn store(&self, map: &VmMap<P>, address: u64, bytes: &[u8]) -> Result<(), AccessFault>;

    /// Loads bytes.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped.
    fn load(&self, map: &VmMap<P>, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault>;

    /// Returns the offset of the first byte of memory that differs from `bytes`.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped.
    fn compare(&self, map: &VmMap<P>, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault>;

    /// Checks what lies beyond the maps themselves, such as the host's ledger, given the maps of all tasks.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    fn check(&self, maps: &[&VmMap<P>]) -> Result<(), String> {
        let _ = maps;
        Ok(())
    }

    /// Starts the program of the archive's entry `entry` as task `task`, in `map`, which is empty. The agent's state is locked
    /// while this is called and while the start is polled.
    fn start_program(&self, task: u64, map: Arc<VmMap<P>>, entry: u64) -> ProgramStart {
        let _ = (task, map, entry);
        Box::pin(core::future::ready(Err("programs need a virtual machine".to_string())))
    }

    /// Returns the maps of the system that belong to no task of the agent's: those of programs' children.
    fn further_maps(&self) -> Vec<Arc<VmMap<P>>> {
        Vec::new()
    }

    /// Returns how many programs, their children included, have not ended. One counts until its map is empty and its objects are
    /// gone, so that checks that find none know all there is; a child, also, does not count longer than what has made it. Whoever
    /// waits in [`Program::poll_end`] may be woken a little later: of a program that it has started, the agent knows for itself
    /// whether it has been told of the end.
    ///
    /// [`Program::poll_end`]: crate::Program::poll_end
    fn running_programs(&self) -> u64 {
        0
    }
}
