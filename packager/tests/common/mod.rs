//! What the integration tests share: driving a packager and reading back what it publishes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests own the clock and may fail loudly"
)]

pub mod tools;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_packager::catalog::Catalog;
use weir_packager::fmp4::{Event, Reader};
use weir_packager::{Codec, Object, Options, Output, Packager, Sample, TrackConfig, TrackId};

pub const VIDEO: TrackId = TrackId(1);
pub const AUDIO: TrackId = TrackId(2);
pub const WALL: Duration = Duration::from_hours(500_000);
/// 640x360 at 30 fps, no B-frames; written by x264 for a picture of ours.
pub const RECORD_360P: &str =
    "0142c01effe100196742c01ed900a02ff970110000030001000003003c0f162e4801000568cb83cb20";
pub const RECORD_1080P: &str = "01640028ffe1001b67640028acd940780227e5c044000003000400000300f03c60c65801000668ebe3cb22c0fdf8f800";

pub fn unhex(hex: &str) -> Bytes {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()).collect()
}

pub fn video_config(record: &str) -> TrackConfig {
    TrackConfig { track: VIDEO, timescale: 1000, codec: Codec::H264 { record: unhex(record) } }
}

pub fn audio_config() -> TrackConfig {
    let config = Bytes::from_static(&[0x11, 0x90]);
    TrackConfig { track: AUDIO, timescale: 1000, codec: Codec::Aac { config } }
}

/// A picture of one NAL unit; `seed` makes its bytes its own.
pub fn picture(dts: i64, keyframe: bool, seed: u32, size: usize) -> Sample {
    let mut unit = vec![if keyframe { 0x65 } else { 0x41 }];
    unit.extend(seed.to_be_bytes().into_iter().cycle().take(size));
    let data = [&(unit.len() as u32).to_be_bytes()[..], &unit].concat().into();
    Sample { track: VIDEO, dts, composition_offset: 0, keyframe, data }
}

pub fn sound(dts: i64, seed: u32, size: usize) -> Sample {
    let data = seed.to_be_bytes().into_iter().cycle().take(size.max(1)).collect();
    Sample { track: AUDIO, dts, composition_offset: 0, keyframe: true, data }
}

/// A packager with a clock that follows what is sent.
pub struct Feed {
    pub packager: Packager,
    pub start: Instant,
    pub now: Instant,
    pub outputs: Vec<Output>,
    pub sent: Vec<Sample>,
}

impl Feed {
    pub fn new(options: Options) -> Self {
        let start = Instant::now();
        Self {
            packager: Packager::new(options),
            start,
            now: start,
            outputs: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub fn track(&mut self, config: TrackConfig) {
        self.packager.handle_track(config, self.now).unwrap();
        self.drain();
    }

    pub fn sample(&mut self, sample: Sample) {
        let wall = WALL + self.now.duration_since(self.start);
        self.packager.handle_sample(sample.clone(), wall, self.now).unwrap();
        self.sent.push(sample);
        self.drain();
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        while let Some(at) = self.packager.poll_timeout().filter(|at| *at <= self.now) {
            self.packager.handle_timeout(at);
            self.drain();
        }
    }

    /// Sends both tracks at 30 fps and 48 kHz in RTMP's milliseconds, a keyframe a second.
    pub fn run(&mut self, from_ms: i64, to_ms: i64) {
        let (mut frame, mut sound_frame) = (0i64, 0i64);
        loop {
            let (video_ms, audio_ms) = ((frame * 100 + 1) / 3, sound_frame * 64 / 3);
            if video_ms.min(audio_ms) >= to_ms - from_ms {
                return;
            }
            if video_ms <= audio_ms {
                self.sample(picture(from_ms + video_ms, frame % 30 == 0, frame as u32, 300));
                self.pass(Duration::from_millis(33));
                frame += 1;
            } else {
                self.sample(sound(from_ms + audio_ms, sound_frame as u32 + 5_000_000, 200));
                sound_frame += 1;
            }
        }
    }

    pub fn drain(&mut self) {
        self.outputs.extend(std::iter::from_fn(|| self.packager.poll_output()));
    }

    pub fn objects(&self, track: &str) -> Vec<&Object> {
        let objects = self.outputs.iter().filter_map(|output| match output {
            Output::Object(object) if &*object.track == track => Some(object),
            _ => None,
        });
        objects.collect()
    }

    pub fn catalogs(&self) -> Vec<Catalog> {
        self.objects(".catalog")
            .iter()
            .map(|object| Catalog::parse(&object.payload).unwrap())
            .collect()
    }

    pub fn last_catalog(&self) -> Catalog {
        self.catalogs().pop().unwrap()
    }
}

/// A sample as a reader of one track sees it.
#[derive(Debug, Clone)]
pub struct Read {
    pub group: u64,
    pub object: u64,
    pub dts: i64,
    pub pts: i64,
    pub duration: u32,
    pub keyframe: bool,
    pub captured: Option<Duration>,
    pub data: Bytes,
}

/// Reads every chunk of a track with the header of the given catalog track.
pub fn read_back(init: &[u8], objects: &[&Object]) -> Vec<Read> {
    let mut reader = Reader::new();
    reader.handle_input(init).unwrap();
    let mut read = Vec::new();
    for object in objects {
        reader.handle_input(&object.payload).unwrap();
        while let Some(event) = reader.poll_event() {
            let Event::Sample { sample, duration, captured } = event else { continue };
            read.push(Read {
                group: object.group,
                object: object.object,
                dts: sample.dts,
                pts: sample.dts + i64::from(sample.composition_offset),
                duration,
                keyframe: sample.keyframe,
                captured,
                data: sample.data,
            });
        }
    }
    reader.handle_end().unwrap();
    read
}

/// What every track must obey whatever was fed: growing decode times, growing groups, contiguous objects.
pub fn check_track(read: &[Read]) {
    for pair in read.windows(2) {
        let [one, two] = pair else { continue };
        assert!(two.dts > one.dts, "decode times run backwards: {one:?} {two:?}");
        assert!(two.group >= one.group, "groups run backwards: {one:?} {two:?}");
        if two.group == one.group {
            assert!(two.object - one.object <= 1, "objects are not contiguous: {one:?} {two:?}");
        } else {
            assert_eq!(two.object, 0, "a group starts at object 0: {one:?} {two:?}");
        }
    }
}

/// Group id to start time in seconds.
pub fn group_starts(read: &[Read], timescale: f64) -> BTreeMap<u64, f64> {
    let mut starts = BTreeMap::new();
    for sample in read {
        starts.entry(sample.group).or_insert(sample.dts as f64 / timescale);
    }
    starts
}
