//! Plays a short fragmented MP4 for ever: an endless, ordered list of samples with the time each is due and timestamps
//! that never step back. Owns no clock; whoever drives it waits.

use std::time::Duration;

use super::{Error, Event, Reader};
use crate::{Sample, TrackConfig};

/// More samples than a demo has: an hour of both tracks.
const SAMPLES_MAX: usize = 300_000;
const NANOS: i128 = 1_000_000_000;

/// A sample and when to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedSample {
    /// Since the start of the first round.
    pub due: Duration,
    /// With timestamps that go on over the rounds.
    pub sample: Sample,
}

/// An endless iterator over the samples of a file.
#[derive(Debug, Clone)]
pub struct Looper {
    tracks: Vec<TrackConfig>,
    /// One round, ordered by due time.
    round: Vec<TimedSample>,
    timescales: Vec<u32>,
    length: Duration,
    next: usize,
    rounds: u32,
}

impl Looper {
    /// Reads the whole file. A round lasts as long as the longest track; make the tracks equally long for a seamless one.
    pub fn new(file: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new();
        reader.handle_input(file)?;
        reader.handle_end()?;
        let mut tracks: Vec<TrackConfig> = Vec::new();
        let mut round = Vec::new();
        let mut length = Duration::ZERO;
        while let Some(event) = reader.poll_event() {
            match event {
                Event::Tracks(found) => tracks = found,
                Event::Sample { sample, duration, .. } => {
                    let track = tracks.iter().find(|track| track.track == sample.track);
                    let timescale = track.ok_or(Error::NoInit)?.timescale;
                    if round.len() >= SAMPLES_MAX {
                        return Err(Error::TooMany("samples"));
                    }
                    length =
                        length.max(time(sample.dts.saturating_add(i64::from(duration)), timescale));
                    round.push((
                        TimedSample { due: time(sample.dts, timescale), sample },
                        timescale,
                    ));
                }
            }
        }
        if length.is_zero() {
            return Err(Error::Truncated);
        }
        round.sort_by_key(|(timed, _)| timed.due);
        let (round, timescales) = round.into_iter().unzip();
        Ok(Self { tracks, round, timescales, length, next: 0, rounds: 0 })
    }

    /// The tracks of the file.
    pub fn tracks(&self) -> &[TrackConfig] {
        &self.tracks
    }

    /// How long one round is.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl Iterator for Looper {
    type Item = TimedSample;

    fn next(&mut self) -> Option<TimedSample> {
        if self.next >= self.round.len() {
            self.next = 0;
            self.rounds += 1;
        }
        let (timed, timescale) = (self.round.get(self.next)?, self.timescales.get(self.next)?);
        self.next += 1;
        let start = self.length * self.rounds;
        let mut timed = timed.clone();
        timed.due += start;
        timed.sample.dts += (start.as_nanos() as i128 * i128::from(*timescale) / NANOS) as i64;
        Some(timed)
    }
}

fn time(units: i64, timescale: u32) -> Duration {
    let nanos = i128::from(units.max(0)) * NANOS / i128::from(timescale.max(1));
    // Beyond 292 years the due time stops mattering.
    Duration::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX) as u64)
}
