//! Every interleaving (up to a bound of preemptions) of one writer and one reader on the smallest
//! link there is: on a fresh link, where publication races with the first poll, and on a full one,
//! where eviction races with it. Then the same models against each mutant of the link: a mutant
//! that survives means that a model proves nothing, so it fails the test.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p weir-ring --test loom
//! ```

#![cfg(loom)]

use std::ops::RangeInclusive;

use loom::thread;
use weir_ring::link::{Consumer, Header, Mutant, Options, Poll, Producer, link, mutated};

const SMALLEST: Options = Options { depth: 2, slot_bytes: 8 };

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(check);
}

/// Publishes numbers, each in every place where a reader could see it.
fn write(producer: &mut Producer, numbers: RangeInclusive<u64>) {
    for at in numbers {
        let header = Header { track: at, stamp: at, ..Header::default() };
        producer.publish_fragment(&header, 0, &at.to_le_bytes());
    }
}

/// Polls `polls` times; whatever is accepted must be whole and in order, and gaps must be counted.
fn read(consumer: &mut Consumer, polls: usize) {
    let (mut seen, mut expected) = (0, 1);
    for _ in 0..polls {
        let fragment = match consumer.poll() {
            Poll::Empty => {
                thread::yield_now();
                continue;
            }
            Poll::Overrun(overrun) => {
                assert!(overrun.missed > 0, "torn count: an overrun that missed nothing");
                expected += overrun.missed;
                continue;
            }
            Poll::Ready(fragment) => fragment,
        };
        let header = fragment.descriptor().header;
        assert_eq!(header.track, header.stamp, "torn descriptor");
        assert_eq!(header.track, expected, "torn order");
        let mut payload = Vec::new();
        match fragment.read_into_vec(&mut payload) {
            Ok(()) => {
                assert_eq!(payload, header.track.to_le_bytes(), "torn payload");
                assert!(header.track > seen, "torn order");
                seen = header.track;
                expected += 1;
            }
            Err(overrun) => expected += overrun.missed,
        }
    }
}

fn make(mutant: Option<Mutant>) -> (Producer, Consumer) {
    match mutant {
        Some(mutant) => mutated(SMALLEST, mutant),
        None => link(SMALLEST),
    }
}

/// The writer publishes the first two fragments while the reader polls for them.
fn publication(mutant: Option<Mutant>) {
    model(move || {
        let (mut producer, mut consumer) = make(mutant);
        let writer = thread::spawn(move || write(&mut producer, 1..=2));
        read(&mut consumer, 2);
        writer.join().expect("the writer asserts nothing");
    });
}

/// The writer laps a reader that stands at the oldest of two fragments: the third fragment takes
/// over its line, the fourth its slot.
fn eviction(mutant: Option<Mutant>) {
    model(move || {
        let (mut producer, mut consumer) = make(mutant);
        write(&mut producer, 1..=2);
        let writer = thread::spawn(move || write(&mut producer, 3..=4));
        read(&mut consumer, 1);
        writer.join().expect("the writer asserts nothing");
    });
}

#[test]
fn reader_takes_only_what_is_published() {
    publication(None);
}

#[test]
fn lapped_reader_takes_only_whole_fragments() {
    eviction(None);
}

/// A test for each mutant. The match makes sure that none is forgotten.
macro_rules! mutants_die {
    ($($test:ident: $model:ident($mutant:ident),)*) => {
        $(
            #[test]
            #[should_panic(expected = "torn")]
            fn $test() {
                $model(Some(Mutant::$mutant));
            }
        )*

        const _: fn(Mutant) = |mutant| match mutant {
            $(Mutant::$mutant => {})*
        };
    };
}

mutants_die! {
    dies_with_relaxed_publish: publication(RelaxedPublish),
    dies_with_early_publish: publication(EarlyPublish),
    dies_with_late_payload: publication(LatePayload),
    dies_with_relaxed_poll: publication(RelaxedPoll),
    dies_without_eviction_mark: eviction(NoEvictionMark),
    dies_with_late_eviction_mark: eviction(LateEvictionMark),
    dies_without_eviction_fence: eviction(NoEvictionFence),
    dies_without_descriptor_fence: eviction(NoDescriptorFence),
    dies_without_descriptor_check: eviction(NoDescriptorCheck),
    dies_without_payload_fence: eviction(NoPayloadFence),
    dies_without_payload_check: eviction(NoPayloadCheck),
    dies_without_spare_slot: eviction(NoSpareSlot),
}
