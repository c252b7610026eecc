//! Requests to the letter: ranges that end inside a group, a second subscription to one track, updates of those who wait,
//! the end of a prefix, and answers for which a draft has no words.

use std::time::Duration;

use weir_moqt::data::Gap;
use weir_moqt::{
    Event as Heard, Feature, FetchTarget, Filter, GroupOrder, Location, Params, RequestId,
};
use weir_relay::{DoneCode, Draft, Forwarding, FullTrackName, Limits, ObjectIn, TrackId};

use crate::holes::fetched;
use crate::publishers::{asked_for, publishing};
use crate::world::{World, broadcast, ns, token, track};

/// Drafts that can say something.
fn speaking(feature: Feature) -> Vec<Draft> {
    let mut world = World::new();
    let drafts = Draft::ALL.into_iter().filter(|draft| {
        let viewer = world.viewer(*draft);
        world.peer(viewer).moqt.supports(feature)
    });
    drafts.collect()
}

fn done(world: &mut World, at: usize, request: RequestId) -> Option<DoneCode> {
    world.peer(at).heard.iter().find_map(|heard| match heard {
        Heard::PublishDone { request: ended, code, .. } if *ended == request => Some(*code),
        _ => None,
    })
}

fn datagram(world: &mut World, id: TrackId, group: u64, object: u64) {
    let object = ObjectIn { forwarding: Forwarding::Datagram, ..world.object(group, object) };
    world.relay.write_object(id, object).unwrap();
    world.settle();
}

#[test]
fn a_subscription_ends_with_the_very_object_its_range_names() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        world.write(video, 2, 0);
        let viewer = world.viewer(draft);
        let filter = Filter::Range { start: Location::new(3, 1), end: Location::new(4, 1) };
        let params = Params { filter: Some(filter), ..Params::default() };
        let request = world.subscribe_with(viewer, "video", params);
        for group in 3..6 {
            (0..3).for_each(|object| world.write(video, group, object));
        }
        let got = world.peer(viewer).locations(request);
        // Before draft 20 a range ends with a whole group, and so it is asked for.
        let whole = !world.peer(viewer).moqt.supports(Feature::Fill);
        let expected: &[_] = if whole {
            &[(3, 1), (3, 2), (4, 0), (4, 1), (4, 2)]
        } else {
            &[(3, 1), (3, 2), (4, 0), (4, 1)]
        };
        assert_eq!(got, expected, "{draft:?}");
        // Drafts from 20 on have no code for it.
        let expected = if whole { DoneCode::SubscriptionEnded } else { DoneCode::Internal };
        assert_eq!(done(&mut world, viewer, request), Some(expected), "{draft:?}");
        // A stream that ends before its group does makes no claim to have brought the group's end.
        let claims: Vec<(u64, bool)> = world.peers[viewer]
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::SubgroupOpened { header, .. } => Some((header.group, header.end_of_group)),
                _ => None,
            })
            .collect();
        assert_eq!(claims, [(3, true), (4, whole)], "{draft:?}");
        world.peer(viewer).assert_unaltered();
    }
}

#[test]
fn an_update_brings_the_end_nearer_to_an_object_and_datagrams_obey_it() {
    for draft in speaking(Feature::Fill) {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let request = world.subscribe(viewer, "video");
        let filter = Filter::Range { start: Location::new(0, 0), end: Location::new(1, 0) };
        let nearer = Params { filter: Some(filter), ..Params::default() };
        world.peer(viewer).moqt.update(request, nearer).unwrap();
        world.settle();
        datagram(&mut world, video, 1, 0);
        datagram(&mut world, video, 1, 1);
        let datagrams: Vec<Location> = world.peers[viewer]
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::Datagram { datagram, .. } => Some(datagram.location),
                _ => None,
            })
            .collect();
        assert_eq!(datagrams, [Location::new(1, 0)], "{draft:?}");
    }
}

#[test]
fn from_draft_19_on_a_session_may_subscribe_to_a_track_twice() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let first = world.subscribe(viewer, "video");
        let second = world.subscribe(viewer, "video");
        if !world.peer(viewer).moqt.supports(Feature::ManySubscriptions) {
            let refused = world.peer(viewer).was_refused(second).unwrap();
            assert!(refused.ends_with("subscribed already"), "{draft:?} {refused}");
            continue;
        }
        let other = world.viewer(draft);
        let third = world.subscribe(other, "video");
        world.write(video, 0, 0);
        world.write(video, 0, 1);
        datagram(&mut world, video, 0, 2);
        for (viewer, request) in [(viewer, first), (viewer, second), (other, third)] {
            assert_eq!(world.peer(viewer).locations(request), [(0, 0), (0, 1)], "{draft:?}");
        }
        let datagrams: Vec<RequestId> = world.peers[viewer]
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::Datagram { request, .. } => Some(*request),
                _ => None,
            })
            .collect();
        assert_eq!(datagrams, [first, second], "{draft:?}: each has its own");
        // The first goes, the second stays; a third one comes.
        world.peer(viewer).moqt.cancel(first);
        world.settle();
        let again = world.subscribe(viewer, "video");
        world.write(video, 1, 0);
        for request in [second, again] {
            assert_eq!(world.peer(viewer).locations(request).last(), Some(&(1, 0)), "{draft:?}");
        }
        assert_eq!(world.peer(viewer).locations(first), [(0, 0), (0, 1)]);
        assert_eq!(world.peer(other).locations(third).last(), Some(&(1, 0)), "{draft:?}");
        world.peer(viewer).assert_unaltered();
        assert_eq!(world.relay.metrics().subscriptions, 3);
        world.relay.end_track(video, DoneCode::TrackEnded, world.now);
        world.settle();
        for request in [second, again] {
            assert_eq!(done(&mut world, viewer, request), Some(DoneCode::TrackEnded), "{draft:?}");
        }
        assert_eq!(world.relay.metrics().subscriptions, 0);
    }
}

fn early(world: &mut World, viewer: usize) -> RequestId {
    let params = Params {
        rendezvous_timeout_ms: Some(20_000),
        filter: Some(Filter::NextGroupStart),
        ..Params::default()
    };
    world.subscribe_with(viewer, "video", params)
}

#[test]
fn one_who_waits_for_a_track_may_change_its_mind_meanwhile() {
    for draft in speaking(Feature::Rendezvous) {
        let mut world = World::new();
        let viewer = world.viewer(draft);
        let request = early(&mut world, viewer);
        let asleep = Params { forward: Some(false), priority: Some(3), ..Params::default() };
        let update = world.peer(viewer).moqt.update(request, asleep).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).failure, None);
        world.relay.publish(&broadcast());
        let video = world.open("video");
        world.settle();
        world.write(video, 0, 0);
        // On the stream of the request the answers come in the order of the questions.
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        assert!(world.peer(viewer).was_accepted(update), "{draft:?}");
        assert!(world.peer(viewer).got.is_empty(), "{draft:?}: it does not forward");
    }
}

#[test]
fn one_who_waits_for_a_track_waits_by_its_grant_and_is_refused_with_it() {
    for draft in speaking(Feature::Rendezvous) {
        let mut world = World::new();
        let viewer = world.dial(draft, &format!("/playback/lv_1?tok={}", token("lv_1", 4)));
        let request = early(&mut world, viewer);
        // Another grant keeps the session.
        let more = World::with_token(&token("lv_2", 600));
        let other = ns(&["stream", "org_a", "lv_2"]);
        world.peer(viewer).moqt.subscribe_namespace(&other, more).unwrap();
        world.settle();
        world.advance(Duration::from_secs(10));
        let refused = world.peer(viewer).was_refused(request).unwrap();
        assert!(refused.starts_with("ExpiredToken"), "{draft:?} {refused}");
        world.relay.publish(&broadcast());
        world.open("video");
        world.settle();
        assert!(!world.peer(viewer).was_accepted(request), "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "");
    }
}

#[test]
fn a_prefix_that_ends_takes_the_tracks_with_it_that_were_served_below_it() {
    for draft in Draft::ALL {
        let mut world = World::new();
        world.relay.open_namespaces(vec![ns(&["open"])], ns(&["stream"]));
        let publisher = world.dial(draft, "/");
        let announce = |world: &mut World, fields: &[&str]| {
            let moqt = &mut world.peer(publisher).moqt;
            let request = moqt.publish_namespace(&ns(fields), Params::default()).unwrap();
            world.settle();
            request
        };
        let whole = announce(&mut world, &["open", "a"]);
        announce(&mut world, &["open", "a", "kept"]);
        let viewer = world.dial(Draft::D18, "/");
        let mut watched = Vec::new();
        for (at, room) in ["lost", "kept"].into_iter().enumerate() {
            let name = FullTrackName::new(ns(&["open", "a", room]), "video").unwrap();
            watched.push(world.peer(viewer).moqt.subscribe(&name, Params::default()).unwrap());
            world.settle();
            let upstream = asked_for(&mut world, publisher)[at];
            let moqt = &mut world.peer(publisher).moqt;
            moqt.accept_subscribe(upstream, 1 + at as u64, Params::default(), &[]).unwrap();
            world.settle();
        }
        world.peer(publisher).moqt.cancel(whole);
        world.settle();
        assert_eq!(done(&mut world, viewer, watched[0]), Some(DoneCode::TrackEnded), "{draft:?}");
        assert_eq!(done(&mut world, viewer, watched[1]), None, "{draft:?}: held by itself");
    }
}

/// A broadcast that this relay saw from group 1 on.
fn with_a_hole() -> World {
    let (mut world, video) = World::broadcasting();
    for (group, object) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        world.write(video, group, object);
    }
    world
}

fn fetch(world: &mut World, viewer: usize, from: u64, to: u64, order: GroupOrder) -> RequestId {
    let target = FetchTarget::Standalone {
        track: track("video"),
        start: Location::new(from, 0),
        end: Location::whole_group(to),
    };
    let params = Params { group_order: Some(order), ..Params::default() };
    let request = world.peer(viewer).moqt.fetch(&target, params).unwrap();
    world.settle();
    request
}

#[test]
fn newest_first_brings_what_is_known_and_ends_where_it_is_not() {
    for draft in Draft::ALL {
        let mut world = with_a_hole();
        let viewer = world.viewer(draft);
        // Group 0 was never seen here.
        let request = fetch(&mut world, viewer, 0, 2, GroupOrder::Descending);
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        let got = world.peer(viewer).locations(request);
        assert_eq!(got, [(2, 0), (2, 1), (1, 0), (1, 1)], "{draft:?}");
        let expected = draft.reset_code(weir_moqt::ResetCode::UnknownObjectStatus);
        let [(_, code)] = world.peer(viewer).wire.resets[..] else { panic!("{draft:?}") };
        assert_eq!(code, expected, "{draft:?}");
        let whole = fetch(&mut world, viewer, 1, 2, GroupOrder::Descending);
        let got = world.peer(viewer).locations(whole);
        assert_eq!(got, [(2, 0), (2, 1), (1, 0), (1, 1)], "{draft:?}");
    }
}

#[test]
fn draft_14_has_no_word_for_unknown_on_a_stream_and_uses_the_one_it_has_for_a_refusal() {
    let mut world = with_a_hole();
    let viewer = world.viewer(Draft::D14);
    let request = fetch(&mut world, viewer, 0, 2, GroupOrder::Ascending);
    let refused = world.peer(viewer).was_refused(request).unwrap();
    assert!(refused.starts_with("UnknownStatus"), "{refused}");
    assert_eq!(world.peer(viewer).wire.resets, []);
    let known = fetch(&mut world, viewer, 1, 2, GroupOrder::Ascending);
    let got = world.peer(viewer).locations(known);
    assert_eq!(got, [(1, 0), (1, 1), (2, 0), (2, 1)]);
}

#[test]
fn a_fetch_waits_for_its_publisher_no_longer_than_its_subscriber_would() {
    for draft in speaking(Feature::Rendezvous) {
        let mut world = World::with(Limits::default(), 0);
        let publisher = publishing(&mut world, Draft::D18);
        let viewer = world.viewer(draft);
        world.subscribe(viewer, "video");
        let upstream = asked_for(&mut world, publisher)[0];
        let largest = Params { largest: Some(Location::new(49, 2)), ..Params::default() };
        world.peer(publisher).moqt.accept_subscribe(upstream, 1, largest, &[]).unwrap();
        world.settle();
        let past = |world: &mut World, fill_timeout_ms| {
            let target = FetchTarget::Standalone {
                track: track("video"),
                start: Location::new(40, 0),
                end: Location::whole_group(41),
            };
            let params = Params { fill_timeout_ms, ..Params::default() };
            let request = world.peer(viewer).moqt.fetch(&target, params).unwrap();
            world.settle();
            request
        };
        let patient = past(&mut world, None);
        let hurried = past(&mut world, Some(300));
        let at_once = past(&mut world, Some(0));
        assert!(world.peer(viewer).was_accepted(at_once), "{draft:?}");
        assert_eq!(fetched(&mut world, publisher).len(), 1, "{draft:?}: asked once for both");
        assert!(!world.peer(viewer).was_accepted(hurried), "{draft:?}");
        world.advance(Duration::from_millis(300));
        assert!(world.peer(viewer).was_accepted(hurried), "{draft:?}");
        assert!(!world.peer(viewer).was_accepted(patient), "{draft:?}");
        assert_eq!(world.relay.metrics().upstream_fetches_late, 0);
        world.advance(Duration::from_secs(2));
        assert!(world.peer(viewer).was_accepted(patient), "{draft:?}");
        let gaps: Vec<_> = world.peers[viewer]
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::FetchGap { gap, .. } => Some(*gap),
                _ => None,
            })
            .collect();
        let timed_out = if world.peer(viewer).moqt.supports(Feature::Fill) {
            Gap::TimedOut
        } else {
            Gap::Unknown
        };
        assert_eq!(gaps, [Gap::Unknown, timed_out, Gap::Unknown], "{draft:?}");
    }
}
