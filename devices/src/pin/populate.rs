//! Reading a run in: small runs at once, large ones in slices on several CPUs.

use std::io;
use std::sync::Arc;

use crate::folio::FolioPolicy;
use crate::page_run::PageRun;
use crate::pin::crew::{Crew, Slices};
use crate::pin::read_ahead::{needs_reading, read_ahead};
use crate::sys;
use crate::view::View;

/// Reads runs of a view in.
#[derive(Debug)]
pub(super) struct Populate {
    view: Arc<View>,
    crew: Crew,
}

impl Populate {
    /// Lets as many threads read as there are CPUs for.
    pub(super) fn new(view: Arc<View>) -> Self {
        Self::with_crew(view, Crew::new())
    }

    /// Lets that many threads read, the caller's included.
    pub(super) fn with_threads(view: Arc<View>, threads: usize) -> Self {
        Self::with_crew(view, Crew::with_threads(threads))
    }

    fn with_crew(view: Arc<View>, crew: Crew) -> Self {
        // The kernel's own read-ahead takes its larger folios for one reader of one run.
        let is_one_reader = view.folio() == Some(FolioPolicy::Bulk);
        Self { view, crew: if is_one_reader { Crew::with_threads(1) } else { crew } }
    }

    /// Faults all of a run in for reading, on this thread and as many more as may help. Dirties nothing.
    ///
    /// # Errors
    /// The first error that a slice met, by time; the rest is then not read in.
    pub(super) fn run(&self, run: PageRun) -> io::Result<()> {
        let view = Arc::clone(&self.view);
        let populate = |view: &View, slice| sys::populate_read(view.addresses_of(slice).map_err(io::Error::other)?);
        if needs_reading(&view, run) {
            return self.crew.each_slice(run, Slices::Large, move |slice| {
                read_ahead(&view, slice);
                populate(&view, slice)
            });
        }
        self.crew.each_slice(run, Slices::Even, move |slice| populate(&view, slice))
    }
}
