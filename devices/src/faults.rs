//! Calls of the host that fail, or take their time, because a user has asked for it: how a guest copes with a host that refuses, or with a bad
//! disk, is then a matter of one line in a script.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What calls of one kind are to meet instead of doing their work; clones share it.
///
/// What counts as one call is said by who asks: [`FaultyMethod`](crate::pin::FaultyMethod) for locks of pages,
/// [`FaultyFlush`](crate::sync::FaultyFlush) for storage.
#[derive(Clone, Debug, Default)]
pub struct HostFaults {
    orders: Arc<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    is_held: bool,
    /// Calls that wait to be released.
    waiting: u64,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Calls that still go by before it.
    after: u64,
    errno: i32,
}

impl HostFaults {
    /// Lets the `nth` call from now on fail with that errno, once. An order replaces one that has not come to pass.
    pub fn fail_nth(&self, nth: NonZero<u64>, errno: i32) {
        self.state().fault = Some(Fault { after: nth.get() - 1, errno });
    }

    /// Lets calls hang: none is made from now on. One that has been made is finished.
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    /// Lets calls go on.
    pub fn release(&self) {
        self.state().is_held = false;
        self.orders.released.notify_all();
    }

    /// Waits for as long as calls are held.
    pub fn wait_released(&self) {
        let mut state = self.state();
        state.waiting += 1;
        let held = self.orders.released.wait_while(state, |state| state.is_held);
        held.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }

    /// Returns how many calls wait to be released.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state().waiting
    }

    /// Tells whether a failure is to come.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.state().fault.is_some()
    }

    /// Counts one call.
    ///
    /// # Errors
    /// The failure that this call is to meet; it has come to pass then.
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

#[cfg(test)]
mod test {
    use std::num::NonZero;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::HostFaults;

    fn nth(number: u64) -> NonZero<u64> {
        NonZero::new(number).expect("not 0")
    }

    fn errno(faults: &HostFaults) -> Option<i32> {
        faults.strike().err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn fault_strikes_the_nth_call_once() {
        let faults = HostFaults::default();
        assert_eq!(errno(&faults), None);
        faults.fail_nth(nth(2), libc::ENOMEM);
        assert_eq!([errno(&faults), errno(&faults), errno(&faults)], [None, Some(libc::ENOMEM), None]);
    }

    #[test]
    fn later_order_replaces_one_that_has_not_come_to_pass() {
        let faults = HostFaults::default();
        faults.fail_nth(nth(2), libc::EIO);
        assert_eq!(errno(&faults), None);
        faults.fail_nth(nth(2), libc::EDQUOT);
        assert_eq!([errno(&faults), errno(&faults), errno(&faults)], [None, Some(libc::EDQUOT), None]);
    }

    #[test]
    fn held_call_waits_until_it_is_released() {
        let faults = HostFaults::default();
        faults.wait_released();
        faults.hold();
        let (sender, passed) = mpsc::channel();
        let waiting = faults.clone();
        let thread = std::thread::spawn(move || {
            waiting.wait_released();
            sender.send(()).expect("the test listens");
        });
        let begun = Instant::now();
        while faults.waiting() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not wait");
            std::thread::sleep(Duration::from_millis(1));
        }
        passed.recv_timeout(Duration::from_millis(50)).expect_err("calls are held");
        faults.release();
        passed.recv_timeout(Duration::from_secs(20)).expect("calls are released");
        thread.join().expect("no panic");
        assert_eq!(faults.waiting(), 0);
    }
}
