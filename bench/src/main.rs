//! `weir-bench`: measures a running Weir from outside. Owns the command line; the statistics are in the library.

mod compare;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use weir_bench::process::Cost;
use weir_bench::{fanout, ingest, netem};

#[derive(Parser)]
#[command(name = "weir-bench", about = "Measures a running Weir", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints what a process spends over a span: processor seconds, share of a core, resident memory.
    Cost {
        /// Process id, for instance of `weir up`.
        pid: u32,
        /// Length of the span in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Publishes a broadcast of known content to a running node, receives it N times, checks every byte, and prints
    /// what it cost the node.
    Fanout(Fanout),
    /// Publishes to a running node and prints what one ingested stream costs it, and how many a core carries.
    Ingest(Ingest),
    /// Relays UDP with loss, delay, jitter and reordering until it is killed; prints where it listens.
    Netem(Netem),
    /// Keeps a running node busy with groups, joins, leaves and viewers that stop reading, and prints how its memory
    /// and its open files go.
    Soak(Soak),
    /// One run against one relay on its own core, with receivers that check and receivers that only acknowledge; prints
    /// JSON.
    Load(compare::Load),
    /// Fan-out on a network in memory, for callgrind to count the relay's instructions; `make bench-instructions` calls it.
    Instructions(compare::Instructions),
    /// Who spends how many instructions for an object and a packet, from files of callgrind.
    InstructionsTable(compare::InstructionsTable),
    /// What sending the same bytes costs at least: the sending end; prints JSON.
    Limit(compare::Limit),
    /// The receiving end of the limit program.
    Sink(compare::Sink),
    /// Joins for each CPU-second: full or resumed handshakes.
    Handshakes(compare::Handshakes),
    /// A storm of joins while others watch: what those get, before and during it.
    Storm(compare::Storm),
    /// Weir beside moq-relay and the limit program; `make bench` calls it.
    Rivals(Box<compare::Rivals>),
    /// Writes table and plots of results files anew.
    Draw(compare::Draw),
    /// Fits a cost model to results files, and says what it means for machines and a million viewers.
    Model(compare::Machines),
}

#[derive(Args)]
struct Ingest {
    /// Data directory of the running node, in which inputs are made.
    #[arg(long)]
    data_dir: PathBuf,
    /// Process of the node, when several are named weir.
    #[arg(long)]
    pid: Option<u32>,
    /// What publishers speak.
    #[arg(long, value_enum, default_value = "rtmp")]
    protocol: ingest::Protocol,
    /// The ffmpeg that publishes over SRT and WHIP; WHIP needs version 8 or later.
    #[arg(long, default_value = "ffmpeg")]
    ffmpeg: PathBuf,
    /// Publishers at once.
    #[arg(long, default_value_t = 20)]
    streams: u32,
    /// Video bits a second of each, with k or M; several with commas between are measured in turn.
    #[arg(long, default_value = "2.5M,6M", value_delimiter = ',', value_parser = bits)]
    bitrate: Vec<u64>,
    /// Length of each measured span.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Netem {
    /// Where clients send to; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where their datagrams go.
    #[arg(long)]
    to: SocketAddr,
    /// Datagrams lost each way, in percent.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// How long each takes each way, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// At most so many milliseconds are added.
    #[arg(long, default_value_t = 0)]
    jitter: u64,
    /// Datagrams that come 10 ms later than those around them, in percent.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Seed of all chances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct Soak {
    /// Data directory of the running node, in which an input is made.
    #[arg(long)]
    data_dir: PathBuf,
    /// Process of the node, when several are named weir.
    #[arg(long)]
    pid: Option<u32>,
    /// Length of the run.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Viewers that come and go.
    #[arg(long, default_value_t = 40)]
    viewers: u32,
    /// Viewers that stop reading for seconds, again and again.
    #[arg(long, default_value_t = 4)]
    sleepers: u32,
    /// Mean stay of a viewer in seconds.
    #[arg(long, default_value_t = 8)]
    stay: u64,
    /// Payload bits a second, with k or M.
    #[arg(long, default_value = "1M", value_parser = bits)]
    bitrate: u64,
    /// Objects a second.
    #[arg(long, default_value_t = 40)]
    fps: u32,
    /// Objects in a group: few, so that groups are many.
    #[arg(long, default_value_t = 4)]
    group: u32,
    /// Seed of content and schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Fanout {
    /// Subscribers.
    #[arg(long)]
    subs: u32,
    /// Length of the measured span.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Data directory of the running node, in which an input is made.
    #[arg(long, required_unless_present = "url", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    /// Playback URL of an input nobody publishes to, with its token.
    #[arg(long, requires = "publish_url")]
    url: Option<String>,
    /// Publish URL of the same input: https://HOST:PORT/publish/ID?sk=KEY
    #[arg(long, requires = "url")]
    publish_url: Option<String>,
    /// Process of the relay, when several are named weir.
    #[arg(long)]
    pid: Option<u32>,
    /// Draft of all sessions.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u8).range(16..=22))]
    draft: u8,
    /// Payload bits a second, with k or M.
    #[arg(long, default_value = "5M", value_parser = bits)]
    bitrate: u64,
    /// Objects a second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Objects in a group; the first is ten times as large as the others.
    #[arg(long, default_value_t = 60)]
    group: u32,
    /// Seconds the first subscriber runs alone, until the relay's cache is full.
    #[arg(long, default_value_t = 10)]
    warm_up: u64,
    /// Handshakes under way at once.
    #[arg(long, default_value_t = 16)]
    ramp: usize,
    /// Publish nothing, and measure what subscribers cost while they wait.
    #[arg(long)]
    idle: bool,
    /// Seed of the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// `500k`, `2.5M`, `1200000`.
fn bits(text: &str) -> Result<u64> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) => (number, if text.ends_with('M') { 1e6 } else { 1e3 }),
        None => (text, 1.0),
    };
    let bits = number.parse::<f64>()? * factor;
    ensure!((1.0..1e12).contains(&bits), "not between 1 and 1,000,000 Mb/s");
    Ok(bits as u64)
}

fn ingested(args: &Ingest) -> Result<()> {
    for bitrate in &args.bitrate {
        let report = ingest::run(&ingest::Options {
            data_dir: args.data_dir.clone(),
            pid: args.pid,
            protocol: args.protocol,
            ffmpeg: args.ffmpeg.clone(),
            streams: args.streams,
            bitrate: *bitrate,
            span: Duration::from_secs(args.seconds),
        })?;
        let mut out = std::io::stdout().lock();
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            writeln!(out, "{report}")?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Cost { pid, seconds, json } => cost(pid, Duration::from_secs(seconds), json),
        Command::Fanout(options) => fan_out(options),
        Command::Ingest(options) => ingested(&options),
        Command::Netem(options) => relay(&options),
        Command::Soak(options) => soak(options),
        Command::Instructions(options) => compare::instructions(&options),
        Command::InstructionsTable(options) => compare::instructions_table(&options),
        Command::Load(options) => compare::load(&options),
        Command::Limit(options) => compare::limit(&options),
        Command::Sink(options) => compare::sink(&options),
        Command::Handshakes(options) => compare::handshakes(&options),
        Command::Storm(options) => compare::storm(&options),
        Command::Rivals(options) => compare::rivals(*options),
        Command::Draw(options) => compare::draw(&options),
        Command::Model(options) => compare::machines(&options),
    }
}

fn fan_out(args: Fanout) -> Result<()> {
    let target = match (args.data_dir, args.url, args.publish_url) {
        (Some(data_dir), _, _) => fanout::Where::DataDir(data_dir),
        (_, Some(playback), Some(publish)) => fanout::Where::Urls { publish, playback },
        _ => bail!("give --data-dir, or --url and --publish-url"),
    };
    let token = format!("moqt-{}", args.draft);
    let Some(draft) = weir_moqt::Draft::from_token(&token) else {
        bail!("draft {} is not spoken", args.draft);
    };
    let outcome = fanout::run(&fanout::Options {
        target,
        pid: args.pid,
        subscribers: args.subs,
        span: Duration::from_secs(args.seconds),
        warm_up: Duration::from_secs(args.warm_up),
        ramp: args.ramp,
        draft,
        shape: fanout::Shape {
            bits_per_second: args.bitrate,
            objects_per_second: args.fps,
            group_objects: args.group,
            intra_factor: 10,
        },
        seed: args.seed,
        idle: args.idle,
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        writeln!(out, "{outcome}")?;
    }
    Ok(())
}

fn relay(args: &Netem) -> Result<()> {
    let path = netem::Path {
        loss: args.loss / 100.0,
        delay: Duration::from_millis(args.delay),
        jitter: Duration::from_millis(args.jitter),
        reorder: args.reorder / 100.0,
        reorder_by: Duration::from_millis(10),
        duplicate: 0.0,
    };
    let (listen, target, seed) = (args.listen, args.to, args.seed);
    let relay =
        netem::Netem::start(netem::Options { listen, target, there: path, back: path, seed })?;
    writeln!(std::io::stdout(), "{}", relay.address())?;
    loop {
        std::thread::park();
    }
}

fn soak(args: Soak) -> Result<()> {
    let options = fanout::soak::Options {
        data_dir: args.data_dir,
        pid: args.pid,
        span: Duration::from_mins(args.minutes),
        viewers: args.viewers,
        sleepers: args.sleepers,
        stay: Duration::from_secs(args.stay),
        draft: weir_moqt::Draft::D18,
        shape: fanout::Shape {
            bits_per_second: args.bitrate,
            objects_per_second: args.fps,
            group_objects: args.group,
            intra_factor: 10,
        },
        seed: args.seed,
    };
    let outcome = fanout::soak::run(&options, std::io::stderr().lock())?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        writeln!(out, "{outcome}")?;
    }
    ensure!(outcome.flat, "memory or open files grow");
    Ok(())
}

fn cost(pid: u32, span: Duration, json: bool) -> Result<()> {
    ensure!(!span.is_zero(), "--seconds must be at least 1");
    let before = Cost::of(pid)?;
    std::thread::sleep(span);
    let spent = Cost::of(pid)?.since(&before);
    let share = spent.processor().as_secs_f64() / span.as_secs_f64();
    let mut out = std::io::stdout().lock();
    if json {
        let line = serde_json::json!({
            "pid": pid,
            "seconds": span.as_secs(),
            "user_s": spent.user.as_secs_f64(),
            "system_s": spent.system.as_secs_f64(),
            "cores": share,
            "resident_bytes": spent.resident_bytes,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "user {:.2} s, system {:.2} s, {:.1} % of a core, {} KB resident",
            spent.user.as_secs_f64(),
            spent.system.as_secs_f64(),
            share * 100.0,
            spent.resident_bytes / 1000
        )?;
    }
    Ok(())
}
