//! The commands that compare relays, and the one that reasons from what they found. Owns their arguments; what they do is
//! the library's.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use weir_bench::callgrind;
use weir_bench::fanout::{self, handshakes, instructions, load, storm};
use weir_bench::limit;
use weir_bench::model::{self, Model, Site};
use weir_bench::rivals::contender::{Contender, Layout, Place};
use weir_bench::rivals::results::Results;
use weir_bench::rivals::{Plan, ROWS, by_name, run as compare};

use super::bits;

/// A broadcast.
#[derive(Args)]
struct Shape {
    /// Payload bits a second, with k or M.
    #[arg(long, default_value = "5M", value_parser = bits)]
    bitrate: u64,
    /// Objects a second.
    #[arg(long, default_value_t = 30)]
    fps: u32,
    /// Objects in a group.
    #[arg(long, default_value_t = 60)]
    group: u32,
    /// How many times as large as the others the first object of a group is.
    #[arg(long, default_value_t = 10)]
    intra: u32,
}

impl Shape {
    fn get(&self) -> fanout::Shape {
        fanout::Shape {
            bits_per_second: self.bitrate,
            objects_per_second: self.fps,
            group_objects: self.group,
            intra_factor: self.intra,
        }
    }
}

/// The relay under load.
#[derive(Args)]
struct Relay {
    /// Data directory of a running node, in which inputs are made.
    #[arg(long, required_unless_present = "open", conflicts_with = "open")]
    data_dir: Option<PathBuf>,
    /// A relay where everybody may publish and subscribe.
    #[arg(long)]
    open: Option<SocketAddr>,
    /// Its process.
    #[arg(long)]
    pid: u32,
    /// Draft of all sessions.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u8).range(16..=22))]
    draft: u8,
}

impl Relay {
    fn get(&self) -> Result<load::Relay> {
        match (&self.data_dir, self.open) {
            (Some(data_dir), _) => Ok(load::Relay::Weir(data_dir.clone())),
            (None, Some(address)) => Ok(load::Relay::Open(address)),
            (None, None) => Err(anyhow!("give --data-dir or --open")),
        }
    }

    fn draft(&self) -> Result<weir_moqt::Draft> {
        draft(self.draft)
    }
}

fn draft(number: u8) -> Result<weir_moqt::Draft> {
    weir_moqt::Draft::from_token(&format!("moqt-{number}"))
        .ok_or_else(|| anyhow!("draft {number} is not spoken"))
}

#[derive(Args)]
pub(super) struct Load {
    #[command(flatten)]
    relay: Relay,
    #[command(flatten)]
    shape: Shape,
    /// The core the relay has for itself.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Broadcasts.
    #[arg(long, default_value_t = 1)]
    publishers: u32,
    /// Receivers of all broadcasts.
    #[arg(long)]
    subs: u32,
    /// Those that check every byte; the others only acknowledge.
    #[arg(long)]
    checked: Option<u32>,
    /// Length of the measured span.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// From the last join to the span.
    #[arg(long, default_value_t = 5.0)]
    warm_up: f64,
    /// Publish nothing.
    #[arg(long)]
    idle: bool,
    /// Seed of the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub(super) struct Instructions {
    #[command(flatten)]
    shape: Shape,
    /// Receivers.
    #[arg(long, default_value_t = 10)]
    subs: u32,
    /// Objects published once all have joined.
    #[arg(long, default_value_t = 300)]
    objects: u64,
    /// Draft of all sessions.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u8).range(16..=22))]
    draft: u8,
    /// Seed of content and network.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn instructions(args: &Instructions) -> Result<()> {
    print(&instructions::run(&instructions::Options {
        subscribers: args.subs,
        draft: draft(args.draft)?,
        shape: args.shape.get(),
        objects: args.objects,
        seed: args.seed,
    })?)
}

#[derive(Args)]
pub(super) struct InstructionsTable {
    /// Files of callgrind, a shorter and a longer run of each size of object, the smallest first. Beside each lies what the
    /// run printed, under the same name and `.json`.
    #[arg(required = true, num_args = 4..)]
    files: Vec<PathBuf>,
    /// Functions in the second table.
    #[arg(long, default_value_t = 30)]
    functions: usize,
}

pub(super) fn instructions_table(args: &InstructionsTable) -> Result<()> {
    let read = |file: &PathBuf| -> Result<callgrind::Count> {
        let text = |path: PathBuf| {
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let mut beside = file.clone().into_os_string();
        beside.push(".json");
        Ok(callgrind::Count {
            counts: callgrind::read(&text(file.clone())?)?,
            tally: serde_json::from_str(&text(beside.into())?)?,
        })
    };
    let mut pairs = Vec::new();
    for pair in args.files.chunks(2) {
        let [short, long] = pair else { return Err(anyhow!("files come in pairs")) };
        pairs.push((read(short)?, read(long)?));
    }
    write!(std::io::stdout().lock(), "{}", callgrind::table(&pairs, args.functions)?)?;
    Ok(())
}

/// A span of seconds.
fn span(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).context("not a span of seconds")
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(value)?)?;
    Ok(())
}

pub(super) fn load(args: &Load) -> Result<()> {
    print(&load::run(&load::Options {
        relay: args.relay.get()?,
        pid: args.relay.pid,
        core: args.core,
        publishers: args.publishers,
        subscribers: args.subs,
        checked: args.checked.unwrap_or(args.subs),
        span: span(args.seconds)?,
        warm_up: span(args.warm_up)?,
        draft: args.relay.draft()?,
        shape: args.shape.get(),
        idle: args.idle,
        seed: args.seed,
    })?)
}

/// What is watched in a storm: light enough that one core of a small machine carries all who come.
const STORM: fanout::Shape = fanout::Shape {
    bits_per_second: 250_000,
    objects_per_second: 10,
    group_objects: 10,
    intra_factor: 4,
};

#[derive(Args)]
pub(super) struct Storm {
    #[command(flatten)]
    relay: Relay,
    /// Those who watch all the time.
    #[arg(long, default_value_t = 200)]
    watching: u32,
    /// Those who come.
    #[arg(long, default_value_t = 1_000)]
    joining: u32,
    /// Seconds in which they come.
    #[arg(long, default_value_t = 5.0)]
    within: f64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn storm(args: &Storm) -> Result<()> {
    let outcome = storm::run(&storm::Options {
        relay: args.relay.get()?,
        pid: args.relay.pid,
        watching: args.watching,
        joining: args.joining,
        within: span(args.within)?,
        draft: args.relay.draft()?,
        shape: STORM,
        seed: 1,
    })?;
    if args.json { print(&outcome) } else { Ok(writeln!(std::io::stdout(), "{outcome}")?) }
}

#[derive(Args)]
pub(super) struct Handshakes {
    #[command(flatten)]
    relay: Relay,
    /// Clients come back with a ticket.
    #[arg(long)]
    resumed: bool,
    /// Joins under way at once: 16, or 4 of those who come back, since a client keeps 8 tickets.
    #[arg(long)]
    at_once: Option<u32>,
    /// Length of the measured span.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn handshakes(args: &Handshakes) -> Result<()> {
    let outcome = handshakes::run(&handshakes::Options {
        relay: args.relay.get()?,
        pid: args.relay.pid,
        resumed: args.resumed,
        at_once: args.at_once.unwrap_or(if args.resumed { 4 } else { 16 }),
        span: span(args.seconds)?,
        draft: args.relay.draft()?,
    })?;
    if args.json { print(&outcome) } else { Ok(writeln!(std::io::stdout(), "{outcome}")?) }
}

#[derive(Args)]
pub(super) struct Limit {
    #[command(flatten)]
    shape: Shape,
    /// 0 sends, 1 seals as well, 2 takes ACKs as well.
    #[arg(long)]
    level: u8,
    /// Where the sink listens.
    #[arg(long)]
    to: SocketAddr,
    /// Receivers.
    #[arg(long)]
    subs: u32,
    /// Broadcasts.
    #[arg(long, default_value_t = 1)]
    publishers: u32,
    /// The core it runs on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Length of the measured span.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Before it.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

pub(super) fn limit(args: &Limit) -> Result<()> {
    print(&limit::run(&limit::Options {
        level: limit::Level::new(args.level)?,
        to: args.to,
        peers: args.subs,
        publishers: args.publishers,
        core: args.core,
        shape: args.shape.get(),
        warm_up: span(args.warm_up)?,
        span: span(args.seconds)?,
    })?)
}

#[derive(Args)]
pub(super) struct Sink {
    /// Where the limit program sends.
    #[arg(long)]
    listen: SocketAddr,
    /// As the limit program's.
    #[arg(long)]
    level: u8,
    /// Receivers.
    #[arg(long)]
    peers: u32,
}

pub(super) fn sink(args: &Sink) -> Result<()> {
    let level = limit::Level::new(args.level)?;
    let (silence, patience) = (Duration::from_secs(1), Duration::from_mins(1));
    print(&limit::sink(args.listen, level, args.peers, silence, patience)?)
}

#[derive(Args)]
pub(super) struct Rivals {
    /// Our program.
    #[arg(long)]
    weir: PathBuf,
    /// The rival's; without it only ours and the limit are measured.
    #[arg(long)]
    moq_relay: Option<PathBuf>,
    /// Further arguments of its best settings, with blanks between.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    moq_relay_arguments: String,
    /// NAMESPACE,INTERFACE,CORE,ADDRESS of the relay.
    #[arg(long, value_parser = place)]
    relay: Place,
    /// The same of publishers and receivers.
    #[arg(long, value_parser = place)]
    load: Place,
    /// Rows, with commas between; all of them without it.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Contenders, with commas between.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// Times each is measured.
    #[arg(long)]
    passes: Option<u32>,
    /// Seconds of each run.
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds before them.
    #[arg(long)]
    warm_up: Option<f64>,
    /// Numbers of receivers for the cost against N; 0 for none.
    #[arg(long, value_delimiter = ',')]
    curve: Vec<u32>,
    /// Rows only: no A/A, validity, handshakes and storm.
    #[arg(long)]
    only_rows: bool,
    /// A short session.
    #[arg(long)]
    quick: bool,
    /// Draft that everybody speaks.
    #[arg(long, default_value_t = 18)]
    draft: u8,
    /// Folder of results.
    #[arg(long)]
    out: PathBuf,
    /// Day and commit.
    #[arg(long)]
    name: String,
    /// How segments leave the relay's interface, for the record.
    #[arg(long, default_value = "by the interface")]
    segmentation: String,
}

fn place(text: &str) -> Result<Place> {
    let parts: Vec<&str> = text.split(',').collect();
    let [namespace, interface, core, address] = parts[..] else {
        return Err(anyhow!("not NAMESPACE,INTERFACE,CORE,ADDRESS"));
    };
    Ok(Place {
        namespace: namespace.to_owned(),
        interface: interface.to_owned(),
        core: core.parse()?,
        address: address.parse()?,
    })
}

pub(super) fn rivals(args: Rivals) -> Result<()> {
    let rows = if args.rows.is_empty() {
        ROWS.to_vec()
    } else {
        let find = |name: &String| by_name(name).ok_or_else(|| anyhow!("there is no row {name}"));
        args.rows.iter().map(find).collect::<Result<_>>()?
    };
    let named = if args.contenders.is_empty() {
        Contender::ALL.to_vec()
    } else {
        let find = |name: &String| {
            Contender::by_name(name).ok_or_else(|| anyhow!("there is no contender {name}"))
        };
        args.contenders.iter().map(find).collect::<Result<Vec<_>>>()?
    };
    let rival = |it: &Contender| matches!(it, Contender::MoqRelayBest | Contender::MoqRelayDefault);
    let contenders: Vec<_> =
        named.into_iter().filter(|it| args.moq_relay.is_some() || !rival(it)).collect();
    let curve = match (&args.curve[..], args.quick) {
        ([0], _) => Vec::new(),
        ([], true) => vec![10, 50, 200],
        ([], false) => vec![1, 10, 50, 100, 200, 400, 800],
        (curve, _) => curve.to_vec(),
    };
    let (passes, few_passes, seconds, warm_up) =
        if args.quick { (2, 1, 2.0, 1.0) } else { (8, 4, 10.0, 3.0) };
    let passes = args.passes.unwrap_or(passes);
    ensure!(passes >= 1, "at least one pass");
    let plan = Plan {
        layout: Layout {
            relay: args.relay,
            load: args.load,
            weir: args.weir,
            moq_relay: args.moq_relay,
            moq_relay_arguments: args
                .moq_relay_arguments
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            own: std::env::current_exe()?,
        },
        rows,
        contenders,
        passes,
        few_passes: few_passes.min(passes),
        span: span(args.seconds.unwrap_or(seconds))?,
        warm_up: span(args.warm_up.unwrap_or(warm_up))?,
        curve,
        around: !args.only_rows,
        draft: args.draft,
        out: args.out,
        name: args.name,
        quick: args.quick,
        segmentation: args.segmentation,
    };
    let results = compare(&plan, &mut std::io::stderr())?;
    writeln!(std::io::stdout(), "{}", results.table())?;
    let file = plan.out.join(format!("{}.json", plan.name));
    writeln!(std::io::stderr(), "written: {} and its table and plots", file.display())?;
    Ok(())
}

#[derive(Args)]
pub(super) struct Draw {
    /// Results files.
    #[arg(required = true)]
    results: Vec<PathBuf>,
}

/// Table and plots of results anew.
pub(super) fn draw(args: &Draw) -> Result<()> {
    for path in &args.results {
        let folder = path.parent().unwrap_or_else(|| std::path::Path::new("."));
        Results::read(path)?.write(folder)?;
    }
    Ok(())
}

#[derive(Args)]
pub(super) struct Machines {
    /// Results files.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Whose runs the model is fitted to.
    #[arg(long, default_value = "weir-udp")]
    contender: String,
    /// Cores of a machine, each like the measured one.
    #[arg(long, default_value_t = 32.0)]
    cores: f64,
    /// Gb/s of its interface.
    #[arg(long, default_value_t = 100.0)]
    nic: f64,
    /// Gigabytes for viewers.
    #[arg(long, default_value_t = 64.0)]
    memory: f64,
    /// Kilobytes for each viewer; as measured without it.
    #[arg(long)]
    viewer_kb: Option<f64>,
    /// Payload bits a second of the broadcast.
    #[arg(long, default_value = "5M", value_parser = bits)]
    bitrate: u64,
    /// Its objects a second.
    #[arg(long, default_value_t = 30.0)]
    fps: f64,
    /// Mean stay of a viewer in seconds.
    #[arg(long, default_value_t = 600.0)]
    stay: f64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Memory of a viewer that no results tell.
const VIEWER_BYTES: f64 = 64_000.0;

pub(super) fn machines(args: &Machines) -> Result<()> {
    let mut loads = Vec::new();
    let mut viewer_bytes = None;
    for path in &args.results {
        let results = Results::read(path)?;
        loads.extend(model::loads(&results, &args.contender));
        let own = results.curve.iter().filter(|it| it.contender == args.contender && !it.idle);
        let largest = own.max_by_key(|it| it.run.subscribers);
        viewer_bytes =
            largest.and_then(|it| it.run.bytes_per_further_subscriber()).or(viewer_bytes);
    }
    let model = Model::fit(&loads)?;
    let bytes_per_receiver =
        args.viewer_kb.map(|kb| kb * 1e3).or(viewer_bytes).unwrap_or(VIEWER_BYTES);
    let answer = model::plan(
        &model,
        &Site {
            cores: args.cores,
            gbps: args.nic,
            memory_gb: args.memory,
            bytes_per_receiver,
            bits_per_second: args.bitrate as f64,
            objects_per_second: args.fps,
            stay_seconds: args.stay,
        },
    )?;
    if args.json {
        return print(&serde_json::json!({ "model": model, "answer": answer }));
    }
    Ok(writeln!(std::io::stdout(), "{model}\n{answer}")?)
}
