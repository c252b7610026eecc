//! What a stranger sends once its handshake is done (H10 to H12, H17, H19, H20): frames written by hand in packets that are
//! protected as they should be. Shows that the limits of `quinn-proto` that we rely on are set and hold.

use std::time::Duration;

use weir_moqt as moqt;
use weir_relay::Transport as _;

use super::Limits;
use super::handmade::{Handmade, varint};
use super::tests::address;

/// Error codes of RFC 9000 §20.1.
const INTERNAL_ERROR: u64 = 0x01;

/// A frame that is acknowledged and does nothing else (RFC 9000 §19.2).
const PING: &[u8] = &[0x01];

/// Bytes of frames in one packet.
const PACKET: usize = 1_100;

#[test]
fn h10_a_stream_of_single_bytes_with_gaps_is_closed_at_a_cap() {
    let mut client = Handmade::new(Limits::default());
    let (mut fragments, mut offset) = (0_u64, 1_u64);
    while client.closed.is_none() {
        let mut frames = Vec::new();
        while frames.len() < PACKET {
            // STREAM with offset and length, stream 2: the client's first unidirectional one.
            frames.extend([0x0e, 2]);
            frames.extend(varint(offset));
            frames.extend([1, 0xaa]);
            (fragments, offset) = (fragments + 1, offset + 2);
        }
        client.send(&frames);
        assert!(fragments < 20_000, "{fragments} fragments are held");
    }
    assert_eq!(client.closed, Some(INTERNAL_ERROR), "after {fragments}");
}

#[test]
fn h11_connection_ids_that_retire_each_other_unacknowledged_end_the_connection() {
    let mut client = Handmade::new(Limits::default());
    let mut sequence = 1_u64;
    while client.ended.is_none() {
        let mut frames = Vec::new();
        while frames.len() < PACKET {
            frames.push(0x18);
            frames.extend(varint(sequence));
            frames.extend(varint(sequence));
            frames.push(8);
            frames.extend(sequence.to_be_bytes());
            frames.extend([sequence as u8; 16]);
            sequence += 1;
        }
        // Nothing of what the server says to it is acknowledged: a first congestion window of replies, and 50 that
        // wait, are all that it costs.
        client.send(&frames);
        assert!(sequence < 5_000, "{sequence} ids retired");
    }
    let reason = client.ended.clone().unwrap_or_default();
    assert!(reason.contains("too many retired CIDs"), "{reason}");
    client.pass(Duration::from_secs(30));
    assert_eq!(client.endpoint.connections(), 0);
}

#[test]
fn h12_a_flood_of_path_challenges_draws_fewer_bytes_than_it_costs() {
    let mut client = Handmade::new(Limits::default());
    let (sent, drawn) = (client.sent_bytes, client.towards(None));
    for round in 0..200_u64 {
        let mut frames = Vec::new();
        while frames.len() < PACKET {
            frames.push(0x1a);
            frames.extend((round << 32 | frames.len() as u64).to_be_bytes());
        }
        client.send(&frames);
    }
    let (sent, drawn) = (client.sent_bytes - sent, client.towards(None) - drawn);
    assert!(drawn <= sent, "{drawn} bytes for {sent}");
    assert_eq!(client.closed, None);
    assert_eq!(client.endpoint.connections(), 1);
}

/// A client that has much to get, and somebody who asked for nothing.
fn mover() -> (Handmade, &'static str) {
    let mut client = Handmade::new(Limits::default());
    let id = client.id.expect("a session");
    let mut link = client.endpoint.link(id, client.now).expect("open");
    let stream = link.open(moqt::Dir::Uni).expect("credit");
    let mut chunks = [bytes::Bytes::from(vec![0; 100_000])];
    link.write(stream, &mut chunks).expect("window");
    (client, "203.0.113.9:53")
}

#[test]
fn h17_an_address_that_never_answers_is_sent_three_times_what_came_from_there_and_one_question() {
    let (mut client, victim) = mover();
    let before = client.sent_bytes;
    client.send_from(victim, &[0x01]);
    for _ in 0..3_000 {
        client.pass(Duration::from_millis(1));
    }
    let cost = client.sent_bytes - before;
    let drawn = client.towards(Some(address(victim)));
    assert!(drawn > 0, "the path is asked");
    assert!(drawn <= 1_200 + 3 * cost, "{drawn} bytes for {cost}");
}

#[test]
fn h17_who_moves_to_and_fro_draws_no_more_than_a_question_for_each_of_a_few_moves() {
    let limits = Limits::default();
    let (mut client, victim) = mover();
    let before = client.sent_bytes;
    for _ in 0..100 {
        client.send_from(victim, &[0x01]);
        client.send(&[0x01]);
        client.pass(Duration::from_millis(100));
    }
    let cost = client.sent_bytes - before;
    let drawn = client.towards(Some(address(victim)));
    let most = limits.moves_per_minute_max as usize * 1_200 + 3 * cost;
    assert!(drawn <= most, "{drawn} bytes, not {most}");
    assert!(client.endpoint.counters().moves_refused > 50);
    // It may still go where it likes a minute later.
    client.pass(Duration::from_secs(20));
    client.send(&[0x01]);
    let refused = client.endpoint.counters().moves_refused;
    for _ in 0..3 {
        client.pass(Duration::from_secs(20));
        client.send(&[0x01]);
    }
    client.send_from("203.0.113.10:53", &[0x01]);
    assert_eq!(client.endpoint.counters().moves_refused, refused);
    assert!(client.towards(Some(address("203.0.113.10:53"))) > 0);
}

#[test]
fn h19_keys_that_change_before_the_last_change_was_acknowledged_end_the_connection() {
    let mut client = Handmade::new(Limits::default());
    // The first packet of a phase is none of the next one; it is acknowledged before the keys change.
    client.send(PING);
    client.pass(Duration::from_millis(30));
    client.update_keys();
    client.send(PING);
    assert_eq!(client.ended, None, "once is its right");
    client.update_keys();
    client.send(PING);
    let reason = client.ended.clone().unwrap_or_default();
    assert!(reason.contains("key update"), "{reason}");
    client.pass(Duration::from_secs(30));
    assert_eq!(client.endpoint.connections(), 0);
}

#[test]
fn h19_keys_that_change_each_round_trip_cost_a_packet_each_and_change_nothing_else() {
    let mut client = Handmade::new(Limits::default());
    client.send(PING);
    let before = client.towards(None);
    for round in 0..100 {
        client.update_keys();
        client.send(PING);
        // Longer than it may wait with its acknowledgement.
        client.pass(Duration::from_millis(30));
        assert_eq!((client.closed, client.ended.as_deref()), (None, None), "in round {round}");
    }
    let drawn = client.towards(None) - before;
    assert!(drawn <= 100 * 1_200, "{drawn} bytes");
    // Flips of the phase bit under old keys are noise.
    for _ in 0..1_000 {
        client.send_in_a_phase_of_which_it_has_no_keys(PING);
    }
    client.send(PING);
    assert_eq!((client.closed, client.ended.as_deref()), (None, None));
    assert_eq!(client.endpoint.connections(), 1);
}

#[test]
fn h19_the_server_changes_its_own_keys_long_before_their_limit() {
    let mut client = Handmade::new(Limits::default());
    // Every second packet draws an acknowledgement, and of those no thousand goes out under the first keys.
    for _ in 0..2_100 {
        client.send(PING);
    }
    assert!(client.key_updates_heard > 0);
    assert_eq!((client.closed, client.ended.as_deref()), (None, None));
    // What comes after, it does at 10,000 packets below the limit of the cipher: those of RFC 9001 §6.6 for all we offer.
    let offered = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    let mut limited = 0;
    for suite in offered.iter().filter_map(rustls::SupportedCipherSuite::tls13) {
        let Some(quic) = suite.quic_suite() else { continue };
        let keys = quic.keys(b"8-octets", rustls::Side::Server, rustls::quic::Version::V1);
        let (packets, forgeries) =
            (keys.local.packet.confidentiality_limit(), keys.local.packet.integrity_limit());
        let name = suite.common.suite;
        if name == rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 {
            assert!(forgeries <= 1 << 36, "{name:?}");
        } else {
            assert!(packets <= 1 << 23 && forgeries <= 1 << 52, "{name:?}");
        }
        limited += 1;
    }
    assert_eq!(limited, 3);
}

#[test]
fn h20_empty_and_oversized_datagrams_leave_nothing() {
    let mut client = Handmade::new(Limits::default());
    let before = client.towards(None);
    let stranger = "203.0.113.9:53";
    for size in [0, 1, 20, 1_473, 65_507] {
        client.deliver(stranger, &vec![0; size]);
        client.deliver(stranger, &vec![0x40; size]);
        client.deliver(stranger, &vec![0xff; size]);
    }
    assert_eq!(client.towards(None), before);
    assert_eq!(client.endpoint.counters().datagrams_oversized, 6);
    assert_eq!(client.endpoint.connections(), 1);
    // What it might have been the answer to: a reset is never longer than what draws it.
    client.deliver(stranger, &[0x40; 1_472]);
    let drawn = client.towards(Some(address(stranger)));
    assert!(drawn > 0 && drawn < 1_472, "{drawn}");
    client.send(&[0x01]);
    assert_eq!(client.closed, None);
}
