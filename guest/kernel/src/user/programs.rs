//! All programs of the machine.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use wirevm_abi::archive::Archive;
use wirevm_agent::{Program, ProgramStart};
use wirevm_map::VmMap;

use super::process::Process;
use super::{load, thread};
use crate::frames::{Frame, KernelFrames};
use crate::mem::{self, Room};
use crate::pmap::KernelPmap;
use crate::service::{Machine, Output};

/// Most programs that run at a time, children included.
const MAX_PROGRAMS: usize = 128;

/// After how many page faults and small calls the kernel looks whether it has room for more, while it has all that it wants: each takes a
/// few hundred bytes, and a few thousand now and then.
const STEPS_PER_LOOK: u64 = 32;

/// The programs that run, and what it takes to start one.
pub struct Programs {
    archive: Option<Archive<'static>>,
    home: Frame,
    frames: &'static KernelFrames,
    output: Output,
    running: Mutex<Running>,
    /// How many page faults and small calls there is room for without another look.
    steps: AtomicU64,
}

#[derive(Default)]
struct Running {
    /// How many run.
    count: u64,
    /// The children among them.
    children: Vec<Weak<Process>>,
}

impl Programs {
    /// Returns the table with no program running. `output` takes what programs print.
    pub fn new(
        archive: Option<Archive<'static>>,
        home: Frame,
        frames: &'static KernelFrames,
        output: Output,
    ) -> Arc<Self> {
        Arc::new(Self { archive, home, frames, output, running: Mutex::default(), steps: AtomicU64::new(0) })
    }

    /// Returns where output goes.
    pub const fn output(&self) -> &Output {
        &self.output
    }

    /// Returns the frames of the machine.
    pub const fn frames(&self) -> &'static KernelFrames {
        self.frames
    }

    /// Makes page tables for a child.
    ///
    /// # Errors
    /// When no frame is left.
    pub fn new_pmap(&self) -> Result<KernelPmap, wirevm_map::OutOfFrames> {
        KernelPmap::beside(self.home, self.frames)
    }

    /// Counts a program that is about to start; `false` when there are too many.
    fn begin(&self) -> bool {
        let mut running = self.running.lock();
        let has_room = running.count < MAX_PROGRAMS as u64;
        running.count += u64::from(has_room);
        has_room
    }

    /// Counts a child, as [`Programs::begin`] does.
    pub fn begin_child(&self) -> bool {
        self.begin()
    }

    /// Takes note of a child, so that its map is known.
    pub fn add_child(&self, child: &Arc<Process>) {
        self.running.lock().children.push(Arc::downgrade(child));
    }

    /// Takes back what was counted.
    pub fn give_up(&self) {
        self.running.lock().count -= 1;
    }

    /// Takes note of a program's end.
    pub fn ended(&self, process: &Process) {
        let mut running = self.running.lock();
        running.count -= 1;
        running.children.retain(|child| child.as_ptr() != core::ptr::from_ref(process) && child.strong_count() > 0);
    }

    /// Says whether the kernel has room for what a page fault or a small call takes, of which `room` is wanted.
    pub fn admits_step(&self, room: Room) -> bool {
        // Looking costs as much as a fault, and the room is for many.
        let left = self.steps.load(Ordering::Relaxed);
        if left > 0 {
            // Two that find the same take one: the room is for more than are counted.
            self.steps.store(left - 1, Ordering::Relaxed);
            return true;
        }
        if room == Room::Much && mem::has_all(room) {
            self.steps.store(STEPS_PER_LOOK - 1, Ordering::Relaxed);
            return true;
        }
        // What is left where the heap can't grow may do for one, but not for so many.
        mem::has_room(self.frames, room)
    }

    /// Returns how many programs have not ended.
    pub fn count(&self) -> u64 {
        self.running.lock().count
    }

    /// Returns the maps of children.
    pub fn further_maps(&self) -> Vec<Arc<VmMap<Machine>>> {
        let children: Vec<_> = self.running.lock().children.iter().filter_map(Weak::upgrade).collect();
        children.iter().map(|child| Arc::clone(child.map())).collect()
    }

    /// Starts the program of an entry of the archive.
    pub fn start(self: &Arc<Self>, task: u64, map: Arc<VmMap<Machine>>, entry: u64) -> ProgramStart {
        let programs = Arc::clone(self);
        Box::pin(async move {
            let entry = usize::try_from(entry).ok().and_then(|entry| programs.archive?.entry(entry));
            let Some(entry) = entry else { return Err("there is no such program in the archive".to_string()) };
            if !programs.begin() {
                return Err(format!("{MAX_PROGRAMS} programs run already"));
            }
            let process = Process::new(Arc::clone(&programs), task, String::from(entry.name), Arc::clone(&map));
            let loaded = load::load(&process, &entry).await;
            let started = loaded
                .and_then(|context| thread::start(&process, context).map_err(|_| "no thread can start".to_string()));
            if let Err(reason) = started {
                map.destroy().await;
                programs.give_up();
                return Err(reason);
            }
            Ok(process as Arc<dyn Program>)
        })
    }
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").field("running", &self.count()).finish_non_exhaustive()
    }
}
