//! A small KVM virtual-machine monitor: memory, vCPUs, events, boot.
//!
//! [`Machine`] is the way in: it takes a RAM file and an image, and gives back a running virtual machine with a
//! [`Channel`] to the guest's agent and, at the end, an [`Outcome`]. The host side of the contract (pins, syncs, the
//! bus) lives in `wirevm-devices`, which knows nothing of KVM; this crate knows nothing of the guest's maps.

pub mod boot;
pub mod channel;
mod events;
pub mod interrupts;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod signal;
pub mod vcpu;
pub mod vm;

pub use channel::{Channel, ChannelError};
pub use machine::{Machine, MachineConfig, MachineError, StorageErrorPolicy};
pub use outcome::{GuestReport, Outcome};
