//! vCPUs: set-up, the thread that runs one, the meaning of its exits, and how to get it out of `KVM_RUN`.

mod cpuid;
pub mod exit;
mod kick;
mod state;
mod thread;

pub use kick::{Kicker, install_handler};
pub use state::{StateError, set_up, single_step};
pub use thread::{Command, VcpuContext, VcpuListener, run};
