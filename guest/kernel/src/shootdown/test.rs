use core::cell::RefCell;
use core::ptr::from_ref;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wirevm_map::PageRange;

use super::{Planted, Processors, Request, Shootdown};

const CPUS: usize = 4;
const PAGES: usize = 8;
const FRAMES: usize = 6;

/// An address space of one small table. Bit and flag are used as the kernel's `Space` uses them.
#[derive(Default)]
struct Space {
    cpus: AtomicU64,
    ended: AtomicBool,
    /// For each page its frame plus 1, or 0.
    table: [AtomicU64; PAGES],
}

/// Threads that stand for processors, frames that say whose they are.
struct Machine {
    shootdown: Shootdown,
    interrupts: [AtomicBool; CPUS],
    /// For each frame what it may be used as: a page plus 1, or 0 for nothing.
    owners: [AtomicU64; FRAMES],
    /// Guards the table, as the objects' lock does.
    lock: AtomicBool,
    stop: AtomicBool,
    /// Somebody used a frame that had become another page's.
    misused: AtomicBool,
    /// Somebody waited for an acknowledgement that never came.
    stuck: AtomicBool,
    deadline: Instant,
}

impl Machine {
    fn new(planted: Planted, most: Duration) -> Self {
        let mut shootdown = Shootdown::new();
        shootdown.planted = planted;
        Self {
            shootdown,
            interrupts: Default::default(),
            owners: Default::default(),
            lock: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            misused: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            deadline: Instant::now() + most,
        }
    }

    fn is_over(&self) -> bool {
        let over = [&self.stop, &self.misused, &self.stuck].iter().any(|flag| flag.load(Ordering::Relaxed));
        over || Instant::now() > self.deadline
    }
}

/// A processor: what it alone knows.
struct Cpu<'a> {
    index: usize,
    machine: &'a Machine,
    /// The space that is loaded, and what is remembered of its table.
    loaded: RefCell<Option<&'a Space>>,
    remembered: RefCell<[Option<usize>; PAGES]>,
    random: RefCell<u64>,
}

impl Processors for Cpu<'_> {
    fn index(&self) -> usize {
        self.index
    }

    fn serve(&self, request: Request) {
        match request {
            Request::Forget(pages) => {
                let in_pages = |page: usize| pages.contains(page as u64);
                let mut remembered = self.remembered.borrow_mut();
                remembered
                    .iter_mut()
                    .enumerate()
                    .filter(|(page, _)| in_pages(*page))
                    .for_each(|(_, slot)| *slot = None);
            }
            Request::Leave(mask) => {
                let is_meant = self.loaded.borrow().is_some_and(|space| from_ref(&space.cpus).addr() == mask);
                if is_meant {
                    self.leave();
                }
            }
        }
    }

    fn interrupt(&self, cpu: usize) {
        self.machine.interrupts[cpu].store(true, Ordering::SeqCst);
    }

    fn relax(&self) {
        std::thread::yield_now();
        if self.machine.stop.load(Ordering::Relaxed) || Instant::now() > self.machine.deadline + Duration::from_secs(1)
        {
            self.machine.stuck.store(true, Ordering::Relaxed);
            panic!("nobody acknowledges");
        }
    }
}

impl<'a> Cpu<'a> {
    fn new(index: usize, machine: &'a Machine) -> Self {
        let random = RefCell::new(0x9e37_79b9_7f4a_7c15 ^ index as u64);
        Self { index, machine, loaded: RefCell::default(), remembered: RefCell::default(), random }
    }

    fn random(&self, below: usize) -> usize {
        let mut state = self.random.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state % below as u64).expect("small")
    }

    fn load(&self, space: &'a Space) {
        if self.loaded.borrow().is_some_and(|loaded| core::ptr::eq(loaded, space)) {
            return;
        }
        let bit = 1 << self.index;
        space.cpus.fetch_or(bit, Ordering::SeqCst);
        if space.ended.load(Ordering::SeqCst) {
            space.cpus.fetch_and(!bit, Ordering::SeqCst);
            return self.leave();
        }
        self.switch(Some(space));
    }

    fn leave(&self) {
        self.switch(None);
    }

    /// What loading a root does: everything is forgotten, and the bit of the space before goes last.
    fn switch(&self, space: Option<&'a Space>) {
        *self.remembered.borrow_mut() = [None; PAGES];
        if let Some(before) = self.loaded.replace(space) {
            before.cpus.fetch_and(!(1 << self.index), Ordering::SeqCst);
        }
    }

    /// One instruction of ring 3, which uses a page; interrupts come in front of it.
    fn touch(&self, page: usize) {
        if self.machine.interrupts[self.index].swap(false, Ordering::SeqCst) {
            self.machine.shootdown.acknowledge(self);
        }
        let Some(space) = *self.loaded.borrow() else { return };
        let remembered = self.remembered.borrow()[page];
        let frame =
            remembered.or_else(|| usize::try_from(space.table[page].load(Ordering::SeqCst)).ok()?.checked_sub(1));
        self.remembered.borrow_mut()[page] = frame;
        if let Some(frame) = frame {
            // Long enough to be overtaken by whoever doesn't wait.
            if self.random(64) == 0 {
                std::thread::yield_now();
            }
            if self.machine.owners[frame].load(Ordering::SeqCst) != page as u64 + 1 {
                self.machine.misused.store(true, Ordering::SeqCst);
            }
        }
    }

    fn locked(&self, work: impl FnOnce()) {
        while self.machine.lock.swap(true, Ordering::SeqCst) {
            self.machine.shootdown.acknowledge(self);
            std::thread::yield_now();
            if self.machine.is_over() {
                return;
            }
        }
        work();
        self.machine.lock.store(false, Ordering::SeqCst);
    }

    /// Unmaps a page, and maps its frame as another one.
    fn remap(&self, space: &Space) {
        let [old, new] = [self.random(PAGES), self.random(PAGES)];
        space.table[old].store(0, Ordering::SeqCst);
        let pages = PageRange::new(old as u64, old as u64 + 1);
        self.machine.shootdown.invalidate(self, &space.cpus, pages);
        let free = |frame: &u64| (0..PAGES).all(|page| space.table[page].load(Ordering::SeqCst) != *frame);
        if let Some(frame) = (1..=FRAMES as u64).find(free)
            && space.table[new].load(Ordering::SeqCst) == 0
        {
            self.machine.owners[usize::try_from(frame).expect("small") - 1].store(new as u64 + 1, Ordering::SeqCst);
            space.table[new].store(frame, Ordering::SeqCst);
        }
    }
}

/// Two processors change a table while all use it. Says whether a frame was misused, and whether somebody waited in vain.
fn change_under_use(planted: Planted, most: Duration) -> (bool, bool) {
    let machine = Machine::new(planted, most);
    let space = Space::default();
    std::thread::scope(|scope| {
        let run = |index: usize| {
            let (machine, space) = (&machine, &space);
            move || {
                let cpu = Cpu::new(index, machine);
                while !machine.is_over() {
                    match cpu.random(100) {
                        0 => cpu.leave(),
                        1..5 => cpu.load(space),
                        5..10 if index < 2 => cpu.locked(|| cpu.remap(space)),
                        _ => cpu.touch(cpu.random(PAGES)),
                    }
                }
                // Whoever still waits gets its answer.
                cpu.leave();
            }
        };
        let threads: Vec<_> = (0..CPUS).map(|index| scope.spawn(run(index))).collect();
        for thread in threads {
            if thread.join().is_err() {
                machine.stuck.store(true, Ordering::Relaxed);
            }
        }
    });
    (machine.misused.into_inner(), machine.stuck.into_inner())
}

/// Long enough to meet a mistake many times over.
const PLANTED: Duration = Duration::from_secs(20);

#[test]
fn frame_is_used_as_one_page_at_a_time_whatever_processors_remember() {
    assert_eq!(change_under_use(Planted::Nothing, Duration::from_secs(2)), (false, false));
}

#[test]
fn planted_no_invalidation_of_its_own_is_caught() {
    assert_eq!(change_under_use(Planted::NoOwnInvalidation, PLANTED), (true, false));
}

#[test]
fn planted_return_before_the_acknowledgement_is_caught() {
    assert_eq!(change_under_use(Planted::ReturnBeforeAcknowledgement, PLANTED), (true, false));
}

#[test]
fn planted_no_interrupt_is_caught() {
    let machine = Machine::new(Planted::NoInterrupt, Duration::from_millis(200));
    let space = Space::default();
    let stuck = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let cpu = Cpu::new(1, &machine);
            cpu.load(&space);
            while !machine.stop.load(Ordering::Relaxed) {
                cpu.touch(0);
            }
        });
        let requester = scope.spawn(|| {
            while space.cpus.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            machine.shootdown.invalidate(&Cpu::new(0, &machine), &space.cpus, PageRange::new(0, 1));
        });
        let stuck = requester.join().is_err();
        machine.stop.store(true, Ordering::Relaxed);
        user.join().expect("the user goes on");
        stuck
    });
    assert!(stuck, "the request was answered by nobody's doing");
}

#[test]
fn space_that_has_ended_is_loaded_nowhere_and_used_by_nobody() {
    const ROUNDS: usize = 2000;
    let machine = Machine::new(Planted::Nothing, Duration::from_secs(60));
    let spaces: Vec<Space> = (0..ROUNDS).map(|_| Space::default()).collect();
    let current = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let machine = &machine;
        let (spaces, current) = (&spaces, &current);
        for index in 1..CPUS {
            scope.spawn(move || {
                let cpu = Cpu::new(index, machine);
                while !machine.is_over() {
                    // Sometimes one that is ending or has ended already.
                    let newest = usize::try_from(current.load(Ordering::SeqCst)).expect("small");
                    cpu.load(&spaces[newest.saturating_sub(cpu.random(2))]);
                    (0..20).for_each(|_| cpu.touch(cpu.random(PAGES)));
                }
                cpu.leave();
            });
        }
        let cpu = Cpu::new(0, machine);
        for (number, space) in spaces.iter().enumerate() {
            for page in 0..FRAMES {
                machine.owners[page].store(page as u64 + 1, Ordering::SeqCst);
                space.table[page].store(page as u64 + 1, Ordering::SeqCst);
            }
            current.store(number as u64, Ordering::SeqCst);
            cpu.load(space);
            (0..20).for_each(|_| cpu.touch(cpu.random(PAGES)));
            if number % 8 == 0 {
                std::thread::yield_now();
            }
            space.ended.store(true, Ordering::SeqCst);
            machine.shootdown.evict(&cpu, &space.cpus);
            // The frames are anybody's now.
            machine.owners.iter().for_each(|owner| owner.store(0, Ordering::SeqCst));
        }
        machine.stop.store(true, Ordering::SeqCst);
    });
    assert!(!machine.misused.into_inner());
}
