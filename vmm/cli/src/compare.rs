//! One script on every host, and what they say differently: where one disagrees with the others, its layer is to be
//! suspected, for the memory system above it is the same.

use tempfile::TempDir;
use wirevm_devices::durability::Durability;
use wirevm_vmm::{Outcome, signal};

use crate::config::{MachineOptions, StoreOptions};
use crate::exit_code::{CommandError, ExitCode};
use crate::hosts::HostKind;
use crate::kvm_target::ended;
use crate::report::{AllReport, RunReport};
use crate::script::Script;
use crate::script::run::StepReport;
use crate::script::source::ScriptSource;
use crate::session::{self, kvm_usable};

/// A line whose results differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Line in the script.
    pub line: usize,
    /// The operation as it was written.
    pub operation: String,
    /// What it came to on each host that got there.
    pub results: Vec<(HostKind, String)>,
}

impl Difference {
    /// Returns the one host whose result is not that of all others, if there is one.
    #[must_use]
    pub fn odd_one(&self) -> Option<HostKind> {
        let others_agree = |odd: HostKind| {
            let others: Vec<&String> =
                self.results.iter().filter(|(host, _)| *host != odd).map(|(_, result)| result).collect();
            others.len() > 1 && others.windows(2).all(|pair| pair.first() == pair.last())
        };
        self.results.iter().map(|(host, _)| *host).find(|host| others_agree(*host))
    }

    /// Returns the hosts that agree with one another: all but the odd one.
    #[must_use]
    pub fn agreeing(&self) -> Vec<HostKind> {
        let odd = self.odd_one();
        let hosts = self.results.iter().map(|(host, _)| *host);
        if odd.is_some() { hosts.filter(|host| Some(*host) != odd).collect() } else { vec![] }
    }

    /// Says which layer is to be suspected.
    #[must_use]
    pub fn suspect(&self) -> String {
        match self.odd_one() {
            Some(host) => format!("{} differs", host.layer()),
            None => {
                let layers: Vec<&str> = self.results.iter().map(|(host, _)| host.layer()).collect();
                format!("no two agree: {}", layers.join(", or "))
            }
        }
    }
}

/// Carries a script out on each host, each with a fresh RAM, and with an empty folder of its own in the folder for stores. KVM is
/// left out where this host has none.
///
/// # Errors
/// [`CommandError`] of the first host when no host could be set up, and when the user wants to end.
pub fn run(options: &MachineOptions, source: &ScriptSource, script: &Script) -> Result<AllReport, CommandError> {
    let mut options = options.clone();
    let mut left_out = None;
    let mut runs: Vec<(HostKind, Result<RunReport, CommandError>)> = Vec::new();
    for host in HostKind::ALL {
        if host == HostKind::Kvm
            && let Err(reason) = kvm_usable()
        {
            left_out = Some(reason);
            continue;
        }
        // Removed again when the host is done with it.
        let stores = fresh_stores(&options)?;
        let result = match &stores {
            Some((_folder, options)) => session::run(host, options, source, script),
            None => session::run(host, &options, source, script),
        };
        if signal::is_interrupted() {
            return Err(ended(&Outcome::Interrupted));
        }
        if let Ok(report) = &result {
            // What the real hosts could have is what the model has.
            options.wire_quota_bytes = Some(report.machine.wire_quota_bytes);
            options.memory.durability = report.machine.durability.parse::<Durability>().ok();
        }
        runs.push((host, result));
    }
    if runs.iter().any(|(_, result)| result.is_ok()) {
        let differences = differences(&runs);
        return Ok(AllReport { script: source.to_string(), left_out, runs, differences });
    }
    let first = runs.into_iter().find_map(|(_, result)| result.err());
    Err(first.unwrap_or_else(|| CommandError::new(ExitCode::Failure, "there is no host")))
}

/// Makes an empty folder in the one for stores, if there is one, and returns it with options that name it in the other's place.
fn fresh_stores(options: &MachineOptions) -> Result<Option<(TempDir, MachineOptions)>, CommandError> {
    let Some(store) = &options.store else { return Ok(None) };
    // A dot begins no store's name.
    let made = tempfile::Builder::new().prefix(".wirevm-all-").tempdir_in(&store.folder);
    let folder = made.map_err(|error| {
        let reason = format!("the folder for stores '{}' cannot be written to: {error}", store.folder.display());
        CommandError::new(ExitCode::Config, reason)
    })?;
    let store = StoreOptions { folder: folder.path().to_owned(), ..store.clone() };
    let options = MachineOptions { store: Some(store), ..options.clone() };
    Ok(Some((folder, options)))
}

/// Compares the results line by line, as far as each run came.
fn differences(runs: &[(HostKind, Result<RunReport, CommandError>)]) -> Vec<Difference> {
    let reports: Vec<(HostKind, &RunReport)> =
        runs.iter().filter_map(|(host, result)| Some((*host, result.as_ref().ok()?))).collect();
    let longest = reports.iter().map(|(_, report)| &report.steps).max_by_key(|steps| steps.len());
    let steps = longest.into_iter().flatten().enumerate();
    let compared = steps.filter_map(|(place, step)| {
        let results: Vec<(HostKind, String)> =
            reports.iter().filter_map(|(host, report)| Some((*host, result_at(report, place)?))).collect();
        let differ = results.windows(2).any(|pair| pair.first().map(|it| &it.1) != pair.last().map(|it| &it.1));
        differ.then(|| Difference { line: step.line, operation: step.text.clone(), results })
    });
    compared.collect()
}

/// Returns what the operation at that place came to, in words that are the same wherever it came to the same; none behind
/// a run's end.
fn result_at(report: &RunReport, place: usize) -> Option<String> {
    match report.steps.get(place) {
        Some(step) => Some(comparable(step)),
        None if place == report.steps.len() && report.ending.stopped => {
            Some(format!("stopped: {}", report.ending.exit.meaning()))
        }
        None => None,
    }
}

/// Returns a result without what may differ: addresses, how much a real kernel has in memory or has not written yet, and what a
/// host counts or gives back, which matter only against what was expected.
fn comparable(step: &StepReport) -> String {
    let mut words = step.text.split_whitespace();
    let asks_for_state = match words.next() {
        Some("host") => matches!(words.next(), Some("resident" | "dirty")),
        first => matches!(first, Some("stat" | "trim")),
    };
    match (asks_for_state, step.ok) {
        (true, true) => "as expected".to_owned(),
        (true, false) => format!("not as expected ({})", step.expected),
        (false, _) => without_addresses(&step.result),
    }
}

/// Puts a word in place of each hexadecimal number that is longer than a byte's.
fn without_addresses(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits > 2 {
            shown.push_str("ADDRESS");
            shown.push_str(part.get(digits..).unwrap_or_default());
        } else {
            shown.push_str("0x");
            shown.push_str(part);
        }
    }
    shown
}

#[cfg(test)]
mod test {
    use super::{Difference, differences, fresh_stores, without_addresses};
    use crate::config::{MachineOptions, StoreOptions};
    use crate::exit_code::{CommandError, ExitCode};
    use crate::hosts::HostKind;
    use crate::report::{MachineReport, RunReport};
    use crate::script::run::{End, Run, StepReport};
    use std::path::Path;
    use std::time::Duration;

    fn step(line: usize, text: &str, result: &str, ok: bool) -> StepReport {
        StepReport {
            line,
            text: text.into(),
            asks_host: text.starts_with("host "),
            result: result.into(),
            expected: "4".into(),
            ok,
            host_truth: None,
            host_locked_after: None,
            elapsed: Duration::ZERO,
        }
    }

    fn runs(all: [(Vec<StepReport>, End); 3]) -> Vec<(HostKind, Result<RunReport, CommandError>)> {
        let report = |(steps, end)| Ok(RunReport::new(MachineReport::default(), "s.wvm", Run { steps, end }));
        HostKind::ALL.into_iter().zip(all.map(report)).collect()
    }

    fn results(kvm: &str, hosted: &str, fake: &str) -> Difference {
        let values = [kvm, hosted, fake].map(str::to_owned);
        Difference { line: 1, operation: "wire a".into(), results: HostKind::ALL.into_iter().zip(values).collect() }
    }

    #[test]
    fn odd_one_names_its_layer() {
        let suspects = [("A", "B", "B"), ("A", "B", "A"), ("A", "A", "B")].map(|(kvm, hosted, fake)| {
            let difference = results(kvm, hosted, fake);
            (difference.odd_one(), difference.suspect())
        });
        assert_eq!(
            suspects,
            [
                (Some(HostKind::Kvm), "the guest image or KVM differs".to_owned()),
                (Some(HostKind::Hosted), "hosted (the host's services) differs".to_owned()),
                (Some(HostKind::Fake), "the fake differs".to_owned()),
            ]
        );
        assert_eq!(results("A", "B", "A").agreeing(), [HostKind::Kvm, HostKind::Fake]);
        assert_eq!(results("A", "B", "C").odd_one(), None);
        let mut two = results("A", "B", "C");
        two.results.remove(0);
        assert_eq!((two.odd_one(), two.agreeing()), (None, vec![]));
        assert_eq!(two.suspect(), "no two agree: hosted (the host's services), or the fake");
    }

    #[test]
    fn each_host_gets_an_empty_folder_for_stores_that_goes_away() {
        let place = tempfile::tempdir().expect("a folder");
        let options = |folder: &Path| {
            let store = StoreOptions { folder: folder.to_owned(), quota_bytes: 4096 };
            MachineOptions { store: Some(store), ..MachineOptions::default() }
        };
        let (made, fresh) = fresh_stores(&options(place.path())).expect("a folder").expect("stores");
        let store = fresh.store.expect("stores");
        assert_eq!((store.folder.parent(), store.quota_bytes), (Some(place.path()), 4096));
        assert_eq!(store.folder.read_dir().expect("a folder").count(), 0);
        drop(made);
        assert_eq!(place.path().read_dir().expect("a folder").count(), 0);
        assert!(fresh_stores(&MachineOptions::default()).expect("nothing to do").is_none());
        let error = fresh_stores(&options(&place.path().join("none"))).expect_err("no folder");
        assert_eq!(error.exit, ExitCode::Config);
    }

    #[test]
    fn addresses_and_counts_that_were_as_expected_do_not_count() {
        let steps = |address, dirty, locked| {
            vec![
                step(1, "a = allocate 4 pages", address, true),
                step(2, "host dirty a", dirty, true),
                step(3, "host locked", locked, true),
            ]
        };
        let found = differences(&runs([
            (steps("0x10000", "4", "4"), End::Completed),
            (steps("0x20000", "3", "4"), End::Completed),
            (steps("0x10000", "4", "5"), End::Completed),
        ]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].line, found[0].odd_one()), (3, Some(HostKind::Fake)));
        assert_eq!(
            without_addresses("MISMATCH at 0x1003 (0x5a in place of 0x00)"),
            "MISMATCH at ADDRESS (0x5a in place of 0x00)"
        );
    }

    #[test]
    fn run_that_stops_differs_at_the_line_where_it_does_and_not_behind() {
        let steps = |count| (1..=count).map(|line| step(line, "check", "SUCCESS", true)).collect::<Vec<_>>();
        let error = CommandError::new(ExitCode::GuestPanic, "the guest panicked: boom");
        let found = differences(&runs([
            (steps(1), End::Stopped { line: 2, error }),
            (steps(3), End::Completed),
            (steps(3), End::Completed),
        ]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].line, found[0].odd_one()), (2, Some(HostKind::Kvm)));
        assert_eq!(found[0].results[0].1, "stopped: guest panicked");
    }
}
