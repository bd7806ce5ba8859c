//! What operations make, and the names that it gets.

use wirevm_agent::{Command, Reply};
use wirevm_map::{KernReturn, LockAllFlags};

use super::{Made, Object, Runner, TaskNumber, unbound, unexpected};
use crate::script::ast::{AllocationKind, ObjectChange, Operation, Statement};
use crate::script::outcome::Outcome;
use crate::script::target::TargetError;

impl<'s> Runner<'_, 's> {
    /// Notes what is known of what an operation will make.
    pub(super) fn made(&mut self, operation: &Operation) -> Result<Made, TargetError> {
        let mut made = Made::default();
        match operation {
            Operation::Allocate(allocation) => {
                made.size = match &allocation.kind {
                    AllocationKind::Plain { size }
                    | AllocationKind::Large { size }
                    | AllocationKind::Guard { size }
                    | AllocationKind::Stack { size, .. }
                    | AllocationKind::Heap { size } => *size,
                    AllocationKind::Object { object, pages, .. } => {
                        let (start, end) = pages.unwrap_or((0, self.object(object)?.pages));
                        end.saturating_sub(start).saturating_mul(wirevm_map::PAGE_SIZE)
                    }
                };
            }
            Operation::Fork(task) => {
                let parent = self.task(task)?.scope;
                made.scope = self.memory.add(Some(parent));
            }
            Operation::NewTask(_) | Operation::NewManager(_) | Operation::Submap { .. } => {
                made.scope = self.memory.add(None);
            }
            Operation::Mlockall(_, flags) => {
                self.locks_future |= flags.bits() & u64::from(LockAllFlags::FUTURE.bits()) != 0;
            }
            Operation::Object { object, change: ObjectChange::Truncate(pages) } => {
                if let Some(object) = self.objects.get_mut(object.as_str()) {
                    object.pages = *pages;
                }
            }
            _ => {}
        }
        Ok(made)
    }

    /// Gives what was made its name, and says so; none where nothing was made.
    pub(super) fn name_made(
        &mut self,
        statement: &'s Statement,
        made: Made,
        reply: &Reply,
    ) -> Result<Option<Outcome>, TargetError> {
        let Statement { name, operation, .. } = statement;
        Ok(Some(match (operation, reply) {
            (Operation::Allocate(allocation), Reply::Address(address)) => {
                if let Some(name) = name {
                    let scope = self.task(&allocation.task)?.scope;
                    self.memory.define(scope, name, (*address, made.size));
                }
                Outcome::Address(*address)
            }
            (Operation::Fork(_), Reply::Number(number)) => {
                if let Some(name) = name {
                    self.tasks.insert(name, TaskNumber { number: *number, scope: made.scope });
                }
                Outcome::Code(KernReturn::Success)
            }
            (
                Operation::NewTask(name) | Operation::NewManager(name) | Operation::Submap { name, .. },
                Reply::Number(number),
            ) => {
                self.tasks.insert(name, TaskNumber { number: *number, scope: made.scope });
                Outcome::Code(KernReturn::Success)
            }
            (Operation::NewObject { pages, .. }, Reply::Number(number)) => {
                if let Some(name) = name {
                    self.objects.insert(name, Object { number: *number, pages: *pages });
                }
                Outcome::Code(KernReturn::Success)
            }
            (Operation::NewBackedObject { name, pages, .. }, Reply::Number(number)) => {
                self.objects.insert(name, Object { number: *number, pages: *pages });
                Outcome::Code(KernReturn::Success)
            }
            _ => return Ok(None),
        }))
    }

    /// Allocates a manager's own copy of an object and makes the object of it. On failure neither is there.
    pub(super) fn new_managed_object(
        &mut self,
        name: &'s str,
        manager: &'s str,
        pages: u64,
    ) -> Result<Outcome, TargetError> {
        let TaskNumber { number: task, scope } = self.tasks.get(manager).copied().ok_or_else(|| unbound(manager))?;
        let size = pages.saturating_mul(wirevm_map::PAGE_SIZE);
        let allocate = Command::Allocate { address: None, size };
        let address = match self.call(task, allocate)? {
            Reply::Address(address) => address,
            Reply::Done(code) if code != KernReturn::Success => return Ok(Outcome::Code(code)),
            Reply::Blocked => return Ok(Outcome::Blocked),
            Reply::Violation(reason) => return Ok(Outcome::Violation(reason)),
            reply => return Err(unexpected(allocate, reply)),
        };
        let command = Command::NewManagedObject { pages, address };
        match self.call(task, command)? {
            Reply::Number(number) => {
                self.objects.insert(name, Object { number, pages });
                self.memory.define(scope, name, (address, size));
                Ok(Outcome::Code(KernReturn::Success))
            }
            Reply::Done(code) if code != KernReturn::Success => {
                let deallocate = Command::Deallocate { address, size };
                match self.call(task, deallocate)? {
                    Reply::Done(KernReturn::Success) => Ok(Outcome::Code(code)),
                    reply => Err(unexpected(deallocate, reply)),
                }
            }
            Reply::Violation(reason) => Ok(Outcome::Violation(reason)),
            reply => Err(unexpected(command, reply)),
        }
    }
}
