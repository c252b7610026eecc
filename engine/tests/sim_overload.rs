//! Too much for the path, the peer or the node, in virtual time: what is given up, what is not, and who notices.
//! `SIM_SEED=n` repeats a run's network.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a failing test panics, virtual time begins somewhere, and not every story needs all of the world"
)]

mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sim::{Setup, World};
use weir_moqt::Draft;
use weir_relay::DropReason;
use weir_xdp::virt::{Interface, Link};

const DAY: Duration = Duration::from_hours(24);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn audio(world: &World) -> Arc<str> {
    world.truth.media().find(|name| name.starts_with("audio")).cloned().unwrap()
}

/// Groups given up by the relay because a path carried too little.
fn given_up(world: &World) -> u64 {
    let metrics = world.nodes[0].shard.snapshot().relay;
    [DropReason::FarBehind, DropReason::BytesBehind, DropReason::TooOld, DropReason::Skipped]
        .into_iter()
        .map(|reason| metrics.dropped(reason))
        .sum()
}

/// Stream bits of the broadcast in a second, as published so far.
fn bits_per_second(world: &World) -> u64 {
    let bytes = world.nodes[0].shard.snapshot().relay.bytes_in;
    bytes * 8 / (world.now - world.start).as_secs().max(1)
}

#[test]
fn f6_a_narrow_lossy_path_keeps_sound_whole_and_drops_old_pictures_by_the_group() {
    for draft in [Draft::D18, Draft::D16] {
        let mut world = World::new(&Setup::default());
        world.publish();
        world.run(seconds(5));
        let rate = bits_per_second(&world) * 6 / 10;
        let viewer = world.watch(0, draft, DAY);
        let other = world.watch(0, draft, DAY);
        world.run(seconds(2));
        let narrow = Link {
            loss: 0.1,
            bits_per_second: Some(rate),
            queue_bytes: 32 * 1024,
            ..Link::with_delay(Duration::from_millis(20))
        };
        world.set_downlink(viewer, narrow);
        world.run(seconds(20));
        // Half a second in which nothing passes.
        world.set_downlink(viewer, Link { loss: 1.0, ..narrow });
        world.run(Duration::from_millis(500));
        world.set_downlink(viewer, narrow);
        world.run(seconds(20));
        let (sound, video) = (audio(&world), world.truth.video());
        world.check_complete(viewer, &sound, seconds(4));
        assert_eq!(
            world.watchers[viewer].skipped.get(&sound),
            None,
            "{draft:?}: sound was skipped"
        );
        world.check_order(viewer, &video);
        // What is seen of a group is its beginning: given up once, a group does not come back.
        let mut seen = BTreeMap::<u64, u64>::new();
        let (mut oldest, mut slowest) = (Duration::ZERO, Duration::ZERO);
        for picture in world.watchers[viewer].seen(&video) {
            let next = seen.entry(picture.group).or_insert(picture.object);
            assert_eq!(*next, picture.object, "{draft:?}: a hole in group {}", picture.group);
            *next += 1;
            let made = world.truth.track(&video)[&(picture.group, picture.object)].at;
            oldest = oldest.max(picture.at - made);
        }
        for sound in world.watchers[viewer].seen(&sound) {
            let made = world.truth.track(&audio(&world))[&(sound.group, sound.object)].at;
            slowest = slowest.max(sound.at - made);
        }
        let metrics = world.nodes[0].shard.snapshot().relay;
        let (few, all) =
            (world.watchers[viewer].seen(&video).len(), world.watchers[other].seen(&video).len());
        eprintln!(
            "{draft:?}: {rate} b/s: {few} of {all} pictures, at most {oldest:?} old, sounds {slowest:?}; {} given up; {:?}",
            given_up(&world),
            metrics.drops
        );
        assert!(given_up(&world) > 3, "{:?}", metrics.drops);
        assert!(few * 10 > all, "{few} of {all} pictures");
        assert!(oldest < seconds(5), "a picture came {oldest:?} late");
        assert!(slowest < seconds(5), "a sound came {slowest:?} late");
        // Two tracks of four groups of about 130 KB; nothing is kept for the slow one beside them.
        assert!(metrics.cache_bytes < 4 << 20, "{} bytes cached", metrics.cache_bytes);
        world.check_all(other, seconds(1));
        assert!(world.watchers[viewer].ended.is_none());
    }
}

#[test]
fn h30_a_viewer_that_stops_reading_hurts_nobody_and_costs_a_bounded_amount() {
    let mut world = World::new(&Setup {
        filler: 40_000,
        network: Link::with_delay(Duration::from_millis(20)),
        ..Setup::default()
    });
    world.publish();
    world.run(seconds(2));
    let frozen = world.watch(0, Draft::D18, DAY);
    let other = world.watch(0, Draft::D18, DAY);
    world.run(seconds(2));
    world.watchers[frozen].reads = false;
    let mut most = 0;
    for _ in 0..30 {
        world.run(seconds(1));
        most = most.max(world.nodes[0].shard.snapshot().relay.cache_bytes);
    }
    let metrics = world.nodes[0].shard.snapshot().relay;
    eprintln!("{most} bytes cached at most, {:?} given up", metrics.drops);
    assert!(given_up(&world) > 5, "{:?}", metrics.drops);
    // Four groups of a second at 8 Mb/s, and sound.
    assert!(most < 12 << 20, "{most} bytes cached");
    world.check_all(other, seconds(1));
    assert!(world.watchers[frozen].ended.is_none(), "it may come back");
    let stopped = world.now;
    world.watchers[frozen].reads = true;
    world.run(seconds(6));
    let video = world.truth.video();
    world.check_order(frozen, &video);
    let last = *world.watchers[frozen].seen(&video).last().unwrap();
    let made = world.truth.track(&video)[&(last.group, last.object)].at;
    assert!(made > stopped + seconds(3), "back at the live edge");
}

#[test]
fn past_saturation_delivered_bytes_stay_flat_and_newcomers_get_capacity() {
    let mut world = World::new(&Setup {
        network: Link::with_delay(Duration::from_millis(20)),
        ..Setup::default()
    });
    world.publish();
    world.run(seconds(5));
    let rate = bits_per_second(&world);
    // Room for ten viewers.
    let room = Interface { bits_per_second: rate * 10, buffer_bytes: 128 * 1024 };
    world.nodes[0].port.set_interface(Some(room));
    let mut steps = Vec::new();
    for step in 0..10 {
        for _ in 0..3 {
            world.watch(0, if step % 2 == 0 { Draft::D18 } else { Draft::D16 }, DAY);
        }
        let before: u64 = world.watchers.iter().map(sim::Watcher::delivered).sum();
        world.run(seconds(5));
        let refused = world.watchers.iter().filter(|watcher| watcher.ended.is_some()).count();
        let after: u64 = world.watchers.iter().map(sim::Watcher::delivered).sum();
        let delivered = (after - before) * 8 / 5;
        let metrics = world.nodes[0].shard.snapshot().relay;
        eprintln!(
            "{} viewers, {refused} refused, {delivered} b/s of {}, {} lossy, {:?}",
            step * 3 + 3,
            rate * 10,
            metrics.sessions_lossy,
            metrics.drops
        );
        steps.push((refused, delivered));
    }
    let metrics = world.nodes[0].shard.snapshot().relay;
    let refused: Vec<_> = world.watchers.iter().filter_map(|w| w.ended.as_ref()).collect();
    assert!(refused.len() >= 6, "{} were refused", refused.len());
    assert!(refused.iter().all(|(_, reason)| reason.contains("capacity")), "{refused:?}");
    assert_eq!(metrics.limit_load, refused.len() as u64);
    assert!(metrics.sessions <= 24, "{} sessions", metrics.sessions);
    // From the first refusal on, nobody's bytes are lost to those who came later.
    let full = steps.iter().position(|(refused, _)| *refused > 0).unwrap();
    let peak = steps.iter().map(|(_, delivered)| *delivered).max().unwrap();
    for (_, delivered) in &steps[full..] {
        assert!(delivered * 100 >= peak * 85, "{delivered} b/s after {peak}");
    }
}
