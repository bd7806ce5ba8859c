//! Operations of a sequence, before the model has said what comes of them.

use super::state::{Fault, Inherit};

/// Pages of the window, counted from its first; bytes are added to both ends. Nothing is put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where {
    /// First page; may lie in front of the window.
    pub start: i64,
    /// One past the last.
    pub end: i64,
    /// Bytes added to the start.
    pub start_bytes: u64,
    /// Bytes added to the end.
    pub end_bytes: u64,
}

impl Where {
    /// Returns whole pages.
    #[must_use]
    pub const fn pages(start: i64, end: i64) -> Self {
        Self { start, end, start_bytes: 0, end_bytes: 0 }
    }

    /// Tells whether both ends lie on pages.
    #[must_use]
    pub const fn is_aligned(&self) -> bool {
        self.start_bytes == 0 && self.end_bytes == 0
    }
}

/// An operation. Tasks and objects are numbers that are taken modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `allocate`
    Allocate(usize, Where),
    /// `guard`
    Guard(usize, Where),
    /// `deallocate`
    Deallocate(usize, Where),
    /// `protect`, with `max` or without.
    Protect(usize, Where, bool, u8),
    /// `write`
    Write(usize, Where, u8),
    /// `read` of one page.
    Read(usize, i64),
    /// `wire`; with the host's first lock failing if told so.
    Wire(usize, Where, u32, bool),
    /// `unwire`
    Unwire(usize, Where, u32),
    /// `inherit`
    Inherit(usize, Where, Inherit),
    /// `madvise`: free, or don't need.
    Advise(usize, Where, bool),
    /// `mlock`
    Mlock(usize, Where),
    /// `munlock`
    Munlock(usize, Where),
    /// `mlockall`: current, future.
    Mlockall(usize, bool, bool),
    /// `munlockall`
    Munlockall(usize),
    /// `vslock`
    Vslock(usize, Where),
    /// `vsunlock`
    Vsunlock(usize, Where),
    /// `limit memlock`
    LimitMemlock(usize, u64),
    /// `limit privileged` or `limit unprivileged`
    LimitPrivilege(usize, bool),
    /// `limit wire`
    LimitWire(u64),
    /// `task`
    NewTask,
    /// `fork`
    Fork(usize),
    /// `end`
    End(usize),
    /// `file` or `anonymous`
    NewObject(bool, usize),
    /// `map` pages of an object at a page.
    Map {
        /// Task.
        task: usize,
        /// Where.
        at: i64,
        /// Object.
        object: usize,
        /// First page of the object.
        from: usize,
        /// How many.
        pages: usize,
        /// Copy on write.
        private: bool,
        /// Rights.
        prot: u8,
    },
    /// `truncate`
    Truncate(usize, usize),
    /// `fail`
    Fail(usize, usize, Fault),
    /// `heal`
    Heal(usize, usize),
    /// `kill`
    Kill(usize),
}
