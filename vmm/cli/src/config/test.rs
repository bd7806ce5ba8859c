use super::error::MemoryError;
use super::{Config, ConfigError, MachineOptions, MemoryConfig, OnStorageError, Pin, Size};
use crate::hosts::On;
use std::io::Write;
use std::time::Duration;
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;

fn memory(text: &str) -> Result<MemoryConfig, String> {
    text.parse().map_err(|error: MemoryError| error.to_string())
}

fn read(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    Config::read(file.path()).map_err(|error| error.to_string().replace(&file.path().display().to_string(), "F"))
}

fn check(memory: &str) -> Result<MachineOptions, String> {
    let memory = memory.parse().expect("readable");
    Config { memory, ..Config::default() }.check().map_err(|error| error.to_string())
}

#[test]
fn memory_keys_come_in_any_order_and_size_may_stand_bare() {
    let all = memory("size=64M,file=guest.ram,durability=shared").expect("all keys");
    assert_eq!((all.size, all.file.as_deref()), (Some(Size(64 << 20)), Some("guest.ram".as_ref())));
    assert_eq!(all.durability, Some(Durability::Shared));
    assert_eq!(memory("file=guest.ram,durability=shared,size=64M"), Ok(all.clone()));
    assert_eq!(memory("64M,file=guest.ram,durability=shared"), Ok(all));
    assert_eq!(memory("file=a=b").map(|m| m.file), Ok(Some("a=b".into())));
}

#[test]
fn memory_mistakes_are_told_in_a_sentence() {
    let cases = [
        ("sise=1M", "unknown key 'sise'; the keys are size, file, durability and folio"),
        ("file=a,64M", "unknown key '64M'; the keys are size, file, durability and folio"),
        ("", "unknown key ''; the keys are size, file, durability and folio"),
        ("size", "'size' has no value; write size=VALUE"),
        ("64M,file=", "'file' has no value; write file=VALUE"),
        ("size=64X", "'X' is not a size suffix; use K, M, G or T (KiB, MiB, GiB and TiB are the same, B is bytes)"),
        ("size=1M,size=2M", "duplicate field `size`"),
        ("folio=huge", "unknown folio policy 'huge': expected small-sync, balanced or bulk"),
        ("durability=full", "unknown durability 'full': expected none, shared or atomic"),
    ];
    for (text, error) in cases {
        assert_eq!(memory(text), Err(error.to_owned()), "{text}");
    }
}

#[test]
fn sizes_that_no_machine_has_are_refused_with_their_number() {
    assert_eq!(check("size=0"), Err("guest memory must not be 0 bytes; the smallest size is 2 MiB".into()));
    assert_eq!(check("19M"), Err("guest memory must be a multiple of 2 MiB; 19 MiB is not".into()));
    assert_eq!(check("4097"), Err("guest memory must be a multiple of 2 MiB; 4097 bytes is not".into()));
    assert_eq!(check("8T"), Err("guest memory of 8 TiB is more than the 8388606 MiB that KVM takes".into()));
    assert_eq!(check("8388606M").map(|options| options.memory.size_bytes), Ok(Some((8 << 40) - (2 << 20))));
    assert_eq!(check("2M").map(|options| options.memory.size_bytes), Ok(Some(2 << 20)));
    assert!(check("durability=atomic").expect_err("reserved").contains("choose shared or none"));
}

#[test]
fn folio_is_read_from_both_and_refused_beside_durability_none() {
    let policy = |options: MachineOptions| options.memory.folio;
    assert_eq!(check("64M").map(policy), Ok(None));
    for name in ["small-sync", "balanced", "bulk"] {
        let expected = Ok(name.parse().ok());
        assert_eq!(check(&format!("folio={name}")).map(policy), expected);
        assert_eq!(check(&format!("file=f,folio={name},durability=shared")).map(policy), expected);
        assert_eq!(read(&format!("[memory]\nfolio = '{name}'")).map(|config| config.memory.folio), expected);
        let refused = check(&format!("durability=none,folio={name}")).expect_err("no promise");
        assert!(refused.starts_with(&format!("folio={name} is about")) && refused.ends_with("leave one of them out"));
    }
    // The command line wins.
    let line = memory("folio=bulk").expect("readable");
    let both = line.or(MemoryConfig { folio: Some(FolioPolicy::Balanced), ..MemoryConfig::default() });
    assert_eq!(both.folio, Some(FolioPolicy::Bulk));
}

#[test]
fn quota_and_timeout_are_checked() {
    let check = |config: Config| config.check().map_err(|error| error.to_string());
    let quota = |bytes| Config { wire_quota: Some(Size(bytes)), ..Config::default() };
    assert_eq!(check(quota(4095)), Err("the wire quota must be a multiple of 4 KiB; 4095 bytes is not".into()));
    assert_eq!(check(quota(0)).map(|options| options.wire_quota_bytes), Ok(Some(0)));
    let timeout = |seconds| Config { timeout: Some(seconds), ..Config::default() }.check();
    assert_eq!(timeout(0.25).expect("a quarter").timeout, Some(Duration::from_millis(250)));
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
        assert!(matches!(timeout(seconds), Err(ConfigError::Timeout { .. })), "{seconds}");
    }
}

#[test]
fn processors_are_1_to_16_and_only_where_there_is_a_machine() {
    let check = |on, cpus| {
        let config = Config { on: Some(on), cpus: Some(cpus), ..Config::default() };
        config.check().map(|options| options.vcpus).map_err(|error| error.to_string())
    };
    assert_eq!((check(On::Kvm, 1), check(On::All, 16)), (Ok(Some(1)), Ok(Some(16))));
    for cpus in [0, 17, u64::MAX] {
        assert_eq!(check(On::Kvm, cpus), Err(format!("a guest has 1 to 16 processors; {cpus} is not possible")));
    }
    assert_eq!(check(On::Hosted, 2), Err("--on hosted has no processors of its own; leave cpus out".into()));
    assert_eq!(read("cpus = 4").map(|config| config.cpus), Ok(Some(4)));
    assert!(read("cpus = -1").expect_err("negative").contains("line 1: invalid value"), "{:?}", read("cpus = -1"));
    let program = read("\nprograms = ['hallo']").expect_err("unknown");
    assert!(program.contains("line 2: there is no built-in program 'hallo'"), "{program}");
}

#[test]
fn store_quota_is_checked_and_needs_a_folder() {
    let check = |store: Option<&str>, quota: Option<u64>| {
        let config = Config { store: store.map(Into::into), store_quota: quota.map(Size), ..Config::default() };
        let store = config.check().map_err(|error| error.to_string())?.store;
        Ok::<_, String>(store.map(|store| (store.folder.display().to_string(), store.quota_bytes)))
    };
    assert_eq!(check(None, None), Ok(None));
    assert_eq!(check(Some("d"), None), Ok(Some(("d".into(), 64 << 20))));
    assert_eq!(check(Some("d"), Some(0)), Ok(Some(("d".into(), 0))));
    assert_eq!(
        check(Some("d"), Some(4095)),
        Err("the store quota must be a multiple of 4 KiB; 4095 bytes is not".into())
    );
    let error = check(None, Some(4096)).expect_err("no folder");
    assert_eq!(error, "a store quota of 4 KiB means nothing without a folder for stores; name one with --store DIR");
}

#[test]
fn file_has_the_same_keys_and_the_command_line_wins() {
    let file = read(
        "kernel = 'k.elf'\ntimeout = 30\nwire-quota = '8M'\non-storage-error = 'latch'\npin = 'runs'\nscript = 's.wvm'\n\
         store = 'd'\nstore-quota = '1M'\n[memory]\nsize = 67108864\ndurability = 'none'",
    )
    .expect("a configuration");
    let cli = Config { timeout: Some(1.5), memory: memory("128M").expect("a size"), ..Config::default() };
    let merged = cli.or(file);
    assert_eq!(merged.script, Some("s.wvm".into()));
    let options = merged.check().expect("valid");
    assert_eq!(options.kernel, Some("k.elf".into()));
    assert_eq!(options.memory.size_bytes, Some(128 << 20));
    assert_eq!(options.memory.durability, Some(Durability::None));
    assert_eq!(options.wire_quota_bytes, Some(8 << 20));
    assert_eq!(options.store.map(|store| store.quota_bytes), Some(1 << 20));
    assert_eq!(options.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(options.on_storage_error, OnStorageError::Latch);
    assert_eq!(options.pin, Pin::Runs);
    let given = Config { pin: Some(Pin::View), ..Config::default() };
    assert_eq!(given.or(Config { pin: Some(Pin::Runs), ..Config::default() }).pin, Some(Pin::View));
    assert_eq!(Config::default().check().expect("valid").pin, Pin::Auto);
}

#[test]
fn file_mistakes_are_told_with_their_line() {
    let unknown = read("\nkernle = 'x'").expect_err("unknown key");
    assert!(unknown.starts_with("'F' is not a valid configuration: line 2: unknown field `kernle`"), "{unknown}");
    assert!(unknown.contains("`wire-quota`"), "{unknown}");
    let value = read("[memory]\nsize = '5X'").expect_err("no size");
    assert!(value.contains("line 2: 'X' is not a size suffix"), "{value}");
    let negative = read("[memory]\nsize = -1").expect_err("no size");
    assert!(negative.contains("can't be negative"), "{negative}");
    let broken = read("kernel = ").expect_err("no value");
    assert!(!broken.contains('\n'), "{broken}");
    assert!(matches!(Config::read("/no/such.toml".as_ref()), Err(ConfigError::Read { .. })));
}

#[test]
fn host_with_a_ram_or_no_image_of_its_own_takes_none() {
    let check = |on, memory: &str, kernel: Option<&str>| {
        let kernel = kernel.map(Into::into);
        let config = Config { on: Some(on), memory: memory.parse().expect("readable"), kernel, ..Config::default() };
        config.check().map(|options| options.on).map_err(|error| error.to_string())
    };
    for on in [On::Fake, On::All] {
        let error = check(on, "8M,file=a.ram", None).expect_err("a file");
        assert_eq!(
            error,
            format!("--on {on} gives each host a fresh RAM of its own, so no RAM file can be named; leave 'a.ram' out")
        );
    }
    for on in [On::Hosted, On::Fake] {
        let error = check(on, "8M", Some("k.elf")).expect_err("an image");
        assert_eq!(error, format!("--on {on} boots no guest image; leave 'k.elf' out"));
    }
    assert_eq!(check(On::Hosted, "8M,file=a.ram", None), Ok(On::Hosted));
    assert_eq!(check(On::All, "8M", Some("k.elf")), Ok(On::All));
    assert_eq!(read("on = 'all'").map(|config| config.on), Ok(Some(On::All)));
    assert!(read("on = 'xen'").expect_err("unknown").contains("unknown variant `xen`"));
}
