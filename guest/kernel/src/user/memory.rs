//! System calls about memory: each is the map's operation of the same name.

use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_abi::{StoreName, user};
use wirevm_map::{
    Errno, Inheritance, KernReturn, LockAllFlags, MapMode, MsyncFlags, PAGE_SIZE, PageRange, Placement, Prot,
    StoreKind, SyncFlags, WireFlags,
};

use super::calls::{Answer, errno};
use super::copy::USER_END;
use super::process::Process;
use crate::arch::UserContext;

/// Carries out a call whose number is from [`user::MLOCK`] to [`user::MSYNC`].
pub async fn as_posix(process: &Arc<Process>, number: u64, context: &UserContext) -> Answer {
    let map = process.map();
    let [first, second, third, ..] = context.call_arguments();
    let bits = |word| u32::try_from(word).map_err(|_| errno(user::EINVAL));
    let done = match number {
        user::MLOCK => map.mlock(first, second).await,
        user::MUNLOCK => map.munlock(first, second).await,
        user::MLOCKALL => map.mlockall(LockAllFlags::from_bits(bits(first)?)).await,
        user::MUNLOCKALL => map.munlockall().await,
        user::MSYNC => map.msync_posix(first, second, MsyncFlags::from_bits(bits(third)?)).await,
        user::MINCORE => return mincore(process, first, second, third).await,
        _ => return Err(errno(user::ENOSYS)),
    };
    done.map(|()| 0).map_err(code_of)
}

fn code_of(error: Errno) -> u64 {
    errno(u64::from(error.code()))
}

/// Carries out a call whose number is from [`user::VM_ALLOCATE`] to [`user::VM_INHERIT`].
pub async fn as_mach(process: &Arc<Process>, number: u64, context: &UserContext) -> Result<u64, KernReturn> {
    let map = process.map();
    let [first, second, third, fourth, fifth, sixth] = context.call_arguments();
    match number {
        user::VM_ALLOCATE => map.allocate(placement(first), second).await,
        user::VM_DEALLOCATE => map.deallocate(first, second).await.map(|()| 0),
        user::VM_PROTECT => {
            let set_maximum = third == 1;
            if third > 1 {
                return Err(KernReturn::InvalidArgument);
            }
            map.protect(first, second, set_maximum, rights(fourth, set_maximum)?).await.map(|()| 0)
        }
        user::OBJECT_OPEN => open(process, first, second, [third, fourth]),
        user::OBJECT_CLOSE => {
            if process.remove_object(first) {
                Ok(0)
            } else {
                Err(KernReturn::InvalidArgument)
            }
        }
        user::VM_MAP => {
            let object = process.object(first).ok_or(KernReturn::InvalidArgument)?;
            let mode = match sixth {
                user::MAP_SHARED => MapMode::Shared,
                user::MAP_PRIVATE => MapMode::Private,
                _ => return Err(KernReturn::InvalidArgument),
            };
            let end = third.checked_add(fourth).ok_or(KernReturn::InvalidArgument)?;
            let pages = PageRange::new(third, end);
            map.map_object(placement(second), &object, pages, mode, rights(fifth, false)?).await
        }
        user::VM_MAP_WIRE => map.wire(first, second, user_wiring(third)?).await.map(|()| 0),
        user::VM_MAP_UNWIRE => map.unwire(first, second, user_wiring(third)?).await.map(|()| 0),
        user::VM_MSYNC => map.msync(first, second, SyncFlags::from_bits(bits(third)?)).await.map(|()| 0),
        user::VM_INHERIT => {
            let inheritance = match third {
                0 => Inheritance::Share,
                1 => Inheritance::Copy,
                2 => Inheritance::None,
                _ => return Err(KernReturn::InvalidArgument),
            };
            map.inherit(first, second, inheritance).await.map(|()| 0)
        }
        _ => Err(KernReturn::InvalidArgument),
    }
}

fn bits(word: u64) -> Result<u32, KernReturn> {
    u32::try_from(word).map_err(|_| KernReturn::InvalidArgument)
}

/// Returns the flags of a program's wiring, which is the user's: the other kind is the kernel's own, whose end a deallocation
/// would wait for, for ever.
fn user_wiring(word: u64) -> Result<WireFlags, KernReturn> {
    let flags = WireFlags::from_bits(bits(word)?);
    if flags.contains(WireFlags::USER) { Ok(flags) } else { Err(KernReturn::InvalidArgument) }
}

const fn placement(address: u64) -> Placement {
    if address == user::ANYWHERE { Placement::Anywhere } else { Placement::Fixed(address) }
}

/// Returns the rights that a word says. Memory that is writable is never executable; a maximum may say both.
fn rights(word: u64, is_maximum: bool) -> Result<Prot, KernReturn> {
    if word & !(user::PROT_READ | user::PROT_WRITE | user::PROT_EXECUTE) != 0 {
        return Err(KernReturn::InvalidArgument);
    }
    let mut prot = Prot::NONE;
    let pairs = [(user::PROT_READ, Prot::READ), (user::PROT_WRITE, Prot::WRITE), (user::PROT_EXECUTE, Prot::EXECUTE)];
    for (bit, right) in pairs {
        if word & bit != 0 {
            prot = prot | right;
        }
    }
    let runs_what_it_writes = prot.contains(Prot::WRITE) && prot.contains(Prot::EXECUTE);
    if runs_what_it_writes && !is_maximum { Err(KernReturn::ProtectionFailure) } else { Ok(prot) }
}

fn open(process: &Process, kind: u64, pages: u64, name: [u64; 2]) -> Result<u64, KernReturn> {
    let vm = process.map().vm();
    let object = match kind {
        user::OBJECT_ANONYMOUS if name == [0, 0] && pages > 0 => vm.anonymous_object(pages),
        user::OBJECT_STORE | user::OBJECT_EXCLUSIVE => {
            let name = StoreName::from_words(name).map_err(|_| KernReturn::InvalidArgument)?;
            let kind = if kind == user::OBJECT_STORE { StoreKind::Store } else { StoreKind::Exclusive };
            vm.store_object(name.as_str(), pages, kind)?
        }
        _ => return Err(KernReturn::InvalidArgument),
    };
    process.add_object(object).map_err(|_| KernReturn::ResourceShortage)
}

async fn mincore(process: &Arc<Process>, address: u64, size: u64, to: u64) -> Answer {
    /// Bytes of memory that are looked at at a time: what is found takes room, and others want their turn.
    const PART: u64 = 1024 * PAGE_SIZE;
    let end = address.checked_add(size).filter(|end| *end <= USER_END).ok_or(errno(user::ENOMEM))?;
    let (mut at, mut to) = (address, to);
    loop {
        let part_end = (at - at % PAGE_SIZE).saturating_add(PART).min(end);
        let rows = process.map().mincore(at, part_end - at).await.map_err(code_of)?;
        let mut bytes = Vec::new();
        for (pages, value) in rows {
            let count = usize::try_from(pages.len()).unwrap_or(0);
            bytes.resize(bytes.len().saturating_add(count), value.to_le_bytes()[0]);
        }
        process.copy_out(to, &bytes).await.map_err(|_| errno(user::EFAULT))?;
        (at, to) = (part_end, to.saturating_add(bytes.len() as u64));
        if at >= end {
            return Ok(0);
        }
    }
}
