//! Every draft as a publisher to every draft as a subscriber: what arrives is what was sent, whoever
//! speaks to whom.

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{
    Datagram, FetchEncoder, FetchHeader, FetchObject, ObjectHeader, Status, SubgroupEncoder,
    SubgroupHeader, convert_properties,
};
use weir_moqt::{
    Event as Heard, FetchTarget, Filter, GroupOrder, Location, Params, RequestId, StreamId,
};
use weir_relay::{DoneCode, Draft};

use crate::publishers::{asked_for, publishing};
use crate::world::{World, track};

const ALIAS: u64 = 77;

/// The draft in whose words property blocks are compared.
const COMMON: Draft = Draft::D18;

/// Types 6 = 300 (an integer), 0x0B = {4 = 200} (immutable), 0x79 = "hi", as [`COMMON`] has them.
fn properties() -> Bytes {
    Bytes::from_static(&[6, 0x81, 0x2C, 5, 3, 4, 0x80, 200, 0x6E, 2, b'h', b'i'])
}

/// What a subscriber is told of one stream or datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Stream { group: u64, subgroup: u64, priority: Option<u8> },
    Object { object: u64, properties: Bytes, status: Status },
    Payload(Vec<u8>),
    End,
    Datagram { at: Location, priority: Option<u8>, properties: Bytes, end: bool, payload: Bytes },
}

/// What each of the viewer's data streams brought, stream by stream, then the datagrams.
fn seen(world: &mut World, viewer: usize, draft: Draft, request: RequestId) -> Vec<Seen> {
    let common = |block: &Bytes| convert_properties(draft, COMMON, block).unwrap();
    let heard = &world.peer(viewer).heard;
    let mut streams: Vec<(StreamId, Vec<Seen>)> = Vec::new();
    let mut datagrams = Vec::new();
    for event in heard {
        let (stream, seen) = match event {
            Heard::SubgroupOpened { stream, request: of, header } => {
                assert_eq!(*of, request);
                let SubgroupHeader { group, subgroup, priority, .. } = *header;
                streams.push((*stream, Vec::new()));
                (stream, Seen::Stream { group, subgroup, priority })
            }
            Heard::ObjectStarted { stream, object } => {
                let properties = common(&object.properties);
                (stream, Seen::Object { object: object.object, properties, status: object.status })
            }
            Heard::Payload { stream, data, .. } => (stream, Seen::Payload(data.to_vec())),
            Heard::DataEnded { stream } => (stream, Seen::End),
            Heard::Datagram { request: of, datagram } => {
                assert_eq!(*of, request);
                datagrams.push(Seen::Datagram {
                    at: datagram.location,
                    priority: datagram.priority,
                    properties: common(&datagram.properties),
                    end: datagram.end_of_group,
                    payload: datagram.payload.clone(),
                });
                continue;
            }
            _ => continue,
        };
        let of = streams.iter_mut().find(|(known, _)| known == stream).unwrap();
        match (of.1.last_mut(), seen) {
            (Some(Seen::Payload(before)), Seen::Payload(more)) => before.extend(more),
            (_, seen) => of.1.push(seen),
        }
    }
    streams.into_iter().flat_map(|(_, seen)| seen).chain(datagrams).collect()
}

/// A subgroup stream as `draft` writes it.
fn stream(draft: Draft, group: u64, subgroup: u64, objects: &[(u64, &[u8], Status)]) -> Bytes {
    let header = SubgroupHeader {
        alias: ALIAS,
        group,
        subgroup,
        priority: Some(9),
        properties: true,
        end_of_group: false,
        first_object: true,
    };
    let mut out = BytesMut::new();
    let mut encoder = SubgroupEncoder::new(draft, &header, &mut out).unwrap();
    for (object, payload, status) in objects {
        let properties = if *status == Status::Normal && object % 2 == 0 {
            convert_properties(COMMON, draft, &properties()).unwrap()
        } else {
            Bytes::new()
        };
        let payload_len = payload.len() as u64;
        let head = ObjectHeader { object: *object, properties, payload_len, status: *status };
        encoder.object(&head, &mut out).unwrap();
        out.extend_from_slice(payload);
    }
    out.freeze()
}

/// A publisher of one draft whose track a viewer of another watches.
fn watched(from: Draft, to: Draft) -> (World, usize, usize, RequestId) {
    let mut world = World::new();
    let publisher = publishing(&mut world, from);
    let viewer = world.viewer(to);
    let request = world.subscribe(viewer, "video");
    let [upstream] = asked_for(&mut world, publisher)[..] else { panic!("{from:?} {to:?}") };
    let moqt = &mut world.peer(publisher).moqt;
    moqt.accept_subscribe(upstream, ALIAS, Params::default(), &[]).unwrap();
    world.settle();
    (world, publisher, viewer, request)
}

fn send(world: &mut World, publisher: usize, data: Bytes) {
    let stream = world.new_uni(publisher);
    world.send_raw(publisher, stream, data, true);
}

#[test]
fn what_any_draft_publishes_any_draft_sees_unaltered() {
    let big: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let none: &[u8] = &[];
    let mut pairs = 0;
    for from in Draft::ALL {
        for to in Draft::ALL {
            pairs += 1;
            let (mut world, publisher, viewer, request) = watched(from, to);
            let normal = Status::Normal;
            // An empty object, a gap before object 4, an end of group; a second subgroup of its own.
            let first = [
                (0, &big[..], normal),
                (1, none, normal),
                (2, b"two", normal),
                (4, b"four", normal),
                (5, none, Status::EndOfGroup),
            ];
            let second = [(3, &b"three"[..], normal)];
            let last = [(0, &b"zero"[..], normal), (1, none, Status::EndOfTrack)];
            send(&mut world, publisher, stream(from, 70_000, 3, &second));
            send(&mut world, publisher, stream(from, 70_000, 0, &first));
            let mut out = BytesMut::new();
            let datagram = Datagram {
                alias: ALIAS,
                location: Location::new(70_001, 6),
                priority: Some(9),
                properties: convert_properties(COMMON, from, &properties()).unwrap(),
                end_of_group: true,
                status: normal,
                payload: Bytes::from_static(b"beat"),
            };
            datagram.encode(from, &mut out).unwrap();
            let id = world.peer(publisher).id;
            world.relay.handle_datagram(id, out.freeze(), world.now, world.wall);
            world.settle();
            send(&mut world, publisher, stream(from, 70_002, 0, &last));

            let head = |group, subgroup| Seen::Stream { group, subgroup, priority: Some(9) };
            let object = |object, properties, status| Seen::Object { object, properties, status };
            let plain = Bytes::new;
            let text = |text: &[u8]| Seen::Payload(text.to_vec());
            let expected = [
                head(70_000, 3),
                object(3, plain(), normal),
                text(b"three"),
                Seen::End,
                head(70_000, 0),
                object(0, properties(), normal),
                text(&big),
                object(1, plain(), normal),
                object(2, properties(), normal),
                text(b"two"),
                object(4, properties(), normal),
                text(b"four"),
                object(5, plain(), Status::EndOfGroup),
                Seen::End,
                head(70_002, 0),
                object(0, properties(), normal),
                text(b"zero"),
                Seen::End,
                Seen::Datagram {
                    at: Location::new(70_001, 6),
                    priority: Some(9),
                    properties: properties(),
                    end: true,
                    payload: Bytes::from_static(b"beat"),
                },
            ];
            let got = seen(&mut world, viewer, to, request);
            for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert_eq!(got, expected, "{at} from {from:?} to {to:?}");
            }
            assert_eq!(got.len(), expected.len(), "from {from:?} to {to:?}");
            // The end of the track travels as the end of the subscription.
            let ended = world.peer(viewer).heard.iter().any(|heard| {
                matches!(heard, Heard::PublishDone { request: of, code: DoneCode::TrackEnded, .. }
                    if *of == request)
            });
            assert!(ended, "from {from:?} to {to:?}");
            for peer in [publisher, viewer] {
                assert_eq!(world.peer(peer).failure, None, "from {from:?} to {to:?}");
                assert_eq!(world.peer(peer).close_reason(), "", "from {from:?} to {to:?}");
            }
        }
    }
    assert_eq!(pairs, Draft::ALL.len().pow(2));
}

/// What a publisher says at the end reaches a viewer of any draft with the same meaning.
#[test]
fn the_end_of_a_track_means_the_same_in_every_draft() {
    for from in Draft::ALL {
        for to in Draft::ALL {
            for code in [DoneCode::TrackEnded, DoneCode::TooFarBehind, DoneCode::Expired] {
                let (mut world, publisher, viewer, request) = watched(from, to);
                let [upstream] = asked_for(&mut world, publisher)[..] else { panic!() };
                world.peer(publisher).moqt.publish_done(upstream, code, Some(0), "").unwrap();
                world.settle();
                let done = world.peer(viewer).heard.iter().find_map(|heard| match heard {
                    Heard::PublishDone { request: of, code, .. } if *of == request => Some(*code),
                    _ => None,
                });
                let same = Some(code);
                assert!(done == same || code != DoneCode::TrackEnded, "{from:?} {to:?} {done:?}");
                assert!(done.is_some(), "{from:?} {to:?} {code:?}");
            }
        }
    }
}

/// Past 2^62-1 a group or object has no name in drafts 16 and 14: it ends the track, not a session.
#[test]
fn ids_older_drafts_cannot_write_are_refused_cleanly() {
    let huge = 1u64 << 62;
    for from in Draft::ALL.into_iter().filter(|draft| *draft > Draft::D16) {
        for to in [Draft::D16, Draft::D14] {
            for (group, object) in [(huge, 0), (5, huge)] {
                let (mut world, publisher, viewer, request) = watched(from, to);
                send(&mut world, publisher, stream(from, 4, 0, &[(0, b"ok", Status::Normal)]));
                let data = stream(from, group, 0, &[(object, b"no", Status::Normal)]);
                send(&mut world, publisher, data);
                let peer = world.peer(viewer);
                assert_eq!(peer.locations(request), [(4, 0)], "{from:?} {to:?}");
                let done = peer.heard.iter().any(|heard| {
                    matches!(heard, Heard::PublishDone { request: of, code, .. }
                        if *of == request && *code == DoneCode::MalformedTrack)
                });
                assert!(done, "{from:?} {to:?}");
                for peer in [publisher, viewer] {
                    assert_eq!(world.peer(peer).failure, None);
                    assert_eq!(world.peer(peer).close_reason(), "");
                }
                assert_eq!(world.relay.metrics().objects_malformed, 1);
            }
        }
    }
}

/// A range nobody holds is asked of the publisher in its words and served in the viewer's.
#[test]
fn a_fetch_of_the_past_crosses_every_pair() {
    for from in Draft::ALL {
        for to in Draft::ALL {
            let (mut world, publisher, viewer, _) = watched(from, to);
            for group in 5..8 {
                let data = stream(from, group, 0, &[(0, b"live", Status::Normal)]);
                send(&mut world, publisher, data);
            }
            let target = FetchTarget::Standalone {
                track: track("video"),
                start: Location::new(6, 0),
                end: Location::whole_group(6),
            };
            let fetch = world.peer(viewer).moqt.fetch(&target, Params::default()).unwrap();
            world.settle();
            answer_fetches(&mut world, publisher, from);
            let common = |block: &Bytes| convert_properties(to, COMMON, block).unwrap();
            let peer = world.peer(viewer);
            let object = peer.heard.iter().find_map(|heard| match heard {
                Heard::FetchObjectStarted { object, .. } => Some(object.clone()),
                _ => None,
            });
            let object = object.unwrap_or_else(|| panic!("{from:?} {to:?} {:?}", peer.heard));
            assert_eq!(object.location, Location::new(6, 0));
            assert_eq!((object.priority, common(&object.properties)), (9, properties()));
            let payload = peer.got.iter().find(|got| got.request == fetch).unwrap();
            assert_eq!(payload.payload, b"live", "from {from:?} to {to:?}");
            assert_eq!(peer.failure, None);
        }
    }
}

/// Serves what the relay fetches of groups it did not see whole: one object each.
fn answer_fetches(world: &mut World, publisher: usize, draft: Draft) {
    let asked: Vec<(RequestId, FetchTarget)> = world
        .peer(publisher)
        .heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Fetch { request, target, .. } => Some((*request, target.clone())),
            _ => None,
        })
        .collect();
    for (request, target) in asked {
        let FetchTarget::Standalone { start, end, .. } = target else { panic!("{target:?}") };
        let (params, at) = (Params::default(), Location::new(end.group, 0));
        world.peer(publisher).moqt.accept_fetch(request, false, at, params, &[]).unwrap();
        let mut out = BytesMut::new();
        let (header, order) = (FetchHeader { request }, GroupOrder::Ascending);
        let mut encoder = FetchEncoder::new(draft, &header, order, &mut out).unwrap();
        for group in start.group..=end.group {
            let object = FetchObject {
                location: Location::new(group, 0),
                subgroup: Some(0),
                priority: 9,
                properties: convert_properties(COMMON, draft, &properties()).unwrap(),
                payload_len: 4,
            };
            encoder.object(&object, &mut out).unwrap();
            out.extend_from_slice(b"live");
        }
        send(world, publisher, out.freeze());
    }
}

/// A subscriber pauses, goes on and leaves in its own words; the publisher hears it in its own.
#[test]
fn updates_cross_every_pair() {
    for from in Draft::ALL {
        for to in Draft::ALL {
            let mut world = World::new();
            let publisher = publishing(&mut world, from);
            let viewer = world.viewer(to);
            let filter = Some(Filter::AbsoluteStart(Location::new(1, 0)));
            let params = Params { filter, ..Params::default() };
            let request = world.subscribe_with(viewer, "video", params);
            let [upstream] = asked_for(&mut world, publisher)[..] else { panic!() };
            let moqt = &mut world.peer(publisher).moqt;
            moqt.accept_subscribe(upstream, ALIAS, Params::default(), &[]).unwrap();
            world.settle();
            for forward in [false, true] {
                let change = Params { forward: Some(forward), ..Params::default() };
                let update = world.peer(viewer).moqt.update(request, change).unwrap();
                world.settle();
                assert!(world.peer(viewer).was_accepted(update), "{from:?} {to:?} {forward}");
                let group = 5 + u64::from(forward);
                let data = stream(from, group, 0, &[(0, b"live", Status::Normal)]);
                send(&mut world, publisher, data);
                let seen = world.peer(viewer).locations(request).contains(&(group, 0));
                assert_eq!(seen, forward, "{from:?} {to:?}");
            }
            world.peer(viewer).moqt.cancel(request);
            world.settle();
            let gone = world.peer(publisher).heard.iter().any(
                |heard| matches!(heard, Heard::Unsubscribed { request } if *request == upstream),
            );
            assert!(gone, "{from:?} {to:?}");
            for peer in [publisher, viewer] {
                assert_eq!(world.peer(peer).failure, None, "{from:?} {to:?}");
                assert_eq!(world.peer(peer).close_reason(), "", "{from:?} {to:?}");
            }
        }
    }
}
