//! What is going to be measured.

use std::path::PathBuf;

use super::BenchError;
use super::document::Case;
use crate::config::Pin;

/// What every case may need to know.
#[derive(Clone, Debug)]
pub struct Context {
    /// Fewer and smaller samples.
    pub quick: bool,
    /// Guest image; the built-in one if none.
    pub kernel: Option<PathBuf>,
    /// How the host holds wired pages.
    pub pin: Pin,
    /// Folder for RAM files.
    pub folder: PathBuf,
    /// Why RAM files there can't be durable, if they can't.
    pub not_durable: Option<String>,
    /// Why there is no virtual machine, if there can be none.
    pub no_kvm: Option<String>,
}

/// Measures one case.
pub type Measure = Box<dyn FnOnce(&Context) -> Result<Case, BenchError>>;

/// A case before it is measured.
pub struct Planned {
    /// Its name, as in [`Case::name`].
    pub name: String,
    /// Measures it.
    pub measure: Measure,
}

impl Planned {
    /// Plans a case.
    pub fn new(name: impl Into<String>, measure: impl FnOnce(&Context) -> Result<Case, BenchError> + 'static) -> Self {
        Self { name: name.into(), measure: Box::new(measure) }
    }
}

impl Context {
    /// Lets a case go on that needs syncs.
    ///
    /// # Errors
    /// [`BenchError::Skip`] where nothing is durable.
    pub fn need_durable(&self) -> Result<(), BenchError> {
        self.not_durable.clone().map_or(Ok(()), |reason| Err(BenchError::Skip(reason)))
    }

    /// Lets a case go on that needs a guest.
    ///
    /// # Errors
    /// [`BenchError::Skip`] where there is no KVM.
    pub fn need_kvm(&self) -> Result<(), BenchError> {
        self.no_kvm.clone().map_or(Ok(()), |reason| Err(BenchError::Skip(reason)))
    }
}
