//! WHIP on one shard: the UDP socket that all its sessions share, datagrams that belong to another shard,
//! and the orders that come from the pages (publish, change, delete). Media goes to the shard as
//! from every feed. What the pages ask is answered in [`super::whip_desk`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use weir_control::http::whip::{Changed, Published, Refusal};
use weir_feed::Secret;
use weir_feed::whip::{
    self as feed, Diagnostics, Endpoint, Event, Identity, Kind, SessionId, Stage, Transmit,
};
use weir_xdp::udp::UdpPort;
use weir_xdp::{Outcome, Port};

use super::control::Grant;
use super::shell::{Clock, Core, Fd};
use crate::guard::guarded;
use crate::shard::{FeedId, Rank, Refused, WhipNumbers};

/// Datagrams under way from one shard to another: 2,048 of 1,200 bytes are 2.5 MB, a tenth of a second
/// of 30 publishers at 6 Mb/s.
const PASSED_DEPTH: usize = 2_048;

/// Receive batches in one turn.
const BATCHES_PER_TURN: usize = 8;

/// A station without anything to do looks around this often.
const PARK_MAX: Duration = Duration::from_millis(250);

/// How soon a full socket is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// Addresses of publishers on other shards: 64 shards' worth of sessions are 32,000; each entry is
/// some 40 bytes.
const ELSEWHERE_MAX: usize = 64 * 1_024;

/// From the pages to a shard.
pub(super) enum Order {
    /// A publisher whose key is good makes an offer.
    Publish {
        grant: Box<Grant>,
        peer: SocketAddr,
        addresses: Vec<SocketAddr>,
        offer: String,
        answer: oneshot::Sender<Result<Published, Refusal>>,
    },
    /// A session changes; without `etag` ICE restarts.
    Change {
        input: String,
        session: SessionId,
        etag: Option<String>,
        fragment: String,
        answer: oneshot::Sender<Result<Changed, Refusal>>,
    },
    /// A session ends.
    Close { input: String, session: SessionId, answer: oneshot::Sender<bool> },
    /// What can be said of the sessions of an input.
    Inspect { input: String, answer: oneshot::Sender<Vec<serde_json::Value>> },
}

/// What shards tell each other.
pub(super) enum Passed {
    /// A datagram of a session of yours.
    Datagram { from: SocketAddr, to: Option<IpAddr>, data: Bytes },
    /// Datagrams from this address are that shard's.
    Learned(SocketAddr, u16),
    /// They no longer are.
    Forgotten(SocketAddr, u16),
}

/// One shard's part in WHIP before it runs.
pub(super) struct Wiring {
    pub(super) socket: UdpSocket,
    pub(super) passed: mpsc::Receiver<Passed>,
    pub(super) shards: Arc<[mpsc::Sender<Passed>]>,
}

/// One [`Wiring`] for each socket of the group.
pub(super) fn wire(sockets: Vec<UdpSocket>) -> Vec<Wiring> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        sockets.iter().map(|_| mpsc::channel(PASSED_DEPTH)).unzip();
    let shards: Arc<[mpsc::Sender<Passed>]> = senders.into();
    let parts = sockets.into_iter().zip(receivers);
    parts.map(|(socket, passed)| Wiring { socket, passed, shards: Arc::clone(&shards) }).collect()
}

/// A session as the shard sees it.
struct Held {
    input: String,
    feed: FeedId,
    peer: IpAddr,
}

/// All of WHIP on one shard.
pub(super) struct Station {
    shard: u16,
    endpoint: Endpoint,
    port: UdpPort,
    local: SocketAddr,
    core: Rc<RefCell<Core>>,
    feeds: BTreeMap<SessionId, Held>,
    /// Addresses of sessions on other shards.
    elsewhere: HashMap<SocketAddr, u16>,
    shards: Arc<[mpsc::Sender<Passed>]>,
    /// What the socket did not take.
    unsent: Option<Transmit>,
    numbers: WhipNumbers,
}

impl Station {
    pub(super) fn new(
        socket: UdpSocket,
        shards: Arc<[mpsc::Sender<Passed>]>,
        core: Rc<RefCell<Core>>,
    ) -> std::io::Result<Self> {
        let port = UdpPort::new(socket)?;
        let shard = core.borrow().shard.number();
        Ok(Self {
            shard,
            endpoint: Endpoint::new(feed::Limits::default()),
            local: port.local_addr(),
            port,
            core,
            feeds: BTreeMap::new(),
            elsewhere: HashMap::new(),
            shards,
            unsent: None,
            numbers: WhipNumbers::default(),
        })
    }

    fn numbers(&self) -> WhipNumbers {
        let (sessions, endpoint) = (self.endpoint.sessions(), self.endpoint.counters());
        WhipNumbers { sessions, endpoint, ..self.numbers }
    }

    /// Does what the pages want.
    pub(super) fn order(&mut self, order: Order) {
        let clock = Clock::read();
        match order {
            Order::Publish { grant, peer, addresses, offer, answer } => {
                // Nobody waits any more: the publisher has hung up or was refused.
                if answer.is_closed() {
                    return;
                }
                let published = self.publish(&grant, peer, &addresses, &offer, clock);
                if let Err(Ok(published)) = answer.send(published)
                    && let Ok(id) = published.session.parse()
                {
                    self.endpoint.close(id, clock.now);
                }
            }
            Order::Change { input, session, etag, fragment, answer } => {
                let _ = answer.send(self.change(&input, session, etag, &fragment));
            }
            Order::Close { input, session, answer } => {
                let known = self.owns(&input, session);
                let _ = answer.send(known && self.endpoint.close(session, clock.now));
            }
            Order::Inspect { input, answer } => {
                let of_input = self.feeds.iter().filter(|(_, feed)| feed.input == input);
                let sessions = of_input.filter_map(|(id, _)| self.endpoint.diagnostics(*id));
                let _ = answer.send(sessions.map(|told| describe(&told)).collect());
            }
        }
        self.pump(clock);
    }

    /// Says goodbye to everybody.
    pub(super) fn stop(&mut self) {
        let clock = Clock::read();
        let ids: Vec<SessionId> = self.feeds.keys().copied().collect();
        for id in ids {
            self.endpoint.close(id, clock.now);
        }
        self.pump(clock);
    }

    fn publish(
        &mut self,
        grant: &Grant,
        peer: SocketAddr,
        addresses: &[SocketAddr],
        offer: &str,
        clock: Clock,
    ) -> Result<Published, Refusal> {
        if self.core.borrow().shard.is_draining() {
            return Err(Refusal::Draining);
        }
        let id = SessionId(u128::from_be_bytes(random()));
        let identity = identity(self.shard);
        let endpoint = &mut self.endpoint;
        let answer = guarded(|| endpoint.accept(id, &identity, offer, addresses, clock.now))
            .map_err(|_| Refusal::Unusable("the offer cannot be read".to_owned()))
            .inspect_err(|_| self.numbers.panics += 1)?
            .map_err(|refused| match refused {
                feed::Refused::Codec(why) => Refusal::Codec(why.to_owned()),
                feed::Refused::Capacity => Refusal::Capacity,
                feed::Refused::NoAddress => Refusal::Capacity,
                other => Refusal::Unusable(other.to_string()),
            })?;
        let opening = grant.opening(Rank::Encoder, Some(peer.ip()));
        let opened = self.core.borrow_mut().shard.open_feed(&opening, clock.now, clock.wall);
        let opened = opened.map_err(|refused| match refused {
            Refused::Busy => Refusal::Busy,
            Refused::Capacity => Refusal::Capacity,
            Refused::Draining => Refusal::Draining,
        });
        let feed = opened.inspect_err(|_| {
            self.endpoint.close(id, clock.now);
        })?;
        let input = grant.input_id.clone();
        tracing::info!(peer = %peer, input, "WHIP publisher accepted");
        self.feeds.insert(id, Held { input, feed, peer: peer.ip() });
        Ok(Published { session: id.to_string(), answer, etag: identity.ufrag })
    }

    fn change(
        &mut self,
        input: &str,
        session: SessionId,
        etag: Option<String>,
        fragment: &str,
    ) -> Result<Changed, Refusal> {
        if !self.owns(input, session) {
            return Err(Refusal::NotFound);
        }
        let restart = etag.is_none();
        if etag.is_some_and(|etag| self.endpoint.ice_session(session) != Some(etag.as_str())) {
            return Err(Refusal::Outdated);
        }
        let identity = identity(self.shard);
        match self.endpoint.trickle(session, &identity, fragment, restart) {
            None => Err(Refusal::NotFound),
            Some(Err(refused)) => Err(Refusal::Unusable(refused.to_string())),
            Some(Ok(None)) => Ok(Changed::Noted),
            Some(Ok(Some(fragment))) => Ok(Changed::Restarted { fragment, etag: identity.ufrag }),
        }
    }

    fn owns(&self, input: &str, session: SessionId) -> bool {
        self.feeds.get(&session).is_some_and(|feed| feed.input == input)
    }

    /// One turn; whether there was anything to do.
    fn turn(&mut self, clock: Clock) -> bool {
        let mut arrived = Vec::new();
        for _ in 0..BATCHES_PER_TURN {
            match self.port.recv(&mut |datagram| arrived.push(datagram)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, shard = self.shard, "the WHIP port failed");
                    break;
                }
            }
        }
        let busy = !arrived.is_empty();
        for datagram in arrived {
            let from = canonical(datagram.from);
            let to = datagram.to.map(|ip| ip.to_canonical());
            self.datagram(from, to, &datagram.data, clock);
        }
        let endpoint = &mut self.endpoint;
        if guarded(|| endpoint.handle_timeout(clock.now)).is_err() {
            self.numbers.panics += 1;
        }
        self.pump(clock);
        busy
    }

    /// A datagram from the network: ours, or another shard's.
    fn datagram(&mut self, from: SocketAddr, to: Option<IpAddr>, data: &[u8], clock: Clock) {
        let owner = match feed::kind(data) {
            Kind::Stun(ufrag) => feed::shard(ufrag),
            Kind::Media => self.elsewhere.get(&from).copied(),
            Kind::Stray => None,
        };
        match owner.filter(|owner| *owner != self.shard) {
            Some(owner) => {
                let Some(shard) = self.shards.get(usize::from(owner)) else { return };
                let data = Bytes::copy_from_slice(data);
                match shard.try_send(Passed::Datagram { from, to, data }) {
                    Ok(()) => self.numbers.passed += 1,
                    Err(_) => self.numbers.passed_dropped += 1,
                }
            }
            None => self.take_in(from, to, data, clock),
        }
    }

    fn take_in(&mut self, from: SocketAddr, to: Option<IpAddr>, data: &[u8], clock: Clock) {
        let endpoint = &mut self.endpoint;
        if guarded(|| endpoint.handle_datagram(from, to, data, clock.now)).is_err() {
            self.numbers.panics += 1;
        }
    }

    fn passed(&mut self, passed: Passed, clock: Clock) {
        match passed {
            Passed::Datagram { from, to, data } => self.take_in(from, to, &data, clock),
            Passed::Learned(address, shard) => {
                if self.elsewhere.len() < ELSEWHERE_MAX || self.elsewhere.contains_key(&address) {
                    self.elsewhere.insert(address, shard);
                }
            }
            Passed::Forgotten(address, shard) => {
                if self.elsewhere.get(&address) == Some(&shard) {
                    self.elsewhere.remove(&address);
                }
            }
        }
    }

    /// Acts on what the endpoint reports, then sends.
    fn pump(&mut self, clock: Clock) {
        let mut fed = false;
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Media(id, event) => {
                    let Some(feed) = self.feeds.get(&id) else { continue };
                    fed = true;
                    let held = self.core.borrow_mut().shard.handle_media(
                        &feed.input,
                        feed.feed,
                        event,
                        clock.now,
                        clock.wall,
                    );
                    if !held {
                        self.endpoint.close(id, clock.now);
                    }
                }
                Event::Learned(address) => {
                    // A port used again may have been another shard's.
                    self.elsewhere.remove(&address);
                    self.tell_others(|| Passed::Learned(address, self.shard));
                }
                Event::Forgotten(address) => {
                    self.tell_others(|| Passed::Forgotten(address, self.shard));
                }
                Event::Progress(id, stage) => {
                    if let Some(feed) = self.feeds.get(&id) {
                        let stage = match stage {
                            Stage::Stun => "first packet on the media port",
                            Stage::Dtls => "encrypted",
                            Stage::Media => "media arrives",
                        };
                        tracing::info!(input = feed.input, stage, "WHIP publisher");
                    }
                }
                Event::Ended(id, cause, diagnostics) => {
                    let Some(feed) = self.feeds.remove(&id) else { continue };
                    fed = true;
                    let Held { input, feed, peer } = feed;
                    let Diagnostics { stun, dtls, first_packet, packets, .. } = *diagnostics;
                    tracing::info!(
                        %peer, input, %cause, ?stun, ?dtls, ?first_packet, packets, "WHIP publisher left"
                    );
                    let mut core = self.core.borrow_mut();
                    core.shard.close_feed(&input, feed, clock.now, clock.wall);
                }
                _ => {}
            }
        }
        let numbers = self.numbers();
        let mut core = self.core.borrow_mut();
        core.whip = numbers;
        if fed {
            core.settle(clock);
        }
        drop(core);
        self.send();
    }

    fn tell_others(&self, word: impl Fn() -> Passed) {
        let others = self.shards.iter().enumerate();
        for (_, shard) in others.filter(|(number, _)| *number != usize::from(self.shard)) {
            // A shard that is so far behind learns it from the next check of the publisher.
            let _ = shard.try_send(word());
        }
    }

    fn send(&mut self) {
        loop {
            let next = self.unsent.take().or_else(|| self.endpoint.poll_transmit());
            let Some(transmit) = next else { break };
            let outcome = self.port.send(&weir_xdp::Transmit {
                destination: as_bound(transmit.destination, self.local),
                src_ip: transmit.source,
                ecn: None,
                contents: &transmit.contents,
                segment_size: None,
            });
            match outcome {
                Ok(Outcome::Sent) => {}
                Ok(Outcome::Full) => {
                    self.unsent = Some(transmit);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, shard = self.shard, "the WHIP port refused a datagram");
                }
            }
        }
        let _ = self.port.flush();
    }
}

/// Starts a station on the current executor.
pub(super) fn start(wiring: Wiring, core: &Rc<RefCell<Core>>) -> Option<Rc<RefCell<Station>>> {
    let Wiring { socket, passed, shards } = wiring;
    let station = Station::new(socket, shards, Rc::clone(core))
        .inspect_err(|error| tracing::error!(%error, "cannot use the WHIP socket"))
        .ok()?;
    let station = Rc::new(RefCell::new(station));
    let runs = run(Rc::clone(&station), passed);
    glommio::spawn_local(async move {
        if let Err(error) = runs.await {
            tracing::error!(%error, "the WHIP port is not served");
        }
    })
    .detach();
    Some(station)
}

/// Runs a station until its executor ends.
async fn run(
    station: Rc<RefCell<Station>>,
    mut passed: mpsc::Receiver<Passed>,
) -> glommio::Result<(), ()> {
    let socket = {
        let station = station.borrow();
        let fd = station.port.fd().map_or(-1, |fd| fd.as_raw_fd());
        PollableFd::new(Fd(fd))?
    };
    // Kept from park to park: a poll that has not fired stays armed.
    let mut state = PollState::new();
    loop {
        let clock = Clock::read();
        let (busy, park) = {
            let mut station = station.borrow_mut();
            let mut busy = station.turn(clock);
            while let Ok(word) = passed.try_recv() {
                station.passed(word, clock);
                busy = true;
            }
            station.pump(clock);
            let due = station.endpoint.poll_timeout();
            let park = due.map_or(PARK_MAX, |at| at.saturating_duration_since(clock.now));
            (busy, if station.unsent.is_some() { FULL_PAUSE } else { park.min(PARK_MAX) })
        };
        if busy {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        let mut timer = Timer::new(park);
        let mut word = None;
        std::future::poll_fn(|cx| {
            use std::future::Future;
            if let Poll::Ready(received) = passed.poll_recv(cx) {
                word = received;
            }
            let ready = word.is_some()
                | socket.poll_readable(cx, &mut state).is_ready()
                | std::pin::Pin::new(&mut timer).poll(cx).is_ready();
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if let Some(word) = word {
            station.borrow_mut().passed(word, Clock::read());
        }
    }
}

/// Diagnostics as the API shows them.
fn describe(told: &Diagnostics) -> serde_json::Value {
    let ms = |span: Option<Duration>| span.map(|span| span.as_millis() as u64);
    json!({
        "stun_seen_ms": ms(told.stun),
        "dtls_done_ms": ms(told.dtls),
        "first_packet_ms": ms(told.first_packet),
        "dtls_role": if told.dtls_active { "active" } else { "passive" },
        "peer": told.peer.map(|peer| peer.to_string()),
        "rtt_ms": ms(told.rtt),
        "loss_permille": told.loss_permille,
        "packets": told.packets,
        "bytes": told.bytes,
        "packets_lost": told.lost_packets,
        "pictures": told.pictures,
        "pictures_lost": told.lost_pictures,
        "keyframes": told.keyframes,
        "keyframes_asked": told.keyframes_asked,
        "silence_filled": told.silence_filled,
        "audio_late": told.late_audio,
        "audio_moved_ms": told.sound_moved_ms,
        "packets_ignored": told.ignored,
        "ice_restarts": told.restarts,
    })
}

fn identity(shard: u16) -> Identity {
    let password: [u8; 16] = random();
    Identity {
        ufrag: feed::ufrag(shard, random()),
        password: Secret::new(format!("{:032x}", u128::from_be_bytes(password))),
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random numbers are always there");
    bytes
}

/// An IPv4 publisher of a socket bound to `[::]` has its plain address in ICE.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The same address as the socket wants it.
fn as_bound(address: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (address, local) {
        (SocketAddr::V4(v4), SocketAddr::V6(_)) => {
            SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
        }
        _ => address,
    }
}
