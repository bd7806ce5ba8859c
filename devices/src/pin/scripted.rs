//! A pin method for tests that fails when told to and remembers what it holds.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::method::{LockFailure, PinMethod, PinMethodError};
use crate::page_run::PageRun;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// One request to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To lock a run.
    Lock(PageRun),
    /// To unlock a run.
    Unlock(PageRun),
}

/// The script and the record, shared between a test and its method.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Requests so far.
    pub(crate) asked: Vec<Asked>,
    /// Lists of them.
    pub(crate) calls: usize,
    /// Pages that the host holds locked.
    pub(crate) locked: BTreeSet<u64>,
    /// Locks to grant before one fails, and its errno.
    pub(crate) fail_lock: Option<(usize, i32)>,
    /// Unlocks to grant before all fail.
    pub(crate) fail_unlock: Option<usize>,
    /// Pages that take long: a lock or unlock of a run with one of them waits, once it is asked, until none of them is here.
    pub(crate) slow: BTreeSet<u64>,
    /// A page whose lock makes the method panic.
    pub(crate) panic_at: Option<u64>,
}

/// The method; clones share the script.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptedPin {
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl ScriptedPin {
    /// Gives access to the script and the record.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        let result = look(&mut self.script());
        self.script.1.notify_all();
        result
    }

    /// Waits until the script or the record is as wanted.
    pub(crate) fn wait_until(&self, reached: impl Fn(&Script) -> bool) {
        let waited = self.script.1.wait_timeout_while(self.script(), LIMIT, |script| !reached(script));
        let (script, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "it never comes to that: {script:?}");
    }

    /// Returns the requests since the last time.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        self.with(|script| std::mem::take(&mut script.asked))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request, and waits where it takes long.
    fn ask(&self, asked: Asked) -> MutexGuard<'_, Script> {
        let (Asked::Lock(run) | Asked::Unlock(run)) = asked;
        self.with(|script| script.asked.push(asked));
        let is_slow = |script: &mut Script| script.slow.range(run.first()..run.end()).next().is_some();
        let waited = self.script.1.wait_timeout_while(self.script(), LIMIT, is_slow);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl ScriptedPin {
    /// A lock that fails has locked every second page of the run.
    fn lock_one(&self, run: PageRun) -> Result<(), PinMethodError> {
        let mut script = self.ask(Asked::Lock(run));
        assert!(!script.panic_at.is_some_and(|page| (run.first()..run.end()).contains(&page)), "as the script says");
        if let Some((granted, errno)) = script.fail_lock {
            script.fail_lock = granted.checked_sub(1).map(|left| (left, errno));
            if granted == 0 {
                script.locked.extend((run.first()..run.end()).step_by(2));
                return Err(PinMethodError::Lock { run, source: io::Error::from_raw_os_error(errno) });
            }
        }
        script.locked.extend(run.first()..run.end());
        Ok(())
    }

    /// An unlock that fails has unlocked the run's first page.
    fn unlock_one(&self, run: PageRun) -> io::Result<()> {
        let mut script = self.ask(Asked::Unlock(run));
        assert!(!script.panic_at.is_some_and(|page| (run.first()..run.end()).contains(&page)), "as the script says");
        if let Some(granted) = script.fail_unlock {
            script.fail_unlock = Some(granted.saturating_sub(1));
            if granted == 0 {
                script.locked.remove(&run.first());
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
        }
        script.locked.retain(|page| *page < run.first() || *page >= run.end());
        Ok(())
    }
}

impl PinMethod for ScriptedPin {
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        self.with(|script| script.calls += 1);
        for (index, run) in runs.iter().enumerate() {
            self.lock_one(*run).map_err(|source| LockFailure { index, source })?;
        }
        Ok(())
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        self.with(|script| script.calls += 1);
        runs.iter().filter_map(|run| self.unlock_one(*run).err().map(|error| (*run, error))).collect()
    }

    /// As the script counts the locks to the one that fails.
    fn is_batched(&self) -> bool {
        self.script().fail_lock.is_none()
    }
}
