//! Storage that fails or hangs because a user has asked for it: how a guest copes is then a matter of one line in a script
//! instead of a disk that is really bad.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::backend::FlushBackend;
use crate::page_run::PageRun;

/// What storage is to do instead of its work; clones share it.
#[derive(Clone, Debug, Default)]
pub struct StorageFaults {
    orders: Arc<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    fault: Option<Fault>,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Flushes that still go by before it.
    after: u64,
    errno: i32,
}

impl StorageFaults {
    /// Lets the `nth` flush from now on fail with that errno, once. An order replaces one that has not come to pass. A flush
    /// is what answers one request, or several that were merged; repairs and stores' synchronizations count as well.
    pub fn fail_nth(&self, nth: NonZero<u64>, errno: i32) {
        self.state().fault = Some(Fault { after: nth.get() - 1, errno });
    }

    /// Lets storage hang: no call is made from now on. One that has been made is finished.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets storage go on.
    pub fn release(&self) {
        self.state().held = false;
        self.orders.released.notify_all();
    }

    /// Waits for as long as storage is held.
    pub fn wait_released(&self) {
        let held = self.orders.released.wait_while(self.state(), |state| state.held);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts one flush.
    ///
    /// # Errors
    /// The failure that this flush is to meet; it has come to pass then.
    pub fn strike(&self) -> io::Result<()> {
        let mut state = self.state();
        let Some(fault) = state.fault.as_mut() else { return Ok(()) };
        if let Some(left) = fault.after.checked_sub(1) {
            fault.after = left;
            return Ok(());
        }
        let errno = fault.errno;
        state.fault = None;
        Err(io::Error::from_raw_os_error(errno))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.orders.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backend that meets [`StorageFaults`] before it reaches storage. A machine that nobody gives faults to does without it.
#[derive(Debug)]
pub struct FaultyFlush {
    backend: Box<dyn FlushBackend>,
    faults: StorageFaults,
}

impl FaultyFlush {
    /// Puts the faults in front of a backend.
    #[must_use]
    pub fn new(backend: Box<dyn FlushBackend>, faults: StorageFaults) -> Self {
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

#[cfg(test)]
mod test {
    use std::num::NonZero;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::StorageFaults;

    fn errno(faults: &StorageFaults) -> Option<i32> {
        faults.strike().err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn fault_strikes_the_nth_flush_once_and_a_later_order_replaces_it() {
        let faults = StorageFaults::default();
        assert_eq!(errno(&faults), None);
        faults.fail_nth(NonZero::new(2).expect("not 0"), libc::EIO);
        assert_eq!(errno(&faults), None);
        faults.fail_nth(NonZero::new(2).expect("not 0"), libc::EDQUOT);
        assert_eq!([errno(&faults), errno(&faults), errno(&faults)], [None, Some(libc::EDQUOT), None]);
    }

    #[test]
    fn held_storage_waits_until_it_is_released() {
        let faults = StorageFaults::default();
        faults.wait_released();
        faults.hold();
        let (sender, passed) = mpsc::channel();
        let waiting = faults.clone();
        let thread = std::thread::spawn(move || {
            waiting.wait_released();
            sender.send(()).expect("the test listens");
        });
        passed.recv_timeout(Duration::from_millis(50)).expect_err("storage is held");
        faults.release();
        passed.recv_timeout(Duration::from_secs(20)).expect("storage is released");
        thread.join().expect("no panic");
    }
}
