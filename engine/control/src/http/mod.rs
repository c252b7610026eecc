//! The HTTP server beside the shards: pages, the player's settings, health and metrics.
//!
//! It owns accepted TCP connections and their limits. What it serves comes from the embedded web
//! files, from the [`Store`] and from the engine by way of [`Site`]; it knows no media and no MoQT.
//! Every request is logged by path, never with its query, which may carry a token.

mod api;
mod assets;
mod connection;
mod inputs;
mod limits;
mod routes;
#[cfg(test)]
mod tests;
pub mod whip;

use std::{fmt::Write, future::Future, io, net::TcpListener, sync::Arc};

use tokio::sync::watch;

pub use self::limits::Limits;
use self::{connection::Acceptor, limits::Counters};
use crate::{InputId, Store};

/// What the engine knows and the pages need. Called from the control threads; must not block.
pub trait Site: Send + Sync + 'static {
    /// SHA-256 of the certificate that QUIC presents, in DER.
    fn certificate_sha256(&self) -> [u8; 32];

    /// Whether pages must pin that hash because the certificate is self-signed.
    fn certificate_is_pinned(&self) -> bool;

    /// `https://HOST:PORT` of QUIC for a visitor who reached us as `host` (without port), if known.
    fn webtransport_base(&self, host: Option<&str>) -> String;

    /// Every relay at which a broadcast of this node can be watched, as `https://HOST:PORT`, this one perhaps among them.
    fn playback_addresses(&self) -> &[String] {
        &[]
    }

    /// The publish addresses of an input by protocol, for a visitor who reached us as `host`. The key
    /// is put in as it is.
    fn publish_urls(&self, host: Option<&str>, input: &str, key: &str) -> serde_json::Value;

    /// Appends the engine's counters in the Prometheus text format.
    fn render_metrics(&self, out: &mut String);

    /// Whether the node serves, or why not.
    fn health(&self) -> Health;
}

/// The state of the node in one word, for load balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Serving.
    Ok,
    /// Not to be sent new visitors: answered with 503.
    Draining,
    /// Broken, with a reason for people: answered with 503.
    Failing(String),
}

/// A bound socket and, for HTTPS, its TLS settings (ALPN `h2`, `http/1.1`).
#[derive(Debug)]
pub struct Listener {
    /// The bound socket.
    pub tcp: TcpListener,
    /// TLS settings; without them, the listener also serves `/metrics`.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// What to serve, and within which limits.
pub struct Options {
    /// For the demo's tokens; an edge has none.
    pub store: Option<Store>,
    /// The engine's side.
    pub site: Arc<dyn Site>,
    /// The demo broadcast that the start page plays, when there is one.
    pub demo: Option<InputId>,
    /// The engine's side of WHIP; an edge takes nothing in.
    pub whip: Option<Arc<dyn whip::Whip>>,
    /// Caps and timeouts.
    pub limits: Limits,
}

/// Serves until `shutdown` ends, then lets answers under way finish for a moment.
pub async fn serve(
    listeners: Vec<Listener>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let (closing, closed) = watch::channel(false);
    let limits = Arc::new(options.limits.clone());
    let routes = routes::Routes::new(options, counters.clone());
    let acceptor = Acceptor::new(limits, counters, closed);
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.tcp.set_nonblocking(true)?;
        let tcp = tokio::net::TcpListener::from_std(listener.tcp)?;
        let router = routes.router(listener.tls.is_none());
        accepting.spawn(acceptor.clone().run(tcp, listener.tls, router));
    }
    shutdown.await;
    closing.send_replace(true);
    accepting.join_all().await;
    acceptor.drained().await;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
