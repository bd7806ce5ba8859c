//! A completion ring in words that a test plays the guest with. Shared with other modules' tests.

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::completion::{CAPACITY, Completion, HEAD_OFFSET, PAGES, TAIL_OFFSET, offset};
use wirevm_abi::{PAGE_SIZE, RamRange};

use crate::completion::CompletionRing;
use crate::guest_memory::{BackingLostError, GuestMemory};

/// First page of the ring.
const FIRST: u64 = 3;

type OnStore = Box<dyn Fn(&Words, u64) + Send + Sync>;

/// The ring's pages.
pub(crate) struct Words {
    words: Vec<AtomicU64>,
    stores: Mutex<Vec<(u64, u64)>>,
    on_store: Mutex<Option<OnStore>>,
    lost: AtomicBool,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words")
    }
}

impl Words {
    fn at(&self, offset: u64) -> &AtomicU64 {
        &self.words[usize::try_from(offset / 8).expect("small")]
    }

    /// Loads a word as the guest does.
    pub(crate) fn get(&self, offset: u64) -> u64 {
        self.at(offset).load(Ordering::Acquire)
    }

    /// Stores a word as the guest does.
    pub(crate) fn set(&self, offset: u64, word: u64) {
        self.at(offset).store(word, Ordering::Release);
    }

    /// Takes what the host has stored since it was last asked.
    pub(crate) fn stores(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.stores.lock().expect("lock"))
    }

    /// Sets what happens after each of the host's stores.
    pub(crate) fn on_store(&self, on_store: impl Fn(&Self, u64) + Send + Sync + 'static) {
        *self.on_store.lock().expect("lock") = Some(Box::new(on_store));
    }

    /// Takes the memory away.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    fn check(&self, range: RamRange) -> Result<(), BackingLostError> {
        let inside = FIRST <= range.first() && range.end() <= FIRST + PAGES;
        assert!(inside, "{range}");
        if self.lost.load(Ordering::Acquire) { Err(BackingLostError { page: range.first() }) } else { Ok(()) }
    }
}

impl GuestMemory for Words {
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        bytes.fill(0);
        self.check(range)
    }

    fn write(&self, range: RamRange, _: &[u8]) -> Result<(), BackingLostError> {
        panic!("copies of {range} could tear");
    }

    fn load_word(&self, range: RamRange, offset: u64) -> Result<u64, BackingLostError> {
        self.check(range)?;
        Ok(self.get((range.first() - FIRST) * PAGE_SIZE + offset))
    }

    fn store_word(&self, range: RamRange, offset: u64, word: u64) -> Result<(), BackingLostError> {
        self.check(range)?;
        let place = (range.first() - FIRST) * PAGE_SIZE + offset;
        self.set(place, word);
        self.stores.lock().expect("lock").push((place, word));
        if let Some(on_store) = &*self.on_store.lock().expect("lock") {
            on_store(self, place);
        }
        Ok(())
    }
}

/// The guest's end.
pub(crate) struct Guest {
    pub(crate) memory: Arc<Words>,
    pub(crate) ring: Arc<CompletionRing>,
    interrupt: EventFd,
}

impl Guest {
    pub(crate) fn new() -> Self {
        Self::with(|ring| ring)
    }

    /// Makes a ring that is set up further.
    pub(crate) fn with(set_up: impl FnOnce(CompletionRing) -> CompletionRing) -> Self {
        let words = (0..PAGES * PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect();
        let memory = Arc::new(Words {
            words,
            stores: Mutex::default(),
            on_store: Mutex::default(),
            lost: AtomicBool::new(false),
        });
        let range = RamRange::new(FIRST, PAGES, 64).expect("inside RAM");
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("an event");
        let end = interrupt.try_clone().expect("an event");
        let ring = set_up(CompletionRing::new(Arc::<Words>::clone(&memory), range, Box::new(end)));
        Self { memory, ring: Arc::new(ring), interrupt }
    }

    /// Returns how many interrupts were raised since it was last asked.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupt.read().unwrap_or(0)
    }

    /// Waits for an interrupt.
    pub(crate) fn sleep(&self) {
        let epoll = Epoll::new().expect("an epoll");
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.interrupt.as_raw_fd(), event).expect("watched");
        let raised = epoll.wait(20_000, &mut [EpollEvent::default()]).expect("waits");
        assert_eq!(raised, 1, "no interrupt within 20 s: the guest would sleep for ever");
        assert!(self.interrupts() > 0);
    }

    /// Takes all completions that are there.
    pub(crate) fn take(&self) -> Vec<Completion> {
        self.take_some(CAPACITY)
    }

    /// Takes some.
    pub(crate) fn take_some(&self, most: u64) -> Vec<Completion> {
        let (head, tail) = (self.memory.get(HEAD_OFFSET), self.memory.get(TAIL_OFFSET));
        let end = tail.min(head + most);
        let words = |count: u64| [0, 8, 16, 24].map(|word| self.memory.get(offset(count) + word));
        let taken = (head..end).map(|count| Completion::from_words(words(count))).collect();
        self.memory.set(HEAD_OFFSET, end);
        taken
    }
}
