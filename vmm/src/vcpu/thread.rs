//! The thread that runs a vCPU.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use kvm_bindings::kvm_guest_debug;
use kvm_ioctls::VcpuFd;
use wirevm_abi::request::VcpuStart;
use wirevm_devices::bus::{Bus, Signal};

use super::exit::{self, RamAddresses, Step};
use super::kick::Kicker;
use super::meter::Meter;
use super::state::enter;
use crate::interrupts::Interrupts;
use crate::outcome::Outcome;
use crate::vm::{InternalError, internal_error};

/// What another thread asks of a vCPU; one that runs looks whenever it is kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Enter the guest for the first time. Means nothing to a vCPU that runs.
    Start(VcpuStart),
    /// Leave the guest for good.
    Stop,
}

/// What a vCPU tells its machine.
pub trait VcpuListener: Send + Sync {
    /// The vCPU enters the guest next, for the first time.
    fn on_first_entry(&self);
    /// The guest takes commands; `instructions` were carried out so far, where somebody counts them.
    fn on_ready(&self, instructions: Option<u64>);
    /// The vCPU will not run again, for this reason.
    fn on_end(&self, outcome: Outcome);
    /// The guest left a report, says that vCPU.
    fn read_report(&self, vcpu: usize) -> Outcome;
}

/// Everything a vCPU's thread needs.
pub struct VcpuContext {
    /// Its number.
    pub index: usize,
    /// The vCPU, set up but for what [`Command::Start`] says.
    pub vcpu: VcpuFd,
    /// The port bus.
    pub bus: Arc<Bus>,
    /// Where devices' interrupts go; it says there when it is outside the guest.
    pub interrupts: Arc<Interrupts>,
    /// Counts what it carries out; all vCPUs share it.
    pub meter: Arc<Meter>,
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

/// Waits for a vCPU's start, runs it until it ends or is told to stop, and tells the listener why it ended.
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
    let error =
        |context: &VcpuContext, reason| Outcome::VcpuError { reason: format!("vCPU {}: {reason}", context.index) };
    let Ok(Command::Start(start)) = context.commands.recv() else { return Outcome::Stopped };
    if let Err(refused) = enter(&context.vcpu, start) {
        return error(context, refused.to_string());
    }
    let mut stepping = context.meter.steps_at_first();
    context.listener.on_first_entry();
    loop {
        match context.commands.try_recv() {
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Outcome::Stopped,
            Ok(Command::Start(_)) | Err(TryRecvError::Empty) => (),
        }
        if stepping && !context.meter.is_stepping() {
            stepping = false;
            if let Err(refused) = context.vcpu.set_guest_debug(&kvm_guest_debug::default()) {
                return error(context, format!("single-stepping does not end: {refused}"));
            }
        }
        let step = match context.vcpu.run() {
            Ok(exit) => {
                let _away = context.interrupts.leave(context.index);
                let began = Instant::now();
                let step = exit::handle(context.index, exit, &context.bus, context.ram);
                context.meter.handled(began.elapsed());
                step
            }
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
            Step::Stepped if stepping => context.meter.step(),
            Step::Stepped => return error(context, "a debug exit that nobody asked for".to_owned()),
            Step::Signal(Signal::Ready) => {
                context.listener.on_ready(context.meter.instructions());
                context.meter.end_stepping();
            }
            Step::Signal(Signal::Exit { code }) => return Outcome::Exit { code },
            Step::Signal(Signal::Crashed) => return context.listener.read_report(context.index),
            Step::Signal(Signal::BackingLost) => return Outcome::BackingLost { address: None },
            Step::BackingLost(address) => return Outcome::BackingLost { address },
            Step::TripleFault => return Outcome::TripleFault { state: state_of(context) },
            Step::Unhandled(reason) => {
                return Outcome::VcpuError { reason: format!("{reason}; {}", describe(context)) };
            }
        }
    }
}

fn state_of(context: &VcpuContext) -> String {
    let index = context.index;
    match (context.vcpu.get_regs(), context.vcpu.get_sregs()) {
        (Ok(registers), Ok(special)) => format!(
            "vCPU {index}: rip {:#x}, rsp {:#x}, rflags {:#x}, cr2 {:#x}, cr3 {:#x}",
            registers.rip, registers.rsp, registers.rflags, special.cr2, special.cr3
        ),
        _ => format!("vCPU {index}, whose registers cannot be read"),
    }
}

/// Registers, and the instruction that KVM could not emulate if it says so.
fn describe(context: &mut VcpuContext) -> String {
    let state = state_of(context);
    match internal_error(context.vcpu.get_kvm_run()) {
        Some(InternalError { instruction: Some(bytes), .. }) => {
            format!("instruction {bytes:02x?} cannot be emulated, {state}")
        }
        Some(InternalError { suberror, .. }) => format!("internal error {suberror}, {state}"),
        None => state,
    }
}
