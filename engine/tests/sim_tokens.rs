//! Tokens on two shards of a virtual node: revocation reaches every shard, and places are counted over all of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a failing test panics, and virtual time begins somewhere"
)]

mod sim;

use std::time::Duration;

use sim::{ORG, Setup, World};
use weir_moqt::Draft;
use weir_relay::{Limits, Revocation, Subject};
use weir_xdp::virt::Link;

const HOUR: Duration = Duration::from_hours(1);

/// A second, less the interval at which a node looks at its store.
const SOON: Duration = Duration::from_millis(800);

fn two_shards(relay: Limits) -> World {
    let network = Link::with_delay(Duration::from_millis(20));
    let mut world = World::new(&Setup { shards: 2, network, relay, ..Setup::default() });
    world.publish();
    world
}

#[test]
fn what_is_revoked_ends_on_every_shard_within_a_second() {
    let mut world = two_shards(Limits::default());
    let viewers = [0, 1, 0, 1].map(|shard| world.watch(shard, Draft::D18, HOUR));
    world.run(Duration::from_secs(2));
    assert!(viewers.iter().all(|viewer| world.watchers[*viewer].ended.is_none()));
    let at = world.wall().as_secs();
    let subject = Subject::Version(1);
    world.revoke(&Revocation { org: ORG.to_owned(), subject, at, until: at + 86_400 });
    world.await_that("the end of all", SOON, |world| {
        viewers.iter().all(|viewer| world.watchers[*viewer].ended.is_some())
    });
    for viewer in viewers {
        let (_, reason) = world.watchers[viewer].ended.clone().unwrap();
        assert_eq!(reason, "auth_failed: token_revoked");
    }
    let again = world.watch(1, Draft::D18, HOUR);
    world.await_that("the refusal", SOON, |world| world.watchers[again].ended.is_some());
}

#[test]
fn viewers_of_a_broadcast_are_counted_over_all_shards() {
    let mut limits = Limits::default();
    limits.viewers_per_broadcast_max = 2;
    let mut world = two_shards(limits);
    let first = [0, 1].map(|shard| world.watch(shard, Draft::D18, HOUR));
    world.run(Duration::from_secs(1));
    let third = world.watch(0, Draft::D18, HOUR);
    world.await_that("the refusal", SOON, |world| world.watchers[third].ended.is_some());
    assert_eq!(world.watchers[third].ended.clone().unwrap().1, "capacity");
    assert!(first.iter().all(|viewer| world.watchers[*viewer].ended.is_none()));
    // One goes, on the other shard; its place can be had here.
    world.watchers[first[1]].leave(world.now);
    world.run(Duration::from_secs(1));
    let fourth = world.watch(0, Draft::D18, HOUR);
    world.run(Duration::from_secs(1));
    assert!(world.watchers[fourth].ended.is_none(), "{:?}", world.watchers[fourth].ended);
}
