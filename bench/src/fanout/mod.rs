//! What one broadcast to N viewers costs a relay. Publishes objects of known content through a running node, receives
//! them N times, compares every byte, and sets what arrived against the processor time of the relay. Owns the phases of
//! a measurement; the parts beside it own the wire.

mod content;
mod generator;
pub mod handshakes;
pub mod instructions;
pub mod load;
mod publisher;
pub mod soak;
pub mod storm;
mod subscriber;
mod target;
mod tls;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use weir_moqt::Draft;

pub use content::Shape;

use crate::machine::receive_buffer_errors;
use crate::process::Cost;
use crate::report::{Counts, Report};
use content::Content;
use generator::Generator;
use target::Target;

/// How long late objects may take after the last one was due before they count as lost.
const DRAIN: Duration = Duration::from_secs(5);

/// Above this share of a core the generator itself may be what is measured.
const GENERATOR_SHARE_MAX: f64 = 0.8;

/// Where to measure.
#[derive(Clone)]
pub enum Where {
    /// The data directory of a running node: an input and a token are made there.
    DataDir(PathBuf),
    /// Two URLs of one input, with their secrets.
    Urls {
        /// `…/publish/ID?sk=…`
        publish: String,
        /// `…/playback/ID?tok=…`
        playback: String,
    },
}

/// One measurement.
#[derive(Clone)]
pub struct Options {
    /// The relay.
    pub target: Where,
    /// Its process; found by name when not given.
    pub pid: Option<u32>,
    /// Subscribers.
    pub subscribers: u32,
    /// Length of the measured span.
    pub span: Duration,
    /// How long the first subscriber runs alone, so that the cache is full before memory is compared.
    pub warm_up: Duration,
    /// Handshakes under way at once.
    pub ramp: usize,
    /// Draft of all sessions.
    pub draft: Draft,
    /// The broadcast.
    pub shape: Shape,
    /// Seed of its content.
    pub seed: u64,
    /// Nothing is published: what accepted subscribers cost while they wait.
    pub idle: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The quoted figures.
    #[serde(flatten)]
    pub report: Report,
    draft: &'static str,
    bits_per_second: u64,
    objects_per_second: u32,
    objects_expected: u64,
    objects_duplicate: u64,
    groups_reset: u64,
    sessions_lost: u32,
    /// Why the first of those went.
    first_loss: Option<String>,
    upstream_subscriptions: u32,
    /// Bytes the publisher sent in the span, in whole datagrams: the same for every number of subscribers.
    publisher_uplink_bytes: u64,
    /// Memory for each subscriber after the first, who paid for the cache.
    relay_bytes_per_further_subscriber: Option<u64>,
    generator_cores: f64,
    /// Datagrams the kernel dropped at full receive buffers, on the whole machine.
    receive_buffer_errors: u64,
}

impl Outcome {
    /// What speaks against quoting this run.
    pub fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        if self.generator_cores > GENERATOR_SHARE_MAX {
            let share = self.generator_cores * 100.0;
            objections.push(format!("the generator used {share:.0} % of a core"));
        }
        if self.receive_buffer_errors > 0 {
            let lost = self.receive_buffer_errors;
            objections.push(format!("receive buffers overflowed {lost} times"));
        }
        if self.sessions_lost > 0 {
            let reason = self.first_loss.as_deref().unwrap_or("unknown");
            objections.push(format!("{} sessions were lost: {reason}", self.sessions_lost));
        }
        objections
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        if let Some(bytes) = self.relay_bytes_per_further_subscriber {
            writeln!(f, "  after the first      {:>12} KB", bytes / 1000)?;
        }
        writeln!(f, "objects expected       {:>12}", self.objects_expected)?;
        let (duplicate, reset) = (self.objects_duplicate, self.groups_reset);
        writeln!(f, "duplicate, groups reset{duplicate:>12}, {reset}")?;
        writeln!(f, "SUBSCRIBEs upstream    {:>12}", self.upstream_subscriptions)?;
        writeln!(f, "publisher's uplink     {:>12} KB", self.publisher_uplink_bytes / 1000)?;
        write!(f, "generator              {:>12.1} % of a core", self.generator_cores * 100.0)?;
        for objection in self.objections() {
            write!(f, "\nnot quotable: {objection}")?;
        }
        Ok(())
    }
}

/// Runs one measurement.
pub fn run(options: &Options) -> Result<Outcome> {
    let shape = options.shape;
    ensure!(shape.group_objects >= 2 && shape.objects_per_second >= 1, "a group has two objects");
    ensure!(options.subscribers >= 1, "--subs must be at least 1");
    let target = match &options.target {
        Where::DataDir(data_dir) => Target::in_data_dir(data_dir)?,
        Where::Urls { publish, playback } => Target::of_urls(publish, playback)?,
    };
    let pid = options.pid.map_or_else(find_relay, Ok)?;
    let content = Content::new(shape, options.seed);
    let count = options.subscribers as usize;
    let tls = tls::full_handshakes();
    let mut generator =
        Generator::new(vec![target], options.draft, content, count, options.idle, tls)?;

    generator.connect_publisher()?;
    let idle = Cost::of(pid)?;
    generator.connect_subscribers(1, 1)?;
    generator.run_until(Instant::now() + options.warm_up)?;
    let alone = Cost::of(pid)?;
    generator.connect_subscribers(count, options.ramp)?;

    // From a group boundary that is not due yet to one that is: every subscriber must get all of it.
    let group_objects = u64::from(shape.group_objects);
    let first = (generator.next_object() / group_objects + 1) * group_objects;
    let length = options.span.as_nanos() * u128::from(shape.objects_per_second) / 1_000_000_000;
    let window = first..first + (length as u64).max(1);
    generator.ledger.window = window.clone();
    let start = generator.ledger.start;
    let (begins, ends) = (start + shape.due(window.start), start + shape.due(window.end));
    generator.run_until(begins)?;
    let (relay_before, own_before) = (Cost::of(pid)?, Cost::of(std::process::id())?);
    let (errors_before, uplink_before) = (receive_buffer_errors(), generator.uplink_bytes());
    generator.run_until(ends)?;
    let relay = Cost::of(pid)?.since(&relay_before);
    let own = Cost::of(std::process::id())?.since(&own_before);
    let publisher_uplink_bytes = generator.uplink_bytes().saturating_sub(uplink_before);
    let objects = if options.idle { 0 } else { window.end - window.start };
    let expected = objects * u64::from(options.subscribers);
    let drained = Instant::now() + DRAIN;
    while generator.ledger.objects + generator.ledger.corrupt < expected && Instant::now() < drained
    {
        generator.run_until(Instant::now() + Duration::from_millis(20))?;
    }
    let receive_buffer_errors = receive_buffer_errors().saturating_sub(errors_before);
    let first_loss = generator.first_loss().map(str::to_owned);
    generator.close()?;

    let ledger = &generator.ledger;
    let elapsed = ends - begins;
    let counts = Counts {
        subscribers: options.subscribers,
        elapsed,
        objects: ledger.objects,
        payload_bytes: ledger.payload_bytes,
        lost: expected.saturating_sub(ledger.objects + ledger.corrupt),
        corrupt: ledger.corrupt,
        latency: ledger.latency.clone(),
        relay,
        relay_idle_bytes: idle.resident_bytes,
    };
    let grown = relay.resident_bytes.saturating_sub(alone.resident_bytes);
    Ok(Outcome {
        report: counts.report(),
        draft: options.draft.token(),
        bits_per_second: shape.bits_per_second,
        objects_per_second: shape.objects_per_second,
        objects_expected: expected,
        objects_duplicate: ledger.duplicate,
        groups_reset: ledger.groups_reset,
        sessions_lost: generator.sessions_lost,
        first_loss,
        upstream_subscriptions: generator.upstream_subscriptions(),
        publisher_uplink_bytes,
        relay_bytes_per_further_subscriber: grown
            .checked_div(u64::from(options.subscribers.saturating_sub(1))),
        generator_cores: own.processor().as_secs_f64() / elapsed.as_secs_f64(),
        receive_buffer_errors,
    })
}

/// The only process named `weir`.
pub(crate) fn find_relay() -> Result<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim() == "weir" {
            found.push(pid);
        }
    }
    match found[..] {
        [pid] => Ok(pid),
        [] => Err(anyhow!("no process named weir; give its id with --pid")),
        _ => Err(anyhow!("several processes are named weir ({found:?}); choose with --pid")),
    }
}
