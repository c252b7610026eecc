//! FLV tag bodies (Adobe's Video File Format 10.1, annex E.4; enhanced RTMP v2) made into tracks
//! and samples. Tracks are found by their data, never by metadata. Owns what is dropped and what is
//! news; leaves timestamps as they come and bitstreams to the packager's readers, and refuses every
//! codec but H.264 and AAC by name.

mod tag;

use bytes::Bytes;

pub(crate) use tag::Aggregate;
use tag::{AudioBody, VideoBody};
use weir_packager::{AacConfig, AccessUnit, AvcConfig, Nals};

use crate::{Codec, Event, Sample, TrackConfig, TrackId, Unsupported};

/// RTMP and FLV count milliseconds.
const TIMESCALE: u32 = 1000;

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
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    tracks: u32,
    counters: Counters,
}

#[derive(Debug)]
struct VideoTrack {
    id: TrackId,
    record: Bytes,
    nal_length_bytes: u8,
}

#[derive(Debug)]
struct AudioTrack {
    id: TrackId,
    config: Bytes,
}

impl Demuxer {
    /// Reads one tag. An error means that this publisher sends what we cannot carry at all;
    /// damage to a single tag is counted instead.
    pub(crate) fn handle_tag(
        &mut self,
        tag: &Tag,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Unsupported> {
        match tag.kind {
            TagKind::Video => match tag::video(&tag.body)? {
                VideoBody::Configuration(record) => self.configure_video(record, emit),
                VideoBody::Picture { composition_offset, nals } => {
                    self.picture(tag.time, composition_offset, nals, emit);
                }
                VideoBody::Malformed => self.counters.malformed += 1,
                VideoBody::Nothing => {}
            },
            TagKind::Audio => match tag::audio(&tag.body)? {
                AudioBody::Configuration(config) => self.configure_audio(config, emit),
                AudioBody::Raw(data) => self.audio_frame(tag.time, data, emit),
                AudioBody::Malformed => self.counters.malformed += 1,
                AudioBody::Nothing => {}
            },
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    fn configure_video(&mut self, record: Bytes, emit: &mut impl FnMut(Event)) {
        // Encoders repeat the record with every keyframe; only a different one is news.
        if self.video.as_ref().is_some_and(|track| track.record == record) {
            return;
        }
        let Ok(AvcConfig { length_size: nal_length_bytes, .. }) = AvcConfig::parse(&record) else {
            self.counters.bad_configurations += 1;
            return;
        };
        let id = self.video.as_ref().map(|track| track.id);
        let id = id.unwrap_or_else(|| self.new_track());
        self.video = Some(VideoTrack { id, record: record.clone(), nal_length_bytes });
        let codec = Codec::H264 { record };
        emit(Event::Track(TrackConfig { track: id, timescale: TIMESCALE, codec }));
    }

    fn configure_audio(&mut self, config: Bytes, emit: &mut impl FnMut(Event)) {
        if self.audio.as_ref().is_some_and(|track| track.config == config) {
            return;
        }
        if AacConfig::parse(&config).is_err() {
            self.counters.bad_configurations += 1;
            return;
        }
        let id = self.audio.as_ref().map(|track| track.id);
        let id = id.unwrap_or_else(|| self.new_track());
        self.audio = Some(AudioTrack { id, config: config.clone() });
        let codec = Codec::Aac { config };
        emit(Event::Track(TrackConfig { track: id, timescale: TIMESCALE, codec }));
    }

    fn picture(
        &mut self,
        dts: i64,
        composition_offset: i32,
        nals: Bytes,
        emit: &mut impl FnMut(Event),
    ) {
        let Some(video) = &self.video else {
            self.counters.without_configuration += 1;
            return;
        };
        // An empty unit adds up, but Chrome refuses the whole chunk that holds one.
        let mut units = Nals::new(&nals, video.nal_length_bytes);
        if !units.all(|unit| unit.is_ok_and(|unit| !unit.is_empty())) {
            self.counters.malformed += 1;
            return;
        }
        let Ok(unit) = AccessUnit::classify(&nals, video.nal_length_bytes) else {
            self.counters.without_picture += 1;
            return;
        };
        emit(Event::Sample(Sample {
            track: video.id,
            dts,
            composition_offset,
            // The tag's own flag also marks recovery points, where no browser can start.
            keyframe: unit == AccessUnit::Idr,
            data: nals,
        }));
    }

    fn audio_frame(&mut self, dts: i64, data: Bytes, emit: &mut impl FnMut(Event)) {
        let Some(audio) = &self.audio else {
            self.counters.without_configuration += 1;
            return;
        };
        let track = audio.id;
        emit(Event::Sample(Sample { track, dts, composition_offset: 0, keyframe: true, data }));
    }

    fn new_track(&mut self) -> TrackId {
        let id = TrackId(self.tracks);
        self.tracks += 1;
        id
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
