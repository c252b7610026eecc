//! Puts the objects of one track into order: the joining fetch first, then group after group, each from one stream or
//! several. A group that stalls is given up for a newer one, so what waits is bounded. It knows no session, and of streams
//! only in which order they were opened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use weir_moqt::Location;

use super::Limits;
use super::arrivals::Arrivals;
use super::splice::GROUPS_APART_MAX;

/// An object that is complete.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) location: Location,
    pub(super) properties: Bytes,
    pub(super) payload: Bytes,
}

/// What leaves the sequence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    Object(Whole),
    Skipped(u64),
    /// The joining fetch took too long; its request is to be cancelled.
    JoinAbandoned,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// What is delivered next, as far as known; everything before it is done with.
    next: Option<Location>,
    /// The joining fetch is not over: live objects wait.
    joining: bool,
    /// All streams there will ever be have been seen.
    ending: bool,
    /// Fetched objects, which come before all others.
    fetched: VecDeque<Whole>,
    /// Groups with a stream seen, from the current one on.
    groups: BTreeMap<u64, Group>,
    /// Payload bytes in `groups`.
    held: usize,
    /// Since when something newer waits.
    blocked_since: Option<Instant>,
    /// Stream of the group that was current before.
    behind: Option<u64>,
}

#[derive(Debug, Default)]
struct Group {
    objects: BTreeMap<u64, Whole>,
    streams_open: usize,
    reset: bool,
    /// Its first stream.
    stream: Option<u64>,
}

impl Sequence {
    pub(super) fn new(joining: bool) -> Self {
        Self { joining, ..Self::default() }
    }

    /// Payload bytes that wait.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Nothing waits and nothing is still expected of the streams seen.
    pub(super) fn is_drained(&self) -> bool {
        !self.joining && self.groups.is_empty() && self.fetched.is_empty()
    }

    /// When [`Self::release`] has to be called again though nothing arrives.
    pub(super) fn deadline(&self, limits: &Limits, arrivals: &Arrivals) -> Option<Instant> {
        Some(self.blocked_since? + self.patience(limits, arrivals))
    }

    /// No further stream comes: gaps are no longer waited for.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Whether [`Self::end`] was called.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// A stream of this group began. False when the group is done with.
    pub(super) fn open(&mut self, group: u64, stream: u64) -> bool {
        if self.is_past(group) {
            return false;
        }
        let group = self.groups.entry(group).or_default();
        group.streams_open += 1;
        group.stream.get_or_insert(stream);
        true
    }

    /// A stream for which `open` said true is over.
    pub(super) fn close(&mut self, group: u64, reset: bool) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.streams_open = group.streams_open.saturating_sub(1);
            group.reset |= reset;
        }
    }

    /// A live object.
    pub(super) fn push(&mut self, whole: Whole) {
        let Location { group, object } = whole.location;
        if let Some(open) = self.groups.get_mut(&group) {
            self.held += whole.payload.len();
            if let Some(twin) = open.objects.insert(object, whole) {
                self.held -= twin.payload.len();
            }
        }
    }

    /// An object of the joining fetch.
    pub(super) fn push_fetched(&mut self, whole: Whole) {
        if self.joining && self.next.is_none_or(|next| whole.location >= next) {
            let Location { group, object } = whole.location;
            self.next = Some(Location::new(group, object.saturating_add(1)));
            self.blocked_since = None;
            self.fetched.push_back(whole);
        }
    }

    /// Waits for what precedes the live objects.
    pub(super) fn is_joining(&self) -> bool {
        self.joining
    }

    /// The joining fetch brought all it had.
    pub(super) fn join_done(&mut self) {
        self.joining = false;
        self.blocked_since = None;
    }

    /// The joining fetch failed: a group whose head is missing is of no use, the next one is.
    /// True when a group is lost that way.
    pub(super) fn join_failed(&mut self) -> bool {
        self.join_done();
        let Some((&first, group)) = self.groups.first_key_value() else { return false };
        let expected = match self.next {
            Some(next) if next.group == first => next.object,
            _ => 0,
        };
        let head = group.objects.first_key_value().map(|(id, _)| *id);
        if head.is_none_or(|id| id <= expected) {
            return false;
        }
        self.leave(first.saturating_add(1));
        true
    }

    /// The next thing that is due.
    pub(super) fn release(
        &mut self,
        now: Instant,
        limits: &Limits,
        arrivals: &Arrivals,
    ) -> Option<Released> {
        if let Some(whole) = self.fetched.pop_front() {
            return Some(Released::Object(whole));
        }
        loop {
            let current = match self.next {
                Some(next) => next.group,
                None => *self.groups.first_key_value()?.0,
            };
            if !self.joining {
                if let Some(whole) = self.take(current) {
                    return Some(Released::Object(whole));
                }
                if let Some(group) = self.groups.get(&current)
                    && group.streams_open == 0
                    && group.objects.is_empty()
                {
                    let lost = group.reset;
                    self.leave(current.saturating_add(1));
                    if lost {
                        return Some(Released::Skipped(1));
                    }
                    continue;
                }
            }
            let newer = self
                .groups
                .iter()
                .find(|(id, group)| (self.joining || **id > current) && !group.objects.is_empty())
                .map(|(id, _)| *id);
            let crowded = self.groups.len() > limits.groups_held;
            let Some(newer) =
                newer.or(crowded.then(|| *self.groups.keys().next_back().unwrap_or(&current)))
            else {
                self.blocked_since = None;
                return None;
            };
            let since = *self.blocked_since.get_or_insert(now);
            let ahead = self.groups.range(current.saturating_add(1)..).count();
            let late =
                now >= since + self.patience(limits, arrivals) || (self.ending && !self.joining);
            if !late && !crowded && ahead <= limits.groups_ahead {
                return None;
            }
            if self.joining {
                self.join_done();
                return Some(Released::JoinAbandoned);
            }
            // A group we joined at its very end has no stream of its own and is not lost.
            let whole = !self.groups.contains_key(&current)
                && self.next.is_some_and(|next| next.object > 0);
            let mut lost = newer - current - u64::from(whole);
            if lost > GROUPS_APART_MAX {
                // Another count, as when a standby has taken over: what lies between is not known, but something may.
                lost = 1;
            }
            self.leave(newer);
            if lost > 0 {
                return Some(Released::Skipped(lost));
            }
        }
    }

    /// The next object of the current group, if its turn has come.
    fn take(&mut self, current: u64) -> Option<Whole> {
        let from = self.next.map_or(0, |next| next.object);
        let group = self.groups.get_mut(&current)?;
        // What was fetched already.
        while let Some(entry) = group.objects.first_entry()
            && *entry.key() < from
        {
            self.held -= entry.remove().payload.len();
        }
        let entry = group.objects.first_entry()?;
        let id = *entry.key();
        // Streams are in order within themselves; between several, ids decide.
        if group_is_ambiguous(group.streams_open, id, from) {
            return None;
        }
        let whole = group.objects.remove(&id)?;
        self.held -= whole.payload.len();
        self.next = Some(Location::new(current, id.saturating_add(1)));
        self.blocked_since = None;
        Some(whole)
    }

    /// Goes on at the start of `group`; what is older is dropped.
    fn leave(&mut self, group: u64) {
        let kept = self.groups.split_off(&group);
        let dropped = std::mem::replace(&mut self.groups, kept);
        self.behind = dropped.values().filter_map(|group| group.stream).max().or(self.behind);
        let bytes: usize =
            dropped.values().flat_map(|g| g.objects.values()).map(|o| o.payload.len()).sum();
        self.held -= bytes;
        self.next = Some(Location::new(group, 0));
        self.blocked_since = None;
    }

    fn is_past(&self, group: u64) -> bool {
        self.next.is_some_and(|next| group < next.group)
    }

    fn patience(&self, limits: &Limits, arrivals: &Arrivals) -> std::time::Duration {
        let unseen = self.next.is_some_and(|next| !self.groups.contains_key(&next.group));
        if !unseen || self.joining {
            return limits.stall_patience;
        }
        // A stream between those of its neighbours is on its way: most likely it is this group's.
        let after = self.groups.values().find_map(|group| group.stream);
        let repaired = after.is_some_and(|after| arrivals.is_due(self.behind, after));
        if repaired { limits.stall_patience } else { limits.gap_patience }
    }
}

fn group_is_ambiguous(streams_open: usize, id: u64, from: u64) -> bool {
    streams_open > 1 && id != from
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn whole(group: u64, object: u64) -> Whole {
        Whole {
            location: Location::new(group, object),
            properties: Bytes::new(),
            payload: Bytes::from_static(b"1234567890"),
        }
    }

    /// Groups are sent one after the other on streams of their own.
    fn stream(group: u64) -> u64 {
        group * 4 + 3
    }

    fn start() -> Instant {
        Instant::now()
    }

    /// Everything that is due: objects as (group, object), skips as (the largest number, groups).
    fn due(sequence: &mut Sequence, now: Instant) -> Vec<(u64, u64)> {
        let limits = Limits::default();
        std::iter::from_fn(|| sequence.release(now, &limits, &Arrivals::default()))
            .map(|released| match released {
                Released::Object(whole) => (whole.location.group, whole.location.object),
                Released::Skipped(groups) => (u64::MAX, groups),
                Released::JoinAbandoned => (u64::MAX, 0),
            })
            .collect()
    }

    #[test]
    fn live_objects_wait_for_the_joining_fetch() {
        let now = start();
        let mut sequence = Sequence::new(true);
        assert!(sequence.open(4, stream(4)));
        sequence.push(whole(4, 2));
        sequence.push_fetched(whole(4, 0));
        assert_eq!(due(&mut sequence, now), [(4, 0)]);
        sequence.push_fetched(whole(4, 1));
        sequence.join_done();
        assert_eq!(due(&mut sequence, now), [(4, 1), (4, 2)]);
        assert_eq!(sequence.held(), 0);
    }

    #[test]
    fn a_group_waits_for_the_one_before_it_and_no_longer_than_patience() {
        let now = start();
        let mut sequence = Sequence::new(false);
        assert!(sequence.open(1, stream(1)) && sequence.open(2, stream(2)));
        sequence.push(whole(1, 0));
        sequence.push(whole(2, 0));
        assert_eq!(due(&mut sequence, now), [(1, 0)]);
        let limits = Limits::default();
        let deadline = sequence.deadline(&limits, &Arrivals::default()).expect("a group waits");
        assert_eq!(deadline, now + limits.stall_patience);
        assert_eq!(due(&mut sequence, deadline), [(u64::MAX, 1), (2, 0)]);
        assert!(!sequence.open(1, stream(1)), "what comes of the old group is not wanted");
    }

    #[test]
    fn a_finished_group_gives_way_at_once() {
        let now = start();
        let mut sequence = Sequence::new(false);
        sequence.open(1, stream(1));
        sequence.open(2, stream(2));
        sequence.push(whole(2, 0));
        sequence.push(whole(1, 0));
        sequence.close(1, false);
        assert_eq!(due(&mut sequence, now), [(1, 0), (2, 0)]);
    }

    #[test]
    fn a_reset_group_counts_as_lost_and_a_missing_one_after_a_short_wait() {
        let now = start();
        let mut sequence = Sequence::new(false);
        sequence.open(1, stream(1));
        sequence.push(whole(1, 0));
        sequence.close(1, true);
        assert_eq!(due(&mut sequence, now), [(1, 0), (u64::MAX, 1)]);
        sequence.open(4, stream(4));
        sequence.push(whole(4, 0));
        assert_eq!(due(&mut sequence, now), []);
        let later = now + Limits::default().gap_patience;
        assert_eq!(due(&mut sequence, later), [(u64::MAX, 2), (4, 0)]);
    }

    #[test]
    fn a_group_whose_first_packet_is_repaired_is_waited_for_and_one_that_was_never_sent_is_not() {
        let now = start();
        let limits = Limits::default();
        for sent in [true, false] {
            let (mut sequence, mut arrivals) = (Sequence::new(false), Arrivals::default());
            let due = |sequence: &mut Sequence, arrivals: &Arrivals, now: Instant| {
                let mut groups = Vec::new();
                while let Some(released) = sequence.release(now, &limits, arrivals) {
                    groups.push(match released {
                        Released::Object(whole) => whole.location.group,
                        _ => u64::MAX,
                    });
                }
                groups
            };
            // Without the second group, the third has the stream behind that of the first.
            for (group, stream) in [(1, 7), (3, if sent { 15 } else { 11 })] {
                arrivals.saw(weir_moqt::StreamId(stream), now);
                sequence.open(group, stream);
                sequence.push(whole(group, 0));
                sequence.close(group, false);
            }
            assert_eq!(due(&mut sequence, &arrivals, now), [1]);
            let later = now + limits.gap_patience;
            if !sent {
                assert_eq!(due(&mut sequence, &arrivals, later), [u64::MAX, 3]);
                continue;
            }
            assert_eq!(sequence.deadline(&limits, &arrivals), Some(now + limits.stall_patience));
            assert!(due(&mut sequence, &arrivals, later).is_empty());
            arrivals.saw(weir_moqt::StreamId(11), later);
            sequence.open(2, 11);
            sequence.push(whole(2, 0));
            sequence.close(2, false);
            assert_eq!(due(&mut sequence, &arrivals, later), [2, 3]);
        }
    }

    #[test]
    fn a_group_joined_at_its_end_is_not_lost() {
        let now = start();
        let mut sequence = Sequence::new(true);
        sequence.push_fetched(whole(7, 0));
        sequence.join_done();
        sequence.open(8, stream(8));
        sequence.push(whole(8, 0));
        assert_eq!(due(&mut sequence, now), [(7, 0)]);
        assert_eq!(due(&mut sequence, now + Duration::from_millis(200)), [(8, 0)]);
    }

    #[test]
    fn a_fetch_that_stalls_is_abandoned_and_its_group_given_up() {
        let now = start();
        let mut sequence = Sequence::new(true);
        sequence.push_fetched(whole(3, 0));
        sequence.open(3, stream(3));
        sequence.push(whole(3, 5));
        assert_eq!(due(&mut sequence, now), [(3, 0)]);
        let later = now + Limits::default().stall_patience;
        let released = sequence.release(later, &Limits::default(), &Arrivals::default());
        assert_eq!(released, Some(Released::JoinAbandoned));
        sequence.open(4, stream(4));
        sequence.push(whole(4, 0));
        // The hole is at 3/1 to 3/4; whoever cancels the fetch asks for the verdict.
        assert!(sequence.join_failed());
        assert_eq!(due(&mut sequence, later), [(4, 0)]);
        assert_eq!(sequence.held(), 0);
    }

    #[test]
    fn groups_that_pile_up_are_bounded() {
        let now = start();
        let mut sequence = Sequence::new(false);
        for group in 0..1000 {
            sequence.open(group, stream(group));
            sequence.push(whole(group, 1));
            due(&mut sequence, now);
            assert!(sequence.groups.len() <= Limits::default().groups_ahead + 2);
        }
        for group in 1000..2000 {
            sequence.open(group, stream(group));
            due(&mut sequence, now);
            assert!(sequence.groups.len() <= Limits::default().groups_held + 1);
        }
    }
}
