//! Hundreds of real relay cores in a tree, and many more viewers: what crosses each link, and what each core holds. A
//! crowd at an edge must cost the relay above it what one viewer costs. `SIM_SEED=n` repeats a run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this crate is tests, and one prints a table"
)]

mod parts;
mod viewer;
mod wire;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parts::Level;
use viewer::Viewer;
use weir_relay::{Draft, Limits};
use wire::Mark;
use world::{Act, GROUP_BYTES, TRACKS, World};

/// What players of several ages speak.
const DRAFTS: [Draft; 3] = [Draft::D16, Draft::D18, Draft::D22];

/// From the engine to the last viewer: three links of 40 ms at most, each of which may repair what it carries, and the
/// round trips of a first viewer's requests up to the engine.
const LAG: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Audiences as they are: a few large ones, many small ones, none of nobody. They come within five seconds.
fn audiences(world: &mut World, regions: usize, edges: usize, crowd: usize) {
    let mut order: Vec<usize> = (1 + regions..1 + regions + edges).collect();
    world.dice.shuffle(&mut order);
    for (rank, edge) in order.into_iter().enumerate() {
        for _ in 0..=crowd / (rank + 1) {
            let (after, draft) = (world.dice.u64(0..5_000), world.dice.usize(0..DRAFTS.len()));
            world.act(millis(after), Act::Join { edge, draft: DRAFTS[draft] });
        }
    }
}

/// Every tenth of those who watch leaves, but for the first one of each edge.
fn departures(world: &mut World) {
    let mut kept = BTreeSet::new();
    for viewer in 0..world.viewers.len() {
        if !kept.insert(world.viewers[viewer].edge) && world.dice.u32(0..10) == 0 {
            let after = world.dice.u64(0..5_000);
            world.act(millis(after), Act::Leave { viewer });
        }
    }
}

/// Groups of which this viewer misses something that it should have, by track. What it got, it got once, and from the
/// first object of a group on.
fn broken(world: &World, viewer: &Viewer) -> usize {
    let until = viewer.until.unwrap_or(world.now);
    let mut groups = BTreeSet::new();
    for index in 0..TRACKS.len() as u8 {
        let of_track = |mark: &Mark| mark.track == index;
        let first = viewer.seen.keys().find(|mark| of_track(mark)).copied();
        let Some(first) = first else {
            assert!(viewer.joined + LAG * 2 > until, "a viewer saw nothing of {index}");
            continue;
        };
        assert_eq!(first.object, 0, "a viewer begins in the middle of a group: {first:?}");
        let wanted = world.made.range(first..).filter(|(mark, _)| of_track(mark));
        let wanted = wanted.filter(|(_, (_, at))| *at + LAG <= until);
        let missed = wanted.filter(|(mark, _)| !viewer.seen.contains_key(mark));
        groups.extend(missed.map(|(mark, _)| (mark.track, mark.group)));
    }
    assert!(viewer.seen.values().all(|times| *times == 1), "an object came twice");
    groups.len()
}

/// The copies on every link, and the subscriptions behind them.
fn check_links(world: &World) {
    let mut watched: BTreeMap<usize, usize> = BTreeMap::new();
    for viewer in world.viewers.iter().filter(|viewer| viewer.until.is_none()) {
        *watched.entry(viewer.edge).or_default() += 1;
    }
    for link in world.links.iter().filter(|link| link.is_between_relays()) {
        let below = link.relay_below().unwrap();
        let twice = link.wires[0].superfluous();
        assert!(twice.is_empty(), "payloads passed the link to {below} twice: {twice:?}");
        for (track, times) in &link.subscribed {
            assert_eq!(*times, 1, "core {below} asked for {track:?} more than once");
        }
        if !link.alive || link.subscribed.is_empty() {
            continue;
        }
        let copies = &link.wires[0].copies;
        for index in 0..TRACKS.len() as u8 {
            let of_track = |mark: &&Mark| mark.track == index;
            let first = *copies.keys().find(of_track).unwrap();
            let wanted = world.made.range(first..).filter(|(mark, _)| of_track(mark));
            let wanted = wanted.filter(|(_, (_, at))| *at + LAG <= world.now);
            for (mark, _) in wanted {
                assert_eq!(copies.get(mark), Some(&1), "copies of {mark:?} on the link to {below}");
            }
        }
    }
    for edge in watched.keys() {
        let subscribed =
            world.links.iter().filter(|it| it.relay_below() == Some(*edge) && it.alive);
        let subscribed: u32 = subscribed.flat_map(|link| link.subscribed.values()).sum();
        assert_eq!(subscribed as usize, TRACKS.len(), "edge {edge}: subscriptions above");
    }
}

/// Each core holds what its cache may hold, whatever its audience.
fn check_memory(world: &World) {
    let bound = Limits::default().cache_groups_max * GROUP_BYTES;
    for (index, core) in world.cores.iter().enumerate() {
        assert!(core.cached_max <= bound as u64, "core {index} held {} bytes", core.cached_max);
        assert_eq!(core.total(|it| it.objects_malformed), 0, "core {index}");
        assert_eq!(core.total(|it| it.limit_cache_bytes), 0, "core {index}");
    }
}

fn print_table(world: &World) {
    eprintln!("level   cores  readers  objects in  objects out  copies a link  KB cached at most");
    for level in [Level::Engine, Level::Region, Level::Edge] {
        let all = || world.cores.iter().filter(|core| core.level == level);
        let sum = |count: fn(&weir_relay::Metrics) -> u64| -> u64 {
            all().map(|core| core.total(count)).sum()
        };
        let below = world.links.iter().filter(|link| world.cores[link.above].level == level);
        let (mut readers, mut written, mut different) = (0, 0, 0);
        for link in below.filter(|link| !link.subscribed.is_empty()) {
            let copies = &link.wires[0].copies;
            readers += 1;
            written += copies.values().map(|times| u64::from(*times)).sum::<u64>();
            different += copies.len() as u64;
        }
        eprintln!(
            "{:<7} {:>5}  {readers:>7}  {:>10}  {:>11}  {:>13.3}  {:>17}",
            format!("{level:?}"),
            all().count(),
            sum(|it| it.objects_in),
            sum(|it| it.objects_out),
            written as f64 / different as f64,
            all().map(|core| core.cached_max).max().unwrap_or(0) / 1024,
        );
    }
}

#[test]
fn three_hundred_edges_cost_each_link_one_copy_whatever_their_audiences() {
    let (regions, edges) = (12, 300);
    let mut world = World::new(regions, edges);
    audiences(&mut world, regions, edges, 100);
    world.run(millis(6_000));
    departures(&mut world);
    // Edges die with their audiences, one of the largest among them, and come back empty.
    let mut crowds: BTreeMap<usize, usize> = BTreeMap::new();
    for viewer in &world.viewers {
        *crowds.entry(viewer.edge).or_default() += 1;
    }
    let largest = crowds.iter().max_by_key(|(_, crowd)| **crowd).map(|(edge, _)| *edge).unwrap();
    let others = [1 + regions, 1 + regions + edges / 2, regions + edges];
    for core in [largest].into_iter().chain(others.into_iter().filter(|it| *it != largest)) {
        let (dies, away) = (world.dice.u64(0..3_000), world.dice.u64(1_000..3_000));
        world.act(millis(dies), Act::Kill { core });
        world.act(millis(dies + away), Act::Return { core });
    }
    world.run(millis(8_000));
    print_table(&world);
    for (index, viewer) in world.viewers.iter().enumerate() {
        assert_eq!(broken(&world, viewer), 0, "viewer {index} lost something");
        assert!(viewer.complaints.is_empty(), "viewer {index}: {:?}", viewer.complaints);
    }
    check_links(&world);
    check_memory(&world);
    let watching = world.viewers.iter().filter(|viewer| viewer.until.is_none()).count();
    assert!(watching > 700, "{watching} are watching");
    // The engine feeds its regions and nobody else.
    let engine = &world.cores[0];
    let (made, out) = (engine.total(|it| it.objects_in), engine.total(|it| it.objects_out));
    assert!(out <= made * regions as u64, "{out} objects out of {made} for {regions} regions");
}

#[test]
fn when_a_region_dies_its_edges_go_on_elsewhere_and_no_link_carries_anything_twice() {
    let (regions, edges) = (4, 40);
    let mut world = World::new(regions, edges);
    audiences(&mut world, regions, edges, 20);
    world.run(millis(6_000));
    let lost = 2;
    world.act(millis(500), Act::Kill { core: lost });
    world.act(millis(4_000), Act::Return { core: lost });
    world.run(millis(10_000));
    print_table(&world);
    let mut hit = 0;
    for (index, viewer) in world.viewers.iter().enumerate() {
        let below_lost = (viewer.edge - 1 - regions) % regions == lost - 1;
        let broken = broken(&world, viewer);
        if below_lost {
            // Of each track the group that was under way, and the one that began before the loss was noticed.
            assert!(broken <= 2 * TRACKS.len(), "viewer {index}: {broken} groups");
            hit += 1;
        } else {
            assert_eq!(broken, 0, "viewer {index} lost something");
            assert!(viewer.complaints.is_empty(), "viewer {index}: {:?}", viewer.complaints);
        }
    }
    assert!(hit > 10, "{hit} viewers were below the lost region");
    check_links(&world);
    check_memory(&world);
}
