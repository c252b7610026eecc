//! A whole node and its viewers in one thread on a network in memory. It owns virtual time, the rings between shards,
//! an encoder, and a second packager that says what every object must be; the stories are in the test files. Chance
//! follows from `SIM_SEED`: loss and delay, connection ids, reset tokens, what quinn draws, jitter. What does not is
//! TLS: aws-lc draws key shares and randoms from the system, which changes bytes but no length, since certificates and
//! signatures are Ed25519; and rustls reads the real clock for tickets, whose ages matter to nobody here. So the same
//! seed gives the same packets at the same times, which `sim_mesh.rs` checks.

#![allow(dead_code, reason = "each file of stories uses its part of the world")]

pub mod edge;
mod peer;
mod tls;
mod viewer;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir::mesh;
use weir::quic::{self, Steering};
use weir::shard::{self, FeedId, Opening, Policy, Protocol, Rank, RingSizes, Shard, rings};
use weir_feed as feed;
use weir_moqt::{Draft, Namespace};
use weir_packager::fmp4::{Looper, TimedSample};
use weir_packager::{Codec, Output, Packager, TrackId};
use weir_ring::link;
use weir_xdp::steer::Key;
use weir_xdp::virt::{Link, Network, VirtPort};

pub use peer::Peer;
pub use viewer::Watcher;

pub const INPUT: &str = "lv_sim";
pub const ORG: &str = "org_sim";
const DRAFTS: &[Draft] = &Draft::ALL;
const CLIP: &[u8] = include_bytes!("../../assets/demo.mp4");

/// Where virtual wall time begins.
const WALL: Duration = Duration::from_hours(500_000);

/// Least step of virtual time, so that a timer that rounds down cannot stop it.
const STEP_MIN: Duration = Duration::from_micros(100);

/// What a story chooses.
pub struct Setup {
    pub shards: u16,
    /// Between the node and every viewer.
    pub network: Link,
    pub link: link::Options,
    /// Limits of every shard's relay.
    pub relay: weir_relay::Limits,
    /// Filler added to each picture: the clip alone is a mere 270 kb/s.
    pub filler: usize,
    /// And to each key picture, instead.
    pub key_filler: Option<usize>,
    /// Limits of QUIC of the node.
    pub quic: quic::Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            shards: 1,
            network: Link { loss: 0.02, ..Link::with_delay(Duration::from_millis(20)) },
            // 8 MiB, as a small node has.
            link: link::Options { depth: 1024, slot_bytes: 8192 },
            relay: weir_relay::Limits::default(),
            filler: 4_000,
            key_filler: None,
            quic: quic::Limits::default(),
        }
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    thread_local!(static TOLD: Cell<bool> = const { Cell::new(false) });
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x5eed);
    if !TOLD.replace(true) {
        eprintln!("SIM_SEED={seed}");
    }
    seed
}

/// Who draws chance of its own, so that one more draw here changes nothing there.
#[derive(Clone, Copy, Debug)]
enum Place {
    Engine(u16),
    Twin,
    Edge(usize, u16),
    Viewer(usize),
    /// Connections that an edge dials.
    Uplink(usize, u16),
}

/// The chance of one place in its `life`.
fn dice(place: Place, life: u64) -> u64 {
    let (kind, one, other) = match place {
        Place::Engine(shard) => (1, 0, shard),
        Place::Twin => (2, 0, 0),
        Place::Edge(edge, shard) => (3, edge, shard),
        Place::Viewer(viewer) => (4, viewer, 0),
        Place::Uplink(edge, shard) => (5, edge, shard),
    };
    let mut hasher = DefaultHasher::new();
    for part in [seed(), kind, one as u64, other.into(), life] {
        hasher.write_u64(part);
    }
    hasher.finish()
}

fn chance(place: Place, life: u64) -> quic::Chance {
    quic::Chance::Seeded(dice(place, life))
}

pub struct Node {
    pub shard: Shard,
    pub port: VirtPort,
    /// Takes no turns: its core is busy elsewhere.
    pub stalled: bool,
}

/// What the shard must have published.
#[derive(Default)]
pub struct Truth {
    /// Length, hash and time of every object, in order.
    pub tracks: BTreeMap<Arc<str>, BTreeMap<(u64, u64), Made>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub fingerprint: u64,
    pub at: Instant,
}

impl Truth {
    pub fn track(&self, name: &str) -> &BTreeMap<(u64, u64), Made> {
        self.tracks.get(name).unwrap_or_else(|| panic!("{name} was never published"))
    }

    /// Names of the audio or video tracks.
    pub fn media(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tracks.keys().filter(|name| !name.contains("catalog"))
    }

    /// The video track.
    pub fn video(&self) -> Arc<str> {
        let found = self.media().find(|name| name.starts_with("video"));
        Arc::clone(found.expect("a video track"))
    }
}

struct Encoder {
    id: FeedId,
    begun: Instant,
    video: TrackId,
    looper: Looper,
    next: TimedSample,
}

/// A second node that is given the same samples at the same moments, so that both make the same objects.
pub struct Twin {
    pub node: Node,
    feed: Option<FeedId>,
}

pub struct World {
    pub net: Network,
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub twin: Option<Twin>,
    pub edges: Vec<edge::Edge>,
    pub watchers: Vec<Watcher>,
    pub peers: Vec<Peer>,
    pub truth: Truth,
    encoder: Option<Encoder>,
    mirror: Option<Packager>,
    server: SocketAddr,
    key: Key,
    filler: usize,
    key_filler: usize,
    tokens: tls::Tokens,
}

/// An encoder that wants `input_id`.
pub fn opening<'a>(input_id: &'a str, namespace: &'a Namespace) -> Opening<'a> {
    Opening {
        input_id,
        namespace,
        policy: &Policy::DEFAULT,
        rank: Rank::Encoder,
        protocol: Protocol::Rtmp,
        peer: None,
    }
}

pub fn namespace() -> Namespace {
    Namespace::new(["stream", ORG, INPUT]).expect("a namespace")
}

/// The last byte of a client's own address.
fn last_byte(port: &VirtPort) -> u8 {
    match weir_xdp::Port::local_addr(port).ip() {
        IpAddr::V4(own) => own.octets()[3],
        IpAddr::V6(_) => 0,
    }
}

/// Where the other node is.
pub fn twin_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 3, 1), 4433))
}

/// Each viewer has a host of its own.
fn viewer_address(viewer: usize) -> IpAddr {
    Ipv4Addr::new(10, 1 + (viewer / 250) as u8, 1, (viewer % 250) as u8 + 1).into()
}

pub fn fingerprint(payload: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}

/// A picture with a filler NAL unit (type 12, H.264 section 7.3.2.7) behind it.
fn filled(picture: &[u8], filler: usize) -> Bytes {
    let mut data = picture.to_vec();
    if filler > 0 {
        data.extend_from_slice(&(filler as u32).to_be_bytes());
        data.push(12);
        data.resize(picture.len() + 4 + filler - 1, 0xff);
        data.push(0x80);
    }
    data.into()
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let seed = seed();
        let start = Instant::now();
        let net = Network::new(seed, start);
        net.set_default_link(setup.network);
        let server = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 4433));
        let tokens = tls::Tokens::new();
        let limits = setup.quic.clone();
        let tls = tls::server(&quic::config::alpn(DRAFTS));
        let config = quic::config::server(tls, &limits).expect("TLS for QUIC");
        let key = Key::new(seed);
        let ports = net.port_group(server, setup.shards.into(), key).expect("free ports");
        let sizes = RingSizes {
            links: vec![setup.link; usize::from(setup.shards)],
            commands: 1024,
            datagrams: 1024,
        };
        let (rings, _wakes) = rings(&sizes).expect("bells");
        let nodes = rings
            .into_iter()
            .zip(ports)
            .zip(0..)
            .map(|((rings, port), index)| {
                let steering = Steering { shard: index, shards: setup.shards, key };
                let options = shard::Options {
                    steering,
                    server: Arc::clone(&config),
                    drafts: DRAFTS,
                    quic: limits.clone(),
                    chance: chance(Place::Engine(index), 0),
                    relay: setup.relay.clone(),
                    open_trees: Vec::new(),
                    redirects: Vec::new(),
                    rings,
                    epoch: start,
                    node: mesh::Options::engine("engine"),
                };
                let mut shard = Shard::new(options, start);
                let (trust, sealed) = edge::trust(&tokens, WALL, true);
                shard.set_trust(&trust, sealed, start, WALL);
                Node { shard, port, stalled: false }
            })
            .collect();
        Self {
            net,
            start,
            now: start,
            nodes,
            twin: None,
            edges: Vec::new(),
            watchers: Vec::new(),
            peers: Vec::new(),
            truth: Truth::default(),
            encoder: None,
            mirror: None,
            server,
            key,
            filler: setup.filler,
            key_filler: setup.key_filler.unwrap_or(setup.filler),
            tokens,
        }
    }

    /// Starts another node, of one shard, that trusts the same tokens. Before anybody publishes.
    pub fn add_twin(&mut self) -> SocketAddr {
        self.add_twin_with(Vec::new())
    }

    /// Starts it with addresses of what lives elsewhere.
    pub fn add_twin_with(&mut self, elsewhere: Vec<(Namespace, String)>) -> SocketAddr {
        self.add_twin_in_term(0, elsewhere)
    }

    /// Starts it as an engine that stands by.
    pub fn add_twin_in_term(
        &mut self,
        term: u8,
        elsewhere: Vec<(Namespace, String)>,
    ) -> SocketAddr {
        let address = twin_address();
        let limits = quic::Limits::default();
        let tls = tls::server(&quic::config::alpn(DRAFTS));
        let config = quic::config::server(tls, &limits).expect("TLS for QUIC");
        let port = self.net.port(address).expect("a free port");
        let sizes = RingSizes {
            links: vec![link::Options { depth: 2, slot_bytes: 64 }],
            commands: 1024,
            datagrams: 1024,
        };
        let (mut rings, _wakes) = rings(&sizes).expect("bells");
        let options = shard::Options {
            steering: Steering { shard: 0, shards: 1, key: self.key },
            server: config,
            drafts: DRAFTS,
            quic: limits,
            chance: chance(Place::Twin, 0),
            relay: weir_relay::Limits::default(),
            rings: rings.remove(0),
            open_trees: Vec::new(),
            redirects: elsewhere,
            epoch: self.start,
            node: mesh::Options::engine("twin").in_term(term),
        };
        let mut shard = Shard::new(options, self.now);
        let wall = self.wall();
        let (trust, sealed) = edge::trust(&self.tokens, wall, true);
        shard.set_trust(&trust, sealed, self.now, wall);
        let node = Node { shard, port, stalled: false };
        self.twin = Some(Twin { node, feed: None });
        address
    }

    /// Tells every shard what is revoked.
    pub fn revoke(&mut self, revocation: &weir_relay::Revocation) {
        for node in &mut self.nodes {
            let (trust, _) = edge::trust(&self.tokens, WALL, true);
            let mut keys = trust.key_set();
            keys.revoke(revocation);
            node.shard.set_keys(keys, self.now);
        }
    }

    pub fn wall(&self) -> Duration {
        WALL + (self.now - self.start)
    }

    /// An encoder begins to publish on shard 0.
    pub fn publish(&mut self) {
        let looper = Looper::new(CLIP).expect("the demo clip");
        let (now, wall) = (self.now, self.wall());
        let shard = &mut self.nodes[0].shard;
        let id =
            shard.open_feed(&opening(INPUT, &namespace()), now, wall).expect("the input is free");
        if let Some(twin) = &mut self.twin {
            let shard = &mut twin.node.shard;
            let feed = shard.open_feed(&opening(INPUT, &namespace()), now, wall);
            twin.feed = Some(feed.expect("the input is free there too"));
        }
        match &mut self.mirror {
            Some(mirror) => mirror.handle_discontinuity(),
            None => {
                self.mirror = Some(Packager::new(weir_packager::Options {
                    first_group: wall.as_millis() as u64,
                    ..weir_packager::Options::default()
                }));
            }
        }
        for config in looper.tracks().to_vec() {
            self.feed(id, feed::Event::Track(config));
        }
        let video = looper.tracks().iter().find(|it| matches!(it.codec, Codec::H264 { .. }));
        let video = video.expect("a video track").track;
        let mut looper = looper;
        let next = looper.next().expect("samples");
        self.encoder = Some(Encoder { id, begun: now, video, looper, next });
    }

    /// The encoder goes away.
    pub fn unpublish(&mut self) {
        let encoder = self.encoder.take().expect("somebody publishes");
        let wall = self.wall();
        self.nodes[0].shard.close_feed(INPUT, encoder.id, self.now, wall);
    }

    fn feed(&mut self, id: FeedId, event: feed::Event) {
        let (now, wall) = (self.now, self.wall());
        let mirror = self.mirror.as_mut().expect("a packager");
        match &event {
            feed::Event::Track(config) => {
                mirror.handle_track(config.clone(), now).expect("a track");
            }
            feed::Event::Sample(sample) => {
                mirror.handle_sample(sample.clone(), wall, now).expect("a sample");
            }
            _ => {}
        }
        self.note();
        if let Some(Twin { node, feed: Some(id), .. }) = &mut self.twin {
            let event = event.clone();
            assert!(node.shard.handle_media(INPUT, *id, event, now, wall), "feed replaced");
        }
        assert!(self.nodes[0].shard.handle_media(INPUT, id, event, now, wall), "feed replaced");
    }

    /// Everything the second packager made.
    fn note(&mut self) {
        let Some(mirror) = &mut self.mirror else { return };
        while let Some(output) = mirror.poll_output() {
            let Output::Object(object) = output else { continue };
            if object.payload.is_empty() {
                continue;
            }
            let made = Made { fingerprint: fingerprint(&object.payload), at: self.now };
            let track = self.truth.tracks.entry(object.track).or_default();
            let before = track.insert((object.group, object.object), made);
            assert!(before.is_none(), "the packager repeats itself");
        }
    }

    /// A viewer dials a shard with a token of this lifetime; returns its index.
    pub fn watch(&mut self, shard: u16, draft: Draft, lifetime: Duration) -> usize {
        let shards = self.nodes.len() as u16;
        self.watch_at(self.server, (shard, shards, self.key), draft, lifetime)
    }

    /// A viewer dials the other node.
    pub fn watch_twin(&mut self, address: SocketAddr, draft: Draft) -> usize {
        self.watch_at(address, (0, 1, self.key), draft, Duration::from_mins(10))
    }

    /// A viewer dials a shard of any node.
    pub fn watch_at(
        &mut self,
        server: SocketAddr,
        (shard, shards, key): (u16, u16, Key),
        draft: Draft,
        lifetime: Duration,
    ) -> usize {
        let token = self.tokens.mint(INPUT, self.wall(), lifetime);
        self.watch_with(server, (shard, shards, key), draft, &token)
    }

    /// Another viewer at the address of one, behind the same link.
    pub fn watch_beside(&mut self, other: usize, draft: Draft) -> usize {
        let token = self.tokens.mint(INPUT, self.wall(), Duration::from_mins(10));
        let own = SocketAddr::new(viewer_address(other), 5000 + self.watchers.len() as u16);
        self.watch_from(own, self.server, (0, self.nodes.len() as u16, self.key), draft, &token)
    }

    fn watch_with(
        &mut self,
        server: SocketAddr,
        shard: (u16, u16, Key),
        draft: Draft,
        token: &str,
    ) -> usize {
        let own = SocketAddr::new(viewer_address(self.watchers.len()), 5000);
        self.watch_from(own, server, shard, draft, token)
    }

    fn watch_from(
        &mut self,
        own: SocketAddr,
        server: SocketAddr,
        (shard, shards, key): (u16, u16, Key),
        draft: Draft,
        token: &str,
    ) -> usize {
        let index = self.watchers.len();
        let port = self.net.port(own).expect("a free port");
        let byte = weir_xdp::steer::cid_first_byte(shard, shards, key, index as u8);
        let chance = chance(Place::Viewer(index), 0);
        self.watchers.push(Watcher::dial(port, server, byte, draft, token, chance, self.now));
        index
    }

    /// A bare client dials a shard of the node; returns its index.
    pub fn dial(&mut self, shard: u16, draft: Draft) -> usize {
        self.dial_at(self.server, (shard, self.nodes.len() as u16, self.key), draft)
    }

    /// A bare client dials a shard of any node.
    pub fn dial_at(
        &mut self,
        server: SocketAddr,
        (shard, shards, key): (u16, u16, Key),
        draft: Draft,
    ) -> usize {
        let index = self.peers.len();
        let token = self.tokens.mint(INPUT, self.wall(), Duration::from_mins(10));
        let own: IpAddr = Ipv4Addr::new(10, 0, 4, index as u8 + 1).into();
        let port = self.net.port(SocketAddr::new(own, 5000)).expect("a free port");
        let byte = weir_xdp::steer::cid_first_byte(shard, shards, key, index as u8);
        let options = weir_moqt::SetupOptions {
            path: Some(format!("/playback/{INPUT}?tok={token}")),
            authority: Some("localhost:4433".to_owned()),
            ..weir_moqt::SetupOptions::default()
        };
        self.peers.push(Peer::dial(port, server, byte, draft, options, self.now));
        index
    }

    /// The node's shards have a queue each, of a card that knows addresses and no connection ids.
    pub fn receive_by_queue(&self) {
        self.net.spread_by_sender(self.server);
    }

    /// Gives a viewer another port, as a NAT does that forgets; what is under way to the old one is lost.
    pub fn rebind(&mut self, viewer: usize, port: u16) {
        let address = SocketAddr::new(viewer_address(viewer), port);
        let port = self.net.port(address).expect("a free port");
        self.watchers[viewer].rebind(port);
    }

    /// What the link from the node to a viewer does from now on.
    pub fn set_downlink(&self, viewer: usize, link: Link) {
        let own = viewer_address(viewer);
        self.net.set_link_one_way(self.server.ip(), own, link);
    }

    /// No packet passes between a viewer and a node.
    pub fn cut_off(&self, viewer: usize, node: SocketAddr) {
        self.net.cut(node.ip(), viewer_address(viewer));
    }

    /// Packets pass again.
    pub fn reconnect(&self, viewer: usize, node: SocketAddr) {
        self.net.heal(node.ip(), viewer_address(viewer));
    }

    /// The addresses of the node and of a viewer at it.
    pub fn between(&self, viewer: usize) -> (IpAddr, IpAddr) {
        (self.server.ip(), viewer_address(viewer))
    }

    /// Runs for some virtual time.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(end, |_| false);
        self.now = end;
    }

    /// Runs until something holds, which it must before `patience` is over.
    pub fn await_that(&mut self, what: &str, patience: Duration, holds: impl Fn(&Self) -> bool) {
        let end = self.now + patience;
        assert!(self.run_until(end, holds), "{what}: not within {patience:?}");
    }

    fn run_until(&mut self, end: Instant, holds: impl Fn(&Self) -> bool) -> bool {
        while self.now < end {
            self.turn();
            if holds(self) {
                return true;
            }
            let next = self.next_event().max(self.now + STEP_MIN).min(end);
            self.now = next;
        }
        false
    }

    /// Everybody works until nobody has anything to do at this moment.
    fn turn(&mut self) {
        self.net.advance(self.now);
        while let Some(encoder) = &mut self.encoder {
            if encoder.begun + encoder.next.due > self.now {
                break;
            }
            let id = encoder.id;
            let next = encoder.looper.next().expect("an endless clip");
            let TimedSample { mut sample, .. } = std::mem::replace(&mut encoder.next, next);
            if sample.track == encoder.video {
                let filler = if sample.keyframe { self.key_filler } else { self.filler };
                sample.data = filled(&sample.data, filler);
            }
            self.feed(id, feed::Event::Sample(sample));
        }
        if let Some(mirror) = &mut self.mirror
            && mirror.poll_timeout().is_some_and(|at| at <= self.now)
        {
            mirror.handle_timeout(self.now);
            self.note();
        }
        let (now, wall) = (self.now, self.wall());
        loop {
            let mut busy = false;
            let twin = self.twin.as_mut().map(|twin| &mut twin.node);
            for node in self.nodes.iter_mut().chain(twin).filter(|node| !node.stalled) {
                let turn = node.shard.turn(&mut node.port, now, wall).expect("a virtual port");
                busy |= turn.busy;
                while node.shard.poll_event().is_some() {}
            }
            for edge in &mut self.edges {
                busy |= edge.turn(now, wall);
            }
            for watcher in &mut self.watchers {
                busy |= watcher.turn(now);
            }
            for peer in &mut self.peers {
                busy |= peer.turn(now);
            }
            self.net.advance(now);
            if !busy {
                return;
            }
        }
    }

    fn next_event(&self) -> Instant {
        let encoder = self.encoder.as_ref().map(|encoder| encoder.begun + encoder.next.due);
        let mirror = self.mirror.as_ref().and_then(Packager::poll_timeout);
        let twin = self.twin.as_ref().map(|twin| &twin.node);
        let nodes = self.nodes.iter().chain(twin).filter(|node| !node.stalled);
        let nodes = nodes.filter_map(|node| node.shard.poll_timeout());
        let watchers = self.watchers.iter().filter_map(Watcher::poll_timeout);
        let edges = self.edges.iter().filter_map(edge::Edge::poll_timeout);
        let peers = self.peers.iter().filter_map(Peer::poll_timeout);
        let others = [encoder, mirror, self.net.next_event()].into_iter().flatten();
        let next = nodes.chain(edges).chain(watchers).chain(peers).chain(others).min();
        next.unwrap_or(self.now + Duration::from_millis(1))
    }

    // Checkers.

    /// Groups of a track between the first and the last that a viewer saw, of which it missed anything.
    pub fn groups_broken(&self, viewer: usize, track: &str) -> u64 {
        let seen = self.watchers[viewer].seen(track);
        let places: BTreeSet<_> = seen.iter().map(|seen| (seen.group, seen.object)).collect();
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return 0 };
        let expected = self.truth.track(track).range(*first..*last).map(|(place, _)| *place);
        let broken: BTreeSet<_> =
            expected.filter(|place| !places.contains(place)).map(|(group, _)| group).collect();
        broken.len() as u64
    }

    /// What a viewer saw of a track is what was published, in order, nothing twice.
    pub fn check_order(&self, viewer: usize, track: &str) {
        let truth = self.truth.track(track);
        let mut last = None;
        for seen in self.watchers[viewer].seen(track) {
            let place = (seen.group, seen.object);
            let made = truth.get(&place);
            let made = made.unwrap_or_else(|| panic!("{track} {place:?} was never published"));
            assert_eq!(made.fingerprint, seen.fingerprint, "viewer {viewer}: {track} {place:?}");
            assert!(made.at <= seen.at, "viewer {viewer}: {track} {place:?} before its time");
            assert!(last < Some(place), "viewer {viewer}: {track} {place:?} after {last:?}");
            last = Some(place);
        }
    }

    /// The same, and without a hole from the first object seen to those of `lag` ago.
    pub fn check_complete(&self, viewer: usize, track: &str, lag: Duration) {
        self.check_order(viewer, track);
        let seen = self.watchers[viewer].seen(track);
        let first = seen.first().unwrap_or_else(|| panic!("viewer {viewer} saw no {track}"));
        let places: Vec<_> = seen.iter().map(|seen| (seen.group, seen.object)).collect();
        let wanted: Vec<_> = self
            .truth
            .track(track)
            .range((first.group, first.object)..)
            .filter(|(_, made)| made.at + lag <= self.now)
            .map(|(place, _)| *place)
            .collect();
        let missing: Vec<_> = wanted.iter().filter(|place| !places.contains(place)).collect();
        assert!(missing.is_empty(), "viewer {viewer}: of {track} {missing:?} are missing");
    }

    /// Every media track of a viewer is complete.
    pub fn check_all(&self, viewer: usize, lag: Duration) {
        for track in self.truth.media() {
            self.check_complete(viewer, track, lag);
            let skipped = self.watchers[viewer].skipped.get(track);
            assert_eq!(skipped, None, "viewer {viewer}: groups of {track} skipped");
        }
    }
}
