//! An edge and the relays above it: one subscription per track, what happens to it when the relay
//! above goes, and the nodes below that are let in by their key.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{
    DoneCode, Event as Heard, Filter, Location, Params, RequestCode, RequestError, RequestId,
    SetupOptions,
};
use weir_relay::{Beacon, DefaultRoute, Draft, Event, NodeKeys, RequestCode as Code, StreamId};

use crate::world::{World, payload};

const DRAFT: Draft = Draft::D18;

/// An edge with one shard; nothing above it yet.
pub(crate) fn edge() -> World {
    let mut world = World::new();
    world.relay.set_default_route(DefaultRoute::new(1, &[3; 32]));
    world
}

/// An edge that takes its tracks from one relay above.
pub(crate) fn connected() -> (World, usize) {
    let mut world = edge();
    let above = world.dial_above(DRAFT);
    let session = world.peer(above).id;
    world.relay.use_upstream(session, world.now);
    world.settle();
    (world, above)
}

/// Subscriptions to media that a relay above heard, with their filters.
pub(crate) fn asked(world: &mut World, above: usize) -> Vec<(RequestId, Option<Filter>)> {
    let heard = world.peer(above).heard.iter();
    heard
        .filter_map(|heard| match heard {
            Heard::Subscribe { request, track, params } if !track.is_session_local() => {
                Some((*request, params.filter))
            }
            _ => None,
        })
        .collect()
}

pub(crate) fn last_asked(world: &mut World, above: usize) -> RequestId {
    asked(world, above).last().expect("something was asked for").0
}

pub(crate) fn accept(world: &mut World, above: usize, alias: u64) {
    let request = last_asked(world, above);
    let moqt = &mut world.peer(above).moqt;
    moqt.accept_subscribe(request, alias, Params::default(), &[]).unwrap();
    world.settle();
}

pub(crate) fn refuse(world: &mut World, above: usize, code: Code) {
    let request = last_asked(world, above);
    world.peer(above).moqt.reject(request, &RequestError::new(code, "not_live")).unwrap();
    world.settle();
}

/// A group of a relay above, object by object.
struct Group {
    stream: StreamId,
    encoder: SubgroupEncoder,
    above: usize,
    id: u64,
}

impl Group {
    fn begin(world: &mut World, above: usize, alias: u64, group: u64) -> Self {
        let header = SubgroupHeader {
            alias,
            group,
            subgroup: 0,
            priority: Some(2),
            properties: false,
            end_of_group: true,
            first_object: true,
        };
        let mut out = BytesMut::new();
        let encoder = SubgroupEncoder::new(DRAFT, &header, &mut out).unwrap();
        let stream = world.new_uni(above);
        world.send_raw(above, stream, out.freeze(), false);
        Self { stream, encoder, above, id: group }
    }

    fn object(&mut self, world: &mut World, object: u64) {
        let payload = payload(self.id, object);
        let header = ObjectHeader {
            object,
            properties: Bytes::new(),
            payload_len: payload.len() as u64,
            status: Status::Normal,
        };
        let mut out = BytesMut::new();
        self.encoder.object(&header, &mut out).unwrap();
        out.extend_from_slice(&payload);
        world.send_raw(self.above, self.stream, out.freeze(), false);
    }

    fn end(self, world: &mut World) {
        world.send_raw(self.above, self.stream, Bytes::new(), true);
    }
}

/// Two objects and the end.
fn whole(world: &mut World, above: usize, alias: u64, group: u64) {
    let mut stream = Group::begin(world, above, alias, group);
    stream.object(world, 0);
    stream.object(world, 1);
    stream.end(world);
}

fn lose(world: &mut World, above: usize) {
    let session = world.peer(above).id;
    world.relay.close_session(session, world.now);
    world.settle();
}

#[test]
fn five_hundred_viewers_cost_the_relay_above_what_one_costs() {
    let mut cost = Vec::new();
    for viewers in [1, 500] {
        let (mut world, above) = connected();
        let peers: Vec<_> = (0..viewers).map(|_| world.viewer(DRAFT)).collect();
        let requests: Vec<_> = peers.iter().map(|peer| world.subscribe(*peer, "video")).collect();
        assert_eq!(asked(&mut world, above).len(), 1, "one subscription for {viewers} viewers");
        accept(&mut world, above, 7);
        for group in 0..3 {
            whole(&mut world, above, 7, group);
        }
        for (peer, request) in peers.iter().zip(&requests) {
            let got = world.peer(*peer).locations(*request);
            assert_eq!(got, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
            world.peer(*peer).assert_unaltered();
        }
        cost.push((asked(&mut world, above).len(), world.peer(above).wire.written));
        assert_eq!(world.relay.metrics().upstream_subscriptions, 1);
        for (peer, request) in peers.iter().zip(&requests) {
            world.peer(*peer).moqt.cancel(*request);
        }
        world.settle();
        assert_eq!(world.relay.metrics().upstream_subscriptions, 0, "the last one out");
        assert_eq!(world.relay.tracks_from_above(), 0);
    }
    assert_eq!(cost[0], cost[1], "requests and bytes towards the relay above");
}

#[test]
fn a_flood_of_joins_for_a_missing_broadcast_asks_once_a_second() {
    let (mut world, above) = connected();
    for round in 1..=3 {
        for _ in 0..50 {
            let viewer = world.viewer(DRAFT);
            let request = world.subscribe(viewer, "video");
            if asked(&mut world, above).len() == round
                && world.peer(viewer).was_refused(request).is_none()
            {
                refuse(&mut world, above, RequestCode::DoesNotExist);
            }
            assert!(world.peer(viewer).was_refused(request).is_some());
        }
        assert_eq!(asked(&mut world, above).len(), round);
        world.advance(Duration::from_millis(1_001));
    }
    assert_eq!(world.relay.metrics().absent_hits, 3 * 49);
}

#[test]
fn a_joiner_waits_for_a_relay_above_and_not_for_ever() {
    let mut world = edge();
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    assert_eq!(world.peer(viewer).was_refused(request), None, "it may be there in a moment");
    let above = world.dial_above(DRAFT);
    let session = world.peer(above).id;
    world.relay.use_upstream(session, world.now);
    world.settle();
    accept(&mut world, above, 7);
    assert!(world.peer(viewer).was_accepted(request));
    lose(&mut world, above);
    let late = world.viewer(DRAFT);
    let other = world.subscribe(late, "audio");
    world.advance(Duration::from_secs(6));
    let said = world.peer(late).was_refused(other).unwrap();
    assert!(said.contains("no upstream answers"), "{said}");
}

#[test]
fn viewers_stay_when_the_relay_above_dies_and_go_on_with_whole_groups() {
    let (mut world, first) = connected();
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    accept(&mut world, first, 7);
    whole(&mut world, first, 7, 4);
    let mut cut = Group::begin(&mut world, first, 7, 5);
    cut.object(&mut world, 0);
    lose(&mut world, first);
    assert_eq!(world.relay.metrics().upstream_subscriptions, 0);
    assert_eq!(world.peer(viewer).wire.resets.len(), 1, "the group that was cut is given up");

    let second = world.dial_above(DRAFT);
    let session = world.peer(second).id;
    world.relay.use_upstream(session, world.now);
    world.settle();
    let again = asked(&mut world, second);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, Some(Filter::NextGroupStart), "whole groups only");
    accept(&mut world, second, 70);
    // This relay lags: what was seen already does not come again.
    whole(&mut world, second, 70, 4);
    whole(&mut world, second, 70, 5);
    whole(&mut world, second, 70, 6);
    let got = world.peer(viewer).locations(request);
    assert_eq!(got, [(4, 0), (4, 1), (5, 0), (6, 0), (6, 1)]);
    assert!(world.peer(viewer).wire.closed.is_none());
    let done = world.peer(viewer).heard.iter().any(|h| matches!(h, Heard::PublishDone { .. }));
    assert!(!done, "the viewer noticed nothing but a gap");
    assert_eq!(world.relay.metrics().objects_malformed, 0);
}

#[test]
fn a_move_between_two_living_relays_loses_no_group_and_repeats_none() {
    for new_is_ahead in [false, true] {
        let (mut world, old) = connected();
        let viewer = world.viewer(DRAFT);
        let request = world.subscribe(viewer, "video");
        accept(&mut world, old, 7);
        whole(&mut world, old, 7, 0);
        let mut last = Group::begin(&mut world, old, 7, 1);
        last.object(&mut world, 0);

        world.peer(old).moqt.goaway("moqt://192.0.2.9:4443", 10_000).unwrap();
        world.settle();
        let told = world.events.iter().any(|event| {
            matches!(event, Event::UpstreamGoAway { uri, .. } if uri == "moqt://192.0.2.9:4443")
        });
        assert!(told, "the engine hears of it");
        let new = world.dial_above(DRAFT);
        let session = world.peer(new).id;
        world.relay.use_upstream(session, world.now);
        world.settle();
        accept(&mut world, new, 70);
        let left = |world: &World| {
            world.events.iter().any(|event| matches!(event, Event::UpstreamLeft { .. }))
        };
        // Both send what they have; a group comes from one of them.
        if new_is_ahead {
            let mut ahead = Group::begin(&mut world, new, 70, 3);
            ahead.object(&mut world, 0);
            last.object(&mut world, 1);
            last.end(&mut world);
            assert!(!left(&world), "the old one still owes group 2");
            whole(&mut world, old, 7, 2);
            assert!(left(&world), "and now nothing");
            ahead.object(&mut world, 1);
            ahead.end(&mut world);
        } else {
            whole(&mut world, new, 70, 1);
            last.object(&mut world, 1);
            last.end(&mut world);
            // The old one is still the faster one, and is not listened to any more.
            whole(&mut world, old, 7, 2);
            whole(&mut world, new, 70, 2);
            whole(&mut world, new, 70, 3);
        }
        let mut got = world.peer(viewer).locations(request);
        got.sort_unstable();
        let all = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)];
        assert_eq!(got, all, "new_is_ahead {new_is_ahead}");
        world.peer(viewer).assert_unaltered();
        assert!(world.peer(viewer).wire.resets.is_empty(), "no group was cut");
        assert!(left(&world), "the old one may be closed");
        assert_eq!(world.relay.metrics().upstream_subscriptions, 1);
    }
}

#[test]
fn a_relay_that_has_not_got_the_track_yet_is_asked_again_and_the_viewer_waits() {
    let (mut world, first) = connected();
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    accept(&mut world, first, 7);
    whole(&mut world, first, 7, 0);
    lose(&mut world, first);
    let second = world.dial_above(DRAFT);
    let session = world.peer(second).id;
    world.relay.use_upstream(session, world.now);
    world.settle();
    for attempt in 1..=4 {
        assert_eq!(asked(&mut world, second).len(), attempt);
        refuse(&mut world, second, RequestCode::DoesNotExist);
        world.advance(Duration::from_secs(4));
    }
    accept(&mut world, second, 70);
    whole(&mut world, second, 70, 9);
    let got = world.peer(viewer).locations(request);
    assert_eq!(got, [(0, 0), (0, 1), (9, 0), (9, 1)]);
}

#[test]
fn a_broadcast_without_any_relay_above_ends_after_the_hold() {
    let (mut world, above) = connected();
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    accept(&mut world, above, 7);
    whole(&mut world, above, 7, 0);
    lose(&mut world, above);
    world.advance(Duration::from_secs(29));
    let done = |world: &mut World| {
        let heard = &world.peer(viewer).heard;
        heard.iter().any(
            |heard| matches!(heard, Heard::PublishDone { request: ended, .. } if *ended == request),
        )
    };
    assert!(!done(&mut world), "held for the reconnect window");
    world.advance(Duration::from_secs(2));
    assert!(done(&mut world));
    assert_eq!(world.relay.tracks_from_above(), 0);
    assert_eq!(world.relay.metrics().upstream_given_up, 1);
}

#[test]
fn the_end_of_a_broadcast_above_is_its_end_here() {
    let (mut world, above) = connected();
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    accept(&mut world, above, 7);
    whole(&mut world, above, 7, 0);
    let upstream = last_asked(&mut world, above);
    let moqt = &mut world.peer(above).moqt;
    moqt.publish_done(upstream, DoneCode::TrackEnded, Some(1), "").unwrap();
    world.settle();
    world.advance(Duration::from_secs(6));
    let ended = world.peer(viewer).heard.iter().any(|heard| {
        matches!(heard, Heard::PublishDone { request: ended, code: DoneCode::TrackEnded, .. }
            if *ended == request)
    });
    assert!(ended);
    assert_eq!(asked(&mut world, above).len(), 1, "nobody asks again");
}

#[test]
fn a_node_watches_every_broadcast_by_its_key_alone_and_is_cut_off_with_it() {
    let hash = NodeKeys::hash(&[5; 32], "nk_live_good");
    let mut world = World::new();
    world.relay.set_node_keys(NodeKeys::new(&[5; 32], vec![hash]), world.now);
    assert!(world.relay.publish(&crate::world::broadcast()));
    let track = world.open("video");
    let path = |key: &str| SetupOptions {
        path: Some(format!("/mesh?nk={key}&id=edge-1")),
        ..SetupOptions::default()
    };
    let node = world.dial_with(DRAFT, None, path("nk_live_good"));
    let admitted = world
        .events
        .iter()
        .any(|event| matches!(event, Event::NodeAdmitted { node, .. } if node == "edge-1"));
    assert!(admitted);
    let request = world.subscribe(node, "video");
    world.write(track, 0, 0);
    assert_eq!(world.peer(node).locations(request), [(0, 0)]);

    let stranger = world.dial_with(DRAFT, None, path("nk_live_bad"));
    assert_eq!(world.peer(stranger).close_reason(), "auth_failed: node key");
    world.relay.set_node_keys(NodeKeys::new(&[5; 32], Vec::new()), world.now);
    world.settle();
    assert_eq!(world.peer(node).close_reason(), "auth_failed: node key withdrawn");
    assert_eq!(world.relay.metrics().nodes_refused, 2);
}

#[test]
fn beacons_reach_the_engine_and_an_endless_one_ends_the_session() {
    let (mut world, above) = connected();
    let heard = world.peer(above).heard.clone();
    let beacons: Vec<_> = heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Subscribe { request, track, .. } if track.is_session_local() => Some(*request),
            _ => None,
        })
        .collect();
    assert_eq!(beacons.len(), Beacon::ALL.len());
    let params = || Params { largest: Some(Location::new(1, 0)), ..Params::default() };
    for (request, alias) in beacons.iter().zip(90..) {
        world.peer(above).moqt.accept_subscribe(*request, alias, params(), &[]).unwrap();
    }
    world.settle();
    whole(&mut world, above, 90, 2);
    let said: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Beacon { beacon, payload, .. } => Some((*beacon, payload.to_vec())),
            _ => None,
        })
        .collect();
    assert_eq!(said, [(Beacon::Path, payload(2, 0)), (Beacon::Path, payload(2, 1))]);

    let header = SubgroupHeader {
        alias: 91,
        group: 3,
        subgroup: 0,
        priority: None,
        properties: false,
        end_of_group: false,
        first_object: true,
    };
    let mut out = BytesMut::new();
    let mut encoder = SubgroupEncoder::new(DRAFT, &header, &mut out).unwrap();
    let length = 7 << 20;
    let object = ObjectHeader {
        object: 0,
        properties: Bytes::new(),
        payload_len: length,
        status: Status::Normal,
    };
    encoder.object(&object, &mut out).unwrap();
    let stream = world.new_uni(above);
    world.send_raw(above, stream, out.freeze(), false);
    for _ in 0..7 {
        world.send_raw(above, stream, vec![0; 1 << 20].into(), false);
    }
    assert_eq!(world.peer(above).close_reason(), "upstream beacon too large");
}
