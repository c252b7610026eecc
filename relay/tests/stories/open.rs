//! Trees opened to everybody: what needs neither key nor token there, and what stays closed.

use weir_moqt::Params;
use weir_relay::{Draft, Event, FullTrackName};

use crate::world::{World, broadcast, ns};

const DRAFTS: [Draft; 2] = [Draft::D18, Draft::D16];

fn opened(prefixes: &[&[&str]]) -> World {
    let mut world = World::new();
    let prefixes = prefixes.iter().map(|fields| ns(fields)).collect();
    world.relay.open_namespaces(prefixes, ns(&["stream"]));
    world
}

#[test]
fn strangers_publish_and_subscribe_in_an_open_tree() {
    for draft in DRAFTS {
        let mut world = opened(&[&["moq-test"]]);
        let publisher = world.dial(draft, "/");
        let tests = ns(&["moq-test", "interop"]);
        let held = world.peer(publisher).moqt.publish_namespace(&tests, Params::default()).unwrap();
        world.settle();
        assert!(world.peer(publisher).was_accepted(held));
        let asked = |event: &Event| matches!(event, Event::AuthorizePublish { .. });
        assert!(!world.events.iter().any(asked), "nobody is asked for permission");

        let viewer = world.dial(draft, "/");
        let name = FullTrackName::new(tests.clone(), "test-track").unwrap();
        world.peer(viewer).moqt.subscribe(&name, Params::default()).unwrap();
        world.settle();
        let subscribed = |heard: &weir_moqt::Event| matches!(heard, weir_moqt::Event::Subscribe { track, .. } if *track == name);
        assert!(world.peer(publisher).heard.iter().any(subscribed), "the relay asks upstream");

        let thief = world.dial(draft, "/");
        let taken = world.peer(thief).moqt.publish_namespace(&tests, Params::default()).unwrap();
        world.settle();
        assert_eq!(world.peer(thief).was_refused(taken).unwrap(), "Unauthorized: input_busy");
    }
}

#[test]
fn outside_the_open_tree_a_stranger_is_refused() {
    for draft in DRAFTS {
        let mut world = opened(&[&["moq-test", "a"]]);
        for fields in [&["moq-test"][..], &["moq-test", "b"], &["moq-tests", "a"]] {
            let stranger = world.dial(draft, "/");
            let publish =
                world.peer(stranger).moqt.publish_namespace(&ns(fields), Params::default());
            world.settle();
            let refused = world.peer(stranger).was_refused(publish.unwrap()).unwrap();
            assert!(refused.starts_with("Unauthorized: auth_failed"), "{fields:?}: {refused}");
            let name = FullTrackName::new(ns(fields), "t").unwrap();
            world.peer(stranger).moqt.subscribe(&name, Params::default()).unwrap();
            world.settle();
            assert_eq!(world.peer(stranger).close_reason(), "auth_failed: token missing");
        }
    }
}

#[test]
fn a_tree_of_everything_leaves_our_own_broadcasts_closed() {
    for draft in DRAFTS {
        let mut world = opened(&[&[]]);
        let viewer = world.dial(draft, "/");
        let name = FullTrackName::new(broadcast(), "video").unwrap();
        world.peer(viewer).moqt.subscribe(&name, Params::default()).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token missing");

        let stranger = world.dial(draft, "/");
        let publish =
            world.peer(stranger).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
        // Not even their names: a prefix that contains them tells of nothing.
        let whole =
            world.peer(stranger).moqt.subscribe_namespace(&ns(&[]), Params::default()).unwrap();
        let other =
            world.peer(stranger).moqt.subscribe_namespace(&ns(&["x"]), Params::default()).unwrap();
        world.settle();
        assert!(world.peer(stranger).was_refused(publish).is_some());
        assert!(world.peer(stranger).was_refused(whole).unwrap().starts_with("Unauthorized"));
        assert!(world.peer(stranger).was_accepted(other));
    }
}

#[test]
fn nothing_is_open_unless_somebody_opens_it() {
    let mut world = World::new();
    let stranger = world.dial(Draft::D18, "/");
    let publish =
        world.peer(stranger).moqt.publish_namespace(&ns(&["moq-test"]), Params::default());
    world.settle();
    assert!(world.peer(stranger).was_refused(publish.unwrap()).is_some());
}
