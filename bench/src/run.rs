//! One measured run, as the program that measured it says it to the one that compares: what was delivered, what it cost
//! the relay by two accounts, what speaks against quoting it. Owns the arithmetic of a single run; pairs and intervals
//! are [`crate::statistics`]'s.

use serde::{Deserialize, Serialize};

/// Above this share of a core the generator itself may be what is measured.
pub const GENERATOR_SHARE_MAX: f64 = 0.8;

/// Above this share of stolen time, or of time in which work waited for a core, a run says nothing.
const STOLEN_SHARE_MAX: f64 = 0.05;

/// Receivers that only acknowledge must get as many bytes as those that check, but for what is on its way at the edges
/// of the span.
const ACKNOWLEDGED_SHARE_MIN: f64 = 0.97;

/// What came out of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Run {
    /// Receivers.
    pub subscribers: u32,
    /// Those of them that checked every byte.
    pub checked: u32,
    /// Broadcasts.
    pub publishers: u32,
    /// Length of the span.
    pub seconds: f64,
    /// Objects to all receivers; those of receivers that only acknowledge follow from their bytes.
    pub objects: f64,
    /// Payload to all receivers, in the same way.
    pub payload_bytes: f64,
    /// Processor time of the relay's threads.
    pub cpu_seconds: f64,
    /// The part of it spent in the kernel.
    pub system_seconds: f64,
    /// Time in which the relay's core did anything, interrupts included.
    pub core_busy_seconds: f64,
    /// Share of a core the generator used.
    pub generator_cores: f64,
    /// Bytes on data streams of receivers that only acknowledge, to those of receivers that check, each for one receiver.
    pub acknowledged_share: Option<f64>,
    /// Objects that should have come and did not.
    pub lost: u64,
    /// Objects that came with a wrong byte.
    pub corrupt: u64,
    /// Objects that came twice.
    pub duplicate: u64,
    /// Data streams that the relay gave up.
    pub groups_reset: u64,
    /// Sessions that ended.
    pub sessions_lost: u32,
    /// Why the first of them did.
    pub first_loss: Option<String>,
    /// Datagrams the kernel dropped at full receive buffers.
    pub receive_buffer_errors: u64,
    /// SUBSCRIBEs the publishers saw.
    pub upstream_subscriptions: u32,
    /// Bytes the publishers sent.
    pub publisher_uplink_bytes: u64,
    /// Datagrams the limit program sent, from its start on.
    pub datagrams: u64,
    /// Object latency against the schedule, in milliseconds.
    pub latency_ms: Quantiles,
    /// From setting out to the first media, in milliseconds.
    pub join_ms: Quantiles,
    /// Memory of the relay before its second receiver, and at the end.
    pub resident_bytes: [u64; 2],
    /// Share of the span that the host took from the relay's core.
    pub stolen_share: f64,
    /// Share of the span in which work waited for a core, on the whole machine.
    pub waited_share: f64,
}

/// Of a distribution; `None` without samples.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: Option<f64>,
    /// Nine of ten.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1,000.
    pub p999: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

impl Quantiles {
    /// In milliseconds.
    pub fn of(histogram: &crate::histogram::Histogram) -> Self {
        let at = |share| histogram.quantile(share).map(|span| span.as_secs_f64() * 1e3);
        let max = (!histogram.is_empty()).then(|| histogram.max().as_secs_f64() * 1e3);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

impl Run {
    /// Gigabits of payload for each second of the relay's processor time.
    pub fn gbps_per_cpu_s(&self) -> Option<f64> {
        ratio(self.payload_bytes * 8.0 / 1e9, self.cpu_seconds)
    }

    /// The same for each second in which the relay's core was busy.
    pub fn gbps_per_core_busy_s(&self) -> Option<f64> {
        ratio(self.payload_bytes * 8.0 / 1e9, self.core_busy_seconds)
    }

    /// Milliseconds of processor time for each second of a receiver.
    pub fn cpu_ms_per_subscriber_s(&self) -> Option<f64> {
        ratio(self.cpu_seconds * 1e3, f64::from(self.subscribers) * self.seconds)
    }

    /// Memory for each receiver after the first, who paid for the cache.
    pub fn bytes_per_further_subscriber(&self) -> Option<f64> {
        let grown = self.resident_bytes[1].saturating_sub(self.resident_bytes[0]);
        ratio(grown as f64, f64::from(self.subscribers.checked_sub(1)?))
    }

    /// What speaks against quoting this run.
    pub fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        let mut object = |holds: bool, text: String| {
            if holds {
                objections.push(text);
            }
        };
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        object(
            self.generator_cores > GENERATOR_SHARE_MAX,
            format!("the generator used {} of a core", percent(self.generator_cores)),
        );
        object(self.lost > 0, format!("{} objects did not come", self.lost));
        object(self.corrupt > 0, format!("{} objects came damaged", self.corrupt));
        object(
            self.sessions_lost > 0,
            format!(
                "{} sessions were lost: {}",
                self.sessions_lost,
                self.first_loss.as_deref().unwrap_or("unknown")
            ),
        );
        object(
            self.receive_buffer_errors > 0,
            format!("receive buffers overflowed {} times", self.receive_buffer_errors),
        );
        object(
            self.acknowledged_share.is_some_and(|share| share < ACKNOWLEDGED_SHARE_MIN),
            format!(
                "receivers that only acknowledge got {} of the bytes",
                percent(self.acknowledged_share.unwrap_or_default())
            ),
        );
        object(
            self.stolen_share > STOLEN_SHARE_MAX,
            format!("the host took {} of the relay's core", percent(self.stolen_share)),
        );
        objections
    }
}

pub(crate) fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_run_follow_from_its_counts() {
        let run = Run {
            subscribers: 101,
            seconds: 10.0,
            payload_bytes: 1.25e9,
            cpu_seconds: 4.0,
            core_busy_seconds: 5.0,
            resident_bytes: [50_000_000, 60_000_000],
            ..Run::default()
        };
        assert_eq!(run.gbps_per_cpu_s(), Some(2.5));
        assert_eq!(run.gbps_per_core_busy_s(), Some(2.0));
        assert_eq!(run.bytes_per_further_subscriber(), Some(100_000.0));
        assert!(run.objections().is_empty());
        assert_eq!(Run::default().gbps_per_cpu_s(), None);
        assert_eq!(Run::default().bytes_per_further_subscriber(), None);
    }

    #[test]
    fn a_run_that_measured_something_else_says_so() {
        let run = Run {
            generator_cores: 0.9,
            lost: 1,
            acknowledged_share: Some(0.5),
            stolen_share: 0.2,
            receive_buffer_errors: 3,
            ..Run::default()
        };
        assert_eq!(run.objections().len(), 5, "{:?}", run.objections());
    }

    #[test]
    fn a_run_survives_its_way_between_programs() {
        let run = Run { subscribers: 7, latency_ms: Quantiles::default(), ..Run::default() };
        let text = serde_json::to_string(&run).expect("serializes");
        let back: Run = serde_json::from_str(&text).expect("parses");
        assert_eq!(back.subscribers, 7);
    }
}
