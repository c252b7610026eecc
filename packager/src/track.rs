//! One media track: from placed samples to chunks. Owns what a codec kind needs between two samples (cadence, audio grid,
//! pending frames) and the numbering of objects; where groups begin is decided by [`Groups`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cadence::Cadence;
use crate::catalog::Kind;
use crate::cmaf::{FLAGS_DEPENDENT, FLAGS_SYNC, chunk, init};
use crate::codec::{AudioConfig, Configuration, VideoConfig};
use crate::gauge::Gauge;
use crate::groups::{Boundary, Groups};
use crate::h264::AccessUnit;
use crate::health::TrackHealth;
use crate::meter::Meter;
use crate::packager::{Counters, Object};
use crate::timeline::{Clock, NANOS_PER_SECOND, Timeline, Verdict, from_nanos, nanos, to_nanos};
use crate::{Codec, Error, Options, Sample, TrackConfig, TrackId};

/// Units per second of every video track: what frame rates and millisecond timestamps divide well.
const VIDEO_TIMESCALE: u32 = 90_000;
/// Presentation is never further from decoding: 16 reordered frames at 2 fps.
const COMPOSITION_MAX: i64 = 8 * NANOS_PER_SECOND;
/// Decoding may lag this far behind what was claimed: the longest hole the time line believes, and as much again.
const LAG_MAX: i64 = 6 * VIDEO_TIMESCALE as i64;
/// Audio decode times count samples. Timestamps may stray this far from the count before it is corrected by a gap or by
/// dropping frames: two AAC frames, less than the 45 ms by which sound may lead the picture unnoticed (ITU-R BT.1359).
const AUDIO_STRAY_MAX: i64 = 43_000_000;
/// From here on the count is drawn towards the timestamps, [`AUDIO_PULL`] samples a chunk: enough for a clock 1000 ppm
/// off, too little to be heard. Millisecond rounding and sender jitter stay below.
const AUDIO_PULL_FROM: i64 = 20_000_000;
const AUDIO_PULL: i64 = 4;
/// A frame longer than this (FLAC at 48 kHz: 85 to 96 ms) is a chunk by itself, since two would make the first wait for it.
const AUDIO_FRAME_LONG: i64 = 50_000_000;
/// Frames dropped in a row because they lie in the past, about a second; then the timestamps are no longer believed.
const AUDIO_DROPS_MAX: u32 = 48;

const AUDIO_PRIORITY: u8 = 1;
const VIDEO_PRIORITY: u8 = 2;

#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) id: TrackId,
    /// `track_ID` in the boxes.
    pub(crate) slot: u32,
    pub(crate) name: Arc<str>,
    pub(crate) codec: Codec,
    pub(crate) init: Bytes,
    pub(crate) meter: Meter,
    pub(crate) gauge: Gauge,
    /// Not described again since the publisher restarted.
    pub(crate) stale: bool,
    source_timescale: u32,
    clock: Clock,
    media: Media,
    sequence: u32,
    group: Option<Boundary>,
    object: u64,
}

#[derive(Debug)]
enum Media {
    Video(Video),
    Audio(Audio),
}

#[derive(Debug)]
struct Video {
    config: VideoConfig,
    cadence: Cadence,
    waiting: bool,
    idr_seen: bool,
    group_counted: bool,
    last_decode: i64,
    last_duration: i64,
}

#[derive(Debug)]
struct Audio {
    config: AudioConfig,
    /// End of everything taken so far, in samples.
    next: Option<i64>,
    pending: Vec<Bytes>,
    pending_start: i64,
    pending_captured: Duration,
    /// Of each pending frame; a chunk holds frames of one duration.
    pending_duration: u32,
    drops: u32,
    /// The next frame opens a group: its configuration is new.
    cut: bool,
}

/// What a sample needs besides its track.
pub(crate) struct Context<'a> {
    pub(crate) options: &'a Options,
    pub(crate) timeline: &'a mut Timeline,
    pub(crate) groups: &'a mut Groups,
    pub(crate) counters: &'a mut Counters,
    /// Where the video of this feed is, if it runs.
    pub(crate) video_at: Option<i64>,
}

impl Track {
    /// `size` is what a keyframe said, for codecs whose configuration says nothing about it.
    pub(crate) fn new(
        config: TrackConfig,
        size: Option<(u32, u32)>,
        slot: u32,
    ) -> Result<Self, Error> {
        let (media, init) = Media::new(&config, size, slot)?;
        Ok(Self {
            id: config.track,
            slot,
            name: "".into(),
            codec: config.codec,
            init,
            meter: Meter::default(),
            gauge: Gauge::default(),
            stale: false,
            source_timescale: config.timescale,
            clock: Clock::default(),
            media,
            sequence: 0,
            group: None,
            object: 0,
        })
    }

    /// Takes a new configuration; the track starts over at its next keyframe. False if nothing is new.
    pub(crate) fn reconfigure(
        &mut self,
        config: TrackConfig,
        size: Option<(u32, u32)>,
    ) -> Result<bool, Error> {
        let same_size = size.is_none() || size == self.size();
        if config.codec == self.codec && config.timescale == self.source_timescale && same_size {
            return Ok(false);
        }
        let (media, init) = Media::new(&config, size, self.slot)?;
        let last_decode = match &self.media {
            Media::Video(video) => video.last_decode,
            Media::Audio(_) => -1,
        };
        self.media = media;
        match &mut self.media {
            Media::Video(video) => video.last_decode = last_decode,
            Media::Audio(audio) => audio.cut = true,
        }
        self.source_timescale = config.timescale;
        self.codec = config.codec;
        let changed = self.init != init;
        self.init = init;
        Ok(changed)
    }

    /// The name its picture size or kind asks for.
    pub(crate) fn base_name(&self) -> String {
        match &self.media {
            Media::Video(video) => format!("video/{}p", video.config.height),
            Media::Audio(_) => "audio".into(),
        }
    }

    /// Picture size.
    pub(crate) fn size(&self) -> Option<(u32, u32)> {
        match &self.media {
            Media::Video(video) => Some((video.config.width, video.config.height)),
            Media::Audio(_) => None,
        }
    }

    /// What describes it, as it came.
    pub(crate) fn description(&self) -> TrackConfig {
        TrackConfig { track: self.id, timescale: self.source_timescale, codec: self.codec.clone() }
    }

    pub(crate) fn kind(&self) -> Kind {
        match &self.media {
            Media::Video(_) => Kind::Video,
            Media::Audio(_) => Kind::Audio,
        }
    }

    /// Gives the track a name; objects count anew.
    pub(crate) fn rename(&mut self, name: Arc<str>) {
        self.name = name;
        self.object = 0;
    }

    /// Where its newest sample is, if it is a running video track.
    pub(crate) fn video_at(&self) -> Option<i64> {
        match &self.media {
            Media::Video(video) if !video.waiting => self.clock.last(),
            _ => None,
        }
    }

    /// A decode time of this track's source in nanoseconds.
    pub(crate) fn source_time(&self, dts: i64) -> i64 {
        to_nanos(dts, self.source_timescale)
    }

    /// Notes what arrived; `opens` says that a group began with it.
    pub(crate) fn measure(&mut self, sample: &Sample, opens: bool, arrival: i64) {
        let at = self.clock.last();
        self.gauge.note(sample.data.len(), sample.composition_offset, at, arrival);
        if opens && let Some(at) = at {
            self.gauge.keyframe(at);
        }
    }

    /// What can be said of it at `now`, counted as arrivals are.
    pub(crate) fn health(&self, now: i64) -> TrackHealth {
        let described = self.catalog_entry();
        let rates = self.gauge.rates(now);
        let (b_frames, nominal_rate, interval) = match &self.media {
            Media::Video(video) => (
                self.gauge.reorders(),
                video.cadence.rate(),
                self.gauge.keyframe_interval(self.clock.last()),
            ),
            Media::Audio(_) => (false, None, None),
        };
        let span = |nanos: i64| Duration::from_nanos(nanos.max(0).cast_unsigned());
        TrackHealth {
            name: Arc::clone(&self.name),
            kind: self.kind(),
            codec: described.codec,
            width: described.width,
            height: described.height,
            sample_rate: described.sample_rate,
            channels: described.channels,
            bitrate: rates.map(|(bits, _)| bits),
            frame_rate: rates.map(|(_, rate)| rate),
            nominal_rate,
            keyframe_interval: interval.map(span),
            b_frames,
            silent: self.gauge.last_arrival().map(|last| span(now - last)),
        }
    }

    /// The publisher restarted.
    pub(crate) fn restart(&mut self) {
        self.stale = true;
        if let Media::Video(video) = &mut self.media {
            video.waiting = true;
        }
    }

    /// Describes the track for the catalogs, with rates as measured.
    pub(crate) fn describe(&mut self) -> crate::catalog::Track {
        let rate = match &self.media {
            Media::Video(video) => video.cadence.rate(),
            Media::Audio(_) => None,
        };
        let (bitrate, framerate) = self.meter.publish(rate);
        crate::catalog::Track { framerate, bitrate, ..self.catalog_entry() }
    }

    /// The same without rates.
    fn catalog_entry(&self) -> crate::catalog::Track {
        let mut track = crate::catalog::Track {
            name: self.name.to_string(),
            kind: self.kind(),
            codec: String::new(),
            width: None,
            height: None,
            framerate: None,
            bitrate: None,
            sample_rate: None,
            channels: None,
            timescale: None,
            init: self.init.to_vec(),
        };
        match &self.media {
            Media::Video(video) => {
                track.codec.clone_from(&video.config.codec_string);
                track.width = Some(video.config.width);
                track.height = Some(video.config.height);
                track.timescale = Some(VIDEO_TIMESCALE);
            }
            Media::Audio(audio) => {
                track.codec = audio.config.codec_string.to_string();
                track.sample_rate = Some(audio.config.sample_rate);
                track.channels = Some(audio.config.channels);
                track.timescale = Some(audio.config.sample_rate);
            }
        }
        track
    }

    /// Takes a sample; gives at most two objects, the second only when a sample closes one chunk and fills another.
    pub(crate) fn handle_sample(
        &mut self,
        sample: &Sample,
        captured: Duration,
        context: &mut Context<'_>,
    ) -> Result<[Option<Object>; 2], Error> {
        let source = to_nanos(sample.dts, self.source_timescale);
        match &mut self.media {
            Media::Video(_) => Ok([self.video(sample, source, captured, context)?, None]),
            Media::Audio(_) => self.audio(sample, source, captured, context),
        }
    }

    fn video(
        &mut self,
        sample: &Sample,
        source: i64,
        captured: Duration,
        context: &mut Context<'_>,
    ) -> Result<Option<Object>, Error> {
        let Media::Video(video) = &mut self.media else { return Ok(None) };
        let unit = video.config.classify(&sample.data)?;
        let group_start = self.group.map_or(i64::MAX, |group| group.start);
        let group_age = self.clock.last().map_or(0, |last| last.saturating_sub(group_start));
        let overdue = group_age > nanos(context.options.group_duration_max);
        let starts = match unit {
            AccessUnit::Idr => true,
            // Browsers start at IDR pictures only, so a recovery point cuts only where nothing better comes.
            AccessUnit::RecoveryPoint => sample.keyframe && (!video.idr_seen || overdue),
            AccessUnit::Dependent => false,
        };
        if video.waiting && !starts {
            context.counters.dropped_before_keyframe += 1;
            return Ok(None);
        }
        video.waiting = false;
        video.idr_seen |= unit == AccessUnit::Idr;
        if overdue && !starts && !video.group_counted {
            video.group_counted = true;
            context.counters.long_groups += 1;
        }
        let placed = context.timeline.place(&mut self.clock, source, video.cadence.nominal());
        context.counters.count(placed.verdict);
        let at = video.cadence.smooth(placed.at);
        let claimed = from_nanos(at, VIDEO_TIMESCALE);
        let decode =
            if starts { claimed } else { video.bridge(claimed) }.max(video.last_decode + 1);
        let duration = from_nanos(video.cadence.duration(), VIDEO_TIMESCALE);
        (video.last_decode, video.last_duration) = (decode, duration);
        let offset = to_nanos(i64::from(sample.composition_offset), self.source_timescale);
        let offset = if offset.abs() > COMPOSITION_MAX {
            context.counters.count(Verdict::Restamped);
            0
        } else {
            from_nanos(video.cadence.smooth_offset(offset), VIDEO_TIMESCALE)
        };
        // What decoding lags behind, presentation makes up for.
        let offset = offset + (claimed - decode).max(0);
        if starts {
            self.group = Some(context.groups.open(at, self.group.map(|group| group.group)));
            self.object = 0;
            video.group_counted = false;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let header = chunk::Header {
            track_id: self.slot,
            sequence: self.sequence,
            decode_time: decode as u64,
            media_time: (decode + offset).max(0) as u64,
            captured,
        };
        let flags = if starts { FLAGS_SYNC } else { FLAGS_DEPENDENT };
        let payload = chunk::video(&header, duration as u32, flags, offset as i32, &sample.data);
        self.meter.count(at, payload.len());
        Ok(Some(self.object(payload, VIDEO_PRIORITY)))
    }

    fn audio(
        &mut self,
        sample: &Sample,
        source: i64,
        captured: Duration,
        context: &mut Context<'_>,
    ) -> Result<[Option<Object>; 2], Error> {
        let Media::Audio(audio) = &mut self.media else { return Ok([None, None]) };
        let rate = audio.config.sample_rate;
        let duration = audio.config.frame_samples(&sample.data)?;
        let frame = i64::from(duration);
        let placed = context.timeline.place(&mut self.clock, source, to_nanos(frame, rate));
        context.counters.count(placed.verdict);
        let Some((start, contiguous)) = audio.grid(from_nanos(placed.at, rate)) else {
            context.counters.dropped_overlap += 1;
            return Ok([None, None]);
        };
        let other_duration = audio.pending_duration != duration;
        let at = to_nanos(start, rate);
        let group = audio_group(self.group, audio.cut, at, context);
        let switches = group.is_none() || group != self.group;
        let mut objects = [None, None];
        if switches || !contiguous || other_duration {
            objects = [self.flush(), None];
        }
        if switches {
            self.group = group.or_else(|| {
                // Nobody opened this one: audio cuts for itself.
                Some(context.groups.open(at, self.group.map(|group| group.group)))
            });
            self.object = 0;
        }
        let Media::Audio(audio) = &mut self.media else { return Ok(objects) };
        audio.cut = false;
        if audio.pending.is_empty() {
            (audio.pending_start, audio.pending_captured) = (start, captured);
            audio.pending_duration = duration;
        }
        audio.pending.push(sample.data.clone());
        audio.next = Some(start + frame);
        let full =
            audio.pending.len() >= context.options.audio_frames_per_chunk.clamp(1, 50) as usize;
        if full || to_nanos(frame, rate) > AUDIO_FRAME_LONG {
            let object = self.flush();
            let [first, second] = &mut objects;
            *if first.is_none() { first } else { second } = object;
        }
        Ok(objects)
    }

    /// Writes the pending audio frames, if any.
    pub(crate) fn flush(&mut self) -> Option<Object> {
        let Media::Audio(audio) = &mut self.media else { return None };
        if audio.pending.is_empty() {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let start = audio.pending_start.max(0) as u64;
        let header = chunk::Header {
            track_id: self.slot,
            sequence: self.sequence,
            decode_time: start,
            media_time: start,
            captured: audio.pending_captured,
        };
        let payload = chunk::audio(&header, audio.pending_duration, &audio.pending);
        let at = to_nanos(audio.pending_start, audio.config.sample_rate);
        audio.pending.clear();
        self.meter.count(at, payload.len());
        Some(self.object(payload, AUDIO_PRIORITY))
    }

    fn object(&mut self, payload: Bytes, priority: u8) -> Object {
        let object = self.object;
        self.object += 1;
        Object {
            track: Arc::clone(&self.name),
            group: self.group.map_or(0, |group| group.group),
            object,
            priority,
            end_of_group: false,
            payload,
        }
    }
}

/// How long video may be silent before audio cuts groups without it.
const VIDEO_SILENCE_MAX: i64 = 2 * NANOS_PER_SECOND;

/// The group of an audio frame at `at`: the newest that has started, a new one (`None`) if audio has to cut for itself.
fn audio_group(
    current: Option<Boundary>,
    cut: bool,
    at: i64,
    context: &Context<'_>,
) -> Option<Boundary> {
    let newest = context.groups.at(at)?;
    let Some(current) = current else { return Some(newest) };
    if newest.group > current.group {
        return Some(newest);
    }
    let video_runs = context.video_at.is_some_and(|video| at - video <= VIDEO_SILENCE_MAX);
    let overdue = !video_runs && at - current.start >= nanos(context.options.audio_group_duration);
    if cut || overdue { None } else { Some(current) }
}

impl Media {
    fn new(
        config: &TrackConfig,
        size: Option<(u32, u32)>,
        slot: u32,
    ) -> Result<(Self, Bytes), Error> {
        Ok(match Configuration::parse(&config.codec, size)? {
            Configuration::Video(video) => {
                let init = init::video(slot, VIDEO_TIMESCALE, &video);
                let cadence = Cadence::new(config.timescale, video.frame_rate);
                let video = Video {
                    config: video,
                    cadence,
                    waiting: true,
                    idr_seen: false,
                    group_counted: false,
                    last_decode: -1,
                    last_duration: 0,
                };
                (Self::Video(video), init)
            }
            Configuration::Audio(audio) => {
                let init = init::audio(slot, &audio);
                let audio = Audio {
                    config: audio,
                    next: None,
                    pending: Vec::new(),
                    pending_start: 0,
                    pending_captured: Duration::ZERO,
                    pending_duration: 0,
                    drops: 0,
                    cut: false,
                };
                (Self::Audio(audio), init)
            }
        })
    }
}

impl Video {
    /// Spreads a hole in decode times over the frames behind it. Media Source Extensions take a decode time more than
    /// twice the declared duration after the last one for a discontinuity and drop everything up to the next keyframe, so
    /// a single skipped frame would freeze the picture for the rest of its group (seen in Chromium). Decoding may lag, as
    /// long as presentation does not: the composition offset carries the difference.
    fn bridge(&self, claimed: i64) -> i64 {
        let bridged = claimed.min(self.last_decode + self.last_duration * 7 / 4);
        if claimed - bridged > LAG_MAX { claimed } else { bridged }
    }
}

impl Audio {
    /// Puts a frame claimed to start at `target` (in samples) on the grid: its start, and whether it follows the frame
    /// before without a gap. `None` if it lies in the past and has to go.
    fn grid(&mut self, target: i64) -> Option<(i64, bool)> {
        let rate = self.config.sample_rate;
        let Some(next) = self.next else { return Some((target, false)) };
        let stray = target - next;
        if stray > from_nanos(AUDIO_STRAY_MAX, rate) {
            self.drops = 0;
            return Some((target, false));
        }
        if stray < -from_nanos(AUDIO_STRAY_MAX, rate) {
            self.drops += 1;
            return (self.drops > AUDIO_DROPS_MAX).then_some((next, true));
        }
        self.drops = 0;
        let pulls = self.pending.is_empty() && stray.abs() > from_nanos(AUDIO_PULL_FROM, rate);
        Some((if pulls { next + stray.signum() * AUDIO_PULL } else { next }, true))
    }
}
