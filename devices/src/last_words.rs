//! Ending the process from a signal handler, with words.
#![expect(unsafe_code, reason = "only write(2) and _exit(2) are allowed in a signal handler")]
// UNSAFETY: two async-signal-safe system calls, and a look at what the kernel tells a handler.

use std::io;
use std::os::raw::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use vmm_sys_util::signal::register_signal_handler;
use wirevm_abi::PAGE_SIZE;

/// Exit code of a process whose guest RAM is gone; the same as the command line's for that class.
pub const BACKING_LOST_EXIT_CODE: u8 = 14;

/// Mappings of guest RAM that can be watched at once. One more is not named when it is gone.
const PLACES: usize = 8;

/// Where guest RAM is mapped, as pairs of first address and end; 0 and 0 where a place is free.
static WATCHED: [[AtomicUsize; 2]; PLACES] = [const { [const { AtomicUsize::new(0) }; 2] }; PLACES];

/// A mapping of guest RAM whose pages are named when their memory is gone, for as long as this lives.
#[derive(Debug)]
#[must_use = "dropped, it watches no more"]
pub struct Watched(Option<usize>);

/// A line that is put together without allocating.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

/// Writes `text` to standard error and ends the process with `code`, running no destructor and flushing nothing. Safe to
/// call from a signal handler.
pub fn say_and_exit(text: &str, code: u8) -> ! {
    // SAFETY: writes `text.len()` readable bytes; the result cannot be reported anywhere.
    let _written = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    // SAFETY: ends the process; async-signal-safe.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Has SIGBUS, on whichever thread it comes, end the process with [`BACKING_LOST_EXIT_CODE`] and a line that names the page
/// of guest RAM, where the address lies in a mapping that is [watched](watch).
///
/// It is for programs that map no other files: of all that they map, only guest RAM can lose its memory.
///
/// # Errors
/// When the kernel refuses the handler.
pub fn catch_bus_errors() -> io::Result<()> {
    register_signal_handler(libc::SIGBUS, on_bus_error).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Has a mapping of guest RAM, from page 0 on, watched.
pub fn watch(address: usize, bytes: usize) -> Watched {
    let place = WATCHED.iter().position(|[_, end]| {
        // Whoever gets the end has the place; the handler takes it for empty until the first address is there as well.
        end.compare_exchange(0, address.saturating_add(bytes), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    if let Some([first, _]) = place.and_then(|place| WATCHED.get(place)) {
        first.store(address, Ordering::Release);
    }
    Watched(place)
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some([first, end]) = self.0.and_then(|place| WATCHED.get(place)) {
            first.store(0, Ordering::Release);
            end.store(0, Ordering::Release);
        }
    }
}

/// Returns the page of guest RAM that an address lies in, if it lies in a mapping that is watched.
fn page_at(address: usize) -> Option<u64> {
    WATCHED.iter().find_map(|[first, end]| {
        let (first, end) = (first.load(Ordering::Acquire), end.load(Ordering::Acquire));
        let inside = first != 0 && first <= address && address < end;
        inside.then(|| (address - first) as u64 / PAGE_SIZE)
    })
}

extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands a handler that asked for it a valid record, of which SIGBUS has an address.
    let address = unsafe { (*info).si_addr() }.expose_provenance();
    let mut line = Line { bytes: [0; 256], length: 0 };
    line.add("wirevm: error: the memory behind ");
    if let Some(page) = page_at(address) {
        line.add("page ");
        line.add_number(page);
        line.add(" of ");
    }
    line.add("guest RAM is gone (SIGBUS): the RAM file was cut short or its storage failed\n");
    say_and_exit(line.text(), BACKING_LOST_EXIT_CODE)
}

impl Line {
    fn add(&mut self, text: &str) {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (place, byte) in free.iter_mut().zip(text.bytes()) {
            *place = byte;
            self.length += 1;
        }
    }

    fn add_number(&mut self, number: u64) {
        let mut power = 10_u64.pow(number.checked_ilog10().unwrap_or(0));
        while power > 0 {
            let digit = usize::try_from(number / power % 10).unwrap_or(0);
            self.add("0123456789".get(digit..=digit).unwrap_or("?"));
            power /= 10;
        }
    }

    fn text(&self) -> &str {
        str::from_utf8(self.bytes.get(..self.length).unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod test {
    use super::{Line, PLACES, page_at, watch};

    #[test]
    fn line_is_put_together_with_its_numbers() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            let mut line = Line { bytes: [0; 256], length: 0 };
            line.add("page ");
            line.add_number(number);
            assert_eq!(line.text(), format!("page {number}"));
        }
        let mut line = Line { bytes: [0; 256], length: 0 };
        (0..100).for_each(|_| line.add("words "));
        assert_eq!(line.text().len(), 256, "what does not fit is left out");
    }

    #[test]
    fn address_is_a_page_of_the_mapping_that_holds_it_for_as_long_as_it_is_watched() {
        const AT: usize = 1 << 40;
        let watched: Vec<_> = (0..=PLACES).map(|number| watch(AT + number * 0x10_0000, 8192)).collect();
        assert_eq!([page_at(AT), page_at(AT + 4095), page_at(AT + 4096)], [Some(0), Some(0), Some(1)]);
        assert_eq!([page_at(AT - 1), page_at(AT + 8192), page_at(AT + PLACES * 0x10_0000)], [None; 3]);
        drop(watched);
        assert_eq!(page_at(AT), None);
        let again = watch(AT, 4096);
        assert_eq!(page_at(AT), Some(0));
        drop(again);
    }
}
