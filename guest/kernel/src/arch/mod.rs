//! The processor: descriptors, traps, interrupts, ports, guarded access to task memory.

mod access;
mod apic;
mod cpu;
mod descriptors;
mod strings;
mod trap;
mod unwind;

pub use access::{compare, copy};
pub use cpu::{flush_page, flush_translations, halt_until_interrupt, is_loaded, registers, stop, switch_to};
pub use cpu::{port_in, port_out, port_out_bytes};
pub use cpu::{touch_nothing, triple_fault};
pub use trap::take_events;

use crate::frames::Frame;

/// Loads the kernel's tables and descriptors and enables the local APIC. Interrupts stay off.
pub fn init(root: Frame) {
    cpu::enable_features();
    switch_to(root);
    descriptors::load();
    apic::enable();
}
