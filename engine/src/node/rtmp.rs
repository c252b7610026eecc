//! RTMP connections of one shard: TCP bytes in and out of the sans-IO session, keys asked of the
//! control thread, media handed to the shard. A connection whose input is pinned to another shard
//! moves there, socket and state, the moment its key is accepted.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use weir_feed as feed;
use weir_feed::rtmp::{self, Reject, Session};
use weir_relay::RefuseReason;

use super::control::{Grant, Requests};
use super::shell::{Clock, Core};
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
    session: Session,
    peer: SocketAddr,
    grant: Grant,
}

/// Accepts connections until the task is cancelled.
pub(super) fn listen(
    address: SocketAddr,
    core: Rc<RefCell<Core>>,
    requests: Requests,
) -> glommio::Result<glommio::Task<()>, ()> {
    let listener = TcpListener::bind(address)?;
    let open = Rc::new(());
    Ok(glommio::spawn_local(async move {
        loop {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    // EMFILE and its kin: sessions under way go on, newcomers wait (F10).
                    tracing::warn!(%error, "cannot accept RTMP connections for a moment");
                    glommio::timer::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if Rc::strong_count(&open) > CONNECTIONS_MAX {
                continue;
            }
            let (core, requests, guard) = (Rc::clone(&core), requests.clone(), Rc::clone(&open));
            glommio::spawn_local(async move {
                let Ok(peer) = stream.peer_addr() else { return };
                let session = Session::new(rtmp::Limits::default(), Clock::read().now);
                Connection::new(stream, session, peer, core, requests).serve().await;
                // Held until here: what is counted are connections being served.
                drop(guard);
            })
            .detach();
        }
    }))
}

/// Goes on with a connection that another shard accepted.
pub(super) async fn adopt(adopted: Adopted, core: Rc<RefCell<Core>>, requests: Requests) {
    let Adopted { stream, session, peer, grant } = adopted;
    let mut connection = Connection::new(stream.bind_to_executor(), session, peer, core, requests);
    connection.begin(grant);
    connection.serve().await;
}

struct Connection {
    stream: TcpStream,
    session: Session,
    peer: SocketAddr,
    core: Rc<RefCell<Core>>,
    requests: Requests,
    publishing: Option<(String, FeedId)>,
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
        session: Session,
        peer: SocketAddr,
        core: Rc<RefCell<Core>>,
        requests: Requests,
    ) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(READ_TIMEOUT));
        let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        Self { stream, session, peer, core, requests, publishing: None }
    }

    async fn serve(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let next = self.events().await;
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
                Ok(length) => {
                    let session = &mut self.session;
                    match guarded(|| session.handle_input(&buffer[..length], now)) {
                        Ok(result) => result,
                        // The state of this session is worth nothing any more.
                        Err(_) => break,
                    }
                }
                Err(error) if is_timeout(&error) => self.session.handle_timeout(now),
                Err(_) => {
                    self.session.handle_close();
                    Ok(())
                }
            };
            if let Err(error) = result {
                tracing::info!(peer = %self.peer, %error, "RTMP connection refused");
            }
        }
        self.leave();
        let _ = self.stream.close().await;
    }

    /// Acts on what the session reports; one `settle` for all media of a read.
    async fn events(&mut self) -> Next {
        let mut fed = false;
        let mut next = Next::Read;
        while let Some(event) = self.session.poll_event() {
            match event {
                rtmp::Event::Publish { .. } if self.core.borrow().shard.is_draining() => {
                    tracing::info!(peer = %self.peer, "RTMP publisher refused: draining");
                    self.session.reject_publish(Reject::Draining);
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
                            tracing::info!(peer = %self.peer, %reason, "RTMP publisher refused");
                            self.session.reject_publish(match reason {
                                RefuseReason::Protocol => Reject::Protocol,
                                RefuseReason::Capacity | RefuseReason::Timeout => {
                                    Reject::Overloaded
                                }
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
                self.session.accept_publish();
            }
            Err(refused) => {
                tracing::info!(peer = %self.peer, input = grant.input_id, ?refused, "RTMP publisher refused");
                self.session.reject_publish(match refused {
                    Refused::Busy => Reject::Busy,
                    Refused::Capacity => Reject::Overloaded,
                    Refused::Draining => Reject::Draining,
                });
            }
        }
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

    async fn write(&mut self) -> std::io::Result<()> {
        while let Some(bytes) = self.session.poll_transmit() {
            self.stream.write_all(&bytes).await?;
        }
        Ok(())
    }

    async fn hand_over(self, grant: Grant) {
        let Self { stream, session, peer, requests, .. } = self;
        let shard = grant.shard;
        let adopted = Adopted { stream: stream.into_accepted(), session, peer, grant };
        requests.adopt(shard, adopted).await;
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
