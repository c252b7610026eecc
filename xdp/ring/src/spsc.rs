//! A bounded queue from one shard to another: commands, and packets that arrived at the wrong
//! shard. It owns the counting of refusals around `rtrb`; what to do about a full queue (drop a
//! packet, try a command again) is the sender's decision, so the value always comes back.

use thiserror::Error;

/// The queue had no room; here is the value again.
#[derive(Error, Clone, Copy, PartialEq, Eq)]
#[error("the queue is full")]
pub struct Full<T>(pub T);

impl<T> std::fmt::Debug for Full<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Full(..)")
    }
}

/// Makes a queue with room for `capacity` values.
pub fn queue<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a queue without room can carry nothing");
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (Producer { inner: producer, refused: 0 }, Consumer { inner: consumer })
}

/// The sending end; exactly one exists per queue.
#[derive(Debug)]
pub struct Producer<T> {
    inner: rtrb::Producer<T>,
    refused: u64,
}

impl<T> Producer<T> {
    /// Appends a value, or gives it back when the queue is full.
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        self.inner.push(value).map_err(|rtrb::PushError::Full(value)| {
            self.refused += 1;
            Full(value)
        })
    }

    /// How many values were refused with [`Full`] since the queue was made.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many values fit now; the consumer can only make it more.
    pub fn room(&self) -> usize {
        self.inner.slots()
    }

    /// Whether the consumer is gone, so that nothing pushed will ever be read.
    pub fn is_abandoned(&self) -> bool {
        self.inner.is_abandoned()
    }
}

/// The receiving end; exactly one exists per queue.
#[derive(Debug)]
pub struct Consumer<T> {
    inner: rtrb::Consumer<T>,
}

impl<T> Consumer<T> {
    /// Takes the oldest value, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        self.inner.pop().ok()
    }

    /// Whether nothing waits; the producer may change that at any moment.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// How many values wait; the producer can only make it more.
    pub fn len(&self) -> usize {
        self.inner.slots()
    }

    /// Whether the producer is gone. Values already pushed can still be taken.
    pub fn is_abandoned(&self) -> bool {
        self.inner.is_abandoned()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_queue_returns_the_value_and_counts_it() {
        let (mut producer, mut consumer) = queue(1);
        producer.push("first").expect("room for one");
        assert_eq!(producer.push("second"), Err(Full("second")));
        assert_eq!(producer.refused(), 1);
        assert_eq!(consumer.pop(), Some("first"));
        producer.push("third").expect("room again");
        assert_eq!(consumer.pop(), Some("third"));
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn values_survive_a_producer_that_leaves() {
        let (mut producer, mut consumer) = queue(2);
        producer.push(7).expect("room");
        drop(producer);
        assert!(consumer.is_abandoned());
        assert_eq!(consumer.pop(), Some(7));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_order_of_pushes_and_pops_matches_a_bounded_deque(
            capacity in 1_usize..6,
            operations in prop::collection::vec(prop::option::of(any::<u16>()), 0..80),
        ) {
            let (mut producer, mut consumer) = queue(capacity);
            let mut oracle = VecDeque::new();
            for operation in operations {
                match operation {
                    Some(value) if oracle.len() == capacity => {
                        prop_assert_eq!(producer.push(value), Err(Full(value)));
                    }
                    Some(value) => {
                        oracle.push_back(value);
                        prop_assert_eq!(producer.push(value), Ok(()));
                    }
                    None => prop_assert_eq!(consumer.pop(), oracle.pop_front()),
                }
                prop_assert_eq!(producer.room(), capacity - oracle.len());
                prop_assert_eq!(consumer.len(), oracle.len());
            }
        }
    }
}
