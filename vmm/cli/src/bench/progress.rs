//! How far a run is, for whoever waits for it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over all cases, with the name of the one that is measured, on standard error. It is drawn on a terminal only, and only when
/// something changes: nothing runs beside a measurement.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts a bar over `total` cases; nothing is ever drawn unless `shown`.
    #[must_use]
    pub fn new(total: usize, shown: bool) -> Self {
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = ProgressStyle::with_template("  {bar:24} {pos:>3} of {len}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
        Self { bar }
    }

    /// Says what is measured next.
    pub fn begin(&self, name: &str) {
        self.bar.set_message(name.to_owned());
        self.bar.tick();
    }

    /// Says that it has been measured.
    pub fn done(&self) {
        self.bar.inc(1);
        self.bar.tick();
    }
}

impl Drop for Progress {
    /// Leaves no trace on the terminal.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod test {
    use super::Progress;

    #[test]
    fn cases_are_counted_whether_or_not_they_are_shown() {
        let progress = Progress::new(2, false);
        assert!(progress.bar.is_hidden());
        progress.begin("one");
        progress.done();
        progress.begin("two");
        assert_eq!((progress.bar.position(), progress.bar.message()), (1, "two".to_owned()));
        progress.done();
        assert_eq!((progress.bar.position(), progress.bar.length()), (2, Some(2)));
    }
}
