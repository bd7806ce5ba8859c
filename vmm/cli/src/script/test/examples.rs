//! Every script and every example that is shipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wirevm_devices::durability::Durability;
use wirevm_devices::pin::PinKind;
use wirevm_devices::ramfile::RamFile;
use wirevm_vmm::StorageErrorPolicy;

use crate::fake_host::{FakeConfig, FakeTarget};
use crate::hosted::{HostedConfig, HostedTarget};
use crate::in_process::Limits;
use crate::script::parse;
use crate::script::run::{End, run};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../resources/scripts")
}

/// Returns the code blocks of a Markdown text that are marked with `language`, with their first lines' numbers.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line == fence => open = Some((number + 2, String::new())),
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => *block += &format!("{line}\n"),
            None => {}
        }
    }
    assert_eq!(open, None, "a block is not closed");
    blocks
}

#[test]
fn shipped_scripts_parse_and_print_and_parse_again() {
    let mut scripts = 0;
    for file in fs::read_dir(folder()).expect("the folder of the scripts") {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "wvm") {
            continue;
        }
        scripts += 1;
        let text = fs::read(&path).expect("a script");
        let script = parse(&text).unwrap_or_else(|errors| panic!("{}", errors.render(&path.display().to_string())));
        let plain = script.to_string();
        let again = parse(plain.as_bytes()).unwrap_or_else(|errors| panic!("{}\n{plain}", errors.render("plain")));
        assert_eq!(again.to_string(), plain);
        assert_eq!(again.statements.len(), script.statements.len());
    }
    assert!(scripts >= 10, "{scripts} scripts");
}

#[test]
fn every_example_in_the_grammar_parses() {
    let grammar = fs::read_to_string(folder().join("GRAMMAR.md")).expect("the grammar");
    let examples = blocks(&grammar, "wvm");
    assert!(examples.len() >= 5, "{} examples", examples.len());
    // These need a virtual machine to be carried out.
    let programs = blocks(&grammar, "wvm-programs");
    assert!(!programs.is_empty());
    for (line, example) in examples.into_iter().chain(programs) {
        if let Err(errors) = parse(example.as_bytes()) {
            panic!("the example at line {line}:\n{}", errors.render("GRAMMAR.md"));
        }
    }
}

/// A host of the model kind for one example.
fn target(durable: bool) -> FakeTarget {
    let config = FakeConfig {
        ram_pages: 4096,
        wire_quota_pages: 2048,
        durable,
        store_quota_pages: Some(1024),
        on_storage_error: StorageErrorPolicy::Latch,
        limits: Limits::default(),
    };
    FakeTarget::start(config).expect("a thread")
}

#[test]
fn every_example_in_the_grammar_comes_to_what_it_says() {
    let grammar = fs::read_to_string(folder().join("GRAMMAR.md")).expect("the grammar");
    for (line, example) in blocks(&grammar, "wvm") {
        let script = parse(example.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("GRAMMAR.md")));
        for durable in [true, false] {
            let run = run(&script, &mut target(durable), durable);
            let last = run.steps.last();
            assert!(matches!(run.end, End::Completed | End::Exited(0)), "line {line}: {:?} after {last:?}", run.end);
        }
    }
}

/// The real host's services for one example, with RAM and stores in a folder on a disk.
fn hosted(folder: &Path) -> HostedTarget {
    let ram = RamFile::create(&folder.join("guest.ram"), 16 << 20, Durability::Shared).expect("a RAM file on a disk");
    let stores = folder.join("stores");
    fs::create_dir(&stores).expect("a folder");
    let config = HostedConfig {
        wire_quota_pages: 1024,
        pin: PinKind::best(16 << 20).expect("/proc"),
        stores: Some((stores, 1024)),
        on_storage_error: StorageErrorPolicy::Latch,
        limits: Limits { time_limit: Some(Duration::from_secs(120)), ..Limits::default() },
    };
    HostedTarget::start(config, ram).expect("services")
}

#[test]
fn every_example_in_the_grammar_comes_to_the_same_over_real_storage() {
    let grammar = fs::read_to_string(folder().join("GRAMMAR.md")).expect("the grammar");
    for (line, example) in blocks(&grammar, "wvm") {
        let script = parse(example.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("GRAMMAR.md")));
        // A temporary file system keeps nothing; this one is on a disk wherever a machine's RAM is.
        let place = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let mut target = hosted(place.path());
        let run = run(&script, &mut target, true);
        let last = run.steps.last();
        assert!(matches!(run.end, End::Completed | End::Exited(0)), "line {line}: {:?} after {last:?}", run.end);
        target.finish().expect("an end in order");
    }
}

#[test]
fn long_script_is_carried_out_in_time_that_grows_with_it() {
    let mut text = String::from("task t\nt.a = allocate 64 pages\n");
    for number in 0..4000 {
        let page = number % 64;
        text += &format!("a{number} = allocate 1 page\nt1_{number}: wire t.a[{page},64) user\njoin t1_{number}\n");
        text += &format!("unwire t.a[{page},64) user\ndeallocate a{number}\n");
    }
    let script = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors.render("long")));
    assert_eq!(script.statements.len(), 20_002);
    let began = Instant::now();
    let run = run(&script, &mut target(true), true);
    assert!(matches!(run.end, End::Completed), "{:?}", run.steps.last());
    // Seconds, where something quadratic would take minutes.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn every_counterexample_in_the_grammar_is_an_error() {
    let grammar = fs::read_to_string(folder().join("GRAMMAR.md")).expect("the grammar");
    let lines: Vec<_> = blocks(&grammar, "wvm-error").into_iter().flat_map(|(_, block)| lines(&block)).collect();
    assert!(lines.len() >= 20, "{} counterexamples", lines.len());
    for line in lines {
        let errors = parse(line.as_bytes()).expect_err(&line);
        assert_eq!(errors.errors().len(), 1, "{line}: {errors}");
        assert_eq!(errors.errors()[0].line, 1);
    }
}

fn lines(block: &str) -> Vec<String> {
    block.lines().map(str::to_owned).collect()
}

#[test]
fn grammar_lists_every_operation_flag_and_code() {
    use crate::script::ast::{FlagWord, Flags, Managing, PageState, RETURNS};
    use crate::script::target::StorageErrno;
    let grammar = fs::read_to_string(folder().join("GRAMMAR.md")).expect("the grammar");
    let codes = wirevm_map::KernReturn::ALL.map(wirevm_map::KernReturn::name);
    let flags =
        Flags::WIRE.into_iter().chain(Flags::SYNC).chain(Flags::MSYNC).chain(Flags::LOCK_ALL).filter_map(|flag| {
            match flag {
                FlagWord::Named(name, _) => Some(name),
                FlagWord::Bits(_) => None,
            }
        });
    let errors = wirevm_map::Errno::ALL.map(wirevm_map::Errno::name);
    let words = PageState::WORDS.map(|(word, _)| word).into_iter().chain(RETURNS.map(|(word, _)| word));
    let words = words.chain(wirevm_abi::stat::NAMES).chain(["clean", "precious"]);
    for word in codes.into_iter().chain(flags).chain(errors).chain(words) {
        assert!(grammar.contains(&format!("`{word}`")), "{word} is not explained");
    }
    let verbs = Managing::BEHAVIOURS.map(|(word, _)| word).into_iter().chain(Managing::VERBS);
    for word in verbs {
        assert!(grammar.contains(&format!("`TASK {word}")), "what '{word}' does is not explained");
    }
    for word in StorageErrno::ALL.map(StorageErrno::name) {
        assert!(grammar.contains(&format!("\"{word}\"")), "{word} is not in the grammar");
    }
}
