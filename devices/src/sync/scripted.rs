//! Storage for tests: holds each call until it is told to go on, in any order, fails the n-th, panics, and remembers what it
//! was asked.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::backend::{FlushBackend, HealthProbe};
use super::worker::SyncWorker;
use crate::page_run::PageRun;

/// Longest wait, so that a test that fails also ends.
const LIMIT: Duration = Duration::from_secs(20);

/// A call that storage was asked to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Write(Vec<PageRun>),
    Flush(PageRun),
    Repair(PageRun),
}

impl Asked {
    fn runs(&self) -> &[PageRun] {
        match self {
            Self::Write(runs) => runs,
            Self::Flush(run) | Self::Repair(run) => std::slice::from_ref(run),
        }
    }
}

/// The script and the record, shared between a test and its backends.
#[derive(Debug)]
pub(crate) struct Script {
    /// Calls so far, failed ones included.
    pub(crate) asked: Vec<Asked>,
    /// Calls to grant before one fails, and its errno.
    pub(crate) fail: Option<(usize, i32)>,
    /// Error that the next look at the file's health tells.
    pub(crate) unhealthy: Option<i32>,
    /// Looks at the file's health so far.
    pub(crate) looks: usize,
    /// While set, calls about a page from this one on wait after they were recorded.
    pub(crate) held_from: Option<u64>,
    /// Calls about one of these pages wait as well.
    pub(crate) held: Vec<u64>,
    /// A page that every call fails on, and the errno.
    pub(crate) bad: Option<(u64, i32)>,
    /// While set, a call panics.
    pub(crate) panics: bool,
    /// Whether one flush does for all that was written.
    pub(crate) one_flush: bool,
    /// What can be repaired.
    pub(crate) wired: Vec<PageRun>,
}

/// Storage; clones share the script.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedFlush {
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl Default for ScriptedFlush {
    fn default() -> Self {
        let script = Script {
            asked: Vec::new(),
            fail: None,
            unhealthy: None,
            looks: 0,
            held_from: None,
            held: Vec::new(),
            bad: None,
            panics: false,
            one_flush: true,
            wired: Vec::new(),
        };
        Self { script: Arc::new((Mutex::new(script), Condvar::new())) }
    }
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

    /// Takes what storage was asked since this was last called.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        self.with(|script| std::mem::take(&mut script.asked))
    }

    /// Returns what a worker works with.
    pub(crate) fn worker(&self) -> SyncWorker {
        SyncWorker { flush: Box::new(self.clone()), health: Box::new(self.clone()) }
    }

    fn ask(&self, asked: Asked) -> io::Result<()> {
        let runs = asked.runs().to_vec();
        let holds = move |page: u64| runs.iter().any(|run| run.first() <= page && page < run.end());
        let last = asked.runs().iter().map(|run| run.first()).max().unwrap_or(0);
        self.with(|script| script.asked.push(asked));
        let script = self.script.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |script: &mut Script| {
            script.held_from.is_some_and(|first| last >= first) || script.held.iter().any(|page| holds(*page))
        };
        let waited = self.script.1.wait_timeout_while(script, LIMIT, held);
        let (mut script, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the test has not let go of storage");
        assert!(!script.panics, "the script says so");
        if let Some((page, errno)) = script.bad
            && holds(page)
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
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
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        self.ask(Asked::Write(runs.to_vec()))
    }

    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        self.ask(Asked::Flush(run))
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        self.ask(Asked::Repair(run))
    }

    fn flushes_what_is_written(&self) -> bool {
        self.with(|script| script.one_flush)
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
