//! Stories of the tag layer: what counts as a track, a sample, a keyframe, damage.

use super::*;
use crate::rtmp::client::tags;

struct World {
    demuxer: Demuxer,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self { demuxer: Demuxer::default(), events: Vec::new() }
    }

    fn send(&mut self, kind: TagKind, body: &[u8]) -> Result<(), Unsupported> {
        let tag = Tag { kind, time: 0, body: Bytes::copy_from_slice(body) };
        let events = &mut self.events;
        self.demuxer.handle_tag(&tag, &mut |event| events.push(event))
    }

    fn video(&mut self, body: &[u8]) -> &mut Self {
        self.send(TagKind::Video, body).unwrap();
        self
    }

    fn audio(&mut self, body: &[u8]) -> &mut Self {
        self.send(TagKind::Audio, body).unwrap();
        self
    }

    /// One letter an event: `v`ideo or `a`udio track with its id, `K`eyframe, `s`ample.
    fn story(&self) -> String {
        let letter = |event: &Event| match event {
            Event::Track(TrackConfig { track, codec: Codec::H264 { .. }, .. }) => {
                format!("v{}", track.0)
            }
            Event::Track(TrackConfig { track, .. }) => format!("a{}", track.0),
            Event::Sample(sample) if sample.keyframe => "K".to_owned(),
            Event::Sample(_) => "s".to_owned(),
            Event::Discontinuity => "jump".to_owned(),
            Event::Loss { track } => format!("lost{}", track.0),
            Event::End { .. } => "end".to_owned(),
        };
        self.events.iter().map(letter).collect::<Vec<_>>().join(" ")
    }
}

fn nals(kinds: &[u8]) -> Vec<u8> {
    let mut body = vec![0x27, 1, 0, 0, 0];
    for kind in kinds {
        body.extend([0, 0, 0, 2, *kind, 0]);
    }
    body
}

#[test]
fn a_sequence_header_with_every_keyframe_is_news_once() {
    let mut world = World::new();
    for _ in 0..3 {
        world.video(tags::VIDEO_CONFIGURATION).video(&tags::picture(true, 0, 20));
    }
    assert_eq!(world.story(), "v0 K K K");
}

#[test]
fn a_changed_sequence_header_is_the_same_track_again() {
    let mut changed = tags::VIDEO_CONFIGURATION.to_vec();
    *changed.last_mut().unwrap() ^= 0x20;
    let mut world = World::new();
    world.video(tags::VIDEO_CONFIGURATION).video(&changed).video(tags::VIDEO_CONFIGURATION);
    world.audio(tags::AUDIO_CONFIGURATION).audio(b"\xaf\x00\x12\x10");
    assert_eq!(world.story(), "v0 v0 v0 a1 a1");
}

#[test]
fn audio_alone_video_alone_and_audio_that_starts_late() {
    let mut world = World::new();
    world.audio(tags::AUDIO_CONFIGURATION).audio(&tags::audio(9));
    assert_eq!(world.story(), "a0 K");
    let mut world = World::new();
    world.video(tags::VIDEO_CONFIGURATION).video(&tags::picture(true, 0, 9));
    world.video(&tags::picture(false, 0, 9)).audio(tags::AUDIO_CONFIGURATION);
    world.audio(&tags::audio(9)).video(&tags::picture(false, 0, 9));
    assert_eq!(world.story(), "v0 K s a1 K s");
}

#[test]
fn a_keyframe_is_what_holds_an_idr_slice_whatever_the_flag_says() {
    let mut world = World::new();
    world.video(tags::VIDEO_CONFIGURATION);
    let mut lying = nals(&[0x09, 0x06, 0x41]);
    lying[0] = 0x17;
    world.video(&lying).video(&nals(&[0x67, 0x68, 0x65, 0x65])).video(&nals(&[0x01]));
    assert_eq!(world.story(), "v0 s K s");
}

#[test]
fn damage_costs_one_access_unit_and_is_counted() {
    let mut world = World::new();
    world.video(&tags::picture(true, 0, 9));
    world.audio(&tags::audio(9));
    world.video(tags::VIDEO_CONFIGURATION);
    let whole = tags::picture(true, 0, 9);
    let mut beyond = whole.clone();
    beyond[8] += 1;
    world.video(&beyond).video(&whole[..whole.len() - 1]).video(&[&whole[..], &[0, 0]].concat());
    world
        .video(&nals(&[]))
        .video(b"\x17")
        .video(b"\x17\x01\x00")
        .video(b"")
        .audio(b"")
        .audio(b"\xaf");
    world.video(b"\x17\x01\x00\x00\x00\x00\x00\x00\x00");
    world.video(&nals(&[0x67, 0x68, 0x06]));
    world.video(b"\x57\x00").video(b"\x17\x02\x00\x00\x00").video(&whole);
    assert_eq!(world.story(), "v0 K");
    let want = Counters {
        malformed: 7,
        without_configuration: 2,
        without_picture: 1,
        ..Counters::default()
    };
    assert_eq!(world.demuxer.counters(), want);
}

#[test]
fn a_broken_configuration_leaves_the_old_one_in_force() {
    let good = tags::VIDEO_CONFIGURATION;
    let mut world = World::new();
    world.video(good).audio(tags::AUDIO_CONFIGURATION);
    for length in 6..good.len() {
        world.video(&good[..length]);
    }
    let broken = good.len() as u64 - 6;
    for (place, byte) in [(5, 2), (9, 0xfe), (10, 0xe0), (13, 0x68)] {
        let mut changed = good.to_vec();
        changed[place] = byte;
        world.video(&changed);
    }
    world.audio(b"\xaf\x00\x11").audio(b"\xaf\x00\x00\x10").audio(b"\xaf\x00\x16\x90");
    world.video(&tags::picture(true, 0, 9)).audio(&tags::audio(9));
    assert_eq!(world.story(), "v0 a1 K K");
    assert_eq!(world.demuxer.counters().bad_configurations, broken + 4 + 3);
}

#[test]
fn enhanced_avc_and_aac_are_the_same_tracks_in_other_words() {
    let record = &tags::VIDEO_CONFIGURATION[5..];
    let picture = &tags::picture(true, 0, 9)[5..];
    let mut world = World::new();
    world.video(&[b"\x90avc1", record].concat());
    world.video(&[&b"\x91avc1\xff\xff\xd8"[..], picture].concat());
    world.video(&[b"\xa3avc1", picture].concat());
    // Nanosecond modifier of three bytes, then coded frames without an offset.
    world.video(&[&b"\xa7\x02\x00\x00\x09\x03avc1"[..], picture].concat());
    world.audio(b"\x90mp4a\x11\x90").audio(b"\x91mp4aframe").audio(b"\x94mp4a\x00\x02");
    assert_eq!(world.story(), "v0 K K K a1 K");
    let Event::Sample(first) = &world.events[1] else { panic!("a sample") };
    assert_eq!(first.composition_offset, -40);
}

#[test]
fn what_cannot_be_carried_is_named() {
    let table: [(TagKind, &[u8], Unsupported, &str); 7] = [
        (TagKind::Video, b"\x90vvc1", Unsupported::VideoFourCc(*b"vvc1"), "video codec 'vvc1'"),
        (
            TagKind::Video,
            b"\x90\x00\n\xff'",
            Unsupported::VideoFourCc([0, 10, 255, b'\'']),
            "video codec '\\x00\\n\\xff\\''",
        ),
        (
            TagKind::Video,
            b"\x1d\x00",
            Unsupported::VideoCodecId(13),
            "video codec (FLV codec id 13)",
        ),
        (
            TagKind::Video,
            b"\x95av01",
            Unsupported::Mpeg2Ts,
            "video described by an MPEG-2 TS sequence start",
        ),
        (TagKind::Audio, b"\x90.mp3", Unsupported::AudioFourCc(*b".mp3"), "audio codec '.mp3'"),
        (TagKind::Audio, b"\x95\x01xyza", Unsupported::AudioFourCc(*b"xyza"), "audio codec 'xyza'"),
        (TagKind::Audio, b"\x2f", Unsupported::AudioFormat(2), "audio codec (FLV sound format 2)"),
    ];
    for (kind, body, want, text) in table {
        assert_eq!(World::new().send(kind, body), Err(want));
        assert_eq!(want.to_string(), text);
    }
}

const OPUS_HEAD: &[u8] = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
const VP9_RECORD: &[u8] = &[0, 10, 0x82, 2, 2, 2, 0, 0];
/// A key frame of 64x48 and a frame that depends on it, as far as anyone looks.
const VP9_KEY: &[u8] = &[0x82, 0x49, 0x83, 0x42, 0x00, 0x03, 0xf0, 0x02, 0xf0];
const VP9_FRAME: &[u8] = &[0x86, 0x00];

fn codecs(world: &World) -> Vec<(u32, u32, Codec)> {
    let codec = |event: &Event| match event {
        Event::Track(config) => Some((config.track.0, config.timescale, config.codec.clone())),
        _ => None,
    };
    world.events.iter().filter_map(codec).collect()
}

#[test]
fn opus_and_flac_headers_come_in_the_form_of_their_containers() {
    let mut world = World::new();
    world.audio(&[b"\x90Opus", OPUS_HEAD].concat()).audio(b"\x91Opus\xfc");
    let mut info = vec![0; 34];
    info[10..14].copy_from_slice(&[0x0b, 0xb8, 0x02, 0xf0]);
    for head in [&b"fLaC\x80\0\0\x22"[..], b"\0\0\0\x22", b""] {
        world.audio(&[b"\x90fLaC", head, &info].concat());
    }
    world.audio(b"\x91fLaC\xff\xf8\xc9\x18\x00\xc2");
    assert_eq!(world.story(), "a0 K a0 K", "the three forms of FLAC's are one");
    let opus = Codec::Opus { head: (&b"\0\x02\x01\x38\0\0\xbb\x80\0\0\0"[..]).into() };
    let flac = Codec::Flac { stream_info: info.into() };
    assert_eq!(codecs(&world), [(0, 1000, opus), (0, 1000, flac)]);
    world.audio(b"\x90OpusOpusHead\x01\x03").audio(b"\x90fLaCfLaC").audio(b"\x90Opus");
    assert_eq!(world.demuxer.counters().bad_configurations, 2);
}

#[test]
fn vp9_is_configured_with_and_without_the_head_of_its_box() {
    let mut world = World::new();
    world.video(&[b"\x90vp09", VP9_RECORD].concat());
    world.video(&[b"\x90vp09\x01\0\0\0", VP9_RECORD].concat());
    world.video(&[b"\x91vp09", VP9_KEY].concat()).video(&[b"\xa3vp09", VP9_FRAME].concat());
    assert_eq!(world.story(), "a0 K s", "one track, no offset to skip");
}

#[test]
fn dolby_needs_no_sequence_start() {
    // 48 kHz, 64 kbit/s, bsid 8, stereo.
    let frame = [0x0b, 0x77, 0, 0, 0x08, 0x40, 0x40, 0, 0];
    let mut world = World::new();
    world.audio(b"\x90ac-3").audio(&[&b"\x91ac-3"[..], &frame].concat());
    world.audio(&[&b"\x91ac-3"[..], &frame].concat()).audio(b"\x91ac-3noise");
    assert_eq!(world.story(), "a0 K K K");
    assert!(
        matches!(&codecs(&world)[0].2, Codec::Ac3 { specific } if specific[..] == [0x10, 0x10, 0x80])
    );
}

#[test]
fn legacy_hevc_is_hevc() {
    let record = hevc_record();
    let mut world = World::new();
    world.video(&[b"\x1c\0\0\0\0", &record[..]].concat());
    world.video(b"\x1c\x01\0\0\x28\0\0\0\x03\x26\x01\xaf");
    world.video(&[b"\x90hvc1", &record[..]].concat());
    world.video(b"\xa1hvc1\0\0\x28\0\0\0\x03\x02\x01\xaf").video(b"\x2c\x01\0\0\0\0\0\0\x01");
    assert_eq!(world.story(), "a0 K s");
    let offsets: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Sample(sample) => Some(sample.composition_offset),
            _ => None,
        })
        .collect();
    assert_eq!(offsets, [40, 40]);
    assert_eq!(world.demuxer.counters().malformed, 1);
}

/// Main profile, made by x265.
fn hevc_record() -> Vec<u8> {
    include_bytes!("../../../../bench/fuzz/corpus/codecs/hevc_config")[1..].to_vec()
}

/// A track's part of a tag for many.
fn part(number: u8, body: &[u8]) -> Vec<u8> {
    [&[number, 0, 0, body.len() as u8], body].concat()
}

#[test]
fn several_tracks_share_a_connection_in_each_layout() {
    let record = &tags::VIDEO_CONFIGURATION[5..];
    let picture = &tags::picture(true, 0, 9)[5..];
    let mut world = World::new();
    // One track a tag.
    world.video(&[b"\x96\x00avc1\x00", record].concat());
    world.video(&[b"\x96\x00avc1\x01", record].concat());
    // Many of one codec.
    world.video(&[&b"\x96\x13avc1"[..], &part(0, picture), &part(1, picture)].concat());
    // Many of several codecs, one of them a track that was another one's until now.
    let several = [&b"\x95\x20mp4a"[..], &part(0, b"\x11\x90"), b"Opus", &part(1, OPUS_HEAD)];
    world.audio(&several.concat());
    world.audio(&[&b"\x95\x21mp4a"[..], &part(0, b"\x21"), b"Opus", &part(1, b"\xfc")].concat());
    // Track 0 is also the track of those who know nothing of this.
    world.video(&tags::picture(false, 0, 9)).audio(&tags::audio(4));
    assert_eq!(world.story(), "v0 v1 K K a2 a3 K K s K");
    assert_eq!(world.demuxer.counters(), Counters::default());
}

#[test]
fn tracks_that_do_not_fit_are_refused_or_counted() {
    let record = &tags::VIDEO_CONFIGURATION[5..];
    let mut world = World::new();
    for number in 0..TRACKS_MAX as u8 {
        world.video(&[b"\x96\x00avc1", &[number][..], record].concat());
    }
    let ninth = [b"\x96\x00avc1\xff", record].concat();
    assert_eq!(world.send(TagKind::Video, &ninth), Err(Unsupported::Tracks { max: 8 }));
    assert_eq!(Unsupported::Tracks { max: 8 }.to_string(), "more than 8 tracks of one kind");
    // Nested, of a fourth layout, cut short in each place.
    for tag in [
        &b"\x96\x06avc1"[..],
        b"\x96\x30avc1",
        b"\x96",
        b"\x96\x10",
        b"\x96\x10avc1",
        b"\x96\x10avc1\x00",
        b"\x96\x10avc1\x00\x00\x00\x09short",
        b"\x96\x20av",
    ] {
        world.video(tag);
    }
    assert_eq!(world.demuxer.counters().malformed, 8);
}

#[test]
fn nanoseconds_make_a_track_precise_from_its_next_keyframe_on() {
    let picture = |idr| tags::picture(idr, 0, 9)[5..].to_vec();
    let nanos = |nanos: u32, idr| {
        let [_, high, middle, low] = nanos.to_be_bytes();
        [&[0xa7, 2, high, middle, low, 0x03][..], b"avc1", &picture(idr)].concat()
    };
    let mut world = World::new();
    world.video(tags::VIDEO_CONFIGURATION).video(&tags::picture(true, 0, 9));
    world.video(&nanos(333_333, false)).video(&nanos(666_666, true)).video(&nanos(333_333, false));
    // A modifier of another kind, one of 256 bytes, and one that is no part of a millisecond.
    world.video(&[&[0xa7, 0, 9, 0x13][..], b"avc1", &picture(false)].concat());
    world.video(
        &[&[0xa7, 0xff, 0, 0xff][..], &[0; 256], &[0x13], b"avc1", &picture(false)].concat(),
    );
    world.video(&nanos(1_000_000, false));
    assert_eq!(world.story(), "v0 K s v0 K s s s s");
    let times: Vec<_> = world
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Sample(sample) => Some((sample.dts, sample.composition_offset)),
            _ => None,
        })
        .collect();
    assert_eq!(times, [(0, 0), (0, 0), (666, 0), (333, 0), (0, 0), (0, 0), (0, 0)]);
    assert_eq!(codecs(&world)[1].1, 1_000_000);
    let forever = [0xa7].into_iter().chain([0, 0, 7].into_iter().cycle().take(600));
    world.video(&forever.collect::<Vec<u8>>());
    assert_eq!(world.demuxer.counters().malformed, 1, "a tag of modifiers only");
}

#[test]
fn a_codec_that_changes_mid_stream_is_the_same_track_again() {
    let mut world = World::new();
    world.video(tags::VIDEO_CONFIGURATION).video(&tags::picture(true, 0, 9));
    world.video(&[b"\x90vp09", VP9_RECORD].concat()).video(&tags::picture(false, 0, 9));
    world.video(&[b"\x91vp09", VP9_KEY].concat());
    assert_eq!(world.story(), "v0 K a0 K");
    assert_eq!(world.demuxer.counters().without_configuration, 1, "a picture of the old codec");
}
