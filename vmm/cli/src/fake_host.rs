//! A host that is a model: what is wired, written and stable is kept in lists, so that every answer is known in advance
//! and nothing of this computer has a say in it.
//!
//! A script that comes out differently here and on a real host points at the model, or at the host's services.

mod frames;
mod model;
mod ram;
mod target;
#[cfg(test)]
mod test;

pub use target::{FakeConfig, FakeTarget};

use wirevm_map::Ports;
use wirevm_map::fake::FakePmap;

use crate::in_process::ServiceHost;
use frames::ModelFrames;
use model::Model;

/// The ports of the memory system here.
#[derive(Debug)]
enum ModelPorts {}

impl Ports for ModelPorts {
    type Host = ServiceHost<Model>;
    type Pmap = FakePmap;
    type Frames = ModelFrames;
    type Relax = wirevm_map::Spin;
}
