//! Whether storage had failed when pages were locked.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Looks whether storage has failed since it was last asked; a failure is told once.
pub(super) type Look = Box<dyn FnMut() -> io::Result<()> + Send>;

/// Remembers the first failure.
#[derive(Default)]
pub(super) struct StorageWatch(Mutex<State>);

#[derive(Default)]
struct State {
    /// None where storage is not watched.
    look: Option<Look>,
    failed: bool,
}

impl StorageWatch {
    /// Watches from now on.
    pub(super) fn begin(&self, look: Look) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look = Some(look);
    }

    /// Tells whether storage has ever failed, as far as it is watched.
    pub(super) fn has_failed(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fails_now = !state.failed && state.look.as_mut().is_some_and(|look| look().is_err());
        state.failed |= fails_now;
        state.failed
    }
}

impl fmt::Debug for StorageWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageWatch").finish_non_exhaustive()
    }
}
