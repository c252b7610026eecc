//! Stories of one WebTransport connection, told by a bare quinn client over a wire in memory: what
//! browsers do, and what strangers try (H21 to H23).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, EndpointConfig, StreamId,
};
use weir_moqt::Draft;
use weir_relay::Transport as _;
use weir_xdp::{Counters, Datagram, Outcome, Port, Transmit};

use super::{ConnId, Endpoint, Event, Limits, Steering, config};

const DRAFTS: &[Draft] = &Draft::ALL;
const SERVER: &str = "192.0.2.1:443";
const CLIENT: &str = "192.0.2.2:5000";

/// A port whose other end is a queue.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) sent: VecDeque<Vec<u8>>,
    /// Where everything went so far, and how many bytes that were.
    pub(super) towards: Vec<(SocketAddr, usize)>,
}

impl Port for Wire {
    fn local_addr(&self) -> SocketAddr {
        address(SERVER)
    }
    fn recv(&mut self, _: &mut dyn FnMut(Datagram)) -> io::Result<usize> {
        Ok(0)
    }
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome> {
        self.towards.push((transmit.destination, transmit.contents.len()));
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        self.sent.extend(transmit.contents.chunks(size).map(<[u8]>::to_vec));
        Ok(Outcome::Sent)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn max_segments(&self) -> usize {
        10
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn next_wake(&self) -> Option<Instant> {
        None
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A browser's QUIC connection to an endpoint of ours.
struct Pair {
    now: Instant,
    server: Endpoint,
    wire: Wire,
    client: quinn_proto::Endpoint,
    config: ClientConfig,
    handle: ConnectionHandle,
    conn: Connection,
    /// What the server reported, and of which connection.
    events: Vec<Event>,
    id: Option<ConnId>,
    /// The code with which the server closed, if it did.
    closed: Option<u64>,
    reason: String,
    /// The code of a close by QUIC itself, TLS alerts among them.
    refused: Option<u64>,
}

impl Pair {
    fn new(alpn: &[u8], limits: Limits) -> Self {
        Self::meeting(alpn, limits, |_| {})
    }

    /// A client that offers several protocols to a server of these drafts.
    fn offering(alpn: &[&[u8]], drafts: &'static [Draft]) -> Self {
        let now = Instant::now();
        Self::with(alpn, server_of(drafts, Limits::default(), now), now)
    }

    /// A connection to a server in some state.
    fn meeting(alpn: &[u8], limits: Limits, prepare: impl FnOnce(&mut Endpoint)) -> Self {
        let now = Instant::now();
        let (mut server, der) = server(limits, now);
        prepare(&mut server);
        Self::with(&[alpn], (server, der), now)
    }

    fn with(
        alpn: &[&[u8]],
        (server, der): (Endpoint, rustls::pki_types::CertificateDer<'static>),
        now: Instant,
    ) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = client(provider, alpn, der);

        let endpoint = Arc::new(EndpointConfig::default());
        let mut client = quinn_proto::Endpoint::new(endpoint, None, true, None);
        let (handle, conn) = client
            .connect(now, config.clone(), address(SERVER), "weir.test")
            .expect("a connection");
        let mut pair = Self {
            now,
            server,
            wire: Wire::default(),
            client,
            config,
            handle,
            conn,
            events: Vec::new(),
            id: None,
            closed: None,
            reason: String::new(),
            refused: None,
        };
        pair.run();
        pair
    }

    /// The same browser connects once more, with what it remembers of the first time.
    fn reconnect(&mut self) {
        self.conn.close(self.now, quinn_proto::VarInt::from_u32(0), Bytes::new());
        self.run();
        let config = self.config.clone();
        let connected = self.client.connect(self.now, config, address(SERVER), "weir.test");
        (self.handle, self.conn) = connected.expect("a connection");
    }

    /// Carries datagrams back and forth until both sides are silent.
    fn run(&mut self) {
        let mut buffer = Vec::new();
        for _ in 0..200 {
            self.now += Duration::from_millis(1);
            let mut moved = false;
            buffer.clear();
            while let Some(transmit) = self.conn.poll_transmit(self.now, 1, &mut buffer) {
                moved = true;
                let data = BytesMut::from(&buffer[..transmit.size]);
                let from = address(CLIENT);
                let datagram = Datagram { from, to: None, ecn: None, data };
                self.server.handle_datagram(datagram, self.now);
                buffer.clear();
            }
            self.server.handle_timeout(self.now);
            while let Some((id, event)) = self.server.poll_event(self.now) {
                self.id = Some(id);
                self.events.push(event);
            }
            self.server.flush(&mut self.wire, self.now).expect("the wire takes all");
            while let Some(datagram) = self.wire.sent.pop_front() {
                moved = true;
                let data = BytesMut::from(&datagram[..]);
                let from = address(SERVER);
                let event = self.client.handle(self.now, from, None, None, data, &mut buffer);
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    self.conn.handle_event(event);
                }
            }
            while let Some(event) = self.conn.poll_endpoint_events() {
                if let Some(event) = self.client.handle_event(self.handle, event) {
                    self.conn.handle_event(event);
                }
            }
            while let Some(event) = self.conn.poll() {
                let quinn_proto::Event::ConnectionLost { reason } = event else { continue };
                match reason {
                    quinn_proto::ConnectionError::ApplicationClosed(close) => {
                        self.closed = Some(close.error_code.into_inner());
                        self.reason = String::from_utf8_lossy(&close.reason).into_owned();
                    }
                    quinn_proto::ConnectionError::ConnectionClosed(close) => {
                        self.refused = Some(close.error_code.into());
                    }
                    _ => {}
                }
            }
            if self.conn.poll_timeout().is_some_and(|at| at <= self.now) {
                self.conn.handle_timeout(self.now);
            }
            if !moved {
                return;
            }
        }
    }

    /// Sends bytes on a new stream.
    fn open(&mut self, dir: Dir, bytes: &[u8]) -> StreamId {
        let id = self.conn.streams().open(dir).expect("stream credit");
        self.send(id, bytes);
        id
    }

    fn send(&mut self, id: StreamId, bytes: &[u8]) {
        self.conn.send_stream(id).write(bytes).expect("window");
        self.run();
    }

    fn received(&mut self, id: StreamId) -> Vec<u8> {
        let mut all = Vec::new();
        let mut stream = self.conn.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return all };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            all.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        all
    }

    fn connect(&mut self, path: &str, protocols: &[&str]) -> StreamId {
        let id = self.open(Dir::Bi, &connect_request(path, protocols));
        self.run();
        id
    }

    fn opened(&self) -> Vec<(Draft, Option<String>)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Opened { draft, path, .. } => Some((*draft, path.clone())),
                _ => None,
            })
            .collect()
    }

    fn stream_bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Stream { data, .. } = event {
                all.extend_from_slice(data);
            }
        }
        all
    }
}

/// A client that trusts one certificate and would send early data if it were let.
fn client(
    provider: rustls::crypto::CryptoProvider,
    alpn: &[&[u8]],
    der: rustls::pki_types::CertificateDer<'static>,
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    tls.enable_early_data = true;
    let crypto = quinn_proto::crypto::rustls::QuicClientConfig::try_from(Arc::new(tls));
    ClientConfig::new(Arc::new(crypto.expect("QUIC ciphers")))
}

/// A client of raw QUIC whose first flight is one datagram: X25519 alone.
pub(super) fn raw_client(der: rustls::pki_types::CertificateDer<'static>) -> ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    client(provider, &[b"moqt-18"], der)
}

/// A server endpoint with a certificate of its own.
pub(super) fn server(
    limits: Limits,
    now: Instant,
) -> (Endpoint, rustls::pki_types::CertificateDer<'static>) {
    server_of(DRAFTS, limits, now)
}

fn server_of(
    drafts: &'static [Draft],
    limits: Limits,
    now: Instant,
) -> (Endpoint, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["weir.test".to_owned()]).expect("a key");
    let der = made.cert.der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key.into())
        .expect("a usable certificate");
    tls.alpn_protocols = config::alpn(drafts).iter().map(|token| token.to_vec()).collect();
    // What a careless caller might leave on: the configuration of a shard turns it off.
    tls.max_early_data_size = u32::MAX;
    let config = config::server(tls, &limits).expect("QUIC ciphers");
    let steering = Steering { shard: 0, shards: 1, key: weir_xdp::steer::Key::new(7) };
    (Endpoint::new(steering, Some(config), drafts, limits, now), der)
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn h3() -> Pair {
    Pair::new(config::ALPN_H3, Limits::default())
}

fn connect_request(path: &str, protocols: &[&str]) -> Bytes {
    let url = url::Url::parse(&format!("https://weir.test{path}")).expect("a URL");
    let request = web_transport_proto::ConnectRequest::new(url)
        .with_protocols(protocols.iter().map(|token| (*token).to_owned()));
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).expect("a request");
    bytes.freeze()
}

/// `:status` of an answer that is one HEADERS frame.
fn status(answer: &[u8]) -> Option<u16> {
    match web_transport_proto::ConnectResponse::decode(&mut &answer[..]) {
        Ok(response) => Some(response.status.as_u16()),
        Err(web_transport_proto::ConnectError::WrongStatus(status)) => {
            status.map(|status| status.as_u16())
        }
        Err(_) => None,
    }
}

#[test]
fn browser_offers_both_drafts_and_gets_the_one_we_prefer() {
    let mut pair = h3();
    let id = pair.connect("/playback/lv_1?tok=t", &["moqt-16", "moqt-18"]);
    assert_eq!(pair.opened(), [(Draft::D18, Some("/playback/lv_1?tok=t".to_owned()))]);
    let answer = pair.received(id);
    let response = web_transport_proto::ConnectResponse::decode(&mut &answer[..]).expect("200");
    assert_eq!(response.protocol.as_deref(), Some("moqt-18"), "exactly one token is echoed");
}

#[test]
fn raw_quic_needs_no_connect() {
    let pair = Pair::new(b"moqt-16", Limits::default());
    assert_eq!(pair.opened(), [(Draft::D16, None)]);
}

#[test]
fn session_without_a_draft_in_common_is_refused() {
    for (offered, drafts) in [
        (&["moqt-99", "moq-lite-03"][..], DRAFTS),
        (&["moqt-22"], &[Draft::D18, Draft::D14]),
        (&[], &[Draft::D18]),
    ] {
        let mut pair = Pair::offering(&[config::ALPN_H3], drafts);
        let id = pair.connect("/playback/lv_1", offered);
        let answer = pair.received(id);
        assert_eq!(status(&answer), Some(400));
        assert_eq!(pair.opened(), []);
    }
}

#[test]
fn every_draft_is_spoken_over_both_transports_and_echoed_as_one_token() {
    for draft in Draft::ALL {
        let pair = Pair::new(draft.token().as_bytes(), Limits::default());
        assert_eq!(pair.opened(), [(draft, None)]);
        let mut pair = h3();
        let id = pair.connect("/p", &["moqt-99", draft.token()]);
        assert_eq!(pair.opened(), [(draft, Some("/p".to_owned()))]);
        assert_eq!(echoed(&pair.received(id)), [draft.token()]);
    }
}

/// The protocols a CONNECT was answered with.
fn echoed(answer: &[u8]) -> Vec<String> {
    let response = web_transport_proto::ConnectResponse::decode(&mut &answer[..]).expect("200");
    response.protocol.into_iter().collect()
}

#[test]
fn the_configured_order_decides_over_both_transports_whatever_the_clients_order() {
    const OLDEST_FIRST: &[Draft] = &[Draft::D14, Draft::D16, Draft::D18, Draft::D22];
    let newest: Vec<&str> = Draft::ALL.iter().map(|draft| draft.token()).collect();
    let oldest: Vec<&str> = newest.iter().rev().copied().collect();
    for offered in [newest, oldest] {
        let tokens: Vec<&[u8]> = offered.iter().map(|token| token.as_bytes()).collect();
        for (drafts, chosen) in [(DRAFTS, Draft::D22), (OLDEST_FIRST, Draft::D14)] {
            let raw = Pair::offering(&tokens, drafts);
            assert_eq!(raw.opened(), [(chosen, None)]);
            let mut pair = Pair::offering(&[config::ALPN_H3], drafts);
            let id = pair.connect("/p", &offered);
            assert_eq!(pair.opened(), [(chosen, Some("/p".to_owned()))]);
            assert_eq!(echoed(&pair.received(id)), [chosen.token()]);
        }
    }
}

#[test]
fn raw_quic_without_a_draft_in_common_has_no_handshake() {
    for (offered, drafts) in [(&b"moqt-99"[..], DRAFTS), (b"moq-00", &[Draft::D18])] {
        let pair = Pair::offering(&[offered], drafts);
        assert_eq!(pair.opened(), []);
        // The alert no_application_protocol (RFC 7301 section 3.2).
        assert_eq!(pair.refused, Some(0x100 + 120));
    }
}

/// Clients older than the negotiation of protocols settle their version in SETUP, as draft 14 does.
#[test]
fn a_client_that_offers_no_protocol_is_taken_for_draft_14_and_none_is_echoed() {
    let mut pair = h3();
    let id = pair.connect("/p", &[]);
    assert_eq!(pair.opened(), [(Draft::D14, Some("/p".to_owned()))]);
    assert_eq!(echoed(&pair.received(id)), Vec::<String>::new());
}

#[test]
fn session_streams_lose_their_header_even_byte_by_byte() {
    let mut pair = h3();
    pair.connect("/", &["moqt-18"]);
    // Uni stream of session 0: type 0x54 as a two-byte integer, then the session id.
    let id = pair.open(Dir::Uni, &[0x40]);
    for byte in [0x54, 0x00, b'h', b'i'] {
        pair.send(id, &[byte]);
    }
    assert_eq!(pair.stream_bytes(), b"hi");
}

#[test]
fn stream_that_overtakes_its_connect_waits_for_it() {
    let mut pair = h3();
    pair.open(Dir::Uni, &[0x40, 0x54, 0x00, b'e', b'a', b'r', b'l', b'y']);
    assert_eq!(pair.stream_bytes(), b"");
    pair.connect("/", &["moqt-18"]);
    assert_eq!(pair.stream_bytes(), b"early");
}

#[test]
fn streams_of_unknown_sessions_are_held_up_to_a_cap_and_then_refused() {
    let limits = Limits { stranger_uni_streams_max: 100, ..Limits::default() };
    let mut pair = Pair::new(config::ALPN_H3, limits);
    for _ in 0..40 {
        pair.open(Dir::Uni, &[0x40, 0x54, 0x08, 1, 2, 3]);
    }
    pair.connect("/", &["moqt-18"]);
    assert_eq!(pair.stream_bytes(), b"", "nothing of session 8 reaches session 0");
    assert_eq!(pair.closed, None);
}

#[test]
fn a_draining_endpoint_answers_503_to_newcomers_and_keeps_the_session_it_has() {
    let mut early = h3();
    early.connect("/a", &["moqt-18"]);
    early.server.drain();
    early.open(Dir::Uni, &[0x40, 0x54, 0x00, b'x']);
    assert_eq!(early.stream_bytes(), b"x");

    // One handshake comes after the drain began, the other was over by then.
    for before in [true, false] {
        let mut pair = if before {
            Pair::meeting(config::ALPN_H3, Limits::default(), Endpoint::drain)
        } else {
            h3()
        };
        pair.server.drain();
        let id = pair.connect("/a", &["moqt-18"]);
        let answer = pair.received(id);
        assert_eq!(status(&answer), Some(503));
        assert_eq!((pair.opened(), pair.server.counters().refused_draining), (vec![], 1));
        pair.now += Duration::from_secs(2);
        pair.run();
        assert!(pair.closed.is_some(), "the connection does not stay");
        assert_eq!(pair.server.counters().handshake_timeouts, 0);
    }
}

#[test]
fn a_draining_endpoint_closes_raw_quic_with_the_reason() {
    let pair = Pair::meeting(b"moqt-18", Limits::default(), Endpoint::drain);
    assert_eq!(pair.opened(), []);
    assert_eq!(pair.closed, Some(1));
    assert_eq!(pair.reason, "draining");
}

#[test]
fn second_session_on_a_connection_is_refused_and_the_first_lives() {
    let mut pair = h3();
    pair.connect("/a", &["moqt-18"]);
    let second = pair.connect("/b", &["moqt-18"]);
    let answer = pair.received(second);
    assert_eq!(status(&answer), Some(429));
    pair.open(Dir::Uni, &[0x40, 0x54, 0x00, b'x']);
    assert_eq!(pair.stream_bytes(), b"x");
}

#[test]
fn data_before_headers_ends_the_connection_with_frame_unexpected() {
    let mut pair = h3();
    pair.open(Dir::Bi, &[0x00, 0x01, 0xff]);
    assert_eq!(pair.closed, Some(0x105));
    assert_eq!(pair.server.counters().http3_violations, 1);
}

#[test]
fn request_that_never_ends_is_cut_off_at_its_cap() {
    let mut pair = h3();
    // HEADERS of 2^14 - 1 announced bytes, then far more GREASE than fits.
    let id = pair.open(Dir::Bi, &[0x01, 0x80, 0x00, 0xff, 0xff]);
    for _ in 0..40 {
        if pair.closed.is_some() {
            break;
        }
        let _ = pair.conn.send_stream(id).write(&[0; 1024]);
        pair.run();
    }
    let answer = pair.received(id);
    assert!(pair.closed.is_some() || status(&answer) == Some(400), "neither closed nor refused");
    assert_eq!(pair.opened(), []);
}

#[test]
fn other_requests_get_a_bare_status() {
    let mut pair = h3();
    // GET / in static-table references (RFC 9204 appendix A): :method GET, :scheme https, :path /.
    let id = pair.open(Dir::Bi, &[0x01, 0x05, 0x00, 0x00, 0xd1, 0xd7, 0xc1]);
    let answer = pair.received(id);
    assert!(matches!(status(&answer), Some(400..=499)), "{answer:?}");
    assert_eq!(pair.closed, None);
}

#[test]
fn unknown_uni_streams_are_refused_without_harm() {
    let mut pair = h3();
    pair.open(Dir::Uni, &[0x21, 1, 2, 3]);
    pair.connect("/", &["moqt-18"]);
    assert_eq!(pair.opened().len(), 1);
}

#[test]
fn browser_that_closes_its_session_is_heard_with_code_and_reason() {
    let mut pair = h3();
    let id = pair.connect("/", &["moqt-18"]);
    let mut capsule = BytesMut::new();
    let reason = "enough".to_owned();
    web_transport_proto::Capsule::CloseWebTransportSession { code: 9, reason }.encode(&mut capsule);
    let mut frame = vec![0x00, capsule.len() as u8];
    frame.extend_from_slice(&capsule);
    pair.send(id, &frame);
    let closed = pair.events.iter().find_map(|event| match event {
        Event::Closed { code, reason } => Some((*code, reason.clone())),
        _ => None,
    });
    assert_eq!(closed, Some((9, "enough".to_owned())));
}

#[test]
fn our_close_reaches_the_browser_as_a_capsule_before_the_connection_goes() {
    let mut pair = h3();
    let id = pair.connect("/", &["moqt-18"]);
    let _ = pair.received(id);
    pair.server.close_all(2, "auth_failed", pair.now);
    pair.run();
    let farewell = pair.received(id);
    assert!(farewell.windows(11).any(|part| part == b"auth_failed"), "{farewell:?}");
    assert_eq!(pair.closed, None, "the connection lingers so that the capsule is read");
    pair.conn.send_stream(id).finish().expect("an open stream");
    pair.run();
    assert_eq!(pair.closed, None, "a browser's FIN does not mean that its page has heard");
    pair.now += Duration::from_millis(1_100);
    pair.run();
    assert_eq!(pair.closed, Some(u64::from(super::wt::H3_NO_ERROR)));
}

/// Sends a datagram to the browser, and hears one from it.
fn exchange_datagrams(pair: &mut Pair, to_us: &[u8]) -> (Option<Bytes>, Vec<Bytes>) {
    let (id, now) = (pair.id.expect("a session"), pair.now);
    let mut link = pair.server.link(id, now).expect("a connection");
    weir_relay::Transport::send_datagram(&mut link, Bytes::from_static(b"object")).expect("room");
    pair.conn.datagrams().send(Bytes::copy_from_slice(to_us), false).expect("room");
    pair.run();
    let heard = pair.events.iter().filter_map(|event| match event {
        Event::Datagram { data } => Some(data.clone()),
        _ => None,
    });
    let heard = heard.collect();
    (pair.conn.datagrams().recv(), heard)
}

#[test]
fn datagrams_of_raw_quic_are_the_sessions_own() {
    let mut pair = Pair::new(b"moqt-18", Limits::default());
    let (received, heard) = exchange_datagrams(&mut pair, b"hello");
    assert_eq!(received.as_deref(), Some(&b"object"[..]));
    assert_eq!(heard, [&b"hello"[..]]);
}

#[test]
fn datagrams_of_webtransport_name_their_session_and_those_of_others_are_dropped() {
    let mut pair = h3();
    let connect = pair.connect("/", &["moqt-18"]);
    // The quarter of the CONNECT stream's id stands in front (RFC 9297).
    let quarter = (quinn_proto::VarInt::from(connect).into_inner() / 4) as u8;
    let (received, heard) = exchange_datagrams(&mut pair, &[quarter, b'h', b'i']);
    let expected: Vec<u8> = [&[quarter], &b"object"[..]].concat();
    assert_eq!(received.as_deref(), Some(&expected[..]));
    assert_eq!(heard, [&b"hi"[..]]);
    let (_, heard) = exchange_datagrams(&mut pair, &[quarter + 1, b'n', b'o']);
    assert_eq!(heard.len(), 1, "H23: a session we do not hold");
}

#[test]
fn a_datagram_that_fits_no_packet_or_no_buffer_is_refused_at_once() {
    let mut pair = Pair::new(b"moqt-18", Limits::default());
    let (id, now) = (pair.id.expect("a session"), pair.now);
    let mut link = pair.server.link(id, now).expect("a connection");
    let mut send =
        |bytes| weir_relay::Transport::send_datagram(&mut link, Bytes::from(vec![0; bytes]));
    assert_eq!(send(60_000), Err(weir_relay::DatagramError::TooLarge));
    let taken = (0..100).take_while(|_| send(1_000).is_ok()).count();
    assert!((30..60).contains(&taken), "{taken} datagrams wait");
    assert_eq!(send(1_000), Err(weir_relay::DatagramError::Blocked));
}

#[test]
fn a_finished_stream_is_reported_once_it_is_acknowledged() {
    let mut pair = Pair::new(b"moqt-18", Limits::default());
    let (id, now) = (pair.id.expect("a session"), pair.now);
    let mut link = pair.server.link(id, now).expect("a connection");
    let stream = weir_relay::Transport::open(&mut link, weir_moqt::Dir::Uni).expect("credit");
    let mut chunks = [Bytes::from_static(b"all of it")];
    weir_relay::Transport::write(&mut link, stream, &mut chunks).expect("room");
    weir_relay::Transport::finish(&mut link, stream);
    assert!(!pair.events.iter().any(|event| matches!(event, Event::Acknowledged { .. })));
    pair.run();
    // The browser may hold its acknowledgement back for a while (RFC 9000 §13.2.1).
    for _ in 0..3 {
        pair.now += Duration::from_millis(30);
        pair.run();
    }
    let told = |event: &Event| matches!(event, Event::Acknowledged { id } if *id == stream);
    assert!(pair.events.iter().any(told));
}

#[test]
fn stranger_who_never_opens_a_session_is_gone_after_the_handshake_timeout() {
    let mut pair = h3();
    assert_eq!(pair.server.connections(), 1);
    pair.now += Limits::default().handshake_timeout;
    pair.run();
    assert_eq!(pair.server.counters().handshake_timeouts, 1);
    assert!(pair.closed.is_some());
}

#[test]
fn connections_past_the_cap_of_their_prefix_are_refused_and_counted() {
    let limits = Limits { connections_per_prefix_max: 0, ..Limits::default() };
    let pair = Pair::new(config::ALPN_H3, limits);
    assert_eq!(pair.server.connections(), 0);
    assert!(pair.server.counters().refused_prefix >= 1);
}

#[test]
fn h16_newcomers_past_the_rate_of_their_prefix_prove_their_address_and_are_then_refused() {
    let limits = Limits { connections_per_prefix_per_second_max: 0, ..Limits::default() };
    let counters = Pair::new(config::ALPN_H3, limits).server.counters();
    assert_eq!((counters.retries_sent, counters.refused_rate), (1, 1));
    assert_eq!(counters.connections_opened, 0);

    let limits = Limits { connections_per_prefix_per_second_max: 1, ..Limits::default() };
    let mut pair = Pair::new(config::ALPN_H3, limits);
    pair.reconnect();
    pair.run();
    let counters = pair.server.counters();
    // It has proved its address before, so it is told at once.
    assert_eq!((counters.retries_sent, counters.refused_rate), (0, 1));
    assert_eq!(counters.connections_opened, 1);
    pair.now += Duration::from_secs(1);
    pair.reconnect();
    pair.run();
    assert_eq!(pair.server.counters().connections_opened, 2, "a second later it may");
}

#[test]
fn an_address_that_keeps_showing_forged_tokens_is_not_heard_for_a_while() {
    let mut pair = h3();
    pair.connect("/", &["moqt-18"]);
    let id = pair.id.expect("a session");
    for _ in 0..33 {
        pair.server.penalise(id, pair.now);
    }
    pair.reconnect();
    pair.run();
    let counters = pair.server.counters();
    assert_eq!((counters.refused_backoff, counters.connections_opened), (1, 1));
    pair.now += Duration::from_secs(2);
    pair.reconnect();
    pair.run();
    assert_eq!(pair.server.counters().connections_opened, 2, "the wait is over");
}

#[test]
fn strangers_must_prove_their_address_while_too_many_are_half_open() {
    let limits = Limits { half_open_max: 0, ..Limits::default() };
    let mut pair = Pair::new(config::ALPN_H3, limits);
    assert_eq!(pair.server.counters().retries_sent, 1);
    pair.connect("/", &["moqt-18"]);
    assert_eq!(pair.opened().len(), 1, "who proved it is let in");
}

#[test]
fn shards_know_the_packets_of_each_others_connections() {
    let steering = |shard| Steering { shard, shards: 3, key: weir_xdp::steer::Key::new(99) };
    for shard in 0..3 {
        for random in 0..=255 {
            let first = weir_xdp::steer::cid_first_byte(shard, 3, steering(0).key, random);
            assert_eq!(steering(1).owner(&[0x40, first, 1, 2]), Some(shard));
            assert_eq!(steering(1).owner(&[0xc0, first, 1, 2, 3, 4, 5, 6]), None);
            let id = weir_xdp::steer::id(shard, 3, steering(0).key, [random; 8]);
            let handshake = [&[0xe0, 0, 0, 0, 1, 8][..], &id].concat();
            assert_eq!(steering(1).owner(&handshake), Some(shard), "a long header with our id");
            let initial = [&[0xc0, 0, 0, 0, 1, 8, first][..], &[9; 7]].concat();
            assert_eq!(
                steering(1).owner(&initial),
                None,
                "a client chose it, so it belongs to whoever receives it"
            );
        }
    }
}

#[test]
fn a_stranger_gets_few_streams_and_a_publisher_as_many_as_it_takes() {
    let limits = Limits::default();
    let mut pair = Pair::new(b"moqt-18", limits.clone());
    let open = |pair: &mut Pair| {
        (0..1_000).take_while(|_| pair.conn.streams().open(Dir::Uni).is_some()).count() as u32
    };
    assert_eq!(open(&mut pair), limits.stranger_uni_streams_max);
    let id = pair.id.expect("a session");
    pair.server.trust_with_streams(id);
    pair.run();
    let more = open(&mut pair);
    assert_eq!(more, limits.uni_streams_max - limits.stranger_uni_streams_max);
}

#[test]
fn between_relays_of_ours_a_thousand_streams_are_open_at_once_each_way() {
    let mut pair = Pair::new(b"moqt-18", Limits::default());
    let tls = crate::client::trust::any_certificate();
    pair.config = (*config::uplink(tls, DRAFTS).expect("QUIC ciphers")).clone();
    pair.reconnect();
    pair.run();
    let id = pair.id.expect("a session");
    pair.server.trust_node(id);
    pair.run();
    assert!((0..1_000).all(|_| pair.conn.streams().open(Dir::Bi).is_some()), "requests");
    let mut link = pair.server.link(id, pair.now).expect("open");
    let uni = (0..1_000).take_while(|_| link.open(weir_moqt::Dir::Uni).is_some()).count();
    assert_eq!(uni, 1_000, "groups of as many tracks");
}

#[test]
fn a_returning_viewer_is_known_again_but_may_send_nothing_early() {
    let mut pair = Pair::new(b"moqt-18", Limits::default());
    pair.reconnect();
    assert!(!pair.conn.has_0rtt(), "no ticket allows early data");
    pair.run();
    assert_eq!(pair.opened().len(), 2);
}

#[test]
fn random_bytes_on_any_stream_break_nothing_and_are_held_under_the_caps() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x77e1);
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let request = connect_request("/playback/lv_1?tok=t", &["moqt-18"]);
    for _ in 0..2_000 {
        let mut input: Vec<u8> = Vec::new();
        for _ in 0..random.usize(1..12) {
            let data = match random.u8(0..4) {
                0 => request[..random.usize(0..=request.len())].to_vec(),
                1 => vec![0x40, 0x54, random.u8(0..9), 1, 2],
                _ => (0..random.usize(0..64)).map(|_| random.u8(..)).collect(),
            };
            input.push(random.u8(..));
            input.push(data.len().min(255) as u8);
            input.extend_from_slice(&data[..data.len().min(255)]);
        }
        super::wt::fuzz_http3(&input);
    }
}
