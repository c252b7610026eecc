//! What publishers bring to their publish address: the engine gets it whole, and nobody else can reach it.

use bytes::Bytes;
use weir_moqt::Params;
use weir_relay::{Draft, Event, FullTrackName, SessionCode, TrackId};

use crate::offers::{admitted, offer};
use crate::publishers::{Group, asked_for};
use crate::world::{World, broadcast, ns, payload, track};

fn address(name: &'static str) -> FullTrackName {
    FullTrackName::new(ns(&["publish", "lv_1"]), name).unwrap()
}

/// Objects that the engine got of a track.
fn brought(world: &World, wanted: TrackId) -> Vec<(u64, u64, Bytes)> {
    world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Exported { track, object } if *track == wanted => {
                Some((object.group, object.object, object.payload.clone()))
            }
            _ => None,
        })
        .collect()
}

fn ended(world: &World, wanted: TrackId) -> Vec<u64> {
    let ends = world.events.iter().filter_map(|event| match event {
        Event::ExportedEnd { track, end } if *track == wanted => Some(end.group),
        _ => None,
    });
    ends.collect()
}

fn expected(group: u64) -> Vec<(u64, u64, Bytes)> {
    (0..2).map(|object| (group, object, payload(group, object).into())).collect()
}

fn send(world: &mut World, publisher: usize, draft: Draft, alias: u64, group: u64) {
    let mut stream = Group::begin(world, publisher, draft, alias, group);
    (0..2).for_each(|object| stream.object(object));
    stream.send(world, publisher, true);
}

#[test]
fn a_track_offered_at_the_publish_address_is_the_engines_alone() {
    for draft in Draft::ALL {
        let mut world = World::new();
        // Two publishers of one input at once: a takeover, before the first one knows.
        let publishers = [admitted(&mut world, draft), admitted(&mut world, draft)];
        for (at, publisher) in publishers.into_iter().enumerate() {
            offer(&mut world, publisher, &address("video"), 5);
            let group = 3 + at as u64;
            send(&mut world, publisher, draft, 5, group);
            let session = world.peer(publisher).id;
            let id = world
                .events
                .iter()
                .find_map(|event| match event {
                    Event::Contributed { session: by, track, name }
                        if *by == session && &name[..] == b"video" =>
                    {
                        Some(*track)
                    }
                    _ => None,
                })
                .expect("the engine hears of the track");
            assert_eq!(brought(&world, id), expected(group), "{draft:?}");
            assert_eq!(ended(&world, id), [group]);
        }
        let held = world.events.iter().any(|e| matches!(e, Event::NamespacePublished { .. }));
        assert!(!held, "the namespace stays free for the input's broadcast");
        let viewer = world.viewer(Draft::D18);
        let request = world.subscribe(viewer, "video");
        assert!(!world.peer(viewer).was_accepted(request), "viewers do not see it");
        // The engine has had enough of the first.
        let session = world.peer(publishers[0]).id;
        let reason = "codec_unsupported: video has codec 'mp4v'";
        let now = world.now;
        world.relay.close_publisher(session, SessionCode::ProtocolViolation, reason, now);
        world.settle();
        assert_eq!(world.peer(publishers[0]).close_reason(), reason);
        send(&mut world, publishers[1], draft, 5, 9);
        assert!(
            world
                .events
                .iter()
                .any(|event| matches!(event, Event::Exported { object, .. } if object.group == 9))
        );
    }
}

#[test]
fn a_publisher_that_announces_its_publish_address_is_asked_for_what_the_engine_wants() {
    for draft in Draft::ALL {
        let mut world = World::new();
        let publisher = admitted(&mut world, draft);
        let address = ns(&["publish", "lv_1"]);
        world.peer(publisher).moqt.publish_namespace(&address, Params::default()).unwrap();
        world.settle();
        let session = world.peer(publisher).id;
        assert!(world.events.iter().any(
            |event| matches!(event, Event::ContributionAnnounced { session: by } if *by == session)
        ));
        let name = Bytes::from_static(b".catalog");
        let id = world.relay.ask_contribution(session, &name).expect("asked");
        assert_eq!(world.relay.ask_contribution(session, &name), None, "once is enough");
        world.settle();
        let asked = asked_for(&mut world, publisher);
        assert_eq!(asked.len(), 1);
        let moqt = &mut world.peer(publisher).moqt;
        moqt.accept_subscribe(asked[0], 8, Params::default(), &[]).unwrap();
        world.settle();
        send(&mut world, publisher, draft, 8, 1);
        assert_eq!(brought(&world, id), expected(1), "{draft:?}");
    }
}

#[test]
fn another_inputs_publish_address_is_refused() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let other = FullTrackName::new(ns(&["publish", "lv_2"]), "video").unwrap();
    let request = offer(&mut world, publisher, &other, 5);
    let refused = world.peer(publisher).was_refused(request);
    assert_eq!(refused.as_deref(), Some("Unauthorized: auth_failed: other stream"));
    // Its own broadcast it may fill by itself, as ever.
    let request = offer(&mut world, publisher, &track("video"), 6);
    assert!(world.peer(publisher).was_refused(request).is_none());
    assert_eq!(broadcast(), *track("video").namespace());
}
