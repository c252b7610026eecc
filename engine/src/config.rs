//! Configuration: one documented TOML file, the environment and the command line, merged.
//!
//! [`Config`] is the raw form and knows where each value may come from; [`Up`] is what a running
//! node gets: checked, with its topology resolved. Cores never see either. This file does not read
//! the clock and touches the file system only in [`Config::load`].

mod drain;
mod interop;
mod limits;
mod media;
mod moqt;
mod playback;
mod security;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use weir_moqt::{Draft, Namespace};

pub(crate) use self::drain::parse_duration;
pub use self::drain::{Deadline, Drain, NewUri};
use self::interop::OpenTrees;
pub use self::interop::{Interop, OWN_TREE, OpenTree};
pub use self::limits::Limits;
pub use self::media::MediaAddress;
use self::media::MediaAddresses;
pub use self::moqt::{Drafts, Moqt, Redirects};
pub use self::playback::PlaybackAddresses;
pub use self::security::{Seccomp, Security};
use crate::mesh::{self, NodeKey, UpstreamUrl};
use crate::topology::{self, HostFacts, Topology};

/// The documented file that ships with the binary; its values are the defaults.
pub const MANUAL: &str = include_str!("../weir.toml");

/// The raw configuration, complete but not yet checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where state lives.
    pub data_dir: PathBuf,
    /// Addresses.
    pub listen: Listen,
    /// Drafts of MoQT.
    pub moqt: Moqt,
    /// Number and pinning of shards.
    pub shards: Shards,
    /// The certificate.
    pub tls: Tls,
    /// What the outside calls this machine.
    pub public: Public,
    /// How it is emptied.
    pub drain: Drain,
    /// What is open to clients without a token.
    pub interop: Interop,
    /// How much one token, viewer, address or broadcast may take.
    pub limits: Limits,
    /// What the process may ask of its host.
    pub security: Security,
    /// What is logged and how.
    pub log: Log,
    /// `weir up`: which of several engines this is.
    pub engine: Engine,
    /// `weir relay`: the relays above.
    pub relay: Relay,
}

/// Section `[listen]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Pages, metrics and health in the clear.
    pub http: ListenAddr,
    /// The same over TLS.
    pub https: ListenAddr,
    /// WebTransport and raw MoQT.
    pub quic: ListenAddr,
    /// RTMP from encoders.
    pub rtmp: ListenAddr,
    /// RTMP inside TLS.
    pub rtmps: ListenAddr,
    /// SRT callers.
    pub srt: ListenAddr,
    /// Media of WHIP publishers.
    pub whip: ListenAddr,
}

/// Section `[shards]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shards {
    /// How many; 0 is one per usable core.
    pub count: ShardCount,
    /// Whether each is pinned to a core.
    pub pin: bool,
    /// How datagrams of viewers come and go.
    pub port: PortChoice,
    /// The interface for `port = "xdp"` and `"auto"`; empty: found by the address listened on.
    pub interface: String,
}

/// Section `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Further names in the self-signed certificate.
    pub names: Vec<String>,
    /// PEM file with a certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
}

/// Section `[public]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// Host in URLs; empty: derived from the listeners.
    pub host: String,
    /// Where publishers' media reaches this node from outside.
    pub media: Vec<MediaAddress>,
    /// Every relay at which its broadcasts can be watched.
    pub playback: PlaybackAddresses,
}

/// Section `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// The term in which it publishes; a standby's is higher.
    pub term: u8,
}

/// Section `[relay]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Upstreams in order of preference.
    pub upstream: Vec<String>,
    /// File with the node key.
    pub node_key_file: Option<PathBuf>,
    /// Id in hop lists; empty: drawn at each start.
    pub node_id: String,
    /// Accept any certificate of an upstream.
    pub insecure: bool,
}

/// Section `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// An address to listen on: `ADDRESS:PORT`, `localhost:PORT`, or `:PORT` for every IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddr(pub SocketAddr);

/// A number of shards; 0 or `auto` is one per usable core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct ShardCount(pub u16);

/// A kind of packet port: `auto`, `udp`, `uring` or `xdp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct PortChoice(pub weir_xdp::ladder::Choice);

/// Values from the command line or from the environment; what is `None` leaves the layer below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data-dir`, `WEIR_DATA_DIR`.
    pub data_dir: Option<PathBuf>,
    /// `--http`, `WEIR_HTTP`.
    pub http: Option<ListenAddr>,
    /// `--https`, `WEIR_HTTPS`.
    pub https: Option<ListenAddr>,
    /// `--quic`, `WEIR_QUIC`.
    pub quic: Option<ListenAddr>,
    /// `--rtmp`, `WEIR_RTMP`.
    pub rtmp: Option<ListenAddr>,
    /// `--rtmps`, `WEIR_RTMPS`.
    pub rtmps: Option<ListenAddr>,
    /// `--srt`, `WEIR_SRT`.
    pub srt: Option<ListenAddr>,
    /// `--whip`, `WEIR_WHIP`.
    pub whip: Option<ListenAddr>,
    /// `--shards`, `WEIR_SHARDS`.
    pub shards: Option<ShardCount>,
    /// `WEIR_PORT`.
    pub port: Option<PortChoice>,
    /// `WEIR_INTERFACE`.
    pub interface: Option<String>,
    /// `--moqt-drafts`, `WEIR_MOQT_DRAFTS` (separated by commas).
    pub moqt_drafts: Option<Drafts>,
    /// `WEIR_DRAIN_NEW_URI`.
    pub drain_new_uri: Option<NewUri>,
    /// `WEIR_DRAIN_DEADLINE`.
    pub drain_deadline: Option<Deadline>,
    /// `WEIR_PUBLIC_PLAYBACK` (separated by commas).
    pub public_playback: Option<PlaybackAddresses>,
    /// `--term`, `WEIR_TERM`.
    pub term: Option<u8>,
    /// `WEIR_PUBLIC_MEDIA` (separated by commas).
    pub public_media: Option<Vec<MediaAddress>>,
    /// `--open-interop`, `WEIR_OPEN_INTEROP` (separated by commas).
    pub open_interop: Option<Vec<OpenTree>>,
    /// `WEIR_SECCOMP`.
    pub seccomp: Option<Seccomp>,
    /// `--log-format`, `WEIR_LOG_FORMAT`.
    pub log_format: Option<LogFormat>,
    /// `--log`, `WEIR_LOG`.
    pub log: Option<String>,
    /// `--upstream`, `WEIR_UPSTREAM`: one or more, with commas between.
    pub upstream: Option<String>,
    /// `--node-key-file`, `WEIR_NODE_KEY_FILE`.
    pub node_key_file: Option<PathBuf>,
    /// `--node-id`, `WEIR_NODE_ID`.
    pub node_id: Option<String>,
    /// `--insecure`.
    pub insecure: Option<bool>,
}

/// Everything `weir up` runs with, checked and resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// Where state lives.
    pub data_dir: PathBuf,
    /// Whether to broadcast the demo.
    pub demo: bool,
    /// Where to write the ready file, if anywhere.
    pub ready_file: Option<PathBuf>,
    /// Host in URLs, if one is configured.
    pub public_host: Option<String>,
    /// Where publishers' media reaches it from outside.
    pub public_media: Vec<MediaAddress>,
    /// Every relay at which its broadcasts can be watched.
    pub public_playback: Vec<String>,
    /// The term in which it publishes.
    pub term: u8,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// How it is emptied, unless the order says otherwise.
    pub drain: Drain,
    /// Drafts of MoQT spoken, in order of preference.
    pub drafts: Vec<Draft>,
    /// Namespace trees that need no token; only ever on a loopback address.
    pub open_trees: Vec<Namespace>,
    /// Namespace trees that another relay serves, and its address.
    pub redirects: Vec<(Namespace, String)>,
    /// How much one token, viewer, address or broadcast may take.
    pub limits: Limits,
    /// What the process may ask of its host.
    pub security: Security,
    /// Shards, pins, listeners and links.
    pub topology: Topology,
}

/// Everything `weir relay` runs with, checked and resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Where the certificate lives.
    pub data_dir: PathBuf,
    /// Host in URLs, if one is configured.
    pub public_host: Option<String>,
    /// Every relay at which its broadcasts can be watched.
    pub public_playback: Vec<String>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// Shards, pins, listeners and links.
    pub topology: Topology,
    /// The relays above, in order of preference.
    pub upstreams: Vec<UpstreamUrl>,
    /// What lets it in there.
    pub node_key: NodeKey,
    /// Its id in hop lists.
    pub node_id: String,
    /// Where viewers go when it is drained, and for how long they may stay.
    pub drain: Drain,
    /// Drafts of MoQT spoken with viewers, in order of preference.
    pub drafts: Vec<Draft>,
    /// Namespace trees that another relay serves, and its address.
    pub redirects: Vec<(Namespace, String)>,
    /// How much one address, token or viewer may take.
    pub limits: Limits,
    /// What the process may ask of its host.
    pub security: Security,
    /// Whether any certificate of an upstream will do.
    pub insecure: bool,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// PEM files of the operator.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Made and renewed by Weir in the data directory.
    SelfSigned {
        /// Names beside localhost, 127.0.0.1 and `::1`.
        names: Vec<String>,
    },
}

/// The parts of `weir up` that only its command line has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpFlags {
    /// `--demo`.
    pub demo: bool,
    /// `--ready-file`.
    pub ready_file: Option<PathBuf>,
}

/// A mistake of the operator: which key or file, what is wrong, and (in [`Error::help`]) the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable does not parse.
    #[error("{name}: {reason}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not valid TOML, has an unknown key, or a value of the wrong kind.
    #[error("{path}, line {line}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Only one of certificate and key is given.
    #[error("tls.certificate and tls.key belong together, only one is set")]
    HalfCertificate,
    /// A name that cannot stand in a certificate or a URL.
    #[error("{key}: {value:?} is not a host name or an IP address")]
    Host {
        /// The key in the file.
        key: &'static str,
        /// The value found.
        value: String,
    },
    /// A tree without tokens on an address that others can reach.
    #[error("interop.open needs no token, and listen.quic = {address} is not a loopback address")]
    OpenToOthers {
        /// Where QUIC would listen.
        address: SocketAddr,
    },
    /// An edge without anything above it.
    #[error("no upstream: an edge needs at least one relay above it")]
    NoUpstream,
    /// More upstreams than are kept connected.
    #[error("{0} upstreams, at most {max} are possible", max = mesh::UPSTREAMS_MAX)]
    TooManyUpstreams(usize),
    /// A text that is no upstream.
    #[error(transparent)]
    Upstream(#[from] mesh::InvalidUrl),
    /// An edge that nobody would let in.
    #[error("no node key: upstreams let no relay in without one")]
    NoNodeKey,
    /// A text that is no node key; not quoted.
    #[error(transparent)]
    NodeKey(#[from] mesh::key::InvalidNodeKey),
    /// A node id that cannot stand in hop lists.
    #[error("relay.node_id: {0:?} has other than letters, digits, -, _ and .")]
    NodeId(String),
    /// The parts do not fit together.
    #[error(transparent)]
    Topology(#[from] topology::Error),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            listen: Listen::default(),
            moqt: Moqt::default(),
            shards: Shards::default(),
            tls: Tls::default(),
            public: Public::default(),
            drain: Drain::default(),
            interop: Interop::default(),
            limits: Limits::default(),
            security: Security::default(),
            log: Log::default(),
            engine: Engine::default(),
            relay: Relay::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let on = |ip: Ipv4Addr, port| ListenAddr(SocketAddr::from((ip, port)));
        Self {
            http: on(Ipv4Addr::LOCALHOST, 8080),
            https: on(Ipv4Addr::UNSPECIFIED, 4443),
            quic: on(Ipv4Addr::UNSPECIFIED, 4443),
            rtmp: on(Ipv4Addr::UNSPECIFIED, 1935),
            rtmps: on(Ipv4Addr::UNSPECIFIED, 1936),
            srt: on(Ipv4Addr::UNSPECIFIED, 8890),
            whip: on(Ipv4Addr::UNSPECIFIED, 8891),
        }
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            count: ShardCount(0),
            pin: true,
            port: PortChoice::default(),
            interface: String::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

impl Config {
    /// Merges all layers: defaults, then the file, then the environment, then the command line.
    pub fn load(
        file: Option<&Path>,
        environment: &Overrides,
        command_line: &Overrides,
    ) -> Result<Self, Error> {
        let mut config = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
                Self::parse(&text, path)?
            }
            None => Self::default(),
        };
        config.apply(environment);
        config.apply(command_line);
        Ok(config)
    }

    /// Parses the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start).min(text.len());
            Error::File {
                path: path.to_owned(),
                line: 1 + text.as_bytes()[..offset].split(|byte| *byte == b'\n').skip(1).count(),
                reason: error.message().replace('\n', " "),
            }
        })
    }

    /// Lays one layer over this configuration.
    pub fn apply(&mut self, over: &Overrides) {
        set(&mut self.data_dir, over.data_dir.as_ref());
        set(&mut self.listen.http, over.http.as_ref());
        set(&mut self.listen.https, over.https.as_ref());
        set(&mut self.listen.quic, over.quic.as_ref());
        set(&mut self.listen.rtmp, over.rtmp.as_ref());
        set(&mut self.listen.rtmps, over.rtmps.as_ref());
        set(&mut self.listen.srt, over.srt.as_ref());
        set(&mut self.listen.whip, over.whip.as_ref());
        set(&mut self.shards.count, over.shards.as_ref());
        set(&mut self.shards.port, over.port.as_ref());
        set(&mut self.shards.interface, over.interface.as_ref());
        set(&mut self.moqt.drafts, over.moqt_drafts.as_ref());
        set(&mut self.drain.new_uri, over.drain_new_uri.as_ref());
        set(&mut self.drain.deadline, over.drain_deadline.as_ref());
        set(&mut self.interop.open, over.open_interop.as_ref());
        set(&mut self.public.media, over.public_media.as_ref());
        set(&mut self.security.seccomp, over.seccomp.as_ref());
        set(&mut self.public.playback, over.public_playback.as_ref());
        set(&mut self.engine.term, over.term.as_ref());
        set(&mut self.log.format, over.log_format.as_ref());
        set(&mut self.log.filter, over.log.as_ref());
        if let Some(upstream) = &over.upstream {
            self.relay.upstream = upstream.split(',').map(|url| url.trim().to_owned()).collect();
        }
        if over.node_key_file.is_some() {
            self.relay.node_key_file.clone_from(&over.node_key_file);
        }
        set(&mut self.relay.node_id, over.node_id.as_ref());
        set(&mut self.relay.insecure, over.insecure.as_ref());
    }

    /// Checks the configuration as a whole and resolves it for this host.
    pub fn resolve(&self, flags: UpFlags, host: &HostFacts) -> Result<Up, Error> {
        let quic = self.listen.quic.0;
        if !self.interop.open.is_empty() && !quic.ip().is_loopback() {
            return Err(Error::OpenToOthers { address: quic });
        }
        Ok(Up {
            data_dir: self.data_dir.clone(),
            demo: flags.demo,
            ready_file: flags.ready_file,
            public_host: self.public_host()?,
            public_media: self.public.media.clone(),
            public_playback: self.public.playback.list(),
            term: self.engine.term,
            certificate: self.certificate()?,
            drain: self.drain.clone(),
            drafts: self.moqt.drafts.list().to_vec(),
            open_trees: self.interop.open.iter().map(|tree| tree.0.clone()).collect(),
            redirects: self.moqt.redirects.list(),
            limits: self.limits.clone(),
            security: self.security,
            topology: topology::resolve(self, host)?,
        })
    }

    /// The same for an edge. `key` is the node key given in words, which wins over the file.
    pub fn resolve_edge(&self, key: Option<String>, host: &HostFacts) -> Result<Edge, Error> {
        let relay = &self.relay;
        if relay.upstream.is_empty() {
            return Err(Error::NoUpstream);
        }
        if relay.upstream.len() > mesh::UPSTREAMS_MAX {
            return Err(Error::TooManyUpstreams(relay.upstream.len()));
        }
        let upstreams = relay.upstream.iter().map(|url| UpstreamUrl::parse(url));
        let upstreams = upstreams.collect::<Result<_, _>>()?;
        let key = match (key, &relay.node_key_file) {
            (Some(key), _) => key,
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|source| Error::Unreadable { path: path.clone(), source })?,
            (None, None) => return Err(Error::NoNodeKey),
        };
        let node_id = if relay.node_id.is_empty() {
            let mut drawn = [0; 4];
            aws_lc_rs::rand::fill(&mut drawn).expect("the system's random generator answers");
            format!("edge-{:08x}", u32::from_be_bytes(drawn))
        } else {
            relay.node_id.clone()
        };
        if !mesh::is_node_id(&node_id) {
            return Err(Error::NodeId(node_id));
        }
        Ok(Edge {
            data_dir: self.data_dir.clone(),
            public_host: self.public_host()?,
            public_playback: self.public.playback.list(),
            certificate: self.certificate()?,
            topology: topology::resolve(self, host)?,
            upstreams,
            node_key: NodeKey::parse(&key)?,
            node_id,
            drain: self.drain.clone(),
            drafts: self.moqt.drafts.list().to_vec(),
            redirects: self.moqt.redirects.list(),
            limits: self.limits.clone(),
            security: self.security,
            insecure: relay.insecure,
        })
    }

    fn certificate(&self) -> Result<CertificateSource, Error> {
        let certificate = match (&self.tls.certificate, &self.tls.key) {
            (Some(certificate), Some(key)) => {
                CertificateSource::Files { certificate: certificate.clone(), key: key.clone() }
            }
            (None, None) => {
                for name in &self.tls.names {
                    check_host("tls.names", name)?;
                }
                let mut names = self.tls.names.clone();
                names.extend(self.public_host()?);
                CertificateSource::SelfSigned { names }
            }
            _ => return Err(Error::HalfCertificate),
        };
        Ok(certificate)
    }

    /// The configured host for URLs, checked; `None` when it is to be derived.
    pub fn public_host(&self) -> Result<Option<String>, Error> {
        let host = self.public.host.as_str();
        if host.is_empty() {
            return Ok(None);
        }
        check_host("public.host", host)?;
        Ok(Some(host.to_owned()))
    }
}

impl Overrides {
    /// Reads the environment through `variable`, which is the process's own or a test's.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        fn parsed<T: FromStr<Err: fmt::Display>>(
            value: Option<String>,
            name: &'static str,
        ) -> Result<Option<T>, Error> {
            value
                .map(|text| {
                    text.parse().map_err(|reason: T::Err| Error::Environment {
                        name,
                        reason: reason.to_string(),
                    })
                })
                .transpose()
        }
        // An empty variable is an unset one, as scripts often leave them.
        let get = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        Ok(Self {
            data_dir: get("WEIR_DATA_DIR").map(PathBuf::from),
            http: parsed(get("WEIR_HTTP"), "WEIR_HTTP")?,
            https: parsed(get("WEIR_HTTPS"), "WEIR_HTTPS")?,
            quic: parsed(get("WEIR_QUIC"), "WEIR_QUIC")?,
            rtmp: parsed(get("WEIR_RTMP"), "WEIR_RTMP")?,
            rtmps: parsed(get("WEIR_RTMPS"), "WEIR_RTMPS")?,
            srt: parsed(get("WEIR_SRT"), "WEIR_SRT")?,
            whip: parsed(get("WEIR_WHIP"), "WEIR_WHIP")?,
            shards: parsed(get("WEIR_SHARDS"), "WEIR_SHARDS")?,
            port: parsed(get("WEIR_PORT"), "WEIR_PORT")?,
            interface: get("WEIR_INTERFACE"),
            moqt_drafts: parsed(get("WEIR_MOQT_DRAFTS"), "WEIR_MOQT_DRAFTS")?,
            drain_new_uri: parsed(get("WEIR_DRAIN_NEW_URI"), "WEIR_DRAIN_NEW_URI")?,
            drain_deadline: parsed(get("WEIR_DRAIN_DEADLINE"), "WEIR_DRAIN_DEADLINE")?,
            public_playback: parsed(get("WEIR_PUBLIC_PLAYBACK"), "WEIR_PUBLIC_PLAYBACK")?,
            term: parsed(get("WEIR_TERM"), "WEIR_TERM")?,
            public_media: parsed::<MediaAddresses>(get("WEIR_PUBLIC_MEDIA"), "WEIR_PUBLIC_MEDIA")?
                .map(|addresses| addresses.0),
            open_interop: parsed::<OpenTrees>(get("WEIR_OPEN_INTEROP"), "WEIR_OPEN_INTEROP")?
                .map(|trees| trees.0),
            seccomp: parsed(get("WEIR_SECCOMP"), "WEIR_SECCOMP")?,
            log_format: parsed(get("WEIR_LOG_FORMAT"), "WEIR_LOG_FORMAT")?,
            log: get("WEIR_LOG"),
            upstream: get("WEIR_UPSTREAM"),
            node_key_file: get("WEIR_NODE_KEY_FILE").map(PathBuf::from),
            node_id: get("WEIR_NODE_ID"),
            insecure: None,
        })
    }
}

impl Error {
    /// The line that says what to do.
    pub fn help(&self) -> String {
        match self {
            Self::Environment { name, .. } => format!("correct {name} or unset it"),
            Self::Unreadable { .. } => "check the path given with --config and its rights".into(),
            Self::File { .. } => "`weir config print` shows every key with its meaning".into(),
            Self::HalfCertificate => "set both, or neither for a self-signed certificate".into(),
            Self::Host { .. } => "write a name such as live.example.com, without a port".into(),
            Self::OpenToOthers { .. } => {
                "listen on this machine only (--quic 127.0.0.1:4443), or leave --open-interop out"
                    .into()
            }
            Self::NoUpstream | Self::TooManyUpstreams(_) | Self::Upstream(_) => {
                "write --upstream moqt://HOST:PORT[,moqt://HOST:PORT…]".into()
            }
            Self::NoNodeKey | Self::NodeKey(_) => {
                "`weir node-key create --name NAME` on the engine; give it by --node-key-file"
                    .into()
            }
            Self::NodeId(_) => "write a short name such as edge-fra-1".into(),
            Self::Topology(error) => error.help(),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = |host: &str| match host {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            "" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            _ => None,
        };
        let named = text
            .rsplit_once(':')
            .and_then(|(host, port)| Some(SocketAddr::new(local(host)?, port.parse().ok()?)));
        named
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not ADDRESS:PORT, such as 127.0.0.1:8080"))
    }
}

impl TryFrom<String> for ListenAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(0));
        }
        text.parse().map(Self).map_err(|_| format!("{text:?} is not a number of shards or `auto`"))
    }
}

impl FromStr for PortChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for PortChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not one of auto, human, json")),
        }
    }
}

fn set<T: Clone>(held: &mut T, over: Option<&T>) {
    if let Some(value) = over {
        held.clone_from(value);
    }
}

/// Host names go into certificates and URLs, so only letters, digits, hyphens and dots, or an IP.
fn check_host(key: &'static str, value: &str) -> Result<(), Error> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = value.len() <= 253 && value.split('.').all(label);
    if name || value.parse::<IpAddr>().is_ok() {
        Ok(())
    } else {
        Err(Error::Host { key, value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("weir.toml"))
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        assert_eq!(parse(MANUAL).expect("the shipped file parses"), Config::default());
    }

    #[test]
    fn every_commented_out_key_of_the_manual_is_accepted() {
        let text: String = MANUAL
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = \"/") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&text).expect("the examples parse");
        assert!(config.tls.certificate.is_some() && config.tls.key.is_some());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = parse("data_dir = \"x\"\n[listen]\nhtpp = \"1.2.3.4:5\"\n").expect_err("typo");
        let text = error.to_string();
        assert!(text.starts_with("weir.toml, line 3: unknown field `htpp`"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_bad_address_is_refused_with_an_example() {
        let error = parse("[listen]\nhttp = \"8080\"\n").expect_err("no port");
        assert!(error.to_string().contains("is not ADDRESS:PORT"), "{error}");
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_both_over_the_file() {
        let mut config =
            parse("data_dir = \"file\"\n[listen]\nhttp = \":1\"\nrtmp = \":1\"\nquic = \":1\"\n")
                .expect("valid");
        let environment = Overrides::from_environment(|name| match name {
            "WEIR_HTTP" => Some("localhost:2".into()),
            "WEIR_RTMP" => Some("localhost:2".into()),
            "WEIR_SHARDS" => Some("auto".into()),
            "WEIR_LOG" => Some(String::new()),
            _ => None,
        })
        .expect("valid");
        let command_line =
            Overrides { http: Some(":3".parse().expect("address")), ..Overrides::default() };
        config.apply(&environment);
        config.apply(&command_line);
        assert_eq!(config.data_dir, Path::new("file"));
        assert_eq!(config.listen.quic.0.to_string(), "0.0.0.0:1");
        assert_eq!(config.listen.rtmp.0.to_string(), "127.0.0.1:2");
        assert_eq!(config.listen.http.0.to_string(), "0.0.0.0:3");
        assert_eq!(config.log.filter, "info");
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error =
            Overrides::from_environment(|name| (name == "WEIR_SHARDS").then(|| "many".to_owned()))
                .expect_err("not a number");
        assert!(error.to_string().starts_with("WEIR_SHARDS: "), "{error}");
        assert!(error.help().contains("WEIR_SHARDS"));
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let mut config = Config::default();
        config.tls.certificate = Some("cert.pem".into());
        let host = HostFacts { cores: vec![0] };
        assert!(matches!(config.resolve(UpFlags::default(), &host), Err(Error::HalfCertificate)));
    }

    #[test]
    fn a_public_host_is_a_name_or_an_address_only() {
        for good in ["live.example.com", "192.0.2.1", "2001:db8::1", "a"] {
            assert!(check_host("public.host", good).is_ok(), "{good}");
        }
        for bad in ["a b", "https://x", "x:443", "x/../y", "-a", "", "ä.example"] {
            assert!(check_host("public.host", bad).is_err(), "{bad}");
        }
    }
}
