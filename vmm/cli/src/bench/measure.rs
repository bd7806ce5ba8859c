//! A run of benchmarks, from what is asked for to the document.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use wirevm_devices::ramfile::durable_file_system;

use super::BenchError;
use super::case;
use super::document::{About, Document, SCHEMA, Skipped};
use super::guest::{Guest, Setup};
use super::plan::{Context, Planned};
use super::progress::Progress;
use crate::args::{BenchMeasureArgs, Which};
use crate::doctor::temporary_folders;
use crate::exit_code::{CommandError, ExitCode};
use crate::session;

/// RAM of the guest that tells what KVM is like.
const PROBE_BYTES: u64 = 16 << 20;

/// Measures what is asked for. A case that can't be measured here is left out, with the reason; one that fails is told of in the document.
///
/// # Errors
/// [`CommandError`] when nothing is asked for, or the folder can't be used.
pub fn measure(which: Which, args: &BenchMeasureArgs) -> Result<Document, CommandError> {
    let planned = plan(which, args)?;
    let mut context = context(args)?;
    let kvm = kvm_kind(&mut context)?;
    let about = About::this_host(&context.folder, args.quick, kvm);
    let mut document = Document { schema: SCHEMA, about, cases: Vec::new(), skipped: Vec::new(), failed: Vec::new() };
    let progress = Progress::new(planned.len(), !args.quiet && io::stderr().is_terminal());
    for Planned { name, measure } in planned {
        progress.begin(&name);
        match measure(&context) {
            Ok(case) => document.cases.push(case),
            Err(BenchError::Skip(reason)) => document.skipped.push(Skipped { name, reason }),
            Err(BenchError::Failed(error)) => {
                document.failed.push(Skipped { name, reason: error.to_string() });
            }
        }
        progress.done();
    }
    Ok(document)
}

/// Returns the cases that are asked for.
fn plan(which: Which, args: &BenchMeasureArgs) -> Result<Vec<Planned>, CommandError> {
    let quick = args.quick;
    let of = |one: Which| match one {
        Which::Wire => case::wire::cases(quick),
        Which::Sync => case::sync::cases(quick),
        Which::Call => case::call::cases(),
        Which::Boot => case::boot::cases(),
        Which::Fault => case::fault::cases(),
        Which::Pressure => case::pressure::cases(quick),
        Which::Scale => case::scale::cases(),
        Which::Footprint => case::footprint::cases(),
        Which::All => Vec::new(),
    };
    let mut planned: Vec<Planned> = match which {
        Which::All => Which::EACH.into_iter().flat_map(of).collect(),
        one => of(one),
    };
    if let Some(text) = &args.filter {
        planned.retain(|planned| planned.name.contains(text));
        if planned.is_empty() {
            return Err(CommandError::new(ExitCode::Config, format!("no case has '{text}' in its name")));
        }
    }
    Ok(planned)
}

/// Looks at what there is to measure with.
fn context(args: &BenchMeasureArgs) -> Result<Context, CommandError> {
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => first_durable().unwrap_or_else(std::env::temp_dir),
    };
    if let Err(error) = tempfile::tempfile_in(&folder) {
        let reason = format!("no file can be made in the folder '{}': {error}", folder.display());
        return Err(CommandError::new(ExitCode::Config, reason));
    }
    let not_durable = durable_file_system(&folder).err().map(|error| error.to_string());
    let no_kvm = session::kvm_usable().err();
    Ok(Context {
        quick: args.quick,
        kernel: args.kernel.clone(),
        pin: args.pin.unwrap_or_default(),
        folder,
        not_durable,
        no_kvm,
    })
}

fn first_durable() -> Option<PathBuf> {
    let usable = |folder: &Path| durable_file_system(folder).is_ok() && tempfile::tempfile_in(folder).is_ok();
    temporary_folders().into_iter().find(|folder| usable(folder))
}

/// Boots a guest to see what KVM is like; where that fails, there is none to measure with.
fn kvm_kind(context: &mut Context) -> Result<Option<String>, CommandError> {
    if context.no_kvm.is_some() {
        return Ok(None);
    }
    let setup = Setup { ram_bytes: PROBE_BYTES, durable: false, vcpus: 1, programs: Vec::new() };
    let probed = Guest::start(context, &setup).and_then(|guest| {
        let kvm = guest.report.kvm.clone();
        guest.end().map(|()| kvm)
    });
    match probed {
        Ok(kvm) => Ok(kvm),
        Err(BenchError::Skip(reason)) => {
            context.no_kvm = Some(reason);
            Ok(None)
        }
        Err(BenchError::Failed(error)) => Err(error),
    }
}
