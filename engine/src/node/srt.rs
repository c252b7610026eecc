//! SRT publishers of one shard: datagrams in and out of the sans-IO cores, keys asked of the control thread, media
//! handed to the shard. Shard 0 takes the handshakes; the socket id it gives a caller ends in the shard of the caller's
//! input, and the kernel brings every later packet to that shard's socket.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use weir_feed::srt::{self, Accept, Feed, Listener, Reject, Request, Statistics};
use weir_feed::{Event, ts};
use weir_relay::RefuseReason;
use weir_xdp::udp::{BATCH, BindError, UdpPort};
use weir_xdp::{Datagram, Port, Transmit};

use super::control::{Grant, Requests};
use super::shell::{Clock, Core};
use crate::guard::guarded;
use crate::shard::{FeedId, Protocol, Rank, Refused};

/// Least delay between sending and delivery; a caller may ask for more.
const DELAY: Duration = Duration::from_millis(120);

/// Publishers one shard serves at once: each holds at most 21 MB of packets, and 100 kB at 5 Mb/s.
const FEEDS_MAX: usize = 2_000;

/// How long the task sleeps when nothing is due.
const PARK_MAX: Duration = Duration::from_millis(250);

/// Batches of datagrams taken before others on the shard have their turn.
const BATCHES_MAX: usize = 8;

/// Sockets of an SRT address, one for each shard.
pub(super) type Group = Vec<UdpSocket>;

/// Byte of a packet that is the last of its destination socket id: it names the shard, and is 0 in handshakes.
const SHARD_BYTE_AT: u32 = 15;

/// Opens the sockets of all shards and makes the kernel spread packets by socket id.
pub(super) fn bind(address: SocketAddr, shards: usize) -> Result<Group, super::Error> {
    let failed = |source: std::io::Error| super::Error::Srt { address, source };
    let group = weir_xdp::udp::bind_group(address, shards).map_err(|error| {
        failed(match error {
            BindError::InUse { .. } => std::io::ErrorKind::AddrInUse.into(),
            other => std::io::Error::other(other),
        })
    })?;
    weir_xdp::steer::attach_by_byte(&group, SHARD_BYTE_AT).map_err(failed)?;
    Ok(group)
}

/// A caller on its way to the shard its input is pinned to: the right key, and an answer that was not sent yet.
pub(super) struct Adopted {
    feed: Feed,
    request: Request,
    grant: Grant,
}

/// What `/metrics` tells of SRT on one shard.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Strangers.
    pub listener: srt::Counters,
    /// Publishers let in since the start.
    pub accepted: u64,
    /// Publishers refused after their handshake, whatever the reason.
    pub refused: u64,
    /// Datagrams to sockets that do not exist.
    pub strays: u64,
    /// Each publisher's link, by input.
    pub links: Vec<(String, Statistics, ts::Counters)>,
}

/// SRT on one shard.
pub(super) struct Endpoint {
    shard: u16,
    port: UdpPort,
    /// Shard 0 alone has one.
    listener: Option<Listener>,
    feeds: BTreeMap<u32, Publishing>,
    picture: Picture,
    requests: Requests,
    /// Somebody did something from outside of the task.
    waker: Option<Waker>,
    woken: bool,
}

struct Publishing {
    feed: Feed,
    input: String,
    id: FeedId,
    /// Something came or was said since it was looked at.
    touched: bool,
    deadline: Option<Instant>,
    warned: usize,
}

impl Endpoint {
    pub(super) fn new(shard: u16, socket: UdpSocket, requests: Requests) -> std::io::Result<Self> {
        let port = UdpPort::new(socket)?;
        let listener = if shard == 0 {
            let mut secret = [0; 32];
            aws_lc_rs::rand::fill(&mut secret)
                .map_err(|_| std::io::Error::other("no random bytes"))?;
            Some(Listener::new(secret, srt::Limits::default(), Clock::read().now))
        } else {
            None
        };
        Ok(Self {
            shard,
            port,
            listener,
            feeds: BTreeMap::new(),
            picture: Picture::default(),
            requests,
            waker: None,
            woken: false,
        })
    }

    pub(super) fn picture(&self) -> Picture {
        let listener = self.listener.as_ref().map(Listener::counters).unwrap_or_default();
        let links = self.feeds.values();
        let links = links
            .map(|one| (one.input.clone(), one.feed.statistics(), one.feed.counters()))
            .collect();
        Picture { listener, links, ..self.picture.clone() }
    }

    fn wake(&mut self) {
        self.woken = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn route(&mut self, datagram: &Datagram, now: Instant) {
        let Some(socket_id) = srt::destination(&datagram.data) else { return };
        if socket_id == 0 {
            if let Some(listener) = &mut self.listener {
                listener.handle_datagram(datagram.from, &datagram.data, now);
            }
            return;
        }
        let Some(one) = self.feeds.get_mut(&socket_id) else {
            self.picture.strays += 1;
            return;
        };
        let feed = &mut one.feed;
        if guarded(|| feed.handle_datagram(datagram.from, &datagram.data, now)).is_ok() {
            one.touched = true;
        } else {
            // The state of this publisher is worth nothing any more.
            feed.close(now);
            one.touched = true;
        }
    }

    /// Names a connection of `shard` that does not exist.
    fn socket_id(&self, shard: u16) -> u32 {
        loop {
            // Bit 30 marks groups, bit 31 is not part of a number.
            let id = fastrand::u32(1..1 << 22) << 8 | u32::from(shard);
            if !self.feeds.contains_key(&id) {
                return id;
            }
        }
    }

    fn refuse(&mut self, request: &Request, reject: Reject, reason: &dyn std::fmt::Display) {
        let now = Clock::read().now;
        self.picture.refused += 1;
        match &mut self.listener {
            Some(listener) => listener.reject(request, reject, now),
            None => self.send(request.peer, &request.refusal(reject, 0)),
        }
        if self.requests.is_news(request.peer.ip()) {
            let code = reject.code();
            tracing::info!(peer = %request.peer, code, %reason, "SRT publisher refused");
        }
        self.wake();
    }

    fn send(&mut self, destination: SocketAddr, contents: &[u8]) {
        let transmit =
            Transmit { destination, src_ip: None, ecn: None, contents, segment_size: None };
        // What finds no room is lost, as on the way; both ends repeat what matters.
        if let Err(error) = self.port.send(&transmit) {
            tracing::debug!(%error, "cannot send an SRT packet");
        }
    }

    /// The key is good: the passphrase is looked at, and the caller goes to the shard of its input, which
    /// is told when it is another one.
    fn let_in(
        &mut self,
        request: Request,
        grant: Grant,
        core: &Rc<RefCell<Core>>,
    ) -> Option<(u16, Adopted)> {
        let now = Clock::read().now;
        let socket_id = self.socket_id(grant.shard);
        let accept = Accept { socket_id, passphrase: grant.passphrase.clone(), delay: DELAY };
        let (connection, reply) = match srt::Connection::accept(&request, accept, now) {
            Ok(accepted) => accepted,
            Err(reject) => {
                let reason = match reject {
                    Reject::BadSecret => "the passphrase is wrong",
                    Reject::Unsecure if grant.passphrase.is_some() => {
                        "the input wants a passphrase"
                    }
                    Reject::Unsecure => "the input has no passphrase",
                    _ => "the key material is malformed",
                };
                self.refuse(&request, reject, &reason);
                return None;
            }
        };
        if let Some(listener) = &mut self.listener {
            listener.accepted(&request, reply, now);
        }
        let shard = grant.shard;
        let adopted = Adopted { feed: Feed::new(connection), request, grant };
        if shard == self.shard {
            self.adopt(adopted, core);
            return None;
        }
        Some((shard, adopted))
    }

    /// The key is good and the input is ours: publish.
    fn adopt(&mut self, adopted: Adopted, core: &Rc<RefCell<Core>>) {
        let Adopted { feed, request, grant } = adopted;
        let clock = Clock::read();
        if self.feeds.len() >= FEEDS_MAX {
            return self.refuse(&request, Reject::Unavailable, &RefuseReason::Capacity);
        }
        let opening = grant.opening(Rank::Encoder, Some(request.peer.ip()));
        let opened = core.borrow_mut().shard.open_feed(&opening, clock.now, clock.wall);
        match opened {
            Ok(id) => {
                self.picture.accepted += 1;
                let (delay, encrypted) = (feed.statistics().delay, request.is_encrypted());
                tracing::info!(peer = %request.peer, input = grant.input_id, ?delay, encrypted, "SRT publisher accepted");
                let one = Publishing {
                    feed,
                    input: grant.input_id,
                    id,
                    touched: true,
                    deadline: None,
                    warned: 0,
                };
                self.feeds.insert(one.feed.socket_id(), one);
                self.wake();
            }
            Err(refused) => {
                let (reject, reason) = match refused {
                    Refused::Busy => (Reject::Busy, RefuseReason::Busy),
                    Refused::Capacity => (Reject::Unavailable, RefuseReason::Capacity),
                    Refused::Draining => (Reject::Unavailable, RefuseReason::Draining),
                };
                self.refuse(&request, reject, &reason);
            }
        }
    }

    /// Gives the shard what feeds have due, and sends what they say. When to look again.
    fn drive(&mut self, core: &Rc<RefCell<Core>>, clock: Clock) -> Option<Instant> {
        let mut over = Vec::new();
        let mut sends = Vec::new();
        let mut fed = false;
        for (socket_id, one) in &mut self.feeds {
            if !one.touched && one.deadline.is_none_or(|at| at > clock.now) {
                continue;
            }
            one.touched = false;
            let Publishing { feed, input, id, .. } = one;
            let mut core = core.borrow_mut();
            let done = guarded(|| {
                feed.handle_timeout(clock.now);
                let mut ended = false;
                while let Some(event) = feed.poll_event(clock.now) {
                    fed = true;
                    if let Event::End { reason } = &event {
                        tracing::info!(peer = %feed.peer(), input, ?reason, "SRT publisher left");
                        ended = true;
                    }
                    if !core.shard.handle_media(input, *id, event, clock.now, clock.wall) {
                        // A newer publisher took over, or the input is gone.
                        feed.close(clock.now);
                    }
                }
                while let Some(datagram) = feed.poll_transmit() {
                    sends.push((feed.peer(), datagram));
                }
                ended
            });
            one.deadline = one.feed.poll_timeout();
            if let Some(kind) =
                one.feed.unsupported().get(one.warned..).filter(|new| !new.is_empty())
            {
                tracing::warn!(input = one.input, stream_types = ?kind, "elementary streams left out");
                one.warned = one.feed.unsupported().len();
            }
            if done.unwrap_or(true) {
                core.shard.close_feed(&one.input, one.id, clock.now, clock.wall);
                over.push(*socket_id);
                fed = true;
            }
        }
        for socket_id in over {
            self.feeds.remove(&socket_id);
        }
        for (peer, datagram) in sends {
            self.send(peer, &datagram);
        }
        while let Some((peer, datagram)) = self.listener.as_mut().and_then(Listener::poll_transmit)
        {
            self.send(peer, &datagram);
        }
        if fed {
            core.borrow_mut().settle(clock);
        }
        self.feeds.values().filter_map(|one| one.deadline).min()
    }
}

/// Moves a caller that another shard let in to this one.
pub(super) fn adopt(endpoint: &Rc<RefCell<Endpoint>>, adopted: Adopted, core: &Rc<RefCell<Core>>) {
    endpoint.borrow_mut().adopt(adopted, core);
}

/// Serves until the shard stops.
pub(super) async fn serve(
    endpoint: Rc<RefCell<Endpoint>>,
    core: Rc<RefCell<Core>>,
    requests: Requests,
) {
    let fd = endpoint.borrow().port.fd().map_or(-1, |fd| fd.as_raw_fd());
    let socket = match PollableFd::new(Fd(fd)) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "cannot wait for SRT packets"),
    };
    // Kept from park to park: a poll that has not fired stays armed.
    let mut readable = PollState::new();
    let mut arrived: Vec<Datagram> = Vec::with_capacity(BATCH);
    loop {
        let clock = Clock::read();
        let mut full = true;
        for _ in 0..BATCHES_MAX {
            let received = endpoint.borrow_mut().port.recv(&mut |datagram| arrived.push(datagram));
            match received {
                Ok(0) => full = false,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "SRT socket failed");
                    full = false;
                }
            }
            let mut held = endpoint.borrow_mut();
            for datagram in arrived.drain(..) {
                held.route(&datagram, clock.now);
            }
            if !full {
                break;
            }
        }
        // A task is polled at once when it is spawned, so none may be while the endpoint is borrowed.
        loop {
            let request = endpoint.borrow_mut().listener.as_mut().and_then(Listener::poll_event);
            let Some(request) = request else { break };
            let answer = answer(request, Rc::clone(&endpoint), Rc::clone(&core), requests.clone());
            glommio::spawn_local(answer).detach();
        }
        if core.borrow().stopping {
            let mut held = endpoint.borrow_mut();
            for one in held.feeds.values_mut() {
                one.feed.close(clock.now);
                one.touched = true;
            }
            held.drive(&core, clock);
            return;
        }
        let due = endpoint.borrow_mut().drive(&core, clock);
        if full {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        let park = due.map_or(PARK_MAX, |at| at.saturating_duration_since(Clock::read().now));
        park_for(park.min(PARK_MAX), &socket, &mut readable, &endpoint).await;
    }
}

/// Sleeps until packets come, something is due, or somebody calls.
async fn park_for(
    park: Duration,
    socket: &PollableFd<Fd>,
    readable: &mut PollState,
    endpoint: &Rc<RefCell<Endpoint>>,
) {
    if park.is_zero() {
        glommio::executor().yield_task_queue_now().await;
        return;
    }
    let mut timer = Timer::new(park);
    std::future::poll_fn(|cx| {
        let mut held = endpoint.borrow_mut();
        if std::mem::take(&mut held.woken) {
            return Poll::Ready(());
        }
        held.waker = Some(cx.waker().clone());
        let ready = socket.poll_readable(cx, readable).is_ready()
            | Pin::new(&mut timer).poll(cx).is_ready();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Asks whether a caller may publish, and lets it in or tells it why not.
async fn answer(
    request: Request,
    endpoint: Rc<RefCell<Endpoint>>,
    core: Rc<RefCell<Core>>,
    requests: Requests,
) {
    if core.borrow().shard.is_draining() {
        return endpoint.borrow_mut().refuse(
            &request,
            Reject::Unavailable,
            &RefuseReason::Draining,
        );
    }
    let peer = request.peer.ip();
    let asked = requests.verify_key(&request.input_id, request.key.expose(), Protocol::Srt, peer);
    let grant = match asked.await {
        Ok(grant) => grant,
        Err(reason) => {
            let reject = match reason {
                RefuseReason::Protocol | RefuseReason::Disabled => Reject::Disabled,
                RefuseReason::Capacity | RefuseReason::Timeout | RefuseReason::Draining => {
                    Reject::Unavailable
                }
                RefuseReason::TooMany => Reject::TooMany,
                _ => Reject::Unauthorized,
            };
            return endpoint.borrow_mut().refuse(&request, reject, &reason);
        }
    };
    let moved = endpoint.borrow_mut().let_in(request, grant, &core);
    if let Some((shard, adopted)) = moved {
        requests.adopt_srt(shard, adopted).await;
    }
}

/// A descriptor that the endpoint's port owns and that outlives this.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
