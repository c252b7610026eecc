//! The sound of one session: Opus packets in order, placed on the session's timeline, with silence where
//! none came, so that a muted microphone, which stops sending altogether, makes no hole in the
//! broadcast. It owns that decision; a packet that did come is never changed.

use std::time::{Duration, Instant};

use weir_packager::{Codec, Sample, TrackConfig, TrackId};

use super::clock::Clock;
use super::opus::{self, Toc};
use super::reorder::{Bounds, Next, Reorder};
use crate::Event;

/// Reordering of sound: it is rarely sent again, and waiting costs every listener.
const BOUNDS: Bounds = Bounds {
    patience: Duration::from_millis(120),
    // 10 s of the shortest usual packets, 10 ms.
    packets_max: 1_000,
};

/// A hole that is being waited on is filled once it is this old: longer than the pause between
/// packets of discontinuous transmission (400 ms) and the jitter of a mobile network.
const HOLE_AGE: i64 = opus::RATE as i64 / 10 * 7;

/// How far behind the present filling stays, so that sound that comes back is not too late.
const FILL_BEHIND: i64 = opus::RATE as i64 / 10 * 4;

/// A hole beyond this is left to the timeline: 10 s.
const FILL_MAX: i64 = opus::RATE as i64 * 10;

/// The shortest packet, 2.5 ms: a smaller hole is rounding.
const ROUNDING: i64 = opus::RATE as i64 / 400;

#[derive(Debug)]
struct Packet {
    rtp: u64,
    arrived: Duration,
    data: bytes::Bytes,
}

/// What became of the sound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Packets given up for lost.
    pub(super) lost: u64,
    /// Silent packets put in.
    pub(super) filled: u64,
    /// Packets that came when their time had been filled, or that are no Opus.
    pub(super) dropped: u64,
}

/// The sound of one session.
#[derive(Debug)]
pub(super) struct Audio {
    track: TrackId,
    pub(super) clock: Clock,
    reorder: Reorder<Packet>,
    /// Channels declared, once a packet came.
    channels: Option<u8>,
    /// Stereo was announced in the offer.
    stereo: bool,
    /// Where the next packet should begin.
    next: i64,
    tally: Tally,
}

impl Audio {
    pub(super) fn new(track: TrackId, stereo: bool) -> Self {
        Self {
            track,
            clock: Clock::new(opus::RATE),
            reorder: Reorder::new(BOUNDS),
            channels: None,
            stereo,
            next: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// A packet arrived, `arrived` after the session began.
    pub(super) fn handle_packet(
        &mut self,
        sequence: u64,
        rtp: u64,
        payload: &[u8],
        arrived: Duration,
        now: Instant,
    ) {
        let data = bytes::Bytes::copy_from_slice(payload);
        self.reorder.push(sequence, Packet { rtp, arrived, data }, now);
    }

    /// Gives what is in order.
    pub(super) fn poll(&mut self, now: Instant, out: &mut Vec<Event>) {
        while let Some(next) = self.reorder.pop(now) {
            match next {
                Next::Lost(count) => {
                    self.tally.lost += count;
                    out.push(Event::Loss { track: self.track });
                }
                Next::Packet(packet) => self.packet(packet, out),
            }
        }
    }

    /// Fills the hole a muted microphone leaves, as long as others of the session still send.
    pub(super) fn fill(&mut self, present: Duration, out: &mut Vec<Event>) {
        let present = ticks(present);
        if self.channels.is_some() && present - self.next > HOLE_AGE {
            self.fill_until(present - FILL_BEHIND, out);
        }
    }

    /// When [`Audio::fill`] would do something.
    pub(super) fn fills_at(&self) -> Option<Duration> {
        let at = u64::try_from(self.next + HOLE_AGE + 1).ok()?;
        self.channels.map(|_| Duration::from_micros(at * 1_000 / 48 + 1))
    }

    /// When a missing packet is given up.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.reorder.poll_timeout()
    }

    fn packet(&mut self, packet: Packet, out: &mut Vec<Event>) {
        if packet.data.is_empty() {
            return;
        }
        let Some(toc) = Toc::read(&packet.data) else {
            self.tally.dropped += 1;
            return;
        };
        let at = self.clock.place(packet.rtp, packet.arrived);
        let channels = if toc.stereo || self.stereo { 2 } else { 1 };
        match self.channels {
            Some(held) if held >= channels => {
                let hole = at - self.next;
                if hole < -ROUNDING {
                    // Its time has been filled, or it was moved onto one that is already out.
                    self.tally.dropped += 1;
                    return;
                }
                if hole <= FILL_MAX {
                    self.fill_until(at, out);
                }
            }
            _ => {
                self.channels = Some(channels);
                let codec = Codec::Opus { head: opus::head(channels) };
                let track = self.track;
                out.push(Event::Track(TrackConfig { track, timescale: opus::RATE, codec }));
            }
        }
        out.push(self.sample(at, packet.data));
        self.next = at + i64::from(toc.samples);
    }

    fn fill_until(&mut self, end: i64, out: &mut Vec<Event>) {
        // The loop ends: each round takes at least 2.5 ms of at most 10 s.
        let start = self.next.max(end - FILL_MAX);
        self.next = start;
        while let Some((data, length)) = u32::try_from(end - self.next).ok().and_then(opus::silence)
        {
            out.push(self.sample(self.next, data));
            self.next += i64::from(length);
            self.tally.filled += 1;
        }
    }

    fn sample(&self, dts: i64, data: bytes::Bytes) -> Event {
        Event::Sample(Sample {
            track: self.track,
            dts,
            composition_offset: 0,
            keyframe: true,
            data,
        })
    }
}

fn ticks(present: Duration) -> i64 {
    i64::try_from(present.as_nanos() * u128::from(opus::RATE) / 1_000_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests {
    use super::*;

    const FRAME: [u8; 3] = [0xf8, 1, 2];

    fn audio() -> Audio {
        Audio::new(TrackId(1), false)
    }

    /// Sends packet `number` of 20 ms when it is due and gives what came out.
    fn send(audio: &mut Audio, number: u64, start: Instant) -> Vec<Event> {
        let arrived = Duration::from_millis(number * 20);
        audio.handle_packet(number, number * 960, &FRAME, arrived, start + arrived);
        let mut out = Vec::new();
        audio.poll(start + arrived, &mut out);
        out
    }

    fn spans(out: &[Event]) -> Vec<(i64, i64)> {
        out.iter()
            .filter_map(|event| match event {
                Event::Sample(sample) => {
                    let samples = Toc::read(&sample.data).expect("Opus").samples;
                    Some((sample.dts, sample.dts + i64::from(samples)))
                }
                _ => None,
            })
            .collect()
    }

    fn assert_seamless(spans: &[(i64, i64)]) {
        assert!(spans.windows(2).all(|pair| pair[0].1 == pair[1].0), "{spans:?}");
    }

    #[test]
    fn a_muted_microphone_makes_no_hole() {
        let start = Instant::now();
        let mut audio = audio();
        let mut out = send(&mut audio, 0, start);
        assert!(matches!(out.first(), Some(Event::Track(config)) if config.timescale == 48_000));
        for number in 1..50 {
            out.extend(send(&mut audio, number, start));
        }
        // Two seconds without a packet, looked at when it says so.
        while let Some(at) = audio.fills_at().filter(|at| *at < Duration::from_secs(3)) {
            let before = out.len();
            audio.fill(at, &mut out);
            assert!(out.len() > before, "it has something to do when it says so");
        }
        let filled = spans(&out).last().map(|span| span.1);
        assert!(filled.is_some_and(|end| end > 48_000 * 2), "{filled:?}");
        // It is unmuted; its packets count on, its times did meanwhile.
        for number in 0..10 {
            let arrived = Duration::from_millis(3_000 + number * 20);
            let rtp = 144_000 + number * 960;
            audio.handle_packet(50 + number, rtp, &FRAME, arrived, start + arrived);
            audio.poll(start + arrived, &mut out);
        }
        assert_seamless(&spans(&out));
        assert_eq!(spans(&out).last().map(|span| span.1), Some(144_000 + 9_600));
        assert_eq!(audio.tally().dropped, 0);
    }

    #[test]
    fn lost_packets_are_silence_and_said_to_be_lost() {
        let start = Instant::now();
        let mut audio = audio();
        let mut out = Vec::new();
        for number in [0, 1, 4, 5, 6, 7, 8, 9, 10, 11] {
            out.extend(send(&mut audio, number, start));
        }
        assert_seamless(&spans(&out));
        assert_eq!(spans(&out).len(), 12);
        assert_eq!(out.iter().filter(|event| matches!(event, Event::Loss { .. })).count(), 1);
        assert_eq!((audio.tally().lost, audio.tally().filled), (2, 2));
    }

    #[test]
    fn a_stereo_packet_makes_a_mono_track_stereo_once() {
        let start = Instant::now();
        let mut audio = audio();
        let mut out = send(&mut audio, 0, start);
        for number in 1..4 {
            audio.handle_packet(number, number * 960, &[0xfc, 1], Duration::ZERO, start);
        }
        audio.poll(start, &mut out);
        let heads: Vec<u8> = out
            .iter()
            .filter_map(|event| match event {
                Event::Track(TrackConfig { codec: Codec::Opus { head }, .. }) => Some(head[1]),
                _ => None,
            })
            .collect();
        assert_eq!(heads, [1, 2]);
        assert_seamless(&spans(&out));
    }

    #[test]
    fn absurd_times_do_not_fill_memory() {
        let start = Instant::now();
        let mut audio = audio();
        let mut out = Vec::new();
        for (number, rtp) in [0, u64::from(u32::MAX), 5, 1 << 40].into_iter().enumerate() {
            audio.handle_packet(number as u64, rtp, &FRAME, Duration::ZERO, start);
            audio.poll(start, &mut out);
        }
        assert!(out.len() < 10, "{}", out.len());
    }
}
