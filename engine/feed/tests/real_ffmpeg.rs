//! Real encoders against the RTMP core over a loopback socket. The same run of ffmpeg writes an FLV
//! file beside what it sends, and every sample must be the file's, byte for byte. Debian's ffmpeg
//! (5.1) comes from PATH and must be there; `WEIR_FFMPEG9` names a newer one.

#![expect(clippy::disallowed_methods, reason = "this is a shell: it owns a socket and a clock")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this file is a test")]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use weir_feed::rtmp::{CloseReason, Event, Limits, Reject, Session};
use weir_feed::{Codec, EndReason, Event as Media, Sample, TrackId};

const KEY: &str = "sk_live_0123456789abcdef";
const SECONDS: usize = 3;
const RATE: usize = 30;

/// What one publisher did.
#[derive(Debug, Default)]
struct Story {
    video: Option<TrackId>,
    audio: Option<TrackId>,
    record: Vec<u8>,
    config: Vec<u8>,
    tracks: usize,
    samples: Vec<Sample>,
    end: Option<EndReason>,
    closed: Option<CloseReason>,
}

impl Story {
    fn of(&self, track: Option<TrackId>) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| Some(sample.track) == track).collect()
    }

    fn push(&mut self, event: Media) {
        match event {
            Media::Track(config) => {
                self.tracks += 1;
                match config.codec {
                    Codec::H264 { record } => {
                        (self.video, self.record) = (Some(config.track), record.to_vec());
                    }
                    Codec::Aac { config: bytes } => {
                        (self.audio, self.config) = (Some(config.track), bytes.to_vec());
                    }
                    _ => panic!("a codec this test does not send"),
                }
            }
            Media::Sample(sample) => self.samples.push(sample),
            Media::End { reason } => self.end = Some(reason),
            _ => panic!("an event this test does not know"),
        }
    }
}

/// Serves one connection of H.264 and AAC to its end.
fn serve(socket: TcpStream) -> Story {
    let mut media = Vec::new();
    let mut story = serve_each(socket, |event| media.push(event.clone()));
    for event in media {
        story.push(event);
    }
    story
}

/// Serves one connection to its end. Blocking reads, woken by the session's own deadlines.
fn serve_each(mut socket: TcpStream, mut each: impl FnMut(&Media)) -> Story {
    let mut story = Story::default();
    let mut session = Session::new(Limits::default(), Instant::now());
    let mut buffer = vec![0; 64 << 10];
    loop {
        while let Some(event) = session.poll_event() {
            match event {
                Event::Publish { app, input_id, key } => {
                    assert_eq!((&*app, &*input_id), ("live", "in_1"));
                    if key.expose() == KEY {
                        session.accept_publish();
                    } else {
                        session.reject_publish(Reject::Unauthorized);
                    }
                }
                Event::Media(media) => {
                    if let Media::End { reason } = media {
                        story.end = Some(reason);
                    }
                    each(&media);
                }
                Event::Closed { reason } => story.closed = Some(reason),
                _ => panic!("an event this test does not know"),
            }
        }
        while let Some(bytes) = session.poll_transmit() {
            // The peer may hang up right after its goodbye, before it reads our answer to it.
            if socket.write_all(&bytes).is_err() {
                session.handle_close();
            }
        }
        if story.closed.is_some() {
            return story;
        }
        let Some(deadline) = session.poll_timeout() else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(std::time::Duration::from_millis(1)))).unwrap();
        // Errors come back as the `Closed` event.
        let _ = match socket.read(&mut buffer) {
            Ok(0) => {
                session.handle_close();
                Ok(())
            }
            Ok(length) => session.handle_input(&buffer[..length], Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                session.handle_timeout(Instant::now())
            }
            Err(_) => {
                session.handle_close();
                Ok(())
            }
        };
    }
}

struct Encoder {
    child: Child,
    file: PathBuf,
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Usually gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Encoder {
    /// Starts `binary`; its RTMP output goes to `path` on `listener`, a copy into a file.
    fn start(
        binary: &Path,
        listener: &TcpListener,
        path: &str,
        name: &str,
        codecs: &[&str],
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let file =
            std::env::temp_dir().join(format!("weir-feed-{}-{name}.flv", std::process::id()));
        let outputs = format!("[f=flv]{}|[f=flv]rtmp://127.0.0.1:{port}{path}", file.display());
        let child = Command::new(binary)
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
            .args(["-f", "lavfi", "-i", &format!("testsrc=size=320x180:rate={RATE}:d={SECONDS}")])
            .args(["-f", "lavfi", "-i", &format!("sine=sample_rate=48000:d={SECONDS}")])
            .args(["-map", "0:v", "-map", "1:a"])
            .args(["-pix_fmt", "yuv420p", "-flags", "+global_header"])
            .args(codecs)
            .args(["-f", "tee", &outputs])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
        Self { child, file }
    }

    /// Waits for its end; success, and what it said.
    fn finish(&mut self) -> (bool, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().success(), said)
    }
}

const H264_AAC: &[&str] = &[
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-bf",
    "2",
    "-g",
    "30",
    "-sc_threshold",
    "0",
    "-c:a",
    "aac",
    "-ac",
    "2",
    "-b:a",
    "96k",
];

/// A tag of an FLV file: is it video, time, composition offset, packet type, payload.
type FileTag = (bool, i64, i32, u8, Vec<u8>);

/// Reads an FLV file of AVC and AAC the slow and obvious way.
fn read_flv(path: &Path) -> Vec<FileTag> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..3], b"FLV");
    let mut rest = &bytes[13..];
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let time = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]));
        let body = &rest[11..11 + length];
        match rest[0] {
            9 => {
                let offset = i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8;
                tags.push((true, time, offset, body[1], body[5..].to_vec()));
            }
            8 => tags.push((false, time, 0, body[1], body[2..].to_vec())),
            _ => {}
        }
        rest = &rest[11 + length + 4..];
    }
    tags
}

/// Sends three seconds of H.264 with B-frames and AAC, and compares all of it.
fn publish_and_compare(binary: &Path, path: &str, name: &str) -> Story {
    publish_with(binary, path, name, &[])
}

fn publish_with(binary: &Path, path: &str, name: &str, more: &[&str]) -> Story {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut encoder = Encoder::start(binary, &listener, path, name, &[H264_AAC, more].concat());
    let story = serve(listener.accept().unwrap().0);
    let (success, said) = encoder.finish();
    assert!(success, "encoder: {said}");
    assert_eq!(story.end, Some(EndReason::Unpublished));
    assert_eq!(story.tracks, 2, "each track is told once");

    let file = read_flv(&encoder.file);
    let record = file.iter().find(|tag| tag.0 && tag.3 == 0).unwrap();
    let config = file.iter().find(|tag| !tag.0 && tag.3 == 0).unwrap();
    assert_eq!((&story.record, &story.config), (&record.4, &config.4));
    for (track, is_video) in [(story.video, true), (story.audio, false)] {
        let got: Vec<_> = story
            .of(track)
            .iter()
            .map(|sample| (sample.dts, sample.composition_offset, sample.data.to_vec()))
            .collect();
        let want: Vec<_> = file
            .iter()
            .filter(|tag| tag.0 == is_video && tag.3 == 1)
            .map(|(_, time, offset, _, data)| (*time, *offset, data.clone()))
            .collect();
        assert!(got == want, "samples differ from the file (video: {is_video})");
    }

    let video = story.of(story.video);
    assert_eq!(video.len(), SECONDS * RATE);
    let keyframes: Vec<_> =
        video.iter().enumerate().filter(|(_, sample)| sample.keyframe).map(|(i, _)| i).collect();
    assert_eq!(keyframes, [0, 30, 60]);
    assert!(video.is_sorted_by_key(|sample| sample.dts));
    let mut shown: Vec<i64> =
        video.iter().map(|sample| sample.dts + i64::from(sample.composition_offset)).collect();
    assert!(!shown.is_sorted(), "B-frames are shown in another order than decoded");
    shown.sort_unstable();
    assert!(shown.windows(2).all(|two| (33..=34).contains(&(two[1] - two[0]))), "{shown:?}");

    let audio = story.of(story.audio);
    let frames = SECONDS * 48_000 / 1024;
    assert!((frames..=frames + 3).contains(&audio.len()), "{} audio frames", audio.len());
    assert!(audio.windows(2).all(|two| (21..=22).contains(&(two[1].dts - two[0].dts))));
    story
}

/// Starts one and a half seconds before 2^24 ms, so that extended timestamps begin on the way.
fn cross_the_24_bit_mark(binary: &Path, name: &str) {
    let path = format!("/live/in_1?sk={KEY}");
    let later = ["-vf", "setpts=PTS+16775.7/TB", "-af", "asetpts=PTS+16775.7/TB"];
    let story = publish_with(binary, &path, name, &later);
    let times: Vec<_> = story.samples.iter().map(|sample| sample.dts).collect();
    assert!(times.iter().any(|time| *time < 1 << 24) && times.iter().any(|time| *time > 1 << 24));
}

fn refuse_wrong_key(binary: &Path, name: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut encoder =
        Encoder::start(binary, &listener, "/live/in_1?sk=sk_live_wrong", name, H264_AAC);
    let story = serve(listener.accept().unwrap().0);
    let (_, said) = encoder.finish();
    assert_eq!(story.closed, Some(CloseReason::Rejected(Reject::Unauthorized)));
    assert!(story.samples.is_empty());
    assert!(said.contains("unauthorized"), "the operator reads why: {said}");
}

fn debian() -> PathBuf {
    PathBuf::from("ffmpeg")
}

/// The newer ffmpeg, if this host names one; says so loudly if not.
fn newer() -> Option<PathBuf> {
    let path = std::env::var_os("WEIR_FFMPEG9").map(PathBuf::from);
    if path.is_none() {
        // Past the test runner, which swallows what passing tests print with a macro.
        let text = "WEIR_FFMPEG9 IS NOT SET: NOTHING WAS TESTED AGAINST THE NEWER FFMPEG";
        io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
    }
    path
}

#[test]
fn debian_ffmpeg_with_b_frames_arrives_whole() {
    publish_and_compare(&debian(), &format!("/live/in_1?sk={KEY}"), "debian");
}

#[test]
fn debian_ffmpeg_with_the_input_in_the_application_arrives_whole() {
    publish_and_compare(&debian(), &format!("/live/in_1/{KEY}"), "debian-path");
}

#[test]
fn debian_ffmpeg_crossing_into_extended_timestamps_arrives_whole() {
    cross_the_24_bit_mark(&debian(), "debian-24");
}

#[test]
fn debian_ffmpeg_with_a_wrong_key_is_told() {
    refuse_wrong_key(&debian(), "debian-wrong");
}

#[test]
fn newer_ffmpeg_with_b_frames_arrives_whole() {
    if let Some(binary) = newer() {
        publish_and_compare(&binary, &format!("/live/in_1?sk={KEY}"), "newer");
    }
}

#[test]
fn newer_ffmpeg_crossing_into_extended_timestamps_arrives_whole() {
    if let Some(binary) = newer() {
        cross_the_24_bit_mark(&binary, "newer-24");
    }
}

#[test]
fn newer_ffmpeg_with_a_wrong_key_is_told() {
    if let Some(binary) = newer() {
        refuse_wrong_key(&binary, "newer-wrong");
    }
}

/// A tag of enhanced RTMP in a file: is it video, track id, `FourCC`, packet type, time, composition
/// offset, payload.
type EnhancedTag = (bool, u8, String, u8, i64, i32, Vec<u8>);

/// Reads an FLV file of enhanced tags the slow and obvious way. One track a tag is all ffmpeg writes.
fn read_enhanced_flv(path: &Path) -> Vec<EnhancedTag> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[13..];
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let time = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]));
        let body = &rest[11..11 + length];
        let video = rest[0] == 9;
        rest = &rest[11 + length + 4..];
        let enhanced = if video { body[0] & 0x80 != 0 } else { body[0] >> 4 == 9 };
        if !enhanced && (video || body[0] >> 4 == 10) && length > 0 {
            let (name, head) = if video { ("avc1", 5) } else { ("mp4a", 2) };
            let offset =
                if video { i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8 } else { 0 };
            tags.push((video, 0, name.into(), body[1], time, offset, body[head..].to_vec()));
            continue;
        }
        if !enhanced {
            continue;
        }
        let multitrack = body[0] & 0x0f == if video { 6 } else { 5 };
        let (packet_type, number, name, mut data) = if multitrack {
            assert_eq!(body[1] >> 4, 0, "one track a tag");
            (body[1] & 0x0f, body[6], &body[2..6], &body[7..])
        } else {
            (body[0] & 0x0f, 0, &body[1..5], &body[5..])
        };
        let mut offset = 0;
        if packet_type == 1 && matches!(name, b"avc1" | b"hvc1") {
            offset = i32::from_be_bytes([data[0], data[1], data[2], 0]) >> 8;
            data = &data[3..];
        }
        let name = String::from_utf8(name.to_vec()).unwrap();
        tags.push((video, number, name, packet_type, time, offset, data.to_vec()));
    }
    tags
}

/// Sends what ffmpeg makes of these options, and compares every sample of every track with the file
/// it writes beside. Gives the tracks in the order they appeared, with their samples.
fn enhanced(
    binary: &Path,
    name: &str,
    options: &[&str],
    tracks: &[(bool, u8, &str)],
) -> Vec<(Codec, Vec<Sample>)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("/live/in_1?sk={KEY}");
    let mut encoder = Encoder::start(binary, &listener, &path, name, options);
    let (mut codecs, mut samples) = (Vec::new(), Vec::new());
    let story = serve_each(listener.accept().unwrap().0, |event| match event {
        Media::Track(config) => codecs.push((config.track, config.codec.clone())),
        Media::Sample(sample) => samples.push(sample.clone()),
        _ => {}
    });
    let (success, said) = encoder.finish();
    assert!(success, "encoder: {said}");
    assert_eq!(story.end, Some(EndReason::Unpublished), "{:?}", story.closed);
    assert_eq!(codecs.len(), tracks.len(), "each track is told once: {codecs:?}");
    let file = read_enhanced_flv(&encoder.file);
    let mut left: Vec<_> = codecs
        .into_iter()
        .map(|(track, codec)| {
            let mine = samples.iter().filter(|sample| sample.track == track).cloned().collect();
            (codec, mine)
        })
        .collect();
    let mut found = Vec::new();
    for (video, number, four_cc) in tracks {
        let want: Vec<_> = file
            .iter()
            .filter(|tag| (tag.0, tag.1, &*tag.2) == (*video, *number, *four_cc))
            .filter(|tag| matches!(tag.3, 1 | 3) && !tag.6.is_empty())
            .map(|(.., time, offset, data)| {
                // The temporal delimiter: containers do without, RTMP does not say.
                let data = data.strip_prefix(&[0x12, 0]).unwrap_or(data);
                (*time, *offset, data.to_vec())
            })
            .collect();
        assert!(want.len() > 40, "{name}: {} samples of {four_cc} {number}", want.len());
        let same = left.iter().position(|(_, samples): &(Codec, Vec<Sample>)| {
            samples.iter().map(|s| (s.dts, s.composition_offset, s.data.to_vec())).eq(want.clone())
        });
        let same = same.unwrap_or_else(|| panic!("{name}: no track equals {four_cc} {number}"));
        found.push(left.remove(same));
    }
    found
}

const HEVC: &[&str] = &[
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "log-level=none:keyint=30:bframes=2",
];
const AV1: &[&str] = &["-c:v", "libsvtav1", "-preset", "12", "-g", "30", "-svtav1-params", "lp=1"];
const VP9: &[&str] = &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30"];
const OPUS: &[&str] = &["-c:a", "libopus", "-ac", "2"];

#[test]
fn newer_ffmpeg_with_hevc_and_opus_arrives_whole() {
    let Some(binary) = newer() else { return };
    let options = [HEVC, OPUS].concat();
    let tracks = [(true, 0, "hvc1"), (false, 0, "Opus")];
    let found = enhanced(&binary, "newer-hevc", &options, &tracks);
    assert!(matches!(found[0].0, Codec::Hevc { .. }) && matches!(found[1].0, Codec::Opus { .. }));
    let keyframes = found[0].1.iter().filter(|sample| sample.keyframe).count();
    assert_eq!((found[0].1.len(), keyframes), (SECONDS * RATE, SECONDS));
    assert!(found[0].1.iter().any(|sample| sample.composition_offset > 34), "B-frames");
}

#[test]
fn newer_ffmpeg_with_av1_and_opus_arrives_whole() {
    let Some(binary) = newer() else { return };
    let options = [AV1, OPUS].concat();
    let tracks = [(true, 0, "av01"), (false, 0, "Opus")];
    let found = enhanced(&binary, "newer-av1", &options, &tracks);
    assert!(matches!(found[0].0, Codec::Av1 { .. }));
    let keyframes = found[0].1.iter().filter(|sample| sample.keyframe).count();
    assert_eq!((found[0].1.len(), keyframes), (SECONDS * RATE, SECONDS));
}

#[test]
fn newer_ffmpeg_with_vp9_and_flac_arrives_whole() {
    let Some(binary) = newer() else { return };
    // Blocks of 1024 samples, for at least forty of them.
    let options = [VP9, &["-c:a", "flac", "-frame_size", "1024"]].concat();
    let tracks = [(true, 0, "vp09"), (false, 0, "fLaC")];
    let found = enhanced(&binary, "newer-vp9", &options, &tracks);
    assert!(matches!(found[0].0, Codec::Vp9 { .. }) && matches!(found[1].0, Codec::Flac { .. }));
}

#[test]
fn newer_ffmpeg_with_dolby_arrives_whole() {
    let Some(binary) = newer() else { return };
    for (encoder, four_cc) in [("ac3", "ac-3"), ("eac3", "ec-3")] {
        let options = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", encoder, "-ac", "2"];
        let tracks = [(true, 0, "avc1"), (false, 0, four_cc)];
        enhanced(&binary, encoder, &options, &tracks);
    }
}

#[test]
fn newer_ffmpeg_with_two_pictures_and_two_sounds_arrives_whole() {
    let Some(binary) = newer() else { return };
    let options = [
        &["-map", "0:v", "-map", "1:a", "-c:v:0", "libx264", "-preset:v:0", "ultrafast"][..],
        &["-c:v:1", "libsvtav1", "-preset:v:1", "12", "-g", "30", "-s:v:1", "160x90"],
        &["-c:a:0", "aac", "-c:a:1", "libopus", "-ac", "2"],
    ];
    let tracks = [(true, 0, "avc1"), (true, 1, "av01"), (false, 0, "mp4a"), (false, 1, "Opus")];
    enhanced(&binary, "newer-four", &options.concat(), &tracks);
}
