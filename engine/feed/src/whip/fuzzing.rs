//! What must hold for any bytes a WHIP publisher, or somebody who pretends to be one, sends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_packager::TrackId;

use super::audio::Audio;
use super::video::{Limits as VideoLimits, Video};
use super::{Endpoint, Identity, Limits, SessionId, sdp, stun};
use crate::{Event, Secret};

/// An offer, or a fragment when the first byte is odd. What passes our check goes into the stack.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub(crate) fn fuzz_sdp(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if choice & 1 == 1 {
        let _ = sdp::fragment(text);
        return;
    }
    if let Ok(prepared) = sdp::prepare(text) {
        let unwanted = |line: &str| line == "a=sendrecv" || line.starts_with("a=candidate:");
        assert!(!prepared.lines().any(unwanted), "what the stack is not to see is cut out");
        let mut endpoint = Endpoint::new(Limits::default());
        let identity = Identity {
            ufrag: stun::ufrag(0, [7; 8]),
            password: Secret::new("0123456789abcdef01234567"),
        };
        let ours = SocketAddr::from(([192, 0, 2, 1], 8891));
        let accepted = endpoint.accept(SessionId(1), &identity, text, &[ours], Instant::now());
        assert_eq!(accepted.is_ok(), endpoint.sessions() == 1);
        if accepted.is_err() {
            assert_eq!(endpoint.held(), 0, "a refusal leaves nothing");
        }
    }
}

/// A datagram from anywhere.
pub(crate) fn fuzz_stun(bytes: &[u8]) {
    if let stun::Kind::Stun(ufrag) = stun::kind(bytes) {
        assert!(ufrag.len() < bytes.len());
        let _ = stun::shard(ufrag);
    }
}

/// What a publisher sends once it is encrypted: packets of sound and of two layers of picture, late, lost
/// and repeated. Each operation is a head of five bytes and a payload.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` can be had in no other way; only its steps matter"
)]
pub(crate) fn fuzz_rtp(bytes: &[u8]) {
    let start = Instant::now();
    let limits = VideoLimits {
        packets_max: 16,
        unit_bytes_max: 4096,
        keyframe_interval: Duration::from_secs(2),
    };
    let mut video = Video::new(TrackId(0), limits);
    let mut audio = Audio::new(TrackId(1), false);
    let layers = [video.add_layer(), video.add_layer()];
    let (mut sequence, mut time, mut present) = (1_000_u64, 0_u64, Duration::ZERO);
    let mut check = Check::default();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let [what, step, ticks, pause, length] = *head;
        let (payload, tail) = tail.split_at(usize::from(length).min(tail.len()));
        rest = tail;
        // Steps of -16 to 239 packets, times likewise.
        sequence = (sequence + u64::from(step)).saturating_sub(16);
        time = (time + u64::from(ticks) * 375).saturating_sub(6_000);
        present += Duration::from_millis(u64::from(pause));
        let now = start + present;
        let mut out = Vec::new();
        match what & 3 {
            0 => audio.handle_packet(sequence, time, payload, present, now),
            1 => audio.fill(present, &mut out),
            layer => {
                let marker = what & 4 != 0;
                let layer = layers.get(usize::from(layer & 1)).copied().unwrap_or_default();
                video.handle_packet(layer, sequence, time, marker, payload, present, now);
            }
        }
        video.poll(now, &mut out);
        audio.poll(now, &mut out);
        assert!(video.poll_keyframe_request(now).len() <= 2);
        assert!(out.len() <= 2_000, "one packet is not a flood: {}", out.len());
        for event in &out {
            check.event(event);
        }
    }
}

/// Order and sense of the events.
#[derive(Default)]
struct Check {
    known: [bool; 2],
}

impl Check {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Track(config) => {
                if let Some(known) = self.known.get_mut(config.track.0 as usize) {
                    *known = true;
                }
            }
            Event::Sample(sample) => {
                let known = self.known.get(sample.track.0 as usize);
                assert_eq!(known, Some(&true), "a track comes before its samples");
                assert!(!sample.data.is_empty(), "no sample is empty");
            }
            _ => {}
        }
    }
}
