//! Peers that mean harm: bad tokens, too much of everything. Numbers are those of
//! hostile-and-faults.

use weir_moqt::{FetchTarget, Location, Params};
use weir_relay::auth::AuthError;
use weir_relay::{Draft, Limits, Revocation, SessionParams, Subject};

use crate::world::{World, broadcast, keys, ns, token, track};

const DRAFTS: &[Draft] = &Draft::ALL;

/// Tokens that open nothing, with the reason the peer is told.
fn bad_tokens() -> Vec<(String, &'static str)> {
    let good = token("lv_1", 3600);
    let (message, _) = good.rsplit_once('.').unwrap();
    vec![
        (String::new(), "auth_failed: token missing"),
        (token("lv_2", 3600), "auth_failed: other stream"),
        (token("lv_1", -10), "auth_failed: token_expired"),
        (format!("{message}.AAAA"), "auth_failed: signature"),
        ("x.y.z".into(), "auth_failed: token malformed"),
        ("a".repeat(1 << 20), "auth_failed: token too large"),
    ]
}

#[test]
fn h44_a_bad_token_ends_the_session_on_subscribe_and_on_fetch() {
    for &draft in DRAFTS {
        for (token, reason) in bad_tokens() {
            for by_fetch in [false, true] {
                let (mut world, video) = World::broadcasting();
                world.write(video, 0, 0);
                let bystander = world.viewer(draft);
                let watching = world.subscribe(bystander, "video");
                let viewer = world.dial(draft, &format!("/playback/lv_1?tok={token}"));
                if by_fetch {
                    let (start, end) = (Location::new(0, 0), Location::new(0, 0));
                    let target = FetchTarget::Standalone { track: track("video"), start, end };
                    world.peer(viewer).moqt.fetch(&target, Params::default()).unwrap();
                    world.settle();
                } else {
                    world.subscribe(viewer, "video");
                }
                let closed = world.peer(viewer).wire.closed.clone();
                assert_eq!(closed, Some((2, reason.to_owned())), "{draft:?} {by_fetch}");
                assert_eq!(world.peer(viewer).got, []);
                assert_eq!(world.relay.metrics().auth_failures.iter().sum::<u64>(), 1);
                world.write(video, 0, 1);
                assert_eq!(world.peer(bystander).locations(watching), [(0, 1)]);
                assert_eq!(world.relay.metrics().sessions, 1);
            }
        }
    }
}

#[test]
fn a_session_without_any_token_watches_nothing() {
    let (mut world, _video) = World::broadcasting();
    let viewer = world.dial(Draft::D18, "/");
    world.subscribe(viewer, "video");
    assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token missing");
    let index = AuthError::Missing.index();
    assert_eq!(world.relay.metrics().auth_failures[index], 1);
}

#[test]
fn a_bad_token_in_an_update_ends_the_session() {
    let (mut world, _video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let stale = World::with_token(&token("lv_1", -10));
    world.peer(viewer).moqt.update(request, stale).unwrap();
    world.settle();
    assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_expired");
}

#[test]
fn withdrawing_a_key_or_a_token_id_ends_running_sessions() {
    let (mut world, _video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.relay.set_keys(keys(), world.now);
    world.settle();
    assert_eq!(world.peer(viewer).close_reason(), "");
    let mut without = keys();
    let subject = Subject::Token("j-lv_1".into());
    let at = world.wall.as_secs();
    without.revoke(&Revocation { org: "org_a".into(), subject, at, until: at + 86_400 });
    world.relay.set_keys(without, world.now);
    world.settle();
    assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_revoked");
    assert_eq!(world.relay.metrics().subscriptions, 0);
}

#[test]
fn h26_a_prefix_wider_than_the_token_is_refused_and_prefixes_are_capped() {
    for &draft in DRAFTS {
        let limits = Limits::default();
        let prefixes_max = limits.namespace_subscriptions_per_session_max;
        let mut world = World::with(limits, 0);
        let viewer = world.viewer(draft);
        let mut ask = |fields: &[&str]| {
            let prefix = ns(fields);
            let request =
                world.peer(viewer).moqt.subscribe_namespace(&prefix, Params::default()).unwrap();
            world.settle();
            world.peer(viewer).was_refused(request)
        };
        // Draft 14 has no empty prefix.
        if draft != Draft::D14 {
            assert!(ask(&[]).unwrap().starts_with("Unauthorized"), "{draft:?}");
        }
        for wide in [&["stream"][..], &["stream", "org_a"], &["stream", "org_a", "lv_2"]] {
            assert!(ask(wide).unwrap().starts_with("Unauthorized"), "{draft:?} {wide:?}");
        }
        for i in 0..prefixes_max {
            assert_eq!(ask(&["stream", "org_a", "lv_1", &format!("{i}")]), None);
        }
        let more = ask(&["stream", "org_a", "lv_1", "more"]).unwrap();
        assert!(more.ends_with("too many prefixes"), "{more}");
        assert_eq!(world.relay.metrics().limit_namespaces, 1);
        assert_eq!(world.peer(viewer).close_reason(), "");
    }
}

#[test]
fn h26_a_viewer_may_not_announce() {
    for &draft in DRAFTS {
        let mut world = World::new();
        let viewer = world.viewer(draft);
        let request =
            world.peer(viewer).moqt.publish_namespace(&broadcast(), Params::default()).unwrap();
        world.settle();
        assert!(world.peer(viewer).was_refused(request).unwrap().starts_with("Unauthorized"));
        assert_eq!(world.relay.metrics().namespaces, 0);
    }
}

#[test]
fn h29_fetches_of_everything_and_too_many_of_them_leave_the_live_path_alone() {
    for &draft in DRAFTS {
        let limits = {
            let mut limits = Limits::default();
            limits.fetch_bytes_per_session_max = 450;
            limits.fetches_per_session_max = 3;
            limits
        };
        let mut world = World::with(limits, 0);
        world.relay.publish(&broadcast());
        let video = world.open("video");
        (0..2).for_each(|group| world.write(video, group, 0));
        let viewer = world.viewer(draft);
        let live = world.subscribe(viewer, "video");
        world.peer(viewer).wire.credit = 0;
        let mut fetch = |start, end| {
            let target = FetchTarget::Standalone { track: track("video"), start, end };
            let request = world.peer(viewer).moqt.fetch(&target, Params::default()).unwrap();
            world.settle();
            world.peer(viewer).was_refused(request)
        };
        let everything = Location::new((1 << 62) - 2, 0);
        assert_eq!(fetch(Location::new(0, 0), everything), None, "{draft:?}");
        assert_eq!(fetch(Location::new(0, 0), everything), None);
        let over = fetch(Location::new(0, 0), everything).unwrap();
        assert!(over.ends_with("fetch budget"), "{over}");
        assert!(fetch(Location::new(9, 0), everything).unwrap().starts_with("InvalidRange"));
        assert_eq!(fetch(Location::new(1, 1), Location::new(1, 1)).unwrap()[..12], *"InvalidRange");
        let one = fetch(Location::new(1, 0), Location::new(1, 0)).unwrap();
        assert!(one.ends_with("fetch budget"), "{one}");
        assert_eq!(world.relay.metrics().limit_fetch_budget, 2);
        world.grant(viewer, 1 << 20);
        world.write(video, 1, 1);
        assert_eq!(world.peer(viewer).locations(live), [(1, 1)]);
        world.peer(viewer).wire.credit = 0;
        let small = || FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(1, 0),
            end: Location::new(1, 0),
        };
        for _ in 0..4 {
            world.peer(viewer).moqt.fetch(&small(), Params::default()).unwrap();
        }
        world.settle();
        assert_eq!(world.relay.metrics().limit_fetches, 1);
    }
}

#[test]
fn sessions_subscriptions_and_tracks_are_capped_and_counted() {
    let mut limits = Limits::default();
    limits.sessions_max = 2;
    limits.subscriptions_per_session_max = 2;
    limits.tracks_max = 3;
    let mut world = World::with(limits, 0);
    world.relay.publish(&broadcast());
    for name in ["a", "b", "c"] {
        world.open(name);
    }
    let options = weir_relay::TrackOptions::default();
    assert_eq!(world.relay.open_track(track("d"), options, world.now), None);
    let viewer = world.viewer(Draft::D18);
    world.viewer(Draft::D18);
    let params = SessionParams {
        draft: Draft::D18,
        transport: weir_relay::Carrier::WebTransport,
        path_and_query: None,
        peer: "192.0.2.1:1".parse().unwrap(),
    };
    assert_eq!(world.relay.open_session(params, world.now), None);
    world.subscribe(viewer, "a");
    let again = world.subscribe(viewer, "a");
    assert!(world.peer(viewer).was_refused(again).unwrap().starts_with("DuplicateSubscription"));
    world.subscribe(viewer, "b");
    let third = world.subscribe(viewer, "c");
    assert!(world.peer(viewer).was_refused(third).unwrap().starts_with("ExcessiveLoad"));
    let metrics = world.relay.metrics();
    assert_eq!(metrics.limit_sessions, 1);
    assert_eq!(metrics.limit_subscriptions, 1);
    assert_eq!(metrics.limit_tracks, 1);
}

#[test]
fn the_caches_of_a_shard_share_one_cap() {
    let mut limits = Limits::default();
    limits.cache_shard_bytes_max = 1000;
    let mut world = World::with(limits, 0);
    world.relay.publish(&broadcast());
    let tracks = ["a", "b", "c"].map(|name| world.open(name));
    for group in 0..4 {
        for track in tracks {
            (0..3).for_each(|object| world.write(track, group, object));
            assert!(world.relay.metrics().cache_bytes <= 1000);
        }
    }
    assert!(world.relay.metrics().limit_cache_bytes > 0);
}

#[test]
fn a_peer_that_never_sends_setup_is_closed_in_time() {
    let mut world = World::new();
    let params = SessionParams {
        draft: Draft::D18,
        transport: weir_relay::Carrier::Quic,
        path_and_query: None,
        peer: "192.0.2.1:1".parse().unwrap(),
    };
    world.relay.open_session(params, world.now).unwrap();
    world.advance(std::time::Duration::from_secs(5));
    assert_eq!(world.relay.metrics().limit_setup_timeout, 1);
}

#[test]
fn stale_ids_are_ignored_everywhere() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let id = world.peer(viewer).id;
    world.relay.close_session(id, world.now);
    world.relay.close_session(id, world.now);
    let (stream, now, wall) = (weir_relay::StreamId(3), world.now, world.wall);
    world.relay.handle_stream(id, stream, weir_relay::Dir::Uni, vec![0; 9].into(), true, now, wall);
    world.relay.handle_reset(id, stream, 0, now);
    world.relay.handle_stop(id, stream, 0, now);
    world.relay.handle_writable(id, stream);
    world.relay.handle_streams_available(id, weir_relay::Dir::Uni);
    world.relay.kick(id, "late", now);
    world.relay.publish_authorized(id, Ok(broadcast()), now, world.wall);
    world.relay.end_track(video, weir_relay::DoneCode::TrackEnded, now);
    world.relay.end_track(video, weir_relay::DoneCode::TrackEnded, now);
    world.relay.set_export(video, true, now);
    assert!(world.relay.write_object(video, world.object(0, 0)).is_err());
    assert_eq!(world.relay.cached(video).count(), 0);
    world.settle();
    assert_eq!(world.peer(viewer).locations(request), []);
    assert_eq!(world.relay.metrics().sessions, 0);
    assert_eq!(world.relay.metrics().subscriptions, 0);
}
