//! A disk that was left by a crash, mounted again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use wirevm_tests::needs::scratch_dir;

/// A mounted image, unmounted when dropped.
pub struct Mounted {
    folder: TempDir,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts an image; its file system puts itself in order by that. Says why when it can't.
    pub fn new(image: &[u8]) -> Result<Self, String> {
        let mut mounted = Self { folder: scratch_dir(), is_mounted: false };
        let [disk, point] = ["disk", "mounted"].map(|name| mounted.folder.path().join(name));
        fs::create_dir(&point).expect("a folder");
        fs::write(&disk, image).expect("space for the image");
        let output = Command::new("mount").args(["-o", "loop,noinit_itable"]).args([&disk, &point]).output();
        let output = output.expect("mount runs");
        mounted.is_mounted = output.status.success();
        if mounted.is_mounted { Ok(mounted) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Returns a path on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount = |how: &[&str]| {
            let point = self.path("");
            Command::new("umount").args(how).arg(point).output().is_ok_and(|output| output.status.success())
        };
        let ended = !self.is_mounted
            || (0..20).any(|_| {
                let ended = unmount(&[]);
                if !ended {
                    thread::sleep(Duration::from_millis(50));
                }
                ended
            });
        if !(ended || unmount(&["--lazy"])) {
            eprintln!("'{}' is not unmounted", self.path("").display());
        }
    }
}
