//! Subscribers of a prefix on a node of several shards: the broadcast is on one of them, they are on all.

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

use std::collections::BTreeSet;
use std::time::Duration;

use sim::{Setup, World, namespace};
use weir_moqt::{Draft, Event, Filter, Params};

#[test]
fn tracks_of_a_broadcast_are_offered_on_every_shard_and_flow_once_taken() {
    let mut world = World::new(&Setup { shards: 3, ..Setup::default() });
    // One of them comes before the broadcast, the others after.
    let early = world.dial(2, Draft::D18);
    seek(&mut world, early);
    world.run(Duration::from_millis(200));
    world.publish();
    world.run(Duration::from_secs(2));
    let late = [(0, Draft::D22), (1, Draft::D16), (2, Draft::D14)].map(|(shard, draft)| {
        let peer = world.dial(shard, draft);
        seek(&mut world, peer);
        peer
    });
    world.run(Duration::from_secs(1));
    let expected: BTreeSet<_> = world.truth.tracks.keys().map(|name| name.to_string()).collect();
    assert!(expected.len() >= 4, "{expected:?}");
    for peer in late.into_iter().chain([early]) {
        let mut names = BTreeSet::new();
        let mut offers = Vec::new();
        for (_, heard) in &world.peers[peer].heard {
            if let Event::Publish { request, track, .. } = heard {
                assert_eq!(*track.namespace(), namespace());
                let name = String::from_utf8_lossy(track.name()).into_owned();
                offers.push(*request);
                assert!(names.insert(name.clone()), "{name} is offered once");
            }
        }
        assert_eq!(names, expected, "peer {peer}");
        for offer in offers {
            let plainly = Params {
                forward: Some(true),
                filter: Some(Filter::LargestObject),
                ..Params::default()
            };
            world.peers[peer].session.accept(offer, plainly, &[]).expect("an offer");
        }
    }
    world.run(Duration::from_secs(3));
    for (at, peer) in world.peers.iter().enumerate() {
        let flowing: BTreeSet<_> = peer
            .heard
            .iter()
            .filter_map(|(_, heard)| match heard {
                Event::SubgroupOpened { request, .. } => Some(*request),
                _ => None,
            })
            .collect();
        assert_eq!(flowing.len(), expected.len(), "peer {at}: {:?}", peer.ended);
    }
    // The encoder leaves for good: every offer taken ends.
    world.unpublish();
    world.run(Duration::from_secs(60));
    for (at, peer) in world.peers.iter().enumerate() {
        let ended =
            peer.heard.iter().filter(|(_, heard)| matches!(heard, Event::PublishDone { .. }));
        assert_eq!(ended.count(), expected.len(), "peer {at}: {:?}", peer.ended);
    }
}

fn seek(world: &mut World, peer: usize) {
    let session = &mut world.peers[peer].session;
    let request = if session.supports(weir_moqt::Feature::SubscribeTracks) {
        session.subscribe_tracks(&namespace(), Params::default())
    } else {
        session.subscribe_namespace(&namespace(), Params::default())
    };
    request.expect("a request of every draft");
}
