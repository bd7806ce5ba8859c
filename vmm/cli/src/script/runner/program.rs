//! Programs: started, waited for, and what they print.

use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
use wirevm_map::KernReturn;

use super::{Made, Runner, Started, TaskNumber, unbound, unexpected};
use crate::program::Wanted;
use crate::script::ast::Statement;
use crate::script::outcome::Outcome;
use crate::script::target::TargetError;

impl<'s> Runner<'_, 's> {
    /// Starts a program in a task that gets that name; returns the command that waits for its end, or why it was not started.
    fn start_program(&mut self, name: &'s str, wanted: &Wanted) -> Result<Result<Command, Outcome>, TargetError> {
        let entry = (0..).zip(&self.programs).find_map(|(entry, known)| (known == wanted).then_some(entry));
        let command = Command::Program { entry: entry.ok_or_else(|| unbound(wanted.name()))? };
        Ok(match self.call(MAIN_TASK, command)? {
            Reply::Number(number) => {
                let scope = self.memory.add(None);
                self.tasks.insert(name, TaskNumber { number, scope });
                Ok(Command::AwaitProgram { task: number })
            }
            Reply::Text(reason) => Err(Outcome::NotStarted(reason)),
            Reply::Done(code) if code != KernReturn::Success => Err(Outcome::Code(code)),
            Reply::Violation(reason) => Err(Outcome::Violation(reason)),
            Reply::Blocked => Err(Outcome::Blocked),
            reply => return Err(unexpected(command, reply)),
        })
    }

    /// Starts a program and waits for its end.
    pub(super) fn run_program(
        &mut self,
        name: &'s str,
        wanted: &Wanted,
        statement: &'s Statement,
    ) -> Result<Outcome, TargetError> {
        match self.start_program(name, wanted)? {
            Err(outcome) => Ok(outcome),
            Ok(command) => {
                let reply = self.call(MAIN_TASK, command)?;
                self.conclude(statement, command, Made::default(), reply)
            }
        }
    }

    /// Starts a program, and a thread that waits for its end.
    pub(super) fn run_program_beside(
        &mut self,
        thread: &'s str,
        name: &'s str,
        wanted: &Wanted,
        statement: &'s Statement,
    ) -> Result<Outcome, TargetError> {
        let command = match self.start_program(name, wanted)? {
            Err(outcome) => return Ok(outcome),
            Ok(command) => command,
        };
        self.last_thread += 1;
        let number = self.last_thread;
        match self.target.call(&Request { task: MAIN_TASK, thread: number, command })? {
            Reply::Started => {
                self.threads.insert(thread, Started { number, statement, command, made: Made::default() });
                Ok(Outcome::Started)
            }
            reply => Err(unexpected(command, reply)),
        }
    }

    /// Shows what a program has printed so far.
    pub(super) fn printed(&mut self, task: &str) -> Result<Outcome, TargetError> {
        let number = self.tasks.get(task).ok_or_else(|| unbound(task))?.number;
        self.target.output(number).map(Outcome::Printed)
    }
}
