//! What strangers send before any handshake (H1 to H9, H13 to H15): datagrams written by hand, Initial packets
//! protected with the keys that RFC 9001 §5.2 gives to everybody. Shows that the limits set on `quinn-proto` hold; what
//! needs a finished handshake is [`super::hostile_inside`]'s.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::Side;
use rustls::quic::{Keys, Version};
use weir_xdp::Datagram;

use super::tests::{Wire, address, server};
use super::{Endpoint, Limits};

/// RFC 9000 §14.1.
pub(super) const INITIAL_BYTES_MIN: usize = 1200;

const V1: u32 = 1;

/// Error codes of RFC 9000 §20.1.
const PROTOCOL_VIOLATION: u64 = 0x0a;
const FRAME_ENCODING_ERROR: u64 = 0x07;
const CRYPTO_BUFFER_EXCEEDED: u64 = 0x0d;
const INVALID_TOKEN: u64 = 0x0b;

/// A server that hears what strangers send.
pub(super) struct Target {
    pub(super) now: Instant,
    pub(super) endpoint: Endpoint,
    wire: Wire,
}

impl Target {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self::of(server(limits, now).0, now)
    }

    pub(super) fn of(endpoint: Endpoint, now: Instant) -> Self {
        Self { now, endpoint, wire: Wire::default() }
    }

    /// Delivers one datagram and returns what it draws.
    pub(super) fn hear(&mut self, from: &str, data: &[u8]) -> Vec<Vec<u8>> {
        self.now += Duration::from_micros(10);
        let (from, data) = (address(from), BytesMut::from(data));
        self.endpoint.handle_datagram(Datagram { from, to: None, ecn: None, data }, self.now);
        self.endpoint.handle_timeout(self.now);
        while self.endpoint.poll_event(self.now).is_some() {}
        self.endpoint.flush(&mut self.wire, self.now).expect("the wire takes all");
        self.wire.sent.drain(..).collect()
    }
}

/// An Initial packet of a client: who it says it is, and what it carries.
pub(super) struct Initial<'a> {
    pub(super) dcid: &'a [u8],
    pub(super) token: &'a [u8],
    pub(super) frames: &'a [u8],
    pub(super) number: u32,
    /// Added to the length field, which then lies.
    pub(super) lie: usize,
}

impl Default for Initial<'_> {
    fn default() -> Self {
        Self { dcid: b"8-octets", token: b"", frames: b"", number: 0, lie: 0 }
    }
}

const SCID: &[u8] = b"stranger";

fn keys(dcid: &[u8]) -> Keys {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = suite.tls13().and_then(rustls::Tls13CipherSuite::quic_suite).expect("for QUIC");
    suite.keys(dcid, Side::Client, Version::V1)
}

impl Initial<'_> {
    /// Writes and protects it (RFC 9001 §5), padded to `size` bytes.
    pub(super) fn protect(&self, size: usize) -> Vec<u8> {
        let mut header = vec![0xc3];
        header.extend(V1.to_be_bytes());
        for id in [self.dcid, SCID] {
            header.push(id.len() as u8);
            header.extend(id);
        }
        header.extend(varint(self.token.len()));
        header.extend(self.token);
        let tag = 16;
        let before_payload = header.len() + 2 + 4;
        let mut payload = self.frames.to_vec();
        payload.resize(payload.len().max(size.saturating_sub(before_payload + tag)), 0);
        header.extend(varint_2(4 + payload.len() + tag + self.lie));
        let number_at = header.len();
        header.extend(self.number.to_be_bytes());
        let keys = keys(self.dcid).local;
        let number = u64::from(self.number);
        let tag = keys.packet.encrypt_in_place(number, &header, &mut payload).expect("encrypts");
        payload.extend(tag.as_ref());
        let sample = payload[..keys.header.sample_len()].to_vec();
        let (first, rest) = header.split_at_mut(1);
        let number = &mut rest[number_at - 1..];
        keys.header.encrypt_in_place(&sample, &mut first[0], number).expect("a sample");
        header.extend(payload);
        header
    }
}

fn varint(value: usize) -> Vec<u8> {
    match value {
        0..=63 => vec![value as u8],
        64..=16_383 => varint_2(value),
        _ => (0x8000_0000 | value as u32).to_be_bytes().to_vec(),
    }
}

fn varint_2(value: usize) -> Vec<u8> {
    (0x4000 | value as u16).to_be_bytes().to_vec()
}

/// Reads a varint from the front.
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let length = 1 << (bytes[0] >> 6);
    let mut value = u64::from(bytes[0] & 0x3f);
    for byte in &bytes[1..length] {
        value = value << 8 | u64::from(*byte);
    }
    *bytes = &bytes[length..];
    value
}

/// The code of the `CONNECTION_CLOSE` in an answer to `dcid`, whose packets are Initials.
fn close_code(dcid: &[u8], answer: &[u8]) -> Option<u64> {
    let mut packet = answer.to_vec();
    if packet[0] & 0xf0 != 0xc0 {
        return None;
    }
    let mut rest = &packet[5..];
    for _ in 0..2 {
        rest = &rest[1 + usize::from(rest[0])..];
    }
    assert_eq!(take_varint(&mut rest), 0, "servers send no token");
    let length = take_varint(&mut rest) as usize;
    let number_at = packet.len() - rest.len();
    packet.truncate(number_at + length);
    let keys = keys(dcid).remote;
    let sample = packet[number_at + 4..number_at + 20].to_vec();
    let (first, rest) = packet.split_at_mut(1);
    let number = &mut rest[number_at - 1..number_at + 3];
    keys.header.decrypt_in_place(&sample, &mut first[0], number).expect("a sample");
    let number_bytes = usize::from(packet[0] & 3) + 1;
    let (header, payload) = packet.split_at_mut(number_at + number_bytes);
    let number = header[number_at..].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let mut frames = keys.packet.decrypt_in_place(number, header, payload).expect("decrypts");
    while let Some(kind) = frames.first() {
        match kind {
            0 => frames = &frames[1..],
            2 => {
                frames = &frames[1..];
                let (_, _, ranges, _) = (
                    take_varint(&mut frames),
                    take_varint(&mut frames),
                    take_varint(&mut frames),
                    take_varint(&mut frames),
                );
                for _ in 0..2 * ranges {
                    take_varint(&mut frames);
                }
            }
            0x1c => {
                frames = &frames[1..];
                return Some(take_varint(&mut frames));
            }
            other => panic!("frame {other:#x} in an answer"),
        }
    }
    None
}

/// The first `CONNECTION_CLOSE` that `frames` draw.
fn verdict(frames: &[u8]) -> Option<u64> {
    let mut target = Target::new(Limits::default());
    let initial = Initial { frames, ..Initial::default() };
    let answers = target.hear("198.51.100.7:999", &initial.protect(INITIAL_BYTES_MIN));
    // Its connection is gone as soon as its farewell has had its time.
    target.now += Duration::from_secs(30);
    target.hear("198.51.100.7:998", b"");
    assert_eq!(target.endpoint.connections(), 0, "nothing is kept of it");
    answers.iter().find_map(|answer| close_code(initial.dcid, answer))
}

#[test]
fn an_initial_in_a_small_datagram_draws_nothing_and_leaves_nothing() {
    let mut target = Target::new(Limits::default());
    let whole = Initial { frames: &[1], ..Initial::default() };
    let small = whole.protect(INITIAL_BYTES_MIN - 1);
    assert_eq!(target.hear("198.51.100.7:999", &small), Vec::<Vec<u8>>::new());
    assert_eq!(target.endpoint.connections(), 0);
    // One byte more, and it is somebody.
    target.hear("198.51.100.7:999", &whole.protect(INITIAL_BYTES_MIN));
    assert_eq!(target.endpoint.connections(), 1);
}

#[test]
fn a_flood_from_forged_addresses_gets_no_more_than_three_times_its_bytes_and_meets_retry() {
    let limits = Limits { half_open_max: 50, ..Limits::default() };
    let mut target = Target::new(limits.clone());
    let (mut sent, mut drawn, mut retries) = (0, 0, 0);
    for at in 0..2_000_u32 {
        let dcid = [&at.to_be_bytes()[..], b"victim"].concat();
        // CRYPTO at 0 with one byte: the beginning of a ClientHello.
        let frames = [0x06, 0, 1, 1];
        let initial = Initial { dcid: &dcid, frames: &frames, ..Initial::default() };
        let from = format!("198.51.{}.{}:443", at / 200, at % 200);
        let data = initial.protect(INITIAL_BYTES_MIN);
        sent += data.len();
        for answer in target.hear(&from, &data) {
            drawn += answer.len();
            retries += usize::from(answer[0] & 0xf0 == 0xf0);
        }
    }
    assert!(drawn <= 3 * sent, "{drawn} bytes for {sent}");
    assert_eq!(target.endpoint.connections(), limits.half_open_max);
    assert_eq!(retries, 2_000 - limits.half_open_max);
    // The half open ones end by themselves.
    target.now += limits.handshake_timeout + Duration::from_secs(30);
    target.hear("198.51.100.7:998", b"");
    assert_eq!(target.endpoint.connections(), 0);
}

#[test]
fn a_retry_token_is_worth_nothing_from_another_address_or_when_forged() {
    let mut target = Target::new(Limits { half_open_max: 0, ..Limits::default() });
    let first = Initial { frames: &[0x06, 0, 1, 1], ..Initial::default() };
    let retry = target.hear("198.51.100.7:999", &first.protect(INITIAL_BYTES_MIN)).remove(0);
    assert_eq!(retry[0] & 0xf0, 0xf0, "a Retry");
    let mut rest = &retry[5..];
    rest = &rest[1 + usize::from(rest[0])..];
    let scid = &rest[1..=usize::from(rest[0])];
    let token = &rest[1 + scid.len()..rest.len() - 16];
    let with = |token: &[u8]| {
        let frames = &[0x06, 0, 1, 1];
        Initial { dcid: scid, token, frames, ..Initial::default() }.protect(INITIAL_BYTES_MIN)
    };
    let forged: Vec<u8> = token.iter().map(|byte| byte ^ 1).collect();
    for (from, token) in [("203.0.113.9:999", token), ("198.51.100.7:999", &forged[..])] {
        let answers = target.hear(from, &with(token));
        let refused = answers.iter().find_map(|answer| close_code(scid, answer));
        let asked_again = answers.iter().any(|answer| answer[0] & 0xf0 == 0xf0);
        assert!(refused == Some(INVALID_TOKEN) || asked_again, "{answers:02x?}");
        assert_eq!(target.endpoint.connections(), 0);
    }
    target.hear("198.51.100.7:999", &with(token));
    assert_eq!(target.endpoint.connections(), 1, "its own address is believed");
}

#[test]
fn an_unknown_version_draws_one_negotiation_if_padded_and_a_negotiation_draws_nothing() {
    let mut target = Target::new(Limits::default());
    let mut unknown = vec![0xc0, 0xab, 0xad, 0x1d, 0xea, 8];
    unknown.extend(b"8-octets");
    unknown.push(8);
    unknown.extend(SCID);
    assert_eq!(target.hear("198.51.100.7:999", &unknown).len(), 0, "not for a small one");
    unknown.resize(INITIAL_BYTES_MIN, 0);
    let answers = target.hear("198.51.100.7:999", &unknown);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][1..5], [0; 4], "Version Negotiation");
    let versions = answers[0][7 + 8 + 8..].chunks(4);
    assert!(versions.clone().any(|version| version == V1.to_be_bytes()));
    assert_eq!(target.hear("198.51.100.7:999", &answers[0]).len(), 0);
    let mut padded = answers[0].clone();
    padded.resize(INITIAL_BYTES_MIN, 0);
    assert_eq!(target.hear("198.51.100.7:999", &padded).len(), 0);
    assert_eq!(target.endpoint.connections(), 0);
}

#[test]
fn packets_of_unknown_connections_draw_smaller_resets_that_do_not_feed_each_other() {
    let mut target = Target::new(Limits::default());
    target.now += Duration::from_secs(1);
    let stray = [&[0x40], &[7; 99][..]].concat();
    let answers = target.hear("198.51.100.7:999", &stray);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].len() < stray.len(), "{} for {}", answers[0].len(), stray.len());
    assert_eq!(target.hear("198.51.100.7:999", &stray).len(), 0, "at most one in a while");
    // Two servers that answer each other's resets stop, since each is smaller than the last.
    let mut other = Target::new(Limits::default());
    let mut reset = answers[0].clone();
    let mut turns = 0;
    loop {
        other.now += Duration::from_secs(1);
        let Some(answer) = other.hear("192.0.2.1:443", &reset).pop() else { break };
        assert!(answer.len() < reset.len());
        reset = answer;
        turns += 1;
        assert!(turns < 100);
    }
}

#[test]
fn lengths_that_lie_about_coalesced_packets_leave_nothing() {
    let mut target = Target::new(Limits::default());
    let lying = Initial { frames: &[1], lie: 5_000, ..Initial::default() };
    assert_eq!(target.hear("198.51.100.7:999", &lying.protect(INITIAL_BYTES_MIN)).len(), 0);
    assert_eq!(target.endpoint.connections(), 0);
    // Behind a good packet the rest is dropped, whatever it claims to be.
    let good = Initial { frames: &[1], ..Initial::default() };
    let mut datagram = good.protect(INITIAL_BYTES_MIN);
    datagram.extend([0xe0, 0, 0, 0, 1, 200]);
    target.hear("198.51.100.7:999", &datagram);
    assert_eq!(target.endpoint.connections(), 1);
}

#[test]
fn frames_that_may_not_stand_in_an_initial_end_the_connection_with_their_code() {
    for (frames, code) in [
        (&[0x21][..], FRAME_ENCODING_ERROR),
        // STREAM, MAX_DATA, HANDSHAKE_DONE (RFC 9000 §12.4, table 3).
        (&[0x08, 0, 0][..], PROTOCOL_VIOLATION),
        (&[0x10, 9][..], PROTOCOL_VIOLATION),
        (&[0x1e][..], PROTOCOL_VIOLATION),
        // ACK of packet 7, which was never sent (H13).
        (&[0x02, 7, 0, 0, 7][..], PROTOCOL_VIOLATION),
    ] {
        assert_eq!(verdict(frames), Some(code), "{frames:02x?}");
    }
}

#[test]
fn crypto_bytes_beyond_the_buffer_are_refused_and_holes_below_it_hold_little() {
    // CRYPTO at 100,000, one byte.
    let far = [0x06, 0x80, 0x01, 0x86, 0xa0, 1, 1];
    assert_eq!(verdict(&far), Some(CRYPTO_BUFFER_EXCEEDED));
    // A byte at every second place: held, or refused, until the handshake's time is up.
    let mut holes = Vec::new();
    for at in (2..400_usize).step_by(2) {
        holes.push(0x06);
        holes.extend(varint(at));
        holes.extend([1, 0]);
    }
    assert!(holes.len() < INITIAL_BYTES_MIN);
    verdict(&holes);
}

#[test]
fn an_acknowledgement_of_a_thousand_ranges_is_read_once_and_refused() {
    let mut ack = vec![0x02];
    ack.extend(varint_2(16_000));
    ack.push(0);
    ack.extend(varint_2(500));
    ack.push(0);
    ack.extend([0; 1_000]);
    assert_eq!(verdict(&ack), Some(PROTOCOL_VIOLATION));
}

#[test]
fn h15_ids_that_strangers_choose_meet_a_keyed_hash_and_later_packets_only_ids_of_ours() {
    /// Who is found by which id of theirs and of ours, in the order of the tables.
    fn tables() -> (Vec<String>, String) {
        let mut target = Target::new(Limits::default());
        for at in 0..64_u64 {
            // Ids alike but for a few bits, as one chooses them against a hash one knows.
            let initial = Initial { dcid: &at.to_be_bytes(), frames: &[1], ..Initial::default() };
            target.hear("198.51.100.7:999", &initial.protect(INITIAL_BYTES_MIN));
        }
        assert_eq!(target.endpoint.connections(), 64);
        let routes = target.endpoint.routes();
        let part = |name: &str| {
            let (_, rest) = routes.split_once(&format!("{name}: {{")).expect("a table");
            rest.split_once('}').expect("its end").0.to_owned()
        };
        let theirs = part("connection_ids_initial");
        let theirs = theirs.split("), ").map(|entry| entry.trim_end_matches(')').to_owned());
        (theirs.collect(), part("connection_ids"))
    }
    let (mut one, ours) = tables();
    let (mut other, _) = tables();
    assert_eq!(one.len(), 64);
    // A hash without a key puts the same ids in the same places on every machine; under random keys two tables agree
    // in one of 64! cases.
    assert_ne!(one, other);
    one.sort();
    other.sort();
    assert_eq!(one, other, "the same ids");
    // What is looked up by a cheaper hash are ids that we made by chance.
    for at in 0..64_u64 {
        assert!(!ours.contains(&format!("{:?}", at.to_be_bytes())), "{ours}");
    }
    assert_eq!(ours.matches("ConnectionHandle").count(), 64, "{ours}");
}
