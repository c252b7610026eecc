//! Stories of one publisher's connection, told byte by byte.

use std::time::Duration;

use bytes::BufMut;
use proptest::prelude::*;

use super::*;
use crate::rtmp::client::{Replies, Writer, tags};
use crate::{Codec, Sample, TrackId, Unsupported};

const GOOD_NAME: &str = "in_1?sk=sk_live_good";

/// A session, what it said and what it did.
struct World {
    session: Session,
    now: Instant,
    replies: Vec<u8>,
    events: Vec<Event>,
    /// Answer to give to a publish request; `None` leaves it open.
    decide: Option<Result<(), Reject>>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "some moment is needed to count from")]
    fn new() -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(Limits::default(), now),
            now,
            replies: Vec::new(),
            events: Vec::new(),
            decide: Some(Ok(())),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let result = self.session.handle_input(bytes, self.now);
        self.drain();
        result
    }

    fn wait(&mut self, time: Duration) -> Result<(), Error> {
        self.now += time;
        let result = self.session.handle_timeout(self.now);
        self.drain();
        result
    }

    fn drain(&mut self) {
        while let Some(event) = self.session.poll_event() {
            if let Event::Publish { .. } = event {
                match self.decide {
                    Some(Ok(())) => self.session.accept_publish(),
                    Some(Err(reject)) => self.session.reject_publish(reject),
                    None => {}
                }
            }
            self.events.push(event);
        }
        while let Some(bytes) = self.session.poll_transmit() {
            self.replies.extend_from_slice(&bytes);
        }
    }

    fn reply_lines(&self) -> Vec<String> {
        Replies::new().read(&self.replies)
    }

    fn samples(&self) -> Vec<&Sample> {
        let sample = |event| {
            if let &Event::Media(crate::Event::Sample(ref s)) = event { Some(s) } else { None }
        };
        self.events.iter().filter_map(sample).collect()
    }

    fn times(&self) -> Vec<i64> {
        self.samples().iter().map(|sample| sample.dts).collect()
    }

    fn close_reason(&self) -> Option<&CloseReason> {
        match self.events.last() {
            Some(Event::Closed { reason }) => Some(reason),
            _ => None,
        }
    }

    fn end_reason(&self) -> Option<EndReason> {
        self.events.iter().find_map(|event| match event {
            Event::Media(crate::Event::End { reason }) => Some(*reason),
            _ => None,
        })
    }
}

/// A publisher that is through to media, both configurations sent.
fn publishing() -> (World, Writer) {
    let mut writer = Writer::publishing("live", GOOD_NAME);
    writer.video(0, tags::VIDEO_CONFIGURATION).audio(0, tags::AUDIO_CONFIGURATION);
    let mut world = World::new();
    world.send(&writer.take()).unwrap();
    (world, writer)
}

#[test]
fn a_publisher_with_the_right_key_is_let_in_and_its_media_comes_out() {
    let (mut world, mut writer) = publishing();
    writer.video(0, &tags::picture(true, 80, 500)).audio(5, &tags::audio(100));
    writer.video(40, &tags::picture(false, -40, 300));
    world.send(&writer.take()).unwrap();

    let Event::Publish { app, input_id, key } = &world.events[0] else { panic!("publish first") };
    assert_eq!((&**app, &**input_id, key.expose()), ("live", "in_1", "sk_live_good"));
    let Event::Media(crate::Event::Track(video)) = &world.events[1] else { panic!("video track") };
    assert_eq!((video.track, video.timescale), (TrackId(0), 1000));
    assert!(
        matches!(&video.codec, Codec::H264 { record } if record[..] == tags::VIDEO_CONFIGURATION[5..])
    );
    let Event::Media(crate::Event::Track(audio)) = &world.events[2] else { panic!("audio track") };
    assert!(matches!(&audio.codec, Codec::Aac { config } if config[..] == [0x11, 0x90]));
    let got: Vec<_> = world
        .samples()
        .iter()
        .map(|s| (s.track.0, s.dts, s.composition_offset, s.keyframe, s.data.len()))
        .collect();
    assert_eq!(got, [(0, 0, 80, true, 504), (1, 5, 0, true, 100), (0, 40, -40, false, 304)]);
    assert_eq!(
        world.reply_lines(),
        [
            "message 5",
            "message 6",
            "message 1",
            "_result NetConnection.Connect.Success Connection succeeded.",
            "_result",
            "_result",
            "_result",
            "message 4",
            "onStatus NetStream.Publish.Start Publishing.",
        ]
    );
}

#[test]
fn a_goodbye_ends_the_feed_and_leaves_the_socket_to_the_peer() {
    let (mut world, mut writer) = publishing();
    world.send(&writer.unpublish().take()).unwrap();
    assert_eq!(world.end_reason(), Some(EndReason::Unpublished));
    assert!(!world.session.is_closed());
    let mut lingering = world;
    lingering.wait(Duration::from_secs(2)).unwrap();
    assert_eq!(lingering.close_reason(), Some(&CloseReason::Unpublished));
}

#[test]
fn a_publisher_that_vanishes_ends_the_feed_once() {
    let (mut world, _) = publishing();
    world.session.handle_close();
    world.session.handle_close();
    world.drain();
    assert_eq!(world.end_reason(), Some(EndReason::Disconnected));
    assert_eq!(world.close_reason(), Some(&CloseReason::PeerClosed));
    let ends = world.events.iter().filter(|e| matches!(e, Event::Media(crate::Event::End { .. })));
    assert_eq!(ends.count(), 1);
}

/// What an outsider sees of a rejected publish, byte for byte.
fn refusal(name: &str) -> Vec<u8> {
    let mut world = World::new();
    world.decide = Some(Err(Reject::Unauthorized));
    world.send(&Writer::publishing("live", name).take()).unwrap();
    assert_eq!(world.close_reason(), Some(&CloseReason::Rejected(Reject::Unauthorized)));
    assert_eq!(
        world.reply_lines().last().unwrap(),
        "onStatus NetStream.Publish.BadName unauthorized"
    );
    assert!(!format!("{:?}", world.events).contains("sk_live"), "no key in a dump");
    world.replies
}

#[test]
fn an_unknown_input_and_a_wrong_key_look_the_same_from_outside() {
    let wrong_key = refusal("in_1?sk=sk_live_wrong");
    assert_eq!(wrong_key, refusal("in_9?sk=sk_live_good"));
    assert_eq!(wrong_key, refusal("in_1"));
    assert_eq!(wrong_key, refusal(""));
}

#[test]
fn media_sent_before_the_decision_waits_for_it() {
    let mut world = World::new();
    world.decide = None;
    let mut writer = Writer::publishing("live", GOOD_NAME);
    writer.video(0, tags::VIDEO_CONFIGURATION).video(7, &tags::picture(true, 0, 100));
    world.send(&writer.take()).unwrap();
    assert_eq!(world.events.len(), 1, "only the question");
    world.session.accept_publish();
    world.drain();
    assert_eq!(world.times(), [7]);
}

#[test]
fn media_sent_before_the_decision_is_limited() {
    let mut world = World::new();
    world.decide = None;
    let mut writer = Writer::publishing("live", GOOD_NAME);
    writer.set_chunk_size(1 << 20);
    for _ in 0..5 {
        writer.video(0, &tags::picture(true, 0, 1 << 20));
    }
    assert_eq!(world.send(&writer.take()), Err(Error::PendingMedia));
    assert_eq!(world.end_reason(), None, "a feed that never began does not end");
}

#[test]
fn a_decision_that_comes_after_the_connection_is_gone_is_harmless() {
    let mut world = World::new();
    world.decide = None;
    world.send(&Writer::publishing("live", GOOD_NAME).take()).unwrap();
    world.session.handle_close();
    world.session.accept_publish();
    world.session.reject_publish(Reject::Busy);
    world.drain();
    assert_eq!(world.events.len(), 2);
    assert_eq!(world.close_reason(), Some(&CloseReason::PeerClosed));
}

#[test]
fn a_client_silent_after_c1_is_closed_at_five_seconds() {
    let mut world = World::new();
    world.send(&[3]).unwrap();
    world.send(&[0; 1536]).unwrap();
    assert_eq!(world.replies.len(), 1 + 2 * 1536);
    assert_eq!(world.session.poll_timeout(), Some(world.now + Duration::from_secs(5)));
    world.wait(Duration::from_millis(4999)).unwrap();
    assert!(!world.session.is_closed());
    assert_eq!(world.wait(Duration::from_millis(1)), Err(Error::HandshakeTimeout));
    assert_eq!(world.close_reason(), Some(&CloseReason::Failed(Error::HandshakeTimeout)));
    assert_eq!(world.session.poll_timeout(), None);
}

#[test]
fn a_handshake_that_trickles_is_closed_at_five_seconds_too() {
    let mut world = World::new();
    world.send(&[3]).unwrap();
    for _ in 0..50 {
        world.wait(Duration::from_millis(99)).unwrap();
        world.send(&[0]).unwrap();
    }
    assert_eq!(world.wait(Duration::from_millis(50)), Err(Error::HandshakeTimeout));
}

#[test]
fn a_trickle_that_keeps_the_shell_from_its_timer_is_closed_by_its_own_bytes() {
    let mut world = World::new();
    world.send(&[3]).unwrap();
    for _ in 0..49 {
        world.now += Duration::from_millis(100);
        world.send(&[0]).unwrap();
    }
    world.now += Duration::from_millis(100);
    assert_eq!(world.send(&[0]), Err(Error::HandshakeTimeout));
}

#[test]
fn a_wrong_version_byte_is_closed_at_once() {
    for version in [0, 2, 6, b'G', 0x16] {
        let mut world = World::new();
        assert_eq!(world.send(&[version]), Err(Error::Version { version }));
        assert!(world.replies.is_empty());
        assert!(world.session.is_closed());
    }
}

#[test]
fn a_signing_client_gets_its_c1_back() {
    let mut world = World::new();
    let hello: Vec<u8> =
        std::iter::once(3).chain((0..1536_u32).map(|index| (index % 251) as u8)).collect();
    world.send(&hello).unwrap();
    assert_eq!(world.replies[0], 3);
    assert_eq!(world.replies[5..9], [0; 4], "S1 promises no signature");
    assert_eq!(world.replies[1537..], hello[1..]);
}

#[test]
fn a_client_that_connects_and_does_not_publish_is_closed() {
    let mut world = World::new();
    world.send(&Writer::new().handshake().connect("live").take()).unwrap();
    assert_eq!(world.wait(Duration::from_secs(10)), Err(Error::PublishTimeout));
}

#[test]
fn a_publisher_that_falls_silent_is_closed_and_told() {
    let (mut world, mut writer) = publishing();
    world.wait(Duration::from_secs(29)).unwrap();
    world.send(&writer.audio(29_000, &tags::audio(10)).take()).unwrap();
    world.wait(Duration::from_secs(29)).unwrap();
    assert_eq!(world.wait(Duration::from_secs(1)), Err(Error::IdleTimeout));
    assert_eq!(world.end_reason(), Some(EndReason::TimedOut));
    assert!(world.reply_lines().last().unwrap().starts_with("onStatus NetStream.Publish.Idle"));
}

#[test]
fn a_player_is_refused_politely() {
    let mut world = World::new();
    let mut writer = Writer::new();
    writer.handshake().connect("live").create_stream();
    writer.command(1, "play", 0.0, &[Value::Null, Value::from("in_1")]);
    world.send(&writer.take()).unwrap();
    assert!(world.reply_lines().last().unwrap().starts_with("onStatus NetStream.Play.Failed"));
}

#[test]
fn unknown_calls_are_answered_and_unknown_notices_are_not() {
    let mut world = World::new();
    let mut writer = Writer::new();
    writer.handshake().connect("live");
    writer.command(0, "getStreamLength", 8.0, &[Value::Null, Value::from("x")]);
    writer.command(0, "frobnicate", 9.0, &[Value::Null]);
    writer.command(0, "onFrobnicated", 0.0, &[Value::Null]);
    world.send(&writer.take()).unwrap();
    assert_eq!(
        world.reply_lines()[4..],
        ["_result", "_error NetConnection.Call.Failed No such method."]
    );
}

#[test]
fn publish_before_connect_and_a_second_publish_are_out_of_order() {
    let mut world = World::new();
    let early = Writer::new().handshake().publish(GOOD_NAME).take();
    assert_eq!(world.send(&early), Err(Error::OutOfOrder { command: "publish" }));
    let (mut world, mut writer) = publishing();
    let again = writer.publish("in_2?sk=x").take();
    assert_eq!(world.send(&again), Err(Error::OutOfOrder { command: "publish" }));
    assert_eq!(world.end_reason(), Some(EndReason::Protocol));
}

#[test]
fn commands_wrapped_for_amf3_are_understood() {
    let mut plain = Writer::new();
    plain.command(0, "connect", 1.0, &[Value::Object(vec![("app".into(), Value::from("live"))])]);
    let plain = plain.take();
    let mut payload = vec![0];
    payload.extend_from_slice(&plain[12..]);
    let mut world = World::new();
    let mut writer = Writer::new();
    writer.handshake().message(3, kind::COMMAND_AMF3, 0, 0, &payload);
    world.send(&writer.publish(GOOD_NAME).take()).unwrap();
    assert!(matches!(world.events[..], [Event::Publish { .. }, ..]));
}

#[test]
fn a_ping_gets_its_pong() {
    let (mut world, mut writer) = publishing();
    let before = world.replies.len();
    writer.message(2, kind::USER_CONTROL, 0, 0, &[0, 6, 0xde, 0xad, 0xbe, 0xef]);
    world.send(&writer.take()).unwrap();
    assert!(world.replies[before..].ends_with(&[0, 7, 0xde, 0xad, 0xbe, 0xef]));
}

#[test]
fn a_peer_that_pings_without_reading_is_closed() {
    let (mut world, mut writer) = publishing();
    for _ in 0..10_000 {
        writer.message(2, kind::USER_CONTROL, 0, 0, &[0, 6, 0, 0, 0, 0]);
    }
    assert_eq!(world.send(&writer.take()), Err(Error::TransmitBacklog { max: 64 << 10 }));
}

#[test]
fn every_window_of_bytes_is_acknowledged() {
    let (mut world, mut writer) = publishing();
    writer.message(2, kind::WINDOW_ACKNOWLEDGEMENT_SIZE, 0, 0, &10_000_u32.to_be_bytes());
    world.send(&writer.take()).unwrap();
    let before = world.replies.len();
    let mut sent = 0;
    for _ in 0..10 {
        writer.video(0, &tags::picture(true, 0, 5000));
        let bytes = writer.take();
        sent += bytes.len();
        world.send(&bytes).unwrap();
    }
    let acknowledgements: Vec<u32> = world.replies[before..]
        .chunks(16)
        .map(|message| {
            assert_eq!(message[7], kind::ACKNOWLEDGEMENT);
            u32::from_be_bytes(message[12..].try_into().unwrap())
        })
        .collect();
    assert_eq!(acknowledgements.len(), sent / 10_000);
    assert!(acknowledgements.is_sorted());
}

#[test]
fn a_vvc_publisher_is_told_what_is_wrong() {
    let (mut world, mut writer) = publishing();
    let refused = Unsupported::VideoFourCc(*b"vvc1");
    let result = world.send(&writer.video(0, b"\x90vvc1\x01\x02").take());
    assert_eq!(result, Err(Error::Unsupported(refused)));
    assert_eq!(world.end_reason(), Some(EndReason::Unsupported(refused)));
    assert_eq!(
        world.reply_lines().last().unwrap(),
        "onStatus NetStream.Publish.Rejected video codec 'vvc1' is not supported"
    );
}

#[test]
fn metadata_is_kept_for_display_and_garbage_in_it_is_no_error() {
    let (mut world, mut writer) = publishing();
    let mut payload = BytesMut::new();
    Value::from("@setDataFrame").encode(&mut payload);
    Value::from("onMetaData").encode(&mut payload);
    Value::Object(vec![
        ("width".into(), Value::from(1280.0)),
        ("framerate".into(), Value::from("a lie")),
        ("encoder".into(), Value::from("obs\n29")),
    ])
    .encode(&mut payload);
    writer.message(4, kind::DATA_AMF0, 0, 1, &payload);
    writer.message(4, kind::DATA_AMF0, 0, 1, b"\x02\xff\xffgarbage");
    writer.message(4, kind::DATA_AMF0, 0, 1, &[0x0a, 0, 0, 0, 1].repeat(5000));
    world.send(&writer.take()).unwrap();
    let metadata = world.session.metadata();
    assert_eq!((metadata.width, metadata.frame_rate), (Some(1280.0), None));
    assert_eq!(metadata.encoder.as_deref(), Some("obs29"));
    assert_eq!(world.session.counters().ignored_messages, 2);
}

#[test]
fn an_aggregate_message_is_taken_apart() {
    let (mut world, mut writer) = publishing();
    let mut payload = BytesMut::new();
    for (kind, time, body) in
        [(9, 700, tags::picture(true, 0, 50)), (8, 1710, tags::audio(20)), (18, 1710, vec![5])]
    {
        payload.put_u8(kind);
        payload.put_uint(body.len() as u64, 3);
        payload.put_uint(time, 3);
        payload.put_u32(0);
        payload.put_slice(&body);
        payload.put_u32(11 + body.len() as u32);
    }
    world.send(&writer.message(6, kind::AGGREGATE, 2000, 1, &payload).take()).unwrap();
    assert_eq!(world.times(), [2000, 3010]);
}

#[test]
fn media_for_another_message_stream_is_ignored_and_counted() {
    let (mut world, mut writer) = publishing();
    world.send(&writer.message(6, kind::VIDEO, 0, 2, &tags::picture(true, 0, 9)).take()).unwrap();
    assert!(world.samples().is_empty());
    assert_eq!(world.session.counters().ignored_messages, 1);
}

#[test]
fn a_command_longer_than_the_limit_is_refused_whole() {
    let mut world = World::new();
    let mut writer = Writer::new();
    writer.handshake().message(3, kind::COMMAND_AMF0, 0, 0, &vec![2; 70_000]);
    let max = 64 << 10;
    assert_eq!(world.send(&writer.take()), Err(Error::CommandTooLong { bytes: 70_000, max }));
    let mut world = World::new();
    let long = "x".repeat(2000);
    let sent = Writer::new().handshake().connect(&long).take();
    assert_eq!(world.send(&sent), Err(Error::CommandTooLong { bytes: 2000, max: 1024 }));
}

#[test]
fn an_amf_depth_bomb_in_a_command_closes_the_connection() {
    let mut world = World::new();
    let mut payload = b"\x02\x00\x07connect\x00\x3f\xf0\x00\x00\x00\x00\x00\x00".to_vec();
    payload.extend([0x03, 0, 1, b'a'].repeat(10_000));
    let sent = Writer::new().handshake().message(3, kind::COMMAND_AMF0, 0, 0, &payload).take();
    assert_eq!(world.send(&sent), Err(Error::AmfDepth { max: 16 }));
}

#[test]
fn the_clock_wraps_at_24_and_32_bits_without_a_jump() {
    let (mut world, mut writer) = publishing();
    for time in [0xff_ffd0, 0xff_fff8, 0x20, 0x48] {
        writer.video(time, &tags::picture(false, 0, 300));
    }
    world.send(&writer.take()).unwrap();
    assert_eq!(world.times(), [0xff_ffd0, 0xff_fff8, 0x100_0020, 0x100_0048]);

    let mut writer = Writer::publishing("live", GOOD_NAME);
    writer.video(u32::MAX - 79, tags::VIDEO_CONFIGURATION);
    for time in [u32::MAX - 39, 0, 40] {
        writer.video(time, &tags::picture(false, 0, 300));
    }
    let mut world = World::new();
    world.send(&writer.take()).unwrap();
    assert_eq!(world.times(), [(1_i64 << 32) - 40, 1 << 32, (1 << 32) + 40]);
}

/// A connection with a bit of everything, for cutting into pieces: what comes before the publish
/// answer, and what comes after.
fn everything() -> [Vec<u8>; 2] {
    let mut writer = Writer::publishing("live/in_1", "sk_live_good");
    let request = writer.take().to_vec();
    writer.set_chunk_size(300);
    for (index, extended) in [(0, true), (1, false)] {
        writer.set_type_3_extended(extended);
        let base = 0x100_0000 * index;
        writer.video(base, tags::VIDEO_CONFIGURATION).audio(base, tags::AUDIO_CONFIGURATION);
        for frame in 0..4 {
            let time = base + frame * 40;
            writer.video(time, &tags::picture(frame == 0, 40, 700 + frame as usize));
            writer.audio(time + 3, &tags::audio(150));
        }
    }
    writer.message(2, kind::USER_CONTROL, 0, 0, &[0, 6, 1, 2, 3, 4]).unpublish();
    [request, writer.take().to_vec()]
}

/// Lines of events and replies; short, so that a difference can be read.
fn story_of(wire: &[Vec<u8>; 2], cuts: &[usize]) -> Vec<String> {
    let mut world = World::new();
    for part in wire {
        let mut rest = &part[..];
        for &cut in cuts.iter().cycle() {
            let (now, after) = rest.split_at(cut.min(rest.len()));
            world.send(now).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    let line = |event: &Event| match event {
        Event::Media(crate::Event::Sample(s)) => {
            format!("{:?} {} {} {:?}", s.track, s.dts, s.keyframe, &s.data[s.data.len() - 9..])
        }
        other => format!("{other:?}"),
    };
    world.events.iter().map(line).chain(world.reply_lines()).collect()
}

#[test]
fn one_byte_at_a_time_tells_the_same_story() {
    let wire = everything();
    let whole = story_of(&wire, &[usize::MAX]);
    assert_eq!(story_of(&wire, &[1]), whole);
    assert_eq!(whole.iter().filter(|line| line.starts_with("TrackId(")).count(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_of_the_bytes_tells_the_same_story(
        cuts in prop::collection::vec(1_usize..2000, 1..40),
    ) {
        let wire = everything();
        prop_assert_eq!(story_of(&wire, &cuts), story_of(&wire, &[usize::MAX]));
    }

    #[test]
    fn random_bytes_after_the_handshake_keep_every_promise(
        choice in 0_u8..=255,
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
    ) {
        let mut input = vec![choice];
        input.extend(bytes);
        crate::fuzzing::fuzz_rtmp(&input);
        crate::fuzzing::fuzz_flv(&input);
        crate::fuzzing::fuzz_amf(&input);
    }

    #[test]
    fn a_damaged_connection_keeps_every_promise(
        choice in 0_u8..128,
        damage in prop::collection::vec((0_usize..8000, any::<u8>()), 1..8),
    ) {
        let mut input = vec![choice];
        let wire = everything().concat();
        input.extend_from_slice(&wire[1 + 2 * 1536..]);
        for (place, byte) in damage {
            let place = 1 + place % (input.len() - 1);
            input[place] = byte;
        }
        crate::fuzzing::fuzz_rtmp(&input);
    }
}

#[test]
fn who_asks_hears_which_codecs_are_taken_and_who_does_not_hears_nothing_new() {
    let mut world = World::new();
    world.send(&Writer::new().handshake().connect_enhanced("live", 0).take()).unwrap();
    let limits = Limits::default();
    let mut decoder = chunk::Decoder::new();
    let mut rest = &world.replies[1 + 2 * 1536..];
    let mut reply = None;
    while let Ok(Some(message)) = decoder.next(&mut rest, &limits) {
        if message.kind == kind::SET_CHUNK_SIZE {
            decoder.set_chunk_size(control_number(&message).unwrap()).unwrap();
        }
        if message.kind == kind::COMMAND_AMF0 {
            reply = Some(amf::decode_all(&message.payload, &limits).unwrap());
        }
    }
    let reply = reply.unwrap();
    for object in &reply[2..4] {
        let list = object.member("fourCcList").unwrap();
        let Value::Array(list) = list else { panic!("{list:?}") };
        let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
        assert_eq!(list, ["avc1", "hvc1", "av01", "vp09", "mp4a", "Opus", "fLaC", "ac-3", "ec-3"]);
        let four = Some(4.0);
        let video = object.member("videoFourCcInfoMap").unwrap();
        assert_eq!(video.member("hvc1").and_then(Value::as_number), four);
        let audio = object.member("audioFourCcInfoMap").unwrap();
        assert_eq!(audio.member("Opus").and_then(Value::as_number), four);
        assert_eq!(object.member("capsEx").and_then(Value::as_number), Some(15.0));
    }
    let mut plain = World::new();
    plain.send(&Writer::new().handshake().connect("live").take()).unwrap();
    assert!(!String::from_utf8_lossy(&plain.replies).contains("FourCc"));
}

#[test]
fn a_publisher_that_said_it_understands_is_asked_to_reconnect() {
    for (caps, asked) in [(1, true), (15, true), (14, false)] {
        let mut writer = Writer::new();
        writer.handshake().connect_enhanced("live", caps).create_stream();
        let mut world = World::new();
        world.send(&writer.take()).unwrap();
        assert!(!world.session.request_reconnect(None), "nothing is published yet");
        world.send(&writer.publish(GOOD_NAME).take()).unwrap();
        let url = "rtmp://other.example:1935/live";
        let place = "rtmp://other.example:1935";
        assert_eq!(world.session.request_reconnect(Some(place)), asked);
        world.drain();
        let lines = world.reply_lines();
        let code = "onStatus NetConnection.Connect.ReconnectRequest The server is draining.";
        assert_eq!(lines.last().is_some_and(|line| line == code), asked, "{lines:?}");
        assert_eq!(String::from_utf8_lossy(&world.replies).contains(url), asked);
        // It goes on until it has another place.
        writer.video(0, tags::VIDEO_CONFIGURATION).video(0, &tags::picture(true, 0, 9));
        world.send(&writer.take()).unwrap();
        assert_eq!(world.samples().len(), 1);
    }
}
