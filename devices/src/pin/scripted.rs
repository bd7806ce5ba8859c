//! A pin method for tests that fails when told to and remembers what it holds.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::method::{PinMethod, PinMethodError};
use crate::page_run::PageRun;

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
    /// Pages that the host holds locked.
    pub(crate) locked: BTreeSet<u64>,
    /// Locks to grant before one fails, and its errno.
    pub(crate) fail_lock: Option<(usize, i32)>,
    /// Unlocks to grant before all fail.
    pub(crate) fail_unlock: Option<usize>,
}

/// The method; clones share the script.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptedPin {
    script: Arc<Mutex<Script>>,
}

impl ScriptedPin {
    /// Gives access to the script and the record.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        look(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the requests since the last time.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        self.with(|script| std::mem::take(&mut script.asked))
    }
}

impl PinMethod for ScriptedPin {
    /// A lock that fails has locked every second page of the run.
    fn lock(&self, run: PageRun) -> Result<(), PinMethodError> {
        self.with(|script| {
            script.asked.push(Asked::Lock(run));
            if let Some((granted, errno)) = script.fail_lock {
                script.fail_lock = granted.checked_sub(1).map(|left| (left, errno));
                if granted == 0 {
                    script.locked.extend((run.first()..run.end()).step_by(2));
                    return Err(PinMethodError::Lock { run, source: io::Error::from_raw_os_error(errno) });
                }
            }
            script.locked.extend(run.first()..run.end());
            Ok(())
        })
    }

    /// An unlock that fails has unlocked the run's first page.
    fn unlock(&self, run: PageRun) -> io::Result<()> {
        self.with(|script| {
            script.asked.push(Asked::Unlock(run));
            if let Some(granted) = script.fail_unlock {
                script.fail_unlock = Some(granted.saturating_sub(1));
                if granted == 0 {
                    script.locked.remove(&run.first());
                    return Err(io::Error::from_raw_os_error(libc::ENOMEM));
                }
            }
            script.locked.retain(|page| *page < run.first() || *page >= run.end());
            Ok(())
        })
    }
}
