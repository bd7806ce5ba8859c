//! Carrying a script out.

use std::time::Duration;

use super::Script;
use super::ast::Operation;
use super::runner::Runner;
use super::target::{Target, TargetError};

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// Line in the script.
    pub line: usize,
    /// The operation as it was written.
    pub text: String,
    /// Whether the host was asked; otherwise the guest did something.
    pub asks_host: bool,
    /// What it came to.
    pub result: String,
    /// What was expected.
    pub expected: String,
    /// Whether it came to what was expected.
    pub ok: bool,
    /// What the host says about the operation's effect, such as `4 locked` or `0 dirty`.
    pub host_truth: Option<String>,
    /// Pages of RAM that were locked afterwards; counted behind operations that may change it.
    pub host_locked_after: Option<u64>,
    /// How long the operation took.
    pub elapsed: Duration,
}

/// How a script ended.
#[derive(Debug)]
pub enum End {
    /// All operations were carried out and came to what was expected.
    Completed,
    /// The last step did not come to what was expected.
    Mismatch,
    /// The script ended the guest with that code.
    Exited(u8),
    /// The machine could not go on.
    Stopped {
        /// Line of the operation that has no result for it.
        line: usize,
        /// Why.
        error: TargetError,
    },
}

/// What became of a script.
#[derive(Debug)]
pub struct Run {
    /// What became of each operation that has a result.
    pub steps: Vec<StepReport>,
    /// How it ended.
    pub end: End,
}

/// Carries out a script's operations in order, up to the first that does not come to what was expected. Behind each,
/// every invariant must hold, and behind the last nothing may be left under way.
///
/// `durable` tells whether guest RAM is on stable storage, so that sync is offered.
pub fn run(script: &Script, target: &mut dyn Target, durable: bool) -> Run {
    let mut runner = Runner::new(script, target, durable);
    let mut steps = Vec::new();
    for statement in &script.statements {
        let step = match runner.step(statement) {
            Ok(step) => step,
            Err(error) => return Run { steps, end: End::Stopped { line: statement.line, error } },
        };
        log::info!("line {} gave {}", step.line, step.result);
        let ok = step.ok;
        steps.push(step);
        if !ok {
            return Run { steps, end: End::Mismatch };
        }
        if let Operation::Exit(code) = statement.operation {
            return Run { steps, end: End::Exited(code) };
        }
    }
    let line = script.statements.last().map_or(1, |statement| statement.line);
    match runner.finish(line) {
        Ok(None) => Run { steps, end: End::Completed },
        Ok(Some(step)) => {
            steps.push(step);
            Run { steps, end: End::Mismatch }
        }
        Err(error) => Run { steps, end: End::Stopped { line, error } },
    }
}
