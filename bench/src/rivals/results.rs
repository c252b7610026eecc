//! What a session found: one JSON file that holds everything, and the Markdown table that people read. Owns the form of
//! both and how medians and ratios follow from the runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::picture;
use super::rows::Row;
use crate::machine::Facts;
use crate::run::{Quantiles, Run};
use crate::statistics::{Interval, median, paired_ratio};

/// A session.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Results {
    /// Day and commit.
    pub name: String,
    /// A short session, which shows that the bench works.
    pub quick: bool,
    /// Where.
    pub host: Facts,
    /// How segments leave the relay's interface.
    pub segmentation: String,
    /// Of MoQT, in all sessions.
    pub draft: u8,
    /// Of each run.
    pub span_seconds: f64,
    /// Before it.
    pub warm_up_seconds: f64,
    /// Of each row.
    pub passes: u32,
    /// Command line of each contender.
    pub contenders: BTreeMap<String, String>,
    /// The same contender against itself: 1 but for noise.
    pub same_against_same: Option<Interval>,
    /// All receivers check, against one in ten does: 1 if receivers that only acknowledge are fair.
    pub checked_against_acknowledged: Option<Interval>,
    /// Each broadcast.
    pub rows: Vec<RowResult>,
    /// Cost against the number of receivers.
    pub curve: Vec<Point>,
    /// Full, resumed and with a Retry.
    pub handshakes: BTreeMap<String, serde_json::Value>,
    /// Joins while others watch.
    pub storm: Option<serde_json::Value>,
    /// The same of moq-relay.
    pub rival_storm: Option<serde_json::Value>,
    /// What did not come to an end.
    pub failures: Vec<String>,
}

/// A run with its place in the session.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Labelled {
    /// Who.
    pub contender: String,
    /// In which pass.
    pub pass: u32,
    /// What.
    #[serde(flatten)]
    pub run: Run,
    /// What speaks against quoting it.
    pub objections: Vec<String>,
}

/// A run of the cost against N.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Point {
    /// Who.
    pub contender: String,
    /// Nothing was published.
    pub idle: bool,
    /// What.
    #[serde(flatten)]
    pub run: Run,
    /// What speaks against quoting it.
    pub objections: Vec<String>,
}

/// One broadcast, all contenders.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct RowResult {
    /// Of the row.
    pub name: String,
    /// Of each broadcast.
    pub bits_per_second: u64,
    /// Of each broadcast.
    pub objects_per_second: u32,
    /// Broadcasts.
    pub publishers: u32,
    /// Receivers of all.
    pub subscribers: u32,
    /// Medians by the processor time of the relay.
    pub gbps_per_cpu_s: BTreeMap<String, f64>,
    /// Medians by the time the relay's core was busy, interrupts included.
    pub gbps_per_core_busy_s: BTreeMap<String, f64>,
    /// Medians.
    pub cpu_ms_per_subscriber_s: BTreeMap<String, f64>,
    /// Medians of the quantiles.
    pub latency_ms: BTreeMap<String, Quantiles>,
    /// Ours against whichever setting of moq-relay did better, pair by pair; by processor time.
    pub ratio_to_moq_relay: Option<f64>,
    /// Lower end of its interval.
    pub ratio_low: Option<f64>,
    /// Upper end.
    pub ratio_high: Option<f64>,
    /// The same by core-busy time.
    pub core_busy_ratio: Option<Interval>,
    /// Who stands above and below in the ratio.
    pub ratio_of: Option<[String; 2]>,
    /// Ours against the limit program with ACKs.
    pub eta: Option<f64>,
    /// Its interval.
    pub eta_interval: Option<Interval>,
    /// Everything.
    pub runs: Vec<Labelled>,
}

impl RowResult {
    /// From the runs of a row. A run with objections counts only if its contender has none without.
    pub fn of(row: Row, runs: Vec<Labelled>) -> Self {
        let mut result = Self {
            name: row.name.to_owned(),
            bits_per_second: row.shape.bits_per_second,
            objects_per_second: row.shape.objects_per_second,
            publishers: row.publishers,
            subscribers: row.subscribers,
            runs,
            ..Self::default()
        };
        let mut names: Vec<String> = result.runs.iter().map(|it| it.contender.clone()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let note = |map: &mut BTreeMap<String, f64>, of: fn(&Run) -> Option<f64>| {
                let values: Vec<f64> =
                    by_pass(&result.runs, &name, of).into_iter().flatten().collect();
                if let Some(value) = median(&values) {
                    map.insert(name.clone(), value);
                }
            };
            note(&mut result.gbps_per_cpu_s, Run::gbps_per_cpu_s);
            note(&mut result.gbps_per_core_busy_s, Run::gbps_per_core_busy_s);
            note(&mut result.cpu_ms_per_subscriber_s, Run::cpu_ms_per_subscriber_s);
            let at = |of: fn(&Run) -> Option<f64>| {
                let values: Vec<f64> =
                    by_pass(&result.runs, &name, of).into_iter().flatten().collect();
                median(&values)
            };
            let latency = Quantiles {
                p50: at(|run| run.latency_ms.p50),
                p90: at(|run| run.latency_ms.p90),
                p99: at(|run| run.latency_ms.p99),
                p999: at(|run| run.latency_ms.p999),
                max: at(|run| run.latency_ms.max),
            };
            if latency.p50.is_some() {
                result.latency_ms.insert(name.clone(), latency);
            }
        }
        result.compare();
        result
    }

    fn compare(&mut self) {
        let best = |prefix: &str| {
            self.gbps_per_cpu_s
                .iter()
                .filter(|(name, _)| name.starts_with(prefix))
                .max_by(|one, other| one.1.total_cmp(other.1))
                .map(|(name, _)| name.clone())
        };
        // Ours over plain sockets where it was measured, so that a row compares like with like.
        let ours = Some("weir-udp".to_owned())
            .filter(|name| self.gbps_per_cpu_s.contains_key(name))
            .or_else(|| best("weir-"));
        let Some(ours) = ours else { return };
        let above = by_pass(&self.runs, &ours, Run::gbps_per_cpu_s);
        if let Some(rival) = best("moq-relay") {
            let below = by_pass(&self.runs, &rival, Run::gbps_per_cpu_s);
            if let Some(ratio) = paired_ratio(&above, &below) {
                self.ratio_to_moq_relay = Some(ratio.median);
                self.ratio_low = Some(ratio.low);
                self.ratio_high = Some(ratio.high);
            }
            let above = by_pass(&self.runs, &ours, Run::gbps_per_core_busy_s);
            let below = by_pass(&self.runs, &rival, Run::gbps_per_core_busy_s);
            self.core_busy_ratio = paired_ratio(&above, &below);
            self.ratio_of = Some([ours, rival]);
        }
        let limit = by_pass(&self.runs, "limit-l2", Run::gbps_per_cpu_s);
        self.eta_interval = paired_ratio(&above, &limit);
        self.eta = self.eta_interval.map(|eta| eta.median);
    }

    /// For the terminal.
    pub fn line(&self) -> Option<String> {
        let mut text = format!("  {}:", self.name);
        for (name, value) in &self.gbps_per_cpu_s {
            let _ = write!(text, " {name} {value:.2}");
        }
        if let (Some(ratio), Some(low)) = (self.ratio_to_moq_relay, self.ratio_low) {
            let _ = write!(text, "; {ratio:.2}x moq-relay, at least {low:.2}x");
        }
        if let Some(eta) = self.eta {
            let _ = write!(text, "; eta {eta:.2}");
        }
        (!self.gbps_per_cpu_s.is_empty()).then_some(text)
    }
}

/// A figure of a contender, pass by pass. Runs with objections are left out, unless there are no others.
fn by_pass(
    runs: &[Labelled],
    contender: &str,
    of: impl Fn(&Run) -> Option<f64>,
) -> Vec<Option<f64>> {
    let passes = runs.iter().map(|it| it.pass + 1).max().unwrap_or(0);
    let own = || runs.iter().filter(|it| it.contender == contender);
    let good = own().any(|it| it.objections.is_empty());
    (0..passes)
        .map(|pass| {
            own()
                .find(|it| it.pass == pass && (it.objections.is_empty() || !good))
                .and_then(|it| of(&it.run))
        })
        .collect()
}

impl Results {
    /// Reads a results file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no results", path.display()))
    }

    /// Writes JSON, table and pictures.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let file = |ending: &str| folder.join(format!("{}{ending}", self.name));
        std::fs::write(file(".json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(file(".md"), self.table())?;
        for (name, picture) in picture::all(self) {
            std::fs::write(file(&format!("-{name}.svg")), picture)?;
        }
        Ok(())
    }

    /// Everything that people ask first.
    pub fn table(&self) -> String {
        let mut text = format!("# {}\n\n", self.name);
        let host = &self.host;
        let guest = if host.virtual_machine { ", a virtual machine" } else { "" };
        let _ = writeln!(
            text,
            "{}, {} cores{guest}, Linux {}. veth at MTU 1500, segmentation: {}. MoQT draft {}, raw QUIC, AES-128-GCM. \
             Each run {} s after {} s, {} passes there and back.{}\n",
            host.processor,
            host.cores,
            host.kernel,
            self.segmentation,
            self.draft,
            self.span_seconds,
            self.warm_up_seconds,
            self.passes,
            if self.quick {
                " A quick session: it shows that the bench works, not how fast anything is."
            } else {
                ""
            }
        );
        let interval = |it: Option<Interval>| {
            it.map_or_else(
                || "not measured".to_owned(),
                |it| format!("{:.3} ({:.3} to {:.3})", it.median, it.low, it.high),
            )
        };
        let _ = writeln!(
            text,
            "- the same contender on both sides: {}",
            interval(self.same_against_same)
        );
        let _ = writeln!(
            text,
            "- all receivers check, against one in ten: {}\n",
            interval(self.checked_against_acknowledged)
        );
        let _ = writeln!(text, "Gb of payload for each CPU-second of the relay:\n");
        let names: Vec<&String> = self.contenders.keys().collect();
        let _ = write!(text, "| row | receivers |");
        for name in &names {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, " ratio to moq-relay | eta |");
        let _ = writeln!(text, "| --- | ---: |{} ---: | ---: |", " ---: |".repeat(names.len()));
        let number = |value: Option<&f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        for row in &self.rows {
            let _ = write!(text, "| {} | {} |", row.name, row.subscribers);
            for name in &names {
                let _ = write!(text, " {} |", number(row.gbps_per_cpu_s.get(*name)));
            }
            let ratio = match (row.ratio_to_moq_relay, row.ratio_low, row.ratio_high) {
                (Some(ratio), Some(low), Some(high)) => {
                    format!("{ratio:.2} ({low:.2} to {high:.2})")
                }
                _ => "-".to_owned(),
            };
            let _ = writeln!(text, " {ratio} | {} |", number(row.eta.as_ref()));
        }
        let _ = writeln!(
            text,
            "\nThe same for each second in which the relay's core was busy, interrupts included:\n"
        );
        let _ = write!(text, "| row |");
        for name in &names {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, " ratio to moq-relay |");
        let _ = writeln!(text, "| --- |{} ---: |", " ---: |".repeat(names.len()));
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.name);
            for name in &names {
                let _ = write!(text, " {} |", number(row.gbps_per_core_busy_s.get(*name)));
            }
            let ratio = row.core_busy_ratio.map_or_else(
                || "-".to_owned(),
                |it| format!("{:.2} ({:.2} to {:.2})", it.median, it.low, it.high),
            );
            let _ = writeln!(text, " {ratio} |");
        }
        self.further(&mut text);
        text
    }

    fn further(&self, text: &mut String) {
        if !self.curve.is_empty() {
            let _ = writeln!(
                text,
                "\n| contender | receivers | media | CPU ms for each receiver and second | KB for each further receiver | p50 ms | p99 ms |"
            );
            let _ = writeln!(text, "| --- | ---: | --- | ---: | ---: | ---: | ---: |");
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            for point in &self.curve {
                let run = &point.run;
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    point.contender,
                    run.subscribers,
                    if point.idle { "none" } else { "0.5 Mb/s" },
                    number(run.cpu_ms_per_subscriber_s(), 3),
                    number(run.bytes_per_further_subscriber().map(|bytes| bytes / 1e3), 0),
                    number(run.latency_ms.p50, 1),
                    number(run.latency_ms.p99, 1),
                );
            }
        }
        if !self.handshakes.is_empty() {
            let _ = writeln!(text, "\n| handshakes | joins for each CPU-second | full | p99 ms |");
            let _ = writeln!(text, "| --- | ---: | ---: | ---: |");
            for (name, value) in &self.handshakes {
                let number = |value: &serde_json::Value| {
                    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
                };
                let _ = writeln!(
                    text,
                    "| {name} | {} | {} of {} | {} |",
                    number(&value["joins_per_cpu_s"]),
                    number(&value["full"]),
                    number(&value["joins"]),
                    number(&value["join_ms"]["p99"]),
                );
            }
        }
        for (name, storm) in [("weir", &self.storm), ("moq-relay", &self.rival_storm)] {
            let Some(storm) = storm else { continue };
            let ms = |value: &serde_json::Value| {
                value.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
            };
            let _ = writeln!(
                text,
                "\n{name}: {} joins in {} s while {} watch. The watching ones lost {} of {} objects (before: {} of {}); latency p99 {} (before: {}). \
                 Joined: {}, with first media after p50 {}, p99 {}.",
                storm["joining"],
                storm["seconds"],
                storm["watching"],
                storm["storm"]["lost"],
                storm["storm"]["expected"],
                storm["calm"]["lost"],
                storm["calm"]["expected"],
                ms(&storm["storm"]["latency_ms"]["p99"]),
                ms(&storm["calm"]["latency_ms"]["p99"]),
                storm["joined"],
                ms(&storm["join_ms"]["p50"]),
                ms(&storm["join_ms"]["p99"]),
            );
        }
        let _ = writeln!(text, "\nCommand lines:\n");
        for (name, line) in &self.contenders {
            let _ = writeln!(text, "- {name}: `{line}`");
        }
        let objections: Vec<String> = self
            .rows
            .iter()
            .flat_map(|row| {
                row.runs.iter().filter(|it| !it.objections.is_empty()).map(|it| {
                    format!(
                        "{} {} pass {}: {}",
                        row.name,
                        it.contender,
                        it.pass,
                        it.objections.join(", ")
                    )
                })
            })
            .chain(self.failures.iter().cloned())
            .collect();
        if !objections.is_empty() {
            let _ = writeln!(text, "\nNot quotable, or failed:\n");
            for objection in objections {
                let _ = writeln!(text, "- {objection}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::REFERENCE;
    use super::*;

    fn labelled(contender: &str, pass: u32, gbps: f64, objections: &[&str]) -> Labelled {
        let run = Run {
            subscribers: 100,
            seconds: 1.0,
            payload_bytes: gbps * 1e9 / 8.0,
            cpu_seconds: 1.0,
            core_busy_seconds: 2.0,
            ..Run::default()
        };
        let objections = objections.iter().map(|text| (*text).to_owned()).collect();
        Labelled { contender: contender.to_owned(), pass, run, objections }
    }

    fn row() -> RowResult {
        let mut runs = Vec::new();
        for pass in 0..4 {
            let drift = 1.0 + f64::from(pass) / 10.0;
            runs.push(labelled("weir-udp", pass, 3.0 * drift, &[]));
            runs.push(labelled("moq-relay-best", pass, drift, &[]));
            runs.push(labelled("limit-l2", pass, 6.0 * drift, &[]));
        }
        runs.push(labelled("moq-relay-default", 0, 0.5, &[]));
        RowResult::of(REFERENCE, runs)
    }

    #[test]
    fn a_row_compares_pair_by_pair_with_the_better_rival() {
        let row = row();
        let close =
            |one: Option<f64>, other: f64| one.is_some_and(|one| (one - other).abs() < 1e-9);
        assert!(close(row.ratio_to_moq_relay, 3.0), "{row:?}");
        assert!(close(row.ratio_low, 3.0) && close(row.eta, 0.5), "{row:?}");
        assert_eq!(row.ratio_of.map(|of| of[1].clone()).as_deref(), Some("moq-relay-best"));
        assert!(close(row.gbps_per_cpu_s.get("moq-relay-default").copied(), 0.5));
        assert!(close(row.gbps_per_core_busy_s.get("weir-udp").copied(), 3.45 / 2.0));
    }

    #[test]
    fn a_run_with_objections_does_not_count_while_there_are_others() {
        let runs = vec![
            labelled("weir-udp", 0, 3.0, &[]),
            labelled("weir-udp", 1, 99.0, &["the generator used 95 % of a core"]),
            labelled("moq-relay-best", 0, 1.0, &["lost"]),
            labelled("moq-relay-best", 1, 1.0, &["lost"]),
        ];
        let row = RowResult::of(REFERENCE, runs);
        assert_eq!(row.gbps_per_cpu_s.get("weir-udp"), Some(&3.0));
        assert_eq!(row.ratio_to_moq_relay, Some(3.0), "all of the rival's have some");
    }

    #[test]
    fn results_come_back_from_their_file_form() {
        let results = Results { rows: vec![row()], quick: true, ..Results::default() };
        let text = serde_json::to_string(&results).expect("serializes");
        let back: Results = serde_json::from_str(&text).expect("parses");
        assert_eq!(back.rows[0].runs.len(), 13);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["rows"][0]["name"], "video-1.92M");
        assert!(value["rows"][0]["gbps_per_cpu_s"]["weir-udp"].is_f64());
        assert!(results.table().contains("| video-1.92M | 100 |"));
    }
}
