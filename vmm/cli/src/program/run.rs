//! Running programs in a guest: all are started, then each one's end is awaited.

use std::ops::Range;
use std::time::{Duration, Instant};

use wirevm_agent::{Command, MAIN_TASK, ProgramEnd, Reply, Request};
use wirevm_map::KernReturn;

use crate::exit_code::{CommandError, ExitCode};
use crate::script::awaits::settled;

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRun {
    /// Its task in the guest, if it was started.
    pub task: Option<u64>,
    /// How it ended.
    pub ending: ProgramEnding,
    /// From the order to start it to its end, or to the machine's, or to the answer that it was not started.
    pub elapsed: Duration,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramEnding {
    /// By itself, by a fault, or killed.
    Ended(ProgramEnd),
    /// The guest could not start it, and says why.
    NotStarted(String),
    /// It did not: the machine ended first.
    Unfinished,
}

/// Runs the programs of these entries of the archive, all at the same time. `ask` asks the guest's agent.
///
/// Returns what became of each, and the error of the machine, if it has ended before them.
pub fn run(
    entries: Range<u64>,
    mut ask: impl FnMut(&Request) -> Result<Reply, CommandError>,
) -> (Vec<ProgramRun>, Result<(), CommandError>) {
    let mut runs: Vec<(u64, Instant, ProgramRun)> = Vec::new();
    let mut result = Ok(());
    for entry in entries {
        let began = Instant::now();
        let mut run = ProgramRun { task: None, ending: ProgramEnding::Unfinished, elapsed: Duration::ZERO };
        if result.is_ok() {
            result = start(entry, &mut run, &mut ask);
            // What was not started has come to its end already.
            run.elapsed = began.elapsed();
        }
        runs.push((entry, began, run));
    }
    let result = result.and_then(|()| await_all(&mut runs, &mut ask));
    for (_, began, run) in &mut runs {
        if run.ending == ProgramEnding::Unfinished {
            run.elapsed = began.elapsed();
        }
    }
    (runs.into_iter().map(|(.., run)| run).collect(), result)
}

/// Starts a program, and a thread of the agent's that waits for its end.
fn start(
    entry: u64,
    run: &mut ProgramRun,
    mut ask: impl FnMut(&Request) -> Result<Reply, CommandError>,
) -> Result<(), CommandError> {
    let command = Command::Program { entry };
    let task = match settled(&Request::new(MAIN_TASK, command), false, &mut ask)? {
        Reply::Number(task) => task,
        Reply::Text(reason) => {
            run.ending = ProgramEnding::NotStarted(reason);
            return Ok(());
        }
        Reply::Done(code) if code != KernReturn::Success => {
            run.ending = ProgramEnding::NotStarted(code.to_string());
            return Ok(());
        }
        reply => return Err(unexpected(command, &reply)),
    };
    run.task = Some(task);
    let command = Command::AwaitProgram { task };
    match ask(&Request { task: MAIN_TASK, thread: thread(entry), command })? {
        Reply::Started => Ok(()),
        reply => Err(unexpected(command, &reply)),
    }
}

/// The number of the thread that waits for an entry's program.
const fn thread(entry: u64) -> u64 {
    entry + 1
}

fn await_all(
    runs: &mut [(u64, Instant, ProgramRun)],
    mut ask: impl FnMut(&Request) -> Result<Reply, CommandError>,
) -> Result<(), CommandError> {
    let mut ask = |command| ask(&Request::new(MAIN_TASK, command)).map(|reply| (command, reply));
    loop {
        let mut all_ended = true;
        for (entry, began, run) in &mut *runs {
            if run.ending != ProgramEnding::Unfinished {
                continue;
            }
            match ask(Command::Poll { thread: thread(*entry) })? {
                (_, Reply::Awaits) => all_ended = false,
                (_, Reply::Ended) => match ask(Command::Join { thread: thread(*entry) })? {
                    (_, Reply::Program(end)) => {
                        run.elapsed = began.elapsed();
                        run.ending = ProgramEnding::Ended(end);
                    }
                    (command, reply) => return Err(unexpected(command, &reply)),
                },
                (command, reply) => return Err(unexpected(command, &reply)),
            }
        }
        if all_ended {
            return Ok(());
        }
        // It is answered when something has happened; all are asked again then.
        match ask(Command::AwaitHost)? {
            (_, Reply::Awaits | Reply::Ended) => {}
            (command, reply) => return Err(unexpected(command, &reply)),
        }
    }
}

fn unexpected(command: Command, reply: &Reply) -> CommandError {
    CommandError::new(
        ExitCode::Failure,
        format!("the guest answered {reply:?} to {command:?}, which is no answer to it"),
    )
}

#[cfg(test)]
mod test {
    use std::thread;
    use std::time::Duration;

    use wirevm_agent::{Command, ProgramEnd, Reply, Request};
    use wirevm_map::KernReturn;

    use super::{ProgramEnding, run};
    use crate::exit_code::{CommandError, ExitCode};

    /// Answers as a guest does whose programs, in task 1 and 2, end one after the other, the second first.
    fn two_programs(request: &Request, awaited: &mut u64) -> Reply {
        match request.command {
            Command::Program { entry } => Reply::Number(entry + 1),
            Command::AwaitProgram { task } if task == request.thread => Reply::Started,
            Command::AwaitHost => {
                *awaited += 1;
                Reply::Awaits
            }
            Command::Poll { thread } if *awaited + thread >= 3 => Reply::Ended,
            Command::Poll { .. } => Reply::Awaits,
            Command::Join { thread } => Reply::Program(ProgramEnd::Exited(u8::try_from(thread).expect("small"))),
            _ => Reply::Malformed,
        }
    }

    #[test]
    fn each_end_is_noticed_when_it_comes() {
        let mut awaited = 0;
        let (runs, result) = run(0..2, |request| Ok(two_programs(request, &mut awaited)));
        result.expect("nothing is in the way");
        let ends: Vec<_> = runs.iter().map(|run| (run.task, run.ending.clone())).collect();
        let exited = |code| ProgramEnding::Ended(ProgramEnd::Exited(code));
        assert_eq!(ends, [(Some(1), exited(1)), (Some(2), exited(2))]);
        assert!(runs[0].elapsed >= runs[1].elapsed);
        assert_eq!(awaited, 2);
    }

    /// What a program takes that can't be started.
    const LOADING: Duration = Duration::from_millis(20);

    #[test]
    fn program_that_can_not_start_keeps_no_other_from_running() {
        let mut awaited = 2;
        let (runs, result) = run(0..3, |request| {
            Ok(match request.command {
                Command::Program { entry: 0 } => {
                    thread::sleep(LOADING);
                    Reply::Text("it is too large".into())
                }
                Command::Program { entry: 2 } => Reply::Done(KernReturn::ResourceShortage),
                _ => two_programs(request, &mut awaited),
            })
        });
        result.expect("nothing is in the way");
        assert_eq!(runs[0].ending, ProgramEnding::NotStarted("it is too large".into()));
        assert!(runs[0].elapsed >= LOADING && runs[2].elapsed < runs[0].elapsed);
        assert_eq!(runs[1].ending, ProgramEnding::Ended(ProgramEnd::Exited(2)));
        assert_eq!(runs[2].ending, ProgramEnding::NotStarted("RESOURCE_SHORTAGE".into()));
    }

    #[test]
    fn end_of_the_machine_leaves_what_ran_unfinished() {
        let mut awaited = 0;
        let (runs, result) = run(0..2, |request| match request.command {
            Command::AwaitHost if awaited == 1 => Err(CommandError::new(ExitCode::Timeout, "the time is over")),
            _ => Ok(two_programs(request, &mut awaited)),
        });
        assert_eq!(result.map_err(|error| error.exit), Err(ExitCode::Timeout));
        assert_eq!(runs[0].ending, ProgramEnding::Unfinished);
        assert_eq!(runs[1].ending, ProgramEnding::Ended(ProgramEnd::Exited(2)));
        let (runs, result) = run(0..2, |_| Ok(Reply::Blocked));
        assert!(result.is_err_and(|error| error.to_string().contains("Blocked to Program { entry: 0 }")));
        assert_eq!(runs.len(), 2);
    }
}
