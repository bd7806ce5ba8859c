//! Making a failing sequence small.

use proptest::strategy::ValueTree;

use super::batch::{Disagreement, Plan, says};

/// Most runs of a single sequence that shrinking takes.
const RUNS: usize = 600;

/// Runs a sequence by itself and, if it fails, shrinks it: the numbers of its operations, then line by line. `None` when it
/// does not fail by itself.
#[must_use]
pub fn shrink(plan: &Plan, number: usize) -> Option<Disagreement> {
    let mut tree = plan.tree(number);
    let judge = |script: &str| {
        let finished = plan.carry_out(script);
        (finished.code == Some(1)).then(|| says(&finished)).or_else(|| {
            // Anything but a met or unmet expectation, such as a panic, counts as well; a script that is none does not.
            (!matches!(finished.code, Some(0 | 15))).then(|| says(&finished))
        })
    };
    let first = plan.script(&tree.current());
    let mut best = Disagreement { number, says: judge(&first)?, script: first };
    let mut shorter = tree.simplify();
    for _ in 0..RUNS {
        if !shorter {
            break;
        }
        let script = plan.script(&tree.current());
        // Many numbers stand for the same script.
        let fails = if script == best.script { Some(best.says.clone()) } else { judge(&script) };
        shorter = match fails {
            Some(says) => {
                best = Disagreement { number, script, says };
                tree.simplify()
            }
            None => tree.complicate(),
        };
    }
    Some(best)
}
