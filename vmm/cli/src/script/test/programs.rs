//! Programs over a scripted target.

use wirevm_agent::{Command, ProgramEnd, Reply, Request};
use wirevm_map::PAGE_SIZE;

use super::runner::{complete, mismatch, results, script, stopped};
use super::scripted::Model;
use crate::exit_code::ExitCode;
use crate::in_process::TASK_PAGES;
use crate::script::parse;

#[test]
fn program_is_started_from_its_entry_and_waited_for() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "program p kv 1000\nprogram q hello => exit 0\nprogram again kv 1000 => SUCCESS\nt1: program u kv 0x10\nkill u\njoin t1 => any",
    );
    assert_eq!(results(&steps), ["exit 0", "exit 0", "exit 0", "started", "SUCCESS", "SUCCESS"]);
    let program = |entry, task| [Command::Program { entry }, Command::AwaitProgram { task }];
    let mut expected = [program(0, 1), program(1, 2), program(0, 3), program(2, 4)].concat();
    expected.extend([Command::KillProgram { task: 4 }, Command::Join { thread: 1 }]);
    // The model answers a join with success, which a program's end can't be.
    assert_eq!(target.calls(), expected);
    assert_eq!(target.requests[7], Request { task: 0, thread: 1, command: Command::AwaitProgram { task: 4 } });
    let wanted: Vec<_> = script("program p kv 1000\nprogram q kv 0x10 \"a b\"\nprogram u kv 1000").programs();
    assert_eq!(wanted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["kv,1000", "kv,0x10,a b"]);
}

/// Carries a program line out whose program comes to that end; returns the step's result where that is not expected.
fn ended(end: ProgramEnd, expected: &str) -> Option<String> {
    let mut target = Model::new();
    target.instead.extend([Reply::Number(1), Reply::Program(end)]);
    let line = format!("program p rogue ud2{expected}");
    let run = crate::script::run::run(&script(&line), &mut target, true);
    run.steps.last().filter(|step| !step.ok).map(|step| step.result.clone())
}

#[test]
fn each_end_is_told_from_the_others() {
    let fault = || ProgramEnd::Faulted("invalid \"opcode\"\nat 0x400010".into());
    let shown = "fault \"invalid \\\"opcode\\\"\\nat 0x400010\"";
    assert_eq!(ended(ProgramEnd::Exited(0), ""), None);
    assert_eq!(ended(ProgramEnd::Exited(3), ""), Some("exit 3".into()));
    assert_eq!(ended(ProgramEnd::Exited(3), " => exit 3"), None);
    assert_eq!(ended(ProgramEnd::Exited(3), " => fault"), Some("exit 3".into()));
    assert_eq!(ended(fault(), ""), Some(shown.into()));
    assert_eq!(ended(fault(), " => fault"), None);
    assert_eq!(ended(fault(), " => fault \"opcode\\\"\\nat\""), None);
    assert_eq!(ended(fault(), " => fault \"page\""), Some(shown.into()));
    assert_eq!(ended(ProgramEnd::Killed, ""), Some("killed".into()));
    assert_eq!((ended(ProgramEnd::Killed, " => killed"), ended(ProgramEnd::Killed, " => any")), (None, None));
}

#[test]
fn program_that_is_not_started_says_why() {
    let mut target = Model::new();
    target.instead.push_back(Reply::Text("no room".into()));
    assert_eq!(mismatch(&mut target, "program p kv 1").result, "not started (no room)");
    target.instead.push_back(Reply::Text("no room".into()));
    assert_eq!(mismatch(&mut target, "t1: program p kv 1\njoin t1").result, "not started (no room)");
    target.instead.extend([Reply::Text("no room".into())]);
    complete(&mut target, "program p kv 1 => any");
    target.instead.extend([Reply::Number(1), Reply::Blocked]);
    complete(&mut target, "program p kv 1 => BLOCKED");
    target.instead.push_back(Reply::Ended);
    let (line, exit, reason) = stopped(&mut target, "program p kv 1");
    assert_eq!((line, exit), (1, ExitCode::Failure));
    assert!(reason.contains("Ended to Program { entry: 0 }"), "{reason}");
}

#[test]
fn output_is_compared_by_what_it_has_in_it() {
    let mut target = Model { printed: "one\nsynced 7\n".into(), ..Model::new() };
    let steps = complete(&mut target, "program p kv\noutput p\noutput p => \"synced 7\"\noutput p => \"e\\ns\"");
    assert_eq!(steps[1].result, "\"one\\nsynced 7\\n\"");
    let step = mismatch(&mut target, "program p kv\noutput p => \"synced 8\"");
    assert_eq!((step.result.as_str(), step.expected.as_str()), ("\"one\\nsynced 7\\n\"", "\"synced 8\""));
    assert!(!mismatch(&mut target, "program p kv\noutput p => none").ok);
    target.printed.clear();
    complete(&mut target, "program p kv\noutput p => none");
    target.printed = "é".repeat(3000);
    assert_eq!(complete(&mut target, "program p kv\noutput p")[1].result.chars().count(), 502);
}

#[test]
fn task_stands_for_all_of_its_map() {
    let mut target = Model::new();
    complete(
        &mut target,
        "program p kv\ntask t\nlayout p => none\nresidents t => 0\nlayout main => none\npage-states p => none\np.a = allocate 1 page",
    );
    let (start, end) = (0, TASK_PAGES.end * PAGE_SIZE);
    let asked: Vec<_> = target.requests.iter().skip(3).map(|request| (request.task, request.command)).collect();
    let expected = [
        (1, Command::Layout { start, end }),
        (2, Command::Residents { start, end }),
        (0, Command::Layout { start, end }),
        (1, Command::PageStates { start, end }),
        (1, Command::Allocate { address: None, size: PAGE_SIZE }),
    ];
    assert_eq!(asked, expected);
}

#[test]
fn mistakes_about_programs_are_told() {
    let wrong = |line: &str, reason: &str| {
        let text = format!("task t\nf = file(8)\nprogram p kv\nprogram gone hello\nend gone\n{line}");
        let errors = parse(text.as_bytes()).expect_err(line);
        let error = &errors.errors()[0];
        assert!(error.line == 6 && error.reason.contains(reason), "{line}: {}", error.reason);
    };
    wrong("program", "a name for the program's task");
    wrong("program q", "a built-in program, or the path of a file as a string");
    wrong("program q hallo", "there is no built-in program 'hallo': there are calls");
    wrong("program q \"hallo\"", "there is no built-in program 'hallo'");
    wrong("program q kv -1", "'-' has no meaning here");
    wrong("program q kv a[0", "an argument (a word, a number");
    wrong("program q kv \"\\xff\"", "the string is not UTF-8");
    wrong("program q kv \"\"", "the one argument of 'kv' is empty");
    wrong("program p hello", "'p' is defined above already");
    wrong("program task hello", "a word of the language");
    wrong("q = program p hello", "an operation that makes something to name");
    wrong("q = program r hello", "an operation that makes something to name");
    wrong("program q kv => none", "'exit' and a code, 'fault', 'killed' or a return code");
    wrong("program q kv => exit 256", "an exit code is at most 255");
    wrong("program q kv => exit", "an exit code");
    wrong("t1: program q kv => exit 0", "a thread that is started has no result yet");
    wrong("t1: program q kv", "the thread 't1' is never joined");
    wrong("output t", "'t' is no program");
    wrong("output q", "there is no program 'q': 'program q kv 1000' starts one");
    wrong("output gone", "the task 'gone' has ended");
    wrong("output p => 5", "a string that the output has in it, or 'none'");
    wrong("kill gone", "the task 'gone' has ended");
    wrong("kill t", "'t' is no memory object");
    wrong("wire p user", "'p' is a task; its memory has names");
    wrong("mincore p", "'p' is a task");
    wrong("layout gone", "the task 'gone' has ended");
    let errors = parse(b"program q kv => any\nlayout q").expect_err("it may not be there");
    assert!(errors.to_string().contains("there is no 'q'"), "{errors}");
}

#[test]
fn program_of_a_thread_is_there_at_once() {
    let good = ["layout p\nkill p\njoin t1 => killed", "end p\njoin t1 => killed", "output p\njoin t1 => fault \"x\""];
    for lines in good {
        let text = format!("t1: program p kv\n{lines}");
        parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("good")));
    }
    let errors = parse(b"t1: program p kv\nend p\njoin t1\nlayout p").expect_err("it has ended");
    assert!(errors.to_string().contains("the task 'p' has ended"), "{errors}");
    // No word of these is taken from scripts that use it as a name.
    let names = "program = allocate 1 page\noutput = allocate 1 page\nkilled: wire program\nkilled ended\njoin killed";
    parse(names.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("names")));
}

#[test]
fn programs_that_differ_are_counted_and_equal_ones_are_not() {
    let lines = |count: u32| (0..count).map(|n| format!("program p{n} kv {}\n", n % 257)).collect::<String>();
    assert_eq!(script(&lines(256)).programs().len(), 256);
    let errors = parse(lines(257).as_bytes()).expect_err("one too many");
    assert_eq!((errors.errors()[0].line, errors.errors()[0].column), (257, 1));
    let equal: String = (0..1000).map(|n| format!("program p{n} hello\n")).collect();
    assert_eq!(script(&equal).programs().len(), 1);
}
