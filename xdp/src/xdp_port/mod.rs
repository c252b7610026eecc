//! A port whose datagrams are frames from and to an interface, past the kernel's IP and UDP. It owns
//! an `AF_XDP` socket for each receive queue of its shard and, beside them, an ordinary UDP socket
//! of the same address: for what the XDP program passes (fragments, options, other interfaces), for
//! destinations that are not reached over the interface or not yet, and for everything once the
//! interface is lost. So a viewer never notices which way a datagram took. Once the interface is
//! there again, frames are too.

mod gate;
mod paths;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::BytesMut;
pub(crate) use gate::Placed;
pub use gate::{Gate, MTU_MAX, Options, QUEUES_MAX, Refused};
use paths::Paths;

use crate::{
    Counters, Datagram, Outcome, Port, Transmit,
    backoff::Backoff,
    frame::{self, Headers, Refusals},
    netlink::Netlink,
    program::Tally,
    sys,
    udp::{BATCH, SEGMENTS_MAX, UdpPort},
    uring::RingCounts,
    xsk::{FRAMES_PER_CALL, Losses, Mode, Sockets},
};

/// How often the interface is looked after: what is lost must be replaced within a second.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How long a link may be down after its program and sockets were placed: many drivers start the device anew for
/// that, and copper takes 2 to 4 s to agree on a speed. Nothing is lost by waiting, since the UDP socket has no
/// other link.
const LINK_SETTLES: Duration = Duration::from_secs(5);

/// Every so many batches the kernel's socket comes first, so that frames cannot starve it.
const KERNEL_TURN: u32 = 8;

/// Bytes of the area that datagrams are handed out from; see [`crate::udp`].
const AREA_BYTES: usize = 64 * 1024;

/// Finds frames again after they were lost; nothing if it is too early.
pub type WayBack = Box<dyn FnMut() -> Option<Frames>>;

/// A port over `AF_XDP` sockets and a UDP socket.
pub struct XdpPort {
    kernel: UdpPort,
    /// Nothing while the interface is lost.
    frames: Option<Frames>,
    lost: Option<&'static str>,
    way_back: Option<WayBack>,
    again: Backoff,
    past: Past,
    /// Readable when one of the sockets is.
    readable: OwnedFd,
    /// Of what went past the kernel.
    counters: Counters,
    batches: u32,
}

/// What frames counted before they were lost: numbers never fall.
#[derive(Debug, Default)]
struct Past {
    refusals: Refusals,
    losses: Losses,
    /// Of programs that are gone.
    programs: [u64; Tally::ALL.len()],
    /// With the last program, when it was last heard of.
    all_programs: Option<[u64; Tally::ALL.len()]>,
    gate: Weak<Gate>,
    lost_times: u64,
    returns: u64,
}

/// The sockets on the queues of a shard, and what it takes to write frames.
#[derive(Debug)]
pub struct Frames {
    gate: Arc<Gate>,
    sockets: Sockets,
    paths: Paths,
    refusals: Refusals,
    area: BytesMut,
    /// Frames that the kernel has not been shown yet.
    unshown: u32,
    opened: Instant,
    watched: Instant,
}

/// How a port got on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// How frames come; nothing if the interface was lost.
    pub mode: Option<Mode>,
    /// Why it was lost.
    pub lost: Option<&'static str>,
    /// How often it was lost.
    pub lost_times: u64,
    /// How often it was there again.
    pub returns: u64,
    /// What happened to the rings of a port over `io_uring`.
    pub ring: RingCounts,
    /// Frames that the program took and that were no datagrams for us.
    pub refusals: Refusals,
    /// What the sockets lost.
    pub losses: Losses,
    /// What became of packets in the program, from the port of the first queue alone: the program
    /// is there once for all.
    pub program: Option<[u64; Tally::ALL.len()]>,
}

impl Frames {
    /// Binds sockets to `queues` of the gate's interface and puts them into their slots: from now
    /// on their datagrams come here.
    pub fn open(gate: Arc<Gate>, queues: &[u32], mode: Mode) -> io::Result<Self> {
        let sockets = Sockets::open(gate.interface.index, queues, mode)?;
        for (queue, socket) in sockets.queues() {
            gate.put(queue, socket)?;
        }
        let opened = Instant::now();
        Ok(Self {
            sockets,
            paths: Paths::new(Netlink::new()?),
            gate,
            refusals: Refusals::default(),
            area: BytesMut::with_capacity(AREA_BYTES),
            unshown: 0,
            opened,
            watched: opened,
        })
    }

    /// How frames come.
    pub fn mode(&self) -> Mode {
        self.sockets.mode()
    }

    /// What the program counted, if this is the port of the first queue.
    fn program_counts(
        &self,
        programs_before: &[u64; Tally::ALL.len()],
    ) -> Option<[u64; Tally::ALL.len()]> {
        let is_first = self.sockets.queues().any(|(queue, _)| queue == 0);
        is_first.then(|| {
            let mut counts = *programs_before;
            for (count, tally) in counts.iter_mut().zip(Tally::ALL) {
                *count += self.gate.count(tally).unwrap_or_default();
            }
            counts
        })
    }

    /// Looks after the interface now and then; says what is wrong with it.
    fn watch(&mut self) -> Result<(), &'static str> {
        let now = Instant::now();
        if now.saturating_duration_since(self.watched) < WATCH_INTERVAL {
            return Ok(());
        }
        self.watched = now;
        match self.paths.netlink().interface(self.gate.interface.index) {
            // Nobody says that it is gone; the next look will tell.
            Err(_) => Ok(()),
            Ok(None) => Err("the interface is gone"),
            Ok(Some(interface)) if !interface.is_running => {
                let settles = now.saturating_duration_since(self.opened) < LINK_SETTLES;
                if settles { Ok(()) } else { Err("the link is down") }
            }
            Ok(Some(interface)) if !interface.has_program => Err("the program was detached"),
            Ok(Some(interface)) if interface.mac != Some(self.gate.mac) => {
                Err("the interface has another Ethernet address")
            }
            Ok(Some(_)) => Ok(()),
        }
    }

    fn receive(
        &mut self,
        local: SocketAddr,
        counters: &mut Counters,
        sink: &mut dyn FnMut(Datagram),
    ) -> usize {
        let Self { gate, sockets, paths, refusals, area, .. } = self;
        let mtu = gate.interface.mtu;
        let taken = sockets.receive(BATCH, &mut |bytes| {
            let (headers, datagram) = match frame::read(bytes, gate.mac, mtu) {
                Ok(read) => read,
                Err(refusal) => return refusals.add(refusal),
            };
            counters.received += 1;
            counters.received_bytes += datagram.len() as u64;
            paths.learn(headers.from.ip(), headers.source_mac, headers.vlan);
            if datagram.is_empty() {
                counters.received_empty += 1;
                return;
            }
            if !area.try_reclaim(datagram.len()) {
                *area = BytesMut::with_capacity(AREA_BYTES);
                counters.receive_areas += 1;
            }
            area.extend_from_slice(datagram);
            let as_socket = |ip| if local.is_ipv6() { mapped(ip) } else { ip };
            sink(Datagram {
                from: SocketAddr::new(as_socket(headers.from.ip()), headers.from.port()),
                to: Some(as_socket(headers.to.ip())),
                ecn: headers.ecn,
                data: area.split(),
            });
        });
        counters.receive_batches += u64::from(taken > 0);
        taken
    }

    /// Sends over the interface; nothing if the way leads through the kernel.
    fn send(
        &mut self,
        local: SocketAddr,
        transmit: &Transmit<'_>,
        counters: &mut Counters,
    ) -> io::Result<Option<Outcome>> {
        let to = transmit.destination.ip().to_canonical();
        let own = Some(local.ip().to_canonical()).filter(|ip| !ip.is_unspecified());
        let asked = transmit.src_ip.map(|ip| ip.to_canonical()).or(own);
        if transmit.destination.port() == 0 {
            return Ok(None);
        }
        let Some(path) = self.paths.find(&self.gate, to, asked, Instant::now()) else {
            return Ok(None);
        };
        let Some(from) = asked.or(path.source).filter(|from| from.is_ipv4() == to.is_ipv4()) else {
            return Ok(None);
        };
        let headers = Headers {
            source_mac: self.gate.mac,
            destination_mac: path.mac,
            vlan: path.vlan,
            from: SocketAddr::new(from, local.port()),
            to: SocketAddr::new(to, transmit.destination.port()),
            ecn: transmit.ecn,
        };
        for datagram in transmit.datagrams() {
            if frame::packet_bytes(to, datagram) > path.mtu {
                counters.dropped_too_large += 1;
                continue;
            }
            let write = |bytes: &mut [u8]| frame::write(bytes, &headers, datagram);
            if !self.sockets.send(write) {
                self.flush()?;
                if !self.sockets.send(write) {
                    counters.full += 1;
                    return Ok(Some(Outcome::Full));
                }
            }
            counters.sent += 1;
            counters.sent_bytes += datagram.len() as u64;
            self.unshown += 1;
        }
        counters.send_batches += 1;
        if self.unshown >= FRAMES_PER_CALL {
            self.flush()?;
        }
        Ok(Some(Outcome::Sent))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unshown = 0;
        self.sockets.flush()
    }
}

impl XdpPort {
    /// Joins sockets on an interface and the UDP socket of the same address.
    pub fn new(kernel: UdpPort, frames: Frames) -> io::Result<Self> {
        kernel.receive_singly()?;
        let readable = sys::epoll()?;
        let socket = kernel.fd().expect("a UDP port has a descriptor");
        sys::epoll_add(readable.as_fd(), socket)?;
        for (_, socket) in frames.sockets.queues() {
            sys::epoll_add(readable.as_fd(), socket)?;
        }
        let counters = Counters::default();
        Ok(Self {
            kernel,
            frames: Some(frames),
            lost: None,
            way_back: None,
            again: Backoff::new(),
            past: Past::default(),
            readable,
            counters,
            batches: 0,
        })
    }

    /// Says how frames are found again after a loss. Without, a loss is for good.
    #[must_use]
    pub fn with_way_back(mut self, way_back: WayBack) -> Self {
        self.way_back = Some(way_back);
        self
    }

    /// The interface and its program, until it is lost.
    pub fn gate(&self) -> Option<&Gate> {
        self.frames.as_ref().map(|frames| &*frames.gate)
    }

    /// The UDP socket beside the frames.
    pub fn kernel(&self) -> &UdpPort {
        &self.kernel
    }

    /// Waits until a datagram can be received, at most for `timeout`. For tools and tests that
    /// have no executor.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        sys::wait_readable(self.readable.as_fd(), timeout)
    }

    /// Goes on with the UDP socket alone.
    fn lose(&mut self, why: &'static str) {
        let Some(frames) = self.frames.take() else { return };
        let past = &mut self.past;
        past.refusals = past.refusals.with(frames.refusals);
        past.losses = past.losses + frames.sockets.losses();
        past.all_programs = frames.program_counts(&past.programs).or(past.all_programs);
        past.gate = Arc::downgrade(&frames.gate);
        past.lost_times += 1;
        self.lost = Some(why);
        self.again.lost(Instant::now());
    }

    /// Looks for frames now and then while there are none.
    fn climb(&mut self) {
        let now = Instant::now();
        let Some(way_back) = &mut self.way_back else { return };
        if !self.again.is_due(now) {
            return;
        }
        let Some(frames) = way_back() else { return };
        for (_, socket) in frames.sockets.queues() {
            if sys::epoll_add(self.readable.as_fd(), socket).is_err() {
                return;
            }
        }
        let past = &mut self.past;
        if !Weak::ptr_eq(&past.gate, &Arc::downgrade(&frames.gate)) {
            past.programs = past.all_programs.unwrap_or(past.programs);
        }
        past.returns += 1;
        self.again.returned(now);
        self.lost = None;
        self.frames = Some(frames);
    }

    fn receive_frames(&mut self, sink: &mut dyn FnMut(Datagram)) -> usize {
        let local = self.kernel.local_addr();
        self.frames.as_mut().map_or(0, |frames| frames.receive(local, &mut self.counters, sink))
    }
}

impl Port for XdpPort {
    fn local_addr(&self) -> SocketAddr {
        self.kernel.local_addr()
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Datagram)) -> io::Result<usize> {
        if let Some(Err(why)) = self.frames.as_mut().map(Frames::watch) {
            self.lose(why);
        } else if self.frames.is_none() {
            self.climb();
        }
        self.batches = self.batches.wrapping_add(1);
        if self.batches.is_multiple_of(KERNEL_TURN) {
            let taken = self.kernel.recv(sink)?;
            return Ok(if taken > 0 { taken } else { self.receive_frames(sink) });
        }
        let taken = self.receive_frames(sink);
        if taken > 0 { Ok(taken) } else { self.kernel.recv(sink) }
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome> {
        let local = self.kernel.local_addr();
        let sent = match &mut self.frames {
            Some(frames) => frames.send(local, transmit, &mut self.counters),
            None => Ok(None),
        };
        match sent {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => self.kernel.send(transmit),
            Err(_) => {
                self.lose("the kernel takes no more frames");
                self.kernel.send(transmit)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(frames) = &mut self.frames
            && frames.flush().is_err()
        {
            self.lose("the kernel takes no more frames");
        }
        self.kernel.flush()
    }

    /// As many as one call takes on the UDP socket, where a train may have to go.
    fn max_segments(&self) -> usize {
        if self.frames.is_some() { SEGMENTS_MAX } else { self.kernel.max_segments() }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readable.as_fd())
    }

    fn next_wake(&self) -> Option<Instant> {
        None
    }

    fn counters(&self) -> Counters {
        self.kernel.counters() + self.counters
    }

    fn tells_writable(&self) -> bool {
        false
    }

    fn report(&self) -> Option<Report> {
        let past = &self.past;
        let before = Report {
            lost: self.lost,
            lost_times: past.lost_times,
            returns: past.returns,
            refusals: past.refusals,
            losses: past.losses,
            program: past.all_programs,
            ..Report::default()
        };
        let Some(frames) = &self.frames else { return Some(before) };
        Some(Report {
            mode: Some(frames.mode()),
            refusals: past.refusals.with(frames.refusals),
            losses: past.losses + frames.sockets.losses(),
            program: frames.program_counts(&past.programs),
            ..before
        })
    }
}

impl std::fmt::Debug for XdpPort {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, frames, lost, past, .. } = self;
        formatter
            .debug_struct("XdpPort")
            .field("kernel", kernel)
            .field("frames", frames)
            .field("lost", lost)
            .field("past", past)
            .finish_non_exhaustive()
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        ip @ IpAddr::V6(_) => ip,
    }
}
