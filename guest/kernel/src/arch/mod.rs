//! The processor: descriptors, traps, interrupts, ports, guarded access to task memory.

mod access;
mod apic;
mod cpu;
mod descriptors;
mod strings;
mod trap;
mod unwind;
mod user_entry;

pub use access::{compare, copy};
pub use apic::{interrupt, set_timer, ticks};
pub use cpu::{flush_page, flush_translations, halt_until_interrupt, let_interrupts_in, registers, stop, switch_to};
pub use cpu::{port_in, port_out, port_out_bytes};
pub use cpu::{touch_nothing, triple_fault};
pub use descriptors::{TRAP_STACK_BYTES, TRAP_STACK_STRIDE, TRAP_STACKS, first_trap_stacks, prepare};
pub use trap::{has_events, take_events, take_interrupt};
pub use user_entry::{FETCH, Trap, UserContext};

use core::sync::atomic::Ordering;

use crate::frames::Frame;
use crate::percpu;
use crate::space;

/// Makes this processor 0: loads the kernel's tables and descriptors and enables the local APIC. Interrupts stay off.
pub fn init(root: Frame) {
    cpu::enable_features();
    switch_to(root);
    space::set_home(root);
    descriptors::init();
    join(0);
}

/// Makes this processor `index`, for which all is [prepared](prepare) and the kernel's root loaded.
pub fn init_further(index: usize) {
    cpu::enable_features();
    join(index);
}

fn join(index: usize) {
    descriptors::load(index);
    percpu::block(index).apic_id.store(apic::enable(), Ordering::Relaxed);
}
