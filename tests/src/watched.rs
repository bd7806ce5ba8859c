//! The `wirevm` binary, watched while it carries a script out.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::binary::{self, Finished};

/// A `wirevm script` that runs, and tells what each line gave as soon as it is known.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    errors: BufReader<ChildStderr>,
    stderr: String,
    start: Instant,
}

/// A line of a script that has its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Number of the line.
    pub line: usize,
    /// Its result.
    pub result: String,
}

impl Watched {
    /// Starts a script with those arguments behind `wirevm script -`.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        Self::behind(&["env"], script, arguments)
    }

    /// As [`Watched::start`], behind `wrapper`: a program with arguments that carries out the rest of its line.
    ///
    /// # Panics
    /// When the wrapper cannot be started.
    #[must_use]
    pub fn behind<S: AsRef<OsStr>>(wrapper: &[&str], script: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        let start = Instant::now();
        let (program, rest) = wrapper.split_first().expect("a program");
        let mut command = Command::new(program);
        // A guest that hangs must not make the test hang.
        command.args(rest).arg(binary::path()).args(["script", "-", "-v", "--timeout", "100"]).args(arguments);
        command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("wirevm starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        if stdin.write_all(script.as_bytes()).is_err() {
            // The binary may end without reading its input.
        }
        drop(stdin);
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, errors, stderr: String::new(), start }
    }

    /// Waits for the next line that has a result; none when the binary writes no more.
    ///
    /// # Panics
    /// When standard error is not text.
    pub fn answered(&mut self) -> Option<Answered> {
        loop {
            let mut text = String::new();
            if self.errors.read_line(&mut text).expect("text") == 0 {
                return None;
            }
            let answered = answered(&text);
            self.stderr.push_str(&text);
            if answered.is_some() {
                return answered;
            }
        }
    }

    /// Kills it (SIGKILL) and waits until it is gone. What it has answered by then can still be asked for; one that has
    /// ended by itself is left as it is.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().expect("killed");
        self.child.wait().expect("a child")
    }

    /// Waits for its end. Nothing is known of its standard output.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn wait(mut self) -> Finished {
        while self.answered().is_some() {}
        let status = self.child.wait().expect("a child");
        let stderr = std::mem::take(&mut self.stderr);
        Finished { code: status.code(), stdout: String::new(), stderr, elapsed: self.start.elapsed() }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A test that fails leaves nothing that uses its disk. One that is gone already can't be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads `... line 12 gave SUCCESS` in a line of the log.
fn answered(text: &str) -> Option<Answered> {
    let (_, rest) = text.trim_end().split_once("] line ")?;
    let (line, result) = rest.split_once(" gave ")?;
    Some(Answered { line: line.parse().ok()?, result: result.to_owned() })
}
