//! Objects of MoQT publishers on their way: while they arrive, in several subgroups, as datagrams.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{Datagram, ObjectHeader, Status, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{
    Event as Heard, FetchTarget, Location, Params, Property, PropertyValue, RequestId, ResetCode,
};
use weir_relay::{DoneCode, Draft, DropReason, Forwarding, Limits, ObjectIn, StreamId};

use crate::holes::{fetched, refuse};
use crate::world::{World, broadcast, track};

const DRAFTS: [Draft; 2] = [Draft::D18, Draft::D16];

/// A publisher with one viewer of its track, who speaks another draft.
pub(crate) struct Publisher {
    pub(crate) at: usize,
    pub(crate) draft: Draft,
    pub(crate) alias: u64,
    pub(crate) viewer: usize,
    pub(crate) viewer_draft: Draft,
    pub(crate) subscription: RequestId,
}

pub(crate) fn publishing(draft: Draft) -> (World, Publisher) {
    publishing_with(draft, Limits::default(), &[], Params::default())
}

pub(crate) fn publishing_with(
    draft: Draft,
    limits: Limits,
    properties: &[Property],
    params: Params,
) -> (World, Publisher) {
    let mut world = World::with(limits, 0);
    let at = world.dial(draft, "/publish/lv_1?sk=sk_live_hush");
    let session = world.peer(at).id;
    world.relay.publish_authorized(session, Ok(broadcast()), world.now, world.wall);
    world.peer(at).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
    world.settle();
    // A subgroup timeout is a thing of draft 18.
    let viewer_draft = match draft {
        Draft::D18 if params == Params::default() => Draft::D16,
        _ => Draft::D18,
    };
    let viewer = world.viewer(viewer_draft);
    let subscription = world.subscribe_with(viewer, "video", params);
    let asked = world.peer(at).heard.iter().find_map(|heard| match heard {
        Heard::Subscribe { request, .. } => Some(*request),
        _ => None,
    });
    let alias = 77;
    let moqt = &mut world.peer(at).moqt;
    moqt.accept_subscribe(asked.unwrap(), alias, Params::default(), properties).unwrap();
    world.settle();
    (world, Publisher { at, draft, alias, viewer, viewer_draft, subscription })
}

/// A subgroup stream of a publisher, written by hand.
pub(crate) struct Feed {
    stream: StreamId,
    encoder: SubgroupEncoder,
    pending: BytesMut,
}

impl Feed {
    pub(crate) fn open(
        world: &mut World,
        publisher: &Publisher,
        group: u64,
        subgroup: u64,
    ) -> Self {
        Self::with(world, publisher, group, subgroup, true)
    }

    pub(crate) fn with(
        world: &mut World,
        publisher: &Publisher,
        group: u64,
        subgroup: u64,
        holds_end: bool,
    ) -> Self {
        let header = SubgroupHeader {
            alias: publisher.alias,
            group,
            subgroup,
            priority: Some(7),
            properties: true,
            end_of_group: holds_end,
            first_object: true,
        };
        let mut pending = BytesMut::new();
        let encoder = SubgroupEncoder::new(publisher.draft, &header, &mut pending).unwrap();
        Self { stream: world.new_uni(publisher.at), encoder, pending }
    }

    pub(crate) fn head(&mut self, object: u64, payload_len: u64) {
        let header = ObjectHeader { object, payload_len, ..ObjectHeader::default() };
        self.encoder.object(&header, &mut self.pending).unwrap();
    }

    pub(crate) fn status(&mut self, object: u64, status: Status) {
        let header = ObjectHeader { object, status, ..ObjectHeader::default() };
        self.encoder.object(&header, &mut self.pending).unwrap();
    }

    pub(crate) fn object(&mut self, object: u64, payload: &[u8]) {
        self.head(object, payload.len() as u64);
        self.pending.extend_from_slice(payload);
    }

    pub(crate) fn send(
        &mut self,
        world: &mut World,
        publisher: &Publisher,
        more: &[u8],
        fin: bool,
    ) {
        self.pending.extend_from_slice(more);
        let bytes = self.pending.split().freeze();
        world.send_raw(publisher.at, self.stream, bytes, fin);
    }

    pub(crate) fn reset(&self, world: &mut World, publisher: &Publisher, code: ResetCode) {
        let (id, code) = (world.peer(publisher.at).id, publisher.draft.reset_code(code));
        world.relay.handle_reset(id, self.stream, code, world.now);
        world.settle();
    }
}

/// Payload bytes a viewer has heard of a request, whole objects or not.
fn heard_bytes(world: &mut World, viewer: usize) -> usize {
    let heard = world.peer(viewer).heard.iter();
    heard
        .map(|event| match event {
            Heard::Payload { data, .. } => data.len(),
            _ => 0,
        })
        .sum()
}

#[test]
fn the_first_byte_of_an_object_leaves_before_its_last_one_has_come() {
    for draft in DRAFTS {
        for viewers in [1, 500] {
            let (mut world, publisher) = publishing(draft);
            let viewers: Vec<usize> = (0..viewers)
                .map(|i| if i == 0 { publisher.viewer } else { world.viewer(DRAFTS[i % 2]) })
                .collect();
            for viewer in &viewers[1..] {
                world.subscribe(*viewer, "video");
            }
            let whole: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
            let mut feed = Feed::open(&mut world, &publisher, 0, 0);
            feed.head(0, 20_000);
            feed.send(&mut world, &publisher, &whole[..5_000], false);
            for viewer in &viewers {
                assert_eq!(heard_bytes(&mut world, *viewer), 5_000, "{draft:?}");
            }
            feed.send(&mut world, &publisher, &whole[5_000..], true);
            for viewer in &viewers {
                let peer = world.peer(*viewer);
                assert_eq!(peer.got.len(), 1);
                assert_eq!(peer.got[0].payload, whole);
                assert_eq!(peer.ended, [0]);
            }
            assert_eq!(world.relay.metrics().bytes_in, 20_000, "one copy for all of them");
            assert_eq!(world.relay.metrics().cache_bytes, 20_000);
        }
    }
}

#[test]
fn a_joiner_in_the_middle_of_an_object_gets_all_of_it() {
    let (mut world, publisher) = publishing(Draft::D18);
    let mut feed = Feed::open(&mut world, &publisher, 3, 0);
    feed.object(0, b"key");
    feed.head(1, 6_000);
    feed.send(&mut world, &publisher, &[1; 2_000], false);
    let joiner = world.viewer(Draft::D16);
    let (subscription, fetch) = world.join(joiner, "video");
    feed.send(&mut world, &publisher, &[1; 4_000], false);
    let peer = world.peer(joiner);
    assert_eq!(peer.locations(fetch), [(3, 0)]);
    assert_eq!(peer.locations(subscription), [(3, 1)]);
    assert_eq!(peer.got.last().unwrap().payload, [1; 6_000]);
}

#[test]
fn a_stream_reset_in_the_middle_of_an_object_resets_its_subscribers_with_the_same_code() {
    for draft in DRAFTS {
        let (mut world, publisher) = publishing(draft);
        let mut feed = Feed::open(&mut world, &publisher, 0, 0);
        feed.object(0, b"whole");
        feed.head(1, 9_000);
        feed.send(&mut world, &publisher, &[2; 3_000], false);
        feed.reset(&mut world, &publisher, ResetCode::SessionClosed);
        let viewer = world.peer(publisher.viewer);
        let expected = publisher.viewer_draft.reset_code(ResetCode::SessionClosed);
        assert_eq!(viewer.wire.resets.last().unwrap().1, expected);
        assert_eq!(viewer.got.len(), 1, "the half object is nobody's");
        assert_eq!(world.relay.metrics().cache_bytes, 5);
        assert_eq!(world.relay.metrics().dropped(DropReason::Publisher), 1);
        // The publisher goes on behind the loss, on a stream of its own.
        let mut again = Feed::open(&mut world, &publisher, 0, 0);
        again.object(4, b"later");
        again.send(&mut world, &publisher, b"", true);
        let viewer = world.peer(publisher.viewer);
        let request = publisher.subscription;
        assert_eq!(viewer.locations(request), [(0, 0), (0, 4)]);
        // What lies between is not known, and said to be so.
        let joiner = world.viewer(Draft::D18);
        let target = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(0, 0),
            end: Location::whole_group(0),
        };
        let fetch = world.peer(joiner).moqt.fetch(&target, Params::default()).unwrap();
        world.settle();
        let asked = fetched(&mut world, publisher.at)[0];
        refuse(&mut world, publisher.at, asked);
        let peer = world.peer(joiner);
        assert_eq!(peer.locations(fetch), [(0, 0), (0, 4)]);
        let gap = peer.heard.iter().find_map(|heard| match heard {
            Heard::FetchGap { end, .. } => Some(*end),
            _ => None,
        });
        assert_eq!(gap, Some(Location::new(0, 3)));
    }
}

#[test]
fn subgroups_are_streams_of_their_own_and_may_come_late() {
    for draft in DRAFTS {
        let (mut world, publisher) = publishing(draft);
        let mut base = Feed::open(&mut world, &publisher, 0, 0);
        let mut top = Feed::with(&mut world, &publisher, 0, 2, false);
        base.object(0, b"b0");
        base.send(&mut world, &publisher, b"", false);
        // The enhancement of objects 1 and 3 comes after the next group has begun.
        base.object(2, b"b2");
        base.send(&mut world, &publisher, b"", false);
        let mut next = Feed::open(&mut world, &publisher, 1, 0);
        next.object(0, b"n0");
        next.send(&mut world, &publisher, b"", false);
        top.object(1, b"t1");
        top.object(3, b"t3");
        top.send(&mut world, &publisher, b"", true);
        base.object(5, b"b5");
        base.send(&mut world, &publisher, b"", true);
        let viewer = world.peer(publisher.viewer);
        let heads: Vec<_> = viewer
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::SubgroupOpened { header, .. } => {
                    Some((header.group, header.subgroup, header.end_of_group, header.priority))
                }
                _ => None,
            })
            .collect();
        let expected = [(0, 0, true, Some(7)), (1, 0, true, Some(7)), (0, 2, false, Some(7))];
        assert_eq!(heads, expected, "{draft:?}");
        let mut got = viewer.locations(publisher.subscription);
        got.sort_unstable();
        assert_eq!(got, [(0, 0), (0, 1), (0, 2), (0, 3), (0, 5), (1, 0)]);
        assert_eq!(viewer.ended, [0, 0], "both streams of the group were finished");
        assert!(viewer.wire.resets.is_empty());
        assert_eq!(viewer.failure, None);
        assert_eq!(world.relay.metrics().objects_malformed, 0);
        // FETCH gives them in order, each with its subgroup.
        let joiner = world.viewer(Draft::D18);
        let target = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(0, 0),
            end: Location::whole_group(0),
        };
        let fetch = world.peer(joiner).moqt.fetch(&target, Params::default()).unwrap();
        world.settle();
        let peer = world.peer(joiner);
        assert_eq!(peer.locations(fetch), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 5)]);
        let subgroups = peer.heard.iter().filter_map(|heard| match heard {
            Heard::FetchObjectStarted { object, .. } => object.subgroup,
            _ => None,
        });
        assert_eq!(subgroups.collect::<Vec<_>>(), [0, 2, 0, 2, 0]);
    }
}

#[test]
fn the_first_object_bit_is_set_only_on_a_stream_that_has_it() {
    let params = Params { priority: Some(9), ..Params::default() };
    let (mut world, publisher) = publishing_with(Draft::D18, Limits::default(), &[], params);
    let mut feed = Feed::open(&mut world, &publisher, 0, 4);
    feed.object(3, b"first");
    feed.send(&mut world, &publisher, b"", false);
    let late = world.viewer(Draft::D18);
    world.subscribe(late, "video");
    feed.object(4, b"second");
    feed.send(&mut world, &publisher, b"", true);
    let first = |world: &mut World, at: usize| {
        let mut heads = world.peer(at).heard.iter().filter_map(|heard| match heard {
            Heard::SubgroupOpened { header, .. } => Some(header.first_object),
            _ => None,
        });
        heads.next()
    };
    // We joined the group ourselves after its objects 0 to 2, which are of other subgroups or lost.
    assert_eq!(first(&mut world, late), Some(false));
    assert_eq!(first(&mut world, publisher.viewer), Some(true));
}

#[test]
fn ends_of_group_and_track_reach_the_subscribers() {
    for draft in DRAFTS {
        let (mut world, publisher) = publishing(draft);
        let mut feed = Feed::with(&mut world, &publisher, 0, 0, false);
        feed.object(0, b"only");
        feed.status(1, Status::EndOfGroup);
        feed.send(&mut world, &publisher, b"", true);
        let viewer = world.peer(publisher.viewer);
        let told = viewer.heard.iter().any(|heard| {
            matches!(heard, Heard::ObjectStarted { object, .. } if object.status == Status::EndOfGroup)
        });
        assert!(told, "{draft:?}: the status object passes");
        // An object behind the end of its group is malformed.
        let mut worse = Feed::with(&mut world, &publisher, 0, 1, false);
        worse.object(2, b"ghost");
        worse.send(&mut world, &publisher, b"", true);
        let viewer = world.peer(publisher.viewer);
        let done = viewer.heard.iter().any(|heard| {
            matches!(heard, Heard::PublishDone { code: DoneCode::MalformedTrack, .. })
        });
        assert!(done, "{draft:?}");
    }
}

#[test]
fn a_publisher_says_the_same_twice_and_then_something_else() {
    for (payload, malformed) in [(b"same", 0), (b"SAME", 1)] {
        let (mut world, publisher) = publishing(Draft::D18);
        let mut feed = Feed::open(&mut world, &publisher, 0, 0);
        feed.object(0, b"same");
        feed.send(&mut world, &publisher, b"", false);
        let mut twin = Feed::open(&mut world, &publisher, 0, 0);
        twin.object(0, payload);
        twin.send(&mut world, &publisher, b"", false);
        assert_eq!(world.relay.metrics().objects_malformed, malformed);
        assert_eq!(world.relay.metrics().objects_duplicate, 1);
        let viewer = world.peer(publisher.viewer);
        assert_eq!(viewer.got.len(), 1, "and the viewer hears it once");
        let done = viewer.heard.iter().any(|heard| matches!(heard, Heard::PublishDone { .. }));
        assert_eq!(done, malformed == 1);
    }
}

#[test]
fn datagram_objects_pass_as_datagrams_and_can_be_fetched() {
    for draft in DRAFTS {
        let (mut world, publisher) = publishing(draft);
        for object in 0..3 {
            let datagram = Datagram {
                alias: publisher.alias,
                location: Location::new(4, object),
                priority: Some(3),
                payload: Bytes::from(vec![object as u8; 50]),
                ..Datagram::default()
            };
            let mut bytes = BytesMut::new();
            datagram.encode(publisher.draft, &mut bytes).unwrap();
            let id = world.peer(publisher.at).id;
            world.relay.handle_datagram(id, bytes.freeze(), world.now, world.wall);
            world.settle();
        }
        let viewer = world.peer(publisher.viewer);
        let heard: Vec<_> = viewer
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::Datagram { datagram, .. } => {
                    Some((datagram.location.object, datagram.payload.len(), datagram.priority))
                }
                _ => None,
            })
            .collect();
        assert_eq!(heard, [(0, 50, Some(3)), (1, 50, Some(3)), (2, 50, Some(3))], "{draft:?}");
        assert_eq!(world.relay.metrics().datagrams_out, 3);
        assert_eq!(world.relay.metrics().groups_out, 0, "no stream for them");
        let joiner = world.viewer(Draft::D18);
        let target = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(4, 0),
            end: Location::whole_group(4),
        };
        let fetch = world.peer(joiner).moqt.fetch(&target, Params::default()).unwrap();
        world.settle();
        let peer = world.peer(joiner);
        assert_eq!(peer.locations(fetch), [(4, 0), (4, 1), (4, 2)]);
        let preference = peer.heard.iter().filter_map(|heard| match heard {
            Heard::FetchObjectStarted { object, .. } => Some(object.subgroup),
            _ => None,
        });
        assert_eq!(preference.collect::<Vec<_>>(), [None; 3], "its publisher's preference is kept");
    }
}

#[test]
fn the_end_of_a_group_of_datagrams_is_a_datagram_too() {
    for draft in DRAFTS {
        let (mut world, publisher) = publishing(draft);
        for (object, status) in [(0, Status::Normal), (1, Status::EndOfGroup)] {
            let payload = Bytes::from_static(if object == 0 { b"last" } else { b"" });
            let location = Location::new(4, object);
            let alias = publisher.alias;
            let datagram = Datagram { alias, location, status, payload, ..Datagram::default() };
            let mut bytes = BytesMut::new();
            datagram.encode(publisher.draft, &mut bytes).unwrap();
            let id = world.peer(publisher.at).id;
            world.relay.handle_datagram(id, bytes.freeze(), world.now, world.wall);
            world.settle();
        }
        let heard = world.peer(publisher.viewer).heard.iter().filter_map(|heard| match heard {
            Heard::Datagram { datagram, .. } => Some((datagram.location.object, datagram.status)),
            _ => None,
        });
        let expected = [(0, Status::Normal), (1, Status::EndOfGroup)];
        assert_eq!(heard.collect::<Vec<_>>(), expected, "{draft:?}");
        assert_eq!(world.relay.metrics().groups_out, 0, "no stream for it");
    }
}

#[test]
fn a_path_without_room_loses_datagrams_and_nothing_waits() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.peer(viewer).wire.datagrams = 1;
    for object in 0..3 {
        let object = ObjectIn { forwarding: Forwarding::Datagram, ..world.object(0, object) };
        world.relay.write_object(video, object).unwrap();
        world.settle();
    }
    let metrics = world.relay.metrics();
    assert_eq!((metrics.datagrams_out, metrics.datagrams_dropped_blocked), (1, 2));
}

#[test]
fn the_smaller_of_both_sides_delivery_timeouts_counts() {
    for (subscriber, publisher_ms, expected) in
        [(Some(900), 300, 300), (Some(200), 300, 200), (None, 300, 300), (Some(400), 0, 400)]
    {
        let property = Property { kind: 0x02, value: PropertyValue::Int(publisher_ms) };
        let params = Params { object_timeout_ms: subscriber, ..Params::default() };
        let (mut world, publisher) =
            publishing_with(Draft::D18, Limits::default(), &[property], params);
        world.peer(publisher.viewer).wire.credit = 10;
        let mut feed = Feed::open(&mut world, &publisher, 0, 0);
        feed.object(0, &[1; 100]);
        feed.send(&mut world, &publisher, b"", false);
        world.advance(Duration::from_millis(expected));
        feed.object(1, b"x");
        feed.send(&mut world, &publisher, b"", false);
        assert_eq!(world.relay.metrics().dropped(DropReason::ObjectTimeout), 0);
        world.advance(Duration::from_millis(1));
        feed.object(2, b"x");
        feed.send(&mut world, &publisher, b"", false);
        assert_eq!(world.relay.metrics().dropped(DropReason::ObjectTimeout), 1, "{expected}");
        let timeout = publisher.viewer_draft.reset_code(ResetCode::DeliveryTimeout);
        assert_eq!(world.peer(publisher.viewer).wire.resets.last().unwrap().1, timeout);
    }
}

#[test]
fn a_subgroup_not_acknowledged_in_time_is_reset() {
    let params = Params { subgroup_timeout_ms: Some(500), ..Params::default() };
    let (mut world, publisher) = publishing_with(Draft::D18, Limits::default(), &[], params);
    for group in 0..2 {
        let mut feed = Feed::open(&mut world, &publisher, group, 0);
        feed.object(0, b"all of it");
        feed.send(&mut world, &publisher, b"", true);
    }
    let id = world.peer(publisher.viewer).id;
    let streams: Vec<StreamId> = world.peer(publisher.viewer).wire.finished.clone();
    assert_eq!(streams.len(), 2);
    world.relay.handle_acknowledged(id, streams[0]);
    world.advance(Duration::from_millis(499));
    assert!(world.peer(publisher.viewer).wire.resets.is_empty());
    world.advance(Duration::from_millis(1));
    let timeout = publisher.viewer_draft.reset_code(ResetCode::DeliveryTimeout);
    assert_eq!(world.peer(publisher.viewer).wire.resets, [(streams[1], timeout)]);
    assert_eq!(world.relay.metrics().dropped(DropReason::SubgroupTimeout), 1);
}

#[test]
fn the_publishers_cache_duration_is_honoured() {
    let property = Property { kind: 0x04, value: PropertyValue::Int(1_000) };
    let (mut world, publisher) =
        publishing_with(Draft::D18, Limits::default(), &[property], Params::default());
    let mut feed = Feed::open(&mut world, &publisher, 0, 0);
    feed.object(0, b"old");
    feed.send(&mut world, &publisher, b"", false);
    world.advance(Duration::from_millis(1_001));
    feed.object(1, b"new");
    feed.send(&mut world, &publisher, b"", false);
    let joiner = world.viewer(Draft::D18);
    let (_, fetch) = world.join(joiner, "video");
    let asked = fetched(&mut world, publisher.at)[0];
    refuse(&mut world, publisher.at, asked);
    assert_eq!(world.peer(joiner).locations(fetch), [(0, 1)]);
    let unknown =
        world.peer(joiner).heard.iter().any(|heard| matches!(heard, Heard::FetchGap { .. }));
    assert!(unknown, "what may not be served any more is unknown, not missing");
}

#[test]
fn a_viewer_that_lost_the_middle_of_a_subgroup_gets_a_new_stream_behind_it() {
    let mut limits = Limits::default();
    limits.group_objects_max = 4;
    let (mut world, publisher) = publishing_with(Draft::D18, limits, &[], Params::default());
    let request: RequestId = publisher.subscription;
    let mut feed = Feed::open(&mut world, &publisher, 0, 0);
    feed.object(0, &[0; 10]);
    feed.send(&mut world, &publisher, b"", false);
    world.peer(publisher.viewer).wire.credit = 0;
    for object in 1..10 {
        feed.object(object, &[object as u8; 10]);
        feed.send(&mut world, &publisher, b"", false);
    }
    world.grant(publisher.viewer, 10_000);
    feed.object(10, &[10; 10]);
    feed.send(&mut world, &publisher, b"", true);
    let viewer = world.peer(publisher.viewer);
    let got = viewer.locations(request);
    assert_eq!(got.first(), Some(&(0, 0)));
    assert_eq!(got[got.len() - 5..], [(0, 6), (0, 7), (0, 8), (0, 9), (0, 10)]);
    let opened = viewer.heard.iter().filter(|h| matches!(h, Heard::SubgroupOpened { .. })).count();
    assert_eq!(opened, 2, "reset and reopened: only the next object may follow on a stream");
    assert_eq!(viewer.failure, None);
    assert!(world.relay.metrics().dropped(DropReason::Trimmed) > 0);
}
