//! Packets of one RTP stream back in the order they were sent in. It owns how long a missing packet is
//! waited for and how much may wait behind it; it knows sequence numbers that no longer wrap, and
//! nothing of what the packets carry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bounds of one stream's reordering.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long a missing packet is waited for, from the first that came behind it.
    pub(super) patience: Duration,
    /// Packets that may wait.
    pub(super) packets_max: usize,
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// The next packet.
    Packet(T),
    /// This many packets are given up for lost; the next one follows.
    Lost(u64),
}

/// Packets of one stream, waiting for those before them.
#[derive(Debug)]
pub(super) struct Reorder<T> {
    bounds: Bounds,
    /// The sequence number that comes next; unknown before the first packet.
    next: Option<u64>,
    waiting: BTreeMap<u64, (T, Instant)>,
    /// Packets dropped because their turn had passed.
    late: u64,
    /// Times the bound on waiting packets was met.
    overflows: u64,
}

impl<T> Reorder<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, next: None, waiting: BTreeMap::new(), late: 0, overflows: 0 }
    }

    /// A packet has arrived.
    pub(super) fn push(&mut self, sequence: u64, packet: T, now: Instant) {
        if sequence < *self.next.get_or_insert(sequence) {
            self.late += 1;
            return;
        }
        self.waiting.entry(sequence).or_insert((packet, now));
    }

    /// What can go on now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Next<T>> {
        let next = self.next?;
        let (&first, &(_, arrived)) = self.waiting.first_key_value()?;
        if first > next {
            let full = self.waiting.len() > self.bounds.packets_max;
            if !full && now.saturating_duration_since(arrived) < self.bounds.patience {
                return None;
            }
            self.overflows += u64::from(full);
            self.next = Some(first);
            return Some(Next::Lost(first - next));
        }
        self.next = Some(next + 1);
        let (_, (packet, _)) = self.waiting.pop_first()?;
        Some(Next::Packet(packet))
    }

    /// When the packet that is missing is given up.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (&first, &(_, arrived)) = self.waiting.first_key_value()?;
        let waits = self.next.is_some_and(|next| first > next);
        Some(if waits { arrived + self.bounds.patience } else { arrived })
    }

    /// Times more packets waited than may.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { patience: Duration::from_millis(100), packets_max: 8 };

    fn drain(reorder: &mut Reorder<u64>, now: Instant) -> Vec<Next<u64>> {
        std::iter::from_fn(|| reorder.pop(now)).collect()
    }

    #[test]
    fn a_late_packet_is_waited_for_and_then_all_go_in_order() {
        let start = Instant::now();
        let mut reorder = Reorder::new(BOUNDS);
        reorder.push(5, 5, start);
        assert_eq!(drain(&mut reorder, start), [Next::Packet(5)]);
        reorder.push(8, 8, start);
        reorder.push(7, 7, start);
        assert_eq!(drain(&mut reorder, start), []);
        reorder.push(6, 6, start);
        assert_eq!(drain(&mut reorder, start), [6, 7, 8].map(Next::Packet));
        reorder.push(6, 6, start);
        assert_eq!(drain(&mut reorder, start), [], "a repeat is nothing new");
    }

    #[test]
    fn a_lost_packet_costs_the_patience_and_no_more() {
        let start = Instant::now();
        let mut reorder = Reorder::new(BOUNDS);
        reorder.push(1, 1, start);
        reorder.push(3, 3, start);
        assert_eq!(drain(&mut reorder, start), [Next::Packet(1)]);
        let due = start + BOUNDS.patience;
        assert_eq!(reorder.poll_timeout(), Some(due));
        assert_eq!(drain(&mut reorder, due), [Next::Lost(1), Next::Packet(3)]);
        assert_eq!(reorder.poll_timeout(), None);
    }

    #[test]
    fn a_gap_behind_too_many_packets_is_given_up_at_once() {
        let start = Instant::now();
        let mut reorder = Reorder::new(BOUNDS);
        reorder.push(0, 0, start);
        drain(&mut reorder, start);
        for sequence in 2..=10 {
            reorder.push(sequence, sequence, start);
        }
        let out = drain(&mut reorder, start);
        assert_eq!(out.first(), Some(&Next::Lost(1)));
        assert_eq!((out.len(), reorder.overflows()), (10, 1));
    }

    proptest! {
        #[test]
        fn whatever_arrives_comes_out_once_and_in_order(arrivals in proptest::collection::vec(0_u64..40, 1..80)) {
            let start = Instant::now();
            let mut reorder = Reorder::new(BOUNDS);
            let mut out = Vec::new();
            let mut lost = 0;
            for (step, sequence) in arrivals.iter().enumerate() {
                let now = start + Duration::from_millis(7 * step as u64);
                reorder.push(*sequence, *sequence, now);
                for next in drain(&mut reorder, now) {
                    match next {
                        Next::Packet(sequence) => out.push(sequence),
                        Next::Lost(count) => lost += count,
                    }
                }
                prop_assert!(reorder.waiting.len() <= BOUNDS.packets_max);
            }
            prop_assert!(out.windows(2).all(|pair| pair[0] < pair[1]));
            let span = out.last().map_or(0, |last| last + 1 - arrivals[0]);
            prop_assert_eq!(out.len() as u64 + lost, span);
        }
    }
}
