//! How wired pages are held: what was asked for, or what this host can do.

use wirevm_devices::pin::{LockBudget, PinKind, ViewMethod};

use crate::config::{DEFAULT_RAM_BYTES, Pin};
use crate::exit_code::{CommandError, ExitCode};
use crate::size::Bytes;

/// All of guest memory would have to be locked, and the process may not lock as much.
#[derive(Debug, thiserror::Error)]
#[error(
    "--pin view locks a view of all guest memory, {}, and this process may lock {} (RLIMIT_MEMLOCK): raise the limit \
     (`ulimit -l {}` after raising it in /etc/security/limits.conf, or LimitMEMLOCK={ram} in a systemd unit), give the \
     program the capability (`sudo setcap cap_ipc_lock+ep $(command -v wirevm)`), or leave it at --pin auto",
    Bytes(*ram), Bytes(*limit), ram / 1024
)]
struct ViewBudgetError {
    ram: u64,
    limit: u64,
}

/// Returns how wired pages are to be held in a RAM of so many bytes, checked against what the host has and allows.
///
/// # Errors
/// [`CommandError`] when they can't be held as asked.
pub fn pin_kind(asked: Pin, ram_bytes: Option<u64>) -> Result<PinKind, CommandError> {
    let refused = |error: &dyn ToString| CommandError::new(ExitCode::LockBudget, error.to_string());
    let ram = ram_bytes.unwrap_or(DEFAULT_RAM_BYTES);
    match asked {
        Pin::Runs => Ok(PinKind::Runs),
        Pin::Auto => PinKind::best(ram).map_err(|error| refused(&error)),
        Pin::View => {
            let budget = LockBudget::of_this_process().map_err(|error| refused(&error))?;
            if let Some(limit) = budget.limit.filter(|_| !budget.allows(ram)) {
                return Err(CommandError::new(ExitCode::LockBudget, ViewBudgetError { ram, limit }));
            }
            ViewMethod::check_kernel().map_err(|error| CommandError::new(ExitCode::LockBudget, error))?;
            Ok(PinKind::View)
        }
    }
}
