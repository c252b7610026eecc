//! `weir relay`: an edge. Shards with relays above them, the pages, metrics and health; no inputs,
//! no store, no RTMP. What it knows it learns from above, and forgets when it ends.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use weir_control::http;

use super::drain::Desk;
use super::up::{self, STOP_PATIENCE, Site};
use super::{Plan, Shards};
use crate::cert::Certificate;
use crate::cli::{Addresses, Claim, Failure, edge_card};
use crate::config::Edge;
use crate::logs;
use crate::mesh::{self, Uplink};
use crate::quic;

/// Runs until SIGINT, or until it is empty after SIGTERM or `weir drain`.
pub fn run(edge: Edge) -> Result<(), Failure> {
    crate::guard::abort_on_stray_panics();
    super::confine::confine(&edge.topology, &edge.data_dir, edge.security);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the control runtime: {error}")))?
        .block_on(serve(edge))
}

async fn serve(edge: Edge) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| up::no_signals(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| up::no_signals(&error))?;
    let claim = Claim::take(&edge.data_dir)?;
    let certificate = Certificate::load(edge.certificate.clone(), &edge.data_dir, up::wall())?;
    let listeners = edge.topology.listeners;
    let http = up::listen("http", listeners.http)?;
    let https = up::listen("https", listeners.https)?;

    let tls = crate::client::trust::authorities_or_any(edge.insecure)?;
    let client = quic::config::uplink(tls, &weir_moqt::Draft::ALL)
        .map_err(|error| Failure::new(format!("cannot set up TLS towards upstreams: {error}")))?;
    let uplink = Uplink {
        urls: edge.upstreams.clone(),
        key: edge.node_key.clone(),
        client,
        route_key: random(),
        seed: u64::from_be_bytes(random()),
    };
    let id = edge.node_id.clone();
    let node = move |shard: u16| mesh::Options {
        id: id.clone(),
        term: 0,
        uplink: Some(Uplink { seed: uplink.seed ^ u64::from(shard) << 32, ..uplink.clone() }),
    };
    let shards = Shards::start(Plan {
        topology: &edge.topology,
        certificate: &certificate,
        steering_key: random(),
        store: None,
        drafts: &edge.drafts,
        open_trees: &[],
        redirects: &edge.redirects,
        limits: &edge.limits,
        node: &node,
    })
    .await
    .map_err(up::start_failure)?;
    let addresses = Addresses {
        http: up::local(&http, listeners.http),
        https: up::local(&https, listeners.https),
        quic: shards.addresses().quic,
        rtmp: listeners.rtmp,
        rtmps: listeners.rtmps,
        srt: listeners.srt,
        whip: listeners.whip,
        public_host: edge.public_host.clone(),
    };
    let mut desk = Desk::open(up::door(&edge.data_dir)?);
    let site = Arc::new(Site {
        certificate: Arc::clone(&certificate),
        addresses: addresses.clone(),
        playback: edge.public_playback.clone(),
        metrics: Box::new(shards.metrics()),
        draining: desk.flag(),
        ailment: Box::new(shards.ailment()),
    });
    let options = http::Options {
        store: None,
        site,
        demo: None,
        whip: None,
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
    tokio::spawn(up::keep_fresh(Arc::clone(&certificate)));
    claim
        .publish(&addresses)
        .map_err(|error| Failure::new(format!("cannot write into the data directory: {error}")))?;
    let mut out = std::io::stdout();
    let colour = std::io::IsTerminal::is_terminal(&out) && logs::colour_wanted();
    // A closed terminal is no reason to stop an edge.
    let _ = out.write_all(edge_card(&addresses, &edge, colour).as_bytes());
    let _ = out.flush();

    up::until_empty(&mut desk, &shards, &edge.drain, &mut interrupt, &mut terminate).await;
    tracing::info!("stopping");
    desk.close().await;
    drop(stop);
    shards.stop(STOP_PATIENCE).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), pages).await;
    tracing::info!("stopped");
    Ok(())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator answers");
    bytes
}
