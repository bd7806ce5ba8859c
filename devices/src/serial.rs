//! The 16550 console on the bus.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::{PortDevice, Signal};
use crate::interrupt::Interrupt;
use crate::log_limit::LogLimit;

/// Raises the console's interrupt.
struct Raise(Box<dyn Interrupt>);

impl Trigger for Raise {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.raise()
    }
}

/// The console: what the guest writes goes to an output, keys come in through [`SerialConsole::enqueue`].
///
/// An output may block for as long as it likes, as a stopped terminal or a full pipe does. It has a lock of its own,
/// so only the vCPU that writes waits for it: keys still come in, and other vCPUs still read. The two locks are never
/// held together.
pub struct SerialConsole {
    /// What is sent stays in the vector until the write that sent it is over. Nothing blocks under this lock.
    uart: Mutex<Serial<Raise, NoEvents, Vec<u8>>>,
    output: Mutex<Box<dyn Write + Send>>,
    unraised: LogLimit,
    lost: LogLimit,
}

impl fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConsole").finish_non_exhaustive()
    }
}

impl SerialConsole {
    /// Returns a console that writes to `output` and raises its interrupt through `interrupt`.
    #[must_use]
    pub fn new(interrupt: Box<dyn Interrupt>, output: Box<dyn Write + Send>) -> Self {
        Self {
            uart: Mutex::new(Serial::new(Raise(interrupt), Vec::new())),
            output: Mutex::new(output),
            unraised: LogLimit::default(),
            lost: LogLimit::default(),
        }
    }

    /// Hands keys to the guest; returns how many fitted into the receive buffer. Does not wait for the output.
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

    /// Writes a register; returns the byte that goes out, if that sends one.
    fn write_register(&self, offset: u8, value: u8) -> Option<u8> {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = uart.write(offset, value)
            && let Some(number) = self.unraised.count()
        {
            log::debug!("the console's interrupt cannot be raised ({number} times so far): {error}");
        }
        uart.writer_mut().pop()
    }

    fn send(&self, byte: u8) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&[byte])?;
        output.flush()
    }
}

impl PortDevice for SerialConsole {
    fn read(&self, _: usize, offset: u16, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset);
        }
    }

    fn write(&self, _: usize, offset: u16, data: &[u8]) -> Signal {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset))
            && let Some(sent) = self.write_register(offset, *byte)
            && let Err(error) = self.send(sent)
            && let Some(number) = self.lost.count()
        {
            // A closed pipe at the other end is the user's choice; the guest goes on.
            log::debug!("a byte of the console's output is lost ({number} times so far): {error}");
        }
        Signal::None
    }
}

#[cfg(test)]
mod test {
    use super::SerialConsole;
    use crate::bus::{PortDevice, Signal};
    use std::io::{self, Write};
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;
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

    /// Tells when a write begins and holds it until it is let go.
    struct Stopped {
        began: Sender<()>,
        go_on: Receiver<()>,
    }

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(()).expect("the test listens");
            self.go_on.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_that_blocks_keeps_neither_keys_nor_reads_waiting() {
        let limit = Duration::from_secs(20);
        let (began, has_begun) = mpsc::channel();
        let (let_go, go_on) = mpsc::channel();
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let console = Arc::new(SerialConsole::new(Box::new(interrupt), Box::new(Stopped { began, go_on })));
        let writer = thread::spawn({
            let console = Arc::clone(&console);
            move || console.write(0, 0, b"A")
        });
        has_begun.recv_timeout(limit).expect("the byte is on its way");
        let (done, is_done) = mpsc::channel();
        let typist = thread::spawn({
            let console = Arc::clone(&console);
            move || {
                let taken = console.enqueue(b"xy").expect("enqueued");
                let mut key = [0];
                console.read(1, 0, &mut key);
                done.send((taken, key)).expect("the test listens");
            }
        });
        assert_eq!(is_done.recv_timeout(limit), Ok((2, *b"x")), "while the output is stopped");
        assert!(!writer.is_finished());
        let_go.send(()).expect("the output waits");
        assert_eq!(writer.join().expect("no panic"), Signal::None);
        typist.join().expect("no panic");
    }

    #[test]
    fn output_that_fails_does_not_stop_the_guest_or_its_interrupt() {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let (began, has_begun) = mpsc::channel();
        let (_, go_on) = mpsc::channel();
        let raised = interrupt.try_clone().expect("clone");
        let console = SerialConsole::new(Box::new(raised), Box::new(Stopped { began, go_on }));
        // Asks for an interrupt when the next byte can go.
        assert_eq!(console.write(0, 1, &[2]), Signal::None);
        for byte in *b"ABC" {
            let mut identification = [0];
            console.read(0, 2, &mut identification);
            assert_eq!(console.write(0, 0, &[byte]), Signal::None);
            assert!(interrupt.read().expect("raised") > 0);
        }
        assert_eq!(has_begun.try_iter().count(), 3);
        assert_eq!(console.lost.count(), Some(4), "three were counted before");
    }

    #[test]
    fn bytes_go_out_and_keys_come_in_with_an_interrupt() {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let output = Output::default();
        let console = SerialConsole::new(Box::new(interrupt.try_clone().expect("clone")), Box::new(output.clone()));
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
        let console =
            SerialConsole::new(Box::new(EventFd::new(libc::EFD_NONBLOCK).expect("eventfd")), Box::new(io::sink()));
        let taken = console.enqueue(&[7; 1000]).expect("enqueued");
        assert!(taken > 0 && taken < 1000);
        assert_eq!(console.enqueue(b"x").expect("enqueued"), 0);
    }
}
