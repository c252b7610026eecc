//! Subscribers who ask for some objects only (range filters, draft 19 and later): on subgroup streams, as datagrams, in
//! answers to FETCH and fills, and among the tracks of a prefix.

use std::cell::Cell;

use bytes::Bytes;
use weir_moqt::{
    Event as Heard, Feature, FetchTarget, Fill, Filter, GroupOrder, Location, Params, Property,
    PropertyValue, RangeFilter, RangeSubject, RequestId, ValueRange,
};
use weir_relay::{DoneCode, Draft, Forwarding, Limits, TrackId};

use crate::offers::admitted;
use crate::world::{World, broadcast, track};

const LEVEL: u64 = 0x2C;

fn each(story: impl Fn(Draft)) {
    let mut told = 0;
    for draft in Draft::ALL {
        let mut world = World::new();
        let viewer = world.viewer(draft);
        if world.peer(viewer).moqt.supports(Feature::RangeFilters) {
            story(draft);
            told += 1;
        }
    }
    assert!(told > 2);
}

fn only(subject: RangeSubject, set: u8, ranges: &[(u64, Option<u64>)]) -> RangeFilter {
    let by_property = matches!(subject, RangeSubject::ObjectProperty | RangeSubject::TrackProperty);
    let ranges = ranges.iter().map(|&(start, end)| ValueRange { start, end }).collect();
    RangeFilter { subject, set, property: by_property.then_some(LEVEL), ranges }
}

fn asking(ranges: Vec<RangeFilter>) -> Params {
    Params { filter: Some(Filter::LargestObject), ranges, ..Params::default() }
}

/// Group `group`: objects 0 to 5, of subgroup 0 and 1 in turn and of priority 1 and 2; those from 3 on have a level of
/// ten times their id.
fn write_group(world: &mut World, id: TrackId, group: u64) {
    for object in 0..6 {
        let level = [LEVEL as u8, 10 * object as u8];
        let mut one = world.object(group, object);
        one.subgroup = object % 2;
        one.priority = 1 + (object % 2) as u8;
        one.properties = if object < 3 { Bytes::new() } else { Bytes::copy_from_slice(&level) };
        one.end_of_group = object == 5;
        world.relay.write_object(id, one).unwrap();
        world.settle();
    }
}

fn objects(world: &mut World, viewer: usize, request: RequestId) -> Vec<u64> {
    let mut got: Vec<_> =
        world.peer(viewer).locations(request).into_iter().map(|(_, object)| object).collect();
    got.sort_unstable();
    got
}

#[test]
fn a_subscriber_gets_the_objects_it_asks_for_on_streams_that_end_well() {
    use RangeSubject::{Object, ObjectProperty, Priority, Subgroup};
    let cases = [
        (vec![only(Object, 0, &[(0, Some(0)), (4, None)])], vec![0, 4, 5], 2),
        (vec![only(Subgroup, 0, &[(1, Some(1))])], vec![1, 3, 5], 1),
        (vec![only(Priority, 0, &[(0, Some(1))])], vec![0, 2, 4], 1),
        (vec![only(ObjectProperty, 0, &[(35, Some(50))])], vec![4, 5], 2),
        (vec![only(Subgroup, 0, &[(0, Some(0))]), only(Object, 0, &[(3, None)])], vec![4], 1),
        (
            vec![only(Subgroup, 0, &[(0, Some(0))]), only(Object, 1, &[(3, Some(3))])],
            vec![0, 2, 3, 4],
            2,
        ),
    ];
    each(|draft| {
        for (ranges, expected, streams) in &cases {
            let (mut world, video) = World::broadcasting();
            let viewer = world.viewer(draft);
            let other = world.viewer(draft);
            let request = world.subscribe_with(viewer, "video", asking(ranges.clone()));
            let whole = world.subscribe(other, "video");
            write_group(&mut world, video, 0);
            assert_eq!(objects(&mut world, viewer, request), *expected, "{draft:?} {ranges:?}");
            assert_eq!(objects(&mut world, other, whole), [0, 1, 2, 3, 4, 5], "{draft:?}");
            assert_eq!(world.relay.metrics().objects_filtered, 6 - expected.len() as u64);
            world.relay.end_track(video, DoneCode::TrackEnded, world.now);
            world.settle();
            let peer = world.peer(viewer);
            peer.assert_unaltered();
            assert_eq!(peer.wire.finished.len(), *streams, "{draft:?} {ranges:?}");
            assert_eq!(peer.wire.resets, [], "{draft:?}: a gap asked for is no loss");
        }
    });
}

#[test]
fn an_update_asks_for_other_objects_or_for_all_again() {
    each(|draft| {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let first = only(RangeSubject::Object, 0, &[(0, Some(0))]);
        let request = world.subscribe_with(viewer, "video", asking(vec![first]));
        write_group(&mut world, video, 0);
        let update = |world: &mut World, ranges| {
            let params = Params { ranges, ..Params::default() };
            let update = world.peer(viewer).moqt.update(request, params).unwrap();
            world.settle();
            update
        };
        update(&mut world, vec![only(RangeSubject::Object, 0, &[(5, None)])]);
        write_group(&mut world, video, 1);
        update(&mut world, vec![only(RangeSubject::Object, 0, &[])]);
        write_group(&mut world, video, 2);
        let mut got = world.peer(viewer).locations(request);
        got.sort_unstable();
        let expected = [(0, 0), (1, 5), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5)];
        assert_eq!(got, expected, "{draft:?}");
    });
}

#[test]
fn filter_ranges_max_refuses_the_request_and_the_update_that_asks_for_more() {
    each(|draft| {
        let mut limits = Limits::default();
        limits.filter_ranges_max = 2;
        let mut world = World::with(limits, 0);
        world.relay.publish(&broadcast());
        world.open("video");
        let viewer = world.viewer(draft);
        let two = [(0, Some(0)), (2, Some(2))];
        let many = asking(vec![only(RangeSubject::Object, 0, &[two[0], two[1], (4, None)])]);
        // The peer was told in SETUP.
        assert!(world.peer(viewer).moqt.subscribe(&track("video"), many).is_err(), "{draft:?}");
        let kept = asking(vec![only(RangeSubject::Object, 0, &two)]);
        let request = world.subscribe_with(viewer, "video", kept);
        assert!(world.peer(viewer).was_accepted(request), "{draft:?}");
        let more = only(RangeSubject::Subgroup, 0, &[(0, None)]);
        let params = Params { ranges: vec![more], ..Params::default() };
        let update = world.peer(viewer).moqt.update(request, params).unwrap();
        world.settle();
        let refused = world.peer(viewer).was_refused(update).unwrap();
        assert!(refused.starts_with("InvalidFilter"), "{draft:?} {refused}");
        assert_eq!(world.relay.metrics().limit_filter_ranges, 1, "{draft:?}");
        assert_eq!(world.peer(viewer).close_reason(), "");
    });
}

#[test]
fn datagrams_fetches_and_fills_are_filtered_alike() {
    each(|draft| {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let even = vec![only(RangeSubject::Object, 0, &[(0, Some(0)), (2, Some(2)), (4, Some(4))])];
        let audio = world.open("audio");
        world.subscribe_with(viewer, "audio", asking(even.clone()));
        for object in 0..4 {
            let mut one = world.object(0, object);
            one.forwarding = Forwarding::Datagram;
            world.relay.write_object(audio, one).unwrap();
        }
        world.settle();
        let heard = world.peer(viewer).heard.iter();
        let datagrams: Vec<u64> = heard
            .filter_map(|heard| match heard {
                Heard::Datagram { datagram, .. } => Some(datagram.location.object),
                _ => None,
            })
            .collect();
        assert_eq!(datagrams, [0, 2], "{draft:?}");
        write_group(&mut world, video, 0);
        write_group(&mut world, video, 1);
        for (order, groups) in [(GroupOrder::Ascending, [0, 1]), (GroupOrder::Descending, [1, 0])] {
            let target = FetchTarget::Standalone {
                track: track("video"),
                start: Location::new(0, 1),
                end: Location::whole_group(1),
            };
            let params =
                Params { ranges: even.clone(), group_order: Some(order), ..Params::default() };
            let request = world.peer(viewer).moqt.fetch(&target, params).unwrap();
            world.settle();
            let mut expected = vec![(0, 2), (0, 4), (1, 0), (1, 2), (1, 4)];
            expected.sort_by_key(|(group, object)| (*group != groups[0], *object));
            assert_eq!(world.peer(viewer).locations(request), expected, "{draft:?} {order:?}");
        }
        if world.peer(viewer).moqt.supports(Feature::Fill) {
            let past = Some(Filter::Relative { groups_back: 1 });
            let fill = |ranges| Some(Box::new(Fill { filter: past, ranges, ..Fill::default() }));
            // A fill has filters of its own, or else those of its subscription.
            let first = vec![only(RangeSubject::Object, 0, &[(0, Some(0))])];
            for (own, expected) in [(first, vec![0]), (Vec::new(), vec![0, 2, 4])] {
                let params = Params { fill: fill(own), ..asking(even.clone()) };
                let request = world.subscribe_with(viewer, "video", params);
                assert_eq!(objects(&mut world, viewer, request), expected, "{draft:?}");
            }
        }
        world.peer(viewer).assert_unaltered();
    });
}

#[test]
fn of_the_tracks_below_a_prefix_those_are_offered_whose_properties_pass() {
    each(|draft| {
        let mut world = World::new();
        let publisher = admitted(&mut world, Draft::D18);
        for (alias, name, level) in [(1, "low", 1), (2, "high", 7)] {
            let level = Property { kind: LEVEL, value: PropertyValue::Int(level) };
            let moqt = &mut world.peer(publisher).moqt;
            moqt.publish(&track(name), alias, Params::default(), &[level]).unwrap();
            world.settle();
        }
        let viewer = world.viewer(draft);
        let ranges = vec![only(RangeSubject::TrackProperty, 0, &[(5, None)])];
        let params = Params { ranges, ..Params::default() };
        world.peer(viewer).moqt.subscribe_tracks(&broadcast(), params).unwrap();
        world.settle();
        let heard = world.peer(viewer).heard.iter();
        let offered: Vec<_> = heard
            .filter_map(|heard| match heard {
                Heard::Publish { track, .. } => Some(track.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(offered, [track("high")], "{draft:?}");
        assert_eq!(world.relay.metrics().tracks_withheld, 0, "{draft:?}");
    });
}

#[test]
fn updates_may_not_sum_past_filter_ranges_max_wherever_the_request_stands() {
    let mut limits = Limits::default();
    limits.filter_ranges_max = 2;
    let first = || vec![only(RangeSubject::Object, 0, &[(0, Some(0)), (2, Some(2))])];
    let ended = Cell::new(0);
    each(|draft| {
        let mut world = World::with(limits.clone(), 0);
        let viewer = world.viewer(draft);
        let update = |world: &mut World, request, subject, ranges: &[_]| {
            let params = Params { ranges: vec![only(subject, 0, ranges)], ..Params::default() };
            let update = world.peer(viewer).moqt.update(request, params).unwrap();
            world.settle();
            update
        };
        // A prefix, and a subscription that waits for its publisher: no track is looked at yet.
        let prefix = Params { ranges: first(), ..Params::default() };
        let prefix = world.peer(viewer).moqt.subscribe_tracks(&broadcast(), prefix).unwrap();
        let early = Params { rendezvous_timeout_ms: Some(5_000), ..asking(first()) };
        let early = world.subscribe_with(viewer, "video", early);
        let refused = [prefix, early]
            .map(|request| update(&mut world, request, RangeSubject::Priority, &[(0, Some(9))]));
        assert_eq!(world.relay.metrics().limit_filter_ranges, 2, "{draft:?}");
        // One subject for another is no more than before.
        update(&mut world, early, RangeSubject::Object, &[(4, None)]);
        update(&mut world, early, RangeSubject::Priority, &[(0, Some(1))]);
        assert_eq!(world.relay.metrics().limit_filter_ranges, 2, "{draft:?}");
        world.relay.publish(&broadcast());
        let video = world.open("video");
        world.settle();
        assert!(world.peer(viewer).was_accepted(early), "{draft:?}");
        for update in refused {
            let why = world.peer(viewer).was_refused(update).unwrap_or_default();
            assert!(why.starts_with("InvalidFilter"), "{draft:?} {why}");
        }
        write_group(&mut world, video, 0);
        assert_eq!(objects(&mut world, viewer, early), [4], "{draft:?}: as it asked before");
        // The answer to an offer adds its filters to those of the prefix.
        let _audio = world.open("audio");
        world.settle();
        let offered = world.peer(viewer).heard.iter().rev().find_map(|heard| match heard {
            Heard::Publish { request, track: it, .. } if *it == track("audio") => Some(*request),
            _ => None,
        });
        let offered = offered.expect("an offer");
        let too_much = vec![only(RangeSubject::Subgroup, 0, &[(0, None)])];
        let answer = Params { ranges: too_much, ..Params::default() };
        world.peer(viewer).moqt.accept(offered, answer, &[]).unwrap();
        world.settle();
        assert_eq!(world.relay.metrics().limit_filter_ranges, 3, "{draft:?}");
        let is_end = |heard: &Heard| matches!(heard, Heard::PublishDone { request, .. } if *request == offered);
        ended.set(ended.get() + usize::from(world.peer(viewer).heard.iter().any(is_end)));
        assert_eq!(world.peer(viewer).close_reason(), "");
    });
    // Others say it in an update behind the answer, which alone is refused.
    assert!(ended.get() > 0, "where PUBLISH_OK has filters");
}
