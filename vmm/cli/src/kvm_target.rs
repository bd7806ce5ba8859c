//! A running guest as what a script is carried out on.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wirevm_agent::{Command, Event, Reply, Request};
use wirevm_devices::faults::HostFaults;
use wirevm_devices::pin::PinStats;
use wirevm_map::{FrameRun, KernReturn};
use wirevm_vmm::{ChannelError, Machine, Outcome};

use crate::exit_code::{CommandError, ExitCode};
use crate::program::Outputs;
use crate::script::awaits::settled;
use crate::script::frames::wired;
use crate::script::target::{HostFault, StorageFault, Target, TargetError, WitnessAnswer, WitnessQuery};
use crate::witness;

/// Longest wait for one reply where no time limit was given: a hung guest is an error, not a hung command line.
const REPLY_LIMIT: Duration = Duration::from_secs(600);
/// Longest wait for something to happen where programs run, which take the time that they take.
const PROGRAM_LIMIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// Returns the error that stands for a machine's end before its work was done.
pub fn ended(outcome: &Outcome) -> CommandError {
    CommandError::new(exit_code_of(outcome), outcome.to_string())
}

/// Returns the exit code for a machine that ended that way.
pub const fn exit_code_of(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Exit { code: 0 } => ExitCode::Ok,
        Outcome::Exit { .. } | Outcome::Interrupted | Outcome::Stopped | Outcome::VcpuError { .. } => ExitCode::Failure,
        Outcome::Crashed(_) => ExitCode::GuestPanic,
        Outcome::TripleFault { .. } => ExitCode::GuestCrash,
        Outcome::Timeout { .. } => ExitCode::Timeout,
        Outcome::BackingLost { .. } => ExitCode::BackingLost,
        Outcome::StorageError { .. } => ExitCode::Storage,
    }
}

/// The guest's agent behind its message rings, and the host's witness.
#[derive(Debug)]
pub struct KvmTarget<'a> {
    machine: &'a mut Machine,
    orders: Orders,
    /// Whether storage is held: then the guest need not be waited for where it waits for storage.
    holds_storage: bool,
    next_id: u64,
    /// Replies that came before somebody asked for them, by id.
    early: HashMap<u64, Vec<u64>>,
    /// What programs print.
    outputs: Outputs,
    starting: Starting,
}

/// The entry of the program whose start is not answered yet.
#[derive(Debug, Default)]
struct Starting(Option<u64>);

impl Starting {
    /// Takes note of a command that is given.
    const fn given(&mut self, command: Command) {
        if let Command::Program { entry } = command {
            self.0 = Some(entry);
        }
    }

    /// Takes note of an answer; returns task and entry of a program that has started.
    const fn answered(&mut self, reply: &Reply) -> Option<(u64, u64)> {
        match (self.0, reply) {
            (None, _) | (_, Reply::Awaits) => None,
            (Some(entry), reply) => {
                self.0 = None;
                if let Reply::Number(task) = reply { Some((*task, entry)) } else { None }
            }
        }
    }

    /// Nobody waits for the answer any more.
    const fn give_up(&mut self) {
        self.0 = None;
    }
}

/// How a script gives orders to a machine's host, and where it looks: what the machine was given.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// Failures of locks.
    pub locks: HostFaults,
    /// Failures of storage.
    pub storage: HostFaults,
    /// The folder for stores.
    pub store: Option<PathBuf>,
}

/// The guest's agent said something that no agent says.
#[derive(Debug)]
struct Nonsense(String);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest's agent answered {}", self.0)
    }
}

impl std::error::Error for Nonsense {}

impl<'a> KvmTarget<'a> {
    /// Talks to the agent of a machine that is ready. `outputs` takes what its programs print.
    pub fn new(machine: &'a mut Machine, orders: Orders, outputs: Outputs) -> Self {
        let early = HashMap::new();
        Self { machine, orders, holds_storage: false, next_id: 1, early, outputs, starting: Starting::default() }
    }

    /// Returns what programs have printed.
    pub const fn outputs(&mut self) -> &mut Outputs {
        &mut self.outputs
    }

    /// Carries out one request and waits for its reply, [`Reply::Awaits`] included.
    ///
    /// # Errors
    /// [`TargetError`] when the machine has ended before it replied.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, TargetError> {
        self.starting.given(request.command);
        let id = self.send(request)?;
        let may_take = match request.command {
            Command::AwaitHost if self.outputs.expects_programs() => PROGRAM_LIMIT,
            _ => REPLY_LIMIT,
        };
        let reply = self.receive(id, may_take)?;
        if let Some((task, entry)) = self.starting.answered(&reply) {
            self.outputs.started(task, entry);
        }
        Ok(reply)
    }

    fn send(&mut self, request: &Request) -> Result<u64, TargetError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut words = vec![id];
        request.encode(&mut words);
        self.machine.channel().send(&words, REPLY_LIMIT).map_err(|error| self.explain(error))?;
        Ok(id)
    }

    /// Waits for a reply. What the guest tells unasked meanwhile is taken in.
    fn receive(&mut self, id: u64, limit: Duration) -> Result<Reply, TargetError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(words) = self.early.remove(&id) {
                let reply = Reply::decode(&words)
                    .map_err(|_| CommandError::new(ExitCode::Failure, Nonsense(format!("{words:x?}"))))?;
                return Ok(reply);
            }
            // One limit for all: a guest that repeats other replies does not put it off.
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.explain(ChannelError::Timeout(limit)));
            }
            self.listen(left)?;
        }
    }

    /// Waits for a message and takes it in: as what a program has done, or as a reply, for whoever waits for it.
    ///
    /// # Errors
    /// [`TargetError`] when the machine has ended, or tells nothing for so long.
    pub fn listen(&mut self, limit: Duration) -> Result<(), TargetError> {
        let message = self.machine.channel().receive(limit).map_err(|error| self.explain(error))?;
        let nonsense = |what: String| CommandError::new(ExitCode::Failure, Nonsense(what));
        match Event::decode(&message) {
            Ok(None) => {}
            Ok(Some(event)) => {
                self.outputs.take(event);
                return Ok(());
            }
            Err(_) => return Err(nonsense(format!("unasked: {message:x?}"))),
        }
        match message.split_first() {
            Some((id, words)) if *id < self.next_id => {
                self.early.insert(*id, words.to_vec());
                Ok(())
            }
            _ => Err(nonsense("a command that nobody sent".to_owned())),
        }
    }

    /// A channel that is over says why the machine is.
    fn explain(&self, error: ChannelError) -> CommandError {
        match error {
            ChannelError::Ended => ended(&self.machine.wait()),
            ChannelError::Timeout(_) => CommandError::new(ExitCode::Timeout, error),
            other => CommandError::new(ExitCode::Failure, other),
        }
    }
}

impl KvmTarget<'_> {
    /// Holds three books against one another: what the guest's maps say is wired, what the pin service's ledger says, and what
    /// the kernel holds locked. Returns the sentence about the first difference.
    fn audit(&mut self) -> Result<Option<String>, TargetError> {
        let ram_pages = self.machine.ram_pages();
        let guest = wired(self, ram_pages)?;
        let pins = self.machine.pins();
        let locked = self.machine.witness().locked_pages().map_err(witness::blind)?;
        Ok(disagreement(&guest, pins.stats(), |page| pins.count(page) > 0, locked))
    }
}

/// Says where what the guest has wired, the host's ledger, and what the kernel holds locked differ.
fn disagreement(
    guest: &[FrameRun],
    ledger: PinStats,
    knows: impl Fn(u64) -> bool,
    locked_pages: u64,
) -> Option<String> {
    let said: u64 = guest.iter().map(|run| run.pages).sum();
    let held = ledger.wired_pages + ledger.deferred_pages;
    if let Some(page) = guest.iter().flat_map(|run| run.first..run.end()).find(|page| !knows(*page)) {
        Some(format!("the guest has wired RAM page {page}, which the host's ledger does not know"))
    } else if said != ledger.wired_pages {
        Some(format!("the guest has wired {said} pages, the host's ledger {}", ledger.wired_pages))
    } else if locked_pages != held {
        Some(format!("the kernel holds {locked_pages} pages locked, the host's ledger {held}"))
    } else {
        None
    }
}

impl Target for KvmTarget<'_> {
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError> {
        let holds_storage = self.holds_storage;
        let answer = settled(request, holds_storage, |request| self.ask(request));
        // Where the script holds storage, it may not have been answered.
        self.starting.give_up();
        if matches!(answer, Ok(Reply::Done(KernReturn::Success))) {
            match request.command {
                Command::EndTask => self.outputs.forget(request.task),
                Command::Reset => self.outputs.forget_all(),
                _ => {}
            }
        }
        match (answer, &request.command) {
            (Err(_), Command::Exit { code }) if matches!(self.machine.outcome(), Some(Outcome::Exit { code: got }) if got == *code) => {
                Ok(Reply::Done(KernReturn::Success))
            }
            // Nothing is under way now, so all books must agree.
            (Ok(Reply::Done(KernReturn::Success)), Command::Quiesce | Command::Reset) => {
                Ok(self.audit()?.map_or(Reply::Done(KernReturn::Success), Reply::Violation))
            }
            (answer, _) => answer,
        }
    }

    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        match query {
            WitnessQuery::StorePage { name, page } => witness::store_page(self.orders.store.as_deref(), name, page),
            query => witness::answer(self.machine.witness(), self.machine.ram_pages(), &query),
        }
    }

    fn output(&mut self, task: u64) -> Result<String, TargetError> {
        Ok(self.outputs.text(task).0)
    }

    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError> {
        self.orders.locks.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }

    fn fail_storage(&mut self, fault: StorageFault) -> Result<(), TargetError> {
        self.orders.storage.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }

    fn hold_storage(&mut self, hold: bool) -> Result<(), TargetError> {
        self.holds_storage = hold;
        if hold {
            self.orders.storage.hold();
        } else {
            self.orders.storage.release();
        }
        Ok(())
    }
}

impl Drop for KvmTarget<'_> {
    /// What the script held must not hold up the machine's end.
    fn drop(&mut self) {
        self.orders.storage.release();
    }
}

#[cfg(test)]
mod test {
    use wirevm_agent::{Command, Reply};
    use wirevm_devices::pin::PinStats;
    use wirevm_map::{FrameRun, KernReturn};

    use super::{Starting, disagreement};

    #[test]
    fn number_is_a_programs_task_only_in_answer_to_its_start() {
        let mut starting = Starting::default();
        let mut answer = |command, replies: &[Reply]| {
            starting.given(command);
            let started = replies.iter().filter_map(|reply| starting.answered(reply)).collect::<Vec<_>>();
            starting.give_up();
            started
        };
        let start = Command::Program { entry: 3 };
        assert_eq!(answer(start, &[Reply::Awaits, Reply::Number(7), Reply::Number(8)]), [(7, 3)]);
        assert_eq!(answer(start, &[Reply::Done(KernReturn::ResourceShortage), Reply::Number(7)]), []);
        assert_eq!(answer(start, &[Reply::Awaits]), []);
        assert_eq!(answer(Command::WireTotal, &[Reply::Number(9)]), []);
    }

    #[test]
    fn disagreement_names_the_first_book_that_differs() {
        let guest = [FrameRun::new(10, 2), FrameRun::new(20, 1)];
        let ledger = PinStats { wired_pages: 3, deferred_pages: 1, ..PinStats::default() };
        let knows = |page| [10, 11, 20].contains(&page);
        assert_eq!(disagreement(&guest, ledger, knows, 4), None);
        let unknown = disagreement(&guest, ledger, |page| page != 11, 4);
        assert!(unknown.is_some_and(|sentence| sentence.contains("RAM page 11")));
        let fewer = disagreement(&guest[..1], ledger, knows, 4);
        assert!(fewer.is_some_and(|sentence| sentence.contains("2 pages, the host's ledger 3")));
        let unlocked = disagreement(&guest, ledger, knows, 3);
        assert!(unlocked.is_some_and(|sentence| sentence.contains("holds 3 pages locked")));
    }
}
