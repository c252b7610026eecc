//! The load generator: one thread, one socket, one publisher and N subscribers on the engine's own QUIC endpoint. It
//! owns the clock and the connections; the phases of a measurement are its caller's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use weir::client::trust;
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
use super::wire::Wire;

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
    Publisher,
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
    target: Target,
    /// By index of the connection; an index is used again, so each owner names the very connection.
    owners: Vec<(Option<ConnId>, Owner)>,
    publisher: Option<Publisher>,
    subscribers: Vec<Option<Subscriber>>,
    touched: Vec<usize>,
    /// Subscribers asked for.
    wanted: usize,
    pub(super) ledger: Ledger,
    /// Subscribers that ended before the run did, with the reason of the first.
    pub(super) sessions_lost: u32,
    first_loss: Option<String>,
}

impl Generator {
    pub(super) fn new(
        target: Target,
        draft: Draft,
        content: Content,
        subscribers: usize,
        silent: bool,
    ) -> Result<Self> {
        let local: SocketAddr = if target.address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let mut port = UdpPort::bind(local)?;
        port.resize_buffers(SOCKET_BUFFER_BYTES)?;
        let now = Instant::now();
        let limits = quic::Limits {
            connections_max: subscribers + 1,
            // A ramp on a busy machine is not what is measured.
            handshake_timeout: Duration::from_secs(30),
            ..quic::Limits::default()
        };
        let mut tls = trust::any_certificate();
        // Every subscriber pays for a full handshake.
        tls.resumption = rustls::client::Resumption::disabled();
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
            target,
            owners: Vec::new(),
            publisher: None,
            subscribers: Vec::new(),
            touched: Vec::new(),
            wanted: 0,
            ledger: Ledger::new(content, now),
            sessions_lost: 0,
            first_loss: None,
        })
    }

    /// Connects the publisher and waits until the relay lets it publish.
    pub(super) fn connect_publisher(&mut self) -> Result<()> {
        self.connect(Owner::Publisher)?;
        self.until(Duration::from_secs(20), "the publisher's namespace", |it| {
            it.publisher.as_ref().is_some_and(Publisher::is_announced)
        })
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
        self.publisher.as_ref().map_or(0, Publisher::next)
    }

    /// SUBSCRIBEs the relay sent to its publisher.
    pub(super) fn upstream_subscriptions(&self) -> u32 {
        self.publisher.as_ref().map_or(0, Publisher::subscriptions)
    }

    /// Bytes the publisher has sent, in whole datagrams.
    pub(super) fn uplink_bytes(&self) -> u64 {
        let publisher = self.publisher.as_ref();
        publisher.and_then(|it| self.endpoint.bytes_sent(it.wire.conn)).unwrap_or(0)
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
        let conn =
            self.endpoint.connect(config, self.target.address, "localhost", Instant::now())?;
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
        let full = self.endpoint.flush(&mut self.port, now)?;
        if !idle {
            return Ok(());
        }
        let mut park = deadline.saturating_duration_since(now).min(PARK_MAX);
        if let Some(at) = self.endpoint.poll_timeout() {
            park = park.min(at.saturating_duration_since(now));
        }
        if let Some(publisher) = &self.publisher {
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
                Owner::Publisher => {
                    let Some(publisher) = &mut self.publisher else { continue };
                    publisher.events()?;
                    if let Some(mut link) = self.endpoint.link(publisher.wire.conn, now) {
                        publisher.drive(&mut link)?;
                    }
                }
                Owner::Subscriber(at) => {
                    let Some(Some(subscriber)) = self.subscribers.get_mut(at) else { continue };
                    if let Err(error) = subscriber.events(&mut self.ledger, now) {
                        self.sessions_lost += 1;
                        self.first_loss.get_or_insert_with(|| format!("{error:#}"));
                        self.owners[index] = NOBODY;
                        continue;
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

    fn opened(&mut self, conn: ConnId, owner: Owner) -> Result<()> {
        let (namespace, track) = (self.target.namespace.clone(), Bytes::from_static(TRACK));
        let authority = &self.target.authority;
        match owner {
            Owner::Nobody => {}
            Owner::Publisher => {
                let wire = Wire::new(conn, self.draft, authority, &self.target.publish_path);
                let content = self.ledger.content.clone();
                let silent = self.silent;
                let (draft, name) = (self.draft, namespace);
                self.publisher = Some(Publisher::new(wire, name, track, draft, content, silent));
            }
            Owner::Subscriber(at) => {
                let wire = Wire::new(conn, self.draft, authority, &self.target.playback_path);
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
            Owner::Publisher => {
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
            Owner::Publisher => self.publisher.as_mut().map(|publisher| &mut publisher.wire),
            Owner::Subscriber(at) => {
                self.subscribers.get_mut(at)?.as_mut().map(|subscriber| &mut subscriber.wire)
            }
        }
    }
}
