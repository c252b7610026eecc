//! Subscribers who know a prefix and no track (`SUBSCRIBE_TRACKS`, or `SUBSCRIBE_NAMESPACE` where a draft has one request
//! for both): what is offered, to whom, on which terms, and when offers end.

use std::time::Duration;

use weir_moqt::{
    Event as Heard, Feature, Fill, Filter, GroupOrder, Params, RequestCode, RequestError, RequestId,
};
use weir_relay::{DoneCode, Draft, Event, FullTrackName, Limits, Namespace, TrackOptions};

use crate::offers::{admitted, offer};
use crate::publishers::Group;
use crate::world::{World, broadcast, ns, token, track};

/// The request of this draft that brings PUBLISH.
pub(crate) fn seek(world: &mut World, at: usize, prefix: &Namespace, params: Params) -> RequestId {
    let moqt = &mut world.peer(at).moqt;
    let request = if moqt.supports(Feature::SubscribeTracks) {
        moqt.subscribe_tracks(prefix, params)
    } else {
        // Draft 14 has one request for both.
        moqt.subscribe_namespace(prefix, params)
    };
    world.settle();
    request.unwrap()
}

/// Tracks offered so far, in order.
pub(crate) fn offered(world: &mut World, at: usize) -> Vec<(RequestId, FullTrackName)> {
    let heard = &world.peer(at).heard;
    let offers = heard.iter().filter_map(|heard| match heard {
        Heard::Publish { request, track, .. } => Some((*request, track.clone())),
        _ => None,
    });
    offers.collect()
}

fn take(world: &mut World, at: usize, offer: RequestId, answer: Params) {
    world.peer(at).moqt.accept(offer, answer, &[]).unwrap();
    world.settle();
}

fn done(world: &mut World, at: usize, request: RequestId) -> Option<DoneCode> {
    world.peer(at).heard.iter().find_map(|heard| match heard {
        Heard::PublishDone { request: ended, code, .. } if *ended == request => Some(*code),
        _ => None,
    })
}

fn withheld(world: &mut World, at: usize) -> Vec<bytes::Bytes> {
    let heard = &world.peer(at).heard;
    let told = heard.iter().filter_map(|heard| match heard {
        Heard::PublishBlocked { suffix, name, .. } => {
            assert!(suffix.is_empty());
            Some(name.clone())
        }
        _ => None,
    });
    told.collect()
}

/// What every draft can say in the answer to a PUBLISH.
fn plainly() -> Params {
    Params { forward: Some(true), filter: Some(Filter::LargestObject), ..Params::default() }
}

#[test]
fn a_subscriber_that_knows_a_prefix_is_offered_the_tracks_that_are_there_and_those_that_come() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        world.write(video, 4, 0);
        let viewer = world.viewer(draft);
        let request = seek(&mut world, viewer, &broadcast(), Params::default());
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        let [(first, name)] = &offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        assert_eq!(*name, track("video"));
        let first = *first;
        world.write(video, 4, 1);
        assert!(world.peer(viewer).got.is_empty(), "nothing is sent before it is taken");
        take(&mut world, viewer, first, plainly());
        world.write(video, 4, 2);
        // What came between offer and answer was published after the offer: it is not lost.
        assert_eq!(world.peer(viewer).locations(first), [(4, 1), (4, 2)], "{draft:?}");

        let audio = world.open("audio");
        world.settle();
        let (second, name) = offered(&mut world, viewer)[1].clone();
        assert_eq!(name, track("audio"));
        take(&mut world, viewer, second, plainly());
        world.write(audio, 0, 0);
        assert_eq!(world.peer(viewer).locations(second), [(0, 0)], "{draft:?}");

        world.relay.end_track(audio, DoneCode::TrackEnded, world.now);
        world.settle();
        assert_eq!(done(&mut world, viewer, second), Some(DoneCode::TrackEnded), "{draft:?}");
        world.write(video, 5, 0);
        assert_eq!(world.peer(viewer).locations(first).last(), Some(&(5, 0)), "{draft:?}");
        // It comes again: it is offered again.
        world.open("audio");
        world.settle();
        assert_eq!(offered(&mut world, viewer).len(), 3, "{draft:?}");
        world.peer(viewer).assert_unaltered();
        assert_eq!(world.relay.metrics().tracks_offered, 3);
        assert_eq!(world.relay.metrics().subscriptions, 2);
    }
}

#[test]
fn a_track_that_a_publisher_offers_is_offered_on_whatever_drafts_the_two_speak() {
    for from in Draft::ALL {
        for to in Draft::ALL {
            let mut world = World::new();
            let publisher = admitted(&mut world, from);
            let viewer = world.viewer(to);
            seek(&mut world, viewer, &broadcast(), Params::default());
            offer(&mut world, publisher, &track("video"), 5);
            let [(offered, _)] = offered(&mut world, viewer)[..] else { panic!("{from:?} {to:?}") };
            take(&mut world, viewer, offered, plainly());
            let mut group = Group::begin(&mut world, publisher, from, 5, 3);
            (0..3).for_each(|object| group.object(object));
            group.send(&mut world, publisher, true);
            let got = world.peer(viewer).locations(offered);
            assert_eq!(got, [(3, 0), (3, 1), (3, 2)], "{from:?} {to:?}");
            world.peer(viewer).assert_unaltered();
        }
    }
}

#[test]
fn without_a_filter_an_offer_taken_brings_the_newest_group_where_no_fill_can() {
    for draft in [Draft::D16, Draft::D18, Draft::D19] {
        let (mut world, video) = World::broadcasting();
        (0..3).for_each(|object| world.write(video, 4, object));
        let viewer = world.viewer(draft);
        seek(&mut world, viewer, &broadcast(), Params::default());
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        take(&mut world, viewer, offer, Params::default());
        assert_eq!(world.peer(viewer).locations(offer), [(4, 0), (4, 1), (4, 2)], "{draft:?}");
    }
}

#[test]
fn a_fill_asked_for_with_the_prefix_brings_the_past_of_each_track_taken() {
    for draft in [Draft::D20, Draft::D22] {
        let (mut world, video) = World::broadcasting();
        (0..3).for_each(|object| world.write(video, 4, object));
        let viewer = world.viewer(draft);
        let newest = Some(Filter::Relative { groups_back: 1 });
        let fill = Some(Box::new(Fill { filter: newest, ..Fill::default() }));
        let terms = Params { filter: Some(Filter::LargestObject), fill, ..Params::default() };
        seek(&mut world, viewer, &broadcast(), terms);
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        assert!(world.peer(viewer).got.is_empty());
        take(&mut world, viewer, offer, Params::default());
        world.write(video, 4, 3);
        let got = world.peer(viewer).locations(offer);
        assert_eq!(got, [(4, 0), (4, 1), (4, 2), (4, 3)], "{draft:?}");
        world.peer(viewer).assert_unaltered();
    }
}

#[test]
fn a_joining_fetch_may_join_a_track_that_was_taken() {
    for draft in [Draft::D14, Draft::D16, Draft::D18] {
        let (mut world, video) = World::broadcasting();
        (0..3).for_each(|object| world.write(video, 4, object));
        let viewer = world.viewer(draft);
        seek(&mut world, viewer, &broadcast(), Params::default());
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        take(&mut world, viewer, offer, plainly());
        let target =
            weir_moqt::FetchTarget::RelativeJoining { subscription: offer, groups_back: 0 };
        let fetch = world.peer(viewer).moqt.fetch(&target, Params::default()).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).locations(fetch), [(4, 0), (4, 1), (4, 2)], "{draft:?}");
    }
}

#[test]
fn an_offer_declined_or_dropped_costs_nothing_more_and_the_others_go_on() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let audio = world.open("audio");
        let viewer = world.viewer(draft);
        seek(&mut world, viewer, &broadcast(), Params::default());
        let offers = offered(&mut world, viewer);
        let of = |name: &str| offers.iter().find(|(_, offered)| *offered == track(name)).unwrap().0;
        let error = RequestError::new(RequestCode::Uninterested, "no thanks");
        world.peer(viewer).moqt.reject(of("audio"), &error).unwrap();
        world.settle();
        take(&mut world, viewer, of("video"), plainly());
        world.write(audio, 0, 0);
        world.write(video, 0, 0);
        assert_eq!(world.peer(viewer).locations(of("audio")), [], "{draft:?}");
        assert_eq!(world.peer(viewer).locations(of("video")), [(0, 0)], "{draft:?}");
        assert_eq!(world.relay.metrics().subscriptions, 1, "{draft:?}");
        world.peer(viewer).moqt.cancel(of("video"));
        world.settle();
        world.write(video, 1, 0);
        assert_eq!(world.peer(viewer).locations(of("video")), [(0, 0)], "{draft:?}");
        assert_eq!(world.relay.metrics().subscriptions, 0, "{draft:?}");
        assert_eq!(world.peer(viewer).failure, None);
    }
}

#[test]
fn a_prefix_given_back_brings_no_more_offers_and_what_was_taken_goes_on() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let request = seek(&mut world, viewer, &broadcast(), Params::default());
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        take(&mut world, viewer, offer, plainly());
        world.peer(viewer).moqt.cancel(request);
        world.settle();
        world.open("audio");
        world.settle();
        assert_eq!(offered(&mut world, viewer).len(), 1, "{draft:?}");
        world.write(video, 0, 0);
        assert_eq!(world.peer(viewer).locations(offer), [(0, 0)], "{draft:?}");
        // It may ask again, and is offered what it does not have.
        seek(&mut world, viewer, &broadcast(), Params::default());
        let again = offered(&mut world, viewer);
        assert_eq!(again.len(), 2, "{draft:?}");
        assert_eq!(again[1].1, track("audio"), "{draft:?}");
    }
}

#[test]
fn offers_that_do_not_forward_wait_until_they_are_told_to() {
    for draft in [Draft::D16, Draft::D18, Draft::D22] {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let terms = Params { forward: Some(false), ..Params::default() };
        let request = seek(&mut world, viewer, &broadcast(), terms);
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        let said = world.peer(viewer).heard.iter().find_map(|heard| match heard {
            Heard::Publish { params, .. } => Some(params.forwards()),
            _ => None,
        });
        assert_eq!(said, Some(false), "{draft:?}: the offer says so");
        take(&mut world, viewer, offer, Params::default());
        world.write(video, 0, 0);
        assert!(world.peer(viewer).got.is_empty(), "{draft:?}");
        let go = Params { forward: Some(true), ..Params::default() };
        world.peer(viewer).moqt.update(offer, go.clone()).unwrap();
        world.settle();
        world.write(video, 1, 0);
        assert_eq!(world.peer(viewer).locations(offer), [(1, 0)], "{draft:?}");
        if draft == Draft::D16 {
            continue;
        }
        // The terms of what will be offered change; what is there stays.
        world.peer(viewer).moqt.update(request, go).unwrap();
        world.settle();
        let audio = world.open("audio");
        world.settle();
        let (second, _) = offered(&mut world, viewer)[1];
        take(&mut world, viewer, second, Params::default());
        world.write(audio, 0, 0);
        assert_eq!(world.peer(viewer).locations(second), [(0, 0)], "{draft:?}");
    }
}

#[test]
fn the_answer_to_an_offer_says_order_priority_and_range() {
    for draft in [Draft::D14, Draft::D16, Draft::D18] {
        let (mut world, video) = World::broadcasting();
        world.write(video, 2, 0);
        let viewer = world.viewer(draft);
        seek(&mut world, viewer, &broadcast(), Params::default());
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        let start = weir_moqt::Location::new(3, 0);
        let answer = Params {
            forward: Some(true),
            filter: Some(Filter::AbsoluteRange { start, end_group: 3 }),
            priority: Some(9),
            group_order: Some(GroupOrder::Descending),
            ..Params::default()
        };
        take(&mut world, viewer, offer, answer);
        for group in 2..5 {
            world.write(video, group, 1);
        }
        assert_eq!(world.peer(viewer).locations(offer), [(3, 1)], "{draft:?}");
        assert_eq!(done(&mut world, viewer, offer), Some(DoneCode::SubscriptionEnded), "{draft:?}");
    }
}

#[test]
fn tracks_beyond_what_a_session_may_hold_are_withheld_and_it_is_told_so_within_a_limit() {
    for draft in Draft::ALL {
        let mut limits = Limits::default();
        limits.subscriptions_per_session_max = 1;
        limits.withheld_per_prefix_max = 2;
        let mut world = World::with(limits, 0);
        world.relay.publish(&broadcast());
        for name in ["a", "b", "c", "d"] {
            world.open(name);
        }
        let viewer = world.viewer(draft);
        seek(&mut world, viewer, &broadcast(), Params::default());
        assert_eq!(offered(&mut world, viewer).len(), 1, "{draft:?}");
        let told = withheld(&mut world, viewer);
        if world.peer(viewer).moqt.supports(Feature::PublishBlocked) {
            assert_eq!(told, ["b", "c"], "{draft:?}");
        } else {
            assert_eq!(told.len(), 0, "{draft:?}");
        }
        let metrics = world.relay.metrics();
        assert_eq!((metrics.tracks_withheld, metrics.limit_withheld), (3, 1), "{draft:?}");
        assert_eq!(metrics.limit_subscriptions, 3, "{draft:?}");
    }
}

#[test]
fn tracks_are_offered_only_to_those_who_may_watch_them_and_for_as_long() {
    for draft in [Draft::D14, Draft::D16, Draft::D18, Draft::D22] {
        let (mut world, video) = World::broadcasting();
        let stranger = world.dial(draft, "/playback/lv_1");
        let refused = seek(&mut world, stranger, &broadcast(), Params::default());
        let why = world.peer(stranger).was_refused(refused).unwrap();
        assert!(why.starts_with("Unauthorized: auth_failed"), "{draft:?} {why}");
        let other = world.dial(draft, &format!("/playback/lv_2?tok={}", token("lv_2", 600)));
        let refused = seek(&mut world, other, &broadcast(), Params::default());
        assert!(world.peer(other).was_refused(refused).is_some());
        // The prefix of all broadcasts is nobody's.
        let refused = seek(&mut world, other, &ns(&["stream"]), Params::default());
        assert!(world.peer(other).was_refused(refused).is_some());
        assert_eq!(offered(&mut world, stranger).len() + offered(&mut world, other).len(), 0);

        // One grant ends, the other goes on: so do session and the rest of it.
        let viewer = world.dial(draft, &format!("/playback/lv_1?tok={}", token("lv_1", 60)));
        seek(&mut world, viewer, &broadcast(), Params::default());
        let [(offer, _)] = offered(&mut world, viewer)[..] else { panic!("{draft:?}") };
        take(&mut world, viewer, offer, plainly());
        let more = World::with_token(&token("lv_2", 600));
        world
            .peer(viewer)
            .moqt
            .subscribe_namespace(&ns(&["stream", "org_a", "lv_2"]), more)
            .unwrap();
        world.settle();
        world.advance(Duration::from_secs(66));
        assert_eq!(done(&mut world, viewer, offer), Some(DoneCode::Expired), "{draft:?}");
        world.open("audio");
        world.write(video, 0, 0);
        assert_eq!(offered(&mut world, viewer).len(), 1, "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "", "{draft:?}");
    }
}

#[test]
fn in_an_open_tree_anybody_is_offered_what_others_publish_and_not_what_it_published_itself() {
    for draft in Draft::ALL {
        let mut world = World::new();
        world.relay.open_namespaces(vec![ns(&["meet"])], ns(&["stream"]));
        let room = ns(&["meet", "room-1"]);
        let guests = [world.dial(draft, "/"), world.dial(Draft::D18, "/")];
        for (at, guest) in guests.into_iter().enumerate() {
            seek(&mut world, guest, &room, Params::default());
            let own = room.join(&ns(&[["ann", "bob"][at]])).unwrap();
            let name = FullTrackName::new(own, "voice").unwrap();
            offer(&mut world, guest, &name, 7);
        }
        for (guest, expected) in guests.into_iter().zip(["bob", "ann"]) {
            let [(_, name)] = &offered(&mut world, guest)[..] else { panic!("{draft:?}") };
            assert_eq!(name.namespace(), &ns(&["meet", "room-1", expected]), "{draft:?}");
        }
    }
}

#[test]
fn a_track_that_is_subscribed_to_already_is_not_offered() {
    for draft in Draft::ALL {
        let (mut world, _) = World::broadcasting();
        world.open("audio");
        let viewer = world.viewer(draft);
        world.subscribe(viewer, "video");
        seek(&mut world, viewer, &broadcast(), Params::default());
        let offers = offered(&mut world, viewer);
        assert_eq!(offers.len(), 1, "{draft:?}");
        assert_eq!(offers[0].1, track("audio"), "{draft:?}");
    }
}

#[test]
fn a_prefix_may_be_asked_for_once_and_moved() {
    for draft in [Draft::D18, Draft::D19, Draft::D22] {
        let mut world = World::new();
        world.relay.open_namespaces(vec![ns(&["open"])], ns(&["stream"]));
        let host = world.dial(draft, "/");
        for room in ["a", "b"] {
            let name = FullTrackName::new(ns(&["open", room]), "voice").unwrap();
            offer(&mut world, host, &name, u64::from(room.as_bytes()[0]));
        }
        let viewer = world.dial(draft, "/");
        let request = seek(&mut world, viewer, &ns(&["open", "a"]), Params::default());
        let names = world
            .peer(viewer)
            .moqt
            .subscribe_namespace(&ns(&["open", "a"]), Params::default())
            .unwrap();
        world.settle();
        assert!(world.peer(viewer).was_accepted(names), "names are another request");
        let twice = seek(&mut world, viewer, &ns(&["open"]), Params::default());
        assert!(world.peer(viewer).was_refused(twice).unwrap().starts_with("PrefixOverlap"));
        assert_eq!(offered(&mut world, viewer).len(), 1);
        for asked in [request, names] {
            let there = Params { prefix: Some(ns(&["open", "b"])), ..Params::default() };
            let update = world.peer(viewer).moqt.update(asked, there).unwrap();
            world.settle();
            assert!(world.peer(viewer).was_accepted(update), "{draft:?}");
            let away = Params { prefix: Some(ns(&["closed"])), ..Params::default() };
            let update = world.peer(viewer).moqt.update(asked, away).unwrap();
            world.settle();
            assert!(world.peer(viewer).was_refused(update).unwrap().starts_with("Unauthorized"));
        }
        let offers = offered(&mut world, viewer);
        assert_eq!(offers.len(), 2, "{draft:?}");
        assert_eq!(offers[1].1.namespace(), &ns(&["open", "b"]), "{draft:?}");
        let told: Vec<&Heard> = world.peers[viewer]
            .heard
            .iter()
            .filter(|heard| matches!(heard, Heard::Namespace { .. } | Heard::NamespaceDone { .. }))
            .collect();
        let [Heard::Namespace { .. }, Heard::NamespaceDone { .. }, Heard::Namespace { .. }] =
            told[..]
        else {
            panic!("{draft:?} {told:?}")
        };
    }
}

#[test]
fn a_track_of_another_shard_is_offered_once_it_is_here() {
    for draft in Draft::ALL {
        let mut edge = World::with(Limits::default(), 1);
        edge.relay.publish_remote(&broadcast(), 0);
        edge.relay.publish_remote_track(&track("video"), 0, edge.now);
        let viewer = edge.viewer(draft);
        seek(&mut edge, viewer, &broadcast(), Params::default());
        assert_eq!(offered(&mut edge, viewer).len(), 0, "its properties are not known yet");
        let wanted = |world: &World| {
            let is_it = |event: &&Event| matches!(event, Event::TrackWanted { shard: 0, .. });
            world.events.iter().filter(is_it).count()
        };
        assert_eq!(wanted(&edge), 1);
        let mut replica = TrackOptions::default();
        replica.replica = true;
        let copy = edge.relay.open_track(track("video"), replica, edge.now).unwrap();
        let object = edge.object(3, 0);
        edge.relay.write_object(copy, object).unwrap();
        edge.relay.track_ready(copy, edge.now);
        edge.settle();
        let [(offer, _)] = offered(&mut edge, viewer)[..] else { panic!("{draft:?}") };
        take(&mut edge, viewer, offer, plainly());
        edge.write(copy, 3, 1);
        assert_eq!(edge.peer(viewer).locations(offer), [(3, 1)], "{draft:?}");

        // One that comes later, and is declined: the other shard need not send it any more.
        edge.relay.publish_remote_track(&track("audio"), 0, edge.now);
        assert_eq!(wanted(&edge), 1, "events are taken when it settles");
        edge.settle();
        assert_eq!(wanted(&edge), 2);
        let copy = edge.relay.open_track(track("audio"), replica, edge.now).unwrap();
        edge.relay.track_ready(copy, edge.now);
        edge.settle();
        let (second, _) = offered(&mut edge, viewer)[1];
        let error = RequestError::new(RequestCode::Uninterested, "no thanks");
        edge.peer(viewer).moqt.reject(second, &error).unwrap();
        edge.settle();
        let unwanted = |event: &Event| matches!(event, Event::TrackUnwanted { track: gone, .. } if *gone == track("audio"));
        assert!(edge.events.iter().any(unwanted), "{draft:?}");

        edge.relay.withdraw_remote_track(&track("audio"), 0);
        let late = edge.viewer(draft);
        seek(&mut edge, late, &broadcast(), Params::default());
        let offers = offered(&mut edge, late);
        assert_eq!(offers.len(), 1, "{draft:?}");
        assert_eq!(offers[0].1, track("video"), "{draft:?}");
    }
}

#[test]
fn the_other_shards_hear_of_each_track_that_comes_and_goes_and_names_have_a_limit() {
    let (mut world, video) = World::broadcasting();
    let publisher = admitted(&mut world, Draft::D18);
    let told = |world: &mut World| -> Vec<(bool, FullTrackName)> {
        world.settle();
        let events = std::mem::take(&mut world.events);
        let told = events.into_iter().filter_map(|event| match event {
            Event::TrackPublished { track } => Some((true, track)),
            Event::TrackWithdrawn { track } => Some((false, track)),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(&mut world), [(true, track("video"))]);
    world.relay.end_track(video, DoneCode::TrackEnded, world.now);
    assert_eq!(told(&mut world), [(false, track("video"))]);
    world.relay.unpublish(&broadcast(), world.now);
    let request = offer(&mut world, publisher, &track("chat"), 1);
    assert_eq!(told(&mut world), [(true, track("chat"))]);
    world.peer(publisher).moqt.publish_done(request, DoneCode::TrackEnded, Some(0), "").unwrap();
    assert_eq!(told(&mut world), [(false, track("chat"))]);

    let mut limits = Limits::default();
    limits.tracks_max = 1;
    let mut edge = World::with(limits, 1);
    for name in ["a", "a", "b"] {
        edge.relay.publish_remote_track(&track(name), 0, edge.now);
    }
    assert_eq!(edge.relay.metrics().limit_tracks, 1);
}
