//! Where and when something was measured, in rows.

use super::super::document::{About, float};
use super::units::amount;

/// Returns names and values, in the order in which they are shown.
#[must_use]
pub fn rows(about: &About) -> Vec<(&'static str, String)> {
    let revision = about.revision.as_ref().map_or_else(String::new, |revision| format!(", revision {revision}"));
    let cpus = if about.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", about.cpus) };
    let quick = about.quick.then(|| "quick: fewer and smaller samples than for figures to quote".to_owned());
    let rows = [
        ("wirevm", Some(format!("{}{revision}", about.version))),
        ("date", Some(about.date.clone())),
        ("command", Some(about.command.clone())),
        ("host", Some(format!("{}, {cpus}, {}", about.processor, amount(float(about.memory_bytes), "bytes")))),
        ("kernel", Some(about.kernel.clone())),
        ("RAM files", Some(about.file_system.clone())),
        ("KVM", Some(about.kvm.clone().unwrap_or_else(|| "none".to_owned()))),
        ("samples", quick),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
