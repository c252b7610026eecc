//! Which streams of the relay are on their way though nothing of them has come: QUIC numbers them in the order of opening
//! (RFC 9000 section 2.1), so one that comes before its predecessor tells of it. So a group whose first packet is being
//! repaired can be told from one that was never sent. It knows ids only, neither tracks nor groups.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use weir_moqt::StreamId;

/// Ids that are remembered: streams that a relay may have open towards us. Of a larger jump the newest count.
const MISSING_MAX: u64 = 256;

/// Ids of streams of one kind are this far apart (RFC 9000 section 2.1).
const STEP: u64 = 4;

/// Unidirectional streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The id behind the largest one seen.
    next: Option<u64>,
    /// Those before it of which nothing was seen, and since when that is known.
    missing: BTreeMap<u64, Instant>,
}

impl Arrivals {
    /// Something came of a stream, be it its end.
    pub(super) fn saw(&mut self, stream: StreamId, now: Instant) {
        let StreamId(id) = stream;
        let next = *self.next.get_or_insert(id);
        if id < next {
            self.missing.remove(&id);
            return;
        }
        let oldest = id.saturating_sub(MISSING_MAX * STEP).max(next);
        // A peer's id may be any number, but those between have its two lowest bits.
        let first = oldest + (id - oldest) % STEP;
        for id in (first..id).step_by(STEP as usize) {
            self.missing.insert(id, now);
        }
        while self.missing.len() as u64 > MISSING_MAX {
            self.missing.pop_first();
        }
        self.next = Some(id.saturating_add(STEP));
    }

    /// Forgets those that did not come within `patience`: their end may have passed unseen.
    pub(super) fn forget(&mut self, patience: Duration, now: Instant) {
        self.missing.retain(|_, since| now.saturating_duration_since(*since) < patience);
    }

    /// Whether a stream opened between these two is on its way.
    pub(super) fn is_due(&self, after: Option<u64>, before: u64) -> bool {
        // A range that ends before it begins is a mistake to BTreeMap.
        if after.is_some_and(|after| after >= before) {
            return false;
        }
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.missing.range((after, Bound::Excluded(before))).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_overtakes_tells_of_those_before_it_until_they_come() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.saw(StreamId(15), now);
        assert!(!arrivals.is_due(None, 15), "what was before the first is not ours to know");
        arrivals.saw(StreamId(27), now);
        assert!(arrivals.is_due(Some(15), 27) && arrivals.is_due(Some(19), 27));
        assert!(!arrivals.is_due(Some(23), 27) && !arrivals.is_due(Some(27), 15));
        arrivals.saw(StreamId(23), now);
        assert!(!arrivals.is_due(Some(19), 27));
        arrivals.saw(StreamId(19), now);
        assert!(!arrivals.is_due(None, u64::MAX));
    }

    #[test]
    fn who_never_comes_is_forgotten_and_a_large_jump_costs_no_more_than_its_bound() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.saw(StreamId(3), now);
        arrivals.saw(StreamId((1 << 62) - 1), now);
        assert_eq!(arrivals.missing.len() as u64, MISSING_MAX);
        let patience = Duration::from_secs(3);
        arrivals.forget(patience, now + patience / 2);
        assert!(arrivals.is_due(None, u64::MAX));
        arrivals.forget(patience, now + patience);
        assert!(!arrivals.is_due(None, u64::MAX));
    }
}
