//! Locks that fail, or take their time, because a user has asked for it.

use std::io;

use super::method::{LockFailure, PinMethod, PinMethodError};
use crate::faults::HostFaults;
use crate::page_run::PageRun;

/// A method whose locks meet [`HostFaults`] before they reach the host. A machine that nobody gives faults to does
/// without it.
///
/// One call is what one `mlock` is: a lock of one run of pages. Locks that are never asked for, because the quota or the map
/// entries are used up before, do not count. A vCPU that waits for a lock that is held stays outside the guest, and its machine does not
/// end before.
#[derive(Debug)]
pub struct FaultyMethod<M> {
    method: M,
    faults: HostFaults,
}

impl<M: PinMethod> FaultyMethod<M> {
    /// Puts the faults in front of a method.
    #[must_use]
    pub const fn new(method: M, faults: HostFaults) -> Self {
        Self { method, faults }
    }
}

impl<M: PinMethod> PinMethod for FaultyMethod<M> {
    /// A lock that is to fail locks nothing.
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        let strike = |(index, run): (usize, &PageRun)| {
            self.faults.wait_released();
            let source = self.faults.strike().err()?;
            Some(LockFailure { index, source: PinMethodError::Lock { run: *run, source } })
        };
        match runs.iter().enumerate().find_map(strike) {
            None => self.method.lock(runs),
            Some(failure) => {
                self.method.lock(runs.get(..failure.index).unwrap_or(&[]))?;
                Err(failure)
            }
        }
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        self.method.unlock(runs)
    }

    /// While a fault is to come, locks are to be those that each wire asks for.
    fn is_batched(&self) -> bool {
        !self.faults.is_set() && self.method.is_batched()
    }
}

#[cfg(test)]
mod test {
    use std::num::NonZero;

    use wirevm_abi::{RamRange, Status};

    use super::FaultyMethod;
    use crate::faults::HostFaults;
    use crate::pin::scripted::{Asked, ScriptedPin};
    use crate::pin::{PinConfig, PinError, PinService};

    const PAGES: u64 = 64;

    fn nth(number: u64) -> NonZero<u64> {
        NonZero::new(number).expect("not 0")
    }

    fn range(first: u64, pages: u64) -> RamRange {
        RamRange::new(first, pages, PAGES).expect("inside RAM")
    }

    fn service(quota_pages: u64) -> (ScriptedPin, HostFaults, PinService) {
        let (host, faults) = (ScriptedPin::default(), HostFaults::default());
        let method = FaultyMethod::new(host.clone(), faults.clone());
        let config = PinConfig { ram_pages: PAGES, quota_pages, map_entry_budget: 100 };
        (host, faults, PinService::new(Box::new(method), config))
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
    fn fault_strikes_the_wire_whose_lock_it_is_though_several_are_asked_for() {
        let (host, faults, pins) = service(PAGES);
        faults.fail_nth(nth(2), libc::ENOMEM);
        // They touch: together they would be one lock.
        let answers = pins.wire_each(&[range(0, 2), range(2, 2), range(4, 2)]);
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(host.with(|script| script.locked.iter().copied().collect::<Vec<_>>()), [0, 1, 4, 5]);
        host.take_asked();
        assert!(pins.unwire_each(&[range(0, 2), range(4, 2)]).iter().all(Result::is_ok));
        assert!(pins.wire_each(&[range(0, 2), range(2, 2)]).iter().all(Result::is_ok));
        assert_eq!(host.take_asked().len(), 3, "without a fault to come they are asked for together");
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
