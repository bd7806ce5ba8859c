//! The wire quota: how much of guest RAM may be locked at once.

use wirevm_abi::PAGE_SIZE;
use wirevm_devices::pin::LockBudget;

use crate::config::DEFAULT_WIRE_QUOTA_BYTES;
use crate::exit_code::{CommandError, ExitCode};
use crate::size::Bytes;

/// More would have to be locked than the process may lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "a wire quota of {} needs as much locked memory, and this process may lock {} (RLIMIT_MEMLOCK): raise the limit \
     (`ulimit -l {}` after raising it in /etc/security/limits.conf, or LimitMEMLOCK={need} in a systemd unit), give the \
     program the capability (`sudo setcap cap_ipc_lock+ep $(command -v wirevm)`), or ask for --wire-quota {}K",
    Bytes(*need), Bytes(*limit), need / 1024, limit / PAGE_SIZE * (PAGE_SIZE / 1024)
)]
struct LockBudgetError {
    need: u64,
    limit: u64,
}

/// A quota that can't be used up.
#[derive(Debug, thiserror::Error)]
#[error("a wire quota of {} is more than the guest's {} of memory", Bytes(*quota), Bytes(*ram))]
struct QuotaAboveRam {
    quota: u64,
    ram: u64,
}

/// Returns the wire quota in bytes, checked against RAM and against what the host lets this process lock.
pub(super) fn wire_quota(asked: Option<u64>, ram_bytes: Option<u64>) -> Result<u64, CommandError> {
    let budget = LockBudget::of_this_process().map_err(|error| CommandError::new(ExitCode::LockBudget, error))?;
    let limit = if budget.privileged { None } else { budget.limit };
    let Some(quota) = asked else {
        let most = limit.map_or(u64::MAX, |limit| limit / PAGE_SIZE * PAGE_SIZE);
        return Ok(DEFAULT_WIRE_QUOTA_BYTES.min(most));
    };
    if let Some(ram) = ram_bytes {
        check_ram(quota, ram)?;
    }
    match limit {
        Some(limit) if quota > limit => {
            Err(CommandError::new(ExitCode::LockBudget, LockBudgetError { need: quota, limit }))
        }
        _ => Ok(quota),
    }
}

/// Returns the wire quota in bytes where nothing is really locked, checked against RAM.
pub(super) fn default_quota(asked: Option<u64>, ram_bytes: u64) -> Result<u64, CommandError> {
    let Some(quota) = asked else { return Ok(DEFAULT_WIRE_QUOTA_BYTES.min(ram_bytes)) };
    check_ram(quota, ram_bytes)?;
    Ok(quota)
}

fn check_ram(quota: u64, ram: u64) -> Result<(), CommandError> {
    if quota > ram { Err(CommandError::new(ExitCode::Config, QuotaAboveRam { quota, ram })) } else { Ok(()) }
}
