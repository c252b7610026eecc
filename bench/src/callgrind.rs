//! What callgrind counted: instructions by function, from its output file, and the table of who spends how many for an
//! object and for a packet. Owns the reading of the file and how functions are put into groups; it runs nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Instructions of each function itself, without what it calls, by name.
pub type Counts = BTreeMap<String, u64>;

/// One length of one shape.
pub struct Count {
    /// By function.
    pub counts: Counts,
    /// What the relay did meanwhile.
    pub tally: Tally,
}

/// What `weir-bench instructions` prints.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Tally {
    /// Delivered.
    pub objects: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
}

/// A shape: the difference of a long and a short run, for each object delivered.
struct Shape {
    packets: f64,
    received: f64,
    /// Instructions by function.
    each: BTreeMap<String, f64>,
}

/// Who spends, in the order of the table. A function belongs to the first group of which its name contains a word.
const GROUPS: [(&str, &[&str]); 9] = [
    ("network in memory (not in a node)", &["weir_xdp::virt", "weir_bench::"]),
    (
        "sealing and opening packets",
        &[
            "aws_lc", "aesni", "_gcm_", "gcm_", "aead", "EVP_", "CRYPTO_", "rustls::", "AES_",
            "aes_hw",
        ],
    ),
    ("copying and clearing", &["memcpy", "memmove", "memset"]),
    (
        "allocating",
        &["malloc", "free", "calloc", "realloc", "chunk", "__rust_alloc", "__rust_dealloc"],
    ),
    (
        "quinn-proto, acknowledgements",
        &[
            "on_ack",
            "_acked",
            "ack_of",
            "::ack",
            "loss_detect",
            "detect_lost",
            "::on_packet_authenticated",
        ],
    ),
    ("quinn-proto, the rest", &["quinn_proto", "btree", "binary_heap", "BinaryHeap", "BTreeMap"]),
    ("relay and MoQT", &["weir_relay", "weir_moqt"]),
    ("shard", &["weir::"]),
    ("other", &[""]),
];

/// Reads a file of callgrind.
pub fn read(text: &str) -> Result<Counts> {
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut counts = Counts::new();
    let mut current = String::new();
    let mut is_call = false;
    ensure!(text.contains("events: Ir"), "this is no file of callgrind that counts instructions");
    for line in text.lines() {
        if let Some(place) = line.strip_prefix("fn=") {
            current = named(place, &mut names)?;
        } else if let Some(place) = line.strip_prefix("cfn=") {
            // It may be named here for the first time.
            named(place, &mut names)?;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // Position, then cost; after `calls=` it is what the callee spent.
            if !std::mem::take(&mut is_call)
                && let Some(cost) = line.split_whitespace().nth(1)
            {
                *counts.entry(current.clone()).or_default() +=
                    cost.parse::<u64>().context("a cost is a number")?;
            }
        }
    }
    Ok(counts)
}

/// `(12) name` defines, `(12)` refers.
fn named(place: &str, names: &mut HashMap<u32, String>) -> Result<String> {
    let (id, name) = place.split_once(')').context("a function has a number")?;
    let id: u32 = id.trim_start_matches('(').parse().context("a function has a number")?;
    let name = name.trim();
    if name.is_empty() {
        return names.get(&id).cloned().context("a function is named before it is referred to");
    }
    names.insert(id, name.to_owned());
    Ok(name.to_owned())
}

impl Shape {
    fn of(short: &Count, long: &Count) -> Result<Self> {
        let objects = long.tally.objects.checked_sub(short.tally.objects).filter(|it| *it > 0);
        let objects = objects.context("the second run is the longer one")? as f64;
        let per = |long: u64, short: u64| (long as f64 - short as f64) / objects;
        let each = long.counts.iter().map(|(name, count)| {
            (name.clone(), per(*count, short.counts.get(name).copied().unwrap_or(0)))
        });
        Ok(Self {
            packets: per(long.tally.datagrams_sent, short.tally.datagrams_sent),
            received: per(long.tally.datagrams_received, short.tally.datagrams_received),
            each: each.collect(),
        })
    }

    fn sum(&self, group: usize) -> f64 {
        self.each.iter().filter(|(name, _)| group_of(name) == group).map(|(_, it)| it).sum()
    }
}

fn group_of(name: &str) -> usize {
    let is_of = |words: &[&str]| words.iter().any(|word| name.contains(word));
    GROUPS.iter().position(|(_, words)| is_of(words)).unwrap_or(GROUPS.len() - 1)
}

/// The table, from pairs of a short and a long run, the smallest objects first.
pub fn table(pairs: &[(Count, Count)], functions: usize) -> Result<String> {
    let shapes: Vec<Shape> =
        pairs.iter().map(|(short, long)| Shape::of(short, long)).collect::<Result<_>>()?;
    ensure!(shapes.len() >= 2, "a cost for each packet needs two sizes of objects");
    let (small, large) = (&shapes[shapes.len() - 2], &shapes[shapes.len() - 1]);
    let packets = large.packets - small.packets;
    ensure!(packets > 0.0, "the last size is not larger than the one before");
    let mut text = String::from("| instructions for each object delivered |");
    for shape in &shapes {
        let _ = write!(text, " {:.1} packets |", shape.packets);
    }
    let _ = writeln!(text, " each further packet |");
    let _ = writeln!(text, "| --- |{} ---: |", " ---: |".repeat(shapes.len()));
    let mut row = |name: &str, of: &dyn Fn(&Shape) -> f64| {
        let _ = write!(text, "| {name} |");
        for shape in &shapes {
            let _ = write!(text, " {:.0} |", of(shape));
        }
        let _ = writeln!(text, " {:.0} |", (of(large) - of(small)) / packets);
    };
    for (group, (name, _)) in GROUPS.iter().enumerate() {
        row(name, &|shape| shape.sum(group));
    }
    row("all but the network in memory", &|shape| (1..GROUPS.len()).map(|it| shape.sum(it)).sum());
    let _ = write!(text, "\nDatagrams received for each object:");
    for shape in &shapes {
        let _ = write!(text, " {:.2}", shape.received);
    }
    let _ = writeln!(text, "\n\n| function | a packet | share |\n| --- | ---: | ---: |");
    let each = |shape: &Shape, name: &str| shape.each.get(name).copied().unwrap_or(0.0);
    let slope = |name: &str| (each(large, name) - each(small, name)) / packets;
    let mut costs: Vec<(&String, f64)> = large
        .each
        .keys()
        .filter(|name| group_of(name) > 0)
        .map(|name| (name, slope(name)))
        .collect();
    costs.sort_by(|one, other| other.1.total_cmp(&one.1));
    let all: f64 = costs.iter().map(|(_, cost)| cost).sum();
    for (name, cost) in costs.iter().take(functions) {
        let _ = writeln!(text, "| `{name}` | {cost:.0} | {:.1} % |", 100.0 * cost / all);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "version: 1\nevents: Ir\n\nfn=(1) quinn_proto::send\n10 100\n+2 20\ncfn=(2) malloc\ncalls=3 0\n12 900\n\
        -1 5\n\nfn=(2)\n7 900\nfn=(1)\n* 1\n";

    #[test]
    fn what_a_function_calls_is_not_counted_as_its_own() {
        let counts = read(FILE).expect("a file");
        assert_eq!(counts.get("quinn_proto::send"), Some(&126));
        assert_eq!(counts.get("malloc"), Some(&900));
        assert!(read("events: Cycles\n").is_err());
    }

    #[test]
    fn a_packet_costs_what_larger_objects_cost_more_than_smaller_ones() {
        let run = |objects: u64, packets: u64| {
            // 1,000 once, 500 for each object, 70 for each packet.
            let sent = objects * packets;
            let counts = Counts::from([
                ("weir_relay::drive".to_owned(), 1_000 + 500 * objects),
                ("EVP_seal".to_owned(), 70 * sent),
            ]);
            Count {
                counts,
                tally: Tally { objects, datagrams_sent: sent, datagrams_received: objects },
            }
        };
        let pairs = [(run(10, 3), run(20, 3)), (run(10, 15), run(20, 15))];
        let table = table(&pairs, 1).expect("a table");
        assert!(table.contains("| relay and MoQT | 500 | 500 | 0 |"), "{table}");
        assert!(table.contains("| sealing and opening packets | 210 | 1050 | 70 |"), "{table}");
        assert!(table.contains("| `EVP_seal` | 70 | 100.0 % |"), "{table}");
    }
}
