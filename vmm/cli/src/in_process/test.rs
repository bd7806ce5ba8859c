//! The two hosts without KVM against one another: the same requests and orders come to the same on both.

use std::num::NonZero;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use wirevm_agent::{Command, MAIN_TASK, Pattern, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::pin::PinKind;
use wirevm_devices::ramfile::RamFile;
use wirevm_map::PAGE_SIZE;
use wirevm_vmm::StorageErrorPolicy;

use super::Limits;
use crate::fake_host::{FakeConfig, FakeTarget};
use crate::hosted::{HostedConfig, HostedTarget};
use crate::script::target::{HostErrno, HostFault, StorageErrno, StorageFault, Target, WitnessQuery};

/// Pages of the one range that everything is done to.
const PAGES: u64 = 12;
/// Pages that may be wired: not all of them.
const QUOTA: u64 = 10;

/// Something to do to pages of the range, in the first task or in the youngest child.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { first: u64, pages: u64, byte: u8 },
    Expect { first: u64, pages: u64, byte: u8 },
    Wire { first: u64, pages: u64, flags: u64 },
    Unwire { first: u64, pages: u64, flags: u64 },
    Sync { first: u64, pages: u64, flags: u64 },
    Deallocate { first: u64, pages: u64 },
    Fork,
    EndTask,
    Fail(HostFault),
    FailStorage(StorageFault),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..PAGES, 1..=PAGES).prop_map(|(first, pages)| (first, pages.min(PAGES - first)));
    let errno = prop_oneof![Just(HostErrno::NoMem), Just(HostErrno::Again), Just(HostErrno::Io)];
    let fault = (1..6_u64, errno)
        .prop_filter_map("from 1 on", |(nth, errno)| Some(Step::Fail(HostFault { nth: NonZero::new(nth)?, errno })));
    let errno = prop_oneof![Just(StorageErrno::Io), Just(StorageErrno::NoSpace), Just(StorageErrno::Quota)];
    let storage_fault = (1..4_u64, errno).prop_filter_map("from 1 on", |(nth, errno)| {
        Some(Step::FailStorage(StorageFault { nth: NonZero::new(nth)?, errno }))
    });
    prop_oneof![
        4 => (range(), 0..3_u8).prop_map(|((first, pages), byte)| Step::Write { first, pages, byte }),
        2 => (range(), 0..3_u8).prop_map(|((first, pages), byte)| Step::Expect { first, pages, byte }),
        4 => (range(), 0..4_u64).prop_map(|((first, pages), flags)| Step::Wire { first, pages, flags }),
        3 => (range(), 0..4_u64).prop_map(|((first, pages), flags)| Step::Unwire { first, pages, flags }),
        3 => (range(), 1..3_u64).prop_map(|((first, pages), flags)| Step::Sync { first, pages, flags }),
        1 => range().prop_map(|(first, pages)| Step::Deallocate { first, pages }),
        1 => Just(Step::Fork),
        1 => Just(Step::EndTask),
        3 => fault,
        1 => storage_fault,
    ]
}

/// One host and the tasks that it was asked for.
struct Side<T> {
    target: T,
    tasks: Vec<u64>,
    address: u64,
    has_ordered: bool,
}

impl<T: Target> Side<T> {
    fn new(target: T) -> Self {
        let mut side = Self { target, tasks: vec![MAIN_TASK], address: 0, has_ordered: false };
        match side.call(MAIN_TASK, Command::Allocate { address: None, size: PAGES * PAGE_SIZE }) {
            Reply::Address(address) => side.address = address,
            other => panic!("{other:?}"),
        }
        side
    }

    fn call(&mut self, task: u64, command: Command) -> Reply {
        self.target.call(&Request { task, thread: 0, command }).expect("a reply")
    }

    /// Carries a step out in the first task or the youngest; returns what came of it.
    fn step(&mut self, step: Step, in_first: bool) -> String {
        let youngest = self.tasks.last().copied().unwrap_or(MAIN_TASK);
        let task = if in_first { MAIN_TASK } else { youngest };
        let at = |page: u64| self.address + page * PAGE_SIZE;
        let command = match step {
            Step::Write { first, pages, byte } => {
                Command::Write { address: at(first), size: pages * PAGE_SIZE, pattern: Pattern::byte(byte) }
            }
            Step::Expect { first, pages, byte } => {
                Command::Expect { address: at(first), size: pages * PAGE_SIZE, pattern: Pattern::byte(byte) }
            }
            Step::Wire { first, pages, flags } => Command::Wire { start: at(first), end: at(first + pages), flags },
            Step::Unwire { first, pages, flags } => Command::Unwire { start: at(first), end: at(first + pages), flags },
            Step::Sync { first, pages, flags } => Command::Sync { address: at(first), size: pages * PAGE_SIZE, flags },
            Step::Deallocate { first, pages } => Command::Deallocate { address: at(first), size: pages * PAGE_SIZE },
            Step::Fork => Command::Fork,
            Step::EndTask if youngest == MAIN_TASK => return "no child".to_owned(),
            Step::EndTask => Command::EndTask,
            // One order a host: how many runs a repair has is nobody's promise.
            Step::FailStorage(_) if std::mem::replace(&mut self.has_ordered, true) => {
                return "ordered before".to_owned();
            }
            Step::FailStorage(fault) => {
                return format!("{:?}", self.target.fail_storage(fault).map_err(|error| error.exit));
            }
            Step::Fail(fault) => return format!("{:?}", self.target.fail_host(fault).map_err(|error| error.exit)),
        };
        let task = if command == Command::EndTask { youngest } else { task };
        let reply = self.call(task, command);
        match (&reply, command) {
            (Reply::Number(child), Command::Fork) => self.tasks.push(*child),
            (_, Command::EndTask) => drop(self.tasks.pop()),
            _ => {}
        }
        // Nothing is compared while storage is still at work.
        let answered = self.call(MAIN_TASK, Command::Completions);
        let checked = self.call(MAIN_TASK, Command::Check);
        let locked = self.target.witness(WitnessQuery::Locked).map_err(|error| error.exit);
        format!("{reply:?}, {answered:?} answered, checked {checked:?}, locked {locked:?}")
    }
}

/// Carries steps out on both hosts, over RAM that syncs reach or not.
fn sides(steps: &[(Step, bool)], durable: bool) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let ram = match durable {
        true => RamFile::create(&folder.path().join("ram"), 2 << 20, Durability::Shared).expect("a file on a disk"),
        false => RamFile::memfd(2 << 20).expect("a memfd"),
    };
    let (limits, on_storage_error) = (Limits::default(), StorageErrorPolicy::Latch);
    let pin = PinKind::best(2 << 20).expect("/proc");
    let config = HostedConfig { wire_quota_pages: QUOTA, pin, stores: None, on_storage_error, limits };
    let mut hosted = Side::new(HostedTarget::start(config, ram).expect("services"));
    let config = FakeConfig {
        ram_pages: 512,
        wire_quota_pages: QUOTA,
        durable,
        store_quota_pages: None,
        on_storage_error,
        limits,
    };
    let mut fake = Side::new(FakeTarget::start(config).expect("a thread"));
    for (place, (step, in_first)) in steps.iter().enumerate() {
        let (real, model) = (hosted.step(*step, *in_first), fake.step(*step, *in_first));
        prop_assert_eq!(&real, &model, "step {} of {:?}", place, steps);
        prop_assert_eq!(real.contains("Violation"), false, "step {} of {:?}: {}", place, steps, real);
    }
    let ends = (hosted.target.finish(), fake.target.finish());
    prop_assert_eq!(ends.0.map_err(|error| error.exit), ends.1.map_err(|error| error.exit));
    Ok(())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 32, ..Default::default() })]
    #[test]
    fn requests_and_orders_come_to_the_same(
        steps in prop::collection::vec((step(), any::<bool>()), 1..40),
        durable in any::<bool>(),
    ) {
        sides(&steps, durable)?;
    }
}
