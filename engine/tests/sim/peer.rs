//! A bare MoQT client with its own host: the engine's QUIC endpoint and one session whose commands the story gives. It
//! writes down what it heard and when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weir::quic::{self, ConnId, Endpoint, Link, Steering};
use weir_moqt::{Dir, Draft, Event, OpenKey, Output, Role, Session, SetupOptions, StreamId};
use weir_relay::{Carrier, Transport as _};
use weir_xdp::Port as _;
use weir_xdp::steer::Key;
use weir_xdp::virt::VirtPort;

pub struct Peer {
    endpoint: Endpoint,
    port: VirtPort,
    conn: ConnId,
    pub session: Session,
    opens: Vec<(OpenKey, Dir)>,
    open: bool,
    pub heard: Vec<(Instant, Event)>,
    /// Code and reason of the end.
    pub ended: Option<(u32, String)>,
}

impl Peer {
    pub(super) fn dial(
        port: VirtPort,
        to: SocketAddr,
        first_byte: u8,
        draft: Draft,
        options: SetupOptions,
        now: Instant,
    ) -> Self {
        let steering = Steering { shard: 0, shards: 1, key: Key::new(1) };
        let limits = quic::Limits::default();
        let mut endpoint = Endpoint::new(steering, None, &[], limits.clone(), now);
        let mut config =
            quic::config::client(weir::client::trust::any_certificate(), draft, &limits)
                .expect("TLS");
        let last = super::last_byte(&port);
        config.initial_dst_cid_provider(Arc::new(move || {
            quinn_proto::ConnectionId::new(&[first_byte, 9, last, 4, 5, 6, 7, 8])
        }));
        let conn = endpoint.connect(config, to, "localhost", now).expect("a connection");
        let limits = weir_moqt::Limits::default();
        let session = Session::new(draft, Role::Client, Carrier::Quic, limits, options);
        let (opens, heard) = (Vec::new(), Vec::new());
        Self { endpoint, port, conn, session, opens, open: false, heard, ended: None }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
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
        while let Some((_, event)) = self.endpoint.poll_event(now) {
            match event {
                quic::Event::Opened { .. } => self.open = true,
                quic::Event::Stream { id, dir, data, fin } => {
                    self.session.handle_stream(id, dir, data, fin).expect("a sound session");
                }
                quic::Event::Reset { id, code } => {
                    self.session.handle_reset(id, code.into()).expect("a sound session");
                }
                quic::Event::Stopped { id, code } => {
                    self.session.handle_stop(id, code.into()).expect("a sound session");
                }
                quic::Event::Closed { code, reason } => self.ended = Some((code, reason)),
                _ => {}
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.heard.push((now, event));
        }
        if self.open
            && let Some(mut link) = self.endpoint.link(self.conn, now)
        {
            drive(&mut self.session, &mut self.opens, &mut link);
        }
        self.endpoint.flush(&mut self.port, now).expect("a virtual port");
        busy
    }
}

/// What a client of a few requests writes always fits.
fn drive(session: &mut Session, opens: &mut Vec<(OpenKey, Dir)>, link: &mut Link<'_>) {
    let write = |stream: StreamId, data, link: &mut Link<'_>| {
        let length = bytes::Bytes::len(&data);
        let taken = link.write(stream, &mut [data]);
        assert!(length == 0 || taken == Ok(length), "no room for {length} bytes: {taken:?}");
    };
    loop {
        while let Some((key, dir)) = opens.first().copied() {
            let Some(stream) = link.open(dir) else { break };
            opens.remove(0);
            session.stream_opened(key, stream).expect("a stream asked for");
        }
        match session.poll_output() {
            None => return,
            Some(Output::Open { key, dir }) => opens.push((key, dir)),
            Some(Output::Write { stream, data, fin }) => {
                write(stream, data, link);
                if fin {
                    link.finish(stream);
                }
            }
            Some(Output::Reset { stream, code }) => link.reset(stream, code),
            Some(Output::Stop { stream, code }) => link.stop(stream, code),
        }
    }
}
