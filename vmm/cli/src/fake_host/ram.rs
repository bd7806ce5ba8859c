//! The model's RAM: bytes as stored and as stable, and which frames were stored to since they were made stable.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wirevm_map::FrameRun;
use wirevm_map::fake::FakeRam;

use crate::in_process::FrameBytes;

/// The bytes of RAM with the marks that a kernel keeps of them: a store marks, whatever it stores.
#[derive(Debug, Default)]
pub(super) struct ModelRam {
    bytes: Arc<FakeRam>,
    dirty: Mutex<BTreeSet<u64>>,
}

impl ModelRam {
    /// Returns the bytes alone.
    pub(super) const fn bytes(&self) -> &Arc<FakeRam> {
        &self.bytes
    }

    /// Marks frames as stored to.
    pub(super) fn mark(&self, run: FrameRun) {
        self.dirty().extend(run.first..run.end());
    }

    /// Takes the marks off frames that were made stable.
    pub(super) fn unmark(&self, run: FrameRun) {
        self.dirty().retain(|frame| !(run.first..run.end()).contains(frame));
    }

    /// Returns how many of the frames were stored to since they were made stable.
    pub(super) fn dirty_pages(&self, run: FrameRun) -> u64 {
        self.dirty().range(run.first..run.end()).count() as u64
    }

    fn dirty(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FrameBytes for ModelRam {
    fn read(&self, frame: u64, offset: usize, into: &mut [u8]) {
        self.bytes.read(frame, offset, into);
    }

    fn write(&self, frame: u64, offset: usize, from: &[u8]) {
        self.bytes.write(frame, offset, from);
        self.mark(FrameRun::new(frame, 1));
    }
}
