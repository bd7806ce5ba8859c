//! The runner over a scripted target.

use wirevm_agent::{Command, Crash, FrameRow, Pattern, Reply};
use wirevm_map::{Errno, FrameRun, KernReturn, PageRange, Prot};

use super::scripted::{BASE, Model, WitnessDirty};
use crate::exit_code::ExitCode;
use crate::script::run::{End, Run, StepReport, run};
use crate::script::target::WitnessQuery;
use crate::script::{Script, parse};

pub(super) fn script(text: &str) -> Script {
    parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("test")))
}

/// Carries out a script that must reach its end.
pub(super) fn complete(target: &mut Model, text: &str) -> Vec<StepReport> {
    let Run { steps, end } = run(&script(text), target, true);
    assert!(matches!(end, End::Completed), "{end:?} after {:?}", steps.last());
    steps
}

/// Carries out a script that must end with a mismatch; returns its last step.
pub(super) fn mismatch(target: &mut Model, text: &str) -> StepReport {
    let Run { mut steps, end } = run(&script(text), target, true);
    assert!(matches!(end, End::Mismatch), "{end:?}");
    steps.pop().expect("a step")
}

/// Carries out a script that the target must stop.
pub(super) fn stopped(target: &mut Model, text: &str) -> (usize, ExitCode, String) {
    match run(&script(text), target, true).end {
        End::Stopped { line, error } => (line, error.exit, error.to_string()),
        end => panic!("{end:?}"),
    }
}

pub(super) fn results(steps: &[StepReport]) -> Vec<&str> {
    steps.iter().map(|step| step.result.as_str()).collect()
}

#[test]
fn ranges_reach_the_guest_as_they_are_written() {
    let mut target = Model::new();
    complete(
        &mut target,
        "a = allocate 8 pages at 0x5000\nwire a => any\nwire a[3,1) user => any\nsync a[3,1) => any\n\
         deallocate @a+1+2\nprotect @a+1 page..a+0x1001 max rx\nunwire @0xffff_ffff_ffff_f000+2 pages => any\n\
         write @0..a 0x01 => any\nexpect @a+0 \"xy\"",
    );
    let (prot, pattern) = (Prot::from_bits(5).expect("r and x"), Pattern::new(b"xy").expect("two bytes"));
    let (start, page) = (BASE, 0x1000);
    let asked: Vec<_> = target.calls().into_iter().filter(|call| !matches!(call, Command::Frames { .. })).collect();
    let expected = [
        Command::Allocate { address: Some(0x5000), size: 8 * page },
        Command::Wire { start, end: start + 8 * page, flags: 0 },
        Command::Wire { start: start + 3 * page, end: start + page, flags: 1 },
        Command::Sync { address: start + 3 * page, size: 0_u64.wrapping_sub(2 * page), flags: 0 },
        Command::Deallocate { address: start + 1, size: 2 },
        Command::Protect { address: start + page, size: 1, set_maximum: true, prot },
        Command::Unwire { start: 0_u64.wrapping_sub(page), end: page, flags: 0 },
        Command::Write { address: 0, size: start, pattern: Pattern::byte(1) },
        Command::Expect { address: start, size: 0, pattern },
    ];
    assert_eq!(asked, expected);
}

#[test]
fn flags_are_joined_with_bits_by_number() {
    let mut target = Model::new();
    complete(&mut target, "sync @0+1 synchronous invalidate flags 0x180 contiguous\nwire @0+0 user holesok flags 8");
    assert!(target.calls().contains(&Command::Sync { address: 0, size: 1, flags: 0x1a6 }));
    assert!(target.calls().contains(&Command::Wire { start: 0, end: 0, flags: 11 }));
}

#[test]
fn layout_is_shown_and_compared_in_its_form() {
    let mut target = Model::new();
    let text = "a = allocate 8 pages\nwire a[2,4) user\nlayout a => [0,2)0 [2,4)1U [4,8)0\n\
                layout a[3,20)\nlayout a[8,9) => none\nlayout a => any";
    let steps = complete(&mut target, text);
    assert_eq!(
        results(&steps),
        ["0x100000", "SUCCESS", "[0,2)0 [2,4)1U [4,8)0", "[0,1)1U [1,5)0", "none", "[0,2)0 [2,4)1U [4,8)0"]
    );
    let step = mismatch(&mut Model::new(), "a = allocate 2 pages\nlayout a => [0,2)1");
    assert_eq!((step.line, step.result.as_str(), step.expected.as_str(), step.ok), (2, "[0,2)0", "[0,2)1", false));
}

#[test]
fn lists_too_long_for_a_reply_are_asked_for_in_halves() {
    let mut target = Model { most_rows: 3, ..Model::new() };
    let steps = complete(
        &mut target,
        "a = allocate 37 pages\nwire a[7,30)\nlayout a => [0,7)0 [7,30)1U [30,37)0\nhost resident a => 37",
    );
    assert_eq!(steps[2].result, "[0,7)0 [7,30)1U [30,37)0");
    let layouts = target.calls().iter().filter(|call| matches!(call, Command::Layout { .. })).count();
    assert!(layouts > 12, "{layouts} questions for 37 rows, at most 3 in a reply");
    let (line, exit, error) = stopped(&mut Model { most_rows: 0, ..Model::new() }, "a = allocate 9 pages\nlayout a");
    assert_eq!((line, exit), (2, ExitCode::Failure));
    assert!(error.contains("malformed"), "{error}");
}

#[test]
fn bytes_are_read_in_pieces_and_compared_whole() {
    let mut target = Model::new();
    let text =
        "a = allocate 3 pages\nwrite a \"abc\"\nread @a+9000 => \"abc\"\nread @a+7\nread @a+0\nread @a+3+6 => \"abc\"";
    let steps = complete(&mut target, text);
    assert_eq!(
        results(&steps)[2..],
        ["hex:61626361626361626361626361626361…", "hex:61626361626361", "none", "hex:616263616263"]
    );
    let reads = target.calls().into_iter().filter_map(|call| match call {
        Command::Read { address, size } => Some((address - BASE, size)),
        _ => None,
    });
    let reads: Vec<_> = reads.collect();
    assert_eq!(reads[..3], [(0, 4096), (4096, 4096), (8192, 808)]);
    let step = mismatch(&mut Model::new(), "a = allocate 3 pages\nwrite a 1\nwrite @a+8500+1 2\nread a[0,3) => 0x01");
    assert_eq!(step.result, "hex:01010101010101010101010101010101…, with 0x02 in place of 0x01 at byte 8500");
}

#[test]
fn reads_that_fail_or_come_short_end_there() {
    let mut target = Model::new();
    target.instead.extend([Reply::Address(0), Reply::Bytes(vec![0; 4096]), Reply::Done(KernReturn::InvalidAddress)]);
    let steps = complete(&mut target, "a = allocate 4 pages\nread a => INVALID_ADDRESS");
    assert_eq!(steps[1].result, "INVALID_ADDRESS");
    let mut target = Model::new();
    target.instead.extend([Reply::Address(0), Reply::Bytes(vec![0; 4095])]);
    let (line, exit, error) = stopped(&mut target, "a = allocate 4 pages\nread a");
    assert_eq!((line, exit), (2, ExitCode::Failure));
    assert!(error.contains("4095 bytes"), "{error}");
}

#[test]
fn host_counts_go_by_frames_and_say_none_without_one() {
    let mut target = Model::new();
    complete(&mut target, "a = allocate 6 pages");
    for page in [1, 4, 5] {
        target.unback(BASE / 4096 + page);
    }
    let at = format!("@{BASE:#x}");
    let steps = complete(
        &mut target,
        &format!(
            "host resident {at}+6 pages => 3\nhost dirty {at}+0x1001 => 1\nhost resident {at}+4 pages+2 pages => none"
        ),
    );
    assert_eq!(results(&steps), ["3", "1", "none"]);
    let runs = vec![FrameRun::new(1000, 1), FrameRun::new(998, 1), FrameRun::new(997, 1)];
    assert_eq!(target.questions, [WitnessQuery::Resident(runs), WitnessQuery::Dirty(vec![FrameRun::new(1000, 1)])]);
}

#[test]
fn frames_in_a_row_are_one_question() {
    let mut target = Model::new();
    let row = |start, end, first| FrameRow {
        pages: PageRange::new(start, end),
        frames: Some(FrameRun::new(first, end - start)),
    };
    // The guest says more than it was asked.
    target.instead.extend([Reply::Frames(vec![row(0, 4, 20), row(4, 6, 24), row(6, 9, 5)])]);
    complete(&mut target, "host resident @0x2000+5 pages => any");
    assert_eq!(target.questions, [WitnessQuery::Resident(vec![FrameRun::new(22, 4), FrameRun::new(5, 1)])]);
}

#[test]
fn host_file_shows_a_page_at_a_time() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "a = allocate 3 pages\nwrite a[0,1) 0x5a\nwrite @a+0x1000+2 hex:0102\nhost file a[0,4)\n\
         host file a => 0x5a hex:01020000… 0x00 \nhost file a[0,0)",
    );
    assert_eq!(steps[3].result, "0x5a hex:01020000000000000000000000000000… 0x00 none");
    assert_eq!(steps[5].result, "none");
    let step = mismatch(&mut Model::new(), "a = allocate 2 pages\nhost file a => 0x00");
    assert_eq!(step.result, "0x00 0x00");
    let step = mismatch(&mut Model::new(), "host file @0+1025 pages");
    assert_eq!(step.result, "more than 1024 pages");
}

#[test]
fn durable_and_not_durable_expect_their_own() {
    let text = script("sync @0+1 synchronous => SUCCESS if durable else FAILURE");
    let mut target = Model::new();
    target.instead.extend([Reply::Done(KernReturn::Failure)]);
    let Run { steps, end } = run(&text, &mut target, false);
    assert!(matches!(end, End::Completed));
    assert_eq!((steps[0].result.as_str(), steps[0].host_truth.as_deref()), ("FAILURE", Some("unsupported")));
    let Run { steps, end } = run(&text, &mut Model::new(), false);
    assert!(matches!(end, End::Mismatch));
    assert_eq!((steps[0].result.as_str(), steps[0].expected.as_str()), ("SUCCESS", "FAILURE"));
}

#[test]
fn host_truth_stands_beside_what_changes_it() {
    let mut target = Model::new();
    let text = "a = allocate 4 pages\nwrite a[0,3) 1\nwire a[0,2)\nsync a synchronous\nhost locked => 2\nunwire a\nsync a[1,0)";
    let steps = complete(&mut target, text);
    let truths: Vec<_> = steps.iter().map(|step| step.host_truth.as_deref()).collect();
    assert_eq!(truths, [None, Some("3 dirty"), Some("2 locked"), Some("4 dirty"), None, Some("0 locked"), None]);
    assert_eq!(steps[2].host_locked_after, Some(2));
    assert!(steps[4].asks_host && !steps[5].asks_host);
    let mut target = Model { dirty: WitnessDirty::Unsupported, ..Model::new() };
    let steps = complete(&mut target, "a = allocate 1 page\nhost dirty a => unsupported\nwrite a 1\nhost dirty a");
    assert_eq!((steps[1].result.as_str(), steps[2].host_truth.as_deref()), ("unsupported", None));
}

#[test]
fn failures_are_no_success_and_end_the_script() {
    let step = mismatch(&mut Model::new(), "wire @0+4K user\ncheck");
    assert_eq!((step.line, step.result.as_str(), step.expected.as_str()), (1, "INVALID_ADDRESS", "SUCCESS"));
    let mut target = Model::new();
    target.instead.extend([Reply::Mismatch { address: 0x10, expected: 1, got: 2 }]);
    assert_eq!(mismatch(&mut target, "expect @0+9 1").result, "MISMATCH at 0x10 (0x02 in place of 0x01)");
    let mut target = Model::new();
    target.checks.extend([Reply::Violation("N1 is broken".into())]);
    assert_eq!(mismatch(&mut target, "check").result, "VIOLATION (N1 is broken)");
    let mut target = Model::new();
    target.instead.extend([Reply::Done(KernReturn::NoSpace)]);
    assert_eq!(mismatch(&mut target, "a = allocate 1 page").result, "NO_SPACE");
    assert_eq!(mismatch(&mut Model::new(), "allocate 1 page => 0x5000").expected, "0x5000");
}

#[test]
fn answers_that_make_no_sense_stop_the_script() {
    let senseless = [
        ("wire-total", Reply::Bytes(vec![1])),
        ("wire-total", Reply::Malformed),
        ("mlock @0+1", Reply::Address(1)),
        ("brk 1 page", Reply::Done(KernReturn::Success)),
        ("wire @0+1", Reply::Errno(Errno::Perm)),
        ("fork", Reply::Address(1)),
        ("task t", Reply::Address(1)),
        ("t1: wire @0+1\njoin t1", Reply::Done(KernReturn::Success)),
        ("mincore @0+1", Reply::Number(1)),
        ("residents @0+1", Reply::Done(KernReturn::Success)),
        ("wire @0+0", Reply::Mismatch { address: 0, expected: 0, got: 1 }),
        ("allocate 1 page", Reply::Done(KernReturn::Success)),
        ("layout @0+1", Reply::Frames(vec![])),
        ("host file @0+1", Reply::Address(1)),
        ("exit 3", Reply::Malformed),
    ];
    for (text, reply) in senseless {
        let mut target = Model::new();
        target.instead.push_back(reply);
        let (line, exit, error) = stopped(&mut target, text);
        assert_eq!((line, exit), (1, ExitCode::Failure), "{text}");
        assert!(error.ends_with("which is no answer to it"), "{text}: {error}");
    }
    for text in ["check", "wire-total"] {
        let mut target = Model::new();
        target.checks.push_back(Reply::Malformed);
        let (_, exit, error) = stopped(&mut target, text);
        assert_eq!(exit, ExitCode::Failure);
        assert!(error.ends_with("to Check, which is no answer to it"), "{text}: {error}");
    }
    let mut target = Model { dirty: WitnessDirty::Senseless, ..Model::new() };
    let (_, _, error) = stopped(&mut target, "a = allocate 1 page\nhost dirty a");
    assert!(error.contains("a question about dirtiness"), "{error}");
}

#[test]
fn machine_that_ends_stops_the_script_with_its_own_exit_code() {
    let mut target = Model { dies_after: Some(1), ..Model::new() };
    let Run { steps, end } = run(&script("wire-total\n\nwire-total\ncheck"), &mut target, true);
    assert_eq!(steps.len(), 1);
    let End::Stopped { line, error } = end else { panic!("{end:?}") };
    assert_eq!((line, error.exit, error.to_string().as_str()), (3, ExitCode::GuestPanic, "the guest panicked: boom"));
}

#[test]
fn crash_is_over_when_the_machine_is() {
    let mut target = Model { dies_after: Some(1), ..Model::new() };
    let (line, exit, error) = stopped(&mut target, "wire-total\ncrash trap");
    assert_eq!((line, exit, error.as_str()), (2, ExitCode::GuestPanic, "the guest panicked: boom"));
    assert_eq!(target.calls()[1], Command::Crash(Crash::Trap));
    let (_, exit, error) = stopped(&mut Model::new(), "crash panic");
    assert_eq!(exit, ExitCode::Failure);
    assert!(error.ends_with("which is no answer to it"), "{error}");
}

#[test]
fn exit_ends_the_guest_with_its_code() {
    let mut target = Model::new();
    let Run { steps, end } = run(&script("wire-total\nexit 7"), &mut target, true);
    assert!(matches!(end, End::Exited(7)), "{end:?}");
    assert_eq!(results(&steps), ["0", "exit 7"]);
    assert_eq!(target.questions, []);
    assert_eq!(target.calls()[1], Command::Exit { code: 7 });
}

#[test]
fn violation_behind_a_line_fails_the_line() {
    let mut target = Model::new();
    let success = Reply::Done(KernReturn::Success);
    target.checks.extend([success, Reply::Violation("N1 is broken".into())]);
    let step = mismatch(&mut target, "a = allocate 1 page\nwire a user\nunwire a user");
    assert_eq!((step.line, step.result.as_str(), step.ok), (2, "VIOLATION (N1 is broken)", false));
}

#[test]
fn what_is_left_at_the_end_of_a_script_fails_it() {
    let mut target = Model::new();
    let success = Reply::Done(KernReturn::Success);
    target.checks.extend([success.clone(), success, Reply::Violation("an operation waits".into())]);
    let step = mismatch(&mut target, "wire-total\n\ncheck\n\n");
    assert_eq!((step.line, step.text.as_str()), (3, "end of script"));
    assert_eq!(step.result, "VIOLATION (an operation waits)");
}
