//! What a running node tells others: its addresses, the ready file, the card on the terminal.
//!
//! `weir up` holds a lock in its data directory as long as it runs and writes its real addresses
//! beside it; other commands on the same directory read them, so the URLs they print can be used.
//! A file left by a crash is known by the free lock.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weir_control::{InputId, PlaybackToken};

use super::Failure;
use crate::{
    cert::write_private,
    config::{Config, Edge},
};

/// Addresses of the running node, inside the data directory.
const RUNTIME_FILE: &str = "runtime.json";
/// Locked by the running node, inside the data directory.
const RUNTIME_LOCK: &str = "runtime.lock";

/// Where a node can be reached. Makes every URL that Weir prints or hands out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Pages in the clear, as bound.
    pub http: SocketAddr,
    /// Pages over TLS, as bound.
    pub https: SocketAddr,
    /// WebTransport and raw MoQT, as bound.
    pub quic: SocketAddr,
    /// RTMP, as bound.
    pub rtmp: SocketAddr,
    /// RTMPS, as bound.
    pub rtmps: SocketAddr,
    /// SRT, as bound.
    pub srt: SocketAddr,
    /// Media of WHIP publishers, as bound.
    pub whip: SocketAddr,
    /// The configured host for URLs.
    pub public_host: Option<String>,
}

/// The sole right to run a node on a data directory; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    data_dir: PathBuf,
    _lock: File,
}

/// What the ready file says. Holds secrets in the clear, hence no `Debug`.
#[derive(Clone, Serialize)]
pub struct Ready {
    /// `HOST:PORT` of the pages in the clear.
    pub http: String,
    /// `HOST:PORT` of the pages over TLS.
    pub https: String,
    /// `HOST:PORT` of QUIC.
    pub quic: String,
    /// `HOST:PORT` of RTMP.
    pub rtmp: String,
    /// `HOST:PORT` of RTMPS.
    pub rtmps: String,
    /// `HOST:PORT` of SRT.
    pub srt: String,
    /// `HOST:PORT` of the media of WHIP publishers.
    pub whip: String,
    /// SHA-256 of the certificate in hex.
    pub cert_sha256: String,
    /// An API key with all scopes.
    pub api_key: String,
    /// The demo broadcast, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demo: Option<ReadyDemo>,
}

/// The demo broadcast in the ready file and on the card.
#[derive(Clone, Serialize)]
pub struct ReadyDemo {
    /// The input.
    pub input_id: String,
    /// Where an encoder may take its place, key included.
    pub rtmp_url: String,
    /// The key alone.
    pub stream_key: String,
    /// Where it plays, token included.
    pub playback_url: String,
}

impl Addresses {
    /// What a node with this configuration would have: for URLs when none is running.
    pub fn configured(config: &Config) -> Self {
        Self {
            http: config.listen.http.0,
            https: config.listen.https.0,
            quic: config.listen.quic.0,
            rtmp: config.listen.rtmp.0,
            rtmps: config.listen.rtmps.0,
            srt: config.listen.srt.0,
            whip: config.listen.whip.0,
            public_host: config.public_host().ok().flatten(),
        }
    }

    /// The start page.
    pub fn start_page(&self) -> String {
        let host = match (&self.public_host, self.http.ip()) {
            // Everyone knows localhost, and browsers count it as secure.
            (None, ip) if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST => {
                format!("localhost:{}", self.http.port())
            }
            _ => self.authority(self.http),
        };
        format!("http://{host}/")
    }

    /// Where a MoQT player finds an input, token included: a WebTransport URL.
    pub fn playback_url(&self, input: &InputId, token: &PlaybackToken) -> String {
        format!("{}/playback/{input}?tok={}", self.webtransport_base(), token.expose())
    }

    /// The player page for an input, token included.
    pub fn page_url(&self, input: &InputId, token: &PlaybackToken) -> String {
        format!("{}watch/{input}?tok={}", self.start_page(), token.expose())
    }

    /// `https://HOST:PORT` of QUIC, without a path.
    pub fn webtransport_base(&self) -> String {
        format!("https://{}", self.authority(self.quic))
    }

    /// `HOST:PORT` that a client on this machine, or the configured public, can dial.
    pub fn authority(&self, bound: SocketAddr) -> String {
        match &self.public_host {
            Some(host) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{}", bound.port()),
            Some(host) => format!("{host}:{}", bound.port()),
            None => {
                let ip = match bound.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                SocketAddr::new(ip, bound.port()).to_string()
            }
        }
    }

    /// The addresses of the node that runs on this data directory, if one does.
    pub fn of_running(data_dir: &Path) -> Option<Self> {
        let lock = File::open(data_dir.join(RUNTIME_LOCK)).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            _ => return None,
        }
        let text = fs::read_to_string(data_dir.join(RUNTIME_FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl Claim {
    /// Takes the data directory for this process, making it if need be.
    pub fn take(data_dir: &Path) -> Result<Self, Failure> {
        let unusable = |error: io::Error| {
            Failure::new(format!("cannot use {}: {error}", data_dir.display()))
                .help("name a directory you may write to with --data-dir")
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(data_dir.join(RUNTIME_LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { data_dir: data_dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(format!("another `weir up` uses {}", data_dir.display()))
                    .help("stop it, or name another directory with --data-dir"))
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// Tells other commands on this directory where the node is.
    pub fn publish(&self, addresses: &Addresses) -> io::Result<()> {
        let text = serde_json::to_vec(addresses).map_err(io::Error::other)?;
        write_private(&self.data_dir.join(RUNTIME_FILE), &text)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A file that stays is harmless: the lock is free.
        let _ = fs::remove_file(self.data_dir.join(RUNTIME_FILE));
    }
}

impl Ready {
    /// Fills in the addresses in a form that can be dialled.
    pub fn new(
        addresses: &Addresses,
        cert_sha256: String,
        api_key: String,
        demo: Option<ReadyDemo>,
    ) -> Self {
        Self {
            http: addresses.authority(addresses.http),
            https: addresses.authority(addresses.https),
            quic: addresses.authority(addresses.quic),
            rtmp: addresses.authority(addresses.rtmp),
            rtmps: addresses.authority(addresses.rtmps),
            srt: addresses.authority(addresses.srt),
            whip: addresses.authority(addresses.whip),
            cert_sha256,
            api_key,
            demo,
        }
    }

    /// Writes the file, whole or not at all, for its owner only.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        text.and_then(|text| write_private(path, &text)).map_err(|error| {
            Failure::new(format!("cannot write {}: {error}", path.display()))
                .help("name a file in a directory you may write to with --ready-file")
        })
    }
}

/// The card that `weir relay` prints once it serves.
pub fn edge_card(addresses: &Addresses, edge: &Edge, colour: bool) -> String {
    let upstreams: Vec<String> = edge.upstreams.iter().map(ToString::to_string).collect();
    let rows = [
        ("node", edge.node_id.clone()),
        ("upstream", upstreams.join(", ")),
        ("viewers", format!("{}/playback/INPUT?tok=TOKEN", addresses.webtransport_base())),
        ("page", format!("{}watch/INPUT?tok=TOKEN", addresses.start_page())),
        ("health", format!("{}healthz", addresses.start_page())),
        ("stop", "Ctrl-C".into()),
    ];
    laid_out("Weir relays", &rows, colour)
}

/// The card that `weir up` prints once it serves.
pub fn card(
    addresses: &Addresses,
    demo: Option<&ReadyDemo>,
    data_dir: &Path,
    colour: bool,
) -> String {
    let mut rows = vec![("page", addresses.start_page())];
    match demo {
        Some(demo) => {
            rows.push(("publish", demo.rtmp_url.clone()));
            rows.push(("playback", demo.playback_url.clone()));
        }
        None => rows.push(("publish", "`weir input create --name NAME` gives the address".into())),
    }
    let data = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    rows.push(("data", data.display().to_string()));
    rows.push(("stop", "Ctrl-C".into()));
    laid_out("Weir is up", &rows, colour)
}

fn laid_out(title: &str, rows: &[(&str, String)], colour: bool) -> String {
    let (strong, accent, plain) =
        if colour { ("\x1b[1m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("\n{strong}{title}{plain}\n\n");
    for (label, value) in rows {
        let url = value.contains("://");
        let (on, off) = if url { (accent, plain) } else { ("", "") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<9} {on}{value}{off}");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::testing::TempDir;

    fn addresses(listen: &str, public_host: Option<&str>) -> Addresses {
        let bound: SocketAddr = listen.parse().expect("address");
        Addresses {
            http: bound,
            https: bound,
            quic: bound,
            rtmp: bound,
            rtmps: bound,
            srt: bound,
            whip: bound,
            public_host: public_host.map(str::to_owned),
        }
    }

    #[test]
    fn urls_carry_an_address_that_can_be_dialled() {
        for (listen, host, expected) in [
            ("0.0.0.0:4443", None, "https://127.0.0.1:4443"),
            ("[::]:4443", None, "https://[::1]:4443"),
            ("192.0.2.7:1", None, "https://192.0.2.7:1"),
            ("0.0.0.0:443", Some("live.example.com"), "https://live.example.com:443"),
            ("0.0.0.0:443", Some("2001:db8::1"), "https://[2001:db8::1]:443"),
        ] {
            assert_eq!(addresses(listen, host).webtransport_base(), expected);
        }
        assert_eq!(addresses("127.0.0.1:8080", None).start_page(), "http://localhost:8080/");
    }

    #[test]
    fn addresses_are_told_while_the_node_runs_and_forgotten_after_a_crash() {
        let dir = TempDir::new();
        assert_eq!(Addresses::of_running(dir.path()), None);
        let claim = Claim::take(dir.path()).expect("free");
        let told = addresses("127.0.0.1:5", None);
        claim.publish(&told).expect("writable");
        assert_eq!(Addresses::of_running(dir.path()), Some(told.clone()));
        assert!(Claim::take(dir.path()).is_err(), "two nodes on one directory");
        drop(claim);
        // As a crash leaves it: the file is there, the lock is free.
        let text = serde_json::to_vec(&told).expect("serializes");
        write_private(&dir.path().join(RUNTIME_FILE), &text).expect("writable");
        assert_eq!(Addresses::of_running(dir.path()), None);
    }

    #[test]
    fn the_ready_file_is_whole_and_private() {
        let dir = TempDir::new();
        let path = dir.path().join("ready.json");
        fs::write(&path, "old and readable by all").expect("writable");
        let demo = ReadyDemo {
            input_id: "lv_1".into(),
            rtmp_url: "rtmp://h/live/lv_1?sk=s".into(),
            stream_key: "s".into(),
            playback_url: "https://h/playback/lv_1?tok=t".into(),
        };
        Ready::new(&addresses("0.0.0.0:80", None), "ab".into(), "ak".into(), Some(demo))
            .write(&path)
            .expect("writable");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).expect("readable");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for key in
            ["http", "https", "quic", "rtmp", "rtmps", "srt", "whip", "cert_sha256", "api_key"]
        {
            assert!(json[key].is_string(), "{key}");
        }
        for key in ["input_id", "rtmp_url", "stream_key", "playback_url"] {
            assert!(json["demo"][key].is_string(), "demo.{key}");
        }
        assert_eq!(json["http"], "127.0.0.1:80");
        assert_eq!(fs::read_dir(dir.path()).expect("listable").count(), 1, "no temporary is left");
    }

    #[test]
    fn the_card_has_no_colour_unless_wanted() {
        let card = |colour| card(&addresses("127.0.0.1:80", None), None, Path::new("/"), colour);
        assert!(!card(false).contains('\x1b'));
        assert!(card(true).contains('\x1b'));
        assert!(card(false).contains("  stop      Ctrl-C\n"));
    }
}
