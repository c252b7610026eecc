//! A viewer and a relay with nothing but memory between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf as _, Bytes};
use weir_moqt::{Dir, Draft, FullTrackName, Namespace, StreamId, Transport as Carrier};
use weir_packager::catalog::{Catalog, Kind, Track, VERSION};
use weir_relay::{
    KeySet, ObjectIn, Relay, SessionId, SessionParams, TrackId, TrackOptions, Transport, WriteError,
};

use super::{Event, Join, Options, Selection, Viewer};

const WALL: Duration = Duration::from_hours(500_000);

enum Sent {
    Bytes(StreamId, Bytes, bool),
    Reset(StreamId, u32),
    Stop(StreamId, u32),
    Close(u32, String),
}

/// One direction of a connection.
struct Wire {
    sent: VecDeque<Sent>,
    /// Next stream of each direction, bidirectional first.
    next: [u64; 2],
    /// Bytes that may still be written.
    room: usize,
    blocked: Vec<StreamId>,
    /// Data streams that open now are held back until `held` is emptied.
    hold: bool,
    held: BTreeMap<StreamId, Vec<Sent>>,
}

impl Wire {
    fn new(next: [u64; 2]) -> Self {
        let held = BTreeMap::new();
        Self {
            sent: VecDeque::new(),
            next,
            room: usize::MAX,
            blocked: Vec::new(),
            hold: false,
            held,
        }
    }

    fn send(&mut self, stream: StreamId, sent: Sent) {
        match self.held.get_mut(&stream) {
            Some(held) => held.push(sent),
            None => self.sent.push_back(sent),
        }
    }
}

impl Transport for Wire {
    fn open(&mut self, dir: Dir) -> Option<StreamId> {
        let next = &mut self.next[usize::from(dir == Dir::Uni)];
        *next += 4;
        let id = StreamId(*next - 4);
        if self.hold && dir == Dir::Uni {
            self.held.insert(id, Vec::new());
        }
        Some(id)
    }

    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let mut taken = 0;
        for chunk in chunks {
            let part = chunk.len().min(self.room);
            self.room -= part;
            taken += part;
            let data = chunk.slice(..part);
            chunk.advance(part);
            self.send(stream, Sent::Bytes(stream, data, false));
            if !chunk.is_empty() {
                self.blocked.push(stream);
                break;
            }
        }
        Ok(taken)
    }

    fn finish(&mut self, stream: StreamId) {
        self.send(stream, Sent::Bytes(stream, Bytes::new(), true));
    }

    fn reset(&mut self, stream: StreamId, code: u32) {
        self.send(stream, Sent::Reset(stream, code));
    }

    fn stop(&mut self, stream: StreamId, code: u32) {
        self.sent.push_back(Sent::Stop(stream, code));
    }

    fn set_priority(&mut self, _stream: StreamId, _priority: i32) {}

    fn close(&mut self, code: u32, reason: &str) {
        self.sent.push_back(Sent::Close(code, reason.to_owned()));
    }
}

struct World {
    relay: Relay,
    session: Option<SessionId>,
    viewer: Viewer,
    up: Wire,
    down: Wire,
    now: Instant,
    events: Vec<Event>,
    tracks: BTreeMap<String, TrackId>,
}

fn namespace() -> Namespace {
    Namespace::new(["stream", "org_a", "lv_1"]).unwrap()
}

fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn token(sub: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT","kid":"sgk_1"}"#);
    let (iat, exp) = (WALL.as_secs(), WALL.as_secs() + 3600);
    let claims = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"iss":"org_a","sub":"{sub}","aud":"playback","iat":{iat},"exp":{exp},"jti":"j"}}"#
    ));
    let signature = signer().sign(format!("{header}.{claims}").as_bytes());
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn payload(group: u64, object: u64) -> Bytes {
    (0..3000).map(|i| (group * 31 + object * 7 + i) as u8).collect()
}

fn catalog(names: &[&str], live: bool) -> Vec<u8> {
    let tracks = names.iter().map(|name| Track {
        name: (*name).to_owned(),
        kind: Kind::Video,
        codec: "avc1.42c01e".into(),
        width: None,
        height: None,
        framerate: None,
        bitrate: None,
        sample_rate: None,
        channels: None,
        timescale: None,
        init: vec![1, 2, 3],
    });
    Catalog { version: VERSION, live, capture_clock: None, tracks: tracks.collect() }.to_json()
}

impl World {
    /// A broadcast that a viewer with these options will join; nothing has travelled yet.
    fn new(draft: Draft, carrier: Carrier, change: impl FnOnce(&mut Options)) -> Self {
        let now = Instant::now();
        let mut relay = Relay::new(weir_relay::Limits::default(), 0);
        let mut keys = KeySet::new();
        let public: [u8; 32] = signer().public_key().as_ref().try_into().unwrap();
        keys.insert_ed25519("sgk_1", &public, "org_a");
        relay.set_keys(keys, now);
        assert!(relay.publish(&namespace()));
        let mut options = Options::new(draft, carrier, namespace());
        options.path = Some(format!("/playback/lv_1?tok={}", token("lv_1")));
        change(&mut options);
        let path = options.path.clone().filter(|_| carrier == Carrier::WebTransport);
        let params = SessionParams {
            draft,
            transport: carrier,
            path_and_query: path,
            peer: "192.0.2.1:443".parse().unwrap(),
        };
        let session = relay.open_session(params, now);
        let viewer = Viewer::new(options);
        let (up, down) = (Wire::new([0, 2]), Wire::new([1, 3]));
        let tracks = BTreeMap::new();
        Self { relay, session, viewer, up, down, now, events: Vec::new(), tracks }
    }

    fn write(&mut self, track: &str, group: u64, object: u64) {
        self.write_payload(track, group, object, payload(group, object));
    }

    fn write_payload(&mut self, track: &str, group: u64, object: u64, payload: Bytes) {
        let relay = &mut self.relay;
        let now = self.now;
        let id = *self.tracks.entry(track.to_owned()).or_insert_with(|| {
            let name = FullTrackName::new(namespace(), track.to_owned()).unwrap();
            relay.open_track(name, TrackOptions::default(), now).unwrap()
        });
        let end_of_group = track == ".catalog";
        let object = ObjectIn {
            group,
            subgroup: 0,
            object,
            priority: 1,
            properties: Bytes::new(),
            payload,
            end_of_group,
            arrived: now,
            forwarding: weir_relay::Forwarding::default(),
        };
        self.relay.write_object(id, object).unwrap();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.relay.handle_timeout(self.now, WALL);
        self.viewer.handle_timeout(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            self.viewer.drive(&mut self.up, self.now);
            while let Some(id) = self.relay.poll_dirty() {
                self.relay.drive(id, &mut self.down, self.now);
            }
            while self.relay.poll_event().is_some() {}
            if self.up.sent.is_empty() && self.down.sent.is_empty() {
                break;
            }
            while let Some(sent) = self.up.sent.pop_front() {
                let Some(id) = self.session else { continue };
                match sent {
                    Sent::Bytes(stream, data, fin) => {
                        self.relay.handle_stream(
                            id,
                            stream,
                            dir(stream),
                            data,
                            fin,
                            self.now,
                            WALL,
                        );
                    }
                    Sent::Reset(stream, code) => {
                        self.relay.handle_reset(id, stream, code, self.now);
                    }
                    Sent::Stop(stream, code) => self.relay.handle_stop(id, stream, code, self.now),
                    Sent::Close(..) => {
                        self.relay.close_session(id, self.now);
                        self.session = None;
                    }
                }
            }
            while let Some(sent) = self.down.sent.pop_front() {
                match sent {
                    Sent::Bytes(stream, data, fin) => {
                        self.viewer.handle_stream(stream, dir(stream), data, fin, self.now);
                    }
                    Sent::Reset(stream, code) => self.viewer.handle_reset(stream, code, self.now),
                    Sent::Stop(stream, code) => self.viewer.handle_stop(stream, code, self.now),
                    Sent::Close(code, reason) => self.viewer.handle_closed(code, &reason),
                }
            }
            self.events.extend(std::iter::from_fn(|| self.viewer.poll_event()));
        }
        self.events.extend(std::iter::from_fn(|| self.viewer.poll_event()));
    }

    /// What was delivered of a track; every payload is what the publisher made.
    fn got(&self, name: &str) -> Vec<(u64, u64)> {
        let of_track = |event: &Event| match event {
            Event::Object(object) if *object.track == *name => {
                assert_eq!(object.payload, payload(object.group, object.object));
                Some((object.group, object.object))
            }
            _ => None,
        };
        self.events.iter().filter_map(of_track).collect()
    }

    fn skipped(&self) -> u64 {
        let groups = |event: &Event| match event {
            Event::Skipped { groups, .. } => *groups,
            _ => 0,
        };
        self.events.iter().map(groups).sum()
    }

    fn end(&self) -> Option<(u32, &str)> {
        self.events.iter().find_map(|event| match event {
            Event::Ended { code, reason } => Some((*code, reason.as_str())),
            _ => None,
        })
    }
}

fn dir(stream: StreamId) -> Dir {
    if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni }
}

fn everywhere(story: impl Fn(Draft, Carrier)) {
    for &draft in super::DRAFTS {
        for carrier in [Carrier::WebTransport, Carrier::Quic] {
            story(draft, carrier);
        }
    }
}

fn named(names: &[&str]) -> Selection {
    Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_late_viewer_gets_the_newest_group_whole_and_in_order() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |_| {});
        world.write_payload(".catalog", 0, 0, catalog(&["video", "audio"], true).into());
        for track in ["video", "audio"] {
            (0..5).for_each(|object| world.write(track, 0, object));
            (0..3).for_each(|object| world.write(track, 1, object));
        }
        world.settle();
        world.write("video", 1, 3);
        world.write("video", 2, 0);
        world.write("audio", 1, 3);
        world.settle();
        assert_eq!(world.got("video"), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)], "{draft:?}");
        assert_eq!(world.got("audio"), [(1, 0), (1, 1), (1, 2), (1, 3)], "{draft:?}");
        assert_eq!(world.events.first(), Some(&Event::Ready));
        assert_eq!(world.skipped(), 0);
        assert_eq!(world.end(), None);
    });
}

#[test]
fn a_live_viewer_starts_at_the_next_object() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |options| {
            options.selection = named(&["video"]);
            options.join = Join::Live;
        });
        (0..3).for_each(|object| world.write("video", 6, object));
        world.settle();
        world.write("video", 6, 3);
        world.settle();
        world.write("video", 7, 0);
        world.settle();
        assert_eq!(world.got("video"), [(6, 3), (7, 0)]);
    });
}

#[test]
fn a_track_that_appears_in_a_later_catalog_is_watched_too() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |_| {});
        world.write_payload(".catalog", 0, 0, catalog(&["audio"], true).into());
        world.write("audio", 0, 0);
        world.settle();
        world.write("video", 0, 0);
        world.write_payload(".catalog", 1, 0, catalog(&["audio", "video"], true).into());
        world.settle();
        world.advance(Duration::from_millis(200));
        world.write_payload(".catalog", 2, 0, catalog(&["audio", "video"], true).into());
        world.settle();
        assert_eq!(world.got("audio"), [(0, 0)]);
        assert_eq!(world.got("video"), [(0, 0)]);
        let catalogs = world.events.iter().filter(|e| matches!(e, Event::Catalog(_)));
        assert_eq!(catalogs.count(), 2, "a catalog that says nothing new is not told");
    });
}

#[test]
fn a_stream_that_is_late_is_waited_for_and_given_up_for_a_newer_group() {
    let mut world = World::new(Draft::D18, Carrier::WebTransport, |options| {
        options.selection = named(&["video"]);
    });
    world.write("video", 0, 0);
    world.settle();
    world.down.hold = true;
    world.write("video", 1, 0);
    world.settle();
    world.down.hold = false;
    world.write("video", 2, 0);
    world.settle();
    assert_eq!(world.got("video"), [(0, 0)], "group 1 may still come");
    world.advance(Duration::from_millis(200));
    assert_eq!(world.got("video"), [(0, 0)], "its stream is known to be on its way");
    world.advance(Duration::from_secs(3));
    assert_eq!(world.got("video"), [(0, 0), (2, 0)]);
    assert_eq!(world.skipped(), 1);
    for (_, held) in std::mem::take(&mut world.down.held) {
        world.down.sent.extend(held);
    }
    world.write("video", 2, 1);
    world.settle();
    assert_eq!(world.got("video"), [(0, 0), (2, 0), (2, 1)], "nothing goes back");
    assert_eq!(world.end(), None);
}

#[test]
fn a_slow_connection_loses_whole_groups_and_comes_back_to_the_live_edge() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |options| {
            options.selection = named(&["video"]);
        });
        world.write("video", 0, 0);
        world.settle();
        world.down.room = 1000;
        for group in 1..8 {
            (0..2).for_each(|object| world.write("video", group, object));
            world.settle();
        }
        world.down.room = usize::MAX;
        let session = world.session.unwrap();
        for stream in std::mem::take(&mut world.down.blocked) {
            world.relay.handle_writable(session, stream);
        }
        world.write("video", 8, 0);
        world.settle();
        world.advance(Duration::from_secs(1));
        let got = world.got("video");
        assert_eq!(got.last(), Some(&(8, 0)), "{draft:?} {got:?}");
        assert!(got.is_sorted() && world.skipped() >= 5, "{got:?} {}", world.skipped());
    });
}

#[test]
fn the_end_of_the_broadcast_ends_the_viewer_without_error() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |_| {});
        world.write_payload(".catalog", 0, 0, catalog(&["video"], true).into());
        world.write("video", 0, 0);
        world.settle();
        world.write("video", 0, 1);
        world.write_payload(".catalog", 1, 0, catalog(&["video"], false).into());
        for id in std::mem::take(&mut world.tracks).into_values() {
            world.relay.end_track(id, weir_relay::DoneCode::TrackEnded, world.now);
        }
        world.settle();
        world.advance(Duration::from_secs(2));
        assert_eq!(world.got("video"), [(0, 0), (0, 1)], "{draft:?}");
        assert_eq!(world.end(), Some((0, "every track has ended")), "{:?}", world.events);
        assert!(matches!(world.events.last(), Some(Event::Ended { .. })));
    });
}

#[test]
fn a_bad_token_ends_the_viewer_with_the_reason() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |options| {
            options.path = Some(format!("/playback/lv_1?tok={}", token("lv_2")));
        });
        world.settle();
        let (code, reason) = world.end().unwrap();
        assert_eq!(code, 2);
        assert!(reason.starts_with("auth_failed"), "{reason}");
    });
}

#[test]
fn a_broadcast_that_is_not_live_is_refused_by_name() {
    everywhere(|draft, carrier| {
        let mut world = World::new(draft, carrier, |options| {
            options.selection = named(&["video", "audio"]);
        });
        world.settle();
        let refused = world.events.iter().filter(|e| matches!(e, Event::Refused { .. }));
        assert_eq!(refused.count(), 2);
        assert_eq!(world.end().map(|(code, _)| code), Some(0));
    });
}

#[test]
fn media_that_no_one_takes_is_bounded() {
    let mut world = World::new(Draft::D18, Carrier::Quic, |options| {
        options.selection = named(&["video"]);
        options.limits.held_bytes = 10_000;
    });
    world.write("video", 0, 0);
    world.settle();
    (1..5).for_each(|object| world.write("video", 0, object));
    // Everything arrives at once and nobody polls meanwhile.
    world.settle();
    assert_eq!(world.end().map(|(code, _)| code), Some(1), "{:?}", world.events);
}
