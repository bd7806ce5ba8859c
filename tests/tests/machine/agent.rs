//! The guest's agent behind the message rings.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use wirevm_abi::ring::{CAPACITY, MAX_MESSAGE};
use wirevm_agent::{Command, LayoutRow, MAX_READ_BYTES, Pattern, Reply};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::RamFile;
use wirevm_map::{KernReturn, PageRange, SyncFlags, WireFlags};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};
use wirevm_vmm::{ChannelError, Outcome};

use super::lab::{LIMIT, Lab, PAGE, Setup, kernel};

/// Most words in a message.
const MAX_WORDS: usize = 1024;
const _: () = assert!(MAX_WORDS as u64 == MAX_MESSAGE && MAX_READ_BYTES == 4096);

/// Words of the reply to a full-sized read, with its id and its length word.
const READ_REPLY_WORDS: u64 = 4 + MAX_READ_BYTES / 8;

fn read(address: u64, size: u64) -> Command {
    Command::Read { address, size }
}

pub const CASES: &[Case] = &[
    ("commands_in_flight_together_are_answered_by_id", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let address = lab.allocate(1);
        // Each answer tells which command it belongs to: by its length, or by being an error.
        let expected: HashMap<u64, usize> = (0..100).map(|n| (lab.send(&read(address, n as u64)), n)).collect();
        let bad = lab.send(&read(0, 1));
        let mut got = HashMap::new();
        for _ in 0..=expected.len() {
            let (id, reply) = lab.next();
            assert!(got.insert(id, reply).is_none(), "command {id} is answered twice");
        }
        assert_eq!(got.remove(&bad), Some(Reply::Done(KernReturn::InvalidAddress)));
        for (id, length) in expected {
            assert_eq!(got.remove(&id), Some(Reply::Bytes(vec![0; length])), "command {id}");
        }
        lab.stop();
    }),
    ("words_that_are_no_command_are_answered_malformed", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let long = vec![u64::MAX; MAX_WORDS - 1];
        let wrong: [&[u64]; 11] = [
            &[],
            &[0],
            &[0, 0],
            &[0, 0, 0],
            &[0, 0, 99],
            &[0, 0, u64::MAX],
            &[0, 0, 1, 2, 0, 0],
            &[0, 0, 4, 0, 0, u64::MAX],
            &[0, 0, 6, 0, MAX_READ_BYTES + 1],
            &[0, 0, 12, 12],
            &long,
        ];
        for words in wrong {
            let id = lab.send_words(words);
            assert_eq!(lab.reply(id), Reply::Malformed, "{:x?}", words.get(..4.min(words.len())));
        }
        lab.done(&Command::Check);
        lab.stop();
    }),
    ("message_that_no_ring_takes_is_refused_and_not_sent", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        for words in [0, MAX_WORDS + 1, MAX_WORDS * 8] {
            let sent = lab.machine.channel().send(&vec![1; words], LIMIT);
            assert!(matches!(sent, Err(ChannelError::TooLong { words: told }) if told == words), "{sent:?}");
        }
        lab.done(&Command::Check);
        let nothing = lab.machine.channel().receive(Duration::from_millis(20));
        assert!(matches!(nothing, Err(ChannelError::Timeout(_))), "{nothing:?}");
        lab.stop();
    }),
    ("thousands_of_messages_wrap_the_rings_and_none_is_lost", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let address = lab.allocate(1);
        lab.done(&Command::Write { address, size: PAGE, pattern: Pattern::byte(0x5a) });
        // Lengths that do not divide the ring's, so that messages straddle its end everywhere.
        for round in 0..700 {
            let size = round % 24;
            let ids = [lab.send(&read(address, size)), lab.send_words(&[99]), lab.send_words(&[0, round])];
            assert_eq!(
                lab.reply(ids[0]),
                Reply::Bytes(vec![0x5a; usize::try_from(size).expect("small")]),
                "round {round}"
            );
            assert_eq!(lab.reply(ids[1]), Reply::Malformed, "round {round}");
            assert_eq!(lab.reply(ids[2]), Reply::Malformed, "round {round}");
        }
        for _ in 0..40 {
            assert_eq!(lab.call(&read(address, MAX_READ_BYTES)), Reply::Bytes(vec![0x5a; 4096]));
        }
        lab.stop();
    }),
    ("replies_that_nobody_takes_wait_in_the_guest_and_none_is_lost", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let address = lab.allocate(1);
        let count = CAPACITY / READ_REPLY_WORDS * 3;
        let ids: Vec<u64> = (0..count).map(|_| lab.send(&read(address, MAX_READ_BYTES))).collect();
        // Long enough for the guest to fill its ring and to halt with the rest.
        thread::sleep(Duration::from_millis(200));
        for id in ids {
            assert_eq!(lab.reply(id), Reply::Bytes(vec![0; 4096]), "command {id}");
        }
        lab.done(&Command::Check);
        lab.stop();
    }),
    ("reading_in_a_quiet_machine_times_out_in_time", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let start = Instant::now();
        let limit = Duration::from_millis(100);
        let nothing = lab.machine.channel().receive(limit);
        assert!(matches!(nothing, Err(ChannelError::Timeout(told)) if told == limit), "{nothing:?}");
        assert!((limit..LIMIT).contains(&start.elapsed()), "{:?}", start.elapsed());
        lab.stop();
    }),
    ("exit_ends_the_machine_and_the_channel_says_so", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        lab.send(&Command::Exit { code: 3 });
        let over = lab.machine.channel().receive(LIMIT);
        assert!(matches!(over, Err(ChannelError::Ended)), "{over:?}");
        let outcome = lab.end();
        assert!(matches!(outcome, Outcome::Exit { code: 3 }), "{outcome}");
    }),
    ("machine_dropped_with_wired_pages_leaves_nothing", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let start = lab.allocate(64);
        lab.done(&Command::Wire { start, end: start + 64 * PAGE, flags: u64::from(WireFlags::USER.bits()) });
        assert_eq!(lab.locked(), 64);
        lab.abandon();
    }),
    ("layout_frames_and_bytes_agree_with_the_host", &[Need::Kvm], || {
        let mut lab = Lab::of_kernel();
        let start = lab.allocate(8);
        lab.done(&Command::Write { address: start, size: 8 * PAGE, pattern: Pattern::byte(0xc3) });
        let (from, to) = (start + 2 * PAGE, start + 5 * PAGE);
        lab.done(&Command::Wire { start: from, end: to, flags: u64::from(WireFlags::USER.bits()) });
        let first = start / PAGE;
        let row = |from, to, wired| LayoutRow {
            pages: PageRange::new(first + from, first + to),
            wired_count: wired,
            user_wired: wired > 0,
        };
        let layout = lab.call(&Command::Layout { start, end: start + 8 * PAGE });
        assert_eq!(layout, Reply::Layout(vec![row(0, 2, 0), row(2, 5, 1), row(5, 8, 0)]));
        let wired = lab.frames(from, 3);
        assert_eq!(lab.locked(), 3);
        for range in &wired {
            assert_eq!(lab.machine.witness().locked_in(*range).expect("the witness"), range.pages());
        }
        for range in lab.frames(start, 8) {
            for page in range.first()..range.end() {
                assert_eq!(lab.machine.witness().bytes(page).expect("the witness"), [0xc3; 4096], "RAM page {page}");
            }
        }
        lab.done(&Command::Unwire { start: from, end: to, flags: u64::from(WireFlags::USER.bits()) });
        assert_eq!(lab.locked(), 0);
        lab.stop();
    }),
    ("written_pages_are_dirty_until_synced_and_only_they", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("dirty.ram");
        let ram = || RamFile::create(&path, 16 << 20, Durability::Shared).expect("a RAM file");
        let mut lab = Lab::start(ram, kernel(), &Setup::default());
        lab.booted();
        let start = lab.allocate(8);
        lab.done(&Command::Write { address: start, size: 8 * PAGE, pattern: Pattern::byte(1) });
        let flags = u64::from(SyncFlags::SYNCHRONOUS.bits());
        lab.done(&Command::Sync { address: start, size: 8 * PAGE, flags });
        lab.done(&Command::Write { address: start + PAGE, size: 4 * PAGE, pattern: Pattern::byte(2) });
        let frames = [lab.frames(start, 1), lab.frames(start + PAGE, 4), lab.frames(start + 5 * PAGE, 3)];
        let dirty = |lab: &Lab| [0, 1, 2].map(|part| lab.dirty(&frames[part]));
        assert_eq!(dirty(&lab), [0, 4, 0]);
        lab.done(&Command::Sync { address: start + PAGE, size: 2 * PAGE, flags });
        assert_eq!(dirty(&lab), [0, 2, 0]);
        lab.done(&Command::Sync { address: start, size: 8 * PAGE, flags });
        assert_eq!(dirty(&lab), [0, 0, 0]);
        lab.stop();
    }),
    ("wiring_clean_pages_dirties_none", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let path = folder.path().join("clean.ram");
        let ram = || RamFile::create(&path, 16 << 20, Durability::Shared).expect("a RAM file");
        let mut lab = Lab::start(ram, kernel(), &Setup::default());
        lab.booted();
        let start = lab.allocate(200);
        let (end, flags) = (start + 200 * PAGE, u64::from(WireFlags::USER.bits()));
        lab.done(&Command::Wire { start, end, flags });
        let frames = lab.frames(start, 200);
        assert_eq!((lab.dirty(&frames), lab.locked()), (0, 200));
        lab.done(&Command::Unwire { start, end, flags });
        assert_eq!((lab.dirty(&frames), lab.locked()), (0, 0));
        lab.stop();
    }),
];
