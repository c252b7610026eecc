//! A caller by hand against listener and connection: what libsrt does, and what it never would.

#![expect(clippy::disallowed_methods, reason = "any instant does")]

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use bytes::{BufMut, Bytes, BytesMut};

use super::connection::Event;
use super::handshake::{self, CONCLUSION, Fixed, Hello, INDUCTION, REFUSAL};
use super::packet::{Control, ControlKind, Packet, Seq, control};
use super::{Accept, CloseReason, Connection, Limits, Listener, Reject, Request, destination};
use crate::Secret;

const MS: Duration = Duration::from_millis(1);
const OWN_ID: u32 = 0x1234;
const FIRST: u32 = 0x7fff_fff0;

fn peer() -> SocketAddr {
    "192.0.2.1:5000".parse().expect("an address")
}

fn listener(now: Instant) -> Listener {
    Listener::new([7; 32], Limits::default(), now)
}

fn fixed(kind: u32, cookie: u32) -> Fixed {
    let version = if kind == INDUCTION { 4 } else { 5 };
    Fixed {
        version,
        encryption: 0,
        extension: if kind == INDUCTION { 2 } else { 7 },
        initial: Seq::new(FIRST),
        mtu: 1500,
        flow_window: 8192,
        kind,
        socket_id: OWN_ID,
        cookie,
    }
}

fn hello() -> Hello {
    Hello { version: 0x01_05_01, flags: 0xbf, receiver_delay: 120, sender_delay: 250 }
}

fn handshake(fixed: Fixed, more: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut body = BytesMut::new();
    fixed.write(&mut body);
    more(&mut body);
    control(ControlKind::Handshake, 0, 1000, 0, &body).freeze()
}

fn conclusion(cookie: u32, stream_id: &str, keys: Option<&[u8]>) -> Bytes {
    handshake(fixed(CONCLUSION, cookie), |body| {
        handshake::write_request(hello(), stream_id, keys, body);
    })
}

fn answer(listener: &mut Listener) -> Option<Fixed> {
    let (to, datagram) = listener.poll_transmit()?;
    assert_eq!((to, destination(&datagram)), (peer(), Some(OWN_ID)));
    read(&datagram)
}

fn read(datagram: &[u8]) -> Option<Fixed> {
    let Some(Packet::Control(packet)) = Packet::read(datagram) else { return None };
    Fixed::read(packet.body).map(|(fixed, _)| fixed)
}

fn cookie(listener: &mut Listener, now: Instant) -> u32 {
    listener.handle_datagram(peer(), &handshake(fixed(INDUCTION, 0), |_| {}), now);
    let answer = answer(listener).expect("an answer");
    assert_eq!((answer.version, answer.extension, answer.kind), (5, 0x4a17, INDUCTION));
    answer.cookie
}

fn request(listener: &mut Listener, stream_id: &str, keys: Option<&[u8]>, now: Instant) -> Request {
    let cookie = cookie(listener, now);
    listener.handle_datagram(peer(), &conclusion(cookie, stream_id, keys), now);
    listener.poll_event().expect("a request")
}

fn accept(passphrase: Option<&str>) -> Accept {
    let passphrase = passphrase.map(Secret::new);
    Accept { socket_id: 0x4207, passphrase, delay: 120 * MS }
}

fn connected(now: Instant) -> Connection {
    let mut listener = listener(now);
    let request = request(&mut listener, "in_1:sk", None, now);
    let (mut connection, _) = Connection::accept(&request, accept(None), now).expect("let in");
    assert!(connection.poll_transmit().is_some());
    connection
}

fn data(seq: u32, timestamp_ms: u32, key: u32, payload: &[u8]) -> BytesMut {
    let mut packet = BytesMut::new();
    packet.put_u32(seq & 0x7fff_ffff);
    packet.put_u32(0b11 << 30 | key << 27 | 1);
    packet.put_u32(timestamp_ms * 1000 + 1000);
    packet.put_u32(0x4207);
    packet.put_slice(payload);
    packet
}

fn payloads(connection: &mut Connection, now: Instant) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(event) = connection.poll_event(now) {
        match event {
            Event::Payload(bytes) => got.push(bytes[0]),
            Event::Gap => got.push(255),
            Event::Closed(_) => got.push(254),
        }
    }
    got
}

fn sent(connection: &mut Connection, kind: ControlKind) -> Vec<(u32, Vec<u8>)> {
    let datagrams: Vec<_> = std::iter::from_fn(|| connection.poll_transmit()).collect();
    let of_kind = datagrams.iter().filter_map(|datagram| match Packet::read(datagram) {
        Some(Packet::Control(Control { kind: held, specific, body, .. })) if held == kind => {
            Some((specific, body.to_vec()))
        }
        _ => None,
    });
    of_kind.collect()
}

#[test]
fn a_caller_that_proves_its_address_is_asked_about() {
    let now = Instant::now();
    let mut listener = listener(now);
    let request = request(&mut listener, "#!::r=live/in_1,m=publish,k=sk_live_1", None, now);
    assert_eq!((&*request.input_id, request.key.expose()), ("in_1", "sk_live_1"));
    assert!(!format!("{request:?}").contains("sk_live_1"));
    let (connection, reply) = Connection::accept(&request, accept(None), now).expect("let in");
    let fixed = read(&reply).expect("a handshake");
    assert_eq!((fixed.version, fixed.kind, fixed.socket_id), (5, CONCLUSION, 0x4207));
    assert_eq!(fixed.initial.number(), FIRST, "the caller's own number comes back");
    assert_eq!(connection.statistics().delay, 250 * MS, "the larger of both wishes");
    // The answer was lost: the caller asks again and gets it again.
    listener.accepted(&request, reply.clone(), now);
    let again = cookie(&mut listener, now);
    listener.handle_datagram(peer(), &conclusion(again, "in_1:sk", None), now + 250 * MS);
    assert_eq!(listener.poll_transmit(), Some((peer(), reply)));
    assert!(listener.poll_event().is_none());
}

#[test]
fn strangers_leave_nothing_behind() {
    let now = Instant::now();
    let mut listener = listener(now);
    let good = cookie(&mut listener, now);
    // A cookie of another address, one of long ago, garbage.
    listener.handle_datagram(peer(), &conclusion(good ^ 1, "in_1:sk", None), now);
    let late = now + Duration::from_secs(150);
    listener.handle_datagram(peer(), &conclusion(good, "in_1:sk", None), late);
    let other = "192.0.2.1:5001".parse().expect("an address");
    listener.handle_datagram(other, &conclusion(good, "in_1:sk", None), now);
    listener.handle_datagram(peer(), &[0x80; 64], now);
    listener.handle_datagram(peer(), &[], now);
    for _ in 0..10_000 {
        cookie(&mut listener, now);
    }
    assert!(listener.poll_event().is_none() && listener.poll_transmit().is_none());
    assert_eq!((listener.waiting(), listener.counters().bad_cookies), (0, 3));
    // A refusal is told once and forgotten.
    let request = request(&mut listener, "in_1:sk", None, now);
    assert_eq!(listener.waiting(), 1);
    listener.reject(&request, Reject::Unauthorized, now);
    assert_eq!(answer(&mut listener).expect("a refusal").kind, REFUSAL + 1401);
    assert_eq!(listener.waiting(), 0);
}

#[test]
fn what_is_not_served_is_refused_by_its_own_code() {
    let now = Instant::now();
    let mut listener = listener(now);
    let cookie = cookie(&mut listener, now);
    let with = |fixed: Fixed, bytes: &[u8]| handshake(fixed, |body| body.put_slice(bytes));
    let extension = |kind: u16, body: &[u8]| {
        let mut bytes = BytesMut::new();
        handshake::write_request(hello(), "in_1:sk", None, &mut bytes);
        bytes.put_u16(kind);
        bytes.put_u16((body.len() / 4) as u16);
        bytes.put_slice(body);
        bytes
    };
    let hs = fixed(CONCLUSION, cookie);
    let file_mode = {
        let mut bytes = BytesMut::new();
        let flags = hello().flags | 0x40;
        handshake::write_request(Hello { flags, ..hello() }, "in_1:sk", None, &mut bytes);
        bytes
    };
    let cases = [
        (with(Fixed { version: 4, ..hs }, &[]), 8),
        (with(Fixed { extension: 0, ..hs }, &[]), 8),
        (with(hs, &[]), 1400),
        (with(hs, &[0, 5, 0xff, 0xff, 1, 2, 3]), 1400),
        (with(hs, &extension(5, &[b'x'; 516])), 1400),
        (with(hs, &extension(6, b"elif")), 13),
        (with(hs, &extension(7, b"abcd")), 14),
        (with(hs, &extension(8, &[0; 8])), 15),
        (with(hs, &file_mode), 12),
        (conclusion(cookie, "#!::r=in_1,m=request", None), 1405),
    ];
    for (at, (datagram, code)) in cases.into_iter().enumerate() {
        listener.handle_datagram(peer(), &datagram, now);
        assert_eq!(answer(&mut listener).map(|fixed| fixed.kind), Some(REFUSAL + code), "{at}");
        assert!(listener.poll_event().is_none() && listener.waiting() == 0, "{at}");
    }
}

#[test]
fn one_address_cannot_hold_all_places() {
    let now = Instant::now();
    let mut listener = listener(now);
    let cookie = cookie(&mut listener, now);
    for socket_id in 0..40 {
        let hs = Fixed { socket_id, ..fixed(CONCLUSION, cookie) };
        let datagram =
            handshake(hs, |body| handshake::write_request(hello(), "in_1:sk", None, body));
        listener.handle_datagram(peer(), &datagram, now);
    }
    assert_eq!(listener.waiting(), 32);
    assert_eq!(read(&listener.poll_transmit().expect("refused").1).expect("one").kind, REFUSAL + 5);
}

#[test]
fn packets_leave_in_order_and_a_delay_after_they_were_sent() {
    let start = Instant::now();
    let mut connection = connected(start);
    for (n, at) in [(0_u32, 0), (2, 20), (1, 30), (4, 40)] {
        let packet = data(FIRST.wrapping_add(n), n * 10, 0, &[n as u8]);
        connection.handle_datagram(peer(), &packet, start + MS * at);
    }
    assert_eq!(payloads(&mut connection, start + MS * 249), [0_u8; 0]);
    assert_eq!(payloads(&mut connection, start + MS * 250), [0]);
    assert_eq!(payloads(&mut connection, start + MS * 275), [1, 2]);
    assert_eq!(
        payloads(&mut connection, start + MS * 290),
        [255, 4],
        "the missing one is given up"
    );
    let statistics = connection.statistics();
    assert_eq!((statistics.lost, statistics.dropped, statistics.packets), (2, 1, 4));
    // It comes after all, and from elsewhere.
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(3), 30, 0, &[3]), start + MS * 291);
    let other = "192.0.2.1:5001".parse().expect("an address");
    connection.handle_datagram(other, &data(FIRST.wrapping_add(5), 50, 0, &[5]), start + MS * 291);
    assert_eq!(payloads(&mut connection, start + MS * 900), [0_u8; 0]);
    assert_eq!(connection.statistics().belated, 1);
}

#[test]
fn losses_are_reported_at_once_and_again_until_they_come() {
    let start = Instant::now();
    let mut connection = connected(start);
    connection.handle_datagram(peer(), &data(FIRST, 0, 0, &[0]), start);
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(4), 1, 0, &[4]), start + MS);
    let reports = sent(&mut connection, ControlKind::Nak);
    let range = [(FIRST + 1) | 1 << 31, FIRST + 3].map(u32::to_be_bytes).concat();
    assert_eq!(reports, [(0, range)]);
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(2), 1, 0, &[2]), start + MS * 2);
    // Nothing measured yet: (100 + 4 x 50) / 2 ms.
    connection.handle_timeout(start + MS * 151);
    let again = [FIRST + 1, FIRST + 3].map(u32::to_be_bytes).concat();
    assert_eq!(sent(&mut connection, ControlKind::Nak), [(0, again)]);
    for n in [1, 3] {
        let packet = data(FIRST.wrapping_add(n), 1, 0, &[n as u8]);
        connection.handle_datagram(peer(), &packet, start + MS * 160);
    }
    connection.handle_timeout(start + MS * 400);
    assert_eq!(sent(&mut connection, ControlKind::Nak), []);
    // What the sender gives up is not asked for.
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(9), 1, 0, &[9]), start + MS * 400);
    let body = [FIRST + 5, FIRST + 8].map(u32::to_be_bytes).concat();
    let packet = control(ControlKind::DropRequest, 0, 0, 0x4207, &body);
    connection.handle_datagram(peer(), &packet, start + MS * 401);
    assert_eq!(sent(&mut connection, ControlKind::Nak).len(), 1);
    connection.handle_timeout(start + MS * 700);
    assert_eq!(sent(&mut connection, ControlKind::Nak), []);
}

#[test]
fn acknowledgements_measure_the_round_trip() {
    let start = Instant::now();
    let mut connection = connected(start);
    connection.handle_datagram(peer(), &data(FIRST, 0, 0, &[0]), start);
    connection.handle_timeout(start + MS * 10);
    let acks = sent(&mut connection, ControlKind::Ack);
    let [(number, body)] = &acks[..] else { panic!("{acks:?}") };
    assert_eq!(body[..4], (FIRST + 1).to_be_bytes());
    assert_eq!(body.len(), 28);
    let reply = control(ControlKind::AckAck, *number, 41_000, 0x4207, &[]);
    connection.handle_datagram(peer(), &reply, start + MS * 50);
    assert_eq!(connection.statistics().rtt, 40 * MS);
    // Light ones between, by packets.
    for n in 1..=64 {
        let packet = data(FIRST.wrapping_add(n), 1, 0, &[1]);
        connection.handle_datagram(peer(), &packet, start + MS * 51);
    }
    let light = (FIRST.wrapping_add(65) & 0x7fff_ffff).to_be_bytes().to_vec();
    assert_eq!(sent(&mut connection, ControlKind::Ack), [(0, light)]);
}

#[test]
fn silence_ends_a_connection_and_a_goodbye_ends_it_at_once() {
    let start = Instant::now();
    let mut connection = connected(start);
    connection.handle_timeout(start + MS * 1001);
    assert_eq!(sent(&mut connection, ControlKind::KeepAlive).len(), 1);
    connection.handle_timeout(start + Duration::from_secs(5));
    assert_eq!(connection.poll_event(start), Some(Event::Closed(CloseReason::TimedOut)));
    assert!(connection.poll_timeout().is_none() && connection.poll_event(start).is_none());
    let mut connection = connected(start);
    let goodbye = control(ControlKind::Shutdown, 0, 0, 0x4207, &[]);
    connection.handle_datagram(peer(), &goodbye, start);
    assert_eq!(connection.poll_event(start), Some(Event::Closed(CloseReason::Shutdown)));
}

#[test]
fn a_minute_of_delay_and_a_jump_of_numbers_are_clamped() {
    let now = Instant::now();
    let mut listener = listener(now);
    let cookie = cookie(&mut listener, now);
    let long = Hello { sender_delay: 65_000, ..hello() };
    let datagram = handshake(fixed(CONCLUSION, cookie), |body| {
        handshake::write_request(long, "in_1:sk", None, body);
    });
    listener.handle_datagram(peer(), &datagram, now);
    let request = listener.poll_event().expect("a request");
    let (mut connection, _) = Connection::accept(&request, accept(None), now).expect("let in");
    assert_eq!(connection.statistics().delay, Duration::from_secs(10));
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(1 << 20), 0, 0, &[0]), now);
    assert_eq!((connection.statistics().beyond, connection.statistics().lost), (1, 0));
}

/// Key material and packets as a sender makes them.
struct Sender {
    algorithm: &'static Algorithm,
    key: Vec<u8>,
}

const SALT: [u8; 16] = [9; 16];

impl Sender {
    fn material(&self, passphrase: &str, parity: u8) -> Vec<u8> {
        let mut wrapping = vec![0; self.key.len()];
        let rounds = NonZeroU32::new(2048).expect("not zero");
        let (salt, secret) = (&SALT[8..], passphrase.as_bytes());
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, rounds, salt, secret, &mut wrapping);
        let unbound = UnboundCipherKey::new(self.algorithm, &wrapping).expect("a key");
        let cipher = EncryptingKey::ecb(unbound).expect("a cipher");
        // RFC 3394 §2.2.1.
        let mut check = [0xa6; 8];
        let mut parts: Vec<[u8; 8]> =
            self.key.chunks(8).map(|part| part.try_into().expect("8 bytes")).collect();
        for round in 0..6 {
            let count = parts.len() as u64;
            for (at, part) in parts.iter_mut().enumerate() {
                let mut block = [check, *part].concat();
                cipher.less_safe_encrypt(&mut block, EncryptionContext::None).expect("a block");
                let step = count * round + at as u64 + 1;
                let head = u64::from_be_bytes(block[..8].try_into().expect("8 bytes")) ^ step;
                check = head.to_be_bytes();
                part.copy_from_slice(&block[8..]);
            }
        }
        let mut material = vec![0x12, 0x20, 0x29, parity, 0, 0, 0, 0, 2, 0, 2, 0, 0, 0, 4];
        material.push((self.key.len() / 4) as u8);
        material.extend(SALT);
        material.extend(check);
        material.extend(parts.concat());
        material
    }

    fn encipher(&self, seq: u32, payload: &[u8]) -> Vec<u8> {
        let unbound = UnboundCipherKey::new(self.algorithm, &self.key).expect("a key");
        let cipher = EncryptingKey::ctr(unbound).expect("a cipher");
        let mut iv = SALT;
        (iv[14], iv[15]) = (0, 0);
        for (byte, part) in iv[10..14].iter_mut().zip(seq.to_be_bytes()) {
            *byte ^= part;
        }
        let mut bytes = payload.to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        cipher.less_safe_encrypt(&mut bytes, context).expect("enciphered");
        bytes
    }
}

#[test]
fn every_key_length_is_deciphered_and_keys_change_while_running() {
    for (algorithm, length) in [(&AES_128, 16), (&AES_192, 24), (&AES_256, 32)] {
        let start = Instant::now();
        let even = Sender { algorithm, key: vec![1; length] };
        let odd = Sender { algorithm, key: vec![2; length] };
        let mut listener = listener(start);
        let material = even.material("correct horse", 1);
        let request = request(&mut listener, "in_1:sk", Some(&material), start);
        let refused = Connection::accept(&request, accept(None), start).err();
        assert_eq!(refused, Some(Reject::Unsecure));
        let refused = Connection::accept(&request, accept(Some("battery staple")), start).err();
        assert_eq!(refused, Some(Reject::BadSecret));
        let accepted = Connection::accept(&request, accept(Some("correct horse")), start);
        let (mut connection, reply) = accepted.expect("the right passphrase");
        assert!(reply.ends_with(&material), "the material comes back as it went");
        connection.handle_datagram(peer(), &data(FIRST, 0, 1, &even.encipher(FIRST, &[11])), start);
        let next = FIRST + 1;
        let refresh =
            control(ControlKind::KeyRequest, 0, 0, 0x4207, &odd.material("correct horse", 2));
        connection.handle_datagram(peer(), &refresh, start);
        assert_eq!(sent(&mut connection, ControlKind::KeyResponse).len(), 1);
        connection.handle_datagram(peer(), &data(next, 0, 2, &odd.encipher(next, &[22])), start);
        // In the clear, and with a key nobody announced.
        connection.handle_datagram(peer(), &data(FIRST + 2, 0, 0, &[33]), start);
        assert_eq!(payloads(&mut connection, start + MS * 260), [11, 22, 255]);
        let statistics = connection.statistics();
        assert_eq!((statistics.key_refreshes, statistics.undecipherable), (1, 1));
    }
    let now = Instant::now();
    let request = request(&mut listener(now), "in_1:sk", None, now);
    let refused = Connection::accept(&request, accept(Some("needed")), now).err();
    assert_eq!(refused, Some(Reject::Unsecure), "required and missing");
}

#[test]
fn h36_a_flood_of_inductions_and_bad_handshakes_costs_nothing_and_a_good_caller_gets_in() {
    let now = Instant::now();
    let mut listener = listener(now);
    let stranger = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 5000));
    for n in 0..5_000 {
        listener.handle_datagram(stranger(n), &handshake(fixed(INDUCTION, 0), |_| {}), now);
        // A guessed cookie, the old handshake, an identifier too long, key material that is none.
        let guessed = conclusion(n, "in_1:sk", Some(&[0xff; 64]));
        listener.handle_datagram(stranger(n), &guessed, now);
        let old = handshake(Fixed { version: 4, ..fixed(CONCLUSION, n) }, |_| {});
        listener.handle_datagram(stranger(n), &old, now);
        let long = conclusion(n, &"x".repeat(600), None);
        listener.handle_datagram(stranger(n), &long, now);
    }
    assert_eq!((listener.waiting(), listener.poll_event().is_none()), (0, true));
    let mut answers = 0;
    while listener.poll_transmit().is_some() {
        answers += 1;
    }
    assert_eq!(answers, Limits::default().transmit_max, "the rest ask again");
    // One of them got a cookie of its own and fills its places; they are its own.
    let cookie = cookie(&mut listener, now);
    for socket_id in 0..100 {
        let hs = Fixed { socket_id, ..fixed(CONCLUSION, cookie) };
        let datagram =
            handshake(hs, |body| handshake::write_request(hello(), "in_1:sk", None, body));
        listener.handle_datagram(peer(), &datagram, now);
    }
    while listener.poll_event().is_some() || listener.poll_transmit().is_some() {}
    let good: SocketAddr = "198.51.100.7:5000".parse().expect("an address");
    listener.handle_datagram(good, &handshake(fixed(INDUCTION, 0), |_| {}), now);
    let (to, datagram) = listener.poll_transmit().expect("an answer");
    let own = read(&datagram).expect("a handshake").cookie;
    listener.handle_datagram(good, &conclusion(own, "in_2:sk", None), now);
    let request = listener.poll_event().expect("it is asked about");
    assert_eq!((to, request.peer, &*request.input_id), (good, good, "in_2"));
}

#[test]
fn h37_giant_reports_and_jumps_of_numbers_cost_nothing() {
    let start = Instant::now();
    let mut connection = connected(start);
    connection.handle_datagram(peer(), &data(FIRST, 0, 0, &[0]), start);
    // A loss report is for senders; this one names two thousand millions of packets, as often as fits.
    let range = [1 << 31, 0x7fff_ffff_u32].map(u32::to_be_bytes).concat();
    let reports = control(ControlKind::Nak, 0, 0, 0x4207, &range.repeat(180));
    // Packets given up that were never sent, and the other way round.
    let all = [0_u32, 0x7fff_ffff].map(u32::to_be_bytes).concat();
    let backwards = [FIRST + 9, FIRST + 1].map(u32::to_be_bytes).concat();
    let given_up = [all, backwards, vec![1, 2, 3]];
    for _ in 0..100 {
        connection.handle_datagram(peer(), &reports, start);
        for body in &given_up {
            let packet = control(ControlKind::DropRequest, 0, 0, 0x4207, body);
            connection.handle_datagram(peer(), &packet, start);
        }
    }
    for jump in [1 << 14, 1 << 20, 1 << 30, 0x7fff_ffff] {
        connection.handle_datagram(peer(), &data(FIRST.wrapping_add(jump), 1, 0, &[9]), start);
    }
    let statistics = connection.statistics();
    assert_eq!((statistics.lost, statistics.beyond + statistics.belated), (0, 4));
    let mut replies = 0;
    while let Some(datagram) = connection.poll_transmit() {
        assert!(datagram.len() <= 1472);
        replies += 1;
    }
    assert!(replies < 10, "{replies} replies to 400 packets that ask for nothing");
    // The stream goes on where it was.
    connection.handle_datagram(peer(), &data(FIRST.wrapping_add(1), 10, 0, &[1]), start + MS * 10);
    assert_eq!(payloads(&mut connection, start + MS * 300), [0, 1]);
}

#[test]
fn an_encoder_that_reconnects_from_its_port_and_socket_is_asked_about_anew() {
    let now = Instant::now();
    let mut listener = listener(now);
    let first = request(&mut listener, "in_1:sk", None, now);
    let (_, reply) = Connection::accept(&first, accept(None), now).expect("let in");
    listener.accepted(&first, reply, now);
    // Its connection broke; a second later it is there again with a number of its own.
    let again = cookie(&mut listener, now + Duration::from_secs(1));
    let hs = Fixed { initial: Seq::new(77), ..fixed(CONCLUSION, again) };
    let datagram = handshake(hs, |body| handshake::write_request(hello(), "in_1:sk", None, body));
    listener.handle_datagram(peer(), &datagram, now + Duration::from_secs(1));
    assert!(listener.poll_transmit().is_none(), "the answer was for the dead connection");
    assert_eq!(listener.poll_event().expect("a request").initial().number(), 77);
}

#[test]
fn two_hundred_callers_come_and_go_and_leave_nothing_behind() {
    let start = Instant::now();
    let mut listener = listener(start);
    for n in 0..200_u32 {
        let now = start + Duration::from_secs(6) * n;
        let request = request(&mut listener, "in_1:sk", None, now);
        let (connection, reply) = Connection::accept(&request, accept(None), now).expect("let in");
        listener.accepted(&request, reply, now);
        let mut feed = super::Feed::new(connection);
        feed.handle_datagram(peer(), &data(FIRST, 0, 0, &[0x47; 188]), now);
        // A third says goodbye, a third falls silent, a third is closed by us.
        match n % 3 {
            0 => {
                let goodbye = control(ControlKind::Shutdown, 0, 0, 0x4207, &[]);
                feed.handle_datagram(peer(), &goodbye, now);
            }
            1 => feed.handle_timeout(now + Duration::from_secs(5)),
            _ => feed.close(now),
        }
        let end = std::iter::from_fn(|| feed.poll_event(now + MS * 300)).last();
        assert!(matches!(end, Some(crate::Event::End { .. })), "caller {n}: {end:?}");
        assert!(feed.poll_timeout().is_none(), "caller {n} still wants something");
        while feed.poll_transmit().is_some() {}
        assert!(feed.poll_transmit().is_none() && listener.poll_transmit().is_none());
        assert!(listener.waiting() <= 1, "an answer that may be asked for again is kept 5 s");
    }
    assert_eq!(listener.counters().requests, 200);
}
