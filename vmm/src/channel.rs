//! The host's ends of the two message rings: commands in, replies out.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::ring::{self, Broken, CAPACITY};
use wirevm_devices::interrupt::Interrupt;

use crate::memory::GuestRam;

/// The conversation with the guest's agent is over or stuck.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The machine ended.
    #[error("the machine has ended")]
    Ended,
    /// The guest said nothing in time.
    #[error("the guest did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The guest broke the ring.
    #[error("the guest's replies make no sense")]
    Broken(#[from] Broken),
    /// The message does not fit into the ring.
    #[error("a message of {words} words is longer than a ring takes")]
    TooLong {
        /// Its length.
        words: usize,
    },
    /// The host's own machinery failed.
    #[error("waiting for the guest failed")]
    Wait(#[source] io::Error),
}

/// One producer's end of the command ring and one consumer's end of the reply ring.
#[derive(Debug)]
pub struct Channel {
    ram: Arc<GuestRam>,
    commands: u64,
    replies: u64,
    sent: u64,
    received: u64,
    /// Raises the guest's ring interrupt.
    interrupt: Box<dyn Interrupt>,
    /// Written by KVM when the guest touches the notify port.
    notified: EventFd,
    /// Kept because `epoll` watches it.
    _ended: EventFd,
    epoll: Epoll,
}

const NOTIFIED: u64 = 0;
const ENDED: u64 = 1;

impl Channel {
    /// Takes the host's ends of the rings at those guest-physical addresses. `ended` becomes readable, for good, when
    /// the machine has ended.
    ///
    /// # Errors
    /// When the kernel refuses to watch the events.
    pub fn new(
        ram: Arc<GuestRam>,
        (commands, replies): (u64, u64),
        interrupt: Box<dyn Interrupt>,
        notified: EventFd,
        ended: EventFd,
    ) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let epoll = Epoll::new()?;
        for (fd, data) in [(notified.as_raw_fd(), NOTIFIED), (ended.as_raw_fd(), ENDED)] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))?;
        }
        Ok(Self { ram, commands, replies, sent: 0, received: 0, interrupt, notified, _ended: ended, epoll })
    }

    fn load(&self, address: u64) -> Result<u64, Broken> {
        self.ram.load(address).ok_or(Broken)
    }

    fn store(&self, address: u64, value: u64) -> Result<(), Broken> {
        self.ram.store(address, value).ok_or(Broken)
    }

    /// Sends a message of 1 to [`ring::MAX_MESSAGE`] words, waiting up to `limit` for room.
    ///
    /// # Errors
    /// [`ChannelError`]; nothing is sent then.
    pub fn send(&mut self, message: &[u64], limit: Duration) -> Result<(), ChannelError> {
        let length = message.len() as u64;
        if length == 0 || length > ring::MAX_MESSAGE {
            return Err(ChannelError::TooLong { words: message.len() });
        }
        let deadline = Instant::now() + limit;
        while CAPACITY - ring::used(self.load(self.commands + ring::HEAD_OFFSET)?, self.sent)? < length + 1 {
            self.wait(deadline, limit)?;
        }
        self.store(self.commands + ring::word_offset(self.sent), length)?;
        for (count, word) in (self.sent + 1..).zip(message) {
            self.store(self.commands + ring::word_offset(count), *word)?;
        }
        self.sent += length + 1;
        self.store(self.commands + ring::TAIL_OFFSET, self.sent)?;
        self.interrupt.raise().map_err(ChannelError::Wait)
    }

    /// Takes the next reply, waiting up to `limit` for one.
    ///
    /// # Errors
    /// [`ChannelError`]; nothing is taken then.
    pub fn receive(&mut self, limit: Duration) -> Result<Vec<u64>, ChannelError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.wait(deadline, limit)?;
        }
    }

    fn take(&mut self) -> Result<Option<Vec<u64>>, ChannelError> {
        let used = ring::used(self.received, self.load(self.replies + ring::TAIL_OFFSET)?)?;
        if used == 0 {
            return Ok(None);
        }
        let length = self.load(self.replies + ring::word_offset(self.received))?;
        ring::check_length(length, used)?;
        let first = self.received + 1;
        let words = (first..first + length).map(|count| self.load(self.replies + ring::word_offset(count)));
        let message = words.collect::<Result<_, _>>()?;
        self.received = first + length;
        self.store(self.replies + ring::HEAD_OFFSET, self.received)?;
        if used > CAPACITY / 2 {
            // The guest may be waiting for room.
            self.interrupt.raise().map_err(ChannelError::Wait)?;
        }
        Ok(Some(message))
    }

    /// Waits until the guest notified or `deadline` passed. A guest that notifies for ever holds nobody up longer.
    fn wait(&self, deadline: Instant, limit: Duration) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let mut events = [EpollEvent::default(); 2];
        let count = match self.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(ChannelError::Wait(error)),
        };
        let happened = events.get(..count).unwrap_or(&[]);
        if happened.iter().any(|event| event.data() == NOTIFIED) {
            self.notified.read().map_err(ChannelError::Wait)?;
        } else if !happened.is_empty() {
            return Err(ChannelError::Ended);
        }
        if left.is_zero() { Err(ChannelError::Timeout(limit)) } else { Ok(()) }
    }
}
