//! Publishers over MoQT: permission, one upload whatever the audience, and what ends them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{Event as Heard, Params, RequestId};
use weir_relay::{Draft, Event, RefuseReason, StreamId};

use crate::world::{World, broadcast, ns, payload, track};

const DRAFTS: &[Draft] = &Draft::ALL;

/// A publisher that the engine let in; its namespace is announced.
pub(crate) fn publishing(world: &mut World, draft: Draft) -> usize {
    let publisher = world.dial(draft, "/publish/lv_1?sk=sk_live_hush");
    let session = world.peer(publisher).id;
    let asked = world.events.iter().any(|event| {
        matches!(event, Event::AuthorizePublish { session: asked, input_id, key }
            if *asked == session && input_id == "lv_1" && key.expose() == "sk_live_hush")
    });
    assert!(asked, "the engine is asked");
    world.relay.publish_authorized(session, Ok(broadcast()), world.now, world.wall);
    world.peer(publisher).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
    world.settle();
    publisher
}

/// Subscriptions of the relay that reached the publisher.
pub(crate) fn asked_for(world: &mut World, publisher: usize) -> Vec<RequestId> {
    let heard = &world.peer(publisher).heard;
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Subscribe { request, .. } => Some(*request),
            _ => None,
        })
        .collect()
}

/// One group's stream of a publisher.
pub(crate) struct Group {
    stream: StreamId,
    encoder: SubgroupEncoder,
    id: u64,
    out: BytesMut,
}

impl Group {
    pub(crate) fn begin(
        world: &mut World,
        publisher: usize,
        draft: Draft,
        alias: u64,
        group: u64,
    ) -> Self {
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
        let encoder = SubgroupEncoder::new(draft, &header, &mut out).unwrap();
        Self { stream: world.new_uni(publisher), encoder, id: group, out }
    }

    pub(crate) fn object(&mut self, object: u64) {
        self.object_of(object, &payload(self.id, object));
    }

    pub(crate) fn object_of(&mut self, object: u64, payload: &[u8]) {
        let header = ObjectHeader {
            object,
            properties: Bytes::new(),
            payload_len: payload.len() as u64,
            status: Status::Normal,
        };
        self.encoder.object(&header, &mut self.out).unwrap();
        self.out.extend_from_slice(payload);
    }

    /// Sends what was encoded so far.
    pub(crate) fn send(&mut self, world: &mut World, publisher: usize, fin: bool) {
        let data = self.out.split().freeze();
        world.send_raw(publisher, self.stream, data, fin);
    }
}

#[test]
fn a_publishers_uplink_does_not_grow_with_viewers() {
    for &draft in DRAFTS {
        let mut world = World::new();
        let publisher = publishing(&mut world, draft);
        let viewers: Vec<_> = DRAFTS.iter().cycle().take(6).map(|d| world.viewer(*d)).collect();
        let requests: Vec<_> = viewers.iter().map(|v| world.subscribe(*v, "video")).collect();
        let upstream = asked_for(&mut world, publisher);
        assert_eq!(upstream.len(), 1, "one subscription for everybody");
        assert!(
            !world.peer(viewers[0]).was_accepted(requests[0]),
            "not before the publisher says so"
        );
        let accepted =
            world.peer(publisher).moqt.accept_subscribe(upstream[0], 77, Params::default(), &[]);
        accepted.unwrap();
        world.settle();
        for group in 0..2 {
            let mut stream = Group::begin(&mut world, publisher, draft, 77, group);
            (0..3).for_each(|object| stream.object(object));
            stream.send(&mut world, publisher, true);
        }
        for (viewer, request) in viewers.iter().zip(&requests) {
            let peer = world.peer(*viewer);
            assert_eq!(peer.locations(*request), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
            assert_eq!(peer.ended, [0, 1]);
            peer.assert_unaltered();
        }
        assert_eq!(asked_for(&mut world, publisher).len(), 1);
        for (viewer, request) in viewers.iter().zip(&requests) {
            world.peer(*viewer).moqt.cancel(*request);
        }
        world.settle();
        let gone = world.peer(publisher).heard.iter().any(
            |heard| matches!(heard, Heard::Unsubscribed { request } if *request == upstream[0]),
        );
        assert!(gone, "the last viewer takes the upstream subscription along");
        assert_eq!(world.relay.metrics().tracks, 0);
        assert_eq!(world.relay.metrics().upstream_subscriptions, 0);
    }
}

#[test]
fn a_publisher_that_refuses_a_track_refuses_every_viewer() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D18);
    let viewer = world.viewer(Draft::D16);
    let request = world.subscribe(viewer, "video");
    let upstream = asked_for(&mut world, publisher)[0];
    let error = weir_moqt::RequestError::new(weir_relay::RequestCode::DoesNotExist, "no such");
    world.peer(publisher).moqt.reject(upstream, &error).unwrap();
    world.settle();
    assert!(world.peer(viewer).was_refused(request).unwrap().starts_with("DoesNotExist"));
    assert_eq!(world.relay.metrics().tracks, 0);
}

#[test]
fn a_publisher_the_engine_refuses_is_closed_and_never_says_why_in_detail() {
    for (reason, text) in [
        (RefuseReason::KeyInvalid, "auth_failed: stream_key_invalid"),
        (RefuseReason::Busy, "input_busy"),
    ] {
        let mut world = World::new();
        let publisher = world.dial(Draft::D18, "/publish/lv_1?sk=wrong");
        let session = world.peer(publisher).id;
        world.relay.publish_authorized(session, Err(reason), world.now, world.wall);
        world.settle();
        assert_eq!(world.peer(publisher).close_reason(), text);
    }
    let mut world = World::new();
    let publisher = world.dial(Draft::D18, "/publish/lv_1?sk=x");
    world.advance(Duration::from_secs(5));
    assert_eq!(world.peer(publisher).close_reason(), "timeout");
}

#[test]
fn a_namespace_is_neither_chosen_by_the_publisher_nor_taken_over() {
    let mut world = World::new();
    let first = publishing(&mut world, Draft::D18);
    let thief = world.dial(Draft::D18, "/publish/lv_1?sk=sk_live_hush");
    let session = world.peer(thief).id;
    world.relay.publish_authorized(session, Ok(broadcast()), world.now, world.wall);
    let taken = world.peer(thief).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
    let other = ns(&["stream", "org_b", "lv_9"]);
    let chosen = world.peer(thief).moqt.publish_namespace(&other, Params::default()).unwrap();
    world.settle();
    assert_eq!(world.peer(thief).was_refused(taken).unwrap(), "Unauthorized: input_busy");
    assert!(world.peer(thief).was_refused(chosen).unwrap().starts_with("Unauthorized"));
    let id = world.peer(first).id;
    world.relay.close_session(id, world.now);
    world.settle();
    let ended = world.events.iter().any(|event| matches!(event, Event::NamespaceEnded { .. }));
    assert!(ended);
    let again = world.peer(thief).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
    world.settle();
    assert!(world.peer(thief).was_accepted(again), "free again once the first has left");
}

#[test]
fn a_publisher_that_leaves_ends_its_tracks_for_every_viewer() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D16);
    let viewer = world.viewer(Draft::D18);
    let waiting = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let upstream = asked_for(&mut world, publisher)[0];
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
    world.settle();
    let mut group = Group::begin(&mut world, publisher, Draft::D16, 1, 0);
    group.object(0);
    group.send(&mut world, publisher, false);
    let pending = world.subscribe(waiting, "audio");
    let id = world.peer(publisher).id;
    world.relay.close_session(id, world.now);
    world.settle();
    assert_eq!(world.peer(viewer).locations(request), [(0, 0)]);
    let done = world.peer(viewer).heard.iter().any(|h| matches!(h, Heard::PublishDone { .. }));
    assert!(done);
    assert!(world.peer(waiting).was_refused(pending).unwrap().starts_with("DoesNotExist"));
    assert_eq!(world.relay.metrics().tracks, 0);
    assert_eq!(world.relay.metrics().namespaces, 0);
}

#[test]
fn h28_a_poisoned_track_ends_malformed_and_earlier_viewers_keep_what_was_true() {
    for backwards in [false, true] {
        let mut world = World::new();
        let publisher = publishing(&mut world, Draft::D18);
        let viewer = world.viewer(Draft::D18);
        let request = world.subscribe(viewer, "video");
        let upstream = asked_for(&mut world, publisher)[0];
        world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
        world.settle();
        let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 50);
        group.object(0);
        group.send(&mut world, publisher, false);
        let evil = if backwards { 3 } else { 50 };
        let mut evil = Group::begin(&mut world, publisher, Draft::D18, 1, evil);
        evil.object_of(0, b"poison");
        evil.send(&mut world, publisher, true);
        let peer = world.peer(viewer);
        assert_eq!(peer.locations(request), [(50, 0)]);
        peer.assert_unaltered();
        let malformed = peer.heard.iter().any(|heard| {
            matches!(heard, Heard::PublishDone { code: weir_relay::DoneCode::MalformedTrack, .. })
        });
        assert!(malformed, "backwards: {backwards}");
        assert_eq!(world.relay.metrics().objects_malformed, 1);
        assert_eq!(world.relay.metrics().tracks, 0);
    }
}

#[test]
fn h31_a_flood_of_tiny_objects_ends_the_publisher_only() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D18);
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    let upstream = asked_for(&mut world, publisher)[0];
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
    world.settle();
    let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 0);
    (0..3000).for_each(|object| group.object_of(object, b"x"));
    group.send(&mut world, publisher, false);
    assert_eq!(world.peer(publisher).close_reason(), "publisher sends too much");
    assert_eq!(world.relay.metrics().limit_publisher_rate, 1);
    assert_eq!(world.relay.metrics().objects_in, 2000);
    assert_eq!(world.peer(viewer).close_reason(), "");
}

#[test]
fn an_object_in_many_pieces_arrives_whole() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D18);
    let viewer = world.viewer(Draft::D16);
    let request = world.subscribe(viewer, "video");
    let upstream = asked_for(&mut world, publisher)[0];
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
    world.settle();
    let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 0);
    (0..2).for_each(|object| group.object(object));
    for byte in group.out.split() {
        world.send_raw(publisher, group.stream, Bytes::copy_from_slice(&[byte]), false);
    }
    assert_eq!(world.peer(viewer).locations(request), [(0, 0), (0, 1)]);
    world.peer(viewer).assert_unaltered();
}

#[test]
fn a_publisher_may_watch_its_own_broadcast_without_a_token() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D18);
    let request = world.peer(publisher).moqt.subscribe(&track("video"), Params::default()).unwrap();
    world.settle();
    let upstream = asked_for(&mut world, publisher)[0];
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
    world.settle();
    assert!(world.peer(publisher).was_accepted(request));
}
