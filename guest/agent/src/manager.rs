//! Tasks that are managers: they supply the pages of objects from their own memory, and take them back into it.
//!
//! What a manager has of an object is its memory from some address on, page after page. Its answers come from a thread of its
//! own, one message after the other, and each is an operation on its own map like any other: a manager can be slow, wait for the
//! host, or miss a page itself.

mod answer;
mod turn;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::task::Waker;

use spin::Mutex;
use wirevm_map::{Frames, ManagerPort, Message, ObjectHandle, PageRange, PagerFault, Ports, VmMap};

use crate::command::Behaviour;
use crate::lists::MAX_TEXT_BYTES;

/// A manager.
pub(crate) struct Manager<P: Ports> {
    map: Arc<VmMap<P>>,
    port: Arc<ManagerPort>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It answers nothing for now.
    delays: bool,
    /// It keeps no copy of what it supplies.
    is_precious: bool,
    /// It wants to be asked before clean pages are written.
    traps_writes: bool,
    /// It answers nothing any more.
    is_dead: bool,
    /// It is about to answer something.
    is_at_work: bool,
    /// What it has received and not answered.
    pending: VecDeque<(u64, Message)>,
    /// What it has received since it was last asked, as words.
    heard: String,
    /// Its objects by their numbers. A number can be that of an object again after the end of the one that had it before, of which
    /// the manager may not have heard yet: so there may be several, in the order in which they were made.
    objects: BTreeMap<u64, VecDeque<Managed>>,
    /// Something of this has changed since the manager's thread last looked.
    has_changed: bool,
    thread: Option<Waker>,
}

/// What a manager knows of an object.
#[derive(Default)]
struct Managed {
    /// Where in its memory it has the object's page 0.
    address: u64,
    failing: BTreeMap<u64, PagerFault>,
    /// Pages that came back and that it could not take, until it has taken them.
    lost: BTreeSet<u64>,
}

impl<P: Ports> Manager<P> {
    /// Returns a manager whose memory is that map.
    pub(crate) fn new(map: Arc<VmMap<P>>) -> Self {
        let port = map.vm().manager_port();
        Self { map, port, state: Mutex::default() }
    }

    /// Makes an object of `pages` pages which the manager has from `address` on. `None` when the manager is dead.
    pub(crate) fn new_object(&self, pages: u64, address: u64) -> Option<ObjectHandle<P>> {
        if self.state.lock().is_dead {
            return None;
        }
        let handle = self.map.vm().managed_object(&self.port, pages);
        let managed = Managed { address, ..Managed::default() };
        self.state.lock().objects.entry(handle.number()).or_default().push_back(managed);
        Some(handle)
    }

    /// Changes how the manager behaves from now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.change(|state| match behaviour {
            Behaviour::Delays => state.delays = true,
            Behaviour::Prompt => state.delays = false,
            Behaviour::Precious => state.is_precious = true,
            Behaviour::Plain => state.is_precious = false,
            Behaviour::TrapsWrites => state.traps_writes = true,
            Behaviour::AllowsWrites => state.traps_writes = false,
        });
    }

    /// Lets the manager fail to supply a page, or supply it again.
    pub(crate) fn fail(&self, object: u64, page: u64, fault: Option<PagerFault>) {
        let mut state = self.state.lock();
        let Some(managed) = state.objects.get_mut(&object).and_then(VecDeque::back_mut) else { return };
        match fault {
            Some(fault) => managed.failing.insert(page, fault),
            None => managed.failing.remove(&page),
        };
    }

    /// Notes that somebody has completed a synchronization for the manager, which does not do so again.
    pub(crate) fn has_completed(&self, object: u64, synchronized: PageRange) {
        self.hear();
        let pending = &mut self.state.lock().pending;
        let is_this = |(number, message): &(u64, Message)| {
            *number == object && matches!(message, Message::Synchronize { pages, .. } if *pages == synchronized)
        };
        if let Some(at) = pending.iter().position(is_this) {
            pending.remove(at);
        }
    }

    /// Takes what the manager has received since the last time: one word a message.
    pub(crate) fn take_heard(&self) -> String {
        self.hear();
        core::mem::take(&mut self.state.lock().heard)
    }

    /// Tells whether the manager has begun to answer something.
    pub(crate) fn is_at_work(&self) -> bool {
        self.state.lock().is_at_work
    }

    /// Ends the manager: it answers nothing any more, what it has not answered is thrown away, and its objects are destroyed
    /// (row O-11), which wakes whoever waits for it.
    pub(crate) async fn die(&self) {
        let numbers: Vec<u64> = self.change(|state| {
            state.is_dead = true;
            core::mem::take(&mut state.objects).into_keys().collect()
        });
        self.bury();
        for number in numbers {
            if let Some(object) = self.object(number) {
                object.kill().await.unwrap_or_default();
            }
        }
        self.bury();
    }

    /// Gives back what came with messages that nobody will answer.
    fn bury(&self) {
        self.hear();
        let pending = core::mem::take(&mut self.state.lock().pending);
        pending.into_iter().for_each(|(_, message)| self.throw_away(message));
    }

    /// Gives back what came with a message.
    fn throw_away(&self, message: Message) {
        if let Message::DataReturn { frames, .. } = message {
            frames.into_iter().for_each(|run| self.map.vm().frames().free(run));
        }
    }

    /// Receives all that is at the port.
    fn hear(&self) {
        while let Some(received) = self.port.receive() {
            self.state.lock().receive(received);
        }
    }

    /// Returns a handle of an object of this manager for as long as an answer takes; none when the object has ended.
    fn object(&self, number: u64) -> Option<ObjectHandle<P>> {
        self.map.vm().managed_object_of(&self.port, number)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, thread) = {
            let mut state = self.state.lock();
            let changed = change(&mut state);
            state.has_changed = true;
            (changed, state.thread.take())
        };
        if let Some(thread) = thread {
            thread.wake();
        }
        changed
    }
}

impl<P: Ports> Drop for Manager<P> {
    fn drop(&mut self) {
        self.bury();
    }
}

impl State {
    fn receive(&mut self, (number, message): (u64, Message)) {
        // What is too long to be told need not be longer.
        if self.heard.len() <= MAX_TEXT_BYTES {
            let space = if self.heard.is_empty() { "" } else { " " };
            write!(self.heard, "{space}{message}").unwrap_or_default();
        }
        self.pending.push_back((number, message));
    }

    /// Returns what is known of the object that a message is about, if it is still the one of that number.
    fn managed(&mut self, number: u64) -> Option<&mut Managed> {
        self.objects.get_mut(&number)?.front_mut()
    }
}
