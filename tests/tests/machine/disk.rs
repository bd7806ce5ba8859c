//! A disk of which blocks can be taken away: a loop device over a file on a tmpfs, which is full when the blocks are
//! written again. Needs root.
//!
//! A loop device takes a write that came to its end early for a whole one: only a request that starts at a block which is
//! gone fails. So sync exactly the pages that are spoiled.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use wirevm_tests::needs::scratch_dir;

const DISK_BYTES: u64 = 48 << 20;
const BLOCK: usize = 4096;
/// What is read or written at a time: other tests measure this process meanwhile.
const PIECE: usize = 1 << 18;

/// A mounted disk that is unmounted, and its loop device given back, when dropped.
pub struct Disk {
    folder: TempDir,
    /// Mount points, in the order of their mounting.
    mounts: Vec<PathBuf>,
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn places() -> impl Iterator<Item = u64> {
    (0..DISK_BYTES).step_by(PIECE)
}

fn piece(image: &Path, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE];
    File::open(image).and_then(|file| file.read_exact_at(&mut bytes, at)).expect("the disk");
    bytes
}

fn fill(image: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).create(true).truncate(false).open(image);
    file.and_then(|file| file.write_all_at(bytes, at)).expect("space for the disk");
}

impl Disk {
    /// Makes an ext4 disk.
    pub fn new() -> Self {
        let mut disk = Self { folder: scratch_dir(), mounts: Vec::new() };
        let [under, mounted] = ["under", "mounted"].map(|name| disk.folder.path().join(name));
        for folder in [&under, &mounted] {
            fs::create_dir(folder).expect("a folder");
        }
        let options = format!("size={}", DISK_BYTES + (4 << 20));
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&under));
        disk.mounts.push(under);
        let image = disk.image();
        for at in places() {
            fill(&image, at, &[0; PIECE]);
        }
        let layout = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-E", layout]).arg(&image));
        // Zeros are holes to mkfs and to a file system that zeroes late; holes would give space back under the test.
        for at in places() {
            fill(&image, at, &piece(&image, at));
        }
        run(Command::new("mount").args(["-o", "loop,noinit_itable"]).args([&image, &mounted]));
        disk.mounts.push(mounted);
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("under/disk")
    }

    /// Returns a path on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }

    /// Takes every block away that holds this page now; returns how many. None of them can be written again.
    pub fn spoil(&self, page: &[u8; BLOCK]) -> usize {
        let mut blocks = 0;
        for at in places() {
            let found = piece(&self.image(), at);
            for (number, _) in found.chunks(BLOCK).enumerate().filter(|(_, block)| block == page) {
                let offset = (at + (number * BLOCK) as u64).to_string();
                run(Command::new("fallocate").args(["-p", "-o", &offset, "-l", "4096"]).arg(self.image()));
                blocks += 1;
            }
        }
        let mut filler = File::create(self.folder.path().join("under/filler")).expect("a file");
        for size in [PIECE, BLOCK] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
        blocks
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let unmount = |how: &[&str]| {
                Command::new("umount").args(how).arg(mount).output().is_ok_and(|output| output.status.success())
            };
            // A failing test may still be on its way out of the disk; at worst the last user takes it along.
            let ended = (0..20).any(|_| {
                let ended = unmount(&[]);
                if !ended {
                    thread::sleep(Duration::from_millis(50));
                }
                ended
            });
            if !(ended || unmount(&["--lazy"])) {
                eprintln!("'{}' is not unmounted", mount.display());
            }
        }
    }
}
