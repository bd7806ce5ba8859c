//! The report as programs read it. The documents' fields are only ever added to; `format` counts other changes.

use std::path::Path;

use serde::Serialize;
use wirevm_devices::folio::FolioPolicy;

use super::{Ending, MachineReport, RunReport};
use crate::exit_code::{CommandError, ExitCode};
use crate::hosts::HostKind;
use crate::script::SyntaxError;
use crate::script::run::StepReport;

/// Number of the documents' format.
pub(super) const FORMAT: u32 = 1;

/// What `wirevm run --json` and `wirevm script --json` print.
#[derive(Debug, Serialize)]
pub(super) struct RunDocument<'a> {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// Whether the run is a success.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    /// Why the run is no success.
    error: Option<&'a str>,
    /// The code that the script ended the guest with.
    guest_code: Option<u8>,
    /// The machine.
    machine: MachineDocument<'a>,
    /// Name of the script.
    script: &'a str,
    /// The operations that were carried out, in order.
    operations: Vec<StepDocument<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct MachineDocument<'a> {
    /// `kvm`, `hosted` or `fake`: what the script was carried out on.
    host: HostKind,
    /// The KVM; null where there was none in it.
    kvm: Option<&'a str>,
    kernel: &'a str,
    /// How many vCPUs the guest has; null where there are none.
    vcpus: Option<u32>,
    ram_bytes: u64,
    /// Path of the RAM file; null when it has no name.
    ram_file: Option<&'a Path>,
    /// Where RAM is, for people.
    ram_place: &'a str,
    durability: &'a str,
    /// `small-sync`, `balanced` or `bulk`: in what pieces the kernel is to keep the RAM file; null where RAM is in no file.
    folio: Option<&'static str>,
    wire_quota_bytes: u64,
    /// `runs` or `view`: how the host holds wired pages; null where it holds none.
    pin: Option<&'a str>,
    /// Path of the folder for stores; null where the guest has none.
    store_folder: Option<&'a Path>,
    /// Most bytes that the guest may have in stores; null where it has none.
    store_quota_bytes: Option<u64>,
    /// How the last machine left the RAM file: `clean`, `open` (not in order) or `failed` (storage did); null for a RAM that no
    /// machine has used.
    previous_end: Option<&'static str>,
    /// Guest instructions from entry to the agent being ready; null where they can't be counted.
    boot_instructions: Option<u64>,
    boot_ns: u64,
    /// When the guest was first entered, as `CLOCK_MONOTONIC` told it, in nanoseconds: whoever starts the program and has looked at that
    /// clock before knows how long that took. Null where there is no guest.
    first_entry_monotonic_ns: Option<u64>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct StepDocument<'a> {
    line: usize,
    operation: &'a str,
    /// `guest` or `host`: who gave the result.
    asked: &'static str,
    result: &'a str,
    expected: &'a str,
    ok: bool,
    /// What the host says about the operation's effect, for people.
    host_truth: Option<&'a str>,
    /// Pages of RAM that the host had locked afterwards; null behind operations that can't change it.
    host_locked_pages: Option<u64>,
    elapsed_ns: u64,
}

/// What every command prints with `--json` when there is nothing else to report.
#[derive(Debug, Serialize)]
pub struct ErrorDocument {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// False.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    /// What went wrong, in a sentence.
    error: String,
    /// The errors of a script; empty for any other error.
    syntax_errors: Vec<SyntaxErrorDocument>,
}

#[derive(Debug, Serialize)]
struct SyntaxErrorDocument {
    line: usize,
    /// In characters, from 1.
    column: usize,
    reason: String,
}

impl ErrorDocument {
    /// Returns the document of an error, with the script's errors if it is about a script.
    #[must_use]
    pub fn new(error: &CommandError, syntax_errors: &[SyntaxError]) -> Self {
        let place = |error: &SyntaxError| SyntaxErrorDocument {
            line: error.line,
            column: error.column,
            reason: error.reason.clone(),
        };
        Self {
            wirevm: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            ok: false,
            exit_code: error.exit.number(),
            error: error.to_string(),
            syntax_errors: syntax_errors.iter().map(place).collect(),
        }
    }
}

pub(super) fn nanoseconds(elapsed: std::time::Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

impl<'a> From<&'a MachineReport> for MachineDocument<'a> {
    fn from(machine: &'a MachineReport) -> Self {
        Self {
            host: machine.host,
            kvm: machine.kvm.as_deref(),
            kernel: &machine.kernel,
            vcpus: machine.vcpus,
            ram_bytes: machine.ram_bytes,
            ram_file: machine.ram_file.as_deref(),
            ram_place: &machine.ram_place,
            durability: &machine.durability,
            folio: machine.folio.map(FolioPolicy::name),
            wire_quota_bytes: machine.wire_quota_bytes,
            pin: machine.pin.as_deref(),
            store_folder: machine.store.as_ref().map(|store| store.folder.as_path()),
            store_quota_bytes: machine.store.as_ref().map(|store| store.quota_bytes),
            previous_end: machine.previous_end,
            boot_instructions: machine.boot_instructions,
            boot_ns: nanoseconds(machine.boot_time),
            first_entry_monotonic_ns: machine.first_entry_monotonic_ns,
            notes: &machine.notes,
        }
    }
}

impl<'a> From<&'a StepReport> for StepDocument<'a> {
    fn from(step: &'a StepReport) -> Self {
        Self {
            line: step.line,
            operation: &step.text,
            asked: if step.asks_host { "host" } else { "guest" },
            result: &step.result,
            expected: &step.expected,
            ok: step.ok,
            host_truth: step.host_truth.as_deref(),
            host_locked_pages: step.host_locked_after,
            elapsed_ns: nanoseconds(step.elapsed),
        }
    }
}

/// Returns the report as a JSON document.
///
/// # Errors
/// When a path is not UTF-8, which JSON can't hold.
pub fn document(report: &RunReport) -> Result<String, serde_json::Error> {
    pretty(&RunDocument::from(report))
}

impl<'a> From<&'a RunReport> for RunDocument<'a> {
    fn from(report: &'a RunReport) -> Self {
        let Ending { exit, error, guest_code, .. } = &report.ending;
        Self {
            wirevm: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            ok: *exit == ExitCode::Ok,
            exit_code: exit.number(),
            error: error.as_deref(),
            guest_code: *guest_code,
            machine: MachineDocument::from(&report.machine),
            script: &report.script,
            operations: report.steps.iter().map(StepDocument::from).collect(),
        }
    }
}

/// Returns a document as text that ends with a newline.
///
/// # Errors
/// As [`serde_json::to_string_pretty`].
pub fn pretty(document: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(document).map(|text| text + "\n")
}

#[cfg(test)]
mod test {
    use super::super::test::report;
    use super::{ErrorDocument, SyntaxError, document, pretty};
    use crate::exit_code::{CommandError, ExitCode};
    use crate::script::run::End;
    use serde_json::{Value, json};

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn document_holds_machine_steps_and_ending() {
        let document = read(&document(&report(End::Exited(4))).expect("a document"));
        assert_eq!(document["format"], 1);
        assert_eq!(document["wirevm"], env!("CARGO_PKG_VERSION"));
        assert_eq!(
            (&document["ok"], &document["exit_code"], &document["guest_code"]),
            (&json!(false), &json!(1), &json!(4))
        );
        let machine = json!({
            "host": "kvm",
            "kvm": "API 12",
            "kernel": "built in",
            "vcpus": 1,
            "ram_bytes": 67108864,
            "ram_file": null,
            "ram_place": "a temporary file in /var/tmp (ext4)",
            "durability": "shared",
            "folio": "small-sync",
            "wire_quota_bytes": 8388608,
            "pin": "view",
            "store_folder": null,
            "store_quota_bytes": null,
            "previous_end": null,
            "boot_instructions": 31337,
            "boot_ns": 12345000,
            "first_entry_monotonic_ns": 987654321,
            "notes": [],
        });
        assert_eq!(document["machine"], machine);
        let step = json!({
            "line": 6,
            "operation": "wire a[2,4) user",
            "asked": "guest",
            "result": "SUCCESS",
            "expected": "SUCCESS",
            "ok": true,
            "host_truth": "2 locked",
            "host_locked_pages": null,
            "elapsed_ns": 444240,
        });
        assert_eq!(document["operations"][1], step);
        assert_eq!(document["operations"][3]["asked"], "host");
    }

    #[test]
    fn error_document_holds_code_and_sentence() {
        let error = CommandError::new(ExitCode::Kvm, "/dev/kvm does not exist");
        let place =
            SyntaxError { line: 2, column: 6, width: 1, text: "wire b".into(), reason: "there is no 'b'".into() };
        let document = read(&pretty(&ErrorDocument::new(&error, &[place])).expect("a document"));
        let expected = json!({
            "wirevm": env!("CARGO_PKG_VERSION"),
            "format": 1,
            "ok": false,
            "exit_code": 4,
            "error": "/dev/kvm does not exist",
            "syntax_errors": [{"line": 2, "column": 6, "reason": "there is no 'b'"}],
        });
        assert_eq!(document, expected);
    }
}
