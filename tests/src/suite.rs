//! Suites of tests that know what they need.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::needs::Need;

/// One test: its name, what it needs, and what it does. It fails by panicking.
pub type Case = (&'static str, &'static [Need], fn());

/// A test executable's tests.
#[derive(Debug, Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// Returns a suite without tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the tests of a table.
    #[must_use]
    pub fn cases(mut self, cases: &'static [Case]) -> Self {
        for (name, needs, run) in cases {
            self.trials.push(trial((*name).to_owned(), needs, *run));
        }
        self
    }

    /// Adds the tests of a table that run only where `--ignored` or `--include-ignored` asks for them, as they take minutes.
    #[must_use]
    pub fn long(mut self, cases: &'static [Case]) -> Self {
        for (name, needs, run) in cases {
            self.trials.push(trial((*name).to_owned(), needs, *run).with_ignored_flag(true));
        }
        self
    }

    /// Adds one test for each value, named after it.
    #[must_use]
    pub fn each<T: Send + 'static>(
        mut self,
        needs: &[Need],
        values: impl IntoIterator<Item = (String, T)>,
        run: fn(T),
    ) -> Self {
        for (name, value) in values {
            self.trials.push(trial(name, needs, move || run(value)));
        }
        self
    }

    /// Runs what the command line asks for, as the standard harness does.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::from_args();
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

/// A test that is reported as ignored, its reason beside its name, where the host lacks something.
fn trial(name: String, needs: &[Need], run: impl FnOnce() + Send + 'static) -> Trial {
    let lacking = needs.iter().find_map(|need| need.lacking());
    let trial = Trial::test(name, move || {
        run();
        Ok(())
    });
    match lacking {
        Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
        None => trial,
    }
}
