//! What every host said of one script.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::json::{ErrorDocument, FORMAT, RunDocument, pretty};
use super::table::{Align, Column, table};
use super::{RunReport, text};
use crate::compare::Difference;
use crate::exit_code::{CommandError, ExitCode};
use crate::hosts::HostKind;

/// All about a script on every host.
#[derive(Debug)]
pub struct AllReport {
    /// Name of the script.
    pub script: String,
    /// Why KVM was left out, if it was.
    pub left_out: Option<String>,
    /// What became of the script on each host, or why the host could not be set up.
    pub runs: Vec<(HostKind, Result<RunReport, CommandError>)>,
    /// The lines whose results differ, in order.
    pub differences: Vec<Difference>,
}

/// What `--on all --json` prints.
#[derive(Debug, Serialize)]
struct AllDocument<'a> {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// Whether every run is a success and none differs.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    /// Why it is no success: a sentence a run that failed, and one about differences.
    errors: Vec<String>,
    /// Name of the script.
    script: &'a str,
    /// Why KVM was left out; null where it was not.
    kvm_left_out: Option<&'a str>,
    /// The document of each run, or of its error, by host.
    runs: BTreeMap<&'static str, Value>,
    /// The lines whose results differ, in order.
    differences: Vec<DifferenceDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct DifferenceDocument<'a> {
    line: usize,
    operation: &'a str,
    /// By host; addresses are replaced by a word.
    results: BTreeMap<&'static str, &'a str>,
    /// The hosts that agree with one another.
    agree: Vec<HostKind>,
    /// The host that differs; null where no two agree.
    differs: Option<HostKind>,
    /// Which layer is to be suspected, in words.
    suspect: String,
}

impl<'a> From<&'a Difference> for DifferenceDocument<'a> {
    fn from(difference: &'a Difference) -> Self {
        Self {
            line: difference.line,
            operation: &difference.operation,
            results: difference.results.iter().map(|(host, result)| (host.name(), result.as_str())).collect(),
            agree: difference.agreeing(),
            differs: difference.odd_one(),
            suspect: difference.suspect(),
        }
    }
}

impl AllReport {
    /// Returns the process's exit code: any failure and any difference is one.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        if self.errors().is_empty() { ExitCode::Ok } else { ExitCode::Failure }
    }

    /// Returns a sentence for each run that failed, and one about differences if there are any.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let error = |(host, result): &(HostKind, Result<RunReport, CommandError>)| match result {
            Err(error) => Some(format!("on {host}: {error}")),
            Ok(report) if report.ending.exit == ExitCode::Ok => None,
            Ok(report) => {
                let reason = report.ending.error.clone();
                Some(format!("on {host}: {}", reason.unwrap_or_else(|| report.ending.exit.meaning().to_owned())))
            }
        };
        let mut errors: Vec<String> = self.runs.iter().filter_map(error).collect();
        if let Some(first) = self.differences.first() {
            let differ = match self.differences.len() {
                1 => "1 result differs".to_owned(),
                several => format!("{several} results differ"),
            };
            let (script, line, suspect) = (&self.script, first.line, first.suspect());
            errors.push(format!("{differ} between the hosts, first at {script}:{line}: {suspect}"));
        }
        errors
    }

    /// Returns the report as a JSON document.
    ///
    /// # Errors
    /// When a path is not UTF-8, which JSON can't hold.
    pub fn document(&self) -> Result<String, serde_json::Error> {
        let document = |result: &Result<RunReport, CommandError>| match result {
            Ok(report) => serde_json::to_value(RunDocument::from(report)),
            Err(error) => serde_json::to_value(ErrorDocument::new(error, &[])),
        };
        let runs: Result<_, serde_json::Error> =
            self.runs.iter().map(|(host, result)| Ok((host.name(), document(result)?))).collect();
        pretty(&AllDocument {
            wirevm: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            ok: self.exit() == ExitCode::Ok,
            exit_code: self.exit().number(),
            errors: self.errors(),
            script: &self.script,
            kvm_left_out: self.left_out.as_deref(),
            runs: runs?,
            differences: self.differences.iter().map(DifferenceDocument::from).collect(),
        })
    }

    /// Returns the report as people read it: a line a host, and a row a difference.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(reason) = &self.left_out {
            writeln!(text, "  kvm     left out: {reason}").unwrap_or_default();
        }
        for (host, result) in &self.runs {
            let came_to = match result {
                Ok(report) => text::footer(report).trim().to_owned(),
                Err(error) => format!("failed: {error}"),
            };
            writeln!(text, "  {host:<6}  {came_to}").unwrap_or_default();
        }
        text.push('\n');
        if self.differences.is_empty() {
            text.push_str("  no result differs\n");
        } else {
            text.push_str(&self.rows());
        }
        text
    }

    fn rows(&self) -> String {
        let hosts = HostKind::ALL.map(|host| Column { heading: host.name(), align: Align::Left, widest: 40 });
        let [kvm, hosted, fake] = hosts;
        let columns = [
            Column { heading: "line", align: Align::Right, widest: 9 },
            Column { heading: "operation", align: Align::Left, widest: 40 },
            kvm,
            hosted,
            fake,
            Column { heading: "suspect", align: Align::Left, widest: 120 },
        ];
        let row = |difference: &Difference| {
            let on = |host| {
                let found = difference.results.iter().find(|(found, _)| *found == host);
                found.map_or_else(String::new, |(_, result)| result.clone())
            };
            let [kvm, hosted, fake] = HostKind::ALL.map(on);
            [difference.line.to_string(), difference.operation.clone(), kvm, hosted, fake, difference.suspect()]
        };
        let rows: Vec<_> = self.differences.iter().map(row).collect();
        table(&columns, &rows)
    }
}

#[cfg(test)]
mod test {
    use super::super::test::report;
    use super::AllReport;
    use crate::compare::Difference;
    use crate::exit_code::{CommandError, ExitCode};
    use crate::hosts::HostKind;
    use crate::script::run::End;

    fn all(differences: Vec<Difference>) -> AllReport {
        let runs = HostKind::ALL.into_iter().map(|host| (host, Ok(report(End::Completed)))).collect();
        AllReport { script: "demo.wvm".into(), left_out: None, runs, differences }
    }

    fn difference() -> Difference {
        let results = [(HostKind::Kvm, "SUCCESS"), (HostKind::Hosted, "FAILURE"), (HostKind::Fake, "SUCCESS")];
        let results = results.map(|(host, result)| (host, result.to_owned())).to_vec();
        Difference { line: 6, operation: "wire a[2,4) user".into(), results }
    }

    #[test]
    fn report_of_hosts_that_agree_has_a_line_each() {
        let text = all(vec![]).text();
        assert_eq!(all(vec![]).exit(), ExitCode::Ok);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.starts_with("  kvm     5 operations of demo.wvm, all as expected\n"), "{text}");
        assert!(text.ends_with("\n\n  no result differs\n"), "{text}");
    }

    #[test]
    fn report_of_hosts_that_differ_names_line_results_and_suspect() {
        let report = all(vec![difference()]);
        let text = report.text();
        let row = "     6  wire a[2,4) user  SUCCESS  FAILURE  SUCCESS  hosted (the host's services) differs\n";
        assert!(text.ends_with(row), "{text}");
        assert_eq!(report.exit(), ExitCode::Failure);
        let error = "1 result differs between the hosts, first at demo.wvm:6: hosted (the host's services) differs";
        assert_eq!(report.errors(), [error]);
    }

    #[test]
    fn document_has_every_run_and_every_difference() {
        let mut report = all(vec![difference()]);
        report.left_out = Some("/dev/kvm does not exist".into());
        report.runs[0].1 = Err(CommandError::new(ExitCode::Memory, "no memory"));
        let document: serde_json::Value = serde_json::from_str(&report.document().expect("UTF-8")).expect("JSON");
        assert_eq!(document["ok"], false);
        assert_eq!(document["kvm_left_out"], "/dev/kvm does not exist");
        assert_eq!(document["runs"]["kvm"]["error"], "no memory");
        assert_eq!(document["runs"]["fake"]["operations"][1]["result"], "SUCCESS");
        let difference = &document["differences"][0];
        assert_eq!((&difference["line"], &difference["differs"]), (&6.into(), &"hosted".into()));
        assert_eq!(difference["agree"], serde_json::json!(["kvm", "fake"]));
        assert_eq!(difference["results"]["hosted"], "FAILURE");
        assert_eq!(report.errors()[0], "on kvm: no memory");
    }
}
