//! What is found after the power was cut, and after bytes have changed.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::convert::Infallible;

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

use super::format::RECORD_BYTES;
use super::{Log, LogError, Storage};
use crate::random::Random;

/// What a power cut may write or not write of a range: a disk's smallest piece.
const SECTOR_BYTES: usize = 512;

/// Storage with a cache in front of it.
#[derive(Clone, Debug)]
struct Disk {
    cached: Vec<u8>,
    stable: Vec<u8>,
    /// Syncs that may still succeed.
    syncs_left: usize,
}

impl Disk {
    fn new(bytes: usize) -> Self {
        Self { cached: vec![0; bytes], stable: vec![0; bytes], syncs_left: usize::MAX }
    }

    /// Cuts the power: of what was not synced, each sector is there or is not, as the seed says.
    fn cut(mut self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        for (cached, stable) in self.cached.chunks_mut(SECTOR_BYTES).zip(self.stable.chunks_mut(SECTOR_BYTES)) {
            if random.below(2) == 0 {
                stable.copy_from_slice(cached);
            }
            cached.copy_from_slice(stable);
        }
        self.syncs_left = usize::MAX;
        self
    }
}

#[derive(Debug, PartialEq, Eq, Clone)]
struct Refused;

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("refused")
    }
}

impl Storage for &mut Disk {
    type Error = Refused;

    fn len(&self) -> usize {
        self.cached.len()
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.cached[offset..offset + to.len()]);
    }

    fn write(&mut self, offset: usize, from: &[u8]) {
        self.cached[offset..offset + from.len()].copy_from_slice(from);
    }

    fn sync(&mut self, offset: usize, bytes: usize) -> Result<(), Refused> {
        self.syncs_left = self.syncs_left.checked_sub(1).ok_or(Refused)?;
        let range = offset..offset + bytes;
        let Disk { cached, stable, .. } = &mut **self;
        stable[range.clone()].copy_from_slice(&cached[range]);
        Ok(())
    }
}

/// Bytes without a cache.
struct Plain(Vec<u8>);

impl Storage for &Plain {
    type Error = Infallible;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0[offset..offset + to.len()]);
    }
    fn write(&mut self, _: usize, _: &[u8]) {
        unreachable!("nothing is put");
    }
    fn sync(&mut self, _: usize, _: usize) -> Result<(), Infallible> {
        Ok(())
    }
}

type State = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

fn state<S: Storage>(log: &Log<S>) -> State {
    log.iter().map(|(key, entry)| (key.to_vec(), (entry.sequence, entry.value.clone()))).collect()
}

fn puts() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let value =
        prop_oneof![3 => collection::vec(any::<u8>(), 0..40), 1 => (0_usize..300).prop_map(|length| vec![7; length])];
    collection::vec((0_u8..8, value), 0..60)
}

/// Returns what is current after each number of puts.
fn states(puts: &[(u8, Vec<u8>)]) -> Vec<State> {
    let mut states = vec![State::new()];
    for ((key, value), sequence) in puts.iter().zip(1..) {
        let mut state = states.last().cloned().unwrap_or_default();
        state.insert(vec![*key], (sequence, value.clone()));
        states.push(state);
    }
    states
}

/// Puts until a sync fails; returns how many came back as stable.
fn put_all(disk: &mut Disk, puts: &[(u8, Vec<u8>)]) -> usize {
    let mut log = Log::open(disk);
    let before = usize::try_from(log.last()).expect("few");
    for (index, (key, value)) in puts.iter().enumerate().skip(before) {
        match log.put(&[*key], value) {
            Ok(sequence) => assert_eq!(sequence, index as u64 + 1),
            Err(LogError::Sync(Refused)) => {
                assert_eq!(log.put(&[*key], value), Err(LogError::Latched));
                return index;
            }
            Err(LogError::Latched) => panic!("no sync has failed before"),
            Err(LogError::Full) => panic!("eight keys of 300 bytes at most fit in a half"),
        }
    }
    puts.len()
}

proptest! {
    #[test]
    fn log_after_a_power_cut_has_all_that_was_synced_and_no_half_put(
        puts in puts(), syncs in 0_usize..80, cuts in collection::vec(any::<u64>(), 1..4)
    ) {
        let states = states(&puts);
        let mut disk = Disk::new(12 << 10);
        let mut synced = 0;
        for cut in cuts {
            disk.syncs_left = syncs;
            let now = put_all(&mut disk, &puts);
            prop_assert!(now >= synced);
            synced = now;
            disk = disk.cut(cut);
            let found = Log::open(&mut disk);
            let last = usize::try_from(found.last()).expect("few");
            // One more than was synced may have come through.
            prop_assert!((synced..=(synced + 1).min(puts.len())).contains(&last), "{synced} synced, {last} found");
            prop_assert_eq!(&state(&found), &states[last]);
            synced = last;
        }
        disk.syncs_left = usize::MAX;
        prop_assert_eq!(put_all(&mut disk, &puts), puts.len());
        prop_assert_eq!(&state(&Log::open(&mut disk)), &states[puts.len()]);
    }

    #[test]
    fn log_with_any_byte_changed_or_cut_off_is_a_prefix(
        puts in puts(), places in collection::vec((any::<proptest::sample::Index>(), 1_u8..), 1..12), is_cut in any::<bool>()
    ) {
        // One generation, so that every prefix of the records is what once was current.
        let mut disk = Disk::new(64 << 10);
        prop_assert_eq!(put_all(&mut disk, &puts), puts.len());
        let states = states(&puts);
        let start = disk.stable.len() / 2;
        let end = (start..disk.stable.len()).rev().find(|at| disk.stable[*at] != 0).unwrap_or(start) + 1;
        for (place, change) in places {
            let mut bytes = disk.stable.clone();
            let at = start + place.index(end - start);
            if is_cut { bytes[at..].fill(0) } else { bytes[at] ^= change }
            let plain = Plain(bytes);
            let found = Log::open(&plain);
            let last = usize::try_from(found.last()).expect("few");
            prop_assert_eq!(&state(&found), &states[last]);
        }
    }

    #[test]
    fn log_of_any_bytes_opens(bytes in collection::vec(any::<u8>(), 0..400)) {
        let plain = Plain(bytes);
        prop_assert_eq!(Log::open(&plain).last(), 0);
    }
}

#[test]
fn log_collects_what_is_current_when_a_half_is_full() {
    let mut disk = Disk::new(4096);
    for run in 0..4 {
        let mut log = Log::open(&mut disk);
        assert_eq!(log.last(), run * 100);
        for put in run * 100 + 1..=run * 100 + 100 {
            assert_eq!(log.put(format!("k{}", put % 7).as_bytes(), put.to_string().as_bytes()), Ok(put));
        }
    }
    let log = Log::open(&mut disk);
    let values: Vec<_> = log.iter().map(|(_, entry)| String::from_utf8(entry.value.clone()).expect("digits")).collect();
    assert_eq!(values, ["399", "400", "394", "395", "396", "397", "398"]);
    assert!(log.generation() > 2 && log.records() >= 7);
}

#[test]
fn log_that_is_full_says_so_and_stays() {
    let mut disk = Disk::new(1024);
    let mut log = Log::open(&mut disk);
    let mut put = 0;
    while log.put(&[put], &[put; 50]).is_ok() {
        put += 1;
    }
    assert!((4..8).contains(&put), "{put} records of 72 bytes in 512");
    assert_eq!(log.put(&[put], &[put; 50]), Err(LogError::Full));
    assert_eq!(log.put(b"k", &[0; 0x1_0000]), Err(LogError::Full));
    assert_eq!(log.get(&[put - 1]).map(|entry| entry.value.clone()), Some(vec![put - 1; 50]));
    let before = state(&log);
    assert_eq!(state(&Log::open(&mut disk)), before);
}

/// A put that was told to be stable behind a sync that failed would be lost: the header of the next generation, which is in
/// memory, can be written back at any time.
#[test]
fn log_that_could_not_be_synced_takes_nothing_more() {
    // The two syncs of the put that begins the next generation, and the one of a record: each may be the one that fails.
    for syncs in 0..3 {
        let mut disk = Disk::new(1024);
        let mut log = Log::open(&mut disk);
        let mut puts = 0;
        while log.generation() < 1 || log.end + 72 <= log.half_bytes() {
            puts += 1;
            assert_eq!(log.put(b"k", &[7; 50]), Ok(puts));
        }
        log.storage.syncs_left = syncs;
        assert_eq!(log.put(b"k", &[8; 50]), Err(LogError::Sync(Refused)));
        log.storage.syncs_left = usize::MAX;
        // It would fit into the old half.
        assert!(log.end + RECORD_BYTES + 8 <= log.half_bytes());
        assert_eq!(log.put(b"s", b"v"), Err(LogError::Latched));
        assert_eq!(log.get(b"k").map(|entry| (entry.sequence, entry.value.clone())), Some((puts, vec![7; 50])));
        drop(log);
        // The kernel writes back what is in memory.
        disk.stable = disk.cached.clone();
        let mut log = Log::open(&mut disk);
        let found = log.last();
        assert!((puts..=puts + 1).contains(&found), "{found} of {puts}");
        assert_eq!(log.put(b"s", b"v"), Ok(found + 1), "a log that is opened again goes on");
    }
}
