//! Publishers that offer tracks with PUBLISH or wait to be asked for their namespaces, subscribers that come before
//! their publisher, and what is asked of publishers for all subscribers at once.

use std::time::Duration;

use weir_moqt::{Event as Heard, Params, RequestId, RequestKind};
use weir_relay::{Draft, Event, FullTrackName};

use crate::publishers::Group;
use crate::world::{World, broadcast, ns, track};

/// A publisher with the engine's leave and nothing announced.
pub(crate) fn admitted(world: &mut World, draft: Draft) -> usize {
    let publisher = world.dial(draft, "/publish/lv_1?sk=sk_live_hush");
    let session = world.peer(publisher).id;
    world.relay.publish_authorized(session, Ok(broadcast()), world.now, world.wall);
    world.settle();
    publisher
}

pub(crate) fn offer(
    world: &mut World,
    publisher: usize,
    name: &FullTrackName,
    alias: u64,
) -> RequestId {
    let moqt = &mut world.peer(publisher).moqt;
    let request = moqt.publish(name, alias, Params::default(), &[]).unwrap();
    world.settle();
    request
}

/// FORWARD as the publisher was told, first to last.
fn forwards(world: &mut World, publisher: usize, offer: RequestId) -> Vec<bool> {
    let heard = &world.peer(publisher).heard;
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::RequestOk { request, kind: RequestKind::Publish, params, .. }
                if *request == offer =>
            {
                params.forward
            }
            Heard::Update { request, params, .. } if *request == offer => params.forward,
            _ => None,
        })
        .collect()
}

#[test]
fn an_offered_track_flows_from_the_start_and_its_newest_group_awaits_the_first_viewer() {
    for draft in Draft::ALL {
        let mut world = World::new();
        let publisher = admitted(&mut world, draft);
        let request = offer(&mut world, publisher, &track("video"), 5);
        assert_eq!(forwards(&mut world, publisher, request), [true], "{draft:?}: nobody watches");
        let told = world.events.iter().any(|event| {
            matches!(event, Event::NamespacePublished { namespace, .. } if *namespace == broadcast())
        });
        assert!(told, "the other shards hear of the namespace");
        let first = world.viewer(Draft::D18);
        let watched = world.subscribe(first, "video");
        assert!(world.peer(first).was_accepted(watched));
        let second = world.viewer(Draft::D16);
        let also = world.subscribe(second, "video");
        let mut group = Group::begin(&mut world, publisher, draft, 5, 3);
        (0..3).for_each(|object| group.object(object));
        group.send(&mut world, publisher, true);
        for (viewer, request) in [(first, watched), (second, also)] {
            assert_eq!(world.peer(viewer).locations(request), [(3, 0), (3, 1), (3, 2)]);
            world.peer(viewer).assert_unaltered();
            world.peer(viewer).moqt.cancel(request);
        }
        world.settle();
        // Nobody watches again; the next one begins with the newest group all the same.
        let mut group = Group::begin(&mut world, publisher, draft, 5, 9);
        group.object(0);
        group.send(&mut world, publisher, false);
        let third = world.viewer(Draft::D18);
        let late = world.subscribe_with(third, "video", Params::default());
        assert_eq!(world.peer(third).locations(late), [(9, 0)], "{draft:?}");
        assert_eq!(forwards(&mut world, publisher, request), [true], "{draft:?}: never told again");
        assert_eq!(world.peer(publisher).failure, None);
    }
}

#[test]
fn text_and_random_bytes_pass_a_relay_that_does_not_look() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let mut random = fastrand::Rng::with_seed(0x7e1a);
    let noise: Vec<u8> = (0..70_000).map(|_| random.u8(..)).collect();
    let text = "grüße, 世界\n\u{0}\u{feff}".as_bytes().to_vec();
    for (alias, name, payload) in [(1, "chat", text), (2, "noise", noise)] {
        offer(&mut world, publisher, &track(name), alias);
        let viewer = world.viewer(Draft::D16);
        let request = world.subscribe(viewer, name);
        let mut group = Group::begin(&mut world, publisher, Draft::D18, alias, 0);
        group.object_of(0, &payload);
        group.send(&mut world, publisher, true);
        let got = &world.peer(viewer).got;
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].request, &got[0].payload), (request, &payload), "{name}");
    }
}

#[test]
fn an_offer_outside_the_publishers_namespace_or_of_a_taken_name_is_refused() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let elsewhere = FullTrackName::new(ns(&["stream", "org_a", "lv_2"]), "video").unwrap();
    let foreign = offer(&mut world, publisher, &elsewhere, 1);
    let reason = world.peer(publisher).was_refused(foreign).unwrap();
    assert!(reason.starts_with("Unauthorized"), "{reason}");
    offer(&mut world, publisher, &track("video"), 2);
    let rival = admitted(&mut world, Draft::D16);
    let taken = offer(&mut world, rival, &track("video"), 1);
    assert!(world.peer(rival).was_refused(taken).unwrap().contains("input_busy"));
    let viewer = world.viewer(Draft::D18);
    let request = world.peer(viewer).moqt.publish(&track("x"), 9, Params::default(), &[]).unwrap();
    world.settle();
    assert!(world.peer(viewer).was_refused(request).unwrap().contains("not a publisher"));
    assert_eq!(world.peer(viewer).wire.closed, None, "its session goes on");
}

#[test]
fn an_offer_before_the_engines_answer_waits_for_it() {
    let mut world = World::new();
    let publisher = world.dial(Draft::D18, "/publish/lv_1?sk=k");
    let request = offer(&mut world, publisher, &track("video"), 1);
    let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 4);
    group.object(0);
    group.send(&mut world, publisher, true);
    assert!(!world.peer(publisher).was_accepted(request));
    let session = world.peer(publisher).id;
    world.relay.publish_authorized(session, Ok(broadcast()), world.now, world.wall);
    world.settle();
    assert!(world.peer(publisher).was_accepted(request));
    assert_eq!(world.relay.metrics().objects_in, 1, "what came with it is not left lying");
}

#[test]
fn a_namespace_that_only_offers_held_is_free_when_the_last_of_them_ends() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let offers = [
        offer(&mut world, publisher, &track("a"), 1),
        offer(&mut world, publisher, &track("b"), 2),
    ];
    let ended = |world: &World| {
        world.events.iter().filter(|e| matches!(e, Event::NamespaceEnded { .. })).count()
    };
    for (at, request) in offers.into_iter().enumerate() {
        assert_eq!(ended(&world), 0, "offer {at} still holds it");
        let done = weir_relay::DoneCode::TrackEnded;
        world.peer(publisher).moqt.publish_done(request, done, Some(0), "").unwrap();
        world.settle();
    }
    assert_eq!(ended(&world), 1);
    assert_eq!(world.relay.metrics().namespaces, 0);
    assert_eq!(world.relay.metrics().upstream_subscriptions, 0);
}

#[test]
fn a_publisher_announces_what_lies_below_its_own_prefix() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let below = ns(&["stream", "org_a", "lv_1", "cam", "2"]);
    let request = world.peer(publisher).moqt.publish_namespace(&below, Params::default()).unwrap();
    world.settle();
    assert!(world.peer(publisher).was_accepted(request));
}

fn early(world: &mut World, viewer: usize, wait_ms: u64) -> RequestId {
    let params = Params { rendezvous_timeout_ms: Some(wait_ms), ..Params::default() };
    world.subscribe_with(viewer, "video", params)
}

#[test]
fn a_viewer_who_is_early_meets_the_publisher_or_hears_that_it_did_not_come() {
    let mut world = World::new();
    let patient = world.viewer(Draft::D18);
    let waiting = early(&mut world, patient, 5_000);
    let hasty = world.viewer(Draft::D20);
    let gone = early(&mut world, hasty, 1_000);
    let none = world.viewer(Draft::D18);
    let refused = world.subscribe(none, "video");
    assert!(world.peer(none).was_refused(refused).unwrap().starts_with("DoesNotExist"));
    world.advance(Duration::from_millis(1_500));
    assert!(world.peer(hasty).was_refused(gone).unwrap().starts_with("Timeout"));
    assert_eq!(world.peer(patient).was_refused(waiting), None);
    let publisher = admitted(&mut world, Draft::D16);
    offer(&mut world, publisher, &track("video"), 1);
    assert!(world.peer(patient).was_accepted(waiting), "served when the track came");
    let mut group = Group::begin(&mut world, publisher, Draft::D16, 1, 0);
    group.object(0);
    group.send(&mut world, publisher, true);
    assert_eq!(world.peer(patient).locations(waiting), [(0, 0)]);
}

#[test]
fn a_wait_for_a_publisher_is_limited_in_length_and_in_number() {
    let mut limits = weir_relay::Limits::default();
    limits.rendezvous_max = 2;
    limits.rendezvous_timeout_max = Duration::from_secs(2);
    let mut world = World::with(limits, 0);
    let viewers: Vec<_> = (0..3).map(|_| world.viewer(Draft::D18)).collect();
    let requests: Vec<_> = viewers.iter().map(|v| early(&mut world, *v, u64::MAX >> 2)).collect();
    assert!(world.peer(viewers[2]).was_refused(requests[2]).is_some(), "no room for a third");
    assert_eq!(world.relay.metrics().limit_rendezvous, 1);
    // One that goes makes room, and hears nothing more.
    world.peer(viewers[0]).moqt.cancel(requests[0]);
    world.settle();
    let late = early(&mut world, viewers[2], 60_000);
    world.advance(Duration::from_millis(2_001));
    for (viewer, request) in [(viewers[1], requests[1]), (viewers[2], late)] {
        assert!(world.peer(viewer).was_refused(request).unwrap().starts_with("Timeout"));
    }
}

#[test]
fn an_open_tree_takes_offers_without_a_key() {
    for draft in Draft::ALL {
        let mut world = World::new();
        world.relay.open_namespaces(vec![ns(&["interop"])], ns(&["stream"]));
        let name = FullTrackName::new(ns(&["interop", "a"]), "t").unwrap();
        let publisher = world.dial(draft, "/anything");
        let offered = offer(&mut world, publisher, &name, 4);
        assert!(world.peer(publisher).was_accepted(offered), "{draft:?}");
        let viewer = world.dial(draft, "/");
        let request = world.peer(viewer).moqt.subscribe(&name, Params::default()).unwrap();
        world.settle();
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        let closed = offer(&mut world, publisher, &track("video"), 5);
        assert!(world.peer(publisher).was_refused(closed).is_some(), "{draft:?}");
    }
}

#[test]
fn a_publisher_that_waits_to_be_asked_is_asked_and_its_answer_counts_as_an_announcement() {
    for draft in Draft::ALL {
        let mut world = World::new();
        let publisher = admitted(&mut world, draft);
        let asked: Vec<_> = world
            .peer(publisher)
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::SubscribeNamespace { request, prefix, .. } => {
                    Some((*request, prefix.clone()))
                }
                _ => None,
            })
            .collect();
        let [(request, prefix)] = &asked[..] else { panic!("{draft:?}: asked {asked:?}") };
        assert_eq!(*prefix, broadcast(), "{draft:?}: for what it may publish, no more");
        let moqt = &mut world.peer(publisher).moqt;
        moqt.accept(*request, Params::default(), &[]).unwrap();
        moqt.namespace(*request, &ns(&["cam"])).unwrap();
        world.settle();
        let namespace = ns(&["stream", "org_a", "lv_1", "cam"]);
        let told = world.events.iter().any(
            |event| matches!(event, Event::NamespacePublished { namespace: n, .. } if *n == namespace),
        );
        assert!(told, "{draft:?}");
        world.peer(publisher).moqt.namespace_done(*request, &ns(&["cam"])).unwrap();
        world.settle();
        assert_eq!(world.relay.metrics().namespaces, 0, "{draft:?}");
    }
}

#[test]
fn wishes_for_a_new_group_are_merged_and_go_only_where_groups_are_made_on_demand() {
    for dynamic in [1, 0] {
        let mut world = World::new();
        let publisher = admitted(&mut world, Draft::D18);
        let property =
            weir_moqt::Property { kind: 0x30, value: weir_moqt::PropertyValue::Int(dynamic) };
        let moqt = &mut world.peer(publisher).moqt;
        let request = moqt.publish(&track("video"), 1, Params::default(), &[property]).unwrap();
        world.settle();
        let wish = |world: &mut World, after| {
            let viewer = world.viewer(Draft::D18);
            let params = Params { new_group: Some(after), ..Params::default() };
            world.subscribe_with(viewer, "video", params);
        };
        let wishes = |world: &mut World| {
            let heard = &world.peer(publisher).heard;
            let of_ours = heard.iter().filter_map(|heard| match heard {
                Heard::Update { request: of, params, .. } if *of == request => params.new_group,
                _ => None,
            });
            of_ours.collect::<Vec<_>>()
        };
        wish(&mut world, 0);
        let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 4);
        group.object(0);
        group.send(&mut world, publisher, false);
        for after in [4, 0, 3, 4] {
            wish(&mut world, after);
        }
        let expected: &[u64] = if dynamic == 1 { &[0, 4] } else { &[] };
        assert_eq!(wishes(&mut world), expected, "dynamic: {dynamic}");
    }
}

#[test]
fn a_viewer_waits_for_a_track_once_and_leaves_nothing_behind() {
    let mut world = World::new();
    let viewer = world.viewer(Draft::D18);
    let waiting = early(&mut world, viewer, 5_000);
    let again = early(&mut world, viewer, 5_000);
    let refused = world.peer(viewer).was_refused(again).unwrap();
    assert!(refused.contains("subscribed already"), "{refused}");
    let publisher = crate::publishers::publishing(&mut world, Draft::D18);
    let upstream = crate::publishers::asked_for(&mut world, publisher)[0];
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, Params::default(), &[]).unwrap();
    world.settle();
    assert!(world.peer(viewer).was_accepted(waiting));
    world.peer(viewer).moqt.cancel(waiting);
    world.settle();
    assert_eq!(world.relay.metrics().upstream_subscriptions, 0);
    assert_eq!(world.relay.metrics().tracks, 0);
}

#[test]
fn a_viewer_who_waits_below_a_prefix_is_met_when_the_prefix_is_announced() {
    let mut world = World::new();
    world.relay.open_namespaces(vec![ns(&["open"])], ns(&["stream"]));
    let viewer = world.dial(Draft::D18, "/");
    let name = FullTrackName::new(ns(&["open", "a", "b"]), "t").unwrap();
    let params = Params { rendezvous_timeout_ms: Some(5_000), ..Params::default() };
    let request = world.peer(viewer).moqt.subscribe(&name, params).unwrap();
    world.settle();
    let publisher = world.dial(Draft::D18, "/");
    let prefix = ns(&["open", "a"]);
    world.peer(publisher).moqt.publish_namespace(&prefix, Params::default()).unwrap();
    world.settle();
    let upstream = crate::publishers::asked_for(&mut world, publisher);
    assert_eq!(upstream.len(), 1, "the holder of the prefix is asked");
    world.peer(publisher).moqt.accept_subscribe(upstream[0], 1, Params::default(), &[]).unwrap();
    world.settle();
    assert!(world.peer(viewer).was_accepted(request));
}
