//! The same touching of memory, in a guest and natively.

use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Instant;

use wirevm_user::touch::{Pattern, fastest_pass, measure};
use zerocopy::{FromBytes, IntoBytes};

/// Nanoseconds that touching some memory took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// One store in each page, when none was resident.
    pub first: u64,
    /// All passes over pages that were.
    pub all: u64,
    /// One of the fastest of them.
    pub best: u64,
}

impl Touched {
    fn new(passes: usize, times: &[u64]) -> Option<Self> {
        let (first, parts) = times.split_first()?;
        Some(Self { first: *first, all: parts.iter().sum(), best: fastest_pass(passes, parts) })
    }

    /// Reads what the program `toucher` prints.
    #[must_use]
    pub fn from_output(output: &str) -> Option<Self> {
        let time = |what: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(what))?;
            line.split(", ").find_map(|part| part.strip_suffix(" ns"))?.parse().ok()
        };
        Some(Self { first: time("first touch: ")?, all: time("touched before: ")?, best: time("best pass: ")? })
    }
}

/// Touches memory of this process as `toucher MIB PASSES PATTERN threads THREADS` touches a guest's: the same loops, over as many
/// bytes, in parts as large, begun together.
///
/// # Panics
/// Without a pass or a thread, or when a thread panics.
#[must_use]
pub fn touch_natively(mib: usize, passes: usize, pattern: Pattern, threads: usize) -> Touched {
    // Zero memory that large is fresh from the kernel, and not resident.
    let mut memory = vec![0_u64; mib << 17];
    let words: &[AtomicU64] = <[AtomicU64]>::mut_from_bytes(memory.as_mut_bytes()).expect("words as large");
    let part = words.len() / threads;
    let (barrier, start) = (Barrier::new(threads), Instant::now());
    let begin = || {
        barrier.wait();
    };
    let work = |part: &[AtomicU64]| measure(part, pattern, passes, begin, || start.elapsed());
    let times = thread::scope(|scope| {
        let running: Vec<_> = words.chunks(part).take(threads).map(|part| scope.spawn(move || work(part))).collect();
        let times = running.into_iter().map(|thread| thread.join().expect("no panic"));
        // A pass takes as long as the slowest of those who begin it together.
        times.reduce(|all, one| all.iter().zip(one).map(|(all, one)| one.max(*all)).collect())
    });
    times.as_deref().and_then(|times| Touched::new(passes, times)).expect("at least one thread and one pass")
}
