//! How much is tried. Longer runs are asked for through the environment; every run prints its seed.

use std::env;
use std::fmt::Display;
use std::str::FromStr;

/// Reads a number from the environment.
fn number<T: FromStr<Err: Display>>(name: &str, otherwise: T) -> T {
    let Some(text) = env::var_os(name) else { return otherwise };
    let text = text.to_string_lossy().into_owned();
    text.parse().unwrap_or_else(|error| panic!("{name} is '{text}': {error}"))
}

/// The first seed; the others follow it. A change is judged by the same ones as the one before it.
pub fn seed() -> u64 {
    number("WIREVM_DURABILITY_SEED", 1)
}

/// How often a process is killed in each test.
pub fn kills() -> u64 {
    number("WIREVM_DURABILITY_KILLS", 6)
}

/// How many runs are recorded in each test of power cuts.
pub fn recordings() -> u64 {
    number("WIREVM_DURABILITY_RECORDINGS", 2)
}

/// How many images are looked at for each place in a record at which the power may go.
pub fn images() -> u64 {
    number("WIREVM_DURABILITY_IMAGES", 2000)
}

/// How many images are mounted for each recording.
pub fn mounts() -> u64 {
    number("WIREVM_DURABILITY_MOUNTS", 12)
}
