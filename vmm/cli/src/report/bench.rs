//! What a benchmark tells its user.

use serde::Serialize;

use super::json::pretty;
use super::table::{Align, Column, grouped, table};

/// One number that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// The number; `None` where this host can't tell.
    pub value: Option<u64>,
    /// What it counts, such as `instructions`, `ns` or `bytes`.
    pub unit: String,
    /// The number that it should not exceed.
    pub at_most: Option<u64>,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BenchReport {
    /// Name of the benchmark.
    pub benchmark: String,
    /// How many vCPUs the guest has.
    pub vcpus: u32,
    /// The numbers.
    pub measurements: Vec<Measurement>,
}

impl BenchReport {
    /// Returns the report as a table below what it is about. A number above what it should not exceed is marked with `!`.
    #[must_use]
    pub fn text(&self) -> String {
        let columns = [
            Column { heading: "measured", align: Align::Left, widest: 60 },
            Column { heading: "value", align: Align::Right, widest: 30 },
            Column { heading: "unit", align: Align::Left, widest: 20 },
            Column { heading: "at most", align: Align::Right, widest: 30 },
        ];
        let rows: Vec<_> = self.measurements.iter().map(row).collect();
        let name = &self.benchmark;
        format!("  benchmark  {name}\n  vCPUs      {}\n\n{}", self.vcpus, table(&columns, &rows))
    }

    /// Returns the report as a JSON document.
    ///
    /// # Errors
    /// As [`serde_json::to_string_pretty`].
    pub fn document(&self) -> Result<String, serde_json::Error> {
        pretty(self)
    }
}

fn row(measurement: &Measurement) -> [String; 4] {
    let Measurement { name, value, unit, at_most } = measurement;
    let exceeds = value.zip(*at_most).is_some_and(|(value, most)| value > most);
    let shown = value.map_or_else(|| "not countable here".to_owned(), grouped);
    let mark = if exceeds { "!" } else { "" };
    [name.clone(), format!("{mark}{shown}"), unit.clone(), at_most.map(grouped).unwrap_or_default()]
}

#[cfg(test)]
mod test {
    use super::{BenchReport, Measurement};

    fn report() -> BenchReport {
        let number = |name: &str, value, unit: &str, at_most| Measurement {
            name: name.into(),
            value,
            unit: unit.into(),
            at_most,
        };
        BenchReport {
            benchmark: "boot".into(),
            vcpus: 2,
            measurements: vec![
                number("guest instructions to ready", Some(60_001), "instructions", Some(60_000)),
                number("time to ready", Some(1_234_567), "ns", None),
                number("resident memory", None, "bytes", Some(8 << 20)),
            ],
        }
    }

    #[test]
    fn numbers_stand_in_columns_and_excess_is_marked() {
        let expected = "  benchmark  boot
  vCPUs      2

  measured                                  value  unit            at most
  guest instructions to ready             !60,001  instructions     60,000
  time to ready                         1,234,567  ns
  resident memory              not countable here  bytes         8,388,608
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn document_holds_the_numbers_as_they_are() {
        let document: serde_json::Value =
            serde_json::from_str(&report().document().expect("a document")).expect("JSON");
        assert_eq!((&document["benchmark"], &document["vcpus"]), (&"boot".into(), &2.into()));
        assert_eq!(document["measurements"][0]["value"], 60_001);
        assert_eq!(document["measurements"][2]["value"], serde_json::Value::Null);
    }
}
