//! What arrived: objects, groups, bytes and losses of each track, and how late its chunks were by the capture times they
//! carry. Memory does not grow with the length of the broadcast.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use weir_packager::fmp4::ProducerReference;

use crate::client::Object;

/// Latencies are told apart to the millisecond, up to ten seconds: 10,000 x 4 bytes a track.
const BUCKETS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Report {
    tracks: BTreeMap<Arc<str>, Row>,
}

#[derive(Debug, Default)]
struct Row {
    objects: u64,
    groups: u64,
    bytes: u64,
    skipped: u64,
    first_group: Option<u64>,
    group: Option<u64>,
    latency: Histogram,
}

impl Report {
    /// Counts an object that arrived at `wall`.
    pub(super) fn count(&mut self, object: &Object, wall: Duration) {
        let row = self.tracks.entry(Arc::clone(&object.track)).or_default();
        row.objects += 1;
        row.bytes += object.payload.len() as u64;
        if row.group != Some(object.group) {
            row.groups += 1;
            row.group = Some(object.group);
        }
        // The group we joined is partly from the past and says nothing about latency.
        let first = *row.first_group.get_or_insert(object.group);
        if object.group != first
            && let Some(reference) = ProducerReference::of_chunk(&object.payload)
        {
            row.latency.add(wall.saturating_sub(reference.captured));
        }
    }

    pub(super) fn skipped(&mut self, track: &Arc<str>, groups: u64) {
        self.tracks.entry(Arc::clone(track)).or_default().skipped += groups;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tracks.values().all(|row| row.objects == 0)
    }

    /// One line for the terminal while it runs.
    pub(super) fn line(&self) -> String {
        let objects: u64 = self.tracks.values().map(|row| row.objects).sum();
        let bytes: u64 = self.tracks.values().map(|row| row.bytes).sum();
        format!("{objects} objects, {:.1} MB", bytes as f64 / 1e6)
    }

    /// All of it.
    pub(super) fn table(&self) -> String {
        let width = self.tracks.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        let mut text = format!(
            "{:width$} {:>8} {:>7} {:>11} {:>7} {:>8} {:>8}\n",
            "track", "objects", "groups", "bytes", "skipped", "p50 ms", "p99 ms"
        );
        for (name, row) in &self.tracks {
            let percentile =
                |share| row.latency.percentile(share).map_or("-".to_owned(), |ms| ms.to_string());
            // Names come from the publisher; a terminal is not to obey them.
            let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:width$} {:>8} {:>7} {:>11} {:>7} {:>8} {:>8}",
                row.objects,
                row.groups,
                row.bytes,
                row.skipped,
                percentile(50),
                percentile(99)
            );
        }
        text
    }
}

#[derive(Debug, Default)]
struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Histogram {
    fn add(&mut self, latency: Duration) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        let at = usize::try_from(latency.as_millis()).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    /// The smallest latency in milliseconds that `share` percent do not exceed.
    fn percentile(&self, share: u64) -> Option<usize> {
        let wanted = (self.total * share).div_ceil(100);
        let mut seen = 0;
        self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted && wanted > 0
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn percentiles_are_of_what_was_added() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), None);
        (1..=100).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert_eq!(histogram.percentile(50), Some(50));
        assert_eq!(histogram.percentile(99), Some(99));
        histogram.add(Duration::from_secs(1000));
        assert_eq!(histogram.percentile(100), Some(BUCKETS - 1));
    }

    #[test]
    fn the_table_counts_and_shows_no_control_characters() {
        let mut report = Report::default();
        for (group, object) in [(4, 0), (4, 1), (5, 0)] {
            let payload = Bytes::from_static(&[0; 10]);
            let track = "video\x1b[2J".into();
            let object = Object { track, group, object, payload, properties: Bytes::new() };
            report.count(&object, Duration::ZERO);
        }
        report.skipped(&"video\x1b[2J".into(), 2);
        let table = report.table();
        assert!(!table.contains('\x1b'));
        let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[1..], ["3", "2", "30", "2", "-", "-"]);
    }
}
