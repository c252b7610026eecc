//! One timer wheel per shard. It holds at most one live entry per connection and only ever moves an
//! entry earlier: a connection whose deadline moved later is looked at once too often, which is
//! cheaper than a removal on every packet. It knows indices and instants, nothing of QUIC.

use std::time::{Duration, Instant};

/// Width of a slot. QUIC timers (loss detection, pacing, acknowledgement delay) are millisecond
/// things; half a millisecond keeps pacing smooth without waking for nothing.
const TICK: Duration = Duration::from_micros(500);

/// Slots of the wheel: 4,096 x 0.5 ms = 2.048 s. Deadlines beyond that are parked in the last
/// reachable slot and looked at again there, so idle connections cost one visit every two seconds.
const SLOTS: usize = 4096;

/// What is due: an index the owner gave, with the generation that tells a reused slot apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    tick: u64,
}

/// A hashed timer wheel.
pub(crate) struct Wheel {
    epoch: Instant,
    /// First tick not yet handled.
    cursor: u64,
    slots: Vec<Vec<Due>>,
    /// One bit per slot: does it hold anything.
    occupied: [u64; SLOTS / 64],
    len: usize,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            cursor: 0,
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: [0; SLOTS / 64],
            len: 0,
        }
    }

    /// Schedules `index`; returns the tick under which it stands. `scheduled` is the tick of the
    /// entry it already has: the call is free when that one is early enough.
    pub(crate) fn schedule(
        &mut self,
        index: u32,
        generation: u32,
        at: Instant,
        scheduled: Option<u64>,
    ) -> u64 {
        let wanted = self.tick_of(at).max(self.cursor);
        let tick = wanted.min(self.cursor + SLOTS as u64 - 1);
        if let Some(existing) = scheduled
            && existing <= tick
            && existing >= self.cursor
        {
            return existing;
        }
        let slot = (tick % SLOTS as u64) as usize;
        self.slots[slot].push(Due { index, generation, tick });
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
        tick
    }

    /// Moves everything due at `now` into `out`. The owner checks each against the connection's
    /// true deadline and the tick it holds, and schedules again.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Vec<Due>) {
        let end = (now.saturating_duration_since(self.epoch).as_nanos() / TICK.as_nanos()) as u64;
        if self.len == 0 {
            self.cursor = self.cursor.max(end + 1);
            return;
        }
        let stop = end.min(self.cursor + SLOTS as u64 - 1);
        while self.cursor <= stop {
            let slot = (self.cursor % SLOTS as u64) as usize;
            if self.occupied[slot / 64] & (1 << (slot % 64)) != 0 {
                self.len -= self.slots[slot].len();
                out.append(&mut self.slots[slot]);
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
            self.cursor += 1;
        }
        // After a stall longer than one turn of the wheel every slot has been emptied above.
        self.cursor = self.cursor.max(end + 1);
    }

    /// When the next occupied slot comes round.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let start = (self.cursor % SLOTS as u64) as usize;
        let words = SLOTS / 64;
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                // The end of the slot: waking at its start would find nothing due yet.
                return Some(self.epoch + tick_end(self.cursor + ahead as u64));
            }
        }
        None
    }

    fn tick_of(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.epoch).as_nanos() / TICK.as_nanos()) as u64
    }
}

impl Due {
    pub(crate) fn tick(self) -> u64 {
        self.tick
    }
}

fn tick_end(tick: u64) -> Duration {
    TICK.saturating_mul((tick + 1).min(u64::from(u32::MAX)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.expire(now, &mut out);
        out.iter().map(|due| due.index).collect()
    }

    #[test]
    fn deadlines_fire_in_order_and_once() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for (index, ms) in [(1, 30), (2, 10), (3, 20)] {
            wheel.schedule(index, 0, start + Duration::from_millis(ms), None);
        }
        assert!(due(&mut wheel, start + Duration::from_millis(5)).is_empty());
        assert_eq!(due(&mut wheel, start + Duration::from_millis(11)), [2]);
        assert_eq!(due(&mut wheel, start + Duration::from_millis(31)), [3, 1]);
        assert!(due(&mut wheel, start + Duration::from_secs(9)).is_empty());
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_deadline_that_moves_later_keeps_its_entry_and_one_that_moves_earlier_gets_a_new_one() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let first = wheel.schedule(7, 0, start + Duration::from_millis(100), None);
        assert_eq!(wheel.schedule(7, 0, start + Duration::from_millis(500), Some(first)), first);
        let earlier = wheel.schedule(7, 0, start + Duration::from_millis(3), Some(first));
        assert!(earlier < first);
        assert_eq!(due(&mut wheel, start + Duration::from_millis(4)), [7]);
    }

    #[test]
    fn far_deadlines_are_visited_again_and_again_until_they_are_due() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let at = start + Duration::from_secs(30);
        let mut scheduled = wheel.schedule(1, 0, at, None);
        let mut visits = 0;
        let mut now = start;
        while now < at {
            now = wheel.next().expect("the entry is still in the wheel");
            let mut out = Vec::new();
            wheel.expire(now, &mut out);
            for entry in out {
                assert_eq!(entry.tick(), scheduled);
                visits += 1;
                if now < at {
                    scheduled = wheel.schedule(1, 0, at, None);
                }
            }
        }
        assert!(visits >= 14, "{visits} visits");
        assert!(now < at + Duration::from_millis(2));
    }

    #[test]
    fn a_stall_longer_than_the_wheel_loses_nothing() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for index in 0..1000 {
            let at = start + Duration::from_millis(u64::from(index) * 7);
            wheel.schedule(index, 0, at, None);
        }
        let mut seen = due(&mut wheel, start + Duration::from_secs(100));
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn next_wraps_around_the_end_of_the_wheel() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let mut out = Vec::new();
        wheel.expire(start + Duration::from_secs(2), &mut out);
        let at = start + Duration::from_millis(2_100);
        wheel.schedule(1, 0, at, None);
        let next = wheel.next().expect("scheduled");
        assert!(next >= at && next <= at + Duration::from_millis(1));
    }
}
