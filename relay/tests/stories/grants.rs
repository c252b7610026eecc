//! Tokens for the whole session: renewal without a cut, several grants side by side, what ends when
//! one of them does, and how many sessions a token, a viewer and a broadcast may have.

use std::time::Duration;

use weir_moqt::{Event as Heard, FetchTarget, Params, RequestId};
use weir_relay::admission::Full;
use weir_relay::{
    DoneCode, Draft, Event, FullTrackName, Limits, Revocation, Subject, TrackId, TrackOptions,
};

use crate::world::{World, broadcast, keys, ns, token, token_with, track};

const DRAFTS: [Draft; 2] = [Draft::D18, Draft::D16];

fn other_track() -> FullTrackName {
    FullTrackName::new(ns(&["stream", "org_a", "lv_2"]), "video".to_owned()).unwrap()
}

/// Two broadcasts with one track each.
fn two_broadcasts() -> (World, TrackId, TrackId) {
    let (mut world, one) = World::broadcasting();
    assert!(world.relay.publish(&ns(&["stream", "org_a", "lv_2"])));
    let two = world.relay.open_track(other_track(), TrackOptions::default(), world.now).unwrap();
    (world, one, two)
}

/// A viewer of both, with a token each of so many seconds.
fn watch_both(world: &mut World, draft: Draft, lives: (i64, i64)) -> (usize, RequestId, RequestId) {
    let viewer = world.dial(draft, &format!("/playback/lv_1?tok={}", token("lv_1", lives.0)));
    let one = world.subscribe(viewer, "video");
    let params = World::with_token(&token("lv_2", lives.1));
    let two = world.peer(viewer).moqt.subscribe(&other_track(), params).unwrap();
    world.settle();
    assert!(world.peer(viewer).was_accepted(one) && world.peer(viewer).was_accepted(two));
    (viewer, one, two)
}

fn done(world: &mut World, viewer: usize, request: RequestId) -> Option<DoneCode> {
    world.peer(viewer).heard.iter().find_map(|heard| match heard {
        Heard::PublishDone { request: done, code, .. } if *done == request => Some(*code),
        _ => None,
    })
}

pub(crate) fn revoke(world: &mut World, subject: Subject) {
    let mut keys = keys();
    let at = world.wall.as_secs();
    keys.revoke(&Revocation { org: "org_a".into(), subject, at, until: at + 86_400 });
    world.relay.set_keys(keys, world.now);
    world.settle();
}

#[test]
fn a_new_token_on_any_request_extends_the_grant_without_a_cut() {
    for draft in DRAFTS {
        for way in ["update", "subscribe", "fetch", "status", "namespace"] {
            let (mut world, video) = World::broadcasting();
            world.open("audio");
            world.write(video, 0, 0);
            let path = format!("/playback/lv_1?tok={}", token("lv_1", 60));
            let viewer = world.dial(draft, &path);
            let request = world.subscribe(viewer, "video");
            world.advance(Duration::from_secs(50));
            let fresh = World::with_token(&token("lv_1", 600));
            let moqt = &mut world.peer(viewer).moqt;
            let asked = match way {
                "update" => moqt.update(request, fresh),
                "subscribe" => moqt.subscribe(&track("audio"), fresh),
                "status" => moqt.track_status(&track("audio"), fresh),
                "namespace" => moqt.subscribe_namespace(&broadcast(), fresh),
                _ => {
                    let target = FetchTarget::Standalone {
                        track: track("video"),
                        start: weir_moqt::Location::new(0, 0),
                        end: weir_moqt::Location::new(0, 0),
                    };
                    moqt.fetch(&target, fresh)
                }
            };
            asked.unwrap();
            world.settle();
            world.advance(Duration::from_mins(5));
            world.write(video, 1, 0);
            let peer = world.peer(viewer);
            assert_eq!(peer.close_reason(), "", "{draft:?} {way}");
            assert_eq!(peer.locations(request), [(1, 0)], "{draft:?} {way}");
            assert_eq!(world.relay.metrics().subscriptions_expired, 0);
        }
    }
}

#[test]
fn when_one_of_two_grants_ends_only_what_it_covered_ends() {
    for draft in DRAFTS {
        let (mut world, video, other) = two_broadcasts();
        let (viewer, one, two) = watch_both(&mut world, draft, (60, 600));
        let prefix = ns(&["stream", "org_a", "lv_1"]);
        world.peer(viewer).moqt.subscribe_namespace(&prefix, Params::default()).unwrap();
        world.settle();
        world.write(video, 0, 0);
        world.advance(Duration::from_secs(64));
        assert_eq!(done(&mut world, viewer, one), None, "the leeway still runs");
        world.advance(Duration::from_secs(1));
        assert_eq!(done(&mut world, viewer, one), Some(DoneCode::Expired), "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "");
        world.write(video, 1, 0);
        let object = world.object(0, 0);
        world.relay.write_object(other, object).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).locations(one), [(0, 0)], "nothing after the end");
        assert_eq!(world.peer(viewer).locations(two), [(0, 0)], "the other goes on");
        world.relay.unpublish(&broadcast(), world.now);
        world.settle();
        let told = |heard: &Heard| matches!(heard, Heard::NamespaceDone { .. });
        assert!(!world.peer(viewer).heard.iter().any(told), "nor of its namespace");
        world.advance(Duration::from_mins(10));
        assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_expired");
        assert_eq!(world.peer(viewer).wire.closed.as_ref().unwrap().0, 0x18);
        assert_eq!(world.relay.metrics().subscriptions_expired, 1);
        assert_eq!(world.relay.metrics().sessions_expired, 1);
    }
}

#[test]
fn revocation_by_token_viewer_key_and_version_ends_what_they_covered() {
    let live = |world: &mut World| {
        let path = format!("/playback/lv_1?tok={}", token_with("lv_1", 600, "j1", Some("anna"), 2));
        let viewer = world.dial(Draft::D18, &path);
        world.subscribe(viewer, "video");
        viewer
    };
    for (subject, ends) in [
        (Subject::Token("j1".into()), true),
        (Subject::Token("j2".into()), false),
        (Subject::Viewer("anna".into()), true),
        (Subject::Viewer("bert".into()), false),
        (Subject::Key("sgk_1".into()), true),
        (Subject::Key("sgk_2".into()), false),
        (Subject::Version(3), true),
        (Subject::Version(2), false),
    ] {
        let (mut world, _video) = World::broadcasting();
        let viewer = live(&mut world);
        revoke(&mut world, subject.clone());
        let expected = if ends { "auth_failed: token_revoked" } else { "" };
        assert_eq!(world.peer(viewer).close_reason(), expected, "{subject:?}");
        let again = live(&mut world);
        assert_eq!(world.peer(again).close_reason(), expected, "{subject:?}, later use");
        assert_eq!(world.relay.metrics().sessions, u64::from(!ends) * 2);
    }
}

#[test]
fn revocation_of_one_of_two_grants_leaves_the_other_subscription() {
    for draft in DRAFTS {
        let (mut world, _one, other) = two_broadcasts();
        let (viewer, one, two) = watch_both(&mut world, draft, (600, 600));
        revoke(&mut world, Subject::Token("j-lv_1".into()));
        assert_eq!(done(&mut world, viewer, one), Some(DoneCode::Unauthorized), "{draft:?}");
        let object = world.object(0, 0);
        world.relay.write_object(other, object).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).locations(two), [(0, 0)]);
        revoke(&mut world, Subject::Version(9));
        assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_revoked");
    }
}

#[test]
fn a_renewed_viewer_survives_the_revocation_of_its_first_token() {
    let (mut world, video) = World::broadcasting();
    let first = token_with("lv_1", 600, "j1", None, 0);
    let viewer = world.dial(Draft::D18, &format!("/playback/lv_1?tok={first}"));
    let request = world.subscribe(viewer, "video");
    // Shorter than the first: kept all the same, since the first may be withdrawn.
    let second = World::with_token(&token_with("lv_1", 300, "j2", None, 0));
    world.peer(viewer).moqt.update(request, second).unwrap();
    world.settle();
    revoke(&mut world, Subject::Token("j1".into()));
    world.write(video, 0, 0);
    assert_eq!(world.peer(viewer).locations(request), [(0, 0)]);
    revoke(&mut world, Subject::Token("j2".into()));
    // A set that knows only the second one still ends it: nothing else is left.
    assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_revoked");
}

#[test]
fn f14_a_step_of_the_wall_clock_neither_cuts_nor_keeps_a_viewer() {
    for hours in [-1_i64, 1] {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(Draft::D18);
        let request = world.subscribe(viewer, "video");
        let step = Duration::from_secs(3600 * hours.unsigned_abs());
        let back = world.wall.checked_sub(step).unwrap();
        world.wall = if hours < 0 { back } else { world.wall + step };
        world.advance(Duration::from_secs(3599));
        world.write(video, 0, 0);
        assert_eq!(world.peer(viewer).locations(request), [(0, 0)], "{hours}");
        world.advance(Duration::from_secs(6));
        assert_eq!(world.peer(viewer).close_reason(), "auth_failed: token_expired", "{hours}");
    }
}

#[test]
fn what_is_left_of_a_grant_is_told() {
    let (mut world, _video) = World::broadcasting();
    let viewer = world.dial(Draft::D18, &format!("/playback/lv_1?tok={}", token("lv_1", 60)));
    let id = world.peer(viewer).id;
    assert_eq!(world.relay.grant_expires(id, &broadcast(), world.now), None);
    world.subscribe(viewer, "video");
    let told = world.peer(viewer).heard.iter().find_map(|heard| match heard {
        Heard::SubscribeOk { params, .. } => params.expires_ms,
        _ => None,
    });
    assert_eq!(told, Some(60_000), "EXPIRES in SUBSCRIBE_OK");
    let left = |world: &World| world.relay.grant_expires(id, &broadcast(), world.now);
    assert_eq!(left(&world), Some(Duration::from_mins(1)));
    world.advance(Duration::from_secs(20));
    assert_eq!(left(&world), Some(Duration::from_secs(40)));
    world.advance(Duration::from_secs(42));
    assert_eq!(left(&world), Some(Duration::from_millis(1)), "never 0, which means never");
}

#[test]
fn sessions_of_a_token_a_viewer_and_a_broadcast_are_limited_and_given_back() {
    for (full, reason, code) in [
        (Full::SessionsPerToken, "too many sessions with this token", 2),
        (Full::SessionsPerViewer, "too many sessions of this viewer", 2),
        (Full::ViewersPerBroadcast, "capacity", 1),
    ] {
        let mut limits = Limits::default();
        match full {
            Full::SessionsPerToken => limits.sessions_per_token_max = 2,
            Full::SessionsPerViewer => limits.sessions_per_viewer_max = 2,
            _ => limits.viewers_per_broadcast_max = 2,
        }
        let mut world = World::with(limits, 0);
        assert!(world.relay.publish(&broadcast()));
        world.open("video");
        let watch = |world: &mut World, at: usize| {
            let jti = if full == Full::SessionsPerToken { "j".into() } else { format!("j{at}") };
            let vid = if full == Full::SessionsPerViewer { "v".into() } else { format!("v{at}") };
            let token = token_with("lv_1", 600, &jti, Some(&vid), 0);
            let viewer = world.dial(Draft::D18, &format!("/playback/lv_1?tok={token}"));
            world.subscribe(viewer, "video");
            viewer
        };
        let viewers = [watch(&mut world, 0), watch(&mut world, 1), watch(&mut world, 2)];
        let reasons = viewers.map(|viewer| world.peer(viewer).close_reason().to_owned());
        assert_eq!(reasons, ["", "", reason]);
        assert_eq!(world.peer(viewers[2]).wire.closed.as_ref().unwrap().0, code);
        assert_eq!(world.relay.metrics().limit_admission[full.index()], 1);
        let first = world.peer(viewers[0]).id;
        world.relay.close_session(first, world.now);
        let next = watch(&mut world, 3);
        assert_eq!(world.peer(next).close_reason(), "", "{full:?}: the place is free again");
        let ids: Vec<_> = world.peers.iter().map(|peer| peer.id).collect();
        for id in ids {
            world.relay.close_session(id, world.now);
        }
        world.settle();
        let change = |event: &Event| match event {
            Event::Place { taken, .. } => {
                if *taken {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
        assert_eq!(world.events.iter().map(change).sum::<i32>(), 0, "what was taken is given back");
    }
}

#[test]
fn a_session_without_a_place_gets_none_by_asking_otherwise() {
    let mut limits = Limits::default();
    limits.sessions_per_token_max = 1;
    let mut world = World::with(limits, 0);
    assert!(world.relay.publish(&broadcast()));
    world.open("video");
    let first = world.viewer(Draft::D18);
    world.subscribe(first, "video");
    let second = world.viewer(Draft::D18);
    let ask = world.peer(second).moqt.subscribe_namespace(&broadcast(), Params::default()).unwrap();
    world.settle();
    let refused = world.peer(second).was_refused(ask);
    assert_eq!(refused.as_deref(), Some("ExcessiveLoad: too many sessions with this token"));
    assert_eq!(world.peer(second).close_reason(), "");
    world.subscribe(second, "video");
    assert_eq!(world.peer(second).close_reason(), "too many sessions with this token");
}

#[test]
fn grants_and_tokens_of_one_session_are_limited() {
    let mut world = World::new();
    let viewer = world.viewer(Draft::D18);
    let many = World::with_token(&token("lv_1", 600)).tokens;
    let tokens = many.iter().cycle().take(5).cloned().collect();
    let params = Params { tokens, ..Params::default() };
    world.subscribe_with(viewer, "video", params);
    assert_eq!(world.peer(viewer).close_reason(), "too many tokens in one request");
    let viewer = world.viewer(Draft::D18);
    for at in 0..20 {
        let name = format!("lv_{at}");
        let namespace = ns(&["stream", "org_a", &name]);
        let track = FullTrackName::new(namespace, "video".to_owned()).unwrap();
        let params = World::with_token(&token(&name, 600));
        if world.peer(viewer).moqt.subscribe(&track, params).is_err() {
            break;
        }
        world.settle();
    }
    assert_eq!(world.peer(viewer).close_reason(), "too many grants in one session");
    let metrics = world.relay.metrics();
    assert_eq!(metrics.limit_admission[Full::GrantsPerSession.index()], 1);
    assert_eq!(metrics.limit_admission[Full::TokensPerRequest.index()], 1);
}

#[test]
fn a_bad_token_is_reported_for_the_backoff_of_its_address() {
    let (mut world, _video) = World::broadcasting();
    let viewer = world.dial(Draft::D18, "/playback/lv_1?tok=x.y.z");
    world.subscribe(viewer, "video");
    let id = world.peer(viewer).id;
    let told = |event: &Event| matches!(event, Event::AuthFailed { session } if *session == id);
    assert!(world.events.iter().any(told));
}
