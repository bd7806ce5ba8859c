//! Limits on memory and settings that touch locked pages.

use procfs::process::{LimitValue, Limits, Status};
use procfs::{Meminfo, ProcessCGroups};

use super::storage::Place;
use super::{Check, Patient, System};
use crate::exit_code::ExitCode;
use crate::size::{Bytes, RoughBytes};

const PAGE_SIZE: u64 = wirevm_abi::PAGE_SIZE;
/// Bit of the capability that lifts the limit on locked memory.
const CAP_IPC_LOCK: u64 = 1 << 14;
/// What the process itself needs beside guest RAM, roughly.
const OVERHEAD_BYTES: u64 = 32 << 20;

pub(super) fn lock_limit(system: &System, patient: &Patient) -> Check {
    const NAME: &str = "lock budget";
    let quota = patient.wire_quota_bytes;
    let limits = system.parsed::<Limits>("/proc/self/limits");
    let status = system.parsed::<Status>("/proc/self/status");
    let (Some(limits), Some(status)) = (limits, status) else {
        return Check::warn(NAME, "/proc/self/limits or /proc/self/status can't be read", "mount /proc");
    };
    if status.capeff & CAP_IPC_LOCK != 0 {
        return Check::ok(NAME, "CAP_IPC_LOCK is there, so RLIMIT_MEMLOCK does not count");
    }
    match limits.max_locked_memory.soft_limit {
        LimitValue::Unlimited => Check::ok(NAME, "RLIMIT_MEMLOCK is unlimited"),
        LimitValue::Value(limit) if limit >= quota => {
            Check::ok(NAME, format!("RLIMIT_MEMLOCK is {}, the wire quota {}", Bytes(limit), Bytes(quota)))
        }
        LimitValue::Value(limit) => {
            let found = format!(
                "RLIMIT_MEMLOCK is {}, the wire quota needs {}, and CAP_IPC_LOCK is missing",
                Bytes(limit),
                Bytes(quota)
            );
            let fix = format!(
                "LimitMEMLOCK={quota} in the systemd unit, or prlimit --memlock={quota} wirevm …, or setcap \
                 cap_ipc_lock+ep on the wirevm binary; or a --wire-quota of {limit} or less"
            );
            Check::fail(NAME, ExitCode::LockBudget, found, fix)
        }
    }
}

/// The lowest memory limit of this process's control groups, with the file that says so.
fn cgroup_limit(system: &System) -> Result<Option<(u64, String)>, ()> {
    let groups = system.parsed::<ProcessCGroups>("/proc/self/cgroup").ok_or(())?;
    let mut lowest: Option<(u64, String)> = None;
    for group in groups.0 {
        let (base, file) = if group.hierarchy == 0 {
            ("/sys/fs/cgroup", "memory.max")
        } else if group.controllers.iter().any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A limit of any group above holds as well. In a container the upper part of the path may not be visible.
        let mut path = group.pathname.trim_end_matches('/').to_owned();
        loop {
            let name = format!("{base}{path}/{file}");
            // Version 1 says "no limit" with the highest number of pages that fits.
            let limit = system.number(&name).filter(|limit| *limit < i64::MAX as u64 / 4096 * 4096);
            if let Some(limit) = limit
                && lowest.as_ref().is_none_or(|(lowest, _)| limit < *lowest)
            {
                lowest = Some((limit, name));
            }
            match path.rfind('/') {
                Some(end) => path.truncate(end),
                None => break,
            }
        }
    }
    Ok(lowest)
}

pub(super) fn cgroup(system: &System, patient: &Patient) -> Check {
    const NAME: &str = "memory cgroup";
    let (limit, file) = match cgroup_limit(system) {
        Err(()) => return Check::ok(NAME, "this process is in no control group"),
        Ok(None) => return Check::ok(NAME, "no limit"),
        Ok(Some(lowest)) => lowest,
    };
    let found = format!("{file} is {}", Bytes(limit));
    let wired = patient.wire_quota_bytes.saturating_add(OVERHEAD_BYTES);
    let all = patient.ram_bytes.saturating_add(OVERHEAD_BYTES);
    if limit < wired {
        let fix = format!("raise it to {} at least, or lower --wire-quota", Bytes(wired));
        Check::fail(NAME, ExitCode::Memory, found, fix)
    } else if limit < all {
        let fix =
            format!("raise it to {}, or guest memory that is not wired will be dropped and read again", Bytes(all));
        Check::warn(NAME, found, fix)
    } else {
        Check::ok(NAME, found)
    }
}

pub(super) fn swap(system: &System, place: &Place) -> Check {
    const NAME: &str = "swap";
    let Some(memory) = system.parsed::<Meminfo>("/proc/meminfo") else {
        return Check::warn(NAME, "/proc/meminfo can't be read", "mount /proc");
    };
    let swap = RoughBytes(memory.swap_total);
    match (memory.swap_total, place) {
        (0, Place::Memory { .. }) => Check::ok(NAME, "none, so guest memory can't go there"),
        (0, _) => Check::ok(NAME, "none; guest memory that is not wired goes to the RAM file when memory is short"),
        (_, Place::Memory { .. }) => Check::warn(
            NAME,
            format!("{swap}, and guest memory that is not wired may go there"),
            "wire what must stay, or switch swap off (swapoff -a)",
        ),
        _ => Check::ok(NAME, format!("{swap}; guest memory goes to the RAM file and not there")),
    }
}

pub(super) fn ksm(system: &System) -> Check {
    const NAME: &str = "KSM";
    match system.number("/sys/kernel/mm/ksm/run") {
        None => Check::ok(NAME, "this kernel has none"),
        Some(1) => Check::warn(
            NAME,
            "running; it leaves guest memory alone, which is shared, and can unmap locked private pages of this process",
            "echo 2 > /sys/kernel/mm/ksm/run, as root",
        ),
        Some(_) => Check::ok(NAME, "not running"),
    }
}

pub(super) fn compaction(system: &System) -> Check {
    const NAME: &str = "compaction";
    match system.number("/proc/sys/vm/compact_unevictable_allowed") {
        Some(0) => Check::ok(NAME, "vm.compact_unevictable_allowed is 0: locked pages stay where they are"),
        Some(_) => Check::warn(
            NAME,
            "vm.compact_unevictable_allowed is 1: locked pages may be moved, which costs a fault and no I/O",
            "sysctl vm.compact_unevictable_allowed=0",
        ),
        None => Check::ok(NAME, "this kernel does not compact memory"),
    }
}

pub(super) fn map_count(system: &System, patient: &Patient) -> Check {
    const NAME: &str = "map entries";
    let Some(count) = system.number("/proc/sys/vm/max_map_count") else {
        return Check::warn(NAME, "/proc/sys/vm/max_map_count can't be read", "mount /proc");
    };
    // Half of them are for locked runs, and a run that touches no other costs two.
    let runs = count / 4;
    let pages = patient.wire_quota_bytes / PAGE_SIZE;
    let found = format!("vm.max_map_count is {count}, enough for {runs} separate wired runs");
    if pages <= runs {
        Check::ok(NAME, found)
    } else {
        let need = pages.saturating_mul(4);
        let fix = format!("sysctl vm.max_map_count={need}, if the guest wires single pages far apart");
        Check::warn(NAME, format!("{found}; the wire quota is {pages} pages"), fix)
    }
}
