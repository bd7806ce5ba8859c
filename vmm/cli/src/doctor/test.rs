//! The doctor over a made-up host.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wirevm_devices::durability::Durability;

use super::{Check, Probes, System, Verdict, document, examine, exit_code, text};
use crate::config::check::MemoryOptions;
use crate::config::{MachineOptions, Pin};
use crate::exit_code::ExitCode;

/// A host with 8 MiB of RLIMIT_MEMLOCK and nothing wrong.
struct Host {
    root: TempDir,
    options: MachineOptions,
    kvm: Result<String, String>,
    durable: bool,
    free_bytes: u64,
    pins_by_view: Result<(), String>,
}

impl Host {
    fn new() -> Self {
        let host = Self {
            root: tempfile::tempdir().expect("a folder"),
            options: MachineOptions::default(),
            kvm: Ok("API 12".into()),
            durable: true,
            free_bytes: 1 << 40,
            pins_by_view: Ok(()),
        };
        host.write("dev/kvm", "");
        host.limits("8388608");
        host.capabilities(0);
        host.write("proc/self/cgroup", "0::/user/session\n");
        host.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
        host.write("proc/sys/vm/compact_unevictable_allowed", "0\n");
        host.write("proc/sys/vm/max_map_count", "65530\n");
        host.write("sys/kernel/mm/ksm/run", "0\n");
        host
    }

    fn write(&self, path: &str, contents: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, contents).expect("a file");
    }

    /// The real files with what matters replaced: `procfs` wants all of their lines.
    fn limits(&self, locked: &str) {
        let real = fs::read_to_string("/proc/self/limits").expect("limits");
        let line = |line: &str| match line.starts_with("Max locked memory") {
            true => format!("Max locked memory         {locked}              {locked}              bytes     "),
            false => line.to_owned(),
        };
        self.write("proc/self/limits", &(real.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"));
    }

    fn capabilities(&self, effective: u64) {
        let real = fs::read_to_string("/proc/self/status").expect("status");
        let line = |line: &str| match line.starts_with("CapEff:") {
            true => format!("CapEff:\t{effective:016x}"),
            false => line.to_owned(),
        };
        self.write("proc/self/status", &(real.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"));
    }

    fn meminfo(&self, available_kib: u64, swap_kib: u64) {
        // `procfs` wants the lines that every kernel has.
        let real = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let line = |line: &str| match line.split(':').next() {
            Some("MemAvailable") => format!("MemAvailable: {available_kib} kB"),
            Some("SwapTotal") => format!("SwapTotal: {swap_kib} kB"),
            _ => line.to_owned(),
        };
        self.write("proc/meminfo", &(real.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"));
    }

    fn checks(&self) -> Vec<Check> {
        let probes = Probes {
            kvm_usable: &|| self.kvm.clone(),
            durable_file_system: &|path: &Path| match self.durable {
                true => Ok("ext4".to_owned()),
                false => Err(format!("'{}' is on tmpfs, which keeps nothing", path.display())),
            },
            free_bytes: &|_| Ok(self.free_bytes),
            pins_by_view: &|| self.pins_by_view.clone(),
        };
        let folders = vec![PathBuf::from("."), PathBuf::from("/var/tmp")];
        examine(&System::at(self.root.path()), &probes, &self.options, folders)
    }

    fn check(&self, name: &str) -> Check {
        let found = self.checks().into_iter().find(|check| check.name == name);
        found.unwrap_or_else(|| panic!("no check is called {name}"))
    }
}

fn fix(check: &Check) -> &str {
    check.fix.as_deref().unwrap_or_default()
}

#[test]
fn healthy_host_has_nothing_but_ok() {
    let host = Host::new();
    host.meminfo(4_000_000, 0);
    let checks = host.checks();
    assert!(checks.iter().all(|check| check.verdict == Verdict::Ok && check.fix.is_none()), "{checks:#?}");
    assert_eq!(exit_code(&checks), ExitCode::Ok);
    assert_eq!(checks.len(), 10);
    assert_eq!(text(&checks, true), "");
}

#[test]
fn kvm_missing_or_not_usable_fails_with_4() {
    let mut host = Host::new();
    host.kvm = Err("KVM speaks API version 11, not 12".into());
    let check = host.check("KVM");
    assert_eq!(
        (check.verdict, check.found.as_str()),
        (Verdict::Fail(ExitCode::Kvm), "KVM speaks API version 11, not 12")
    );
    fs::remove_file(host.root.path().join("dev/kvm")).expect("removed");
    let check = host.check("KVM");
    assert_eq!(check.found, "/dev/kvm does not exist");
    assert_eq!(exit_code(&host.checks()), ExitCode::Kvm);
}

#[test]
fn lock_limit_below_the_quota_fails_with_6_unless_the_capability_is_there() {
    let mut host = Host::new();
    host.options.wire_quota_bytes = Some(16 << 20);
    let check = host.check("lock budget");
    assert_eq!(check.verdict, Verdict::Fail(ExitCode::LockBudget));
    assert_eq!(check.found, "RLIMIT_MEMLOCK is 8 MiB, the wire quota needs 16 MiB, and CAP_IPC_LOCK is missing");
    for part in ["LimitMEMLOCK=16777216", "prlimit --memlock=16777216", "cap_ipc_lock", "8388608 or less"] {
        assert!(fix(&check).contains(part), "{part} is not in {}", fix(&check));
    }
    host.capabilities(1 << 14);
    assert_eq!(host.check("lock budget").verdict, Verdict::Ok);
    host.capabilities(!(1 << 14));
    assert_eq!(host.check("lock budget").verdict, Verdict::Fail(ExitCode::LockBudget));
    host.limits("unlimited");
    assert_eq!(host.check("lock budget").found, "RLIMIT_MEMLOCK is unlimited");
    host.limits("16777216");
    assert_eq!(host.check("lock budget").verdict, Verdict::Ok);
}

#[test]
fn pinning_is_by_view_where_all_memory_may_be_locked() {
    let mut host = Host::new();
    let found = host.check("pinning");
    assert_eq!(found.verdict, Verdict::Ok);
    assert!(found.found.starts_with("runs: ") && found.found.contains("64 MiB"), "{}", found.found);
    host.options.pin = Pin::View;
    let found = host.check("pinning");
    assert_eq!(found.verdict, Verdict::Fail(ExitCode::LockBudget));
    assert!(fix(&found).contains("prlimit --memlock=67108864"), "{}", fix(&found));
    host.capabilities(1 << 14);
    host.write("proc/sys/vm/max_map_count", "4000\n");
    for pin in [Pin::View, Pin::Auto] {
        host.options.pin = pin;
        let found = host.check("pinning");
        assert!(found.verdict == Verdict::Ok && found.found.starts_with("view: "), "{found:?}");
        assert_eq!(host.check("map entries").verdict, Verdict::Ok);
    }
    host.pins_by_view = Err("this is Linux 5.10".to_owned());
    assert!(host.check("pinning").found.starts_with("runs: "));
    assert_eq!(host.check("map entries").verdict, Verdict::Warn);
    host.options.pin = Pin::View;
    assert_eq!(host.check("pinning").found, "this is Linux 5.10");
    assert_eq!(exit_code(&host.checks()), ExitCode::LockBudget);
}

#[test]
fn cgroup_limit_is_the_lowest_of_all_groups_above() {
    let host = Host::new();
    assert_eq!(host.check("memory cgroup").found, "no limit");
    host.write("sys/fs/cgroup/user/session/memory.max", "max\n");
    host.write("sys/fs/cgroup/user/memory.max", "83886080\n");
    let check = host.check("memory cgroup");
    assert_eq!((check.verdict, check.found.as_str()), (Verdict::Warn, "/sys/fs/cgroup/user/memory.max is 80 MiB"));
    assert!(fix(&check).contains("96 MiB"), "{}", fix(&check));
    host.write("sys/fs/cgroup/user/session/memory.max", "33554432\n");
    let check = host.check("memory cgroup");
    assert_eq!(check.verdict, Verdict::Fail(ExitCode::Memory));
    assert!(fix(&check).contains("40 MiB at least"), "{}", fix(&check));
}

#[test]
fn cgroup_of_version_1_is_read_and_its_no_limit_understood() {
    let host = Host::new();
    host.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
    host.write("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(host.check("memory cgroup").found, "no limit");
    // In a container the path may not be there; the root is the container's own group.
    host.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
    let check = host.check("memory cgroup");
    assert_eq!(check.verdict, Verdict::Ok);
    assert_eq!(check.found, "/sys/fs/cgroup/memory/memory.limit_in_bytes is 1 GiB");
}

#[test]
fn ram_file_on_no_durable_file_system_fails_only_if_durability_is_wanted() {
    let mut host = Host::new();
    assert_eq!(host.check("RAM file").found, ". is on ext4, a durable file system");
    host.durable = false;
    let check = host.check("RAM file");
    assert_eq!(check.verdict, Verdict::Warn);
    assert!(check.found.contains("so sync is unsupported: '.' is on tmpfs"), "{}", check.found);
    host.options.memory.durability = Some(Durability::Shared);
    assert_eq!(host.check("RAM file").verdict, Verdict::Fail(ExitCode::RamFile));
    host.options.memory.file = Some("/dev/shm/guest.ram".into());
    assert_eq!(host.check("RAM file").verdict, Verdict::Fail(ExitCode::RamFile));
    assert_eq!(host.check("RAM file").found, "'/dev/shm' is on tmpfs, which keeps nothing");
    host.options.memory.durability = Some(Durability::None);
    assert_eq!(host.check("RAM file").verdict, Verdict::Ok);
    host.options.memory.file = None;
    assert_eq!(host.check("RAM file").found, "none: durability=none keeps guest memory in memory");
}

#[test]
fn space_too_small_for_ram_and_header_fails_with_5() {
    let mut host = Host::new();
    host.options.memory =
        MemoryOptions { size_bytes: Some(64 << 20), file: Some("new.ram".into()), ..MemoryOptions::default() };
    host.free_bytes = (66 << 20) - 1;
    let check = host.check("free space");
    assert_eq!(check.verdict, Verdict::Fail(ExitCode::Memory));
    assert_eq!(check.found, ". has 65.9 MiB free, guest memory needs 66 MiB");
    host.free_bytes = 66 << 20;
    assert_eq!(host.check("free space").verdict, Verdict::Ok);
    let existing = host.root.path().join("dev/kvm");
    host.options.memory.file = Some(existing);
    host.free_bytes = 0;
    assert_eq!(host.check("free space").verdict, Verdict::Ok);
    host.options.memory = MemoryOptions { durability: Some(Durability::None), ..MemoryOptions::default() };
    host.meminfo(65_535, 0);
    assert_eq!(host.check("free space").verdict, Verdict::Fail(ExitCode::Memory));
    host.meminfo(65_536, 0);
    assert_eq!(host.check("free space").verdict, Verdict::Ok);
}

#[test]
fn settings_that_touch_locked_pages_are_warnings() {
    let mut host = Host::new();
    host.write("sys/kernel/mm/ksm/run", "1\n");
    host.write("proc/sys/vm/compact_unevictable_allowed", "1\n");
    host.write("proc/sys/vm/max_map_count", "4000\n");
    host.meminfo(4_000_000, 2 << 20);
    for (name, remedy) in [("KSM", "ksm/run"), ("compaction", "=0"), ("map entries", "vm.max_map_count=8192")] {
        let check = host.check(name);
        assert_eq!(check.verdict, Verdict::Warn, "{name}");
        assert!(fix(&check).contains(remedy), "{name}: {}", fix(&check));
    }
    assert_eq!(host.check("swap").verdict, Verdict::Ok);
    host.options.memory.durability = Some(Durability::None);
    let check = host.check("swap");
    assert_eq!(
        (check.verdict, check.found.as_str()),
        (Verdict::Warn, "2.0 GiB, and guest memory that is not wired may go there")
    );
    assert_eq!(exit_code(&host.checks()), ExitCode::Ok);
}

#[test]
fn host_without_proc_and_sys_is_told_so() {
    let host = Host::new();
    fs::remove_dir_all(host.root.path().join("proc")).expect("removed");
    fs::remove_dir_all(host.root.path().join("sys")).expect("removed");
    assert_eq!(host.check("lock budget").verdict, Verdict::Warn);
    assert_eq!(host.check("memory cgroup").found, "this process is in no control group");
    assert_eq!(host.check("swap").verdict, Verdict::Warn);
    assert_eq!(host.check("KSM").found, "this kernel has none");
    assert_eq!(host.check("compaction").verdict, Verdict::Ok);
    assert_eq!(host.check("map entries").verdict, Verdict::Warn);
}

#[test]
fn report_is_a_line_a_check_and_json_says_the_same() {
    let checks = [
        Check::ok("KVM", "API 12"),
        Check::warn("swap", "1.0 GiB", "swapoff -a"),
        Check::fail("lock budget", ExitCode::LockBudget, "too small", "raise it"),
        Check::fail("free space", ExitCode::Memory, "none", "make room"),
    ];
    let expected = "ok    KVM            API 12\nwarn  swap           1.0 GiB (fix: swapoff -a)\n\
                    fail  lock budget    too small (fix: raise it)\nfail  free space     none (fix: make room)\n";
    assert_eq!(text(&checks, false), expected);
    assert_eq!(text(&checks, true).lines().count(), 2);
    assert_eq!(exit_code(&checks), ExitCode::LockBudget);
    let document: serde_json::Value = serde_json::from_str(&document(&checks).expect("a document")).expect("JSON");
    assert_eq!((&document["ok"], &document["exit_code"]), (&false.into(), &6.into()));
    assert_eq!(document["checks"][1]["status"], "warn");
    assert_eq!(document["checks"][0]["fix"], serde_json::Value::Null);
    assert_eq!(document["checks"][2]["fix"], "raise it");
}
