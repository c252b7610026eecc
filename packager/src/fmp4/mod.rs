//! Reads fragmented MP4 as it arrives: initialisation to track configurations, fragments to samples. It serves our own
//! files and a stranger's alike, so a size is a claim, every count has a cap and at most 16 MiB are held. Progressive MP4
//! and edit lists are not read here.

mod fragment;
mod header;
mod looper;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use header::tracks_of;
pub use looper::{Looper, TimedSample};

use crate::boxes;
use crate::cmaf::chunk::NTP_UNIX_SECONDS;
use crate::{Sample, TrackConfig};
use header::Track;

/// A `moov` without samples: 16 tracks with 64 KiB of configuration each.
const MOOV_BYTES_MAX: u64 = 1024 * 1024;
/// 65536 samples with 16 bytes each.
const MOOF_BYTES_MAX: u64 = 1024 * 1024;
/// A 10 s segment at 8 Mbit/s, or one intra picture of 8K.
const MDAT_BYTES_MAX: u64 = 12 * 1024 * 1024;
/// Boxes that matter and are not one of the above (`prft`, `ftyp`).
const SMALL_BYTES_MAX: u64 = 4096;

/// The kinds of the top-level boxes of an object, up to the first that does not fit into it.
pub fn box_kinds(data: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    boxes::children(data).map_while(|child| Some(child?.kind))
}

/// Why bytes are not a fragmented MP4 we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A box whose parts do not fit into each other.
    #[error("malformed {0} box")]
    Malformed(&'static str),
    /// A box that says it is larger than we hold.
    #[error("{kind} box of {size} bytes, at most {max} are taken")]
    TooLarge {
        /// Which box.
        kind: &'static str,
        /// What it claims.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// More of something than any sane file has.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A fragment before any `moov`.
    #[error("fragment before initialisation")]
    NoInit,
    /// A sample whose bytes are not in the `mdat` behind its `moof`.
    #[error("sample outside its mdat")]
    OutsideMdat,
    /// The end came inside a box, or there is nothing to play.
    #[error("ends too early")]
    Truncated,
}

/// What a [`Reader`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A `moov`: the tracks we can read. [`crate::TrackId`] is the track id of the file.
    Tracks(Vec<TrackConfig>),
    /// One sample.
    Sample {
        /// With dts and composition offset in the track's timescale.
        sample: Sample,
        /// In the track's timescale.
        duration: u32,
        /// When the first sample of its chunk was captured, if a `prft` says so.
        captured: Option<Duration>,
    },
}

/// A producer reference time: ISO/IEC 14496-12 §8.16.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerReference {
    /// Track it speaks of.
    pub track_id: u32,
    /// Wall time since the Unix epoch.
    pub captured: Duration,
    /// Presentation time in the track's timescale that belongs to it.
    pub media_time: u64,
}

impl ProducerReference {
    /// Reads the `prft` that opens a chunk, if it does.
    pub fn of_chunk(chunk: &[u8]) -> Option<Self> {
        let first = boxes::children(chunk).next()??;
        (&first.kind == b"prft").then(|| Self::parse(first.body)).flatten()
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (version, _) = boxes::version_flags(body)?;
        let track_id = boxes::u32_at(body, 4)?;
        let ntp = boxes::u64_at(body, 8)?;
        let media_time = match version {
            0 => u64::from(boxes::u32_at(body, 16)?),
            _ => boxes::u64_at(body, 16)?,
        };
        let seconds = ntp >> 32;
        // Seconds below the Unix epoch belong to the era that starts in 2036.
        let seconds = if seconds < NTP_UNIX_SECONDS { seconds + (1 << 32) } else { seconds };
        // Rounded up, as the writer rounded down.
        let nanos = ((ntp & 0xffff_ffff) * 1_000_000_000).div_ceil(1 << 32).min(999_999_999);
        let captured = Duration::new(seconds - NTP_UNIX_SECONDS, nanos as u32);
        Some(Self { track_id, captured, media_time })
    }
}

/// Incremental reader. Feed it bytes, then drain [`Reader::poll_event`].
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// File position of the first byte in `buffer`.
    position: u64,
    /// Bytes of an uninteresting box still to be dropped.
    skip: u64,
    tracks: Vec<Track>,
    unknown: Vec<[u8; 4]>,
    reference: Option<ProducerReference>,
    moof: Option<(u64, Bytes)>,
    events: VecDeque<Event>,
}

/// Boxes that are kept until complete.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Moov,
    Moof,
    Mdat,
    Prft,
}

impl Kept {
    fn of(kind: [u8; 4]) -> Option<(Self, &'static str, u64)> {
        match &kind {
            b"moov" => Some((Self::Moov, "moov", MOOV_BYTES_MAX)),
            b"moof" => Some((Self::Moof, "moof", MOOF_BYTES_MAX)),
            b"mdat" => Some((Self::Mdat, "mdat", MDAT_BYTES_MAX)),
            b"prft" => Some((Self::Prft, "prft", SMALL_BYTES_MAX)),
            _ => None,
        }
    }
}

impl Reader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. After an error the reader is of no more use.
    pub fn handle_input(&mut self, mut data: &[u8]) -> Result<(), Error> {
        // In steps, so that what is held stays near the size of one box however much is handed over at once.
        while !data.is_empty() {
            let (step, rest) = data.split_at(data.len().min(64 * 1024));
            data = rest;
            self.buffer.extend_from_slice(step);
            while self.step()? {}
        }
        Ok(())
    }

    /// The input is over; an open box is an error.
    pub fn handle_end(&self) -> Result<(), Error> {
        if self.buffer.is_empty() && self.skip == 0 { Ok(()) } else { Err(Error::Truncated) }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The sample entries of the tracks that the newest `moov` has and we cannot read.
    pub fn unknown(&self) -> &[[u8; 4]] {
        &self.unknown
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len() + self.moof.as_ref().map_or(0, |(_, moof)| moof.len())
    }

    fn step(&mut self) -> Result<bool, Error> {
        if self.skip > 0 {
            let count = self.skip.min(self.buffer.len() as u64);
            self.take(count as usize);
            self.skip -= count;
            return Ok(self.skip == 0 && !self.buffer.is_empty());
        }
        if self.buffer.len() < 8
            || (self.buffer.starts_with(&[0, 0, 0, 1]) && self.buffer.len() < 16)
        {
            return Ok(false);
        }
        let (kind, header, size) =
            boxes::header(&self.buffer).ok_or(Error::Malformed("top-level"))?;
        let Some((kept, name, max)) = Kept::of(kind) else {
            self.skip = size;
            return Ok(true);
        };
        if size > max {
            return Err(Error::TooLarge { kind: name, size, max });
        }
        if (self.buffer.len() as u64) < size {
            return Ok(false);
        }
        let at = self.position;
        let whole = self.take(size as usize);
        let body = whole.slice(header..);
        match kept {
            Kept::Moov => {
                let header = header::parse(&body)?;
                (self.tracks, self.unknown) = (header.tracks, header.unknown);
                self.events.push_back(Event::Tracks(
                    self.tracks.iter().map(|t| t.config.clone()).collect(),
                ));
            }
            Kept::Prft => self.reference = ProducerReference::parse(&body),
            Kept::Moof if self.tracks.is_empty() && self.unknown.is_empty() => {
                return Err(Error::NoInit);
            }
            Kept::Moof => self.moof = Some((at, body)),
            Kept::Mdat => {
                if let Some((moof_at, moof)) = self.moof.take() {
                    let mdat = fragment::Mdat { data: body, at: at + header as u64 };
                    let reference = self.reference.take();
                    fragment::read(
                        &mut self.tracks,
                        moof_at,
                        &moof,
                        &mdat,
                        reference,
                        &mut self.events,
                    )?;
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.position += count as u64;
        self.buffer.split_to(count).freeze()
    }
}

#[cfg(test)]
mod tests;
