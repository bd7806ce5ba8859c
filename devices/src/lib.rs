//! The host side of the contract: hypercalls, pins, syncs, the RAM file, serial, exit. Knows nothing of KVM.

pub mod bus;
pub mod completion;
pub mod durability;
pub mod faults;
pub mod folio;
pub mod guest_memory;
pub mod hypercall;
pub mod interrupt;
pub mod last_words;
pub mod lifecycle;
mod log_limit;
mod page_map;
pub mod page_run;
pub mod pin;
pub mod plain;
pub mod ramfile;
mod run_set;
pub mod serial;
pub mod store;
pub mod sync;
mod sys;
pub mod view;
pub mod witness;
