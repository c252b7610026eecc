//! One shard as a thread: a glommio executor pinned to a core, its socket, its RTMP listener and
//! the mailbox from the control threads. It owns all I/O of the shard and reads the clock for it;
//! what the bytes mean is [`crate::shard`]'s matter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use tokio::sync::{mpsc, oneshot};
use weir_relay::{RefuseReason, SessionId};
use weir_xdp::ladder::{Choice, Climbed, Ladder, Refusal, Rung};
use weir_xdp::wake::Wake;
use weir_xdp::{Mode, Port};

use super::control::Requests;
use super::demo::Demo;
use super::drain::{LOOK_INTERVAL, ShardOrder};
use super::{Error, rtmp, srt, whip};
use crate::mesh::{Trust, UpstreamUrl};
use crate::shard::{
    Admission, Event, Options, Report, RtmpNumbers, Shard, Snapshot, Turn, WhipNumbers,
};

/// Messages from control threads one shard may have waiting.
pub(super) const MAILBOX_DEPTH: usize = 1_024;

/// How often a shard lays its numbers out for `/metrics`.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(250);

/// How often the health of inputs is told.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// A shard that has nothing to do still looks around this often.
const PARK_MAX: Duration = Duration::from_millis(250);

/// A shard whose port is full and cannot tell when it has room looks again after this.
const FULL_PARK: Duration = Duration::from_millis(1);

/// How long sessions may take to say goodbye on shutdown.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// glommio's buffers for direct I/O, which shards do not use; its default is 10 MiB.
const IO_MEMORY: usize = 1 << 20;

/// From a control thread to a shard.
pub(super) enum Mail {
    /// Whom to believe from now on, and the engine's signature on it.
    Trust(Box<Trust>, Bytes),
    /// Where an upstream is.
    Resolved(UpstreamUrl, Vec<SocketAddr>),
    /// Answer to a publisher session.
    Authorized(SessionId, Result<Admission, RefuseReason>),
    /// A publisher connection that belongs to this shard.
    Adopt(Box<rtmp::Adopted>),
    /// An SRT caller that belongs to this shard.
    AdoptSrt(Box<srt::Adopted>),
    /// Begin the demo broadcast.
    Demo(Box<Demo>),
    /// A page asks for a WHIP publisher.
    Whip(Box<whip::Order>),
    /// Send sessions away and refuse newcomers.
    Drain(ShardOrder),
    /// Close everything and stop.
    Stop,
}

/// What a shard thread is started with.
pub(super) struct Start {
    /// Told once the shard listens wherever it should, or why it cannot.
    pub(super) ready: oneshot::Sender<Result<(), Error>>,
    pub(super) options: Options,
    pub(super) cpu: Option<usize>,
    pub(super) socket: UdpSocket,
    /// What the socket may climb to.
    pub(super) ladder: Ladder,
    /// RTMP and RTMPS, on a node that takes publishers.
    pub(super) rtmp: Vec<rtmp::Listen>,
    /// This shard's socket of the SRT address.
    pub(super) srt: Option<UdpSocket>,
    pub(super) whip: Option<whip::Wiring>,
    pub(super) wake: Wake,
    pub(super) mail: mpsc::Receiver<Mail>,
    pub(super) requests: Requests,
    pub(super) snapshot: Arc<std::sync::Mutex<Snapshot>>,
}

/// Shard and socket together, shared by the tasks of one executor.
pub(super) struct Core {
    pub(super) shard: Shard,
    port: Box<dyn Port>,
    rung: Rung,
    rungs_refused: Vec<Rung>,
    /// How often the port lost its way and had it again, as far as it was said.
    losses_said: u64,
    returns_said: u64,
    requests: Requests,
    /// SRT publishers, where they are taken.
    srt: Option<Rc<RefCell<srt::Endpoint>>>,
    /// What changed of inputs and is not told yet: the last word on each.
    news: BTreeMap<String, Report>,
    /// Numbers of WHIP, which its station writes here.
    pub(super) whip: WhipNumbers,
    /// Numbers of RTMP, which its connections write here.
    pub(super) rtmp: RtmpNumbers,
    /// While the node is being emptied: the host that takes over, if the operator named one.
    pub(super) moved_to: Option<String>,
    /// The port took no more.
    full: bool,
    pub(super) stopping: bool,
}

impl Core {
    /// Lets the shard act on what a task has just done to it, and sends.
    pub(super) fn settle(&mut self, clock: Clock) {
        let turn = self.shard.settle(&mut *self.port, clock.now, clock.wall, false);
        self.after(turn);
    }

    fn turn(&mut self, clock: Clock) -> bool {
        let turn = self.shard.turn(&mut *self.port, clock.now, clock.wall);
        self.after(turn)
    }

    fn after(&mut self, turn: std::io::Result<Turn>) -> bool {
        let busy = match turn {
            Ok(turn) => {
                self.full = turn.full;
                turn.busy
            }
            Err(error) => {
                tracing::error!(%error, shard = self.shard.number(), "packet port failed");
                false
            }
        };
        while let Some(event) = self.shard.poll_event() {
            self.event(event);
        }
        busy
    }

    /// What its port is now: one that lost its way goes on with its socket, and one that found it
    /// again may have found another.
    fn rung_now(&self) -> Rung {
        match self.port.report() {
            Some(report) if report.lost.is_some() => Rung::Udp,
            Some(report) => match report.mode {
                Some(Mode::ZeroCopy) => Rung::ZeroCopy,
                Some(Mode::Copy) => Rung::Copy,
                None => self.rung,
            },
            None => self.rung,
        }
    }

    /// Says that the port lost its way, and that it has it again.
    fn say_loss(&mut self) {
        let shard = self.shard.number();
        let Some(report) = self.port.report() else { return };
        let lost = std::mem::replace(&mut self.losses_said, report.lost_times) < report.lost_times;
        let back = std::mem::replace(&mut self.returns_said, report.returns) < report.returns;
        let rung = self.rung_now();
        match report.lost {
            Some(why) if lost => {
                tracing::warn!(shard, was = %self.rung, %rung, "{why}: viewers go on over the UDP socket");
            }
            None if back => tracing::info!(shard, %rung, "packet port is back"),
            _ => {}
        }
    }

    /// Hands what is new to the control side; what it has no room for waits.
    fn tell_news(&mut self) {
        while let Some((id, report)) = self.news.pop_first() {
            if let Err(report) = self.requests.report(report) {
                self.news.insert(id, report);
                return;
            }
        }
    }

    fn event(&mut self, event: Event) {
        let shard = self.shard.number();
        match event {
            Event::Authorize { session, input_id, key, peer } => {
                let peer = peer.map(|peer| peer.ip());
                self.requests.authorize_session(shard, session, input_id, key.expose(), peer);
            }
            Event::Resolve(url) => self.requests.resolve(shard, url),
            Event::SessionOpened { session, peer, draft, transport } => {
                tracing::info!(shard, %session, %peer, draft = draft.token(), ?transport, "session opened");
            }
            Event::SessionClosed { session, code, reason } => {
                tracing::info!(shard, %session, code, reason, "session closed");
            }
            Event::Input(report) => {
                let (state, reason) = (report.state.label(), report.reason.label());
                let protocol = report.protocol.label();
                tracing::info!(shard, input = report.input_id, state, reason, protocol, "input");
                self.news.insert(report.input_id.clone(), report);
                self.tell_news();
            }
        }
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) wall: Duration,
}

impl Clock {
    pub(super) fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), wall }
    }
}

/// Starts the thread of a shard.
pub(super) fn spawn(start: Start) -> std::io::Result<glommio::ExecutorJoinHandle<()>> {
    let shard = start.options.steering.shard;
    let placement = start.cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("shard-{shard}"))
        .io_memory(IO_MEMORY)
        .spawn(move || run(start))
        .map_err(|error| {
            std::io::Error::other(format!("cannot start the executor of shard {shard}: {error}"))
        })
}

async fn run(start: Start) {
    let Start {
        ready,
        options,
        socket,
        ladder,
        rtmp,
        srt,
        whip,
        wake,
        mail,
        requests,
        snapshot,
        cpu,
    } = start;
    let shard = options.steering.shard;
    tracing::debug!(shard, ?cpu, "shard starts");
    let climbed = match ladder.climb(socket, shard, options.steering.shards) {
        Ok(climbed) => climbed,
        Err(error) => return tracing::error!(%error, shard, "cannot use the QUIC socket"),
    };
    say_rung(shard, ladder.choice(), &climbed);
    if shard == 0 && climbed.buffers.are_short() {
        let granted = climbed.buffers;
        tracing::warn!(
            ?granted,
            "UDP buffers are short, bursts will be lost: raise net.core.rmem_max and wmem_max"
        );
    }
    let core = Rc::new(RefCell::new(Core {
        shard: Shard::new(options, Instant::now()),
        port: climbed.port,
        rung: climbed.rung,
        rungs_refused: climbed.refused.iter().map(|refused| refused.rung).collect(),
        losses_said: 0,
        returns_said: 0,
        requests: requests.clone(),
        srt: None,
        news: BTreeMap::new(),
        whip: WhipNumbers::default(),
        rtmp: RtmpNumbers::default(),
        moved_to: None,
        full: false,
        stopping: false,
    }));
    let callers = srt.and_then(|socket| {
        let endpoint = srt::Endpoint::new(shard, socket, requests.clone())
            .inspect_err(|error| tracing::error!(%error, shard, "cannot use the SRT socket"));
        endpoint.ok().map(|endpoint| Rc::new(RefCell::new(endpoint)))
    });
    core.borrow_mut().srt.clone_from(&callers);
    let callers = callers.map(|endpoint| {
        glommio::spawn_local(srt::serve(endpoint, Rc::clone(&core), requests.clone()))
    });
    let doors = rtmp::Doors::default();
    let listen = |listen| rtmp::listen(listen, Rc::clone(&core), requests.clone(), doors.clone());
    let listeners: Vec<_> = match rtmp.into_iter().map(listen).collect() {
        Ok(listeners) => listeners,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let station = whip.and_then(|wiring| whip::start(wiring, &core));
    glommio::spawn_local(read_mail(mail, Rc::clone(&core), station)).detach();
    glommio::spawn_local(lay_out(snapshot, Rc::clone(&core))).detach();
    let _ = ready.send(Ok(()));
    if let Err(error) = turns(&core, &wake).await {
        tracing::error!(%error, shard, "shard ends");
    }
    for listener in listeners {
        listener.cancel().await;
    }
    if let Some(callers) = callers {
        callers.cancel().await;
    }
}

/// Says what a shard's port is and why it is no better: the first shard for all of them, so that
/// each refusal is heard once.
fn say_rung(shard: u16, choice: Choice, climbed: &Climbed) {
    let rung = climbed.rung;
    if shard != 0 {
        return tracing::debug!(shard, %rung, refused = ?climbed.refused, "packet port");
    }
    for Refusal { rung, why } in &climbed.refused {
        tracing::info!(%rung, why, "packet port refused");
    }
    match (choice, rung) {
        (Choice::Xdp, Rung::Udp) => {
            tracing::warn!(%rung, "no frames past the kernel on this host: viewers are served by UDP sockets");
        }
        (Choice::Uring, Rung::Udp) => {
            tracing::warn!(%rung, "no packet port over io_uring on this host: viewers are served by plain UDP sockets");
        }
        _ => tracing::info!(%rung, "packet port"),
    }
}

/// Turn after turn until told to stop.
async fn turns(core: &Rc<RefCell<Core>>, wake: &Wake) -> glommio::Result<(), ()> {
    let (socket, sleeper) = {
        let core = core.borrow();
        let fd = core.port.fd().map_or(-1, |fd| fd.as_raw_fd());
        (PollableFd::new(Fd(fd))?, PollableFd::new(Fd(wake.as_raw_fd()))?)
    };
    // Kept from park to park: a poll that has not fired stays armed, so that a turn costs the ring
    // only what has happened.
    let mut states = [PollState::new(), PollState::new(), PollState::new()];
    let mut farewell: Option<Instant> = None;
    let mut busy_share = BusyShare::new(Instant::now());
    loop {
        let clock = Clock::read();
        let (busy, full, deadline) = {
            let mut core = core.borrow_mut();
            if let Some(permille) = busy_share.at(clock.now) {
                core.shard.set_load(permille);
            }
            let busy = core.turn(clock);
            if core.stopping {
                let until = *farewell.get_or_insert(clock.now + FAREWELL);
                if core.shard.connections_open() == 0 || clock.now >= until {
                    return Ok(());
                }
            }
            (busy, core.full, core.shard.poll_timeout())
        };
        if busy && !full {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        wake.sleep();
        if !core.borrow_mut().shard.is_idle() {
            wake.awake();
            continue;
        }
        let park = deadline
            .map_or(PARK_MAX, |at| at.saturating_duration_since(clock.now))
            .min(PARK_MAX)
            .min(if full && !core.borrow().port.tells_writable() { FULL_PARK } else { PARK_MAX })
            .min(if farewell.is_some() { Duration::from_millis(20) } else { PARK_MAX });
        let mut timer = Timer::new(park);
        let parked = Instant::now();
        std::future::poll_fn(|cx| {
            use std::future::Future;
            let [readable, woken, writable] = &mut states;
            let ready = socket.poll_readable(cx, readable).is_ready()
                | sleeper.poll_readable(cx, woken).is_ready()
                | (full && socket.poll_writable(cx, writable).is_ready())
                | std::pin::Pin::new(&mut timer).poll(cx).is_ready();
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        wake.awake();
        busy_share.parked += parked.elapsed();
    }
}

/// What share of its time a shard does not sleep, smoothed over seconds: the load it refuses
/// newcomers by.
struct BusyShare {
    since: Instant,
    parked: Duration,
    permille: u16,
}

impl BusyShare {
    fn new(now: Instant) -> Self {
        Self { since: now, parked: Duration::ZERO, permille: 0 }
    }

    /// The share, once a second.
    fn at(&mut self, now: Instant) -> Option<u16> {
        let span = now.saturating_duration_since(self.since);
        if span < Duration::from_secs(1) {
            return None;
        }
        let busy = span.saturating_sub(self.parked).as_millis() * 1000 / span.as_millis().max(1);
        // Half of the last second, half of what was before: a burst of joins is not a load.
        self.permille = (u128::from(self.permille) + busy).div_euclid(2) as u16;
        (self.since, self.parked) = (now, Duration::ZERO);
        Some(self.permille)
    }
}

async fn read_mail(
    mut mail: mpsc::Receiver<Mail>,
    core: Rc<RefCell<Core>>,
    station: Option<Rc<RefCell<whip::Station>>>,
) {
    while let Some(letter) = mail.recv().await {
        let clock = Clock::read();
        // glommio polls a new task at once, so none may be spawned while the core is borrowed.
        let letter = match letter {
            Mail::Adopt(adopted) => {
                let requests = core.borrow().requests.clone();
                let serve = rtmp::adopt(*adopted, Rc::clone(&core), requests);
                glommio::spawn_local(serve).detach();
                continue;
            }
            Mail::Demo(demo) => {
                glommio::spawn_local(demo.play(Rc::clone(&core))).detach();
                continue;
            }
            Mail::AdoptSrt(adopted) => {
                let endpoint = core.borrow().srt.clone();
                if let Some(endpoint) = endpoint {
                    srt::adopt(&endpoint, *adopted, &core);
                }
                continue;
            }
            Mail::Whip(order) => {
                if let Some(station) = &station {
                    station.borrow_mut().order(*order);
                }
                continue;
            }
            other => other,
        };
        if let (Mail::Stop, Some(station)) = (&letter, &station) {
            station.borrow_mut().stop();
        }
        let mut held = core.borrow_mut();
        match letter {
            Mail::Trust(trust, sealed) => {
                held.shard.set_trust(&trust, sealed, clock.now, clock.wall);
            }
            Mail::Resolved(url, addresses) => {
                held.shard.resolved(&url, &addresses, clock.now);
            }
            Mail::Authorized(session, answer) => {
                held.shard.publish_authorized(session, answer, clock.now, clock.wall);
            }
            Mail::Adopt(_) | Mail::AdoptSrt(_) | Mail::Demo(_) | Mail::Whip(_) => {}
            Mail::Drain(ShardOrder { new_uri, deadline }) => {
                held.moved_to = url::Url::parse(&new_uri)
                    .ok()
                    .and_then(|url| url.host_str().map(str::to_owned));
                held.shard.drain(&new_uri, deadline, clock.now);
            }
            Mail::Stop => {
                held.stopping = true;
                held.shard.close("server is stopping", clock.now);
            }
        }
        held.settle(clock);
    }
}

/// Lays the shard's numbers out where the control thread finds them: a copy four times a second,
/// so the lock is never contended on the packet path.
async fn lay_out(snapshot: Arc<std::sync::Mutex<Snapshot>>, core: Rc<RefCell<Core>>) {
    let mut reported = Instant::now();
    loop {
        let clock = Clock::read();
        if clock.now.saturating_duration_since(reported) >= REPORT_INTERVAL {
            reported = clock.now;
            let mut core = core.borrow_mut();
            core.say_loss();
            for report in core.shard.reports(clock.now, clock.wall) {
                core.news.insert(report.input_id.clone(), report);
            }
            core.tell_news();
        }
        let (fresh, draining) = {
            let core = core.borrow();
            let srt = core.srt.as_ref().map(|endpoint| endpoint.borrow().picture());
            let fresh = Snapshot {
                port: core.port.counters(),
                rung: Some(core.rung_now()),
                rungs_refused: core.rungs_refused.clone(),
                frames: core.port.report(),
                srt: srt.unwrap_or_default(),
                whip: core.whip,
                rtmp: core.rtmp,
                ..core.shard.snapshot()
            };
            (fresh, core.shard.is_draining())
        };
        if let Ok(mut held) = snapshot.lock() {
            *held = fresh;
        }
        // Whoever drains waits for the last one to leave.
        let pause = if draining { LOOK_INTERVAL } else { SNAPSHOT_INTERVAL };
        glommio::timer::sleep(pause).await;
    }
}

/// A descriptor somebody else owns and outlives this.
pub(super) struct Fd(pub(super) RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
