//! The serial console: where `log` goes and where keys come from.

use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;
use wirevm_abi::port::SERIAL;

use crate::arch::{port_in, port_out_bytes};

const INTERRUPT_ENABLE: u16 = SERIAL + 1;
const MODEM_CONTROL: u16 = SERIAL + 4;
const LINE_STATUS: u16 = SERIAL + 5;
const RECEIVED: u8 = 1;

/// Writes text to the port as it is formatted.
#[derive(Debug)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The host's transmitter is always empty, so no status is polled: one instruction for the whole text.
        port_out_bytes(SERIAL, text.as_bytes());
        Ok(())
    }
}

struct Logger;

static LINE: Mutex<()> = Mutex::new(());

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // One line after the other, whoever writes them.
        let _line = LINE.lock();
        if writeln!(Console, "[{}] {}", record.level(), record.args()).is_err() {
            // The port takes everything; only a broken Display could fail, and then there is nowhere to say so.
        }
    }

    fn flush(&self) {}
}

/// Sends `log` to the console from `level` (0 off to 5 trace) up and asks for an interrupt a key.
pub fn init(level: u64) {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::Off,
        LevelFilter::Error,
        LevelFilter::Warn,
        LevelFilter::Info,
        LevelFilter::Debug,
        LevelFilter::Trace,
    ];
    let level = usize::try_from(level).ok().and_then(|level| LEVELS.get(level)).copied();
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Info));
    }
    // OUT2 lets the 16550's interrupt through; bit 0 asks for one when a byte was received.
    port_out_bytes(MODEM_CONTROL, &[0x08]);
    port_out_bytes(INTERRUPT_ENABLE, &[0x01]);
}

/// Takes the next key, if one is there.
pub fn key() -> Option<u8> {
    (port_in(LINE_STATUS) & RECEIVED != 0).then(|| port_in(SERIAL))
}
