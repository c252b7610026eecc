//! Every codec, from ffmpeg's encoders through the packager and back: what ffprobe says of it, the same packets, and a
//! decoder that takes them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests own the clock and may fail loudly"
)]

mod common;

use std::time::{Duration, Instant};

use common::tools::*;
use common::*;
use weir_packager::catalog::Catalog;
use weir_packager::fmp4::{Event, Reader};
use weir_packager::{Codec, Options, Output, Packager, Sample, TrackConfig};

const PICTURES: &str = "testsrc2=s=318x178:r=30";
const SOUND: &str = "sine=frequency=440:sample_rate=48000";

/// One second of a real encoder's work, as fragmented MP4.
fn encoded(file: &str, input: &str, options: &[&str]) {
    let mut arguments = vec!["-v", "error", "-y", "-f", "lavfi", "-i", input, "-t", "1"];
    arguments.extend(options);
    arguments.extend([
        "-movflags",
        "frag_keyframe+delay_moov+default_base_moof",
        "-use_editlist",
        "0",
        file,
    ]);
    // Encoders talk on stderr whatever the level, so `run` is too strict here.
    let output = std::process::Command::new("ffmpeg").args(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn read(file: &str) -> (Vec<TrackConfig>, Vec<Sample>, Vec<u32>) {
    let mut reader = Reader::new();
    reader.handle_input(&std::fs::read(file).unwrap()).unwrap();
    let (mut tracks, mut samples) = (Vec::new(), Vec::new());
    let mut durations = Vec::new();
    while let Some(event) = reader.poll_event() {
        match event {
            Event::Tracks(found) => tracks = found,
            Event::Sample { sample, duration, .. } => {
                samples.push(sample);
                durations.push(duration);
            }
        }
    }
    (tracks, samples, durations)
}

/// A hash of every packet and of its time.
fn packets(file: &str) -> String {
    let hashes = run("ffmpeg", &["-v", "error", "-i", file, "-c", "copy", "-f", "framehash", "-"]);
    hashes.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

fn catalog_of(outputs: &[Output]) -> Catalog {
    outputs
        .iter()
        .rev()
        .find_map(|output| match output {
            Output::Object(object) if &*object.track == ".catalog" => {
                Some(Catalog::parse(&object.payload).unwrap())
            }
            _ => None,
        })
        .unwrap()
}

fn drain(packager: &mut Packager) -> Vec<Output> {
    std::iter::from_fn(|| packager.poll_output()).collect()
}

/// Packages a file, and compares what ffmpeg reads before and after.
fn check(name: &str, input: &str, options: &[&str], codec: &str, probe: &str) {
    let scratch = Scratch::new(&format!("codec-{name}"));
    let before = scratch.0.join("before.mp4").to_str().unwrap().to_string();
    encoded(&before, input, options);
    let (tracks, samples, _) = read(&before);
    assert_eq!(tracks.len(), 1, "{name}");
    tracks[0].codec.check().unwrap();

    let mut packager = Packager::new(Options::default());
    let start = Instant::now();
    packager.handle_track(tracks[0].clone(), start).unwrap();
    for sample in &samples {
        packager.handle_sample(sample.clone(), WALL, start).unwrap();
    }
    packager.handle_timeout(start + Duration::from_secs(1));
    let outputs = drain(&mut packager);
    let catalog = catalog_of(&outputs);
    assert_eq!(catalog.tracks[0].codec, codec, "{name}");

    let (singles, merged) =
        package(&tracks, samples.iter().cloned().map(|sample| (Duration::ZERO, sample)));
    let after = scratch.file("after.mp4", &merged);
    let (tracks_after, samples_after, durations_after) = read(&after);
    assert_eq!(tracks_after[0].codec, tracks[0].codec, "{name}: the configuration is the same");
    assert_eq!(
        samples_after.iter().map(|sample| (&sample.data, sample.keyframe)).collect::<Vec<_>>(),
        samples.iter().map(|sample| (&sample.data, sample.keyframe)).collect::<Vec<_>>(),
        "{name}: the samples are the same"
    );
    let entries = "stream=codec_name,profile,width,height,pix_fmt,sample_rate,channels";
    for file in [&after, &scratch.file("single.mp4", &singles[0].1)] {
        let probed =
            run("ffprobe", &["-v", "error", "-show_entries", entries, "-of", "csv=p=0", file]);
        assert_eq!(probed.trim_end().trim_end_matches(','), probe, "{name}");
        run("ffmpeg", &["-v", "error", "-xerror", "-i", file, "-f", "null", "-"]);
    }
    let hashes = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit(", ").next().unwrap().to_string()).collect()
    };
    assert_eq!(hashes(&packets(&before)), hashes(&packets(&after)), "{name}");
    let durations: i64 = durations_after.into_iter().map(i64::from).sum();
    let scale = i64::from(catalog.tracks[0].timescale.unwrap());
    assert!((durations - scale).abs() < scale / 4, "{name} lasts {durations} of {scale}");
}

#[test]
fn hevc_keeps_every_nal_unit() {
    let options = [
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=none:keyint=15:open-gop=1:bframes=2",
    ];
    check("hevc", PICTURES, &options, "hvc1.1.6.L60.90", "hevc,Main,318,178,yuv420p");
    let deep = [&options[..], &["-pix_fmt", "yuv422p10le", "-tag:v", "hvc1"]].concat();
    check("hevc-10", PICTURES, &deep, "hvc1.4.10.L60.9d.8", "hevc,Rext,318,178,yuv422p10le");
}

#[test]
fn av1_keeps_every_temporal_unit() {
    let options = ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "15"];
    check("av1", PICTURES, &options, "av01.0.00M.08", "av1,Main,318,178,yuv420p");
}

#[test]
fn vp9_keeps_every_frame() {
    let options = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15"];
    check("vp9", PICTURES, &options, "vp09.00.11.08", "vp9,Profile 0,318,178,yuv420p");
}

#[test]
fn opus_keeps_every_packet() {
    let probe = "opus,unknown,48000,1";
    for duration in ["2.5", "20", "60"] {
        check("opus", SOUND, &["-c:a", "libopus", "-frame_duration", duration], "opus", probe);
    }
    let surround = ["-c:a", "libopus", "-ac", "6"];
    check("opus-6", SOUND, &surround, "opus", "opus,unknown,48000,6");
}

#[test]
fn flac_keeps_every_frame() {
    check("flac", SOUND, &["-c:a", "flac", "-strict", "-2"], "flac", "flac,unknown,48000,1");
}

#[test]
fn dolby_keeps_every_frame() {
    check("ac3", SOUND, &["-c:a", "ac3", "-ac", "2"], "ac-3", "ac3,unknown,48000,2");
    let options = ["-c:a", "eac3", "-ac", "6"];
    check("eac3", SOUND, &options, "ec-3", "eac3,unknown,48000,6");
}

#[test]
fn dolby_configurations_can_be_made_from_a_frame() {
    let scratch = Scratch::new("dolby");
    let file = scratch.0.join("one.mp4").to_str().unwrap().to_string();
    for (codec, channels) in [("ac3", "2"), ("ac3", "6"), ("eac3", "1"), ("eac3", "6")] {
        encoded(&file, SOUND, &["-c:a", codec, "-ac", channels]);
        let (tracks, samples, _) = read(&file);
        let made = weir_packager::ac3_codec_of(&samples[0].data).unwrap();
        match (&made, &tracks[0].codec) {
            (Codec::Ac3 { .. }, theirs) => assert_eq!(&made, theirs),
            // The bit rate in front is ours; ffmpeg puts its own average there.
            (Codec::Eac3 { specific: ours }, Codec::Eac3 { specific: theirs }) => {
                assert_eq!(ours[2..], theirs[2..]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_vp9_track_appears_with_its_first_keyframe_and_follows_its_size() {
    let scratch = Scratch::new("vp9-size");
    let file = scratch.0.join("one.mp4").to_str().unwrap().to_string();
    let mut packager = Packager::new(Options::default());
    let now = Instant::now();
    let mut names = Vec::new();
    for (index, size) in ["320x180", "640x360"].into_iter().enumerate() {
        let input = format!("testsrc2=s={size}:r=30");
        encoded(&file, &input, &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]);
        let (tracks, samples, _) = read(&file);
        packager.handle_track(tracks[0].clone(), now).unwrap();
        assert!(drain(&mut packager).is_empty(), "nothing is known of its size yet");
        if index == 0 {
            packager.handle_sample(samples[1].clone(), WALL, now).unwrap();
            assert_eq!(packager.counters().dropped_before_keyframe, 1);
        }
        packager.handle_sample(samples[0].clone(), WALL, now).unwrap();
        packager.handle_timeout(now + Duration::from_secs(1));
        let outputs = drain(&mut packager);
        let track = catalog_of(&outputs).tracks[0].clone();
        names.push((track.name, track.width.unwrap(), track.height.unwrap()));
    }
    assert_eq!(names, [("video/180p".into(), 320, 180), ("video/360p".into(), 640, 360)]);
}
