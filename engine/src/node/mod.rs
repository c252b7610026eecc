//! A running node: opens the store, the sockets and the shards, wires the rings between them, runs
//! the control threads, and takes everything down again. It decides nothing about media or tokens;
//! it only connects those who do.

pub mod confine;
mod control;
mod demo;
mod drain;
pub mod edge;
mod metrics;
mod rtmp;
mod shell;
mod srt;
mod strangers;
mod tls;
pub mod up;
mod whip;
mod whip_desk;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use weir_control::{Store, Timestamp, Withdraw, http};
use weir_moqt::{Draft, Namespace};
use weir_relay::auth::{self, Revocation, Subject, TrustedKey};
use weir_ring::link;
use weir_xdp::keeper;
use weir_xdp::ladder::Ladder;
use weir_xdp::program::{Attach, Budget};
use weir_xdp::{steer, tcp, udp, uring, xdp_port};

use crate::cert::Certificate;
use crate::config::MediaAddress;
use crate::mesh::{self, Trust};
use crate::quic::{self, Steering};
use crate::shard::{self, RingSizes};
use crate::topology::{self, Topology};
use control::{Bridge, Post, Requests, bridge};
use metrics::Board;
use shell::{MAILBOX_DEPTH, Mail, Start};
pub use srt::Picture as SrtPicture;

/// Where a node listens, with the ports it really got.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// QUIC: WebTransport and raw MoQT.
    pub quic: SocketAddr,
    /// RTMP; an edge takes none.
    pub rtmp: Option<SocketAddr>,
    /// RTMP in TLS, for publishers.
    pub rtmps: Option<SocketAddr>,
    /// SRT, likewise.
    pub srt: Option<SocketAddr>,
    /// Media of WHIP publishers; an edge takes none.
    pub whip: Option<SocketAddr>,
}

/// What keeps a node from starting. Each says in one line what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The QUIC address cannot be had.
    #[error(transparent)]
    Quic(#[from] udp::BindError),
    /// The RTMP or RTMPS address cannot be had.
    #[error("cannot listen on {listener} {address}: {source}")]
    Rtmp {
        /// `rtmp` or `rtmps`.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The SRT address cannot be had.
    #[error("cannot listen on SRT {address}: {source}")]
    Srt {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The WHIP address cannot be had.
    #[error(transparent)]
    Whip(udp::BindError),
    /// The certificate is not usable for QUIC.
    #[error("certificate not usable for QUIC: {0}")]
    Tls(#[from] quinn_proto::crypto::rustls::NoInitialCipherSuite),
    /// The host has no `io_uring`, by which every shard waits.
    #[error("no shard can run on this host: {0}")]
    NoRings(uring::Refused),
    /// A shard thread did not start.
    #[error("cannot start shards: {0}")]
    Shards(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] weir_control::Error),
}

/// What the shards of a node are made from.
pub struct Plan<'a> {
    /// Shards, pins, listeners and links.
    pub topology: &'a Topology,
    /// What QUIC presents.
    pub certificate: &'a Arc<Certificate>,
    /// Hides which shard a connection id names.
    pub steering_key: [u8; 32],
    /// Inputs and keys; an edge has none, takes no RTMP and learns keys from above.
    pub store: Option<&'a Store>,
    /// Drafts of MoQT served, in order of preference.
    pub drafts: &'a [Draft],
    /// Namespace trees open to everybody.
    pub open_trees: &'a [Namespace],
    /// Namespace trees that another relay serves, and its address.
    pub redirects: &'a [(Namespace, String)],
    /// How much one address, token or viewer may take.
    pub limits: &'a crate::config::Limits,
    /// The node in the mesh, for each shard.
    pub node: &'a dyn Fn(u16) -> mesh::Options,
}

/// The shards of a running node. Dropping it without [`Shards::stop`] leaves threads behind.
pub struct Shards {
    addresses: Addresses,
    post: Post,
    requests: Requests,
    board: Board,
    threads: Vec<glommio::ExecutorJoinHandle<()>>,
    count: usize,
    /// Keeps the selector of the socket group alive.
    _selector: Option<steer::Selector>,
}

impl Shards {
    /// Opens sockets and starts one thread per shard, and the tasks that answer their questions
    /// on the current tokio runtime.
    pub async fn start(plan: Plan<'_>) -> Result<Self, Error> {
        let Plan { topology, certificate, store, .. } = plan;
        match uring::probe() {
            // What is too old for a port may do for waiting; the executor looks for itself.
            Ok(()) | Err(uring::Refused::TooOld) => {}
            Err(refused) => return Err(Error::NoRings(refused)),
        }
        let count = topology.shards.len();
        let quic_address = topology.listeners.quic;
        let sockets = udp::bind_group(quic_address, count)?;
        let quic_bound =
            sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(quic_address);
        let at = &topology.listeners;
        let rtmp = store.map(|_| Held::new("rtmp", at.rtmp)).transpose()?;
        let rtmps = store.map(|_| Held::new("rtmps", at.rtmps)).transpose()?;
        let srt = match store {
            Some(_) => srt::bind(topology.listeners.srt, count)?,
            None => Vec::new(),
        };
        let srt_bound = srt.first().and_then(|socket| socket.local_addr().ok());
        let mut srt = srt.into_iter();
        let whip = match store {
            Some(_) => udp::bind_group(topology.listeners.whip, count).map_err(Error::Whip)?,
            None => Vec::new(),
        };
        let whip_bound = whip.first().and_then(|socket| socket.local_addr().ok());
        let mut whip = whip::wire(whip).into_iter();
        let sealed = Arc::new(certificate.tls_config(&[]));
        let listens: Vec<_> = [(&rtmp, None), (&rtmps, Some(sealed))]
            .into_iter()
            .filter_map(|(held, tls)| Some(held.as_ref()?.listen(tls)))
            .collect();
        let key = plan.steering_key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let key = steer::Key::new(key);
        let selector = match steer::attach(&sockets, key) {
            Ok(selector) => {
                tracing::info!(?selector, shards = count, "QUIC sockets steered");
                Some(selector)
            }
            Err(error) => {
                tracing::warn!(%error, "no connection steering: viewers that change address reconnect");
                None
            }
        };

        let limits = plan.limits.quic(count);
        // Every session of this process looks at it, and a process starts one node.
        let drafts: &'static [Draft] = plan.drafts.to_vec().leak();
        let tls = certificate.quic_config(&quic::config::alpn(drafts));
        let server = quic::config::server(tls, &limits)?;
        let (rings, wakes) = shard::rings(&ring_sizes(topology)).map_err(Error::Shards)?;
        let (mailboxes, mails): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel::<Mail>(MAILBOX_DEPTH)).unzip();
        let (requests, bridge): (_, Bridge) = bridge(mailboxes);
        let post = bridge.post();
        tokio::spawn(bridge.answer(store.cloned()));

        let ladder = Ladder::new(
            topology.port,
            &xdp_port::Options {
                listen: quic_bound,
                interface: topology.interface.clone(),
                attach: Attach::Either,
                budget: Budget::default(),
                vlan: None,
            },
        );
        if let Some(gate) = ladder.gate() {
            tracing::info!(
                interface = gate.interface(),
                queues = gate.queues(),
                "XDP program placed"
            );
        }
        let keeps_frames = ladder.gate().is_some();
        let epoch = Instant::now();
        let snapshots: Vec<Arc<Mutex<shard::Snapshot>>> =
            (0..count).map(|_| Arc::default()).collect();
        let mut threads = Vec::with_capacity(count);
        let mut readies = Vec::with_capacity(count);
        let parts = topology.shards.iter().zip(sockets).zip(rings).zip(wakes).zip(mails);
        for (((((place, socket), rings), wake), mail), snapshot) in parts.zip(&snapshots) {
            let steering = Steering { shard: place.index, shards: count as u16, key };
            let options = shard::Options {
                steering,
                server: Arc::clone(&server),
                drafts,
                quic: limits.clone(),
                chance: quic::Chance::System,
                relay: plan.limits.relay(),
                open_trees: plan.open_trees.to_vec(),
                redirects: plan.redirects.to_vec(),
                rings,
                epoch,
                node: (plan.node)(place.index),
            };
            let (ready, is_ready) = oneshot::channel();
            readies.push(is_ready);
            let start = Start {
                ready,
                options,
                cpu: place.core,
                socket,
                ladder: ladder.clone(),
                rtmp: listens.clone(),
                srt: srt.next(),
                whip: whip.next(),
                wake,
                mail,
                requests: requests.clone(),
                snapshot: Arc::clone(snapshot),
            };
            threads.push(shell::spawn(start).map_err(Error::Shards)?);
        }
        let shards = Self {
            addresses: Addresses {
                quic: quic_bound,
                rtmp: rtmp.as_ref().map(|held| held.address),
                rtmps: rtmps.as_ref().map(|held| held.address),
                srt: srt_bound,
                whip: whip_bound,
            },
            post,
            requests,
            board: Board::new(snapshots),
            threads,
            count,
            _selector: selector,
        };
        for ready in readies {
            let why = match ready.await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let ended = shards.stop(Duration::from_secs(1)).await;
            let ended = ended.unwrap_or_else(|| "a shard ended as it started".to_owned());
            return Err(why.unwrap_or_else(|| Error::Shards(std::io::Error::other(ended))));
        }
        if !keeps_frames {
            // All is bound and attached: nothing needs a privilege any more.
            keeper::dismiss();
        }
        if let Some(store) = store {
            store.reset_input_states().await?;
            shards.follow_keys(store).await?;
        }
        Ok(shards)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What serves WHIP publishers on the pages; `public` is where media reaches this node from
    /// outside.
    pub fn whip(
        &self,
        store: &Store,
        public: &[MediaAddress],
    ) -> Option<Arc<dyn http::whip::Whip>> {
        let bound = self.addresses.whip?;
        Some(Arc::new(whip_desk::Desk {
            requests: self.requests.clone(),
            post: self.post.clone(),
            store: store.clone(),
            shards: self.count,
            bound,
            public: public.iter().map(|at| at.with_default_port(bound.port())).collect(),
        }))
    }

    /// Renders `/metrics`.
    pub fn metrics(&self) -> impl Fn() -> String + Clone + Send + Sync + 'static {
        let board = self.board.clone();
        move || board.render()
    }

    /// Says why the node is of no use to viewers: an edge without any way to the engine.
    pub fn ailment(&self) -> impl Fn() -> Option<String> + Clone + Send + Sync + 'static {
        let board = self.board.clone();
        move || board.ailment()
    }

    /// Begins the demo broadcast on `input`.
    pub async fn play_demo(&self, input: &weir_control::Input) {
        let Ok(grant) = control::grant(input, shard::Protocol::Demo, self.count) else { return };
        let shard = grant.shard;
        match demo::Demo::new(grant) {
            Ok(demo) => self.post.send(shard, Mail::Demo(Box::new(demo))).await,
            Err(error) => tracing::error!(%error, "the demo clip of this build is not usable"),
        }
    }

    /// Gives every shard the order to drain.
    async fn drain(&self, order: &drain::ShardOrder) {
        self.post.drain(order).await;
    }

    /// Who is still here.
    fn occupancy(&self) -> metrics::Occupancy {
        self.board.occupancy()
    }

    /// Closes every session and waits for the threads, at most `patience`. Tells why an executor failed, if one did.
    pub async fn stop(self, patience: Duration) -> Option<String> {
        self.post.stop().await;
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            let failures = threads.into_iter().map(|thread| thread.join().err());
            // All are waited for, whichever has failed.
            let failures: Vec<_> = failures.flatten().map(|error| error.to_string()).collect();
            failures.into_iter().next()
        });
        let joined = tokio::time::timeout(patience, joined).await;
        keeper::dismiss();
        if let Ok(failed) = joined {
            failed.ok().flatten()
        } else {
            tracing::warn!("a shard did not stop in time");
            None
        }
    }

    /// Hands keys and revocations to the shards now and whenever the store changes.
    async fn follow_keys(&self, store: &Store) -> Result<(), Error> {
        let mut watch = store.watch().await?;
        let post = self.post.clone();
        let store = store.clone();
        let mut held = trust(&watch.borrow_and_update(), &store, 0);
        post.trust(&held, &seal(&held, &store)).await;
        tokio::spawn(async move {
            while watch.changed().await.is_ok() {
                held = trust(&watch.borrow_and_update(), &store, held.viewers.serial);
                post.trust(&held, &seal(&held, &store)).await;
            }
        });
        Ok(())
    }
}

/// Whom to believe, as the store says it now: here and in a mesh. Serials are wall-clock milliseconds,
/// so that they grow over restarts, and never less than one more than the `last`.
fn trust(snapshot: &weir_control::Snapshot, store: &Store, last: u64) -> Trust {
    let keys = snapshot.playback_keys.iter().map(|key| TrustedKey {
        kid: key.kid.to_string(),
        org: key.org.to_string(),
        public: key.public_key,
    });
    let revocations = snapshot.revocations.iter().map(|revocation| Revocation {
        org: revocation.org.to_string(),
        subject: match &revocation.what {
            Withdraw::Token(jti) => Subject::Token(jti.clone()),
            Withdraw::Viewer(vid) => Subject::Viewer(vid.clone()),
            Withdraw::Key(kid) => Subject::Key(kid.to_string()),
            Withdraw::Version(version) => Subject::Version(*version),
        },
        at: revocation.revoked_at.as_secs(),
        until: revocation.until.as_secs(),
    });
    let now = Timestamp::now().as_millis().max(0).cast_unsigned();
    let serial = now.max(last.saturating_add(1));
    Trust {
        issued: Duration::from_millis(serial),
        viewers: auth::Trust { serial, keys: keys.collect(), revocations: revocations.collect() },
        hashing: *store.mesh_hashing(),
        nodes: snapshot.node_keys.clone(),
    }
}

/// Signed for the nodes below; empty when it is too much to travel, and then they keep what they have.
fn seal(trust: &Trust, store: &Store) -> Bytes {
    trust.seal(store.mesh_signing()).unwrap_or_else(|error| {
        tracing::error!(%error, "edges are not told whom to believe");
        Bytes::new()
    })
}

/// A TCP address that is ours until every shard listens on it. The shards share the port among
/// themselves, so they alone would not notice a stranger.
struct Held {
    listener: &'static str,
    address: SocketAddr,
    _reservation: tcp::Reservation,
}

impl Held {
    fn new(listener: &'static str, address: SocketAddr) -> Result<Self, Error> {
        let refused = |source| Error::Rtmp { listener, address, source };
        let reservation = tcp::Reservation::new(address).map_err(refused)?;
        let address = reservation.address().map_err(refused)?;
        Ok(Self { listener, address, _reservation: reservation })
    }

    fn listen(&self, tls: Option<Arc<rustls::ServerConfig>>) -> rtmp::Listen {
        rtmp::Listen { listener: self.listener, address: self.address, tls }
    }
}

/// The sizes of a topology's rings.
fn ring_sizes(topology: &Topology) -> RingSizes {
    let link = |shard: &topology::Shard| {
        let of_shard = topology.links.iter().find(|link| link.writer == shard.index);
        // A shard without readers still has a link, of the least size.
        of_shard.map_or(link::Options { depth: 2, slot_bytes: 64 }, |link| link::Options {
            depth: link.descriptors,
            slot_bytes: link.bytes / link.descriptors,
        })
    };
    RingSizes {
        links: topology.shards.iter().map(link).collect(),
        commands: topology.commands,
        datagrams: topology.hand_over_packets,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_store_may_hold_a_mesh_can_carry() {
        assert_eq!(weir_control::REVOCATIONS_MAX, weir_relay::auth::REVOCATIONS_MAX);
    }
}
