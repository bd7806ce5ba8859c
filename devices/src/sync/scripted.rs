//! Storage for tests that fails, waits or panics when told to and remembers what it was asked.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::backend::{FlushBackend, HealthProbe};
use super::worker::SyncWorker;
use crate::page_run::PageRun;

/// Longest wait, so that a test that fails also ends.
const LIMIT: Duration = Duration::from_secs(20);

/// The script and the record, shared between a test and its backends.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Runs synced so far, failed ones included.
    pub(crate) flushed: Vec<PageRun>,
    /// Runs whose writing was started.
    pub(crate) started: Vec<PageRun>,
    /// Flushes and starts to grant before one fails, and its errno.
    pub(crate) fail: Option<(usize, i32)>,
    /// Error that the next look at the file's health tells.
    pub(crate) unhealthy: Option<i32>,
    /// Looks at the file's health so far.
    pub(crate) looks: usize,
    /// While set, flushes and starts of runs from this page on wait after they were recorded.
    pub(crate) held_from: Option<u64>,
    /// While set, a flush panics.
    pub(crate) panics: bool,
}

/// Storage; clones share the script.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptedFlush {
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl ScriptedFlush {
    /// Gives access to the script and the record.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Script) -> T) -> T {
        let result = look(&mut self.script.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.script.1.notify_all();
        result
    }

    /// Waits until the record is as asked.
    pub(crate) fn wait_until(&self, reached: impl Fn(&Script) -> bool) {
        let script = self.script.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_script, timeout) = self
            .script
            .1
            .wait_timeout_while(script, LIMIT, |script| !reached(script))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "storage was not asked within 20 s");
    }

    /// Returns what a worker works with.
    pub(crate) fn worker(&self) -> SyncWorker {
        SyncWorker { flush: Box::new(self.clone()), health: Box::new(self.clone()) }
    }

    fn ask(&self, run: PageRun, record: impl FnOnce(&mut Script)) -> io::Result<()> {
        let held = |script: &mut Script| script.held_from.is_some_and(|first| run.first() >= first);
        self.with(record);
        let script = self.script.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.script.1.wait_timeout_while(script, LIMIT, held);
        let (mut script, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the test has not let go of storage");
        assert!(!script.panics, "the script says so");
        match script.fail {
            Some((0, errno)) => {
                script.fail = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some((granted, errno)) => {
                script.fail = Some((granted - 1, errno));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl FlushBackend for ScriptedFlush {
    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        self.ask(run, |script| script.flushed.push(run))
    }

    fn start(&mut self, run: PageRun) -> io::Result<()> {
        self.ask(run, |script| script.started.push(run))
    }
}

impl HealthProbe for ScriptedFlush {
    fn check(&mut self) -> io::Result<()> {
        self.with(|script| {
            script.looks += 1;
            script.unhealthy.take().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        })
    }
}
