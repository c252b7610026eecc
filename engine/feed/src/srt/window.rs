//! The receive window: packets that came, places of those that did not, and what is due. Owns order and loss; knows
//! neither the wire nor a clock of its own.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::packet::Seq;

/// A place in the window.
#[derive(Debug)]
enum Slot {
    Missing,
    /// With no payload when it could not be deciphered.
    Came {
        due: Instant,
        payload: Option<Bytes>,
    },
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Placed {
    /// New; this many before it are missing that were not known to be.
    New { gap: u32 },
    /// It is here already.
    Duplicate,
    /// Its time has passed.
    Late,
    /// Too far ahead to be kept.
    Beyond,
}

/// What is next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    Payload(Bytes),
    /// So many packets were given up.
    Lost(u32),
}

#[derive(Debug)]
pub(super) struct Window {
    /// Number of the first place.
    base: Seq,
    slots: VecDeque<Slot>,
    capacity: usize,
    /// Places from the first on that are all filled.
    whole: usize,
    missing: usize,
}

impl Window {
    pub(super) fn new(first: Seq, capacity: usize) -> Self {
        Self { base: first, slots: VecDeque::new(), capacity, whole: 0, missing: 0 }
    }

    pub(super) fn place(&mut self, seq: Seq, due: Instant, payload: Option<Bytes>) -> Placed {
        let Ok(at) = usize::try_from(seq.since(self.base)) else { return Placed::Late };
        if at >= self.capacity {
            return Placed::Beyond;
        }
        let came = Slot::Came { due, payload };
        let gap = at.saturating_sub(self.slots.len());
        if at < self.slots.len() {
            match self.slots.get_mut(at) {
                Some(slot @ Slot::Missing) => {
                    *slot = came;
                    self.missing -= 1;
                }
                _ => return Placed::Duplicate,
            }
        } else {
            self.slots.extend(std::iter::repeat_with(|| Slot::Missing).take(gap));
            self.slots.push_back(came);
            self.missing += gap;
        }
        self.grow_whole();
        Placed::New { gap: gap as u32 }
    }

    /// The sender has given these up.
    pub(super) fn give_up(&mut self, first: Seq, last: Seq, now: Instant) {
        let from = first.since(self.base).max(0) as usize;
        let to = last.since(self.base).min(self.slots.len() as i64 - 1);
        let Ok(to) = usize::try_from(to) else { return };
        for slot in self.slots.range_mut(from.min(to + 1)..=to) {
            if matches!(slot, Slot::Missing) {
                *slot = Slot::Came { due: now, payload: None };
                self.missing -= 1;
            }
        }
        self.grow_whole();
    }

    /// What is due in order. A missing packet is given up when the one behind it is due (§4.6).
    pub(super) fn poll(&mut self, now: Instant) -> Option<Next> {
        let (at, due) = self.first_here()?;
        if due > now {
            return None;
        }
        if at > 0 {
            self.drop_front(at);
            return Some(Next::Lost(at as u32));
        }
        match self.slots.pop_front() {
            Some(Slot::Came { payload, .. }) => {
                self.base = self.base.plus(1);
                self.whole = self.whole.saturating_sub(1);
                Some(payload.map_or(Next::Lost(1), Next::Payload))
            }
            _ => None,
        }
    }

    /// When there is something for [`Window::poll`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.first_here().map(|(_, due)| due)
    }

    /// The first that is missing: all before it came.
    pub(super) fn acknowledge(&self) -> Seq {
        self.base.plus(self.whole as u32)
    }

    pub(super) fn has_missing(&self) -> bool {
        self.missing > 0
    }

    /// Places left.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.slots.len()
    }

    /// Ranges that are missing, oldest first, at most so many.
    pub(super) fn missing(&self, ranges_max: usize) -> Vec<(Seq, Seq)> {
        let mut ranges: Vec<(Seq, Seq)> = Vec::new();
        let mut open = false;
        for (at, slot) in self.slots.iter().enumerate().skip(self.whole) {
            let is_missing = matches!(slot, Slot::Missing);
            let seq = self.base.plus(at as u32);
            match (is_missing, open) {
                (true, true) => {
                    if let Some((_, last)) = ranges.last_mut() {
                        *last = seq;
                    }
                }
                (true, false) if ranges.len() == ranges_max => break,
                (true, false) => ranges.push((seq, seq)),
                (false, _) => {}
            }
            open = is_missing;
        }
        ranges
    }

    fn first_here(&self) -> Option<(usize, Instant)> {
        self.slots.iter().enumerate().find_map(|(at, slot)| match slot {
            Slot::Came { due, .. } => Some((at, *due)),
            Slot::Missing => None,
        })
    }

    fn drop_front(&mut self, count: usize) {
        self.slots.drain(..count.min(self.slots.len()));
        self.missing = self.missing.saturating_sub(count);
        self.base = self.base.plus(count as u32);
        self.whole = 0;
        self.grow_whole();
    }

    fn grow_whole(&mut self) {
        while matches!(self.slots.get(self.whole), Some(Slot::Came { .. })) {
            self.whole += 1;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant does")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn one(byte: u8) -> Bytes {
        Bytes::copy_from_slice(&[byte])
    }

    #[test]
    fn what_comes_out_of_order_leaves_in_order_and_in_time() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let first = Seq::new(0x7fff_fffe);
        let mut window = Window::new(first, 16);
        let due = |n: u32| start + ms(10) * n;
        assert_eq!(window.place(first, due(0), Some(one(0))), Placed::New { gap: 0 });
        assert_eq!(window.place(first.plus(3), due(3), Some(one(3))), Placed::New { gap: 2 });
        assert_eq!(window.missing(9), [(first.plus(1), first.plus(2))]);
        assert_eq!(window.place(first.plus(2), due(2), Some(one(2))), Placed::New { gap: 0 });
        assert_eq!(window.place(first.plus(2), due(2), Some(one(2))), Placed::Duplicate);
        assert_eq!(window.acknowledge(), first.plus(1));
        assert_eq!(window.poll(start), Some(Next::Payload(one(0))));
        assert_eq!(window.poll(due(1)), None, "the missing one may still come");
        assert_eq!(window.poll(due(2)), Some(Next::Lost(1)));
        assert_eq!(window.place(first.plus(1), due(1), Some(one(1))), Placed::Late);
        assert_eq!(window.poll(due(2)), Some(Next::Payload(one(2))));
        assert_eq!(window.poll_timeout(), Some(due(3)));
        assert!(!window.has_missing());
        assert_eq!(window.poll(due(3)), Some(Next::Payload(one(3))));
        assert_eq!(window.acknowledge(), first.plus(4));
    }

    #[test]
    fn a_jump_beyond_the_window_is_not_kept() {
        let (start, first) = (Instant::now(), Seq::new(7));
        let mut window = Window::new(first, 16);
        assert_eq!(window.place(first.plus(16), start, Some(one(1))), Placed::Beyond);
        assert_eq!(window.place(first.plus(1 << 30), start, Some(one(1))), Placed::Late);
        assert_eq!(window.place(first.plus(15), start, Some(one(1))), Placed::New { gap: 15 });
        assert_eq!(window.room(), 0);
        window.give_up(first, first.plus(1 << 29), start);
        assert_eq!(window.acknowledge(), first.plus(16));
    }
}
