//! Limits that no other story meets: each is hit, counted, and hurts nobody else.

use std::time::Duration;

use weir_moqt::{FetchTarget, Location, Params};
use weir_relay::{Draft, DropReason, Forwarding, Limits, ObjectIn, SessionParams};

use crate::objects::{Feed, publishing, publishing_with};
use crate::world::{World, broadcast, ns, token, track};

const DRAFTS: [Draft; 2] = [Draft::D18, Draft::D16];

/// A world with a live broadcast under these limits.
fn broadcasting(limits: Limits) -> (World, weir_relay::TrackId) {
    let mut world = World::with(limits, 0);
    assert!(world.relay.publish(&broadcast()));
    let video = world.open("video");
    (world, video)
}

#[test]
fn bytes_behind_max_gives_up_a_group_that_grew_too_large_for_its_reader() {
    let mut limits = Limits::default();
    limits.bytes_behind_max = 1_000;
    let (mut world, video) = broadcasting(limits);
    let slow = world.viewer(Draft::D18);
    let quick = world.viewer(Draft::D16);
    let request = world.subscribe(slow, "video");
    let watching = world.subscribe(quick, "video");
    world.peer(slow).wire.credit = 150;
    for object in 0..20 {
        world.write(video, 0, object);
    }
    assert_eq!(world.relay.metrics().dropped(DropReason::BytesBehind), 1);
    assert_eq!(world.peer(slow).wire.resets.len(), 1);
    world.grant(slow, 100_000);
    world.write(video, 0, 20);
    world.write(video, 1, 0);
    assert_eq!(
        world.peer(slow).locations(request).last(),
        Some(&(1, 0)),
        "the group stays given up"
    );
    assert_eq!(world.peer(slow).locations(request).len(), 2);
    assert_eq!(world.peer(quick).locations(watching).len(), 22);
}

#[test]
fn publisher_bytes_per_second_max_ends_a_publisher_that_floods() {
    let mut limits = Limits::default();
    limits.publisher_bytes_per_second_max = 10_000;
    let (mut world, publisher) = publishing_with(Draft::D18, limits, &[], Params::default());
    let mut feed = Feed::open(&mut world, &publisher, 0, 0);
    feed.object(0, &[0; 9_000]);
    feed.send(&mut world, &publisher, b"", false);
    world.advance(Duration::from_secs(1));
    feed.object(1, &[1; 9_000]);
    feed.send(&mut world, &publisher, b"", false);
    assert_eq!(world.peer(publisher.at).close_reason(), "");
    feed.object(2, &[2; 2_000]);
    feed.send(&mut world, &publisher, b"", false);
    assert_eq!(world.peer(publisher.at).close_reason(), "publisher sends too much");
    assert_eq!(world.relay.metrics().limit_publisher_rate, 1);
    assert_eq!(world.peer(publisher.viewer).close_reason(), "", "its viewer stays");
}

#[test]
fn control_bytes_max_ends_a_session_that_reads_no_answers() {
    for draft in DRAFTS {
        let mut limits = Limits::default();
        limits.control_bytes_max = 300;
        let (mut world, _) = broadcasting(limits);
        let deaf = world.viewer(draft);
        let other = world.viewer(draft);
        world.peer(deaf).wire.control_credit = 0;
        for i in 0..40 {
            world
                .peer(deaf)
                .moqt
                .track_status(&track(&format!("t{i}")), Params::default())
                .unwrap();
            world.settle();
        }
        assert_eq!(world.peer(deaf).close_reason(), "control messages are not read", "{draft:?}");
        assert_eq!(world.relay.metrics().limit_control_bytes, 1);
        assert_eq!(world.peer(other).close_reason(), "");
    }
}

#[test]
fn tracks_per_publisher_max_refuses_the_next_track() {
    let mut limits = Limits::default();
    limits.tracks_per_publisher_max = 2;
    let (mut world, publisher) = publishing_with(Draft::D18, limits, &[], Params::default());
    let viewer = world.viewer(Draft::D16);
    let second = world.subscribe(viewer, "audio");
    let third = world.subscribe(viewer, "captions");
    assert_eq!(world.peer(viewer).was_refused(second), None);
    assert!(world.peer(viewer).was_refused(third).is_some());
    assert_eq!(world.relay.metrics().limit_tracks, 1);
    assert_eq!(world.peer(publisher.at).close_reason(), "");
}

#[test]
fn namespaces_per_session_max_refuses_the_next_namespace() {
    for draft in DRAFTS {
        let mut limits = Limits::default();
        limits.namespaces_per_session_max = 2;
        let mut world = World::with(limits, 0);
        // Nobody has let it in yet: announcements wait, and are capped while they do.
        let eager = world.dial(draft, "/publish/lv_1?sk=sk_live_hush");
        let announce = |world: &mut World, id: &str| {
            let namespace = ns(&["stream", "org_a", id]);
            let moqt = &mut world.peer(eager).moqt;
            let request = moqt.publish_namespace(&namespace, Params::default()).unwrap();
            world.settle();
            request
        };
        let requests = ["lv_1", "lv_2", "lv_3"].map(|id| announce(&mut world, id));
        let refused = requests.map(|request| world.peer(eager).was_refused(request).is_some());
        assert_eq!(refused, [false, false, true], "{draft:?}");
        assert_eq!(world.relay.metrics().limit_namespaces, 1);
    }
}

#[test]
fn fetch_objects_max_refuses_a_range_of_too_many_objects() {
    let mut limits = Limits::default();
    limits.fetch_objects_max = 5;
    let (mut world, video) = broadcasting(limits);
    (0..6).for_each(|object| world.write(video, 0, object));
    let viewer = world.viewer(Draft::D18);
    let mut fetch = |end| {
        let (start, end) = (Location::new(0, 0), Location::new(0, end));
        let target = FetchTarget::Standalone { track: track("video"), start, end };
        let request = world.peer(viewer).moqt.fetch(&target, Params::default()).unwrap();
        world.settle();
        (world.peer(viewer).locations(request).len(), world.peer(viewer).was_refused(request))
    };
    assert_eq!(fetch(4), (5, None));
    let (got, refused) = fetch(5);
    assert_eq!((got, refused.is_some()), (0, true));
    assert_eq!(world.relay.metrics().limit_fetch_budget, 1);
}

#[test]
fn a_group_takes_sixteen_subgroups_and_reads_the_others_into_the_void() {
    let (mut world, publisher) = publishing(Draft::D18);
    for subgroup in 0..18 {
        let mut feed = Feed::with(&mut world, &publisher, 0, subgroup, false);
        feed.object(subgroup, b"layer");
        feed.send(&mut world, &publisher, b"", true);
    }
    assert_eq!(world.relay.metrics().limit_subgroups, 2);
    assert_eq!(world.peer(publisher.viewer).locations(publisher.subscription).len(), 16);
    assert_eq!(world.relay.metrics().objects_malformed, 0);
}

#[test]
fn a_subscriber_too_many_datagrams_behind_misses_the_oldest() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    for object in 0..200 {
        let object = ObjectIn { forwarding: Forwarding::Datagram, ..world.object(0, object) };
        world.relay.write_object(video, object).unwrap();
    }
    world.settle();
    let metrics = world.relay.metrics();
    assert_eq!((metrics.datagrams_out, metrics.datagrams_dropped_behind), (128, 72));
}

/// A newcomer over WebTransport, whose path is known before its session is opened.
fn is_let_in(world: &mut World, path: &str) -> bool {
    let params = SessionParams {
        draft: Draft::D18,
        transport: weir_relay::Carrier::WebTransport,
        path_and_query: Some(path.to_owned()),
        peer: "192.0.2.9:4433".parse().unwrap(),
    };
    let session = world.relay.open_session(params, world.now);
    if let Some(session) = session {
        world.relay.close_session(session, world.now);
    }
    session.is_some()
}

#[test]
fn past_load_max_newcomers_get_capacity_and_publishers_are_let_in() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let playback = format!("/playback/lv_1?tok={}", token("lv_1", 3600));
    world.relay.set_load(900);
    assert!(is_let_in(&mut world, &playback), "nine tenths are allowed");
    world.relay.set_load(901);
    assert!(!is_let_in(&mut world, &playback));
    assert!(is_let_in(&mut world, "/publish/lv_2?sk=sk_live_hush"), "a publisher is not load");
    // Over raw QUIC the path comes with SETUP: the session ends with the same word.
    let options = weir_moqt::SetupOptions { path: Some(playback.clone()), ..Default::default() };
    let late = world.dial_with(Draft::D18, None, options);
    assert_eq!(world.peer(late).close_reason(), "capacity");
    assert_eq!(world.relay.metrics().limit_load, 2);
    world.write(video, 0, 0);
    assert_eq!(world.peer(viewer).locations(request), [(0, 0)], "who is in stays served");
    world.relay.set_load(0);
    assert!(is_let_in(&mut world, &playback));
}

#[test]
fn newcomers_wait_while_a_third_of_those_who_watch_are_losing_groups() {
    let (mut world, video) = World::broadcasting();
    let viewers: Vec<usize> = (0..9).map(|_| world.viewer(Draft::D18)).collect();
    for viewer in &viewers {
        world.subscribe(*viewer, "video");
    }
    let playback = format!("/playback/lv_1?tok={}", token("lv_1", 3600));
    for (slow, expected) in [(3, true), (4, false)] {
        for viewer in &viewers[..slow] {
            world.peer(*viewer).wire.credit = 0;
        }
        let group = slow as u64 * 10;
        (group..group + 4).for_each(|group| world.write(video, group, 0));
        assert_eq!(world.relay.metrics().sessions_lossy, slow as u64);
        assert_eq!(is_let_in(&mut world, &playback), expected, "{slow} of 9");
    }
    world.advance(Duration::from_millis(4_001));
    assert!(is_let_in(&mut world, &playback), "nobody lost anything for four seconds");
    assert_eq!(world.relay.metrics().sessions_lossy, 0);
}
