//! The same for the pages of a store: a file of its own, which holds what was synced and nothing else of the guest.

use std::sync::OnceLock;

use wirevm_tests::{Case, Need};

use super::trace::{HOSTED_STORE, KVM_STORE, Trace, Way};
use super::{disk_error, kill, power_cut};

const KILL_ON_KVM: &[Need] = &[Need::Stores, Need::Kvm, Need::Durable];
const KILL_HOSTED: &[Need] = &[Need::Stores, Need::Durable];
const HOSTED: &[Need] = &[Need::Stores, Need::Root, Need::Mounts, Need::Fuse, Need::LoopDevices, Need::Ext4Programs];
const ON_KVM: &[Need] =
    &[Need::Stores, Need::Kvm, Need::Root, Need::Mounts, Need::Fuse, Need::LoopDevices, Need::Ext4Programs];

/// Returns the recordings of a way, made once for all cases.
fn traces(way: Way) -> &'static [Trace] {
    static KVM: OnceLock<Vec<Trace>> = OnceLock::new();
    static IN_PROCESS: OnceLock<Vec<Trace>> = OnceLock::new();
    let traces = if way.host == "kvm" { &KVM } else { &IN_PROCESS };
    traces.get_or_init(|| power_cut::record(way))
}

pub const CASES: &[Case] = &[
    ("store_process_kill_behind_an_answer_keeps_what_was_acknowledged", KILL_ON_KVM, || {
        kill::behind_answers(KVM_STORE);
    }),
    ("store_process_kill_at_any_moment_keeps_what_was_acknowledged", KILL_ON_KVM, || kill::at_any_moment(KVM_STORE)),
    ("store_process_kill_at_any_moment_keeps_what_was_acknowledged_on_hosted", KILL_HOSTED, || {
        kill::at_any_moment(HOSTED_STORE);
    }),
    ("store_host_crash_keeps_what_was_acknowledged", ON_KVM, || power_cut::host_crash(traces(KVM_STORE))),
    ("store_power_cut_keeps_what_was_acknowledged", ON_KVM, || power_cut::power_cuts(traces(KVM_STORE))),
    ("store_power_cut_keeps_what_was_acknowledged_on_hosted", HOSTED, || power_cut::power_cuts(traces(HOSTED_STORE))),
    ("store_power_cut_then_mounted_keeps_file_and_what_was_acknowledged", ON_KVM, || {
        power_cut::recovered(KVM_STORE, traces(KVM_STORE));
    }),
    ("store_early_acknowledgements_and_lying_flushes_are_found", ON_KVM, || power_cut::controls(traces(KVM_STORE))),
    ("store_disk_error_is_told_and_keeps_what_was_acknowledged", ON_KVM, || disk_error::store(KVM_STORE)),
    ("store_disk_error_is_told_and_keeps_what_was_acknowledged_on_hosted", HOSTED, || disk_error::store(HOSTED_STORE)),
];
