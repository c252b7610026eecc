//! The program, run in Rust against maps in memory, and the rule beside it, for tests and the
//! fuzzer. It stands for the kernel; no packet of a real network comes here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    assemble::{self, Numbers, XDP_PASS, XDP_REDIRECT},
    rule::{self, Budget, PLACE_BYTES, Shape, Tally},
};
use crate::{
    ebpf::{
        function,
        machine::{self, Kernel, Memory},
    },
    steer::Key,
    sys::bpf::Instruction,
};

/// Made-up descriptors.
pub(super) const NUMBERS: Numbers =
    Numbers { places: 11, slots: 12, sources: 13, totals: 14, counters: 15 };

/// Maps in memory and a clock that stands still until it is set.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) places: BTreeSet<[u8; PLACE_BYTES]>,
    pub(super) slots: BTreeSet<u32>,
    pub(super) now_ns: u64,
    sources: BTreeMap<Vec<u8>, Vec<u8>>,
    total: Vec<u8>,
    counters: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Values that the program holds pointers to: map, key, address.
    lent: Vec<(i32, Vec<u8>, u64)>,
    redirected_to: Option<u32>,
}

/// What the program said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: i32,
    pub(super) slot: Option<u32>,
}

impl Host {
    pub(super) fn run(&mut self, program: &[Instruction], packet: &[u8], queue: u32) -> Answer {
        self.redirected_to = None;
        let mut memory = Memory::new(packet, queue);
        let verdict = machine::run(program, &mut memory, self) as i32;
        // What the program wrote through pointers goes back to the maps.
        for (map, key, address) in std::mem::take(&mut self.lent) {
            let size = if map == NUMBERS.counters { 8 } else { 16 };
            let value = memory.read(address, size).to_vec();
            match map {
                map if map == NUMBERS.sources => drop(self.sources.insert(key, value)),
                map if map == NUMBERS.totals => self.total = value,
                _ => drop(self.counters.insert(key, value)),
            }
        }
        Answer { verdict, slot: self.redirected_to }
    }

    /// How many packets met a fate.
    pub(super) fn count(&self, tally: Tally) -> u64 {
        let value = self.counters.get(&(tally as u32).to_le_bytes()[..]);
        value.and_then(|value| value.first_chunk()).map_or(0, |value| u64::from_le_bytes(*value))
    }

    fn look_up(&mut self, map: i32, key: Vec<u8>, memory: &mut Memory<'_>) -> u64 {
        let value = match map {
            map if map == NUMBERS.sources => match self.sources.get(&key) {
                Some(value) => value.clone(),
                None => return 0,
            },
            map if map == NUMBERS.totals && self.total.is_empty() => vec![0; 16],
            map if map == NUMBERS.totals => self.total.clone(),
            _ => self.counters.get(&key).cloned().unwrap_or(vec![0; 8]),
        };
        let address = memory.add_value(&value);
        self.lent.push((map, key, address));
        address
    }
}

impl Kernel for Host {
    fn call(&mut self, number: i32, arguments: [u64; 5], memory: &mut Memory<'_>) -> u64 {
        let [map, key, third, ..] = arguments;
        let map = map as i32;
        match number {
            function::KTIME => self.now_ns,
            function::MAP_LOOKUP if map == NUMBERS.places => {
                let key = memory.read(key, PLACE_BYTES);
                if self.places.contains(key) { memory.add_value(&[1, 0, 0, 0]) } else { 0 }
            }
            function::MAP_LOOKUP => {
                let size = if map == NUMBERS.sources { 16 } else { 4 };
                let key = memory.read(key, size).to_vec();
                self.look_up(map, key, memory)
            }
            function::MAP_UPDATE => {
                assert_eq!(map, NUMBERS.sources, "only sources are added");
                let value = memory.read(third, 16).to_vec();
                self.sources.insert(memory.read(key, 16).to_vec(), value);
                0
            }
            function::REDIRECT_MAP => {
                let slot = key as u32;
                if !self.slots.contains(&slot) {
                    return third;
                }
                self.redirected_to = Some(slot);
                XDP_REDIRECT as u64
            }
            number => unreachable!("the program calls no function {number}"),
        }
    }
}

/// Runs one input through the rule and through the program, which must agree on verdict, slot and
/// what is counted. For the fuzzer; panics where something differs.
pub fn fuzz_program(input: &[u8]) {
    let Some((seed, packet)) = input.split_first_chunk::<4>() else { return };
    let [shards, key, queue, filled] = *seed;
    let n = u16::from(shards % 4);
    let shards = (n > 1).then(|| (n, Key::new(u64::from(key) << 8 | 0x0305)));
    let shape = Shape { queues: 4, frame_bytes_max: 1_518, shards };
    let queue = u32::from(queue % 4);
    let mut host = Host::default();
    let looked = rule::look(packet, shape);
    // Every other input meets an open place: guessing twenty bytes is not what is tested.
    if let Ok(ours) = looked
        && filled & 1 == 1
    {
        host.places.insert(ours.place.key());
    }
    host.slots.extend((0..shape.slots()).filter(|slot| slot & 1 == u32::from(filled >> 1 & 1)));
    let program = assemble::program(&NUMBERS, shape, Budget::default());
    let expected = expected(&host, looked, shape, queue);
    let answer = host.run(&program, packet, queue);
    assert_eq!((answer.verdict, answer.slot), (expected.0, expected.1), "{looked:?}");
    assert_eq!(host.count(expected.2), 1, "{looked:?}");
}

/// What the rule says of a first packet, which no budget can refuse.
fn expected(
    host: &Host,
    looked: Result<rule::Ours, Tally>,
    shape: Shape,
    queue: u32,
) -> (i32, Option<u32>, Tally) {
    match looked {
        Err(tally) => (XDP_PASS, None, tally),
        Ok(ours) if !host.places.contains(&ours.place.key()) => (XDP_PASS, None, Tally::NotOurs),
        Ok(ours) => {
            let slot = shape.slot(queue, ours.shard).filter(|slot| host.slots.contains(slot));
            match slot {
                Some(slot) => (XDP_REDIRECT, Some(slot), Tally::Taken),
                None => (XDP_PASS, None, Tally::EmptySlot),
            }
        }
    }
}
