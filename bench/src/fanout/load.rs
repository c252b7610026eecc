//! One run against one relay, of ours or not: publishers, receivers that check every byte and stamp its latency, and
//! receivers that only acknowledge. Owns the phases of a run and its accounts; the wire belongs to the parts beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_moqt::Draft;

use super::content::{Content, Shape};
use super::generator::Generator;
use super::target::Target;
use super::{DRAIN, tls};
use crate::machine::{Core, receive_buffer_errors, waited_for_a_core};
use crate::process::Cost;
use crate::run::{Quantiles, Run, ratio};

/// Which relay.
#[derive(Clone)]
pub enum Relay {
    /// A running Weir, in whose data directory inputs and tokens are made.
    Weir(PathBuf),
    /// One where everybody may publish and subscribe.
    Open(SocketAddr),
}

/// One run.
#[derive(Clone)]
pub struct Options {
    /// Under load.
    pub relay: Relay,
    /// Its process.
    pub pid: u32,
    /// The core it has for itself.
    pub core: usize,
    /// Broadcasts, each watched by an equal share of the receivers.
    pub publishers: u32,
    /// Receivers.
    pub subscribers: u32,
    /// Those that check, at least one.
    pub checked: u32,
    /// Length of the measured span.
    pub span: Duration,
    /// From the last join to the span.
    pub warm_up: Duration,
    /// Draft of all sessions.
    pub draft: Draft,
    /// Every broadcast.
    pub shape: Shape,
    /// Nothing is published.
    pub idle: bool,
    /// Of the content.
    pub seed: u64,
}

/// Handshakes under way at once.
const RAMP: usize = 16;

/// Time for the first receivers to fill the relay's cache before memory is compared.
const CACHE_FILLS: Duration = Duration::from_secs(1);

pub(super) fn targets(relay: &Relay, publishers: u32) -> Result<Vec<Target>> {
    match relay {
        Relay::Weir(data_dir) => Target::several_in_data_dir(data_dir, publishers),
        Relay::Open(address) => Target::several_in_the_open(*address, publishers),
    }
}

/// Runs once.
pub fn run(options: &Options) -> Result<Run> {
    let shape = options.shape;
    ensure!(shape.group_objects >= 2 && shape.objects_per_second >= 1, "a group has two objects");
    ensure!(options.publishers >= 1, "somebody must publish");
    ensure!((1..=options.subscribers).contains(&options.checked), "at least one receiver checks");
    ensure!(options.publishers <= options.subscribers, "every broadcast needs a receiver");
    let targets = targets(&options.relay, options.publishers)?;
    let count = options.subscribers as usize;
    let content = Content::new(shape, options.seed);
    let tls = tls::full_handshakes();
    let mut generator = Generator::new(targets, options.draft, content, count, options.idle, tls)?;
    generator.check_only(options.checked as usize);
    generator.connect_publisher()?;
    generator.connect_subscribers(1, 1)?;
    generator.run_until(Instant::now() + CACHE_FILLS)?;
    let alone = Cost::of(options.pid)?;
    generator.connect_subscribers(count, RAMP)?;
    generator.run_until(Instant::now() + options.warm_up)?;

    let group_objects = u64::from(shape.group_objects);
    let first = (generator.next_object() / group_objects + 1) * group_objects;
    let length = options.span.as_nanos() * u128::from(shape.objects_per_second) / 1_000_000_000;
    let window = first..first + (length as u64).max(1);
    let start = generator.ledger.start;
    let (begins, ends) = (start + shape.due(window.start), start + shape.due(window.end));
    generator.measure(window.clone());
    generator.run_until(begins)?;
    let before = Accounts::read(options)?;
    let uplink = generator.uplink_bytes();
    generator.counting = true;
    generator.run_until(ends)?;
    generator.counting = false;
    let after = Accounts::read(options)?;
    let publisher_uplink_bytes = generator.uplink_bytes().saturating_sub(uplink);
    let objects = if options.idle { 0 } else { window.end - window.start };
    let expected = objects * u64::from(options.checked);
    let drained = Instant::now() + DRAIN;
    while generator.ledger.objects + generator.ledger.corrupt < expected && Instant::now() < drained
    {
        generator.run_until(Instant::now() + Duration::from_millis(20))?;
    }
    let first_loss = generator.first_loss().map(str::to_owned);
    generator.close()?;

    let ledger = &generator.ledger;
    let [checked, acknowledged] = generator.stream_bytes.map(|bytes| bytes as f64);
    // What receivers that only acknowledge got, counted in what those that check got.
    let all = 1.0 + ratio(acknowledged, checked).unwrap_or(0.0);
    let others = f64::from(options.subscribers - options.checked);
    let acknowledged_share = ratio(acknowledged, others)
        .zip(ratio(checked, f64::from(options.checked)))
        .and_then(|(one, other)| ratio(one, other));
    let elapsed = ends - begins;
    let seconds = elapsed.as_secs_f64();
    let share = |span: Duration| span.as_secs_f64() / seconds;
    let relay = after.relay.since(&before.relay);
    let core = after.core.since(&before.core);
    Ok(Run {
        subscribers: options.subscribers,
        checked: options.checked,
        publishers: options.publishers,
        seconds,
        objects: ledger.objects as f64 * all,
        payload_bytes: ledger.payload_bytes as f64 * all,
        cpu_seconds: relay.processor().as_secs_f64(),
        system_seconds: relay.system.as_secs_f64(),
        core_busy_seconds: core.busy.as_secs_f64(),
        generator_cores: share(after.own.since(&before.own).processor()),
        acknowledged_share,
        lost: expected.saturating_sub(ledger.objects + ledger.corrupt),
        corrupt: ledger.corrupt,
        duplicate: ledger.duplicate,
        groups_reset: ledger.groups_reset,
        sessions_lost: generator.sessions_lost,
        first_loss,
        receive_buffer_errors: after.buffer_errors.saturating_sub(before.buffer_errors),
        upstream_subscriptions: generator.upstream_subscriptions(),
        publisher_uplink_bytes,
        datagrams: 0,
        latency_ms: Quantiles::of(&ledger.latency),
        join_ms: Quantiles::of(&generator.joins),
        resident_bytes: [alone.resident_bytes, after.relay.resident_bytes],
        stolen_share: share(core.stolen),
        waited_share: share(after.waited.saturating_sub(before.waited)),
    })
}

/// Everything that is read at both ends of a span.
struct Accounts {
    relay: Cost,
    own: Cost,
    core: Core,
    waited: Duration,
    buffer_errors: u64,
}

impl Accounts {
    fn read(options: &Options) -> Result<Self> {
        Ok(Self {
            relay: Cost::of(options.pid)?,
            own: Cost::of(std::process::id())?,
            core: Core::of(options.core)?,
            waited: waited_for_a_core().unwrap_or_default(),
            buffer_errors: receive_buffer_errors(),
        })
    }
}
