//! A scripted machine behind the three ports, for tests of the core and of whoever drives it.
//!
//! [`FakeMachine`] puts all parts together; each can be used alone. [`Executor`] runs several operations in a
//! seeded order, and [`block_on`] runs one.

mod executor;
mod host;
mod machine;
mod pmap;
mod processor;
mod ram;
mod stores;

pub use executor::{Deadlock, Executor, Output, block_on, park_on, yield_now};
pub use host::{FakeHost, HostCall};
pub use machine::{FakeConfig, FakeMachine, check_maps, check_quiet_maps};
pub use pmap::{FakePmap, FaultKind, Translation};
pub use processor::{FakeProcessor, FakeRelax, Playing};
pub use ram::{FakeFrames, FakeRam};

use crate::ports::Ports;

/// The fake's three ports.
#[derive(Debug)]
pub struct FakePorts;

impl Ports for FakePorts {
    type Host = FakeHost;
    type Pmap = FakePmap;
    type Frames = FakeFrames;
    type Relax = FakeRelax;
}

/// Counts calls down to the one that is to fail.
#[derive(Clone, Copy, Debug)]
struct Failure<E> {
    /// Calls that still succeed.
    after: u64,
    error: E,
}

/// Tells whether this call is the one that `script` wants to fail, and forgets the script if so.
fn strike<E: Copy>(script: &mut Option<Failure<E>>) -> Option<E> {
    let failure = script.as_mut()?;
    if let Some(after) = failure.after.checked_sub(1) {
        failure.after = after;
        return None;
    }
    script.take().map(|failure| failure.error)
}
