//! The agent in a thread of its own: so that a time limit, an interruption and a panic of the memory system end a run as
//! they end a machine, and not this program.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use wirevm_agent::{Answer, Crash, Reply};
use wirevm_map::KernReturn;
use wirevm_vmm::Outcome;

use crate::exit_code::{CommandError, ExitCode};
use crate::kvm_target::ended;
use crate::script::target::TargetError;

/// How often a wait looks for an interruption.
const LOOK: Duration = Duration::from_millis(20);
/// How long the thread may take to end once nothing more is asked of it.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// What ends a run from outside.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the run may take.
    pub time_limit: Option<Duration>,
    /// Tells whether the user wants to end.
    pub is_interrupted: fn() -> bool,
}

impl Default for Limits {
    /// Nothing ends the run.
    fn default() -> Self {
        Self { time_limit: None, is_interrupted: || false }
    }
}

/// What the agent's thread says.
type Said = Result<Answer, String>;

/// The way to an agent in this process. Dropping it ends the thread.
pub struct AgentThread {
    /// None once the agent has ended.
    commands: Option<SyncSender<Vec<u64>>>,
    answers: Receiver<Said>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread is to end even where it waits for the host.
    stop: Arc<AtomicBool>,
    limits: Limits,
    started: Instant,
}

impl fmt::Debug for AgentThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentThread").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl AgentThread {
    /// Starts a thread that carries out the words of each command with `answer`, which may take as long as the host does.
    ///
    /// # Errors
    /// [`TargetError`] when there can be no thread.
    pub fn start(
        limits: Limits,
        answer: impl AsyncFnMut(&[u64]) -> Answer + Send + 'static,
    ) -> Result<Self, TargetError> {
        let (commands, received) = mpsc::sync_channel::<Vec<u64>>(1);
        let (say, answers) = mpsc::sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("wirevm-agent".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || serve(answer, &received, &say, &stop)
            })
            .map_err(|error| CommandError::new(ExitCode::Failure, error))?;
        Ok(Self { commands: Some(commands), answers, thread: Some(thread), stop, limits, started: Instant::now() })
    }

    /// Has a command carried out, given as a request's words, and waits for the reply.
    ///
    /// # Errors
    /// [`TargetError`] when the agent has ended, ends over it, or is stopped from outside.
    pub fn call(&mut self, words: Vec<u64>) -> Result<Reply, TargetError> {
        self.look()?;
        let sent = self.commands.as_ref().map(|commands| commands.send(words));
        if !matches!(sent, Some(Ok(()))) {
            return Err(CommandError::new(ExitCode::Failure, "the guest has ended"));
        }
        let answer = self.wait();
        if !matches!(answer, Ok(Answer::Reply(_))) {
            self.commands = None;
        }
        match answer? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Exit { .. } => Ok(Reply::Done(KernReturn::Success)),
            Answer::Crash(Crash::Panic) => {
                Err(CommandError::new(ExitCode::GuestPanic, "the guest panicked: the host asked for a panic"))
            }
            Answer::Crash(Crash::Trap) => {
                Err(CommandError::new(ExitCode::GuestPanic, "the guest crashed: the host asked for a trap"))
            }
            Answer::Crash(Crash::TripleFault) => {
                Err(ended(&Outcome::TripleFault { state: "the host asked for one".to_owned() }))
            }
            // Whatever hangs is stopped from outside, as a machine would be.
            Answer::Crash(Crash::Hang) => loop {
                self.look()?;
                thread::sleep(LOOK);
            },
        }
    }

    /// Ends the thread, once it has done what it is doing; but it does not wait for the host any more. Tells whether it has
    /// ended.
    pub fn end(&mut self) -> bool {
        self.commands = None;
        let Some(thread) = self.thread.take() else { return true };
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        let deadline = Instant::now() + JOIN_LIMIT;
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if !thread.is_finished() {
            log::error!("the agent's thread did not end within {} s", JOIN_LIMIT.as_secs());
            return false;
        }
        if thread.join().is_err() {
            log::error!("the agent's thread panicked as it ended");
        }
        true
    }

    fn wait(&self) -> Result<Answer, TargetError> {
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(reason)) => {
                    return Err(CommandError::new(ExitCode::GuestPanic, format!("the guest panicked: {reason}")));
                }
                Err(RecvTimeoutError::Timeout) => self.look()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(CommandError::new(ExitCode::Failure, "the guest has ended"));
                }
            }
        }
    }

    /// Looks whether the run is to end.
    fn look(&self) -> Result<(), TargetError> {
        if (self.limits.is_interrupted)() {
            return Err(ended(&Outcome::Interrupted));
        }
        match self.limits.time_limit.filter(|limit| self.started.elapsed() >= *limit) {
            Some(limit) => Err(ended(&Outcome::Timeout { limit })),
            None => Ok(()),
        }
    }
}

impl Drop for AgentThread {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(
    mut answer: impl AsyncFnMut(&[u64]) -> Answer,
    commands: &Receiver<Vec<u64>>,
    say: &SyncSender<Said>,
    stop: &AtomicBool,
) {
    while let Ok(words) = commands.recv() {
        // What a panic leaves behind is not looked at again.
        let said = catch_unwind(AssertUnwindSafe(|| drive(answer(&words), stop)));
        let said = match said {
            Ok(Some(answer)) => Ok(answer),
            // Nobody listens any more.
            Ok(None) => return,
            Err(payload) => Err(reason(payload.as_ref())),
        };
        let panicked = said.is_err();
        if say.send(said).is_err() || panicked {
            if panicked {
                // Its locks may be held and its books wrong.
                mem::forget(answer);
            }
            return;
        }
    }
}

/// Wakes a thread that drives a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future to its end, or until `stop` is set and this thread is unparked.
fn drive<T>(future: impl Future<Output = T>, stop: &AtomicBool) -> Option<T> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        if stop.load(Ordering::Acquire) {
            return None;
        }
        thread::park();
    }
}

/// Returns what a panic says.
fn reason(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

#[cfg(test)]
mod test {
    use std::future::poll_fn;
    use std::mem;
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use wirevm_agent::{Answer, Crash, Reply};
    use wirevm_map::KernReturn;

    use super::{AgentThread, Limits};
    use crate::exit_code::ExitCode;

    fn agent(limits: Limits) -> AgentThread {
        AgentThread::start(limits, async |words: &[u64]| match words {
            [0] => panic!("boom {}", 7),
            [1] => Answer::Crash(Crash::Hang),
            [2] => Answer::Exit { code: 3 },
            [3] => std::future::pending().await,
            [4] => {
                // Another thread answers after a while.
                let (mut is_first, mut thread) = (true, None);
                poll_fn(|context| {
                    if !mem::take(&mut is_first) {
                        return Poll::Ready(());
                    }
                    let waker = context.waker().clone();
                    thread = Some(std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(20));
                        waker.wake();
                    }));
                    Poll::Pending
                })
                .await;
                thread.expect("a thread").join().expect("no panic");
                Answer::Reply(Reply::Number(4))
            }
            _ => Answer::Reply(Reply::Done(KernReturn::Success)),
        })
        .expect("a thread")
    }

    #[test]
    fn panic_is_an_error_with_its_words_and_the_agent_is_gone() {
        let mut agent = agent(Limits::default());
        assert_eq!(agent.call(vec![9]).expect("a reply"), Reply::Done(KernReturn::Success));
        let error = agent.call(vec![0]).expect_err("a panic");
        assert_eq!((error.exit, error.to_string().as_str()), (ExitCode::GuestPanic, "the guest panicked: boom 7"));
        assert_eq!(agent.call(vec![9]).expect_err("no agent").to_string(), "the guest has ended");
        assert!(agent.end());
    }

    #[test]
    fn hang_ends_when_the_time_is_over() {
        let limit = Duration::from_millis(100);
        let mut agent = agent(Limits { time_limit: Some(limit), ..Limits::default() });
        let began = Instant::now();
        let error = agent.call(vec![1]).expect_err("a hang");
        assert_eq!(error.exit, ExitCode::Timeout);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn answer_that_another_thread_brings_is_waited_for() {
        let mut agent = agent(Limits::default());
        assert_eq!(agent.call(vec![4]).expect("a reply"), Reply::Number(4));
        assert!(agent.end());
    }

    #[test]
    fn answer_that_never_comes_ends_with_the_time_and_does_not_hold_up_the_end() {
        let limit = Duration::from_millis(100);
        let mut agent = agent(Limits { time_limit: Some(limit), ..Limits::default() });
        let began = Instant::now();
        assert_eq!(agent.call(vec![3]).expect_err("no answer").exit, ExitCode::Timeout);
        assert!(agent.end());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn hang_ends_when_the_user_wants_to() {
        let mut agent = agent(Limits { is_interrupted: || true, ..Limits::default() });
        assert_eq!(agent.call(vec![1]).expect_err("an interruption").to_string(), "interrupted");
    }

    #[test]
    fn exit_is_a_success_and_the_end() {
        let mut agent = agent(Limits::default());
        assert_eq!(agent.call(vec![2]).expect("an end"), Reply::Done(KernReturn::Success));
        assert_eq!(agent.call(vec![9]).expect_err("no agent").to_string(), "the guest has ended");
    }
}
