//! Tests that know what they need: reported as ignored, the reason beside the name, where the host lacks it.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// One test: its name, why this host can't run it (if it can't), and what it does. It fails by panicking.
pub type Case = (&'static str, Option<String>, fn());

/// Runs what the command line asks for, as the standard harness does.
pub fn run<const N: usize>(cases: [Case; N]) -> ExitCode {
    let trial = |(name, lacking, run): Case| {
        let trial = Trial::test(name, move || {
            run();
            Ok(())
        });
        match lacking {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    };
    libtest_mimic::run(&Arguments::from_args(), cases.into_iter().map(trial).collect()).exit_code()
}
