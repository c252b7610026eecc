//! The link against an oracle in one thread, and against itself in several. The interleavings
//! that decide whether it is sound are tried by `tests/loom.rs`.

use std::{collections::VecDeque, thread};

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

fn small(depth: usize, slot_bytes: usize) -> (Producer, Consumer) {
    link(Options { depth, slot_bytes })
}

fn pattern(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| (seed.wrapping_mul(31) + at) as u8).collect()
}

fn expect_ready(poll: Poll<'_>) -> Fragment<'_> {
    match poll {
        Poll::Ready(fragment) => fragment,
        other => panic!("expected a fragment, got {other:?}"),
    }
}

fn expect_overrun(poll: Poll<'_>) -> u64 {
    match poll {
        Poll::Overrun(Overrun { missed }) => missed,
        other => panic!("expected an overrun, got {other:?}"),
    }
}

#[test]
fn descriptor_arrives_as_it_was_published() {
    let (mut producer, mut consumer) = small(4, 64);
    assert!(matches!(consumer.poll(), Poll::Empty));
    let header = Header {
        track: u64::MAX,
        group: 1 << 40,
        object: 7,
        flags: Flags::REPLAY | Flags::END_OF_GROUP | Flags::from_bits(1 << 31),
        target: 0xabcd,
        priority: 0xef,
        stamp: u64::MAX - 1,
    };
    let sequence = producer.publish_fragment(&header, u32::MAX, b"payload");
    let fragment = expect_ready(consumer.poll());
    let expected = Descriptor { sequence, header, size: 7, object_size: u32::MAX };
    assert_eq!(*fragment.descriptor(), expected);
    let mut out = Vec::new();
    fragment.read_into_vec(&mut out).expect("nobody overran it");
    assert_eq!(out, b"payload");
}

#[test]
fn object_of_any_size_arrives_in_fragments() {
    for size in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 100] {
        let (mut producer, mut consumer) = small(8, 16);
        let payload = pattern(3, size);
        let header = Header { flags: Flags::END_OF_GROUP, ..Header::default() };
        let sequences = producer.publish(&header, &payload);
        assert_eq!((sequences.end - sequences.start) as usize, size.div_ceil(16).max(1));
        let mut out = BytesMut::new();
        for sequence in sequences.clone() {
            let fragment = expect_ready(consumer.poll());
            let flags = fragment.descriptor().header.flags;
            assert_eq!(flags.contains(Flags::FIRST), sequence == sequences.start, "size {size}");
            assert_eq!(flags.contains(Flags::LAST), sequence + 1 == sequences.end, "size {size}");
            assert!(flags.contains(Flags::END_OF_GROUP));
            assert_eq!(fragment.descriptor().object_size as usize, size);
            fragment.read_into(&mut out).expect("nobody overran it");
        }
        assert_eq!(out, payload, "size {size}");
        assert!(matches!(consumer.poll(), Poll::Empty));
    }
}

#[test]
fn slow_reader_learns_what_it_missed_and_goes_on() {
    let (mut producer, mut consumer) = small(4, 8);
    for at in 0..10_u64 {
        producer.publish(&Header::default(), &at.to_le_bytes());
    }
    assert_eq!(consumer.lag(), 10);
    assert_eq!(expect_overrun(consumer.poll()), 8);
    for at in [8_u64, 9] {
        let mut out = Vec::new();
        expect_ready(consumer.poll()).read_into_vec(&mut out).expect("still there");
        assert_eq!(out, at.to_le_bytes());
    }
    assert!(matches!(consumer.poll(), Poll::Empty));
    assert_eq!(consumer.missed(), 8);
}

#[test]
fn payload_overwritten_after_the_poll_is_not_taken() {
    let (mut producer, mut consumer) = small(2, 8);
    // Kept apart, because a fragment borrows its consumer and the producer must move meanwhile.
    producer.publish(&Header::default(), b"old");
    let mut out = BytesMut::from(&b"before"[..]);
    let fragment = expect_ready(consumer.poll());
    for _ in 0..3 {
        producer.publish(&Header::default(), b"new");
    }
    let overrun = fragment.read_into(&mut out).expect_err("its line has a new owner");
    assert_eq!(overrun, Overrun { missed: 3 });
    assert_eq!(out, b"before"[..]);
    expect_ready(consumer.poll()).read_into(&mut out).expect("still there");
    assert_eq!(out, b"beforenew"[..]);
}

#[test]
fn skipped_payload_does_not_hold_up_the_reader() {
    let (mut producer, mut consumer) = small(4, 8);
    producer.publish(&Header { track: 1, ..Header::default() }, b"one");
    producer.publish(&Header { track: 2, ..Header::default() }, b"two");
    assert_eq!(expect_ready(consumer.poll()).descriptor().header.track, 1);
    assert_eq!(expect_ready(consumer.poll()).descriptor().header.track, 2);
    assert_eq!(consumer.missed(), 0);
}

#[test]
fn late_consumer_sees_only_what_follows() {
    let (mut producer, mut early) = small(4, 8);
    producer.publish(&Header::default(), b"before");
    let mut late = producer.consumer();
    let mut clone = early.clone();
    assert_eq!(clone.skip_to_newest(), 1);
    producer.publish(&Header { object: 1, ..Header::default() }, b"after");
    for consumer in [&mut late, &mut clone] {
        assert_eq!(expect_ready(consumer.poll()).descriptor().header.object, 1);
    }
    assert_eq!(expect_ready(early.poll()).descriptor().header.object, 0);
    assert_eq!(producer.published(), 2);
}

#[test]
#[should_panic(expected = "a power of two of at least 2")]
fn depth_of_one_is_refused() {
    drop(small(1, 8));
}

#[derive(Debug, Clone)]
enum Operation {
    Publish { size: usize },
    Read,
    Skip,
    SkipToNewest,
    Fork,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        6 => (0_usize..60).prop_map(|size| Operation::Publish { size }),
        6 => Just(Operation::Read),
        2 => Just(Operation::Skip),
        1 => Just(Operation::SkipToNewest),
        1 => Just(Operation::Fork),
    ];
    prop::collection::vec(operation, 0..120)
}

/// What a link with unbounded memory would hold, and where the reader stands in it.
struct Oracle {
    fragments: VecDeque<(Header, Vec<u8>)>,
    next: usize,
    depth: usize,
}

impl Oracle {
    /// How many fragments an overrun skips now; 0 if the reader keeps up.
    fn missed(&self) -> usize {
        if self.fragments.len() - self.next <= self.depth {
            return 0;
        }
        self.fragments.len() - self.depth / 2 - self.next
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_operations_matches_an_unbounded_deque(
        log_depth in 1_u32..4,
        operations in operations(),
    ) {
        let depth = 1 << log_depth;
        let (mut producer, mut consumer) = small(depth, 16);
        let mut oracle = Oracle { fragments: VecDeque::new(), next: 0, depth };
        for (object, operation) in (0_u64..).zip(operations) {
            match operation {
                Operation::Publish { size } => {
                    let payload = pattern(object, size);
                    let header = Header { object, stamp: object * 3, ..Header::default() };
                    producer.publish(&header, &payload);
                    let pieces: Vec<&[u8]> =
                        if size == 0 { vec![&[]] } else { payload.chunks(16).collect() };
                    let last = pieces.len() - 1;
                    for (at, piece) in pieces.into_iter().enumerate() {
                        let first = if at == 0 { Flags::FIRST } else { Flags::NONE };
                        let end = if at == last { Flags::LAST } else { Flags::NONE };
                        let header = Header { flags: first | end, ..header };
                        oracle.fragments.push_back((header, piece.to_vec()));
                    }
                }
                Operation::Read | Operation::Skip => match consumer.poll() {
                    Poll::Empty => prop_assert_eq!(oracle.next, oracle.fragments.len()),
                    Poll::Overrun(overrun) => {
                        prop_assert_eq!(overrun.missed as usize, oracle.missed());
                        oracle.next += oracle.missed();
                    }
                    Poll::Ready(fragment) => {
                        prop_assert_eq!(oracle.missed(), 0);
                        let (header, payload) = &oracle.fragments[oracle.next];
                        prop_assert_eq!(&fragment.descriptor().header, header);
                        prop_assert_eq!(fragment.descriptor().size as usize, payload.len());
                        if matches!(operation, Operation::Read) {
                            let mut out = Vec::new();
                            prop_assert_eq!(fragment.read_into_vec(&mut out), Ok(()));
                            prop_assert_eq!(&out, payload);
                        }
                        oracle.next += 1;
                    }
                },
                Operation::SkipToNewest => {
                    consumer.skip_to_newest();
                    oracle.next = oracle.fragments.len();
                }
                Operation::Fork => consumer = consumer.clone(),
            }
            prop_assert_eq!(consumer.lag() as usize, oracle.fragments.len() - oracle.next);
        }
    }
}

/// One writer at full speed and three readers, on a link so small that overruns abound. Every
/// payload that is accepted must be whole, in order, and everything else counted as missed.
#[test]
fn readers_at_full_speed_never_see_a_torn_fragment() {
    const FRAGMENTS: u64 = 100_000;
    const LAST: u64 = u64::MAX;
    let (mut producer, consumer) = small(4, 96);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut consumer = consumer.clone();
            thread::spawn(move || {
                let (mut read, mut out, mut previous) = (0, Vec::new(), None);
                loop {
                    let fragment = match consumer.poll() {
                        Poll::Empty => {
                            thread::yield_now();
                            continue;
                        }
                        Poll::Overrun(_) => continue,
                        Poll::Ready(fragment) => fragment,
                    };
                    let Descriptor { header, size, .. } = *fragment.descriptor();
                    out.clear();
                    if fragment.read_into_vec(&mut out).is_err() {
                        continue;
                    }
                    if header.track == LAST {
                        return (read, consumer.missed());
                    }
                    assert_eq!((header.group, header.stamp), (header.track, header.track));
                    assert!(previous < Some(header.track), "in order");
                    assert_eq!(u64::from(size), header.track % 97);
                    assert!(out.iter().all(|byte| *byte == header.track as u8), "torn payload");
                    previous = Some(header.track);
                    read += 1;
                }
            })
        })
        .collect();
    for at in 0..FRAGMENTS {
        let header = Header { track: at, group: at, stamp: at, ..Header::default() };
        let payload = [at as u8; 96];
        producer.publish_fragment(&header, 0, &payload[..(at % 97) as usize]);
    }
    producer.publish(&Header { track: LAST, ..Header::default() }, &[]);
    for reader in readers {
        let (read, missed) = reader.join().expect("no torn fragment");
        assert_eq!(read + missed, FRAGMENTS, "every fragment was read or counted as missed");
    }
}
