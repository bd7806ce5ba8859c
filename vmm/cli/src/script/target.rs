//! What a script is carried out on.

use wirevm_agent::{Command, Reply};
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

/// What carries out a script's operations.
pub trait Target {
    /// Carries out one command in the guest and waits for its reply. [`Command::Exit`] is answered with success
    /// once the machine has ended with that code.
    ///
    /// # Errors
    /// [`TargetError`] when the machine has ended before it replied.
    fn call(&mut self, command: &Command) -> Result<Reply, TargetError>;

    /// Tells the host's truth about RAM.
    ///
    /// # Errors
    /// [`TargetError`] when the host can't be asked.
    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError>;
}
