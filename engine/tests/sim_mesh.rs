//! A mesh in virtual time: engine, regions and edges on a network with delay and loss, which lose each other, die and
//! come back. After each story every viewer has seen only what was published, in order and once, and no node asked
//! twice for a track. `SIM_SEED=n` repeats a run's network.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a failing test panics, and virtual time begins somewhere"
)]

mod sim;

use std::time::Duration;

use sim::edge::nobody;
use sim::{Setup, World};
use weir::mesh::State;
use weir_moqt::Draft;
use weir_relay::Subject;
use weir_xdp::virt::Link;

/// Behind three hops of 20 ms with 2 % loss: a lost tail of an object costs a probe timeout on each.
const LAG: Duration = Duration::from_millis(1_500);

/// Silence of an upstream is noticed within 600 ms, three round trips and a probe's interval: 1 s at most. Then the next
/// group (1 s) is waited for, and its first packet may be lost.
const FAILOVER: Duration = Duration::from_millis(2_500);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Engine, region, edge, and a viewer at the edge that sees pictures.
fn three_tiers() -> (World, usize, usize, usize) {
    let mut world = World::new(&Setup::default());
    world.publish();
    let region = world.add_edge("region", 1, &[world.engine()]);
    world.await_way(region, seconds(5));
    let edge = world.add_edge("edge", 1, &[World::edge_address(region)]);
    world.await_way(edge, seconds(5));
    let viewer = world.watch_edge(edge, Draft::D18);
    await_pictures(&mut world, viewer, 30);
    (world, region, edge, viewer)
}

/// Engine, two regions, and an edge below both with a viewer.
fn two_regions() -> (World, [usize; 2], usize, usize) {
    let mut world = World::new(&Setup::default());
    world.publish();
    let regions = [0, 1].map(|n| world.add_edge(&format!("region-{n}"), 1, &[world.engine()]));
    let upstreams = regions.map(World::edge_address);
    let edge = world.add_edge("edge", 1, &upstreams);
    // The second may be ready first; the first takes its place once it has proved itself.
    world.await_that("both upstreams warm", seconds(30), |world| {
        world.edges[edge].states() == [State::Active, State::Ready]
    });
    let viewer = world.watch_edge(edge, Draft::D18);
    await_pictures(&mut world, viewer, 30);
    (world, regions, edge, viewer)
}

fn await_pictures(world: &mut World, viewer: usize, more: usize) {
    let count = |world: &World| {
        let name = world.truth.media().find(|name| name.starts_with("video")).cloned();
        name.map_or(0, |name| world.watchers[viewer].seen(&name).len())
    };
    let before = count(world);
    world.await_that("pictures", seconds(60), |world| count(world) >= before + more);
}

#[test]
fn edge_behind_the_queues_of_a_card_has_its_uplinks_on_every_shard() {
    let mut world = World::new(&Setup::default());
    world.publish();
    let edge = world.add_edge("edge", 3, &[world.engine()]);
    // All answers of the engine come by one queue, whichever shard dialled.
    world.edge_receives_by_queue(edge);
    world.await_way(edge, seconds(5));
    let viewer = world.watch_edge(edge, Draft::D18);
    await_pictures(&mut world, viewer, 30);
    world.check_mesh();
}

#[test]
fn a_viewer_three_tiers_down_sees_every_object_in_order_despite_loss() {
    let (mut world, region, edge, viewer) = three_tiers();
    world.run(seconds(10));
    world.check_all(viewer, LAG);
    world.check_mesh();
    assert_eq!(world.edges[edge].mesh().hops, 3);
    assert_eq!(world.edges[region].mesh().hops, 2);
    assert!(world.watchers[viewer].ended.is_none());
}

#[test]
fn f22_forty_viewers_in_five_seconds_on_two_shards_cost_the_engine_one_subscription_a_track() {
    let mut world = World::new(&Setup { filler: 0, ..Setup::default() });
    world.publish();
    let edge = world.add_edge("edge", 2, &[world.engine()]);
    world.await_way(edge, seconds(5));
    let viewers: Vec<usize> = (0..40)
        .map(|n| {
            world.run(Duration::from_millis(125));
            world.watch_shard_of(edge, n % 2, Draft::D18)
        })
        .collect();
    world.run(seconds(6));
    for viewer in viewers {
        world.check_order(viewer, &world.truth.video());
        world.check_live(viewer, seconds(2));
    }
    world.check_mesh();
    let engine = world.nodes[0].shard.snapshot().relay;
    // Two beacons for each shard of the edge, and one for each track.
    let expected = 2 * 2 + world.truth.tracks.len() as u64;
    assert!(engine.subscriptions_accepted <= expected, "{}", engine.subscriptions_accepted);
}

#[test]
fn the_engines_bytes_are_the_same_for_one_viewer_at_an_edge_and_for_five_hundred() {
    let sent = |viewers: usize| {
        let network = Link::with_delay(Duration::from_millis(5));
        let mut world = World::new(&Setup { filler: 0, network, ..Setup::default() });
        world.publish();
        let edge = world.add_edge("edge", 1, &[world.engine()]);
        world.await_way(edge, seconds(5));
        let first = world.watch_edge(edge, Draft::D18);
        await_pictures(&mut world, first, 30);
        for _ in 1..viewers {
            world.watch_edge(edge, Draft::D18);
        }
        world.run(seconds(2));
        let seeing =
            world.watchers.iter().filter(|watcher| !watcher.seen(&world.truth.video()).is_empty());
        assert_eq!(seeing.count(), viewers);
        world.check_one_each();
        world.nodes[0].shard.snapshot().quic.bytes_sent
    };
    let (one, many) = (sent(1), sent(500));
    eprintln!("{one} bytes for 1 viewer, {many} for 500");
    assert_eq!(one, many);
}

#[test]
fn f1_a_killed_region_costs_its_viewers_a_pause_and_no_reconnect() {
    let (mut world, [first, _], edge, viewer) = two_regions();
    world.kill(first);
    let killed = world.now;
    world.run(seconds(15));
    world.check_mesh();
    world.check_live(viewer, LAG);
    assert!(world.watchers[viewer].ended.is_none());
    let pause = world.longest_pause(viewer, killed);
    eprintln!("pause after a kill {pause:?}");
    assert!(pause <= FAILOVER, "{pause:?}");
    let states = world.edges[edge].states();
    assert_eq!(states[1], State::Active, "{states:?}");

    // It comes back, proves itself, and gets its place back without a cut.
    world.revive(first);
    let back = world.now;
    world.await_that("the return", seconds(40), |world| {
        world.edges[edge].states() == [State::Active, State::Ready]
    });
    world.run(seconds(12));
    world.check_mesh();
    world.check_live(viewer, LAG);
    let pause = world.longest_pause(viewer, back);
    assert!(pause < seconds(1), "the way back is a move, not a cut: {pause:?}");
    assert_eq!(world.edges[edge].snapshot().relay.upstream_given_up, 0);
}

#[test]
fn f4_partitions_of_1_10_and_60_seconds_heal_at_the_live_edge() {
    for span in [1, 10, 60] {
        let (mut world, region, edge, _) = three_tiers();
        let (upper, lower) = (World::edge_address(region), world.edges[edge].address);
        world.partition(upper, lower);
        let sent = world.nodes[0].shard.snapshot().quic.bytes_sent;
        world.run(seconds(span));
        world.heal(upper, lower);
        world.await_way(edge, seconds(30));
        let viewer = world.watch_edge(edge, Draft::D18);
        world.run(seconds(12));
        world.check_mesh();
        world.check_live(viewer, LAG);
        // 60 s are longer than the hold: that broadcast has ended for those who waited.
        let waited = &world.watchers[0];
        if span < 30 {
            assert!(waited.ended.is_none() && waited.finished.is_empty(), "{span} s");
            world.check_live(0, LAG);
        } else {
            assert!(waited.finished.contains(&world.truth.video()), "{:?}", waited.finished);
        }
        let bytes = world.nodes[0].shard.snapshot().quic.bytes_sent - sent;
        let rate = bytes / (span + 12);
        assert!(rate < 600_000, "no flood of what was missed: {rate} bytes/s");
    }
}

#[test]
fn f5_a_black_hole_in_either_direction_is_noticed_and_left() {
    for upward in [false, true] {
        let (mut world, [first, _], edge, viewer) = two_regions();
        let (upper, lower) = (World::edge_address(first), world.edges[edge].address);
        let (from, to) = if upward { (lower, upper) } else { (upper, lower) };
        world.black_hole(from, to);
        let since = world.now;
        world.run(seconds(20));
        world.check_mesh();
        world.check_live(viewer, LAG);
        let pause = world.longest_pause(viewer, since);
        eprintln!("pause in a black hole, upward {upward}: {pause:?}");
        assert!(pause <= FAILOVER, "{pause:?}");
        assert_eq!(world.edges[edge].states()[1], State::Active);
    }
}

#[test]
fn a_restarted_region_is_found_again_with_growing_waits() {
    let (mut world, region, edge, viewer) = three_tiers();
    world.kill(region);
    world.run(seconds(12));
    assert_eq!(world.edges[edge].mesh().hops, 0, "the edge knows that it is cut off");
    let attempts = world.edges[edge].mesh().upstreams[0].attempts;
    assert!(attempts <= 12, "{attempts} attempts in 12 s");
    world.revive(region);
    world.await_way(edge, seconds(30));
    world.run(seconds(8));
    world.check_mesh();
    world.check_live(viewer, LAG);
    assert!(world.watchers[viewer].ended.is_none() && world.watchers[viewer].finished.is_empty());
}

#[test]
fn an_edge_leaves_a_region_that_lost_its_own_way() {
    let (mut world, [first, _], edge, viewer) = two_regions();
    world.partition(World::edge_address(first), world.engine());
    world.await_that("the move", seconds(15), |world| {
        world.edges[edge].states() == [State::CutOff, State::Active]
    });
    world.run(seconds(8));
    world.check_mesh();
    world.check_live(viewer, LAG);
    world.heal(World::edge_address(first), world.engine());
    world.await_that("the return", seconds(40), |world| {
        world.edges[edge].states() == [State::Active, State::Ready]
    });
    world.run(seconds(4));
    world.check_mesh();
    world.check_live(viewer, LAG);
}

#[test]
fn f21_a_ring_of_relays_is_refused_without_a_storm() {
    let mut world = World::new(&Setup::default());
    world.publish();
    // a and b are below each other; a knows the engine too.
    let other = World::edge_address(1);
    let a = world.add_edge("a", 1, &[world.engine(), other]);
    let b = world.add_edge("b", 1, &[World::edge_address(a)]);
    world.await_way(b, seconds(5));
    world.await_that("the ring to be seen", seconds(30), |world| {
        world.edges[a].states() == [State::Active, State::Loop]
    });
    let viewer = world.watch_edge(b, Draft::D18);
    await_pictures(&mut world, viewer, 30);

    // Now a loses the engine: the ring must not feed itself.
    world.partition(world.edges[a].address, world.engine());
    world.run(seconds(10));
    for edge in [a, b] {
        assert_eq!(world.edges[edge].mesh().hops, 0, "{}", world.edges[edge].id);
    }
    let sent: u64 = world.edges.iter().map(|edge| edge.snapshot().quic.datagrams_sent).sum();
    world.run(seconds(10));
    let more: u64 = world.edges.iter().map(|edge| edge.snapshot().quic.datagrams_sent).sum();
    assert!(more - sent < 400, "{} datagrams in 10 s of nothing", more - sent);
    world.heal(world.edges[a].address, world.engine());
    world.await_way(b, seconds(30));
    world.run(seconds(8));
    world.check_mesh();
    world.check_live(viewer, LAG);
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_nanosecond_and_the_byte() {
    let run = || {
        let (mut world, regions, edge, viewer) = two_regions();
        world.kill(regions[0]);
        world.run(seconds(5));
        world.revive(regions[0]);
        world.run(seconds(5));
        let start = world.start;
        let seen: Vec<_> = world.watchers[viewer]
            .seen(&world.truth.video())
            .iter()
            .map(|seen| (seen.at - start, seen.group, seen.object))
            .collect();
        let quic = world.edges[edge].snapshot().quic;
        let counts = [quic.bytes_sent, quic.bytes_received, quic.datagrams_sent, quic.sends];
        (world.now - start, world.net.tally(), counts, seen)
    };
    assert_eq!(run(), run());
}

#[test]
fn an_edge_that_is_its_own_upstream_is_told_so() {
    let mut world = World::new(&Setup::default());
    let own = World::edge_address(0);
    let edge = world.add_edge("self", 1, &[own]);
    world.run(seconds(5));
    assert_eq!(world.edges[edge].mesh().hops, 0);
    assert!(world.edges[edge].mesh().upstreams[0].attempts < 20);
}

#[test]
fn a_key_withdrawn_at_the_engine_ends_sessions_three_tiers_down_within_a_second() {
    let (mut world, _, edge, viewer) = three_tiers();
    world.run(seconds(1));
    world.withdraw_key();
    let withdrawn = world.now;
    world.await_that("the end of the session", seconds(1), |world| {
        let relay = world.edges[edge].snapshot().relay;
        relay.sessions == relay.sessions_above
    });
    eprintln!("ended {:?} after the withdrawal", world.now - withdrawn);
    // The closing packet may be lost; then the viewer's next sign of life draws a stateless reset, which says no more.
    world.await_that("the viewer to hear", seconds(20), |world| {
        world.watchers[viewer].ended.is_some()
    });
    let (code, reason) = world.watchers[viewer].ended.clone().unwrap();
    let told = code == weir_moqt::SessionCode::Unauthorized.wire() && reason.contains("revoked");
    assert!(told || reason == "reset by peer", "{code} {reason}");
}

#[test]
fn a_token_and_a_viewer_revoked_at_the_engine_end_three_tiers_down_within_a_second_and_no_other() {
    let (mut world, _, edge, other) = three_tiers();
    let [anna, bert] = ["anna", "bert"].map(|name| world.watch_edge_as(edge, Draft::D18, name));
    for viewer in [anna, bert] {
        await_pictures(&mut world, viewer, 5);
    }
    let viewers = |world: &World| {
        let relay = world.edges[edge].snapshot().relay;
        relay.sessions - relay.sessions_above
    };
    assert_eq!(viewers(&world), 3);
    world.revoke_on_every_tier([
        Subject::Token("token of anna".to_owned()),
        Subject::Viewer("bert".to_owned()),
    ]);
    world.await_that("the end of both", seconds(1), |world| viewers(world) == 1);
    // What they are told may be lost; see the story of the key.
    world.await_that("both to hear", seconds(20), |world| {
        [anna, bert].iter().all(|viewer| world.watchers[*viewer].ended.is_some())
    });
    assert_eq!(world.watchers[other].ended, None);
    world.check_live(other, seconds(4));
}

#[test]
fn an_upstream_that_nobody_answers_at_does_not_hide_the_next_one() {
    let mut world = World::new(&Setup::default());
    world.publish();
    let edge = world.add_edge("edge", 1, &[nobody(), world.engine()]);
    world.await_way(edge, seconds(2));
    let viewer = world.watch_edge(edge, Draft::D16);
    world.run(seconds(8));
    world.check_all(viewer, LAG);
    world.check_mesh();
}

#[test]
fn f6_ten_percent_loss_and_bursts_between_tiers_alter_nothing() {
    let (mut world, region, edge, viewer) = three_tiers();
    let bad = Link { loss: 0.1, ..Link::with_delay(Duration::from_millis(50)) };
    world.set_between(World::edge_address(region), world.edges[edge].address, bad);
    world.run(seconds(20));
    world.check_mesh();
    world.check_live(viewer, seconds(4));
    assert!(world.watchers[viewer].ended.is_none());
}

#[test]
fn f3_a_drained_region_is_left_for_the_address_it_names_without_losing_a_group() {
    let mut world = World::new(&Setup::default());
    world.publish();
    let [first, second] =
        [0, 1].map(|n| world.add_edge(&format!("region-{n}"), 1, &[world.engine()]));
    world.await_way(first, seconds(5));
    world.await_way(second, seconds(5));
    // The edge knows of the first alone; GOAWAY tells it of the second.
    let edge = world.add_edge("edge", 1, &[World::edge_address(first)]);
    world.await_way(edge, seconds(5));
    let viewer = world.watch_edge(edge, Draft::D18);
    await_pictures(&mut world, viewer, 30);
    let uri = format!("moqt://{}", World::edge_address(second));
    world.drain(first, &uri, seconds(20));
    world.await_that("the move", seconds(15), |world| {
        world.edges[first].snapshot().relay.sessions
            == world.edges[first].snapshot().relay.sessions_above
    });
    world.kill(first);
    world.run(seconds(10));
    world.check_all(viewer, LAG);
    world.check_mesh();
    world.check_live(viewer, LAG);
    assert_eq!(world.edges[edge].snapshot().relay.upstream_given_up, 0);
}

#[test]
fn whatever_dies_or_parts_at_random_the_mesh_heals_and_alters_nothing() {
    for round in 0..3 {
        let mut chance = fastrand::Rng::with_seed(sim::seed().wrapping_add(round));
        let (mut world, regions, edge, viewer) = two_regions();
        let (engine, below) = (world.engine(), world.edges[edge].address);
        for _ in 0..12 {
            let region = regions[chance.usize(..2)];
            let address = World::edge_address(region);
            match chance.u8(..6) {
                0 => world.kill(region),
                1 if !world.edges[region].is_alive() => world.revive(region),
                2 => world.partition(address, below),
                3 => world.partition(address, engine),
                4 => world.black_hole(address, below),
                _ => {
                    world.heal(address, below);
                    world.heal(address, engine);
                }
            }
            world.run(Duration::from_millis(chance.u64(200..5_000)));
            world.check_mesh();
        }
        for region in regions {
            world.heal(World::edge_address(region), below);
            world.heal(World::edge_address(region), engine);
            if !world.edges[region].is_alive() {
                world.revive(region);
            }
        }
        world.await_way(edge, seconds(40));
        world.run(seconds(5));
        let late = world.watch_edge(edge, Draft::D18);
        world.run(seconds(10));
        world.check_mesh();
        world.check_live(late, LAG);
        if world.watchers[viewer].finished.is_empty() {
            world.check_live(viewer, LAG);
        }
    }
}
