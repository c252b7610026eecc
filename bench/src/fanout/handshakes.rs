//! What a join costs a relay: connect, SETUP, SUBSCRIBE and its answer, and away again, as often as it takes them.
//! Handshakes are full or resumed; the certificates shown tell how many were which. Whether the relay asks for a Retry
//! first is its own setting.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustls::client::Resumption;
use serde::Serialize;
use weir_moqt::Draft;

use super::content::{Content, Shape};
use super::generator::Generator;
use super::load::{Relay, targets};
use super::tls;
use crate::process::Cost;
use crate::run::{Quantiles, ratio};

/// One measurement.
#[derive(Clone)]
pub struct Options {
    /// Under load.
    pub relay: Relay,
    /// Its process.
    pub pid: u32,
    /// Clients come back with a ticket of their last visit.
    pub resumed: bool,
    /// Under way at once.
    pub at_once: u32,
    /// Measured.
    pub span: Duration,
    /// Of all sessions.
    pub draft: Draft,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Sessions that got as far as an accepted subscription.
    pub joins: u64,
    /// Handshakes in which a certificate was shown.
    pub full: u64,
    /// Measured.
    pub seconds: f64,
    /// Processor time of the relay.
    pub cpu_seconds: f64,
    /// Joins for each second of it.
    pub joins_per_cpu_s: Option<f64>,
    /// From setting out to the answer.
    pub join_ms: Quantiles,
    /// Share of a core the generator used.
    pub generator_cores: f64,
    /// Sessions that ended before.
    pub sessions_lost: u32,
    /// Why the first of them did.
    pub first_loss: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
        write!(
            f,
            "{} joins in {:.1} s, {} of them with a full handshake; {} a CPU-second; p50 {} p99 {} ms; generator {:.0} % of a core",
            self.joins,
            self.seconds,
            self.full,
            number(self.joins_per_cpu_s),
            number(self.join_ms.p50),
            number(self.join_ms.p99),
            self.generator_cores * 100.0
        )?;
        if let Some(reason) = &self.first_loss {
            write!(f, "\n{} sessions were lost: {reason}", self.sessions_lost)?;
        }
        Ok(())
    }
}

/// Nothing is published, so the shape only has to be one.
const NOTHING: Shape =
    Shape { bits_per_second: 64_000, objects_per_second: 1, group_objects: 2, intra_factor: 1 };

/// Runs once.
pub fn run(options: &Options) -> Result<Outcome> {
    ensure!(options.at_once >= 1, "somebody must join");
    let at_once = options.at_once as usize;
    let resumption = if options.resumed {
        Resumption::in_memory_sessions(4 * at_once)
    } else {
        Resumption::disabled()
    };
    let (tls, shown) = tls::client(resumption);
    let targets = targets(&options.relay, 1)?;
    let content = Content::new(NOTHING, 1);
    let mut generator =
        // A client that went leaves its connection behind for a while (RFC 9000 §10.2).
        Generator::new(targets, options.draft, content, 64 * at_once + 4_096, true, tls)?;
    generator.connect_publisher()?;
    generator.connect_subscribers(at_once, at_once)?;
    // Tickets of the first visits arrive.
    generator.run_until(Instant::now() + Duration::from_millis(500))?;
    let mut joins = 0;
    generator.joins = crate::histogram::Histogram::default();
    let (relay, own) = (Cost::of(options.pid)?, Cost::of(std::process::id())?);
    let full = shown.load(Ordering::Relaxed);
    let begins = Instant::now();
    while begins.elapsed() < options.span {
        for at in 0..at_once {
            if generator.is_live(at) {
                generator.replace_subscriber(at)?;
                joins += 1;
            }
        }
        generator.run_until(Instant::now() + Duration::from_micros(200))?;
    }
    let seconds = begins.elapsed().as_secs_f64();
    let relay = Cost::of(options.pid)?.since(&relay).processor().as_secs_f64();
    let own = Cost::of(std::process::id())?.since(&own).processor().as_secs_f64();
    let full = shown.load(Ordering::Relaxed) - full;
    let first_loss = generator.first_loss().map(str::to_owned);
    generator.close()?;
    Ok(Outcome {
        joins,
        full,
        seconds,
        cpu_seconds: relay,
        joins_per_cpu_s: ratio(joins as f64, relay),
        join_ms: Quantiles::of(&generator.joins),
        generator_cores: own / seconds,
        sessions_lost: generator.sessions_lost,
        first_loss,
    })
}
