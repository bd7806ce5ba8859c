//! The port on which a guest says that it is ready, or that it cannot go on.

use wirevm_abi::port::{LIFECYCLE_CRASHED, LIFECYCLE_READY};

use crate::bus::{PortDevice, Signal};
use crate::log_limit::LogLimit;

/// Writes that mean nothing, by any guest of this process.
static MEANINGLESS: LogLimit = LogLimit::new();

/// The lifecycle port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifecycle;

impl PortDevice for Lifecycle {
    fn read(&self, _: usize, _: u16, _: &mut [u8]) {}

    fn write(&self, vcpu: usize, _: u16, data: &[u8]) -> Signal {
        match data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) {
            Some(LIFECYCLE_READY) => Signal::Ready,
            Some(LIFECYCLE_CRASHED) => Signal::Crashed,
            _ => {
                if let Some(number) = MEANINGLESS.count() {
                    log::debug!(
                        "vCPU {vcpu} wrote {data:02x?} to the lifecycle port: no meaning ({number} times so far)"
                    );
                }
                Signal::None
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::Lifecycle;
    use crate::bus::{PortDevice, Signal};

    #[test]
    fn only_the_two_values_in_32_bits_mean_something() {
        assert_eq!(Lifecycle.write(0, 0, &1_u32.to_le_bytes()), Signal::Ready);
        assert_eq!(Lifecycle.write(0, 0, &2_u32.to_le_bytes()), Signal::Crashed);
        assert_eq!(Lifecycle.write(0, 0, &3_u32.to_le_bytes()), Signal::None);
        assert_eq!(Lifecycle.write(0, 0, &[1]), Signal::None);
        assert_eq!(Lifecycle.write(0, 0, &[]), Signal::None);
    }
}
