//! The bare-metal guest image.
//!
//! Built with `cfg(guest_image)` this is a kernel for one KVM virtual machine; built as an ordinary member of the
//! workspace it is a stub, so that `cargo test` and clippy see it. The parts that need no machine are tested on
//! the host.
//!
//! The kernel runs with interrupts off, on every processor. They are taken only in ring 3 and where it halts, so an interrupt
//! handler never meets a half-done change of its own processor: it notes the vector and returns. Everything else is a
//! future on the executor.
#![cfg_attr(guest_image, no_std, no_main)]

#[cfg(any(guest_image, test))]
extern crate alloc;

#[cfg(any(guest_image, test))]
mod events;
#[cfg(any(guest_image, test))]
mod page_table;
#[cfg(any(guest_image, test))]
mod pending;
#[cfg(any(guest_image, test))]
mod run_queues;
#[cfg(any(guest_image, test))]
mod shootdown;

#[cfg(test)]
mod wakes;

#[cfg(guest_image)]
mod address_space;
#[cfg(guest_image)]
mod arch;
#[cfg(guest_image)]
mod boot;
#[cfg(guest_image)]
mod console;
#[cfg(guest_image)]
mod executor;
#[cfg(guest_image)]
mod frames;
#[cfg(guest_image)]
mod hypercall;
#[cfg(guest_image)]
mod mem;
#[cfg(guest_image)]
mod percpu;
#[cfg(guest_image)]
mod platform;
#[cfg(guest_image)]
mod pmap;
#[cfg(guest_image)]
mod report;
#[cfg(guest_image)]
mod ring;
#[cfg(guest_image)]
mod service;
#[cfg(guest_image)]
mod space;
#[cfg(guest_image)]
mod timer;
#[cfg(guest_image)]
mod user;

#[cfg(not(guest_image))]
fn main() {
    println!("wirevm-kernel is a guest image; `wirevm run` builds and boots it.");
}
