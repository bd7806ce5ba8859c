//! Getting a vCPU out of `KVM_RUN` from another thread.
#![expect(unsafe_code, reason = "a flag in memory shared with the kernel, and a signal to one thread")]
// UNSAFETY: the flag's address is valid while `Kicker` holds it: the vCPU's thread takes it away before its mapping goes.

use std::io;
use std::os::raw::{c_int, c_void};
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

/// What is needed to reach a running vCPU.
struct Target {
    /// The `immediate_exit` byte of the vCPU's `kvm_run`.
    immediate_exit: *const AtomicU8,
    thread: libc::pthread_t,
}

// SAFETY: the pointer is to memory shared with the kernel, written as an atomic; a thread id may be used anywhere.
unsafe impl Send for Target {}

/// Kicks one vCPU.
#[derive(Default)]
pub struct Kicker(Mutex<Option<Target>>);

impl std::fmt::Debug for Kicker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kicker").finish_non_exhaustive()
    }
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // Interrupting KVM_RUN is all a kick is for.
}

/// Installs the handler that makes a kick interrupt `KVM_RUN` instead of ending the process.
///
/// # Errors
/// When the kernel refuses the handler.
pub fn install_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Makes the vCPU reachable while it lives; its thread holds this.
#[derive(Debug)]
pub struct Reachable<'a>(&'a Kicker);

impl Drop for Reachable<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Kicker {
    /// Makes the calling thread's vCPU reachable until the result is dropped, which must be before the vCPU is.
    pub fn attach(&self, vcpu: &mut VcpuFd) -> Reachable<'_> {
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>().cast_const();
        // A mask that the thread inherited would keep every kick out.
        if let Err(error) = unblock_signal(SIGRTMIN()) {
            log::error!("the signal that kicks a vCPU stays blocked: {error}");
        }
        // SAFETY: returns the calling thread's id.
        let thread = unsafe { libc::pthread_self() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Target { immediate_exit, thread });
        Reachable(self)
    }

    /// Makes the current or the next `KVM_RUN` return, if the vCPU still lives. It stays out until its thread clears
    /// `immediate_exit`.
    pub fn kick(&self) {
        let target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = &*target {
            // SAFETY: the mapping lives while `target` is there; the kernel reads the byte at any time, so it is
            // written as an atomic.
            unsafe { (*target.immediate_exit).store(1, Ordering::Release) };
            // The flag must be there when the signal is.
            fence(Ordering::SeqCst);
            // SAFETY: the thread lives while `target` is there: it takes it away, under the lock held here, first.
            let result = unsafe { libc::pthread_kill(target.thread, SIGRTMIN()) };
            if result != 0 {
                log::error!("a vCPU cannot be kicked: {}", io::Error::from_raw_os_error(result));
            }
        }
    }
}
