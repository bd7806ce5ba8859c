//! Threads: started, looked at, joined.

use wirevm_agent::{Command, MAIN_TASK, Reply, Request};

use super::{Runner, Started, unbound, unexpected};
use crate::script::ast::{Operation, Statement};
use crate::script::outcome::Outcome;
use crate::script::target::TargetError;

impl<'s> Runner<'_, 's> {
    /// Starts a thread.
    pub(super) fn start(&mut self, thread: &'s str, statement: &'s Statement) -> Result<Outcome, TargetError> {
        if let Operation::Program { name, wanted } = &statement.operation {
            return self.run_program_beside(thread, name, wanted, statement);
        }
        let (task, command) = self.command(&statement.operation)?;
        let made = self.made(&statement.operation)?;
        self.last_thread += 1;
        let number = self.last_thread;
        match self.target.call(&Request { task, thread: number, command })? {
            Reply::Started => {
                self.threads.insert(thread, Started { number, statement, command, made });
                Ok(Outcome::Started)
            }
            reply @ Reply::Violation(_) => self.conclude(statement, command, made, reply),
            reply => Err(unexpected(command, reply)),
        }
    }

    fn thread(&self, name: &str) -> Result<Started<'s>, TargetError> {
        self.threads.get(name).copied().ok_or_else(|| unbound(name))
    }

    pub(super) fn look_at(&mut self, thread: &str, expected: bool) -> Result<Outcome, TargetError> {
        let command = Command::Poll { thread: self.thread(thread)?.number };
        match self.call(MAIN_TASK, command)? {
            Reply::Blocked => Ok(Outcome::Thread { has_ended: false, expected }),
            Reply::Ended => Ok(Outcome::Thread { has_ended: true, expected }),
            reply => Err(unexpected(command, reply)),
        }
    }

    pub(super) fn join(&mut self, thread: &str) -> Result<Outcome, TargetError> {
        let Started { number, statement, command, made } = self.thread(thread)?;
        match self.call(MAIN_TASK, Command::Join { thread: number })? {
            Reply::Blocked => Ok(Outcome::Blocked),
            reply => {
                self.threads.remove(thread);
                self.conclude(statement, command, made, reply)
            }
        }
    }
}
