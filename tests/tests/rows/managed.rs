//! Rows of synchronisation and of managers that no script can show: what a manager would have to do wrong, what nobody sees
//! before it is over, and tasks that are not there.

use std::sync::Arc;

use wirevm_agent::{AccessFault, Agent, Answer, Command, Platform, Reply, Request};
use wirevm_map::fake::{Executor, FakeConfig, FakeMachine, FakePmap, FakePorts, block_on};
use wirevm_map::{
    KernReturn, ManagerPort, MapMode, Message, ObjectHandle, OutOfFrames, PAGE_SIZE, PageRange, Placement, Prot,
    ShouldReturn, Supply, SyncFlags, VmMap,
};

use super::RowCase;
use super::alone::at;

const SYNC: SyncFlags = SyncFlags::SYNCHRONOUS;

/// An object of 8 pages, mapped at pages 0 to 7, and the port of its manager, which nobody serves.
struct Rig {
    machine: FakeMachine,
    port: Arc<ManagerPort>,
    object: ObjectHandle<FakePorts>,
}

impl Rig {
    fn new() -> Self {
        let machine = FakeMachine::new(FakeConfig::default());
        let port = machine.vm.manager_port();
        let object = machine.vm.managed_object(&port, 8);
        let pages = PageRange::new(0, 8);
        let mapped = machine.map.map_object(Placement::Fixed(at(0)), &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(at(0)));
        Self { machine, port, object }
    }

    /// Makes pages of zeros resident.
    fn bring(&self, pages: std::ops::Range<u64>) {
        for page in pages {
            let mut executor = Executor::new(1);
            let fault = executor.spawn(self.machine.map.fault(at(page), Prot::READ));
            executor.run_until_stalled();
            assert_eq!(self.object.data_unavailable(PageRange::new(page, page + 1)), Ok(()));
            assert_eq!((executor.run(), fault.take()), (Ok(()), Some(Ok(()))));
        }
        self.messages();
    }

    fn write(&self, page: u64) {
        assert_eq!(block_on(self.machine.write(at(page), &[1])), Ok(()));
    }

    fn messages(&self) -> String {
        let mut words = Vec::new();
        while let Some((_, message)) = self.port.receive() {
            words.push(message.to_string());
            if let Message::DataReturn { frames, .. } = message {
                use wirevm_map::Frames;
                frames.into_iter().for_each(|run| self.machine.frames().free(run));
            }
        }
        words.join(" ")
    }

    fn msync(&self, flags: SyncFlags) -> Result<(), KernReturn> {
        block_on(self.machine.map.msync(at(0), 8 * PAGE_SIZE, flags))
    }
}

/// A machine whose tasks nobody gives any memory to.
struct Nothing;

impl Platform<FakePorts> for Nothing {
    fn new_pmap(&self) -> Result<FakePmap, OutOfFrames> {
        Ok(FakePmap::new())
    }

    fn store(&self, _: &VmMap<FakePorts>, _: u64, _: &[u8]) -> Result<(), AccessFault> {
        Err(AccessFault)
    }

    fn load(&self, _: &VmMap<FakePorts>, _: u64, _: &mut [u8]) -> Result<(), AccessFault> {
        Err(AccessFault)
    }

    fn compare(&self, _: &VmMap<FakePorts>, _: u64, _: &[u8]) -> Result<Option<u64>, AccessFault> {
        Err(AccessFault)
    }
}

pub const CASES: &[RowCase] = &[
    ("sync_of_a_task_that_is_not_there_is_invalid_task", &["S-01", "S-04", "S-10"], || {
        let vm = Arc::clone(&FakeMachine::default().vm);
        let main = VmMap::new(vm, PageRange::new(16, 4096), FakePmap::new());
        let agent = Agent::new(main, Nothing);
        for flags in [0, 2, 3] {
            for command in [
                Command::Sync { address: 0, size: 4096, flags },
                Command::Msync { address: 0, size: 4096, flags },
                Command::Sync { address: 0, size: 0, flags },
            ] {
                let mut words = Vec::new();
                Request::new(7, command).encode(&mut words);
                let Answer::Reply(reply) = agent.answer_now(&words) else { panic!("no reply") };
                assert_eq!(reply, Reply::Done(KernReturn::InvalidTask), "{command:?}");
            }
        }
        // GNU Mach would answer most calls with *invalid argument*; only both flags are one here.
        let mut words = Vec::new();
        Request::new(0, Command::Sync { address: 0, size: 4096, flags: 3 }).encode(&mut words);
        let Answer::Reply(reply) = agent.answer_now(&words) else { panic!("no reply") };
        assert_eq!(reply, Reply::Done(KernReturn::InvalidArgument));
    }),
    ("page_in_error_is_left_alone_by_a_clean_and_forgotten_by_a_flush", &["Q-05", "Q-06", "O-04"], || {
        for (flags, is_forgotten) in [(SyncFlags::NONE, false), (SYNC, false), (SyncFlags::INVALIDATE, true)] {
            let rig = Rig::new();
            {
                let mut executor = Executor::new(1);
                let _gives_up = executor.spawn(rig.machine.map.fault(at(2), Prot::READ));
                executor.run_until_stalled();
            }
            assert_eq!(rig.object.data_error(PageRange::new(2, 3), KernReturn::MemoryError), Ok(()));
            assert_eq!(rig.msync(flags), Ok(()));
            rig.messages();
            let mut executor = Executor::new(1);
            let fault = executor.spawn(rig.machine.map.fault(at(2), Prot::READ));
            executor.run_until_stalled();
            let asked_again = rig.messages() == "data_request[2,3)r";
            assert_eq!(asked_again, is_forgotten, "{flags:?}");
            assert_eq!(fault.take(), (!is_forgotten).then_some(Err(KernReturn::MemoryError)));
        }
    }),
    ("page_on_its_way_is_waited_for_before_it_is_looked_at", &["Q-07", "K-03"], || {
        let rig = Rig::new();
        rig.bring(0..2);
        rig.write(1);
        let mut executor = Executor::new(1);
        let first = executor.spawn(rig.machine.map.msync(at(1), PAGE_SIZE, SYNC));
        executor.run_until_stalled();
        let flush = executor.spawn(rig.machine.map.msync(at(0), 8 * PAGE_SIZE, SyncFlags::INVALIDATE));
        executor.run_until_stalled();
        assert!(!first.is_ready() && !flush.is_ready());
        assert_eq!(rig.object.synchronize_completed(PAGE_SIZE, PAGE_SIZE, Ok(())), Ok(()));
        assert_eq!((executor.run(), first.take(), flush.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
        assert_eq!(rig.machine.vm.resident_pages(), 0);
        rig.messages();
    }),
    ("supply_that_nobody_asked_for_is_refused_whole", &["O-03", "O-05", "Z-07"], || {
        let rig = Rig::new();
        let own = VmMap::new(Arc::clone(&rig.machine.vm), rig.machine.map.bounds(), FakePmap::new());
        assert_eq!(block_on(own.allocate(Placement::Fixed(at(0)), 8 * PAGE_SIZE)), Ok(at(0)));
        let supply = |start, end| {
            let pages = PageRange::new(start, end);
            block_on(rig.object.data_supply(pages, &own, at(start), Supply::default()))
        };
        assert_eq!(supply(0, 1), Err(KernReturn::InvalidArgument));
        let mut executor = Executor::new(1);
        let fault = executor.spawn(rig.machine.map.fault(at(0), Prot::READ));
        executor.run_until_stalled();
        assert_eq!(supply(0, 2), Err(KernReturn::InvalidArgument), "half of it was");
        assert_eq!(rig.object.data_unavailable(PageRange::new(0, 2)), Err(KernReturn::InvalidArgument));
        assert_eq!(
            rig.object.data_error(PageRange::new(1, 2), KernReturn::MemoryError),
            Err(KernReturn::InvalidArgument)
        );
        assert!(!fault.is_ready());
        assert_eq!(supply(0, 1), Ok(()));
        assert_eq!((executor.run(), fault.take()), (Ok(()), Some(Ok(()))));
        assert_eq!(supply(0, 1), Err(KernReturn::InvalidArgument), "present");
        drop(executor);
        assert_eq!(block_on(own.destroy()), ());
    }),
    ("what_a_manager_gets_wrong_is_an_error_for_the_manager_alone", &["Z-07", "K-06", "O-08"], || {
        let rig = Rig::new();
        rig.bring(0..1);
        rig.write(0);
        let mut executor = Executor::new(1);
        let sync = executor.spawn(rig.machine.map.msync(at(0), PAGE_SIZE, SYNC));
        executor.run_until_stalled();
        for (offset, length) in [(0, 0), (1, PAGE_SIZE), (0, PAGE_SIZE - 1), (PAGE_SIZE, PAGE_SIZE), (u64::MAX, 1)] {
            let answer = rig.object.synchronize_completed(offset, length, Ok(()));
            assert_eq!(answer, Err(KernReturn::InvalidArgument), "{offset} {length}");
        }
        executor.run_until_stalled();
        assert!(!sync.is_ready());
        assert_eq!(rig.object.synchronize_completed(0, PAGE_SIZE, Ok(())), Ok(()));
        assert_eq!((executor.run(), sync.take()), (Ok(()), Some(Ok(()))));
        assert_eq!(block_on(rig.object.kill()), Ok(()));
        let request = rig.object.lock_request(PageRange::new(0, 8), ShouldReturn::All, true, None);
        assert_eq!(block_on(request), Err(KernReturn::InvalidArgument), "nobody is behind it");
        rig.messages();
    }),
    ("holes_of_an_object_cost_nothing", &["Z-06", "Z-03", "H-06"], || {
        let machine = FakeMachine::new(FakeConfig { map_pages: PageRange::new(16, 1 << 34), ..FakeConfig::default() });
        let port = machine.vm.manager_port();
        let object = machine.vm.managed_object(&port, 1 << 32);
        let pages = PageRange::new(0, 1 << 32);
        let mapped = machine.map.map_object(Placement::Fixed(at(0)), &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(at(0)));
        for page in [1 << 31, 7] {
            let mut executor = Executor::new(1);
            let _write = executor.spawn(machine.map.fault(at(page), Prot::WRITE));
            executor.run_until_stalled();
            assert_eq!(object.data_unavailable(PageRange::new(page, page + 1)), Ok(()));
            assert_eq!(executor.run(), Ok(()));
            drop(executor);
            assert_eq!(block_on(machine.write(at(page), &[1])), Ok(()));
        }
        assert_eq!(object.dirty_ranges(), [PageRange::new(7, 8), PageRange::new(1 << 31, (1 << 31) + 1)]);
        let untouched = machine.map.msync(at(1 << 20), PAGE_SIZE << 30, SYNC);
        assert_eq!(block_on(untouched), Ok(()));
        assert_eq!(port.receive().map(|(_, message)| message), Some(Message::Init));
    }),
];
