//! FETCH of what the cache does not have: the publisher is asked once, its answer reaches everybody who waits, and what
//! nobody knows is said to be unknown.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{FetchEncoder, FetchHeader, FetchObject, Gap};
use weir_moqt::{
    Event as Heard, FetchTarget, Fill, Filter, GroupOrder, Location, Params, RequestId,
};
use weir_relay::{DoneCode, Draft, Limits, Subject};

use crate::grants::revoke;
use crate::publishers::{Group, asked_for, publishing};
use crate::world::{World, ns, payload, token_with, track};

/// A publisher whose track has groups 50 and on in the relay's cache; older ones only it has.
fn joined_late(draft: Draft, limits: Limits) -> (World, usize, usize, RequestId) {
    let mut world = World::with(limits, 0);
    let publisher = publishing(&mut world, draft);
    let viewer = world.viewer(Draft::D18);
    let request = world.subscribe(viewer, "video");
    let upstream = asked_for(&mut world, publisher)[0];
    let largest = Params { largest: Some(Location::new(49, 2)), ..Params::default() };
    world.peer(publisher).moqt.accept_subscribe(upstream, 1, largest, &[]).unwrap();
    world.settle();
    let mut group = Group::begin(&mut world, publisher, draft, 1, 50);
    (0..2).for_each(|object| group.object(object));
    group.send(&mut world, publisher, true);
    (world, publisher, viewer, request)
}

fn fetch(world: &mut World, viewer: usize, from: u64, to: u64, params: Params) -> RequestId {
    let target = FetchTarget::Standalone {
        track: track("video"),
        start: Location::new(from, 0),
        end: Location::whole_group(to),
    };
    let request = world.peer(viewer).moqt.fetch(&target, params).unwrap();
    world.settle();
    request
}

/// The publisher serves no past.
pub(crate) fn refuse(world: &mut World, publisher: usize, request: RequestId) {
    let code = weir_relay::RequestCode::NotSupported;
    let error = weir_moqt::RequestError::new(code, "no past here");
    world.peer(publisher).moqt.reject(request, &error).unwrap();
    world.settle();
}

/// Every FETCH that reached the publisher.
pub(crate) fn fetched(world: &mut World, publisher: usize) -> Vec<RequestId> {
    let heard = &world.peer(publisher).heard;
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Fetch { request, .. } => Some(*request),
            _ => None,
        })
        .collect()
}

/// What a FETCH asked the publisher for.
fn range_of(world: &mut World, publisher: usize, request: RequestId) -> (Location, Location) {
    let heard = &world.peer(publisher).heard;
    let range = heard.iter().find_map(|heard| match heard {
        Heard::Fetch {
            request: of, target: FetchTarget::Standalone { start, end, .. }, ..
        } if *of == request => Some((*start, *end)),
        _ => None,
    });
    range.unwrap()
}

/// The publisher answers with those of these objects that it was asked for, and then says of the rest up to `gap` that
/// it does not know it.
fn answer(
    world: &mut World,
    publisher: usize,
    draft: Draft,
    request: RequestId,
    objects: &[(u64, u64)],
    gap: Option<Location>,
) {
    let (start, end) = range_of(world, publisher, request);
    let asked =
        |(group, object): &&(u64, u64)| (start..=end).contains(&Location::new(*group, *object));
    let objects: Vec<_> = objects.iter().filter(asked).copied().collect();
    answer_with(world, publisher, draft, request, &objects, gap);
}

/// The publisher answers with these objects, whatever it was asked for.
fn answer_with(
    world: &mut World,
    publisher: usize,
    draft: Draft,
    request: RequestId,
    objects: &[(u64, u64)],
    gap: Option<Location>,
) {
    let end = Location::new(50, 1);
    let moqt = &mut world.peer(publisher).moqt;
    moqt.accept_fetch(request, false, end, Params::default(), &[]).unwrap();
    let mut out = BytesMut::new();
    let header = FetchHeader { request };
    let mut encoder = FetchEncoder::new(draft, &header, GroupOrder::Ascending, &mut out).unwrap();
    for (group, object) in objects {
        let payload = payload(*group, *object);
        let head = FetchObject {
            location: Location::new(*group, *object),
            subgroup: Some(0),
            priority: 2,
            properties: Bytes::new(),
            payload_len: payload.len() as u64,
        };
        encoder.object(&head, &mut out).unwrap();
        out.extend_from_slice(&payload);
    }
    if let Some(gap) = gap {
        encoder.gap(gap, Gap::Unknown, &mut out).unwrap();
    }
    let stream = world.new_uni(publisher);
    world.send_raw(publisher, stream, out.freeze(), true);
}

/// One object of group 48 after the other, `pause` apart.
fn answer_slowly(world: &mut World, publisher: usize, request: RequestId, pause: Duration) {
    answer_slowly_to(world, publisher, request, pause, 10, true);
}

fn answer_slowly_to(
    world: &mut World,
    publisher: usize,
    request: RequestId,
    pause: Duration,
    objects: u64,
    ends: bool,
) {
    let draft = Draft::D18;
    let end = Location::new(50, 1);
    let moqt = &mut world.peer(publisher).moqt;
    moqt.accept_fetch(request, false, end, Params::default(), &[]).unwrap();
    let mut out = BytesMut::new();
    let header = FetchHeader { request };
    let mut encoder = FetchEncoder::new(draft, &header, GroupOrder::Ascending, &mut out).unwrap();
    let stream = world.new_uni(publisher);
    for object in 0..objects {
        let payload = payload(48, object);
        let head = FetchObject {
            location: Location::new(48, object),
            subgroup: Some(0),
            priority: 2,
            properties: Bytes::new(),
            payload_len: payload.len() as u64,
        };
        encoder.object(&head, &mut out).unwrap();
        out.extend_from_slice(&payload);
        world.send_raw(publisher, stream, out.split().freeze(), ends && object + 1 == objects);
        world.advance(pause);
    }
}

/// Ends of the ranges a viewer was told are unknown.
fn unknown(world: &mut World, viewer: usize) -> Vec<Location> {
    let heard = &world.peer(viewer).heard;
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::FetchGap { end, gap: Gap::Unknown, .. } => Some(*end),
            _ => None,
        })
        .collect()
}

#[test]
fn a_hole_is_asked_of_the_publisher_once_and_answers_all_who_wait() {
    for draft in Draft::ALL {
        let (mut world, publisher, viewer, _) = joined_late(draft, Limits::default());
        let other = world.viewer(Draft::D16);
        let first = fetch(&mut world, viewer, 48, 50, Params::default());
        let second = fetch(&mut world, other, 49, 50, Params::default());
        let asked = fetched(&mut world, publisher);
        assert_eq!(asked.len(), 1, "{draft:?}: one for both");
        assert!(!world.peer(viewer).was_accepted(first));
        let objects = [(48, 0), (48, 1), (49, 0), (49, 2), (50, 0), (50, 1)];
        answer(&mut world, publisher, draft, asked[0], &objects, None);
        assert_eq!(world.peer(viewer).locations(first), objects, "{draft:?}");
        assert_eq!(world.peer(other).locations(second), objects[2..]);
        for at in [viewer, other] {
            world.peer(at).assert_unaltered();
            assert_eq!(unknown(&mut world, at), [], "{draft:?}");
        }
        assert_eq!(world.relay.metrics().upstream_fetches, 1);
        // The live edge is where it was.
        let mut group = Group::begin(&mut world, publisher, draft, 1, 51);
        group.object(0);
        group.send(&mut world, publisher, true);
        let live = world.peer(viewer).got.last().unwrap().location;
        assert_eq!(live, Location::new(51, 0));
    }
}

#[test]
fn the_publisher_is_asked_for_what_is_missing_and_for_nothing_that_came_live() {
    for draft in Draft::ALL {
        let (mut world, publisher, viewer, _) = joined_late(draft, Limits::default());
        let first = fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        let missing = (Location::new(48, 0), Location::whole_group(49));
        assert_eq!(range_of(&mut world, publisher, asked), missing, "{draft:?}");
        // Who joins when more has come live lacks no more than the first did.
        let mut group = Group::begin(&mut world, publisher, draft, 1, 51);
        group.object(0);
        group.send(&mut world, publisher, true);
        let other = world.viewer(Draft::D18);
        let second = fetch(&mut world, other, 48, 51, Params::default());
        assert_eq!(fetched(&mut world, publisher).len(), 1, "{draft:?}");
        answer(&mut world, publisher, draft, asked, &WHOLE, None);
        let of_first = world.peer(viewer).locations(first);
        assert_eq!(of_first, WHOLE, "{draft:?}");
        assert_eq!(world.peer(other).locations(second), [&WHOLE[..], &[(51, 0)]].concat());
        world.peer(other).assert_unaltered();
        // And who comes later still is served from memory, though it lacks the middle only.
        let third = fetch(&mut world, other, 49, 51, Params::default());
        assert_eq!(world.peer(other).locations(third), [&WHOLE[2..], &[(51, 0)]].concat());
        assert_eq!(world.relay.metrics().upstream_fetches, 1, "{draft:?}");
    }
}

#[test]
fn who_comes_later_gets_the_same_past_without_asking_the_publisher_again() {
    for draft in Draft::ALL {
        let (mut world, publisher, viewer, _) = joined_late(draft, Limits::default());
        fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        let objects = [(48, 0), (48, 1), (49, 0), (49, 2), (50, 0), (50, 1)];
        answer(&mut world, publisher, draft, asked, &objects, None);
        for (from, expected) in [(48, &objects[..]), (49, &objects[2..])] {
            world.advance(Duration::from_secs(1));
            let other = world.viewer(Draft::D18);
            let request = fetch(&mut world, other, from, 50, Params::default());
            assert_eq!(world.peer(other).locations(request), expected, "{draft:?}");
            world.peer(other).assert_unaltered();
            assert_eq!(unknown(&mut world, other), [], "{draft:?}");
        }
        assert_eq!(world.relay.metrics().upstream_fetches, 1);
        assert_eq!(world.relay.metrics().upstream_fetches_spared, 2);
        // Of what was before, nothing has been heard.
        fetch(&mut world, viewer, 47, 50, Params::default());
        assert_eq!(fetched(&mut world, publisher).len(), 2, "{draft:?}");
    }
}

#[test]
fn what_a_publisher_brought_is_kept_for_a_while_and_within_bytes() {
    let objects = [(48, 0), (48, 1), (49, 0), (49, 2), (50, 0), (50, 1)];
    let mut small = Limits::default();
    small.upstream_answers_bytes_max = 8;
    for (limits, hits) in [(Limits::default(), 0), (small, 1)] {
        let (mut world, publisher, viewer, _) = joined_late(Draft::D18, limits.clone());
        fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        answer(&mut world, publisher, Draft::D18, asked, &objects, None);
        if hits == 0 {
            world.advance(limits.upstream_answer_kept + Duration::from_millis(1));
        }
        fetch(&mut world, viewer, 48, 50, Params::default());
        assert_eq!(fetched(&mut world, publisher).len(), 2, "asked again");
        assert_eq!(world.relay.metrics().limit_upstream_answers, hits);
        assert_eq!(world.relay.metrics().upstream_fetches_spared, 0);
    }
}

#[test]
fn what_the_publisher_does_not_know_either_is_said_to_be_unknown() {
    let (mut world, publisher, viewer, _) = joined_late(Draft::D18, Limits::default());
    let request = fetch(&mut world, viewer, 40, 50, Params::default());
    let asked = fetched(&mut world, publisher)[0];
    let gap = Some(Location::new(49, u64::MAX >> 2));
    answer(&mut world, publisher, Draft::D18, asked, &[], gap);
    assert_eq!(world.peer(viewer).locations(request), [(50, 0), (50, 1)]);
    assert_eq!(unknown(&mut world, viewer).len(), 1);
}

#[test]
fn a_publisher_that_refuses_or_stays_silent_leaves_the_hole_unknown() {
    for silent in [false, true] {
        let (mut world, publisher, viewer, _) = joined_late(Draft::D18, Limits::default());
        let request = fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        if silent {
            world.advance(Limits::default().upstream_fetch_timeout + Duration::from_millis(1));
            assert_eq!(world.relay.metrics().upstream_fetches_late, 1);
        } else {
            refuse(&mut world, publisher, asked);
        }
        assert_eq!(world.peer(viewer).locations(request), [(50, 0), (50, 1)], "silent: {silent}");
        assert_eq!(unknown(&mut world, viewer).len(), 1, "silent: {silent}");
        world.peer(viewer).assert_unaltered();
    }
}

#[test]
fn an_answer_that_keeps_coming_is_waited_for_but_not_for_ever() {
    let patience = Limits::default().upstream_fetch_timeout;
    for (pause, objects, late) in [(patience / 4, 10, 0), (patience * 7 / 8, 5, 1)] {
        let (mut world, publisher, viewer, _) = joined_late(Draft::D18, Limits::default());
        let request = fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        answer_slowly(&mut world, publisher, asked, pause);
        let got = world.peer(viewer).locations(request);
        let past = got.iter().filter(|(group, _)| *group == 48).count();
        assert_eq!(past, objects, "{pause:?}");
        assert_eq!(world.relay.metrics().upstream_fetches_late, late, "{pause:?}");
    }
}

#[test]
fn an_answer_beyond_what_was_asked_for_is_cut_off() {
    for evil in [&[(47, 0)][..], &[(50, 0)][..], &[(51, 0)][..]] {
        let (mut world, publisher, viewer, _) = joined_late(Draft::D16, Limits::default());
        let request = fetch(&mut world, viewer, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher)[0];
        answer_with(&mut world, publisher, Draft::D16, asked, evil, None);
        let got = world.peer(viewer).locations(request);
        assert!(got.ends_with(&[(50, 0), (50, 1)]), "{evil:?}: {got:?}");
        assert_eq!(world.relay.metrics().limit_upstream_fetches, 1, "{evil:?}");
        assert_eq!(world.peer(publisher).wire.closed, None);
    }
}

#[test]
fn fetches_of_ours_are_limited_in_number_and_end_with_those_who_wait() {
    let mut limits = Limits::default();
    limits.upstream_fetches_max = 1;
    let (mut world, publisher, viewer, _) = joined_late(Draft::D18, limits);
    let first = fetch(&mut world, viewer, 48, 50, Params::default());
    let second = fetch(&mut world, viewer, 10, 50, Params::default());
    assert_eq!(world.relay.metrics().limit_upstream_fetches, 1);
    assert_eq!(world.peer(viewer).locations(second), [(50, 0), (50, 1)], "served without");
    world.peer(viewer).moqt.cancel(first);
    world.settle();
    let cancelled =
        world.peer(publisher).heard.iter().any(|h| matches!(h, Heard::FetchCancelled { .. }));
    assert!(cancelled, "nobody waits any more");
    // And there is room again.
    fetch(&mut world, viewer, 45, 50, Params::default());
    assert_eq!(fetched(&mut world, publisher).len(), 2);
    let id = world.peer(publisher).id;
    world.relay.close_session(id, world.now);
    world.settle();
    assert_eq!(world.peer(viewer).wire.closed, None);
}

/// A subscription with its past down to group 48.
fn filled(world: &mut World, draft: Draft, fill_timeout_ms: Option<u64>) -> (usize, RequestId) {
    let viewer = world.viewer(draft);
    let filter = Some(Filter::Relative { groups_back: 3 });
    let fill = Some(Box::new(Fill { filter, fill_timeout_ms, ..Fill::default() }));
    let params = Params { filter: Some(Filter::LargestObject), fill, ..Params::default() };
    let request = world.subscribe_with(viewer, "video", params);
    assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
    (viewer, request)
}

fn drafts_with_fills() -> impl Iterator<Item = Draft> {
    [Draft::D20, Draft::D21, Draft::D22].into_iter()
}

const WHOLE: [(u64, u64); 6] = [(48, 0), (48, 1), (49, 0), (49, 1), (50, 0), (50, 1)];

#[test]
fn a_fill_waits_for_what_only_the_publisher_has_and_the_live_edge_does_not() {
    for draft in drafts_with_fills() {
        let (mut world, publisher, _, _) = joined_late(Draft::D18, Limits::default());
        let (viewer, request) = filled(&mut world, draft, None);
        let asked = fetched(&mut world, publisher);
        assert_eq!(asked.len(), 1, "{draft:?}");
        let mut group = Group::begin(&mut world, publisher, Draft::D18, 1, 51);
        group.object(0);
        group.send(&mut world, publisher, true);
        assert_eq!(world.peer(viewer).locations(request), [(51, 0)], "{draft:?}");
        // The subscription's end waits for its past.
        let moqt = &mut world.peer(publisher).moqt;
        let upstream = RequestId(asked[0].0 - 2);
        moqt.publish_done(upstream, DoneCode::TrackEnded, Some(2), "").unwrap();
        world.settle();
        assert_eq!(streams_of(&mut world, viewer, request), None, "{draft:?}");
        answer(&mut world, publisher, Draft::D18, asked[0], &WHOLE, None);
        let got = world.peer(viewer).locations(request);
        assert_eq!(got[1..], WHOLE, "{draft:?}");
        assert_eq!(unknown(&mut world, viewer), [], "{draft:?}");
        world.peer(viewer).assert_unaltered();
        assert_eq!(streams_of(&mut world, viewer, request), Some(2), "{draft:?}");
    }
}

#[test]
fn what_one_fill_brought_serves_the_next_without_asking_again() {
    for draft in drafts_with_fills() {
        let (mut world, publisher, _, _) = joined_late(Draft::D18, Limits::default());
        let (_, _) = filled(&mut world, draft, None);
        let asked = fetched(&mut world, publisher);
        answer(&mut world, publisher, Draft::D18, asked[0], &WHOLE, None);
        let (viewer, request) = filled(&mut world, draft, None);
        assert_eq!(world.peer(viewer).locations(request), WHOLE, "{draft:?}");
        assert_eq!(fetched(&mut world, publisher).len(), 1, "{draft:?}");
        assert_eq!(world.relay.metrics().upstream_fetches_spared, 1, "{draft:?}");
    }
}

/// What `PUBLISH_DONE` says of the streams of a subscription.
fn streams_of(world: &mut World, viewer: usize, request: RequestId) -> Option<u64> {
    world.peer(viewer).heard.iter().find_map(|heard| match heard {
        Heard::PublishDone { request: of, streams, .. } if *of == request => *streams,
        _ => None,
    })
}

#[test]
fn a_fill_waits_no_longer_than_its_subscriber_would_and_brings_what_came_until_then() {
    for draft in drafts_with_fills() {
        let (mut world, publisher, _, _) = joined_late(Draft::D18, Limits::default());
        let (hurried, at_once) = (Some(300), Some(0));
        let (viewer, request) = filled(&mut world, draft, hurried);
        let (other, none) = filled(&mut world, draft, at_once);
        assert_eq!(world.peer(other).locations(none), [(50, 0), (50, 1)], "{draft:?}");
        let asked = fetched(&mut world, publisher);
        assert_eq!(asked.len(), 1, "{draft:?}");
        // Two objects in 200 ms, and then the time is over.
        answer_slowly_to(&mut world, publisher, asked[0], Duration::from_millis(100), 2, false);
        assert_eq!(world.peer(viewer).locations(request), [], "{draft:?}");
        world.advance(Duration::from_millis(100));
        let expected = [(48, 0), (48, 1), (50, 0), (50, 1)];
        assert_eq!(world.peer(viewer).locations(request), expected, "{draft:?}");
        let timed_out = |heard: &Heard| matches!(heard, Heard::FetchGap { gap: Gap::TimedOut, .. });
        assert!(world.peer(viewer).heard.iter().any(timed_out), "{draft:?}");
        world.peer(viewer).assert_unaltered();
        let cancelled = |heard: &Heard| matches!(heard, Heard::FetchCancelled { .. });
        assert!(world.peer(publisher).heard.iter().any(cancelled), "{draft:?}: nobody waits");
    }
}

#[test]
fn a_fill_that_waits_goes_with_its_subscription() {
    for draft in drafts_with_fills() {
        let (mut world, publisher, _, _) = joined_late(Draft::D18, Limits::default());
        let (viewer, request) = filled(&mut world, draft, None);
        world.peer(viewer).moqt.cancel(request);
        world.settle();
        let cancelled = |heard: &Heard| matches!(heard, Heard::FetchCancelled { .. });
        assert!(world.peer(publisher).heard.iter().any(cancelled), "{draft:?}");
        assert_eq!(world.peer(viewer).failure, None);
    }
}

#[test]
fn a_viewer_whose_grant_ends_gets_no_past_it_waited_for() {
    for draft in [Draft::D14, Draft::D16, Draft::D18, Draft::D22] {
        let (mut world, publisher, patient, _) = joined_late(Draft::D18, Limits::default());
        let token = token_with("lv_1", 600, "leaked", None, 0);
        let viewer = world.dial(draft, &format!("/playback/lv_1?tok={token}"));
        // Another grant keeps the session.
        let other = ns(&["stream", "org_a", "lv_2"]);
        let more = World::with_token(&token_with("lv_2", 600, "other", None, 0));
        world.peer(viewer).moqt.subscribe_namespace(&other, more).unwrap();
        world.settle();
        let request = fetch(&mut world, viewer, 48, 50, Params::default());
        let kept = fetch(&mut world, patient, 48, 50, Params::default());
        let asked = fetched(&mut world, publisher);
        revoke(&mut world, Subject::Token("leaked".into()));
        world.settle();
        let refused = world.peer(viewer).was_refused(request).unwrap();
        assert!(refused.starts_with("Unauthorized"), "{draft:?} {refused}");
        answer(&mut world, publisher, Draft::D18, asked[0], &WHOLE, None);
        assert_eq!(world.peer(patient).locations(kept), WHOLE, "{draft:?}");
        assert_eq!(world.peer(viewer).locations(request), [], "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "", "{draft:?}");
    }
}

#[test]
fn a_viewer_whose_grant_ends_gets_no_more_of_its_fill() {
    for draft in drafts_with_fills() {
        let (mut world, publisher, _, _) = joined_late(Draft::D18, Limits::default());
        let token = token_with("lv_1", 600, "leaked", None, 0);
        let viewer = world.dial(draft, &format!("/playback/lv_1?tok={token}"));
        let other = ns(&["stream", "org_a", "lv_2"]);
        let more = World::with_token(&token_with("lv_2", 600, "other", None, 0));
        world.peer(viewer).moqt.subscribe_namespace(&other, more).unwrap();
        world.settle();
        // It has room for 50 bytes of its past.
        world.peer(viewer).wire.credit = 50;
        let filter = Some(Filter::Relative { groups_back: 1 });
        let fill = Some(Box::new(Fill { filter, ..Fill::default() }));
        let params = Params { filter: Some(Filter::LargestObject), fill, ..Params::default() };
        let request = world.subscribe_with(viewer, "video", params);
        revoke(&mut world, Subject::Token("leaked".into()));
        world.settle();
        world.grant(viewer, 10_000);
        assert_eq!(world.peer(viewer).locations(request), [], "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "", "{draft:?}");
        assert_eq!(fetched(&mut world, publisher), []);
    }
}
