//! The `wirevm` binary under test.

use std::env;
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time that a test lets the binary run.
const LIMIT: Duration = Duration::from_secs(120);

/// A command line of `wirevm`.
#[derive(Debug)]
pub struct Wirevm {
    command: Command,
    input: Vec<u8>,
}

/// How a command line ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// Returns the path of the binary, built by the cargo that built the tests and with the same settings, once a process.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = env::current_exe().expect("the test's own path");
        let folder = test.ancestors().nth(2).expect("target/profile/deps/test");
        let target = folder.parent().expect("target/profile");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "wirevm", "--bin", "wirevm", "--target-dir"]).arg(target);
        if folder.file_name() == Some(OsStr::new("release")) {
            cargo.arg("--release");
        }
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        assert!(cargo.status().expect("cargo").success(), "wirevm does not build");
        folder.join("wirevm")
    })
    .clone()
}

/// Returns the path of the guest image that the binary embeds: the newest that its build script made.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn image() -> PathBuf {
    built("wirevm-kernel")
}

/// Returns the path of one of the programs that the binary embeds: an ELF file for the guest's ring 3.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    built(name)
}

/// Returns the newest file that the binary's build script has made under that name.
fn built(name: &str) -> PathBuf {
    let binary = path();
    let builds = binary.parent().expect("target/profile").join("build");
    let folders =
        builds.read_dir().expect("target/profile/build").flatten().map(|entry| entry.path().join("out/image"));
    let images = folders.flat_map(|folder| {
        let targets = folder.read_dir().into_iter().flatten().flatten();
        targets.map(|target| target.path().join("image").join(name)).collect::<Vec<_>>()
    });
    let made = |image: &PathBuf| image.metadata().and_then(|metadata| metadata.modified()).ok();
    images
        .filter(|image| made(image).is_some())
        .max_by_key(made)
        .unwrap_or_else(|| panic!("the build script makes no {name}"))
}

impl Wirevm {
    /// Starts a command line.
    #[must_use]
    pub fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(path());
        command.args(arguments).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        Self { command, input: Vec::new() }
    }

    /// Starts a command line behind `wrapper`: a program with arguments that carries out the rest of its line.
    #[must_use]
    pub fn behind<S: AsRef<OsStr>>(wrapper: &[&str], arguments: impl IntoIterator<Item = S>) -> Self {
        let Some((program, rest)) = wrapper.split_first() else { return Self::new(arguments) };
        let mut command = Command::new(program);
        command.args(rest).arg(path()).args(arguments).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        Self { command, input: Vec::new() }
    }

    /// Gives standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs in that folder.
    #[must_use]
    pub fn current_dir(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Changes the command before it runs.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the binary cannot be started or runs longer than two minutes.
    #[must_use]
    pub fn run(self) -> Finished {
        self.run_beside(|_| ()).0
    }

    /// Runs to the end, and calls `look` with the number of the process as soon as there is one.
    ///
    /// # Panics
    /// As [`Wirevm::run`].
    #[must_use]
    pub fn run_beside<T>(mut self, look: impl FnOnce(u32) -> T) -> (Finished, T) {
        let start = Instant::now();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("wirevm starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = self.input;
        let writer = std::thread::spawn(move || {
            if stdin.write_all(&input).is_err() {
                // The binary may end without reading its input.
            }
        });
        let id = child.id();
        let seen = look(id);
        let watch = std::thread::spawn(move || child.wait_with_output());
        while !watch.is_finished() {
            if start.elapsed() > LIMIT {
                drop(Command::new("kill").args(["-KILL", &id.to_string()]).status());
                panic!("wirevm ran longer than {} s", LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = watch.join().expect("the waiting thread").expect("wirevm's output");
        writer.join().expect("the writing thread");
        let finished = Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text on standard output"),
            stderr: String::from_utf8(output.stderr).expect("text on standard error"),
            elapsed: start.elapsed(),
        };
        (finished, seen)
    }
}

impl Finished {
    /// Checks the exit code.
    ///
    /// # Panics
    /// With all output, when it is another.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that the run failed as a user error should: its code, one clear sentence that holds each of `parts`, no panic
    /// and no backtrace.
    ///
    /// # Panics
    /// With all output, when something is missing.
    pub fn expect_error(self, code: i32, parts: &[&str]) {
        let finished = self.expect_code(code);
        let errors: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("wirevm: error:")).collect();
        assert_eq!(errors.len(), 1, "one error line is expected on standard error:\n{}", finished.stderr);
        for part in parts {
            assert!(errors.iter().any(|line| line.contains(part)), "{part:?} is missing in {errors:?}");
        }
        // The guest may panic; the host may not.
        for bad in ["thread '", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!finished.stderr.contains(bad), "{bad} in:\n{}", finished.stderr);
        }
    }

    /// Parses standard output as one JSON document.
    ///
    /// # Panics
    /// With the output, when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }
}
