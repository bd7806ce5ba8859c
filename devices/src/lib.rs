//! The host side of the contract: hypercalls, pins, syncs, the RAM file, serial, exit. Knows nothing of KVM.

pub mod durability;
mod log_limit;
pub mod page_run;
pub mod pin;
pub mod ramfile;
pub mod sync;
mod sys;
pub mod view;
pub mod witness;
