//! Two viewers of one broadcast joined into one, while the second takes over from the first: each track changes over at a
//! group boundary, nothing is lost and nothing comes twice. It knows no connection: who dials and closes is told when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_moqt::Location;
use weir_packager::catalog::{Catalog, Kind};

use super::{Event, Object};

/// Moves begun within a minute; past it a viewer stays where it is, so that relays which send it to each other do not keep
/// it busy.
pub const MOVES_PER_MINUTE_MAX: usize = 6;
const MINUTE: Duration = Duration::from_mins(1);

/// How long the new connection may take to catch up: a group of 10 s, and a handshake.
const PATIENCE: Duration = Duration::from_secs(15);

/// Redirects in a row, without an object between; as many hops as a broadcast with regions and edges may need.
pub const REDIRECTS_MAX: u32 = 4;

/// Payload of the new connection that waits for its turn; past it the change is made inside a group. 4 s at 64 Mb/s.
const HELD_BYTES_MAX: usize = 32 << 20;

/// Numbers further apart than this are not of the same count: two minutes of groups of 2 s.
pub(super) const GROUPS_APART_MAX: u64 = 64;

/// Which of the two viewers an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The one there has been.
    Current,
    /// The one that takes over.
    Next,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Leave the current connection: the next one is the current one now.
    Moved,
    /// Leave the next connection: it did not bring the broadcast.
    Failed,
}

/// What a viewer gives over one connection after the other.
#[derive(Debug, Default)]
pub struct Splice {
    lanes: BTreeMap<Arc<str>, Lane>,
    catalog: Option<Catalog>,
    next: Option<Next>,
    outcome: Option<Outcome>,
    events: VecDeque<Event>,
    begun: VecDeque<Instant>,
    moves: u64,
    /// Redirects since the last object.
    redirects: u32,
    /// Nothing is heard from the current connection.
    doubted: bool,
}

/// What has been delivered of a track.
#[derive(Debug, Default)]
struct Lane {
    last: Option<Location>,
    /// The next object may be of another count of groups.
    changed: bool,
    /// What the current connection would still have brought of `last`'s group is not known.
    cut: bool,
    over: bool,
}

/// A move under way.
#[derive(Debug)]
struct Next {
    until: Instant,
    lanes: BTreeMap<Arc<str>, Incoming>,
    held_bytes: usize,
    /// It has brought media.
    flows: bool,
    /// How the current connection ended meanwhile.
    current_ended: Option<(u32, String)>,
    /// To be told once it is the current one.
    later: Vec<Event>,
}

/// A track on the new connection.
#[derive(Debug, Default)]
struct Incoming {
    /// The group from which on it counts, once known.
    from: Option<u64>,
    held: VecDeque<Event>,
    moved: bool,
}

impl Splice {
    /// Moves made so far.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// A move begins: events of the next connection may come. `within` is how long the current one will last. False when
    /// one is under way or there were too many on a relay's word; those away from a silent relay have their own pauses.
    pub fn begin(&mut self, within: Option<Duration>, now: Instant) -> bool {
        while self.begun.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
            self.begun.pop_front();
        }
        if self.next.is_some() || (!self.doubted && self.begun.len() >= MOVES_PER_MINUTE_MAX) {
            return false;
        }
        if !self.doubted {
            self.begun.push_back(now);
        }
        // What comes in the last moments is worth waiting for, the close at the deadline is not.
        let patience = within.map_or(PATIENCE, |within| (within * 3 / 4).min(PATIENCE));
        self.next = Some(Next {
            until: now + patience,
            lanes: BTreeMap::new(),
            held_bytes: 0,
            flows: false,
            current_ended: None,
            later: Vec::new(),
        });
        true
    }

    /// Nothing is heard from the current connection, or something is again: whether a move waits for what it still owes.
    pub fn doubt(&mut self, doubted: bool) {
        self.doubted = doubted;
        self.settle();
    }

    /// Whether a move is under way.
    pub fn is_moving(&self) -> bool {
        self.next.is_some()
    }

    /// The media tracks of the broadcast, as far as told.
    pub fn media_tracks(&self) -> Vec<String> {
        let known = self.catalog.iter().flat_map(|catalog| &catalog.tracks);
        let media = known.filter(|track| track.kind != Kind::Unknown);
        media.map(|track| track.name.clone()).collect()
    }

    /// Whether anything has come that another connection has to continue.
    pub fn has_begun(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// The relay says that another one has the broadcast. False when it has been said too often in a row, without an
    /// object between: then nobody has it.
    pub fn follow_redirect(&mut self) -> bool {
        self.redirects += 1;
        self.redirects <= REDIRECTS_MAX
    }

    /// Something happened on one of the connections.
    pub fn handle_event(&mut self, leg: Leg, event: Event) {
        match leg {
            Leg::Current => self.on_current(event),
            Leg::Next => self.on_next(event),
        }
        self.settle();
    }

    /// The next connection could not be had.
    pub fn abandon(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.outcome = Some(Outcome::Failed);
        if let Some((code, reason)) = next.current_ended {
            self.events.push_back(Event::Ended { code, reason });
        }
    }

    /// When [`Splice::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next.as_ref().map(|next| next.until)
    }

    /// The deadline of [`Splice::poll_timeout`] has passed: the change is made inside a group, or not at all.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.next {
            Some(next) if next.until <= now && next.flows => self.cut(),
            Some(next) if next.until <= now => self.abandon(),
            _ => {}
        }
    }

    /// How the move ended, once.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// What the viewer gives.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn on_current(&mut self, event: Event) {
        match event {
            Event::Object(object) => {
                let incoming =
                    self.next.as_mut().and_then(|next| next.lanes.get_mut(&object.track));
                match incoming {
                    Some(Incoming { moved: true, .. }) => {}
                    // All that came before has come.
                    Some(Incoming { from: Some(from), .. }) if object.group >= *from => {
                        self.change_over(&object.track);
                    }
                    _ => self.deliver(object),
                }
            }
            Event::Skipped { ref track, .. } if self.has_moved(track) => {}
            Event::TrackEnded { ref track, .. } if self.next.is_some() => {
                // Whether the broadcast is over is for the new connection to say.
                let track = Arc::clone(track);
                self.change_over(&track);
            }
            Event::Ended { code, reason } if self.next.is_some() => {
                if let Some(next) = &mut self.next {
                    next.current_ended = Some((code, reason));
                }
            }
            event => self.pass(event),
        }
    }

    fn on_next(&mut self, event: Event) {
        let Some(next) = &mut self.next else { return };
        match event {
            Event::Object(object) => {
                next.flows = true;
                let last = self.lanes.get(&object.track).filter(|lane| !lane.over);
                let last = last.and_then(|lane| lane.last);
                let incoming = next.lanes.entry(Arc::clone(&object.track)).or_default();
                if incoming.moved {
                    return self.deliver(object);
                }
                if incoming.from.is_none() {
                    let first = object.group.saturating_add(u64::from(object.object > 0));
                    let after = last.map_or(first, |last| first.max(last.group.saturating_add(1)));
                    incoming.from = Some(after);
                    // Without a count in common there is no boundary to wait for.
                    if last.is_none_or(|last| apart(last.group, first)) {
                        let track = Arc::clone(&object.track);
                        self.change_over(&track);
                        return self.deliver(object);
                    }
                }
                next.held_bytes += object.payload.len();
                incoming.held.push_back(Event::Object(object));
            }
            Event::Skipped { ref track, .. }
            | Event::TrackEnded { ref track, .. }
            | Event::Refused { ref track, .. } => {
                let incoming = next.lanes.entry(Arc::clone(track)).or_default();
                if incoming.moved {
                    return self.pass(event);
                }
                incoming.held.push_back(event);
            }
            Event::Ended { .. } | Event::Redirected { .. } => self.abandon(),
            Event::GoAway { .. } => next.later.push(event),
            Event::Catalog(catalog) => self.tell_catalog(catalog),
            Event::Ready => {}
        }
    }

    /// Makes the change where it is due, and says when the move is complete.
    fn settle(&mut self) {
        let Some(next) = &self.next else { return };
        let over = self.doubted || next.current_ended.is_some();
        if next.flows && (over || next.held_bytes > HELD_BYTES_MAX) {
            return self.cut();
        }
        let moved = |name: &Arc<str>| next.lanes.get(name).is_some_and(|lane| lane.moved);
        let live = self.lanes.iter().filter(|(_, lane)| !lane.over);
        if next.flows && live.into_iter().all(|(name, _)| moved(name)) {
            self.complete();
        }
    }

    /// Changes every track over where it stands.
    fn cut(&mut self) {
        let Some(next) = &self.next else { return };
        let waiting: Vec<_> = next
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.moved)
            .map(|(name, _)| name.clone())
            .collect();
        for (track, lane) in &mut self.lanes {
            if !next.lanes.get(track).is_some_and(|incoming| incoming.moved) {
                lane.cut = true;
                lane.changed = true;
            }
        }
        for track in waiting {
            self.change_over(&track);
        }
        self.complete();
    }

    /// From here on a track is the new connection's.
    fn change_over(&mut self, track: &Arc<str>) {
        let Some(next) = &mut self.next else { return };
        let incoming = next.lanes.entry(Arc::clone(track)).or_default();
        incoming.moved = true;
        let held = std::mem::take(&mut incoming.held);
        if let Some(lane) = self.lanes.get_mut(track) {
            lane.changed = true;
        }
        for event in held {
            match event {
                Event::Object(object) => {
                    if let Some(next) = &mut self.next {
                        next.held_bytes -= object.payload.len();
                    }
                    self.deliver(object);
                }
                // It is about what the current connection brought.
                Event::Skipped { .. } => {}
                event => self.pass(event),
            }
        }
    }

    fn complete(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.moves += 1;
        self.doubted = false;
        self.outcome = Some(Outcome::Moved);
        for event in next.later {
            self.pass(event);
        }
    }

    fn has_moved(&self, track: &Arc<str>) -> bool {
        let incoming = self.next.as_ref().and_then(|next| next.lanes.get(track));
        incoming.is_some_and(|incoming| incoming.moved)
    }

    /// Gives an object, unless it was given before.
    fn deliver(&mut self, object: Object) {
        self.redirects = 0;
        let lane = self.lanes.entry(Arc::clone(&object.track)).or_default();
        let place = Location::new(object.group, object.object);
        if std::mem::take(&mut lane.changed)
            && let Some(last) = lane.last
            && apart(last.group, object.group)
        {
            // Another count: what lies between is not known, but something may.
            lane.last = None;
            lane.cut = false;
            let track = Arc::clone(&object.track);
            self.events.push_back(Event::Skipped { track, groups: 1 });
        } else if lane.last.is_some_and(|last| place <= last) {
            // The new connection goes over what there was: nothing is missing behind it.
            lane.cut = false;
            return;
        } else if std::mem::take(&mut lane.cut)
            && let Some(last) = lane.last
            && object.group > last.group
        {
            let track = Arc::clone(&object.track);
            let groups = object.group - last.group;
            self.events.push_back(Event::Skipped { track, groups });
        }
        let Some(lane) = self.lanes.get_mut(&object.track) else { return };
        lane.last = Some(place);
        lane.over = false;
        self.events.push_back(Event::Object(object));
    }

    fn pass(&mut self, event: Event) {
        match event {
            Event::Catalog(catalog) => return self.tell_catalog(catalog),
            Event::TrackEnded { ref track, .. } => {
                if let Some(lane) = self.lanes.get_mut(track) {
                    lane.over = true;
                }
            }
            _ => {}
        }
        self.events.push_back(event);
    }

    fn tell_catalog(&mut self, catalog: Catalog) {
        if self.catalog.as_ref() != Some(&catalog) {
            self.catalog = Some(catalog.clone());
            self.events.push_back(Event::Catalog(catalog));
        }
    }
}

fn apart(one: u64, other: u64) -> bool {
    one.abs_diff(other) > GROUPS_APART_MAX
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_moqt::{DoneCode, RequestCode};

    use super::*;

    fn object(track: &str, group: u64, object: u64) -> Event {
        let payload = Bytes::from_static(b"1234567890");
        Event::Object(Object {
            track: track.into(),
            group,
            object,
            payload,
            properties: Bytes::new(),
        })
    }

    /// A splice, and what it has given: objects as (group, object), skips as (largest number, groups).
    struct Story {
        splice: Splice,
        now: Instant,
        got: BTreeMap<String, Vec<(u64, u64)>>,
        other: Vec<Event>,
        outcome: Option<Outcome>,
    }

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            let (splice, got) = (Splice::default(), BTreeMap::new());
            Self { splice, now, got, other: Vec::new(), outcome: None }
        }

        /// As the owner of the connections does: after a move there is only the new one.
        fn hear(&mut self, leg: Leg, event: Event) {
            let leg = match (self.outcome, leg) {
                (Some(Outcome::Moved), Leg::Current) | (Some(Outcome::Failed), Leg::Next) => return,
                (Some(_), _) => Leg::Current,
                (None, leg) => leg,
            };
            self.splice.handle_event(leg, event);
            self.take();
        }

        fn take(&mut self) {
            while let Some(event) = self.splice.poll_event() {
                match event {
                    Event::Object(object) => {
                        let got = self.got.entry(object.track.to_string()).or_default();
                        got.push((object.group, object.object));
                    }
                    Event::Skipped { track, groups } => {
                        self.got.entry(track.to_string()).or_default().push((u64::MAX, groups));
                    }
                    other => self.other.push(other),
                }
            }
            self.outcome = self.splice.poll_outcome().or(self.outcome);
        }

        fn objects(&mut self, leg: Leg, track: &str, places: &[(u64, u64)]) {
            for (group, id) in places {
                self.hear(leg, object(track, *group, *id));
            }
        }

        fn begin(&mut self) {
            assert!(self.splice.begin(Some(Duration::from_secs(20)), self.now));
            self.outcome = None;
        }
    }

    #[test]
    fn a_track_changes_over_at_the_first_boundary_after_the_join() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0), (7, 1)]);
        story.begin();
        // The fetch brings group 7 from its start: the current connection has begun it and ends it.
        story.objects(Leg::Next, "v", &[(7, 0), (7, 1), (7, 2)]);
        story.objects(Leg::Current, "v", &[(7, 2), (7, 3)]);
        story.objects(Leg::Next, "v", &[(7, 3), (8, 0)]);
        assert_eq!(story.outcome, None);
        story.objects(Leg::Current, "v", &[(8, 0)]);
        assert_eq!(story.outcome, Some(Outcome::Moved));
        story.objects(Leg::Current, "v", &[(8, 1)]);
        assert_eq!(story.got["v"], [(7, 0), (7, 1), (7, 2), (7, 3), (8, 0)]);
        assert_eq!(story.splice.moves(), 1);
    }

    #[test]
    fn each_track_has_its_own_boundary_and_the_move_waits_for_the_last() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0)]);
        story.objects(Leg::Current, "a", &[(7, 0)]);
        story.begin();
        story.objects(Leg::Next, "v", &[(7, 0), (8, 0)]);
        story.objects(Leg::Current, "v", &[(8, 0)]);
        assert_eq!(story.outcome, None);
        story.objects(Leg::Current, "v", &[(8, 1)]);
        story.objects(Leg::Next, "v", &[(8, 1)]);
        // A group that began after the last object of the current connection is the new one's.
        story.objects(Leg::Next, "a", &[(8, 0), (8, 1)]);
        story.objects(Leg::Current, "a", &[(7, 1), (8, 0)]);
        assert_eq!(story.outcome, Some(Outcome::Moved));
        assert_eq!(story.got["v"], [(7, 0), (8, 0), (8, 1)]);
        assert_eq!(story.got["a"], [(7, 0), (7, 1), (8, 0), (8, 1)]);
    }

    #[test]
    fn a_connection_that_ends_early_is_gone_on_with_inside_the_group() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0), (7, 1)]);
        story.begin();
        let end = || Event::Ended { code: 0x10, reason: "late".into() };
        story.hear(Leg::Current, end());
        assert_eq!(story.outcome, None, "the next one may still come");
        story.objects(Leg::Next, "v", &[(7, 0), (7, 1), (7, 2)]);
        assert_eq!(story.outcome, Some(Outcome::Moved));
        story.objects(Leg::Next, "v", &[(7, 3), (8, 0)]);
        assert_eq!(story.got["v"], [(7, 0), (7, 1), (7, 2), (7, 3), (8, 0)]);
        assert_eq!(story.other, []);

        // The same, and the group is over by then.
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0)]);
        story.begin();
        story.hear(Leg::Current, end());
        story.objects(Leg::Next, "v", &[(9, 0)]);
        assert_eq!(story.got["v"], [(7, 0), (u64::MAX, 2), (9, 0)], "a loss is told");
    }

    #[test]
    fn a_silent_connection_is_gone_on_with_at_the_first_object_of_the_next_and_may_come_back_before()
     {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0), (7, 1)]);
        story.objects(Leg::Current, "a", &[(7, 0)]);
        story.splice.doubt(true);
        story.begin();
        // Heard again before the next one has anything: it is believed again.
        story.splice.doubt(false);
        story.objects(Leg::Next, "v", &[(7, 0), (7, 1), (7, 2)]);
        assert_eq!(story.outcome, None);
        story.splice.doubt(true);
        story.take();
        assert_eq!(story.outcome, Some(Outcome::Moved));
        story.objects(Leg::Next, "v", &[(7, 3)]);
        story.objects(Leg::Next, "a", &[(7, 0), (7, 1), (8, 0)]);
        assert_eq!(story.got["v"], [(7, 0), (7, 1), (7, 2), (7, 3)]);
        assert_eq!(story.got["a"], [(7, 0), (7, 1), (8, 0)]);

        // Moves of its own are not counted with those that relays order.
        for _ in 0..=MOVES_PER_MINUTE_MAX {
            story.splice.doubt(true);
            story.begin();
            story.splice.abandon();
        }
    }

    #[test]
    fn a_new_connection_without_the_broadcast_is_left_and_the_current_one_stays() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0)]);
        story.begin();
        let refused = Event::Refused {
            track: "v".into(),
            code: RequestCode::DoesNotExist,
            reason: "no".into(),
        };
        story.hear(Leg::Next, refused);
        story.hear(Leg::Next, Event::Ended { code: 0, reason: "every track has ended".into() });
        assert_eq!(story.outcome, Some(Outcome::Failed));
        story.objects(Leg::Current, "v", &[(7, 1)]);
        assert_eq!(story.got["v"], [(7, 0), (7, 1)]);
        assert_eq!((story.other, story.splice.moves()), (vec![], 0));
    }

    #[test]
    fn an_end_of_both_is_told_once_with_the_words_of_the_first() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0)]);
        story.begin();
        let end = Event::Ended { code: 0x10, reason: "late".into() };
        story.hear(Leg::Current, end.clone());
        story.splice.abandon();
        story.take();
        assert_eq!(story.outcome, Some(Outcome::Failed));
        assert_eq!(story.other, [end]);
    }

    #[test]
    fn patience_ends_and_the_change_is_made_without_a_boundary() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0), (7, 1)]);
        story.begin();
        story.objects(Leg::Next, "v", &[(7, 0), (7, 1), (7, 2)]);
        let due = story.splice.poll_timeout().expect("a deadline");
        assert_eq!(due, story.now + Duration::from_secs(15));
        story.splice.handle_timeout(due);
        story.take();
        assert_eq!(story.outcome, Some(Outcome::Moved));
        assert_eq!(story.got["v"], [(7, 0), (7, 1), (7, 2)]);
        // Without media there is nothing to change over to.
        story.now = due;
        story.begin();
        story.splice.handle_timeout(due + PATIENCE);
        story.take();
        assert_eq!(story.outcome, Some(Outcome::Failed));
    }

    #[test]
    fn a_relay_that_counts_anew_is_followed_at_once_and_the_seam_is_told() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(5000, 0), (5000, 1)]);
        story.begin();
        story.objects(Leg::Next, "v", &[(12, 0), (12, 1)]);
        assert_eq!(story.outcome, Some(Outcome::Moved));
        story.objects(Leg::Next, "v", &[(13, 0)]);
        let seam = (u64::MAX, 1);
        assert_eq!(story.got["v"], [(5000, 0), (5000, 1), seam, (12, 0), (12, 1), (13, 0)]);
    }

    #[test]
    fn the_end_of_a_track_and_a_further_goaway_are_told_by_the_new_connection() {
        let mut story = Story::new();
        story.objects(Leg::Current, "v", &[(7, 0)]);
        story.begin();
        let goaway = Event::GoAway { uri: String::new(), timeout: None };
        let ended = Event::TrackEnded { track: "v".into(), code: DoneCode::TrackEnded };
        story.objects(Leg::Next, "v", &[(7, 0), (7, 1)]);
        story.hear(Leg::Next, goaway.clone());
        story.hear(Leg::Current, ended.clone());
        assert_eq!(story.outcome, Some(Outcome::Moved));
        assert_eq!(story.other, std::slice::from_ref(&goaway));
        story.hear(Leg::Next, ended.clone());
        assert_eq!(story.got["v"], [(7, 0), (7, 1)]);
        assert_eq!(story.other, [goaway, ended]);
    }

    #[test]
    fn relays_that_send_a_viewer_to_each_other_do_so_only_so_often() {
        let mut story = Story::new();
        for _ in 0..MOVES_PER_MINUTE_MAX {
            story.begin();
            assert!(!story.splice.begin(None, story.now), "one at a time");
            story.splice.abandon();
        }
        assert!(!story.splice.begin(None, story.now));
        assert!(story.splice.begin(None, story.now + MINUTE));
    }
}
