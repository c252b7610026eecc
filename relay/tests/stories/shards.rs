//! Two shards of one node: a viewer on one, the broadcast on the other. The engine's part is played
//! by hand.

use weir_moqt::{Event as Heard, Property, PropertyValue};
use weir_relay::{
    DoneCode, Draft, Event, Found, Limits, ObjectIn, RequestCode, TrackId, TrackOptions,
};

use crate::objects::{Feed, publishing_with};
use crate::world::{World, broadcast, track};

fn replica() -> TrackOptions {
    let mut options = TrackOptions::default();
    options.replica = true;
    options
}

/// What the engine carries from the owner's shard to the viewer's.
fn exported(owner: &mut World) -> Vec<ObjectIn> {
    owner.settle();
    let events = std::mem::take(&mut owner.events);
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Exported { object, .. } => Some(object),
            _ => None,
        })
        .collect()
}

fn wanted(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::TrackWanted { shard: 0, .. })).count()
}

/// Owner on shard 0, edge on shard 1, and two objects that were there before anybody looked.
fn two_shards() -> (World, TrackId, World) {
    let (mut owner, video) = World::broadcasting();
    owner.write(video, 0, 0);
    owner.write(video, 1, 0);
    let mut edge = World::with(Limits::default(), 1);
    edge.relay.publish_remote(&broadcast(), 0);
    (owner, video, edge)
}

#[test]
fn a_viewer_on_another_shard_gets_the_newest_group_and_all_that_follows() {
    let (mut owner, video, mut edge) = two_shards();
    let viewer = edge.viewer(Draft::D18);
    let (subscription, fetch) = edge.join(viewer, "video");
    let second = edge.viewer(Draft::D16);
    let other = edge.subscribe(second, "video");
    assert_eq!(wanted(&edge), 1, "one interest per shard");
    assert_eq!(owner.relay.find_track(&track("video"), owner.now), Found::Open(video));
    owner.relay.set_export(video, true, owner.now);
    let replay: Vec<_> = owner.relay.cached(video).collect();
    owner.write(video, 1, 1);
    let live = exported(&mut owner);
    let copy = edge.relay.open_track(track("video"), replica(), edge.now).unwrap();
    // The live object overtakes the replay, and comes a second time with it.
    for object in live.iter().chain(&replay).chain(&live) {
        edge.relay.write_object(copy, object.clone()).unwrap();
    }
    assert!(!edge.peer(viewer).was_accepted(subscription));
    edge.relay.track_ready(copy, edge.now);
    edge.settle();
    owner.write(video, 1, 2);
    owner.write(video, 2, 0);
    for object in exported(&mut owner) {
        edge.relay.write_object(copy, object).unwrap();
    }
    edge.settle();
    let peer = edge.peer(viewer);
    assert_eq!(peer.locations(fetch), [(1, 0), (1, 1)]);
    // Written in one turn, the older group goes first.
    assert_eq!(peer.locations(subscription), [(1, 2), (2, 0)]);
    peer.assert_unaltered();
    assert_eq!(edge.peer(second).locations(other), [(1, 2), (2, 0)]);
    assert_eq!(edge.relay.metrics().objects_duplicate, 1);
}

#[test]
fn a_replay_whose_end_nobody_announces_is_served_when_its_newest_group_is_whole() {
    let (mut owner, video, mut edge) = two_shards();
    let viewer = edge.viewer(Draft::D18);
    let (subscription, fetch) = edge.join(viewer, "video");
    let copy = edge.relay.open_track(track("video"), replica(), edge.now).unwrap();
    owner.write(video, 1, 1);
    let replay: Vec<_> = owner.relay.cached(video).collect();
    let (head, tail) = replay.split_at(2);
    edge.relay.write_object(copy, tail[0].clone()).unwrap();
    edge.settle();
    assert!(
        !edge.peer(viewer).was_accepted(subscription),
        "a group without its head does not serve"
    );
    for object in head {
        edge.relay.write_object(copy, object.clone()).unwrap();
    }
    edge.settle();
    assert_eq!(edge.peer(viewer).locations(fetch), [(1, 0), (1, 1)]);
    edge.peer(viewer).assert_unaltered();
}

#[test]
fn a_replica_of_a_track_without_objects_is_served_in_time() {
    let (_owner, _video, mut edge) = two_shards();
    let viewer = edge.viewer(Draft::D16);
    let request = edge.subscribe(viewer, "video");
    let copy = edge.relay.open_track(track("video"), replica(), edge.now).unwrap();
    edge.settle();
    assert!(!edge.peer(viewer).was_accepted(request));
    edge.advance(std::time::Duration::from_millis(100));
    assert!(edge.peer(viewer).was_accepted(request));
    let first = edge.object(0, 0);
    edge.relay.write_object(copy, first).unwrap();
    edge.settle();
    assert_eq!(edge.peer(viewer).locations(request), [(0, 0)]);
}

#[test]
fn the_last_viewer_of_a_shard_takes_the_interest_along() {
    let (_owner, _video, mut edge) = two_shards();
    let viewer = edge.viewer(Draft::D18);
    let request = edge.subscribe(viewer, "video");
    edge.peer(viewer).moqt.cancel(request);
    edge.settle();
    let unwanted = edge.events.iter().filter(|e| matches!(e, Event::TrackUnwanted { .. })).count();
    assert_eq!(unwanted, 1);
    assert_eq!(edge.relay.open_track(track("video"), replica(), edge.now), None);
    assert_eq!(edge.relay.metrics().tracks, 0);
    edge.subscribe(viewer, "video");
    assert_eq!(wanted(&edge), 2, "and the next one asks again");
}

#[test]
fn a_track_the_owner_does_not_have_is_refused_and_its_end_is_passed_on() {
    let (mut owner, video, mut edge) = two_shards();
    assert_eq!(owner.relay.find_track(&track("nope"), owner.now), Found::Missing);
    let viewer = edge.viewer(Draft::D18);
    let request = edge.subscribe(viewer, "nope");
    edge.relay.refuse_track(&track("nope"), RequestCode::DoesNotExist, edge.now);
    edge.settle();
    assert!(edge.peer(viewer).was_refused(request).unwrap().starts_with("DoesNotExist"));

    edge.subscribe(viewer, "video");
    owner.relay.set_export(video, true, owner.now);
    let copy = edge.relay.open_track(track("video"), replica(), edge.now).unwrap();
    edge.relay.track_ready(copy, edge.now);
    owner.relay.unpublish(&broadcast(), owner.now);
    owner.settle();
    let ended = owner.events.iter().any(|event| matches!(event, Event::ExportEnded { .. }));
    assert!(ended);
    edge.relay.end_track(copy, DoneCode::TrackEnded, edge.now);
    edge.settle();
    let done = edge.peer(viewer).heard.iter().any(|h| matches!(h, Heard::PublishDone { .. }));
    assert!(done);
}

#[test]
fn a_replica_is_never_exported_again() {
    let (_owner, _video, mut edge) = two_shards();
    let viewer = edge.viewer(Draft::D18);
    edge.subscribe(viewer, "video");
    assert_eq!(edge.relay.find_track(&track("video"), edge.now), Found::Missing);
}

#[test]
fn exports_nobody_collects_are_dropped_and_counted() {
    let mut limits = Limits::default();
    limits.events_max = 3;
    let mut world = World::with(limits, 0);
    world.relay.publish(&broadcast());
    let video = world.open("video");
    world.settle();
    world.relay.set_export(video, true, world.now);
    for object in 0..5 {
        world.relay.write_object(video, world.object(0, object)).unwrap();
    }
    assert_eq!(world.relay.metrics().limit_events, 2);
}

#[test]
fn subgroups_ends_and_datagrams_reach_a_viewer_on_another_shard() {
    let property = Property { kind: 0x3800, value: PropertyValue::Int(7) };
    let (mut owner, publisher) = publishing_with(
        Draft::D18,
        Limits::default(),
        std::slice::from_ref(&property),
        weir_moqt::Params::default(),
    );
    let Found::Open(video) = owner.relay.find_track(&track("video"), owner.now) else {
        panic!("the track is open")
    };
    let mut base = Feed::open(&mut owner, &publisher, 0, 0);
    let mut top = Feed::with(&mut owner, &publisher, 0, 1, false);
    base.object(0, b"b0");
    base.send(&mut owner, &publisher, b"", false);
    top.object(1, b"t1");
    top.send(&mut owner, &publisher, b"", true);
    owner.relay.set_export(video, true, owner.now);
    let mut edge = World::with(Limits::default(), 1);
    edge.relay.publish_remote(&broadcast(), 0);
    let viewer = edge.viewer(Draft::D16);
    let (subscription, fetch) = edge.join(viewer, "video");
    let copy = edge.relay.open_track(track("video"), replica(), edge.now).unwrap();
    edge.relay.set_facts(copy, owner.relay.facts(video));
    for object in owner.relay.cached(video).collect::<Vec<_>>() {
        edge.relay.write_object(copy, object).unwrap();
    }
    for end in owner.relay.cached_ends(video).collect::<Vec<_>>() {
        edge.relay.end_subgroup(copy, end, edge.now);
    }
    edge.relay.track_ready(copy, edge.now);
    edge.settle();
    assert_eq!(edge.peer(viewer).locations(fetch), [(0, 0), (0, 1)]);
    let told = edge.peer(viewer).heard.iter().any(|heard| {
        matches!(heard, Heard::SubscribeOk { properties, .. } if *properties == [property.clone()])
    });
    assert!(told, "the publisher's track properties come over too");
    // Live: an object in two pieces goes over whole, then the end of its stream, then a datagram.
    base.head(2, 3_000);
    base.send(&mut owner, &publisher, &[2; 2_000], false);
    owner.settle();
    assert!(exported(&mut owner).is_empty(), "half an object stays on its shard");
    base.send(&mut owner, &publisher, &[2; 1_000], true);
    let mut bytes = bytes::BytesMut::new();
    let datagram = weir_moqt::data::Datagram {
        alias: publisher.alias,
        location: weir_moqt::Location::new(1, 0),
        payload: bytes::Bytes::from_static(b"dg"),
        ..Default::default()
    };
    datagram.encode(publisher.draft, &mut bytes).unwrap();
    let id = owner.peer(publisher.at).id;
    owner.relay.handle_datagram(id, bytes.freeze(), owner.now, owner.wall);
    owner.settle();
    for event in std::mem::take(&mut owner.events) {
        match event {
            Event::Exported { object, .. } => edge.relay.write_object(copy, object).unwrap(),
            Event::ExportedEnd { end, .. } => edge.relay.end_subgroup(copy, end, edge.now),
            _ => {}
        }
    }
    edge.settle();
    let peer = edge.peer(viewer);
    assert_eq!(peer.locations(subscription), [(0, 2)]);
    assert_eq!(peer.ended, [0, 0], "fetch and stream are finished: the end came over");
    let datagrams = peer.heard.iter().filter(|heard| matches!(heard, Heard::Datagram { .. }));
    assert_eq!(datagrams.count(), 1);
    assert_eq!(peer.failure, None);
}
