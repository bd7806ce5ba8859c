//! Logarithmic axes: the same distance is the same ratio.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;

use super::super::super::document::float;

/// A logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    pixels: (i32, i32),
}

/// Marks within ten, from few to many.
const MARKS: [&[f64]; 6] = [
    &[1.0],
    &[1.0, 3.0],
    &[1.0, 2.0, 5.0],
    &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
    &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
    &[
        1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 8.5, 9.0,
        9.5,
    ],
];

/// Least that an axis shows: what is 0 stands at its end.
const LEAST: f64 = 1e-6;

impl Axis {
    /// Makes an axis on which all of `values` have a place, with a part of them more at both ends; 1 is on it if there is none.
    #[must_use]
    pub fn over(values: impl Iterator<Item = f64>, pixels: (i32, i32)) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).map(|value| value.max(LEAST)).collect();
        let low = values.iter().copied().reduce(f64::min).unwrap_or(1.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(1.0);
        let room = (high / low).powf(0.06).max(1.08);
        Self { low: low / room, high: high * room, pixels }
    }

    /// Returns where a value is; beyond an end, that end.
    #[must_use]
    pub fn at(&self, value: f64) -> i32 {
        let range = RangedCoordf64::from(self.low.log10()..self.high.log10());
        range.map(&value.clamp(self.low, self.high).log10(), self.pixels)
    }

    /// Tells whether a value has a place between the ends.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Returns the values to mark: round ones, as many as there may be.
    #[must_use]
    pub fn marks(&self, most: usize) -> Vec<f64> {
        let all = MARKS.iter().rev().map(|within| self.marked(within));
        let mut few = all.skip_while(|marks| marks.len() > most);
        let mut marks = few.next().unwrap_or_else(|| self.marked(&[1.0]));
        if marks.len() > most {
            let each = marks.len().div_ceil(most.max(1));
            marks = marks.into_iter().step_by(each).collect();
        }
        marks
    }

    fn marked(&self, within: &[f64]) -> Vec<f64> {
        let mut marks = Vec::new();
        let mut power = -6;
        while 10_f64.powi(power) <= self.high {
            marks.extend(within.iter().map(|mark| mark * 10_f64.powi(power)).filter(|mark| self.holds(*mark)));
            power += 1;
        }
        marks
    }
}

/// Returns a count of pixels for an item among several.
#[must_use]
pub fn pixels(item: usize, each: i32) -> i32 {
    i32::try_from(item).unwrap_or(i32::MAX).saturating_mul(each)
}

/// Returns the value of one operation.
#[must_use]
pub fn each(value: u64, operations: u64) -> f64 {
    float(value) / float(operations.max(1))
}

#[cfg(test)]
mod test {
    use super::Axis;

    #[test]
    fn the_same_ratio_is_the_same_distance() {
        let axis = Axis::over([1.0, 100.0].into_iter(), (0, 1000));
        let [one, ten, hundred] = [1.0, 10.0, 100.0].map(|value| axis.at(value));
        assert!((ten - one - (hundred - ten)).abs() <= 1, "{one} {ten} {hundred}");
        assert!(one > 0 && hundred < 1000, "{one} {hundred}");
        assert_eq!((axis.at(0.0), axis.at(1e9)), (0, 1000));
        assert!(axis.holds(50.0) && !axis.holds(1e9));
    }

    #[test]
    fn marks_are_round_and_as_many_as_fit() {
        let rounded = |marks: Vec<f64>| marks.iter().map(|mark| format!("{mark:.2}")).collect::<Vec<_>>().join(" ");
        let wide = Axis::over([1.0, 1e6].into_iter(), (0, 1000));
        assert_eq!(rounded(wide.marks(8)), "1.00 10.00 100.00 1000.00 10000.00 100000.00 1000000.00");
        let narrow = Axis::over([0.95, 1.4].into_iter(), (0, 1000));
        assert_eq!(rounded(narrow.marks(10)), "0.90 0.95 1.00 1.10 1.20 1.30 1.40 1.50");
    }

    #[test]
    fn nothing_and_zeros_have_an_axis() {
        assert!(Axis::over([].into_iter(), (0, 10)).holds(1.0));
        let axis = Axis::over([0.0].into_iter(), (0, 10));
        assert_eq!(axis.at(0.0), 0);
    }
}
