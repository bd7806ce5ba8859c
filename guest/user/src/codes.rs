//! What calls answer, in the field's words.

use core::fmt;

use wirevm_abi::user;

/// A code of Mach's `kern_return_t` that is not success (XNU `osfmk/mach/kern_return.h`; `OUT_OF_BOUNDS` and `RESTART` are FreeBSD's).
///
/// Any code that a call may answer can be held, also one that is unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernReturn(u64);

/// An `errno` of Linux on x86-64. Any code that a call may answer can be held, also one that is unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(u64);

impl KernReturn {
    /// The range is not (wholly) allocated, or does not permit the access.
    pub const INVALID_ADDRESS: Self = Self(1);
    /// The protection asked for exceeds what the range permits.
    pub const PROTECTION_FAILURE: Self = Self(2);
    /// No room in the address space.
    pub const NO_SPACE: Self = Self(3);
    /// An argument is malformed.
    pub const INVALID_ARGUMENT: Self = Self(4);
    /// The operation failed for a reason of its backing store.
    pub const FAILURE: Self = Self(5);
    /// A limit or quota is reached, or memory is short.
    pub const RESOURCE_SHORTAGE: Self = Self(6);
    /// A memory manager could not supply a page.
    pub const MEMORY_FAILURE: Self = Self(9);
    /// A memory manager reported an error for a page.
    pub const MEMORY_ERROR: Self = Self(10);
    /// The operation was interrupted.
    pub const ABORTED: Self = Self(14);
    /// The task does not exist.
    pub const INVALID_TASK: Self = Self(16);
    /// The page lies past the end of its object, or its pager failed to read it.
    pub const OUT_OF_BOUNDS: Self = Self(0x1009);
    /// The caller must look again.
    pub const RESTART: Self = Self(0x100a);

    /// Turns a call's answer into a result.
    ///
    /// # Errors
    /// Whatever the code is, unless it is success.
    pub const fn check(code: u64) -> Result<(), Self> {
        if code == user::KERN_SUCCESS { Ok(()) } else { Err(Self(code)) }
    }

    /// Returns the code as the call answered it.
    #[must_use]
    pub const fn code(self) -> u64 {
        self.0
    }
}

impl Errno {
    /// Not permitted.
    pub const EPERM: Self = Self(user::ERRNO + 1);
    /// No such thread.
    pub const ESRCH: Self = Self(user::ERRNO + user::ESRCH);
    /// The data could not be written.
    pub const EIO: Self = Self(user::ERRNO + 5);
    /// No such child.
    pub const ECHILD: Self = Self(user::ERRNO + user::ECHILD);
    /// Not now.
    pub const EAGAIN: Self = Self(user::ERRNO + user::EAGAIN);
    /// Not allocated, or a limit is reached.
    pub const ENOMEM: Self = Self(user::ERRNO + user::ENOMEM);
    /// A bad address.
    pub const EFAULT: Self = Self(user::ERRNO + user::EFAULT);
    /// The pages are locked.
    pub const EBUSY: Self = Self(user::ERRNO + 16);
    /// A malformed argument.
    pub const EINVAL: Self = Self(user::ERRNO + user::EINVAL);
    /// No such call.
    pub const ENOSYS: Self = Self(user::ERRNO + user::ENOSYS);
    /// It took too long.
    pub const ETIMEDOUT: Self = Self(user::ERRNO + user::ETIMEDOUT);

    /// Turns a call's answer into a result.
    ///
    /// # Errors
    /// Whatever the code is, unless it is success.
    pub const fn check(code: u64) -> Result<(), Self> {
        if code == user::KERN_SUCCESS { Ok(()) } else { Err(Self(code)) }
    }

    /// Returns the code as the call answered it, [`user::ERRNO`] included.
    #[must_use]
    pub const fn code(self) -> u64 {
        self.0
    }
}

/// Returns the name of a code.
const fn name(code: u64) -> Option<&'static str> {
    Some(match code {
        0 => "KERN_SUCCESS",
        1 => "KERN_INVALID_ADDRESS",
        2 => "KERN_PROTECTION_FAILURE",
        3 => "KERN_NO_SPACE",
        4 => "KERN_INVALID_ARGUMENT",
        5 => "KERN_FAILURE",
        6 => "KERN_RESOURCE_SHORTAGE",
        9 => "KERN_MEMORY_FAILURE",
        10 => "KERN_MEMORY_ERROR",
        14 => "KERN_ABORTED",
        16 => "KERN_INVALID_TASK",
        0x1009 => "KERN_OUT_OF_BOUNDS",
        0x100a => "KERN_RESTART",
        _ => match code.wrapping_sub(user::ERRNO) {
            1 => "EPERM",
            user::ESRCH => "ESRCH",
            5 => "EIO",
            user::ECHILD => "ECHILD",
            user::EAGAIN => "EAGAIN",
            user::ENOMEM => "ENOMEM",
            user::EFAULT => "EFAULT",
            16 => "EBUSY",
            user::EINVAL => "EINVAL",
            user::ENOSYS => "ENOSYS",
            user::ETIMEDOUT => "ETIMEDOUT",
            _ => return None,
        },
    })
}

fn show(code: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match name(code) {
        Some(name) => f.pad(name),
        None => write!(f, "code {code:#x}"),
    }
}

impl fmt::Display for KernReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)
    }
}

impl core::error::Error for KernReturn {}
impl core::error::Error for Errno {}

#[cfg(test)]
mod test {
    use alloc::string::ToString;

    use super::{Errno, KernReturn};

    #[test]
    fn codes_have_the_names_of_the_field() {
        assert_eq!(KernReturn::check(0), Ok(()));
        assert_eq!(KernReturn::check(1).expect_err("an error").to_string(), "KERN_INVALID_ADDRESS");
        assert_eq!(Errno::check(0x1_0000 + 12).expect_err("an error"), Errno::ENOMEM);
        assert_eq!(Errno::ENOMEM.to_string(), "ENOMEM");
        // A call that there is not answers an errno, whatever it would have answered.
        assert_eq!(KernReturn::check(Errno::ENOSYS.code()).expect_err("an error").to_string(), "ENOSYS");
        assert_eq!(KernReturn::check(77).expect_err("an error").to_string(), "code 0x4d");
    }
}
