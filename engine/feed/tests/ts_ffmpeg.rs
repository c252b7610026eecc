//! Real encoders' transport streams against the demultiplexer. ffmpeg writes the same packets into a file of the
//! elementary stream, and what comes out here must be that file, byte for byte. Debian's ffmpeg (5.1) comes from
//! PATH and must be there; `WEIR_FFMPEG9` names a newer one.

#![expect(clippy::disallowed_methods, reason = "this is a shell: it owns a clock")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this file is a test")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use weir_feed::annexb::Units;
use weir_feed::{Codec, Event, Sample, TrackConfig, TrackId, ts};
use weir_packager::Nals;

/// What one case asks of an encoder.
struct Case {
    name: &'static str,
    video: &'static [&'static str],
    audio: &'static [&'static str],
    /// Format of ffmpeg that holds the video as a byte stream, and the audio.
    elementary: (&'static str, &'static str),
    mux: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "h264-aac",
        video: &["libx264", "-g", "10", "-bf", "2"],
        audio: &["aac"],
        elementary: ("h264", "adts"),
        mux: &[],
    },
    Case {
        name: "h264-latm",
        video: &["libx264", "-tune", "zerolatency", "-g", "10"],
        audio: &["aac"],
        elementary: ("h264", "adts"),
        mux: &["-mpegts_flags", "+latm"],
    },
    Case {
        name: "hevc-opus",
        video: &["libx265", "-x265-params", "log-level=error:keyint=10"],
        audio: &["libopus"],
        elementary: ("hevc", "opus"),
        mux: &[],
    },
    Case {
        name: "h264-ac3",
        video: &["libx264", "-g", "10"],
        audio: &["ac3"],
        elementary: ("h264", "ac3"),
        mux: &[],
    },
    Case {
        name: "h264-eac3",
        video: &["libx264", "-g", "10"],
        audio: &["eac3"],
        elementary: ("h264", "eac3"),
        mux: &["-mpegts_flags", "+system_b"],
    },
];

#[derive(Debug, Default)]
struct Story {
    tracks: Vec<TrackConfig>,
    samples: Vec<Sample>,
}

impl Story {
    fn of(&self, track: TrackId) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.track == track).collect()
    }
}

fn demux(bytes: &[u8]) -> Story {
    let (mut demuxer, mut story) = (ts::Demuxer::default(), Story::default());
    let mut emit = |event| match event {
        Event::Track(config) => story.tracks.push(config),
        Event::Sample(sample) => story.samples.push(sample),
        other => panic!("{other:?}"),
    };
    // As a caller's datagrams hold it.
    for piece in bytes.chunks(1316) {
        demuxer.handle_bytes(piece, Instant::now(), &mut emit);
    }
    demuxer.handle_end(&mut emit);
    let counters = demuxer.counters();
    assert_eq!(counters, ts::Counters::default());
    story
}

fn encode(ffmpeg: &str, case: &Case) -> [Vec<u8>; 3] {
    let version = ffmpeg.rsplit('/').next().unwrap();
    let dir = format!("weir-ts-{}-{}-{version}", std::process::id(), case.name);
    let dir: PathBuf = std::env::temp_dir().join(dir);
    fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = Command::new(ffmpeg)
            .args(["-nostdin", "-v", "error", "-y"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (source, ts, video, audio) = (path("a.mp4"), path("a.ts"), path("v"), path("a"));
    let mut args = vec!["-f", "lavfi", "-i", "testsrc=s=192x108:r=25"];
    args.extend(["-f", "lavfi", "-i", "sine=r=48000", "-t", "2", "-pix_fmt", "yuv420p"]);
    args.extend(["-ac", "2", "-strict", "-2", "-preset", "ultrafast", "-c:v"]);
    args.extend(case.video);
    args.push("-c:a");
    args.extend(case.audio);
    args.push(&source);
    run(&args);
    let mut args = vec!["-i", &source, "-c", "copy", "-f", "mpegts"];
    args.extend(case.mux);
    args.push(&ts);
    run(&args);
    let filter = format!("{}_mp4toannexb", case.elementary.0);
    run(&["-i", &ts, "-c", "copy", "-an", "-bsf:v", &filter, "-f", case.elementary.0, &video]);
    run(&["-i", &source, "-c", "copy", "-vn", "-f", case.elementary.1, &audio]);
    let files = [&ts, &video, &audio].map(|path| fs::read(path).unwrap());
    fs::remove_dir_all(&dir).unwrap();
    files
}

fn check(ffmpeg: &str) {
    for case in CASES {
        let [ts, video, audio] = encode(ffmpeg, case);
        let story = demux(&ts);
        assert_eq!(story.tracks.len(), 2, "{}: {:?}", case.name, story.tracks);
        for config in &story.tracks {
            let samples = story.of(config.track);
            let times: Vec<_> = samples.iter().map(|sample| sample.dts).collect();
            assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
            let is_delimiter = |unit: &[u8]| match config.codec {
                Codec::H264 { .. } => unit[0] & 0x1f == 9,
                _ => unit[0] >> 1 & 0x3f == 35,
            };
            match &config.codec {
                Codec::H264 { .. } | Codec::Hevc { .. } => {
                    assert_eq!(samples.len(), 50);
                    let got: Vec<_> = samples
                        .iter()
                        .flat_map(|sample| Nals::new(&sample.data, 4).map(Result::unwrap))
                        .collect();
                    let sent: Vec<_> =
                        Units::new(&video).filter(|unit| !is_delimiter(unit)).collect();
                    assert_eq!(got, sent, "every NAL unit as it was sent");
                    let keys = samples.iter().filter(|sample| sample.keyframe).count();
                    assert!((5..=6).contains(&keys), "{keys}");
                    let offsets: Vec<_> =
                        samples.iter().map(|sample| sample.composition_offset).collect();
                    assert!(
                        offsets.iter().all(|offset| (0..40_000).contains(offset)),
                        "{offsets:?}"
                    );
                }
                Codec::Aac { config } => {
                    assert_eq!(config[..2], [0x11, 0x90]);
                    // ADTS headers are 7 bytes; the frames between them are ours.
                    let got: usize = samples.iter().map(|sample| sample.data.len() + 7).sum();
                    assert_eq!(got, audio.len());
                    assert!(
                        times.windows(2).all(|pair| (1910..=1930).contains(&(pair[1] - pair[0])))
                    );
                }
                Codec::Ac3 { .. } | Codec::Eac3 { .. } => {
                    let got: Vec<u8> =
                        samples.iter().flat_map(|sample| sample.data.to_vec()).collect();
                    assert_eq!(got, audio);
                }
                Codec::Opus { head } => {
                    assert_eq!(head[..2], [0, 2]);
                    assert!((100..=102).contains(&samples.len()), "{}", samples.len());
                    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1800), "{times:?}");
                    let page = samples[10].data.to_vec();
                    let found = audio.windows(page.len()).any(|window| window == page);
                    assert!(found, "packets are as they were sent");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn debians_ffmpeg_loses_no_byte() {
    check("ffmpeg");
}

#[test]
fn the_newer_ffmpeg_loses_no_byte() {
    let Ok(ffmpeg) = std::env::var("WEIR_FFMPEG9") else {
        panic!("WEIR_FFMPEG9 names no ffmpeg; scripts/test sets it");
    };
    check(&ffmpeg);
}
