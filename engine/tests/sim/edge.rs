//! Edges of the simulated mesh: each a node of its own on the virtual network, with relays above it. It owns their
//! lives and deaths and what the engine tells them to believe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir::mesh::{self, NodeKey, Trust, Uplink, UpstreamUrl};
use weir::quic::{self, Steering};
use weir::shard::{self, MeshSnapshot, RingSizes, Shard, rings};
use weir_moqt::Draft;
use weir_relay::auth::{self, TrustedKey};
use weir_relay::{NodeKeys, Revocation, Subject};
use weir_xdp::steer::Key;
use weir_xdp::virt::{Link, VirtPort};

use super::{DRAFTS, ORG, Place, World, chance, dice, tls};

const NODE_SECRET: &str = "nk_live_simulated";
const HASHING: [u8; 32] = [8; 32];
const SIGNING: [u8; 32] = [9; 32];

/// What the engine says; without its viewers' key when that is withdrawn.
pub(super) fn trust(tokens: &tls::Tokens, issued: Duration, with_key: bool) -> (Trust, Bytes) {
    trust_without(tokens, issued, with_key, Vec::new())
}

/// The same, and what is revoked.
fn trust_without(
    tokens: &tls::Tokens,
    issued: Duration,
    with_key: bool,
    revocations: Vec<Revocation>,
) -> (Trust, Bytes) {
    let (kid, org) = (tls::KID.to_owned(), ORG.to_owned());
    let key = TrustedKey { kid, org, public: tokens.public() };
    let keys = if with_key { vec![key] } else { Vec::new() };
    let serial = issued.as_millis() as u64;
    let trust = Trust {
        issued,
        hashing: HASHING,
        nodes: vec![NodeKeys::hash(&HASHING, NODE_SECRET)],
        viewers: auth::Trust { serial, keys, revocations },
    };
    let sealed = trust.seal(&SIGNING).expect("few keys");
    (trust, sealed)
}

/// One edge; `None` while it is dead.
pub struct Edge {
    pub id: String,
    pub address: SocketAddr,
    upstreams: Vec<UpstreamUrl>,
    shards: u16,
    key: Key,
    alive: Vec<(Shard, VirtPort)>,
    lives: u64,
}

impl Edge {
    pub fn snapshot(&self) -> shard::Snapshot {
        self.shards().next().expect("alive").snapshot()
    }

    pub fn mesh(&self) -> MeshSnapshot {
        self.snapshot().mesh
    }

    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.alive.iter().map(|(shard, _)| shard)
    }

    pub fn is_alive(&self) -> bool {
        !self.alive.is_empty()
    }

    /// States of the upstreams of the first shard.
    pub fn states(&self) -> Vec<mesh::State> {
        self.mesh().upstreams.iter().map(|upstream| upstream.state).collect()
    }

    pub(super) fn turn(&mut self, now: Instant, wall: Duration) -> bool {
        let mut busy = false;
        for (shard, port) in &mut self.alive {
            busy |= shard.turn(port, now, wall).expect("a virtual port").busy;
            while shard.poll_event().is_some() {}
        }
        busy
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.shards().filter_map(Shard::poll_timeout).min()
    }
}

impl World {
    /// The engine's address.
    pub fn engine(&self) -> SocketAddr {
        self.server
    }

    /// An edge below these nodes, in order of preference; returns its index. Its address is known before it lives.
    pub fn add_edge(&mut self, id: &str, shards: u16, upstreams: &[SocketAddr]) -> usize {
        let at = self.edges.len();
        let address = Self::edge_address(at);
        let upstreams = upstreams.iter().map(|to| UpstreamUrl::parse(&format!("moqt://{to}")));
        self.edges.push(Edge {
            id: id.to_owned(),
            address,
            upstreams: upstreams.collect::<Result<_, _>>().expect("addresses"),
            shards,
            key: Key::new(0),
            alive: Vec::new(),
            lives: 0,
        });
        self.revive(at);
        at
    }

    /// Where the edge of this index listens.
    pub fn edge_address(at: usize) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(10, 0, 2, at as u8 + 1).into(), 4433)
    }

    /// Its shards have a queue each, of a card that knows addresses and no connection ids.
    pub fn edge_receives_by_queue(&self, edge: usize) {
        self.net.spread_by_sender(self.edges[edge].address);
    }

    /// The process dies without a word.
    pub fn kill(&mut self, edge: usize) {
        self.edges[edge].alive.clear();
    }

    /// The operator empties an edge.
    pub fn drain(&mut self, edge: usize, uri: &str, span: Duration) {
        let now = self.now;
        for (shard, _) in &mut self.edges[edge].alive {
            shard.drain(uri, now + span, now);
        }
    }

    /// It starts again and knows nothing.
    pub fn revive(&mut self, edge: usize) {
        let now = self.now;
        let held = &mut self.edges[edge];
        held.lives += 1;
        let life = dice(Place::Edge(edge, u16::MAX), held.lives);
        let key = Key::new(life);
        held.key = key;
        let ports = self.net.port_group(held.address, held.shards.into(), key).expect("free ports");
        let limits = quic::Limits::default();
        let tls = tls::server(&quic::config::alpn(DRAFTS));
        let server = quic::config::server(tls, &limits).expect("TLS for QUIC");
        let client = quic::config::uplink(weir::client::trust::any_certificate(), DRAFTS);
        let client = client.expect("TLS for QUIC");
        let sizes = RingSizes {
            links: vec![
                weir_ring::link::Options { depth: 1024, slot_bytes: 8192 };
                usize::from(held.shards)
            ],
            commands: 1024,
            datagrams: 1024,
        };
        let (rings, _wakes) = rings(&sizes).expect("bells");
        let parts = rings.into_iter().zip(ports).zip(0..);
        held.alive = parts
            .map(|((rings, port), index)| {
                let uplink = Uplink {
                    urls: held.upstreams.clone(),
                    key: NodeKey::new(NODE_SECRET, Trust::public_key(&SIGNING)),
                    client: dialling(&client, dice(Place::Uplink(edge, index), held.lives)),
                    route_key: [held.lives as u8; 32],
                    seed: life ^ u64::from(index) << 32,
                };
                let chance = chance(Place::Edge(edge, index), held.lives);
                let options = shard::Options {
                    steering: Steering { shard: index, shards: held.shards, key },
                    server: Arc::clone(&server),
                    drafts: DRAFTS,
                    quic: limits.clone(),
                    chance,
                    relay: weir_relay::Limits::default(),
                    open_trees: Vec::new(),
                    redirects: Vec::new(),
                    rings,
                    epoch: now,
                    node: mesh::Options { id: held.id.clone(), term: 0, uplink: Some(uplink) },
                };
                (Shard::new(options, now), port)
            })
            .collect();
    }

    /// The engine withdraws the key that signs viewers' tokens.
    pub fn withdraw_key(&mut self) {
        self.set_trust(false, Vec::new());
    }

    /// The engine revokes these for all its viewers, wherever they are.
    pub fn revoke_on_every_tier(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        let at = self.wall().as_secs();
        let revocation =
            |subject| Revocation { org: ORG.to_owned(), subject, at, until: at + 86_400 };
        self.set_trust(true, subjects.into_iter().map(revocation).collect());
    }

    fn set_trust(&mut self, with_key: bool, revocations: Vec<Revocation>) {
        let (now, wall) = (self.now, self.wall());
        let (trust, sealed) = trust_without(&self.tokens, wall, with_key, revocations);
        for node in &mut self.nodes {
            node.shard.set_trust(&trust, sealed.clone(), now, wall);
        }
    }

    /// The engine revokes all tokens so far.
    pub fn revoke_everything(&mut self) {
        let (now, wall) = (self.now, self.wall());
        let (mut trust, _) = trust(&self.tokens, wall, true);
        let (subject, at) = (Subject::Version(1), wall.as_secs());
        let everything = Revocation { org: ORG.to_owned(), subject, at, until: at + 86_400 };
        trust.viewers.revocations.push(everything);
        let sealed = trust.seal(&SIGNING).expect("few keys");
        for node in &mut self.nodes {
            node.shard.set_trust(&trust, sealed.clone(), now, wall);
        }
    }

    /// The engine that stands by says its word again, without what the other one has revoked.
    pub fn standby_speaks(&mut self) {
        let (now, wall) = (self.now, self.wall());
        let (trust, sealed) = trust(&self.tokens, wall, true);
        let twin = self.twin.as_mut().expect("a standby");
        twin.node.shard.set_trust(&trust, sealed, now, wall);
    }

    /// A viewer at the first shard of an edge.
    pub fn watch_edge(&mut self, edge: usize, draft: Draft) -> usize {
        self.watch_shard_of(edge, 0, draft)
    }

    /// A viewer at the first of these edges, who knows the others.
    pub fn watch_fleet(&mut self, edges: &[usize], draft: Draft) -> usize {
        let viewer = self.watch_edge(edges[0], draft);
        let others: Vec<SocketAddr> = edges[1..].iter().map(|at| self.edges[*at].address).collect();
        let seed = dice(Place::Viewer(viewer), 1);
        self.watchers[viewer].also(&others, seed, self.now);
        viewer
    }

    pub fn watch_shard_of(&mut self, edge: usize, shard: u16, draft: Draft) -> usize {
        let Edge { address, shards, key, .. } = self.edges[edge];
        self.watch_at(address, (shard, shards, key), draft, Duration::from_hours(24))
    }

    /// A viewer with a name at the first shard of an edge.
    pub fn watch_edge_as(&mut self, edge: usize, draft: Draft, name: &str) -> usize {
        let Edge { address, shards, key, .. } = self.edges[edge];
        let day = Duration::from_hours(24);
        let token = self.tokens.mint_for(super::INPUT, self.wall(), day, Some(name));
        self.watch_with(address, (0, shards, key), draft, &token)
    }

    /// A bare client at a shard of an edge.
    pub fn dial_edge(&mut self, edge: usize, shard: u16, draft: Draft) -> usize {
        let Edge { address, shards, key, .. } = self.edges[edge];
        self.dial_at(address, (shard, shards, key), draft)
    }

    /// The link between two nodes.
    pub fn set_between(&self, one: SocketAddr, other: SocketAddr, link: Link) {
        self.net.set_link(one.ip(), other.ip(), link);
    }

    /// No packet passes between two nodes.
    pub fn partition(&self, one: SocketAddr, other: SocketAddr) {
        self.net.cut(one.ip(), other.ip());
    }

    /// Packets pass again.
    pub fn heal(&self, one: SocketAddr, other: SocketAddr) {
        self.net.heal(one.ip(), other.ip());
    }

    /// Packets pass one way only.
    pub fn black_hole(&self, from: SocketAddr, to: SocketAddr) {
        self.net.cut_one_way(from.ip(), to.ip());
    }

    /// Every shard of an edge knows its way to the engine.
    pub fn await_way(&mut self, edge: usize, patience: Duration) {
        self.await_that("a way to the engine", patience, |world| {
            world.edges[edge].shards().all(|shard| shard.snapshot().mesh.hops > 0)
        });
    }

    // Checkers.

    /// Nothing altered, nothing twice, nothing back, of any track at any viewer.
    pub fn check_mesh(&self) {
        let tracks: Vec<Arc<str>> = self.truth.media().cloned().collect();
        for viewer in 0..self.watchers.len() {
            for track in &tracks {
                if !self.watchers[viewer].seen(track).is_empty() {
                    self.check_order(viewer, track);
                }
            }
        }
        let caches = self.edges.iter().flat_map(Edge::shards).map(Shard::snapshot);
        for snapshot in caches {
            assert!(snapshot.relay.cache_bytes < 100 << 20, "{}", snapshot.relay.cache_bytes);
            assert_eq!(snapshot.relay.objects_malformed, 0);
        }
        self.check_one_each();
    }

    /// No node has more than one subscription to one track above it, but for those that are moving.
    pub fn check_one_each(&self) {
        for edge in &self.edges {
            let subscriptions: u64 =
                edge.shards().map(|shard| shard.snapshot().relay.upstream_subscriptions).sum();
            let moving: u64 = edge.shards().map(|shard| shard.snapshot().mesh.tracks_moving).sum();
            let tracks = self.truth.tracks.len() as u64;
            assert!(moving <= tracks, "{}: {moving} of {tracks} move", edge.id);
            assert!(subscriptions <= tracks + moving, "{}: {subscriptions} of {tracks}", edge.id);
        }
    }

    /// The newest picture a viewer has is at most this old.
    pub fn check_live(&self, viewer: usize, age: Duration) {
        let video = self.truth.video();
        let last = self.watchers[viewer].seen(&video).last();
        let watcher = &self.watchers[viewer];
        let last = last.unwrap_or_else(|| {
            panic!(
                "viewer {viewer} saw nothing: {:?} {:?}, {} catalogs",
                watcher.ended, watcher.refused, watcher.catalogs
            )
        });
        let made = self.truth.track(&video)[&(last.group, last.object)].at;
        let behind = self.now - made;
        assert!(behind <= age, "viewer {viewer} is {behind:?} behind");
    }

    /// Longest pause between two pictures at a viewer since `since`.
    pub fn longest_pause(&self, viewer: usize, since: Instant) -> Duration {
        let video = self.truth.video();
        let seen = self.watchers[viewer].seen(&video);
        let at: Vec<Instant> = seen.iter().map(|seen| seen.at).collect();
        at.windows(2)
            .filter(|pair| pair[1] > since)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(Duration::MAX)
    }
}

/// The same settings, with first connection ids that follow from a seed: they decide which shard answers.
fn dialling(client: &quinn_proto::ClientConfig, seed: u64) -> Arc<quinn_proto::ClientConfig> {
    let dice = Mutex::new(fastrand::Rng::with_seed(seed));
    let mut client = client.clone();
    client.initial_dst_cid_provider(Arc::new(move || {
        let mut id = [0; 20];
        dice.lock().expect("one thread").fill(&mut id);
        quinn_proto::ConnectionId::new(&id)
    }));
    Arc::new(client)
}

/// An address nobody listens on.
pub fn nobody() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 9, 9)), 4433)
}
