//! The machine's way to its vCPUs: start one, stop and kick all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use wirevm_abi::Status;
use wirevm_abi::request::VcpuStart;
use wirevm_devices::hypercall::VcpuStarter;

use super::kick::Kicker;
use super::thread::Command;

/// Commands that can wait for a vCPU: its one start and its stop, so neither is ever lost.
const COMMANDS: usize = 2;

#[derive(Debug)]
struct Handle {
    commands: SyncSender<Command>,
    kicker: Arc<Kicker>,
    /// Whether its one start was taken.
    is_started: AtomicBool,
}

/// All vCPUs of a machine, by index.
#[derive(Debug)]
pub struct VcpuHandles(Vec<Handle>);

impl VcpuHandles {
    /// Returns the way to `count` vCPUs, and for each of them, in order, where its commands come out.
    #[must_use]
    pub fn new(count: u32) -> (Self, Vec<Receiver<Command>>) {
        let handle = |_| {
            let (commands, receiver) = sync_channel(COMMANDS);
            (Handle { commands, kicker: Arc::default(), is_started: AtomicBool::new(false) }, receiver)
        };
        let (handles, receivers) = (0..count).map(handle).unzip();
        (Self(handles), receivers)
    }

    /// Returns how each vCPU is kicked, by index.
    pub fn kickers(&self) -> impl Iterator<Item = &Arc<Kicker>> {
        self.0.iter().map(|handle| &handle.kicker)
    }

    /// Tells every vCPU to leave the guest for good, whether it runs, waits to be started or has ended.
    pub fn stop_all(&self) {
        for handle in &self.0 {
            if handle.commands.try_send(Command::Stop).is_err() {
                // It was told before, or its thread is gone.
            }
        }
        // One that is told while it runs looks when it is kicked.
        self.kick_all();
    }

    /// Kicks every vCPU that lives.
    pub fn kick_all(&self) {
        self.kickers().for_each(|kicker| kicker.kick());
    }
}

impl VcpuStarter for VcpuHandles {
    fn start(&self, start: VcpuStart) -> Status {
        let handle = usize::try_from(start.vcpu).ok().and_then(|index| self.0.get(index));
        let Some(handle) = handle else { return Status::INVALID_ARGUMENT };
        if handle.is_started.swap(true, Ordering::AcqRel) {
            return Status::BUSY;
        }
        if handle.commands.try_send(Command::Start(start)).is_err() {
            // Its thread is gone: the machine has ended, and nobody is left to read this answer.
            return Status::RESOURCE_SHORTAGE;
        }
        Status::OK
    }
}

#[cfg(test)]
mod test {
    use std::sync::mpsc::TryRecvError;

    use wirevm_abi::Status;
    use wirevm_abi::request::VcpuStart;
    use wirevm_devices::hypercall::VcpuStarter;

    use super::VcpuHandles;
    use crate::vcpu::Command;

    fn start(vcpu: u32) -> VcpuStart {
        VcpuStart { vcpu, entry: 0x1000, argument: 7 }
    }

    #[test]
    fn vcpu_is_started_once_and_only_where_it_is() {
        let (handles, receivers) = VcpuHandles::new(3);
        for missing in [3, 16, u32::MAX] {
            assert_eq!(handles.start(start(missing)), Status::INVALID_ARGUMENT);
        }
        assert_eq!(handles.start(start(1)), Status::OK);
        assert_eq!(handles.start(VcpuStart { entry: 0x2000, ..start(1) }), Status::BUSY);
        assert_eq!(receivers[1].try_recv(), Ok(Command::Start(start(1))));
        assert_eq!(handles.start(start(1)), Status::BUSY, "however far it has come");
        for receiver in receivers {
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        }
    }

    #[test]
    fn stop_reaches_all_and_comes_behind_a_start() {
        let (handles, receivers) = VcpuHandles::new(2);
        assert_eq!(handles.start(start(1)), Status::OK);
        for _ in 0..5 {
            handles.stop_all();
        }
        assert_eq!(receivers[0].try_recv(), Ok(Command::Stop));
        assert_eq!(receivers[1].try_recv(), Ok(Command::Start(start(1))));
        assert_eq!(receivers[1].try_recv(), Ok(Command::Stop));
    }

    #[test]
    fn start_of_a_vcpu_whose_thread_is_gone_is_no_success() {
        let (handles, receivers) = VcpuHandles::new(2);
        drop(receivers);
        assert_eq!(handles.start(start(1)), Status::RESOURCE_SHORTAGE);
        handles.stop_all();
    }
}
