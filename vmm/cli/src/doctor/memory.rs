//! Limits on memory and settings that touch locked pages.

use procfs::process::{LimitValue, Limits, Status};
use procfs::{Meminfo, ProcessCGroups};
use wirevm_devices::pin::{LockBudget, PinKind};

use super::storage::Place;
use super::{Check, Patient, Probes, System};
use crate::config::Pin;
use crate::exit_code::ExitCode;
use crate::size::{Bytes, RoughBytes};

const PAGE_SIZE: u64 = wirevm_abi::PAGE_SIZE;
/// Bit of the capability that lifts the limit on locked memory.
const CAP_IPC_LOCK: u64 = 1 << 14;
/// What the process itself needs beside guest RAM, roughly.
const OVERHEAD_BYTES: u64 = 32 << 20;

/// How much a process like this may lock. None where `/proc` does not tell.
fn lock_budget(system: &System) -> Option<LockBudget> {
    let limits = system.parsed::<Limits>("/proc/self/limits")?;
    let status = system.parsed::<Status>("/proc/self/status")?;
    let limit = match limits.max_locked_memory.soft_limit {
        LimitValue::Unlimited => None,
        LimitValue::Value(limit) => Some(limit),
    };
    Some(LockBudget { limit, privileged: status.capeff & CAP_IPC_LOCK != 0 })
}

pub(super) fn lock_limit(system: &System, patient: &Patient) -> Check {
    const NAME: &str = "lock budget";
    let quota = patient.wire_quota_bytes;
    let Some(budget) = lock_budget(system) else {
        return Check::warn(NAME, "/proc/self/limits or /proc/self/status can't be read", "mount /proc");
    };
    match budget.limit {
        _ if budget.privileged => Check::ok(NAME, "CAP_IPC_LOCK is there, so RLIMIT_MEMLOCK does not count"),
        None => Check::ok(NAME, "RLIMIT_MEMLOCK is unlimited"),
        Some(limit) if limit >= quota => {
            Check::ok(NAME, format!("RLIMIT_MEMLOCK is {}, the wire quota {}", Bytes(limit), Bytes(quota)))
        }
        Some(limit) => {
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

/// Tells how wired pages are held, as a start would choose, and what is in the way of the better way.
pub(super) fn pinning(system: &System, probes: &Probes<'_>, patient: &Patient) -> (PinKind, Check) {
    const NAME: &str = "pinning";
    const VIEW: &str = "view: all guest memory is locked as one map entry, and wired pages are faulted in";
    const RUNS: &str = "runs: each run is locked by itself, which costs map entries and time where pages lie scattered";
    let ram = patient.ram_bytes;
    let lacking = (probes.pins_by_view)();
    let budget = lock_budget(system);
    if budget.is_none() && patient.pin != Pin::Runs {
        let found = "/proc/self/limits or /proc/self/status can't be read";
        return (PinKind::Runs, Check::warn(NAME, found, "mount /proc, or pin=runs"));
    }
    let is_allowed = budget.is_some_and(|budget| budget.allows(ram));
    let raise = format!("LimitMEMLOCK={ram} in the systemd unit, or prlimit --memlock={ram} wirevm …, or CAP_IPC_LOCK");
    match (patient.pin, lacking) {
        (Pin::Runs, _) => (PinKind::Runs, Check::ok(NAME, RUNS)),
        (_, Ok(())) if is_allowed => (PinKind::View, Check::ok(NAME, VIEW)),
        (Pin::Auto, Ok(())) => {
            let found = format!("{RUNS}; pin=view needs an RLIMIT_MEMLOCK of guest memory, {}", Bytes(ram));
            (PinKind::Runs, Check::ok(NAME, found))
        }
        (Pin::Auto, Err(why)) => (PinKind::Runs, Check::ok(NAME, format!("{RUNS}; {why}"))),
        (Pin::View, Ok(())) => {
            let found = format!("pin=view locks all guest memory, {}, and RLIMIT_MEMLOCK is less", Bytes(ram));
            (PinKind::View, Check::fail(NAME, ExitCode::LockBudget, found, raise))
        }
        (Pin::View, Err(why)) => (PinKind::View, Check::fail(NAME, ExitCode::LockBudget, why, "pin=auto or pin=runs")),
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

pub(super) fn map_count(system: &System, kind: PinKind, patient: &Patient) -> Check {
    const NAME: &str = "map entries";
    if kind == PinKind::View {
        return Check::ok(NAME, "wired runs cost none");
    }
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
