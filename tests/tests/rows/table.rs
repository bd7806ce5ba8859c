//! Rows, tests and results.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::HOSTS;
use super::contents::Topic;

/// Every row that must be shown.
pub const ROWS: [&str; 171] = [
    "A-01", "A-02", "A-02b", "A-03", "A-04", "A-05", "A-06", "A-07", "A-08", //
    "W-01", "W-02", "W-03", "W-04", "W-05", "W-06", "W-07", "W-08", "W-09", "W-10", "W-11", //
    "U-01", "U-02", "U-03", "U-04", "U-05", "U-06", "U-07", "U-08", "U-09", //
    "T-01", "T-02", "T-03", "T-04", "T-05", "T-06", "T-07", "T-08", "T-09", "T-10", //
    "F-01", "F-02", "F-03", "F-04", "F-05", "F-06", "F-07", "F-08", //
    "C-01", "C-02", "C-03", "C-04", "C-05", //
    "P-01", "P-02", "P-03", "P-04", "P-05", "P-06", "P-07", "P-08", "P-09", "P-10", "P-11", //
    "D-01", "D-02", "D-03", "D-04", "D-05", "D-06", "D-07", "D-08", //
    "L-01", "L-02", "L-03", "L-04", "L-05", "L-06", "L-07", "L-08", "L-09", "L-10", //
    "B-01", "B-02", "B-03", "B-04", "B-05", "B-06", "B-07", "B-08", "B-09", "B-10", "B-11", "B-12", "B-13", //
    "S-01", "S-02", "S-03", "S-04", "S-05", "S-06", "S-07", "S-08", "S-09", "S-10", //
    "M-01", "M-02", "M-03", "M-04", "M-05", "M-06", "M-07", "M-08", "M-09", //
    "H-01", "H-02", "H-03", "H-04", "H-05", "H-06", "H-07", "H-08", "H-09", "H-10", //
    "Q-01", "Q-02", "Q-03", "Q-04", "Q-05", "Q-06", "Q-07", //
    "E-01", "E-02", "E-03", "E-04", "E-05", "E-06", //
    "K-01", "K-02", "K-03", "K-04", "K-05", "K-06", "K-07", "K-08", "K-09", "K-10", //
    "O-01", "O-02", "O-03", "O-04", "O-05", "O-06", "O-07", "O-08", "O-09", "O-10", "O-11", //
    "Z-01", "Z-02", "Z-03", "Z-04", "Z-05", "Z-06", "Z-07", //
    "N1", "N2", "N3", "N4", "N5", "N6", "N7",
];

/// A test and the rows that it shows.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// The rows.
    pub rows: Vec<String>,
    /// Whether it is a script, which runs on every host.
    pub is_script: bool,
}

impl Test {
    /// Returns a case as a test.
    #[must_use]
    pub fn of_case(name: &str, rows: &[&str]) -> Self {
        let rows = rows.iter().map(|row| (*row).to_owned()).collect();
        Self { name: name.to_owned(), rows, is_script: false }
    }
}

/// What became of a test, or of the part of it that shows a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not reached, because something in front of it failed.
    Unreached,
    /// Something else.
    Failed,
}

type Outcomes = HashMap<(String, &'static str), Outcome>;

static OUTCOMES: LazyLock<Mutex<Outcomes>> = LazyLock::new(Mutex::default);

fn outcomes() -> MutexGuard<'static, Outcomes> {
    OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes the outcome of a case.
pub fn note(test: &str, host: &'static str, outcome: Outcome) {
    outcomes().insert((test.to_owned(), host), outcome);
}

/// Notes the outcomes of a script's sections. Each failure begins at its line and hides what follows up to its end.
pub fn note_script(topic: &Topic, host: &'static str, failures: &[Range<usize>]) {
    let mut outcomes = outcomes();
    for (lines, rows) in &topic.sections {
        let mut outcome = Outcome::Passed;
        for failure in failures {
            if lines.contains(&failure.start) {
                outcome = outcome.max(Outcome::Failed);
            } else if failure.contains(&lines.start) {
                outcome = outcome.max(Outcome::Unreached);
            }
        }
        for row in rows {
            let key = (format!("{}:{row}", topic.name), host);
            let worst = outcomes.get(&key).map_or(outcome, |known| outcome.max(*known));
            outcomes.insert(key, worst);
        }
    }
}

/// Returns the table: a line for each row and test, with the result on each host.
#[must_use]
pub fn show(tests: &[Test]) -> String {
    let outcomes = outcomes();
    let result = |test: &Test, row: &str, host: &'static str| {
        let name = if test.is_script { format!("{}:{row}", test.name) } else { test.name.clone() };
        match outcomes.get(&(name, host)) {
            Some(Outcome::Passed) => "ok",
            Some(Outcome::Unreached) => "not reached",
            Some(Outcome::Failed) => "FAILED",
            None => "-",
        }
    };
    let mut text = String::from("\nrow    test\n");
    for row in ROWS {
        let mut first = row;
        for test in tests.iter().filter(|test| test.rows.iter().any(|name| name == row)) {
            let results = HOSTS.map(|host| format!("{host} {}", result(test, row, host)));
            text += &format!("{first:6} {:66} {}\n", test.name, results.join("  "));
            first = "";
        }
        if !first.is_empty() {
            text += &format!("{first:6} NO TEST\n");
        }
    }
    text
}
