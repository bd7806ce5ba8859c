//! The agent: one door through which scripts, tests and benchmarks drive a guest.
//!
//! The host sends [`Command`]s, the guest starts each as a task of its own and answers with a [`Reply`] that
//! carries the command's id, so commands can overlap. Both travel as messages of `u64` words, whose first word
//! is the id; this crate turns them into words and back. The [`Agent`] carries commands out over the map.
//!
//! Neither side trusts the other's words: what doesn't decode is answered, or reported, as malformed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod codec;
mod command;
mod dispatch;
mod memory;
mod pattern;
mod reply;

pub use codec::Malformed;
pub use command::{Command, Crash, MAX_READ_BYTES};
pub use dispatch::{Agent, Answer};
pub use memory::{AccessFault, TaskMemory};
pub use pattern::{EmptyPattern, Pattern};
pub use reply::{FrameRow, LayoutRow, Reply};
