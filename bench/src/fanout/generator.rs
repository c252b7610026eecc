//! The load generator: one thread, one socket, publishers and N subscribers on the engine's own QUIC endpoint. It owns the
//! clock and the connections; the phases of a measurement are its caller's. Subscribers from a given one on only
//! acknowledge: once media reaches them, what their streams carry is counted and thrown away.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use weir::quic::{self, ConnId, Endpoint, Steering};
use weir_moqt::{Draft, FullTrackName};
use weir_relay::Transport as _;
use weir_xdp::Port;
use weir_xdp::steer::Key;
use weir_xdp::udp::UdpPort;

use super::content::Content;
use super::publisher::Publisher;
use super::subscriber::{Aim, Ledger, Subscriber};
use super::target::Target;
use super::tls;
use super::wire::Wire;
use crate::histogram::Histogram;

/// Batches taken from the socket before sessions get their turn.
const BATCHES_PER_TURN: usize = 16;

/// Longest sleep, so that phases notice time passing.
const PARK_MAX: Duration = Duration::from_millis(50);

/// One socket stands for all subscribers: half a second of 1 Gb/s.
const SOCKET_BUFFER_BYTES: usize = 64 << 20;

/// Name of the only track.
const TRACK: &[u8] = b"video";

/// Whose connection it is.
#[derive(Clone, Copy)]
enum Owner {
    Nobody,
    Publisher(usize),
    Subscriber(usize),
}

/// What a generator may be told to speak.
const DRAFTS: &[Draft] = &Draft::ALL;

const NOBODY: (Option<ConnId>, Owner) = (None, Owner::Nobody);

pub(super) struct Generator {
    port: UdpPort,
    endpoint: Endpoint,
    config: quinn_proto::ClientConfig,
    draft: Draft,
    /// The publisher publishes nothing; subscribers wait for their acceptance only.
    silent: bool,
    /// One for each publisher; subscriber `i` watches number `i` modulo their count.
    targets: Vec<Target>,
    /// By index of the connection; an index is used again, so each owner names the very connection.
    owners: Vec<(Option<ConnId>, Owner)>,
    publishers: Vec<Option<Publisher>>,
    subscribers: Vec<Option<Subscriber>>,
    /// When each of them set out.
    begun: Vec<Instant>,
    /// Subscribers from this one on only acknowledge.
    checked: usize,
    touched: Vec<usize>,
    /// Subscribers asked for.
    wanted: usize,
    pub(super) ledger: Ledger,
    /// Subscribers that ended before the run did, with the reason of the first.
    pub(super) sessions_lost: u32,
    first_loss: Option<String>,
    /// From setting out until media, or the acceptance, had come.
    pub(super) joins: Histogram,
    /// Bytes on data streams of subscribers that check, and of those that only acknowledge, while `counting`.
    pub(super) stream_bytes: [u64; 2],
    pub(super) counting: bool,
}

impl Generator {
    pub(super) fn new(
        targets: Vec<Target>,
        draft: Draft,
        content: Content,
        subscribers: usize,
        silent: bool,
        tls: rustls::ClientConfig,
    ) -> Result<Self> {
        let first = targets.first().ok_or_else(|| anyhow!("nowhere to publish"))?;
        let local: SocketAddr = if first.address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let mut port = UdpPort::bind(local)?;
        port.resize_buffers(SOCKET_BUFFER_BYTES)?;
        let now = Instant::now();
        let limits = quic::Limits {
            connections_max: subscribers + targets.len(),
            // A ramp on a busy machine is not what is measured.
            handshake_timeout: Duration::from_secs(30),
            ..quic::Limits::default()
        };
        let config =
            quic::config::client(tls, draft, &limits).context("TLS is not usable for QUIC")?;
        let steering = Steering { shard: 0, shards: 1, key: Key::new(0) };
        let drafts = DRAFTS.chunks(1).find(|one| one.contains(&draft)).unwrap_or(DRAFTS);
        let endpoint = Endpoint::new(steering, None, drafts, limits, now);
        Ok(Self {
            port,
            endpoint,
            config,
            draft,
            silent,
            publishers: targets.iter().map(|_| None).collect(),
            targets,
            owners: Vec::new(),
            subscribers: Vec::new(),
            begun: Vec::new(),
            checked: usize::MAX,
            touched: Vec::new(),
            wanted: 0,
            ledger: Ledger::new(content, now),
            sessions_lost: 0,
            first_loss: None,
            joins: Histogram::default(),
            stream_bytes: [0; 2],
            counting: false,
        })
    }

    /// Only the first `checked` subscribers look at what they receive.
    pub(super) fn check_only(&mut self, checked: usize) {
        self.checked = checked;
    }

    /// Connects the publishers and waits until the relay lets them publish: one after the other, since many keys from one
    /// address at once look like guesses.
    pub(super) fn connect_publisher(&mut self) -> Result<()> {
        for at in 0..self.targets.len() {
            self.connect(Owner::Publisher(at))?;
            self.until(Duration::from_secs(20), "a publisher's namespace", |it| {
                it.publishers[at].as_ref().is_some_and(Publisher::is_announced)
            })?;
        }
        Ok(())
    }

    /// Counts from here on, and only the objects in `window`.
    pub(super) fn measure(&mut self, window: Range<u64>) {
        self.ledger.begin(window);
        for subscriber in self.subscribers.iter_mut().flatten() {
            subscriber.forget_seen();
        }
    }

    /// Connects subscribers until there are `count`, at most `ramp` of them on their way at once, and waits until media
    /// reaches all of them, or, when nothing is published, until all are accepted.
    pub(super) fn connect_subscribers(&mut self, count: usize, ramp: usize) -> Result<()> {
        while self.wanted < count {
            let room = ramp.max(1);
            self.until(Duration::from_mins(1), "sessions to open", move |it| {
                it.wanted - it.subscribers.iter().flatten().count() < room
            })?;
            self.begin_subscriber()?;
        }
        self.until(Duration::from_mins(1), "media to reach every subscriber", |it| {
            it.subscribers.iter().all(|slot| slot.as_ref().is_some_and(Subscriber::is_live))
        })
    }

    /// Lets one more subscriber set out, without waiting for it.
    pub(super) fn begin_subscriber(&mut self) -> Result<()> {
        self.connect(Owner::Subscriber(self.wanted))?;
        self.subscribers.push(None);
        self.begun.push(Instant::now());
        self.wanted += 1;
        Ok(())
    }

    /// Sends a subscriber away and lets another take its place.
    pub(super) fn replace_subscriber(&mut self, at: usize) -> Result<()> {
        let now = Instant::now();
        if let Some(subscriber) = self.subscribers.get_mut(at).and_then(Option::take) {
            let conn = subscriber.wire.conn;
            self.owners[conn.index()] = NOBODY;
            if let Some(mut link) = self.endpoint.link(conn, now) {
                link.close(0, "leaving");
            }
        }
        if let Some(begun) = self.begun.get_mut(at) {
            *begun = now;
        }
        self.connect(Owner::Subscriber(at))
    }

    /// Whether media reaches a subscriber.
    pub(super) fn is_live(&self, at: usize) -> bool {
        self.subscribers.get(at).and_then(Option::as_ref).is_some_and(Subscriber::is_live)
    }

    /// Runs until `done`, or fails after `patience`.
    pub(super) fn until(
        &mut self,
        patience: Duration,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            if Instant::now() >= deadline {
                bail!("waited {} s in vain for {what}", patience.as_secs());
            }
            if let Some(reason) = &self.first_loss {
                bail!("a subscriber was lost while waiting for {what}: {reason}");
            }
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Runs until a moment.
    pub(super) fn run_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    /// Next object to be published.
    pub(super) fn next_object(&self) -> u64 {
        self.publishers.iter().flatten().map(Publisher::next).next().unwrap_or(0)
    }

    /// SUBSCRIBEs the relay sent to its publishers.
    pub(super) fn upstream_subscriptions(&self) -> u32 {
        self.publishers.iter().flatten().map(Publisher::subscriptions).sum()
    }

    /// Bytes the publishers have sent, in whole datagrams.
    pub(super) fn uplink_bytes(&self) -> u64 {
        let sent = |it: &Publisher| self.endpoint.bytes_sent(it.wire.conn);
        self.publishers.iter().flatten().filter_map(sent).sum()
    }

    /// Why the first lost subscriber went.
    pub(super) fn first_loss(&self) -> Option<&str> {
        self.first_loss.as_deref()
    }

    /// Says goodbye.
    pub(super) fn close(&mut self) -> Result<()> {
        let now = Instant::now();
        self.endpoint.close_all(0, "done", now);
        self.endpoint.flush(&mut self.port, now)?;
        Ok(())
    }

    fn connect(&mut self, owner: Owner) -> Result<()> {
        let config = self.config.clone();
        let address = self.target(owner).address;
        let conn = self.endpoint.connect(config, address, tls::SERVER_NAME, Instant::now())?;
        if conn.index() >= self.owners.len() {
            self.owners.resize(conn.index() + 1, NOBODY);
        }
        self.owners[conn.index()] = (Some(conn), owner);
        Ok(())
    }

    /// Receive, act, publish, send, and sleep when there was nothing.
    fn turn(&mut self, deadline: Instant) -> Result<()> {
        let mut idle = true;
        for _ in 0..BATCHES_PER_TURN {
            // Read per batch, so that waiting behind other batches counts as latency.
            let now = Instant::now();
            let endpoint = &mut self.endpoint;
            if self.port.recv(&mut |datagram| endpoint.handle_datagram(datagram, now))? == 0 {
                break;
            }
            idle = false;
            self.events(now)?;
        }
        let now = Instant::now();
        self.endpoint.handle_timeout(now);
        self.events(now)?;
        for publisher in self.publishers.iter_mut().flatten() {
            let elapsed = now.saturating_duration_since(self.ledger.start);
            let due = self.ledger.content.shape().index_at(elapsed + Duration::from_nanos(1));
            if publisher.is_announced() && publisher.next() < due {
                publisher.publish(due)?;
                if let Some(mut link) = self.endpoint.link(publisher.wire.conn, now) {
                    publisher.drive(&mut link)?;
                }
            }
        }
        let full = self.endpoint.flush(&mut self.port, now)?;
        if !idle {
            return Ok(());
        }
        let mut park = deadline.saturating_duration_since(now).min(PARK_MAX);
        if let Some(at) = self.endpoint.poll_timeout() {
            park = park.min(at.saturating_duration_since(now));
        }
        if let Some(publisher) = self.publishers.iter().flatten().next() {
            let due = self.ledger.start + self.ledger.content.shape().due(publisher.next());
            park = park.min(due.saturating_duration_since(now));
        }
        if full {
            park = park.min(Duration::from_millis(1));
        }
        self.port.wait_readable(park)?;
        Ok(())
    }

    /// Moves what happened on connections into sessions, and lets those answer.
    fn events(&mut self, now: Instant) -> Result<()> {
        while let Some((conn, event)) = self.endpoint.poll_event(now) {
            let (_, owner) = self
                .owners
                .get(conn.index())
                .copied()
                .filter(|(owned, _)| *owned == Some(conn))
                .unwrap_or(NOBODY);
            match event {
                quic::Event::Opened { .. } => self.opened(conn, owner)?,
                quic::Event::Closed { code, reason } => self.closed(conn, owner, code, &reason)?,
                event => {
                    if self.count(owner, &event) {
                        continue;
                    }
                    let Some(wire) = self.wire(owner) else { continue };
                    wire.take(event)?;
                }
            }
            if self.touched.last() != Some(&conn.index()) {
                self.touched.push(conn.index());
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            match self.owners[index].1 {
                Owner::Nobody => {}
                Owner::Publisher(at) => {
                    let Some(Some(publisher)) = self.publishers.get_mut(at) else { continue };
                    publisher.events()?;
                    if let Some(mut link) = self.endpoint.link(publisher.wire.conn, now) {
                        publisher.drive(&mut link)?;
                    }
                }
                Owner::Subscriber(at) => {
                    let Some(Some(subscriber)) = self.subscribers.get_mut(at) else { continue };
                    let waited = !subscriber.is_live();
                    if let Err(error) = subscriber.events(&mut self.ledger, now) {
                        self.sessions_lost += 1;
                        self.first_loss.get_or_insert_with(|| format!("{error:#}"));
                        self.owners[index] = NOBODY;
                        continue;
                    }
                    if waited && subscriber.is_live() {
                        self.joins.record(now.saturating_duration_since(self.begun[at]));
                    }
                    if let Some(mut link) = self.endpoint.link(subscriber.wire.conn, now) {
                        subscriber.wire.drive(&mut link)?;
                    }
                }
            }
        }
        self.touched = touched;
        Ok(())
    }

    /// The target of a connection.
    fn target(&self, owner: Owner) -> &Target {
        let at = match owner {
            Owner::Nobody => 0,
            Owner::Publisher(at) | Owner::Subscriber(at) => at,
        };
        &self.targets[at % self.targets.len()]
    }

    /// Counts what a data stream brought; true if nobody looks at it.
    fn count(&mut self, owner: Owner, event: &quic::Event) -> bool {
        let Owner::Subscriber(at) = owner else { return false };
        let deaf = at >= self.checked && self.is_live(at);
        if self.counting
            && let quic::Event::Stream { dir: weir_moqt::Dir::Uni, data, .. } = event
        {
            self.stream_bytes[usize::from(at >= self.checked)] += data.len() as u64;
        }
        deaf
    }

    fn opened(&mut self, conn: ConnId, owner: Owner) -> Result<()> {
        let target = self.target(owner).clone();
        let (namespace, track) = (target.namespace, Bytes::from_static(TRACK));
        let authority = &target.authority;
        match owner {
            Owner::Nobody => {}
            Owner::Publisher(at) => {
                let wire = Wire::new(conn, self.draft, authority, &target.publish_path);
                let content = self.ledger.content.clone();
                let silent = self.silent;
                let (draft, name) = (self.draft, namespace);
                let publisher = Publisher::new(wire, name, track, draft, content, silent);
                let slot = self.publishers.get_mut(at).ok_or_else(|| anyhow!("no slot"))?;
                *slot = Some(publisher);
            }
            Owner::Subscriber(at) => {
                let wire = Wire::new(conn, self.draft, authority, &target.playback_path);
                let slot = self.subscribers.get_mut(at).ok_or_else(|| anyhow!("no slot"))?;
                let aim = if self.silent { Aim::Accepted } else { Aim::Media };
                *slot = Some(Subscriber::new(wire, FullTrackName::new(namespace, track)?, aim));
            }
        }
        Ok(())
    }

    fn closed(&mut self, conn: ConnId, owner: Owner, code: u32, reason: &str) -> Result<()> {
        if !matches!(owner, Owner::Nobody) {
            self.owners[conn.index()] = NOBODY;
        }
        match owner {
            Owner::Nobody => Ok(()),
            Owner::Publisher(_) => {
                bail!("the relay closed the publisher's session: {reason} ({code:#x})")
            }
            Owner::Subscriber(_) => {
                self.sessions_lost += 1;
                self.first_loss.get_or_insert(format!("{reason} ({code:#x})"));
                Ok(())
            }
        }
    }

    fn wire(&mut self, owner: Owner) -> Option<&mut Wire> {
        match owner {
            Owner::Nobody => None,
            Owner::Publisher(at) => {
                self.publishers.get_mut(at)?.as_mut().map(|publisher| &mut publisher.wire)
            }
            Owner::Subscriber(at) => {
                self.subscribers.get_mut(at)?.as_mut().map(|subscriber| &mut subscriber.wire)
            }
        }
    }
}
