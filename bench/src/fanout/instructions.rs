//! What fan-out costs in instructions: one shard with its relay, a publisher and N receivers in one thread on a network in
//! memory, with time that jumps. Made to run under callgrind, which counts what happens inside [`relay_turn`] and
//! repeats to the fraction of a percent; the kernel's part is not in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::PrivateKeyDer;
use serde::Serialize;
use weir::mesh;
use weir::quic::{self, ConnId, Endpoint, Steering};
use weir::shard::{self, RingSizes, Shard, rings};
use weir_moqt::{Draft, FullTrackName, Namespace};
use weir_xdp::Port;
use weir_xdp::steer::Key;
use weir_xdp::virt::{Link, Network, VirtPort};

use super::content::{Content, Shape};
use super::publisher::Publisher;
use super::subscriber::{Aim, Ledger, Subscriber};
use super::tls;
use super::wire::Wire;

/// One way.
const DELAY: Duration = Duration::from_micros(200);

/// Least step of time.
const STEP: Duration = Duration::from_micros(100);

/// Where time begins for the relay's wall clock.
const WALL: Duration = Duration::from_hours(500_000);

/// Virtual time after which a join has failed.
const JOINED_WITHIN: Duration = Duration::from_secs(10);

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Receivers.
    pub subscribers: u32,
    /// Of all sessions.
    pub draft: Draft,
    /// The broadcast.
    pub shape: Shape,
    /// Objects published once everybody has joined.
    pub objects: u64,
    /// Of content and network.
    pub seed: u64,
}

/// What the relay did; instructions are callgrind's to count.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tally {
    /// Delivered and compared.
    pub objects: u64,
    /// Their bytes.
    pub payload_bytes: u64,
    /// Sent by the relay after everybody had joined.
    pub datagrams_sent: u64,
    /// Received by it.
    pub datagrams_received: u64,
    /// Trains it sent.
    pub sends: u64,
    /// Its turns.
    pub turns: u64,
}

/// Runs once.
pub fn run(options: &Options) -> Result<Tally> {
    let mut core = Core::new(options)?;
    core.until("the publisher's namespace", |core| {
        core.publisher.as_ref().is_some_and(Publisher::is_announced)
    })?;
    for _ in 0..options.subscribers {
        core.connect(Some(core.subscribers.len()))?;
        core.subscribers.push(None);
    }
    core.until("media to reach everybody", |core| {
        core.subscribers.iter().all(|it| it.as_ref().is_some_and(Subscriber::is_live))
    })?;
    let group = u64::from(options.shape.group_objects);
    let next = core.publisher.as_ref().map_or(0, Publisher::next);
    let first = (next / group + 1) * group;
    // Just before the first object of the window is due, and the first one after it.
    let eve = |index: u64| options.shape.due(index).saturating_sub(STEP);
    core.run_until(core.ledger.start + eve(first))?;
    let before = core.shard.snapshot();
    core.ledger.begin(first..first + options.objects);
    for subscriber in core.subscribers.iter_mut().flatten() {
        subscriber.forget_seen();
    }
    core.run_until(core.ledger.start + eve(first + options.objects))?;
    let after = core.shard.snapshot();
    let expected = options.objects * u64::from(options.subscribers);
    ensure!(core.ledger.corrupt == 0, "{} objects are not what was published", core.ledger.corrupt);
    ensure!(core.ledger.objects == expected, "{} of {expected} objects came", core.ledger.objects);
    Ok(Tally {
        objects: core.ledger.objects,
        payload_bytes: core.ledger.payload_bytes,
        datagrams_sent: after.quic.datagrams_sent - before.quic.datagrams_sent,
        datagrams_received: after.quic.datagrams_received - before.quic.datagrams_received,
        sends: after.quic.sends - before.quic.sends,
        turns: after.turns - before.turns,
    })
}

/// All that is measured happens in here.
#[inline(never)]
pub fn relay_turn(
    shard: &mut Shard,
    port: &mut dyn Port,
    now: Instant,
    wall: Duration,
) -> Result<()> {
    shard.turn(port, now, wall)?;
    while shard.poll_event().is_some() {}
    Ok(())
}

struct Core {
    net: Network,
    start: Instant,
    now: Instant,
    shard: Shard,
    relay_port: VirtPort,
    server: SocketAddr,
    port: VirtPort,
    endpoint: Endpoint,
    config: quinn_proto::ClientConfig,
    draft: Draft,
    namespace: Namespace,
    /// Whose connection it is, by its index: the publisher's or a receiver's.
    owners: Vec<Option<usize>>,
    publisher: Option<Publisher>,
    subscribers: Vec<Option<Subscriber>>,
    ledger: Ledger,
}

impl Core {
    fn new(options: &Options) -> Result<Self> {
        let start = Instant::now();
        let net = Network::new(options.seed, start);
        net.set_default_link(Link::with_delay(DELAY));
        let server = SocketAddr::from(([10, 0, 0, 1], 4433));
        let relay_port = net.port(server)?;
        let port = net.port(SocketAddr::from(([10, 0, 0, 2], 5001)))?;
        let namespace = Namespace::new(["bench", "0"])?;
        let key = Key::new(options.seed);
        let sizes = RingSizes {
            links: vec![weir_ring::link::Options { depth: 2, slot_bytes: 64 }],
            commands: 64,
            datagrams: 64,
        };
        let (rings, _wakes) = rings(&sizes)?;
        let rings = rings.into_iter().next().ok_or_else(|| anyhow!("no rings"))?;
        let limits = quic::Limits::default();
        let drafts =
            Draft::ALL.chunks(1).find(|one| one.contains(&options.draft)).unwrap_or(&Draft::ALL);
        let shard = Shard::new(
            shard::Options {
                steering: Steering { shard: 0, shards: 1, key },
                server: quic::config::server(certified(&quic::config::alpn(drafts))?, &limits)
                    .context("TLS is not usable for QUIC")?,
                drafts,
                quic: limits.clone(),
                chance: quic::Chance::Seeded(options.seed),
                relay: weir_relay::Limits::default(),
                open_trees: vec![Namespace::new(["bench"])?],
                redirects: Vec::new(),
                rings,
                epoch: start,
                node: mesh::Options::engine("core"),
            },
            start,
        );
        let steering = Steering { shard: 0, shards: 1, key: Key::new(0) };
        let chance = quic::Chance::Seeded(options.seed + 1);
        let endpoint = Endpoint::with_chance(steering, chance, None, drafts, limits.clone(), start);
        let config = quic::config::client(tls::full_handshakes(), options.draft, &limits)
            .context("TLS is not usable for QUIC")?;
        let mut core = Self {
            net,
            start,
            now: start,
            shard,
            relay_port,
            server,
            port,
            endpoint,
            config,
            draft: options.draft,
            namespace,
            owners: Vec::new(),
            publisher: None,
            subscribers: Vec::new(),
            ledger: Ledger::new(Content::new(options.shape, options.seed), start),
        };
        core.connect(None)?;
        Ok(core)
    }

    fn connect(&mut self, owner: Option<usize>) -> Result<()> {
        let config = self.config.clone();
        let conn = self.endpoint.connect(config, self.server, tls::SERVER_NAME, self.now)?;
        self.owners.resize(self.owners.len().max(conn.index() + 1), None);
        self.owners[conn.index()] = owner;
        self.endpoint.flush(&mut self.port, self.now)?;
        Ok(())
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = self.now + JOINED_WITHIN;
        while !done(self) {
            ensure!(self.now < deadline, "waited in vain for {what}");
            self.step(deadline)?;
        }
        Ok(())
    }

    fn run_until(&mut self, end: Instant) -> Result<()> {
        while self.now < end {
            self.step(end)?;
        }
        Ok(())
    }

    /// To the next moment at which anything can happen.
    fn step(&mut self, end: Instant) -> Result<()> {
        let due = self
            .publisher
            .as_ref()
            .map(|it| self.ledger.start + self.ledger.content.shape().due(it.next()));
        let next =
            [self.net.next_event(), self.endpoint.poll_timeout(), self.shard.poll_timeout(), due];
        let next = next.into_iter().flatten().min().unwrap_or(end).min(end);
        self.now = next.max(self.now + STEP);
        self.net.advance(self.now);
        self.clients()?;
        relay_turn(&mut self.shard, &mut self.relay_port, self.now, WALL + (self.now - self.start))
    }

    fn clients(&mut self) -> Result<()> {
        let now = self.now;
        let endpoint = &mut self.endpoint;
        while self.port.recv(&mut |datagram| endpoint.handle_datagram(datagram, now))? > 0 {}
        self.endpoint.handle_timeout(now);
        while let Some((conn, event)) = self.endpoint.poll_event(now) {
            self.event(conn, event)?;
        }
        if let Some(publisher) = &mut self.publisher {
            let elapsed = now.saturating_duration_since(self.ledger.start);
            let due = self.ledger.content.shape().index_at(elapsed + Duration::from_nanos(1));
            if publisher.is_announced() && publisher.next() < due {
                publisher.publish(due)?;
                if let Some(mut link) = self.endpoint.link(publisher.wire.conn, now) {
                    publisher.drive(&mut link)?;
                }
            }
        }
        self.endpoint.flush(&mut self.port, now)?;
        Ok(())
    }

    fn event(&mut self, conn: ConnId, event: quic::Event) -> Result<()> {
        let owner = self.owners.get(conn.index()).copied().flatten();
        let opened = matches!(event, quic::Event::Opened { .. });
        if let quic::Event::Closed { code, reason } = &event {
            return Err(anyhow!("the relay closed a session: {reason} ({code:#x})"));
        }
        if opened {
            let wire = Wire::new(conn, self.draft, "localhost", "/");
            let track = Bytes::from_static(b"video");
            if let Some(at) = owner {
                let name = FullTrackName::new(self.namespace.clone(), track)?;
                self.subscribers[at] = Some(Subscriber::new(wire, name, Aim::Media));
            } else {
                let (content, name) = (self.ledger.content.clone(), self.namespace.clone());
                self.publisher =
                    Some(Publisher::new(wire, name, track, self.draft, content, false));
            }
        }
        match owner {
            None => {
                let Some(publisher) = &mut self.publisher else { return Ok(()) };
                if !opened {
                    publisher.wire.take(event)?;
                }
                publisher.events()?;
                if let Some(mut link) = self.endpoint.link(conn, self.now) {
                    publisher.drive(&mut link)?;
                }
            }
            Some(at) => {
                let Some(Some(subscriber)) = self.subscribers.get_mut(at) else { return Ok(()) };
                if !opened {
                    subscriber.wire.take(event)?;
                }
                subscriber.events(&mut self.ledger, self.now)?;
                if let Some(mut link) = self.endpoint.link(conn, self.now) {
                    subscriber.wire.drive(&mut link)?;
                }
            }
        }
        Ok(())
    }
}

/// A certificate on P-256, as nodes make them.
fn certified(alpn: &[&[u8]]) -> Result<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed([tls::SERVER_NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_reaches_every_receiver_and_each_has_one_copy_upstream() {
        let shape = Shape {
            bits_per_second: 1_920_000,
            objects_per_second: 60,
            group_objects: 20,
            intra_factor: 1,
        };
        let options = Options { subscribers: 3, draft: Draft::ALL[0], shape, objects: 40, seed: 7 };
        let tally = run(&options).expect("a run");
        assert_eq!(tally.objects, 3 * 40);
        assert_eq!(tally.payload_bytes, 3 * 40 * shape.bytes(0) as u64);
        // Three packets each, and hardly more.
        assert!((360..430).contains(&tally.datagrams_sent), "{tally:?}");
    }
}
