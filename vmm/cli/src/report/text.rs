//! The report as people read it.

use std::fmt::Write;

use wirevm_devices::folio::FolioPolicy;

use super::table::{Align, Column, duration, grouped, table};
use super::{MachineReport, RunReport};
use crate::exit_code::ExitCode;
use crate::script::run::StepReport;
use crate::size::Bytes;
use crate::visible::visible;

/// Returns the report as a header, a table and a footer.
#[must_use]
pub fn text(report: &RunReport) -> String {
    let mut text = header(&report.machine);
    if !report.steps.is_empty() {
        text.push('\n');
        text.push_str(&operations(&report.steps));
    }
    text.push('\n');
    text.push_str(&footer(report));
    text
}

pub(super) fn header(machine: &MachineReport) -> String {
    let boot = match machine.boot_instructions {
        Some(instructions) => format!("{} instructions, {}", grouped(instructions), duration(machine.boot_time)),
        None => duration(machine.boot_time),
    };
    let (host, guest) = match &machine.kvm {
        Some(kvm) => (("KVM", kvm.clone()), format!("{}, ready after {boot}", machine.kernel)),
        None => (("host", machine.host.description().to_owned()), machine.kernel.clone()),
    };
    let rows = [
        host,
        ("guest", guest),
        ("RAM", format!("{} in {}", Bytes(machine.ram_bytes), machine.ram_place)),
        ("durability", machine.durability.clone()),
        ("wire quota", Bytes(machine.wire_quota_bytes).to_string()),
    ];
    let mut text = String::new();
    let stores = machine
        .store
        .as_ref()
        .map(|store| ("stores", format!("{}, up to {}", store.folder.display(), Bytes(store.quota_bytes))));
    // Neither the default nor one processor needs saying.
    let folio = machine.folio.filter(|folio| *folio != FolioPolicy::default());
    let folio = folio.map(|folio| ("folios", format!("{folio}: up to {}", Bytes(folio.most_bytes()))));
    let vcpus = machine.vcpus.filter(|vcpus| *vcpus > 1).map(|vcpus| ("vCPUs", vcpus.to_string()));
    let pin = machine.pin.as_ref().map(|pin| ("pin", pin.clone()));
    for (name, value) in rows.into_iter().chain(pin).chain(folio).chain(vcpus).chain(stores) {
        writeln!(text, "  {name:<10}  {}", visible(&value)).unwrap_or_default();
    }
    for note in &machine.notes {
        writeln!(text, "  note: {}", visible(note)).unwrap_or_default();
    }
    text
}

fn operations(steps: &[StepReport]) -> String {
    let columns = [
        Column { heading: "line", align: Align::Right, widest: 9 },
        Column { heading: "operation", align: Align::Left, widest: 40 },
        Column { heading: "guest's result", align: Align::Left, widest: 40 },
        Column { heading: "host's truth", align: Align::Left, widest: 40 },
        Column { heading: "time", align: Align::Right, widest: 9 },
    ];
    let rows: Vec<_> = steps.iter().map(row).collect();
    table(&columns, &rows)
}

fn row(step: &StepReport) -> [String; 5] {
    // An answer of the host is the host's truth; the guest has no part in it.
    let (guest, host) = if step.asks_host {
        (String::new(), answer(step))
    } else {
        (step.result.clone(), step.host_truth.clone().unwrap_or_default())
    };
    let failed = if step.ok { "" } else { "!" };
    [format!("{failed}{}", step.line), step.text.clone(), guest, host, duration(step.elapsed)]
}

/// Adds to a bare number what it counts.
fn answer(step: &StepReport) -> String {
    let counted = ["locked", "resident", "dirty"].into_iter().find(|word| {
        let mut words = step.text.split_whitespace();
        words.next() == Some("host") && words.next() == Some(word)
    });
    match counted {
        Some(word) if step.result.parse::<u64>().is_ok() => format!("{} {word}", step.result),
        _ => step.result.clone(),
    }
}

pub(super) fn footer(report: &RunReport) -> String {
    let (met, all) = (report.steps.iter().filter(|step| step.ok).count(), report.steps.len());
    let ending = &report.ending;
    match (&ending.error, ending.exit) {
        (None, ExitCode::Ok) => format!("  {all} operations of {}, all as expected\n", report.script),
        (None, exit) => format!("  failed: {}\n", exit.meaning()),
        // The whole of it, registers and all, stands on standard error.
        (Some(error), _) => {
            let error = visible(error.lines().next().unwrap_or_default());
            format!("  {met} of {all} operations as expected; failed: {error}\n")
        }
    }
}

#[cfg(test)]
mod test {
    use super::super::test::report;
    use super::{FolioPolicy, text};
    use crate::script::run::End;

    const GOOD: &str = "  KVM         API 12
  guest       built in, ready after 31,337 instructions, 12.3 ms
  RAM         64 MiB in a temporary file in /var/tmp (ext4)
  durability  shared
  wire quota  8 MiB
  pin         view

  line  operation             guest's result         host's truth     time
     5  a = allocate 8 pages  0x10000000                            308 µs
     6  wire a[2,4) user      SUCCESS                2 locked       444 µs
     8  layout a              [0,2)0 [2,4)1U [4,8)0                 789 µs
    12  host locked                                  2 locked      1.77 ms
   104  sync a synchronous    SUCCESS                0 dirty        133 ms

  5 operations of demo.wvm, all as expected
";

    const BAD_END: &str = "  !105  wire a user           INVALID_ADDRESS        2 locked       136 ms

  5 of 6 operations as expected; failed: demo.wvm:105: 'wire a user' was expected to give SUCCESS and gave INVALID_ADDRESS
";

    #[test]
    fn report_of_a_good_run_is_a_table() {
        assert_eq!(text(&report(End::Completed)), GOOD);
    }

    #[test]
    fn report_of_a_mismatch_marks_its_line_and_ends_with_it() {
        let shown = text(&report(End::Mismatch));
        assert!(shown.ends_with(BAD_END), "{shown}");
    }

    #[test]
    fn report_of_a_machine_with_a_file_names_it_and_gives_notes() {
        let mut report = report(End::Completed);
        report.steps.clear();
        report.machine.ram_file = Some("guest.ram".into());
        report.machine.ram_place = "guest.ram (ext4)".into();
        report.machine.boot_instructions = None;
        report.machine.folio = Some(FolioPolicy::Balanced);
        report.machine.notes = vec!["sync answers unsupported".into()];
        let shown = text(&report);
        assert!(shown.contains("  RAM         64 MiB in guest.ram (ext4)\n"), "{shown}");
        assert!(shown.contains("ready after 12.3 ms\n"), "{shown}");
        assert!(
            shown.contains("  wire quota  8 MiB\n  pin         view\n  folios      balanced: up to 64 KiB\n"),
            "{shown}"
        );
        assert!(shown.contains("  note: sync answers unsupported\n\n  0 operations"), "{shown}");
    }
}
