//! Programs: what the agent knows of a task that runs by itself, in ring 3.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramEnd {
    /// It said so, with this code.
    Exited(u8),
    /// It did what it must not; the text says what, and where, in words that go on where its name was said: `stored to 0x8: …`.
    Faulted(String),
    /// Somebody else ended it.
    Killed,
}

/// A program that has been started. It runs beside the agent, on the machine's own executor.
pub trait Program: fmt::Debug + Send + Sync {
    /// Returns how it ended, once all its threads have, its map is empty, and the same holds of the children it made; wakes the
    /// context's waker then. Only the waker of the last call counts. Not called any more once it has been ready.
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<ProgramEnd>;

    /// Ends it and its children, as soon as their threads get out of what they are doing. Nothing for one that has ended.
    fn kill(&self);
}

/// A program's start, which gives the program or says, in a few words, why there is none; its map is empty then.
pub type ProgramStart = Pin<Box<dyn Future<Output = Result<Arc<dyn Program>, String>> + Send>>;
