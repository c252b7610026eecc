//! A storm of joins while others watch: what the watching ones get before it and during it, side by side, and how long the
//! joining ones wait for their first media. Owns the two spans; the wire belongs to the parts beside it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use weir_moqt::Draft;

use super::content::{Content, Shape};
use super::generator::Generator;
use super::load::{Relay, targets};
use super::{DRAIN, tls};
use crate::process::Cost;
use crate::run::Quantiles;

/// One storm.
#[derive(Clone)]
pub struct Options {
    /// Under load.
    pub relay: Relay,
    /// Its process.
    pub pid: u32,
    /// Those who watch all the time and check every byte.
    pub watching: u32,
    /// Those who come.
    pub joining: u32,
    /// In this time.
    pub within: Duration,
    /// Of all sessions.
    pub draft: Draft,
    /// The broadcast.
    pub shape: Shape,
    /// Of the content.
    pub seed: u64,
}

/// What those who watch got in one span.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// Objects they should have got.
    pub expected: u64,
    /// Those that did not come.
    pub lost: u64,
    /// Those that came damaged.
    pub corrupt: u64,
    /// Data streams that the relay gave up.
    pub groups_reset: u64,
    /// Against the schedule.
    pub latency_ms: Quantiles,
    /// Processor time of the relay.
    pub cpu_seconds: f64,
    /// Its memory at the end.
    pub resident_bytes: u64,
}

/// Both spans.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Those who watched.
    pub watching: u32,
    /// Those who came.
    pub joining: u32,
    /// In this time.
    pub seconds: f64,
    /// Without joins.
    pub calm: Span,
    /// With them.
    pub storm: Span,
    /// Those who had media at the end.
    pub joined: u32,
    /// From setting out to the first media.
    pub join_ms: Quantiles,
    /// Processor time of the relay for each join: the storm's less the calm's.
    pub cpu_ms_per_join: f64,
    /// Sessions that ended, of either kind.
    pub sessions_lost: u32,
    /// Why the first of them did.
    pub first_loss: Option<String>,
    /// Share of a core the generator used in the storm.
    pub generator_cores: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        writeln!(f, "{} watch, {} join in {:.1} s", self.watching, self.joining, self.seconds)?;
        for (name, span) in [("calm", &self.calm), ("storm", &self.storm)] {
            writeln!(
                f,
                "{name:<6} {:>8} objects, {} lost, {} damaged, {} groups dropped; latency p50 {} p99 {} max {} ms; relay {:.2} s, {} KB",
                span.expected,
                span.lost,
                span.corrupt,
                span.groups_reset,
                ms(span.latency_ms.p50),
                ms(span.latency_ms.p99),
                ms(span.latency_ms.max),
                span.cpu_seconds,
                span.resident_bytes / 1000
            )?;
        }
        write!(
            f,
            "joined {:>8}; first media after p50 {} p99 {} max {} ms; {:.2} ms of the relay's core for each; generator {:.0} % of a core",
            self.joined,
            ms(self.join_ms.p50),
            ms(self.join_ms.p99),
            ms(self.join_ms.max),
            self.cpu_ms_per_join,
            self.generator_cores * 100.0
        )?;
        if let Some(reason) = &self.first_loss {
            write!(f, "\n{} sessions were lost: {reason}", self.sessions_lost)?;
        }
        Ok(())
    }
}

/// Runs both spans.
pub fn run(options: &Options) -> Result<Outcome> {
    ensure!(options.watching >= 1 && options.joining >= 1, "somebody must watch, and join");
    let all = (options.watching + options.joining) as usize;
    let watching = options.watching as usize;
    let content = Content::new(options.shape, options.seed);
    let (targets, tls) = (targets(&options.relay, 1)?, tls::full_handshakes());
    let mut generator = Generator::new(targets, options.draft, content, all, false, tls)?;
    generator.check_only(watching);
    generator.connect_publisher()?;
    generator.connect_subscribers(watching, 16)?;
    generator.run_until(Instant::now() + Duration::from_secs(2))?;
    let calm = span(&mut generator, options, 0)?;
    generator.joins = crate::histogram::Histogram::default();
    let own = Cost::of(std::process::id())?;
    let storm = span(&mut generator, options, options.joining)?;
    let own = Cost::of(std::process::id())?.since(&own);
    let seconds = options.within.as_secs_f64();
    let joined = (watching..all).filter(|at| generator.is_live(*at)).count() as u32;
    let first_loss = generator.first_loss().map(str::to_owned);
    generator.close()?;
    Ok(Outcome {
        watching: options.watching,
        joining: options.joining,
        seconds,
        cpu_ms_per_join: (storm.cpu_seconds - calm.cpu_seconds) * 1e3 / f64::from(options.joining),
        calm,
        storm,
        joined,
        join_ms: Quantiles::of(&generator.joins),
        sessions_lost: generator.sessions_lost,
        first_loss,
        generator_cores: own.processor().as_secs_f64() / seconds,
    })
}

/// One span with so many joins, spread evenly over it.
fn span(generator: &mut Generator, options: &Options, joins: u32) -> Result<Span> {
    let shape = options.shape;
    let first = generator.next_object() + 1;
    let length = options.within.as_nanos() * u128::from(shape.objects_per_second) / 1_000_000_000;
    let window = first..first + (length as u64).max(1);
    let begins = generator.ledger.start + shape.due(window.start);
    let ends = generator.ledger.start + shape.due(window.end);
    let expected = (window.end - window.start) * u64::from(options.watching);
    generator.measure(window);
    generator.run_until(begins)?;
    let before = Cost::of(options.pid)?;
    for join in 0..joins {
        generator.run_until(begins + options.within * join / joins)?;
        generator.begin_subscriber()?;
    }
    generator.run_until(ends)?;
    let relay = Cost::of(options.pid)?.since(&before);
    let drained = Instant::now() + DRAIN;
    let all = (options.watching + joins) as usize;
    while Instant::now() < drained
        && (generator.ledger.objects + generator.ledger.corrupt < expected
            || (joins > 0 && !(0..all).all(|at| generator.is_live(at))))
    {
        generator.run_until(Instant::now() + Duration::from_millis(20))?;
    }
    let ledger = &generator.ledger;
    Ok(Span {
        expected,
        lost: expected.saturating_sub(ledger.objects + ledger.corrupt),
        corrupt: ledger.corrupt,
        groups_reset: ledger.groups_reset,
        latency_ms: Quantiles::of(&ledger.latency),
        cpu_seconds: relay.processor().as_secs_f64(),
        resident_bytes: relay.resident_bytes,
    })
}
