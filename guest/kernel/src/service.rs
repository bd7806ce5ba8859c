//! The agent's service: takes commands from the host, runs each as a task, sends the replies.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use log::{error, info};
use spin::Mutex;
use wirevm_abi::boot::BootInfo;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_READY, NOTIFY};
use wirevm_abi::{completion, feature, ring};
use wirevm_agent::{Agent, Answer, Crash};
use wirevm_map::{FrameAllocator, FrameRun, PageRange, Ports, Vm, VmMap};

use crate::arch;
use crate::console;
use crate::executor::{Events, Executor};
use crate::frames::{Frame, KernelFrames};
use crate::hypercall::KernelHost;
use crate::mem::SharedWords;
use crate::platform::KernelPlatform;
use crate::pmap::KernelPmap;
use crate::ring::{Receiver, Sender};

/// Virtual pages of a task: the lower half but its first 64 KiB, where a stray pointer should fault.
const TASK_PAGES: PageRange = PageRange { start: 16, end: 1 << 35 };

/// The machine's ends of the map core's ports.
#[derive(Debug)]
pub enum Machine {}

impl Ports for Machine {
    type Host = KernelHost;
    type Pmap = KernelPmap;
    type Frames = &'static KernelFrames;
}

/// Everything that the service's tasks share.
struct Service {
    agent: Agent<Machine, KernelPlatform>,
    replies: Mutex<Sender>,
    executor: Executor,
    events: Events,
    ring_vector: u64,
}

/// Takes over the free frames from `first_free` on.
pub fn frames(info: &BootInfo, first_free: u64, pages: u64) -> &'static KernelFrames {
    let free = PageRange::new(first_free, first_free + pages);
    let mut allocator = FrameAllocator::new();
    let mut rest = free;
    let count = usize::try_from(info.zero_run_count).unwrap_or(0);
    for run in info.zero_runs.iter().take(count) {
        let zero = PageRange::new(run.first, run.first.saturating_add(run.pages)).intersection(rest);
        if zero.is_empty() {
            continue;
        }
        give(&mut allocator, PageRange::new(rest.start, zero.start), false);
        give(&mut allocator, zero, true);
        rest.start = zero.end;
    }
    give(&mut allocator, rest, false);
    Box::leak(Box::new(KernelFrames::new(allocator)))
}

fn give(allocator: &mut FrameAllocator, pages: PageRange, zero: bool) {
    if !pages.is_empty() {
        allocator.free(FrameRun::new(pages.start, pages.len()), zero);
    }
}

/// Says hello to the host, makes the task, and serves commands for ever.
pub fn run(info: &BootInfo, root: Frame, frames: &'static KernelFrames) -> ! {
    let shared = |address, pages| {
        SharedWords::in_reserved(address, pages, info.reserved_pages).expect("the loader's pages are reserved")
    };
    let (host, hello) =
        match KernelHost::connect(shared(info.call_page, 1), shared(info.completion_ring, completion::PAGES)) {
            Ok(connected) => connected,
            Err(status) => panic!("the host does not speak this contract: {status}"),
        };
    info!("{} MiB of RAM, {hello}", info.ram_pages / 256);
    let vm = Vm::new(host, frames, hello.wire_quota);
    let map = VmMap::new(vm, TASK_PAGES, KernelPmap::at_home(root, frames));
    let service = Arc::new(Service {
        agent: Agent::new(map, KernelPlatform::new(root, frames)),
        replies: Mutex::new(Sender::new(shared(info.reply_ring, ring::PAGES))),
        executor: Executor::new(),
        events: Events::new(),
        ring_vector: info.ring_vector,
    });
    let commands = Receiver::new(shared(info.command_ring, ring::PAGES));
    service.executor.spawn(Arc::clone(&service).take_commands(commands));
    service.executor.spawn(Arc::clone(&service).watch_keys(info.serial_vector));
    if hello.features & feature::COMPLETIONS != 0 {
        service.executor.spawn(Arc::clone(&service).take_completions(info.completion_vector));
    }
    arch::port_out(LIFECYCLE, LIFECYCLE_READY);
    service.executor.run(&service.events)
}

impl Service {
    /// Takes completions as they come. What waits for them goes on when the agent looks next.
    async fn take_completions(self: Arc<Self>, vector: u64) {
        loop {
            self.agent.vm().host().take_completions();
            self.events.interrupt(vector).await;
        }
    }

    /// Carries out the commands as they come, one after the other. What can't go on is the agent's own to keep; only a command
    /// that asks for it waits, for the host.
    async fn take_commands(self: Arc<Self>, mut commands: Receiver) {
        loop {
            match commands.receive() {
                Ok(Some(message)) => self.carry_out(&message).await,
                Ok(None) => self.events.interrupt(self.ring_vector).await,
                Err(broken) => panic!("command ring: {broken}"),
            }
        }
    }

    /// Carries out one command, whose first word is its id.
    async fn carry_out(self: &Arc<Self>, message: &[u64]) {
        let Some((id, words)) = message.split_first() else { return };
        match self.agent.answer(words).await {
            Answer::Reply(reply) => {
                let mut words = Vec::with_capacity(8);
                words.push(*id);
                reply.encode(&mut words);
                if !self.send(&words) {
                    // The host goes on sending commands before it makes room, so they are taken meanwhile.
                    self.executor.spawn(Arc::clone(self).send_when_there_is_room(words));
                }
            }
            Answer::Exit { code } => self.agent.vm().host().exit(code),
            Answer::Crash(crash) => self.crash(crash),
        }
    }

    /// Sends a reply, if there is room.
    fn send(&self, words: &[u64]) -> bool {
        match self.replies.lock().send(words) {
            Ok(sent) => {
                if sent {
                    arch::port_out(NOTIFY, 1);
                }
                sent
            }
            Err(broken) => panic!("reply ring: {broken}"),
        }
    }

    async fn send_when_there_is_room(self: Arc<Self>, words: Vec<u64>) {
        while !self.send(&words) {
            // The host rings as it makes room.
            self.events.interrupt(self.ring_vector).await;
        }
    }

    fn crash(&self, crash: Crash) -> ! {
        match crash {
            Crash::Panic => panic!("the host asked for a panic"),
            Crash::Trap => arch::touch_nothing(),
            Crash::TripleFault => arch::triple_fault(),
            Crash::Hang => arch::stop(),
        }
    }

    /// Keys of the console: a small window into a running guest, for whoever sits in front of it.
    async fn watch_keys(self: Arc<Self>, vector: u64) {
        loop {
            while let Some(key) = console::key() {
                self.on_key(key);
            }
            self.events.interrupt(vector).await;
        }
    }

    fn on_key(&self, key: u8) {
        let map = self.agent.map();
        match key {
            b'c' => {
                let maps = self.agent.maps();
                let violations = maps.iter().filter_map(|map| map.check().err());
                if violations.map(|violation| error!("{violation}")).count() == 0 {
                    info!("every invariant holds in {} task(s)", maps.len());
                }
            }
            b'm' => {
                let bounds = map.bounds();
                for row in map.layout(bounds.start, bounds.end) {
                    let user = if row.user_wired { "U" } else { "" };
                    info!("{} {} wired {}{user}", row.pages, row.prot, row.wired_count);
                }
            }
            b's' => info!("{:?}, {:?}", map.stats(), map.vm().frames()),
            b'\r' | b'\n' => (),
            _ => info!("keys: c check invariants, m map, s statistics"),
        }
    }
}
