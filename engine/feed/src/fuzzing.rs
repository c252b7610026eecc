//! Entry points for fuzzers and for replaying their corpora: plain functions over bytes. Owns the
//! claims that must hold for any input; a broken one panics, and that is the finding.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use weir_packager::Nals;

use crate::annexb::{Assembler, Format};
use crate::flv::{Aggregate, Demuxer, Tag, TagKind};
use crate::fmp4::{Intake, Limits as IntakeLimits};
use crate::rtmp::{self, Limits, Session};
use crate::{EndReason, Event, srt, ts, whip};

/// A publisher of MP4 over MoQT: operations of six bytes with their payload behind them. The demo's own header and
/// chunks lie in the corpus.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub fn fuzz_fmp4_intake(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut bytes = Bytes::copy_from_slice(bytes);
    let limits = IntakeLimits { held_bytes: 4096, ..IntakeLimits::default() };
    let mut intake = Intake::new(limits.clone());
    for (key, name) in [".catalog", "catalog", "video", "audio"].into_iter().enumerate() {
        intake.open_track(key as u64, name.as_bytes());
    }
    while bytes.len() >= 6 {
        let (operation, group, object) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u8());
        let (step, length) = (bytes.get_u8(), usize::from(bytes.get_u16()));
        now += Duration::from_millis(u64::from(step));
        let payload = bytes.split_to(length.min(bytes.len()));
        let key = u64::from(operation >> 2 & 0x7);
        let (group, object) = (group.into(), object.into());
        let done = match operation & 0x3 {
            0 | 1 => intake.handle_object(key, group, object, &payload, now).map(|_| ()),
            2 => intake.handle_group_end(key, group, now),
            _ => intake.handle_timeout(now),
        };
        // Beyond the cap, the object that reached it, on each of four tracks.
        let held = limits.held_bytes + 4 * usize::from(u16::MAX);
        while intake.poll_event().is_some() {}
        if done.is_err() {
            return;
        }
        assert!(intake.held_bytes() <= held, "{} bytes are held", intake.held_bytes());
    }
}

/// A whole connection. The first byte chooses how the rest is cut into pieces, so that the fuzzer
/// reaches every resumption point; a handshake is put in front unless the top bit is set.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub fn fuzz_rtmp(bytes: &[u8]) {
    let start = Instant::now();
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let limits = Limits::default();
    let mut session = Session::new(limits.clone(), start);
    if choice & 0x80 == 0 {
        let hello: Vec<u8> = std::iter::once(3).chain(std::iter::repeat_n(0, 2 * 1536)).collect();
        let greeted = session.handle_input(&hello, start);
        assert!(greeted.is_ok(), "a plain handshake is accepted");
    }
    let mut check = Check::default();
    let mut received = 0;
    for (index, piece) in bytes.chunks(usize::from(choice & 0x7f) + 1).enumerate() {
        let now = start + Duration::from_millis(index as u64);
        let result = session.handle_input(piece, now);
        received += piece.len();
        assert!(session.held_bytes() <= 2 * received, "memory follows bytes, never claims");
        while let Some(transmit) = session.poll_transmit() {
            assert!(transmit.len() <= limits.transmit_bytes_max * 2, "replies are bounded");
        }
        while let Some(event) = session.poll_event() {
            check.event(&event);
            if let rtmp::Event::Publish { .. } = event {
                // Bytes behind the request may have failed the session before anyone could decide.
                check.publishing = !session.is_closed();
                session.accept_publish();
            }
        }
        assert_eq!(result.is_err(), check.failed, "an error and its event come together");
        if check.closed {
            assert!(session.poll_timeout().is_none(), "nothing to wait for once closed");
            return;
        }
        assert!(session.poll_timeout().is_some(), "an open session has a deadline");
    }
    session.handle_close();
    while let Some(event) = session.poll_event() {
        check.event(&event);
    }
    assert!(check.closed, "a lost connection closes the session");
}

/// The tag layer: bytes are cut into tags by a four-byte head (kind and length, then time).
pub fn fuzz_flv(bytes: &[u8]) {
    let mut rest = Bytes::copy_from_slice(bytes);
    for (_, _, body) in Aggregate::new(&rest) {
        assert!(body.len() <= bytes.len(), "a tag is within its message");
    }
    let mut demuxer = Demuxer::default();
    let mut known = 0;
    while let Ok(head) = rest.try_get_u32() {
        let kind = if head >> 31 == 0 { TagKind::Video } else { TagKind::Audio };
        let length = (head >> 16 & 0x7fff) as usize;
        let body = rest.split_to(length.min(rest.len()));
        let tag = Tag { kind, time: i64::from(head & 0xffff), body };
        let result = demuxer.handle_tag(&tag, &mut |event| match event {
            Event::Track(config) => known = known.max(config.track.0 + 1),
            Event::Sample(sample) => {
                assert!(sample.track.0 < known, "a track comes before its samples");
                assert!(!sample.data.is_empty(), "no sample is empty");
            }
            Event::Discontinuity | Event::Loss { .. } | Event::End { .. } => {}
        });
        if result.is_err() {
            return;
        }
    }
}

/// Offers and ICE fragments of WHIP publishers.
pub fn fuzz_whip_sdp(bytes: &[u8]) {
    whip::fuzzing::fuzz_sdp(bytes);
}

/// Datagrams on the WHIP port, before anybody is known.
pub fn fuzz_whip_stun(bytes: &[u8]) {
    whip::fuzzing::fuzz_stun(bytes);
}

/// Packets of a WHIP publisher after decryption.
pub fn fuzz_whip_rtp(bytes: &[u8]) {
    whip::fuzzing::fuzz_rtp(bytes);
}

/// AMF0 values: limits hold, and what decodes survives encoding and decoding.
pub fn fuzz_amf(bytes: &[u8]) {
    rtmp::fuzz_amf(bytes);
}

/// Order of a session's events.
#[derive(Default)]
struct Check {
    asked: bool,
    /// The request was granted, so a feed began that must end.
    publishing: bool,
    ended: bool,
    closed: bool,
    failed: bool,
    tracks: u32,
}

impl Check {
    fn event(&mut self, event: &rtmp::Event) {
        assert!(!self.closed, "Closed is the last event");
        match event {
            rtmp::Event::Publish { .. } => {
                assert!(!self.asked, "one publish per connection");
                self.asked = true;
            }
            rtmp::Event::Media(media) => {
                assert!(self.publishing && !self.ended, "media lies between Publish and End");
                match media {
                    Event::Track(config) => self.tracks = self.tracks.max(config.track.0 + 1),
                    Event::Sample(sample) => assert!(sample.track.0 < self.tracks, "track first"),
                    Event::Discontinuity | Event::Loss { .. } => {}
                    Event::End { reason } => {
                        assert!(*reason != EndReason::Closed, "nobody closed it");
                        self.ended = true;
                    }
                }
            }
            rtmp::Event::Closed { reason } => {
                assert!(self.ended || !self.publishing, "the feed ends before the connection");
                self.closed = true;
                self.failed = matches!(reason, rtmp::CloseReason::Failed(_));
            }
        }
    }
}

/// A byte stream: the first byte chooses the format, `00 00 00 02` (which no stream holds) ends an access unit.
pub fn fuzz_annexb(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let format = if choice & 1 == 0 { Format::H264 } else { Format::Hevc };
    let mut assembler = Assembler::new(format);
    let mut configured = false;
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.windows(4).position(|window| window == [0, 0, 0, 2]);
        let (unit, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(4..).unwrap_or_default();
        let (codec, picture) = assembler.handle_access_unit(unit);
        configured |= codec.is_some();
        let Some((data, _)) = picture else { continue };
        assert!(configured, "a record comes before its pictures");
        assert!(data.len() <= unit.len() * 2, "memory follows bytes, never claims");
        let mut nals = Nals::new(&data, 4);
        assert!(nals.all(|nal| nal.is_ok_and(|nal| !nal.is_empty())), "lengths add up");
    }
}

/// A transport stream, cut by the first byte. The second, if even, puts sync bytes where packets begin.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub fn fuzz_ts(bytes: &[u8]) {
    let start = Instant::now();
    let Some(([cut, sync], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let mut bytes = bytes.to_vec();
    if sync & 1 == 0 {
        for packet in bytes.chunks_mut(188) {
            if let Some(first) = packet.first_mut() {
                *first = 0x47;
            }
        }
    }
    let mut demuxer = ts::Demuxer::default();
    let mut known = BTreeSet::new();
    let mut emit = |event: Event| match event {
        Event::Track(config) => drop(known.insert(config.track)),
        Event::Sample(sample) => {
            assert!(known.contains(&sample.track), "a track before its samples");
            assert!(!sample.data.is_empty(), "no sample is empty");
            assert!(sample.data.len() <= bytes.len() * 2, "memory follows bytes, never claims");
        }
        _ => {}
    };
    for (index, piece) in bytes.chunks(usize::from(*cut) * 8 + 1).enumerate() {
        demuxer.handle_bytes(piece, start + Duration::from_millis(index as u64), &mut emit);
    }
    demuxer.handle_end(&mut emit);
    let counters = demuxer.counters();
    assert!(counters.skipped_bytes <= bytes.len() as u64, "no byte is skipped twice");
}

/// SRT from the first handshake on. Each piece is a datagram behind a length of two bytes; the first byte of a piece
/// says whether it goes to the listener or, once there is one, to the connection. Cookies are put right where a piece
/// asks for it, since no fuzzer guesses them.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub fn fuzz_srt(bytes: &[u8]) {
    let start = Instant::now();
    let peer = std::net::SocketAddr::from(([192, 0, 2, 1], 5000));
    let mut listener = srt::Listener::new([1; 32], srt::Limits::default(), start);
    let mut feed: Option<srt::Feed> = None;
    let mut cookie = [0; 4];
    let mut rest = bytes;
    let mut now = start;
    while let Some(([length_high, length_low, choice], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]) % 1600);
        let (piece, after) = after.split_at(length.min(after.len()));
        rest = after;
        now += Duration::from_millis(u64::from(choice >> 2) * 4);
        if choice & 1 == 0 {
            let mut piece = piece.to_vec();
            if choice & 2 == 0
                && let Some(place) = piece.get_mut(44..48)
            {
                place.copy_from_slice(&cookie);
            }
            listener.handle_datagram(peer, &piece, now);
        } else if let Some(feed) = &mut feed {
            feed.handle_datagram(peer, piece, now);
        }
        while let Some((_, answer)) = listener.poll_transmit() {
            // Who has proved its address is told again what it was told with its connection: with extensions.
            let most = if feed.is_some() { 256 } else { 64 };
            assert!(answer.len() <= most, "no answer is larger than the question");
            if let Some(given) = answer.get(44..48).and_then(|given| given.first_chunk()) {
                cookie = *given;
            }
        }
        while let Some(request) = listener.poll_event() {
            let passphrase = request.is_encrypted().then(|| crate::Secret::new("0123456789"));
            let accept = srt::Accept { socket_id: 1, passphrase, delay: Duration::ZERO };
            match srt::Connection::accept(&request, accept, now) {
                Ok((connection, reply)) => {
                    listener.accepted(&request, reply, now);
                    feed = Some(srt::Feed::new(connection));
                }
                Err(reject) => listener.reject(&request, reject, now),
            }
        }
        let most = srt::Limits::default().waiting_max;
        assert!(listener.waiting() <= most, "places are bounded");
        let Some(feed) = &mut feed else { continue };
        feed.handle_timeout(now);
        let mut sent = 0;
        while let Some(datagram) = feed.poll_transmit() {
            assert!(datagram.len() <= 1472, "a datagram fits its frame");
            sent += 1;
        }
        assert!(sent <= 8, "few packets answer one");
        while feed.poll_event(now).is_some() {}
    }
}
