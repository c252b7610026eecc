//! The health of one input for the one who runs its encoder: what the packager measured, what the
//! protocol's shell knows of the link, and advice that names the setting to change. It measures
//! nothing itself; the words for people live here and nowhere else.

use std::time::Duration;

use serde_json::{Value, json};
use weir_packager::catalog::Kind;
use weir_packager::{Health as Feed, TrackHealth};

/// Viewers join at keyframes; longer groups than this are felt.
const KEYFRAME_MAX: Duration = Duration::from_secs(4);
/// A publisher with nothing to send for this long has a problem.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// Share of the pictures that must arrive.
const RATE_MIN: f64 = 0.9;
/// More than crystals are off.
const DRIFT_PPM_MAX: f64 = 200.0;
/// More than any clock is off: time itself is wrong.
const SPEED_PPM_MAX: f64 = 5_000.0;
/// Sound this far from its pictures costs every viewer that much buffer.
const SKEW_MS_MAX: i64 = 300;
/// Packets a path may lose before it is worth a word.
const LOSS_SHARE_MAX: f64 = 0.02;
/// A retransmission needs a round trip and a half, twice that for a second one.
const LATENCY_IN_RTT_MIN: u32 = 3;

/// What a protocol's shell knows of the path to its publisher; what it does not know stays out.
/// Counters are since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Round trip.
    pub rtt: Option<Duration>,
    /// Packets that arrived.
    pub packets_received: Option<u64>,
    /// Packets found missing, whether they came later or not.
    pub packets_lost: Option<u64>,
    /// Packets that came on request.
    pub packets_retransmitted: Option<u64>,
    /// Packets that never came, or came too late.
    pub packets_dropped: Option<u64>,
    /// How long the receiver waits for missing packets.
    pub latency: Option<Duration>,
}

/// Everything known of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// As the packager sees the feed.
    pub feed: Feed,
    /// As the protocol's shell sees the path.
    pub link: Link,
    /// Somebody publishes.
    pub publishing: bool,
    /// Access units lost since the last report.
    pub lost_lately: u64,
    /// Samples stamped anew or jumps since the last report.
    pub restamped_lately: u64,
}

macro_rules! warnings {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// Something an encoder's operator can do something about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Warning {
            $($(#[$doc])* $name),+
        }

        impl Warning {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word for it in the API and in metrics.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code),+
                }
            }
        }
    };
}

warnings! {
    /// There is no sound.
    AudioMissing = "audio_missing",
    /// Sound and pictures arrive far from each other.
    AudioDelayed = "audio_delayed",
    /// Pictures are reordered.
    BFrames = "b_frames",
    /// Few browsers play the codec.
    CodecRare = "codec_rare",
    /// The encoder's clock is off.
    Drift = "drift",
    /// Pictures are missing.
    FramesMissing = "frames_missing",
    /// Keyframes are too far apart.
    GopTooLong = "gop_too_long",
    /// The receiver waits for less than retransmissions take.
    LatencyShort = "latency_short",
    /// The path loses packets.
    Loss = "loss",
    /// Nothing arrives.
    NoMedia = "no_media",
    /// Media is sent faster or slower than it plays.
    Speed = "speed",
    /// Timestamps run backwards or jump.
    Timestamps = "timestamps",
    /// There is no picture.
    VideoMissing = "video_missing",
}

impl Health {
    /// What is wrong, and in words what to do.
    pub fn warnings(&self) -> Vec<(Warning, String)> {
        let mut found = Vec::new();
        if !self.publishing {
            return found;
        }
        let of = |kind| self.feed.tracks.iter().find(|track| track.kind == kind);
        let (video, audio) = (of(Kind::Video), of(Kind::Audio));
        self.about_presence(video, audio, &mut found);
        if let Some(video) = video {
            about_video(video, &mut found);
        }
        for track in &self.feed.tracks {
            if is_rare(&track.codec) {
                found.push((
                    Warning::CodecRare,
                    format!(
                        "{} is {}, which many browsers cannot play. For every viewer: H.264 with AAC or \
                         Opus (OBS: Output, Encoder x264 or NVENC H.264; ffmpeg: -c:v libx264 -c:a aac; \
                         GStreamer: x264enc, avenc_aac).",
                        track.name, track.codec
                    ),
                ));
            }
        }
        self.about_time(&mut found);
        self.about_path(&mut found);
        found
    }

    fn about_presence(
        &self,
        video: Option<&TrackHealth>,
        audio: Option<&TrackHealth>,
        found: &mut Vec<(Warning, String)>,
    ) {
        let silent = self.feed.tracks.iter().filter_map(|track| track.silent).min();
        if let Some(silent) = silent.filter(|silent| *silent >= SILENT_MAX) {
            let text = format!(
                "Nothing has arrived for {} s. Look whether the encoder still runs and whether its \
                 network is up; it may reconnect at once with the same key.",
                silent.as_secs()
            );
            return found.push((Warning::NoMedia, text));
        }
        if self.feed.tracks.is_empty() {
            return;
        }
        if video.is_none() {
            let text = "There is sound only. If pictures are wanted, look whether the encoder has a \
                        video source and a video encoder set (ffmpeg: -map 0:v).";
            found.push((Warning::VideoMissing, text.into()));
        }
        if audio.is_none() {
            let text = "There are pictures only. If sound is wanted, look at the encoder's audio \
                        source (OBS: Settings, Audio, Global Audio Devices; ffmpeg: -map 0:a -c:a aac).";
            found.push((Warning::AudioMissing, text.into()));
        }
    }

    fn about_time(&self, found: &mut Vec<(Warning, String)>) {
        let counters = &self.feed.counters;
        if let Some(ppm) = self.feed.drift_ppm.filter(|ppm| ppm.abs() > DRIFT_PPM_MAX) {
            let (code, text) = if ppm.abs() > SPEED_PPM_MAX {
                let text = format!(
                    "Media arrives at {:.2} times its own speed. Send in real time (ffmpeg: -re in \
                     front of -i; GStreamer: sync=true at the sink).",
                    1.0 + ppm / 1e6
                );
                (Warning::Speed, text)
            } else {
                let text = format!(
                    "The encoder's clock runs {:.0} ppm {}. It is followed, and sound stays with the \
                     picture; at the source, take time from one device (OBS: the audio device's \
                     properties, Use Device Timestamps) and the same sample rate everywhere (OBS: \
                     Settings, Audio, Sample Rate).",
                    ppm.abs(),
                    if ppm > 0.0 { "fast" } else { "slow" }
                );
                (Warning::Drift, text)
            };
            found.push((code, text));
        }
        if let Some(ms) = self.feed.audio_delay_ms.filter(|ms| ms.abs() > SKEW_MS_MAX) {
            let text = format!(
                "Sound arrives {} ms {} than the picture it belongs to; every viewer buffers that much \
                 more. Take the encoder's look-ahead down (x264: tune zerolatency, or rc-lookahead=0), \
                 or correct the offset (OBS: Advanced Audio Properties, Sync Offset; ffmpeg: -itsoffset).",
                ms.abs(),
                if ms > 0 { "later" } else { "earlier" }
            );
            found.push((Warning::AudioDelayed, text));
        }
        if self.restamped_lately > 0 {
            let text = format!(
                "{} timestamps of late ran backwards or jumped and were corrected ({} jumps in all). \
                 Let one process stamp everything (ffmpeg: -use_wallclock_as_timestamps 1 per input, \
                 or -fps_mode cfr; OBS: avoid media sources with broken files).",
                self.restamped_lately, counters.jumps
            );
            found.push((Warning::Timestamps, text));
        }
    }

    fn about_path(&self, found: &mut Vec<(Warning, String)>) {
        let Link { rtt, packets_received, packets_lost, latency, .. } = self.link;
        let share = packets_lost
            .zip(packets_received)
            .map(|(lost, received)| lost as f64 / (lost as f64 + received as f64).max(1.0));
        let lossy = share.is_some_and(|share| share > LOSS_SHARE_MAX);
        if self.lost_lately > 0 || lossy {
            let text = format!(
                "The path loses packets ({:.1} %, {} pictures or sounds lost of late). Lower the \
                 bitrate (OBS: Settings, Output, Bitrate; x264: bitrate and vbv-maxrate), use a wired \
                 network, or give SRT more time (latency= in its address).",
                share.unwrap_or_default() * 100.0,
                self.lost_lately
            );
            found.push((Warning::Loss, text));
        }
        if let (Some(rtt), Some(latency)) = (rtt, latency)
            && latency < rtt * LATENCY_IN_RTT_MIN
        {
            let text = format!(
                "The receiver waits {} ms for missing packets, and a round trip takes {} ms. Set the \
                 sender's latency to four round trips (SRT: latency={} in its address, in \
                 microseconds with ffmpeg).",
                latency.as_millis(),
                rtt.as_millis(),
                (rtt * 4).as_millis()
            );
            found.push((Warning::LatencyShort, text));
        }
    }

    /// The whole for the API.
    pub fn to_json(&self) -> Value {
        let of = |kind| self.feed.tracks.iter().find(|track| track.kind == kind);
        let (video, audio) = (of(Kind::Video), of(Kind::Audio));
        let counters = &self.feed.counters;
        let link = &self.link;
        let bitrate: u64 = self.feed.tracks.iter().filter_map(|track| track.bitrate).sum();
        let warnings = self.warnings();
        let warnings = warnings
            .iter()
            .map(|(warning, message)| json!({ "code": warning.code(), "message": message }));
        json!({
            "publishing": self.publishing,
            "bitrate": bitrate,
            "video_codec": video.map(|track| &track.codec),
            "audio_codec": audio.map(|track| &track.codec),
            "width": video.and_then(|track| track.width),
            "height": video.and_then(|track| track.height),
            "frame_rate": video.and_then(|track| tenth(track.frame_rate)),
            "keyframe_interval_ms": video.and_then(interval_ms),
            "b_frames": video.map(|track| track.b_frames),
            "drift_ppm": tenth(self.feed.drift_ppm),
            "slew_ms": self.feed.slew_ms,
            "audio_delay_ms": self.feed.audio_delay_ms,
            "tracks": self.feed.tracks.iter().map(track_json).collect::<Vec<_>>(),
            "samples": {
                "lost": counters.lost,
                "restamped": counters.restamped,
                "jumps": counters.jumps,
                "dropped_before_keyframe": counters.dropped_before_keyframe,
                "dropped_overlap": counters.dropped_overlap,
                "dropped_backlog": counters.dropped_backlog,
            },
            "link": {
                "rtt_ms": link.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                "packets_received": link.packets_received,
                "packets_lost": link.packets_lost,
                "packets_retransmitted": link.packets_retransmitted,
                "packets_dropped": link.packets_dropped,
                "latency_ms": link.latency.map(|latency| latency.as_millis() as u64),
            },
            "warnings": warnings.collect::<Vec<_>>(),
        })
    }
}

fn about_video(video: &TrackHealth, found: &mut Vec<(Warning, String)>) {
    let rate = video.nominal_rate.or(video.frame_rate).unwrap_or(30.0);
    if let Some(interval) = video.keyframe_interval.filter(|interval| *interval > KEYFRAME_MAX) {
        let frames = (rate * 2.0).round();
        found.push((
            Warning::GopTooLong,
            format!(
                "Keyframes come every {:.1} s; viewers join at keyframes and lose whole groups at once. \
                 Set 2 s: OBS: Settings, Output, Keyframe Interval 2 s (0 is auto, up to 10 s); ffmpeg \
                 and x264: -g {frames} (keyint={frames}); GStreamer x264enc: key-int-max={frames}.",
                interval.as_secs_f64()
            ),
        ));
    }
    if video.b_frames {
        found.push((
            Warning::BFrames,
            "B-frames are on: each adds a frame or more of delay before anything is sent. For the least \
             delay turn them off: OBS: Settings, Output, Max B-frames 0 (x264: Tune zerolatency); ffmpeg: \
             -bf 0; GStreamer x264enc: bframes=0."
                .into(),
        ));
    }
    if let (Some(arriving), Some(nominal)) = (video.frame_rate, video.nominal_rate)
        && arriving < nominal * RATE_MIN
    {
        found.push((
            Warning::FramesMissing,
            format!(
                "{arriving:.1} of {nominal:.1} pictures a second arrive: the encoder or the path does not \
                 keep up. Choose a faster preset (OBS: CPU Usage Preset; ffmpeg and x264: -preset \
                 veryfast; GStreamer x264enc: speed-preset=veryfast), a smaller picture, or less bitrate."
            ),
        ));
    }
}

fn is_rare(codec: &str) -> bool {
    ["hvc1", "hev1", "ac-3", "ec-3", "fLaC"].iter().any(|rare| codec.starts_with(rare))
}

fn track_json(track: &TrackHealth) -> Value {
    json!({
        "name": &*track.name,
        "kind": if track.kind == Kind::Video { "video" } else { "audio" },
        "codec": track.codec,
        "width": track.width,
        "height": track.height,
        "sample_rate": track.sample_rate,
        "channels": track.channels,
        "bitrate": track.bitrate,
        "frame_rate": tenth(track.frame_rate),
        "keyframe_interval_ms": interval_ms(track),
        "b_frames": track.b_frames,
        "silent_ms": track.silent.map(|silent| silent.as_millis() as u64),
    })
}

fn interval_ms(track: &TrackHealth) -> Option<u64> {
    track.keyframe_interval.map(|interval| interval.as_millis() as u64)
}

fn tenth(value: Option<f64>) -> Option<f64> {
    value.map(|value| (value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video() -> TrackHealth {
        TrackHealth {
            name: "video/720p".into(),
            kind: Kind::Video,
            codec: "avc1.64001f".into(),
            width: Some(1280),
            height: Some(720),
            sample_rate: None,
            channels: None,
            bitrate: Some(2_500_000),
            frame_rate: Some(30.0),
            nominal_rate: Some(30.0),
            keyframe_interval: Some(Duration::from_secs(2)),
            b_frames: false,
            silent: Some(Duration::from_millis(20)),
        }
    }

    fn audio() -> TrackHealth {
        TrackHealth {
            name: "audio".into(),
            kind: Kind::Audio,
            codec: "mp4a.40.2".into(),
            width: None,
            height: None,
            sample_rate: Some(48_000),
            channels: Some(2),
            bitrate: Some(128_000),
            frame_rate: Some(46.9),
            nominal_rate: None,
            keyframe_interval: None,
            b_frames: false,
            silent: Some(Duration::from_millis(20)),
        }
    }

    fn healthy() -> Health {
        Health {
            feed: Feed {
                tracks: vec![video(), audio()],
                drift_ppm: Some(3.0),
                slew_ms: 0,
                audio_delay_ms: Some(10),
                counters: weir_packager::Counters::default(),
            },
            link: Link::default(),
            publishing: true,
            lost_lately: 0,
            restamped_lately: 0,
        }
    }

    /// The one warning of a healthy feed to which something was done, and its words.
    fn only(change: impl FnOnce(&mut Health)) -> (Warning, String) {
        let mut health = healthy();
        change(&mut health);
        let mut found = health.warnings();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_healthy_feed_needs_no_advice() {
        assert_eq!(healthy().warnings(), []);
        let json = healthy().to_json();
        assert_eq!(json["bitrate"], 2_628_000);
        assert_eq!(json["keyframe_interval_ms"], 2_000);
        assert_eq!((&json["width"], &json["b_frames"]), (&1280.into(), &false.into()));
    }

    #[test]
    fn each_fault_names_the_setting_to_change() {
        type Change = fn(&mut Health);
        let long = Some(Duration::from_millis(8_333));
        let table: [(Warning, &str, Change); 11] = [
            (Warning::BFrames, "Max B-frames", |h| h.feed.tracks[0].b_frames = true),
            (Warning::FramesMissing, "CPU Usage Preset", |h| {
                h.feed.tracks[0].frame_rate = Some(20.0);
            }),
            (Warning::AudioMissing, "Global Audio Devices", |h| h.feed.tracks.truncate(1)),
            (Warning::VideoMissing, "-map 0:v", |h| drop(h.feed.tracks.remove(0))),
            (Warning::CodecRare, "libx264", |h| h.feed.tracks[0].codec = "hvc1.1.6.L93".into()),
            (Warning::Drift, "350 ppm fast", |h| h.feed.drift_ppm = Some(350.0)),
            (Warning::Speed, "-re", |h| h.feed.drift_ppm = Some(1e6)),
            (Warning::AudioDelayed, "zerolatency", |h| h.feed.audio_delay_ms = Some(-900)),
            (Warning::Timestamps, "-fps_mode cfr", |h| h.restamped_lately = 3),
            (Warning::Loss, "vbv-maxrate", |h| h.lost_lately = 1),
            (Warning::LatencyShort, "latency=400", |h| {
                h.link.rtt = Some(Duration::from_millis(100));
                h.link.latency = Some(Duration::from_millis(120));
            }),
        ];
        for (warning, words, change) in table {
            let (found, text) = only(change);
            assert_eq!(found, warning);
            assert!(text.contains(words), "{warning:?}: {text}");
        }
        let (found, text) = only(|h| h.feed.tracks[0].keyframe_interval = long);
        assert_eq!(found, Warning::GopTooLong);
        for setting in ["Keyframe Interval 2 s", "-g 60", "keyint=60", "key-int-max=60", "8.3 s"] {
            assert!(text.contains(setting), "{setting}: {text}");
        }
        let (found, _) = only(|h| {
            h.feed.tracks.iter_mut().for_each(|track| track.silent = Some(SILENT_MAX));
        });
        assert_eq!(found, Warning::NoMedia);
        let mut gone = healthy();
        gone.publishing = false;
        gone.feed.tracks[0].b_frames = true;
        assert_eq!(gone.warnings(), [], "nobody is there to change anything");
    }
}
