//! The port bus: which device answers which I/O port.
//!
//! The table is built once and never changes while vCPUs run, so a lookup takes no lock, and no lock is held while a
//! device works. Devices keep their own.

use std::fmt;
use std::sync::Arc;

/// An inclusive range of ports; inclusive, so that it can reach the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusRange {
    first: u16,
    last: u16,
}

impl BusRange {
    /// Returns the range of `count` ports from `first` on, or `None` for no port or past 0xffff.
    #[must_use]
    pub const fn new(first: u16, count: u16) -> Option<Self> {
        match count.checked_sub(1) {
            Some(more) => match first.checked_add(more) {
                Some(last) => Some(Self { first, last }),
                None => None,
            },
            None => None,
        }
    }

    /// Tells whether `port` lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for BusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}..={:#06x}", self.first, self.last)
    }
}

/// What a port write means for the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Signal {
    /// Nothing: go on.
    None,
    /// The guest takes commands now.
    Ready,
    /// The guest asks to end with this exit code.
    Exit {
        /// The code.
        code: u8,
    },
    /// The guest cannot go on; its report page says why.
    Crashed,
    /// Guest RAM cannot be reached any more.
    BackingLost,
}

/// A device on the port bus.
pub trait PortDevice: Send + Sync + fmt::Debug {
    /// Answers an `in` of `data.len()` bytes at `offset` ports into the device's range, by vCPU `vcpu`.
    fn read(&self, vcpu: usize, offset: u16, data: &mut [u8]);

    /// Takes an `out` likewise.
    fn write(&self, vcpu: usize, offset: u16, data: &[u8]) -> Signal;
}

/// Two devices want the same port.
#[derive(Debug, thiserror::Error)]
#[error("the ports {wanted} of {device:?} overlap {taken}, which is in use")]
pub struct OverlapError {
    wanted: BusRange,
    taken: BusRange,
    device: Arc<dyn PortDevice>,
}

/// The ports of one machine.
#[derive(Debug, Default)]
pub struct Bus {
    devices: Vec<(BusRange, Arc<dyn PortDevice>)>,
}

impl Bus {
    /// Returns a bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device on its ports.
    ///
    /// # Errors
    /// [`OverlapError`] when one of the ports is taken; the bus is unchanged.
    pub fn insert(&mut self, range: BusRange, device: Arc<dyn PortDevice>) -> Result<(), OverlapError> {
        if let Some((taken, _)) = self.devices.iter().find(|(taken, _)| taken.overlaps(range)) {
            return Err(OverlapError { wanted: range, taken: *taken, device });
        }
        self.devices.push((range, device));
        Ok(())
    }

    fn find(&self, port: u16) -> Option<(u16, &dyn PortDevice)> {
        let (range, device) = self.devices.iter().find(|(range, _)| range.contains(port))?;
        Some((port - range.first, &**device))
    }

    /// Answers an `in`. A port without a device reads as all ones, as on a real bus.
    pub fn read(&self, vcpu: usize, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(port) {
            device.read(vcpu, offset, data);
        }
    }

    /// Takes an `out`. One to a port without a device goes nowhere, as on a real bus.
    pub fn write(&self, vcpu: usize, port: u16, data: &[u8]) -> Signal {
        self.find(port).map_or(Signal::None, |(offset, device)| device.write(vcpu, offset, data))
    }
}

#[cfg(test)]
mod test {
    use super::{Bus, BusRange, PortDevice, Signal};
    use std::sync::{Arc, Mutex};

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(usize, u16, Vec<u8>)>>);

    impl PortDevice for Recorder {
        fn read(&self, vcpu: usize, offset: u16, data: &mut [u8]) {
            data.fill(u8::try_from(offset).expect("small"));
            self.0.lock().expect("lock").push((vcpu, offset, vec![]));
        }
        fn write(&self, vcpu: usize, offset: u16, data: &[u8]) -> Signal {
            self.0.lock().expect("lock").push((vcpu, offset, data.to_vec()));
            Signal::Ready
        }
    }

    #[test]
    fn access_reaches_the_device_with_its_offset_and_nothing_else_does() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(BusRange::new(0x3f8, 8).expect("range"), device.clone()).expect("free");
        let mut data = [0; 2];
        bus.read(3, 0x3ff, &mut data);
        assert_eq!(data, [7, 7]);
        assert_eq!(bus.write(1, 0x3f8, &[9]), Signal::Ready);
        bus.read(0, 0x400, &mut data);
        assert_eq!(data, [0xff, 0xff]);
        assert_eq!(bus.write(0, 0x3f7, &[1]), Signal::None);
        assert_eq!(*device.0.lock().expect("lock"), [(3, 7, vec![]), (1, 0, vec![9])]);
    }

    #[test]
    fn overlap_is_refused_at_every_edge() {
        let mut bus = Bus::new();
        bus.insert(BusRange::new(100, 10).expect("range"), Arc::new(Recorder::default())).expect("free");
        for (first, count) in [(100, 10), (109, 1), (91, 10), (0, 0xffff), (104, 2)] {
            let range = BusRange::new(first, count).expect("range");
            let refused = bus.insert(range, Arc::new(Recorder::default()));
            assert!(matches!(refused, Err(super::OverlapError { .. })), "{range}");
        }
        for (first, count) in [(110, 1), (90, 10)] {
            let range = BusRange::new(first, count).expect("range");
            bus.insert(range, Arc::new(Recorder::default())).expect("free");
        }
    }

    #[test]
    fn ranges_end_at_the_last_port() {
        assert!(BusRange::new(0xffff, 1).is_some_and(|range| range.contains(0xffff)));
        assert_eq!(BusRange::new(0xffff, 2), None);
        assert_eq!(BusRange::new(5, 0), None);
    }
}
