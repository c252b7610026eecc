//! A viewer's connection on tokio: WebTransport or raw QUIC by the URL's scheme, behind the transport trait that the
//! viewer writes to. It owns a task per stream and what waits between them and the viewer.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::{mpsc, oneshot};
use web_transport_quinn as wt;
use weir_moqt::{Dir, Draft, SessionCode, StreamId, Transport as Carrier};
use weir_relay::{Transport, WriteError};

use super::trust;
use crate::cli::Failure;
use crate::client::{DRAFTS, Peer, PlaybackUrl};
use crate::quic::pulse::PROBE_EVERY;

/// From the name to an open session.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Silence after which the relay is gone, and how often we break ours.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// From the name to an open session, when there are other addresses.
const CONNECT_PATIENCE_OF_SEVERAL: Duration = Duration::from_secs(3);
/// Media on its way to us: 2 s at 64 Mb/s.
const RECEIVE_WINDOW: u32 = 16 << 20;
/// Chunks between streams and viewer: 64 x 32 KB = 2 MB.
const INPUT_MAX: usize = 64;
const CHUNK_BYTES_MAX: usize = 32 * 1024;
/// Control bytes that wait for the relay to take them.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// Stop codes on a stream that nobody reads any more.
const READ_OVER: u32 = 0;

/// An open session.
pub(crate) struct Connection {
    endpoint: Endpoint,
    session: wt::Session,
    carrier: Carrier,
    draft: Draft,
    /// How to reach the writer of each stream that we write.
    writers: HashMap<StreamId, mpsc::UnboundedSender<Command>>,
    /// How to stop the reader of each stream that we read.
    readers: HashMap<StreamId, oneshot::Sender<u32>>,
    /// Streams opened and not used yet, bidirectional first.
    spare: [VecDeque<(wt::SendStream, Option<wt::RecvStream>)>; 2],
    opening: [bool; 2],
    waiting: Arc<AtomicUsize>,
    inputs: mpsc::Receiver<Input>,
    input: mpsc::Sender<Input>,
    closed: bool,
}

/// What stream tasks report.
enum Input {
    Opened(Dir, wt::SendStream, Option<wt::RecvStream>),
    Data { stream: StreamId, dir: Dir, data: Bytes, fin: bool },
    Reset { stream: StreamId, code: u32 },
    Stopped { stream: StreamId, code: u32 },
    Writable(StreamId),
}

/// What a writer is told.
enum Command {
    Write(Bytes),
    Finish,
    Reset(u32),
}

impl Connection {
    /// Connects, and negotiates a draft: the one asked for, or the newest both sides speak.
    pub(crate) async fn open(
        url: &PlaybackUrl,
        insecure: bool,
        draft: Option<Draft>,
    ) -> Result<Self, Failure> {
        Self::open_within(CONNECT_PATIENCE, url, insecure, draft, KEEP_ALIVE).await
    }

    /// The same to one of several addresses: it is given less time, and a relay that sends nothing is made to answer.
    pub(crate) async fn open_probed(
        url: &PlaybackUrl,
        insecure: bool,
        draft: Option<Draft>,
    ) -> Result<Self, Failure> {
        Self::open_within(CONNECT_PATIENCE_OF_SEVERAL, url, insecure, draft, PROBE_EVERY).await
    }

    async fn open_within(
        patience: Duration,
        url: &PlaybackUrl,
        insecure: bool,
        draft: Option<Draft>,
        keep_alive: Duration,
    ) -> Result<Self, Failure> {
        let opened = Self::dial(url, insecure, draft, keep_alive);
        tokio::time::timeout(patience, opened).await.unwrap_or_else(|_| {
            Err(Failure::new(format!("{} does not answer", url.authority()))
                .help("check host and port, and that UDP passes every firewall on the way"))
        })
    }

    async fn dial(
        url: &PlaybackUrl,
        insecure: bool,
        draft: Option<Draft>,
        keep_alive: Duration,
    ) -> Result<Self, Failure> {
        let drafts: Vec<Draft> =
            DRAFTS.iter().copied().filter(|d| draft.is_none_or(|w| w == *d)).collect();
        let tokens = drafts.iter().map(|draft| draft.token().to_owned());
        let alpn = match url.transport {
            Carrier::WebTransport => vec![wt::ALPN.as_bytes().to_vec()],
            Carrier::Quic => tokens.clone().map(String::into_bytes).collect(),
        };
        let tls = trust::client_config(insecure, alpn)?;
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|error| Failure::new(format!("cannot set up TLS: {error}")))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(keep_alive)));

        let addresses = tokio::net::lookup_host((url.host.as_str(), url.port))
            .await
            .map_err(|error| Failure::new(format!("cannot find {}: {error}", url.host)))?;
        let mut failure = Failure::new(format!("{} has no address", url.host));
        for address in addresses {
            let endpoint = Endpoint::client(unspecified(address))
                .map_err(|error| Failure::new(format!("cannot open a UDP socket: {error}")))?;
            let connecting = endpoint
                .connect_with(config.clone(), address, &url.host)
                .map_err(|error| Failure::new(format!("cannot connect: {error}")))?;
            let connection = match connecting.await {
                Ok(connection) => connection,
                Err(error) => {
                    failure = unreachable_failure(url, &error);
                    continue;
                }
            };
            let session = match url.transport {
                Carrier::Quic => wt::Session::raw(connection),
                Carrier::WebTransport => {
                    let request = wt::proto::ConnectRequest::new(url.expose().clone())
                        .with_protocols(tokens.clone());
                    wt::Session::connect(connection, request).await.map_err(|error| {
                        // The error names statuses and fields, never the URL.
                        Failure::new(format!("no WebTransport session: {error}"))
                    })?
                }
            };
            let draft = session.protocol().map_or(Some(Draft::UNNAMED), Draft::from_token);
            let draft = draft.filter(|draft| drafts.contains(draft)).ok_or_else(|| {
                Failure::new("the relay speaks no draft of MoQT that we know")
                    .help("drafts 14, 16 and 18 to 22 are spoken here")
            })?;
            return Ok(Self::new(endpoint, session, url.transport, draft));
        }
        Err(failure)
    }

    fn new(endpoint: Endpoint, session: wt::Session, carrier: Carrier, draft: Draft) -> Self {
        let (input, inputs) = mpsc::channel(INPUT_MAX);
        Self {
            endpoint,
            session,
            carrier,
            draft,
            writers: HashMap::new(),
            readers: HashMap::new(),
            spare: Default::default(),
            opening: [false; 2],
            waiting: Arc::default(),
            inputs,
            input,
            closed: false,
        }
    }

    pub(crate) fn draft(&self) -> Draft {
        self.draft
    }

    /// Datagrams that came so far, and the round trip.
    pub(crate) fn heard(&self) -> (u64, Duration) {
        let stats = quinn::Connection::stats(&self.session);
        (stats.udp_rx.datagrams, stats.path.rtt)
    }

    /// Whether it ended without a word from the relay.
    pub(crate) fn is_lost(&self) -> bool {
        use quinn::ConnectionError as E;
        let reason = quinn::Connection::close_reason(&self.session);
        let said =
            reason.is_some_and(|it| matches!(it, E::ApplicationClosed(_) | E::LocallyClosed));
        self.closed && !said
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        let carrier = match self.carrier {
            Carrier::WebTransport => "WebTransport",
            Carrier::Quic => "QUIC",
        };
        format!("{carrier}, {}", self.draft.token())
    }

    /// Waits for the next thing to happen and tells the viewer. Can be cancelled at any time.
    pub(crate) async fn receive(&mut self, viewer: &mut impl Peer) {
        if self.closed {
            return pending().await;
        }
        tokio::select! {
            biased;
            Some(input) = self.inputs.recv() => {
                self.take(input, viewer);
                while let Ok(input) = self.inputs.try_recv() {
                    self.take(input, viewer);
                }
            }
            Ok(recv) = self.session.accept_uni() => self.read(recv, Dir::Uni),
            Ok((send, recv)) = self.session.accept_bi() => {
                self.write_to(send);
                self.read(recv, Dir::Bi);
            }
            error = self.session.closed() => {
                self.closed = true;
                let (code, reason) = closing(&error);
                viewer.handle_closed(code, &reason);
            }
        }
    }

    /// Lets the closing packet out.
    pub(crate) async fn leave(self, patience: Duration) {
        if !self.closed {
            self.session.close(SessionCode::NoError.wire(), b"");
        }
        let _ = tokio::time::timeout(patience, async {
            self.session.closed().await;
            self.endpoint.wait_idle().await;
        })
        .await;
    }

    fn take(&mut self, input: Input, viewer: &mut impl Peer) {
        let now = Instant::now();
        match input {
            Input::Opened(dir, send, recv) => {
                self.opening[place(dir)] = false;
                self.spare[place(dir)].push_back((send, recv));
                viewer.handle_streams_available(dir);
            }
            Input::Data { stream, dir, data, fin } => {
                if fin {
                    self.readers.remove(&stream);
                }
                viewer.handle_stream(stream, dir, data, fin, now);
            }
            Input::Reset { stream, code } => {
                self.readers.remove(&stream);
                viewer.handle_reset(stream, code, now);
            }
            Input::Stopped { stream, code } => {
                self.writers.remove(&stream);
                viewer.handle_stop(stream, code, now);
            }
            Input::Writable(stream) => viewer.handle_writable(stream),
        }
    }

    fn read(&mut self, recv: wt::RecvStream, dir: Dir) {
        let stream = moqt_id(recv.quic_id());
        let (stop, stopped) = oneshot::channel();
        self.readers.insert(stream, stop);
        tokio::spawn(read(recv, stream, dir, stopped, self.input.clone()));
    }

    fn write_to(&mut self, send: wt::SendStream) -> StreamId {
        let stream = moqt_id(send.quic_id());
        let (commands, todo) = mpsc::unbounded_channel();
        self.writers.insert(stream, commands);
        tokio::spawn(write(send, stream, todo, Arc::clone(&self.waiting), self.input.clone()));
        stream
    }

    fn tell(&mut self, stream: StreamId, command: Command) {
        if let Some(writer) = self.writers.get(&stream) {
            // A writer that is gone has reported why.
            let _ = writer.send(command);
        }
    }
}

impl Transport for Connection {
    fn open(&mut self, dir: Dir) -> Option<StreamId> {
        if let Some((send, recv)) = self.spare[place(dir)].pop_front() {
            let stream = self.write_to(send);
            if let Some(recv) = recv {
                self.read(recv, Dir::Bi);
            }
            return Some(stream);
        }
        if !std::mem::replace(&mut self.opening[place(dir)], true) {
            tokio::spawn(open(self.session.clone(), dir, self.input.clone()));
        }
        None
    }

    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let Some(writer) = self.writers.get(&stream) else { return Err(WriteError::Closed) };
        let mut taken = 0;
        for chunk in chunks {
            if self.waiting.load(Ordering::Relaxed) > OUTPUT_BYTES_MAX {
                return if taken == 0 { Err(WriteError::Blocked) } else { Ok(taken) };
            }
            let data = std::mem::take(chunk);
            taken += data.len();
            self.waiting.fetch_add(data.len(), Ordering::Relaxed);
            if writer.send(Command::Write(data)).is_err() {
                return Err(WriteError::Closed);
            }
        }
        Ok(taken)
    }

    fn finish(&mut self, stream: StreamId) {
        self.tell(stream, Command::Finish);
        self.writers.remove(&stream);
    }

    fn reset(&mut self, stream: StreamId, code: u32) {
        self.tell(stream, Command::Reset(code));
        self.writers.remove(&stream);
    }

    fn stop(&mut self, stream: StreamId, code: u32) {
        if let Some(reader) = self.readers.remove(&stream) {
            // A reader that is gone has reached the end.
            let _ = reader.send(code);
        }
    }

    fn set_priority(&mut self, _stream: StreamId, _priority: i32) {
        // We write nothing but requests.
    }

    fn close(&mut self, code: u32, reason: &str) {
        self.session.close(code, reason.as_bytes());
    }
}

async fn open(session: wt::Session, dir: Dir, input: mpsc::Sender<Input>) {
    let opened = match dir {
        Dir::Uni => session.open_uni().await.map(|send| (send, None)),
        Dir::Bi => session.open_bi().await.map(|(send, recv)| (send, Some(recv))),
    };
    // An error means that the session is over, which is reported elsewhere.
    if let Ok((send, recv)) = opened {
        let _ = input.send(Input::Opened(dir, send, recv)).await;
    }
}

async fn read(
    mut recv: wt::RecvStream,
    stream: StreamId,
    dir: Dir,
    mut stop: oneshot::Receiver<u32>,
    input: mpsc::Sender<Input>,
) {
    loop {
        let chunk = tokio::select! {
            chunk = recv.read_chunk(CHUNK_BYTES_MAX, true) => chunk,
            code = &mut stop => {
                let _ = recv.stop(code.unwrap_or(READ_OVER));
                return;
            }
        };
        let (heard, over) = match chunk {
            Ok(Some(chunk)) => (Input::Data { stream, dir, data: chunk.bytes, fin: false }, false),
            Ok(None) => (Input::Data { stream, dir, data: Bytes::new(), fin: true }, true),
            Err(wt::ReadError::Reset(code)) => (Input::Reset { stream, code }, true),
            Err(wt::ReadError::InvalidReset(_)) => (Input::Reset { stream, code: 0 }, true),
            Err(_) => return,
        };
        if input.send(heard).await.is_err() || over {
            return;
        }
    }
}

async fn write(
    mut send: wt::SendStream,
    stream: StreamId,
    mut commands: mpsc::UnboundedReceiver<Command>,
    waiting: Arc<AtomicUsize>,
    input: mpsc::Sender<Input>,
) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            stopped = send.stopped() => {
                // Finished streams are acknowledged here, too; only a code is news.
                if let Ok(Some(code)) = stopped {
                    let _ = input.send(Input::Stopped { stream, code }).await;
                }
                return;
            }
        };
        match command {
            Some(Command::Write(data)) => {
                let length = data.len();
                let result = send.write_chunk(data).await;
                waiting.fetch_sub(length, Ordering::Relaxed);
                match result {
                    Ok(()) => {
                        let _ = input.try_send(Input::Writable(stream));
                    }
                    Err(wt::WriteError::Stopped(code)) => {
                        let _ = input.send(Input::Stopped { stream, code }).await;
                        return;
                    }
                    Err(_) => return,
                }
            }
            Some(Command::Finish) => {
                let _ = send.finish();
                return;
            }
            Some(Command::Reset(code)) => {
                let _ = send.reset(code);
                return;
            }
            // The connection was dropped.
            None => return,
        }
    }
}

fn transport(keep_alive: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    config
}

fn closing(error: &wt::SessionError) -> (u32, String) {
    match error {
        wt::SessionError::WebTransportError(wt::WebTransportError::Closed(code, reason)) => {
            (*code, reason.clone())
        }
        other => (SessionCode::Internal.wire(), format!("the connection is gone: {other}")),
    }
}

fn unreachable_failure(url: &PlaybackUrl, error: &quinn::ConnectionError) -> Failure {
    let failure = Failure::new(format!("cannot connect to {}: {error}", url.authority()));
    let text = error.to_string();
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        return failure.help("accept a self-signed certificate with --insecure");
    }
    failure.help("check that the relay runs and that host and port are right")
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    let ip: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}

fn moqt_id(id: quinn::StreamId) -> StreamId {
    StreamId(VarInt::from(id).into_inner())
}

fn place(dir: Dir) -> usize {
    usize::from(dir == Dir::Uni)
}
