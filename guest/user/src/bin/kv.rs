//! A small durable key-value log in the store `kv`: `kv N` puts N values, `kv get KEY` and `kv list` show what is there.
//!
//! Put number `n` gives key `k<n modulo 512>` a value that follows from `n`, so that what is found can be verified. `synced M` is
//! printed when put `M`, and all before it, are stable.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use wirevm_abi::StoreName;
use wirevm_user::log::{Log, Storage};
use wirevm_user::{Args, ArgsError, KernReturn, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, entry, println};

entry!(run);

/// Pages of the store; a half of them holds all keys several times over.
const PAGES: usize = 64;
/// Keys that are put in turn.
const KEYS: u64 = 512;
/// Bytes of a value that this program puts.
const VALUE_BYTES: usize = 100;

/// Mapped memory, as what the log stands in.
struct Mapped {
    region: Region,
    /// A store is behind it; what is synced stays.
    is_store: bool,
}

impl Storage for Mapped {
    type Error = KernReturn;

    fn len(&self) -> usize {
        self.region.len()
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.region.read(offset, to);
    }

    fn write(&mut self, offset: usize, from: &[u8]) {
        self.region.write(offset, from);
    }

    fn sync(&mut self, offset: usize, bytes: usize) -> Result<(), KernReturn> {
        if self.is_store { self.region.sync(offset, bytes) } else { Ok(()) }
    }
}

/// What is to be done.
enum Order {
    Get(&'static str),
    List,
    Put(u64),
}

fn run(args: Args) -> u8 {
    // Before anything is opened: a store that is opened is there from then on.
    let order = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("kv: {error}; usage: kv N | kv get KEY | kv list");
            return 2;
        }
    };
    let mapped = match map() {
        Ok(mapped) => mapped,
        Err((what, error)) => {
            println!("kv: {what}: {error}");
            return 1;
        }
    };
    let is_store = mapped.is_store;
    let log = Log::open(mapped);
    match order {
        Order::Get(key) => get(&log, key),
        Order::List => list(&log),
        Order::Put(count) => put(log, count, if is_store { "synced" } else { "put" }),
    }
}

fn read(args: &Args) -> Result<Order, ArgsError> {
    let (order, end) = match args.get(1) {
        Some("get") => (Order::Get(args.text(2, "the key to get")?), 3),
        Some("list") => (Order::List, 2),
        _ => (Order::Put(args.number(1, "number of values to put")?), 2),
    };
    args.end(end)?;
    Ok(order)
}

/// Maps the store, or memory in its place.
fn map() -> Result<Mapped, (&'static str, KernReturn)> {
    let pages = PAGES as u64;
    let opening = |error| ("the store 'kv' can't be opened (it may be in use)", error);
    let store = StoreName::new("kv").map_err(|_| opening(KernReturn::INVALID_ARGUMENT))?;
    let object = match Object::open(ObjectKind::Store(store), pages) {
        Ok(object) => object,
        Err(KernReturn::FAILURE) => {
            println!("kv: there is no store, so what is put is gone when this program ends");
            let region = Region::allocate(PAGES * PAGE_BYTES).map_err(|error| ("no memory in its place", error))?;
            return Ok(Mapped { region, is_store: false });
        }
        Err(error) => return Err(opening(error)),
    };
    let region = Region::map(&object, 0, pages, Prot::READ_WRITE, Mode::Shared)
        .map_err(|error| ("the store 'kv' can't be mapped", error))?;
    Ok(Mapped { region, is_store: true })
}

/// Returns the key and the value of a put.
fn pair(number: u64) -> (String, String) {
    let mut value = String::with_capacity(VALUE_BYTES);
    while value.len() < VALUE_BYTES {
        value.push_str(&format!("value {number} "));
    }
    value.truncate(VALUE_BYTES);
    (format!("k{}", number % KEYS), value)
}

fn get(log: &Log<Mapped>, key: &str) -> u8 {
    match log.get(key.as_bytes()) {
        Some(entry) => {
            println!("{key} = {} (put {})", String::from_utf8_lossy(&entry.value), entry.sequence);
            0
        }
        None => {
            println!("kv: there is no key {key}");
            1
        }
    }
}

fn list(log: &Log<Mapped>) -> u8 {
    for (key, entry) in log.iter() {
        println!("{} put {}, {} bytes", String::from_utf8_lossy(key), entry.sequence, entry.value.len());
    }
    0
}

/// Puts so many values; `done` says of each what has become of it.
fn put(mut log: Log<Mapped>, count: u64, done: &str) -> u8 {
    if log.last() == 0 {
        println!("kv: found no records");
    } else {
        let last = log.last();
        println!("kv: found {} records, last key {} (put {last})", log.records(), pair(last).0);
        let wrong = log.iter().find(|(key, entry)| {
            let (own_key, value) = pair(entry.sequence);
            own_key.as_bytes() != *key || value.as_bytes() != entry.value
        });
        if let Some((key, entry)) = wrong {
            println!("kv: the value of {} (put {}) is wrong", String::from_utf8_lossy(key), entry.sequence);
            return 1;
        }
        println!("kv: {} keys verified", log.iter().count());
    }
    for _ in 0..count {
        let (key, value) = pair(log.last() + 1);
        match log.put(key.as_bytes(), value.as_bytes()) {
            Ok(number) => println!("{done} {number}"),
            Err(error) => {
                println!("kv: put {} failed: {error}", log.last() + 1);
                return 1;
            }
        }
    }
    println!("kv: put {count} values, the last is {}", log.last());
    0
}
