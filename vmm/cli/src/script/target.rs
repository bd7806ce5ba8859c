//! What a script is carried out on.

use std::num::NonZero;

use wirevm_abi::StoreName;
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
    /// What the file of a store holds for its page `page`, read through a second descriptor. Answered by `Page`, or by
    /// `Unsupported` where there is no such file or page.
    StorePage {
        /// The store.
        name: StoreName,
        /// Its page.
        page: u64,
    },
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

/// A failure of storage that a script orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageFault {
    /// Which run of a sync fails, counted from now on; the others succeed as before.
    pub nth: NonZero<u64>,
    /// How it fails.
    pub errno: StorageErrno,
}

/// How storage can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageErrno {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EDQUOT`.
    Quota,
}

impl StorageErrno {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Io, Self::NoSpace, Self::Quota];

    /// Returns the name, such as `EIO`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "EIO",
            Self::NoSpace => "ENOSPC",
            Self::Quota => "EDQUOT",
        }
    }

    /// Returns the host's own number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
            Self::Quota => libc::EDQUOT,
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

    /// Returns what the program of a task has printed so far, as text; of much output, the beginning.
    ///
    /// # Errors
    /// [`TargetError`] where there are no programs.
    fn output(&mut self, task: u64) -> Result<String, TargetError> {
        let _ = task;
        Err(TargetError::new(crate::exit_code::ExitCode::Failure, "this host runs no programs"))
    }

    /// Orders a failure of the host, once. An order replaces one that has not come to pass.
    ///
    /// # Errors
    /// [`TargetError`] when the host takes no orders.
    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError>;

    /// Orders a run of a sync of guest RAM to fail, once. An order replaces one that has not come to pass.
    ///
    /// # Errors
    /// [`TargetError`] when the host takes no orders.
    fn fail_storage(&mut self, fault: StorageFault) -> Result<(), TargetError> {
        let _ = fault;
        Err(TargetError::new(crate::exit_code::ExitCode::Failure, "this host's storage takes no orders"))
    }

    /// Lets syncs of guest RAM, and requests about stores, be accepted and not carried out until they are let go again.
    ///
    /// # Errors
    /// [`TargetError`] when the host takes no orders.
    fn hold_storage(&mut self, hold: bool) -> Result<(), TargetError> {
        let _ = hold;
        Err(TargetError::new(crate::exit_code::ExitCode::Failure, "this host's storage takes no orders"))
    }
}
