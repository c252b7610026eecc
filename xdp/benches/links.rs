//! What it costs to bring an object from one processor to another: nanoseconds for a descriptor and for a KB of payload
//! over a link, and for a datagram over the hand-over queue. It owns pinning and statistics; the rings are `weir-ring`'s.
//!
//! ```text
//! cargo bench -p weir-xdp --bench links [-- ROUNDS]
//! ```
//!
//! A link never slows its writer, so here the reader says in a word of its own how far it is, and the writer stays less
//! than half the depth ahead: nothing is overrun, and what is measured is a fragment that was written, found and
//! copied. Each figure is the median of the rounds, with the least and the most beside it.

use std::hint::spin_loop;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use weir_ring::link::{self, Header, Options, Poll};
use weir_ring::spsc;
use weir_xdp::affinity;

/// Fragments of a round, fewer where they are large: 64 MiB of payload at most.
const FRAGMENTS: u64 = 400_000;
const PAYLOAD_MAX: u64 = 64 << 20;

/// Depth of the links: 1,024 lines and as many slots of 16 KiB, which no cache holds, as on a node.
const DEPTH: usize = 1_024;

/// How often the reader tells where it is.
const TELL_EVERY: u64 = 32;

/// Payloads: a descriptor alone, an audio frame, a KB, a packet's worth, a slot of a node, a full one.
const SIZES: [usize; 6] = [0, 256, 1_024, 2_048, 4_096, 16_384];

/// Bytes of the fragments whose way is timed there and back.
const ECHO_BYTES: usize = 256;
const ECHOES: u64 = 50_000;

/// Two processors of this machine, if there are.
fn processors() -> (usize, usize) {
    let allowed = affinity::allowed().unwrap_or_default();
    let first = allowed.first().copied().unwrap_or(0);
    (first, allowed.last().copied().unwrap_or(first))
}

/// Runs two ends of something at the same time, each on its processor; nanoseconds until both are done.
fn timed(one: impl FnOnce() + Send, other: impl FnOnce() + Send) -> f64 {
    let (first, second) = processors();
    let barrier = std::sync::Barrier::new(3);
    thread::scope(|scope| {
        let ends = [
            scope.spawn(|| {
                let _ = affinity::pin(first);
                barrier.wait();
                one();
            }),
            scope.spawn(|| {
                let _ = affinity::pin(second);
                barrier.wait();
                other();
            }),
        ];
        barrier.wait();
        let began = Instant::now();
        for end in ends {
            end.join().expect("an end of the bench asserts nothing but its rings");
        }
        began.elapsed().as_nanos() as f64
    })
}

/// Waits for the next fragment and copies its payload, as a shard does. Nothing may be overrun here.
fn next(consumer: &mut link::Consumer, out: &mut Vec<u8>) {
    loop {
        match consumer.poll() {
            Poll::Empty => spin_loop(),
            Poll::Overrun(overrun) => unreachable!("{overrun}, though the writer waits"),
            Poll::Ready(fragment) => {
                out.clear();
                return fragment.read_into_vec(out).expect("the writer waits");
            }
        }
    }
}

/// Nanoseconds a fragment of `size` bytes costs from writer to reader.
fn fragment(size: usize) -> f64 {
    let count = FRAGMENTS.min(PAYLOAD_MAX / size.max(1) as u64);
    let (mut producer, mut consumer) = link::link(Options { depth: DEPTH, slot_bytes: 16_384 });
    let read = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&read);
    let payload = vec![7; size];
    let all = timed(
        move || {
            for at in 0..count {
                while at >= told.load(Ordering::Acquire) + DEPTH as u64 / 2 {
                    spin_loop();
                }
                producer.publish_fragment(&Header { track: at, ..Header::default() }, 0, &payload);
            }
        },
        move || {
            let mut out = Vec::with_capacity(size);
            for taken in 1..=count {
                next(&mut consumer, &mut out);
                if taken % TELL_EVERY == 0 {
                    read.store(taken, Ordering::Release);
                }
            }
        },
    );
    all / count as f64
}

/// Nanoseconds a small fragment is under way, from the time it takes there and back.
fn one_way() -> f64 {
    let pair = || link::link(Options { depth: 64, slot_bytes: ECHO_BYTES });
    let ((mut there, mut arrived), (mut back, mut returned)) = (pair(), pair());
    let all = timed(
        move || {
            let mut out = Vec::new();
            for _ in 0..ECHOES {
                there.publish_fragment(&Header::default(), 0, &[7; ECHO_BYTES]);
                next(&mut returned, &mut out);
            }
        },
        move || {
            let mut out = Vec::new();
            for _ in 0..ECHOES {
                next(&mut arrived, &mut out);
                back.publish_fragment(&Header::default(), 0, &out);
            }
        },
    );
    all / ECHOES as f64 / 2.0
}

/// Nanoseconds the writer alone spends on a fragment that nobody reads.
fn writing(size: usize) -> f64 {
    let count = FRAGMENTS.min(PAYLOAD_MAX / size.max(1) as u64);
    let (mut producer, _consumer) = link::link(Options { depth: DEPTH, slot_bytes: 16_384 });
    let payload = vec![7; size];
    let began = Instant::now();
    for at in 0..count {
        producer.publish_fragment(&Header { track: at, ..Header::default() }, 0, &payload);
    }
    began.elapsed().as_nanos() as f64 / count as f64
}

/// Nanoseconds a datagram of 1,200 bytes costs over the hand-over queue, where only its handle is moved.
fn hand_over() -> f64 {
    let (mut producer, mut consumer) = spsc::queue(2_048);
    let all = timed(
        move || {
            let mut datagram = bytes::Bytes::from_static(&[7; 1_200]);
            for _ in 0..FRAGMENTS {
                while let Err(spsc::Full(again)) = producer.push(datagram) {
                    datagram = again;
                    spin_loop();
                }
                datagram = bytes::Bytes::from_static(&[7; 1_200]);
            }
        },
        move || {
            let mut taken = 0;
            while taken < FRAGMENTS {
                match consumer.pop() {
                    Some(datagram) => {
                        taken += 1;
                        std::hint::black_box(datagram);
                    }
                    None => spin_loop(),
                }
            }
        },
    );
    all / FRAGMENTS as f64
}

/// Median, least and most.
fn spread(rounds: usize, measure: impl Fn() -> f64) -> [f64; 3] {
    let mut figures: Vec<f64> = (0..rounds).map(|_| measure()).collect();
    figures.sort_by(f64::total_cmp);
    let at = |place: usize| figures.get(place).copied().unwrap_or(f64::NAN);
    [at(rounds / 2), at(0), at(rounds.saturating_sub(1))]
}

fn main() -> io::Result<()> {
    // Cargo adds `--bench`.
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(9).max(1);
    let mut out = io::stdout().lock();
    let (first, second) = processors();
    writeln!(
        out,
        "processors {first} and {second}, median of {rounds} rounds (least to most), ns"
    )?;
    if first == second {
        writeln!(out, "one processor only: the figures are those of its scheduler")?;
    }
    let mut line = |what: &str, [median, least, most]: [f64; 3], more: &str| {
        writeln!(out, "{what:<44} {median:>9.1}  ({least:.1} to {most:.1}){more}")
    };
    let mut descriptor = f64::NAN;
    for size in SIZES {
        let figures = spread(rounds, || fragment(size));
        let more = if size == 0 {
            descriptor = figures[0];
            String::new()
        } else {
            let per_kb = (figures[0] - descriptor) / (size as f64 / 1_000.0);
            format!("; {per_kb:.1} a KB beside the descriptor")
        };
        line(&format!("link, written and read, {size} bytes"), figures, &more)?;
    }
    for size in [0, 2_048] {
        let figures = spread(rounds, || writing(size));
        line(&format!("link, written for nobody, {size} bytes"), figures, "")?;
    }
    line(&format!("link, under way, {ECHO_BYTES} bytes"), spread(rounds, one_way), "")?;
    line("hand-over queue, a datagram", spread(rounds, hand_over), "")
}
