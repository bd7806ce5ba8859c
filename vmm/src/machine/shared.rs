//! What a machine's threads share: how far it has come, and how it ends.

use std::io;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::report::Report;
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::ramfile::RamFile;
use zerocopy::{FromZeros, IntoBytes};

use crate::boot::BootLayout;
use crate::memory::GuestRam;
use crate::outcome::{GuestReport, Outcome};
use crate::vcpu::{VcpuHandles, VcpuListener};

/// How booting went.
#[derive(Clone, Copy, Debug)]
pub struct BootReport {
    /// Instructions of all vCPUs from entry until the guest took commands, where KVM emulates ring 0 and so counts them, or where the
    /// machine was started to count them one by one.
    pub instructions: Option<u64>,
    /// Time from the first vCPU's start until the guest took commands.
    pub elapsed: Duration,
}

#[derive(Debug, Default)]
struct Progress {
    ready: Option<BootReport>,
    outcome: Option<Outcome>,
}

/// What the machine's threads share.
#[derive(Debug)]
pub struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    ended: EventFd,
    /// When the first vCPU started.
    started: OnceLock<Instant>,
    /// When a vCPU first entered the guest: the first one, which starts the others.
    entered: OnceLock<Instant>,
    /// The way to the vCPUs.
    pub(super) vcpus: Arc<VcpuHandles>,
    memory: Arc<GuestRam>,
    ram: Arc<RamFile>,
    layout: BootLayout,
}

impl Shared {
    /// Returns the state of a machine that has not started.
    ///
    /// # Errors
    /// When the kernel refuses an event.
    pub fn new(
        vcpus: Arc<VcpuHandles>,
        memory: Arc<GuestRam>,
        ram: Arc<RamFile>,
        layout: BootLayout,
    ) -> io::Result<Self> {
        Ok(Self {
            progress: Mutex::default(),
            changed: Condvar::new(),
            ended: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            started: OnceLock::new(),
            entered: OnceLock::new(),
            vcpus,
            memory,
            ram,
            layout,
        })
    }

    /// Says that the first vCPU starts now, and returns when that was.
    pub fn start(&self) -> Instant {
        *self.started.get_or_init(Instant::now)
    }

    /// Returns when the guest's first instruction was about to be carried out, if it was.
    pub fn first_entry(&self) -> Option<Instant> {
        self.entered.get().copied()
    }

    /// Waits until `done` of the progress, and returns what `then` makes of it.
    fn wait<T>(&self, done: impl Fn(&Progress) -> bool, then: impl FnOnce(&Progress) -> T) -> T {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = self.changed.wait_while(progress, |progress| !done(progress));
        then(&progress.unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the guest takes commands; the outcome, when the machine ended before.
    pub fn wait_ready(&self) -> Result<BootReport, Outcome> {
        self.wait(
            |progress| progress.ready.is_some() || progress.outcome.is_some(),
            // A guest that was ready and ended since has still been ready.
            |progress| progress.ready.ok_or_else(|| progress.outcome.clone().unwrap_or(Outcome::Stopped)),
        )
    }

    /// Waits until the machine has ended and says how.
    pub fn wait_end(&self) -> Outcome {
        self.wait(
            |progress| progress.outcome.is_some(),
            |progress| progress.outcome.clone().unwrap_or(Outcome::Stopped),
        )
    }

    /// Returns the outcome if the machine has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).outcome.clone()
    }

    /// Ends the machine for that reason, unless it has ended for another.
    ///
    /// Where the RAM file is cut short that is the reason: a processor that finds no code or page tables any more gives
    /// up in any way.
    pub fn end(&self, outcome: Outcome) {
        let outcome = self.unless_cut(outcome);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.outcome.is_none() {
            log::debug!("the machine ends: {outcome}");
            progress.outcome = Some(outcome);
            if let Err(error) = self.ended.write(1) {
                log::error!("the machine's end cannot be announced: {error}");
            }
        }
        drop(progress);
        self.changed.notify_all();
        self.vcpus.stop_all();
    }

    /// Returns the outcome, or that the RAM file is cut short where it is.
    pub fn unless_cut(&self, outcome: Outcome) -> Outcome {
        if matches!(outcome, Outcome::BackingLost { .. }) || self.ram.is_intact() {
            return outcome;
        }
        log::debug!("the RAM file is cut short, and so {outcome}");
        Outcome::BackingLost { address: None }
    }

    /// Returns an event that is readable, for good, once the machine has ended.
    pub fn ended_event(&self) -> io::Result<EventFd> {
        self.ended.try_clone()
    }
}

impl VcpuListener for Shared {
    fn on_first_entry(&self) {
        self.entered.get_or_init(Instant::now);
    }

    fn on_ready(&self, instructions: Option<u64>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = self.started.get().map_or(Duration::ZERO, Instant::elapsed);
        progress.ready.get_or_insert(BootReport { instructions, elapsed });
        drop(progress);
        self.changed.notify_all();
    }

    fn on_end(&self, outcome: Outcome) {
        self.end(outcome);
    }

    fn read_report(&self, vcpu: usize) -> Outcome {
        let mut page = Report::new_zeroed();
        let read = self.layout.report_range().map(|range| self.memory.read(range, page.as_mut_bytes()));
        match read {
            Ok(Ok(())) => Outcome::Crashed(Box::new(GuestReport::new(&page, vcpu, self.layout.vcpus()))),
            _ => Outcome::BackingLost { address: Some(self.layout.report_page()) },
        }
    }
}
