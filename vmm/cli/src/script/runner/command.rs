//! Operations as commands.

use wirevm_agent::{Command, Limit as CommandLimit, MAIN_TASK};

use super::{Bytes, Runner, unbound};
use crate::exit_code::ExitCode;
use crate::in_process::TASK_PAGES;
use crate::script::ast::{
    Address, Allocation, AllocationKind, Backing, Limit, Locking, Managing, ObjectChange, Operation, Place, Range,
};
use crate::script::cursor::PAGE_SIZE;
use crate::script::target::TargetError;

impl Runner<'_, '_> {
    /// Returns the one command that carries out an operation, and the task that it is for.
    pub(super) fn command(&self, operation: &Operation) -> Result<(u64, Command), TargetError> {
        let on = |range: &Range, command: fn(u64, u64) -> Command| {
            let place = self.resolve(range)?;
            Ok((place.task, command(place.start, place.size())))
        };
        let place;
        Ok(match operation {
            Operation::Allocate(allocation) => return self.allocation(allocation),
            Operation::Deallocate(range) => return on(range, |address, size| Command::Deallocate { address, size }),
            Operation::Protect { range, set_maximum, prot } => {
                place = self.resolve(range)?;
                let (address, size) = (place.start, place.size());
                (place.task, Command::Protect { address, size, set_maximum: *set_maximum, prot: *prot })
            }
            Operation::Write(range, pattern) => {
                place = self.resolve(range)?;
                (place.task, Command::Write { address: place.start, size: place.size(), pattern: *pattern })
            }
            Operation::Expect(range, pattern) => {
                place = self.resolve(range)?;
                (place.task, Command::Expect { address: place.start, size: place.size(), pattern: *pattern })
            }
            Operation::Wire(range, flags) => {
                let Bytes { task, start, end } = self.resolve(range)?;
                (task, Command::Wire { start, end, flags: flags.bits() })
            }
            Operation::Unwire(range, flags) => {
                let Bytes { task, start, end } = self.resolve(range)?;
                (task, Command::Unwire { start, end, flags: flags.bits() })
            }
            Operation::Sync(range, flags) => {
                place = self.resolve(range)?;
                (place.task, Command::Sync { address: place.start, size: place.size(), flags: flags.bits() })
            }
            Operation::Msync(range, flags) => {
                place = self.resolve(range)?;
                (place.task, Command::Msync { address: place.start, size: place.size(), flags: flags.bits() })
            }
            Operation::Inherit(range, inheritance) => {
                place = self.resolve(range)?;
                let (address, size) = (place.start, place.size());
                (place.task, Command::Inherit { address, size, inheritance: *inheritance })
            }
            Operation::Advise(range, advice) => {
                place = self.resolve(range)?;
                (place.task, Command::Advise { address: place.start, size: place.size(), advice: *advice })
            }
            Operation::Lock(Locking::Mlock, range) => {
                return on(range, |address, size| Command::Mlock { address, size });
            }
            Operation::Lock(Locking::Munlock, range) => {
                return on(range, |address, size| Command::Munlock { address, size });
            }
            Operation::Lock(Locking::Vslock, range) => {
                return on(range, |address, size| Command::Vslock { address, size });
            }
            Operation::Lock(Locking::Vsunlock, range) => {
                return on(range, |address, size| Command::Vsunlock { address, size });
            }
            Operation::Mlockall(task, flags) => (self.task(task)?.number, Command::Mlockall { flags: flags.bits() }),
            Operation::Munlockall(task) => (self.task(task)?.number, Command::Munlockall),
            Operation::Residents(range) => {
                let Bytes { task, start, end } = self.resolve(range)?;
                (task, Command::Residents { start, end })
            }
            Operation::WireTotal => (MAIN_TASK, Command::WireTotal),
            Operation::NewTask(_) => (MAIN_TASK, Command::NewTask),
            Operation::Fork(task) => (self.task(task)?.number, Command::Fork),
            Operation::Submap { size, task, at, .. } => {
                let task = self.task(task)?;
                let address = at.as_ref().map(|at| self.address(task.scope, at)).transpose()?;
                (task.number, Command::Submap { address, size: *size })
            }
            Operation::NewManager(_) => (MAIN_TASK, Command::NewManager),
            Operation::Manage { manager, managing } => {
                let manager = self.tasks.get(manager.as_str()).ok_or_else(|| unbound(manager))?;
                (manager.number, self.managing(managing)?)
            }
            Operation::NewBackedObject { backing: Backing::Store(name, kind), pages, .. } => {
                (MAIN_TASK, Command::NewStoreObject { name: name.to_words(), pages: *pages, kind: *kind })
            }
            Operation::Completions => (MAIN_TASK, Command::Completions),
            Operation::Stat(selector) => (MAIN_TASK, Command::Stat { selector: *selector }),
            Operation::Trim => (MAIN_TASK, Command::Trim),
            Operation::KillProgram(task) => {
                let task = self.tasks.get(task.as_str()).ok_or_else(|| unbound(task))?;
                (MAIN_TASK, Command::KillProgram { task: task.number })
            }
            Operation::EndTask(task) => {
                let task = self.tasks.get(task.as_str()).ok_or_else(|| unbound(task))?;
                (task.number, Command::EndTask)
            }
            Operation::Limit(limit) => match limit {
                Limit::Memlock(task, pages) => {
                    (self.task(task)?.number, Command::Limit(CommandLimit::Memlock { pages: *pages }))
                }
                Limit::Privilege(task, may_lock) => {
                    (self.task(task)?.number, Command::Limit(CommandLimit::Privilege { may_lock: *may_lock }))
                }
                Limit::Wire(pages) => (MAIN_TASK, Command::Limit(CommandLimit::Global { pages: *pages })),
            },
            Operation::NewObject { kind, pages } => (MAIN_TASK, Command::NewObject { kind: *kind, pages: *pages }),
            Operation::Object { object, change } => {
                let object = self.object(object)?.number;
                let command = match *change {
                    ObjectChange::Gate(page) => Command::Gate { object, page },
                    ObjectChange::Release(page) => Command::Release { object, page },
                    ObjectChange::Fail(page, fault) => Command::Fail { object, page, fault },
                    ObjectChange::Heal(page) => Command::Heal { object, page },
                    ObjectChange::Kill => Command::Kill { object },
                    ObjectChange::Truncate(pages) => Command::Truncate { object, pages },
                    ObjectChange::Drop => Command::DropObject { object },
                };
                (MAIN_TASK, command)
            }
            Operation::Check => (MAIN_TASK, Command::Check),
            Operation::Reset => (MAIN_TASK, Command::Reset),
            Operation::Crash(crash) => (MAIN_TASK, Command::Crash(*crash)),
            Operation::Exit(code) => (MAIN_TASK, Command::Exit { code: *code }),
            // Carried out piece by piece, or not in the guest at all, before this is asked.
            Operation::Read(_)
            | Operation::Show(..)
            | Operation::Host(_)
            | Operation::FailHost(_)
            | Operation::FailStorage(_)
            | Operation::HoldStorage(_)
            | Operation::DirtyRanges(_)
            | Operation::NewBackedObject { backing: Backing::Manager(_), .. }
            | Operation::Program { .. }
            | Operation::Output(_)
            | Operation::Thread { .. }
            | Operation::Join(_) => {
                return Err(TargetError::new(ExitCode::Failure, format!("'{operation}' is no single command")));
            }
        })
    }

    fn managing(&self, managing: &Managing) -> Result<Command, TargetError> {
        Ok(match managing {
            Managing::Behave(behaviour) => Command::Behave(*behaviour),
            Managing::Die => Command::Die,
            Managing::Messages => Command::Messages,
            Managing::Answer { object, offset, length, status } => Command::SynchronizeCompleted {
                object: self.object(object)?.number,
                offset: *offset,
                length: *length,
                status: *status,
            },
            Managing::Request { object, pages, should_return, should_flush, forbidden } => {
                let object = self.object(object)?;
                let (first_page, end_page) = pages.unwrap_or((0, object.pages));
                Command::LockRequest {
                    object: object.number,
                    first_page,
                    end_page,
                    should_return: *should_return,
                    should_flush: *should_flush,
                    forbidden: *forbidden,
                }
            }
        })
    }

    fn allocation(&self, allocation: &Allocation) -> Result<(u64, Command), TargetError> {
        let Allocation { task, kind, at } = allocation;
        let task = self.task(task)?;
        let address = at.as_ref().map(|at| self.address(task.scope, at)).transpose()?;
        let command = match kind {
            AllocationKind::Plain { size } => Command::Allocate { address, size: *size },
            AllocationKind::Large { size } => Command::AllocateLarge { address, size: *size },
            AllocationKind::Guard { size } => Command::Guard { address, size: *size },
            AllocationKind::Stack { size, initial } => Command::Stack { address, size: *size, initial: *initial },
            AllocationKind::Object { object, pages, mode, prot } => {
                let object = self.object(object)?;
                let (first_page, end_page) = pages.unwrap_or((0, object.pages));
                Command::MapObject { address, object: object.number, first_page, end_page, mode: *mode, prot: *prot }
            }
            AllocationKind::Heap { size } => Command::Brk { size: *size },
        };
        Ok((task.number, command))
    }

    pub(super) fn resolve(&self, range: &Range) -> Result<Bytes, TargetError> {
        let task = self.task(&range.task)?;
        let (start, end) = match &range.place {
            Place::All => (0, TASK_PAGES.end * PAGE_SIZE),
            Place::Whole(name) => {
                let (start, size) = self.named(task.scope, name)?;
                (start, start.wrapping_add(size))
            }
            Place::Pages { name, start, end } => {
                let (base, _) = self.named(task.scope, name)?;
                let at = |page: &u64| base.wrapping_add(page.wrapping_mul(PAGE_SIZE));
                (at(start), at(end))
            }
            Place::Length(address, bytes) => {
                let start = self.address(task.scope, address)?;
                (start, start.wrapping_add(*bytes))
            }
            Place::Bounds(start, end) => (self.address(task.scope, start)?, self.address(task.scope, end)?),
        };
        Ok(Bytes { task: task.number, start, end })
    }

    fn address(&self, scope: usize, address: &Address) -> Result<u64, TargetError> {
        let base = address.name.as_ref().map_or(Ok(0), |name| self.named(scope, name).map(|(start, _)| start))?;
        Ok(base.wrapping_add(address.offset))
    }

    fn named(&self, scope: usize, name: &str) -> Result<(u64, u64), TargetError> {
        self.memory.get(scope, name).copied().ok_or_else(|| unbound(name))
    }
}
