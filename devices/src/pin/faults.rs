//! Locks that fail, or take their time, because a user has asked for it: how a guest copes with a host that refuses is then a matter of
//! one line in a script instead of a host that is really out of memory.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::method::{PinMethod, PinMethodError};
use crate::page_run::PageRun;

/// What a lock of a run is to meet; clones share it.
///
/// One lock is what one `mlock` is: one run of pages. Locks that are never asked for, because the quota or the map
/// entries are used up before, do not count.
#[derive(Clone, Debug, Default)]
pub struct LockFaults {
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
    /// Locks that wait to be released.
    waiting: u64,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Locks that still go by before it.
    after: u64,
    errno: i32,
}

impl LockFaults {
    /// Lets the `nth` lock from now on fail with that errno, once. An order replaces one that has not come to pass.
    pub fn fail_nth(&self, nth: NonZero<u64>, errno: i32) {
        self.state().fault = Some(Fault { after: nth.get() - 1, errno });
    }

    /// Lets locks hang, as on a host that is short of memory: none is made from now on. One that has been made is finished.
    /// A vCPU that waits for one stays outside the guest, and its machine does not end before.
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    /// Lets locks go on.
    pub fn release(&self) {
        self.state().is_held = false;
        self.orders.released.notify_all();
    }

    /// Waits for as long as locks are held.
    pub fn wait_released(&self) {
        let mut state = self.state();
        state.waiting += 1;
        let held = self.orders.released.wait_while(state, |state| state.is_held);
        held.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }

    /// Returns how many locks wait to be released.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state().waiting
    }

    /// Counts one lock.
    ///
    /// # Errors
    /// The failure that this lock is to meet; it has come to pass then.
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

/// A method whose locks meet [`LockFaults`] before they reach the host. A machine that nobody gives faults to does
/// without it.
#[derive(Debug)]
pub struct FaultyMethod<M> {
    method: M,
    faults: LockFaults,
}

impl<M: PinMethod> FaultyMethod<M> {
    /// Puts the faults in front of a method.
    #[must_use]
    pub const fn new(method: M, faults: LockFaults) -> Self {
        Self { method, faults }
    }
}

impl<M: PinMethod> PinMethod for FaultyMethod<M> {
    /// A lock that is to fail locks nothing.
    fn lock(&self, run: PageRun) -> Result<(), PinMethodError> {
        self.faults.wait_released();
        self.faults.strike().map_err(|source| PinMethodError::Lock { run, source })?;
        self.method.lock(run)
    }

    fn unlock(&self, run: PageRun) -> io::Result<()> {
        self.method.unlock(run)
    }
}

#[cfg(test)]
mod test {
    use std::num::NonZero;

    use wirevm_abi::{RamRange, Status};

    use super::{FaultyMethod, LockFaults};
    use crate::pin::scripted::{Asked, ScriptedPin};
    use crate::pin::{PinConfig, PinError, PinService};

    const PAGES: u64 = 64;

    fn nth(number: u64) -> NonZero<u64> {
        NonZero::new(number).expect("not 0")
    }

    fn range(first: u64, pages: u64) -> RamRange {
        RamRange::new(first, pages, PAGES).expect("inside RAM")
    }

    fn service(quota_pages: u64) -> (ScriptedPin, LockFaults, PinService) {
        let (host, faults) = (ScriptedPin::default(), LockFaults::default());
        let method = FaultyMethod::new(host.clone(), faults.clone());
        let config = PinConfig { ram_pages: PAGES, quota_pages, map_entry_budget: 100 };
        (host, faults, PinService::new(Box::new(method), config))
    }

    fn errno(faults: &LockFaults) -> Option<i32> {
        faults.strike().err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn fault_strikes_the_nth_lock_once() {
        let faults = LockFaults::default();
        assert_eq!(errno(&faults), None);
        faults.fail_nth(nth(2), libc::ENOMEM);
        assert_eq!([errno(&faults), errno(&faults), errno(&faults)], [None, Some(libc::ENOMEM), None]);
    }

    #[test]
    fn later_order_replaces_one_that_has_not_come_to_pass() {
        let faults = LockFaults::default();
        faults.fail_nth(nth(2), libc::EAGAIN);
        assert_eq!(errno(&faults), None);
        faults.fail_nth(nth(2), libc::EPERM);
        assert_eq!([errno(&faults), errno(&faults), errno(&faults)], [None, Some(libc::EPERM), None]);
    }

    #[test]
    fn service_answers_a_fault_by_its_errno_and_leaves_nothing_locked() {
        for (errno, status) in [
            (libc::ENOMEM, Status::RESOURCE_SHORTAGE),
            (libc::EAGAIN, Status::RESOURCE_SHORTAGE),
            (libc::EPERM, Status::RESOURCE_SHORTAGE),
            (libc::EIO, Status::IO_ERROR),
        ] {
            let (host, faults, pins) = service(PAGES);
            faults.fail_nth(nth(2), errno);
            let error = pins.wire_all(&[range(0, 2), range(8, 2), range(16, 2)]).expect_err("the second lock");
            assert_eq!(error.status(), status, "{error}");
            assert_eq!(host.with(|script| script.locked.len()), 0);
            let first = host.take_asked().into_iter().next();
            assert!(matches!(first, Some(Asked::Lock(run)) if run.first() == 0), "{first:?}");
            pins.wire_all(&[range(0, 2), range(8, 2), range(16, 2)]).expect("it was once");
            assert_eq!(host.with(|script| script.locked.len()), 6);
        }
    }

    #[test]
    fn wires_that_ask_the_host_for_nothing_do_not_count() {
        let (_, faults, pins) = service(4);
        pins.wire(range(0, 4)).expect("all of the quota");
        faults.fail_nth(nth(1), libc::ENOMEM);
        assert!(matches!(pins.wire(range(8, 1)), Err(PinError::Quota { .. })));
        pins.wire(range(0, 4)).expect("counted, not locked");
        pins.unwire_all(&[range(0, 4), range(0, 4)]).expect("unwired");
        assert!(matches!(pins.wire(range(8, 1)), Err(PinError::Shortage { .. })));
    }
}
