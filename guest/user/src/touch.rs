//! Ways to touch memory. Each loop is a function over words of its own, so that the same code can run elsewhere and be compared.

use alloc::vec::Vec;
use core::hint::black_box;
use core::iter;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::PAGE_BYTES;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every word is loaded.
    Read,
    /// Every word is stored.
    Write,
    /// One word in so many bytes is loaded and stored.
    Stride(usize),
}

/// Touches the words once.
pub fn touch(pattern: Pattern, words: &[AtomicU64]) {
    match pattern {
        Pattern::Read => {
            black_box(read(words));
        }
        Pattern::Write => write(words, black_box(0x5a5a_5a5a_5a5a_5a5a)),
        Pattern::Stride(bytes) => stride(words, bytes / 8),
    }
}

/// Most parts that passes are timed in. A look at the clock is a system call, which takes as long as a pass over a mebibyte or more where
/// ring 0 is emulated: what is to be timed is the touching.
const PARTS: usize = 8;

/// Returns how many of `passes` passes each part has that is timed.
fn parts(passes: usize) -> impl Iterator<Item = usize> {
    let count = passes.min(PARTS);
    (0..count).map(move |part| passes * (part + 1) / count - passes * part / count)
}

/// Returns the time of a pass of the fastest part, of the times of `passes` passes' parts.
#[must_use]
pub fn fastest_pass(passes: usize, times: &[u64]) -> u64 {
    parts(passes).zip(times).map(|(passes, time)| time / passes as u64).min().unwrap_or(0)
}

/// Times the first touch, one store in each page, and then so many passes, in parts of several where there are many. The first touch
/// stores also where the passes load, for pages that were only ever loaded from may all be one. `begin` is called before each part;
/// whatever `clock` counts from, what is returned is in nanoseconds.
pub fn measure(
    words: &[AtomicU64],
    pattern: Pattern,
    passes: usize,
    mut begin: impl FnMut(),
    clock: impl Fn() -> Duration,
) -> Vec<u64> {
    let timed = |(pattern, passes)| {
        begin();
        let start = clock();
        for _ in 0..passes {
            touch(pattern, words);
        }
        u64::try_from(clock().saturating_sub(start).as_nanos()).unwrap_or(u64::MAX)
    };
    let passes = parts(passes).map(|passes| (pattern, passes));
    iter::once((Pattern::Stride(PAGE_BYTES), 1)).chain(passes).map(timed).collect()
}

/// Loads every word and returns their sum.
#[inline(never)]
#[must_use]
pub fn read(words: &[AtomicU64]) -> u64 {
    // Relaxed loads and stores are plain ones, which the compiler neither leaves out nor joins. They are written out by eights, so
    // that the loop is the same whatever it optimizes for.
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let (eights, rest) = words.as_chunks::<8>();
    let (mut even, mut odd) = (0_u64, 0_u64);
    for [a, b, c, d, e, f, g, h] in eights {
        even = even.wrapping_add(load(a)).wrapping_add(load(c)).wrapping_add(load(e)).wrapping_add(load(g));
        odd = odd.wrapping_add(load(b)).wrapping_add(load(d)).wrapping_add(load(f)).wrapping_add(load(h));
    }
    rest.iter().map(load).fold(even.wrapping_add(odd), u64::wrapping_add)
}

/// Stores a value to every word.
#[inline(never)]
pub fn write(words: &[AtomicU64], value: u64) {
    let store = |word: &AtomicU64| word.store(value, Ordering::Relaxed);
    let (eights, rest) = words.as_chunks::<8>();
    for [a, b, c, d, e, f, g, h] in eights {
        store(a);
        store(b);
        store(c);
        store(d);
        store(e);
        store(f);
        store(g);
        store(h);
    }
    rest.iter().for_each(store);
}

/// Adds 1 to the first of every `step` words (of every one, for 0).
#[inline(never)]
pub fn stride(words: &[AtomicU64], step: usize) {
    for word in words.iter().step_by(step.max(1)) {
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicU64, Ordering};

    use core::cell::Cell;
    use core::time::Duration;

    use super::{Pattern, fastest_pass, measure, read, touch};

    #[test]
    fn measuring_is_one_store_a_page_and_then_the_passes() {
        let words: Vec<AtomicU64> = (0..1024).map(|_| AtomicU64::new(0)).collect();
        let (begun, looks) = (Cell::new(0), Cell::new(0_u64));
        let clock = || {
            looks.set(looks.get() + 1);
            Duration::from_nanos(looks.get() * looks.get())
        };
        let times = measure(&words, Pattern::Stride(2048), 2, || begun.set(begun.get() + 1), clock);
        // Between two looks at the clock.
        assert_eq!((times, begun.get()), (Vec::from([3, 7, 11]), 3));
        let touched: Vec<_> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert_eq!((touched[0], touched[256], touched[512], touched[1]), (3, 2, 3, 0));
    }

    #[test]
    fn many_passes_are_timed_in_parts() {
        let words = [const { AtomicU64::new(0) }; 512];
        let looks = Cell::new(0);
        let clock = || {
            looks.set(looks.get() + 1);
            Duration::from_nanos(looks.get())
        };
        let times = measure(&words, Pattern::Stride(4096), 100, || (), clock);
        assert_eq!((times.len(), looks.get()), (1 + 8, 2 * 9));
        assert_eq!(words[0].load(Ordering::Relaxed), 1 + 100);
        // Parts of 12 and 13 passes, the second the fastest.
        assert_eq!(fastest_pass(100, &[120, 130, 240, 260, 240, 260, 240, 260]), 10);
        assert_eq!((fastest_pass(3, &[7, 5, 6]), fastest_pass(0, &[])), (5, 0));
    }

    #[test]
    fn patterns_touch_what_they_say() {
        let words: Vec<AtomicU64> = (0..1003).map(AtomicU64::new).collect();
        let values = || words.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(read(&words), (0..1003).sum());
        touch(Pattern::Stride(64), &words);
        assert!(values().iter().zip(0..).all(|(value, index)| *value == index + u64::from(index % 8 == 0)));
        touch(Pattern::Write, &words);
        let first = values()[0];
        assert!(values().iter().all(|value| *value == first) && first > 1003);
    }
}
