//! What was done.

use core::fmt;

/// What a storm does, where it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Memory was allocated, or an object mapped.
    Allocate,
    /// Memory was given back.
    Deallocate,
    /// A page that was not resident was stored to.
    Fault,
    /// Pages were given other rights.
    Protect,
    /// Pages were wired.
    Wire,
    /// Pages were unwired.
    Unwire,
    /// Pages were locked.
    Lock,
    /// Memory without a store behind it was synchronized.
    Sync,
    /// Memory of a store was.
    StoreSync,
    /// A child was there, and ended as it should.
    Fork,
}

/// How often each was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u64; DEEDS.len()]);

/// What a storm does, as its tally calls it.
pub const DEEDS: [&str; 10] = [
    "allocations",
    "deallocations",
    "faults",
    "protections",
    "wires",
    "unwires",
    "locks",
    "syncs",
    "store syncs",
    "forks",
];

impl Tally {
    /// Counts what succeeded so many times.
    pub(super) fn note(&mut self, deed: Deed, times: u64) {
        self.0[deed as usize] += times;
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (count, name)) in self.0.iter().zip(DEEDS).enumerate() {
            write!(f, "{}{count} {name}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use alloc::string::ToString;

    use super::{Deed, Tally};

    #[test]
    fn tallies_add_up_and_name_what_they_count() {
        let (mut one, mut all) = (Tally::default(), Tally::default());
        one.note(Deed::Allocate, 1);
        one.note(Deed::StoreSync, 7);
        one.note(Deed::Fork, 2);
        all.add(&one);
        all.add(&one);
        assert_eq!(
            all.to_string(),
            "2 allocations, 0 deallocations, 0 faults, 0 protections, 0 wires, 0 unwires, 0 locks, 0 syncs, 14 store syncs, 4 forks"
        );
    }
}
