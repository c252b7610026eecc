//! What other people's readers make of our bytes: ffprobe and ffmpeg from PATH, and the `mp4` crate. A missing tool fails.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests own the clock and may fail loudly"
)]

mod common;

use std::io::Cursor;
use std::time::Duration;

use common::tools::*;
use common::*;
use weir_packager::catalog::Kind;
use weir_packager::fmp4::{Event, Looper, Reader};
use weir_packager::{Options, merge};

const DEMO: &[u8] = include_bytes!("../../engine/assets/demo.mp4");

fn demo(seconds: u64) -> (Vec<(Kind, Vec<u8>)>, Vec<u8>) {
    let looper = Looper::new(DEMO).unwrap();
    let tracks = looper.tracks().to_vec();
    let samples = looper
        .map(|timed| (timed.due, timed.sample))
        .take_while(|(due, _)| *due < Duration::from_secs(seconds));
    package(&tracks, samples)
}

/// `track,pts,dts,size,flags` of every packet.
fn packets(file: &str) -> Vec<(String, f64, f64, bool)> {
    let csv = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-show_entries",
            "packet=codec_type,pts_time,dts_time,flags",
            "-of",
            "csv=p=0",
            file,
        ],
    );
    csv.lines()
        .map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            (
                fields[0].into(),
                fields[1].parse().unwrap(),
                fields[2].parse().unwrap(),
                fields[3].starts_with('K'),
            )
        })
        .collect()
}

#[test]
fn ffprobe_reads_and_ffmpeg_decodes_the_demo_looped() {
    let scratch = Scratch::new("demo");
    let (singles, merged) = demo(20);
    let file = scratch.file("merged.mp4", &merged);
    let streams = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name,width,height,sample_rate,channels,avg_frame_rate",
            "-of",
            "csv=p=0",
            &file,
        ],
    );
    assert_eq!(streams, "h264,640,360,30/1\naac,48000,2,0/0\n");
    let packets = packets(&file);
    let video: Vec<_> = packets.iter().filter(|packet| packet.0 == "video").collect();
    assert_eq!(video.len(), 600);
    assert_eq!(video.iter().filter(|packet| packet.3).count(), 20);
    for pair in video.windows(2) {
        assert!((pair[1].2 - pair[0].2 - 1.0 / 30.0).abs() < 0.0001);
    }
    assert_eq!(packets.iter().filter(|packet| packet.0 == "audio").count(), 938);
    run("ffmpeg", &["-v", "error", "-xerror", "-i", &file, "-f", "null", "-"]);
    for (index, (_, single)) in singles.iter().enumerate() {
        let file = scratch.file(&format!("{index}.mp4"), single);
        run("ffmpeg", &["-v", "error", "-xerror", "-i", &file, "-f", "null", "-"]);
    }
}

#[test]
fn decoded_pictures_are_the_same_before_and_after() {
    let scratch = Scratch::new("same");
    let (singles, merged) = demo(16);
    let before = scratch.file("before.mp4", DEMO);
    let hash = |file: &str, stream: &str| {
        run("ffmpeg", &["-v", "error", "-i", file, "-map", stream, "-f", "md5", "-"])
    };
    for file in [scratch.file("merged.mp4", &merged), scratch.file("video.mp4", &singles[0].1)] {
        assert_eq!(hash(&file, "0:v"), hash(&before, "0:v"));
    }
    assert_eq!(hash(&scratch.file("audio.mp4", &singles[1].1), "0:a"), hash(&before, "0:a"));
}

#[test]
fn b_frames_of_a_real_encoder_keep_their_order() {
    let scratch = Scratch::new("b-frames");
    let file = scratch.0.join("source.mp4").to_str().unwrap().to_string();
    run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=320x180:r=25",
            "-t",
            "3",
            "-c:v",
            "libx264",
            "-preset",
            "fast",
            "-bf",
            "3",
            "-b_strategy",
            "0",
            "-g",
            "25",
            "-pix_fmt",
            "yuv420p",
            "-movflags",
            "frag_keyframe+empty_moov+default_base_moof",
            "-use_editlist",
            "0",
            &file,
        ],
    );
    let source = std::fs::read(&file).unwrap();
    let mut reader = Reader::new();
    reader.handle_input(&source).unwrap();
    let mut tracks = Vec::new();
    let mut samples = Vec::new();
    while let Some(event) = reader.poll_event() {
        match event {
            Event::Tracks(found) => tracks = found,
            Event::Sample { sample, .. } => samples.push(sample),
        }
    }
    // The same in RTMP's milliseconds, rounded as an encoder rounds: decode time, and presentation time less that.
    let scale = i64::from(tracks[0].timescale);
    let milliseconds = |units: i64| (units * 1000 + scale / 2) / scale;
    let rounded = samples.iter().cloned().map(|mut sample| {
        let presentation = milliseconds(sample.dts + i64::from(sample.composition_offset));
        sample.dts = milliseconds(sample.dts);
        sample.composition_offset = (presentation - sample.dts) as i32;
        sample
    });
    let mut coarse = tracks.clone();
    coarse[0].timescale = 1000;
    for (tracks, samples) in
        [(tracks.clone(), samples.clone()), (coarse, rounded.collect::<Vec<_>>())]
    {
        let (_, merged) =
            package(&tracks, samples.into_iter().map(|sample| (Duration::ZERO, sample)));
        let file_out = scratch.file("out.mp4", &merged);
        let (before, after) = (packets(&file), packets(&file_out));
        assert_eq!(before.len(), 75);
        let shift = after[0].2 - before[0].2;
        assert!(before.iter().any(|packet| packet.1 - packet.2 > 0.1), "the source has B-frames");
        for (one, two) in before.iter().zip(&after) {
            assert!(
                (two.1 - one.1 - shift).abs() < 0.0001 && (two.2 - one.2 - shift).abs() < 0.0001,
                "{one:?} {two:?}"
            );
            assert_eq!(one.3, two.3);
        }
        run("ffmpeg", &["-v", "error", "-xerror", "-i", &file_out, "-f", "null", "-"]);
    }
}

#[test]
fn the_mp4_crate_reads_every_sample() {
    let (singles, merged) = demo(3);
    let mut chunks = Vec::new();
    for (file, tracks) in singles.iter().map(|(_, file)| (file, 1)).chain([(&merged, 2)]) {
        let read = mp4::Mp4Reader::read_header(Cursor::new(file), file.len() as u64).unwrap();
        assert_eq!(read.tracks().len(), tracks);
        assert!(read.is_fragmented());
        let mut ids: Vec<_> = read.tracks().keys().collect();
        ids.sort_unstable();
        for track in ids.into_iter().map(|id| &read.tracks()[id]) {
            match track.media_type().unwrap() {
                mp4::MediaType::H264 => {
                    assert_eq!((track.width(), track.height()), (640, 360));
                    assert_eq!(track.sample_count(), 90);
                    assert_eq!(track.sequence_parameter_set().unwrap()[0] & 0x1f, 7);
                }
                mp4::MediaType::AAC => {
                    assert_eq!(track.sample_freq_index().unwrap(), mp4::SampleFreqIndex::Freq48000);
                    assert_eq!(track.sample_count(), 141);
                }
                other => panic!("{other}"),
            }
        }
        chunks.push(read.moofs.len());
    }
    assert_eq!(chunks[0], 90, "one chunk a picture");
    assert_eq!(chunks[0] + chunks[1], chunks[2]);
}

#[test]
fn rewriting_a_chunk_moves_nothing() {
    let mut feed = Feed::new(Options::default());
    feed.track(video_config(RECORD_360P));
    feed.sample(picture(0, true, 1, 500));
    let before = feed.objects("video/360p")[0].payload.to_vec();
    let mut after = before.clone();
    merge::rewrite_chunk(&mut after, 7, 0x0102_0304).unwrap();
    let changed: Vec<_> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
    // The low byte of the track id in prft and tfhd, and the sequence number.
    assert_eq!(changed.len(), 6, "{changed:?}");
    for cut in 0..120 {
        assert!(merge::rewrite_chunk(&mut before[..cut].to_vec(), 7, 1).is_err(), "cut at {cut}");
    }
}
