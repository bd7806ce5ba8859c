//! Taking samples: pairs of ours and its limit, in turns, in the same process and the same minute.

use std::time::{Duration, Instant};

use super::BenchError;

/// How much is spent on a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Pairs that are taken however long they take.
    pub least: usize,
    /// Pairs that are enough.
    pub most: usize,
    /// Time after which no further pair is begun, once there are `least`.
    pub time: Duration,
}

/// Pairs of samples, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// What ours took.
    pub ours: Vec<u64>,
    /// What the limit took, pair by pair.
    pub limit: Vec<u64>,
}

impl Effort {
    /// What a case of short samples gets.
    #[must_use]
    pub const fn short(quick: bool) -> Self {
        if quick {
            Self { least: 5, most: 30, time: Duration::from_millis(150) }
        } else {
            Self { least: 15, most: 2000, time: Duration::from_millis(1500) }
        }
    }

    /// What a case of samples gets that take a good part of a second.
    #[must_use]
    pub const fn long(quick: bool) -> Self {
        if quick {
            Self { least: 2, most: 3, time: Duration::from_millis(500) }
        } else {
            Self { least: 5, most: 15, time: Duration::from_secs(4) }
        }
    }
}

/// Takes pairs. Each side does what it must beforehand, times what is to be timed, undoes and checks it, and returns the time; it is
/// given the number of the pair. Which side comes first turns round from pair to pair, because whoever comes second may find caches
/// warm or a disk busy. One pair in front of all warms up and is not kept.
///
/// # Errors
/// The first error of a side.
pub fn pairs(
    effort: Effort,
    mut ours: impl FnMut(u64) -> Result<Duration, BenchError>,
    mut limit: impl FnMut(u64) -> Result<Duration, BenchError>,
) -> Result<Pairs, BenchError> {
    let mut pairs = Pairs::default();
    ours(0)?;
    limit(0)?;
    let began = Instant::now();
    for number in 1.. {
        let enough = pairs.ours.len() >= effort.least && began.elapsed() >= effort.time;
        if enough || pairs.ours.len() >= effort.most {
            break;
        }
        let (mine, its) = if number % 2 == 0 {
            let mine = ours(number)?;
            (mine, limit(number)?)
        } else {
            let its = limit(number)?;
            (ours(number)?, its)
        };
        pairs.ours.push(nanoseconds(mine));
        pairs.limit.push(nanoseconds(its));
    }
    Ok(pairs)
}

/// Takes samples of what has no limit to be held against, as [`pairs`] does.
///
/// # Errors
/// The first error.
pub fn alone(
    effort: Effort,
    mut ours: impl FnMut(u64) -> Result<Duration, BenchError>,
) -> Result<Vec<u64>, BenchError> {
    let mut samples = Vec::new();
    ours(0)?;
    let began = Instant::now();
    for number in 1.. {
        let enough = samples.len() >= effort.least && began.elapsed() >= effort.time;
        if enough || samples.len() >= effort.most {
            break;
        }
        samples.push(nanoseconds(ours(number)?));
    }
    Ok(samples)
}

/// Times what is done.
///
/// # Errors
/// As `act`.
pub fn timed<T, E>(act: impl FnOnce() -> Result<T, E>) -> Result<Duration, BenchError>
where
    BenchError: From<E>,
{
    let began = Instant::now();
    act()?;
    Ok(began.elapsed())
}

/// Returns a time in whole nanoseconds, at least 1: a ratio can be made of it.
#[must_use]
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod test {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::{Effort, alone, pairs};
    use crate::bench::BenchError;

    const FEW: Effort = Effort { least: 2, most: 4, time: Duration::from_secs(3600) };

    #[test]
    fn sides_take_turns_and_the_first_pair_is_not_kept() {
        let order = RefCell::new(String::new());
        let side = |name: char, number: u64| {
            order.borrow_mut().push(name);
            Ok(Duration::from_nanos(100 * number + 1))
        };
        let pairs = pairs(FEW, |number| side('o', number), |number| side('l', number)).expect("no error");
        assert_eq!((pairs.ours, pairs.limit), (vec![101, 201, 301, 401], vec![101, 201, 301, 401]));
        assert_eq!(*order.borrow(), "ol lo ol lo ol".replace(' ', ""));
    }

    #[test]
    fn time_ends_the_sampling_but_not_before_the_least() {
        let effort = Effort { time: Duration::ZERO, ..FEW };
        assert_eq!(alone(effort, |_| Ok(Duration::ZERO)).expect("no error"), [1, 1]);
    }

    #[test]
    fn errors_end_the_sampling() {
        let failing = |number| if number == 2 { Err(BenchError::Skip("no".into())) } else { Ok(Duration::ZERO) };
        alone(FEW, failing).expect_err("the second sample");
        pairs(FEW, failing, |_| Ok(Duration::ZERO)).expect_err("the second sample of ours");
        pairs(FEW, |_| Ok(Duration::ZERO), failing).expect_err("the second sample of the limit");
    }
}
