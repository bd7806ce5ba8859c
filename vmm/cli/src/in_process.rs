//! What the hosts share that need no KVM: the guest's memory system and its agent run in this process, over page tables
//! in software, and speak to their host in the statuses of the contract.
//!
//! What differs between them stands behind two traits: [`HostServices`], the host's end of the contract, and
//! [`FrameBytes`], the bytes of RAM.

mod agent_thread;
mod contract;
mod memory;
mod requests;
mod tables;
#[cfg(test)]
mod test;

pub use agent_thread::{AgentThread, Limits};
pub use contract::{HostServices, ServiceHost, StoreRequest};
pub use memory::{FrameBytes, SoftwareMemory};
pub use requests::Answer;

use wirevm_map::PageRange;

/// Virtual pages of a task: those that the guest kernel gives it, so that addresses are the same everywhere.
pub const TASK_PAGES: PageRange = PageRange { start: 16, end: 1 << 35 };
