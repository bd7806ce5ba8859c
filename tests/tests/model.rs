//! Random sequences of operations on all hosts, against a naive model of tasks and memory.
//!
//! `WIREVM_MODEL_SEQUENCES` sets how many sequences there are in all, `WIREVM_MODEL_SEED` the seed, which every run prints.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use wirevm_tests::model::batch::{Disagreement, Plan};
use wirevm_tests::model::draw::LONGEST;
use wirevm_tests::model::{Looks, Rules};
use wirevm_tests::needs::scratch;
use wirevm_tests::{Case, Need, Suite};

/// Sequences of a run, over all hosts, unless the environment says otherwise.
const SEQUENCES: usize = 100_000;
/// The seed unless the environment says otherwise: a change is judged by the same sequences as the one before it.
const SEED: u64 = 1;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and not a number")))
}

fn seed() -> u64 {
    number("WIREVM_MODEL_SEED").unwrap_or(SEED)
}

/// Runs a host's share, in thousandths, of all sequences.
fn agree(host: &'static str, thousandths: usize, batch: usize) {
    let all = number("WIREVM_MODEL_SEQUENCES").map_or(SEQUENCES, |all| usize::try_from(all).expect("a count"));
    let sequences = (all * thousandths).div_ceil(1000);
    // Where KVM emulates ring 0, a line with the check behind it takes some 20 ms.
    let (looks, longest) = if host == "kvm" { (Looks::Once, 12) } else { (Looks::Often, LONGEST) };
    let plan = Plan { host, sequences, batch, seed: seed(), rules: Rules::default(), longest, looks };
    let began = Instant::now();
    eprintln!("model: {sequences} sequences on {host}, WIREVM_MODEL_SEED={}", plan.seed);
    if let Err(one) = plan.run() {
        let Disagreement { number, script, says } = *one;
        let path = scratch().join(format!("model-{host}-{}-{number}.wvm", plan.seed));
        std::fs::write(&path, &script).expect("a file for the script");
        panic!(
            "sequence {number} of WIREVM_MODEL_SEED={} comes to something else on {host}; \
             the smallest script found is {}:\n{script}\nwirevm says:\n{says}",
            plan.seed,
            path.display()
        );
    }
    eprintln!("model: {sequences} sequences on {host} agree, {:.1} s", began.elapsed().as_secs_f64());
}

/// Checks that a model which breaks a rule is found out within few sequences, and by a short script.
fn is_caught(rules: Rules) {
    let plan =
        Plan { host: "fake", sequences: 600, batch: 100, seed: seed(), rules, longest: LONGEST, looks: Looks::Often };
    let one = plan.run().expect_err("a wrong model must be found out");
    const LOOKS: [&str; 7] = ["expect", "read", "layout", "page-wc", "residents", "wire-total", "host"];
    let is_look = |line: &&str| LOOKS.iter().any(|word| line.starts_with(word));
    let lines = one.script.lines().filter(|line| !is_look(line)).count();
    assert!(lines <= 20, "{lines} operations are no small script:\n{}", one.script);
}

const CASES: &[Case] = &[
    ("random_sequences_on_fake_agree_with_the_model", &[], || agree("fake", 953, 500)),
    ("random_sequences_on_hosted_agree_with_the_model", &[], || agree("hosted", 45, 250)),
    ("random_sequences_on_kvm_agree_with_the_model", &[Need::Kvm], || agree("kvm", 2, 50)),
    ("model_where_user_wirings_nest_is_caught", &[], || {
        is_caught(Rules { user_wirings_nest: true, ..Rules::default() });
    }),
    ("model_where_failed_wires_stay_is_caught", &[], || {
        is_caught(Rules { failed_wires_stay: true, ..Rules::default() });
    }),
    ("model_where_forks_share_everything_is_caught", &[], || {
        is_caught(Rules { forks_share_all: true, ..Rules::default() });
    }),
];

fn main() -> ExitCode {
    Suite::new().cases(CASES).run()
}
