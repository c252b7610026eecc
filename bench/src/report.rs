//! One measurement of fan-out, as a person reads it and as a machine reads it. Owns the derived figures (rate per
//! processor second, memory per subscriber); the raw counts come from whoever measured.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::histogram::Histogram;
use crate::process::Cost;

/// Raw counts of one run with a fixed number of subscribers.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Subscribers that held a session for the whole run.
    pub subscribers: u32,
    /// Length of the measured span.
    pub elapsed: Duration,
    /// Objects whose content was checked and right.
    pub objects: u64,
    /// Payload bytes of those objects.
    pub payload_bytes: u64,
    /// Objects that should have come and did not.
    pub lost: u64,
    /// Objects whose content was wrong.
    pub corrupt: u64,
    /// Publisher's stamp to last byte received, per object.
    pub latency: Histogram,
    /// What the relay's process spent in the span, with its memory at the end.
    pub relay: Cost,
    /// The relay's memory before the first subscriber came.
    pub relay_idle_bytes: u64,
}

/// The figures that get quoted.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    subscribers: u32,
    #[serde(serialize_with = "as_seconds")]
    elapsed: Duration,
    objects: u64,
    payload_bytes: u64,
    lost: u64,
    corrupt: u64,
    delivered_gbps: f64,
    relay_cpu_seconds: f64,
    relay_system_share: f64,
    gbit_per_relay_cpu_second: Option<f64>,
    relay_cpu_us_per_object: Option<f64>,
    relay_cpu_ms_per_subscriber_second: Option<f64>,
    latency_p50_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
    latency_max_ms: f64,
    relay_bytes_per_subscriber: Option<u64>,
}

impl Counts {
    /// Derives the figures.
    pub fn report(&self) -> Report {
        let gbit = self.payload_bytes as f64 * 8.0 / 1e9;
        let cpu = self.relay.processor().as_secs_f64();
        let quantile = |share| self.latency.quantile(share).map(as_millis);
        let grown = self.relay.resident_bytes.saturating_sub(self.relay_idle_bytes);
        Report {
            subscribers: self.subscribers,
            elapsed: self.elapsed,
            objects: self.objects,
            payload_bytes: self.payload_bytes,
            lost: self.lost,
            corrupt: self.corrupt,
            delivered_gbps: ratio(gbit, self.elapsed.as_secs_f64()).unwrap_or_default(),
            relay_cpu_seconds: cpu,
            relay_system_share: ratio(self.relay.system.as_secs_f64(), cpu).unwrap_or_default(),
            gbit_per_relay_cpu_second: ratio(gbit, cpu),
            relay_cpu_us_per_object: ratio(cpu * 1e6, self.objects as f64),
            relay_cpu_ms_per_subscriber_second: ratio(
                cpu * 1e3,
                f64::from(self.subscribers) * self.elapsed.as_secs_f64(),
            ),
            latency_p50_ms: quantile(0.5),
            latency_p99_ms: quantile(0.99),
            latency_max_ms: as_millis(self.latency.max()),
            relay_bytes_per_subscriber: grown.checked_div(u64::from(self.subscribers)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        writeln!(f, "subscribers            {:>12}", self.subscribers)?;
        writeln!(f, "measured span          {:>12.1} s", self.elapsed.as_secs_f64())?;
        writeln!(f, "objects checked        {:>12}", self.objects)?;
        writeln!(f, "objects lost, corrupt  {:>12}, {}", self.lost, self.corrupt)?;
        writeln!(f, "delivered              {:>12.3} Gb/s", self.delivered_gbps)?;
        writeln!(
            f,
            "relay processor time   {:>12.2} s ({:.0} % in the kernel)",
            self.relay_cpu_seconds,
            self.relay_system_share * 100.0
        )?;
        writeln!(
            f,
            "per relay CPU-second   {:>12} Gb",
            or_dash(self.gbit_per_relay_cpu_second, 2)
        )?;
        writeln!(
            f,
            "per object delivered   {:>12} us of a core",
            or_dash(self.relay_cpu_us_per_object, 1)
        )?;
        writeln!(
            f,
            "per subscriber, second {:>12} ms of a core",
            or_dash(self.relay_cpu_ms_per_subscriber_second, 2)
        )?;
        writeln!(
            f,
            "object latency p50/p99 {:>12} / {} ms",
            or_dash(self.latency_p50_ms, 1),
            or_dash(self.latency_p99_ms, 1)
        )?;
        match self.relay_bytes_per_subscriber {
            Some(bytes) => write!(f, "memory per subscriber  {:>12} KB", bytes / 1000),
            None => write!(f, "memory per subscriber  {:>12}", "-"),
        }
    }
}

fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

fn as_millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn as_seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Counts {
        let mut latency = Histogram::default();
        for millis in 1..=100 {
            latency.record(Duration::from_millis(millis));
        }
        Counts {
            subscribers: 50,
            elapsed: Duration::from_secs(10),
            objects: 15_000,
            payload_bytes: 1_250_000_000,
            latency,
            relay: Cost {
                user: Duration::from_secs(3),
                system: Duration::from_secs(1),
                resident_bytes: 60_000_000,
            },
            relay_idle_bytes: 50_000_000,
            ..Counts::default()
        }
    }

    #[test]
    fn figures_follow_from_the_counts() {
        let report = counts().report();
        assert_eq!(report.gbit_per_relay_cpu_second, Some(2.5));
        assert!((report.delivered_gbps - 1.0).abs() < 1e-9);
        assert!((report.relay_system_share - 0.25).abs() < 1e-9);
        assert_eq!(report.relay_cpu_ms_per_subscriber_second, Some(8.0));
        let per_object = report.relay_cpu_us_per_object.expect("objects");
        assert!((per_object - 266.67).abs() < 0.01, "{per_object}");
        assert_eq!(report.relay_bytes_per_subscriber, Some(200_000));
        let p99 = report.latency_p99_ms.expect("samples");
        assert!((99.0..101.0).contains(&p99), "{p99}");
    }

    #[test]
    fn a_run_without_cost_or_subscribers_divides_by_nothing() {
        let report = Counts::default().report();
        assert_eq!(report.gbit_per_relay_cpu_second, None);
        assert_eq!(report.relay_bytes_per_subscriber, None);
        assert!(report.to_string().contains("per relay CPU-second              - Gb"), "{report}");
    }

    #[test]
    fn the_machine_form_names_its_units() {
        let json = serde_json::to_value(counts().report()).expect("serializes");
        assert_eq!(json["objects"], 15_000);
        assert_eq!(json["elapsed"], 10.0);
        assert_eq!(json["latency_max_ms"], 100.0);
    }
}
