//! The cases, a benchmark a file.

pub mod boot;
pub mod call;
pub mod fault;
pub mod footprint;
mod guest_wire;
mod metered;
pub mod pressure;
pub mod scale;
pub mod sync;
pub mod wire;

use std::time::Duration;

use super::document::{Case, Goal, GoalOf, Part, Point, Side, float};
use super::host_side::Spent;
use super::sample::Pairs;
use super::statistics::{quantiles, ratio};

/// Begins a case.
fn case(bench: &str, name: &str, title: &str) -> Case {
    Case {
        bench: bench.to_owned(),
        name: name.to_owned(),
        title: title.to_owned(),
        conditions: String::new(),
        unit: "ns".to_owned(),
        operations: 1,
        bytes: 0,
        ours: side("wirevm", Vec::new()),
        limit: None,
        ratio: None,
        goal: None,
        split: Vec::new(),
        point: None,
    }
}

fn side(what: &str, samples: Vec<u64>) -> Side {
    Side { what: what.to_owned(), quantiles: quantiles(&samples), samples }
}

/// What is added to a case, word by word.
trait Describe: Sized {
    fn conditions(self, text: &str) -> Self;
    /// Each sample is so many operations on so many bytes in all.
    fn of(self, operations: u64, bytes: u64) -> Self;
    /// Ours and the limit, by what they are called.
    fn pairs(self, ours: &str, limit: &str, pairs: Pairs) -> Self;
    /// Ours alone.
    fn alone(self, ours: &str, samples: Vec<u64>) -> Self;
    fn goal(self, of: GoalOf, at_most: f64) -> Self;
    fn part(self, name: &str, value: f64, unit: &str) -> Self;
    /// What all samples of ours took, the one in front of those that are kept included. Behind ours and the limit.
    fn spent(self, spent: Spent) -> Self;
    /// A count that may not exceed something.
    fn count(self, name: &str, value: f64, unit: &str, at_most: f64) -> Self;
    fn at(self, plot: &str, x: f64, unit: &str) -> Self;
}

impl Describe for Case {
    fn conditions(mut self, text: &str) -> Self {
        text.clone_into(&mut self.conditions);
        self
    }

    fn of(mut self, operations: u64, bytes: u64) -> Self {
        (self.operations, self.bytes) = (operations.max(1), bytes);
        self
    }

    fn pairs(mut self, ours: &str, limit: &str, pairs: Pairs) -> Self {
        self.ratio = ratio(&pairs.ours, &pairs.limit);
        (self.ours, self.limit) = (side(ours, pairs.ours), Some(side(limit, pairs.limit)));
        self
    }

    fn alone(mut self, ours: &str, samples: Vec<u64>) -> Self {
        self.ours = side(ours, samples);
        self
    }

    fn goal(mut self, of: GoalOf, at_most: f64) -> Self {
        self.goal = Some(Goal { of, at_most });
        self
    }

    fn part(mut self, name: &str, value: f64, unit: &str) -> Self {
        self.split.push(Part { name: name.to_owned(), value, unit: unit.to_owned(), at_most: None });
        self
    }

    fn spent(self, spent: Spent) -> Self {
        let operations = float(self.operations * (self.ours.quantiles.count + 1));
        let one = |time: Duration| time.as_secs_f64() * 1e9 / operations;
        let services = spent.whole.saturating_sub(spent.kernel);
        let limit = self.limit.as_ref().map(|limit| limit.quantiles.mean / float(self.operations));
        let case = self.part("system calls", one(spent.kernel), "ns").part("services", one(services), "ns");
        match limit {
            // What is left when all that is wirevm's own took no time.
            Some(limit) if limit > 0.0 => case.part("ratio of the system calls alone", one(spent.kernel) / limit, ""),
            _ => case,
        }
    }

    fn count(mut self, name: &str, value: f64, unit: &str, at_most: f64) -> Self {
        self.split.push(Part { name: name.to_owned(), value, unit: unit.to_owned(), at_most: Some(at_most) });
        self
    }

    fn at(mut self, plot: &str, x: f64, unit: &str) -> Self {
        self.point = Some(Point { plot: plot.to_owned(), x, unit: unit.to_owned() });
        self
    }
}

/// Shows a size in the words of case names: `4K`, `2M`, `1G`.
fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}G", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ => format!("{}K", bytes >> 10),
    }
}
