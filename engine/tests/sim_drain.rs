//! A node is drained in virtual time while fifty viewers watch: where they go, what they miss, and who is closed (F3).
//! `SIM_SEED=n` repeats a run's network.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a story uses a part of the world, a failing test panics, and virtual time begins somewhere"
)]

mod sim;

use std::time::Duration;

use sim::{Setup, World};
use weir_moqt::Draft;
use weir_xdp::virt::Link;

const DAY: Duration = Duration::from_hours(24);
const LAG: Duration = Duration::from_secs(1);
const VIEWERS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(30);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A node of two shards with viewers on both, and a twin of it elsewhere.
fn watched(viewers: usize, network: Link) -> (World, String) {
    let mut world = World::new(&Setup { shards: 2, network, filler: 500, ..Setup::default() });
    let twin = world.add_twin();
    world.publish();
    world.run(seconds(1));
    for viewer in 0..viewers {
        let draft = if viewer % 3 == 0 { Draft::D16 } else { Draft::D18 };
        world.watch((viewer % 2) as u16, draft, DAY);
    }
    world.run(seconds(5));
    (world, format!("moqt://{twin}"))
}

fn drain(world: &mut World, uri: &str) {
    let (now, deadline) = (world.now, world.now + DEADLINE);
    world.nodes.iter_mut().for_each(|node| node.shard.drain(uri, deadline, now));
}

fn sessions(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.shard.snapshot().relay.sessions).sum()
}

#[test]
fn f3_fifty_viewers_move_to_the_new_node_lose_no_group_and_are_gone_before_the_deadline() {
    let lossy = Link { loss: 0.02, ..Link::with_delay(Duration::from_millis(20)) };
    let (mut world, uri) = watched(VIEWERS, lossy);
    drain(&mut world, &uri);
    let told = world.now;
    world.await_that("the node is empty", DEADLINE, |world| sessions(world) == 0);
    let took = world.now - told;
    eprintln!("empty after {took:?}");
    let closed: u64 =
        world.nodes.iter().map(|node| node.shard.snapshot().relay.goaway_timeouts).sum();
    assert_eq!(closed, 0, "nobody had to be closed");
    world.run(seconds(8));
    let there = world.twin.as_ref().unwrap().node.shard.snapshot();
    assert_eq!(there.relay.sessions, VIEWERS as u64);
    for viewer in 0..VIEWERS {
        // Nothing lost, nothing twice, nothing out of order: over both connections.
        world.check_all(viewer, LAG);
        let watcher = &world.watchers[viewer];
        assert_eq!(watcher.moves(), 1, "viewer {viewer}");
        assert!(watcher.ended.is_none() && watcher.refused.is_empty(), "{:?}", watcher.ended);
        assert_eq!(watcher.sent[0].0, uri);
        // Draft 16 has no timeout in GOAWAY.
        let left = watcher.sent[0].1;
        assert_eq!(left.is_some(), viewer % 3 != 0);
        assert!(left.is_none_or(|left| left <= DEADLINE && left + seconds(1) > DEADLINE));
    }
}

#[test]
fn who_stays_past_the_deadline_is_closed_with_the_code_of_goaway_and_nobody_else_is() {
    let (mut world, uri) = watched(6, Link::with_delay(Duration::from_millis(20)));
    world.watchers[2].stubborn = true;
    world.watchers[3].stubborn = true;
    drain(&mut world, &uri);
    world.run(DEADLINE.saturating_sub(seconds(1)));
    assert_eq!(sessions(&world), 2);
    for viewer in [2, 3] {
        world.check_all(viewer, LAG);
    }
    world.run(seconds(3));
    assert_eq!(sessions(&world), 0);
    for viewer in 0..6 {
        let code = world.watchers[viewer].ended.as_ref().map(|(code, _)| *code);
        assert_eq!(code, [2, 3].contains(&viewer).then_some(0x10), "viewer {viewer}");
    }
    for viewer in [0, 1, 4, 5] {
        world.check_all(viewer, LAG);
    }
}

#[test]
fn a_newcomer_is_turned_away_and_so_is_a_viewer_sent_back_to_where_it_was() {
    let (mut world, _) = watched(2, Link::with_delay(Duration::from_millis(20)));
    // No new address: come back here. But nobody has taken over yet.
    drain(&mut world, "");
    let late = world.watch(0, Draft::D18, DAY);
    world.run(seconds(4));
    let reason = world.watchers[late].ended.clone().unwrap();
    assert_eq!(reason, (1, "draining".to_owned()));
    assert!(world.watchers[late].seen(&world.truth.video()).is_empty());
    for viewer in [0, 1] {
        assert_eq!(world.watchers[viewer].turned_away, [(1, "draining".to_owned())]);
        assert_eq!((world.watchers[viewer].moves(), &world.watchers[viewer].ended), (0, &None));
        world.check_all(viewer, LAG);
    }
}

#[test]
fn a_broadcast_on_a_draining_node_goes_on_and_a_new_publisher_is_refused() {
    let (mut world, uri) = watched(2, Link::with_delay(Duration::from_millis(20)));
    drain(&mut world, &uri);
    world.watchers.iter_mut().for_each(|watcher| watcher.stubborn = true);
    let (now, wall) = (world.now, world.wall());
    let other = weir_moqt::Namespace::new(["stream", sim::ORG, "lv_other"]).unwrap();
    let shard = &mut world.nodes[0].shard;
    let refused = shard.open_feed(&sim::opening("lv_other", &other), now, wall);
    assert_eq!(refused, Err(weir::shard::Refused::Draining));
    assert_eq!(shard.snapshot().encoders, 1);
    world.run(seconds(10));
    for viewer in [0, 1] {
        world.check_all(viewer, LAG);
    }
}
