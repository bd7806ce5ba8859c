//! What the host says of an operation's effect.

use super::Runner;
use crate::script::ast::{AllocationKind, Managing, ObjectChange, Operation, Range, Statement};
use crate::script::outcome::Outcome;
use crate::script::target::{TargetError, WitnessQuery};

/// Most pages whose dirtiness is counted unasked.
const MAX_TRUTH_PAGES: u64 = 1 << 18;

impl Runner<'_, '_> {
    /// Asks the host what it sees of an operation's effect.
    pub(super) fn truth_behind(&mut self, statement: &Statement) -> Result<(Option<String>, Option<u64>), TargetError> {
        let operation = &statement.operation;
        let locks = self.locks_future && matches!(operation, Operation::Allocate(_));
        if statement.thread.is_some() || locks || may_change_wirings(operation) {
            let locked = self.locked()?;
            return Ok((Some(format!("{locked} locked")), Some(locked)));
        }
        Ok(match operation {
            Operation::Sync(..) | Operation::Msync(..) if !self.durable => (Some("unsupported".to_owned()), None),
            Operation::Write(range, _) | Operation::Sync(range, _) | Operation::Msync(range, _) if self.durable => {
                (self.dirty(range)?, None)
            }
            _ => (None, None),
        })
    }

    fn dirty(&mut self, range: &Range) -> Result<Option<String>, TargetError> {
        // Bounds that make no sense to the guest make none here either.
        let place = self.resolve(range)?;
        if place.start >= place.end || place.pages().len() > MAX_TRUTH_PAGES {
            return Ok(None);
        }
        Ok(match self.count(range, "dirtiness", WitnessQuery::Dirty)? {
            Outcome::Count(Some(pages)) => Some(format!("{pages} dirty")),
            _ => None,
        })
    }
}

/// Tells whether other pages may be locked after an operation than before, without regard to what `mlockall` said of the
/// time to come.
const fn may_change_wirings(operation: &Operation) -> bool {
    match operation {
        Operation::Wire(..)
        | Operation::Unwire(..)
        | Operation::Deallocate(_)
        | Operation::Lock(..)
        | Operation::Mlockall(..)
        | Operation::Munlockall(_)
        | Operation::EndTask(_)
        | Operation::Join(_)
        | Operation::Program { .. }
        | Operation::KillProgram(_)
        | Operation::Reset => true,
        Operation::Allocate(allocation) => matches!(allocation.kind, AllocationKind::Heap { .. }),
        // Threads may go on.
        Operation::Object { change, .. } => {
            matches!(change, ObjectChange::Release(_) | ObjectChange::Kill | ObjectChange::Truncate(_))
        }
        Operation::Manage { managing, .. } => !matches!(managing, Managing::Messages),
        _ => false,
    }
}
