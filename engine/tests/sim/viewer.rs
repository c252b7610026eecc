//! One viewer with its own host: the engine's QUIC endpoint as a client, and the viewer core on it. It writes down what
//! it was given and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weir::client::{Event, Options, Viewer};
use weir::quic::{self, ConnId, Endpoint, Steering};
use weir_moqt::{Draft, Transport};
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

pub struct Watcher {
    endpoint: Endpoint,
    port: VirtPort,
    conn: ConnId,
    viewer: Viewer,
    open: bool,
    /// While false, packets are acknowledged and nothing is read from streams.
    pub reads: bool,
    pub catalogs: u32,
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
        now: Instant,
    ) -> Self {
        let limits = quic::Limits::default();
        let mut config =
            quic::config::client(weir::client::trust::any_certificate(), draft, &limits)
                .expect("TLS");
        // The first byte of the first connection id decides on the shard.
        config.initial_dst_cid_provider(Arc::new(move || {
            quinn_proto::ConnectionId::new(&[first_byte, 2, 3, 4, 5, 6, 7, 8])
        }));
        let steering = Steering { shard: 0, shards: 1, key: Key::new(1) };
        let mut endpoint = Endpoint::new(steering, None, &[], limits, now);
        let conn = endpoint.connect(config, to, "localhost", now).expect("a connection");
        let mut options = Options::new(draft, Transport::Quic, super::namespace());
        options.path = Some(format!("/playback/{}?tok={token}", super::INPUT));
        options.authority = Some(to.to_string());
        Self {
            endpoint,
            port,
            conn,
            viewer: Viewer::new(options),
            open: false,
            reads: true,
            catalogs: 0,
            skipped: BTreeMap::new(),
            refused: Vec::new(),
            finished: Vec::new(),
            ended: None,
            seen: BTreeMap::new(),
        }
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

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.endpoint.poll_timeout(), self.viewer.poll_timeout()].into_iter().flatten().min()
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
        while let Some((_, event)) = self.endpoint.poll_event(now) {
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
        if self.viewer.poll_timeout().is_some_and(|at| at <= now) {
            self.viewer.handle_timeout(now);
        }
        while let Some(event) = self.viewer.poll_event() {
            self.note(event, now);
        }
        if self.open
            && let Some(mut link) = self.endpoint.link(self.conn, now)
        {
            self.viewer.drive(&mut link, now);
        }
        while let Some(event) = self.viewer.poll_event() {
            self.note(event, now);
        }
        self.endpoint.flush(&mut self.port, now).expect("a virtual port");
        busy
    }

    fn note(&mut self, event: Event, now: Instant) {
        match event {
            Event::Catalog(_) => self.catalogs += 1,
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
            _ => {}
        }
    }
}
