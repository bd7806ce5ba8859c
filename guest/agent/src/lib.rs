//! The agent: one door through which scripts, tests and benchmarks drive a guest.
//!
//! The host sends [`Request`]s, each a [`Command`] for a task; the guest answers each with a [`Reply`]. Both travel as
//! messages of `u64` words, whose first word is an id that the answer repeats; this crate turns them into words and
//! back. Beside the answers, the guest tells of [`Event`]s. The [`Agent`] carries requests out over the tasks' maps. A request may start a thread, which goes on beside
//! those that follow; the agent runs its threads itself, always in the same order.
//!
//! Neither side trusts the other's words: what doesn't decode is answered, or reported, as malformed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod agent;
mod codec;
mod command;
mod event;
mod host_error;
mod lists;
mod manager;
mod operate;
mod pattern;
mod platform;
mod program;
mod reply;
mod threads;

pub use agent::{Agent, Answer};
pub use codec::Malformed;
pub use command::{
    Behaviour, Command, Crash, Limit, MAIN_TASK, MAX_OBJECT_PAGES, MAX_READ_BYTES, ObjectKind, Request, page_state,
};
pub use event::Event;
pub use host_error::host_error_of;
pub use pattern::{EmptyPattern, Pattern};
pub use platform::{AccessFault, Platform};
pub use program::{Program, ProgramEnd, ProgramStart};
pub use reply::{FrameRow, LayoutRow, Reply};
pub use threads::Woken;
