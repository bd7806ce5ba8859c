//! The KVM device.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use super::{Check, Probes, System};
use crate::exit_code::ExitCode;

const NAME: &str = "KVM";
const DEVICE: &str = "/dev/kvm";

pub(super) fn device(system: &System, probes: &Probes<'_>) -> Check {
    match OpenOptions::new().read(true).write(true).open(system.path(DEVICE)) {
        Err(error) => closed(error.kind(), &error.to_string()),
        Ok(_) => match (probes.kvm_usable)() {
            Ok(found) => Check::ok(NAME, format!("{DEVICE} opens, {found}")),
            Err(reason) => fail(reason, "use a host whose KVM has it"),
        },
    }
}

/// Says what to do about a device that does not open.
fn closed(kind: ErrorKind, reason: &str) -> Check {
    let (found, fix) = match kind {
        ErrorKind::NotFound => (
            format!("{DEVICE} does not exist"),
            "load the module (modprobe kvm_intel or kvm_amd) after enabling virtualization in the firmware, or give \
             the container the device (--device /dev/kvm)",
        ),
        ErrorKind::PermissionDenied => (
            format!("{DEVICE} may not be opened by this user"),
            "setfacl -m u:$USER:rw /dev/kvm as root, or join its group: usermod -aG kvm $USER, then log in again",
        ),
        _ => (format!("{DEVICE} does not open: {reason}"), "look at the kernel's log (dmesg)"),
    };
    fail(found, fix)
}

/// A failure with its remedy, and with what goes without.
fn fail(found: String, fix: &str) -> Check {
    Check::fail(NAME, ExitCode::Kvm, found, format!("{fix}; without KVM, --on hosted carries scripts out"))
}

#[cfg(test)]
mod test {
    use super::closed;
    use std::io::ErrorKind;

    #[test]
    fn device_that_does_not_open_comes_with_its_remedy() {
        let fix = |kind| closed(kind, "reason").fix.unwrap_or_default();
        assert!(fix(ErrorKind::NotFound).contains("modprobe"));
        assert!(fix(ErrorKind::PermissionDenied).contains("setfacl -m u:$USER:rw /dev/kvm"));
        assert!(fix(ErrorKind::PermissionDenied).contains("usermod -aG kvm"));
        for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::Other] {
            assert!(fix(kind).ends_with("without KVM, --on hosted carries scripts out"));
        }
        assert_eq!(closed(ErrorKind::Other, "reason").found, "/dev/kvm does not open: reason");
    }
}
