//! The host side of the contract: hypercalls, pins, syncs, the RAM file, serial, exit. Knows nothing of KVM.

pub mod durability;
pub mod page_run;
pub mod ramfile;
mod sys;
pub mod view;
