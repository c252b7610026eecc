//! One shard: its QUIC endpoint, its relay, the broadcasts pinned to it and the rings to the other
//! shards, in one single-threaded turn. Sans-IO: packets come from and go to a [`Port`], media from
//! feeds arrives by calls, time is an argument. The same turn runs under glommio in production and
//! in the seeded simulation.

mod broadcast;
mod exchange;
mod health;
mod intake;
mod mesh;
mod publisher;
mod rings;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_feed as feed;
use weir_moqt::{Draft, Namespace};
use weir_packager as packager;
use weir_relay::{
    Event as RelayEvent, KeySet, RefuseReason, Relay, Secret, SessionId, SessionParams,
};
use weir_xdp::Port;

pub use health::{Health, Link, Warning};
pub use intake::Admission;
pub use mesh::Snapshot as MeshSnapshot;
pub use publisher::{
    FeedId, Opening, Policy, Protocol, Rank, Reason, Refused, Report, Second, State,
};
pub use rings::{RingSizes, Rings, rings};

use crate::guard::guarded;
use crate::quic::{self, ConnId, Endpoint, Steering};
use broadcast::Broadcast;
use exchange::Exchange;

/// Receive batches in one turn: with 32 datagrams a batch at least, some 250 before others get
/// their share of the core.
const BATCHES_PER_TURN: usize = 8;

/// Broadcasts of one shard: each holds a packager and some ten tracks.
const BROADCASTS_MAX: usize = 1_000;

/// What a shard is made of.
pub struct Options {
    /// Which shard, of how many, and the steering secret.
    pub steering: Steering,
    /// TLS and transport of the server side.
    pub server: Arc<quinn_proto::ServerConfig>,
    /// Drafts in order of preference.
    pub drafts: &'static [Draft],
    /// Limits of QUIC.
    pub quic: quic::Limits,
    /// Where connection ids and the like come from.
    pub chance: quic::Chance,
    /// Limits of the relay.
    pub relay: weir_relay::Limits,
    /// Namespace trees that need neither key nor token.
    pub open_trees: Vec<Namespace>,
    /// Namespace trees that another relay serves, and its address.
    pub redirects: Vec<(Namespace, String)>,
    /// Rings to the other shards.
    pub rings: Rings,
    /// Common zero of the stamps on links.
    pub epoch: Instant,
    /// This node among others.
    pub node: crate::mesh::Options,
}

/// What a shard tells its shell.
#[derive(Debug)]
pub enum Event {
    /// A MoQT publisher shows its key: answer with [`Shard::publish_authorized`].
    Authorize {
        /// Who.
        session: SessionId,
        /// From its path.
        input_id: String,
        /// The key it showed.
        key: Secret,
        /// Its address, if the connection is still there.
        peer: Option<SocketAddr>,
    },
    /// A session began.
    SessionOpened {
        /// Which.
        session: SessionId,
        /// From where.
        peer: SocketAddr,
        /// Draft spoken.
        draft: Draft,
        /// Raw QUIC or WebTransport.
        transport: weir_moqt::Transport,
    },
    /// A session ended.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// Its code.
        code: u32,
        /// Why; holds no secret.
        reason: String,
    },
    /// An upstream's name is to be looked up: answer with [`Shard::resolved`].
    Resolve(crate::mesh::UpstreamUrl),
    /// An input changed its state.
    Input(Report),
}

/// Numbers of a shard for `/metrics`, taken as one picture.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// QUIC.
    pub quic: quic::Counters,
    /// QUIC connections held.
    pub connections: usize,
    /// Packet port; filled in by whoever owns it.
    pub port: weir_xdp::Counters,
    /// Which kind of port it is, and what was better and refused; filled in likewise.
    pub rung: Option<weir_xdp::ladder::Rung>,
    /// Rungs that were refused.
    pub rungs_refused: Vec<weir_xdp::ladder::Rung>,
    /// How it gets on past the kernel; filled in likewise.
    pub frames: Option<weir_xdp::xdp_port::Report>,
    /// SRT publishers; likewise.
    pub srt: crate::node::SrtPicture,
    /// Relay.
    pub relay: weir_relay::Metrics,
    /// Newcomers are refused, those here are asked to leave.
    pub draining: bool,
    /// Broadcasts with a publisher.
    pub broadcasts_live: usize,
    /// Broadcasts with an encoder: the demo is nobody to wait for.
    pub encoders: usize,
    /// Broadcasts held, live or within their window.
    pub broadcasts: usize,
    /// Inputs by state, in the order of [`State::ALL`]; those without a broadcast are not counted.
    pub inputs: [u64; State::ALL.len()],
    /// Feeds by protocol, in the order of [`Protocol::ALL`].
    pub feeds: [u64; Protocol::ALL.len()],
    /// Inputs with each warning, in the order of [`Warning::ALL`].
    pub warned: [u64; Warning::ALL.len()],
    /// What had to be done to samples.
    pub fixes: packager::Counters,
    /// Samples taken from feeds.
    pub samples: u64,
    /// Bytes of those.
    pub sample_bytes: u64,
    /// Samples the packager refused.
    pub sample_faults: u64,
    /// Samples lost on their way from the publisher.
    pub samples_lost: u64,
    /// Publishers replaced by another one while they were alive.
    pub takeovers: u64,
    /// MoQT publishers ended for what they sent.
    pub publisher_faults: u64,
    /// Objects put into this shard's link.
    pub link_exported: u64,
    /// Objects taken from other shards' links.
    pub link_imported: u64,
    /// Descriptors missed on other shards' links.
    pub link_overruns: u64,
    /// Commands dropped on full rings.
    pub link_commands_dropped: u64,
    /// Datagrams handed to the shard that owns their connection.
    pub handed_over: u64,
    /// Datagrams dropped on full hand-over rings.
    pub hand_over_dropped: u64,
    /// Turns taken.
    pub turns: u64,
    /// Panics caught; each ended one session or feed.
    pub panics: u64,
    /// Relays above and below.
    pub mesh: MeshSnapshot,
    /// WHIP publishers; filled in by whoever owns their port.
    pub whip: WhipNumbers,
    /// RTMP publishers; filled in by whoever owns their connections.
    pub rtmp: RtmpNumbers,
}

/// What is counted for the RTMP and RTMPS publishers of a shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtmpNumbers {
    /// Connections begun.
    pub connections: u64,
    /// Connections refused because the shard serves all it may.
    pub refused_full: u64,
    /// Connections refused because their address has too many that publish nothing.
    pub refused_source: u64,
    /// Publishers refused, and connections closed for what they sent.
    pub refused: u64,
}

/// What is counted for the WHIP publishers of a shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct WhipNumbers {
    /// Sessions held.
    pub sessions: usize,
    /// What the sessions' endpoint counted.
    pub endpoint: feed::whip::Counters,
    /// Datagrams handed to the shard of their session.
    pub passed: u64,
    /// Datagrams dropped because that had no room.
    pub passed_dropped: u64,
    /// Panics caught; each ended one session.
    pub panics: u64,
}

/// One shard.
pub struct Shard {
    steering: Steering,
    endpoint: Endpoint,
    relay: Relay,
    exchange: Exchange,
    /// Connection of each session, and back.
    sessions: HashMap<SessionId, ConnId>,
    conns: Vec<Option<(ConnId, SessionId)>>,
    broadcasts: BTreeMap<String, Broadcast>,
    /// No broadcast has a deadline before this.
    broadcasts_due: Option<Instant>,
    /// Tallies of broadcasts that have ended.
    past: broadcast::Tally,
    /// Share of time spent in turns, as the shell measures it.
    busy_permille: u16,
    egress: Egress,
    mesh: mesh::Mesh,
    intakes: intake::Intakes,
    events: VecDeque<Event>,
    /// Inputs with each warning, as last reported.
    warned: [u64; Warning::ALL.len()],
    draining: bool,
    turns: u64,
    panics: u64,
}

impl Shard {
    /// An empty shard.
    pub fn new(options: Options, now: Instant) -> Self {
        let steering = options.steering;
        let endpoint = Endpoint::with_chance(
            steering,
            options.chance,
            Some(options.server),
            options.drafts,
            options.quic,
            now,
        );
        let mut relay = Relay::new(options.relay, steering.shard);
        let own = Namespace::new([crate::config::OWN_TREE]).unwrap_or_default();
        relay.open_namespaces(options.open_trees, own);
        relay.set_redirects(options.redirects);
        let mut shard = Self {
            steering,
            endpoint,
            relay,
            exchange: Exchange::new(options.rings, options.epoch),
            sessions: HashMap::new(),
            conns: Vec::new(),
            broadcasts: BTreeMap::new(),
            broadcasts_due: None,
            past: broadcast::Tally::default(),
            busy_permille: 0,
            egress: Egress::new(now),
            mesh: mesh::Mesh::new(options.node, now),
            intakes: intake::Intakes::default(),
            events: VecDeque::new(),
            warned: [0; Warning::ALL.len()],
            draining: false,
            turns: 0,
            panics: 0,
        };
        shard.begin_mesh(steering.shards, now);
        shard
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.steering.shard
    }

    /// One turn: receive, rings, timers, sessions, send. Returns what the shell needs to know.
    pub fn turn(
        &mut self,
        port: &mut dyn Port,
        now: Instant,
        wall: Duration,
    ) -> std::io::Result<Turn> {
        self.turns += 1;
        let mut busy = false;
        for _ in 0..BATCHES_PER_TURN {
            let (endpoint, exchange) = (&mut self.endpoint, &mut self.exchange);
            let steering = self.steering;
            let received = port.recv(&mut |datagram| match steering.owner(&datagram.data) {
                Some(owner) if owner != steering.shard => exchange.hand_over(owner, datagram),
                _ => endpoint.handle_datagram(datagram, now),
            })?;
            if received == 0 {
                break;
            }
            busy = true;
        }
        while let Some(datagram) = self.exchange.next_datagram() {
            self.endpoint.handle_datagram(datagram, now);
            busy = true;
        }
        busy |= self.exchange.turn(&mut self.relay, now);
        self.timers(now, wall);
        self.settle(port, now, wall, busy)
    }

    /// The second half of a turn, for callers that changed something from outside: drives sessions
    /// and sends.
    pub fn settle(
        &mut self,
        port: &mut dyn Port,
        now: Instant,
        wall: Duration,
        busy: bool,
    ) -> std::io::Result<Turn> {
        self.connections(now, wall);
        self.mesh_turn(now, wall);
        self.drive(port, now, wall)?;
        self.intake_turn(now, wall);
        self.mesh_turn(now, wall);
        self.drive(port, now, wall)?;
        // What a publisher sent before it was granted its input is read once it is.
        while self.intakes.has_letters() {
            self.intake_turn(now, wall);
            self.drive(port, now, wall)?;
        }
        let full = self.endpoint.flush(port, now)?;
        if let Some(permille) = self.egress.at(full, now) {
            self.relay.set_load(permille.max(self.busy_permille));
        }
        Ok(Turn { busy, full })
    }

    /// When the next turn is due without any input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mesh = self.mesh.poll_timeout();
        [
            self.endpoint.poll_timeout(),
            self.relay.poll_timeout(),
            self.broadcasts_due,
            mesh,
            self.intakes.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the rings are empty: asked once more after declaring oneself asleep.
    pub fn is_idle(&mut self) -> bool {
        self.exchange.is_idle()
    }

    /// What the shell should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The share of its time that this shard spends in turns, as its shell measures it.
    pub fn set_load(&mut self, busy_permille: u16) {
        self.busy_permille = busy_permille;
    }

    /// New playback keys, for nodes that learn them from nobody.
    pub fn set_keys(&mut self, keys: KeySet, now: Instant) {
        self.relay.set_keys(keys, now);
    }

    /// Answer to [`Event::Authorize`].
    pub fn publish_authorized(
        &mut self,
        session: SessionId,
        answer: Result<Admission, RefuseReason>,
        now: Instant,
        wall: Duration,
    ) {
        let conn = self.sessions.get(&session).copied();
        if answer.is_ok()
            && let Some(conn) = conn
        {
            self.endpoint.trust_with_streams(conn);
        }
        let answer = answer.map(|admission| {
            let namespace = admission.namespace.clone();
            if self.sessions.contains_key(&session) {
                self.intakes.admit(session, admission);
            }
            namespace
        });
        let relay = &mut self.relay;
        // What it has sent meanwhile is read now.
        let done = guarded(|| relay.publish_authorized(session, answer, now, wall));
        if let (Err(_), Some(conn)) = (done, conn) {
            self.end_after_panic(conn, session, now);
        }
    }

    /// A publisher begins.
    pub fn open_feed(
        &mut self,
        opening: &Opening<'_>,
        now: Instant,
        wall: Duration,
    ) -> Result<FeedId, Refused> {
        let Opening { input_id, namespace, .. } = *opening;
        if self.draining {
            return Err(Refused::Draining);
        }
        if !self.broadcasts.contains_key(input_id) {
            if self.broadcasts.len() >= BROADCASTS_MAX {
                return Err(Refused::Capacity);
            }
            let options = packager::Options {
                // Group ids grow over restarts of the machine too.
                first_group: self.mesh.first_group(wall),
                ..packager::Options::default()
            };
            let Some(broadcast) = Broadcast::new(opening, options, &mut self.relay, now) else {
                return Err(Refused::Capacity);
            };
            self.exchange.announce(true, namespace);
            self.broadcasts.insert(input_id.to_owned(), broadcast);
        }
        let broadcast = self.broadcasts.get_mut(input_id).ok_or(Refused::Capacity)?;
        let feed = broadcast.open_feed(opening, now)?;
        earlier(&mut self.broadcasts_due, broadcast.poll_timeout());
        self.tell(input_id, now, wall);
        Ok(feed)
    }

    /// Media from a publisher. False when another has replaced it.
    pub fn handle_media(
        &mut self,
        input_id: &str,
        feed: FeedId,
        event: feed::Event,
        now: Instant,
        wall: Duration,
    ) -> bool {
        let Some(broadcast) = self.broadcasts.get_mut(input_id) else { return false };
        let relay = &mut self.relay;
        let held = guarded(|| broadcast.handle_media(feed, event, relay, now, wall));
        earlier(&mut self.broadcasts_due, broadcast.poll_timeout());
        self.tell(input_id, now, wall);
        held.unwrap_or_else(|_| {
            self.panics += 1;
            false
        })
    }

    /// Whether somebody publishes to this input.
    pub fn is_live(&self, input_id: &str) -> bool {
        self.broadcasts.get(input_id).is_some_and(Broadcast::is_live)
    }

    /// A publisher left.
    pub fn close_feed(&mut self, input_id: &str, feed: FeedId, now: Instant, wall: Duration) {
        let Some(broadcast) = self.broadcasts.get_mut(input_id) else { return };
        if broadcast.close_feed(feed, now) {
            earlier(&mut self.broadcasts_due, broadcast.poll_timeout());
            self.tell(input_id, now, wall);
        }
    }

    /// What a publisher's shell knows of the path, as often as it likes.
    pub fn handle_link(&mut self, input_id: &str, feed: FeedId, link: Link) {
        if let Some(broadcast) = self.broadcasts.get_mut(input_id) {
            broadcast.handle_link(feed, link);
        }
    }

    /// What is to be said of every input with a broadcast, health included.
    pub fn reports(&mut self, now: Instant, wall: Duration) -> Vec<Report> {
        self.warned = [0; Warning::ALL.len()];
        let mut reports = Vec::with_capacity(self.broadcasts.len());
        for (id, broadcast) in &mut self.broadcasts {
            let health = broadcast.health(now);
            for (warning, _) in health.warnings() {
                if let Some(count) = self.warned.get_mut(warning as usize) {
                    *count += 1;
                }
            }
            let health = Some(Box::new(health));
            reports.push(Report { health, ..broadcast.report(id, now, wall) });
        }
        reports
    }

    /// Sends GOAWAY to every session, closes at `deadline` those that stay, and refuses newcomers,
    /// publishers among them. Who publishes already is held.
    pub fn drain(&mut self, new_uri: &str, deadline: Instant, now: Instant) {
        self.draining = true;
        self.endpoint.drain();
        self.relay.drain(new_uri, deadline, now);
    }

    /// Whether [`Shard::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Closes every session, as on shutdown.
    pub fn close(&mut self, reason: &str, now: Instant) {
        self.endpoint.close_all(0, reason, now);
    }

    /// Connections not yet gone.
    pub fn connections_open(&self) -> usize {
        self.endpoint.connections()
    }

    /// Numbers for `/metrics`.
    pub fn snapshot(&self) -> Snapshot {
        let mut tally = self.past;
        for broadcast in self.broadcasts.values() {
            tally.add(broadcast.tally());
        }
        let links = self.exchange.counters();
        let mut inputs = [0; State::ALL.len()];
        let mut feeds = [0; Protocol::ALL.len()];
        for broadcast in self.broadcasts.values() {
            let (state, protocol) = broadcast.standing();
            inputs[state as usize] += 1;
            if let Some(protocol) = protocol {
                feeds[protocol as usize] += 1;
            }
        }
        Snapshot {
            inputs,
            feeds,
            warned: self.warned,
            fixes: tally.packager,
            quic: self.endpoint.counters(),
            connections: self.endpoint.connections(),
            port: weir_xdp::Counters::default(),
            rung: None,
            rungs_refused: Vec::new(),
            frames: None,
            srt: crate::node::SrtPicture::default(),
            relay: self.relay.metrics().clone(),
            draining: self.draining,
            encoders: self.broadcasts.values().filter(|live| live.has_encoder()).count(),
            broadcasts_live: self.broadcasts.values().filter(|live| live.is_live()).count(),
            broadcasts: self.broadcasts.len(),
            samples: tally.samples,
            sample_bytes: tally.bytes,
            sample_faults: tally.faults,
            samples_lost: tally.lost,
            takeovers: tally.takeovers,
            publisher_faults: self.intakes.faults,
            link_exported: links.exported,
            link_imported: links.imported,
            link_overruns: links.overruns,
            link_commands_dropped: links.commands_dropped,
            handed_over: links.handed_over,
            hand_over_dropped: links.hand_over_dropped,
            turns: self.turns,
            panics: self.panics,
            mesh: self.mesh_snapshot(),
            whip: WhipNumbers::default(),
            rtmp: RtmpNumbers::default(),
        }
    }

    fn timers(&mut self, now: Instant, wall: Duration) {
        self.endpoint.handle_timeout(now);
        if self.relay.poll_timeout().is_some_and(|at| at <= now) {
            self.relay.handle_timeout(now, wall);
        }
        if self.broadcasts_due.is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<String> = self
            .broadcasts
            .iter()
            .filter(|(_, broadcast)| broadcast.poll_timeout().is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(broadcast) = self.broadcasts.get_mut(&id) else { continue };
            if broadcast.handle_timeout(&mut self.relay, now) {
                self.past.add(broadcast.tally());
                let namespace = broadcast.namespace().clone();
                self.exchange.announce(false, &namespace);
                let health = Some(Box::new(broadcast.health(now)));
                let report = Report { health, ..broadcast.report(&id, now, wall) };
                self.broadcasts.remove(&id);
                self.events.push_back(Event::Input(report));
            }
        }
        self.broadcasts_due = self.broadcasts.values().filter_map(Broadcast::poll_timeout).min();
    }

    /// Moves what happened on connections into the relay.
    fn connections(&mut self, now: Instant, wall: Duration) {
        while let Some((conn, event)) = self.endpoint.poll_event(now) {
            if self.uplink_event(conn, &event, now) {
                continue;
            }
            if let quic::Event::Opened { draft, transport, path, peer } = event {
                self.opened(conn, draft, transport, path, peer, now);
                continue;
            }
            let Some(session) = self.session_of(conn) else { continue };
            if let quic::Event::Closed { code, reason } = event {
                self.contributor_closed(session, code);
                self.relay.close_session(session, now);
                self.forget(conn, session);
                self.events.push_back(Event::SessionClosed { session, code, reason });
                continue;
            }
            let relay = &mut self.relay;
            let done = guarded(|| match event {
                quic::Event::Opened { .. } | quic::Event::Closed { .. } => {}
                quic::Event::Stream { id, dir, data, fin } => {
                    relay.handle_stream(session, id, dir, data, fin, now, wall);
                }
                quic::Event::Reset { id, code } => relay.handle_reset(session, id, code, now),
                quic::Event::Stopped { id, code } => relay.handle_stop(session, id, code, now),
                quic::Event::Writable { id } => relay.handle_writable(session, id),
                quic::Event::Available { dir } => relay.handle_streams_available(session, dir),
                quic::Event::Acknowledged { id } => relay.handle_acknowledged(session, id),
                quic::Event::Datagram { data } => relay.handle_datagram(session, data, now, wall),
            });
            if done.is_err() {
                self.end_after_panic(conn, session, now);
            }
        }
    }

    /// A session during whose work a core panicked goes; the others stay.
    fn end_after_panic(&mut self, conn: ConnId, session: SessionId, now: Instant) {
        self.panics += 1;
        let code = weir_moqt::SessionCode::Internal.wire();
        if let Some(mut link) = self.endpoint.link(conn, now) {
            weir_relay::Transport::close(&mut link, code, "internal");
        }
        self.contributor_closed(session, code);
        self.relay.close_session(session, now);
        self.forget(conn, session);
        let reason = "internal: a fault of ours, see panics_total".to_owned();
        self.events.push_back(Event::SessionClosed { session, code, reason });
    }

    fn opened(
        &mut self,
        conn: ConnId,
        draft: Draft,
        transport: weir_moqt::Transport,
        path: Option<String>,
        peer: SocketAddr,
        now: Instant,
    ) {
        let params = SessionParams { draft, transport, path_and_query: path, peer };
        let Some(session) = self.relay.open_session(params, now) else {
            if let Some(mut link) = self.endpoint.link(conn, now) {
                let code = weir_moqt::SessionCode::Internal.wire();
                weir_relay::Transport::close(&mut link, code, "capacity");
            }
            return;
        };
        self.remember(conn, session);
        self.events.push_back(Event::SessionOpened { session, peer, draft, transport });
    }

    fn remember(&mut self, conn: ConnId, session: SessionId) {
        self.sessions.insert(session, conn);
        if conn.index() >= self.conns.len() {
            self.conns.resize(conn.index() + 1, None);
        }
        self.conns[conn.index()] = Some((conn, session));
    }

    fn session_of(&self, conn: ConnId) -> Option<SessionId> {
        let (owner, session) = (*self.conns.get(conn.index())?)?;
        (owner == conn).then_some(session)
    }

    fn forget(&mut self, conn: ConnId, session: SessionId) {
        self.sessions.remove(&session);
        if let Some(slot) = self.conns.get_mut(conn.index()) {
            *slot = None;
        }
    }

    /// Lets every session that wants to write do so and send it, and acts on what the relay reports.
    fn drive(&mut self, port: &mut dyn Port, now: Instant, wall: Duration) -> std::io::Result<()> {
        loop {
            while let Some(session) = self.relay.poll_dirty() {
                let Some(conn) = self.sessions.get(&session).copied() else { continue };
                let Some(mut link) = self.endpoint.link(conn, now) else { continue };
                let relay = &mut self.relay;
                if guarded(|| relay.drive(session, &mut link, now)).is_err() {
                    self.end_after_panic(conn, session, now);
                }
                self.endpoint.flush_one(conn, port, now)?;
            }
            let Some(event) = self.relay.poll_event() else { return Ok(()) };
            self.relay_event(event, now, wall);
        }
    }

    fn relay_event(&mut self, event: RelayEvent, now: Instant, wall: Duration) {
        if self.mesh_event(&event, now, wall) {
            return;
        }
        if self.intake_event(&event, now) {
            return;
        }
        if self.exchange.handle_event(&event, &mut self.relay, now) {
            return;
        }
        match event {
            RelayEvent::AuthorizePublish { session, input_id, key } => {
                let conn = self.sessions.get(&session);
                let peer = conn.and_then(|conn| self.endpoint.remote(*conn));
                self.events.push_back(Event::Authorize { session, input_id, key, peer });
            }
            RelayEvent::AuthFailed { session } => {
                if let Some(conn) = self.sessions.get(&session) {
                    self.endpoint.penalise(*conn, now);
                }
            }
            RelayEvent::NamespacePublished { namespace, .. } => {
                self.exchange.announce(true, &namespace);
            }
            RelayEvent::NamespaceEnded { namespace, .. } => {
                self.exchange.announce(false, &namespace);
            }
            RelayEvent::SessionClosed { session, code, reason } => {
                self.contributor_closed(session, code);
                if let Some(conn) = self.sessions.get(&session).copied() {
                    self.forget(conn, session);
                }
                self.events.push_back(Event::SessionClosed { session, code, reason });
            }
            _ => {}
        }
    }

    /// Tells the shell if the state of an input changed.
    fn tell(&mut self, input_id: &str, now: Instant, wall: Duration) {
        let Some(broadcast) = self.broadcasts.get_mut(input_id) else { return };
        if broadcast.take_change() {
            self.events.push_back(Event::Input(broadcast.report(input_id, now, wall)));
        }
    }
}

/// What share of the time the port has no more room: the other half of a shard's load.
struct Egress {
    /// When this second began.
    since: Instant,
    full_since: Option<Instant>,
    full: Duration,
    permille: u16,
}

impl Egress {
    fn new(now: Instant) -> Self {
        Self { since: now, full_since: None, full: Duration::ZERO, permille: 0 }
    }

    /// Notes whether the port is full now; once a second, the share smoothed over two.
    fn at(&mut self, full: bool, now: Instant) -> Option<u16> {
        if let Some(since) = self.full_since.take() {
            self.full += now.saturating_duration_since(since);
        }
        if full {
            self.full_since = Some(now);
        }
        let span = now.saturating_duration_since(self.since);
        if span < Duration::from_secs(1) {
            return None;
        }
        let share = self.full.as_millis() * 1000 / span.as_millis().max(1);
        self.permille = (u128::from(self.permille) + share).div_euclid(2) as u16;
        (self.since, self.full) = (now, Duration::ZERO);
        Some(self.permille)
    }
}

fn earlier(held: &mut Option<Instant>, other: Option<Instant>) {
    *held = [*held, other].into_iter().flatten().min();
}

/// How a turn ended.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// There was input; there may be more.
    pub busy: bool,
    /// The port took no more: wait until it is writable.
    pub full: bool,
}
