//! FLV tag bodies (Adobe's Video File Format 10.1, annex E.4; enhanced RTMP v2) made into tracks
//! and samples. Tracks are found by their data, never by metadata. Owns what is dropped and what is
//! news; leaves timestamps as they come and bitstreams to the packager's readers, and refuses by
//! name every codec that is not carried.

mod configuration;
mod tag;

use bytes::Bytes;

pub(crate) use tag::Aggregate;
use tag::{Body, Coding, Part};
use weir_packager::{AccessUnit, Nals};

use crate::{Codec, Event, Sample, TrackConfig, TrackId, Unsupported};

/// RTMP and FLV count milliseconds.
const TIMESCALE: u32 = 1000;
/// Of tracks whose publisher adds nanoseconds: microseconds, so that a composition offset of half an
/// hour still fits into 32 bits.
const TIMESCALE_PRECISE: u32 = 1_000_000;
/// Tracks of one kind in one connection: OBS sends at most four of video and six of audio.
pub(crate) const TRACKS_MAX: usize = 8;

/// Which of the two an FLV tag carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TagKind {
    Audio,
    Video,
}

/// One FLV tag without its header.
#[derive(Clone, Debug)]
pub(crate) struct Tag {
    pub(crate) kind: TagKind,
    /// Decode time in milliseconds, unrolled.
    pub(crate) time: i64,
    pub(crate) body: Bytes,
}

/// Tags dropped, by cause.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Decoder configurations that do not parse. The one before stays in force.
    pub bad_configurations: u64,
    /// Tags cut short, and access units whose NAL lengths do not add up.
    pub malformed: u64,
    /// Samples before any decoder configuration of their track.
    pub without_configuration: u64,
    /// Video tags with no coded picture, such as parameter sets alone.
    pub without_picture: u64,
}

/// Tags in, events out.
#[derive(Debug, Default)]
pub(crate) struct Demuxer {
    tracks: Vec<Track>,
    counters: Counters,
}

#[derive(Debug)]
struct Track {
    id: TrackId,
    kind: TagKind,
    /// Enhanced RTMP's track id.
    number: u8,
    codec: Codec,
    /// The publisher sends offsets below a millisecond: times count in [`TIMESCALE_PRECISE`].
    precise: bool,
}

impl Demuxer {
    /// Reads one tag. An error means that this publisher sends what we cannot carry at all;
    /// damage to a single tag is counted instead.
    pub(crate) fn handle_tag(
        &mut self,
        tag: &Tag,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Unsupported> {
        let mut result = Ok(());
        let read = tag::read(tag.kind, &tag.body, &mut |part| {
            if result.is_ok() {
                result = self.handle_part(tag, part, emit);
            }
        });
        result.and(read)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    fn handle_part(
        &mut self,
        tag: &Tag,
        part: Part,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Unsupported> {
        match part.body {
            Body::Malformed => self.counters.malformed += 1,
            Body::Configuration(body) => {
                if matches!(part.coding, Coding::Ac3 | Coding::Eac3) {
                    return Ok(());
                }
                match configuration::codec(part.coding, body) {
                    Some(codec) => self.configure(tag.kind, part.number, codec, emit)?,
                    None => self.counters.bad_configurations += 1,
                }
            }
            Body::Coded { composition_offset, data } => {
                if matches!(part.coding, Coding::Ac3 | Coding::Eac3) {
                    self.configure_by_frame(tag.kind, part.number, &data, emit)?;
                }
                let time = Time { dts: tag.time, composition_offset, nanos: part.nanos };
                self.sample(tag.kind, part.number, part.coding, &time, data, emit);
            }
        }
        Ok(())
    }

    fn configure(
        &mut self,
        kind: TagKind,
        number: u8,
        codec: Codec,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Unsupported> {
        let known = self.position(kind, number);
        let track = match known.and_then(|index| self.tracks.get_mut(index)) {
            // Encoders repeat the configuration with every keyframe; only a different one is news.
            Some(track) if configuration::same(&track.codec, &codec) => return Ok(()),
            Some(track) => {
                track.codec = codec;
                track
            }
            None => {
                if self.tracks.iter().filter(|track| track.kind == kind).count() >= TRACKS_MAX {
                    return Err(Unsupported::Tracks { max: TRACKS_MAX });
                }
                let id = TrackId(self.tracks.len() as u32);
                self.tracks.push(Track { id, kind, number, codec, precise: false });
                let Some(track) = self.tracks.last_mut() else { return Ok(()) };
                track
            }
        };
        emit(track.description());
        Ok(())
    }

    /// AC-3 and E-AC-3 say in each frame what they are.
    fn configure_by_frame(
        &mut self,
        kind: TagKind,
        number: u8,
        frame: &Bytes,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Unsupported> {
        let Some(codec) = weir_packager::ac3_codec_of(frame) else { return Ok(()) };
        if codec.check().is_ok() { self.configure(kind, number, codec, emit) } else { Ok(()) }
    }

    fn sample(
        &mut self,
        kind: TagKind,
        number: u8,
        coding: Coding,
        time: &Time,
        data: Bytes,
        emit: &mut impl FnMut(Event),
    ) {
        let known = self.position(kind, number);
        let track = known.and_then(|index| self.tracks.get_mut(index));
        let Some(track) = track.filter(|track| coding.is(&track.codec)) else {
            self.counters.without_configuration += 1;
            return;
        };
        // An empty unit adds up, but Chrome refuses the whole chunk that holds one.
        if let Some(length_size) = track.codec.nal_length_size() {
            let mut units = Nals::new(&data, length_size);
            if !units.all(|unit| unit.is_ok_and(|unit| !unit.is_empty())) {
                self.counters.malformed += 1;
                return;
            }
        }
        let data = match track.codec {
            Codec::Av1 { .. } => match weir_packager::without_delimiters(&data) {
                Ok(None) => data,
                Ok(Some(kept)) => kept.into(),
                Err(_) => {
                    self.counters.malformed += 1;
                    return;
                }
            },
            _ => data,
        };
        let Ok(unit) = track.codec.access_unit(&data) else {
            self.counters.without_picture += 1;
            return;
        };
        // The tag's own flag also marks recovery points, where no browser can start.
        let keyframe = unit == AccessUnit::Idr;
        if time.nanos >= 1000 && keyframe && !track.precise {
            track.precise = true;
            emit(track.description());
        }
        let (dts, composition_offset) = time.in_track(track.precise);
        emit(Event::Sample(Sample { track: track.id, dts, composition_offset, keyframe, data }));
    }

    fn position(&self, kind: TagKind, number: u8) -> Option<usize> {
        self.tracks.iter().position(|track| track.kind == kind && track.number == number)
    }
}

impl Track {
    fn description(&self) -> Event {
        let timescale = if self.precise { TIMESCALE_PRECISE } else { TIMESCALE };
        Event::Track(TrackConfig { track: self.id, timescale, codec: self.codec.clone() })
    }
}

/// When a tag says its sample is.
struct Time {
    /// Milliseconds.
    dts: i64,
    composition_offset: i32,
    /// Enhanced RTMP's offset of the presentation time.
    nanos: u32,
}

impl Time {
    /// Decode time and composition offset in the track's timescale.
    fn in_track(&self, precise: bool) -> (i64, i32) {
        if !precise {
            return (self.dts, self.composition_offset);
        }
        let micros = i64::from(self.nanos / 1000);
        let dts = self.dts.saturating_mul(1000);
        // Without reordering both times are one, and both move.
        if self.composition_offset == 0 {
            (dts.saturating_add(micros), 0)
        } else {
            (dts, self.composition_offset.saturating_mul(1000).saturating_add(micros as i32))
        }
    }
}

impl Coding {
    fn is(self, codec: &Codec) -> bool {
        matches!(
            (self, codec),
            (Self::Aac, Codec::Aac { .. })
                | (Self::Ac3, Codec::Ac3 { .. })
                | (Self::Av1, Codec::Av1 { .. })
                | (Self::Avc, Codec::H264 { .. })
                | (Self::Eac3, Codec::Eac3 { .. })
                | (Self::Flac, Codec::Flac { .. })
                | (Self::Hevc, Codec::Hevc { .. })
                | (Self::Opus, Codec::Opus { .. })
                | (Self::Vp9, Codec::Vp9 { .. })
        )
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
