//! vCPUs: set-up, the thread that runs one, the meaning of its exits, and how to get it out of `KVM_RUN`.

mod cpuid;
pub mod exit;
mod handles;
mod kick;
mod meter;
mod state;
mod thread;

pub use handles::VcpuHandles;
pub use kick::{Kicker, install_handler};
pub use meter::{ExitCost, Meter};
pub use state::{StateError, enter, set_up, single_step, tsc_khz};
pub use thread::{Command, VcpuContext, VcpuListener, run};
