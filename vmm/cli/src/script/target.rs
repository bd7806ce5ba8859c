//! What a script is carried out on.

use std::num::NonZero;

use wirevm_agent::{Reply, Request};
use wirevm_map::FrameRun;

/// The machine can't go on; says why and how the process ends for it.
pub type TargetError = crate::exit_code::CommandError;

/// What the host is asked about RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessQuery {
    /// How many pages of RAM are locked. Answered by `Pages`.
    Locked,
    /// How many pages of these frames are in memory. Answered by `Pages`.
    Resident(Vec<FrameRun>),
    /// How many pages of these frames differ from stable storage. Answered by `Pages` or `Unsupported`.
    Dirty(Vec<FrameRun>),
    /// What the file holds for this frame. Answered by `Page`.
    Page(u64),
}

/// What the host answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAnswer {
    /// A number of pages.
    Pages(u64),
    /// RAM is on nothing that could tell.
    Unsupported,
    /// The bytes of one page.
    Page(Box<[u8; 4096]>),
}

/// A failure of the host that a script orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFault {
    /// Which call that locks memory fails, counted from now on; the others succeed as before.
    pub nth: NonZero<u64>,
    /// How it fails.
    pub errno: HostErrno,
}

/// How the host can be made to refuse to lock memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostErrno {
    /// `ENOMEM`.
    NoMem,
    /// `EAGAIN`.
    Again,
    /// `EPERM`.
    Perm,
    /// `EIO`.
    Io,
}

impl HostErrno {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NoMem, Self::Again, Self::Perm, Self::Io];

    /// Returns the name, such as `ENOMEM`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoMem => "ENOMEM",
            Self::Again => "EAGAIN",
            Self::Perm => "EPERM",
            Self::Io => "EIO",
        }
    }

    /// Returns the host's own number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::NoMem => libc::ENOMEM,
            Self::Again => libc::EAGAIN,
            Self::Perm => libc::EPERM,
            Self::Io => libc::EIO,
        }
    }
}

/// What carries out a script's operations.
pub trait Target {
    /// Carries out one request in the guest and waits for its reply. [`Command::Exit`](wirevm_agent::Command::Exit) is
    /// answered with success once the machine has ended with that code.
    ///
    /// # Errors
    /// [`TargetError`] when the machine has ended before it replied.
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError>;

    /// Tells the host's truth about RAM.
    ///
    /// # Errors
    /// [`TargetError`] when the host can't be asked.
    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError>;

    /// Orders a failure of the host, once. An order replaces one that has not come to pass.
    ///
    /// # Errors
    /// [`TargetError`] when the host takes no orders.
    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError>;
}
