use super::draw::LONGEST;
use super::operation::{Operation, Where};
use super::state::Rules;
use super::{Looks, Model, script};

fn steps(operations: &[Operation]) -> Vec<String> {
    let mut model = Model::new(0x10000, Rules::default());
    operations.iter().filter_map(|operation| model.step(operation)).flatten().collect()
}

#[test]
fn failed_wire_changes_nothing_and_is_predicted_by_the_first_page_that_fails() {
    let all = Where::pages(0, 8);
    let lines = steps(&[
        Operation::Allocate(0, Where::pages(0, 4)),
        Operation::Wire(0, Where::pages(1, 2), 1, false),
        Operation::Wire(0, all, 0, false),
        Operation::Wire(0, all, 3, false),
        Operation::Unwire(0, all, 1),
        Operation::Unwire(0, all, 3),
        Operation::Unwire(0, Where::pages(0, 4), 0),
        Operation::Unwire(0, all, 0),
    ]);
    assert_eq!(
        lines,
        [
            "allocate 4 pages at w+0 pages",
            "wire w[1,2) user",
            "wire w[0,8) => INVALID_ADDRESS",
            "wire w[0,8) user holesok",
            "unwire w[0,8) user => INVALID_ADDRESS",
            "unwire w[0,8) user holesok",
            "unwire w[0,4) => INVALID_ARGUMENT",
            "unwire w[0,8) => any",
        ]
    );
}

#[test]
fn child_sees_its_own_copy_and_both_see_what_is_shared() {
    let lines = steps(&[
        Operation::NewObject(true, 2),
        Operation::Map { task: 0, at: 0, object: 0, from: 0, pages: 2, private: false, prot: 3 },
        Operation::Map { task: 0, at: 2, object: 0, from: 0, pages: 2, private: true, prot: 3 },
        Operation::Fork(0),
        Operation::Write(1, Where::pages(0, 1), 0x99),
        Operation::Write(1, Where::pages(3, 4), 0x98),
        Operation::Read(0, 0),
        Operation::Read(0, 2),
        Operation::Read(0, 3),
        Operation::Read(1, 3),
    ]);
    assert_eq!(
        lines[4..],
        [
            "write c1.w[0,1) 0x99",
            "write c1.w[3,4) 0x98",
            "read w[0,1) => 0x99",
            "read w[2,3) => 0x99",
            "read w[3,4) => 0x11",
            "read c1.w[3,4) => 0x98",
        ]
    );
}

#[test]
fn system_wiring_is_never_deallocated_for_that_would_block() {
    let all = Where::pages(0, 1);
    let operations = [Operation::Allocate(0, all), Operation::Wire(0, all, 0, false), Operation::Deallocate(0, all)];
    assert!(!script(0, &operations, Rules::default(), Looks::Often).contains("deallocate w["));
}

#[test]
#[ignore = "prints what sequences consist of, for whoever changes their generator"]
fn statistics() {
    use std::collections::BTreeMap;

    use proptest::strategy::ValueTree;

    use super::batch::Plan;

    let plan = Plan {
        host: "fake",
        sequences: 2000,
        batch: 0,
        seed: 1,
        rules: Rules::default(),
        longest: LONGEST,
        looks: Looks::Often,
    };
    let (mut lines, mut kinds) = (0, BTreeMap::<String, usize>::new());
    for number in 0..plan.sequences {
        let script = plan.script(&plan.tree(number).current());
        lines += script.lines().count();
        for line in script.lines() {
            let words: Vec<&str> = line.split(" => ").collect();
            let word = words[0].split(' ').find(|word| !word.contains(['.', '='])).unwrap_or("");
            let shows = ["layout", "page-wc", "read", "residents", "host", "wire-total"].contains(&word);
            let result = if shows { "" } else { words.get(1).copied().unwrap_or("SUCCESS") };
            *kinds.entry(format!("{word} {result}")).or_default() += 1;
        }
    }
    println!("{} lines a sequence", lines / plan.sequences);
    kinds.iter().for_each(|(kind, count)| println!("{count:6} {kind}"));
}
