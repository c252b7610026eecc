//! `weir up`: all roles in one process. Takes the data directory, starts shards and pages, tells
//! the world where they are, and waits for the end.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_control::{Ingest, Input, NewInput, Scope, Store, StreamKey, TTL_MAX, http};
use weir_xdp::udp::BindError;

use super::drain::Desk;
use super::{Error, Plan, Shards};
use crate::cert::Certificate;
use crate::cli::{Addresses, Claim, Failure, Ready, ReadyDemo, card};
use crate::config::{self, Up};
use crate::drain::{Door, Order};
use crate::logs;
use crate::mesh::{self, Trust};

/// Shards get this long to say goodbye; with the pages' own second it stays under the five seconds
/// an operator waits after Ctrl-C.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How often the certificate is looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_hours(1);

/// Name of the demo's input; it is made once and kept.
const DEMO: &str = "demo";

/// Name of the API key that each start makes anew for the ready file.
const READY_KEY: &str = "ready-file";

/// Runs until SIGINT, until SIGTERM or `weir drain` has emptied it, or until a second signal.
pub fn run(up: Up) -> Result<(), Failure> {
    crate::guard::abort_on_stray_panics();
    super::confine::confine(&up.topology, &up.data_dir, up.security);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the control runtime: {error}")))?
        .block_on(serve(up))
}

async fn serve(up: Up) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| no_signals(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_signals(&error))?;
    let claim = Claim::take(&up.data_dir)?;
    let store = Store::open(&up.data_dir).await?;
    let certificate = Certificate::load(up.certificate.clone(), &up.data_dir, wall())?;

    let listeners = up.topology.listeners;
    let http = listen("http", listeners.http)?;
    let https = listen("https", listeners.https)?;
    let id = engine_id(&store, up.term);
    let shards = Shards::start(Plan {
        topology: &up.topology,
        certificate: &certificate,
        steering_key: *store.steering_key(),
        store: Some(&store),
        drafts: &up.drafts,
        open_trees: &up.open_trees,
        redirects: &up.redirects,
        limits: &up.limits,
        node: &|_| mesh::Options::engine(id.clone()).in_term(up.term),
    })
    .await
    .map_err(start_failure)?;
    let bound = shards.addresses();
    let addresses = Addresses {
        http: local(&http, listeners.http),
        https: local(&https, listeners.https),
        quic: bound.quic,
        rtmp: bound.rtmp.unwrap_or(listeners.rtmp),
        rtmps: bound.rtmps.unwrap_or(listeners.rtmps),
        srt: bound.srt.unwrap_or(listeners.srt),
        whip: bound.whip.unwrap_or(listeners.whip),
        public_host: up.public_host.clone(),
    };

    let demo = if up.demo { Some(demo_input(&store).await?) } else { None };
    if let Some((input, _)) = &demo {
        shards.play_demo(input).await;
    }
    let mut desk = Desk::open(door(&up.data_dir)?);
    let site = Arc::new(Site {
        certificate: Arc::clone(&certificate),
        addresses: addresses.clone(),
        playback: up.public_playback.clone(),
        metrics: Box::new(shards.metrics()),
        draining: desk.flag(),
        ailment: Box::new(|| None),
    });
    let options = http::Options {
        store: Some(store.clone()),
        site,
        demo: demo.as_ref().map(|(input, _)| input.id.clone()),
        whip: shards.whip(&store, &up.public_media),
        limits: http::Limits::default(),
    };
    let tls = certificate.tls_config(&[b"h2", b"http/1.1"]);
    let pages = vec![
        http::Listener { tcp: http, tls: None },
        http::Listener { tcp: https, tls: Some(Arc::new(tls)) },
    ];
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let pages = tokio::spawn(http::serve(pages, options, async {
        // A dropped sender ends the pages as well.
        let _ = stopped.await;
    }));
    tokio::spawn(keep_fresh(Arc::clone(&certificate)));

    announce(&up, &claim, &addresses, &certificate, &store, demo.as_ref()).await?;
    until_empty(&mut desk, &shards, &up.drain, &mut interrupt, &mut terminate).await;
    desk.close().await;
    drop(stop);
    shards.stop(STOP_PATIENCE).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), pages).await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Where `weir drain` on this directory gives its order.
pub(super) fn door(data_dir: &Path) -> Result<Door, Failure> {
    Door::open(data_dir).map_err(|error| {
        Failure::new(format!("cannot open a socket in {}: {error}", data_dir.display()))
            .help("name a directory on a local file system with --data-dir")
    })
}

/// Waits for the end: an order to drain, until it is carried out, or a signal that will not wait.
pub(super) async fn until_empty(
    desk: &mut Desk,
    shards: &Shards,
    drain: &config::Drain,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) {
    let order = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => Some(Order::default()),
        order = desk.order() => Some(order),
    };
    if let Some(order) = order {
        tokio::select! {
            () = desk.drain(shards, &order, drain) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    tracing::info!("stopping");
}

/// Writes the ready file and the card once everything answers.
async fn announce(
    up: &Up,
    claim: &Claim,
    addresses: &Addresses,
    certificate: &Certificate,
    store: &Store,
    demo: Option<&(Input, StreamKey)>,
) -> Result<(), Failure> {
    claim
        .publish(addresses)
        .map_err(|error| Failure::new(format!("cannot write into the data directory: {error}")))?;
    let demo = match demo {
        Some((input, key)) => {
            let minted = store.mint_playback_token(&input.id, TTL_MAX).await?;
            Some(ReadyDemo {
                input_id: input.id.to_string(),
                rtmp_url: addresses.publish_urls(&input.id, key).rtmp,
                stream_key: key.expose().to_owned(),
                playback_url: addresses.playback_url(&input.id, &minted.token),
            })
        }
        None => None,
    };
    if let Some(path) = &up.ready_file {
        let scopes =
            [Scope::Keys, Scope::Ops, Scope::StreamsMint, Scope::StreamsRead, Scope::StreamsWrite];
        let (_, api_key) = store.issue_api_key(READY_KEY, &scopes).await?;
        let sha256 = certificate.sha256_hex();
        Ready::new(addresses, sha256, api_key.expose().to_owned(), demo.clone()).write(path)?;
    }
    let mut out = std::io::stdout();
    let colour = std::io::IsTerminal::is_terminal(&out) && logs::colour_wanted();
    // A closed terminal is no reason to stop a broadcast.
    let _ = out.write_all(card(addresses, demo.as_ref(), &up.data_dir, colour).as_bytes());
    let _ = out.flush();
    Ok(())
}

/// The demo's input with a fresh key: the old one cannot be shown again.
async fn demo_input(store: &Store) -> Result<(Input, StreamKey), Failure> {
    let new = NewInput::new(DEMO, Ingest::Rtmp);
    Ok(store.ensure_input(new).await?)
}

pub(super) async fn keep_fresh(certificate: Arc<Certificate>) {
    let mut ticks = tokio::time::interval(CERTIFICATE_CHECK);
    loop {
        ticks.tick().await;
        match certificate.refresh(wall()) {
            Ok(true) => tracing::info!("new certificate in use"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot renew the certificate, trying on"),
        }
    }
}

/// What the pages know of this node.
pub(super) struct Site {
    pub(super) certificate: Arc<Certificate>,
    pub(super) addresses: Addresses,
    /// All relays that have what this node has.
    pub(super) playback: Vec<String>,
    pub(super) metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Why the node is of no use to viewers, if it is not.
    pub(super) ailment: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// Set once the node is being emptied.
    pub(super) draining: Arc<AtomicBool>,
}

impl http::Site for Site {
    fn certificate_sha256(&self) -> [u8; 32] {
        self.certificate.sha256()
    }

    fn certificate_is_pinned(&self) -> bool {
        self.certificate.is_self_signed()
    }

    fn webtransport_base(&self, host: Option<&str>) -> String {
        match host {
            // Browsers try ::1 for localhost first, where a listener on 127.0.0.1 is not.
            Some(host) if self.addresses.public_host.is_none() && host != "localhost" => {
                let port = self.addresses.quic.port();
                match host.parse::<std::net::Ipv6Addr>() {
                    Ok(v6) => format!("https://[{v6}]:{port}"),
                    Err(_) => format!("https://{host}:{port}"),
                }
            }
            _ => self.addresses.webtransport_base(),
        }
    }

    fn playback_addresses(&self) -> &[String] {
        &self.playback
    }

    fn publish_urls(&self, host: Option<&str>, input: &str, key: &str) -> serde_json::Value {
        let mut addresses = self.addresses.clone();
        if addresses.public_host.is_none() {
            addresses.public_host = host.filter(|host| *host != "localhost").map(str::to_owned);
        }
        serde_json::json!(addresses.publish_urls_with(input, key))
    }

    fn render_metrics(&self, out: &mut String) {
        out.push_str(&(self.metrics)());
    }

    fn health(&self) -> http::Health {
        if self.draining.load(Ordering::Relaxed) {
            http::Health::Draining
        } else {
            (self.ailment)().map_or(http::Health::Ok, http::Health::Failing)
        }
    }
}

pub(super) fn listen(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    weir_xdp::tcp::listen(address).map_err(|error| Failure::listen(flag, address, &error))
}

pub(super) fn local(listener: &TcpListener, fallback: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(fallback)
}

pub(super) fn start_failure(error: Error) -> Failure {
    match error {
        Error::Rtmp { listener, address, source } => Failure::listen(listener, address, &source),
        Error::Srt { address, source } => Failure::listen("srt", address, &source),
        Error::Quic(BindError::InUse { address }) => {
            Failure::listen("quic", address, &std::io::ErrorKind::AddrInUse.into())
        }
        Error::Whip(BindError::InUse { address }) => {
            Failure::listen("whip", address, &std::io::ErrorKind::AddrInUse.into())
        }
        Error::Whip(error) => {
            Failure::new(error.to_string()).help("choose another address with --whip ADDR")
        }
        Error::Quic(error) => {
            Failure::new(error.to_string()).help("choose another address with --quic ADDR")
        }
        Error::Store(error) => error.into(),
        Error::NoRings(_) => Failure::new(error.to_string()).help(
            "shards wait by io_uring: let the container or unit make its system calls (io_uring_setup, io_uring_enter, io_uring_register), set kernel.io_uring_disabled=0, or take a kernel that has it",
        ),
        other => Failure::new(other.to_string()).help("see the log above for the cause"),
    }
}

pub(super) fn no_signals(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot listen for signals: {error}"))
}

/// The engine's id in hop lists: the head of the public key that edges know it by.
fn engine_id(store: &Store, term: u8) -> String {
    let public = Trust::public_key(store.mesh_signing());
    let head = public.iter().take(4).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    // A standby has a copy of the store, and is another engine.
    if term == 0 { format!("engine-{head}") } else { format!("engine-{head}.{term}") }
}

pub(super) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
