//! Managers of memory objects that are tasks: what the kernel asks them, and what they answer.
//!
//! The names are Mach's (`memory_object_*`). A manager owns a port: a queue of [`Message`]s in the order in which the kernel
//! asked. It answers through the [`ObjectHandle`](crate::ObjectHandle) of the object that a message is about.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use crate::units::{FrameRun, PageRange, Prot};
use crate::wait::WaitQueue;

/// Which pages a manager wants returned (row O-08; the columns of the table in §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShouldReturn {
    /// None.
    Nothing,
    /// Dirty ones. The kernel stays responsible for precious ones, unless it is to flush them.
    Dirty,
    /// Dirty and precious ones.
    All,
    /// Every resident one.
    Anything,
}

/// What the kernel asks a manager about one of its objects. Pages are the object's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The object is used for the first time (row O-01).
    Init,
    /// Pages are missing; to be answered by supplying them, by an error, or by their being unavailable (row O-02).
    DataRequest {
        /// Which.
        pages: PageRange,
        /// What for.
        access: Prot,
    },
    /// Somebody needs an access that is forbidden; to be answered by a lock request that permits it (row O-06).
    DataUnlock {
        /// Which pages.
        pages: PageRange,
        /// What is needed.
        access: Prot,
    },
    /// Pages come back (row O-07).
    DataReturn {
        /// Which.
        pages: PageRange,
        /// Whether they were written; pages that were not are precious.
        dirty: bool,
        /// Whether the kernel keeps them resident.
        kept: bool,
        /// What they hold, frame after frame. The manager's from now on: it gives them back.
        frames: Vec<FrameRun>,
    },
    /// What was returned is to be put on backing storage; to be answered by its completion (row O-09).
    Synchronize {
        /// Which pages.
        pages: PageRange,
        /// `SyncFlags` bits, without `CONTIGUOUS` (row K-01).
        flags: u32,
    },
    /// Everything that a lock request asked for is done (row O-08).
    LockCompleted {
        /// Which pages.
        pages: PageRange,
    },
    /// Nobody uses the object any more; what was dirty or precious has come back before (row O-10).
    Terminate,
}

/// A manager's port: messages that the kernel sent and the manager has not received, in order.
#[derive(Debug)]
pub struct ManagerPort {
    queue: Mutex<VecDeque<(u64, Message)>>,
    arrivals: WaitQueue,
}

impl ManagerPort {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(VecDeque::new()), arrivals: WaitQueue::new() })
    }

    pub(crate) fn send(&self, object: u64, message: Message) {
        self.queue.lock().push_back((object, message));
        self.arrivals.wake_all();
    }

    /// Takes the next message, with the [number](crate::ObjectHandle::number) of the object that it is about.
    pub fn receive(&self) -> Option<(u64, Message)> {
        self.queue.lock().pop_front()
    }

    /// Waits until a message is there, and takes it.
    pub async fn next(&self) -> (u64, Message) {
        loop {
            let arrival = self.arrivals.wait();
            if let Some(message) = self.receive() {
                return message;
            }
            arrival.await;
        }
    }
}

impl fmt::Display for Message {
    /// Writes the message as one word: its name, its pages, and what else it says, such as `data_return[0,2)dirty,kept`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => f.write_str("init"),
            Self::DataRequest { pages, access } => write!(f, "data_request{pages}{}", Letters(*access)),
            Self::DataUnlock { pages, access } => write!(f, "data_unlock{pages}{}", Letters(*access)),
            Self::DataReturn { pages, dirty, kept, .. } => {
                let dirty = if *dirty { "dirty" } else { "precious" };
                write!(f, "data_return{pages}{dirty}{}", if *kept { ",kept" } else { "" })
            }
            Self::Synchronize { pages, .. } => write!(f, "synchronize{pages}"),
            Self::LockCompleted { pages } => write!(f, "lock_completed{pages}"),
            Self::Terminate => f.write_str("terminate"),
        }
    }
}

/// Rights by their letters alone, as in `rw`.
struct Letters(Prot);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (right, letter) in [(Prot::READ, "r"), (Prot::WRITE, "w"), (Prot::EXECUTE, "x")] {
            if self.0.contains(right) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}
