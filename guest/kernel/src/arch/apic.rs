//! The local APIC in x2APIC mode: a few model-specific registers are all the kernel needs.
#![expect(unsafe_code, reason = "model-specific registers")]
// UNSAFETY: writes to the APIC's own registers; they deliver or withhold interrupts, never touch memory.

use core::sync::atomic::{Ordering, fence};

use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

const ID: Msr = Msr::new(0x802);
const EOI: Msr = Msr::new(0x80b);
const SPURIOUS: Msr = Msr::new(0x80f);
const COMMAND: Msr = Msr::new(0x830);
const TIMER: Msr = Msr::new(0x832);
const DEADLINE: Msr = Msr::new(0x6e0);
/// The timer comes when the time-stamp counter is past what DEADLINE says.
const DEADLINE_MODE: u64 = 0b10 << 17;
const SOFTWARE_ENABLE: u64 = 1 << 8;

/// Vector of spurious interrupts: handled by doing nothing, not even an end of interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Vector of interrupts from one processor to another.
pub const IPI_VECTOR: u8 = 0x33;

/// Vector of this processor's timer.
pub const TIMER_VECTOR: u8 = 0x34;

/// Enables the local APIC in x2APIC mode; returns its address.
pub fn enable() -> u64 {
    let (frame, flags) = ApicBase::read();
    // SAFETY: see the module; x2APIC is part of what every host of the contract offers.
    unsafe {
        ApicBase::write(frame, flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE);
        let mut spurious = SPURIOUS;
        spurious.write(SOFTWARE_ENABLE | u64::from(SPURIOUS_VECTOR));
        let mut timer = TIMER;
        timer.write(DEADLINE_MODE | u64::from(TIMER_VECTOR));
        ID.read()
    }
}

/// Interrupts the processor whose APIC has that address. What was stored before is seen by its handler.
pub fn interrupt(apic_id: u64) {
    let mut command = COMMAND;
    // The write is not serializing in x2APIC mode: it may go ahead of stores that still wait in the processor.
    fence(Ordering::SeqCst);
    // SAFETY: see the module. The bits say: this vector, fixed delivery, to one physical address.
    unsafe { command.write(apic_id << 32 | u64::from(IPI_VECTOR)) };
}

/// Tells the APIC that the current interrupt is handled.
pub fn end_of_interrupt() {
    let mut eoi = EOI;
    // SAFETY: see the module.
    unsafe { eoi.write(0) };
}

/// Sets this processor's timer to a moment of the time-stamp counter; one that has passed comes at once.
pub fn set_timer(at: u64) {
    let mut deadline = DEADLINE;
    // SAFETY: see the module. Zero would turn the timer off.
    unsafe { deadline.write(at.max(1)) };
}

/// Returns the time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: reading it changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}
