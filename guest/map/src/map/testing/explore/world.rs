//! The machine that a scenario runs on, and the operations.

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::keeper::{KEPT, Keeper};
use super::scenario::{Act, Memory, Scenario, Task};
use crate::entry::Inheritance;
use crate::errno::Errno;
use crate::fake::{FakeConfig, FakeMachine, FakePmap, FakePorts, block_on, yield_now};
use crate::flags::{LockAllFlags, WireFlags};
use crate::handle::{ObjectHandle, PagerFault};
use crate::kern_return::KernReturn;
use crate::map::{MapMode, Placement, VmMap};
use crate::planted::{Mutant, plant_in_thread};
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};
use crate::wait::Late;

type Map = VmMap<FakePorts>;

/// The pages of each map that matter.
pub(super) const PAGES: u64 = 6;
/// The first of them.
pub(super) const BASE: u64 = 16;
/// Frames of the machine.
pub(super) const FRAMES: u64 = 64;

/// What an operation answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Code(Result<(), KernReturn>),
    Posix(Result<(), Errno>),
    /// What was read, and what the last operation answered.
    Bytes(Result<u8, KernReturn>, Result<u8, KernReturn>, Result<(), KernReturn>),
}

/// A machine with one map or two, and the children that forks made.
#[derive(Debug)]
pub(super) struct World {
    pub(super) machine: FakeMachine,
    pub(super) second: Option<Arc<Map>>,
    /// With the number of the task that made each.
    pub(super) children: Mutex<Vec<(usize, Arc<Map>)>>,
    pub(super) object: Option<ObjectHandle<FakePorts>>,
    pub(super) keeper: Keeper,
    gated: Option<u64>,
}

pub(super) const fn at(page: u64) -> u64 {
    (BASE + page) << PAGE_SHIFT
}

impl World {
    /// Returns the memory of `scenario`, with `mutant` planted into the core and a host that refuses one wire after that many.
    pub(super) fn new(scenario: &Scenario, refused: Option<u64>, mutant: Option<Mutant>) -> Self {
        plant_in_thread(None);
        let machine = FakeMachine::new(FakeConfig {
            frame_pages: FRAMES,
            map_pages: PageRange::new(BASE, BASE + PAGES),
            ..FakeConfig::default()
        });
        let gated = scenario.memory.gated();
        let mut world =
            Self { machine, second: None, children: Mutex::default(), object: None, keeper: Keeper::default(), gated };
        block_on(world.fill(scenario.memory)).unwrap();
        if let (Some(page), Some(object)) = (gated, &world.object) {
            object.gate(page);
        }
        world.machine.host().set_yielding(true);
        if let Some(after) = refused {
            if scenario.memory.is_kept() {
                world.machine.host().fail_store(after, HostError::Io);
                world.keeper.fail(refused);
            } else {
                world.machine.host().fail_wire(after, HostError::Quota);
            }
        }
        world.plant(mutant, scenario.pauses);
        world
    }

    pub(super) fn plant(&self, mutant: Option<Mutant>, pauses: bool) {
        plant_in_thread(mutant);
        self.machine.vm.planted.set(mutant, pauses);
        self.machine.vm.objects().table.mutant = mutant;
        let late = match (pauses, mutant) {
            (false, _) => Late::Never,
            (true, Some(Mutant::WaitBeginsLate)) => Late::Begun,
            (true, _) => Late::Queued,
        };
        self.machine.vm.idle().set_late(late);
        for map in self.maps() {
            map.transitions.set_late(late);
        }
    }

    fn is_kept(&self) -> bool {
        self.keeper.keeps()
    }

    /// Returns the maps that matter.
    pub(super) fn maps(&self) -> Vec<Arc<Map>> {
        let mut maps = alloc::vec![Arc::clone(&self.machine.map)];
        maps.extend(self.second.clone());
        maps.extend(self.children.lock().iter().map(|(_, child)| Arc::clone(child)));
        maps
    }

    /// Returns these, and what else there is.
    pub(super) fn all_maps(&self) -> Vec<Arc<Map>> {
        let mut maps = self.maps();
        maps.extend(self.keeper.own());
        maps
    }

    async fn fill(&mut self, memory: Memory) -> Result<(), KernReturn> {
        let map = Arc::clone(&self.machine.map);
        if memory.is_kept() {
            let object = self.keep(memory).await?;
            let second = Map::new(Arc::clone(&self.machine.vm), map.bounds(), FakePmap::new());
            for map in [&*map, &second] {
                let place = Placement::Fixed(at(0));
                map.map_object(place, &object, PageRange::new(0, KEPT), MapMode::Shared, Prot::DEFAULT).await?;
            }
            (self.second, self.object) = (Some(Arc::new(second)), Some(object));
            self.settle(self.machine.write(at(0), &[0x50])).expect("nothing is left")?;
            self.keeper.note_written(0, 0x50);
            return Ok(());
        }
        let vm = &self.machine.vm;
        if memory.has_object() || memory == Memory::Shadow {
            let object = if memory == Memory::Shared { vm.anonymous_object(4) } else { vm.file_object(4, 2) };
            let (place, pages) = (Placement::Fixed(at(0)), PageRange::new(0, 4));
            let is_private = matches!(memory, Memory::Shadow | Memory::File);
            let mode = if is_private { MapMode::Private } else { MapMode::Shared };
            map.map_object(place, &object, pages, mode, Prot::DEFAULT).await?;
            if memory == Memory::Shadow {
                map.inherit(at(0), 4 << PAGE_SHIFT, Inheritance::Share).await?;
                self.second = Some(Arc::new(map.fork(FakePmap::new()).await?));
                map.protect(at(0), 4 << PAGE_SHIFT, false, Prot::READ).await?;
                map.fault(at(0), Prot::READ).await?;
                return Ok(());
            }
            let second = Map::new(Arc::clone(vm), map.bounds(), FakePmap::new());
            let rights = if memory == Memory::File { Prot::READ } else { Prot::DEFAULT };
            second.map_object(place, &object, pages, MapMode::Shared, rights).await?;
            if memory == Memory::Failing {
                object.fail(3, Some(PagerFault::Io));
            }
            if memory != Memory::File {
                self.machine.write(at(0), &[0x40]).await?;
                second.wire(at(0), at(2), WireFlags::USER).await?;
            }
            (self.second, self.object) = (Some(Arc::new(second)), Some(object));
            return Ok(());
        }
        for (start, end) in [(0, 3), (3, 5)] {
            map.allocate(Placement::Fixed(at(start)), (end - start) << PAGE_SHIFT).await?;
        }
        self.machine.write(at(0), &[0x40]).await?;
        self.machine.write(at(4), &[0x44]).await?;
        match memory {
            Memory::Wired => map.wire(at(1), at(4), WireFlags::USER).await?,
            Memory::OnFault => map.mlockall(LockAllFlags::CURRENT | LockAllFlags::ONFAULT).await.unwrap(),
            Memory::Forked | Memory::ForkedWired => {
                map.protect(at(3), 2 << PAGE_SHIFT, false, Prot::READ).await?;
                if memory == Memory::ForkedWired {
                    map.wire(at(3), at(5), WireFlags::USER).await?;
                }
                self.second = Some(Arc::new(map.fork(FakePmap::new()).await?));
            }
            _ => {}
        }
        Ok(())
    }

    /// Does what a task is to do.
    pub(super) async fn run(&self, number: usize, task: Task) -> Answer {
        let map = match &self.second {
            Some(second) if task.second => second,
            _ => &self.machine.map,
        };
        let size = |start: u64, end: u64| (end - start) << PAGE_SHIFT;
        Answer::Code(match task.act {
            Act::Wire(start, end) => map.wire(at(start), at(end), WireFlags::USER).await,
            Act::WireHoles(start, end) => map.wire(at(start), at(end), WireFlags::USER | WireFlags::HOLESOK).await,
            Act::Hold(start, end) => self.hold(map, start, end).await,
            Act::Unwire(start, end) => map.unwire(at(start), at(end), WireFlags::USER).await,
            Act::UnwireHoles(start, end) => map.unwire(at(start), at(end), WireFlags::USER | WireFlags::HOLESOK).await,
            Act::Protect(start, end, prot) => map.protect(at(start), size(start, end), false, prot).await,
            Act::Deallocate(start, end) => map.deallocate(at(start), size(start, end)).await,
            Act::Allocate(start, end) => {
                map.allocate(Placement::Fixed(at(start)), size(start, end)).await.map(|address| {
                    assert_eq!(address, at(start));
                })
            }
            Act::ForkWrite | Act::ForkWire | Act::ForkKeep => return self.fork(number, map, task.act).await,
            Act::Read(page) => return Answer::Bytes(self.read(map, page).await, Ok(0), Ok(())),
            Act::Write(page) if self.is_kept() => {
                let byte = 0x81 + u8::try_from(number).unwrap();
                let written = self.machine.write_in(map, at(page), &[byte]).await;
                if written.is_ok() {
                    self.keeper.note_written(page, byte);
                }
                written
            }
            Act::Msync(flags) if self.is_kept() => self.sync_kept(map, flags).await,
            Act::Write(page) => self.machine.write_in(map, at(page), &[if task.second { 0x72 } else { 0x71 }]).await,
            Act::LockRequest(should_return, flush) => match &self.object {
                Some(object) => object.lock_request(PageRange::new(0, KEPT), should_return, flush, None).await,
                None => Ok(()),
            },
            Act::Msync(flags) => map.msync(at(0), size(0, PAGES), flags).await,
            Act::Inherit(start, end, inheritance) => map.inherit(at(start), size(start, end), inheritance).await,
            Act::Advise(advice) => map.advise(at(0), size(0, PAGES), advice).await,
            Act::Mlockall(flags) => return Answer::Posix(map.mlockall(flags).await),
            Act::Munlockall => return Answer::Posix(map.munlockall().await),
            Act::Truncate(pages) => match &self.object {
                Some(object) => object.truncate(pages).await,
                None => Ok(()),
            },
            Act::Kill => match &self.object {
                Some(object) => {
                    self.keeper.note_killed();
                    object.kill().await
                }
                None => Ok(()),
            },
            Act::Release => {
                if let (Some(page), Some(object)) = (self.gated, &self.object) {
                    object.release(page);
                }
                Ok(())
            }
        })
    }

    async fn hold(&self, map: &Map, start: u64, end: u64) -> Result<(), KernReturn> {
        map.wire(at(start), at(end), WireFlags::SYSTEM).await?;
        yield_now().await;
        let undone = map.unwire(at(start), at(end), WireFlags::SYSTEM).await;
        assert_eq!(undone, Ok(()), "what the system has wired can't go away");
        undone
    }

    async fn fork(&self, number: usize, map: &Map, act: Act) -> Answer {
        let child = match map.fork(FakePmap::new()).await {
            Ok(child) => Arc::new(child),
            Err(error) => return Answer::Code(Err(error)),
        };
        assert_eq!(map.locked(|state| state.busy), 0, "T-10: a fork waits while pages are brought in");
        self.children.lock().push((number, Arc::clone(&child)));
        let seen = (self.read(&child, 0).await, self.read(&child, 4).await);
        let outcome = match act {
            Act::ForkKeep => return Answer::Bytes(seen.0, seen.1, Ok(())),
            Act::ForkWire => child.wire(at(0), at(PAGES), WireFlags::USER | WireFlags::HOLESOK).await,
            _ => self.machine.write_in(&child, at(1), &[0x73]).await,
        };
        child.destroy().await;
        self.children.lock().retain(|(_, known)| !Arc::ptr_eq(known, &child));
        Answer::Bytes(seen.0, seen.1, outcome)
    }

    pub(super) async fn read(&self, map: &Map, page: u64) -> Result<u8, KernReturn> {
        let mut byte = [0];
        self.machine.read_in(map, at(page), &mut byte).await.map(|()| byte[0])
    }
}
