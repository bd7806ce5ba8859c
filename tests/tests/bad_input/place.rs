//! A folder in which a command line is carried out, and what is in it before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Finished, Wirevm};

/// Class of the command line's own mistakes.
pub const USAGE: i32 = 2;
/// Class of options that no machine can have.
pub const CONFIG: i32 = 3;
/// Class of a KVM that can't be used.
pub const KVM: i32 = 4;
/// Class of guest memory that can't be set up.
pub const MEMORY: i32 = 5;
/// Class of a lock budget that is too small.
pub const LOCK_BUDGET: i32 = 6;
/// Class of a RAM file that can't serve.
pub const RAM_FILE: i32 = 8;
/// Class of a guest image that can't be booted.
pub const IMAGE: i32 = 13;
/// Class of a script with errors.
pub const SYNTAX: i32 = 15;

/// A script in every place; it works on any machine.
const SCRIPT: &str = "a = allocate 8 pages\nwire a user\nhost locked => 8\n";

/// A case: its name, what is put into its place first, the command line, the exit code, and what the answer holds.
pub type Row = (&'static str, fn(&Place), &'static str, i32, &'static [&'static str]);

/// Names the rows of a table for a suite.
pub fn rows(table: &'static [Row]) -> impl Iterator<Item = (String, Row)> {
    table.iter().map(|row| (row.0.to_owned(), *row))
}

/// Puts nothing into a place.
pub fn nothing(_: &Place) {}

/// Makes a named pipe with nobody at its other end.
pub fn pipe(place: &Place, name: &str) {
    let made = Command::new("mkfifo").arg(place.path(name)).status().expect("mkfifo");
    assert!(made.success(), "{made}");
}

/// Returns the ELF file, of that many bytes, of a program that does what it must not at once. There is room for a second header.
pub fn program(bytes: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    file.extend(words(&[0x40_0100, 64, 0]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    file.extend(words(&[0, 0x40_0000, 0x40_0000, 0x1000, 0x1000, 0x1000]));
    // Only ring 0 may halt.
    file.resize(0x100, 0);
    file.push(0xf4);
    file.resize(usize::try_from(bytes.max(0x1000)).expect("small"), 0);
    file
}

/// A folder of its own, which is where a run works and where it would leave something.
#[derive(Debug)]
pub struct Place(TempDir);

/// What a place holds, by path: mode, time of the last change, and contents. A file that was made and removed again
/// changes the time of its folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing(BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>);

impl Place {
    /// Makes a place on the disk of the tests, with a script `ok.wvm`.
    pub fn new() -> Self {
        Self::with_script(scratch_dir())
    }

    /// Makes a place on the tmpfs at `/dev/shm`.
    pub fn on_tmpfs() -> Self {
        Self::with_script(tempfile::tempdir_in("/dev/shm").expect("a folder on a tmpfs"))
    }

    fn with_script(folder: TempDir) -> Self {
        let place = Self(folder);
        place.write("ok.wvm", SCRIPT.as_bytes());
        place
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of a name in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Makes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    /// Makes a durable RAM file of 8 MiB that a machine has used and closed.
    ///
    /// Another process makes it: one that this process held open could stay locked in whatever it starts meanwhile.
    pub fn ram(&self, name: &str) {
        let line = format!("script ok.wvm -q --memory size=8M,durability=shared,file={name}");
        drop(self.run(&[], &line).expect_code(0));
    }

    /// Carries a command line out here, behind a wrapper if there is one.
    pub fn run(&self, wrapper: &[&str], line: &str) -> Finished {
        Wirevm::behind(wrapper, line.split_whitespace())
            .current_dir(self.folder())
            .with(|command| {
                command.env("XDG_CACHE_HOME", self.folder());
            })
            .run()
    }

    /// Returns what is here.
    pub fn listing(&self) -> Listing {
        let mut entries = BTreeMap::new();
        let mut left = vec![self.folder().to_owned()];
        while let Some(path) = left.pop() {
            let metadata = path.symlink_metadata().expect("what is listed");
            let mut bytes = Vec::new();
            if metadata.is_dir() {
                left.extend(path.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()));
            } else if metadata.is_file() {
                bytes = fs::read(&path).expect("contents");
            }
            entries.insert(path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), bytes));
        }
        Listing(entries)
    }

    /// Checks that a command line is refused as it should be, told and as JSON, and that nothing here has changed.
    pub fn refuses(&self, wrapper: &[&str], line: &str, code: i32, parts: &[&str]) {
        self.refuses_telling(wrapper, line, code, parts);
        let before = self.listing();
        let finished = self.run(wrapper, &format!("{line} --json"));
        let document = finished.json();
        assert_eq!(document["ok"], false, "{document}");
        assert_eq!(document["exit_code"], code, "{document}");
        let error = document["error"].as_str().expect("an error").to_owned();
        assert!(parts.iter().all(|part| error.contains(part) || code == SYNTAX), "{parts:?} in {error}");
        finished.expect_error(code, parts);
        self.unchanged_since(&before);
    }

    /// As [`Place::refuses`], without JSON.
    pub fn refuses_telling(&self, wrapper: &[&str], line: &str, code: i32, parts: &[&str]) {
        let before = self.listing();
        let finished = self.run(wrapper, line);
        if !line.contains("--json") {
            assert_eq!(finished.stdout, "", "nothing was carried out, so there is nothing to report");
        }
        // A script's errors come with the lines they are in.
        assert!(code == SYNTAX || finished.stderr.lines().count() == 1, "one line is expected:\n{}", finished.stderr);
        finished.expect_error(code, parts);
        self.unchanged_since(&before);
    }

    fn unchanged_since(&self, before: &Listing) {
        let after = self.listing();
        let names = |listing: &Listing| listing.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(before), "something was made or removed");
        for (path, entry) in &before.0 {
            assert!(after.0.get(path) == Some(entry), "'{}' was changed", path.display());
        }
    }
}

/// Checks a row that the program refuses once it has read the command line.
pub fn refused((_, given, line, code, parts): Row) {
    let place = Place::new();
    given(&place);
    place.refuses(&[], line, code, parts);
}

/// Checks a row whose command line makes no sense. One word more may change what is wrong with it first, so the document
/// is asked for its class only.
pub fn refused_by_the_command_line((_, given, line, code, parts): Row) {
    let place = Place::new();
    given(&place);
    place.refuses_telling(&[], line, code, parts);
    let document = place.run(&[], &format!("{line} --json")).expect_code(code).json();
    assert_eq!((&document["ok"], &document["exit_code"]), (&false.into(), &code.into()), "{document}");
}

/// Checks a row that works; `parts` are in what it prints.
pub fn accepted((_, given, line, code, parts): Row) {
    let place = Place::new();
    given(&place);
    let finished = place.run(&[], line).expect_code(code);
    for part in parts {
        assert!(finished.stdout.contains(part), "{part:?} is not in\n{}", finished.stdout);
    }
    assert!(!finished.stderr.contains("wirevm: error:"), "{}", finished.stderr);
}
