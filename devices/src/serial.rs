//! The 16550 console on the bus.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{PortDevice, Signal};

/// Raises the console's interrupt.
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The console: what the guest writes goes to an output, keys come in through [`SerialConsole::enqueue`].
pub struct SerialConsole {
    uart: Mutex<Serial<Interrupt, NoEvents, Box<dyn Write + Send>>>,
}

impl fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConsole").finish_non_exhaustive()
    }
}

impl SerialConsole {
    /// Returns a console that writes to `output` and raises its interrupt through `interrupt`.
    #[must_use]
    pub fn new(interrupt: EventFd, output: Box<dyn Write + Send>) -> Self {
        Self { uart: Mutex::new(Serial::new(Interrupt(interrupt), output)) }
    }

    /// Hands keys to the guest; returns how many fitted into the receive buffer.
    ///
    /// # Errors
    /// When the interrupt could not be raised.
    pub fn enqueue(&self, keys: &[u8]) -> io::Result<usize> {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        let room = uart.fifo_capacity().min(keys.len());
        let fitting = keys.get(..room).unwrap_or(&[]);
        if fitting.is_empty() {
            return Ok(0);
        }
        uart.enqueue_raw_bytes(fitting).map_err(|error| io::Error::other(error.to_string()))
    }
}

impl PortDevice for SerialConsole {
    fn read(&self, _: usize, offset: u16, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, _: usize, offset: u16, data: &[u8]) -> Signal {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = uart.write(offset, *byte) {
                // A closed pipe at the other end is the user's choice; the guest goes on.
                log::debug!("the console's output is lost: {error}");
            }
        }
        Signal::None
    }
}

#[cfg(test)]
mod test {
    use super::SerialConsole;
    use crate::bus::{PortDevice, Signal};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use vmm_sys_util::eventfd::EventFd;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_go_out_and_keys_come_in_with_an_interrupt() {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let output = Output::default();
        let console = SerialConsole::new(interrupt.try_clone().expect("clone"), Box::new(output.clone()));
        assert_eq!(console.write(0, 0, b"A"), Signal::None);
        assert_eq!(console.write(0, 0, b"BC"), Signal::None);
        assert_eq!(*output.0.lock().expect("lock"), b"A");

        assert_eq!(console.write(0, 1, &[1]), Signal::None);
        assert_eq!(console.enqueue(b"xy").expect("enqueued"), 2);
        assert_eq!(interrupt.read().expect("raised"), 1);
        let mut byte = [0];
        console.read(0, 0, &mut byte);
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn keys_beyond_the_buffer_are_left_to_the_caller() {
        let console = SerialConsole::new(EventFd::new(libc::EFD_NONBLOCK).expect("eventfd"), Box::new(io::sink()));
        let taken = console.enqueue(&[7; 1000]).expect("enqueued");
        assert!(taken > 0 && taken < 1000);
        assert_eq!(console.enqueue(b"x").expect("enqueued"), 0);
    }
}
