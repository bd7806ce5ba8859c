//! The invariants of a map, checked from scratch.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::mutex::MutexGuard;

use super::{MapState, VmMap};
use crate::entry::{EntryKind, MapEntry};
use crate::objects::{Counts, Found, ObjectId, ObjectTable, Pin, SpaceId, View};
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
    /// Checks every invariant of the map and what can be said of the objects without knowing the other maps (rows N1 to N7). They
    /// hold whenever the map is unlocked, in the middle of other operations too.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn check(&self) -> Result<(), Violation> {
        self.locked(|state| {
            state.check_entries()?;
            state.check_pages(&self.vm.objects().table)?;
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

/// Checks every invariant of a system whose maps are `maps`, all of them: as [`VmMap::check`] does, and that counts, charges and
/// objects are exactly what the maps say.
///
/// All maps are locked at once, which nothing else does; in the order of where they are in memory, so that two such checks, whatever
/// orders they are given, don't wait for each other.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check_all<P: Ports>(maps: &[&VmMap<P>]) -> Result<(), Violation> {
    check_maps(maps, true)
}

/// As [`check_all`], where the system may have maps that are not given, such as one that a fork is just making: what they share is not
/// judged.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check_some<P: Ports>(maps: &[&VmMap<P>]) -> Result<(), Violation> {
    check_maps(maps, false)
}

fn check_maps<P: Ports>(maps: &[&VmMap<P>], are_all: bool) -> Result<(), Violation> {
    let Some(first) = maps.first() else { return Ok(()) };
    let vm = Arc::clone(&first.vm);
    let place = |map: &&VmMap<P>| core::ptr::from_ref(*map).addr();
    let mut ordered = maps.to_vec();
    ordered.sort_by_key(place);
    ordered.dedup_by_key(|map| place(map));
    let states: Vec<_> = ordered.iter().map(|map| map.state.lock()).collect();
    let objects = vm.objects();
    for state in &states {
        state.check_entries()?;
        state.check_pages(&objects.table)?;
    }
    let charged: u64 = states.iter().map(|state| state.user_wired_pages).sum();
    let total = vm.user_wired_pages();
    let is_right = if are_all { charged == total } else { charged <= total };
    require(is_right, "N7: the system's charge is that of its maps", first.bounds)?;
    let strangers = if are_all { BTreeSet::new() } else { shown_by_others(&states, &objects.table) };
    check_counts(states.iter().map(|state| &**state), &objects.table, &strangers)?;
    check_frames(&objects.table)
}

/// As [`check_all`], and what must hold when no operation is under way: nothing is in transition, awaited or busy, and the host holds
/// exactly the pages that are wired.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check_quiet<P: Ports>(maps: &[&VmMap<P>]) -> Result<(), Violation> {
    check_all(maps)?;
    for map in maps {
        map.locked(|state| {
            for (start, entry) in state.entries.iter() {
                let pages = entry.range(start);
                require(entry.transition.is_none(), "nothing is left in transition", pages)?;
                require(!entry.needs_wakeup, "nobody is left waiting for an entry", pages)?;
            }
            require(!state.is_detached || state.entries.len() == 0, "a detached map is empty", state.bounds)?;
            require(state.busy == 0 && !state.busy_awaited, "no operation is left busy", state.bounds)
        })?;
    }
    let Some(first) = maps.first() else { return Ok(()) };
    let objects = first.vm.objects();
    for (_, object) in objects.table.iter() {
        require(object.holds == 0, "no operation is left with an object", PageRange::new(0, 0))?;
        for (start, extent) in object.resident.iter() {
            let pages = PageRange::new(start, start + extent.frames.pages);
            require(!extent.cleaning, "no page is left on its way to stable storage", pages)?;
            require(extent.still == 0, "no page is left to be copied", pages)?;
            let held = if extent.wires > 0 { Pin::Yes } else { Pin::No };
            require(extent.pin == held, "the host holds exactly what is wired", pages)?;
        }
    }
    Ok(())
}

impl<P: Ports> MapState<P> {
    fn check_entries(&self) -> Result<(), Violation> {
        let bounds = self.bounds;
        let mut end = bounds.start;
        let (mut charged, mut submaps, mut by_fault) = (0, 0, 0);
        for (start, entry) in self.entries.iter() {
            let pages = entry.range(start);
            require(start >= end, "entries are ordered, disjoint and within the map", pages)?;
            require(!pages.is_empty(), "no entry is empty", pages)?;
            end = pages.end;
            entry.check(pages, self.vm.operations())?;
            let submap = self.submaps.get(&start).map(|submap| submap.bounds);
            let expected = (entry.kind == EntryKind::Submap).then_some(pages);
            require(submap == expected, "a submap rules over exactly its entry", pages)?;
            submaps += u64::from(submap.is_some());
            if entry.on_fault {
                by_fault += self.by_fault.pages_within(pages);
            }
            if entry.user_wired || entry.transition.is_some_and(|mark| mark.charged) {
                charged += entry.pages;
            }
        }
        require(by_fault == self.by_fault.pages(), "no page is known for a fault of an entry that is no more", bounds)?;
        require(submaps == self.submaps.len() as u64, "every submap has an entry", bounds)?;
        require(end <= bounds.end, "entries are ordered, disjoint and within the map", bounds)?;
        require(charged == self.user_wired_pages, "N7: the user-wired total is that of the entries", bounds)
    }

    /// Checks that every page which an entry counts on is resident and counted.
    fn check_pages(&self, table: &ObjectTable) -> Result<(), Violation> {
        for (start, entry) in self.entries.iter() {
            let Some(top) = entry.object else { continue };
            let shown = entry.object_range(start, entry.range(start));
            let distance = start.wrapping_sub(shown.start);
            let view = table[top].views.iter().find(|view| view.space == self.space && view.distance == distance);
            require(view.is_some_and(|view| view.shows(shown)), "an object knows who shows it", entry.range(start))?;
            for pages in entry.counted_pages(start, &self.by_fault) {
                let mut counted = true;
                table.for_each(top, entry.object_range(start, pages), |_, found| {
                    counted &= matches!(found, Found::Resident { extent, .. } if extent.wires > 0);
                });
                require(counted, "N5: every page of a wired entry is resident and counted", pages)?;
            }
        }
        Ok(())
    }
}

/// Returns the objects that maps other than these show, with all that is behind those.
fn shown_by_others<P: Ports>(
    states: &[MutexGuard<'_, MapState<P>, P::Relax>],
    table: &ObjectTable,
) -> BTreeSet<ObjectId> {
    let known: BTreeSet<SpaceId> = states.iter().map(|state| state.space).collect();
    let mut strangers = BTreeSet::new();
    for (id, object) in table.iter() {
        if object.views.iter().all(|view| known.contains(&view.space)) {
            continue;
        }
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| strangers.insert(*id)) {
            next = table[id].backing.map(|backing| backing.object);
        }
    }
    strangers
}

/// Checks that wire counts and views are exactly what the entries of all maps make them (row N5).
fn check_counts<'a, P: Ports>(
    states: impl Iterator<Item = &'a MapState<P>>,
    table: &ObjectTable,
    strangers: &BTreeSet<ObjectId>,
) -> Result<(), Violation> {
    let mut expected: BTreeMap<ObjectId, (Counts, Counts, u64)> = BTreeMap::new();
    for (start, entry, by_fault) in
        states.flat_map(|state| state.entries.iter().map(|(start, entry)| (start, entry, &state.by_fault)))
    {
        let Some(top) = entry.object else { continue };
        expected.entry(top).or_insert_with(none).2 += entry.pages;
        for pages in entry.counted_pages(start, by_fault) {
            table.for_each(top, entry.object_range(start, pages), |indices, found| {
                if let Found::Resident { owner, index, .. } = found {
                    expected.entry(owner).or_insert_with(none).0.add(PageRange::new(index, index + indices.len()));
                    if owner != top {
                        expected.entry(top).or_insert_with(none).1.add(indices);
                    }
                }
            });
        }
    }
    for (id, object) in table.iter().filter(|(id, _)| !strangers.contains(id)) {
        let (wires, below, shown) = expected.remove(&id).unwrap_or_else(none);
        let views = object.views.iter().map(View::pages).sum::<u64>();
        require(views == shown, "an object knows how many of its pages are shown", PageRange::new(0, shown))?;
        for (start, extent) in object.resident.iter() {
            let pages = PageRange::new(start, start + extent.frames.pages);
            let (same, count) = wires.first_of(pages);
            let agrees = same == pages.len() && count == extent.wires;
            require(agrees, "N5: a page is wired as often as wired entries show it", pages)?;
        }
        require(below == object.below, "an object knows who is wired through it", PageRange::new(0, shown))?;
        let alive = shown > 0 || object.handles > 0 || object.holds > 0 || !object.shadows.is_empty();
        require(alive, "an object that nothing refers to is gone", PageRange::new(0, 0))?;
        for shadow in &object.shadows {
            let knows = table[*shadow].backing.is_some_and(|backing| backing.object == id);
            require(knows, "an object and its shadows know each other", PageRange::new(0, 0))?;
        }
    }
    Ok(())
}

const fn none() -> (Counts, Counts, u64) {
    (Counts::new(), Counts::new(), 0)
}

/// Checks that every object's pages are in order and that no frame holds two pages.
fn check_frames(table: &ObjectTable) -> Result<(), Violation> {
    let mut frames: Vec<FrameRun> = Vec::new();
    for (_, object) in table.iter() {
        let mut end = 0;
        for (start, extent) in object.resident.iter() {
            let pages = PageRange::new(start, start + extent.frames.pages);
            require(start >= end && !pages.is_empty(), "extents are ordered, disjoint and not empty", pages)?;
            require(
                extent.pin != Pin::Yes || extent.wires > 0 || extent.cleaning,
                "the host holds only wired pages",
                pages,
            )?;
            end = pages.end;
            frames.push(extent.frames);
        }
    }
    frames.sort_unstable_by_key(|run| run.first);
    for pair in frames.windows(2) {
        let pages = PageRange::new(pair[1].first, pair[1].end());
        require(pair[0].end() <= pair[1].first, "no frame holds two pages", pages)?;
    }
    Ok(())
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
            !(self.user_wired && self.prot.contains(Prot::WRITE) && self.needs_copy),
            "N4: what a user has wired and may write needs no copy",
            pages,
        )?;
        require(!self.on_fault || self.wired_count > 0, "only a wired entry is wired page by page", pages)?;
        require(self.object.is_none() || self.kind.has_pages(), "only what can hold pages has an object", pages)?;
        require(
            Prot::ALL.contains(self.max_prot) && (self.wired_count == 0 || self.object.is_some() || self.on_fault),
            "a wired entry has an object",
            pages,
        )
    }
}
