//! How the binary ends, and what it leaves in the RAM file.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Wirevm, binary};

use super::lab::LIMIT;

/// A `wirevm` that is running.
pub struct Running {
    child: Child,
    reader: JoinHandle<String>,
}

/// How it ended.
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// All of its standard error.
    pub stderr: String,
    /// How long that took from the moment it was waited for.
    pub elapsed: Duration,
}

fn memory(path: &Path) -> String {
    format!("size=16M,file={}", path.display())
}

impl Running {
    /// Starts a script on the RAM file at `path`.
    pub fn start(script: &str, path: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(binary::path());
        command.args(["script", "-", "-v", "--memory", &memory(path)]).args(more);
        command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("wirevm starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(script.as_bytes()).expect("the script");
        let mut errors = child.stderr.take().expect("a pipe");
        let reader = thread::spawn(move || {
            let mut all = String::new();
            errors.read_to_string(&mut all).expect("text");
            all
        });
        Self { child, reader }
    }

    /// Starts a guest that wires 8 pages and hangs, and waits until it runs.
    pub fn hung(path: &Path, more: &[&str]) -> Self {
        Self::wired("a = allocate 8 pages\nwire a user\ncrash hang\n", path, more)
    }

    /// Starts a script that wires 8 pages and then hangs the guest, and waits until it has come there.
    pub fn wired(script: &str, path: &Path, more: &[&str]) -> Self {
        // With this method the process's own count of locked bytes tells what is wired.
        let running = Self::start(script, path, &[&["--pin", "runs"], more].concat());
        let start = Instant::now();
        let status = format!("/proc/{}/status", running.child.id());
        while !fs::read_to_string(&status).expect("a process").contains("VmLck:\t      32 kB") {
            assert!(start.elapsed() < LIMIT, "nothing is wired");
            thread::sleep(Duration::from_millis(1));
        }
        // Time enough for the guest to answer, to be asked to hang, and to hang.
        thread::sleep(Duration::from_millis(50));
        running
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).output();
        assert!(sent.expect("kill runs").status.success(), "no process takes SIG{name}");
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Ended {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None if start.elapsed() > LIMIT => {
                    self.child.kill().expect("killed");
                    panic!("wirevm still runs");
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        let elapsed = start.elapsed();
        Ended { code: status.code(), stderr: self.reader.join().expect("the reader"), elapsed }
    }
}

/// Tells how the last machine on a file ended, by its own header.
pub fn previous_end(path: &Path) -> PreviousEnd {
    RamFile::open(path, None).expect("the RAM file").previous_end()
}

/// Carries a script out and returns the notes that the report holds.
pub fn notes_of_run(path: &Path) -> Vec<String> {
    let run = Wirevm::new(["script", "-", "--json", "--memory", &memory(path)]).input("check\n").run().expect_code(0);
    let report = run.json();
    let notes = report.pointer("/machine/notes").and_then(|notes| notes.as_array()).expect("notes");
    notes.iter().map(|note| note.as_str().expect("text").to_owned()).collect()
}

/// Ends a hung guest by a signal: in order, soon, and with the RAM file marked so.
fn ends_in_order(name: &str) {
    let folder = scratch_dir();
    let path = folder.path().join("signal.ram");
    let running = Running::hung(&path, &[]);
    running.signal(name);
    let ended = running.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("standard input:3: interrupted"), "{}", ended.stderr);
    assert!(ended.elapsed < Duration::from_secs(3), "{:?}", ended.elapsed);
    assert_eq!(previous_end(&path), PreviousEnd::Clean);
    assert_eq!(notes_of_run(&path), Vec::<String>::new());
}

pub const CASES: &[Case] = &[
    ("sigterm_ends_wirevm_in_order_and_leaves_the_file_clean", &[Need::Kvm, Need::Durable], || ends_in_order("TERM")),
    ("sigint_ends_wirevm_in_order_and_leaves_the_file_clean", &[Need::Kvm, Need::Durable], || ends_in_order("INT")),
    ("sigterm_at_any_moment_leaves_no_file_half_made_or_open", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("moment.ram");
        drop(RamFile::create(&path, 16 << 20, wirevm_devices::durability::Durability::Shared).expect("a RAM file"));
        for moment in 0..12 {
            let running = Running::start("a = allocate 512 pages\nwrite a 0x5a\nsync a\ncrash hang\n", &path, &[]);
            thread::sleep(Duration::from_millis(moment * 15));
            running.signal("TERM");
            let ended = running.wait();
            // Before the machine starts nobody waits for the signal, and there is nothing to put in order.
            assert!(matches!(ended.code, None | Some(1)), "{:?} {}", ended.code, ended.stderr);
            let end = previous_end(&path);
            assert!(matches!(end, PreviousEnd::Fresh | PreviousEnd::Clean), "at {} ms: {end:?}", moment * 15);
            assert!(ended.elapsed < Duration::from_secs(3), "{:?}", ended.elapsed);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "something else is left");
    }),
    ("sigkill_leaves_the_file_not_clean_and_the_next_run_says_so_once", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("killed.ram");
        let running = Running::hung(&path, &[]);
        running.signal("KILL");
        assert_eq!(running.wait().code, None);
        assert_eq!(previous_end(&path), PreviousEnd::NotClean);
        let notes = notes_of_run(&path);
        assert!(notes.len() == 1 && notes[0].contains("was not closed in order"), "{notes:?}");
        assert_eq!(previous_end(&path), PreviousEnd::Clean);
        assert_eq!(notes_of_run(&path), Vec::<String>::new());
    }),
    ("file_in_use_by_a_running_wirevm_is_refused_and_unharmed", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("shared.ram");
        let running = Running::hung(&path, &[]);
        let second = Wirevm::new(["script", "-", "--memory", &memory(&path)]).input("check\n").run();
        second.expect_error(8, &["is in use by another machine"]);
        running.signal("TERM");
        assert_eq!(running.wait().code, Some(1));
        assert_eq!(previous_end(&path), PreviousEnd::Clean);
    }),
    ("time_limit_and_crashes_leave_the_file_clean", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("ends.ram");
        let ends = [("crash hang", 12), ("crash panic", 11), ("crash triplefault", 10), ("exit 5", 1), ("check", 0)];
        for (script, code) in ends {
            let line = ["script", "-", "--timeout", "1", "--memory", &memory(&path)];
            let finished = Wirevm::new(line).input(format!("{script}\n")).run().expect_code(code);
            assert!(finished.elapsed < Duration::from_secs(10), "{script}: {:?}", finished.elapsed);
            assert_eq!(previous_end(&path), PreviousEnd::Clean, "{script}");
        }
    }),
    ("closed_standard_error_does_not_hold_the_end_up", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("deaf.ram");
        let mut command = Command::new(binary::path());
        command.args(["script", "-", "-vvv", "--memory", &memory(&path)]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("wirevm starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"a = allocate 8 pages\nwrite a 1\nwire a\ncheck\n").expect("the script");
        drop(stdin);
        let mut first = [0; 1];
        let mut errors = child.stderr.take().expect("a pipe");
        errors.read_exact(&mut first).expect("a byte of log");
        drop(errors);
        let start = Instant::now();
        while child.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < LIMIT, "wirevm still runs");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(child.wait().expect("a child").code(), Some(0));
        assert_eq!(previous_end(&path), PreviousEnd::Clean);
    }),
];
