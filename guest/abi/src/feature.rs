//! Feature bits that the host announces in its answer to `HELLO`.

/// `SYNC` is offered: guest RAM has stable storage behind it.
pub const SYNC: u64 = 1 << 0;
/// `WIRE` accepts the on-fault flag.
pub const WIRE_ON_FAULT: u64 = 1 << 1;
/// Calls that were answered *pending* are completed through a completion ring.
pub const COMPLETIONS: u64 = 1 << 2;
/// Stores can be opened, and `DATA_REQUEST`, `DATA_RETURN` and `SYNCHRONIZE` are offered.
pub const STORES: u64 = 1 << 3;
/// `DISCARD` is offered.
pub const DISCARD: u64 = 1 << 4;
