//! One live input on the shard it is pinned to: the feed that publishes now, the packager that
//! outlives it through the reconnect window, and the relay tracks its objects go to. It knows no
//! wire protocol on either side and no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_feed as feed;
use weir_moqt::{FullTrackName, Namespace};
use weir_packager::{Options, Output, Packager};
use weir_relay::{DoneCode, ObjectIn, Relay, TrackId, TrackOptions};

use super::health::{Health, Link};
use super::publisher::{
    FeedId, Opening, Policy, Protocol, Rank, Reason, Refused, Report, Second, State,
};

/// What a broadcast counts for health and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) faults: u64,
    /// Access units lost between publisher and node.
    pub(super) lost: u64,
    /// Publishers replaced while they were alive.
    pub(super) takeovers: u64,
    pub(super) packager: weir_packager::Counters,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.samples += other.samples;
        self.bytes += other.bytes;
        self.objects += other.objects;
        self.faults += other.faults;
        self.lost += other.lost;
        self.takeovers += other.takeovers;
        let (sum, more) = (&mut self.packager, other.packager);
        sum.restamped += more.restamped;
        sum.jumps += more.jumps;
        sum.dropped_before_keyframe += more.dropped_before_keyframe;
        sum.dropped_overlap += more.dropped_overlap;
        sum.dropped_backlog += more.dropped_backlog;
        sum.long_groups += more.long_groups;
        sum.lost += more.lost;
    }
}

/// A takeover protects the new publisher from the next one for this long; each further takeover of the
/// same broadcast doubles it, so that two encoders with one key that both keep coming back soon stop
/// taking turns.
const TAKEOVER_HOLD: Duration = Duration::from_secs(10);
/// Doublings: 10 s, 20 s, … to a little under three hours.
const TAKEOVER_DOUBLINGS_MAX: u32 = 10;
/// A publisher from the same address replaces one that has been silent for this long: an encoder that
/// reconnects is sooner back than its old connection is known to be dead. Shorter, and a live encoder on
/// a busy host would lose its place by a hiccup.
const HALF_DEAD: Duration = Duration::from_secs(1);

/// A broadcast and its timeline.
pub(super) struct Broadcast {
    namespace: Namespace,
    packager: Packager,
    tracks: HashMap<Arc<str>, TrackId>,
    others: Others,
    feed: Option<Feed>,
    last_feed: u64,
    last_protocol: Protocol,
    last_sample: Instant,
    /// When the broadcast ends unless somebody publishes again.
    ends: Option<Instant>,
    policy: Policy,
    takeovers: Takeovers,
    standing: Standing,
    link: Link,
    /// Access units lost and timestamps corrected, as last told.
    told: (u64, u64),
    /// Something was published since the broadcast exists.
    shown: bool,
    tally: Tally,
}

/// Who publishes now.
struct Feed {
    id: FeedId,
    rank: Rank,
    peer: Option<IpAddr>,
    /// Said goodbye with this.
    farewell: Option<Reason>,
}

/// Tracks that are not media, of the publisher that brought them.
#[derive(Default)]
struct Others {
    of: Option<FeedId>,
    tracks: BTreeMap<Bytes, TrackId>,
}

/// Tracks of one broadcast that are not media: chat, captions, positions, and room.
const OTHERS_MAX: usize = 16;

/// Names that the packager gives.
fn is_ours(name: &[u8]) -> bool {
    matches!(name, b".catalog" | b"catalog" | b"audio")
        || name.starts_with(b"audio/")
        || name.starts_with(b"video/")
}

/// Who may take over from whom.
#[derive(Default)]
struct Takeovers {
    /// Takeovers from a publisher that was alive.
    count: u32,
    last: Option<Instant>,
    /// Where the one replaced last came from.
    loser: Option<IpAddr>,
}

/// Where a broadcast is in its life.
struct Standing {
    state: State,
    reason: Reason,
    since: Instant,
    /// Not told yet.
    fresh: bool,
}

impl Standing {
    fn set(&mut self, state: State, reason: Reason, now: Instant) {
        if self.state != state {
            *self = Self { state, reason, since: now, fresh: true };
        }
    }
}

impl Broadcast {
    pub(super) fn new(
        opening: &Opening<'_>,
        options: Options,
        relay: &mut Relay,
        now: Instant,
    ) -> Option<Self> {
        if !relay.publish(opening.namespace) {
            return None;
        }
        Some(Self {
            namespace: opening.namespace.clone(),
            packager: Packager::new(options),
            tracks: HashMap::new(),
            others: Others::default(),
            feed: None,
            last_feed: 0,
            last_protocol: opening.protocol,
            last_sample: now,
            ends: None,
            policy: opening.policy.clone(),
            takeovers: Takeovers::default(),
            standing: Standing {
                state: State::Idle,
                reason: Reason::Accepted,
                since: now,
                fresh: false,
            },
            link: Link::default(),
            told: (0, 0),
            shown: false,
            tally: Tally::default(),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Somebody publishes who is more than a stand-in.
    pub(super) fn has_encoder(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.rank == Rank::Encoder)
    }

    pub(super) fn is_live(&self) -> bool {
        self.feed.is_some()
    }

    pub(super) fn tally(&self) -> Tally {
        Tally { packager: *self.packager.counters(), ..self.tally }
    }

    /// State, and protocol of whoever publishes.
    pub(super) fn standing(&self) -> (State, Option<Protocol>) {
        (self.standing.state, self.feed.as_ref().map(|_| self.last_protocol))
    }

    /// What it is now and why.
    pub(super) fn report(&self, input_id: &str, now: Instant, wall: Duration) -> Report {
        let Standing { state, reason, since, .. } = self.standing;
        Report {
            input_id: input_id.to_owned(),
            state,
            reason,
            protocol: self.last_protocol,
            since: wall.saturating_sub(now.saturating_duration_since(since)),
            health: None,
        }
    }

    /// How it is doing; what happened since this was last asked counts as lately.
    pub(super) fn health(&mut self, now: Instant) -> Health {
        let feed = self.packager.health(now);
        let restamped = feed.counters.restamped + feed.counters.jumps;
        let (lost, told) = (feed.counters.lost, self.told);
        self.told = (lost, restamped);
        Health {
            feed,
            link: self.link,
            publishing: self.feed.is_some(),
            lost_lately: lost.saturating_sub(told.0),
            restamped_lately: restamped.saturating_sub(told.1),
        }
    }

    /// What the publisher's shell knows of the path.
    pub(super) fn handle_link(&mut self, feed: FeedId, link: Link) {
        if self.feed.as_ref().is_some_and(|held| held.id == feed) {
            self.link = link;
        }
    }

    /// Whether the state changed since this was last asked.
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.standing.fresh)
    }

    /// A publisher wants the input.
    pub(super) fn open_feed(
        &mut self,
        opening: &Opening<'_>,
        now: Instant,
    ) -> Result<FeedId, Refused> {
        let replaces = self.feed.is_some();
        if let Some(feed) = &self.feed {
            match self.verdict(feed, opening, now) {
                Verdict::Dead => {}
                Verdict::TakesOver => {
                    self.takeovers.count += 1;
                    self.takeovers.last = Some(now);
                    self.takeovers.loser = feed.peer;
                    self.tally.takeovers += 1;
                }
                Verdict::Busy => return Err(Refused::Busy),
            }
        } else {
            // Whoever lost has the place to itself again, if the winner has gone.
            self.takeovers = Takeovers::default();
        }
        if self.last_feed > 0 {
            self.packager.handle_discontinuity();
        }
        self.last_feed += 1;
        let id = FeedId(self.last_feed);
        self.feed = Some(Feed { id, rank: opening.rank, peer: opening.peer, farewell: None });
        self.last_protocol = opening.protocol;
        self.link = Link::default();
        self.policy = opening.policy.clone();
        self.last_sample = now;
        self.ends = None;
        let reason = if replaces { Reason::TakenOver } else { Reason::Accepted };
        self.standing.set(State::Connected, reason, now);
        Ok(id)
    }

    /// Whether a newcomer may replace the publisher there is.
    fn verdict(&self, held: &Feed, opening: &Opening<'_>, now: Instant) -> Verdict {
        let silence = now.saturating_duration_since(self.last_sample);
        let returns = held.peer.is_some() && held.peer == opening.peer;
        if silence >= self.policy.takeover_after || returns && silence >= HALF_DEAD {
            return Verdict::Dead;
        }
        if held.rank == Rank::Standby && opening.rank == Rank::Encoder {
            return Verdict::Dead;
        }
        if opening.rank == Rank::Standby || opening.policy.second == Second::Refuse {
            return Verdict::Busy;
        }
        // Two that are alive do not take turns: who was replaced does not come back from where it
        // was, and from one address it gets harder each time.
        let Takeovers { count, last, loser } = self.takeovers;
        let hold = TAKEOVER_HOLD * (1 << count.saturating_sub(1).min(TAKEOVER_DOUBLINGS_MAX));
        let held_off = last.is_some_and(|last| now.saturating_duration_since(last) < hold);
        let lost_before = loser.is_some() && loser == opening.peer && !returns;
        if held_off || lost_before { Verdict::Busy } else { Verdict::TakesOver }
    }

    /// Media of the publisher. False when `feed` has been replaced: it must go.
    pub(super) fn handle_media(
        &mut self,
        feed: FeedId,
        event: feed::Event,
        relay: &mut Relay,
        now: Instant,
        wall: Duration,
    ) -> bool {
        let Some(held) = self.feed.as_mut().filter(|held| held.id == feed) else { return false };
        let result = match event {
            feed::Event::Track(config) => self.packager.handle_track(config, now),
            feed::Event::Sample(sample) => {
                self.last_sample = now;
                self.tally.samples += 1;
                self.tally.bytes += sample.data.len() as u64;
                self.packager.handle_sample(sample, wall, now)
            }
            feed::Event::Discontinuity => {
                self.packager.handle_jump();
                Ok(())
            }
            feed::Event::Loss { track } => {
                self.packager.handle_loss(track);
                self.tally.lost += 1;
                Ok(())
            }
            feed::Event::End { reason } => {
                held.farewell = Some(reason.into());
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.tally.faults += 1;
            // One line per broadcast tells enough; the counter tells how often.
            if self.tally.faults == 1 {
                tracing::warn!(%error, "sample dropped");
            }
        }
        self.publish(relay, now);
        true
    }

    /// An object of a track that is not media: it goes on as it came, under the publisher's name for it.
    pub(super) fn handle_other(
        &mut self,
        feed: FeedId,
        name: &Bytes,
        object: ObjectIn,
        relay: &mut Relay,
        now: Instant,
    ) {
        if self.feed.as_ref().is_none_or(|held| held.id != feed) {
            return;
        }
        if self.others.of != Some(feed) {
            self.end_others(relay, now);
            self.others.of = Some(feed);
        }
        let known = self.others.tracks.get(name).copied();
        let track = known.or_else(|| {
            if is_ours(name) || self.others.tracks.len() >= OTHERS_MAX {
                return None;
            }
            let full = FullTrackName::new(self.namespace.clone(), name.clone()).ok()?;
            let track = relay.open_track(full, TrackOptions::default(), now)?;
            self.others.tracks.insert(name.clone(), track);
            Some(track)
        });
        if track.is_none_or(|track| relay.write_object(track, object).is_err()) {
            self.tally.faults += 1;
        }
    }

    /// Nothing more comes of a track that is not media.
    pub(super) fn end_other(
        &mut self,
        feed: FeedId,
        name: &Bytes,
        relay: &mut Relay,
        now: Instant,
    ) {
        if self.others.of == Some(feed)
            && let Some(track) = self.others.tracks.remove(name)
        {
            relay.end_track(track, DoneCode::TrackEnded, now);
        }
    }

    fn end_others(&mut self, relay: &mut Relay, now: Instant) {
        for (_, track) in std::mem::take(&mut self.others.tracks) {
            relay.end_track(track, DoneCode::TrackEnded, now);
        }
    }

    /// The publisher left; the reconnect window begins, if there is anything to wait for. False when
    /// it had been replaced.
    pub(super) fn close_feed(&mut self, feed: FeedId, now: Instant) -> bool {
        let Some(held) = self.feed.take_if(|held| held.id == feed) else { return false };
        let reason = held.farewell.unwrap_or(Reason::Disconnected);
        if self.shown {
            self.standing.set(State::Reconnecting, reason, now);
            self.ends = Some(now + self.policy.reconnect_window);
        } else {
            // It never sent anything to see: nobody waits for more of it.
            self.standing.reason = reason;
            self.ends = Some(now);
        }
        true
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.packager.poll_timeout(), self.ends].into_iter().flatten().min()
    }

    /// Timers. True when the broadcast is over and can be dropped.
    pub(super) fn handle_timeout(&mut self, relay: &mut Relay, now: Instant) -> bool {
        if self.packager.poll_timeout().is_some_and(|at| at <= now) {
            self.packager.handle_timeout(now);
            self.publish(relay, now);
        }
        if self.ends.is_none_or(|at| at > now) {
            return false;
        }
        let reason = self.standing.reason;
        if reason.is_fault() {
            self.standing.set(State::Errored, reason, now);
        } else {
            let reason = if self.shown { Reason::WindowOver } else { reason };
            self.standing.set(State::Idle, reason, now);
        }
        self.end(relay, now);
        true
    }

    /// Ends the broadcast for its viewers.
    pub(super) fn end(&mut self, relay: &mut Relay, now: Instant) {
        self.packager.handle_end();
        self.publish(relay, now);
        self.end_others(relay, now);
        relay.unpublish(&self.namespace, now);
    }

    fn publish(&mut self, relay: &mut Relay, now: Instant) {
        while let Some(output) = self.packager.poll_output() {
            match output {
                Output::Track { name } => {
                    let full = FullTrackName::new(
                        self.namespace.clone(),
                        Bytes::copy_from_slice(name.as_bytes()),
                    );
                    let options = TrackOptions::default();
                    let opened = full.ok().and_then(|full| relay.open_track(full, options, now));
                    match opened {
                        Some(track) => {
                            self.tracks.insert(name, track);
                        }
                        None => self.tally.faults += 1,
                    }
                }
                Output::Object(object) => {
                    let Some(track) = self.tracks.get(&object.track) else { continue };
                    self.tally.objects += 1;
                    if self.feed.is_some() && !is_catalog(&object.track) {
                        self.shown = true;
                        self.standing.set(State::Live, Reason::Media, now);
                    }
                    let object = ObjectIn {
                        group: object.group,
                        subgroup: 0,
                        object: object.object,
                        priority: object.priority,
                        properties: Bytes::new(),
                        payload: object.payload,
                        end_of_group: object.end_of_group,
                        arrived: now,
                        forwarding: weir_relay::Forwarding::default(),
                    };
                    if relay.write_object(*track, object).is_err() {
                        self.tally.faults += 1;
                    }
                }
                Output::TrackEnded { name } => {
                    if let Some(track) = self.tracks.remove(&name) {
                        relay.end_track(track, DoneCode::TrackEnded, now);
                    }
                }
            }
        }
    }
}

/// What a newcomer is to a publisher that is there.
enum Verdict {
    /// The one there does not count any more.
    Dead,
    /// It is alive and gives way.
    TakesOver,
    /// It is alive and stays.
    Busy,
}

fn is_catalog(track: &str) -> bool {
    track == weir_packager::CATALOG_TRACK || track == weir_packager::MSF_CATALOG_TRACK
}

#[cfg(test)]
#[path = "broadcast_tests.rs"]
mod tests;
