//! Accepting connections and seeing each to its end: TLS, HTTP/1.1 or 2, deadlines, shutdown.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, http::Request, response::Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tower_service::Service;

use super::limits::{Counters, Limits, Sources};
use super::whip::Reached;

/// Header lines of one request: browsers send about 20.
const HEADERS_MAX: usize = 64;
/// Requests under way on one HTTP/2 connection: a page has fewer files.
const H2_STREAMS_MAX: u32 = 32;
/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts on all listeners within common caps.
#[derive(Clone)]
pub(super) struct Acceptor {
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    closed: watch::Receiver<bool>,
    slots: Arc<Semaphore>,
    sources: Sources,
}

/// Notes that a whole request has arrived, and by what way, then hands it to the router.
#[derive(Clone)]
struct Noting {
    router: Router,
    reached: Option<Reached>,
    asked: Arc<AtomicBool>,
}

impl Acceptor {
    pub(super) fn new(
        limits: Arc<Limits>,
        counters: Arc<Counters>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connections));
        Self { limits, counters, closed, slots, sources: Sources::default() }
    }

    /// Accepts until closed.
    pub(super) async fn run(
        self,
        tcp: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        router: Router,
    ) {
        let tls = tls.map(tokio_rustls::TlsAcceptor::from);
        let mut closed = self.closed.clone();
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                _ = closed.wait_for(|closed| *closed) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, tls.clone(), router.clone()),
                // The peer gave up between SYN and accept.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until every connection has ended, which the grace time bounds.
    pub(super) async fn drained(&self) {
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        // Beyond the grace time every connection has been dropped by its own task.
        let _ = timeout(self.limits.grace * 2, self.slots.acquire_many(all)).await;
    }

    /// Refusing must never block accepting: a connection without a place is closed at once.
    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<tokio_rustls::TlsAcceptor>,
        router: Router,
    ) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return Counters::add(&self.counters.refused_full);
        };
        let Some(place) = self.sources.enter(peer.ip(), self.limits.connections_per_source) else {
            return Counters::add(&self.counters.refused_source);
        };
        let this = self.clone();
        let local = stream.local_addr().ok();
        let reached = local.map(|local| Reached { peer, local, tls: tls.is_some() });
        tokio::spawn(async move {
            this.counters.open.fetch_add(1, Ordering::Relaxed);
            // Without it, small answers may wait for an acknowledgement; not worth failing for.
            let _ = stream.set_nodelay(true);
            match tls {
                None => this.serve(stream, router, reached).await,
                Some(tls) => match timeout(this.limits.opening, tls.accept(stream)).await {
                    Ok(Ok(stream)) => this.serve(stream, router, reached).await,
                    _ => Counters::add(&this.counters.opening_failed),
                },
            }
            this.counters.open.fetch_sub(1, Ordering::Relaxed);
            drop((slot, place));
        });
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        router: Router,
        reached: Option<Reached>,
    ) {
        let limits = &self.limits;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.opening)
            .max_headers(HEADERS_MAX)
            .max_buf_size(limits.head_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(limits.head_bytes as u32)
            .keep_alive_interval(limits.opening * 4)
            .keep_alive_timeout(limits.opening);
        let asked = Arc::new(AtomicBool::new(false));
        let service = TowerToHyperService::new(Noting { router, reached, asked: asked.clone() });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut closed = self.closed.clone();
        let mut opening = pin!(sleep(limits.opening));
        let mut age = pin!(sleep(limits.connection_age));
        let mut checked = false;
        loop {
            tokio::select! {
                // Errors here are the peer's: a reset, a malformed head. The next one is served.
                _ = connection.as_mut() => return,
                // The wait for the first bytes, which tell HTTP/1 from 2, has no limit in hyper.
                () = opening.as_mut(), if !checked => {
                    checked = true;
                    if !asked.load(Ordering::Relaxed) {
                        return Counters::add(&self.counters.opening_failed);
                    }
                }
                () = age.as_mut() => break,
                _ = closed.wait_for(|closed| *closed) => break,
            }
        }
        connection.as_mut().graceful_shutdown();
        // Past the grace time the connection is dropped; either way it is over.
        let _ = timeout(limits.grace, connection).await;
    }
}

impl Service<Request<Incoming>> for Noting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Incoming>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        self.asked.store(true, Ordering::Relaxed);
        if let Some(reached) = self.reached {
            request.extensions_mut().insert(reached);
        }
        Box::pin(self.router.call(request))
    }
}
