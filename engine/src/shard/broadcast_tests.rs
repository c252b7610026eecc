use super::*;

const WALL: Duration = Duration::from_secs(1_000_000);

/// A world with one broadcast.
struct World {
    relay: Relay,
    broadcast: Broadcast,
    namespace: Namespace,
    policy: Policy,
    start: Instant,
    dts: i64,
}

impl World {
    fn new(second: Second) -> Self {
        let start = Instant::now();
        let mut relay = Relay::new(weir_relay::Limits::default(), 0);
        let namespace = Namespace::new(["stream", "org_1", "lv_1"]).expect("a namespace");
        let policy = Policy { second, ..Policy::DEFAULT };
        let opening = opening(&namespace, &policy, Rank::Encoder, None);
        let broadcast = Broadcast::new(&opening, Options::default(), &mut relay, start);
        let broadcast = broadcast.expect("room in the directory");
        Self { relay, broadcast, namespace, policy, start, dts: 0 }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn open_as(&mut self, rank: Rank, from: &str, ms: u64) -> Result<FeedId, Refused> {
        let peer = from.parse().ok();
        let opening = opening(&self.namespace, &self.policy, rank, peer);
        self.broadcast.open_feed(&opening, self.start + Duration::from_millis(ms))
    }

    fn open(&mut self, from: &str, ms: u64) -> Result<FeedId, Refused> {
        self.open_as(Rank::Encoder, from, ms)
    }

    /// A sound frame: enough to be alive and to be seen.
    fn media(&mut self, feed: FeedId, ms: u64) -> bool {
        let now = self.at(ms);
        let config = feed::TrackConfig {
            track: feed::TrackId(1),
            timescale: 48_000,
            codec: feed::Codec::Aac { config: Bytes::from_static(&[0x11, 0x90]) },
        };
        let (broadcast, relay) = (&mut self.broadcast, &mut self.relay);
        broadcast.handle_media(feed, feed::Event::Track(config), relay, now, WALL);
        let mut held = false;
        for _ in 0..2 {
            self.dts += 1_024;
            let sample = feed::Sample {
                track: feed::TrackId(1),
                dts: self.dts,
                composition_offset: 0,
                keyframe: true,
                data: Bytes::from_static(b"x"),
            };
            held = broadcast.handle_media(feed, feed::Event::Sample(sample), relay, now, WALL);
        }
        held
    }

    fn leave(&mut self, feed: FeedId, reason: feed::EndReason, ms: u64) -> bool {
        let now = self.at(ms);
        let event = feed::Event::End { reason };
        self.broadcast.handle_media(feed, event, &mut self.relay, now, WALL);
        self.broadcast.close_feed(feed, now)
    }

    fn timeout(&mut self, ms: u64) -> bool {
        let now = self.at(ms);
        self.broadcast.handle_timeout(&mut self.relay, now)
    }

    /// State and reason if they changed.
    fn news(&mut self) -> Option<(&'static str, &'static str)> {
        let now = self.start;
        self.broadcast.take_change().then(|| {
            let report = self.broadcast.report("lv_1", now, WALL);
            (report.state.label(), report.reason.label())
        })
    }
}

fn opening<'a>(
    namespace: &'a Namespace,
    policy: &'a Policy,
    rank: Rank,
    peer: Option<IpAddr>,
) -> Opening<'a> {
    Opening { input_id: "lv_1", namespace, policy, rank, protocol: Protocol::Rtmp, peer }
}

#[test]
fn second_publisher_is_refused_while_the_first_is_alive() {
    let mut world = World::new(Second::Refuse);
    let first = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(first, 60_000));
    assert_eq!(world.open("192.0.2.2", 61_900), Err(Refused::Busy));
    assert!(world.media(first, 61_900), "the first one stays");
}

#[test]
fn dead_publisher_is_replaced_and_learns_it() {
    let mut world = World::new(Second::Refuse);
    let dead = world.open("192.0.2.1", 0).expect("free");
    let next = world.open("192.0.2.2", 2_000).expect("the first is silent");
    assert!(!world.media(dead, 2_000));
    assert!(!world.leave(dead, feed::EndReason::Disconnected, 2_000), "its goodbye ends nothing");
    assert!(world.media(next, 2_000));
    assert!(world.broadcast.is_live());
}

#[test]
fn an_encoder_that_reconnects_from_its_address_replaces_its_half_dead_session() {
    let mut world = World::new(Second::Refuse);
    let old = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(old, 1_000));
    assert_eq!(world.open("192.0.2.1", 1_400), Err(Refused::Busy), "it was alive just now");
    assert_eq!(world.open("192.0.2.2", 2_100), Err(Refused::Busy), "a stranger waits for 2 s");
    let new = world.open("192.0.2.1", 2_100).expect("half dead");
    assert!(!world.media(old, 2_110));
    assert!(world.media(new, 2_110));
}

#[test]
fn with_takeover_the_newer_publisher_wins_and_two_encoders_do_not_take_turns() {
    let mut world = World::new(Second::Takeover);
    let first = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(first, 100));
    let second = world.open("192.0.2.2", 200).expect("takes over");
    assert!(!world.media(first, 210), "told to go");
    // The loser comes back every five seconds, as encoders do.
    for round in 1..100_u64 {
        let ms = 200 + round * 5_000;
        for alive in 0..50 {
            assert!(world.media(second, ms - 5_000 + alive * 100));
        }
        assert_eq!(world.open("192.0.2.1", ms), Err(Refused::Busy), "after {ms} ms");
    }
    // When the winner leaves, it may.
    world.leave(second, feed::EndReason::Unpublished, 500_000);
    assert!(world.open("192.0.2.1", 500_001).is_ok());
    assert_eq!(world.broadcast.tally().takeovers, 1);
}

#[test]
fn two_encoders_behind_one_address_take_turns_ever_more_rarely() {
    let mut world = World::new(Second::Takeover);
    let mut holder = world.open("192.0.2.1", 0).expect("free");
    let mut takeovers = 0;
    for tick in 1..36_000_u64 {
        assert!(world.media(holder, tick * 100));
        if tick % 50 == 0
            && let Ok(next) = world.open("192.0.2.1", tick * 100)
        {
            (holder, takeovers) = (next, takeovers + 1);
        }
    }
    assert!((5..=10).contains(&takeovers), "{takeovers} in an hour");
}

#[test]
fn standby_gives_way_to_an_encoder_but_not_the_other_way() {
    let mut world = World::new(Second::Takeover);
    let standby = world.open_as(Rank::Standby, "", 0).expect("free");
    let encoder = world.open("192.0.2.1", 0).expect("standby gives way");
    assert!(!world.media(standby, 0));
    assert_eq!(world.open_as(Rank::Standby, "", 0), Err(Refused::Busy));
    assert!(world.media(encoder, 0));
}

#[test]
fn broadcast_outlives_its_publisher_for_the_reconnect_window_and_no_longer() {
    let mut world = World::new(Second::Refuse);
    let window = 30_000;
    let feed = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(feed, 0));
    assert_eq!(world.news(), Some(("live", "media")));
    assert!(world.leave(feed, feed::EndReason::Unpublished, 0));
    assert_eq!(world.news(), Some(("reconnecting", "unpublished")));
    assert!(!world.timeout(window - 1));
    let back = world.open("192.0.2.1", window - 1).expect("free again");
    assert_eq!(world.news(), Some(("connected", "accepted")));
    assert!(!world.timeout(window), "somebody publishes");
    assert!(world.media(back, window));
    assert!(world.leave(back, feed::EndReason::Disconnected, window));
    assert_eq!(world.news(), Some(("reconnecting", "disconnected")));
    assert!(world.timeout(window + window));
    assert_eq!(world.news(), Some(("idle", "window_over")));
}

#[test]
fn a_publisher_with_a_codec_nobody_carries_leaves_the_input_errored_at_once() {
    let mut world = World::new(Second::Refuse);
    let feed = world.open("192.0.2.1", 0).expect("free");
    assert_eq!(world.news(), Some(("connected", "accepted")));
    let unsupported = feed::Unsupported::VideoCodecId(2);
    assert!(world.leave(feed, feed::EndReason::Unsupported(unsupported), 10));
    assert!(world.timeout(10), "nothing was to be seen, nobody waits");
    assert_eq!(world.news(), Some(("errored", "codec_unsupported")));
}

#[test]
fn a_publisher_that_fails_after_it_was_seen_leaves_the_input_errored_after_the_window() {
    let mut world = World::new(Second::Refuse);
    let feed = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(feed, 0));
    assert!(world.leave(feed, feed::EndReason::Protocol, 10));
    assert!(world.timeout(30_010));
    assert_eq!(world.news(), Some(("errored", "protocol_error")));
}

#[test]
fn a_change_of_the_window_holds_from_the_next_publisher_on() {
    let mut world = World::new(Second::Refuse);
    let feed = world.open("192.0.2.1", 0).expect("free");
    assert!(world.media(feed, 0));
    world.leave(feed, feed::EndReason::Unpublished, 0);
    world.policy.reconnect_window = Duration::from_secs(1);
    let feed = world.open("192.0.2.1", 20_000).expect("free");
    assert!(world.media(feed, 20_000));
    world.leave(feed, feed::EndReason::Unpublished, 20_000);
    assert!(!world.timeout(20_999));
    assert!(world.timeout(21_000));
}
