//! What publishers bring to their publish address: the engine gets it whole, and nobody else can reach it.

use std::time::Duration;

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

/// What the relay calls a track that a publisher brings.
fn contributed(world: &mut World, publisher: usize, wanted: &str) -> Option<TrackId> {
    let session = world.peer(publisher).id;
    world.events.iter().find_map(|event| match event {
        Event::Contributed { session: by, track, name }
            if *by == session && name[..] == *wanted.as_bytes() =>
        {
            Some(*track)
        }
        _ => None,
    })
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

/// How often the engine was asked for the input.
fn claims(world: &mut World, publisher: usize) -> usize {
    let session = world.peer(publisher).id;
    let is_claim =
        |event: &&Event| matches!(event, Event::AddressClaimed { session: by } if *by == session);
    world.events.iter().filter(is_claim).count()
}

/// The engine gives a publisher the input it has asked for.
fn grant(world: &mut World, publisher: usize) {
    assert_eq!(claims(world, publisher), 1);
    let session = world.peer(publisher).id;
    world.relay.grant_address(session, world.now, world.wall);
    world.settle();
}

#[test]
fn nothing_at_the_publish_address_is_answered_before_the_engine_has_given_the_input() {
    for draft in Draft::ALL {
        let mut world = World::new();
        let publisher = admitted(&mut world, draft);
        assert_eq!(claims(&mut world, publisher), 0, "it may mean to fill the namespace by itself");
        let requests = [
            offer(&mut world, publisher, &address("video"), 5),
            offer(&mut world, publisher, &address("audio"), 6),
            world
                .peer(publisher)
                .moqt
                .publish_namespace(&ns(&["publish", "lv_1"]), Params::default())
                .unwrap(),
        ];
        send(&mut world, publisher, draft, 5, 3);
        for request in requests {
            assert!(!world.peer(publisher).was_accepted(request), "{draft:?}");
        }
        grant(&mut world, publisher);
        for request in requests {
            assert!(world.peer(publisher).was_accepted(request), "{draft:?}");
        }
        let video = contributed(&mut world, publisher, "video").expect("the engine hears of it");
        assert_eq!(brought(&world, video), expected(3), "{draft:?}: what came early is not lost");
        // Whatever follows is answered at once, and nobody is asked again.
        let more = offer(&mut world, publisher, &address("captions"), 7);
        assert!(world.peer(publisher).was_accepted(more));
        assert_eq!(claims(&mut world, publisher), 1);

        let second = admitted(&mut world, draft);
        let request = offer(&mut world, second, &address("video"), 5);
        send(&mut world, second, draft, 5, 9);
        assert_eq!(claims(&mut world, second), 1);
        let (session, now) = (world.peer(second).id, world.now);
        world.relay.close_publisher(session, SessionCode::Unauthorized, "input_busy", now);
        world.settle();
        assert!(!world.peer(second).was_accepted(request), "{draft:?}: it was never live");
        assert_eq!(world.peer(second).close_reason(), "input_busy");
        assert_eq!(contributed(&mut world, second, "video"), None);
    }
}

#[test]
fn a_publisher_that_fills_the_namespace_by_itself_asks_for_no_input() {
    for draft in Draft::ALL {
        let mut world = World::new();
        let publisher = admitted(&mut world, draft);
        let moqt = &mut world.peer(publisher).moqt;
        let announced = moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
        let offered = offer(&mut world, publisher, &track("video"), 5);
        assert!(world.peer(publisher).was_accepted(announced), "{draft:?}");
        assert!(world.peer(publisher).was_accepted(offered), "{draft:?}");
        assert_eq!(claims(&mut world, publisher), 0, "{draft:?}");
    }
}

#[test]
fn a_publisher_whose_input_nobody_answers_for_is_told_so_in_time() {
    let mut world = World::new();
    let publisher = admitted(&mut world, Draft::D18);
    let request = offer(&mut world, publisher, &address("video"), 5);
    world.advance(Duration::from_secs(4));
    assert_eq!(world.peer(publisher).close_reason(), "");
    world.advance(Duration::from_secs(1));
    assert_eq!(world.peer(publisher).close_reason(), "timeout");
    assert!(!world.peer(publisher).was_accepted(request));
    // An answer that comes late finds nobody.
    let session = world.peer(publisher).id;
    world.relay.grant_address(session, world.now, world.wall);
    world.settle();
    assert_eq!(contributed(&mut world, publisher, "video"), None);
}

#[test]
fn a_track_offered_at_the_publish_address_is_the_engines_alone() {
    for draft in Draft::ALL {
        let mut world = World::new();
        // Two publishers of one input at once: a takeover, before the first one knows.
        let publishers = [admitted(&mut world, draft), admitted(&mut world, draft)];
        for (at, publisher) in publishers.into_iter().enumerate() {
            offer(&mut world, publisher, &address("video"), 5);
            grant(&mut world, publisher);
            let group = 3 + at as u64;
            send(&mut world, publisher, draft, 5, group);
            let id = contributed(&mut world, publisher, "video").expect("the engine hears of it");
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
        grant(&mut world, publisher);
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
