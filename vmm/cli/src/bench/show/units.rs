//! Numbers as people read them: three digits in the unit that suits.

use crate::report::grouped_digits;

/// Shows an amount with three digits: `1.20 µs`, `1.50 MiB`, `4 KiB`, `31,337 instructions`.
#[must_use]
pub fn amount(value: f64, unit: &str) -> String {
    match unit {
        "ns" => scaled(value, &TIMES, digits),
        "bytes" => scaled(value, &SIZES, |value| trimmed(&digits(value)).to_owned()),
        "" => number(value),
        unit => format!("{} {unit}", number(value)),
    }
}

/// As [`amount`], without zeros that say nothing: a place on an axis, such as `1 µs`.
#[must_use]
pub fn mark(value: f64, unit: &str) -> String {
    match unit {
        "ns" => scaled(value, &TIMES, |value| trimmed(&digits(value)).to_owned()),
        "bytes" => amount(value, unit),
        _ => number(value),
    }
}

/// Shows a ratio with two places behind the point, and with three digits where those would be none: `1.09`, `0.00412`, `118`.
#[must_use]
pub fn ratio(value: f64) -> String {
    if value >= 0.1 || value == 0.0 { digits(value) } else { rounded(value).to_string() }
}

/// Shows a number that counts something: whole ones with `,` between groups of three digits, others with three digits.
#[must_use]
pub fn number(value: f64) -> String {
    if value.abs() >= 1000.0 || value.fract() == 0.0 {
        grouped(&format!("{value:.0}"))
    } else {
        trimmed(&digits(value)).to_owned()
    }
}

/// Shows a change as a percentage with its sign: `+3.1 %`, `−12 %`.
#[must_use]
pub fn change(fraction: f64) -> String {
    let percent = fraction * 100.0;
    let size = percent.abs();
    let shown = if size < 9.95 { format!("{size:.1}") } else { grouped(&format!("{size:.0}")) };
    let sign = if percent < 0.0 && shown != "0.0" { '−' } else { '+' };
    format!("{sign}{shown} %")
}

const TIMES: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
const SIZES: [(f64, &str); 5] =
    [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "bytes")];

fn scaled(value: f64, units: &[(f64, &str)], show: impl Fn(f64) -> String) -> String {
    // 999.6 of a unit is 1.00 of the next.
    let fits = units.iter().find(|(unit, _)| rounded(value / unit).abs() >= 1.0).or_else(|| units.last());
    fits.map_or_else(String::new, |(unit, name)| format!("{} {name}", show(value / unit)))
}

/// Rounds to three digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// Shows three digits, or all of a whole number if those are more.
fn digits(value: f64) -> String {
    let shown = [2, 1].map(|places| format!("{value:.places$}"));
    let fits = |text: &&String| text.chars().filter(char::is_ascii_digit).count() <= 3;
    shown.iter().find(fits).cloned().unwrap_or_else(|| grouped(&format!("{value:.0}")))
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

fn grouped(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    format!("{sign}{}", grouped_digits(digits))
}

#[cfg(test)]
mod test {
    use super::{amount, change, mark, number, ratio};

    #[test]
    fn times_have_three_digits_in_the_unit_that_suits() {
        let times = [0.0, 0.25, 7.5, 999.4, 999.6, 1_000.0, 12_345.0, 999_950.0, 1.5e6, 6.1e10, 4e12];
        let shown = times.map(|time| amount(time, "ns"));
        let expected = [
            "0.00 ns", "0.25 ns", "7.50 ns", "999 ns", "1.00 µs", "1.00 µs", "12.3 µs", "1.00 ms", "1.50 ms", "61.0 s",
            "4,000 s",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn sizes_have_no_zeros_that_say_nothing() {
        let shown = [0.0, 1.0, 4096.0, 5000.0, 1_572_864.0, 1_073_741_824.0].map(|size| amount(size, "bytes"));
        assert_eq!(shown, ["0 bytes", "1 bytes", "4 KiB", "4.88 KiB", "1.5 MiB", "1 GiB"]);
    }

    #[test]
    fn counts_are_grouped_and_name_their_unit() {
        assert_eq!(amount(31_337.0, "instructions"), "31,337 instructions");
        assert_eq!(amount(1.0, ""), "1");
        assert_eq!([0.5, 2.25, 1234.5, -1e6].map(number), ["0.5", "2.25", "1,234", "-1,000,000"]);
    }

    #[test]
    fn marks_of_an_axis_are_short() {
        assert_eq!([200.0, 1_000.0, 2_500_000.0].map(|time| mark(time, "ns")), ["200 ns", "1 µs", "2.5 ms"]);
        assert_eq!([1.0, 16.0, 1000.0].map(|count| mark(count, "vCPUs")), ["1", "16", "1,000"]);
    }

    #[test]
    fn ratios_and_changes_say_what_can_be_told() {
        assert_eq!(
            [0.0, 1.0, 1.094, 12.34, 118.4, 0.004_12].map(ratio),
            ["0.00", "1.00", "1.09", "12.3", "118", "0.00412"]
        );
        let shown = [0.0, 0.031, -0.1234, 0.0996, -0.000_01, 15.0].map(change);
        assert_eq!(shown, ["+0.0 %", "+3.1 %", "−12 %", "+10 %", "+0.0 %", "+1,500 %"]);
    }
}
