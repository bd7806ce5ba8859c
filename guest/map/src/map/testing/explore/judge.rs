//! What must hold at every step of a schedule and at its end.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::keeper::KEPT;
use super::scenario::{Act, Memory, Scenario};
use super::world::{Answer, BASE, FRAMES, PAGES, World};
use crate::entry::Inheritance;
use crate::fake::{block_on, check_maps, check_quiet_maps};
use crate::flags::LockAllFlags;
use crate::kern_return::KernReturn;
use crate::map::Advice;
use crate::objects::{Found, Pin};
use crate::units::{PageRange, Prot};

/// What is left of a page of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageState {
    entry: Option<(Prot, u32, bool, Inheritance, bool)>,
    byte: Result<u8, KernReturn>,
}

/// What a schedule came to, as a caller can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) answers: Vec<Answer>,
    pages: Vec<PageState>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.answers)?;
        for (at, page) in self.pages.iter().enumerate() {
            write!(f, "{}{}=", if at % 6 == 0 { " | " } else { " " }, at % 6)?;
            if let Some((prot, count, user, inheritance, on_fault)) = page.entry {
                let (user, on_fault) = (if user { "U" } else { "" }, if on_fault { "F" } else { "" });
                write!(f, "{prot:?},{count}{user}{on_fault},{inheritance:?},")?;
            }
            match page.byte {
                Ok(byte) => write!(f, "{byte:#x}")?,
                Err(error) => write!(f, "{error:?}")?,
            }
        }
        Ok(())
    }
}

/// Checks what holds at every moment.
pub(super) fn check_step(world: &World, scenario: &Scenario) -> Result<(), String> {
    let maps = world.all_maps();
    let maps: Vec<_> = maps.iter().map(Arc::as_ref).collect();
    check_maps(&maps)?;
    for map in &maps {
        map.locked(|state| {
            for (start, entry) in state.entries.iter() {
                let counted: u64 = entry.counted_pages(start, &state.by_fault).map(PageRange::len).sum();
                if entry.user_wired && !entry.on_fault && counted < entry.pages {
                    return Err(format!("the user bit stands before the last page of {} is wired", entry.range(start)));
                }
            }
            Ok(())
        })?;
    }
    check_forbidden(world)?;
    if copies_nothing(scenario) { check_held(world) } else { Ok(()) }
}

/// Checks that no mapping permits what the manager of its page forbids.
fn check_forbidden(world: &World) -> Result<(), String> {
    let Some(object) = world.object.as_ref().filter(|_| world.keeper.has_manager()) else { return Ok(()) };
    for map in world.maps() {
        for page in 0..KEPT {
            let mapped = map.with_pmap(|pmap| pmap.translation(BASE + page));
            let objects = world.machine.vm.objects();
            let resident = &objects.table[object.id()].resident;
            if let (Some(mapped), Some((_, extent))) = (mapped, resident.containing(page))
                && !(mapped.prot & extent.forbidden).is_none()
            {
                return Err(format!("page {page} is mapped with rights that its manager forbids"));
            }
        }
    }
    Ok(())
}

/// Tells whether no page is copied, so that the host is only asked about pages of entries that somebody wires or unwires.
fn copies_nothing(scenario: &Scenario) -> bool {
    matches!(scenario.memory, Memory::Plain | Memory::Wired | Memory::OnFault | Memory::Shared | Memory::Failing)
        && !scenario.any(|act| matches!(act, Act::ForkWrite | Act::ForkWire | Act::ForkKeep | Act::Protect(..)))
}

/// Checks that the pages that the host is asked about are those of entries in transition: nobody sees what an operation has half
/// done (row D-H).
fn check_held(world: &World) -> Result<(), String> {
    let mut marked: Vec<u64> = Vec::new();
    for map in world.maps() {
        map.locked(|state| {
            let objects = world.machine.vm.objects();
            for (start, entry) in state.entries.iter().filter(|(_, entry)| entry.transition.is_some()) {
                let Some(top) = entry.object else { continue };
                objects.table.for_each(top, entry.object_range(start, entry.range(start)), |_, found| {
                    if let Found::Resident { extent, .. } = found {
                        marked.extend(extent.frames.first..extent.frames.end());
                    }
                });
            }
        });
    }
    let objects = world.machine.vm.objects();
    let mut going = objects.table.iter().flat_map(|(_, object)| object.resident.iter());
    let lost = going.find(|(_, extent)| extent.pin == Pin::Going && !marked.contains(&extent.frames.first));
    match lost {
        Some((index, _)) => Err(format!("the host is asked about page {index} of an entry that nobody works on (D-H)")),
        None => Ok(()),
    }
}

/// Checks what holds when all tasks have ended, takes the world apart, and says what the schedule came to.
pub(super) fn conclude(mut world: World, answers: Vec<Answer>) -> Result<Outcome, String> {
    world.machine.host().withdraw_failures();
    world.machine.host().set_yielding(false);
    world.plant(None, false);
    world.keeper.fail(None);
    {
        let maps = world.all_maps();
        let maps: Vec<_> = maps.iter().map(Arc::as_ref).collect();
        check_quiet_maps(&maps)?;
    }
    world.check_kept()?;
    let (resident, free) = (world.machine.vm.resident_pages(), world.machine.frames().free_pages());
    if resident + free != FRAMES {
        return Err(format!("frames are lost: {resident} are resident and {free} free"));
    }
    world.children.lock().sort_by_key(|(task, _)| *task);
    let mut pages = Vec::new();
    for map in world.maps() {
        let entries = map.entries();
        for page in 0..PAGES {
            let entry = entries.iter().find(|entry| entry.pages.contains(BASE + page));
            let entry =
                entry.map(|row| (row.prot, row.wired_count, row.user_wired, row.inheritance, row.wired_on_fault));
            let byte = world.settle(world.read(&map, page)).ok_or("a read waits for ever")?;
            pages.push(PageState { entry, byte });
        }
    }
    for map in world.maps() {
        block_on(map.destroy());
        map.check().map_err(|violation| violation.to_string())?;
    }
    drop(world.object.take());
    world.settle(async {}).ok_or("the object does not come to its end")?;
    world.check_end()?;
    if let Some(own) = world.keeper.own() {
        block_on(own.destroy());
    }
    let machine = &world.machine;
    let left = (machine.vm.resident_pages(), machine.vm.user_wired_pages(), machine.vm.objects().table.iter().count());
    if left != (0, 0, 0) || machine.frames().free_pages() != FRAMES || !machine.host().wired().is_empty() {
        return Err(format!("(resident, charged, objects) {left:?} are left when all maps are gone"));
    }
    if let Some(violation) = machine.host().violations().first() {
        return Err(format!("the host's contract was broken: {violation}"));
    }
    Ok(Outcome { answers, pages })
}

/// Tells whether the tasks must come to what they could come to one after the other. Those do that hold all they touch at once.
pub(super) fn is_serial(scenario: &Scenario) -> bool {
    let forks = scenario.any(|act| matches!(act, Act::ForkWrite | Act::ForkWire | Act::ForkKeep));
    let frees = scenario.any(|act| act == Act::Advise(Advice::Free));
    let deallocates = scenario.any(|act| matches!(act, Act::Deallocate(..)));
    let future = scenario.any(|act| act == Act::Mlockall(LockAllFlags::FUTURE));
    // A manager's death fails what it was asked, and an ASYNCHRONOUS call does not tell what failed.
    if scenario.memory.is_kept() {
        return !scenario.any(|act| act == Act::Kill) && scenario.refused.is_none();
    }
    // Deallocation takes what it can before it waits, and advice skips what is wired by then. Some tasks are
    // several operations; what happens between them may need the host where it else would not, and be what that refuses.
    let several = forks || scenario.any(|act| matches!(act, Act::Hold(..)));
    // So it does which pages that are wired as they come are resident.
    let on_fault = scenario.memory == Memory::OnFault
        || scenario.any(|act| matches!(act, Act::Mlockall(flags) if flags.contains(LockAllFlags::ONFAULT)));
    // Copies that a private mapping or a child has got before the object is cut stay.
    let cuts =
        (scenario.memory == Memory::File || forks) && scenario.any(|act| matches!(act, Act::Truncate(_) | Act::Kill));
    !(deallocates && forks || cuts || frees || future || (several || on_fault) && scenario.refused.is_some())
}
