//! What programs in a wirevm guest are written with: where they start, memory, threads, output, and the guest's system calls under
//! the names that the field has for them.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! use wirevm_user::{Args, entry, println};
//!
//! entry!(run);
//!
//! fn run(args: Args) -> u8 {
//!     println!("hello, {}", args.get(1).unwrap_or("world"));
//!     0
//! }
//! ```
//!
//! `examples/program` is a package to copy. With the feature `program` this crate brings what a program without a standard library
//! lacks: `_start`, a panic handler (the message goes to the program's output, the exit code is 101), an allocator that grows by
//! `VM_ALLOCATE`, and the byte routines that compiled code calls. Without it every call answers `ENOSYS`; that is for tests on a host.
//!
//! Memory that others change at the same time, be they threads, children or the host, is reached through a [`Region`], whose accesses
//! allow that. Calls that can take memory away from under Rust's feet are `unsafe` and say what the caller owes.
#![no_std]

extern crate alloc;
#[cfg(any(test, not(feature = "program")))]
extern crate std;

mod args;
mod codes;
pub mod counter;
pub mod crc;
mod flags;
mod futex_lock;
mod line_buffer;
pub mod log;
pub mod random;
pub mod storm;
pub mod sync;
mod sys;
pub mod ticks;
pub mod touch;

pub use args::{Args, ArgsError};
pub use codes::{Errno, KernReturn};
pub use flags::{LockAllFlags, MsyncFlags, Prot, SyncFlags, WireFlags};
pub use sys::object::{Mode, Object, ObjectKind};
pub use sys::region::Region;
pub use sys::{output, posix, process, raw, thread, time, vm};

#[doc(hidden)]
pub use sys::entry;

/// Bytes in a page, as a length.
#[expect(clippy::cast_possible_truncation, reason = "4096 fits any length")]
pub const PAGE_BYTES: usize = wirevm_abi::PAGE_SIZE as usize;

/// Prints to the program's output; what stands behind the last end of a line waits for the next one, or the program's end.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::output::print(::core::format_args!($($arguments)*)) };
}

/// Prints a line to the program's output.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => { $crate::output::print_line(::core::format_args!($($arguments)*)) };
}

/// Makes a function `fn(Args) -> u8` the program: what it returns is the exit code. The crate has the attributes `no_std` and
/// `no_main`.
#[cfg(feature = "program")]
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        #[expect(unsafe_code, reason = "the first instruction of a program")]
        // SAFETY: only programs of the guest, of which each has one entry, have the symbol.
        const _: () = {
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn _start() -> ! {
        ::core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {start}", "ud2", start = sym start)
            }

            unsafe extern "C" fn start(arguments: *const u8, length: usize) -> ! {
                // SAFETY: it is only called by `_start`, with what the kernel passes.
                unsafe { $crate::entry::start(arguments, length, $run) }
            }
        };
    };
}

/// Stands in for a program where none is built.
#[cfg(not(feature = "program"))]
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        fn main() {
            let _run: fn($crate::Args) -> u8 = $run;
            $crate::entry::explain();
        }
    };
}
