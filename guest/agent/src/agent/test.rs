mod awaiting;
mod managers;
mod programs;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use wirevm_map::fake::{FakeFrames, FakeHost, FakePmap, FakePorts, FakeRam};
use wirevm_map::{FrameRun, KernReturn, OutOfFrames, PAGE_SIZE, PageRange, Prot, Vm, VmMap, WireFlags};

use self::programs::Programs;
use super::{Agent, Answer};
use crate::command::{Command, Crash, Request};
use crate::pattern::Pattern;
use crate::platform::{AccessFault, Platform};
use crate::program::ProgramStart;
use crate::reply::{LayoutRow, Reply};

const SUCCESS: Reply = Reply::Done(KernReturn::Success);
const USER: u64 = WireFlags::USER.bits() as u64;
const SYSTEM: u64 = WireFlags::SYSTEM.bits() as u64;
const BASE: u64 = 16 * PAGE_SIZE;

/// Tasks that reach memory through the fake's page tables.
struct FakePlatform {
    ram: Arc<FakeRam>,
    /// What [`Platform::check`] finds wrong.
    broken: Option<String>,
    programs: Arc<Programs>,
}

impl FakePlatform {
    fn access(
        map: &VmMap<FakePorts>,
        address: u64,
        access: Prot,
        work: impl FnOnce(u64, usize),
    ) -> Result<(), AccessFault> {
        let frame = map.with_pmap(|pmap| pmap.access(address / PAGE_SIZE, access)).map_err(|_| AccessFault)?;
        work(frame, usize::try_from(address % PAGE_SIZE).expect("less than a page"));
        Ok(())
    }
}

impl Platform<FakePorts> for FakePlatform {
    fn new_pmap(&self) -> Result<FakePmap, OutOfFrames> {
        Ok(FakePmap::new())
    }

    fn store(&self, map: &VmMap<FakePorts>, address: u64, bytes: &[u8]) -> Result<(), AccessFault> {
        Self::access(map, address, Prot::WRITE, |frame, offset| self.ram.write(frame, offset, bytes))
    }

    fn load(&self, map: &VmMap<FakePorts>, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault> {
        Self::access(map, address, Prot::READ, |frame, offset| self.ram.read(frame, offset, bytes))
    }

    fn compare(&self, map: &VmMap<FakePorts>, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault> {
        let mut got = vec![0; bytes.len()];
        self.load(map, address, &mut got)?;
        Ok(got.iter().zip(bytes).position(|(got, expected)| got != expected).map(|at| at as u64))
    }

    fn check(&self, maps: &[&VmMap<FakePorts>]) -> Result<(), String> {
        assert!(!maps.is_empty());
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn start_program(&self, task: u64, map: Arc<VmMap<FakePorts>>, entry: u64) -> ProgramStart {
        self.programs.start(task, map, entry)
    }

    fn further_maps(&self) -> Vec<Arc<VmMap<FakePorts>>> {
        self.programs.children.lock().clone()
    }

    fn running_programs(&self) -> u64 {
        self.programs.running()
    }
}

struct Bed {
    agent: Agent<FakePorts, FakePlatform>,
}

impl Bed {
    fn new() -> Self {
        Self::broken(None)
    }

    fn broken(broken: Option<&str>) -> Self {
        let ram = Arc::new(FakeRam::default());
        let frames = FakeFrames::new(Arc::clone(&ram), FrameRun::new(0, 512));
        let vm = Vm::new(FakeHost::new(Arc::clone(&ram)), frames, 256);
        let map = VmMap::new(vm, PageRange::new(16, 16 + 1024), FakePmap::new());
        Self {
            agent: Agent::new(map, FakePlatform { ram, broken: broken.map(str::to_string), programs: Arc::default() }),
        }
    }

    fn host(&self) -> &FakeHost {
        self.agent.vm().host()
    }

    fn ask(&self, request: Request) -> Reply {
        let mut words = Vec::new();
        request.encode(&mut words);
        match self.agent.answer_now(&words) {
            Answer::Reply(reply) => reply,
            end => panic!("{end:?}"),
        }
    }

    fn task(&self, task: u64, command: Command) -> Reply {
        self.ask(Request::new(task, command))
    }

    fn main(&self, command: Command) -> Reply {
        self.task(0, command)
    }

    fn start(&self, thread: u64, command: Command) {
        assert_eq!(self.ask(Request { task: 0, thread, command }), Reply::Started, "{command:?}");
    }

    fn poll(&self, thread: u64) -> Reply {
        self.main(Command::Poll { thread })
    }

    fn join(&self, thread: u64) -> Reply {
        self.main(Command::Join { thread })
    }

    /// Allocates pages at [`BASE`].
    fn allocate(&self, task: u64, pages: u64) {
        let size = pages * PAGE_SIZE;
        assert_eq!(self.task(task, Command::Allocate { address: None, size }), Reply::Address(BASE));
    }

    fn layout(&self, task: u64) -> Vec<(u64, u64, u64)> {
        match self.task(task, Command::Layout { start: 0, end: 2048 * PAGE_SIZE }) {
            Reply::Layout(rows) => {
                rows.iter().map(|row| (row.pages.start - 16, row.pages.end - 16, row.wired_count)).collect()
            }
            reply => panic!("{reply:?}"),
        }
    }
}

const fn at(page: u64) -> u64 {
    BASE + page * PAGE_SIZE
}

const fn wire(start: u64, end: u64, flags: u64) -> Command {
    Command::Wire { start: at(start), end: at(end), flags }
}

const fn unwire(start: u64, end: u64, flags: u64) -> Command {
    Command::Unwire { start: at(start), end: at(end), flags }
}

const fn deallocate(start: u64, end: u64) -> Command {
    Command::Deallocate { address: at(start), size: (end - start) * PAGE_SIZE }
}

fn is_violation(reply: &Reply, of: &str) -> bool {
    matches!(reply, Reply::Violation(sentence) if sentence.contains(of))
}

#[test]
fn threads_that_meet_on_an_entry_go_on_one_after_the_other() {
    let bed = Bed::new();
    bed.allocate(0, 8);
    bed.host().hold();
    bed.start(1, wire(0, 8, USER));
    bed.start(2, unwire(2, 4, USER));
    bed.start(3, deallocate(6, 8));
    assert_eq!([bed.poll(1), bed.poll(2), bed.poll(3)], [Reply::Blocked, Reply::Blocked, Reply::Blocked]);
    assert_eq!(bed.join(1), Reply::Blocked);
    assert_eq!(bed.main(Command::Check), SUCCESS);
    assert!(is_violation(&bed.main(Command::Quiesce), "3 operations wait"));
    bed.host().release();
    assert_eq!([bed.poll(1), bed.poll(2), bed.poll(3)], [Reply::Ended, Reply::Ended, Reply::Ended]);
    assert!(is_violation(&bed.main(Command::Quiesce), "the result of thread 1 was not taken"));
    assert_eq!([bed.join(2), bed.join(1), bed.join(3)], [SUCCESS, SUCCESS, SUCCESS]);
    assert_eq!([bed.join(1), bed.poll(1)], [Reply::Malformed, Reply::Malformed]);
    assert_eq!(bed.layout(0), [(0, 2, 1), (2, 4, 0), (4, 6, 1)]);
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn operation_that_stalls_is_blocked_and_goes_on_when_it_can() {
    let bed = Bed::new();
    bed.allocate(0, 6);
    assert_eq!(bed.main(wire(2, 4, SYSTEM)), SUCCESS);
    assert_eq!(bed.main(deallocate(0, 6)), Reply::Blocked);
    assert_eq!(bed.layout(0), [(2, 4, 1), (4, 6, 0)]);
    assert!(is_violation(&bed.main(Command::Quiesce), "an operation waits"));
    assert_eq!(bed.main(unwire(2, 4, SYSTEM)), SUCCESS);
    assert_eq!(bed.layout(0), []);
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn thread_number_is_free_again_after_the_join() {
    let bed = Bed::new();
    bed.allocate(0, 4);
    assert_eq!(bed.main(wire(0, 1, SYSTEM)), SUCCESS);
    bed.start(7, deallocate(0, 1));
    let again = Request { task: 0, thread: 7, command: wire(2, 3, USER) };
    assert_eq!(bed.ask(again), Reply::Malformed, "it waits");
    assert_eq!(bed.main(unwire(0, 1, SYSTEM)), SUCCESS);
    assert_eq!(bed.ask(again), Reply::Malformed, "it was not joined");
    assert_eq!(bed.join(7), SUCCESS);
    assert_eq!((bed.ask(again), bed.join(7)), (Reply::Started, SUCCESS));
    assert_eq!(bed.layout(0), [(1, 2, 0), (2, 3, 1), (3, 4, 0)]);
}

#[test]
fn question_in_a_thread_is_answered_at_its_join() {
    let bed = Bed::new();
    bed.allocate(0, 2);
    bed.start(1, Command::Layout { start: at(0), end: at(2) });
    let row = LayoutRow { pages: PageRange::new(16, 18), wired_count: 0, user_wired: false };
    assert_eq!((bed.poll(1), bed.join(1)), (Reply::Ended, Reply::Layout(vec![row])));
}

#[test]
fn tasks_have_maps_of_their_own_until_they_end() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::NewTask), Reply::Number(1));
    assert_eq!(bed.main(Command::NewTask), Reply::Number(2));
    bed.allocate(0, 2);
    bed.allocate(1, 4);
    let write = |byte| Command::Write { address: at(0), size: 2 * PAGE_SIZE, pattern: Pattern::byte(byte) };
    assert_eq!((bed.main(write(1)), bed.task(1, write(2))), (SUCCESS, SUCCESS));
    let expect = |byte| Command::Expect { address: at(1) - 1, size: 2, pattern: Pattern::byte(byte) };
    assert_eq!((bed.main(expect(1)), bed.task(1, expect(2))), (SUCCESS, SUCCESS));
    let mismatch = Reply::Mismatch { address: at(1) - 1, expected: 2, got: 1 };
    assert_eq!(bed.main(expect(2)), mismatch);
    assert_eq!(bed.task(1, Command::Read { address: at(0), size: 3 }), Reply::Bytes(vec![2; 3]));
    assert_eq!(bed.task(1, wire(0, 4, SYSTEM)), SUCCESS);
    assert_eq!((bed.layout(0), bed.layout(1)), (vec![(0, 2, 0)], vec![(0, 4, 1)]));
    assert_eq!(bed.agent.maps().len(), 3);
    assert_eq!(bed.task(1, Command::EndTask), SUCCESS);
    assert_eq!(bed.host().wired(), []);
    assert_eq!(bed.task(1, wire(0, 4, SYSTEM)), Reply::Malformed);
    assert_eq!(bed.task(1, Command::EndTask), Reply::Malformed);
    assert_eq!(bed.main(Command::EndTask), Reply::Malformed, "the first task stays");
    assert_eq!(bed.main(Command::NewTask), Reply::Number(3), "no number comes twice");
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn task_that_can_not_end_yet_takes_nothing_more() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::NewTask), Reply::Number(1));
    bed.allocate(1, 4);
    bed.host().hold();
    assert_eq!(bed.ask(Request { task: 1, thread: 1, command: wire(0, 4, USER) }), Reply::Started);
    assert_eq!(bed.task(1, Command::EndTask), Reply::Blocked);
    assert_eq!(bed.task(1, Command::Layout { start: 0, end: at(4) }), Reply::Malformed);
    bed.host().release();
    assert_eq!((bed.join(1), bed.main(Command::Quiesce)), (SUCCESS, SUCCESS));
    assert_eq!(bed.agent.maps().len(), 1);
}

#[test]
fn reset_empties_the_system_unless_something_waits() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::NewTask), Reply::Number(1));
    bed.allocate(0, 4);
    bed.allocate(1, 4);
    assert_eq!((bed.main(wire(0, 2, SYSTEM)), bed.task(1, wire(0, 2, USER))), (SUCCESS, SUCCESS));
    bed.start(4, deallocate(0, 4));
    assert!(is_violation(&bed.main(Command::Reset), "an operation waits"));
    assert_eq!(bed.layout(1), [(0, 2, 1), (2, 4, 0)], "nothing happened");
    assert_eq!(bed.main(unwire(0, 2, SYSTEM)), SUCCESS);
    assert_eq!(bed.main(wire(0, 1, SYSTEM)), Reply::Done(KernReturn::InvalidAddress));
    assert_eq!(bed.main(Command::Reset), SUCCESS);
    assert_eq!((bed.poll(4), bed.host().wired(), bed.agent.maps().len()), (Reply::Malformed, vec![], 1));
    assert_eq!((bed.layout(0), bed.agent.vm().frames().free_pages()), (vec![], 512));
    assert_eq!(bed.main(Command::WireTotal), Reply::Number(0));
    bed.allocate(0, 4);
}

#[test]
fn entries_are_listed_whole_and_never_joined() {
    let bed = Bed::new();
    bed.allocate(0, 8);
    assert_eq!(bed.main(Command::Protect { address: at(2), size: 1, set_maximum: false, prot: Prot::READ }), SUCCESS);
    let Reply::Layout(rows) = bed.main(Command::Entries { start: at(1), end: at(4) }) else { panic!("no rows") };
    let pages: Vec<_> = rows.iter().map(|row| row.pages).collect();
    assert_eq!(pages, [PageRange::new(16, 18), PageRange::new(18, 19), PageRange::new(19, 24)]);
}

#[test]
fn what_the_machine_finds_wrong_is_a_violation_of_bounded_length() {
    let bed = Bed::broken(Some("the ledger lies"));
    assert_eq!(bed.main(Command::Check), Reply::Violation("the ledger lies".to_string()));
    assert_eq!(bed.main(Command::Quiesce), Reply::Violation("the ledger lies".to_string()));
    let bed = Bed::broken(Some(&"é".repeat(9999)));
    let Reply::Violation(sentence) = bed.main(Command::Check) else { panic!("no violation") };
    assert_eq!(sentence.len(), 4096);
}

#[test]
fn exit_and_crash_are_handed_on() {
    let bed = Bed::new();
    let answer = |command: Command| {
        let mut words = vec![0, 0];
        command.encode(&mut words);
        bed.agent.answer_now(&words)
    };
    assert!(matches!(answer(Command::Exit { code: 3 }), Answer::Exit { code: 3 }));
    assert!(matches!(answer(Command::Crash(Crash::Trap)), Answer::Crash(Crash::Trap)));
}

#[test]
fn what_is_not_there_and_what_no_thread_can_do_is_malformed() {
    let bed = Bed::new();
    assert!(matches!(bed.agent.answer_now(&[]), Answer::Reply(Reply::Malformed)));
    assert!(matches!(bed.agent.answer_now(&[0, 0]), Answer::Reply(Reply::Malformed)));
    for command in [wire(0, 1, USER), Command::Layout { start: 0, end: 1 }, Command::Fork, Command::EndTask] {
        assert_eq!(bed.task(9, command), Reply::Malformed, "{command:?}");
    }
    let pages = 1;
    for command in [
        Command::Poll { thread: 1 },
        Command::Join { thread: 1 },
        Command::DropObject { object: 1 },
        Command::Gate { object: 1, page: 1 },
        Command::Kill { object: 0 },
        Command::Truncate { object: 1, pages },
    ] {
        assert_eq!(bed.main(command), Reply::Malformed, "{command:?}");
    }
    for command in [Command::Check, Command::Quiesce, Command::Reset, Command::Poll { thread: 1 }, Command::EndTask] {
        assert_eq!(bed.ask(Request { task: 0, thread: 1, command }), Reply::Malformed, "{command:?}");
    }
    assert_eq!(bed.join(1), Reply::Malformed, "none of them became a thread");
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn no_words_make_the_agent_panic() {
    // splitmix64: the same words every time.
    let mut seed = 0_u64;
    let mut draw = move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    for _ in 0..2000 {
        let bed = Bed::new();
        for _ in 0..60 {
            let edges =
                [0, 1, 2, 3, 7, 8, PAGE_SIZE, BASE, at(4), at(1024), 1 << 21, 1 << 40, u64::MAX - 4095, u64::MAX];
            let count = 3 + draw() % 8;
            let mut words: Vec<u64> =
                (0..count).map(|_| edges[usize::try_from(draw()).expect("64 bits") % edges.len()]).collect();
            words[0] = draw() % 3;
            words[1] = if draw() % 4 == 0 { draw() % 5 } else { 0 };
            words[2] = 1 + draw() % 66;
            // However long or short the words are, what decodes is carried out.
            while let Answer::Reply(Reply::Malformed) = bed.agent.answer_now(&words) {
                if words.pop().is_none() {
                    break;
                }
            }
        }
        assert!(!matches!(bed.main(Command::Check), Reply::Malformed));
    }
}
