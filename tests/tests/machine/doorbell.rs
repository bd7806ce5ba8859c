//! How long a virtual processor stands still for a call that is completed later.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::call::{CallEntry, CallHeader, CallPage};
use wirevm_abi::{RamRange, Status, VERSION, completion, op, port};
use wirevm_devices::bus::{PortDevice, Signal};
use wirevm_devices::completion::CompletionRing;
use wirevm_devices::durability::Durability;
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::hypercall::{Hypercall, HypercallConfig};
use wirevm_devices::pin::{PinConfig, PinService, RunsMethod};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::store::StoreService;
use wirevm_devices::sync::{SyncConfig, SyncService};
use wirevm_devices::view::View;
use wirevm_devices::witness::Witness;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};
use wirevm_vmm::memory::GuestRam;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::lab::{LIMIT, alone};

/// Pages of 256 MiB, and where they begin.
const MANY: u64 = (256 << 20) / 4096;
const FIRST: u64 = 512;
const RAM_BYTES: u64 = 260 << 20;
const TRIALS: usize = 7;
/// The longest that the exit may take.
const LONGEST: Duration = Duration::from_micros(200);

fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, RAM_BYTES / 4096).expect("inside RAM")
}

/// The device over real RAM and real storage, without a processor in front of it.
struct Rig {
    memory: Arc<dyn GuestMemory>,
    ring: Arc<CompletionRing>,
    device: Hypercall,
    witness: Witness,
}

impl Rig {
    fn new(ram: &RamFile) -> Self {
        let memory: Arc<dyn GuestMemory> = Arc::new(GuestRam::map(ram).expect("mapped"));
        let view = Arc::new(View::new(ram).expect("a view"));
        let config = PinConfig { ram_pages: ram.pages(), quota_pages: 1, map_entry_budget: 1024 };
        let pins = Arc::new(PinService::new(Box::new(RunsMethod::new(Arc::clone(&view))), config));
        let syncs = SyncService::start(ram, SyncConfig::default(), |error| panic!("storage is good: {error}"));
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("an event");
        let ring = Arc::new(CompletionRing::new(Arc::clone(&memory), range(1, completion::PAGES), Box::new(interrupt)));
        let device = Hypercall::new(HypercallConfig {
            memory: Arc::clone(&memory),
            pins,
            syncs: Arc::new(syncs.expect("a service")),
            stores: Arc::new(StoreService::unsupported()),
            discard: None,
            vcpus: None,
            completions: Some(Arc::clone(&ring)),
            ram_pages: ram.pages(),
            call_pages: vec![range(0, 1)],
        });
        let witness = Witness::new(view, ram).expect("a witness");
        Self { memory, ring, device, witness }
    }

    /// Rings the doorbell for one entry; returns its status and how long that took.
    fn call(&self, entry: CallEntry) -> (Status, Duration) {
        let mut page = CallPage::new_zeroed();
        page.header = CallHeader::new(1);
        page.entries[0] = entry;
        self.memory.write(range(0, 1), page.as_bytes()).expect("RAM");
        let began = Instant::now();
        let signal = self.device.write(0, port::DOORBELL, &[0; 4]);
        let taken = began.elapsed();
        assert_eq!(signal, Signal::None);
        let mut answer = [0; 4096];
        self.memory.read(range(0, 1), &mut answer).expect("RAM");
        (CallPage::read_from_bytes(&answer).expect("a page").entries[0].status(), taken)
    }
}

pub const CASES: &[Case] =
    &[("doorbell_of_a_sync_of_256_mib_is_over_while_the_data_is_written", &[Need::Durable], || {
        // Whoever counts what a machine leaves behind would count this.
        let _alone = alone();
        let folder = scratch_dir();
        let path = folder.path().join("wide.ram");
        let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
        let rig = Rig::new(&ram);
        assert_eq!(rig.call(CallEntry::new(op::HELLO, 0, [VERSION, 0, 0])).0, Status::OK);
        let (mut times, mut under_way) = (Vec::new(), 0);
        for trial in 0..TRIALS {
            let bytes = vec![u8::try_from(trial + 1).expect("few"); 1 << 20];
            for piece in 0..MANY / 256 {
                rig.memory.write(range(FIRST + piece * 256, 256), &bytes).expect("RAM");
            }
            let began = Instant::now();
            let (status, taken) = rig.call(CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [FIRST, MANY, trial as u64]));
            assert_eq!(status, Status::PENDING);
            let dirty = rig.witness.dirty(range(FIRST, MANY)).expect("cachestat");
            under_way += usize::from(dirty.is_none_or(|dirty| dirty > 0));
            times.push(taken);
            while rig.ring.stats().posted <= trial as u64 {
                assert!(began.elapsed() < LIMIT, "{:?}", rig.ring.stats());
                thread::sleep(Duration::from_millis(1));
            }
            // Taken, so that the ring has room.
            rig.memory.store_word(range(1, completion::PAGES), completion::HEAD_OFFSET, trial as u64 + 1).expect("RAM");
            println!("the doorbell took {taken:?}, storage {:?}", began.elapsed());
        }
        times.sort_unstable();
        println!("median of {TRIALS}: {:?}", times[TRIALS / 2]);
        // Others use the processors as well: what they take is not the device's doing, so the shorter times count.
        assert!(
            under_way > TRIALS / 2,
            "the data was written before the doorbell was over, {} times",
            TRIALS - under_way
        );
        assert!(times[1] <= LONGEST, "{times:?}");
    })];
