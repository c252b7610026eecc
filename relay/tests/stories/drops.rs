//! What goes first and what is given up when a path carries too little: catalogs before sound before pictures, and each
//! group that is dropped counted under its own reason.

use std::collections::BTreeSet;
use std::time::Duration;

use weir_moqt::{Params, RequestId};
use weir_relay::{Draft, DropReason, Limits, ObjectIn, TrackId};

use crate::world::{World, broadcast};

const DRAFT: Draft = Draft::D18;

/// A live broadcast under these limits, and a viewer of its picture.
fn watched(limits: Limits) -> (World, TrackId, usize, RequestId) {
    let mut world = World::with(limits, 0);
    assert!(world.relay.publish(&broadcast()));
    let video = world.open("video");
    let viewer = world.viewer(DRAFT);
    let request = world.subscribe(viewer, "video");
    (world, video, viewer, request)
}

/// Everything that was given up so far.
fn drops(world: &World) -> Vec<(DropReason, u64)> {
    let metrics = world.relay.metrics();
    let all = DropReason::ALL.into_iter().map(|reason| (reason, metrics.dropped(reason)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn write_with(world: &mut World, id: TrackId, group: u64, priority: u8) {
    let mut object = world.object(group, 0);
    object.priority = priority;
    world.relay.write_object(id, object).unwrap();
    world.settle();
}

#[test]
fn a_group_that_nothing_was_sent_of_is_skipped_and_one_under_way_is_far_behind() {
    let limits = Limits::default();
    assert_eq!((limits.groups_behind_max, limits.bytes_behind_max), (2, 8 << 20));
    for (streams, reason) in [(0, DropReason::Skipped), (9, DropReason::FarBehind)] {
        let (mut world, video, viewer, _) = watched(Limits::default());
        world.peer(viewer).wire.credit = 0;
        world.peer(viewer).wire.streams = streams;
        for group in 0..5 {
            world.write(video, group, 0);
        }
        // The newest two are kept, whatever the path.
        assert_eq!(drops(&world), [(reason, 3)], "{streams} streams");
    }
}

#[test]
fn a_group_older_than_our_own_bound_is_too_old_and_one_the_viewer_stops_is_stopped() {
    let mut limits = Limits::default();
    limits.delivery_timeout = Duration::from_secs(1);
    let (mut world, video, viewer, request) = watched(limits);
    world.peer(viewer).wire.credit = 50;
    world.write(video, 0, 0);
    world.advance(Duration::from_millis(1_001));
    world.write(video, 0, 1);
    assert_eq!(drops(&world), [(DropReason::TooOld, 1)]);
    let resets = world.peer(viewer).wire.resets.clone();
    assert!(matches!(resets[..], [(_, 2)]), "the code of a delivery timeout: {resets:?}");
    world.grant(viewer, 10_000);
    world.write(video, 1, 0);
    assert_eq!(world.peer(viewer).locations(request), [(1, 0)]);
    let (id, wire) = (world.peer(viewer).id, &world.peer(viewer).wire);
    let (stream, _) = wire.priorities.iter().rfind(|(_, it)| **it != i32::MAX).unwrap();
    let stream = *stream;
    world.relay.handle_stop(id, stream, 0, world.now);
    world.settle();
    assert_eq!(drops(&world), [(DropReason::TooOld, 1), (DropReason::Stopped, 1)]);
}

#[test]
fn a_group_that_the_cache_gave_up_is_counted_as_that() {
    let mut limits = Limits::default();
    (limits.groups_behind_max, limits.cache_groups_max) = (100, 2);
    let (mut world, video, viewer, _) = watched(limits);
    world.peer(viewer).wire.credit = 50;
    for group in 0..5 {
        world.write(video, group, 0);
    }
    assert_eq!(drops(&world), [(DropReason::Evicted, 3)]);
}

#[test]
fn every_reason_to_drop_a_group_has_a_name_of_its_own() {
    for (position, reason) in DropReason::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), position);
    }
    let labels: BTreeSet<_> = DropReason::ALL.into_iter().map(DropReason::label).collect();
    assert_eq!(labels.len(), DropReason::COUNT);
}

#[test]
fn catalogs_go_before_sound_and_sound_before_pictures_whatever_was_asked_for_first() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let (audio, catalog) = (world.open("audio"), world.open(".catalog"));
        let viewer = world.viewer(draft);
        let asked = ["video", "audio", ".catalog"].map(|name| world.subscribe(viewer, name));
        world.peer(viewer).wire.credit = 0;
        // As the packager ranks them.
        for (id, priority) in [(video, 2), (audio, 1), (catalog, 0)] {
            write_with(&mut world, id, 0, priority);
        }
        let wire = &world.peer(viewer).wire;
        let ranks: Vec<_> =
            wire.priorities.values().copied().filter(|it| *it != i32::MAX).collect();
        let [pictures, sound, catalogs] = ranks[..] else { panic!("{draft:?}: {ranks:?}") };
        assert!(catalogs > sound && sound > pictures, "{draft:?}: {ranks:?}");
        world.grant(viewer, 10_000);
        let got: Vec<_> = world.peer(viewer).got.iter().map(|got| got.request).collect();
        assert_eq!(got, [asked[2], asked[1], asked[0]], "{draft:?}");
    }
}

#[test]
fn a_joiners_past_and_what_is_live_come_with_all_sound_before_any_picture() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let audio = world.open("audio");
        let write = |world: &mut World, object| {
            for (id, priority) in [(video, 2), (audio, 1)] {
                let object = ObjectIn { priority, ..world.object(0, object) };
                world.relay.write_object(id, object).unwrap();
            }
            world.settle();
        };
        (0..3).for_each(|object| write(&mut world, object));
        let viewer = world.viewer(draft);
        world.peer(viewer).wire.credit = 0;
        let pictures = world.join(viewer, "video");
        let sound = world.join(viewer, "audio");
        write(&mut world, 3);
        // A narrow path: whatever is written first takes all of its room.
        (0..40).for_each(|_| world.grant(viewer, 60));
        let got: Vec<_> = world.peer(viewer).got.iter().map(|got| got.request).collect();
        assert_eq!(got.len(), 8, "{draft:?}");
        let is_sound = |request: &RequestId| [sound.0, sound.1].contains(request);
        let is_picture = |request: &RequestId| [pictures.0, pictures.1].contains(request);
        assert!(got[..4].iter().all(is_sound), "{draft:?}: {got:?} of {sound:?}");
        assert!(got[4..].iter().all(is_picture), "{draft:?}: {got:?} of {pictures:?}");
    }
}

#[test]
fn a_priority_that_a_subscriber_changes_counts_more_than_the_publishers() {
    for draft in Draft::ALL {
        let (mut world, video) = World::broadcasting();
        let audio = world.open("audio");
        let viewer = world.viewer(draft);
        let _pictures = world.subscribe(viewer, "video");
        let sound = world.subscribe(viewer, "audio");
        world.peer(viewer).wire.credit = 0;
        let mut ranks = Vec::new();
        for (group, priority) in [(0, None), (1, Some(200)), (2, Some(3))] {
            if priority.is_some() {
                let params = Params { priority, ..Params::default() };
                world.peer(viewer).moqt.update(sound, params).unwrap();
                world.settle();
            }
            let known: BTreeSet<_> = world.peer(viewer).wire.priorities.keys().copied().collect();
            write_with(&mut world, video, group, 2);
            write_with(&mut world, audio, group, 1);
            let now = world.peer(viewer).wire.priorities.iter();
            let new: Vec<_> =
                now.filter(|(id, _)| !known.contains(id)).map(|(_, rank)| *rank).collect();
            let [pictures, sound] = new[..] else { panic!("{draft:?}: {new:?}") };
            ranks.push(sound > pictures);
        }
        assert_eq!(ranks, [true, false, true], "{draft:?}");
    }
}
