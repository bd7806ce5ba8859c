//! Disks of a test's own: loop devices over files. They need root.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::folder::durable_folder;

/// The file systems that RAM files are durable on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    /// Its disks can't be copied beside themselves, since it knows them by a number of their own.
    Btrfs,
}

/// A mounted disk that is unmounted when dropped.
pub struct Disk {
    folder: TempDir,
    kind: Kind,
    /// Whether the disk's image lies on a file system of its own that can be filled.
    confined: bool,
}

/// What a disk has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCounts {
    /// Write requests.
    pub writes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Flushes of the disk's cache.
    pub flushes: u64,
}

impl Kind {
    /// Least bytes of a disk.
    const fn least_bytes(self) -> usize {
        match self {
            Self::Ext4 => 48 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 256 << 20,
        }
    }

    fn make(self) -> Command {
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Xfs => Command::new("mkfs.xfs"),
            Self::Btrfs => Command::new("mkfs.btrfs"),
        };
        match self {
            Self::Ext4 => {
                command.args(["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs | Self::Btrfs => command.args(["-q", "-f", "-K"]),
        };
        command
    }

    /// Options that keep the file system from writing by itself during a test, where there are any.
    const fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,noinit_itable,commit=300",
            // The copy of a disk is mounted beside it.
            Self::Xfs => "loop,nouuid",
            Self::Btrfs => "loop",
        }
    }
}

impl Disk {
    /// Makes a disk with at least that many bytes, or says why this host has none to make: not root, no loop devices, no
    /// mkfs.
    pub fn new(kind: Kind, bytes: usize) -> Result<Self, String> {
        let disk = Self { folder: durable_folder(), kind, confined: false };
        disk.make_folders();
        let file = File::create(disk.image()).expect("the disk");
        file.set_len(bytes.max(kind.least_bytes()) as u64).expect("its size");
        disk.run(kind.make().arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Makes a disk of which blocks can be spoiled: all of its image is on a tmpfs that is full as soon as somebody fills it.
    pub fn spoilable(kind: Kind) -> Result<Self, String> {
        let bytes = kind.least_bytes();
        let disk = Self { folder: durable_folder(), kind, confined: true };
        disk.make_folders();
        let options = format!("size={}", bytes + (4 << 20));
        disk.run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(disk.under()))?;
        fs::write(disk.image(), vec![0; bytes]).expect("space for the disk");
        disk.run(kind.make().arg(disk.image()))?;
        // Zeros are holes to mkfs and to a file system that zeroes late; holes would give space back under the test.
        let made = fs::read(disk.image()).expect("the disk");
        File::options().write(true).open(disk.image()).and_then(|file| file.write_all_at(&made, 0)).expect("no holes");
        disk.mount()?;
        Ok(disk)
    }

    fn make_folders(&self) {
        for name in ["under", "mounted"] {
            fs::create_dir(self.folder.path().join(name)).expect("a folder");
        }
    }

    fn mount(&self) -> Result<(), String> {
        self.run(Command::new("mount").args(["-o", self.kind.options()]).args([self.image(), self.mounted()]))
    }

    fn under(&self) -> PathBuf {
        self.folder.path().join("under")
    }

    /// Returns the file that is the disk.
    pub fn image(&self) -> PathBuf {
        self.under().join("disk")
    }

    /// Returns where the disk is mounted.
    pub fn mounted(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn run(&self, command: &mut Command) -> Result<(), String> {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Mounts a copy of what the disk holds now, as a machine finds it whose power was cut, and reads a file of it.
    pub fn read_after_power_cut(&self, name: &str) -> Vec<u8> {
        let copy = Self { folder: durable_folder(), kind: self.kind, confined: false };
        copy.make_folders();
        self.run(Command::new("cp").arg("--sparse=always").args([self.image(), copy.image()])).expect("a copy");
        copy.mount().expect("the copy is mounted");
        let mut bytes = Vec::new();
        File::open(copy.mounted().join(name)).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the file");
        bytes
    }

    /// Returns the offset in the disk's image of the block that holds `page` now.
    pub fn block_of(&self, page: &[u8]) -> u64 {
        let image = fs::read(self.image()).expect("the disk");
        let block = image.chunks(4096).position(|block| block == page).expect("the page is on the disk");
        u64::try_from(block * 4096).expect("small")
    }

    /// Returns what the disk holds at an offset.
    pub fn block(&self, at: u64) -> [u8; 4096] {
        let mut block = [0; 4096];
        File::open(self.image()).and_then(|image| image.read_exact_at(&mut block, at)).expect("a block");
        block
    }

    /// Takes the block at that offset away for good, until the disk is healed.
    pub fn spoil(&self, at: u64) {
        assert!(self.confined);
        let offset = at.to_string();
        let mut command = Command::new("fallocate");
        self.run(command.args(["-p", "-o", &offset, "-l", "4096"]).arg(self.image())).expect("a hole");
        fill(&self.under().join("filler"));
    }

    /// Lets spoiled blocks be written again.
    pub fn heal(&self) {
        fs::remove_file(self.under().join("filler")).expect("the disk was spoiled");
    }

    /// Returns what the disk has done since it was made.
    pub fn counts(&self) -> DiskCounts {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
        let mounted = self.mounted();
        let line = mounts.lines().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == mounted));
        let device = line.and_then(|line| line.split(" - ").nth(1)?.split(' ').nth(1)).expect("the disk is mounted");
        let name = Path::new(device).file_name().expect("a device").to_string_lossy().into_owned();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("/sys");
        let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().expect("a number")).collect();
        DiskCounts { writes: fields[4], bytes: fields[6] * 512, flushes: fields[15] }
    }

    /// Returns what the disk did meanwhile.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (DiskCounts, T) {
        let before = self.counts();
        let result = work();
        let after = self.counts();
        let counts = DiskCounts {
            writes: after.writes - before.writes,
            bytes: after.bytes - before.bytes,
            flushes: after.flushes - before.flushes,
        };
        (counts, result)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let under = self.confined.then(|| self.under());
        for name in std::iter::once(self.mounted()).chain(under) {
            let ended = Command::new("umount").arg(&name).output().is_ok_and(|output| output.status.success());
            if !ended {
                eprintln!("'{}' is not unmounted", name.display());
            }
        }
    }
}

/// Writes a file until its file system is full.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}
