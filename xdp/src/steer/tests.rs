//! The rule, both programs against it, and the kernel against both on loopback.

use std::{
    io::Write,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::udp::bind_group;

const SHARDS: u16 = 4;

fn key() -> Key {
    Key::new(0x5eed_cafe)
}

#[test]
fn mixing_is_a_permutation_and_unmixing_its_inverse() {
    for random in [0, 1, 0x00ff_ffff, 0x5eed_cafe, u64::MAX] {
        let key = Key::new(random);
        let mut seen = [false; 256];
        for byte in 0..=u8::MAX {
            let mixed = key.mix(byte);
            assert_eq!(key.unmix(mixed), byte, "key {random:#x}");
            seen[usize::from(mixed)] = true;
        }
        assert!(seen.iter().all(|seen| *seen), "key {random:#x}");
    }
}

#[test]
fn every_shard_gets_its_share_of_random_ids() {
    for n in 1..=SHARDS_MAX {
        let mut share = vec![0_u16; usize::from(n)];
        for byte in 0..=u8::MAX {
            share[usize::from(shard_of(&[0x40, byte], n, key()).expect("long enough"))] += 1;
        }
        let (least, most) = (share.iter().min(), share.iter().max());
        assert!(most.expect("shards") - least.expect("shards") <= 1, "{n} shards: {share:?}");
    }
}

#[test]
fn key_changes_which_ids_share_a_shard() {
    let together = |key| {
        let shard = |byte| shard_of(&[0x40, byte], SHARDS, key);
        (0..=u8::MAX).filter(|byte| shard(*byte) == shard(0)).collect::<Vec<_>>()
    };
    assert_ne!(together(Key::new(0x0003_0507)), together(Key::new(0x000b_0d07)));
}

#[test]
fn datagram_too_short_for_an_id_names_no_shard() {
    for datagram in [&[][..], &[0x40], &[0xc0, 0, 0, 0, 1, 8]] {
        assert_eq!(shard_of(datagram, SHARDS, key()), None, "{datagram:?}");
    }
}

#[test]
fn programs_agree_with_the_rule_on_every_id() {
    for n in [1, 2, 3, 4, 7, 16, 128] {
        let classic = classic::program(n, key());
        let extended = extended::program_with_map(3, n, key());
        for byte in 0..=u8::MAX {
            for datagram in [&[0x40, byte][..], &[0xc0, 0, 0, 0, 1, 8, byte]] {
                let shard = shard_of(datagram, n, key());
                assert_eq!(interpret::classic(&classic, datagram), shard, "{n}: {datagram:?}");
                assert_eq!(interpret::extended(&extended, datagram), shard, "{n}: {datagram:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn programs_agree_with_the_rule_on_any_bytes(input in prop::collection::vec(any::<u8>(), 0..40)) {
        fuzz_steer(&input);
    }
}

/// Sends 64 connections' worth of datagrams, each from three source ports in turn as a client
/// does that migrates, and checks which socket gets them.
fn expect_datagrams_at_their_shards(group: &[UdpSocket]) {
    let address = group[0].local_addr().expect("bound");
    let clients: [UdpSocket; 3] = std::array::from_fn(|_| {
        UdpSocket::bind(SocketAddr::new(address.ip(), 0)).expect("a free port")
    });
    for connection in 0..64_u8 {
        let shard = u16::from(connection) % SHARDS;
        let id = cid_first_byte(shard, SHARDS, key(), connection.wrapping_mul(37));
        for (migration, client) in (0..).zip(&clients) {
            let short = [0x40, id, connection, migration];
            let long = [0xc0, 0, 0, 0, 1, 8, id, connection, migration];
            for datagram in [&short[..], &long] {
                client.send_to(datagram, address).expect("loopback takes it");
                let mut buffer = [0; 32];
                let size = receive(&group[usize::from(shard)], &mut buffer);
                assert_eq!(&buffer[..size], datagram, "connection {connection} on {shard}");
            }
        }
    }
    // Too short for an id: must arrive somewhere all the same.
    clients[0].send_to(&[0x40], address).expect("loopback takes it");
    let mut buffer = [0; 32];
    let arrived = group.iter().filter(|socket| {
        sys::wait_readable(socket.as_fd(), Duration::from_millis(50)).expect("poll works")
            && socket.recv(&mut buffer).is_ok()
    });
    assert_eq!(arrived.count(), 1, "a datagram without an id is spread by address");
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    let readable = sys::wait_readable(socket.as_fd(), Duration::from_secs(2)).expect("poll works");
    assert!(readable, "the datagram went to another socket");
    socket.recv(buffer).expect("readable")
}

/// Past the capture of the test runner, which hides what passing tests print.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("standard error is open");
}

fn group_on(address: &str) -> Vec<UdpSocket> {
    let address = address.parse().expect("an address");
    bind_group(address, usize::from(SHARDS)).expect("a free port")
}

#[test]
fn migrating_clients_stay_on_their_shard() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let group = match std::panic::catch_unwind(|| group_on(address)) {
            Ok(group) => group,
            Err(_) if address.starts_with('[') => {
                say(&format!("NOT TESTED: this host has no IPv6 for {address}"));
                continue;
            }
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match attach(&group, key()).expect("one of the programs is accepted") {
            Selector::Extended => {}
            Selector::Classic { refused } => {
                say(&format!("NOT TESTED: extended BPF ({refused}); classic BPF instead"));
            }
            Selector::Single => unreachable!("the group has four sockets"),
        }
        if !address.starts_with("[::]") {
            expect_datagrams_at_their_shards(&group);
        }
    }
}

#[test]
fn migrating_clients_stay_on_their_shard_without_privilege() {
    let group = group_on("127.0.0.1:0");
    attach_classic(&group, SHARDS, key()).expect("classic BPF needs no privilege");
    expect_datagrams_at_their_shards(&group);
}

#[test]
fn selection_needs_a_choice_and_a_limit() {
    let one = group_on("127.0.0.1:0").split_off(3);
    assert!(matches!(attach(&one, key()), Ok(Selector::Single)));
    assert!(attach::<UdpSocket>(&[], key()).is_ok());
}

#[test]
fn long_header_with_an_id_of_ours_names_its_shard_and_a_strangers_does_not() {
    let key = Key::new(0x5ea1_0f1d_0000_0003);
    for shard in 0..5 {
        for random in 0..=255 {
            let ours = id(shard, 5, key, [random, 1, random, 2, random, 3, 4, 5]);
            for first in [0xc0, 0xe3, 0x80] {
                let long =
                    |id: &[u8]| [&[first, 0, 0, 0, 1, id.len() as u8], id, &[8; 30]].concat();
                assert_eq!(issuer_of(&long(&ours), 5, key), Some(shard));
                assert_eq!(issuer_of(&long(&ours), 5, Key::new(4)), None, "another process");
                assert_eq!(issuer_of(&long(&[random; 8]), 5, key), None, "a client's choice");
                assert_eq!(issuer_of(&long(&[&ours[..], &[0]].concat()), 5, key), None, "longer");
                assert_eq!(issuer_of(&long(&ours)[..13], 5, key), None, "cut");
            }
            assert_eq!(issuer_of(&[&[0x40][..], &ours].concat(), 5, key), None, "a short header");
        }
    }
}
