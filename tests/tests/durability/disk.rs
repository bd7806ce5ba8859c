//! A disk whose every write and flush is recorded: ext4 on a loop device over the [recorder](super::server)'s file. Needs
//! root.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wirevm_tests::Need;
use wirevm_tests::needs::scratch_dir;

use super::record::{self, Entry};
use super::server::{ARGUMENT, DISK, READY};

/// Bytes of the disk.
pub const DISK_BYTES: usize = 32 << 20;
/// What a recorded disk takes.
pub const NEEDS: &[Need] = &[Need::Root, Need::Mounts, Need::Fuse, Need::LoopDevices, Need::Ext4Programs];
/// What a virtual machine on one takes.
pub const NEEDS_OF_KVM: &[Need] =
    &[Need::Kvm, Need::Root, Need::Mounts, Need::Fuse, Need::LoopDevices, Need::Ext4Programs];
/// Longest time that unmounting may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A mounted disk. Dropping it unmounts it and gives the loop device back; so does the end of the process, however it
/// comes.
pub struct RecordedDisk {
    folder: TempDir,
    recorder: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Bytes of a file that stand together on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub logical: u64,
    /// First byte on the disk.
    pub physical: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Runs a program that must succeed, and returns its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

impl RecordedDisk {
    /// Makes a disk and mounts it.
    pub fn new() -> Self {
        let folder = scratch_dir();
        let [served, mounted] = ["served", "mounted"].map(|name| folder.path().join(name));
        for folder in [&served, &mounted] {
            fs::create_dir(folder).expect("a folder");
        }
        let mut command = Command::new(env::current_exe().expect("the test's own path"));
        command.arg(ARGUMENT).args([&served, &mounted]).arg(DISK_BYTES.to_string());
        // Whoever interrupts the test interrupts its group, and the disk has to be put in order then.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut recorder = command.spawn().expect("the recorder starts");
        let orders = recorder.stdin.take();
        let answers = BufReader::new(recorder.stdout.take().expect("a pipe"));
        let mut disk = Self { folder, recorder, orders, answers };
        assert_eq!(disk.answer(), READY);
        let image = served.join(DISK);
        let layout = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-J", "size=4", "-E", layout]).arg(&image));
        run(Command::new("mount").args(["-o", "loop,noinit_itable"]).args([&image, &mounted]));
        disk
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn order(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("the disk is there");
        writeln!(orders, "{order}").expect("the recorder takes orders");
        self.answer()
    }

    /// Returns a path on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }

    /// Returns how many entries the record has by now.
    pub fn position(&mut self) -> usize {
        self.order("position").parse().expect("a number")
    }

    /// Makes every later write to a byte of these fail (EIO).
    pub fn fail(&mut self, offset: u64, length: u64) {
        assert_eq!(self.order(&format!("fail {offset} {length}")), "failing");
    }

    /// Returns the record so far.
    pub fn record(&mut self) -> Vec<Entry> {
        let file = self.folder.path().join("record");
        assert_eq!(self.order(&format!("save {}", file.display())), "saved");
        record::decode(&fs::read(&file).expect("the record"))
    }
}

impl Drop for RecordedDisk {
    fn drop(&mut self) {
        // The recorder unmounts everything, and ends.
        drop(self.orders.take());
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if self.recorder.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("the recorder does not end; '{}' may still be mounted", self.folder.path().display());
        drop(self.recorder.kill());
        drop(self.recorder.wait());
    }
}

/// Returns where a file's bytes are on the disk below its file system.
pub fn extents(file: &Path) -> Vec<Extent> {
    let text = run(Command::new("filefrag").args(["-v", "-b4096"]).arg(file));
    let extents: Vec<Extent> = text.lines().filter_map(extent).collect();
    assert!(!extents.is_empty(), "no extents in:\n{text}");
    extents
}

/// Reads a line such as `   0:        0..    2559:       4096..      6655:   2560:             last,eof`, in blocks.
fn extent(line: &str) -> Option<Extent> {
    let mut fields = line.split(':').map(str::trim);
    fields.next()?.parse::<u64>().ok()?;
    let mut first = || fields.next()?.split("..").next()?.trim().parse::<u64>().ok();
    let (logical, physical, length) = (first()? * 4096, first()? * 4096, first()? * 4096);
    Some(Extent { logical, physical, length })
}

/// Returns where a byte of a file is on the disk.
pub fn on_disk(extents: &[Extent], at: u64) -> u64 {
    let holds = |extent: &&Extent| (extent.logical..extent.logical + extent.length).contains(&at);
    let extent = extents.iter().find(holds).unwrap_or_else(|| panic!("byte {at} has no block: {extents:?}"));
    extent.physical + (at - extent.logical)
}
