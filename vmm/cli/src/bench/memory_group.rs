//! A memory cgroup of one's own, smaller than what will be put into it. Of version 1 or 2, whichever has the memory controller.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use procfs::ProcessCGroup;
use procfs::process::{MountInfo, Process};

use super::BenchError;

/// How often it is tried to remove a group: the kernel may take a while until it counts an ended process as gone.
const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(20);

/// A memory cgroup; dropping this removes it, once no process is in it.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
}

/// A folder that groups can be made in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    version: Version,
}

/// The two forms of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    const fn limit_file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }
}

impl MemoryGroup {
    /// Makes a group of that name, below this process's own or, where that can't have groups in it, below the nearest above that can.
    ///
    /// # Errors
    /// [`BenchError::Skip`] when this process may not make one, or the host has no memory controller.
    pub fn make(name: &str, limit_bytes: u64) -> Result<Self, BenchError> {
        let process = Process::myself()?;
        let (mounts, groups) = (process.mountinfo()?.0, process.cgroups()?.0);
        let mut refused = None;
        for place in places(&mounts, &groups) {
            match make_in(&place, name, limit_bytes) {
                Ok(group) => return Ok(group),
                Err(error) => refused = refused.or(Some((place.folder, error))),
            }
        }
        Err(BenchError::Skip(refused.map_or_else(
            || "no mounted control group has the memory controller".to_owned(),
            |(folder, error)| {
                format!("no memory cgroup can be made in '{}', which takes root: {error}", folder.display())
            },
        )))
    }

    /// Returns its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(BETWEEN_REMOVALS),
                Err(error) if error.kind() != io::ErrorKind::NotFound => break,
                _ => return,
            }
        }
        log::warn!("the control group '{}' stays behind", self.folder.display());
    }
}

/// Moves this process into a group. What it has in memory stays with the group that it was in.
///
/// # Errors
/// What the kernel says.
pub fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
}

fn make_in(place: &Place, name: &str, limit_bytes: u64) -> io::Result<MemoryGroup> {
    if place.version == Version::Two {
        // The host's order of things is left alone: only what has groups with a memory controller gets one more.
        let given = fs::read_to_string(place.folder.join("cgroup.subtree_control"))?;
        if !given.split_whitespace().any(|controller| controller == "memory") {
            return Err(io::Error::other("groups in it have no memory controller"));
        }
    }
    let folder = place.folder.join(name);
    fs::create_dir(&folder)?;
    let group = MemoryGroup { folder };
    fs::write(group.folder.join(place.version.limit_file()), limit_bytes.to_string())?;
    Ok(group)
}

/// Returns where groups with the memory controller may be made: this process's group and those above it, as far as they can be seen.
fn places(mounts: &[MountInfo], groups: &[ProcessCGroup]) -> Vec<Place> {
    let mut places = Vec::new();
    for mount in mounts {
        let version = match mount.fs_type.as_str() {
            "cgroup" if mount.super_options.contains_key("memory") => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        let is_its = |group: &&ProcessCGroup| match version {
            Version::One => group.controllers.iter().any(|controller| controller == "memory"),
            Version::Two => group.hierarchy == 0,
        };
        let Some(group) = groups.iter().find(is_its) else { continue };
        // In a container a part of the hierarchy is mounted, and the process may be told a path from further up.
        let path = Path::new(&group.pathname);
        let seen = path.strip_prefix(&mount.root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        places.extend(seen.ancestors().map(|group| Place { folder: mount.mount_point.join(group), version }));
    }
    places.retain(|place| place.folder.is_dir());
    places
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use procfs::process::MountInfo;
    use procfs::{FromRead, ProcessCGroups};

    use super::{MemoryGroup, Place, Version, make_in, places};
    use crate::bench::BenchError;

    fn places_of(mounts: &[String], groups: &str) -> Vec<Place> {
        let mounts: Vec<_> = mounts.iter().map(|line| MountInfo::from_line(line).expect("a line")).collect();
        places(&mounts, &ProcessCGroups::from_read(groups.as_bytes()).expect("groups").0)
    }

    #[test]
    fn places_are_those_of_the_memory_controller_from_the_own_group_up() {
        let root = tempfile::tempdir().expect("a folder");
        let [cpu, memory, unified] = ["cpu", "memory", "unified"].map(|name| root.path().join(name));
        for folder in [cpu.join("a/b"), memory.join("a/b"), unified.clone()] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let line = |kind: &str, at: &Path, root: &str, options: &str| {
            format!("35 31 0:32 {root} {} rw,relatime - {kind} none rw{options}", at.display())
        };
        let mounts = [
            line("tmpfs", root.path(), "/", ",mode=755"),
            line("cgroup", &cpu, "/", ",cpu"),
            line("cgroup", &memory, "/", ",memory"),
            line("cgroup2", &unified, "/", ""),
        ];
        let found = places_of(&mounts, "4:memory:/a/b\n2:cpu:/a/b\n0::/gone\n");
        let place = |folder: &Path, version| Place { folder: folder.to_owned(), version };
        let (one, two) = (Version::One, Version::Two);
        let of_one = [memory.join("a/b"), memory.join("a"), memory.join("")].map(|folder| place(&folder, one));
        assert_eq!(found, [&of_one[..], &[place(&unified, two)]].concat(), "'/gone' is not to be seen");
        // Only a part of the hierarchy is mounted.
        let part = [line("cgroup", &memory, "/outside", ",memory")];
        assert_eq!(places_of(&part, "4:memory:/outside/a\n"), [place(&memory.join("a"), one), place(&memory, one)]);
        assert_eq!(places_of(&mounts[..2], "4:memory:/a/b\n2:cpu:/a/b\n"), []);
    }

    #[test]
    fn group_of_version_2_is_made_only_where_groups_have_the_controller() {
        let root = tempfile::tempdir().expect("a folder");
        let place = Place { folder: root.path().to_owned(), version: Version::Two };
        let control = root.path().join("cgroup.subtree_control");
        fs::write(&control, "cpu pids\n").expect("a file");
        make_in(&place, "g", 4096).expect_err("no memory controller");
        assert!(!root.path().join("g").exists());
        fs::write(&control, "cpu memory pids\n").expect("a file");
        let group = make_in(&place, "g", 4096).expect("a group");
        assert_eq!(fs::read_to_string(group.folder().join("memory.max")).expect("a limit"), "4096");
        // In a real one the files go with the folder.
        fs::remove_file(group.folder().join("memory.max")).expect("a file");
        let folder = group.folder().to_owned();
        drop(group);
        assert!(!folder.exists());
    }

    /// Where no group can be made, it is checked that the reason is told.
    #[test]
    fn group_holds_its_process_to_the_limit_and_is_gone_afterwards() {
        let name = format!("wirevm-test-{}", std::process::id());
        let group = match MemoryGroup::make(&name, 64 << 20) {
            Ok(group) => group,
            Err(BenchError::Skip(reason)) => {
                assert!(reason.contains("memory cgroup") || reason.contains("memory controller"), "{reason}");
                return;
            }
            Err(BenchError::Failed(error)) => panic!("{error}"),
        };
        let folder = group.folder().to_owned();
        // What `tail` keeps is more than the limit; the pipe has its last process's end.
        let keep = |size: &str| {
            let procs = folder.join("cgroup.procs");
            let script = format!("echo $$ > '{}' && head -c {size} /dev/zero | tail -c {size}", procs.display());
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
            shell.status().expect("a shell").success()
        };
        assert_eq!((keep("1M"), keep("200M")), (true, false));
        drop(group);
        assert!(!folder.exists());
    }
}
