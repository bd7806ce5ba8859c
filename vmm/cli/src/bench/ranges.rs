//! Which pages a case works on.

use wirevm_abi::RamRange;
use wirevm_devices::page_run::PageRun;

use super::BenchError;

/// How the runs of a case lie in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every other run's place, from the first to the last.
    Strided,
    /// Every other run's place, in an order without pattern that is the same each time.
    Random,
    /// One after another, so that they touch.
    Adjacent,
}

impl Pattern {
    /// Returns the word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strided => "strided",
            Self::Random => "random",
            Self::Adjacent => "adjacent",
        }
    }

    /// Returns how many pages `count` runs of `pages` pages span.
    #[must_use]
    pub const fn span(self, count: u64, pages: u64) -> u64 {
        match self {
            Self::Strided | Self::Random => 2 * count * pages,
            Self::Adjacent => count * pages,
        }
    }

    /// Returns `count` runs of `pages` pages from page `first` on.
    ///
    /// # Errors
    /// [`BenchError`] when they don't fit into `ram_pages` pages.
    pub fn runs(self, first: u64, count: u64, pages: u64, ram_pages: u64) -> Result<Vec<RamRange>, BenchError> {
        let step = self.span(1, pages);
        let mut places: Vec<u64> = (0..count).collect();
        if self == Self::Random {
            shuffle(&mut places);
        }
        places.into_iter().map(|place| range(first + place * step, pages, ram_pages)).collect()
    }
}

/// Returns a range of RAM.
///
/// # Errors
/// [`BenchError`] when it doesn't lie in `ram_pages` pages.
pub fn range(first: u64, pages: u64, ram_pages: u64) -> Result<RamRange, BenchError> {
    RamRange::new(first, pages, ram_pages)
        .map_err(|status| format!("{pages} pages from {first} are no range of {ram_pages} pages: {status}").into())
}

/// Returns a run of pages.
///
/// # Errors
/// [`BenchError`] when it has no page.
pub fn run(first: u64, pages: u64) -> Result<PageRun, BenchError> {
    PageRun::new(first, first + pages).ok_or_else(|| "a run without pages".into())
}

/// Puts places into an order without pattern: that of a linear congruential generator (Knuth's MMIX) behind a Fisher-Yates shuffle.
fn shuffle(places: &mut [u64]) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for last in (1..places.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bound = u64::try_from(last).unwrap_or(u64::MAX) + 1;
        let other = usize::try_from((state >> 33) % bound).unwrap_or(0);
        places.swap(last, other);
    }
}

#[cfg(test)]
mod test {
    use super::Pattern;

    #[test]
    fn patterns_place_runs_inside_their_span_and_apart_but_for_adjacent_ones() {
        for pattern in [Pattern::Strided, Pattern::Random, Pattern::Adjacent] {
            let runs = pattern.runs(5, 100, 3, 5 + pattern.span(100, 3)).expect("it fits");
            let mut firsts: Vec<_> = runs.iter().map(|run| (run.first(), run.pages())).collect();
            assert_eq!(firsts.is_sorted(), pattern != Pattern::Random, "{}", pattern.name());
            firsts.sort_unstable();
            let step = pattern.span(1, 3);
            let expected: Vec<_> = (0..100).map(|place| (5 + place * step, 3)).collect();
            assert_eq!(firsts, expected, "{}", pattern.name());
        }
        assert!(Pattern::Strided.runs(0, 10, 1, 18).err().is_some());
    }
}
