//! How long a tick of the processor's time-stamp counter is.

use core::time::Duration;

/// Turns ticks into nanoseconds, by what the counter and the clock said at two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    ticks: u64,
    time: Duration,
}

impl Ticks {
    /// Returns the length of a tick of a counter that said this at that time, and then that. A look at the clock can take a
    /// millisecond, so the two are to lie a good part of a second apart.
    #[must_use]
    pub fn between(first: (u64, Duration), second: (u64, Duration)) -> Self {
        Self { ticks: second.0.wrapping_sub(first.0), time: second.1.saturating_sub(first.1) }
    }

    /// Returns how many nanoseconds so many ticks are, rounded down; the greatest number where that does not fit, or the counter stood.
    #[must_use]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let all = u128::from(ticks).saturating_mul(self.time.as_nanos());
        all.checked_div(self.ticks.into()).and_then(|time| u64::try_from(time).ok()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod test {
    use core::time::Duration;
    use std::thread::sleep;
    use std::time::Instant;

    use super::Ticks;
    use crate::time::ticks;

    #[test]
    fn ticks_are_as_long_as_the_two_looks_say() {
        let ticks = Ticks::between((1000, Duration::from_secs(5)), (2_500_001_000, Duration::from_secs(6)));
        assert_eq!([0, 5, 2500, 2_500_000_000].map(|count| ticks.nanoseconds(count)), [0, 2, 1000, 1_000_000_000]);
        assert_eq!(ticks.nanoseconds(u64::MAX), u64::MAX / 5 * 2);
        // The counter may have come round; a clock that has not moved gives nothing, a counter that has not everything.
        let ticks = Ticks::between((u64::MAX, Duration::ZERO), (9, Duration::from_nanos(100)));
        assert_eq!(ticks.nanoseconds(7), 70);
        assert_eq!(Ticks::between((7, Duration::ZERO), (7, Duration::from_secs(1))).nanoseconds(1), u64::MAX);
    }

    #[test]
    fn ticks_of_this_processor_measure_a_sleep() {
        let began = Instant::now();
        let first = (ticks(), began.elapsed());
        sleep(Duration::from_millis(50));
        let second = (ticks(), began.elapsed());
        sleep(Duration::from_millis(20));
        let slept = Ticks::between(first, second).nanoseconds(ticks().wrapping_sub(second.0));
        assert!((19_000_000..2_000_000_000).contains(&slept), "{slept} ns for 20 ms");
    }
}
