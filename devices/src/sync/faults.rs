//! Storage that fails or hangs because a user has asked for it.

use std::io;

use super::backend::FlushBackend;
use crate::faults::HostFaults;
use crate::page_run::PageRun;

/// A backend that meets [`HostFaults`] before it reaches storage. A machine that nobody gives faults to does without it.
///
/// One call is one flush, which answers one request, or several that were merged; repairs and stores' synchronizations count as well.
/// What is held is writes, flushes and repairs.
#[derive(Debug)]
pub struct FaultyFlush {
    backend: Box<dyn FlushBackend>,
    faults: HostFaults,
}

impl FaultyFlush {
    /// Puts the faults in front of a backend.
    #[must_use]
    pub fn new(backend: Box<dyn FlushBackend>, faults: HostFaults) -> Self {
        Self { backend, faults }
    }
}

impl FlushBackend for FaultyFlush {
    fn write(&mut self, runs: &[PageRun]) -> io::Result<()> {
        self.faults.wait_released();
        self.backend.write(runs)
    }

    /// A flush that is to fail writes nothing more.
    fn flush(&mut self, run: PageRun) -> io::Result<()> {
        self.faults.wait_released();
        self.faults.strike()?;
        self.backend.flush(run)
    }

    fn repair(&mut self, run: PageRun) -> io::Result<()> {
        self.faults.wait_released();
        self.faults.strike()?;
        self.backend.repair(run)
    }

    fn flushes_what_is_written(&self) -> bool {
        self.backend.flushes_what_is_written()
    }
}
