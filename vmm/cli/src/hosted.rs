//! A host without KVM: the real RAM file, locks, syncs and witness of this host, and above them the guest's memory system
//! in this process.
//!
//! What a guest kernel adds is left out: its image, its page tables, the hypercall page. A script that comes out
//! differently here and on KVM points at one of those.

mod frames;
mod ram;
mod services;
mod target;
#[cfg(test)]
mod test;

pub use target::{HostedConfig, HostedError, HostedTarget};

use wirevm_map::Ports;
use wirevm_map::fake::FakePmap;

use crate::in_process::ServiceHost;
use frames::HostedFrames;
use services::Services;

/// The ports of the memory system here.
#[derive(Debug)]
enum HostedPorts {}

impl Ports for HostedPorts {
    type Host = ServiceHost<Services>;
    type Pmap = FakePmap;
    type Frames = HostedFrames;
    type Relax = wirevm_map::Spin;
}
