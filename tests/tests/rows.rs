//! The rows of the semantics, each shown by a script under `resources/scripts/wire` or `sync` or, where no script can show it, by
//! a case here. At the end a table tells what became of each; a row without a test is a failure.
//!
//! In the scripts a comment `# rows: W-03 P-08` names the rows that the lines below it show, up to the next such comment.

#[path = "rows/alone.rs"]
mod alone;
#[path = "rows/contents.rs"]
mod contents;
#[path = "rows/interleaved.rs"]
mod interleaved;
#[path = "rows/managed.rs"]
mod managed;
#[path = "rows/table.rs"]
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use wirevm_tests::examples::scripts;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Need, Suite, Wirevm};

use self::contents::Topic;
use self::table::{Outcome, ROWS, Test};

/// Hosts that scripts are carried out on.
const HOSTS: [&str; 3] = ["fake", "hosted", "kvm"];

/// A case that drives the map directly: its name, its rows, what it does. It fails by panicking.
pub type RowCase = (&'static str, &'static [&'static str], fn());

fn cases() -> impl Iterator<Item = &'static RowCase> {
    alone::CASES.iter().chain(interleaved::CASES).chain(managed::CASES)
}

/// Returns the topics: the scripts that name rows.
fn topics() -> Vec<Topic> {
    let is_topic =
        |path: &PathBuf| path.parent().is_some_and(|folder| folder.ends_with("wire") || folder.ends_with("sync"));
    scripts().into_iter().filter(is_topic).map(Topic::read).collect()
}

/// Carries a topic out on a host and notes what became of each of its sections.
fn carry_out((topic, host): (Topic, &'static str)) {
    let folder = scratch_dir();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).expect("a folder");
    let store = store.to_string_lossy();
    // Rules of synchronisation are seen where there is something to synchronise to.
    let memory = if topic.is_durable() { "16M" } else { "16M,durability=none" };
    let line = ["--memory", memory, "--store", &store, "--on", host, "--quiet", "--timeout", "100"];
    let script = |path: &str| Wirevm::new([&["script", path], line.as_slice()].concat()).current_dir(folder.path());
    let finished = script(&topic.path.to_string_lossy()).run();
    if finished.code == Some(0) {
        return table::note_script(&topic, host, &[]);
    }
    // What stands between two resets needs nothing of what stands in front, so one failure hides no more than its own part.
    let mut failures = Vec::new();
    let mut said = String::new();
    for part in topic.parts() {
        let finished = script("-").input(part.text.as_str()).run();
        if finished.code != Some(0) {
            let at = contents::line_of(&finished.stderr).unwrap_or(part.first_line).max(part.first_line);
            failures.push(at..part.end_line);
            said.push_str(&finished.stderr);
        }
    }
    if failures.is_empty() {
        failures.push(1..usize::MAX);
        said.clone_from(&finished.stderr);
    }
    table::note_script(&topic, host, &failures);
    panic!("{} on {host}:\n{said}", topic.name);
}

fn run_case((name, run): (&'static str, fn())) {
    table::note(name, "fake", Outcome::Failed);
    run();
    table::note(name, "fake", Outcome::Passed);
}

/// Every row is named by a test, and every name is a row.
#[expect(clippy::needless_pass_by_value, reason = "a trial owns its value")]
fn every_row_has_a_test(tests: Vec<Test>) {
    let named = |row: &str| tests.iter().any(|test| test.rows.iter().any(|name| name == row));
    let missing: Vec<&str> = ROWS.iter().copied().filter(|row| !named(row)).collect();
    assert!(missing.is_empty(), "no test names the rows {missing:?}");
    for test in &tests {
        let unknown: Vec<&String> = test.rows.iter().filter(|row| !ROWS.contains(&row.as_str())).collect();
        assert!(unknown.is_empty(), "{} names {unknown:?}, which are no rows", test.name);
    }
}

fn main() -> ExitCode {
    let topics = topics();
    let mut tests: Vec<Test> = topics.iter().map(Topic::test).collect();
    tests.extend(cases().map(|(name, rows, _)| Test::of_case(name, rows)));
    let mut suite = Suite::new();
    for (host, is_durable) in HOSTS.into_iter().flat_map(|host| [(host, false), (host, true)]) {
        let needs: &[Need] = match (host, is_durable) {
            ("kvm", true) => &[Need::Kvm, Need::Durable],
            ("kvm", false) => &[Need::Kvm],
            ("hosted", true) => &[Need::Durable],
            _ => &[],
        };
        let runs = topics.iter().filter(|topic| topic.is_durable() == is_durable);
        let runs = runs.map(|topic| (format!("{}_on_{host}", topic.name), (topic.clone(), host)));
        suite = suite.each(needs, runs.collect::<Vec<_>>(), carry_out);
    }
    let runs = cases().map(|(name, _, run)| ((*name).to_owned(), (*name, *run)));
    let all = vec![("every_row_has_a_test".to_owned(), tests.clone())];
    let code = suite.each(&[], runs, run_case).each(&[], all, every_row_has_a_test).run();
    if !std::env::args().any(|argument| argument == "--list") {
        print!("{}", table::show(&tests));
    }
    code
}
