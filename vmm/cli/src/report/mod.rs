//! What a run tells its user: as a table, or as a JSON document.

mod all;
mod json;
mod programs;
mod ramfile;
mod table;
mod text;

use std::path::PathBuf;
use std::time::Duration;

pub use self::all::AllReport;
pub use self::json::{ErrorDocument, document, pretty};
pub use self::programs::{ProgramReport, ProgramsReport, built_in_document, built_in_text};
pub use self::ramfile::{PageReport, RamFileReport};
pub use self::table::{Align, Column, grouped_digits, table, wrapped};
pub use self::text::text;

use wirevm_devices::folio::FolioPolicy;

use crate::exit_code::{CommandError, ExitCode};
use crate::hosts::HostKind;
use crate::script::run::{End, Run, StepReport};

/// Where stores are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// The folder.
    pub folder: PathBuf,
    /// Most bytes that the guest may have in stores.
    pub quota_bytes: u64,
}

/// What the machine was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineReport {
    /// What the script was carried out on.
    pub host: HostKind,
    /// The KVM, such as `API 12`; none where there was none in it.
    pub kvm: Option<String>,
    /// The guest image, such as `built in`.
    pub kernel: String,
    /// How many vCPUs it has; none where there are none.
    pub vcpus: Option<u32>,
    /// RAM size in bytes.
    pub ram_bytes: u64,
    /// Where RAM is, for people, such as `a temporary file in /var/tmp (ext4)` or `guest.ram (xfs)`.
    pub ram_place: String,
    /// The RAM file, if it has a name.
    pub ram_file: Option<PathBuf>,
    /// Name of the durability mode.
    pub durability: String,
    /// In what pieces the kernel keeps RAM's file; none where it is in no file.
    pub folio: Option<FolioPolicy>,
    /// Most bytes that the guest may keep wired.
    pub wire_quota_bytes: u64,
    /// Name of how the host holds wired pages; none where it holds none.
    pub pin: Option<String>,
    /// The folder for stores, if there is one.
    pub store: Option<StoreReport>,
    /// How the last machine left the RAM file, if there was one: `clean`, `open` or `failed`.
    pub previous_end: Option<&'static str>,
    /// Guest instructions from entry to the agent being ready, where they can be counted.
    pub boot_instructions: Option<u64>,
    /// Time from entry to the agent being ready.
    pub boot_time: Duration,
    /// When the guest was first entered, in nanoseconds of `CLOCK_MONOTONIC`; none where there is no guest.
    pub first_entry_monotonic_ns: Option<u64>,
    /// Sentences that the user should know, such as why sync is not supported.
    pub notes: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The process's exit code.
    pub exit: ExitCode,
    /// Why it is not success, in a sentence.
    pub error: Option<String>,
    /// The code that the script ended the guest with.
    pub guest_code: Option<u8>,
    /// Whether the machine could not go on, so that an operation has no result.
    pub stopped: bool,
}

/// All about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// The machine.
    pub machine: MachineReport,
    /// Name of the script.
    pub script: String,
    /// What became of the operations.
    pub steps: Vec<StepReport>,
    /// How it ended.
    pub ending: Ending,
}

impl RunReport {
    /// Puts together what became of a script on a machine.
    #[must_use]
    pub fn new(machine: MachineReport, script: &str, run: Run) -> Self {
        let Run { steps, end } = run;
        let failed = |exit, error: String| Ending { exit, error: Some(error), guest_code: None, stopped: false };
        let ending = match end {
            End::Completed => Ending::of(None),
            End::Exited(0) => Ending { exit: ExitCode::Ok, error: None, guest_code: Some(0), stopped: false },
            End::Exited(code) => Ending {
                guest_code: Some(code),
                ..failed(ExitCode::Failure, format!("{script}: the guest ended with code {code}"))
            },
            End::Mismatch => failed(ExitCode::Failure, mismatch(script, &steps)),
            End::Stopped { line, error } => {
                Ending { stopped: true, ..failed(error.exit, format!("{script}:{line}: {error}")) }
            }
        };
        Self { machine, script: script.to_owned(), steps, ending }
    }
}

impl Ending {
    /// Returns the ending of what an error has ended, or nothing.
    #[must_use]
    pub fn of(error: Option<CommandError>) -> Self {
        let mut ending = Self { exit: ExitCode::Ok, error: None, guest_code: None, stopped: error.is_some() };
        if let Some(error) = error {
            ending.ended_by(&error);
        }
        ending
    }

    /// Notes an error that came after the work was done, unless the run has failed already.
    pub fn ended_by(&mut self, error: &CommandError) {
        if self.exit == ExitCode::Ok {
            self.exit = error.exit;
            self.error = Some(error.to_string());
        }
    }
}

fn mismatch(script: &str, steps: &[StepReport]) -> String {
    match steps.last() {
        Some(StepReport { line, text, expected, result, .. }) => {
            format!("{script}:{line}: '{text}' was expected to give {expected} and gave {result}")
        }
        None => format!("{script}: an operation did not give what was expected"),
    }
}

#[cfg(test)]
mod test {
    use super::{FolioPolicy, MachineReport, RunReport};
    use crate::exit_code::{CommandError, ExitCode};
    use crate::hosts::HostKind;
    use crate::script::run::{End, Run, StepReport};
    use std::time::Duration;

    /// A machine with every kind of row.
    pub(super) fn machine() -> MachineReport {
        MachineReport {
            host: HostKind::Kvm,
            kvm: Some("API 12".into()),
            kernel: "built in".into(),
            vcpus: Some(1),
            ram_bytes: 64 << 20,
            ram_place: "a temporary file in /var/tmp (ext4)".into(),
            ram_file: None,
            durability: "shared".into(),
            folio: Some(FolioPolicy::SmallSync),
            wire_quota_bytes: 8 << 20,
            pin: Some("view".into()),
            store: None,
            previous_end: None,
            boot_instructions: Some(31_337),
            boot_time: Duration::from_micros(12_345),
            first_entry_monotonic_ns: Some(987_654_321),
            notes: vec![],
        }
    }

    pub(super) fn step(line: usize, text: &str, result: &str, truth: Option<&str>) -> StepReport {
        StepReport {
            line,
            text: text.into(),
            asks_host: text.starts_with("host "),
            result: result.into(),
            expected: result.into(),
            ok: true,
            host_truth: truth.map(str::to_owned),
            host_locked_after: None,
            elapsed: Duration::from_nanos(12_340 * line as u64 * line as u64),
        }
    }

    pub(super) fn steps() -> Vec<StepReport> {
        vec![
            step(5, "a = allocate 8 pages", "0x10000000", None),
            step(6, "wire a[2,4) user", "SUCCESS", Some("2 locked")),
            step(8, "layout a", "[0,2)0 [2,4)1U [4,8)0", None),
            step(12, "host locked", "2", None),
            step(104, "sync a synchronous", "SUCCESS", Some("0 dirty")),
        ]
    }

    pub(super) fn report(end: End) -> RunReport {
        let mut steps = steps();
        if matches!(end, End::Mismatch) {
            let last = StepReport {
                ok: false,
                expected: "SUCCESS".into(),
                ..step(105, "wire a user", "INVALID_ADDRESS", Some("2 locked"))
            };
            steps.push(last);
        }
        RunReport::new(machine(), "demo.wvm", Run { steps, end })
    }

    #[test]
    fn ending_says_why_in_a_sentence() {
        let mismatch = report(End::Mismatch).ending;
        assert_eq!(mismatch.exit, ExitCode::Failure);
        let error = "demo.wvm:105: 'wire a user' was expected to give SUCCESS and gave INVALID_ADDRESS";
        assert_eq!(mismatch.error.as_deref(), Some(error));
        let exited = report(End::Exited(3)).ending;
        assert_eq!((exited.exit, exited.guest_code), (ExitCode::Failure, Some(3)));
        let exited = report(End::Exited(0)).ending;
        assert_eq!((exited.exit, exited.guest_code, exited.error), (ExitCode::Ok, Some(0), None));
        let error = CommandError::new(ExitCode::Timeout, "the guest did not end within 2 s");
        let stopped = report(End::Stopped { line: 7, error }).ending;
        assert_eq!(stopped.exit, ExitCode::Timeout);
        assert_eq!(stopped.error.as_deref(), Some("demo.wvm:7: the guest did not end within 2 s"));
    }

    #[test]
    fn error_after_the_script_counts_only_if_it_is_the_first() {
        let error = CommandError::new(ExitCode::Storage, "storage failed");
        let mut report = report(End::Completed);
        report.ending.ended_by(&error);
        assert_eq!((report.ending.exit, report.ending.error.as_deref()), (ExitCode::Storage, Some("storage failed")));
        let later = CommandError::new(ExitCode::RamFile, "another");
        report.ending.ended_by(&later);
        assert_eq!(report.ending.exit, ExitCode::Storage);
    }
}
