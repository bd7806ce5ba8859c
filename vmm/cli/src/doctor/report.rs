//! The doctor's report.

use std::fmt::Write;

use serde::Serialize;

use super::{Check, Verdict, exit_code};
use crate::exit_code::ExitCode;
use crate::report::pretty;

/// What `wirevm doctor --json` prints.
#[derive(Debug, Serialize)]
struct DoctorDocument<'a> {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// Whether nothing failed.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    /// The checks, in order.
    checks: Vec<CheckDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct CheckDocument<'a> {
    name: &'a str,
    /// `ok`, `warn` or `fail`.
    status: &'static str,
    found: &'a str,
    fix: Option<&'a str>,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail(_) => "fail",
        }
    }
}

/// Returns one line for each check; with `only_failures`, for each that failed.
#[must_use]
pub fn text(checks: &[Check], only_failures: bool) -> String {
    let mut text = String::new();
    for Check { name, verdict, found, fix } in checks {
        if only_failures && !matches!(verdict, Verdict::Fail(_)) {
            continue;
        }
        let fix = fix.as_ref().map(|fix| format!(" (fix: {fix})")).unwrap_or_default();
        writeln!(text, "{:<4}  {name:<13}  {found}{fix}", verdict.word()).unwrap_or_default();
    }
    text
}

/// Returns the checks as a JSON document.
///
/// # Errors
/// As [`serde_json::to_string_pretty`].
pub fn document(checks: &[Check]) -> Result<String, serde_json::Error> {
    let exit = exit_code(checks);
    pretty(&DoctorDocument {
        wirevm: env!("CARGO_PKG_VERSION"),
        format: 1,
        ok: exit == ExitCode::Ok,
        exit_code: exit.number(),
        checks: checks
            .iter()
            .map(|check| CheckDocument {
                name: check.name,
                status: check.verdict.word(),
                found: &check.found,
                fix: check.fix.as_deref(),
            })
            .collect(),
    })
}
