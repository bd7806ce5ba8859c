//! Keeps what a guest can provoke from filling the log (rule S9).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts occurrences of one kind and picks those worth a line: the 1st, 2nd, 4th, 8th and so on.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    occurrences: AtomicU64,
}

impl LogLimit {
    /// Returns a limit that has counted nothing.
    pub(crate) const fn new() -> Self {
        Self { occurrences: AtomicU64::new(0) }
    }

    /// Counts one occurrence; gives its number when it is worth a line.
    pub(crate) fn count(&self) -> Option<u64> {
        let number = self.occurrences.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        number.is_power_of_two().then_some(number)
    }
}

#[cfg(test)]
mod test {
    use super::LogLimit;

    #[test]
    fn log_limit_a_million_occurrences_make_twenty_lines() {
        let limit = LogLimit::default();
        let lines: Vec<_> = (0..1_000_000).filter_map(|_| limit.count()).collect();
        assert_eq!(lines.len(), 20);
        assert_eq!((lines.first(), lines.last()), (Some(&1), Some(&(1 << 19))));
    }
}
