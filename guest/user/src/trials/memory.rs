//! What children get, and what may be permitted.

use core::sync::atomic::Ordering;

use wirevm_user::process::Ended;
use wirevm_user::vm::{self, Inherit};
use wirevm_user::{Errno, KernReturn, PAGE_BYTES, Prot, Region, posix};

use super::{Trial, ensure, in_a_child, said};

const PAGE: u64 = PAGE_BYTES as u64;

/// A child shares a page, has a copy of one, and lacks one.
pub fn inheriting() -> Trial {
    let region = said("vm_allocate", Region::allocate(3 * PAGE_BYTES))?;
    let word = |page: usize| region.word(page * PAGE_BYTES);
    for (page, how) in [(0, Inherit::Share), (1, Inherit::Copy), (2, Inherit::None)] {
        word(page).store(1, Ordering::Relaxed);
        // SAFETY: the child looks at no page that it lacks; the page that is shared is reached by atomics only.
        said("vm_inherit", unsafe { vm::inherit(region.address() + page as u64 * PAGE, PAGE, how) })?;
    }
    let ended = in_a_child(|| {
        if posix::mincore(region.address() + 2 * PAGE, PAGE, &mut [0]) != Err(Errno::ENOMEM) {
            return 1;
        }
        [0, 1].iter().fold(0, |code, page| if word(*page).swap(2, Ordering::Relaxed) == 1 { code } else { 2 })
    })?;
    ensure!(ended == Ended::Exit(0), "the child: {ended:?}");
    let found = [0, 1, 2].map(|page| word(page).load(Ordering::Relaxed));
    ensure!(found == [2, 1, 1], "the child has stored 2 to the first two pages, of which these are left: {found:?}");
    let ended = in_a_child(|| word(2).load(Ordering::Relaxed).to_le_bytes()[0])?;
    ensure!(ended == Ended::Killed, "a child that looks at what it lacks: {ended:?}");
    Ok(())
}

/// What a range may be at most only ever goes down, and takes what it is with it.
pub fn lowering_the_maximum() -> Trial {
    let region = said("vm_allocate", Region::allocate(PAGE_BYTES))?;
    region.word(0).store(7, Ordering::Relaxed);
    // SAFETY: nobody but the region reaches the page, and this function stores there no more.
    let protect = |is_maximum, prot| unsafe { vm::protect(region.address(), PAGE, is_maximum, prot) };
    said("the maximum", protect(true, Prot::READ))?;
    for is_maximum in [false, true] {
        let raised = protect(is_maximum, Prot::READ_WRITE);
        ensure!(raised == Err(KernReturn::PROTECTION_FAILURE), "more than the maximum ({is_maximum}): {raised:?}");
    }
    let ended = in_a_child(|| {
        region.word(0).store(8, Ordering::Relaxed);
        0
    })?;
    ensure!(ended == Ended::Killed, "a child that stores where it may only load: {ended:?}");
    for prot in [Prot::NONE, Prot::READ] {
        said("below the maximum", protect(false, prot))?;
    }
    let found = region.word(0).load(Ordering::Relaxed);
    ensure!(found == 7, "{found} is what the page holds");
    Ok(())
}

/// Nothing is writable and executable at the same time.
pub fn executing_what_is_written() -> Trial {
    let region = said("vm_allocate", Region::allocate(PAGE_BYTES))?;
    region.word(0).store(0xc3, Ordering::Relaxed);
    let protected = region.protect(0, PAGE_BYTES, Prot::READ_WRITE | Prot::EXECUTE);
    ensure!(protected == Err(KernReturn::PROTECTION_FAILURE), "writable and executable: {protected:?}");
    said("executable", region.protect(0, PAGE_BYTES, Prot::READ_EXECUTE))?;
    // SAFETY: what was written there is a return.
    unsafe { core::arch::asm!("call {}", in(reg) region.as_ptr(), clobber_abi("C")) }
    let ended = in_a_child(|| {
        region.word(0).store(0, Ordering::Relaxed);
        0
    })?;
    ensure!(ended == Ended::Killed, "a child that stores to code: {ended:?}");
    Ok(())
}
