//! The thread that runs a vCPU.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{Receiver, TryRecvError};

use kvm_bindings::kvm_guest_debug;
use kvm_ioctls::VcpuFd;
use wirevm_devices::bus::{Bus, Signal};

use super::exit::{self, RamAddresses, Step};
use super::kick::Kicker;
use crate::outcome::Outcome;
use crate::vm::{InternalError, VcpuStats, internal_error};

/// What another thread asks of a vCPU; it looks whenever it is kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Leave the guest for good.
    Stop,
}

/// What a vCPU tells its machine.
pub trait VcpuListener: Send + Sync {
    /// The guest takes commands; `instructions` were carried out so far, where somebody counts them.
    fn on_ready(&self, instructions: Option<u64>);
    /// The vCPU will not run again, for this reason.
    fn on_end(&self, outcome: Outcome);
    /// The guest left a report.
    fn read_report(&self) -> Outcome;
}

/// Everything a vCPU's thread needs.
pub struct VcpuContext {
    /// Its number.
    pub index: usize,
    /// The vCPU, ready to run.
    pub vcpu: VcpuFd,
    /// The port bus.
    pub bus: Arc<Bus>,
    /// What KVM counts of it, where it does.
    pub stats: Option<Arc<VcpuStats>>,
    /// Whether the guest runs one instruction at a time until it takes commands.
    pub single_step: bool,
    /// Where RAM is.
    pub ram: RamAddresses,
    /// Where its commands come from.
    pub commands: Receiver<Command>,
    /// How others reach it.
    pub kicker: Arc<Kicker>,
    /// Whom it tells.
    pub listener: Arc<dyn VcpuListener>,
}

impl std::fmt::Debug for VcpuContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuContext").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Runs a vCPU until it ends or is told to stop, and tells the listener why it ended.
pub fn run(mut context: VcpuContext) {
    let kicker = Arc::clone(&context.kicker);
    let reachable = kicker.attach(&mut context.vcpu);
    // Whoever waits for the machine waits for this thread's word, even if the thread ends over a bug of ours.
    let outcome = catch_unwind(AssertUnwindSafe(|| run_until_end(&mut context)))
        .unwrap_or_else(|_| Outcome::VcpuError { reason: "its thread panicked".to_owned() });
    drop(reachable);
    context.listener.on_end(outcome);
}

fn run_until_end(context: &mut VcpuContext) -> Outcome {
    let mut steps = 0;
    loop {
        match context.commands.try_recv() {
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Outcome::Stopped,
            Err(TryRecvError::Empty) => (),
        }
        let step = match context.vcpu.run() {
            Ok(exit) => exit::handle(context.index, exit, &context.bus, context.ram),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => {
                    context.vcpu.set_kvm_immediate_exit(0);
                    // The flag goes down before the next look for commands, or a kick in between would be lost.
                    fence(Ordering::SeqCst);
                    Step::Continue
                }
                libc::EFAULT | libc::EHWPOISON => Step::BackingLost(None),
                _ => Step::Unhandled(format!("KVM_RUN failed: {error}")),
            },
        };
        match step {
            Step::Continue | Step::Signal(Signal::None) => (),
            Step::Stepped if context.single_step => steps += 1,
            Step::Stepped => return Outcome::VcpuError { reason: "a debug exit that nobody asked for".to_owned() },
            Step::Signal(Signal::Ready) => {
                let stats = context.stats.as_ref();
                let counted = stats.and_then(|stats| stats.emulated_instructions());
                context.listener.on_ready(if context.single_step { Some(steps) } else { counted });
                if let Err(error) = stop_stepping(context) {
                    return Outcome::VcpuError { reason: format!("single-stepping does not end: {error}") };
                }
            }
            Step::Signal(Signal::Exit { code }) => return Outcome::Exit { code },
            Step::Signal(Signal::Crashed) => return context.listener.read_report(),
            Step::Signal(Signal::BackingLost) => return Outcome::BackingLost { address: None },
            Step::BackingLost(address) => return Outcome::BackingLost { address },
            Step::TripleFault => return Outcome::TripleFault { state: state_of(&context.vcpu) },
            Step::Unhandled(reason) => {
                return Outcome::VcpuError { reason: format!("{reason}; {}", describe(&mut context.vcpu)) };
            }
        }
    }
}

/// Lets the guest run at its own pace from here on.
fn stop_stepping(context: &mut VcpuContext) -> Result<(), kvm_ioctls::Error> {
    if !std::mem::take(&mut context.single_step) {
        return Ok(());
    }
    context.vcpu.set_guest_debug(&kvm_guest_debug::default())
}

fn state_of(vcpu: &VcpuFd) -> String {
    match (vcpu.get_regs(), vcpu.get_sregs()) {
        (Ok(registers), Ok(special)) => format!(
            "rip {:#x}, rsp {:#x}, rflags {:#x}, cr2 {:#x}, cr3 {:#x}",
            registers.rip, registers.rsp, registers.rflags, special.cr2, special.cr3
        ),
        _ => "its registers cannot be read".to_owned(),
    }
}

/// Registers, and the instruction that KVM could not emulate if it says so.
fn describe(vcpu: &mut VcpuFd) -> String {
    let state = state_of(vcpu);
    match internal_error(vcpu.get_kvm_run()) {
        Some(InternalError { instruction: Some(bytes), .. }) => {
            format!("instruction {bytes:02x?} cannot be emulated, {state}")
        }
        Some(InternalError { suberror, .. }) => format!("internal error {suberror}, {state}"),
        None => state,
    }
}
