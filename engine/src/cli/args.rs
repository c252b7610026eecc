//! The command line as clap sees it: names, flags and their help, nothing that acts.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use weir_control::{Ingest, InputId, NodeKeyId, Passphrase, PublisherPolicy, SigningKeyId};
use weir_moqt::Draft;

use crate::config::{
    Deadline, Drafts, ListenAddr, LogFormat, NewUri, OpenTree, Overrides, ShardCount, UpFlags,
    parse_duration,
};

#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "Live streaming on your own machines: RTMP in, MoQT out")]
#[command(disable_help_subcommand = true)]
pub(super) struct Weir {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Configuration file; `weir config print` shows one with every key explained
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where the database and the certificate live [default: data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// auto, human or json
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: a level, or a list of target=level [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

/// How a node starts the keeper of its privileges.
pub const KEEPER_COMMAND: &str = "keeper";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run all roles on this machine
    Up(Up),
    /// Run an edge: a relay below an engine or below another relay
    Relay(Relay),
    /// Create, list and revoke the keys that let edges in
    #[command(subcommand)]
    NodeKey(NodeKey),
    /// Create keys for the API and the console
    #[command(subcommand)]
    ApiKey(ApiKey),
    /// Create and list live inputs
    #[command(subcommand)]
    Input(Input),
    /// Mint playback tokens
    #[command(subcommand)]
    Token(Token),
    /// Create, list and deactivate the keys that sign playback tokens
    #[command(subcommand)]
    SigningKey(SigningKey),
    /// Play a broadcast into a file
    Play(Play),
    /// Publish a fragmented MP4 to an input with ingest fmp4
    Publish(Publish),
    /// Empty the node that runs on a data directory, and end it
    Drain(Drain),
    /// Check what this machine needs to be fast, set it, and take it back
    #[command(subcommand)]
    Host(Host),
    /// Hold the network privileges of a node; started by the node itself
    #[command(hide = true, name = KEEPER_COMMAND)]
    Keeper,
    /// Show and check the configuration
    #[command(subcommand)]
    Config(Config),
}

#[derive(Debug, Args)]
pub(super) struct Up {
    /// Pages, metrics and health without encryption [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<ListenAddr>,
    /// The same over HTTPS [default: 0.0.0.0:4443]
    #[arg(long, value_name = "ADDR")]
    https: Option<ListenAddr>,
    /// WebTransport and raw MoQT, over UDP [default: 0.0.0.0:4443]
    #[arg(long, value_name = "ADDR")]
    quic: Option<ListenAddr>,
    /// RTMP from encoders [default: 0.0.0.0:1935]
    #[arg(long, value_name = "ADDR")]
    rtmp: Option<ListenAddr>,
    /// RTMP inside TLS from encoders [default: 0.0.0.0:1936]
    #[arg(long, value_name = "ADDR")]
    rtmps: Option<ListenAddr>,
    /// SRT from encoders, over UDP [default: 0.0.0.0:8890]
    #[arg(long, value_name = "ADDR")]
    srt: Option<ListenAddr>,
    /// Media of WHIP publishers, over UDP [default: 0.0.0.0:8891]
    #[arg(long, value_name = "ADDR")]
    whip: Option<ListenAddr>,
    /// Pinned threads that carry the traffic; 0 or auto is one per core [default: auto]
    #[arg(long, value_name = "N")]
    shards: Option<ShardCount>,
    /// Drafts of MoQT spoken, the preferred one first [default: 22,21,20,19,18,16,14]
    #[arg(long, value_name = "N,…")]
    moqt_drafts: Option<Drafts>,
    /// Open the namespaces under PREFIX (fields joined by /; without it all but Weir's own) to
    /// anybody without a token, for trying out other programs; QUIC must be on a loopback address
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "*")]
    open_interop: Vec<OpenTree>,
    /// The term in which this engine publishes; of two engines with the same store and the same inputs, the one that
    /// stands by has the higher one [default: 0]
    #[arg(long, value_name = "N")]
    term: Option<u8>,
    /// Broadcast a moving clock and a tone, so that there is something to see
    #[arg(long)]
    demo: bool,
    /// Write addresses and fresh credentials to this file (JSON, mode 0600) once serving
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Relay {
    /// Relays above this one, in order of preference: moqt://HOST:PORT, with commas between
    #[arg(long, value_name = "URL[,URL]")]
    upstream: Option<String>,
    /// The node key itself; better in the environment or in a file, since arguments are visible to all
    #[arg(long, value_name = "KEY", env = "WEIR_NODE_KEY", hide_env_values = true)]
    pub(super) node_key: Option<String>,
    /// File with the node key
    #[arg(long, value_name = "FILE")]
    node_key_file: Option<PathBuf>,
    /// Name of this node in hop lists, logs and metrics [default: drawn at each start]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Accept any certificate of an upstream
    #[arg(long)]
    insecure: bool,
    /// Pages, metrics and health without encryption [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<ListenAddr>,
    /// The same over HTTPS [default: 0.0.0.0:4443]
    #[arg(long, value_name = "ADDR")]
    https: Option<ListenAddr>,
    /// WebTransport and raw MoQT, over UDP [default: 0.0.0.0:4443]
    #[arg(long, value_name = "ADDR")]
    quic: Option<ListenAddr>,
    /// Pinned threads that carry the traffic; 0 or auto is one per core [default: auto]
    #[arg(long, value_name = "N")]
    shards: Option<ShardCount>,
    /// Drafts of MoQT spoken with viewers, the preferred one first [default: 22,21,20,19,18,16,14]
    #[arg(long, value_name = "N,…")]
    moqt_drafts: Option<Drafts>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The node key stays out.
        f.debug_struct("Relay").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeKey {
    /// Create a node key; it is shown this once
    Create {
        /// Name shown to people
        #[arg(long)]
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List node keys, oldest first
    List,
    /// Cut off the nodes of a key, now and for good
    Revoke {
        /// Id of the key, ndk_…
        id: NodeKeyId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ApiKey {
    /// Create a key with all rights, replacing an earlier one of this name; it is shown this once
    Create {
        /// Name shown to people
        #[arg(long)]
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Input {
    /// Create a live input; its stream key is shown this once
    Create {
        /// Name shown to people
        #[arg(long)]
        name: String,
        /// What it is fed by: rtmp (RTMPS too), srt, whip, or fmp4 (CMAF over MoQT)
        #[arg(long, default_value = "rtmp")]
        ingest: Ingest,
        /// What happens to a second publisher while the first is alive: refuse or takeover
        #[arg(long, default_value = "refuse")]
        policy: PublisherPolicy,
        /// How long viewers are held when the publisher goes, such as 30s or 5m; at most 1h
        #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = parse_duration)]
        reconnect_window: Duration,
        /// SRT publishers must encrypt: auto makes a passphrase, or give one of 10 to 79 letters, digits and -._~
        #[arg(long, value_name = "auto|TEXT", value_parser = parse_passphrase)]
        passphrase: Option<Passphrase>,
        /// Bytes of the key that SRT publishers are told to use
        #[arg(long, default_value = "16", value_parser = parse_key_bytes)]
        pbkeylen: u8,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show an input with its settings and its state
    Show {
        /// Id of the input, lv_…
        id: InputId,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show how the input's publisher is doing, with what to change at the encoder
    Health {
        /// Id of the input, lv_…
        id: InputId,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change settings of an input; the key stays, the next publisher meets them
    Set {
        /// Id of the input, lv_…
        id: InputId,
        /// Name shown to people
        #[arg(long)]
        name: Option<String>,
        /// What it is fed by: rtmp (RTMPS too), srt, whip, or fmp4 (CMAF over MoQT)
        #[arg(long)]
        ingest: Option<Ingest>,
        /// What happens to a second publisher while the first is alive: refuse or takeover
        #[arg(long)]
        policy: Option<PublisherPolicy>,
        /// How long viewers are held when the publisher goes, such as 30s or 5m; at most 1h
        #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
        reconnect_window: Option<Duration>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List live inputs
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Replace the stream key of an input, and with --passphrase what SRT publishers encrypt with; shown this once
    RotateKey {
        /// Id of the input, lv_…
        id: InputId,
        /// auto makes a passphrase, or give one of 10 to 79 letters, digits and -._~; none ends encryption
        #[arg(long, value_name = "auto|TEXT|none", value_parser = parse_change)]
        passphrase: Option<PassphraseChange>,
        /// Bytes of the key that SRT publishers are told to use
        #[arg(long, default_value = "16", value_parser = parse_key_bytes)]
        pbkeylen: u8,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What becomes of a passphrase.
#[derive(Debug, Clone)]
pub(super) enum PassphraseChange {
    New(Passphrase),
    None,
}

fn parse_change(text: &str) -> Result<PassphraseChange, String> {
    match text {
        "none" => Ok(PassphraseChange::None),
        text => parse_passphrase(text).map(PassphraseChange::New),
    }
}

fn parse_passphrase(text: &str) -> Result<Passphrase, String> {
    match text {
        "auto" => Ok(Passphrase::generate()),
        text => Passphrase::parse(text)
            .ok_or_else(|| "a passphrase has 10 to 79 letters, digits and -._~".to_owned()),
    }
}

fn parse_key_bytes(text: &str) -> Result<u8, String> {
    match text {
        "16" => Ok(16),
        "24" => Ok(24),
        "32" => Ok(32),
        _ => Err("a key has 16, 24 or 32 bytes".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Mint a token that lets its holder watch one input
    Mint {
        /// Id of the input, lv_…
        id: InputId,
        /// Life of the token, such as 90s, 15m or 1h30m; kept within 30s to 24h
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// Viewer it is for: all tokens of a viewer can be revoked together
        #[arg(long, value_name = "ID")]
        vid: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Refuse tokens from now on, and end the sessions they opened
    Revoke {
        #[command(flatten)]
        what: Which,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The token with this id; `token mint` prints it
    #[arg(long, value_name = "ID")]
    pub(super) jti: Option<String>,
    /// All tokens of this viewer issued up to now
    #[arg(long, value_name = "ID")]
    pub(super) vid: Option<String>,
    /// All tokens whose version (claim `ver`) is lower
    #[arg(long, value_name = "N")]
    pub(super) ver: Option<u64>,
    /// The token on standard input, so that it shows in no process list
    #[arg(long)]
    pub(super) token_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum SigningKey {
    /// Create a key; tokens are signed by it from now on
    Create,
    /// List keys, oldest first
    List,
    /// Refuse the tokens of a key from now on, and end the sessions they opened
    Deactivate {
        /// Id of the key, sgk_…
        kid: SigningKeyId,
    },
}

#[derive(Debug, Args)]
pub(super) struct Play {
    /// Playback URL: https:// for WebTransport, moqt:// for raw QUIC
    url: String,
    /// Another relay that has the broadcast, such as https://HOST:PORT, for when the first one falls silent; may be
    /// given several times
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    also: Vec<String>,
    /// Stop after this long, such as 10 (seconds) or 2m
    #[arg(long, value_name = "S", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Write one fragmented MP4 to this file, `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    insecure: bool,
    /// Speak this draft of MoQT only: 14, 16 or 18 to 22 [default: the newest both sides speak]
    #[arg(long, value_name = "N", value_parser = parse_draft)]
    draft: Option<Draft>,
}

#[derive(Args)]
pub(super) struct Publish {
    /// Fragmented MP4 file, `-` for standard input
    file: PathBuf,
    /// Publish URL: https:// for WebTransport, moqt:// for raw QUIC
    url: String,
    /// Begin again at the end of the file, without a seam
    #[arg(long = "loop")]
    looped: bool,
    /// Accept any certificate
    #[arg(long)]
    insecure: bool,
    /// Speak this draft of MoQT only: 14, 16 or 18 to 22 [default: the newest both sides speak]
    #[arg(long, value_name = "N", value_parser = parse_draft)]
    draft: Option<Draft>,
}

impl std::fmt::Debug for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL holds the key.
        f.debug_struct("Publish").field("file", &self.file).finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Where viewers and publishers are sent: https://HOST:PORT or moqt://HOST:PORT
    /// [default: the node's `drain.new_uri`]
    #[arg(long, value_name = "URI")]
    pub(super) new_uri: Option<NewUri>,
    /// How long they may take, such as 30s or 5m [default: the node's `drain.deadline`]
    #[arg(long, value_name = "SPAN")]
    pub(super) deadline: Option<Deadline>,
    /// Give the order and return; the node goes on by itself
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Print one JSON object each time something changes
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Host {
    /// Show each thing, what it is set to and what it should be; changes nothing, exit code 1 if something is missing
    Check {
        /// Interfaces to look at; again for more [default: all with hardware behind them]
        #[arg(long, value_name = "NAME")]
        interface: Vec<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Set what is not as it should be, until the machine starts again, and record what was changed
    Init {
        /// Interfaces to set up; again for more [default: all with hardware behind them]
        #[arg(long, value_name = "NAME")]
        interface: Vec<String>,
        /// The record
        #[arg(long, value_name = "FILE", default_value = HOST_RECORD)]
        state: PathBuf,
    },
    /// Set back what init changed, unless somebody else has changed it since
    Undo {
        /// The record
        #[arg(long, value_name = "FILE", default_value = HOST_RECORD)]
        state: PathBuf,
    },
}

/// Where `weir host init` keeps what it changed: for the host, not for one data directory of it.
const HOST_RECORD: &str = "/var/lib/weir/host.json";

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print the configuration file with every key, its default and its meaning
    Print,
    /// Check a file together with the environment, and say what would run
    Check {
        /// The file; --config and `WEIR_CONFIG` name it as well
        file: Option<PathBuf>,
    },
}

/// What `weir play` was asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct PlayOptions {
    /// Playback URL, token included.
    pub url: String,
    /// Other relays that have the broadcast.
    pub also: Vec<String>,
    /// When to stop; without it, at the end of the broadcast.
    pub duration: Option<Duration>,
    /// Where the MP4 goes.
    pub output: PlayOutput,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// The only draft spoken.
    pub draft: Option<Draft>,
}

/// What `weir publish` was asked for. No `Debug`: the URL holds the key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublishOptions {
    /// What is published.
    pub source: PublishSource,
    /// Publish URL, key included.
    pub url: String,
    /// Whether it begins again at its end.
    pub looped: bool,
    /// Whether any certificate will do.
    pub insecure: bool,
    /// The only draft spoken.
    pub draft: Option<Draft>,
}

/// Where `weir publish` reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishSource {
    /// A file.
    File(PathBuf),
    /// Standard input, as fast as it comes.
    Stdin,
}

impl From<Publish> for PublishOptions {
    fn from(publish: Publish) -> Self {
        let Publish { file, url, looped, insecure, draft } = publish;
        let source =
            if file.as_os_str() == "-" { PublishSource::Stdin } else { PublishSource::File(file) };
        Self { source, url, looped, insecure, draft }
    }
}

/// Where `weir play` writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlayOutput {
    /// Nowhere: only counts and latencies are wanted.
    Discard,
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl std::fmt::Debug for PlayOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("PlayOptions")
            .field("url", &format_args!("{place}?…"))
            .field("also", &self.also.len())
            .field("duration", &self.duration)
            .field("output", &self.output)
            .field("insecure", &self.insecure)
            .field("draft", &self.draft)
            .finish()
    }
}

impl From<Play> for PlayOptions {
    fn from(play: Play) -> Self {
        Self {
            url: play.url,
            also: play.also,
            duration: play.duration,
            output: match play.output {
                None => PlayOutput::Discard,
                Some(path) if path.as_os_str() == "-" => PlayOutput::Stdout,
                Some(path) => PlayOutput::File(path),
            },
            insecure: play.insecure,
            draft: play.draft,
        }
    }
}

impl Weir {
    /// The flags that override lower layers of the configuration.
    pub(super) fn overrides(&self) -> Overrides {
        let common = &self.common;
        let mut overrides = Overrides {
            data_dir: common.data_dir.clone(),
            log_format: common.log_format,
            log: common.log.clone(),
            ..Overrides::default()
        };
        if let Command::Up(up) = &self.command {
            overrides.http = up.http;
            overrides.https = up.https;
            overrides.quic = up.quic;
            overrides.rtmp = up.rtmp;
            overrides.term = up.term;
            overrides.rtmps = up.rtmps;
            overrides.srt = up.srt;
            overrides.whip = up.whip;
            overrides.shards = up.shards;
            overrides.moqt_drafts.clone_from(&up.moqt_drafts);
            overrides.open_interop =
                Some(up.open_interop.clone()).filter(|trees| !trees.is_empty());
        }
        if let Command::Relay(relay) = &self.command {
            overrides.http = relay.http;
            overrides.https = relay.https;
            overrides.quic = relay.quic;
            overrides.shards = relay.shards;
            overrides.moqt_drafts.clone_from(&relay.moqt_drafts);
            overrides.upstream.clone_from(&relay.upstream);
            overrides.node_key_file.clone_from(&relay.node_key_file);
            overrides.node_id.clone_from(&relay.node_id);
            overrides.insecure = relay.insecure.then_some(true);
        }
        overrides
    }
}

impl Up {
    pub(super) fn flags(&self) -> UpFlags {
        UpFlags { demo: self.demo, ready_file: self.ready_file.clone() }
    }
}

fn parse_draft(text: &str) -> Result<Draft, String> {
    text.parse()
        .ok()
        .and_then(Draft::from_number)
        .ok_or_else(|| format!("{text:?} is not 14, 16 or 18 to 22"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Weir, clap::Error> {
        Weir::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Weir::command().debug_assert();
    }

    #[test]
    fn up_takes_every_address_and_flag() {
        let weir = parse(
            "weir up --data-dir /d --http 127.0.0.1:1 --https :2 --quic [::]:3 --rtmp localhost:4 \
             --rtmps :5 --srt :6 --whip :7 --shards 2 --moqt-drafts 18,22 --demo --ready-file /r",
        )
        .expect("valid");
        let overrides = weir.overrides();
        assert_eq!(overrides.data_dir, Some("/d".into()));
        let port = |addr: Option<ListenAddr>| addr.map(|addr| addr.0.port());
        assert_eq!(port(overrides.http), Some(1));
        assert_eq!(port(overrides.https), Some(2));
        assert_eq!(port(overrides.quic), Some(3));
        assert_eq!(port(overrides.rtmp), Some(4));
        assert_eq!(port(overrides.rtmps), Some(5));
        assert_eq!(port(overrides.srt), Some(6));
        assert_eq!(port(overrides.whip), Some(7));
        assert_eq!(overrides.shards, Some(ShardCount(2)));
        assert_eq!(overrides.open_interop, None);
        assert_eq!(overrides.moqt_drafts, Some("18,22".parse().expect("drafts")));
        let Command::Up(up) = weir.command else { unreachable!("the line says up") };
        assert_eq!(up.flags(), UpFlags { demo: true, ready_file: Some("/r".into()) });
    }

    #[test]
    fn open_interop_takes_prefixes_or_stands_for_all_of_them() {
        let open = |line: &str| parse(line).map(|weir| weir.overrides().open_interop);
        let tree = |text: &str| text.parse::<OpenTree>().expect("a tree");
        assert_eq!(open("weir up --open-interop --demo").expect("valid"), Some(vec![tree("*")]));
        let two = open("weir up --open-interop a/b --open-interop c").expect("valid");
        assert_eq!(two, Some(vec![tree("a/b"), tree("c")]));
        assert!(open("weir up --open-interop stream/acme").is_err());
    }

    #[test]
    fn play_knows_its_outputs_and_hides_the_token() {
        let options = |line: &str| match parse(line).expect("valid").command {
            Command::Play(play) => PlayOptions::from(play),
            _ => unreachable!("the line says play"),
        };
        let url = "https://h:1/playback/lv_1?tok=secret";
        let to_file = options(&format!("weir play {url} --duration 10 -o out.mp4 --insecure"));
        assert_eq!(to_file.duration, Some(Duration::from_secs(10)));
        assert_eq!(to_file.output, PlayOutput::File("out.mp4".into()));
        assert!(to_file.insecure && to_file.url == url);
        assert!(!format!("{to_file:?}").contains("secret"));
        assert_eq!(options(&format!("weir play {url} -o -")).output, PlayOutput::Stdout);
        assert_eq!(options(&format!("weir play {url}")).output, PlayOutput::Discard);
    }

    #[test]
    fn an_id_of_the_wrong_kind_is_refused_while_parsing() {
        assert!(parse("weir token mint sgk_00000000000000000000000000").is_err());
        assert!(parse("weir input create --name x --ingest carrier-pigeon").is_err());
        assert!(parse("weir token mint lv_00000000000000000000000000 --ttl 1h --json").is_ok());
        assert!(parse("weir token revoke --vid anna").is_ok());
        assert!(parse("weir token revoke --vid anna --jti j1").is_err(), "one at a time");
        assert!(parse("weir token revoke").is_err(), "nothing named");
    }
}
