use alloc::vec;
use alloc::vec::Vec;

use wirevm_map::{Advice, Inheritance, KernReturn, MapMode, PagerFault, Prot, ShouldReturn, StoreKind};

use super::{Behaviour, Command, Crash, Limit, ObjectKind, Request};
use crate::codec::Malformed;
use crate::pattern::Pattern;

/// Every command, with its words.
fn golden() -> Vec<(Command, Vec<u64>)> {
    let pattern = Pattern::new(b"nine byte").expect("nine bytes");
    let nine = u64::from_le_bytes(*b"nine byt");
    let (address, size, start, end, pages) = (1, 2, 1, 2, 3);
    vec![
        (Command::Allocate { address: None, size: 4096 }, vec![1, 0, 0, 4096]),
        (Command::Allocate { address: Some(0x1000), size: u64::MAX }, vec![1, 1, 0x1000, u64::MAX]),
        (Command::Deallocate { address, size }, vec![2, 1, 2]),
        (Command::Protect { address, size, set_maximum: false, prot: Prot::READ }, vec![3, 1, 2, 0, 1]),
        (Command::Protect { address, size, set_maximum: true, prot: Prot::ALL }, vec![3, 1, 2, 1, 7]),
        (Command::Write { address, size, pattern }, vec![4, 1, 2, 9, nine, u64::from(b'e')]),
        (Command::Expect { address, size, pattern: Pattern::byte(7) }, vec![5, 1, 2, 1, 7]),
        (Command::Read { address, size }, vec![6, 1, 2]),
        (Command::Wire { start, end, flags: u64::MAX }, vec![7, 1, 2, u64::MAX]),
        (Command::Unwire { start, end, flags: 3 }, vec![8, 1, 2, 3]),
        (Command::Sync { address, size, flags: 3 }, vec![9, 1, 2, 3]),
        (Command::Layout { start, end }, vec![10, 1, 2]),
        (Command::Frames { start, end }, vec![11, 1, 2]),
        (Command::Check, vec![12]),
        (Command::Exit { code: 255 }, vec![13, 255]),
        (Command::Crash(Crash::Panic), vec![14, 0]),
        (Command::Crash(Crash::Hang), vec![14, 3]),
        (Command::NewTask, vec![15]),
        (Command::EndTask, vec![16]),
        (Command::Fork, vec![17]),
        (Command::Poll { thread: 9 }, vec![18, 9]),
        (Command::Join { thread: 9 }, vec![19, 9]),
        (Command::Entries { start, end }, vec![20, 1, 2]),
        (Command::Residents { start, end }, vec![21, 1, 2]),
        (Command::PageWires { start, end }, vec![22, 1, 2]),
        (Command::WireTotal, vec![23]),
        (Command::WiredFrames { start: 3, end: 9 }, vec![49, 3, 9]),
        (Command::AllocateLarge { address: Some(7), size }, vec![24, 1, 7, 2]),
        (Command::Guard { address: None, size }, vec![25, 0, 0, 2]),
        (Command::Stack { address: Some(7), size, initial: 4 }, vec![26, 1, 7, 2, 4]),
        (
            Command::MapObject {
                address: None,
                object: 5,
                first_page: 6,
                end_page: 7,
                mode: MapMode::Private,
                prot: Prot::DEFAULT,
            },
            vec![27, 0, 0, 5, 6, 7, 1, 3],
        ),
        (Command::Inherit { address, size, inheritance: Inheritance::None }, vec![28, 1, 2, 2]),
        (Command::Advise { address, size, advice: Advice::Free }, vec![29, 1, 2, 1]),
        (Command::Mlock { address, size }, vec![30, 1, 2]),
        (Command::Munlock { address, size }, vec![31, 1, 2]),
        (Command::Mlockall { flags: 7 }, vec![32, 7]),
        (Command::Munlockall, vec![33]),
        (Command::Mincore { address, size }, vec![34, 1, 2]),
        (Command::Vslock { address, size }, vec![35, 1, 2]),
        (Command::Vsunlock { address, size }, vec![36, 1, 2]),
        (Command::Brk { size }, vec![37, 2]),
        (Command::Limit(Limit::Memlock { pages }), vec![38, 0, 3]),
        (Command::Limit(Limit::Privilege { may_lock: true }), vec![38, 1, 1]),
        (Command::Limit(Limit::Global { pages }), vec![38, 2, 3]),
        (Command::NewObject { kind: ObjectKind::Anonymous, pages }, vec![39, 0, 0, 3]),
        (Command::NewObject { kind: ObjectKind::File { readahead: 4 }, pages }, vec![39, 1, 4, 3]),
        (Command::DropObject { object: 5 }, vec![40, 5]),
        (Command::Gate { object: 5, page: 6 }, vec![41, 5, 6]),
        (Command::Release { object: 5, page: 6 }, vec![42, 5, 6]),
        (Command::Fail { object: 5, page: 6, fault: PagerFault::Refused }, vec![43, 5, 6, 1]),
        (Command::Heal { object: 5, page: 6 }, vec![44, 5, 6]),
        (Command::Kill { object: 5 }, vec![45, 5]),
        (Command::Truncate { object: 5, pages }, vec![46, 5, 3]),
        (Command::Quiesce, vec![47]),
        (Command::Reset, vec![48]),
        (Command::Msync { address, size, flags: 6 }, vec![50, 1, 2, 6]),
        (Command::Submap { address: Some(7), size }, vec![51, 1, 7, 2]),
        (Command::NewStoreObject { name: [5, 6], pages, kind: StoreKind::Exclusive }, vec![52, 5, 6, 3, 1]),
        (Command::NewManager, vec![53]),
        (Command::NewManagedObject { pages, address: 9 }, vec![54, 3, 9]),
        (Command::Behave(Behaviour::AllowsWrites), vec![55, 5]),
        (Command::Die, vec![56]),
        (
            Command::SynchronizeCompleted { object: 5, offset: 6, length: 7, status: KernReturn::Failure },
            vec![57, 5, 6, 7, 5],
        ),
        (
            Command::LockRequest {
                object: 5,
                first_page: 6,
                end_page: 7,
                should_return: ShouldReturn::All,
                should_flush: true,
                forbidden: Some(Prot::WRITE),
            },
            vec![58, 5, 6, 7, 2, 1, 2],
        ),
        (
            Command::LockRequest {
                object: 5,
                first_page: 6,
                end_page: 7,
                should_return: ShouldReturn::Nothing,
                should_flush: false,
                forbidden: None,
            },
            vec![58, 5, 6, 7, 0, 0, u64::MAX],
        ),
        (Command::Messages, vec![59]),
        (Command::DirtyRanges { object: 5 }, vec![60, 5]),
        (Command::PageStates { start, end }, vec![61, 1, 2]),
        (Command::Completions, vec![62]),
        (Command::AwaitHost, vec![63]),
        (Command::Stat { selector: 4 }, vec![64, 4]),
        (Command::Trim, vec![65]),
        (Command::Program { entry: 5 }, vec![66, 5]),
        (Command::AwaitProgram { task: 5 }, vec![67, 5]),
        (Command::KillProgram { task: 5 }, vec![68, 5]),
    ]
}

#[test]
fn every_command_has_its_words_and_no_cut_or_longer_one_decodes() {
    for (command, words) in golden() {
        let request = Request { task: 8, thread: 9, command };
        let mut encoded = Vec::new();
        request.encode(&mut encoded);
        assert_eq!(encoded.split_at(2), (&[8, 9][..], &words[..]), "{command:?}");
        assert_eq!(Request::decode(&encoded), Ok(request));
        for cut in 0..encoded.len() {
            assert_eq!(Request::decode(&encoded[..cut]), Err(Malformed), "{command:?} cut at {cut}");
        }
        encoded.push(0);
        assert_eq!(Request::decode(&encoded), Err(Malformed), "{command:?} and a word more");
    }
}

#[test]
fn golden_words_cover_every_number() {
    let golden = golden();
    for number in 1..=68 {
        assert!(golden.iter().any(|(_, words)| words[0] == number), "{number}");
    }
}

#[test]
fn values_out_of_range_are_malformed() {
    let malformed: [&[u64]; 31] = [
        &[0],
        &[49],
        &[u64::MAX],
        &[14, 4],
        &[1, 2, 0, 0],
        &[3, 0, 0, 0, 8],
        &[3, 0, 0, 2, 0],
        &[4, 0, 0, u64::MAX],
        &[4, 0, 0, 0],
        &[13, 256],
        &[24, 2, 0, 0],
        &[27, 0, 0, 5, 6, 7, 2, 3],
        &[27, 0, 0, 5, 6, 7, 1, 8],
        &[28, 0, 0, 3],
        &[29, 0, 0, 2],
        &[38, 1, 2],
        &[38, 3, 0],
        &[39, 0, 1, 3],
        &[39, 1, 0, 3],
        &[43, 5, 6, 2],
        &[39, 0, 0, (1 << 40) + 1],
        &[39, 1, (1 << 40) + 1, 1],
        &[41, 5, (1 << 40) + 1],
        &[46, 5, u64::MAX],
        &[69],
        &[52, 5, 6, 0, 0],
        &[52, 5, 6, 3, 2],
        &[54, 0, 9],
        &[55, 6],
        &[57, 5, 6, 7, 8],
        &[58, 5, 6, 7, 4, 0, 0],
    ];
    for words in malformed {
        assert_eq!(Command::decode(words), Err(Malformed), "{words:?}");
    }
}

#[test]
fn any_short_words_decode_or_are_malformed() {
    // Every number with few and many words of edge values: none of them may panic.
    for number in 0..80 {
        for length in 0..9 {
            for value in [0, 1, 2, 8, 64, u64::MAX] {
                let mut words = vec![number];
                words.resize(1 + length, value);
                if let Ok(command) = Command::decode(&words) {
                    let mut again = Vec::new();
                    command.encode(&mut again);
                    assert_eq!(Command::decode(&again), Ok(command));
                }
            }
        }
    }
}
