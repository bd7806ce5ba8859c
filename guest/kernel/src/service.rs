//! The agent's service: takes commands from the host, runs each as a task, sends the replies.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::Poll;

use log::{error, info};
use spin::Mutex;
use wirevm_abi::archive::Archive;
use wirevm_abi::boot::BootInfo;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_READY, NOTIFY};
use wirevm_abi::{PAGE_SIZE, completion, feature, ring};
use wirevm_agent::{Agent, Answer, Crash, Event};
use wirevm_map::{FrameAllocator, FrameRun, PageRange, Ports, Vm, VmMap};

use crate::arch;
use crate::boot;
use crate::console;
use crate::events::Ticket;
use crate::executor::{self, events};
use crate::frames::{Frame, KernelFrames};
use crate::hypercall::KernelHost;
use crate::mem::{self, SharedWords};
use crate::percpu::{KernelRelax, MAX_CPUS};
use crate::platform::KernelPlatform;
use crate::pmap::KernelPmap;
use crate::ring::{Receiver, Sender};
use crate::timer;
use crate::user::Programs;

/// Virtual pages of a task: the lower half but its first 64 KiB, where a stray pointer should fault.
const TASK_PAGES: PageRange = PageRange { start: 16, end: 1 << 35 };

/// The machine's ends of the map core's ports.
#[derive(Debug)]
pub enum Machine {}

impl Ports for Machine {
    type Host = KernelHost;
    type Pmap = KernelPmap;
    type Frames = &'static KernelFrames;
    type Relax = KernelRelax;
}

/// What goes to the host through the ring of replies.
struct Replies {
    sender: Mutex<Sender>,
    ring_vector: u64,
}

impl Replies {
    /// Sends a message, if there is room for it and `spare` words beside.
    fn send(&self, words: &[u64], spare: u64) -> bool {
        match self.sender.lock().send(words, spare) {
            Ok(sent) => {
                if sent {
                    arch::port_out(NOTIFY, 1);
                }
                sent
            }
            Err(broken) => panic!("reply ring: {broken}"),
        }
    }

    /// Sends a message as soon as there is room for it and `spare` words beside.
    async fn send_when_there_is_room(&self, words: &[u64], spare: u64) {
        loop {
            let seen = events().seen(self.ring_vector);
            if self.send(words, spare) {
                return;
            }
            // The host rings as it makes room.
            events().after(self.ring_vector, seen).await;
        }
    }
}

/// Where the output of programs goes.
#[derive(Clone)]
pub struct Output(Arc<Replies>);

impl Output {
    /// Sends what a program of task `task` printed.
    pub async fn send(&self, task: u64, bytes: Vec<u8>) {
        let mut words = Vec::with_capacity(4 + bytes.len() / 8 + 1);
        Event::Output { task, bytes }.encode(&mut words);
        // Room for a reply is left: programs that print without end must not keep the agent from answering.
        self.0.send_when_there_is_room(&words, ring::MAX_MESSAGE + 1).await;
    }
}

/// Everything that the service's tasks share.
struct Service {
    agent: Agent<Machine, KernelPlatform>,
    replies: Arc<Replies>,
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
    let processors = usize::try_from(info.vcpus).map_or(MAX_CPUS, |count| count.clamp(1, MAX_CPUS));
    let call_page = |index: usize| shared(info.call_page + index as u64 * PAGE_SIZE, 1);
    let further: Vec<SharedWords> = (1..processors).map(call_page).collect();
    let completions = shared(info.completion_ring, completion::PAGES);
    let (host, hello) = match KernelHost::connect(call_page(0), &further, completions) {
        Ok(connected) => connected,
        Err(status) => panic!("the host does not speak this contract: {status}"),
    };
    info!("{} MiB of RAM, {hello}", info.ram_pages / 256);
    let vm = Vm::new(host, frames, hello.wire_quota);
    timer::init(info.tsc_khz);
    boot::start_further_processors(vm.host(), root, frames, further);
    let pmap = KernelPmap::beside(root, frames).expect("a fresh machine has a frame for the first task's tables");
    let map = VmMap::new(vm, TASK_PAGES, pmap);
    let replies = Arc::new(Replies {
        sender: Mutex::new(Sender::new(shared(info.reply_ring, ring::PAGES))),
        ring_vector: info.ring_vector,
    });
    let archive = mem::reserved_bytes(info.archive, info.reserved_pages).and_then(Archive::new);
    let programs = Programs::new(archive, root, frames, Output(Arc::clone(&replies)));
    let service = Arc::new(Service {
        agent: Agent::new(map, KernelPlatform::new(root, frames, programs)),
        replies,
        ring_vector: info.ring_vector,
    });
    let commands = Receiver::new(shared(info.command_ring, ring::PAGES));
    executor::spawn_service(Arc::clone(&service).take_commands(commands));
    executor::spawn_service(Arc::clone(&service).watch_keys(info.serial_vector));
    if hello.features & feature::COMPLETIONS != 0 {
        executor::spawn_service(Arc::clone(&service).take_completions(info.completion_vector));
    }
    arch::port_out(LIFECYCLE, LIFECYCLE_READY);
    executor::run()
}

impl Service {
    /// Takes completions as they come. What waits for them goes on when the agent looks next.
    async fn take_completions(self: Arc<Self>, vector: u64) {
        loop {
            let seen = events().seen(vector);
            self.agent.vm().host().take_completions();
            events().after(vector, seen).await;
        }
    }

    /// Carries out the commands as they come, one after the other. What can't go on is the agent's own to keep; only a command
    /// that asks for it waits, for the host.
    async fn take_commands(self: Arc<Self>, mut commands: Receiver) {
        loop {
            let seen = events().seen(self.ring_vector);
            match commands.receive() {
                Ok(Some(message)) => {
                    self.carry_out(&message).await;
                    if executor::look_around() {
                        // A host that always has a command more must not keep programs from running.
                        executor::give_way().await;
                    }
                }
                Ok(None) => self.idle(seen).await,
                Err(broken) => panic!("command ring: {broken}"),
            }
        }
    }

    /// Waits for the next command; meanwhile operations go on that a program or the host has woken.
    async fn idle(&self, seen: Ticket) {
        let mut interrupt = pin!(events().after(self.ring_vector, seen));
        loop {
            let mut woken = self.agent.woken();
            let has_command = poll_fn(|context| {
                if interrupt.as_mut().poll(context).is_ready() {
                    return Poll::Ready(true);
                }
                Pin::new(&mut woken).poll(context).map(|()| false)
            });
            if has_command.await {
                return;
            }
            self.agent.settle();
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
                if !self.replies.send(&words, 0) {
                    // The host goes on sending commands before it makes room, so they are taken meanwhile.
                    let replies = Arc::clone(&self.replies);
                    executor::spawn_service(async move { replies.send_when_there_is_room(&words, 0).await });
                }
            }
            Answer::Exit { code } => self.agent.vm().host().exit(code),
            Answer::Crash(crash) => self.crash(crash),
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
            let seen = events().seen(vector);
            while let Some(key) = console::key() {
                self.on_key(key);
            }
            events().after(vector, seen).await;
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
