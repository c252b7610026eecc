//! Which connections of a shard have something to send, which were heard from, and when the timers of each are due. It is
//! one dense table beside the connections, so that an entry that turns out to be nothing (a timer that was moved, a
//! connection that was served meanwhile) costs no look at a connection's own state, which is cold. It knows indices.

use std::collections::VecDeque;
use std::time::Instant;

use super::wheel::{Due, Wheel};

/// In which order connections send where the port has little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Handshakes and farewells: a few packets with a deadline.
    First,
    /// Everything else: mostly media.
    Then,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    /// Has something to send.
    marked: Option<Rank>,
    /// Its events were not looked at since something came for it.
    heard: bool,
    /// Tick of the wheel's entry that stands for it.
    scheduled: Option<u64>,
    /// Its true deadline, which may be later than that entry.
    deadline: Option<Instant>,
}

/// The table of one endpoint.
pub(super) struct Agenda {
    slots: Vec<Slot>,
    first: VecDeque<u32>,
    then: VecDeque<u32>,
    heard: VecDeque<u32>,
    wheel: Wheel,
    due: Vec<Due>,
}

impl Agenda {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            slots: Vec::new(),
            first: VecDeque::new(),
            then: VecDeque::new(),
            heard: VecDeque::new(),
            wheel: Wheel::new(now),
            due: Vec::new(),
        }
    }

    /// Another connection has this index from now on; returns its generation.
    pub(super) fn insert(&mut self, index: u32) -> u32 {
        if index as usize >= self.slots.len() {
            self.slots.resize(index as usize + 1, Slot::default());
        }
        let slot = &mut self.slots[index as usize];
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
        slot.generation
    }

    /// The connection is gone.
    pub(super) fn remove(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = Slot { generation: slot.generation, ..Slot::default() };
        }
    }

    /// It has something to send. A higher rank than it had counts.
    pub(super) fn mark(&mut self, index: u32, rank: Rank) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        if slot.marked.is_some_and(|marked| marked <= rank) {
            return;
        }
        slot.marked = Some(rank);
        match rank {
            Rank::First => self.first.push_back(index),
            Rank::Then => self.then.push_back(index),
        }
    }

    /// Whether this connection, and not one before it under its index, has something to send.
    pub(super) fn is_marked(&self, index: u32, generation: u32) -> bool {
        let slot = self.slots.get(index as usize);
        slot.is_some_and(|slot| slot.generation == generation && slot.marked.is_some())
    }

    /// It has sent all it had.
    pub(super) fn unmark(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.marked = None;
        }
        // Who was marked a moment ago stands last; others are passed over when their turn comes.
        if self.then.back() == Some(&index) {
            self.then.pop_back();
        }
    }

    /// Who sends next: the first rank first, in each the one that waits longest.
    pub(super) fn next_marked(&mut self) -> Option<(u32, Rank)> {
        for rank in [Rank::First, Rank::Then] {
            let queue = match rank {
                Rank::First => &mut self.first,
                Rank::Then => &mut self.then,
            };
            while let Some(index) = queue.front().copied() {
                if self.slots.get(index as usize).is_some_and(|slot| slot.marked == Some(rank)) {
                    return Some((index, rank));
                }
                queue.pop_front();
            }
        }
        None
    }

    /// Something came for it, or a timer of its fired: it may have events.
    pub(super) fn hear(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && !slot.heard
        {
            slot.heard = true;
            self.heard.push_back(index);
        }
    }

    /// Those that may have events, each once, who was heard first first.
    pub(super) fn next_heard(&mut self) -> Option<u32> {
        let index = self.heard.pop_front()?;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.heard = false;
        }
        Some(index)
    }

    /// When its timers are due next.
    pub(super) fn schedule(&mut self, index: u32, deadline: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        slot.deadline = deadline;
        if let Some(at) = deadline {
            let tick = self.wheel.schedule(index, slot.generation, at, slot.scheduled);
            slot.scheduled = Some(tick);
        }
    }

    /// Those whose timers are due now, into `out`. Entries that came too early are put back.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<u32>) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for entry in due.drain(..) {
            let Some(slot) = self.slots.get_mut(entry.index as usize) else { continue };
            if slot.generation != entry.generation || slot.scheduled != Some(entry.tick()) {
                continue;
            }
            slot.scheduled = None;
            match slot.deadline {
                Some(at) if at > now => {
                    let tick = self.wheel.schedule(entry.index, entry.generation, at, None);
                    slot.scheduled = Some(tick);
                }
                Some(_) => out.push(entry.index),
                None => {}
            }
        }
        self.due = due;
    }

    /// When to call [`Agenda::expire`] next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn agenda(connections: u32) -> (Agenda, Instant) {
        let now = Instant::now();
        let mut agenda = Agenda::new(now);
        for index in 0..connections {
            agenda.insert(index);
        }
        (agenda, now)
    }

    fn served(agenda: &mut Agenda) -> Vec<u32> {
        std::iter::from_fn(|| {
            let (index, _) = agenda.next_marked()?;
            agenda.unmark(index);
            Some(index)
        })
        .collect()
    }

    #[test]
    fn handshakes_and_farewells_send_before_media_and_each_once() {
        let (mut agenda, _) = agenda(5);
        for (index, rank) in [
            (0, Rank::Then),
            (1, Rank::Then),
            (2, Rank::First),
            (1, Rank::First),
            (0, Rank::Then),
            (2, Rank::Then),
        ] {
            agenda.mark(index, rank);
        }
        assert_eq!(served(&mut agenda), [2, 1, 0]);
        assert_eq!(agenda.next_marked(), None);
    }

    #[test]
    fn who_was_served_out_of_turn_is_passed_over_and_may_come_again() {
        let (mut agenda, _) = agenda(4);
        for index in 0..4 {
            agenda.mark(index, Rank::Then);
        }
        agenda.unmark(1);
        agenda.unmark(3);
        agenda.mark(1, Rank::Then);
        assert_eq!(served(&mut agenda), [0, 1, 2]);
    }

    #[test]
    fn an_early_entry_of_the_wheel_wakes_nobody_and_the_true_deadline_does() {
        let (mut agenda, start) = agenda(1);
        agenda.schedule(0, Some(start + Duration::from_millis(10)));
        agenda.schedule(0, Some(start + Duration::from_millis(40)));
        let mut out = Vec::new();
        agenda.expire(start + Duration::from_millis(20), &mut out);
        assert!(out.is_empty(), "its timer was moved");
        agenda.expire(start + Duration::from_millis(41), &mut out);
        assert_eq!(out, [0]);
        out.clear();
        agenda.expire(start + Duration::from_secs(9), &mut out);
        assert!(out.is_empty(), "once");
    }

    #[test]
    fn what_stood_for_a_connection_that_is_gone_means_nothing_to_the_next() {
        let (mut agenda, start) = agenda(1);
        agenda.mark(0, Rank::Then);
        agenda.hear(0);
        agenda.schedule(0, Some(start + Duration::from_millis(5)));
        agenda.remove(0);
        assert_eq!(agenda.insert(0), 2);
        assert_eq!(agenda.next_marked(), None);
        let mut out = Vec::new();
        agenda.expire(start + Duration::from_millis(6), &mut out);
        assert!(out.is_empty());
        agenda.hear(0);
        while agenda.next_heard().is_some() {}
        agenda.hear(0);
        assert_eq!(agenda.next_heard(), Some(0));
    }
}
