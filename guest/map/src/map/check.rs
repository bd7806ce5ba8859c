//! The invariants of a map, checked from scratch.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::{MapState, VmMap};
use crate::entry::MapEntry;
use crate::object::VmObject;
use crate::ports::Ports;
use crate::units::{FrameRun, PageRange, Prot};

/// An invariant that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What should hold.
    pub rule: &'static str,
    /// Where it does not: virtual pages, or frames if the rule is about frames.
    pub pages: PageRange,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (violated at {})", self.rule, self.pages)
    }
}

impl core::error::Error for Violation {}

/// Returns a violation of `rule` unless `holds`.
fn require(holds: bool, rule: &'static str, pages: PageRange) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, pages }) }
}

impl<P: Ports> VmMap<P> {
    /// Checks every invariant of the map and of the objects it shows (rows N1 to N7). They hold whenever the
    /// map is unlocked, in the middle of other operations too.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn check(&self) -> Result<(), Violation> {
        self.locked(|state| {
            state.check_entries(self.bounds)?;
            state.check_objects()?;
            // Both totals change under the lock only, so they must be compared under it.
            let included = state.user_wired_pages <= self.vm.user_wired_pages();
            require(included, "N7: the system's charge includes the map's", self.bounds)
        })
    }

    /// Checks after every operation in debug builds.
    ///
    /// # Panics
    /// When an invariant is violated.
    pub(super) fn debug_check(&self) {
        if cfg!(debug_assertions)
            && let Err(violation) = self.check()
        {
            panic!("{violation}");
        }
    }
}

impl<P: Ports> MapState<P> {
    fn check_entries(&self, bounds: PageRange) -> Result<(), Violation> {
        let mut end = bounds.start;
        let mut charged = 0;
        for (start, entry) in self.entries.iter() {
            let pages = PageRange::new(start, start + entry.pages);
            require(start >= end, "entries are ordered, disjoint and within the map", pages)?;
            require(!pages.is_empty(), "no entry is empty", pages)?;
            end = pages.end;
            entry.check(pages, self.operation)?;
            if entry.user_wired || entry.transition.is_some_and(|mark| mark.charged) {
                charged += entry.pages;
            }
        }
        require(end <= bounds.end, "entries are ordered, disjoint and within the map", bounds)?;
        require(charged == self.user_wired_pages, "N7: the user-wired total is that of the entries", bounds)
    }

    /// Checks every resident page against the entries. An object is shown by this map alone, and each of its
    /// pages once.
    fn check_objects(&self) -> Result<(), Violation> {
        let mut objects: Vec<&Arc<VmObject>> = self.entries.iter().filter_map(|(_, e)| e.object.as_ref()).collect();
        objects.sort_unstable_by_key(|object| Arc::as_ptr(object));
        objects.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut frames: Vec<FrameRun> = Vec::new();
        for object in objects {
            let mut end = 0;
            for (start, extent) in object.resident().iter() {
                let pages = PageRange::new(start, start + extent.frames.pages);
                require(start >= end && !pages.is_empty(), "extents are ordered, disjoint and not empty", pages)?;
                end = pages.end;
                frames.push(extent.frames);
            }
        }
        let resident: u64 = frames.iter().map(|run| run.pages).sum();
        frames.sort_unstable_by_key(|run| run.first);
        for pair in frames.windows(2) {
            let pages = PageRange::new(pair[1].first, pair[1].end());
            require(pair[0].end() <= pair[1].first, "no frame holds two pages", pages)?;
        }
        let mut shown = 0;
        for (start, entry) in self.entries.iter() {
            shown += entry.check_pages(PageRange::new(start, start + entry.pages))?;
        }
        require(shown == resident, "every resident page is shown by one entry", PageRange::new(0, resident))
    }
}

impl MapEntry {
    fn check(&self, pages: PageRange, newest: u64) -> Result<(), Violation> {
        require(!self.user_wired || self.wired_count >= 1, "N1: a user-wired entry is wired", pages)?;
        require(self.max_prot.contains(self.prot), "an entry permits no more than its maximum", pages)?;
        require(
            self.transition.is_none_or(|mark| (1..=newest).contains(&mark.owner.0)),
            "N2: the owner of a mark has begun",
            pages,
        )?;
        require(
            self.transition.is_none_or(|mark| !(mark.skipped && (mark.counted || mark.charged))),
            "a wire call does nothing to an entry it skips",
            pages,
        )?;
        require(
            self.transition.is_none_or(|mark| !(mark.charged && self.user_wired)),
            "N7: an entry is charged once",
            pages,
        )?;
        require(
            Prot::ALL.contains(self.max_prot) && (self.wired_count == 0 || self.object.is_some()),
            "a wired entry has an object",
            pages,
        )
    }

    /// Checks the wire counts of the entry's pages and returns how many pages are resident.
    fn check_pages(&self, pages: PageRange) -> Result<u64, Violation> {
        let Some(object) = &self.object else { return Ok(0) };
        let wires = u32::from(self.wired_count > 0);
        let mut resident = 0;
        for (piece, extent) in object.resident().pieces(self.object_range(pages.start, pages)) {
            resident += piece.len();
            require(extent.wires == wires, "N5: a wired entry counts once on each of its pages", pages)?;
        }
        require(wires == 0 || resident == pages.len(), "every page of a wired entry is resident", pages)?;
        Ok(resident)
    }
}

#[cfg(test)]
mod test {
    use super::super::MapState;
    use crate::entry::{OperationId, Transition};
    use crate::fake::FakePorts;
    use crate::flags::WireFlags;
    use crate::frame_runs::FrameRuns;
    use crate::map::testing::Bed;
    use crate::object::VmObject;
    use crate::units::{FrameRun, PageRange, Prot};

    /// Spoils a map `[0,4)0 [4,8)1U [8,12)0` that holds every invariant; returns the rule then violated.
    fn spoiled(spoil: impl FnOnce(&mut MapState<FakePorts>, u64)) -> &'static str {
        let bed = Bed::of(12);
        assert_eq!(bed.wire(4, 8, WireFlags::USER), Ok(()));
        let base = bed.machine.map.bounds().start;
        bed.machine.map.locked(|state| spoil(state, base));
        bed.machine.map.check().map_or_else(|violation| violation.rule, |()| "none")
    }

    #[test]
    fn check_finds_each_spoiled_entry() {
        let entry = |at: u64, spoil: fn(&mut crate::entry::MapEntry)| {
            spoiled(|state, base| state.entries.get_mut(base + at).into_iter().for_each(spoil))
        };
        assert!(entry(0, |entry| entry.user_wired = true).starts_with("N1"));
        assert!(entry(0, |entry| entry.transition = Some(Transition::new(OperationId(99)))).starts_with("N2"));
        assert!(entry(4, |entry| entry.user_wired = false).starts_with("N7"));
        assert!(entry(4, |entry| entry.wired_count = 2).starts_with("none"), "nesting does not count on pages");
        assert!(entry(0, |entry| entry.max_prot = Prot::READ).starts_with("an entry permits no more"));
        assert!(entry(0, |entry| entry.pages = 5).starts_with("entries are ordered"));
        assert!(entry(8, |entry| entry.pages = 9000).starts_with("entries are ordered"));
        assert!(entry(0, |entry| entry.pages = 0).starts_with("no entry is empty"));
        assert!(entry(4, |entry| entry.object = None).starts_with("a wired entry has an object"));
        assert!(entry(4, |entry| entry.object = Some(VmObject::ram())).starts_with("every page of a wired entry"));
        assert!(entry(0, |entry| entry.offset = 4).starts_with("N5"));
        let skipped = |entry: &mut crate::entry::MapEntry| {
            entry.transition = Some(Transition { skipped: true, counted: true, ..Transition::new(OperationId(1)) });
        };
        assert!(entry(0, skipped).starts_with("a wire call does nothing"));
        let charged = |entry: &mut crate::entry::MapEntry| {
            entry.transition = Some(Transition { charged: true, ..Transition::new(OperationId(1)) });
        };
        assert!(entry(0, charged).starts_with("N7: the user-wired total"));
        assert!(entry(4, charged).starts_with("N7: an entry is charged once"));
    }

    #[test]
    fn check_finds_each_spoiled_page() {
        let object = |state: &mut MapState<FakePorts>, page| {
            state.entries.get_mut(page).map(|entry| alloc::sync::Arc::clone(entry.ensure_object())).unwrap()
        };
        let rule = spoiled(|state, base| {
            object(state, base).resident().insert(0, FrameRun::new(2, 1), false);
        });
        assert!(rule.starts_with("no frame holds two pages"), "{rule}");
        let rule = spoiled(|state, base| {
            let one = PageRange::new(5, 6);
            object(state, base).resident().unwire(one, &mut FrameRuns::new());
        });
        assert!(rule.starts_with("N5"), "{rule}");
        let rule = spoiled(|state, base| {
            object(state, base).resident().remove(PageRange::new(7, 8), |_| ());
        });
        assert!(rule.starts_with("every page of a wired entry"), "{rule}");
        let rule = spoiled(|state, base| {
            object(state, base).resident().insert(50, FrameRun::new(2000, 1), false);
        });
        assert!(rule.starts_with("every resident page is shown"), "{rule}");
    }

    #[test]
    fn check_finds_a_charge_that_the_system_does_not_know() {
        let bed = Bed::of(4);
        assert_eq!(bed.wire(0, 4, WireFlags::USER), Ok(()));
        bed.machine.vm.uncharge(1);
        assert!(bed.machine.map.check().is_err_and(|violation| violation.rule.starts_with("N7: the system")));
    }
}
