//! The event thread: keys for the console, the user's wish to end, the time limit, and the watchdog.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::serial::SerialConsole;

use crate::machine::Shared;
use crate::outcome::Outcome;

/// How often the watchdog looks. A cut RAM file makes `KVM_RUN` spin on some hosts, so nobody else would notice.
const TICK: Duration = Duration::from_millis(250);
/// The same under a time limit that is shorter still.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

const ENDED: u32 = 0;
const INTERRUPTED: u32 = 1;
const TICKED: u32 = 2;
const KEYS: u32 = 3;

/// What the event thread serves.
pub struct Watch {
    /// The machine.
    pub shared: Arc<Shared>,
    /// Where keys go, when standard input is the console's.
    pub keys: Option<Arc<SerialConsole>>,
    /// The RAM file, which the watchdog looks at.
    pub ram: Arc<RamFile>,
    /// Becomes readable when the user wants to end.
    pub interrupted: Option<EventFd>,
    /// When the machine started, and how long it may run.
    pub limit: Option<(Instant, Duration)>,
}

struct Subscriber {
    watch: Watch,
    timer: TimerFd,
    ended: EventFd,
    /// Standard input without the buffer that the standard library puts before it: what waits there raises no event.
    input: File,
    over: bool,
}

impl Subscriber {
    fn tick(&mut self) {
        if let Err(error) = self.timer.wait() {
            log::error!("the watchdog's timer failed: {error}");
        }
        if !self.watch.ram.is_intact() {
            self.watch.shared.end(Outcome::BackingLost { address: None });
        }
        if let Some((start, limit)) = self.watch.limit
            && start.elapsed() >= limit
        {
            self.watch.shared.end(Outcome::Timeout { limit });
        }
    }

    fn keys(&mut self, ops: &mut EventOps<'_>) {
        let mut keys = [0; 16];
        let read = self.input.read(&mut keys);
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            return;
        }
        let (Some(console), Ok(count @ 1..)) = (&self.watch.keys, read) else {
            // End of input: the console goes on without keys.
            drop(ops.remove(Events::empty(&self.input)));
            return;
        };
        match console.enqueue(keys.get(..count).unwrap_or(&[])) {
            Ok(taken) if taken < count => log::warn!("the guest reads keys too slowly: {} are lost", count - taken),
            Ok(_) => (),
            Err(error) => log::error!("the console's interrupt cannot be raised: {error}"),
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            ENDED => self.over = true,
            INTERRUPTED => {
                if let Some(interrupted) = &self.watch.interrupted {
                    drop(interrupted.read());
                }
                self.watch.shared.end(Outcome::Interrupted);
            }
            TICKED => self.tick(),
            _ => self.keys(ops),
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let interrupted = self.watch.interrupted.as_ref().map(|event| (event.as_raw_fd(), INTERRUPTED));
        let sources = [(self.ended.as_raw_fd(), ENDED), (self.timer.as_raw_fd(), TICKED)];
        for (fd, data) in sources.into_iter().chain(interrupted) {
            if let Err(error) = ops.add(Events::with_data_raw(fd, data, EventSet::IN)) {
                log::error!("an event cannot be watched: {error}");
            }
        }
        if self.watch.keys.is_some() {
            // A file or /dev/null cannot be watched; then there is nobody to type.
            if let Err(error) = ops.add(Events::with_data(&self.input, KEYS, EventSet::IN)) {
                log::debug!("standard input is no console: {error}");
            }
        }
    }
}

/// Starts the event thread. It ends by itself when the machine has ended.
///
/// # Errors
/// When the kernel refuses a timer, an event or the thread.
pub fn start(watch: Watch) -> io::Result<JoinHandle<()>> {
    let mut timer = TimerFd::new().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    let tick = watch.limit.map_or(TICK, |(_, limit)| limit.clamp(SHORTEST_TICK, TICK));
    timer.reset(tick, Some(tick)).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    let ended = watch.shared.ended_event()?;
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut manager = EventManager::new().map_err(|error| io::Error::other(error.to_string()))?;
    thread::Builder::new().name("events".to_owned()).spawn(move || {
        let id = manager.add_subscriber(Subscriber { watch, timer, ended, input, over: false });
        loop {
            if let Err(error) = manager.run() {
                log::error!("the event loop failed: {error}");
            }
            match manager.subscriber_mut(id) {
                Ok(subscriber) if !subscriber.over => (),
                _ => return,
            }
        }
    })
}
