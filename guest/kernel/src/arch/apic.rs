//! The local APIC in x2APIC mode: three model-specific registers are all the kernel needs.
#![expect(unsafe_code, reason = "model-specific registers")]
// UNSAFETY: writes to the APIC's own registers; they deliver or withhold interrupts, never touch memory.

use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

const EOI: Msr = Msr::new(0x80b);
const SPURIOUS: Msr = Msr::new(0x80f);
const SOFTWARE_ENABLE: u64 = 1 << 8;

/// Vector of spurious interrupts: handled by doing nothing, not even an end of interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Enables the local APIC in x2APIC mode.
pub fn enable() {
    let (frame, flags) = ApicBase::read();
    // SAFETY: see the module; x2APIC is part of what every host of the contract offers.
    unsafe {
        ApicBase::write(frame, flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE);
        let mut spurious = SPURIOUS;
        spurious.write(SOFTWARE_ENABLE | u64::from(SPURIOUS_VECTOR));
    }
}

/// Tells the APIC that the current interrupt is handled.
pub fn end_of_interrupt() {
    let mut eoi = EOI;
    // SAFETY: see the module.
    unsafe { eoi.write(0) };
}
