//! The services' ways to the kernel, with a clock around each: what of the host's time is the system calls'.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use wirevm_devices::page_run::PageRun;
use wirevm_devices::pin::{LockFailure, PinMethod};
use wirevm_devices::sync::FlushBackend;

/// Time spent in the kernel, of all threads together.
#[derive(Clone, Debug, Default)]
pub struct KernelTime(Arc<AtomicU64>);

/// A way to lock pages, timed.
#[derive(Debug)]
pub struct TimedPins {
    /// The way.
    pub method: Box<dyn PinMethod>,
    /// Where its time goes.
    pub time: KernelTime,
}

/// A way to make pages stable, timed.
#[derive(Debug)]
pub struct TimedFlush {
    /// The way.
    pub flush: Box<dyn FlushBackend>,
    /// Where its time goes.
    pub time: KernelTime,
}

impl KernelTime {
    /// Returns the time so far in nanoseconds.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn of<T>(&self, act: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = act();
        self.0.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }
}

impl PinMethod for TimedPins {
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        self.time.of(|| self.method.lock(runs))
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        self.time.of(|| self.method.unlock(runs))
    }

    fn is_batched(&self) -> bool {
        self.method.is_batched()
    }
}

impl FlushBackend for TimedFlush {
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        self.time.of(|| self.flush.write(runs))
    }

    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        self.time.of(|| self.flush.flush(run))
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        self.time.of(|| self.flush.repair(run))
    }

    fn flushes_what_is_written(&self) -> bool {
        self.flush.flushes_what_is_written()
    }
}
