//! The long run: groups without end, viewers that come and go, viewers that stop reading. Owns the schedule of comings and
//! goings and the samples of the node's memory; what a viewer checks is the matter of the parts it shares with the
//! measurement of fan-out.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use weir_moqt::Draft;

use super::content::{Content, Shape};
use super::find_relay;
use super::generator::Generator;
use super::target::Target;
use super::tls;
use crate::process::{Cost, open_files};

/// How often memory is read and a line of progress is printed.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// The sleepers read for this long and then not for that long: their node sees no acknowledgement, falls behind its
/// limits and drops groups whole. Shorter than the idle timeout, so that they stay.
const SLEEPER_READS: Duration = Duration::from_millis(1_500);
const SLEEPER_SLEEPS: Duration = Duration::from_secs(6);

/// Growth of resident memory over the second half of the run that counts as none, as a share of it: the allocator and
/// the ramp of the kernel's accounting move by this much without a leak.
const FLAT_SHARE: f64 = 0.02;

/// One long run.
#[derive(Clone)]
pub struct Options {
    /// Data directory of the running node.
    pub data_dir: PathBuf,
    /// Its process; found by name when not given.
    pub pid: Option<u32>,
    /// Length.
    pub span: Duration,
    /// Viewers that come and go.
    pub viewers: u32,
    /// Viewers that stop reading again and again.
    pub sleepers: u32,
    /// Mean stay of a viewer.
    pub stay: Duration,
    /// Draft of all sessions.
    pub draft: Draft,
    /// The broadcast.
    pub shape: Shape,
    /// Seed of content and schedule.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    seconds: f64,
    groups: u64,
    joins: u64,
    leaves: u64,
    /// Streams reset under a viewer that fell behind.
    groups_reset: u64,
    sessions_lost: u32,
    /// Why the first of those went.
    first_loss: Option<String>,
    corrupt: u64,
    resident_start_bytes: u64,
    resident_end_bytes: u64,
    /// Least squares over the second half.
    slope_bytes_per_minute: f64,
    /// The same over the whole second half, as a share of the memory in its middle.
    growth_second_half: f64,
    files_start: usize,
    files_end: usize,
    /// Neither memory nor open files grew.
    pub flat: bool,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kb = |bytes: u64| bytes / 1000;
        writeln!(f, "ran                    {:>12.0} s", self.seconds)?;
        writeln!(f, "groups published       {:>12}", self.groups)?;
        writeln!(f, "joins, leaves          {:>12}, {}", self.joins, self.leaves)?;
        writeln!(f, "groups dropped, corrupt{:>12}, {}", self.groups_reset, self.corrupt)?;
        writeln!(f, "sessions lost          {:>12}", self.sessions_lost)?;
        if let Some(reason) = &self.first_loss {
            writeln!(f, "  the first            {reason}")?;
        }
        writeln!(
            f,
            "resident memory        {:>12} KB at first, {} KB at last",
            kb(self.resident_start_bytes),
            kb(self.resident_end_bytes)
        )?;
        writeln!(
            f,
            "slope, second half     {:>12.1} KB a minute ({:+.2} % in all)",
            self.slope_bytes_per_minute / 1000.0,
            self.growth_second_half * 100.0
        )?;
        writeln!(
            f,
            "open files             {:>12} at first, {} at last",
            self.files_start, self.files_end
        )?;
        write!(f, "{}", if self.flat { "flat" } else { "it grows" })
    }
}

/// One reading of the node.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    resident_bytes: u64,
}

/// Runs; prints a line of progress for every sample to `progress`.
pub fn run(options: &Options, mut progress: impl Write) -> Result<Outcome> {
    ensure!(options.span >= 4 * SAMPLE_EVERY, "a soak takes 20 s at least");
    let pid = options.pid.map_or_else(find_relay, Ok)?;
    let target = Target::in_data_dir(&options.data_dir)?;
    let content = Content::new(options.shape, options.seed);
    let mut random = fastrand::Rng::with_seed(options.seed);
    let viewers = options.viewers as usize;
    let mut awake = Generator::new(
        vec![target.clone()],
        options.draft,
        content.clone(),
        viewers,
        false,
        tls::full_handshakes(),
    )?;
    awake.connect_publisher()?;
    awake.connect_subscribers(viewers, 8)?;
    let sleepers = options.sleepers as usize;
    let mut asleep = Generator::new(
        vec![target],
        options.draft,
        content,
        sleepers,
        false,
        tls::full_handshakes(),
    )?;
    // The publisher must go on while they join.
    let mut joining = 0;
    while joining < sleepers {
        asleep.begin_subscriber()?;
        joining += 1;
    }

    let start = Instant::now();
    let stay = |random: &mut fastrand::Rng| options.stay.mul_f64(0.2 + 1.6 * random.f64());
    let mut leaves_at: Vec<Instant> = (0..viewers).map(|_| start + stay(&mut random)).collect();
    let (mut joins, mut leaves) = (u64::from(options.viewers), 0);
    let mut samples: Vec<Sample> = Vec::new();
    let files_start = open_files(pid)?;
    let mut sample_at = start;
    let first_object = awake.next_object();
    while start.elapsed() < options.span {
        let now = Instant::now();
        for (at, due) in leaves_at.iter_mut().enumerate() {
            // One that has not got media yet is left to get it.
            if *due <= now && awake.is_live(at) {
                awake.replace_subscriber(at)?;
                *due = now + stay(&mut random);
                leaves += 1;
                joins += 1;
            }
        }
        if now >= sample_at {
            sample_at += SAMPLE_EVERY;
            let resident_bytes = Cost::of(pid).context("the node has ended")?.resident_bytes;
            samples.push(Sample { at: now - start, resident_bytes });
            writeln!(
                progress,
                "{:>5} s  {:>8} KB  {joins} joins  {} groups dropped  {} lost",
                (now - start).as_secs(),
                resident_bytes / 1000,
                awake.ledger.groups_reset + asleep.ledger.groups_reset,
                awake.sessions_lost + asleep.sessions_lost,
            )?;
        }
        let cycle = (SLEEPER_READS + SLEEPER_SLEEPS).as_millis();
        if start.elapsed().as_millis() % cycle < SLEEPER_READS.as_millis() {
            asleep.run_until(Instant::now() + Duration::from_millis(1))?;
        }
        awake.run_until(Instant::now() + Duration::from_millis(5))?;
    }
    let groups = (awake.next_object() - first_object) / u64::from(options.shape.group_objects);
    let files_end = open_files(pid)?;
    let first_loss = awake.first_loss().or_else(|| asleep.first_loss()).map(str::to_owned);
    awake.close()?;
    asleep.close()?;

    let half = &samples[samples.len() / 2..];
    let slope = slope(half);
    let span = half.last().map_or(0.0, |last| last.at.as_secs_f64()) - half[0].at.as_secs_f64();
    let middle = half[half.len() / 2].resident_bytes as f64;
    let growth = slope * span / middle;
    Ok(Outcome {
        seconds: start.elapsed().as_secs_f64(),
        groups,
        joins,
        leaves,
        groups_reset: awake.ledger.groups_reset + asleep.ledger.groups_reset,
        sessions_lost: awake.sessions_lost + asleep.sessions_lost,
        first_loss,
        corrupt: awake.ledger.corrupt + asleep.ledger.corrupt,
        resident_start_bytes: samples[0].resident_bytes,
        resident_end_bytes: samples[samples.len() - 1].resident_bytes,
        slope_bytes_per_minute: slope * 60.0,
        growth_second_half: growth,
        files_start,
        files_end,
        flat: growth < FLAT_SHARE && files_end <= files_start,
    })
}

/// Least squares, bytes a second.
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let x = |sample: &Sample| sample.at.as_secs_f64();
    let y = |sample: &Sample| sample.resident_bytes as f64;
    let (mean_x, mean_y) =
        (samples.iter().map(x).sum::<f64>() / n, samples.iter().map(y).sum::<f64>() / n);
    let above: f64 = samples.iter().map(|s| (x(s) - mean_x) * (y(s) - mean_y)).sum();
    let below: f64 = samples.iter().map(|s| (x(s) - mean_x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_leak_shows_as_its_rate_and_noise_as_none() {
        let sample = |second: u64, bytes: u64| Sample {
            at: Duration::from_secs(second),
            resident_bytes: bytes,
        };
        let leak: Vec<_> = (0..20).map(|i| sample(5 * i, 1_000_000 + 5 * i * 700)).collect();
        assert!((slope(&leak) - 700.0).abs() < 1e-6);
        let noise: Vec<_> = (0..21).map(|i| sample(5 * i, 1_000_000 + (i % 2) * 4_096)).collect();
        assert!(slope(&noise).abs() < 20.0, "{}", slope(&noise));
        assert!(slope(&leak[..1]).abs() < f64::EPSILON);
    }
}
