//! Counts what the vCPUs of a machine carry out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvm_ioctls::VcpuFd;

use crate::vm::VcpuStats;

/// The counters of a machine's vCPUs: KVM's own, where it has them, and single steps, where they were asked for.
#[derive(Debug)]
pub struct Meter {
    /// By index of the vCPU.
    stats: Vec<Option<VcpuStats>>,
    /// Steps of all vCPUs; none where nobody asked for them.
    steps: Option<AtomicU64>,
    is_stepping: AtomicBool,
    /// Exits that this process has handled, of all vCPUs.
    handled: AtomicU64,
    /// Nanoseconds that handling them took.
    handling: AtomicU64,
}

/// What the exits of a machine's vCPUs have cost this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCost {
    /// Exits that came to this process; KVM has handled others by itself.
    pub exits: u64,
    /// Time spent on what they asked for, the services' included: neither the way out of the guest nor the way back.
    pub handling: Duration,
}

impl Meter {
    /// Opens the counters of these vCPUs, in order. `single_step` says whether they leave the guest after every instruction,
    /// until [`Meter::end_stepping`].
    #[must_use]
    pub fn new(vcpus: &[VcpuFd], single_step: bool) -> Self {
        Self {
            stats: vcpus.iter().map(VcpuStats::open).collect(),
            steps: single_step.then(AtomicU64::default),
            is_stepping: AtomicBool::new(single_step),
            handled: AtomicU64::new(0),
            handling: AtomicU64::new(0),
        }
    }

    /// Returns what KVM counts of a vCPU, where it does.
    #[must_use]
    pub fn stats(&self, vcpu: usize) -> Option<&VcpuStats> {
        self.stats.get(vcpu)?.as_ref()
    }

    /// Returns the number of instructions that KVM has emulated on all vCPUs; see [`VcpuStats::emulated_instructions`]. That
    /// of a vCPU that runs lags by what it did since it last left KVM's emulator.
    #[must_use]
    pub fn emulated_instructions(&self) -> Option<u64> {
        self.stats.iter().map(|stats| stats.as_ref()?.emulated_instructions()).sum()
    }

    /// Returns the instructions of all vCPUs so far: the steps where they are counted, else what KVM has emulated.
    #[must_use]
    pub fn instructions(&self) -> Option<u64> {
        self.steps.as_ref().map_or_else(|| self.emulated_instructions(), |steps| Some(steps.load(Ordering::Relaxed)))
    }

    /// Tells whether the vCPUs were set to leave the guest after every instruction, when they were made.
    #[must_use]
    pub const fn steps_at_first(&self) -> bool {
        self.steps.is_some()
    }

    /// Tells whether they still are to.
    #[must_use]
    pub fn is_stepping(&self) -> bool {
        self.is_stepping.load(Ordering::Acquire)
    }

    /// Counts one instruction of a vCPU that steps.
    pub fn step(&self) {
        if let Some(steps) = &self.steps {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of an exit that was handled in that time.
    pub fn handled(&self, time: Duration) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.handling.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns what the exits have cost so far.
    #[must_use]
    pub fn exit_cost(&self) -> ExitCost {
        let handling = Duration::from_nanos(self.handling.load(Ordering::Relaxed));
        ExitCost { exits: self.handled.load(Ordering::Relaxed), handling }
    }

    /// Lets every vCPU run at its own pace, from its next look on.
    pub fn end_stepping(&self) {
        self.is_stepping.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod test {
    use super::Meter;

    #[test]
    fn steps_are_counted_where_they_were_asked_for() {
        let stepped = Meter::new(&[], true);
        assert!(stepped.steps_at_first() && stepped.is_stepping());
        for _ in 0..3 {
            stepped.step();
        }
        assert_eq!(stepped.instructions(), Some(3));
        stepped.end_stepping();
        assert!(stepped.steps_at_first() && !stepped.is_stepping());
        assert!(stepped.stats(0).is_none());
    }

    #[test]
    fn one_vcpu_without_counters_leaves_no_sum() {
        let meter = Meter { stats: vec![None], ..Meter::new(&[], false) };
        meter.step();
        assert_eq!((meter.instructions(), meter.emulated_instructions()), (None, None));
        assert!(!meter.is_stepping());
    }
}
