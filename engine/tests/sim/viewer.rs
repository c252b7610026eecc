//! One viewer with its own host: the engine's QUIC endpoint as a client, and the viewer core on it. It writes down what
//! it was given and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir::client::{Event, Fleet, Leg, Outcome, PlaybackUrl, Splice, Step, Viewer};
use weir::quic::{self, ConnId, Endpoint, Steering};
use weir_moqt::Draft;
use weir_xdp::Port as _;
use weir_xdp::steer::Key;
use weir_xdp::virt::VirtPort;

/// One object as it came.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub group: u64,
    pub object: u64,
    pub fingerprint: u64,
    #[allow(dead_code, reason = "not every story weighs what was seen")]
    pub bytes: usize,
    pub at: Instant,
}

/// One connection and the viewer on it.
struct Seat {
    conn: ConnId,
    viewer: Viewer,
    open: bool,
}

pub struct Watcher {
    endpoint: Endpoint,
    port: VirtPort,
    seat: Seat,
    /// Where it moves to.
    next: Option<Seat>,
    splice: Splice,
    /// Where else it may go when its relay falls silent.
    fleet: Fleet,
    dials: u8,
    url: PlaybackUrl,
    draft: Draft,
    first_byte: u8,
    /// Hears GOAWAY and does nothing about it.
    pub stubborn: bool,
    /// Where it was sent, and how long it had.
    pub sent: Vec<(String, Option<Duration>)>,
    /// Redirects followed before anything came.
    pub redirects: Vec<String>,
    /// Codes and reasons of connections that could not be had.
    pub turned_away: Vec<(u32, String)>,
    /// While false, packets are acknowledged and nothing is read from streams.
    pub reads: bool,
    pub catalogs: u32,
    /// When the first of them came.
    pub catalog_at: Option<Instant>,
    pub skipped: BTreeMap<Arc<str>, u64>,
    pub refused: Vec<String>,
    /// Tracks that ended.
    pub finished: Vec<Arc<str>>,
    /// Code and reason of the end.
    pub ended: Option<(u32, String)>,
    seen: BTreeMap<Arc<str>, Vec<Seen>>,
}

impl Watcher {
    pub(super) fn dial(
        port: VirtPort,
        to: SocketAddr,
        first_byte: u8,
        draft: Draft,
        token: &str,
        chance: quic::Chance,
        now: Instant,
    ) -> Self {
        let steering = Steering { shard: 0, shards: 1, key: Key::new(1) };
        let limits = quic::Limits::default();
        let mut endpoint = Endpoint::with_chance(steering, chance, None, &[], limits, now);
        let url = format!("moqt://{to}/playback/{}?tok={token}", super::INPUT);
        let url = PlaybackUrl::parse(&url).expect("a playback URL");
        Self {
            seat: Seat::dial(&mut endpoint, &url, ([first_byte, 2], own(&port)), draft, now),
            endpoint,
            port,
            next: None,
            splice: Splice::default(),
            fleet: Fleet::new([url.clone()], 0, now),
            dials: 0,
            url,
            draft,
            first_byte,
            stubborn: false,
            sent: Vec::new(),
            redirects: Vec::new(),
            turned_away: Vec::new(),
            reads: true,
            catalogs: 0,
            catalog_at: None,
            skipped: BTreeMap::new(),
            refused: Vec::new(),
            finished: Vec::new(),
            ended: None,
            seen: BTreeMap::new(),
        }
    }

    /// Sends and receives by another port from now on.
    pub(super) fn rebind(&mut self, port: VirtPort) {
        self.port = port;
    }

    /// It knows other relays that have the broadcast.
    pub(super) fn also(&mut self, others: &[SocketAddr], seed: u64, now: Instant) {
        let others =
            others.iter().map(|to| self.url.moved(&format!("moqt://{to}")).expect("a URL"));
        let urls: Vec<_> = std::iter::once(self.url.clone()).chain(others).collect();
        self.fleet = Fleet::new(urls, seed, now);
    }

    /// Where it watches from.
    #[allow(dead_code, reason = "not every story asks")]
    pub fn relay(&self) -> (&str, u16) {
        (&self.url.host, self.url.port)
    }

    /// Closes its connection.
    pub fn leave(&mut self, now: Instant) {
        self.endpoint.close_all(0, "left", now);
    }

    /// Datagrams that reached it.
    #[allow(dead_code, reason = "not every story asks")]
    pub fn received(&self) -> u64 {
        self.endpoint.counters().datagrams_received
    }

    /// What came of a track.
    pub fn seen(&self, track: &str) -> &[Seen] {
        self.seen.get(track).map_or(&[], Vec::as_slice)
    }

    /// Payload of whole objects it was given so far.
    #[allow(dead_code, reason = "not every story asks")]
    pub fn delivered(&self) -> u64 {
        self.seen.values().flatten().map(|seen| seen.bytes as u64).sum()
    }

    /// Moves made.
    #[allow(dead_code, reason = "not every story asks")]
    pub fn moves(&self) -> u64 {
        self.splice.moves()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next.as_ref().and_then(|next| next.viewer.poll_timeout());
        let here = self.seat.viewer.poll_timeout();
        let own = [self.splice.poll_timeout(), self.fleet.poll_timeout()];
        let all = [self.endpoint.poll_timeout(), here, next].into_iter().chain(own);
        all.flatten().min()
    }

    pub(super) fn turn(&mut self, now: Instant) -> bool {
        let endpoint = &mut self.endpoint;
        let mut busy = false;
        while self.port.recv(&mut |datagram| endpoint.handle_datagram(datagram, now)).expect("port")
            > 0
        {
            busy = true;
        }
        self.endpoint.handle_timeout(now);
        if !self.reads {
            self.endpoint.flush(&mut self.port, now).expect("a virtual port");
            return busy;
        }
        while let Some((conn, event)) = self.endpoint.poll_event(now) {
            let next = self.next.as_mut().filter(|next| next.conn == conn);
            match next {
                Some(next) => next.hear(event, now),
                None if self.seat.conn == conn => self.seat.hear(event, now),
                // Of a connection that was left.
                None => {}
            }
        }
        self.seat.handle_timeout(now);
        if let Some(next) = &mut self.next {
            next.handle_timeout(now);
        }
        self.splice.handle_timeout(now);
        self.listen(now);
        self.take(now);
        self.seat.drive(&mut self.endpoint, now);
        if let Some(next) = &mut self.next {
            next.drive(&mut self.endpoint, now);
        }
        self.take(now);
        self.endpoint.flush(&mut self.port, now).expect("a virtual port");
        busy
    }

    /// As `weir play` does, but that nothing keeps the connection alive by itself.
    fn listen(&mut self, now: Instant) {
        let heard = self.endpoint.traffic(self.seat.conn).map_or(0, |(received, _)| received);
        let rtt = self.endpoint.rtt(self.seat.conn).unwrap_or_default();
        match self.fleet.poll_step(heard, rtt, now) {
            None | Some(Step::Over) => {}
            Some(Step::Probe) => {
                self.endpoint.probe(self.seat.conn);
            }
            Some(Step::Doubt) => self.splice.doubt(true),
            Some(Step::Believe) => {
                self.splice.doubt(false);
                self.splice.abandon();
            }
            Some(Step::Dial(url)) => {
                assert!(self.splice.begin(None, now), "one move at a time");
                self.dials += 1;
                let id = ([self.first_byte, 150 + self.dials], own(&self.port));
                let expected = self.splice.media_tracks();
                self.url = *url;
                let draft = self.draft;
                self.next = Some(Seat::dial_knowing(
                    &mut self.endpoint,
                    &self.url,
                    id,
                    draft,
                    expected,
                    now,
                ));
            }
            Some(Step::Abandon) => self.splice.abandon(),
        }
    }

    /// Takes what the viewers tell, through the splice.
    fn take(&mut self, now: Instant) {
        loop {
            let next = self.next.as_mut();
            if let Some(event) = self.seat.viewer.poll_event() {
                if matches!(event, Event::Ended { .. }) && self.fleet.is_silent() {
                    self.fleet.lost(now);
                    continue;
                }
                self.splice.handle_event(Leg::Current, event);
            } else if let Some(event) = next.and_then(|next| next.viewer.poll_event()) {
                if matches!(event, Event::Ready) {
                    self.fleet.answered(now);
                }
                if let Event::Ended { code, reason } = &event {
                    self.turned_away.push((*code, reason.clone()));
                }
                self.splice.handle_event(Leg::Next, event);
            } else if !self.settle(now) {
                return;
            }
            self.settle(now);
        }
    }

    /// True when a connection changed its part.
    fn settle(&mut self, now: Instant) -> bool {
        while let Some(event) = self.splice.poll_event() {
            self.note(event, now);
        }
        let Some(outcome) = self.splice.poll_outcome() else { return false };
        let Some(mut left) = self.next.take() else { return false };
        if outcome == Outcome::Moved {
            std::mem::swap(&mut self.seat, &mut left);
            self.fleet.moved(&self.url, now);
        } else {
            self.fleet.failed(now);
        }
        left.viewer.close();
        left.drive(&mut self.endpoint, now);
        true
    }

    /// GOAWAY: dials the new address.
    fn sent_away(&mut self, uri: String, timeout: Option<Duration>, now: Instant) {
        if !self.stubborn && self.splice.begin(timeout, now) {
            self.url = self.url.moved(&uri).expect("an address");
            let id = ([self.first_byte, 3 + self.sent.len() as u8], own(&self.port));
            let draft = self.draft;
            self.next = Some(Seat::dial(&mut self.endpoint, &self.url, id, draft, now));
        }
        self.sent.push((uri, timeout));
    }

    /// REDIRECT: the next relay takes the place of one that has nothing.
    fn redirected(&mut self, uri: String, now: Instant) {
        if self.splice.has_begun() {
            return self.sent_away(uri, None, now);
        }
        if !self.splice.follow_redirect() {
            self.ended = Some((1, "redirected too often".to_owned()));
            return;
        }
        self.url = self.url.moved(&uri).expect("an address");
        let id = ([self.first_byte, 100 + self.redirects.len() as u8], own(&self.port));
        let seat = Seat::dial(&mut self.endpoint, &self.url, id, self.draft, now);
        let mut left = std::mem::replace(&mut self.seat, seat);
        left.viewer.close();
        left.drive(&mut self.endpoint, now);
        self.redirects.push(uri);
    }

    fn note(&mut self, event: Event, now: Instant) {
        match event {
            Event::Redirected { uri } => self.redirected(uri, now),
            Event::Catalog(_) => {
                self.catalogs += 1;
                self.catalog_at.get_or_insert(now);
            }
            Event::Object(object) => {
                let seen = Seen {
                    group: object.group,
                    object: object.object,
                    fingerprint: super::fingerprint(&object.payload),
                    bytes: object.payload.len(),
                    at: now,
                };
                self.seen.entry(object.track).or_default().push(seen);
            }
            Event::Skipped { track, groups } => *self.skipped.entry(track).or_default() += groups,
            Event::TrackEnded { track, .. } => self.finished.push(track),
            Event::Refused { track, reason, .. } => self.refused.push(format!("{track}: {reason}")),
            Event::Ended { code, reason } => self.ended = Some((code, reason)),
            Event::GoAway { uri, timeout } => self.sent_away(uri, timeout, now),
            _ => {}
        }
    }
}

impl Seat {
    fn dial(
        endpoint: &mut Endpoint,
        url: &PlaybackUrl,
        id: ([u8; 2], [u8; 2]),
        draft: Draft,
        now: Instant,
    ) -> Self {
        Self::dial_knowing(endpoint, url, id, draft, Vec::new(), now)
    }

    fn dial_knowing(
        endpoint: &mut Endpoint,
        url: &PlaybackUrl,
        ([first, second], [third, fourth]): ([u8; 2], [u8; 2]),
        draft: Draft,
        expected: Vec<String>,
        now: Instant,
    ) -> Self {
        let limits = quic::Limits::default();
        let mut config =
            quic::config::client(weir::client::trust::any_certificate(), draft, &limits)
                .expect("TLS");
        // The first byte of the first connection id decides on the shard; the second tells connections of a viewer
        // apart, the others viewers.
        config.initial_dst_cid_provider(Arc::new(move || {
            quinn_proto::ConnectionId::new(&[first, second, third, fourth, 5, 6, 7, 8])
        }));
        let to = SocketAddr::new(url.host.parse().expect("an IP address"), url.port);
        let conn = endpoint.connect(config, to, "localhost", now).expect("a connection");
        let mut options = url.options(draft);
        options.expected = expected;
        Self { conn, viewer: Viewer::new(options), open: false }
    }

    fn hear(&mut self, event: quic::Event, now: Instant) {
        match event {
            quic::Event::Opened { .. } => self.open = true,
            quic::Event::Stream { id, dir, data, fin } => {
                self.viewer.handle_stream(id, dir, data, fin, now);
            }
            quic::Event::Reset { id, code } => self.viewer.handle_reset(id, code, now),
            quic::Event::Stopped { id, code } => self.viewer.handle_stop(id, code, now),
            quic::Event::Writable { id } => self.viewer.handle_writable(id),
            quic::Event::Available { dir } => self.viewer.handle_streams_available(dir),
            quic::Event::Acknowledged { .. } | quic::Event::Datagram { .. } => {}
            quic::Event::Closed { code, reason } => self.viewer.handle_closed(code, &reason),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.viewer.poll_timeout().is_some_and(|at| at <= now) {
            self.viewer.handle_timeout(now);
        }
    }

    fn drive(&mut self, endpoint: &mut Endpoint, now: Instant) {
        if self.open
            && let Some(mut link) = endpoint.link(self.conn, now)
        {
            self.viewer.drive(&mut link, now);
        }
    }
}

/// What of a viewer's own address tells it from others.
fn own(port: &VirtPort) -> [u8; 2] {
    match port.local_addr().ip() {
        std::net::IpAddr::V4(own) => [own.octets()[1], own.octets()[3]],
        std::net::IpAddr::V6(_) => [0, 0],
    }
}
