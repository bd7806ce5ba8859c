//! Operations on one map, which may have to wait.

use alloc::string::String;
use alloc::sync::Arc;

use wirevm_map::{
    Errno, HostError, KernReturn, LockAllFlags, MapLimits, MsyncFlags, ObjectHandle, PageRange, Placement, Ports,
    SyncFlags, VmMap, WireFlags,
};

use crate::access;
use crate::command::Command;
use crate::lists;
use crate::platform::Platform;
use crate::program::Program;
use crate::reply::Reply;

/// What an operation came to, before the agent has taken note of it.
pub(crate) enum Outcome<P: Ports> {
    /// It says this.
    Reply(Reply),
    /// There is a new task with this map and these limits.
    Forked(Arc<VmMap<P>>, MapLimits),
    /// There is a new task with this map, part of another's.
    Submap(Arc<VmMap<P>>),
    /// This task was made for a program, which was started or not.
    Program(u64, Result<Arc<dyn Program>, String>),
    /// The task's map is destroyed.
    Ended(u64),
    /// Everything but the emptied main map may go.
    Emptied,
    /// Nobody waits for it.
    Nothing,
}

/// Carries out a command that is about a map alone. Any other command is malformed.
pub(crate) async fn on_map<P: Ports, L: Platform<P>>(map: Arc<VmMap<P>>, platform: Arc<L>, command: Command) -> Reply {
    match command {
        Command::Allocate { address, size } => placed(map.allocate(placement(address), size).await),
        Command::AllocateLarge { address, size } => placed(map.allocate_large(placement(address), size).await),
        Command::Guard { address, size } => placed(map.guard(placement(address), size).await),
        Command::Stack { address, size, initial } => placed(map.stack(placement(address), size, initial).await),
        Command::Deallocate { address, size } => done(map.deallocate(address, size).await),
        Command::Protect { address, size, set_maximum, prot } => {
            done(map.protect(address, size, set_maximum, prot).await)
        }
        Command::Inherit { address, size, inheritance } => done(map.inherit(address, size, inheritance).await),
        Command::Advise { address, size, advice } => done(map.advise(address, size, advice).await),
        Command::Wire { start, end, flags } => match u32::try_from(flags) {
            Ok(bits) => done(map.wire(start, end, WireFlags::from_bits(bits)).await),
            Err(_) => Reply::Done(KernReturn::InvalidArgument),
        },
        Command::Unwire { start, end, flags } => match u32::try_from(flags) {
            Ok(bits) => done(map.unwire(start, end, WireFlags::from_bits(bits)).await),
            Err(_) => Reply::Done(KernReturn::InvalidArgument),
        },
        Command::Sync { address, size, flags } => match u32::try_from(flags) {
            Ok(bits) => done(map.msync(address, size, SyncFlags::from_bits(bits)).await),
            Err(_) => Reply::Done(KernReturn::InvalidArgument),
        },
        Command::Msync { address, size, flags } => match u32::try_from(flags) {
            Ok(bits) => posix(map.msync_posix(address, size, MsyncFlags::from_bits(bits)).await),
            Err(_) => Reply::Errno(Errno::Inval),
        },
        Command::Write { address, size, pattern } => {
            done(access::write(&map, platform.as_ref(), address, size, pattern).await)
        }
        Command::Expect { address, size, pattern } => {
            access::expect(&map, platform.as_ref(), address, size, pattern).await
        }
        Command::Read { address, size } => access::read(&map, platform.as_ref(), address, size).await,
        Command::Mlock { address, size } => posix(map.mlock(address, size).await),
        Command::Munlock { address, size } => posix(map.munlock(address, size).await),
        Command::Mlockall { flags } => match u32::try_from(flags) {
            Ok(bits) => posix(map.mlockall(LockAllFlags::from_bits(bits)).await),
            Err(_) => Reply::Errno(Errno::Inval),
        },
        Command::Munlockall => posix(map.munlockall().await),
        Command::Vslock { address, size } => posix(map.vslock(address, size).await),
        Command::Vsunlock { address, size } => posix(map.vsunlock(address, size).await),
        Command::Mincore { address, size } => map.mincore(address, size).await.map_or_else(Reply::Errno, lists::counts),
        Command::Brk { size } => map.brk(size).await.map_or_else(Reply::Errno, Reply::Address),
        _ => Reply::Malformed,
    }
}

/// Maps a range of an object; `command` says which and how.
pub(crate) async fn map_object<P: Ports>(map: Arc<VmMap<P>>, object: &ObjectHandle<P>, command: Command) -> Reply {
    let Command::MapObject { address, first_page, end_page, mode, prot, .. } = command else {
        return Reply::Malformed;
    };
    if end_page < first_page {
        return Reply::Done(KernReturn::InvalidArgument);
    }
    let pages = PageRange::new(first_page, end_page);
    placed(map.map_object(placement(address), object, pages, mode, prot).await)
}

pub(crate) const fn placement(address: Option<u64>) -> Placement {
    match address {
        None => Placement::Anywhere,
        Some(address) => Placement::Fixed(address),
    }
}

/// Returns the code for what the host refused.
pub(crate) const fn refused(error: HostError) -> KernReturn {
    match error {
        HostError::Rejected => KernReturn::InvalidArgument,
        HostError::Shortage | HostError::Quota | HostError::Busy => KernReturn::ResourceShortage,
        HostError::Io | HostError::Poisoned | HostError::Unsupported => KernReturn::Failure,
    }
}

pub(crate) fn done(result: Result<(), KernReturn>) -> Reply {
    Reply::Done(result.err().unwrap_or(KernReturn::Success))
}

fn posix(result: Result<(), Errno>) -> Reply {
    result.map_or_else(Reply::Errno, |()| Reply::Done(KernReturn::Success))
}

fn placed(result: Result<u64, KernReturn>) -> Reply {
    result.map_or_else(Reply::Done, Reply::Address)
}
