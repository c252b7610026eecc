//! What an edge tells those who ask by prefix: namespaces and tracks that only a relay above knows of, asked for once
//! for everybody, and what becomes of them when that relay is left.

use std::time::Duration;

use weir_moqt::{Event as Heard, Params, RequestId};
use weir_relay::{Draft, Limits, Namespace};

use crate::discovery::{offered, seek};
use crate::mesh::{accept, asked, connected};
use crate::world::{World, broadcast, token, track};

const DRAFT: Draft = Draft::D18;

/// Requests for the broadcast's namespaces and tracks that a relay above holds, and those given back.
fn sought(world: &mut World, above: usize) -> (Vec<RequestId>, Vec<RequestId>, usize) {
    let (mut namespaces, mut tracks, mut over) = (Vec::new(), Vec::new(), 0);
    for heard in &world.peer(above).heard {
        match heard {
            Heard::SubscribeNamespace { request, prefix, .. } => {
                assert_eq!(*prefix, broadcast());
                namespaces.push(*request);
            }
            Heard::SubscribeTracks { request, .. } => tracks.push(*request),
            Heard::UnsubscribedNamespace { .. } => over += 1,
            _ => {}
        }
    }
    (namespaces, tracks, over)
}

/// The relay above answers what it is asked, and has the broadcast.
fn answer(world: &mut World, above: usize) -> RequestId {
    let (namespaces, tracks, _) = sought(world, above);
    let request = *namespaces.last().unwrap();
    let moqt = &mut world.peer(above).moqt;
    moqt.accept(request, Params::default(), &[]).unwrap();
    moqt.accept(*tracks.last().unwrap(), Params::default(), &[]).unwrap();
    moqt.namespace(request, &Namespace::default()).unwrap();
    world.settle();
    request
}

fn watch(world: &mut World, viewer: usize) -> RequestId {
    let request = world.peer(viewer).moqt.subscribe_namespace(&broadcast(), Params::default());
    world.settle();
    request.unwrap()
}

/// Namespaces told and taken back.
fn told(world: &mut World, viewer: usize) -> (usize, usize) {
    let count =
        |is_it: fn(&&Heard) -> bool| move |heard: &[Heard]| heard.iter().filter(is_it).count();
    let heard = &world.peer(viewer).heard;
    (
        count(|heard| matches!(heard, Heard::Namespace { .. }))(heard),
        count(|heard| matches!(heard, Heard::NamespaceDone { .. }))(heard),
    )
}

#[test]
fn what_is_there_above_is_asked_for_once_and_told_to_all_who_watch_a_prefix() {
    let (mut world, above) = connected();
    let viewers = [Draft::D18, Draft::D22, Draft::D16].map(|draft| world.viewer(draft));
    for viewer in viewers {
        watch(&mut world, viewer);
    }
    let (namespaces, tracks, _) = sought(&mut world, above);
    assert_eq!((namespaces.len(), tracks.len()), (1, 1), "once for three");
    let request = answer(&mut world, above);
    let late = world.viewer(Draft::D20);
    watch(&mut world, late);
    for viewer in viewers.into_iter().chain([late]) {
        assert_eq!(told(&mut world, viewer), (1, 0));
    }
    world.peer(above).moqt.namespace_done(request, &Namespace::default()).unwrap();
    world.settle();
    for viewer in viewers.into_iter().chain([late]) {
        assert_eq!(told(&mut world, viewer), (1, 1));
    }
    // When the last one leaves, nothing is asked for any more.
    for viewer in viewers.into_iter().chain([late]) {
        assert_eq!(sought(&mut world, above).2, 0);
        let id = world.peer(viewer).id;
        world.relay.close_session(id, world.now);
        world.settle();
    }
    assert_eq!(sought(&mut world, above).2, 2);
}

#[test]
fn a_track_published_above_is_offered_at_the_edge_and_costs_one_subscription() {
    let (mut world, above) = connected();
    let viewers = [Draft::D18, Draft::D22].map(|draft| world.viewer(draft));
    for viewer in viewers {
        seek(&mut world, viewer, &broadcast(), Params::default());
    }
    answer(&mut world, above);
    let moqt = &mut world.peer(above).moqt;
    let offer = moqt.publish(&track("video"), 5, Params::default(), &[]).unwrap();
    world.settle();
    assert!(world.peer(above).was_refused(offer).is_some(), "the name is enough");
    assert_eq!(asked(&mut world, above).len(), 1, "one subscription for both");
    accept(&mut world, above, 7);
    for viewer in viewers {
        let [(_, name)] = &offered(&mut world, viewer)[..] else { panic!("one offer") };
        assert_eq!(*name, track("video"));
    }
    // Who comes later is offered what the edge has, though the relay above says no more of it.
    let late = world.viewer(DRAFT);
    seek(&mut world, late, &broadcast(), Params::default());
    assert_eq!(offered(&mut world, late).len(), 1);
    // A track that a viewer named is none that the relay above would offer.
    world.subscribe(viewers[0], "audio");
    accept(&mut world, above, 8);
    assert_eq!(offered(&mut world, late).len(), 2);
    assert_eq!(asked(&mut world, above).len(), 2);
}

#[test]
fn another_relay_above_is_asked_the_same_and_what_it_does_not_know_is_taken_back() {
    for knows in [false, true] {
        let (mut world, above) = connected();
        let viewer = world.viewer(DRAFT);
        watch(&mut world, viewer);
        answer(&mut world, above);
        let id = world.peer(above).id;
        world.relay.close_session(id, world.now);
        world.settle();
        assert_eq!(told(&mut world, viewer), (1, 0), "it may come back");
        let next = world.dial_above(DRAFT);
        let session = world.peer(next).id;
        world.relay.use_upstream(session, world.now);
        world.settle();
        assert_eq!(sought(&mut world, next).0.len(), 1);
        if knows {
            answer(&mut world, next);
        }
        world.advance(Limits::default().upstream_grace + Duration::from_millis(1));
        assert_eq!(told(&mut world, viewer), (1, usize::from(!knows)));
    }
}

#[test]
fn a_viewer_that_waits_to_be_told_at_an_edge_hears_what_the_relay_above_says_and_no_more() {
    for draft in Draft::ALL {
        let (mut world, above) = connected();
        let path = format!("/playback/lv_1?tok={}&announce=1", token("lv_1", 3600));
        let viewer = world.dial(draft, &path);
        let told = |world: &mut World| {
            let heard = &world.peer(viewer).heard;
            let came = heard.iter().filter(|it| matches!(it, Heard::PublishNamespace { .. }));
            let went = heard.iter().filter(|it| matches!(it, Heard::PublishNamespaceDone { .. }));
            (came.count(), went.count())
        };
        assert_eq!(told(&mut world), (0, 0), "{draft:?}: nobody says that it is live");
        let request = answer(&mut world, above);
        assert_eq!(told(&mut world), (1, 0), "{draft:?}");
        world.peer(above).moqt.namespace_done(request, &Namespace::default()).unwrap();
        world.settle();
        assert_eq!(told(&mut world), (1, 1), "{draft:?}");
        world.peer(above).moqt.namespace(request, &Namespace::default()).unwrap();
        world.settle();
        assert_eq!(told(&mut world), (2, 1), "{draft:?}");
        // Who comes when it is known is told at once, and nothing is asked twice.
        let late = world.dial(draft, &path);
        let heard = |heard: &Heard| matches!(heard, Heard::PublishNamespace { .. });
        assert!(world.peer(late).heard.iter().any(heard), "{draft:?}");
        assert_eq!(sought(&mut world, above).0.len(), 1, "{draft:?}");
        for viewer in [viewer, late] {
            assert_eq!(sought(&mut world, above).2, 0, "{draft:?}");
            let id = world.peer(viewer).id;
            world.relay.close_session(id, world.now);
            world.settle();
        }
        assert_eq!(sought(&mut world, above).2, 2, "{draft:?}: nobody waits any more");
    }
}
