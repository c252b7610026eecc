//! One live input on the shard it is pinned to: the feed that publishes now, the packager that
//! outlives it through the reconnect window, and the relay tracks its objects go to. It knows no
//! wire protocol on either side and no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_feed as feed;
use weir_moqt::{FullTrackName, Namespace};
use weir_packager::{Options, Output, Packager};
use weir_relay::{DoneCode, ObjectIn, Relay, TrackId, TrackOptions};

use super::publisher::{FeedId, Policy, Rank, Refused};

/// What a broadcast counts for health and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) faults: u64,
    /// Access units lost between publisher and node.
    pub(super) lost: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.samples += other.samples;
        self.bytes += other.bytes;
        self.objects += other.objects;
        self.faults += other.faults;
        self.lost += other.lost;
    }
}

/// A broadcast and its timeline.
pub(super) struct Broadcast {
    namespace: Namespace,
    packager: Packager,
    tracks: HashMap<Arc<str>, TrackId>,
    feed: Option<(FeedId, Rank)>,
    last_feed: u64,
    last_sample: Instant,
    /// When the broadcast ends unless somebody publishes again.
    ends: Option<Instant>,
    policy: Policy,
    tally: Tally,
}

impl Broadcast {
    pub(super) fn new(
        namespace: Namespace,
        options: Options,
        policy: Policy,
        relay: &mut Relay,
        now: Instant,
    ) -> Option<Self> {
        if !relay.publish(&namespace) {
            return None;
        }
        Some(Self {
            namespace,
            packager: Packager::new(options),
            tracks: HashMap::new(),
            feed: None,
            last_feed: 0,
            last_sample: now,
            ends: None,
            policy,
            tally: Tally::default(),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Somebody publishes who is more than a stand-in.
    pub(super) fn has_encoder(&self) -> bool {
        matches!(self.feed, Some((_, Rank::Encoder)))
    }

    pub(super) fn is_live(&self) -> bool {
        self.feed.is_some()
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// A publisher wants the input.
    pub(super) fn open_feed(&mut self, rank: Rank, now: Instant) -> Result<FeedId, Refused> {
        let silence = now.saturating_duration_since(self.last_sample);
        if let Some((_, held)) = self.feed {
            let dead = silence >= self.policy.takeover_after;
            let gives_way = held == Rank::Standby && rank == Rank::Encoder;
            if !dead && !gives_way {
                return Err(Refused::Busy);
            }
        }
        if self.last_feed > 0 {
            self.packager.handle_discontinuity();
        }
        self.last_feed += 1;
        let feed = FeedId(self.last_feed);
        self.feed = Some((feed, rank));
        self.last_sample = now;
        self.ends = None;
        Ok(feed)
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
        if self.feed.is_none_or(|(held, _)| held != feed) {
            return false;
        }
        let result = match event {
            feed::Event::Track(config) => self.packager.handle_track(config, now),
            feed::Event::Sample(sample) => {
                self.last_sample = now;
                self.tally.samples += 1;
                self.tally.bytes += sample.data.len() as u64;
                self.packager.handle_sample(sample, wall, now)
            }
            feed::Event::Discontinuity => {
                self.packager.handle_discontinuity();
                Ok(())
            }
            feed::Event::Loss { .. } => {
                self.tally.lost += 1;
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

    /// The publisher left; the reconnect window begins. False when it had been replaced.
    pub(super) fn close_feed(&mut self, feed: FeedId, now: Instant) -> bool {
        if self.feed.is_none_or(|(held, _)| held != feed) {
            return false;
        }
        self.feed = None;
        self.ends = Some(now + self.policy.reconnect_window);
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
        self.end(relay, now);
        true
    }

    /// Ends the broadcast for its viewers.
    pub(super) fn end(&mut self, relay: &mut Relay, now: Instant) {
        self.packager.handle_end();
        self.publish(relay, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_secs(1_000_000);

    fn broadcast(now: Instant) -> (Relay, Broadcast) {
        let mut relay = Relay::new(weir_relay::Limits::default(), 0);
        let namespace = Namespace::new(["stream", "org_1", "lv_1"]).expect("a namespace");
        let policy = Policy::default();
        let broadcast = Broadcast::new(namespace, Options::default(), policy, &mut relay, now);
        (relay, broadcast.expect("room in the directory"))
    }

    /// Keeps a publisher alive: any media does.
    fn media(broadcast: &mut Broadcast, relay: &mut Relay, feed: FeedId, now: Instant) -> bool {
        let sample = feed::Sample {
            track: feed::TrackId(9),
            dts: 0,
            composition_offset: 0,
            keyframe: true,
            data: Bytes::from_static(b"x"),
        };
        broadcast.handle_media(feed, feed::Event::Sample(sample), relay, now, WALL)
    }

    #[test]
    fn second_publisher_is_refused_while_the_first_is_alive() {
        let start = Instant::now();
        let (mut relay, mut broadcast) = broadcast(start);
        let first = broadcast.open_feed(Rank::Encoder, start).expect("free");
        let later = start + Duration::from_mins(1);
        assert!(media(&mut broadcast, &mut relay, first, later));
        let soon = later + Duration::from_millis(1_900);
        assert_eq!(broadcast.open_feed(Rank::Encoder, soon), Err(Refused::Busy));
        assert!(media(&mut broadcast, &mut relay, first, soon), "the first one stays");
    }

    #[test]
    fn dead_publisher_is_replaced_and_learns_it() {
        let start = Instant::now();
        let (mut relay, mut broadcast) = broadcast(start);
        let dead = broadcast.open_feed(Rank::Encoder, start).expect("free");
        let later = start + Duration::from_secs(2);
        let next = broadcast.open_feed(Rank::Encoder, later).expect("the first is silent");
        assert!(!media(&mut broadcast, &mut relay, dead, later));
        assert!(!broadcast.close_feed(dead, later), "its goodbye ends nothing");
        assert!(media(&mut broadcast, &mut relay, next, later));
        assert!(broadcast.is_live());
    }

    #[test]
    fn standby_gives_way_to_an_encoder_but_not_the_other_way() {
        let start = Instant::now();
        let (mut relay, mut broadcast) = broadcast(start);
        let standby = broadcast.open_feed(Rank::Standby, start).expect("free");
        let encoder = broadcast.open_feed(Rank::Encoder, start).expect("standby gives way");
        assert!(!media(&mut broadcast, &mut relay, standby, start));
        assert_eq!(broadcast.open_feed(Rank::Standby, start), Err(Refused::Busy));
        assert!(media(&mut broadcast, &mut relay, encoder, start));
    }

    #[test]
    fn broadcast_outlives_its_publisher_for_the_reconnect_window_and_no_longer() {
        let start = Instant::now();
        let (mut relay, mut broadcast) = broadcast(start);
        let window = Policy::default().reconnect_window;
        let feed = broadcast.open_feed(Rank::Encoder, start).expect("free");
        assert!(broadcast.close_feed(feed, start));
        assert_eq!(broadcast.poll_timeout(), Some(start + window));
        let almost = start + window.saturating_sub(Duration::from_millis(1));
        assert!(!broadcast.handle_timeout(&mut relay, almost));
        let back = broadcast.open_feed(Rank::Encoder, almost).expect("free again");
        assert!(!broadcast.handle_timeout(&mut relay, start + window), "somebody publishes");
        assert!(broadcast.close_feed(back, start + window));
        assert!(broadcast.handle_timeout(&mut relay, start + window + window));
    }
}
