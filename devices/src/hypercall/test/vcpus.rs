//! Several vCPUs: starting them, and what one may ask while another waits for the host.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use wirevm_abi::call::CallEntry;
use wirevm_abi::request::VcpuStart;
use wirevm_abi::{Status, VERSION, op};

use super::rig::{QUOTA, Rig, exit, hello, page, run, start, sync, unwire, wire};
use crate::bus::{PortDevice, Signal};
use crate::hypercall::{Hypercall, HypercallConfig};
use crate::pin::scripted::Asked;

const TOP_OF_LOWER: u64 = 0x7fff_ffff_ffff;
const BOTTOM_OF_UPPER: u64 = 0xffff_8000_0000_0000;

fn start_vcpu(vcpu: u64, entry: u64, argument: u64) -> CallEntry {
    CallEntry::new(op::START_VCPU, 0, [vcpu, entry, argument])
}

#[test]
fn vcpu_is_started_once_where_and_with_what_the_guest_says() {
    let rig = Rig::greeted();
    let (ok, invalid) = (Status::OK, Status::INVALID_ARGUMENT);
    let batch = [
        (start_vcpu(0, 0x1000, 0), invalid),
        (start_vcpu(2, 0x1000, 0), invalid),
        (start_vcpu(16, 0x1000, 0), invalid),
        (start_vcpu(1 << 32 | 1, 0x1000, 0), invalid),
        (start_vcpu(u64::MAX, 0x1000, 0), invalid),
        (start_vcpu(1, TOP_OF_LOWER + 1, 0), invalid),
        (start_vcpu(1, BOTTOM_OF_UPPER - 1, 0), invalid),
        (CallEntry::new(op::START_VCPU, 1, [1, 0x1000, 0]), invalid),
        (start_vcpu(1, BOTTOM_OF_UPPER, u64::MAX), ok),
        (start_vcpu(1, BOTTOM_OF_UPPER, u64::MAX), Status::BUSY),
        (start_vcpu(1, TOP_OF_LOWER, 0), Status::BUSY),
        (start_vcpu(1, TOP_OF_LOWER + 1, 0), invalid),
        (wire(1, 1), ok),
    ];
    let (entries, expected): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    assert_eq!(rig.call(&entries), (Signal::None, expected));
    let begun = VcpuStart { vcpu: 1, entry: BOTTOM_OF_UPPER, argument: u64::MAX };
    assert_eq!(rig.vcpus.started(), [begun]);
}

#[test]
fn vcpu_is_not_started_before_hello_or_behind_an_exit() {
    let rig = Rig::volatile();
    let asked = page(&[start_vcpu(1, 0x1000, 0)]);
    assert_eq!(rig.ring(0, asked), (Signal::None, asked));
    assert_eq!(rig.last(0), Status::INVALID_ADDRESS);
    let (_, statuses) = rig.call(&[hello(VERSION + 1), start_vcpu(1, 0x1000, 0), hello(VERSION), exit(0)]);
    assert_eq!(statuses, [Status::UNSUPPORTED, Status::INVALID_ADDRESS, Status::OK, Status::OK]);
    let (_, statuses) = rig.call(&[exit(0), start_vcpu(1, 0x1000, 0)]);
    assert_eq!(statuses, [Status::OK, Status::NOT_DONE]);
    assert_eq!(rig.vcpus.started(), []);
}

#[test]
fn machine_without_further_vcpus_has_none_to_start() {
    let rig = Rig::greeted();
    let alone = Hypercall::new(HypercallConfig { vcpus: None, ..rig.device.config.clone() });
    let rig = Rig { device: alone, ..rig };
    let (_, statuses) = rig.call(&[hello(VERSION), start_vcpu(1, 0x1000, 0), start_vcpu(15, 0x1000, 0)]);
    assert_eq!(statuses, [Status::OK, Status::INVALID_ARGUMENT, Status::INVALID_ARGUMENT]);
}

/// What vCPU 1 asks while vCPU 0 waits for the host at page 3, and the answers.
fn meanwhile() -> Vec<(CallEntry, Status)> {
    vec![
        (hello(VERSION), Status::OK),
        (CallEntry::new(op::STAT, 0, [wirevm_abi::stat::WIRED_PAGES, 0, 0]), Status::OK),
        (start(20, 1), Status::PENDING),
        (sync(21, 1), Status::OK),
        (CallEntry::new(op::OPEN_STORE, 0, [0x61, 0, 1]), Status::UNSUPPORTED),
        (CallEntry::new(op::DISCARD, 0, [40, 1, 0]), Status::UNSUPPORTED),
        (start_vcpu(1, 0x1000, 0), Status::OK),
        (wire(8, 2), Status::OK),
        (wire(0, 2), Status::OK),
        (unwire(8, 2), Status::OK),
        (wire(30, QUOTA), Status::QUOTA),
    ]
}

#[test]
fn vcpu_is_answered_while_another_waits_for_a_slow_lock_or_unlock() {
    for is_lock in [true, false] {
        let rig = Rig::greeted();
        if !is_lock {
            assert_eq!(rig.call(&[wire(2, 4)]).1, [Status::OK]);
            rig.host.take_asked();
        }
        rig.host.with(|script| script.slow.insert(3));
        rig.memory.put(0, page(&[if is_lock { wire(2, 4) } else { unwire(2, 4) }]));
        let (answered, answer) = channel();
        thread::scope(|scope| {
            let slow = scope.spawn(|| rig.device.write(0, 0, &[0]));
            let asked = if is_lock { Asked::Lock(run(2, 6)) } else { Asked::Unlock(run(2, 6)) };
            rig.host.wait_until(|script| script.asked.contains(&asked));
            let (entries, expected): (Vec<_>, Vec<_>) = meanwhile().into_iter().unzip();
            rig.memory.put(1, page(&entries));
            let rig = &rig;
            scope.spawn(move || answered.send(rig.device.write(1, 0, &[0])));
            let signal = answer.recv_timeout(Duration::from_secs(10));
            let is_waiting = !slow.is_finished();
            // The host goes on whatever came of it, or nothing would end.
            rig.host.with(|script| script.slow.clear());
            assert_eq!(signal, Ok(Signal::None), "vCPU 1 waits for vCPU 0");
            assert!(is_waiting, "vCPU 0 was to wait");
            let statuses: Vec<_> = rig.memory.get(1).entries[..expected.len()].iter().map(CallEntry::status).collect();
            assert_eq!(statuses, expected);
            assert_eq!(slow.join().expect("a thread"), Signal::None);
        });
        assert_eq!(rig.memory.get(0).entries[0].status(), Status::OK);
        let held: Vec<u64> = rig.host.with(|script| script.locked.iter().copied().collect());
        assert_eq!(held, if is_lock { vec![0, 1, 2, 3, 4, 5] } else { vec![0, 1] });
    }
}
