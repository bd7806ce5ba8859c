//! System calls: what a program in the guest's ring 3 asks of the guest's kernel. The host has no part in them.
//!
//! # How a call is made
//!
//! `int 0x80` with the call's number in `RAX` and its arguments, in order, in `RDI`, `RSI`, `RDX`, `R10`, `R8`, `R9`. When it
//! returns, `RAX` holds a [code](self#codes), 0 for success, and `RDX` the call's value, or 0. Every other register is as it was.
//!
//! # How a program starts
//!
//! At its ELF entry point, on a stack that is 16-byte aligned less 8 as after a `call`, with the address of its arguments in
//! `RDI` and their length in bytes in `RSI`: the program's name and its arguments as UTF-8, joined by zero bytes. A further thread
//! starts where [`THREAD_CREATE`] says, with that call's argument in `RDI`. SSE2 and x87 state is each thread's own and starts
//! as after a reset.
//!
//! # Codes
//!
//! The calls of the virtual-memory system answer Mach's `kern_return_t`, those that POSIX has, and those about threads and
//! time, `ERRNO` plus an `errno` of Linux on x86-64. A number that stands for no call answers `ERRNO + ENOSYS`. An address that the
//! kernel is to read or write and the program could not answers `KERN_INVALID_ADDRESS` or `ERRNO + EFAULT`. What else is answered
//! is that of the operations of the guest's memory system with the same names.
//!
//! Addresses and sizes are in bytes, times in nanoseconds.

/// Does nothing: what a call costs.
pub const NULL: u64 = 0;
/// Ends the program and all its threads. Argument: exit code, 0 to 255; other bits are ignored. Does not return.
pub const EXIT: u64 = 1;
/// Writes UTF-8 text to the program's output. Arguments: address, length (at most [`MAX_PRINT_BYTES`]).
pub const PRINT: u64 = 2;
/// Value: time since the machine started.
pub const CLOCK: u64 = 3;
/// Waits. Argument: how long.
pub const SLEEP: u64 = 4;
/// Lets other threads run.
pub const YIELD: u64 = 5;
/// Value: how many processors the machine has.
pub const PROCESSORS: u64 = 6;
/// Reserves zero memory, readable and writable. Arguments: address or [`ANYWHERE`], size. Value: the address.
pub const VM_ALLOCATE: u64 = 16;
/// Gives memory back. Arguments: address, size.
pub const VM_DEALLOCATE: u64 = 17;
/// Changes what a range permits. Arguments: address, size, 1 to set the maximum or 0 for the current protection, protection
/// ([`PROT_READ`] and so on). Writable and executable together is `KERN_PROTECTION_FAILURE`.
pub const VM_PROTECT: u64 = 18;
/// Opens a memory object. Arguments: [`OBJECT_ANONYMOUS`], [`OBJECT_STORE`] or [`OBJECT_EXCLUSIVE`]; its pages; its
/// [name](crate::StoreName) in two words, zero for an anonymous one. Value: its number in this program.
pub const OBJECT_OPEN: u64 = 19;
/// Closes a memory object; what is mapped of it stays. Argument: its number.
pub const OBJECT_CLOSE: u64 = 20;
/// Maps an object. Arguments: its number; address or [`ANYWHERE`]; first page; number of pages; protection;
/// [`MAP_SHARED`] or [`MAP_PRIVATE`]. Value: the address.
pub const VM_MAP: u64 = 21;
/// Wires a range. Arguments: start, end, flags of `vm_map_wire(9)`, `VM_MAP_WIRE_USER` among them.
pub const VM_MAP_WIRE: u64 = 22;
/// Unwires a range. Arguments as for [`VM_MAP_WIRE`].
pub const VM_MAP_UNWIRE: u64 = 23;
/// Synchronizes a range with its managers. Arguments: address, size, flags of Mach's `vm_msync`.
pub const VM_MSYNC: u64 = 24;
/// Sets how children get a range. Arguments: address, size, 0 share, 1 copy, 2 none.
pub const VM_INHERIT: u64 = 25;
/// Locks a range in memory. Arguments: address, size.
pub const MLOCK: u64 = 32;
/// Unlocks a range. Arguments: address, size.
pub const MUNLOCK: u64 = 33;
/// Locks all memory. Argument: flags, 1 current, 2 future, 4 on fault.
pub const MLOCKALL: u64 = 34;
/// Unlocks all memory.
pub const MUNLOCKALL: u64 = 35;
/// Tells of each page whether it is resident. Arguments: address, size, address of one byte a page; bit 0 of it is set for a
/// page that is.
pub const MINCORE: u64 = 36;
/// Synchronizes a range as POSIX says. Arguments: address, size, flags: 1 asynchronous, 2 invalidate, 4 synchronous.
pub const MSYNC: u64 = 37;
/// Starts a thread. Arguments: first instruction, one past its stack's last byte, what it finds in `RDI`. Value: its number.
pub const THREAD_CREATE: u64 = 48;
/// Waits for a thread's end. Arguments: its number, how long at most ([`FOREVER`]). Value: what it passed to
/// [`THREAD_EXIT`]. `ETIMEDOUT`; `ESRCH` for no thread, or one that was joined.
pub const THREAD_JOIN: u64 = 49;
/// Ends the calling thread. Argument: a value for whoever joins it. The program ends, with code 0, with its last thread.
pub const THREAD_EXIT: u64 = 50;
/// Waits until it is woken, if the aligned 64-bit word at an address is still as expected; `EAGAIN` at once if it is not. Arguments:
/// address, expected word, how long at most ([`FOREVER`]). `ETIMEDOUT`. The word is looked at and the wait begun as one.
pub const FUTEX_WAIT: u64 = 51;
/// Wakes threads of this program that wait at an address. Arguments: address, how many at most. Value: how many were.
pub const FUTEX_WAKE: u64 = 52;
/// Makes a copy of this program with one thread, the calling one. Value: 0 in the child, the child's number here.
pub const FORK: u64 = 53;
/// Waits for a child's end. Argument: its number. Value: its exit code, or 256 where a fault or somebody else ended it. `ECHILD`.
pub const WAIT: u64 = 54;

/// Any address that is free.
pub const ANYWHERE: u64 = u64::MAX;
/// No limit of time.
pub const FOREVER: u64 = u64::MAX;
/// Most bytes of one [`PRINT`].
pub const MAX_PRINT_BYTES: u64 = 2048;
/// Protection: loads.
pub const PROT_READ: u64 = 1;
/// Protection: stores.
pub const PROT_WRITE: u64 = 2;
/// Protection: instruction fetches.
pub const PROT_EXECUTE: u64 = 4;
/// An object of zero pages in guest RAM.
pub const OBJECT_ANONYMOUS: u64 = 0;
/// An object that a store of the host's backs.
pub const OBJECT_STORE: u64 = 1;
/// The same, of which the host keeps no copy of what it has supplied.
pub const OBJECT_EXCLUSIVE: u64 = 2;
/// Stores reach the object.
pub const MAP_SHARED: u64 = 0;
/// Stores go into a copy.
pub const MAP_PRIVATE: u64 = 1;

/// Success.
pub const KERN_SUCCESS: u64 = 0;
/// Added to an `errno`.
pub const ERRNO: u64 = 1 << 16;
/// No such thread.
pub const ESRCH: u64 = 3;
/// No such child.
pub const ECHILD: u64 = 10;
/// Not now.
pub const EAGAIN: u64 = 11;
/// No memory for it.
pub const ENOMEM: u64 = 12;
/// A bad address.
pub const EFAULT: u64 = 14;
/// A bad argument.
pub const EINVAL: u64 = 22;
/// No such call.
pub const ENOSYS: u64 = 38;
/// It took too long.
pub const ETIMEDOUT: u64 = 110;
