//! Viewers whose subscription has its past filled (draft 20 and later).

use weir_moqt::data::Gap;
use weir_moqt::{Event as Heard, Feature, Fill, Filter, GroupOrder, Location, Params, RequestId};
use weir_relay::{DoneCode, Draft, Limits};

use crate::world::{World, broadcast};

/// Drafts that have fills.
fn each(story: impl Fn(Draft)) {
    let mut told = 0;
    for draft in Draft::ALL {
        let mut world = World::new();
        let viewer = world.viewer(draft);
        if world.peer(viewer).moqt.supports(Feature::Fill) {
            story(draft);
            told += 1;
        }
    }
    assert!(told > 0);
}

fn filled(filter: Option<Filter>, group_order: GroupOrder) -> Params {
    let fill = Fill { filter, group_order: Some(group_order), ..Fill::default() };
    Params { filter: Some(Filter::LargestObject), fill: Some(Box::new(fill)), ..Params::default() }
}

fn watch(world: &mut World, viewer: usize, params: Params) -> RequestId {
    world.subscribe_with(viewer, "video", params)
}

#[test]
fn a_fill_brings_the_groups_asked_for_in_the_order_asked_for() {
    let back = |groups_back| Some(Filter::Relative { groups_back });
    let range = Filter::Range { start: Location::new(1, 1), end: Location::new(2, 0) };
    let cases = [
        (back(1), GroupOrder::Ascending, vec![(3, 0), (3, 1)]),
        (back(2), GroupOrder::Ascending, vec![(2, 0), (2, 1), (3, 0), (3, 1)]),
        (back(2), GroupOrder::Descending, vec![(3, 0), (3, 1), (2, 0), (2, 1)]),
        (Some(range), GroupOrder::Ascending, vec![(1, 1), (2, 0)]),
        (Some(Filter::NextGroupStart), GroupOrder::Ascending, vec![]),
    ];
    each(|draft| {
        for (filter, order, expected) in &cases {
            let (mut world, video) = World::broadcasting();
            for group in 0..4 {
                (0..2).for_each(|object| world.write(video, group, object));
            }
            let viewer = world.viewer(draft);
            let request = watch(&mut world, viewer, filled(*filter, *order));
            assert_eq!(world.peer(viewer).locations(request), *expected, "{draft:?} {filter:?}");
            world.write(video, 3, 2);
            let live = world.peer(viewer).locations(request).split_off(expected.len());
            assert_eq!(live, [(3, 2)], "{draft:?} {filter:?}");
            world.peer(viewer).assert_unaltered();
        }
    });
}

#[test]
fn a_viewer_that_waited_without_media_has_the_past_filled_when_it_resumes() {
    each(|draft| {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let order = GroupOrder::Ascending;
        let asleep = Params {
            forward: Some(false),
            ..filled(Some(Filter::Relative { groups_back: 1 }), order)
        };
        let request = watch(&mut world, viewer, asleep);
        (0..3).for_each(|object| world.write(video, 0, object));
        assert_eq!(world.peer(viewer).locations(request), []);
        let awake = Params {
            forward: Some(true),
            filter: None,
            ..filled(Some(Filter::Relative { groups_back: 1 }), order)
        };
        world.peer(viewer).moqt.update(request, awake).unwrap();
        world.settle();
        let mut got = world.peer(viewer).locations(request);
        got.sort_unstable();
        assert_eq!(got, [(0, 0), (0, 1), (0, 2)], "{draft:?}");
    });
}

#[test]
fn a_fill_beyond_the_budget_says_that_it_does_not_know() {
    each(|draft| {
        let mut limits = Limits::default();
        limits.fetch_objects_max = 2;
        let mut world = World::with(limits, 0);
        world.relay.publish(&broadcast());
        let video = world.open("video");
        (0..3).for_each(|object| world.write(video, 0, object));
        let viewer = world.viewer(draft);
        let whole = Some(Filter::AbsoluteStart(Location::default()));
        watch(&mut world, viewer, filled(whole, GroupOrder::Ascending));
        assert_eq!(world.relay.metrics().limit_fetch_budget, 1, "{draft:?}");
        let end = Location::new(0, 2);
        let unknown = |heard: &Heard| matches!(heard, Heard::FetchGap { end: at, gap: Gap::Unknown, .. } if *at == end);
        assert!(world.peer(viewer).heard.iter().any(unknown), "{draft:?}");
        let over = |heard: &Heard| matches!(heard, Heard::DataEnded { .. });
        assert!(world.peer(viewer).heard.iter().any(over), "{draft:?}");
    });
}

#[test]
fn a_fill_of_nothing_ends_at_once_and_counts_as_a_stream() {
    each(|draft| {
        let (mut world, video) = World::broadcasting();
        let viewer = world.viewer(draft);
        let past = Some(Filter::Relative { groups_back: 1 });
        let request = watch(&mut world, viewer, filled(past, GroupOrder::Ascending));
        let heard = &world.peer(viewer).heard;
        assert!(heard.iter().any(|heard| matches!(heard, Heard::DataEnded { .. })), "{draft:?}");
        world.write(video, 0, 0);
        world.relay.end_track(video, DoneCode::TrackEnded, world.now);
        world.settle();
        let streams = world.peer(viewer).heard.iter().find_map(|heard| match heard {
            Heard::PublishDone { request: of, streams, .. } if *of == request => *streams,
            _ => None,
        });
        assert_eq!(streams, Some(2), "{draft:?}: the fill and group 0");
    });
}

#[test]
fn a_fill_goes_with_its_subscription() {
    each(|draft| {
        let (mut world, video) = World::broadcasting();
        (0..3).for_each(|object| world.write(video, 0, object));
        let viewer = world.viewer(draft);
        // Enough for the answer, not for the objects.
        world.peer(viewer).wire.credit = 40;
        let past = Some(Filter::Relative { groups_back: 1 });
        let request = watch(&mut world, viewer, filled(past, GroupOrder::Ascending));
        let opened = world.peer(viewer).heard.iter().find_map(|heard| match heard {
            Heard::FetchOpened { stream, request: of } if *of == request => Some(*stream),
            _ => None,
        });
        let fill = opened.unwrap();
        world.peer(viewer).moqt.cancel(request);
        world.settle();
        let resets = &world.peer(viewer).wire.resets;
        assert!(resets.iter().any(|(stream, _)| *stream == fill), "{draft:?} {resets:?}");
    });
}
