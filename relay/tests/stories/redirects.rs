//! REDIRECT: a relay that is being drained, tracks that are known to live elsewhere, relays above that name another one,
//! and publishers, who may send nobody anywhere.

use std::time::Duration;

use weir_moqt::{
    Event as Heard, Feature, FullTrackName, Params, Redirect, RequestCode, RequestError, RequestId,
    SetupOptions,
};
use weir_relay::{Draft, Limits, NodeKeys};

use crate::mesh::{accept, asked, connected, edge, last_asked};
use crate::publishers::publishing;
use crate::world::{World, ns, token, track};

const THERE: &str = "https://b.example:4443";

fn redirect(uri: &str) -> RequestError {
    let redirect = Redirect { uri: uri.to_owned(), track: None };
    RequestError {
        redirect: Some(Box::new(redirect)),
        ..RequestError::new(RequestCode::Redirect, "there")
    }
}

/// Where a request was sent.
fn sent_to(world: &mut World, at: usize, request: RequestId) -> Option<String> {
    world.peer(at).heard.iter().find_map(|heard| match heard {
        Heard::RequestError { request: refused, error, .. } if *refused == request => {
            error.redirect.as_ref().map(|redirect| redirect.uri.clone())
        }
        _ => None,
    })
}

/// A SUBSCRIBE that crosses with GOAWAY.
fn asked_while_drained(world: &mut World, at: usize, uri: &str, name: &str) -> RequestId {
    let deadline = world.now + Duration::from_secs(30);
    world.relay.drain(uri, deadline, world.now);
    let request = world.peer(at).moqt.subscribe(&track(name), Params::default()).unwrap();
    world.settle();
    request
}

#[test]
fn a_relay_that_is_drained_to_another_place_answers_new_subscriptions_with_it() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        world.open("audio");
        let viewer = world.viewer(draft);
        let before = world.subscribe(viewer, "video");
        let late = world.viewer(draft);
        let request = asked_while_drained(&mut world, late, THERE, "audio");
        if world.peer(late).moqt.supports(Feature::Redirect) {
            assert_eq!(sent_to(&mut world, late, request).as_deref(), Some(THERE), "{draft:?}");
            assert_eq!(world.relay.metrics().redirects_sent, 1);
        } else {
            assert!(world.peer(late).was_accepted(request), "{draft:?}: it knows no other answer");
        }
        assert_eq!(world.peer(late).close_reason(), "");
        world.write(video, 0, 0);
        assert_eq!(world.peer(viewer).locations(before), [(0, 0)], "what runs goes on");
    }
}

#[test]
fn a_relay_that_is_drained_to_nowhere_else_serves_on_until_the_deadline() {
    let (mut world, _) = World::broadcasting();
    let late = world.viewer(Draft::D18);
    let request = asked_while_drained(&mut world, late, "", "video");
    assert!(world.peer(late).was_accepted(request));
}

#[test]
fn a_node_below_is_not_sent_away_since_it_chooses_for_itself() {
    let (mut world, _) = World::broadcasting();
    let hash = NodeKeys::hash(&[5; 32], "nk_live_hush");
    world.relay.set_node_keys(NodeKeys::new(&[5; 32], vec![hash]), world.now);
    let path = Some("/mesh?nk=nk_live_hush&id=edge-1".to_owned());
    let node = world.dial_with(Draft::D18, None, SetupOptions { path, ..SetupOptions::default() });
    let request = asked_while_drained(&mut world, node, THERE, "video");
    assert!(world.peer(node).was_accepted(request));
}

#[test]
fn a_track_known_to_live_elsewhere_is_answered_with_its_address_to_those_who_may_watch_it() {
    for draft in Draft::ALL {
        let (mut world, _) = World::broadcasting();
        let tree = ns(&["stream", "org_a"]);
        world.relay.set_redirects(vec![(tree, THERE.to_owned())]);
        let other = FullTrackName::new(ns(&["stream", "org_a", "lv_2"]), "video").unwrap();
        let viewer = world.dial(draft, &format!("/playback/lv_2?tok={}", token("lv_2", 600)));
        let patient = Params { rendezvous_timeout_ms: Some(5_000), ..Params::default() };
        let asked = [
            world.peer(viewer).moqt.subscribe(&other, patient).unwrap(),
            world.peer(viewer).moqt.track_status(&other, Params::default()).unwrap(),
        ];
        world.settle();
        for request in asked {
            if world.peer(viewer).moqt.supports(Feature::Redirect) {
                assert_eq!(sent_to(&mut world, viewer, request).as_deref(), Some(THERE));
            } else {
                let refused = world.peer(viewer).was_refused(request).unwrap();
                assert!(refused.starts_with("DoesNotExist"), "{draft:?} {refused}");
            }
        }
        let here = world.viewer(draft);
        let request = world.subscribe(here, "video");
        assert!(world.peer(here).was_accepted(request), "{draft:?}: what is here is served here");

        let stranger = world.dial(draft, "/playback/lv_2");
        let request = world.peer(stranger).moqt.subscribe(&other, Params::default()).unwrap();
        world.settle();
        assert_eq!(sent_to(&mut world, stranger, request), None);
        assert_eq!(world.peer(stranger).close_reason(), "auth_failed: token missing");
    }
}

#[test]
fn a_publisher_that_redirects_sends_no_viewer_and_no_token_anywhere() {
    let mut world = World::new();
    let publisher = publishing(&mut world, Draft::D18);
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let upstream = last_asked(&mut world, publisher);
    world.peer(publisher).moqt.reject(upstream, &redirect("https://evil.example")).unwrap();
    world.settle();
    assert_eq!(sent_to(&mut world, viewer, request), None);
    let refused = world.peer(viewer).was_refused(request).unwrap();
    assert_eq!(refused, "DoesNotExist: not_live");
}

#[test]
fn an_edge_follows_a_redirect_to_another_of_its_upstreams_and_not_in_rings() {
    let mut world = edge();
    let a = world.dial_above_at(Draft::D18, "a.example:4433");
    let b = world.dial_above_at(Draft::D22, "b.example:4433");
    let session = world.peer(a).id;
    world.relay.use_upstream(session, world.now);
    world.settle();
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let first = last_asked(&mut world, a);
    world.peer(a).moqt.reject(first, &redirect("moqt://B.example:4433/")).unwrap();
    world.settle();
    assert_eq!(asked(&mut world, b).len(), 1);
    accept(&mut world, b, 7);
    assert!(world.peer(viewer).was_accepted(request));
    assert_eq!(world.relay.metrics().redirects_followed, 1);

    // Another track is sent in circles: after three hops the viewer hears of it.
    let request = world.subscribe(viewer, "audio");
    let hops = Limits::default().redirect_hops_max;
    for hop in 0..=hops {
        let (from, to) = if hop % 2 == 0 { (a, "b") } else { (b, "a") };
        let upstream = last_asked(&mut world, from);
        let error = redirect(&format!("moqt://{to}.example:4433"));
        world.peer(from).moqt.reject(upstream, &error).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).was_refused(request).is_some(), hop == hops, "{hop}");
    }
    assert_eq!(world.relay.metrics().limit_redirect_hops, 1);
}

#[test]
fn an_edge_takes_its_key_to_no_stranger_and_hands_the_address_on_to_its_viewers() {
    let (mut world, above) = connected();
    let modern = world.viewer(Draft::D22);
    let old = world.viewer(Draft::D16);
    let asked_by =
        [(modern, world.subscribe(modern, "video")), (old, world.subscribe(old, "video"))];
    let upstream = last_asked(&mut world, above);
    world.peer(above).moqt.reject(upstream, &redirect(THERE)).unwrap();
    world.settle();
    assert_eq!(sent_to(&mut world, modern, asked_by[0].1).as_deref(), Some(THERE));
    assert_eq!(world.peer(old).was_refused(asked_by[1].1).unwrap(), "DoesNotExist: not_live");
    assert_eq!(world.relay.metrics().redirects_followed, 0);
}
