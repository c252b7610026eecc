//! A WebRTC publisher (str0m's own client side) against the endpoint, on a network in memory with a
//! clock that is moved by hand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Input, Output, Rtc};
use weir_packager::{Codec, Sample, TrackId};

use super::*;

const SERVER: &str = "192.0.2.1:8891";
const CLIENT: &str = "198.51.100.7:5000";

/// 320x240, Constrained Baseline, and 640x480.
const SPS_SMALL: &[u8] = &[0x67, 0x42, 0xc0, 0x0d, 0x95, 0xa0, 0x50, 0x7c, 0x80];
const SPS_LARGE: &[u8] = &[0x67, 0x42, 0xc0, 0x1e, 0x95, 0xa0, 0x28, 0x0f, 0x64];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn identity(shard: u16, seed: u8) -> Identity {
    Identity { ufrag: ufrag(shard, [seed; 8]), password: Secret::new("0123456789abcdef01234567") }
}

/// A publisher and the endpoint, one network apart.
struct Pair {
    now: Instant,
    client: Rtc,
    endpoint: Endpoint,
    id: SessionId,
    audio: Mid,
    video: Mid,
    /// Sound of this many packets, pictures of this many, sent so far.
    sent: Vec<Vec<u8>>,
    media: Vec<crate::Event>,
    ended: Option<(EndCause, Diagnostics)>,
    stages: Vec<Stage>,
    /// Asks of the client to make a keyframe.
    asked: u32,
    /// Every how manieth packet of media to the server is lost; 0 for none.
    lose: u32,
    count: u32,
    reachable: bool,
}

fn client(now: Instant) -> Rtc {
    let builder = Rtc::builder().clear_codecs();
    let mut client = builder.enable_opus(true, false).enable_h264(true).build(now);
    client.add_local_candidate(Candidate::host(address(CLIENT), "udp").expect("a candidate"));
    client
}

fn offer(client: &mut Rtc) -> (String, SdpPendingOffer, Mid, Mid) {
    let mut api = client.sdp_api();
    let audio = api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
    let video = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
    let (offer, pending) = api.apply().expect("something to offer");
    (offer.to_sdp_string(), pending, audio, video)
}

impl Pair {
    /// Exchanges offer and answer; `edit` may change the offer on its way.
    fn meet(edit: impl FnOnce(String) -> String) -> Self {
        let now = Instant::now();
        Self::meet_at(Endpoint::new(Limits::default()), 7, now, client(now), edit)
    }

    /// The same at an endpoint that has seen others.
    fn meet_at(
        mut endpoint: Endpoint,
        number: u16,
        now: Instant,
        mut client: Rtc,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let (offer, pending, audio, video) = offer(&mut client);
        let id = SessionId(number.into());
        let answer = endpoint
            .accept(id, &identity(3, number as u8), &edit(offer), &[address(SERVER)], now)
            .expect("accepted");
        assert!(answer.contains("a=ice-lite") && answer.contains("192.0.2.1 8891"), "{answer}");
        assert!(answer.contains("a=recvonly") && !answer.contains("a=sendrecv"), "{answer}");
        let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        client.sdp_api().accept_answer(pending, answer).expect("a fitting answer");
        Self {
            now,
            client,
            endpoint,
            id,
            audio,
            video,
            sent: Vec::new(),
            media: Vec::new(),
            ended: None,
            stages: Vec::new(),
            asked: 0,
            lose: 0,
            count: 0,
            reachable: true,
        }
    }

    fn connected() -> Self {
        let mut pair = Self::meet(|offer| offer);
        pair.run(Duration::from_secs(2));
        assert!(pair.client.is_connected(), "{:?}", pair.endpoint.diagnostics(pair.id));
        pair
    }

    /// Lets this much time pass.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.exchange();
            self.now += Duration::from_millis(5);
            let _ = self.client.handle_input(Input::Timeout(self.now));
            self.endpoint.handle_timeout(self.now);
        }
        self.exchange();
    }

    fn exchange(&mut self) {
        for _ in 0..100 {
            let mut moved = false;
            let mut towards: VecDeque<Vec<u8>> = VecDeque::new();
            loop {
                match self.client.poll_output() {
                    Ok(Output::Timeout(_)) | Err(_) => break,
                    Ok(Output::Transmit(transmit)) => towards.push_back(transmit.contents.to_vec()),
                    Ok(Output::Event(str0m::Event::KeyframeRequest(_))) => self.asked += 1,
                    Ok(Output::Event(_)) => {}
                }
            }
            for datagram in towards {
                moved = true;
                // RTP, not RTCP (RFC 5761 §4).
                let media = (128..192).contains(&datagram[0]) && !(192..224).contains(&datagram[1]);
                self.count += u32::from(media);
                let lost = media && self.lose > 0 && self.count.is_multiple_of(self.lose);
                if self.reachable && !lost {
                    let from = address(CLIENT);
                    self.endpoint.handle_datagram(from, None, &datagram, self.now);
                }
            }
            while let Some(transmit) = self.endpoint.poll_transmit() {
                moved = true;
                assert_eq!(transmit.destination, address(CLIENT));
                let source = address(SERVER);
                let destination = address(CLIENT);
                let receive = Receive::new(Protocol::Udp, source, destination, &transmit.contents);
                let Ok(receive) = receive else { continue };
                let _ = self.client.handle_input(Input::Receive(self.now, receive));
                while let Ok(output) = self.client.poll_output() {
                    match output {
                        Output::Timeout(_) => break,
                        Output::Transmit(transmit) => {
                            let from = address(CLIENT);
                            self.endpoint.handle_datagram(from, None, &transmit.contents, self.now);
                        }
                        Output::Event(str0m::Event::KeyframeRequest(_)) => self.asked += 1,
                        Output::Event(_) => {}
                    }
                }
            }
            while let Some(event) = self.endpoint.poll_event() {
                match event {
                    Event::Media(_, event) => self.media.push(event),
                    Event::Progress(_, stage) => self.stages.push(stage),
                    Event::Ended(_, cause, diagnostics) => self.ended = Some((cause, *diagnostics)),
                    Event::Learned(_) | Event::Forgotten(_) => {}
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A picture shown at `time` in 90 kHz.
    fn picture(&mut self, time: u64, units: &[&[u8]]) {
        let mut data = Vec::new();
        for unit in units {
            data.extend_from_slice(&[0, 0, 0, 1]);
            data.extend_from_slice(unit);
            self.sent.push(unit.to_vec());
        }
        let writer = self.client.writer(self.video).expect("a video section");
        let pt = writer.payload_params().next().expect("a payload type").pt();
        let time = MediaTime::from_90khz(time);
        writer.write(pt, self.now, time, data).expect("written");
        self.exchange();
    }

    fn sound(&mut self, time: u64, packet: &[u8]) {
        let writer = self.client.writer(self.audio).expect("an audio section");
        let pt = writer.payload_params().next().expect("a payload type").pt();
        let time = MediaTime::new(time, str0m::media::Frequency::FORTY_EIGHT_KHZ);
        writer.write(pt, self.now, time, packet.to_vec()).expect("written");
        self.exchange();
    }

    /// Pictures and sound as they come from a camera, a keyframe first and where `keyframe` says.
    fn broadcast(&mut self, pictures: u64, sps: &[u8], keyframe: impl Fn(u64) -> bool) {
        for number in 0..pictures {
            let body: Vec<u8> =
                (0..2_500_u32).map(|at| (at * 7 + number as u32) as u8 | 1).collect();
            let slice = |header: u8| [&[header, 0x88][..], &body].concat();
            let time = number * 3_000;
            if keyframe(number) {
                self.picture(time, &[sps, PPS, &slice(0x65)]);
            } else {
                self.picture(time, &[&slice(0x41)]);
            }
            for _ in 0..5 {
                self.run(Duration::from_millis(5));
            }
            self.now += Duration::from_millis(8);
        }
        self.run(Duration::from_secs(1));
    }

    fn samples(&self, track: u32) -> Vec<Sample> {
        let of = |event: &crate::Event| match event {
            crate::Event::Sample(sample) if sample.track == TrackId(track) => Some(sample.clone()),
            _ => None,
        };
        self.media.iter().filter_map(of).collect()
    }

    fn received(&self) -> Vec<Vec<u8>> {
        let mut units = Vec::new();
        for sample in self.samples(0) {
            let mut rest = &sample.data[..];
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (unit, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
                units.push(unit.to_vec());
                rest = tail;
            }
        }
        units
    }
}

#[test]
fn what_a_browser_sends_arrives_unit_for_unit() {
    let mut pair = Pair::connected();
    pair.broadcast(30, SPS_SMALL, |number| number == 0);
    assert_eq!(pair.stages, [Stage::Stun, Stage::Dtls, Stage::Media]);
    assert_eq!(pair.received().len(), 32);
    assert!(pair.received() == pair.sent, "bytes changed on the way");
    let samples = pair.samples(0);
    assert!(samples[0].keyframe && samples[1..].iter().all(|sample| !sample.keyframe));
    assert!(samples.windows(2).all(|pair| pair[1].dts - pair[0].dts == 3_000));
    assert!(samples.iter().all(|sample| sample.composition_offset == 0));
}

#[test]
fn both_dtls_roles_are_taken() {
    for (setup, active) in [("passive", true), ("active", false), ("actpass", false)] {
        let mut pair = Pair::meet(|offer| {
            let changed = offer.replace("a=setup:actpass", &format!("a=setup:{setup}"));
            assert!(setup == "actpass" || changed != offer);
            changed
        });
        pair.run(Duration::from_secs(2));
        let diagnostics = pair.endpoint.diagnostics(pair.id).expect("alive");
        assert_eq!(diagnostics.dtls_active, active, "{setup}");
        // The client's own idea of its role is fixed by the answer.
        assert!(diagnostics.dtls.is_some(), "{setup}: {diagnostics:?}");
    }
}

#[test]
fn another_certificate_than_the_offered_one_ends_the_session() {
    let mut pair = Pair::meet(|offer| {
        let at = offer.find("a=fingerprint:sha-256 ").expect("a fingerprint") + 22;
        let mut offer = offer;
        let other = if &offer[at..at + 2] == "00" { "11" } else { "00" };
        offer.replace_range(at..at + 2, other);
        offer
    });
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.ended.as_ref().map(|(cause, _)| *cause), Some(EndCause::Fingerprint));
    assert_eq!(pair.endpoint.held(), 0);
}

#[test]
fn lost_packets_are_asked_for_again_and_nothing_is_missing() {
    let mut pair = Pair::connected();
    pair.lose = 20;
    pair.broadcast(60, SPS_SMALL, |number| number == 0);
    assert!(pair.received() == pair.sent, "{:?}", pair.endpoint.diagnostics(pair.id));
    assert!(pair.media.iter().all(|event| !matches!(event, crate::Event::Loss { .. })));
}

#[test]
fn a_browser_is_asked_for_a_keyframe_for_every_group() {
    let mut pair = Pair::connected();
    pair.broadcast(200, SPS_SMALL, |number| number == 0);
    let asked = pair.endpoint.diagnostics(pair.id).expect("alive").keyframes_asked;
    assert!((2..=5).contains(&asked), "{asked} in some 7 seconds");
    assert!(pair.asked >= 2, "the client heard {}", pair.asked);
}

#[test]
fn a_new_picture_size_is_a_new_configuration_before_its_keyframe() {
    let mut pair = Pair::connected();
    pair.broadcast(5, SPS_SMALL, |number| number == 0);
    pair.picture(1_000_000, &[SPS_LARGE, PPS, &[0x65, 0x88, 1]]);
    pair.run(Duration::from_millis(100));
    let mut configured = Vec::new();
    let mut last = false;
    for event in &pair.media {
        match event {
            crate::Event::Track(config) if config.track == TrackId(0) => {
                let Codec::H264 { record } = &config.codec else { panic!("H.264") };
                configured.push(record.windows(SPS_LARGE.len()).any(|at| at == SPS_LARGE));
                last = true;
            }
            crate::Event::Sample(sample) if sample.track == TrackId(0) => {
                assert!(!last || sample.keyframe, "a configuration comes right before a keyframe");
                last = false;
            }
            _ => {}
        }
    }
    assert_eq!(configured, [false, true]);
}

#[test]
fn sound_goes_on_while_the_microphone_is_muted() {
    let mut pair = Pair::connected();
    pair.picture(0, &[SPS_SMALL, PPS, &[0x65, 0x88, 1]]);
    for number in 0..150_u64 {
        pair.picture(3_000 * (number + 1), &[&[0x41, 0x9a, 1]]);
        // Sound for the first second only.
        for half in 0..2 {
            if number < 30 && (number * 2 + half) % 3 != 2 {
                pair.sound((number * 2 + half) * 2 / 3 * 960, &[0xf8, 1, 2]);
            }
        }
        pair.run(Duration::from_millis(33));
    }
    let sound = pair.samples(1);
    let end = sound.last().expect("sound").dts;
    let shown = pair.samples(0).last().expect("a picture").dts;
    let behind = shown as f64 / 90_000.0 - end as f64 / 48_000.0;
    assert!((0.0..1.5).contains(&behind), "sound is {behind} s behind");
    assert!(pair.endpoint.diagnostics(pair.id).is_some_and(|d| d.silence_filled > 100));
}

#[test]
fn a_session_nobody_reaches_ends_and_says_that_udp_is_blocked() {
    let mut pair = Pair::meet(|offer| offer);
    pair.reachable = false;
    pair.run(Limits::default().connect_timeout + Duration::from_millis(50));
    let (cause, diagnostics) = pair.ended.clone().expect("ended");
    assert_eq!((cause, diagnostics.stun), (EndCause::NoStun, None));
    assert!(cause.to_string().contains("UDP"));
    assert_eq!(pair.endpoint.held(), 0);
}

#[test]
fn a_publisher_that_vanishes_is_noticed_and_leaves_nothing() {
    let mut pair = Pair::connected();
    pair.broadcast(5, SPS_SMALL, |number| number == 0);
    pair.reachable = false;
    pair.run(Limits::default().idle_timeout + Duration::from_millis(50));
    assert_eq!(pair.ended.as_ref().map(|(cause, _)| *cause), Some(EndCause::Silent));
    let end = pair
        .media
        .iter()
        .any(|event| matches!(event, crate::Event::End { reason: crate::EndReason::TimedOut }));
    assert!(end);
    assert_eq!(pair.endpoint.held(), 0);
}

#[test]
fn deleting_a_session_frees_it_at_once_and_says_goodbye() {
    let mut pair = Pair::connected();
    pair.broadcast(5, SPS_SMALL, |number| number == 0);
    assert!(pair.endpoint.close(pair.id, pair.now));
    assert_eq!(pair.endpoint.held(), 0);
    assert!(pair.endpoint.poll_transmit().is_some(), "a goodbye");
    assert!(!pair.endpoint.close(pair.id, pair.now));
}

#[test]
fn a_publisher_that_hangs_up_ends_its_session() {
    let mut pair = Pair::connected();
    pair.client.close().expect("closes");
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.ended.as_ref().map(|(cause, _)| *cause), Some(EndCause::Left));
    assert_eq!(pair.endpoint.held(), 0);
}

#[test]
fn offers_without_our_codecs_are_refused_by_name() {
    let now = Instant::now();
    let mut endpoint = Endpoint::new(Limits::default());
    for (codec, other, why) in [("H264", "H263", "H.264"), ("opus", "speex", "Opus")] {
        let (offer, ..) = offer(&mut client(now));
        let changed = offer.replace(codec, other);
        assert_ne!(changed, offer);
        let refused =
            endpoint.accept(SessionId(1), &identity(0, 0), &changed, &[address(SERVER)], now);
        match refused {
            Err(Refused::Codec(said)) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((endpoint.held(), endpoint.counters().refused_offer), (0, 2));
}

#[test]
fn more_sessions_than_allowed_are_refused() {
    let now = Instant::now();
    let limits = Limits { sessions_max: 2, ..Limits::default() };
    let mut endpoint = Endpoint::new(limits);
    for number in 0..3 {
        let (offer, ..) = offer(&mut client(now));
        let accepted = endpoint.accept(
            SessionId(number.into()),
            &identity(0, number),
            &offer,
            &[address(SERVER)],
            now,
        );
        assert_eq!(accepted.is_ok(), number < 2);
        if number == 2 {
            assert_eq!(accepted, Err(Refused::Capacity));
        }
    }
    assert_eq!(endpoint.counters().refused_capacity, 1);
}

#[test]
fn datagrams_of_strangers_reach_no_session() {
    let mut pair = Pair::connected();
    let before = pair.endpoint.diagnostics(pair.id).expect("alive");
    let stranger = address("203.0.113.5:9");
    for datagram in [&[0x80, 96, 0, 1][..], &[22, 254, 253, 0, 0], &[0, 1, 0, 0], &[]] {
        pair.endpoint.handle_datagram(stranger, None, datagram, pair.now);
    }
    assert_eq!(pair.endpoint.diagnostics(pair.id), Some(before));
    assert_eq!(pair.endpoint.counters().stray, 4);
}

#[test]
fn an_ice_restart_changes_the_names_and_the_media_goes_on() {
    let mut pair = Pair::connected();
    pair.broadcast(5, SPS_SMALL, |number| number == 0);
    let fragment = "a=ice-ufrag:newufrag\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n";
    let fresh = identity(3, 9);
    let answered = pair.endpoint.trickle(pair.id, &fresh, fragment, true);
    let answered = answered.expect("a session").expect("a fragment").expect("an answer");
    assert!(answered.contains(&fresh.ufrag) && answered.contains("0123456789abcdef01234567"));
    let before = pair.received().len();
    pair.picture(1_000_000, &[&[0x41, 0x9a, 1]]);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.received().len(), before + 1);
}

/// A publisher that came and went, at an endpoint that goes on.
fn come_and_go(endpoint: Endpoint, number: u16) -> Endpoint {
    let now = Instant::now();
    let mut pair = Pair::meet_at(endpoint, number, now, client(now), |offer| offer);
    while !pair.client.is_connected() {
        assert!(pair.now < now + Duration::from_secs(5), "publisher {number}");
        pair.run(Duration::from_millis(20));
    }
    pair.picture(0, &[SPS_SMALL, PPS, &[0x65, 0x88, 1]]);
    pair.run(Duration::from_millis(60));
    assert_eq!((pair.samples(0).len(), pair.endpoint.sessions()), (1, 1), "publisher {number}");
    // Half of them are deleted, the others hang up.
    if number.is_multiple_of(2) {
        assert!(pair.endpoint.close(pair.id, pair.now));
    } else {
        pair.client.close().expect("closes");
    }
    pair.run(Duration::from_millis(60));
    assert!(pair.ended.is_some(), "publisher {number}");
    assert!(pair.endpoint.poll_event().is_none() && pair.endpoint.poll_transmit().is_none());
    pair.endpoint
}

#[test]
fn two_hundred_publishers_come_and_go_and_leave_nothing_behind() {
    let mut endpoint = Endpoint::new(Limits::default());
    for number in 0..200 {
        endpoint = come_and_go(endpoint, number);
        assert_eq!(endpoint.held(), 0, "after publisher {number}");
        assert_eq!(endpoint.poll_timeout(), None);
    }
    assert_eq!(endpoint.counters().accepted, 200);
}

/// A profile that has B-frames; how deep they reorder it does not say.
const SPS_REORDERED: &[u8] = &[
    0x67, 0xf4, 0x00, 0x0b, 0x91, 0x96, 0x82, 0x84, 0x7e, 0x27, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00,
    0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0xaa,
];
const PPS_REORDERED: &[u8] = &[0x68, 0xce, 0x0f, 0x19, 0x20];

#[test]
fn b_frames_over_webrtc_are_taken_and_get_decode_times_that_grow() {
    let mut pair = Pair::connected();
    // I P B B, in the order they are decoded; shown as the numbers say.
    let shown = [0_u64, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11, 15, 13, 14];
    for (at, number) in shown.iter().enumerate() {
        let slice = [if at == 0 { 0x65 } else { 0x41 }, 0x88, at as u8 | 1];
        let units: &[&[u8]] =
            if at == 0 { &[SPS_REORDERED, PPS_REORDERED, &slice] } else { &[&slice] };
        pair.picture(90_000 + number * 3_000, units);
        pair.run(Duration::from_millis(33));
    }
    pair.run(Duration::from_secs(1));
    assert!(pair.received() == pair.sent, "every unit, in the order it was sent");
    let samples = pair.samples(0);
    assert!(samples.windows(2).all(|pair| pair[0].dts < pair[1].dts), "decode times grow");
    let late = samples.iter().rposition(|sample| sample.composition_offset < 0);
    assert!(late < Some(4), "from the second P-frame on, each is decoded before it is shown");
    let start = samples[0].dts + i64::from(samples[0].composition_offset);
    let times = samples.iter().map(|sample| sample.dts + i64::from(sample.composition_offset));
    let expected: Vec<i64> = shown.iter().map(|number| start + *number as i64 * 3_000).collect();
    assert_eq!(times.collect::<Vec<_>>(), expected, "shown when the encoder said");
}

#[test]
fn h38_broken_checks_and_dtls_of_strangers_are_ignored() {
    let mut pair = Pair::connected();
    pair.broadcast(2, SPS_SMALL, |number| number == 0);
    let before = pair.endpoint.diagnostics(pair.id).expect("alive");
    let known = pair.endpoint.held();
    let stranger = address("203.0.113.5:9");
    let name = format!("{}:peer", pair.endpoint.ice_session(pair.id).expect("a name"));
    let request = |length: u16, attributes: &[u8]| {
        let mut bytes = vec![0, 1];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0x21, 0x12, 0xa4, 0x42]);
        bytes.extend([7; 12]);
        bytes.extend_from_slice(attributes);
        bytes
    };
    let mut attributes = vec![0, 6, 0, name.len() as u8];
    attributes.extend(name.bytes());
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    let named = attributes.len() as u16;
    // Right name, but no integrity; integrity and fingerprint made up; lengths that lie.
    let mut forged = attributes.clone();
    forged.extend([0, 8, 0, 20]);
    forged.extend([0xaa; 20]);
    forged.extend([0x80, 0x28, 0, 4, 1, 2, 3, 4]);
    let forged_length = forged.len() as u16;
    let checks = [
        request(named, &attributes),
        request(forged_length, &forged),
        request(u16::MAX, &attributes),
        request(0, &attributes),
        request(named - 1, &attributes),
        request(named, &[0, 6, 0xff, 0xff]),
    ];
    // A ClientHello in two fragments that overlap (RFC 6347 §4.2.3), and media.
    let fragment = |at: u8| {
        let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, at, 0, 20];
        record.extend([1, 0, 0, 40, 0, 0, 0, 0, at, 0, 0, 8]);
        record.extend([at; 8]);
        record
    };
    let others = [fragment(0), fragment(4), vec![0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9]];
    for datagram in checks.iter().chain(&others) {
        pair.endpoint.handle_datagram(stranger, None, datagram, pair.now);
        while let Some(answer) = pair.endpoint.poll_transmit() {
            assert_ne!(answer.destination, stranger, "{datagram:02x?} was answered");
        }
    }
    assert_eq!(pair.endpoint.held(), known, "no address was learned");
    let after = pair.endpoint.diagnostics(pair.id).expect("alive");
    assert_eq!((after.peer, after.packets), (before.peer, before.packets));
    // The publisher notices nothing.
    let received = pair.received().len();
    pair.picture(1_000_000, &[&[0x41, 0x9a, 1]]);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.received().len(), received + 1);
}

proptest::proptest! {
    #[test]
    fn no_order_of_packets_breaks_what_samples_promise(
        operations in proptest::collection::vec(
            (0_u8..8, 10_u8..40, proptest::prelude::any::<u8>(), 0_u8..120, 0_usize..6),
            1..200,
        ),
    ) {
        const PAYLOADS: [&[u8]; 6] = [
            &[0x78, 0, 9, 0x67, 0x42, 0xc0, 0x0d, 0x95, 0xa0, 0x50, 0x7c, 0x80, 0, 4, 0x68, 0xce, 0x3c, 0x80],
            &[0x65, 0x88, 1],
            &[0x41, 0x9a, 2],
            &[0x7c, 0x85, 0x88, 3],
            &[0x7c, 0x45, 4],
            &[0xf8, 0xff, 0xfe],
        ];
        let mut bytes = Vec::new();
        for (what, step, ticks, pause, payload) in operations {
            let payload = PAYLOADS[payload];
            bytes.extend_from_slice(&[what, step, ticks, pause, payload.len() as u8]);
            bytes.extend_from_slice(payload);
        }
        fuzzing::fuzz_rtp(&bytes);
    }
}
