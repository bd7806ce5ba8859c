use super::{ArgsError, Bench, BenchArgs, Cli, Command, On, ScriptSource, Which, Work, parse};
use clap::CommandFactory;
use std::io::Write;

fn line(text: &str) -> Result<Command, String> {
    let words = std::iter::once("wirevm").chain(text.split_whitespace()).map(Into::into);
    parse(words).map(|cli| cli.command).map_err(|error| error.to_string())
}

fn wrong(text: &str) -> String {
    let error = line(text).expect_err(text);
    assert!(!error.contains('\n'), "{text}: {error}");
    error
}

#[test]
fn definition_of_the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_every_option() {
    let command = line(
        "run --kernel k --script s --memory size=64M,file=f,durability=shared,folio=balanced --wire-quota 8M --timeout 2.5 \
         --on-storage-error latch --on kvm --store d --store-quota 2M --cpus 16 -vv",
    );
    let Ok(Command::Run(args)) = command else { panic!("{command:?}") };
    assert_eq!(args.output.verbose, 2);
    let (options, work) = args.resolve().expect("valid");
    assert_eq!(work, Work::Script(ScriptSource::File("s".into())));
    assert_eq!(options.vcpus, Some(16));
    assert_eq!(options.wire_quota_bytes, Some(8 << 20));
    assert_eq!(options.memory.file, Some("f".into()));
    assert_eq!(options.memory.folio, Some(wirevm_devices::folio::FolioPolicy::Balanced));
    assert_eq!(options.store.map(|store| (store.folder, store.quota_bytes)), Some(("d".into(), 2 << 20)));
    assert_eq!(options.timeout.map(|limit| limit.as_millis()), Some(2500));
}

#[test]
fn script_of_run_comes_from_the_line_then_the_file_then_the_demo() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"script = '-'").expect("written");
    let source = |text: &str| match line(text) {
        Ok(Command::Run(args)) => match args.resolve().expect("valid").1 {
            Work::Script(source) => source,
            Work::Programs(programs) => panic!("{programs:?}"),
        },
        other => panic!("{other:?}"),
    };
    let config = format!("run --config {}", file.path().display());
    assert_eq!(source("run"), ScriptSource::Demo);
    assert_eq!(source(&config), ScriptSource::Stdin);
    assert_eq!(source(&format!("{config} --script x")), ScriptSource::File("x".into()));
}

#[test]
fn programs_of_run_come_from_the_line_then_the_file() {
    let config = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    };
    let work = |text: &str| match line(text) {
        Ok(Command::Run(args)) => args.resolve().map(|(_, work)| work).map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    };
    let programs = |names: &[&str]| {
        Ok(Work::Programs(names.iter().map(|name| name.parse().expect("a program")).collect::<Vec<_>>()))
    };
    assert_eq!(work("run --program kv,1000 --program ./a.elf"), programs(&["kv,1000", "./a.elf"]));
    let file = config("programs = ['hello,you', 'hog']");
    let with_file = format!("run --config {}", file.path().display());
    assert_eq!(work(&with_file), programs(&["hello,you", "hog"]));
    assert_eq!(work(&format!("{with_file} --program kv")), programs(&["kv"]));
    assert_eq!(work(&format!("{with_file} --script s")), Ok(Work::Script(ScriptSource::File("s".into()))));
    let both = config("programs = ['hog']\nscript = 's'");
    let with_both = format!("run --config {}", both.path().display());
    assert!(work(&with_both).is_err_and(|error| error.starts_with("a script and programs can't be run together")));
    assert_eq!(work(&format!("{with_both} --program kv")), programs(&["kv"]));
    assert!(work("run --on fake --program kv").is_err_and(|error| error.starts_with("--on fake has no ring 3")));
    assert_eq!(work("run --on hosted --script s"), Ok(Work::Script(ScriptSource::File("s".into()))));
    let many = "run".to_owned() + &" --program hello".repeat(257);
    assert!(work(&many).is_err_and(|error| error == "257 programs are more than the 256 that a guest takes"));
    assert!(wrong("run --program kv --script s").contains("cannot be used with"));
    assert!(wrong("run --program hallo").contains("there is no built-in program 'hallo': there are calls, counter"));
    assert!(wrong("script s --program kv").contains("unexpected argument '--program'"));
    for cpus in ["two", "-1", "99999999999999999999", "1.5"] {
        let refused = wrong(&format!("run --cpus {cpus}"));
        assert!(refused.ends_with(": a guest has 1 to 16 processors; write one of these numbers"), "{refused}");
    }
}

#[test]
fn host_of_the_line_wins_over_the_file_and_commands_without_a_script_take_none() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"on = 'hosted'").expect("written");
    let config = format!("--config {}", file.path().display());
    let on = |text: &str| match line(text) {
        Ok(Command::Run(args)) => args.resolve().expect("valid").0.on,
        Ok(Command::Script(args)) => args.resolve().expect("valid").on,
        Ok(Command::Doctor(args)) => args.resolve().expect("valid").on,
        other => panic!("{other:?}"),
    };
    assert_eq!((on("run"), on("run --on all")), (On::Kvm, On::All));
    assert_eq!((on(&format!("run {config}")), on(&format!("script - {config}"))), (On::Hosted, On::Hosted));
    assert_eq!(on(&format!("script - {config} --on fake")), On::Fake);
    assert_eq!(on(&format!("doctor {config}")), On::Kvm);
    assert!(wrong("run --on xen").contains("[possible values: kvm, hosted, fake, all]"));
}

#[test]
fn processors_of_a_file_are_for_hosts_that_have_some() {
    let vcpus = |file: &str, text: &str| {
        let mut config = tempfile::NamedTempFile::new().expect("a file");
        config.write_all(file.as_bytes()).expect("written");
        match line(&format!("run --config {} {text}", config.path().display())) {
            Ok(Command::Run(args)) => {
                args.resolve().map(|(options, _)| options.vcpus).map_err(|error| error.to_string())
            }
            other => panic!("{other:?}"),
        }
    };
    for line in ["", "--on kvm", "--on all"] {
        assert_eq!(vcpus("cpus = 4", line), Ok(Some(4)), "{line}");
    }
    for line in ["--on hosted", "--on fake"] {
        assert_eq!(vcpus("cpus = 4", line), Ok(None), "{line}");
        assert!(vcpus("cpus = 4", &format!("{line} --cpus 4")).expect_err("none").contains("has no processors"));
        assert!(vcpus("cpus = 17", line).expect_err("too many").contains("17 is not possible"));
    }
    assert_eq!(vcpus("cpus = 4\non = 'hosted'", ""), Ok(None));
    assert!(vcpus("on = 'fake'", "--cpus 1").expect_err("none").contains("has no processors"));
}

#[test]
fn other_commands_take_theirs() {
    assert!(matches!(line("script - --memory 64M --json"), Ok(Command::Script(args)) if args.output.json));
    assert!(matches!(line("doctor --memory 64M --json -v"), Ok(Command::Doctor(args)) if args.memory.is_some()));
    let ramfile = line("ramfile f --page 3 --count 2 --json");
    assert!(
        matches!(&ramfile, Ok(Command::Ramfile(args)) if (args.page, args.count, args.output.json) == (Some(3), 2, true)),
        "{ramfile:?}"
    );
    assert!(matches!(line("programs --json"), Ok(Command::Programs(args)) if args.output.json));
    let bench = line("bench boot --json --quick");
    assert!(matches!(bench, Ok(Command::Bench(BenchArgs { what: Bench::Boot(_) }))), "{bench:?}");
}

#[test]
fn benchmarks_say_where_their_findings_go() {
    let measured = |text: &str| match line(&format!("bench {text}")) {
        Ok(Command::Bench(args)) => args.what.measured().map(|(which, args)| (which, args.clone())).expect("measured"),
        other => panic!("{other:?}"),
    };
    let (which, args) = measured("wire --quick --filter 4K --json w.json --html w.html --svg plots");
    assert_eq!((which, args.quick, args.filter.as_deref()), (Which::Wire, true, Some("4K")));
    assert_eq!((args.json, args.html, args.svg), (Some("w.json".into()), Some("w.html".into()), Some("plots".into())));
    // Neither a file nor nothing: the document is printed.
    for text in ["all --json", "all --json -", "all --json --quick"] {
        let (which, args) = measured(text);
        assert!(which == Which::All && args.prints_json() && args.output().json, "{text}: {args:?}");
    }
    assert!(!measured("sync --json s.json").1.output().json);
    assert!(wrong("bench sync --cpus 2").contains("unexpected argument '--cpus'"));
}

#[test]
fn threshold_of_a_comparison_is_a_percentage() {
    let threshold = |text: &str| match line(&format!("bench compare a.json b.json {text}")) {
        Ok(Command::Bench(BenchArgs { what: Bench::Compare(args) })) => args.threshold,
        other => panic!("{other:?}"),
    };
    assert!((threshold("") - 10.0).abs() < 1e-9 && (threshold("--threshold 2.5%") - 2.5).abs() < 1e-9);
    assert!(wrong("bench compare a b --threshold -1").contains("'-1' is not a percentage"));
    assert!(wrong("bench compare a b --threshold NaN").contains("is not a percentage"));
    assert!(wrong("bench compare a").contains("required arguments were not provided: <B.json>"));
}

#[test]
fn mistakes_are_one_sentence() {
    assert!(wrong("run --memroy 64M").contains("unexpected argument '--memroy' found; tip:"));
    let key = wrong("run --memory sise=1M");
    assert!(key.ends_with("unknown key 'sise'; the keys are size, file, durability and folio"), "{key}");
    assert!(wrong("run -v -q").contains("cannot be used with"));
    assert!(wrong("run --json --quiet").contains("cannot be used with"));
    assert!(wrong("script").contains("required arguments were not provided: <FILE>"));
    assert!(wrong("ramfile").contains("required arguments were not provided: <FILE>"));
    assert!(wrong("ramfile f --count 2").contains("required arguments were not provided: --page <N>"));
    assert!(wrong("run --on-storage-error panic").contains("[possible values: stop, latch]"));
    assert!(wrong("run --wire-quota 5X").contains("'X' is not a size suffix"));
    assert!(wrong("").starts_with("nothing to do"));
    assert!(wrong("bench").starts_with("nothing to do"));
}

#[test]
fn help_groups_options_and_lists_exit_codes() {
    let words = ["wirevm", "run", "--help"].map(Into::into);
    let Err(ArgsError::Asked(help)) = parse(words) else { panic!("no help") };
    let help = help.to_string();
    for part in ["\nMachine:\n", "\nLimits:\n", "\nOutput:\n", "\n  15  script syntax wrong", "--wire-quota <SIZE>"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}
