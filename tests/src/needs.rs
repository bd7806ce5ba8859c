//! What a test needs of its host.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use wirevm_devices::pin::{LockBudget, ViewMethod, map_entry_budget};
use wirevm_devices::ramfile::durable_file_system;

use crate::Wirevm;

/// Something that a host may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A KVM that this user may use.
    Kvm,
    /// Root.
    Root,
    /// A folder for RAM files on a file system that keeps what is synced.
    Durable,
    /// A tmpfs at `/dev/shm`.
    Tmpfs,
    /// The right to lock 64 MiB of memory.
    Lock64MiB,
    /// A kernel on which pages can be held through a locked view.
    LockedView,
    /// A limit on map entries (`vm.max_map_count`) that a test can reach.
    SmallMapLimit,
    /// The right to mount, in a mount namespace of its own.
    Mounts,
    /// File systems in user space.
    Fuse,
    /// Loop devices.
    LoopDevices,
    /// The programs of e2fsprogs.
    Ext4Programs,
    /// `strace`, which can take system calls away from a process.
    Strace,
    /// A binary that offers stores.
    Stores,
}

impl Need {
    /// Returns why the host cannot serve, if it cannot.
    #[must_use]
    pub fn lacking(self) -> Option<String> {
        match self {
            Self::Kvm => wirevm_vmm::kvm::open().err().map(|error| error.to_string()),
            Self::Root => {
                let root =
                    procfs::process::Process::myself().and_then(|process| process.uid()).is_ok_and(|uid| uid == 0);
                (!root).then(|| "not root".to_owned())
            }
            Self::Durable => durable_file_system(&scratch()).err().map(|error| error.to_string()),
            Self::Lock64MiB => match LockBudget::of_this_process() {
                Ok(budget) => (!budget.allows(64 << 20)).then(|| "may not lock 64 MiB".to_owned()),
                Err(error) => Some(error.to_string()),
            },
            Self::LockedView => ViewMethod::check_kernel().err().map(|error| error.to_string()),
            Self::SmallMapLimit => match map_entry_budget() {
                Ok(budget) => (budget > 1 << 16).then(|| format!("vm.max_map_count leaves {budget} map entries")),
                Err(error) => Some(error.to_string()),
            },
            Self::Stores => {
                let help = Wirevm::new(["script", "--help"]).run().stdout;
                (!help.contains("--store ")).then(|| "this wirevm has no stores".to_owned())
            }
            Self::Tmpfs => {
                let tmpfs = PathBuf::from("/dev/shm");
                let durable = durable_file_system(&tmpfs);
                (!tmpfs.is_dir() || durable.is_ok()).then(|| "no tmpfs at /dev/shm".to_owned())
            }
            Self::Mounts => {
                let mounts = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/tmp"]).output();
                (!mounts.is_ok_and(|output| output.status.success())).then(|| "mounting is not allowed".to_owned())
            }
            Self::Fuse => not_to_be_opened("/dev/fuse"),
            Self::LoopDevices => not_to_be_opened("/dev/loop-control"),
            Self::Ext4Programs => ["mkfs.ext4", "filefrag"].into_iter().find_map(not_to_be_run),
            Self::Strace => not_to_be_run("strace"),
        }
    }
}

/// Returns why a device cannot be opened for reading and writing, if it cannot.
fn not_to_be_opened(path: &str) -> Option<String> {
    File::options().read(true).write(true).open(path).err().map(|error| format!("{path}: {error}"))
}

/// Returns why a program cannot be run, if it cannot.
fn not_to_be_run(program: &str) -> Option<String> {
    let started = Command::new(program).arg("-V").stdin(Stdio::null()).output();
    started.err().map(|error| format!("no {program}: {error}"))
}

/// Returns a folder for files of tests: inside the target folder, which is on a disk where the checkout is.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn scratch() -> PathBuf {
    let executable = std::env::current_exe().expect("the test's own path");
    let folder = executable.ancestors().nth(2).expect("target/profile/deps/test").join("wirevm-tests");
    std::fs::create_dir_all(&folder).expect("a folder for the tests' files");
    folder
}

/// Returns a fresh folder inside [`scratch`] that is removed when dropped.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(scratch()).expect("a folder for one test's files")
}
