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
        (TagKind::Video, b"\x90hvc1", Unsupported::VideoFourCc(*b"hvc1"), "video codec 'hvc1'"),
        (
            TagKind::Video,
            b"\x90\x00\n\xff'",
            Unsupported::VideoFourCc([0, 10, 255, b'\'']),
            "video codec '\\x00\\n\\xff\\''",
        ),
        (
            TagKind::Video,
            b"\x1c\x00",
            Unsupported::VideoCodecId(12),
            "video codec (FLV codec id 12)",
        ),
        (
            TagKind::Video,
            b"\x96\x00avc1",
            Unsupported::Multitrack,
            "several tracks of one kind in one connection",
        ),
        (TagKind::Audio, b"\x90Opus", Unsupported::AudioFourCc(*b"Opus"), "audio codec 'Opus'"),
        (
            TagKind::Audio,
            b"\x95\x01",
            Unsupported::Multitrack,
            "several tracks of one kind in one connection",
        ),
        (TagKind::Audio, b"\x2f", Unsupported::AudioFormat(2), "audio codec (FLV sound format 2)"),
    ];
    for (kind, body, want, text) in table {
        assert_eq!(World::new().send(kind, body), Err(want));
        assert_eq!(want.to_string(), text);
    }
}
