//! Last words: a panic or an unexpected trap, told to the host in the report page.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_CRASHED};
use wirevm_abi::report::{KIND_PANIC, MESSAGE_BYTES, Registers};
use zerocopy::IntoBytes;

use crate::arch;
use crate::mem::SharedWords;
use crate::percpu;

static PAGE: Mutex<Option<SharedWords>> = Mutex::new(None);
/// Which processor crashes, plus 1.
static CRASHING: AtomicUsize = AtomicUsize::new(0);

/// Words of the report in front of the message's length: kind, vector, error code, vCPU, registers.
const REGISTERS_AT: usize = 4;
const LENGTH_AT: usize = REGISTERS_AT + size_of::<Registers>() / 8;
const MESSAGE_AT: usize = LENGTH_AT + 2;

/// Says where the report page is.
pub fn set_page(page: SharedWords) {
    *PAGE.lock() = Some(page);
}

/// Packs text into words of the page, eight bytes each, and cuts it at the page's end.
struct Message {
    page: SharedWords,
    bytes: usize,
    word: [u8; 8],
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(MESSAGE_BYTES - self.bytes) {
            self.word[self.bytes % 8] = byte;
            self.page.store(MESSAGE_AT + self.bytes / 8, u64::from_le_bytes(self.word));
            self.bytes += 1;
            if self.bytes.is_multiple_of(8) {
                self.word = [0; 8];
            }
        }
        Ok(())
    }
}

/// Fills in the report and ends the machine.
pub fn crash(kind: u64, vector: u64, error_code: u64, registers: &Registers, text: fmt::Arguments<'_>) -> ! {
    // Before there are several, the task register may hold anything.
    let cpu = if percpu::count() > 1 { percpu::index() } else { 0 };
    let first = match CRASHING.compare_exchange(0, cpu + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        // A crash while crashing (a broken Display, a bad stack) tells what is there already.
        Err(crashing) if crashing == cpu + 1 => false,
        // The machine ends with another processor's report.
        Err(_) => arch::stop(),
    };
    if let Some(page) = PAGE.try_lock().and_then(|page| *page)
        && first
    {
        for (index, word) in [kind, vector, error_code, cpu as u64].into_iter().enumerate() {
            page.store(index, word);
        }
        for (index, word) in registers.as_bytes().as_chunks::<8>().0.iter().enumerate() {
            page.store(REGISTERS_AT + index, u64::from_le_bytes(*word));
        }
        let mut message = Message { page, bytes: 0, word: [0; 8] };
        if message.write_fmt(text).is_err() {
            // Whatever was written before the error stands.
        }
        page.store(LENGTH_AT, message.bytes as u64);
    }
    arch::port_out(LIFECYCLE, LIFECYCLE_CRASHED);
    arch::stop()
}

/// Ends the machine before there is a report page: the text goes to the console.
pub fn die(text: &str) -> ! {
    arch::port_out_bytes(wirevm_abi::port::SERIAL, text.as_bytes());
    arch::port_out_bytes(wirevm_abi::port::SERIAL, b"\n");
    arch::port_out(LIFECYCLE, LIFECYCLE_CRASHED);
    arch::stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crash(KIND_PANIC, 0, 0, &arch::registers(), format_args!("{info}"))
}
