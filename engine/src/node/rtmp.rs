//! RTMP connections of one shard, plain or in TLS: TCP bytes in and out of the sans-IO session, keys asked of the
//! control thread, media handed to the shard. A connection whose input is pinned to another shard
//! moves there, socket and state, the moment its key is accepted.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::io::PollableFd;
use glommio::net::{AcceptedTcpStream, TcpStream};
use socket2::Socket;
use weir_feed as feed;
use weir_feed::rtmp::{self, Reject, Session};
use weir_relay::RefuseReason;
use weir_xdp::tcp;

use super::control::{Grant, Requests};
use super::shell::{Clock, Core};
use super::strangers::{Place, Places};
use super::tls::Tls;
use crate::guard::guarded;
use crate::shard::{FeedId, Protocol, Rank, Refused};

/// Bytes read at once: one large picture takes a few reads, small ones one.
const READ_BYTES: usize = 64 * 1024;

/// How long a read may block before timers are looked at.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a peer may refuse our bytes before it is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishers one shard serves at once, counted from the first byte.
const CONNECTIONS_MAX: usize = 2_000;

/// A publisher on its way to the shard its input is pinned to.
pub(super) struct Adopted {
    stream: AcceptedTcpStream,
    tls: Option<Box<Tls>>,
    session: Session,
    peer: SocketAddr,
    grant: Grant,
}

/// Where a shard takes publishers, and whether they have to speak TLS.
#[derive(Clone)]
pub(super) struct Listen {
    /// `rtmp` or `rtmps`.
    pub(super) listener: &'static str,
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

/// Connections of all listeners of a shard: how many there are, and whose.
#[derive(Clone, Default)]
pub(super) struct Doors {
    open: Rc<()>,
    strangers: Places,
}

/// Accepts connections until the task is cancelled.
pub(super) fn listen(
    listen: Listen,
    core: Rc<RefCell<Core>>,
    requests: Requests,
    doors: Doors,
) -> Result<glommio::Task<()>, super::Error> {
    let Listen { listener, address, tls } = listen;
    let refused = |source| super::Error::Rtmp { listener, address, source };
    let listener = tcp::listen_beside(address).map_err(refused)?;
    let listener = PollableFd::new(listener).map_err(|error| refused(error.into()))?;
    Ok(glommio::spawn_local(async move {
        loop {
            let (stream, peer) = match accept(&listener).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // EMFILE and its kin: sessions under way go on, newcomers wait (F10).
                    tracing::warn!(%error, "cannot accept RTMP connections for a moment");
                    glommio::timer::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            core.borrow_mut().rtmp.connections += 1;
            // Closed without a word: RTMP has none before its handshake.
            if Rc::strong_count(&doors.open) > CONNECTIONS_MAX {
                core.borrow_mut().rtmp.refused_full += 1;
                if requests.is_news(peer.ip()) {
                    tracing::warn!(%peer, max = CONNECTIONS_MAX, "RTMP connection refused: all places are taken");
                }
                continue;
            }
            let Ok(place) = doors.strangers.enter(peer.ip()) else {
                core.borrow_mut().rtmp.refused_source += 1;
                if requests.is_news(peer.ip()) {
                    tracing::info!(%peer, "RTMP connection refused: too many of this address publish nothing");
                }
                continue;
            };
            let (core, requests, guard) = (Rc::clone(&core), requests.clone(), doors.open.clone());
            let tls = tls.clone();
            glommio::spawn_local(async move {
                let tls = match tls.map(Tls::new).transpose() {
                    Ok(tls) => tls.map(Box::new),
                    Err(error) => return tracing::error!(%error, "cannot serve RTMPS"),
                };
                // Its deadline for the handshake counts from here, TLS included.
                let session = Session::new(rtmp::Limits::default(), Clock::read().now);
                let mut connection = Connection::new(stream, tls, session, peer, core, requests);
                connection.place = place;
                connection.serve().await;
                // Held until here: what is counted are connections being served.
                drop(guard);
            })
            .detach();
        }
    }))
}

/// The next connection. The executor's own listener would bind by itself, which takes a privilege where the port is low.
async fn accept(listener: &PollableFd<TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.get_ref().accept() {
            Ok((stream, peer)) => return Ok((Socket::from(stream).into(), peer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => listener.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Goes on with a connection that another shard accepted.
pub(super) async fn adopt(adopted: Adopted, core: Rc<RefCell<Core>>, requests: Requests) {
    let Adopted { stream, tls, session, peer, grant } = adopted;
    let stream = stream.bind_to_executor();
    let mut connection = Connection::new(stream, tls, session, peer, core, requests);
    connection.begin(grant);
    connection.serve().await;
}

struct Connection {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// What TLS gave and the session has not seen.
    plain: Vec<u8>,
    /// Was asked to connect again elsewhere.
    asked: bool,
    session: Session,
    peer: SocketAddr,
    core: Rc<RefCell<Core>>,
    requests: Requests,
    publishing: Option<(String, FeedId)>,
    /// Held by a stranger until it publishes.
    place: Option<Place>,
}

/// What a connection does next.
enum Next {
    Read,
    /// The session is over.
    Close,
    /// The input lives on another shard.
    Move(Grant),
}

impl Connection {
    fn new(
        stream: TcpStream,
        tls: Option<Box<Tls>>,
        session: Session,
        peer: SocketAddr,
        core: Rc<RefCell<Core>>,
        requests: Requests,
    ) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(READ_TIMEOUT));
        let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let (plain, asked) = (Vec::new(), false);
        Self {
            stream,
            tls,
            plain,
            asked,
            session,
            peer,
            core,
            requests,
            publishing: None,
            place: None,
        }
    }

    async fn serve(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let next = self.events().await;
            self.ask_to_reconnect();
            if self.write().await.is_err() {
                break;
            }
            match next {
                Next::Read => {}
                Next::Close => break,
                Next::Move(grant) => return self.hand_over(grant).await,
            }
            let read = self.stream.read(&mut buffer).await;
            let now = Clock::read().now;
            let result = match read {
                Ok(0) => {
                    self.session.handle_close();
                    Ok(())
                }
                Ok(length) => match guarded(|| self.take(&buffer[..length], now)) {
                    Ok(result) => result,
                    // The state of this session is worth nothing any more.
                    Err(_) => break,
                },
                Err(error) if is_timeout(&error) => self.session.handle_timeout(now),
                Err(_) => {
                    self.session.handle_close();
                    Ok(())
                }
            };
            if let Err(error) = result
                && self.counts_as_news()
            {
                tracing::info!(peer = %self.peer, %error, "RTMP connection refused");
            }
        }
        self.leave();
        if let Some(tls) = &mut self.tls {
            tls.close();
            // A peer that is gone needs no goodbye.
            let _ = self.write().await;
        }
        let _ = self.stream.close().await;
    }

    /// Bytes from the socket.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Result<(), rtmp::Error> {
        let Some(tls) = &mut self.tls else { return self.session.handle_input(bytes, now) };
        match tls.handle_input(bytes, &mut self.plain) {
            Ok(closed) => {
                let result = if self.plain.is_empty() {
                    // A peer that only ever shakes hands proves nothing: its time runs.
                    self.session.handle_timeout(now)
                } else {
                    self.session.handle_input(&self.plain, now)
                };
                self.plain.clear();
                if closed {
                    self.session.handle_close();
                }
                result
            }
            Err(error) => {
                if self.counts_as_news() {
                    tracing::info!(peer = %self.peer, %error, "RTMPS connection refused");
                }
                self.session.handle_close();
                Ok(())
            }
        }
    }

    /// A node that is being emptied asks those who understand to go on elsewhere, once. Others stay
    /// until the deadline.
    fn ask_to_reconnect(&mut self) {
        if self.asked || self.publishing.is_none() {
            return;
        }
        let core = self.core.borrow();
        if !core.shard.is_draining() {
            return;
        }
        self.asked = true;
        let scheme = if self.tls.is_some() { "rtmps" } else { "rtmp" };
        let port = self.stream.local_addr().map_or(0, |address| address.port());
        let place = core.moved_to.as_ref().map(|host| format!("{scheme}://{host}:{port}"));
        if self.session.request_reconnect(place.as_deref()) {
            tracing::info!(peer = %self.peer, to = ?place, "RTMP publisher asked to reconnect");
        }
    }

    /// Acts on what the session reports; one `settle` for all media of a read.
    async fn events(&mut self) -> Next {
        let mut fed = false;
        let mut next = Next::Read;
        while let Some(event) = self.session.poll_event() {
            match event {
                rtmp::Event::Publish { .. } if self.core.borrow().shard.is_draining() => {
                    self.refuse(Reject::Draining);
                }
                rtmp::Event::Publish { app: _, input_id, key } => {
                    let (key, peer) = (key.expose(), self.peer.ip());
                    let asked = self.requests.verify_key(&input_id, key, Protocol::Rtmp, peer);
                    match asked.await {
                        Ok(grant) if grant.shard == self.core.borrow().shard.number() => {
                            self.begin(grant);
                        }
                        Ok(grant) => return Next::Move(grant),
                        Err(reason) => {
                            self.refuse(match reason {
                                RefuseReason::Protocol => Reject::Protocol,
                                RefuseReason::Capacity | RefuseReason::Timeout => {
                                    Reject::Overloaded
                                }
                                RefuseReason::TooMany => Reject::TooMany,
                                _ => Reject::Unauthorized,
                            });
                        }
                    }
                }
                rtmp::Event::Media(event) => {
                    fed = true;
                    if !self.feed(event) {
                        self.session.close(Reject::Replaced);
                    }
                }
                rtmp::Event::Closed { reason } => {
                    tracing::debug!(peer = %self.peer, ?reason, "RTMP connection over");
                    next = Next::Close;
                }
                _ => {}
            }
        }
        if fed {
            self.core.borrow_mut().settle(Clock::read());
        }
        next
    }

    /// The key is good and the input is ours: publish.
    fn begin(&mut self, grant: Grant) {
        let clock = Clock::read();
        let opening = grant.opening(Rank::Encoder, Some(self.peer.ip()));
        let opened = self.core.borrow_mut().shard.open_feed(&opening, clock.now, clock.wall);
        match opened {
            Ok(feed) => {
                tracing::info!(peer = %self.peer, input = grant.input_id, "RTMP publisher accepted");
                self.publishing = Some((grant.input_id, feed));
                self.place = None;
                self.session.accept_publish();
            }
            Err(refused) => self.refuse(match refused {
                Refused::Busy => Reject::Busy,
                Refused::Capacity => Reject::Overloaded,
                Refused::Draining => Reject::Draining,
            }),
        }
    }

    /// Tells the publisher why not, and the log if it has not heard of this address lately.
    fn refuse(&mut self, reject: Reject) {
        if self.counts_as_news() {
            let reason = reject.description();
            tracing::info!(peer = %self.peer, reason, "RTMP publisher refused");
        }
        self.session.reject_publish(reject);
    }

    /// Counts a refusal; whether it is to be logged.
    fn counts_as_news(&self) -> bool {
        self.core.borrow_mut().rtmp.refused += 1;
        self.requests.is_news(self.peer.ip())
    }

    fn feed(&mut self, event: feed::Event) -> bool {
        let Some((input, feed)) = &self.publishing else { return true };
        let clock = Clock::read();
        let mut core = self.core.borrow_mut();
        if let feed::Event::End { reason } = &event {
            tracing::info!(peer = %self.peer, input, ?reason, "RTMP publisher left");
        }
        core.shard.handle_media(input, *feed, event, clock.now, clock.wall)
    }

    fn leave(&mut self) {
        if let Some((input, feed)) = self.publishing.take() {
            let clock = Clock::read();
            let mut core = self.core.borrow_mut();
            core.shard.close_feed(&input, feed, clock.now, clock.wall);
            core.settle(clock);
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        while let Some(bytes) = self.session.poll_transmit() {
            match &mut self.tls {
                Some(tls) => tls.seal(&bytes)?,
                None => self.stream.write_all(&bytes).await?,
            }
        }
        if let Some(tls) = &mut self.tls {
            let sealed = tls.take_sealed();
            if !sealed.is_empty() {
                self.stream.write_all(&sealed).await?;
            }
        }
        Ok(())
    }

    async fn hand_over(self, grant: Grant) {
        let Self { stream, tls, session, peer, requests, .. } = self;
        let shard = grant.shard;
        let adopted = Adopted { stream: stream.into_accepted(), tls, session, peer, grant };
        requests.adopt(shard, adopted).await;
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
