//! What the host lets this process lock and map.

use std::io;

use procfs::ProcError;
use procfs::process::{LimitValue, Process};
use wirevm_abi::Status;

/// Bit of the capability that lifts the limit on locked memory.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Error of asking the host for its limits.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} of this process")]
pub struct LimitError {
    what: &'static str,
    #[source]
    source: ProcError,
}

/// How much memory the host lets this process lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockBudget {
    /// `RLIMIT_MEMLOCK` in bytes (the soft limit); none when it is unlimited.
    pub limit: Option<u64>,
    /// Whether the process has `CAP_IPC_LOCK`, which lifts the limit.
    pub privileged: bool,
}

impl LockBudget {
    /// Reads the budget of this process.
    ///
    /// # Errors
    /// [`LimitError`] when `/proc` can't be read.
    pub fn of_this_process() -> Result<Self, LimitError> {
        let failed = |what| move |source| LimitError { what, source };
        let process = Process::myself().map_err(failed("the folder in /proc"))?;
        let limits = process.limits().map_err(failed("the limits"))?;
        let status = process.status().map_err(failed("the capabilities"))?;
        let limit = match limits.max_locked_memory.soft_limit {
            LimitValue::Unlimited => None,
            LimitValue::Value(bytes) => Some(bytes),
        };
        Ok(Self { limit, privileged: status.capeff & CAP_IPC_LOCK != 0 })
    }

    /// Tells whether the host's limit leaves room to lock `bytes` bytes in all.
    #[must_use]
    pub fn allows(&self, bytes: u64) -> bool {
        self.privileged || self.limit.is_none_or(|limit| bytes <= limit)
    }
}

/// Returns how many map entries the locked runs of a view may cost.
///
/// It is half of `vm.max_map_count` less the entries in use now, so that the other half stays for the rest of
/// the process (rule S3).
///
/// # Errors
/// [`LimitError`] when `/proc` can't be read.
pub fn map_entry_budget() -> Result<u64, LimitError> {
    let failed = |what| move |source| LimitError { what, source };
    let max = procfs::sys::vm::max_map_count().map_err(failed("vm.max_map_count"))?;
    let maps = Process::myself().and_then(|process| process.maps()).map_err(failed("the memory map"))?;
    let in_use = u64::try_from(maps.len()).unwrap_or(u64::MAX);
    Ok((max / 2).saturating_sub(in_use))
}

/// Why the host would not lock a run, as far as its errno tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Out of memory, or over the limit on locked memory.
    Shortage,
    /// A page can't be read from its file.
    Fault,
}

/// Sorts an error of reading in or locking.
pub(super) fn refusal(source: &io::Error) -> Refusal {
    match source.raw_os_error() {
        Some(libc::ENOMEM | libc::EPERM | libc::EAGAIN) => Refusal::Shortage,
        _ => Refusal::Fault,
    }
}

/// Returns what a guest is told where a lock fails with that error.
pub fn lock_error_status(error: &io::Error) -> Status {
    refusal(error).status()
}

impl Refusal {
    pub(super) const fn status(self) -> Status {
        match self {
            Self::Shortage => Status::RESOURCE_SHORTAGE,
            Self::Fault => Status::IO_ERROR,
        }
    }
}

/// Describes the host's limit for a message about pages that could not be locked.
pub(super) fn describe(asked_pages: u64, locked_pages: u64) -> String {
    match LockBudget::of_this_process() {
        Ok(LockBudget { privileged: false, limit: Some(limit) }) => format!(
            "{asked_pages} pages more than {locked_pages} locked ones; RLIMIT_MEMLOCK is {limit} bytes and CAP_IPC_LOCK is missing"
        ),
        _ => format!("{asked_pages} pages more than {locked_pages} locked ones; no lock limit is set"),
    }
}

#[cfg(test)]
mod test {
    use super::{LockBudget, map_entry_budget};

    #[test]
    fn lock_budget_allows_up_to_the_limit_or_all_with_the_capability() {
        let budget = LockBudget { limit: Some(8 << 20), privileged: false };
        assert!(budget.allows(8 << 20));
        assert!(!budget.allows((8 << 20) + 1));
        assert!(LockBudget { privileged: true, ..budget }.allows(u64::MAX));
        assert!(LockBudget { limit: None, privileged: false }.allows(u64::MAX));
    }

    #[test]
    fn lock_budget_of_this_process_agrees_with_the_shell() {
        let budget = LockBudget::of_this_process().expect("/proc is readable");
        let output = std::process::Command::new("sh").args(["-c", "ulimit -l"]).output().expect("a shell");
        let kib = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().ok();
        assert_eq!(budget.limit, kib.map(|kib| kib * 1024));
    }

    #[test]
    fn map_entry_budget_is_below_half_of_the_limit() {
        let budget = map_entry_budget().expect("/proc is readable");
        let max: u64 = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("a number");
        assert!(budget < max / 2 && budget > 0, "{budget} of {max}");
    }
}
