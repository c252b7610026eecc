//! Viewers of a local broadcast.

use std::time::Duration;

use weir_moqt::{Event as Heard, FetchTarget, Filter, GroupOrder, Location, Params, SetupOptions};
use weir_relay::{DoneCode, Draft, DropReason, Event, Namespace, TrackOptions};

use crate::world::{World, broadcast, ns, payload, token, track};

const DRAFTS: &[Draft] = &Draft::ALL;

#[test]
fn viewer_joins_mid_group_and_gets_the_whole_newest_group() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        for (group, objects) in [(0, 5), (1, 3)] {
            (0..objects).for_each(|object| world.write(video, group, object));
        }
        let viewer = world.viewer(draft);
        let (subscription, fetch) = world.join(viewer, "video");
        world.write(video, 1, 3);
        world.write(video, 2, 0);
        let peer = world.peer(viewer);
        let (past, live) = ([(1, 0), (1, 1), (1, 2)], [(1, 3), (2, 0)]);
        if fetch == subscription {
            // A fill carries the request id of its subscription.
            assert_eq!(peer.locations(subscription), [&past[..], &live].concat(), "{draft:?}");
        } else {
            assert_eq!(peer.locations(fetch), past, "{draft:?}");
            assert_eq!(peer.locations(subscription), live, "{draft:?}");
        }
        assert!(peer.ended.contains(&1), "a group that is over is finished");
        peer.assert_unaltered();
    }
}

#[test]
fn two_drafts_watch_one_broadcast_and_get_equal_objects() {
    let (mut world, video) = World::broadcasting();
    let viewers = [world.viewer(Draft::D18), world.viewer(Draft::D16)];
    let requests = viewers.map(|viewer| world.subscribe(viewer, "video"));
    for group in 0..4 {
        (0..6).for_each(|object| world.write(video, group, object));
    }
    let got = |world: &mut World, i: usize| {
        let peer = world.peer(viewers[i]);
        peer.assert_unaltered();
        let objects = peer.got.iter().map(|got| (got.location, got.payload.clone()));
        (peer.locations(requests[i]).len(), objects.collect::<Vec<_>>())
    };
    let (count, first) = got(&mut world, 0);
    assert_eq!(count, 24);
    assert_eq!(got(&mut world, 1), (24, first));
}

#[test]
fn filters_choose_where_a_subscription_starts_and_ends() {
    let start = Location::new(3, 1);
    let cases = [
        (Some(Filter::LargestObject), vec![(1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0)]),
        (Some(Filter::NextGroupStart), vec![(2, 0), (2, 1), (3, 0), (3, 1), (4, 0)]),
        (Some(Filter::AbsoluteStart(start)), vec![(3, 1), (4, 0)]),
        (Some(Filter::AbsoluteRange { start, end_group: 3 }), vec![(3, 1)]),
    ];
    for &draft in DRAFTS {
        for (filter, expected) in &cases {
            let (mut world, video) = World::broadcasting();
            for (group, object) in [(0, 0), (1, 0), (1, 1)] {
                world.write(video, group, object);
            }
            let viewer = world.viewer(draft);
            let params = Params { filter: *filter, ..Params::default() };
            let request = world.subscribe_with(viewer, "video", params);
            for (group, object) in [(1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0)] {
                world.write(video, group, object);
            }
            let peer = world.peer(viewer);
            assert_eq!(peer.locations(request), *expected, "{draft:?} {filter:?}");
            let done = peer.heard.iter().any(|heard| matches!(heard, Heard::PublishDone { .. }));
            assert_eq!(done, matches!(filter, Some(Filter::AbsoluteRange { .. })));
        }
    }
}

#[test]
fn without_a_filter_the_newest_group_comes_whole_unless_a_fill_could_bring_it() {
    for (draft, expected) in [
        (Draft::D18, &[(1, 0), (1, 1), (1, 2)][..]),
        (Draft::D16, &[(1, 0), (1, 1), (1, 2)]),
        (Draft::D22, &[(1, 2)]),
    ] {
        let (mut world, video) = World::broadcasting();
        for (group, object) in [(0, 0), (1, 0), (1, 1)] {
            world.write(video, group, object);
        }
        let viewer = world.viewer(draft);
        let request = world.subscribe_with(viewer, "video", Params::default());
        world.write(video, 1, 2);
        assert_eq!(world.peer(viewer).locations(request), expected, "{draft:?}");
    }
}

#[test]
fn slow_viewer_skips_old_groups_and_others_do_not_notice() {
    let (mut world, video) = World::broadcasting();
    let slow = world.viewer(Draft::D18);
    let quick = world.viewer(Draft::D16);
    let slow_request = world.subscribe(slow, "video");
    let quick_request = world.subscribe(quick, "video");
    world.peer(slow).wire.credit = 150;
    for group in 0..8 {
        (0..5).for_each(|object| world.write(video, group, object));
    }
    assert_eq!(world.peer(quick).locations(quick_request).len(), 40);
    world.peer(quick).assert_unaltered();
    // Reset with the delivery timeout code, oldest first, and no more than two groups are kept.
    let resets = world.peer(slow).wire.resets.clone();
    assert!(resets.len() >= 5, "{resets:?}");
    assert!(resets.iter().all(|(_, code)| *code == 2));
    assert!(world.relay.metrics().dropped(DropReason::FarBehind) >= 5);
    world.grant(slow, usize::MAX / 4);
    world.write(video, 8, 0);
    let peer = world.peer(slow);
    let last = *peer.locations(slow_request).last().unwrap();
    assert_eq!(last, (8, 0), "the slow one is back at the live edge");
    peer.assert_unaltered();
}

#[test]
fn a_viewer_that_never_reads_costs_no_more_than_its_cursors() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.peer(viewer).wire.credit = 0;
    for group in 0..100 {
        (0..3).for_each(|object| world.write(video, group, object));
    }
    assert_eq!(world.relay.metrics().cache_bytes, 4 * 3 * 100);
    assert_eq!(world.peer(viewer).got, []);
    assert_eq!(world.relay.metrics().groups_out, 100);
    assert_eq!(world.relay.metrics().dropped(DropReason::FarBehind), 98);
}

#[test]
fn objects_past_the_delivery_timeout_are_not_sent() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    let params = Params { object_timeout_ms: Some(500), ..Params::default() };
    let request = world.subscribe_with(viewer, "video", params);
    world.peer(viewer).wire.credit = 50;
    world.write(video, 0, 0);
    world.advance(Duration::from_millis(501));
    world.write(video, 0, 1);
    assert_eq!(world.relay.metrics().dropped(DropReason::ObjectTimeout), 1);
    world.grant(viewer, 10_000);
    world.write(video, 1, 0);
    assert_eq!(world.peer(viewer).locations(request), [(1, 0)]);
}

#[test]
fn a_viewer_without_stream_credit_goes_on_when_it_comes() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    world.peer(viewer).wire.streams = 0;
    world.write(video, 0, 0);
    world.write(video, 0, 1);
    assert_eq!(world.peer(viewer).locations(request), []);
    world.peer(viewer).wire.streams = 1;
    let id = world.peer(viewer).id;
    world.relay.handle_streams_available(id, weir_relay::Dir::Uni);
    world.settle();
    assert_eq!(world.peer(viewer).locations(request), [(0, 0), (0, 1)]);
}

#[test]
fn audio_goes_first_and_older_groups_before_newer_ones() {
    let (mut world, video) = World::broadcasting();
    let audio = world.open("audio");
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.subscribe(viewer, "audio");
    world.peer(viewer).wire.credit = 0;
    world.write(video, 0, 0);
    world.write(video, 1, 0);
    let mut sound = world.object(0, 0);
    sound.priority = 1;
    world.relay.write_object(audio, sound).unwrap();
    world.settle();
    let media = world.peer(viewer).wire.priorities.values().copied().filter(|p| *p != i32::MAX);
    let media: Vec<i32> = media.collect();
    let [old, new, sound] = media[..] else { panic!("three streams: {media:?}") };
    assert!(new < old && old < sound, "{media:?}");
}

#[test]
fn forward_false_pauses_and_true_resumes_at_the_live_edge() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let request = world.subscribe(viewer, "video");
        world.write(video, 0, 0);
        let forward = |on| Params { forward: Some(on), ..Params::default() };
        world.peer(viewer).moqt.update(request, forward(false)).unwrap();
        world.settle();
        world.write(video, 0, 1);
        world.write(video, 1, 0);
        world.peer(viewer).moqt.update(request, forward(true)).unwrap();
        world.settle();
        world.write(video, 1, 1);
        assert_eq!(world.peer(viewer).locations(request), [(0, 0), (1, 1)], "{draft:?}");
    }
}

#[test]
fn unsubscribing_stops_at_once_and_frees_the_seat() {
    let (mut world, video) = World::broadcasting();
    let viewers: Vec<_> = DRAFTS.iter().cycle().take(4).map(|d| world.viewer(*d)).collect();
    let requests: Vec<_> = viewers.iter().map(|v| world.subscribe(*v, "video")).collect();
    world.write(video, 0, 0);
    for left in [0, 2] {
        world.peer(viewers[left]).moqt.cancel(requests[left]);
        world.settle();
    }
    world.write(video, 0, 1);
    let counts: Vec<_> =
        (0..4).map(|i| world.peer(viewers[i]).locations(requests[i]).len()).collect();
    assert_eq!(counts, [1, 2, 1, 2]);
    assert_eq!(world.relay.metrics().subscriptions, 2);
}

#[test]
fn the_end_of_a_broadcast_reaches_every_viewer_after_its_last_object() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let request = world.subscribe(viewer, "video");
        world.peer(viewer).wire.credit = 0;
        world.write(video, 0, 0);
        world.relay.unpublish(&broadcast(), world.now);
        world.settle();
        let done = |world: &mut World| {
            world.peer(viewer).heard.iter().any(|heard| {
                matches!(
                    heard,
                    Heard::PublishDone { code: DoneCode::TrackEnded, streams: Some(1), .. }
                )
            })
        };
        assert!(!done(&mut world));
        world.grant(viewer, 10_000);
        assert!(done(&mut world), "{draft:?}");
        assert_eq!(world.peer(viewer).locations(request), [(0, 0)]);
        assert_eq!(world.relay.metrics().tracks, 0);
        assert_eq!(world.relay.metrics().cache_bytes, 0);
        let late = world.subscribe(viewer, "video");
        assert!(world.peer(viewer).was_refused(late).unwrap().starts_with("DoesNotExist"));
    }
}

#[test]
fn an_ended_track_does_not_wait_for_a_dead_reader_for_ever() {
    let (mut world, video) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.peer(viewer).wire.credit = 0;
    world.write(video, 0, 0);
    world.relay.end_track(video, DoneCode::TrackEnded, world.now);
    world.advance(Duration::from_secs(6));
    assert_eq!(world.relay.metrics().tracks, 0);
    assert_eq!(world.relay.metrics().subscriptions, 0);
    assert_eq!(world.peer(viewer).wire.resets.len(), 1);
}

#[test]
fn fetch_says_which_objects_it_does_not_know() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        (0..10).for_each(|group| world.write(video, group, 0));
        let viewer = world.viewer(draft);
        let whole = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(0, 0),
            end: Location::whole_group(8),
        };
        let fetch = world.peer(viewer).moqt.fetch(&whole, Params::default()).unwrap();
        world.settle();
        let peer = world.peer(viewer);
        let gaps = peer.heard.iter().filter(|heard| matches!(heard, Heard::FetchGap { .. }));
        if draft == Draft::D14 {
            // It has no word for that on a stream, and silence would mean that there are none.
            assert_eq!((peer.locations(fetch), peer.wire.resets.len()), (Vec::new(), 0));
            assert!(peer.was_refused(fetch).unwrap().starts_with("UnknownStatus"));
        } else {
            assert_eq!(gaps.count(), 1);
            assert_eq!(peer.locations(fetch), [(6, 0), (7, 0), (8, 0)], "{draft:?}");
        }
        peer.assert_unaltered();
        let newest_first =
            Params { group_order: Some(GroupOrder::Descending), ..Params::default() };
        let known = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(7, 0),
            end: Location::whole_group(9),
        };
        let fetch = world.peer(viewer).moqt.fetch(&known, newest_first).unwrap();
        world.settle();
        assert_eq!(world.peer(viewer).locations(fetch), [(9, 0), (8, 0), (7, 0)], "{draft:?}");
    }
}

#[test]
fn track_status_tells_the_largest_object() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        world.write(video, 4, 0);
        world.write(video, 4, 1);
        let viewer = world.viewer(draft);
        let status =
            world.peer(viewer).moqt.track_status(&track("video"), Params::default()).unwrap();
        world.settle();
        let largest = world.peer(viewer).heard.iter().find_map(|heard| match heard {
            Heard::RequestOk { request, params, .. } if *request == status => params.largest,
            _ => None,
        });
        assert_eq!(largest, Some(Location::new(4, 1)), "{draft:?}");
    }
}

#[test]
fn a_viewer_hears_of_its_broadcast_coming_and_going() {
    for &draft in DRAFTS {
        let mut world = World::new();
        let viewer = world.viewer(draft);
        let prefix =
            world.peer(viewer).moqt.subscribe_namespace(&broadcast(), Params::default()).unwrap();
        world.settle();
        assert!(world.peer(viewer).was_accepted(prefix), "{draft:?}");
        world.relay.publish(&broadcast());
        world.relay.publish(&ns(&["stream", "org_a", "lv_2"]));
        world.settle();
        world.relay.unpublish(&broadcast(), world.now);
        world.settle();
        let told: Vec<bool> = world
            .peer(viewer)
            .heard
            .iter()
            .filter_map(|heard| match heard {
                Heard::Namespace { .. } => Some(true),
                Heard::NamespaceDone { .. } => Some(false),
                _ => None,
            })
            .collect();
        assert_eq!(told, [true, false], "{draft:?}");
    }
}

#[test]
fn a_token_may_come_in_setup_or_in_the_request() {
    for &draft in DRAFTS {
        let (mut world, _video) = World::broadcasting();
        let options = SetupOptions {
            path: Some("/playback/lv_1".into()),
            authority: Some("weir.example".into()),
            tokens: World::with_token(&token("lv_1", 3600)).tokens,
            ..SetupOptions::default()
        };
        let raw = world.dial_with(draft, None, options);
        let request = world.subscribe(raw, "video");
        assert!(world.peer(raw).was_accepted(request), "{draft:?}");
        let bare = world.dial(draft, "/playback/lv_1");
        let params = World::with_token(&token("lv_1", 3600));
        let request = world.subscribe_with(bare, "video", params);
        assert!(world.peer(bare).was_accepted(request), "{draft:?}");
    }
}

#[test]
fn token_expiry_ends_the_session_unless_it_was_renewed() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        let path = format!("/playback/lv_1?tok={}", token("lv_1", 60));
        let idle = world.dial(draft, &path);
        let renewing = world.dial(draft, &path);
        world.subscribe(idle, "video");
        let request = world.subscribe(renewing, "video");
        world.advance(Duration::from_secs(30));
        let renewed = World::with_token(&token("lv_1", 600));
        world.peer(renewing).moqt.update(request, renewed).unwrap();
        world.settle();
        world.advance(Duration::from_secs(36));
        assert_eq!(world.peer(idle).close_reason(), "auth_failed: token_expired", "{draft:?}");
        assert_eq!(world.peer(idle).wire.closed.as_ref().unwrap().0, 0x18);
        assert_eq!(world.peer(renewing).close_reason(), "");
        world.write(video, 0, 0);
        assert_eq!(world.peer(renewing).locations(request), [(0, 0)]);
        assert_eq!(world.relay.metrics().sessions_expired, 1);
        world.advance(Duration::from_mins(10));
        assert_eq!(world.peer(renewing).close_reason(), "auth_failed: token_expired");
        assert_eq!(world.relay.metrics().sessions, 0);
        assert_eq!(world.relay.metrics().subscriptions, 0);
    }
}

#[test]
fn drain_sends_every_session_elsewhere() {
    for &draft in DRAFTS {
        let (mut world, _video) = World::broadcasting();
        let before = world.viewer(draft);
        let span = Duration::from_secs(20);
        world.relay.drain("https://other.example/", world.now + span, world.now);
        world.settle();
        world.advance(Duration::from_secs(5));
        let after = world.viewer(draft);
        for viewer in [before, after] {
            let told = world.peer(viewer).heard.iter().any(|heard| {
                matches!(heard, Heard::GoAway { uri, .. } if uri == "https://other.example/")
            });
            assert!(told, "{draft:?}");
        }
        if draft == Draft::D18 {
            let spans = [before, after].map(|viewer| {
                world.peer(viewer).heard.iter().find_map(|heard| match heard {
                    Heard::GoAway { timeout_ms, .. } => *timeout_ms,
                    _ => None,
                })
            });
            assert_eq!(spans, [Some(20_000), Some(15_000)], "what is left until the deadline");
        }
        assert_eq!(world.relay.metrics().goaways_sent, 2);
    }
}

#[test]
fn a_session_that_stays_past_the_deadline_of_goaway_is_closed_and_one_that_left_is_not() {
    for &draft in DRAFTS {
        let (mut world, video) = World::broadcasting();
        let (stays, leaves) = (world.viewer(draft), world.viewer(draft));
        let request = world.subscribe(stays, "video");
        world.relay.drain("", world.now + Duration::from_secs(10), world.now);
        world.settle();
        let id = world.peer(leaves).id;
        world.relay.close_session(id, world.now);
        world.write(video, 0, 0);
        assert_eq!(world.peer(stays).locations(request), [(0, 0)], "it is served until then");
        world.advance(Duration::from_secs(9));
        assert!(world.peer(stays).wire.closed.is_none(), "{draft:?}");
        world.advance(Duration::from_secs(2));
        assert_eq!(world.peer(stays).wire.closed.as_ref().map(|(code, _)| *code), Some(0x10));
        assert_eq!(world.relay.metrics().goaway_timeouts, 1);
        assert_eq!(world.relay.metrics().sessions, 0, "{draft:?}");
    }
}

#[test]
fn a_replaced_track_ends_the_old_one_and_serves_the_new() {
    let (mut world, old) = World::broadcasting();
    let viewer = world.viewer(Draft::D18);
    world.subscribe(viewer, "video");
    world.write(old, 0, 0);
    let new = world.relay.open_track(track("video"), TrackOptions::default(), world.now).unwrap();
    world.settle();
    assert!(world.relay.write_object(old, world.object(0, 1)).is_err());
    let request = world.subscribe(viewer, "video");
    world.write(new, 0, 0);
    assert_eq!(world.peer(viewer).locations(request), [(0, 0)]);
    assert_eq!(world.peer(viewer).got[0].payload, payload(0, 0));
    let left = world.events.iter().filter(|event| matches!(event, Event::Unsubscribed { .. }));
    assert_eq!(left.count(), 1);
}

/// What a viewer was told of without asking: namespaces that came, and how many of them went.
fn told(world: &mut World, viewer: usize) -> (Vec<Namespace>, usize) {
    let heard = &world.peer(viewer).heard;
    let came = heard.iter().filter_map(|heard| match heard {
        Heard::PublishNamespace { namespace, .. } => Some(namespace.clone()),
        _ => None,
    });
    let went = heard.iter().filter(|heard| matches!(heard, Heard::PublishNamespaceDone { .. }));
    (came.collect(), went.count())
}

#[test]
fn a_viewer_that_waits_to_be_told_hears_of_its_broadcast_and_of_no_other() {
    for draft in Draft::ALL {
        let (mut world, _) = World::broadcasting();
        world.relay.publish(&ns(&["stream", "org_a", "lv_2"]));
        let path = format!("/playback/lv_1?tok={}", token("lv_1", 3600));
        let quiet = world.dial(draft, &path);
        let viewer = world.dial(draft, &format!("{path}&announce=1"));
        assert_eq!(told(&mut world, quiet), (vec![], 0), "{draft:?}");
        assert_eq!(told(&mut world, viewer), (vec![broadcast()], 0), "{draft:?}");
        // Now it knows what to ask for.
        let request = world.subscribe(viewer, "video");
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        world.relay.unpublish(&broadcast(), world.now);
        world.settle();
        assert_eq!(told(&mut world, viewer), (vec![broadcast()], 1), "{draft:?}");
        world.relay.publish(&broadcast());
        world.settle();
        assert_eq!(told(&mut world, viewer), (vec![broadcast(), broadcast()], 1), "{draft:?}");
        assert_eq!(world.peer(viewer).failure, None);
        assert_eq!(world.peer(viewer).close_reason(), "");
    }
}

#[test]
fn who_waits_to_be_told_without_a_good_token_is_told_nothing_and_closed() {
    for draft in Draft::ALL {
        let (mut world, _) = World::broadcasting();
        for (query, reason) in [
            ("announce=1".to_owned(), "auth_failed: token missing"),
            (format!("announce=1&tok={}", token("lv_1", -3600)), "auth_failed: token_expired"),
        ] {
            let viewer = world.dial(draft, &format!("/playback/lv_1?{query}"));
            assert_eq!(told(&mut world, viewer), (vec![], 0), "{draft:?} {query}");
            assert_eq!(world.peer(viewer).close_reason(), reason, "{draft:?}");
        }
    }
}
