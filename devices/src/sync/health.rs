//! The health poll: finds errors of writes that nobody asked for (rule D5).

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::backend::HealthProbe;
use super::latch::{During, Latch};

/// A thread that polls until it is told to end or the latch is set.
#[derive(Debug)]
pub(super) struct HealthPoll {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl HealthPoll {
    /// Starts polling.
    pub(super) fn start(mut probe: Box<dyn HealthProbe>, interval: Duration, latch: Arc<Latch>) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name("wirevm-health".to_owned()).spawn(move || {
            while !seen.within(interval) && latch.get().is_none() {
                if let Err(error) = probe.check() {
                    latch.trip(&error, None, During::HealthPoll);
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Tells the thread to end and hands it out, once. A look that is under way is not cut short.
    pub(super) fn end(&mut self) -> Option<JoinHandle<()>> {
        *self.stop.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        self.thread.take()
    }
}

impl Stop {
    /// Waits until a stop is asked for or the time is over; tells which.
    fn within(&self, interval: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(asked, interval, |asked| !*asked);
        let (asked, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *asked
    }
}
