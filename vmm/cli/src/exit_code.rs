//! What the process tells its caller when it ends.

use std::error::Error;
use std::fmt::Write;
use std::process;

/// The exit codes, one for each class of outcome. They stay clear of 126 and above, which shells and signals use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything went as asked.
    Ok = 0,
    /// The guest, a program of it, or its script reports a failure, or anything that has no code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The options are readable and can't be used together or at all.
    Config = 3,
    /// There is no KVM for this user.
    Kvm = 4,
    /// Guest memory can't be set up.
    Memory = 5,
    /// More memory would have to be locked than this process may lock.
    LockBudget = 6,
    /// Storage reported an error.
    Storage = 7,
    /// The RAM file can't serve.
    RamFile = 8,
    /// A system call outside the sandbox.
    Sandbox = 9,
    /// The guest crashed without a word.
    GuestCrash = 10,
    /// The guest panicked, or met an exception that nothing expected, and said so.
    GuestPanic = 11,
    /// A time limit is over.
    Timeout = 12,
    /// The guest image can't be booted, or a program not be run.
    Image = 13,
    /// The memory behind guest RAM is gone.
    BackingLost = 14,
    /// The script is not a script.
    ScriptSyntax = 15,
}

impl ExitCode {
    /// All codes, by number.
    pub const ALL: [Self; 16] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::Config,
        Self::Kvm,
        Self::Memory,
        Self::LockBudget,
        Self::Storage,
        Self::RamFile,
        Self::Sandbox,
        Self::GuestCrash,
        Self::GuestPanic,
        Self::Timeout,
        Self::Image,
        Self::BackingLost,
        Self::ScriptSyntax,
    ];

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns what the code means, for `--help`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Failure => "a script's expectation was not met, a program or the guest failed, or another error",
            Self::Usage => "command line wrong",
            Self::Config => "configuration invalid",
            Self::Kvm => "/dev/kvm missing, denied or not usable",
            Self::Memory => "guest memory could not be set up",
            Self::LockBudget => "lock budget too small (RLIMIT_MEMLOCK against the wire quota)",
            Self::Storage => "storage error",
            Self::RamFile => "RAM file refused",
            Self::Sandbox => "sandbox violation",
            Self::GuestCrash => "guest crashed (triple fault)",
            Self::GuestPanic => "guest panicked",
            Self::Timeout => "time limit reached",
            Self::Image => "guest image or program refused",
            Self::BackingLost => "backing of guest RAM lost",
            Self::ScriptSyntax => "script syntax wrong",
        }
    }

    /// Returns the list of all codes that `--help` ends with.
    #[must_use]
    pub fn help() -> String {
        let mut text = String::from("Exit codes:");
        for code in Self::ALL {
            // Writing to a String can't fail.
            write!(text, "\n  {:>2}  {}", code.number(), code.meaning()).unwrap_or_default();
        }
        text
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// Why a command could not be carried out: a sentence for the user and the class it belongs to.
#[derive(Debug, thiserror::Error)]
#[error("{}", chain(.source.as_ref()))]
pub struct CommandError {
    /// The class.
    pub exit: ExitCode,
    source: Box<dyn Error + Send + Sync>,
}

impl CommandError {
    /// Puts an error into a class.
    pub fn new(exit: ExitCode, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, source: source.into() }
    }
}

/// Joins an error and its sources: `what was tried: why it failed`.
fn chain(error: &(dyn Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let reason = source.to_string();
        // Some errors show their source already.
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod test {
    use std::io;

    use super::{CommandError, ExitCode};

    #[test]
    fn codes_are_their_places_in_the_list() {
        for (place, code) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), place);
        }
    }

    #[test]
    fn help_lists_every_code_on_a_line_of_its_own() {
        let help = ExitCode::help();
        assert_eq!(help.lines().count(), 1 + ExitCode::ALL.len());
        assert!(help.ends_with("\n  15  script syntax wrong"), "{help}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open 'x'")]
    struct OpenError(#[source] io::Error);

    #[test]
    fn command_error_shows_its_sources_once() {
        let error = CommandError::new(ExitCode::Kvm, OpenError(io::Error::other("no such thing")));
        assert_eq!(error.to_string(), "cannot open 'x': no such thing");
        assert_eq!(CommandError::new(ExitCode::Kvm, "plain").to_string(), "plain");
    }
}
